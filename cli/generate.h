/* What the files of `hone generate` share: the request, the prompts, and the way from a prompt to
 * an engine's request. cmd_generate.c reads options, generate_rows.c prompts, generate_draw.c draws
 * and prints, generate_chat.c talks. */
#ifndef HONE_CLI_GENERATE_H
#define HONE_CLI_GENERATE_H

#include "base/json.h"
#include "base/status.h"
#include "configs/config.h"
#include "kernels/backend.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct generate_request {
    const char *model, *device;
    const char *prompt, *file; /* NULL: not given; both NULL: standard input */
    const char *chat, *system_prompt;
    bool parse_special;
    size_t n_samples;    /* of each prompt */
    size_t max_tokens;   /* of a completion */
    bool has_max_tokens; /* false: cut to what the model has positions for */
    size_t max_num_seqs; /* that run at once */
    size_t n_threads;
    enum precision precision;
    enum kv_cache_dtype kv_cache;
    size_t n_drafts; /* of the MTP modules, ahead of a completion */
    uint64_t seed;
    struct sampling_params sampling;
    bool wants_json, wants_logprobs;
};

/* A model folder's text side, opened before its weights are read: mistakes show at once. */
struct generate_texts {
    struct tokenizer *tokenizer;
    enum chat_template chat;
    size_t n_positions;
};
MUST_CHECK enum status generate_texts_open(const struct generate_request *request,
                                           struct generate_texts *out);
void generate_texts_close(struct generate_texts *texts);

/* prompt: a text or a list of messages; tools: a list of definitions, or NULL. Caller disposes
 * *out. Errors: BAD_FORMAT (wrong shape, characters without a token, no position left for a
 * completion). */
MUST_CHECK enum status generate_encode(const struct generate_request *request,
                                       const struct generate_texts *texts,
                                       const struct json *prompt, const struct json *tools,
                                       struct token_list *out);
/* Tokens that may follow a prompt. Errors: BAD_FORMAT when --max-tokens asks for more than there
 * are positions. */
MUST_CHECK enum status generate_room(const struct generate_request *request,
                                     const struct generate_texts *texts, size_t n_prompt,
                                     size_t *out);

struct generate_row {
    struct token_list ids;
    size_t max_tokens;
};
struct generate_rows {
    struct generate_row *items;
    size_t count, room;
    size_t longest; /* prompt and completion tokens of a row at most */
};
/* Reads and checks all prompts: --prompt, --file, or the whole of standard input as one. Caller
 * disposes *out, also after a failure. Errors: IO, BAD_ARGUMENT (--prompt, an absent file, no
 * rows), BAD_FORMAT with file:line. */
MUST_CHECK enum status generate_rows_read(const struct generate_request *request,
                                          const struct generate_texts *texts,
                                          struct generate_rows *out);
void generate_rows_dispose(struct generate_rows *rows);

/* Group ids begin at 1, as a run's do: row i of a file is drawn with the noise that row i of a run
 * that does not shuffle has in its first epoch. */
#define GENERATE_GROUP_FIRST UINT64_C(1)

/* Draws all samples of all rows and prints them in order; after a signal only those that are
 * complete, and gives CANCELLED. */
MUST_CHECK enum status generate_draw(const struct generate_request *request,
                                     const struct generate_texts *texts,
                                     const struct generate_rows *rows);
/* A conversation on the terminal, until its end or a signal (CANCELLED). */
MUST_CHECK enum status generate_chat(const struct generate_request *request,
                                     const struct generate_texts *texts);

#endif
