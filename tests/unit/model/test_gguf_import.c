/* What a GGUF file means: configuration, weights in their order, tokenizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/gguf_import.h"
#include "model/tokenizer.h"
#include "tests/support/support.h"
#include "tests/unit/model/gguf_fixture.h"

#include <stdio.h>
#include <string.h>

struct model {
    struct gguf *file;
    struct model_config config;
    struct weight_table *table;
    float *data;
};

static void open_model(struct model *out)
{
    make_file(3, "smollm");
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &out->file));
    assert_ok(gguf_import_config(out->file, &out->config));
    assert_ok(weight_table_create(&out->config, &out->table));
    assert_ok(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
}

static void close_model(struct model *model)
{
    weight_table_destroy(model->table);
    memory_free(model->data);
    gguf_close(model->file);
}

static void the_architecture_becomes_a_config(void **state)
{
    struct model model;

    (void)state;
    open_model(&model);
    assert_int_equal(model.config.family, MODEL_LLAMA);
    assert_int_equal(model.config.vocab_size, N_TOKENS);
    assert_int_equal(model.config.hidden_size, WIDTH);
    assert_int_equal(model.config.n_heads, 2);
    assert_int_equal(model.config.n_kv_heads, 1);
    assert_int_equal(model.config.head_dim, HEAD_DIM);
    assert_int_equal(model.config.max_positions, 128);
    assert_true(model.config.rms_norm_eps == 1e-5); /* not the float's 9.999999747e-06 */
    assert_true(model.config.rope_theta == 1e5);
    assert_true(model.config.has_tied_head);
    assert_int_equal(model.config.n_eos_ids, 1);
    assert_int_equal(model.config.eos_ids[0], SPECIAL_ID);
    close_model(&model);
}

/* stored row 2 i + j of a head is row j head_dim / 2 + i */
static void query_and_key_rows_are_put_back_in_order(void **state)
{
    static const char *const names[][2] = {
        {"model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"},
        {"model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight"}};
    struct model model;

    (void)state;
    open_model(&model);
    assert_ok(gguf_import_weights(model.file, &model.config, model.table, model.data));
    for (size_t t = 0; t < 2; t++) {
        const struct weight_row *row = weight_table_find(model.table, names[t][0]);
        const struct gguf_tensor *tensor = gguf_tensor_find(model.file, names[t][1]);
        float stored[WIDTH];

        for (size_t i = 0; i < HEAD_DIM / 2 * 2 * (row->shape[0] / HEAD_DIM); i++) {
            const size_t head = i / HEAD_DIM, pair = i % HEAD_DIM / 2, half = i % 2;
            const size_t here = head * HEAD_DIM + half * HEAD_DIM / 2 + pair;

            gguf_read_floats(tensor, i * WIDTH, WIDTH, stored);
            assert_memory_equal(stored, model.data + row->offset + here * WIDTH, sizeof(stored));
        }
    }
    close_model(&model);
}

static void the_other_rows_keep_their_order(void **state)
{
    struct model model;
    float values[N_TOKENS * WIDTH];
    char name[GGUF_NAME_MAX + 1];

    (void)state;
    open_model(&model);
    assert_ok(gguf_import_weights(model.file, &model.config, model.table, model.data));
    for (size_t i = 0; i < model.table->n_rows; i++) {
        const struct weight_row *row = &model.table->rows[i];

        assert_true(gguf_import_name(row->name, name, sizeof(name)));
        if (strstr(name, "attn_q") != NULL || strstr(name, "attn_k") != NULL) {
            continue;
        }
        gguf_read_floats(gguf_tensor_find(model.file, name), 0, row->count, values);
        assert_memory_equal(values, model.data + row->offset, row->count * sizeof(float));
    }
    close_model(&model);
}

static void a_model_with_wrong_tensors_is_refused(void **state)
{
    struct model model;

    (void)state;
    open_model(&model);
    model.table->rows[0].shape[0]++;
    assert_status(gguf_import_weights(model.file, &model.config, model.table, model.data),
                  STATUS_BAD_FORMAT, "token_embd.weight: shape (260, 32), want (261, 32)");
    model.table->rows[0].shape[0]--;
    model.table->n_rows--;
    assert_status(gguf_import_weights(model.file, &model.config, model.table, model.data),
                  STATUS_UNSUPPORTED, "does not belong");
    model.table->n_rows++;
    (void)snprintf(model.table->rows[0].name, sizeof(model.table->rows[0].name), "lm_head.weight");
    assert_status(gguf_import_weights(model.file, &model.config, model.table, model.data),
                  STATUS_BAD_FORMAT, "tensor output.weight is missing");
    close_model(&model);
    make_file(3, "smollm");
    memset(made.bytes + made.n - 64, 0xff, 4); /* not a number, in the last vector */
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &model.file));
    assert_ok(weight_table_create(&model.config, &model.table));
    assert_ok(memory_alloc(model.table->n_floats, sizeof(float), &model.data));
    assert_status(gguf_import_weights(model.file, &model.config, model.table, model.data),
                  STATUS_BAD_FORMAT, "not finite");
    close_model(&model);
}

static void assert_ids(const struct tokenizer *tokenizer, const char *text, bool parse_special,
                       const int32_t *want, size_t n)
{
    struct token_list list;

    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), parse_special, &list));
    assert_int_equal(list.count, n);
    assert_memory_equal(list.ids, want, n * sizeof(*want));
    token_list_dispose(&list);
}

