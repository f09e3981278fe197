/* Owns the table of parameters, fresh weights and digests; files are weights_io.c. */
#include "model/weights.h"

#include "base/memory.h"
#include "base/random.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW_ALIGNMENT ((size_t)16) /* floats: every row begins on a cache line */
#define DIGESTS_MAX ((size_t)1024)

/* Walks the architecture twice: rows NULL counts, else fills. */
struct table_builder {
    struct weight_row *rows;
    size_t n_rows, n_floats;
    bool is_mtp, is_indexer;
    size_t mtp_module;
    bool has_overflow;
    struct weight_row counted_only; /* takes what nobody keeps while counting */
};

/* Adds (n_rows, n_columns), or a vector when n_columns is 0. */
static struct weight_row *add_row(struct table_builder *builder, size_t n_rows, size_t n_columns,
                                  const char *format, ...) PRINTF_LIKE(4, 5);

static struct weight_row *add_row(struct table_builder *builder, size_t n_rows, size_t n_columns,
                                  const char *format, ...)
{
    struct weight_row *row = &builder->counted_only;
    size_t count = n_rows, padded;
    va_list arguments;

    if ((n_columns > 0 && !size_multiply(n_rows, n_columns, &count)) ||
        !size_add(count, ROW_ALIGNMENT - 1, &padded)) {
        builder->has_overflow = true;
        return row;
    }
    padded -= padded % ROW_ALIGNMENT;
    if (builder->rows != NULL) {
        row = &builder->rows[builder->n_rows];
        va_start(arguments, format);
        (void)vsnprintf(row->name, sizeof(row->name), format, arguments);
        va_end(arguments);
        row->shape[0] = n_rows;
        row->shape[1] = n_columns;
        row->n_dims = n_columns > 0 ? 2 : 1;
        row->offset = builder->n_floats;
        row->count = count;
        row->decays = n_columns > 0;
        row->is_trainable = true;
        row->is_mtp = builder->is_mtp;
        row->is_indexer = builder->is_indexer;
        row->mtp_module = builder->mtp_module;
    }
    builder->n_rows++;
    builder->has_overflow |= !size_add(builder->n_floats, padded, &builder->n_floats);
    return row;
}

static void add_bias(struct table_builder *b, bool has_bias, size_t n, size_t layer,
                     const char *part)
{
    if (has_bias) {
        add_row(b, n, 0, "model.layers.%zu.self_attn.%s.bias", layer, part)->is_bias = true;
    }
}

static void add_indexer(struct table_builder *b, const struct model_config *c, size_t layer)
{
    static const char *const name = "model.layers.%zu.self_attn.indexer.%s";
    const size_t dim = c->index_head_dim, d = c->hidden_size;

    b->is_indexer = true;
    add_row(b, c->index_n_heads * dim, c->q_lora_rank, name, layer, "wq_b.weight");
    add_row(b, dim, d, name, layer, "wk.weight");
    add_row(b, dim, 0, name, layer, "k_norm.weight");
    add_row(b, dim, 0, name, layer, "k_norm.bias")->is_bias = true;
    add_row(b, c->index_n_heads, d, name, layer, "weights_proj.weight");
    b->is_indexer = false;
}

static void add_latent_attention(struct table_builder *b, const struct model_config *c,
                                 size_t layer)
{
    const size_t q_dim = c->n_heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    const size_t kv_dim = c->n_heads * (c->qk_nope_head_dim + c->v_head_dim);
    const size_t d = c->hidden_size;

    if (c->q_lora_rank > 0) {
        add_row(b, c->q_lora_rank, d, "model.layers.%zu.self_attn.q_a_proj.weight", layer);
        add_bias(b, c->has_attention_bias, c->q_lora_rank, layer, "q_a_proj");
        add_row(b, c->q_lora_rank, 0, "model.layers.%zu.self_attn.q_a_layernorm.weight", layer);
        add_row(b, q_dim, c->q_lora_rank, "model.layers.%zu.self_attn.q_b_proj.weight", layer);
    } else {
        add_row(b, q_dim, d, "model.layers.%zu.self_attn.q_proj.weight", layer);
    }
    add_row(b, c->kv_lora_rank + c->qk_rope_head_dim, d,
            "model.layers.%zu.self_attn.kv_a_proj_with_mqa.weight", layer);
    add_bias(b, c->has_attention_bias, c->kv_lora_rank + c->qk_rope_head_dim, layer,
             "kv_a_proj_with_mqa");
    add_row(b, c->kv_lora_rank, 0, "model.layers.%zu.self_attn.kv_a_layernorm.weight", layer);
    add_row(b, kv_dim, c->kv_lora_rank, "model.layers.%zu.self_attn.kv_b_proj.weight", layer);
    add_row(b, d, c->n_heads * c->v_head_dim, "model.layers.%zu.self_attn.o_proj.weight", layer);
    add_bias(b, c->has_attention_bias, d, layer, "o_proj");
    if (c->index_n_heads > 0) {
        add_indexer(b, c, layer);
    }
}

