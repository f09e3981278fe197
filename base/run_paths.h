/* Owns where a run keeps its things, so that processes that share no code path agree:
 *   RUN/LOCK RUN/run.db RUN/config.json RUN/log/ROLE.log RUN/checkpoints/step_N/ RUN/sock -> short
 * folder for ipc sockets */
#ifndef HONE_BASE_RUN_PATHS_H
#define HONE_BASE_RUN_PATHS_H

#include "base/status.h"

enum run_endpoint {
    ENDPOINT_WORK,    /* trainer ROUTER; workers dial: HELLO READY WORK PING PONG BYE */
    ENDPOINT_WEIGHTS, /* trainer ROUTER; workers dial: W_GET W_INFO W_CHUNK */
    ENDPOINT_RESULTS, /* reward ROUTER; workers dial: HELLO COMPLETION ACK NACK PING PONG */
    ENDPOINT_SCORED,  /* reward ROUTER; trainer dials: HELLO GROUP SCORED TAKEN MANIFEST STEP FETCH
                         PING PONG BYE */
};
/* "ipc://..." for run_dir, always within the 107 bytes of a socket path: below RUN/sock when short
 * enough, else in a 0700 folder of $XDG_RUNTIME_DIR or /tmp named by a hash of the absolute
 * run_dir; RUN/sock is then a link to it, which is what others follow, so that an environment of
 * their own does not lead them elsewhere. Creates the folders. Caller frees *out. */
MUST_CHECK enum status run_endpoint(const char *run_dir, enum run_endpoint which, char **out);
MUST_CHECK enum status run_database_path(const char *run_dir, char **out);    /* caller frees */
MUST_CHECK enum status run_checkpoints_path(const char *run_dir, char **out); /* caller frees */

#endif
