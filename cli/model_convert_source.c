/* Owns what `hone model convert` reads: a model folder or a GGUF file, in memory as one thing. */
#include "base/memory.h"
#include "cli/model_convert.h"
#include "model/gguf_import.h"

static enum status load_folder(const char *dir, struct model_source *out)
{
    TRY(model_config_load(dir, &out->config));
    TRY(weights_probe_mtp(dir, &out->config));
    TRY(weight_table_create(&out->config, &out->table));
    TRY(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
    return weights_load(dir, out->table, out->data);
}

static enum status load_file(const char *path, struct model_source *out)
{
    TRY(gguf_open(path, &out->file));
    TRY(gguf_import_config(out->file, &out->config));
    TRY(weight_table_create(&out->config, &out->table));
    TRY(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
    return gguf_import_weights(out->file, &out->config, out->table, out->data);
}

enum status model_source_open(const char *path, bool is_file, struct model_source *out)
{
    *out = (struct model_source){.path = path};
    const enum status status = is_file ? load_file(path, out) : load_folder(path, out);

    if (status != STATUS_OK) {
        model_source_close(out);
    }
    return status;
}

void model_source_close(struct model_source *source)
{
    weight_table_destroy(source->table);
    memory_free(source->data);
    gguf_close(source->file);
    *source = (struct model_source){.path = source->path};
}

enum status model_source_carry(const struct model_source *source, const char *to_dir,
                               enum weights_format format)
{
    const char *from_dir = source->path;

    if (source->file == NULL) {
        TRY(model_convert_carry(from_dir, to_dir));
    } else {
        TRY(gguf_import_tokenizer(source->file, &source->config, to_dir));
        TRY(model_config_save(&source->config, to_dir));
        from_dir = to_dir;
    }
    return model_convert_config(from_dir, to_dir, format, source->config.n_mtp_modules);
}
