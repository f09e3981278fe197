/* Owns what the tests of corrupted files share: a small whole model folder, reading it as hone
 * does, and what a refusal must look like. Include it after support.h. */
#ifndef HONE_TESTS_UNIT_MODEL_CORRUPT_FIXTURE_H
#define HONE_TESTS_UNIT_MODEL_CORRUPT_FIXTURE_H

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/chat_template.h"
#include "model/demo_tokenizer.h"
#include "model/model_config.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "tests/support/json_damage.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define CASES_WANTED 200u

struct corruption {
    char dir[256];
    char file[64]; /* the one that is damaged */
    char *original;
    size_t original_bytes;
    size_t n_cases, n_wrong;
};

/* What a case must give. part: text of the message beside the file's name, or NULL. */
struct expected {
    const char *what;
    bool is_right;    /* the file is as good as before */
    const char *file; /* that the message names; NULL: the damaged one */
    const char *part;
};

static inline void corrupt_path(const struct corruption *c, const char *file, char *out,
                                size_t room)
{
    (void)snprintf(out, room, "%s/%s", c->dir, file);
}

/* Config, tensors, tokenizer and template, in the order of a run. */
static inline enum status load_model(const char *dir, const struct model_config *config)
{
    struct weight_table *table = NULL;
    float *data = NULL;

    TRY(weight_table_create(config, &table));
    enum status status = weights_check(dir, table, false);
    if (status == STATUS_OK) {
        status = memory_alloc(table->n_floats, sizeof(*data), &data);
    }
    if (status == STATUS_OK) {
        status = weights_load(dir, table, data);
    }
    memory_free(data);
    weight_table_destroy(table);
    return status;
}

static inline enum status load_folder(const char *dir)
{
    struct model_config config;
    struct tokenizer *tokenizer = NULL;
    enum chat_template chat;

    TRY(model_config_load(dir, &config));
    TRY(weights_probe_mtp(dir, &config));
    TRY(load_model(dir, &config));
    TRY(tokenizer_load(dir, &tokenizer));
    tokenizer_destroy(tokenizer);
    return chat_template_choose("auto", dir, &chat);
}

/* What is wrong with the outcome, or NULL. */
static inline const char *judge(const struct corruption *c, const struct expected *want,
                                enum status status)
{
    const char *message = status_message();

    if ((status == STATUS_OK) != want->is_right) {
        return want->is_right ? "is refused" : "is accepted";
    }
    if (status == STATUS_OK) {
        return NULL;
    }
    if (status_exit_code(status) != 5) {
        return "has another exit code than 5";
    }
    if (strchr(message, '\n') != NULL || strlen(message) > 1000) {
        return "is told in more than a line";
    }
    if (strstr(message, want->file != NULL ? want->file : c->file) == NULL) {
        return "is told without the file's name";
    }
    return want->part != NULL && strstr(message, want->part) == NULL ? "is told without its place"
                                                                     : NULL;
}

/* Loads the folder and compares. */
static inline void corrupt_check(struct corruption *c, const struct expected *want)
{
    const size_t n_live = memory_live_blocks();
    const enum status status = load_folder(c->dir);
    const char *wrong = memory_live_blocks() != n_live ? "leaks" : judge(c, want, status);

    c->n_cases++;
    if (wrong != NULL) {
        c->n_wrong++;
        (void)fprintf(stderr, "%s, case %zu, %s: %s (\"%s\")\n", c->file, c->n_cases, want->what,
                      wrong, status == STATUS_OK ? "loaded" : status_message());
    }
}

static inline void write_bytes(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* Writes the file with this content, loads, compares. */
static inline void corrupt_try(struct corruption *c, const void *bytes, size_t n,
                               const struct expected *want)
{
    char path[512];

    corrupt_path(c, c->file, path, sizeof(path));
    write_bytes(path, bytes, n);
    corrupt_check(c, want);
}

/* Every kind of JSON damage at n places each: all are refused with line:column. */
static inline void corrupt_json(struct corruption *c, size_t n)
{
    for (unsigned damage = 0; damage < JSON_DAMAGES; damage++) {
        for (size_t place = 0; place < n; place++) {
            const struct expected want = {.what = json_damage_name((enum json_damage)damage),
                                          .part = ":"};
            struct text_buffer text = {0};

            assert_ok(json_damage(c->original, c->original_bytes, (enum json_damage)damage, place,
                                  &text));
            corrupt_try(c, text.bytes, text.count, &want);
            text_buffer_dispose(&text);
        }
    }
}

/* The original with the first `from` replaced. */
static inline void corrupt_replace(struct corruption *c, const char *from, const char *by,
                                   const struct expected *want)
{
    const char *at = strstr(c->original, from);
    struct text_buffer text = {0};

    if (at == NULL) {
        (void)fprintf(stderr, "%s does not hold %s\n", c->file, from);
        c->n_wrong++;
        return;
    }
    assert_ok(text_buffer_put(&text, c->original, (size_t)(at - c->original)));
    assert_ok(text_buffer_put(&text, by, strlen(by)));
    assert_ok(text_buffer_put(&text, at + strlen(from), strlen(at + strlen(from))));
    corrupt_try(c, text.bytes, text.count, want);
    text_buffer_dispose(&text);
}

/* A tiny model with the demo's tokenizer, in a new folder. */
static inline void corrupt_make(struct corruption *c, struct model_config *config,
                                struct weight_table **table, float **data)
{
    log_setup("", LOG_ERROR);
    *c = (struct corruption){.n_cases = 0};
    support_temp_dir(c->dir, sizeof(c->dir));
    assert_ok(model_config_preset("tiny", config));
    config->vocab_size = DEMO_VOCAB_SIZE;
    assert_ok(model_config_save(config, c->dir));
    assert_ok(demo_tokenizer_write(c->dir));
    assert_ok(weight_table_create(config, table));
    assert_ok(memory_alloc((*table)->n_floats, sizeof(**data), data));
    weights_init(config, *table, 1, *data);
}

/* Takes file as the one to damage, with its content as the original. */
static inline void corrupt_begin(struct corruption *c, const char *file)
{
    char path[512];

    (void)snprintf(c->file, sizeof(c->file), "%s", file);
    corrupt_path(c, file, path, sizeof(path));
    assert_ok(file_read(path, (size_t)64 << 20, &c->original, &c->original_bytes));
    corrupt_check(c, &(struct expected){.what = "nothing", .is_right = true});
}

/* Puts the original back and fails unless there were cases enough, all as they must be. */
static inline void corrupt_end(struct corruption *c)
{
    corrupt_try(c, c->original, c->original_bytes,
                &(struct expected){.what = "the original", .is_right = true});
    memory_free(c->original);
    c->original = NULL;
    if (c->n_cases < CASES_WANTED) {
        fail_msg("%s: only %zu cases", c->file, c->n_cases);
    }
    assert_int_equal(c->n_wrong, 0);
    c->n_cases = 0;
}

static inline void corrupt_dispose(struct corruption *c)
{
    support_temp_dir_remove(c->dir);
}

#endif
