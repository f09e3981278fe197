/* Owns the edits of a safetensors header: a file built again with one entry replaced. Include it
 * after cmocka.h. */
#ifndef HONE_TESTS_UNIT_MODEL_HEADER_EDITS_H
#define HONE_TESTS_UNIT_MODEL_HEADER_EDITS_H

#include "base/text_buffer.h"
#include "model/safetensors.h"
#include "tests/support/support.h"

/* An entry of the header: ' stands for ", @n name, @d type, @s shape, @r shape reversed, @b @e
 * begin and end of the data, @f @g four bytes behind these, @h four before the end. */
#define ENTRY "'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b,@e]}"

struct entry_edit {
    const char *text, *part; /* part NULL: the tensor's name */
};
static const struct entry_edit entry_edits[] = {
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@f,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@f,@g]}", ""},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b,@h]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b,@g]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@e,@b]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b,999999999]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[-4,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b.5,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b,@e,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':'@b'}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[9223372036854775807,9223372036854775807]}",
     NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b,99999999999999999999]}", "1:"},
    {"'@n':{'dtype':'@d','shape':[1,2,3],'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':[-1],'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':[4294967296,4294967296],'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':[9223372036854775807],'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':[1,1,1,1,1,1,1,1,1],'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':'@s','data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':[1.5],'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':null,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':@r,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'F33','shape':@s,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'f32','shape':@s,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'C64','shape':@s,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'F64','shape':@s,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'I32','shape':@s,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':32,'shape':@s,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'shape':@s,'data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','data_offsets':[@b,@e]}", NULL},
    {"'@n':{'dtype':'@d','shape':@s}", NULL},
    {"'@n':{'dtype':'@d','shape':@s,'data_offsets':[@b,@e],'more':1}", NULL},
    {"'@n':[]", NULL},
    {"'@n':null", NULL},
    {"'x@n':{'dtype':'@d','shape':@s,'data_offsets':[@b,@e]}", "@n"},
    {"'':{'dtype':'@d','shape':@s,'data_offsets':[@b,@e]}", "name"},
    {"'@n\\u0000':{'dtype':'@d','shape':@s,'data_offsets':[@b,@e]}", "1:"},
    {ENTRY "," ENTRY, "1:"},
    {ENTRY ",'more':{'dtype':'@d','shape':@s,'data_offsets':[@b,@e]}", ""},
    {ENTRY ",'more':{'dtype':'F32','shape':[0],'data_offsets':[@b,@b]}", "more"},
    {ENTRY ",'__metadata__':[]", "__metadata__"},
    {ENTRY ",'__metadata__':{'a':1}", "__metadata__"},
    {"'more':{'dtype':'U8','shape':[],'data_offsets':[0,1]}", ""},
};
#define N_ENTRY_EDITS (sizeof(entry_edits) / sizeof(entry_edits[0]))

struct entry {
    const struct tensor *tensor;
    size_t begin, end;
};

static inline void put(struct text_buffer *out, const char *text)
{
    assert_ok(text_buffer_put(out, text, strlen(text)));
}

static inline void put_number(struct text_buffer *out, size_t value)
{
    char text[32];

    (void)snprintf(text, sizeof(text), "%zu", value);
    put(out, text);
}

static inline void put_shape(struct text_buffer *out, const struct tensor *tensor, bool is_reversed)
{
    put(out, "[");
    for (size_t i = 0; i < tensor->n_dims; i++) {
        put(out, i == 0 ? "" : ",");
        put_number(out, tensor->shape[is_reversed ? tensor->n_dims - 1 - i : i]);
    }
    put(out, "]");
}

static inline void put_field(struct text_buffer *out, char field, const struct entry *entry)
{
    switch (field) {
    case 'n':
        put(out, entry->tensor->name);
        break;
    case 'd':
        put(out, tensor_dtype_name(entry->tensor->dtype));
        break;
    case 's':
    case 'r':
        put_shape(out, entry->tensor, field == 'r');
        break;
    case 'b':
    case 'f':
        put_number(out, entry->begin + (field == 'f' ? 4 : 0));
        break;
    default:
        put_number(out, entry->end + (field == 'g' ? 4 : 0) - (field == 'h' ? 4 : 0));
        break;
    }
}

static inline void put_entry(struct text_buffer *out, const char *text, const struct entry *entry)
{
    for (; *text != '\0'; text++) {
        if (*text == '@') {
            text++;
            put_field(out, *text, entry);
        } else {
            assert_ok(text_buffer_put(out, *text == '\'' ? "\"" : text, 1));
        }
    }
}

static inline void finish_file(const struct text_buffer *header, const struct text_buffer *data,
                               struct text_buffer *out)
{
    unsigned char size[8];

    for (size_t i = 0; i < sizeof(size); i++) {
        size[i] = (unsigned char)(header->count >> (8 * i));
    }
    assert_ok(text_buffer_put(out, (const char *)size, sizeof(size)));
    assert_ok(text_buffer_put(out, header->bytes, header->count));
    assert_ok(text_buffer_put(out, data->bytes, data->count));
}

/* The file without metadata; the victim's entry is `text`. */
static inline void rebuild(const struct safetensors *file, size_t victim, const char *text,
                           struct text_buffer *out)
{
    struct text_buffer header = {0}, data = {0};

    put(&header, "{");
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor *tensor = safetensors_at(file, i);
        const size_t bytes = tensor->n_elements * tensor_dtype_bytes(tensor->dtype);
        const struct entry entry = {tensor, data.count, data.count + bytes};

        put(&header, i == 0 ? "" : ",");
        put_entry(&header, i == victim ? text : ENTRY, &entry);
        assert_ok(text_buffer_put(&data, tensor->data, bytes));
    }
    put(&header, "}");
    finish_file(&header, &data, out);
    text_buffer_dispose(&header);
    text_buffer_dispose(&data);
}

#endif
