/* Owns the tensors of the llama architecture: their names there, and undoing the order of query and
 * key rows. */
#include "base/memory.h"
#include "model/gguf_import.h"

#include <stdio.h>
#include <string.h>

#define ROPE_FACTORS "rope_freqs.weight" /* gguf_config.c reads it */

struct name_pair {
    const char *here, *there;
};
static const struct name_pair model_names[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};
static const struct name_pair layer_names[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

/* The pair whose `here` is text[0 .. n). */
static const char *look_up(const struct name_pair *pairs, size_t n_pairs, const char *text,
                           size_t n)
{
    for (size_t i = 0; i < n_pairs; i++) {
        if (strlen(pairs[i].here) == n && memcmp(pairs[i].here, text, n) == 0) {
            return pairs[i].there;
        }
    }
    return NULL;
}

bool gguf_import_name(const char *name, char *out, size_t room)
{
    const char *there =
        look_up(model_names, sizeof(model_names) / sizeof(model_names[0]), name, strlen(name));
    size_t layer;
    int begin = 0;

    if (there != NULL) {
        return snprintf(out, room, "%s", there) < (int)room;
    }
    /* NOLINTNEXTLINE(cert-err34-c): the names are ours, with small numbers */
    if (sscanf(name, "model.layers.%zu.%n", &layer, &begin) != 1 || begin == 0) {
        return false;
    }
    const char *end = strrchr(name, '.'); /* ".weight" or ".bias" */
    if (end < name + begin) {
        return false;
    }
    there = look_up(layer_names, sizeof(layer_names) / sizeof(layer_names[0]), name + begin,
                    (size_t)(end - name) - (size_t)begin);
    return there != NULL && snprintf(out, room, "blk.%zu.%s%s", layer, there, end) < (int)room;
}

static bool has_shape(const struct gguf_tensor *tensor, const struct weight_row *row)
{
    if (tensor->n_dims != row->n_dims) {
        return false;
    }
    for (size_t i = 0; i < row->n_dims; i++) {
        if (tensor->shape[i] != row->shape[i]) {
            return false;
        }
    }
    return true;
}

/* Vectors are never in blocks, which read_permuted counts on. */
static bool is_plain(const struct gguf_tensor *tensor)
{
    return tensor->coding == GGUF_F32_CODED || tensor->coding == GGUF_F16_CODED ||
           tensor->coding == GGUF_BF16_CODED;
}

/* The tensor of a row; NULL with *status when there is none that fits. */
static const struct gguf_tensor *find(const struct gguf *file, const struct weight_row *row,
                                      enum status *status)
{
    char name[GGUF_NAME_MAX + 1];
    const struct gguf_tensor *tensor;

    if (!gguf_import_name(row->name, name, sizeof(name))) {
        *status = status_set(STATUS_UNSUPPORTED, "%s: the llama architecture has no %s",
                             gguf_label(file), row->name);
        return NULL;
    }
    tensor = gguf_tensor_find(file, name);
    if (tensor == NULL) {
        *status = status_set(STATUS_BAD_FORMAT, "%s: tensor %s is missing", gguf_label(file), name);
        return NULL;
    }
    if (!has_shape(tensor, row)) {
        *status = status_set(STATUS_BAD_FORMAT, "%s: tensor %s: shape (%zu, %zu), want (%zu, %zu)",
                             gguf_label(file), name, tensor->shape[0],
                             tensor->n_dims > 1 ? tensor->shape[1] : 1, row->shape[0],
                             row->n_dims > 1 ? row->shape[1] : 1);
        return NULL;
    }
    if (row->n_dims == 1 && !is_plain(tensor)) {
        *status = status_set(STATUS_UNSUPPORTED, "%s: tensor %s: a vector as %s is not read",
                             gguf_label(file), name, gguf_coding_name(tensor->coding));
        return NULL;
    }
    return tensor;
}

/* Rows of one head are stored (head_dim / 2, 2), here (2, head_dim / 2). */
static void read_permuted(const struct gguf_tensor *tensor, size_t head_dim, float *out)
{
    const size_t width = tensor->n_dims > 1 ? tensor->shape[1] : 1, half = head_dim / 2;

    for (size_t stored = 0; stored < tensor->shape[0]; stored++) {
        const size_t head = stored / head_dim, place = stored % head_dim;
        const size_t row = head * head_dim + place % 2 * half + place / 2;

        gguf_read_floats(tensor, stored * width, width, out + row * width);
    }
}

static bool is_permuted(const struct weight_row *row)
{
    return strstr(row->name, ".q_proj.") != NULL || strstr(row->name, ".k_proj.") != NULL;
}

static enum status read_rows(const struct gguf *file, const struct model_config *config,
                             const struct weight_table *table, bool *is_used, float *data)
{
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        enum status status = STATUS_OK;
        const struct gguf_tensor *tensor = find(file, row, &status);

        if (tensor == NULL) {
            return status;
        }
        is_used[tensor - gguf_tensor_at(file, 0)] = true;
        if (is_permuted(row)) {
            read_permuted(tensor, config->head_dim, data + row->offset);
        } else {
            gguf_read_floats(tensor, 0, tensor->n_elements, data + row->offset);
        }
    }
    return STATUS_OK;
}

/* Nothing in the file may go unread: it would be another model. */
static enum status check_all_used(const struct gguf *file, const bool *is_used)
{
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const char *name = gguf_tensor_at(file, i)->name;

        if (!is_used[i] && strcmp(name, ROPE_FACTORS) != 0) {
            return status_set(
                STATUS_UNSUPPORTED, "%s: tensor %s (%s) does not belong to the architecture",
                gguf_label(file), name, gguf_coding_name(gguf_tensor_at(file, i)->coding));
        }
    }
    return STATUS_OK;
}

enum status gguf_import_weights(const struct gguf *file, const struct model_config *config,
                                const struct weight_table *table, float *data)
{
    const struct weight_row *row = NULL;
    bool *is_used;
    enum status status;

    TRY(memory_alloc(gguf_tensor_count(file), sizeof(*is_used), &is_used));
    status = read_rows(file, config, table, is_used, data);
    if (status == STATUS_OK) {
        status = check_all_used(file, is_used);
    }
    memory_free(is_used);
    TRY(status);
    if (!weights_are_finite(table, data, &row)) {
        return status_set(STATUS_BAD_FORMAT, "%s: %s holds a value that is not finite",
                          gguf_label(file), row->name);
    }
    return STATUS_OK;
}