static void the_tokenizer_is_written_and_read_back(void **state)
{
    const int32_t word[] = {256, 'l', '1', '2', SPECIAL_ID, 258};
    const int32_t plain[] = {'<', '|', 'e', 'n', 'd', '|', '>'};
    struct tokenizer *tokenizer;
    struct model model;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    open_model(&model);
    assert_ok(gguf_import_tokenizer(model.file, &model.config, dir));
    assert_ok(tokenizer_load(dir, &tokenizer));
    assert_ids(tokenizer, "hel12<|end|>a b", true, word, 6);
    assert_ids(tokenizer, "<|end|>", false, plain, 7);
    assert_int_equal(tokenizer_eos(tokenizer), SPECIAL_ID);
    assert_true(tokenizer_is_special(tokenizer, SPECIAL_ID));
    assert_false(tokenizer_is_special(tokenizer, 258));
    assert_false(tokenizer_adds_bos(tokenizer));
    assert_int_equal(tokenizer_id(tokenizer, "[PAD259]"), -1);
    tokenizer_destroy(tokenizer);
    close_model(&model);
    support_temp_dir_remove(dir);
}

static void every_pre_tokenizer_is_one_that_the_tokenizer_reads(void **state)
{
    static const char *const names[] = {"smollm", "gpt-2", "llama-bpe", "qwen2", "deepseek-v3"};
    struct model_config config;
    struct gguf *file;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        make_file(3, names[i]);
        assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
        assert_ok(gguf_import_config(file, &config));
        assert_ok(gguf_import_tokenizer(file, &config, dir));
        gguf_close(file);
    }
    make_file(3, "tekken");
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
    assert_status(gguf_import_tokenizer(file, &config, dir), STATUS_UNSUPPORTED,
                  "tokenizer.ggml.pre \"tekken\"");
    gguf_close(file);
    support_temp_dir_remove(dir);
}

static void assert_config_refused(enum status wanted, const char *part)
{
    struct model_config config;
    struct gguf *file;

    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
    assert_status(gguf_import_config(file, &config), wanted, part);
    gguf_close(file);
}

static void assert_rope(enum rope_kind kind, double factor)
{
    struct model_config config;
    struct gguf *file;

    make_file(3, "smollm");
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
    assert_ok(gguf_import_config(file, &config));
    assert_int_equal(config.rope.kind, kind);
    assert_true(kind == ROPE_PLAIN || config.rope.factor == factor);
    gguf_close(file);
}

static void scaled_rotations_are_recognised(void **state)
{
    /* theta 1e5, 8 pairs: wavelengths 6.28, 26.5, 112, 471, 1987, 8378, 35331, 148995; Llama 3's
     * rule by 8 leaves those below 2048 and divides those above 8192 */
    float divisors[HEAD_DIM / 2] = {1, 1, 1, 1, 1, 8, 8, 8};

    (void)state;
    assert_rope(ROPE_PLAIN, 1);
    extras.divisors = divisors;
    assert_rope(ROPE_LLAMA3, 8);
    divisors[2] = 1.5F;
    make_file(3, "smollm");
    assert_config_refused(STATUS_UNSUPPORTED, "rope_freqs.weight is not Llama 3's scaling by 8");
    extras.divisors = NULL;
    extras.scaling = "linear";
    extras.linear = 2;
    assert_rope(ROPE_LINEAR, 2);
    extras.scaling = "longrope";
    make_file(3, "smollm");
    assert_config_refused(STATUS_UNSUPPORTED, "llama.rope.scaling.type \"longrope\"");
    extras.scaling = NULL;
}

static void other_architectures_and_keys_are_named(void **state)
{
    (void)state;
    make_file(3, "smollm");
    memcpy(made.bytes + find_in_file("general.architecture") + 20 + 4 + 8, "gemma", 5);
    assert_config_refused(STATUS_UNSUPPORTED, "architecture \"gemma\"");
    make_file(3, "smollm");
    memcpy(made.bytes + find_in_file("llama.block_count"), "llama.logit_scale", 17);
    assert_config_refused(STATUS_UNSUPPORTED, "llama.logit_scale is not known");
    make_file(3, "smollm");
    memcpy(made.bytes + find_in_file("llama.block_count"), "other.block_count", 17);
    assert_config_refused(STATUS_BAD_FORMAT, "llama.block_count is missing");
    make_file(3, "smollm");
    made.bytes[find_in_file("llama.attention.head_count_kv") + 29 + 4] = 0xff;
    assert_config_refused(STATUS_BAD_FORMAT, "num_key_value_heads");
}

static enum status write_tokenizer(void *context)
{
    struct model *model = context;
    char dir[256];
    enum status status;

    support_temp_dir(dir, sizeof(dir));
    status = gguf_import_tokenizer(model->file, &model->config, dir);
    support_temp_dir_remove(dir);
    return status;
}

static void writing_a_tokenizer_survives_every_failed_allocation(void **state)
{
    struct model model;

    (void)state;
    open_model(&model);
    assert_true(support_fail_allocations(write_tokenizer, &model) >= 10);
    close_model(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_architecture_becomes_a_config),
        cmocka_unit_test(query_and_key_rows_are_put_back_in_order),
        cmocka_unit_test(the_other_rows_keep_their_order),
        cmocka_unit_test(a_model_with_wrong_tensors_is_refused),
        cmocka_unit_test(the_tokenizer_is_written_and_read_back),
        cmocka_unit_test(every_pre_tokenizer_is_one_that_the_tokenizer_reads),
        cmocka_unit_test(scaled_rotations_are_recognised),
        cmocka_unit_test(other_architectures_and_keys_are_named),
        cmocka_unit_test(writing_a_tokenizer_survives_every_failed_allocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