/* One of q, k, v, o, with its bias. */
static void add_projection(struct table_builder *b, bool has_bias, size_t n_out, size_t n_in,
                           size_t layer, const char *part)
{
    add_row(b, n_out, n_in, "model.layers.%zu.self_attn.%s.weight", layer, part);
    add_bias(b, has_bias, n_out, layer, part);
}

static void add_grouped_attention(struct table_builder *b, const struct model_config *c,
                                  size_t layer)
{
    const size_t d = c->hidden_size;
    const size_t q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;

    add_projection(b, c->has_qkv_bias, q_dim, d, layer, "q_proj");
    add_projection(b, c->has_qkv_bias, kv_dim, d, layer, "k_proj");
    add_projection(b, c->has_qkv_bias, kv_dim, d, layer, "v_proj");
    if (c->has_qk_norm) {
        add_row(b, c->head_dim, 0, "model.layers.%zu.self_attn.q_norm.weight", layer);
        add_row(b, c->head_dim, 0, "model.layers.%zu.self_attn.k_norm.weight", layer);
    }
    add_projection(b, c->has_o_bias, d, q_dim, layer, "o_proj");
}

static void add_attention(struct table_builder *b, const struct model_config *c, size_t layer)
{
    add_row(b, c->hidden_size, 0, "model.layers.%zu.input_layernorm.weight", layer);
    if (c->attention == MODEL_ATTENTION_MLA) {
        add_latent_attention(b, c, layer);
    } else {
        add_grouped_attention(b, c, layer);
    }
    add_row(b, c->hidden_size, 0, "model.layers.%zu.post_attention_layernorm.weight", layer);
}

/* gate, up, down of one MLP; part is "mlp" or "mlp.shared_experts". */
static void add_mlp(struct table_builder *b, size_t d, size_t width, size_t layer, const char *part)
{
    add_row(b, width, d, "model.layers.%zu.%s.gate_proj.weight", layer, part);
    add_row(b, width, d, "model.layers.%zu.%s.up_proj.weight", layer, part);
    add_row(b, d, width, "model.layers.%zu.%s.down_proj.weight", layer, part);
}

static void add_moe(struct table_builder *b, const struct model_config *c, size_t layer)
{
    const struct weight_names *names = weight_names(c->family);
    const size_t d = c->hidden_size, width = c->moe_intermediate_size;

    add_row(b, c->n_experts, d, "model.layers.%zu.%s.gate.weight", layer, names->moe);
    if (!c->has_softmax_router) {
        add_row(b, c->n_experts, 0, "model.layers.%zu.%s.gate.e_score_correction_bias", layer,
                names->moe)
            ->is_trainable = false;
    }
    for (size_t j = 0; j < c->n_experts; j++) {
        for (size_t part = 0; part < 3; part++) {
            add_row(b, part < 2 ? width : d, part < 2 ? d : width,
                    "model.layers.%zu.%s.experts.%zu.%s.weight", layer, names->moe, j,
                    names->expert_parts[part]);
        }
    }
    if (c->n_shared_experts > 0) {
        add_mlp(b, d, c->n_shared_experts * width, layer, "mlp.shared_experts");
    }
}

static void add_layer(struct table_builder *b, const struct model_config *c, size_t layer)
{
    add_attention(b, c, layer);
    if (model_config_is_moe_layer(c, layer)) {
        add_moe(b, c, layer);
    } else {
        add_mlp(b, c->hidden_size, c->intermediate_size, layer, "mlp");
    }
}

static void add_all(struct table_builder *b, const struct model_config *c)
{
    const size_t d = c->hidden_size;

    add_row(b, c->vocab_size, d, "model.embed_tokens.weight")->decays = false;
    for (size_t i = 0; i < c->n_layers; i++) {
        add_layer(b, c, i);
    }
    add_row(b, d, 0, "model.norm.weight");
    if (!c->has_tied_head) {
        add_row(b, c->vocab_size, d, "lm_head.weight");
    }
    b->is_mtp = true;
    for (size_t i = c->n_layers; i < c->n_layers + c->n_mtp_modules; i++) {
        b->mtp_module = i - c->n_layers;
        add_row(b, d, 0, "model.layers.%zu.enorm.weight", i);
        add_row(b, d, 0, "model.layers.%zu.hnorm.weight", i);
        add_row(b, d, 2 * d, "model.layers.%zu.eh_proj.weight", i);
        add_layer(b, c, i);
        add_row(b, d, 0, "model.layers.%zu.shared_head.norm.weight", i);
    }
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const struct weight_row *const *)a)->name,
                  (*(const struct weight_row *const *)b)->name);
}

