/* Owns the result type of everything that can fail, and the one-line message that travels with it.
 * A code and its message cannot part: status_set keeps the message per thread and returns the code.
 */
#ifndef HONE_BASE_STATUS_H
#define HONE_BASE_STATUS_H

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first_argument)                                                  \
    __attribute__((format(printf, format_index, first_argument)))

enum status {
    STATUS_OK = 0,
    STATUS_NO_MEMORY,    /* host or device memory */
    STATUS_NO_SPACE,     /* a full disk; the message names path and bytes */
    STATUS_IO,           /* the system refused a read, write, open ... */
    STATUS_BAD_CONFIG,   /* the run configuration is wrong */
    STATUS_BAD_ARGUMENT, /* a command line or call is wrong */
    STATUS_BAD_FORMAT,   /* a file, message or checkpoint is damaged or not what it says */
    STATUS_UNSUPPORTED,  /* well-formed, but nothing here can do it */
    STATUS_DEVICE,       /* an accelerator failed */
    STATUS_TIMEOUT,      /* a deadline passed or a peer is gone */
    STATUS_CANCELLED,    /* stopped on request, state saved */
    STATUS_BUSY,         /* the run folder or database is held by another process */
    STATUS_PEER,         /* the other side does not fit: protocol, build, config */
    STATUS_NUMERICS,     /* a loss, gradient or weight is not finite */
    STATUS_INEXACT,      /* sampler and trainer disagree about a log-probability */
    STATUS_SCORING,      /* the reward error budget is used up */
};

/* Stores the message of this thread (one line, cut at 1023 bytes) and returns code. */
enum status status_set(enum status code, const char *format, ...) PRINTF_LIKE(2, 3);
/* Puts "context: " in front of this thread's message and returns code unchanged. */
enum status status_wrap(enum status code, const char *format, ...) PRINTF_LIKE(2, 3);
/* This thread's last message; "" when none. Borrowed until the next status_set of the thread. */
const char *status_message(void);
/* Short lower-case name of a code, e.g. "bad format". */
const char *status_name(enum status code);
/* Process exit code of data-and-ui.md section 6: 0 1 2 3 4 5 6 7 8 9 10 75. */
int status_exit_code(enum status code);

/* Returns the status of an expression upward if it is not OK. A statement expression, not do-while:
 * readers and clang-tidy then see the one branch that there is. */
#define TRY(expression)                                                                            \
    __extension__({                                                                                \
        const enum status try_status_ = (expression);                                              \
        if (try_status_ != STATUS_OK) {                                                            \
            return try_status_;                                                                    \
        }                                                                                          \
    })

#endif
