/* What the files of configs/ share: the rows of the table, the tree a YAML text is read into, and
 * the list of errors.
 *
 *   text -> config_yaml.c -> node tree -> config_bind.c -> struct run_config -> config_check.c
 *
 * A mistake of the user is added to the report and reading goes on; a status other than OK means
 * that hone itself could not go on (memory). */
#ifndef HONE_CONFIGS_CONFIG_INTERNAL_H
#define HONE_CONFIGS_CONFIG_INTERNAL_H

#include "base/arena.h"
#include "configs/config.h"

#define CONFIG_ERRORS_MAX 20u
#define CONFIG_DEPTH_MAX 8u
#define CONFIG_BYTES_MAX ((size_t)1 << 20)
#define CONFIG_MEMBERS_MAX 1024u /* members of one mapping, items of one list */
#define CONFIG_REWARDS_MAX 64u
#define CONFIG_TEXT_MAX ((size_t)128)

/* --- The table (config_table.c) --- */

enum setting_kind {
    SETTING_BOOL,
    SETTING_SIZE,    /* size_t */
    SETTING_BYTES,   /* size_t; takes KiB, MiB, GiB */
    SETTING_U64,     /* uint64_t */
    SETTING_I64,     /* int64_t */
    SETTING_REAL,    /* double */
    SETTING_SECONDS, /* double; takes s, m, h */
    SETTING_ENUM,    /* an enum of config.h; `names` in its order */
    SETTING_TEXT,
    SETTING_PATH,    /* text, relative to the file that names it */
    SETTING_TEXTS,   /* struct text_list */
    SETTING_SOURCES, /* struct text_list of paths, globs, "-", "cmd:..." */
    SETTING_OBJECT,  /* struct json *, an object or NULL */
    SETTING_REWARDS, /* the list of rewards; its members are the rows "rewards[]...." */
};

enum setting_flag {
    SETTING_IN_DIGEST = 1, /* may change a bit of the result */
    SETTING_FOR_RUN = 2,   /* must be given for CONFIG_RUN */
    SETTING_FOR_SFT = 4,
    SETTING_FOR_EVAL = 8,
    SETTING_FOR_REWARD = 16, /* must be given in each reward */
};

struct setting {
    const char *key; /* "grpo.epsilon"; of a reward "rewards[].weight" */
    enum setting_kind kind;
    size_t offset;        /* in struct run_config, or in struct reward_config */
    const char *fallback; /* YAML text of the default */
    double min, max;      /* numbers; both inclusive */
    const char *const *names;
    uint64_t flags; /* of enum setting_flag */
    const char *help;
    const char *peers; /* names elsewhere: "verl clip_ratio_high, NeMo-RL ratio_clip_max"; or "" */
};
extern const struct setting settings[];
extern const size_t n_settings;

#define REWARD_PREFIX "rewards[]."
bool setting_is_of_reward(const struct setting *row);
/* Row by its full key; NULL when there is none. */
const struct setting *setting_find(const char *key);
/* true when rows "name.something" exist. */
bool setting_is_section(const char *name);
/* The key or section that an unknown key most likely means. *is_peer: because another system calls
 * it so, or because it stands in another section here. Never NULL. */
const char *setting_nearest(const char *unknown, bool *is_peer);
/* "0..10", "true | false", "group | none" ... into out; returns out. */
const char *setting_range(const struct setting *row, char *out, size_t room);

/* --- Errors (config_report.c) --- */

struct config_report {
    char lines[CONFIG_ERRORS_MAX][512];
    size_t count; /* of all, also those not kept */
};
/* Adds "where:line:column: message", or "where: message" for line 0. */
void report_add(struct config_report *report, const char *where, size_t line, size_t column,
                const char *format, ...) PRINTF_LIKE(5, 6);
/* All lines as one text (caller frees), NULL when there are none. */
MUST_CHECK enum status report_text(const struct config_report *report, char **out);

/* --- The tree (config_yaml.c) --- */

enum node_kind { NODE_SCALAR, NODE_MAP, NODE_LIST };
struct config_node {
    enum node_kind kind;
    const char *key;     /* of a member of a mapping */
    size_t line, column; /* of the value, from 1 */
    size_t key_line, key_column;
    const char *text; /* scalar */
    bool is_quoted;
    size_t count; /* members or items */
    struct config_node *first, *next;
};
/* Reads text[0..n). *out is NULL when it is empty or cannot be read to its end. Mistakes are in the
 * report. Nodes live in the arena. */
MUST_CHECK enum status config_yaml_parse(const char *text, size_t n, const char *where,
                                         struct config_report *report, struct arena *arena,
                                         struct config_node **out);

/* --- Binding (config_bind.c, config_value.c) --- */

struct binder {
    struct run_config *config;
    struct config_report *report;
    const char *where;  /* "run.yaml", "--set grpo.epsilon", "HONE_SET_GRPO__EPSILON" */
    const char *origin; /* "--set", "env", "default"; NULL: where:line */
    const char *folder; /* what paths are relative to; "" leaves them as they are */
    bool has_lines;
    char label[CONFIG_TEXT_MAX]; /* of the setting being bound, for messages */
};
/* Binds a mapping of sections and keys. */
MUST_CHECK enum status bind_document(struct binder *binder, const struct config_node *root);
/* Binds "a.b" = node, where a.b may be a key, a section, "rewards", "rewards.NAME" or
 * "rewards.NAME.key". */
MUST_CHECK enum status bind_dotted(struct binder *binder, const char *key,
                                   const struct config_node *node);
/* Every default. */
MUST_CHECK enum status bind_defaults(struct run_config *config);
void bind_error(struct binder *binder, const struct config_node *node, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Writes the value of one row into base + row->offset. *is_bound is false after a user's mistake.
 */
MUST_CHECK enum status value_bind(struct binder *binder, const struct setting *row, void *base,
                                  const struct config_node *node, bool *is_bound);
/* The value as JSON (texts, lists and numbers); the caller owns *out. */
MUST_CHECK enum status value_to_json(const struct setting *row, const void *base,
                                     struct json **out);
/* The value as YAML flow text (caller frees). */
MUST_CHECK enum status value_to_text(const struct setting *row, const void *base, char **out);

/* What the file's relative paths get in front: its folder, or "" for the working directory. */
const char *config_path_prefix(const struct run_config *config);

/* --- Checks after binding (config_check.c) --- */

/* Fills what is derived (run.name, timeouts ...), then checks what is required for `use` and what
 * must fit together. */
MUST_CHECK enum status config_check(struct run_config *config, enum config_use use,
                                    const char *where, struct config_report *report);

#endif