static enum status fill_table(const struct model_config *config, size_t n_rows,
                              struct weight_table *table)
{
    struct table_builder builder = {.rows = NULL};

    TRY(memory_alloc(n_rows, sizeof(*table->rows), &table->rows));
    TRY(memory_alloc(n_rows, sizeof(struct weight_row *), &table->by_name));
    builder.rows = table->rows;
    add_all(&builder, config);
    table->n_rows = builder.n_rows;
    table->n_floats = builder.n_floats;
    for (size_t i = 0; i < n_rows; i++) {
        table->by_name[i] = &table->rows[i];
    }
    qsort(table->by_name, n_rows, sizeof(struct weight_row *), compare_names);
    return STATUS_OK;
}

enum status weight_table_create(const struct model_config *config, struct weight_table **out)
{
    struct table_builder builder = {.rows = NULL};
    struct weight_table *table;

    *out = NULL;
    add_all(&builder, config);
    if (builder.has_overflow) {
        return status_set(STATUS_BAD_FORMAT, "the model's parameters overflow a size");
    }
    TRY(memory_alloc(1, sizeof(*table), &table));
    const enum status status = fill_table(config, builder.n_rows, table);
    if (status != STATUS_OK) {
        weight_table_destroy(table);
        return status;
    }
    *out = table;
    return STATUS_OK;
}

void weight_table_destroy(struct weight_table *table)
{
    if (table != NULL) {
        memory_free(table->by_name);
        memory_free(table->rows);
        memory_free(table);
    }
}

static int compare_name(const void *name, const void *row)
{
    return strcmp(name, (*(const struct weight_row *const *)row)->name);
}

const struct weight_row *weight_table_find(const struct weight_table *table, const char *name)
{
    const struct weight_row **found =
        bsearch(name, table->by_name, table->n_rows, sizeof(struct weight_row *), compare_name);

    return found == NULL ? NULL : *found;
}

void weights_init(const struct model_config *config, const struct weight_table *table,
                  uint64_t seed, float *data)
{
    const float range = (float)config->initializer_range;

    memset(data, 0, table->n_floats * sizeof(float));
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        float *values = data + row->offset;

        for (size_t j = 0; j < row->count && row->is_trainable && !row->is_bias; j++) {
            values[j] = row->n_dims == 1 ? 1.0f : range * random_normal(seed, RANDOM_INIT, i, j);
        }
    }
}

size_t weights_chunks(size_t n_floats)
{
    const size_t floats = WEIGHTS_CHUNK_BYTES / sizeof(float);

    return (n_floats + floats - 1) / floats;
}

struct digest128 weights_chunk_digest(const float *data, size_t n_floats, size_t chunk)
{
    const size_t floats = WEIGHTS_CHUNK_BYTES / sizeof(float);
    const size_t begin = chunk * floats;
    const size_t n = n_floats - begin < floats ? n_floats - begin : floats;

    return hash_128(data + begin, n * sizeof(float));
}

/* Digests of digests, up to DIGESTS_MAX at a time: what is full becomes the first of the next. */
struct folder {
    struct digest128 digests[DIGESTS_MAX];
    size_t n;
};

static void fold(struct folder *folder, const struct digest128 *digest)
{
    if (folder->n == DIGESTS_MAX) {
        folder->digests[0] = hash_128(folder->digests, sizeof(folder->digests));
        folder->n = 1;
    }
    folder->digests[folder->n++] = *digest;
}

struct digest128 weights_root(const struct digest128 *digests, size_t n)
{
    struct folder folder = {.n = 0};
    for (size_t i = 0; i < n; i++) {
        fold(&folder, &digests[i]);
    }
    return hash_128(folder.digests, folder.n * sizeof(folder.digests[0]));
}

struct digest128 weights_digest(const float *data, size_t n_floats)
{
    struct folder folder = {.n = 0};
    for (size_t i = 0; i < weights_chunks(n_floats); i++) {
        const struct digest128 digest = weights_chunk_digest(data, n_floats, i);
        fold(&folder, &digest);
    }
    return hash_128(folder.digests, folder.n * sizeof(folder.digests[0]));
}

bool weights_are_finite(const struct weight_table *table, const float *data,
                        const struct weight_row **row)
{
    for (size_t i = 0; i < table->n_rows; i++) {
        const float *values = data + table->rows[i].offset;

        for (size_t j = 0; j < table->rows[i].count; j++) {
            if (!isfinite(values[j])) {
                *row = &table->rows[i];
                return false;
            }
        }
    }
    return true;
}
