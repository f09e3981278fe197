/* GGUF files with one wrong byte, any: refused, or nothing but that byte's own entry changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "tests/support/support.h"
#include "tests/unit/model/gguf_fixture.h"

#include <string.h>

static struct file damaged; /* a copy of what was made, but for a byte */

/* Which entry of the header each byte belongs to: 0 the counts, then values, then tensors, both in
 * the order of the file. */
struct entries {
    const struct gguf *file;
    size_t begins[1 + N_KEYS + N_TENSORS + 1]; /* and the header's end */
    const struct gguf_value *values[N_KEYS];   /* of entries 1 .. */
};

#define COUNTS_BYTES ((size_t)24)

static size_t value_begin(const struct gguf_value *value)
{
    const size_t list_bytes = value->type == GGUF_LIST ? 12 : 0;

    return value->position - list_bytes - 4 - value->key.n - 8;
}

/* In the order of their positions. */
static size_t sort_values(struct entries *e)
{
    const size_t n = gguf_value_count(e->file);

    assert_true(n <= N_KEYS);
    for (size_t i = 0; i < n; i++) {
        size_t at = i;

        for (; at > 0 && e->values[at - 1]->position > gguf_value_at(e->file, i)->position; at--) {
            e->values[at] = e->values[at - 1];
        }
        e->values[at] = gguf_value_at(e->file, i);
    }
    return n;
}

static size_t find_entries(const struct gguf *file, struct entries *e)
{
    size_t n = 0, tensors_begin = made.n_header;

    *e = (struct entries){.file = file};
    const size_t n_values = sort_values(e);

    n++;
    for (size_t i = 0; i < n_values; i++) {
        e->begins[n++] = value_begin(e->values[i]);
    }
    assert_int_equal(e->begins[1], COUNTS_BYTES);
    for (size_t i = 0; i < N_TENSORS; i++) {
        const size_t n_dims = plan[i].columns == 0 ? 1 : 2;

        tensors_begin -= 8 + strlen(plan[i].name) + 4 + 8 * n_dims + 4 + 8;
    }
    for (size_t i = 0; i < N_TENSORS; i++) {
        const size_t n_dims = plan[i].columns == 0 ? 1 : 2;

        e->begins[n++] = tensors_begin;
        tensors_begin += 8 + strlen(plan[i].name) + 4 + 8 * n_dims + 4 + 8;
    }
    assert_int_equal(tensors_begin, made.n_header);
    e->begins[n] = made.n_header;
    return n_values;
}

static void assert_same_value(const struct gguf_value *was, const struct gguf *file)
{
    char key[GGUF_NAME_MAX + 1] = "";

    memcpy(key, was->key.bytes, was->key.n);
    const struct gguf_value *is = gguf_find(file, key);

    assert_non_null(is);
    assert_int_equal(is->type, was->type);
    assert_int_equal(is->item, was->item);
    assert_int_equal(is->count, was->count);
    assert_int_equal(is->position, was->position);
}

/* But for where the data begin, if may_move. */
static void assert_same_tensor(const struct gguf_tensor *was, const struct gguf *file,
                               bool may_move)
{
    const struct gguf_tensor *is = gguf_tensor_find(file, was->name);

    assert_non_null(is);
    assert_int_equal(is->coding, was->coding);
    assert_int_equal(is->n_dims, was->n_dims);
    assert_memory_equal(is->shape, was->shape, was->n_dims * sizeof(was->shape[0]));
    assert_int_equal(is->n_elements, was->n_elements);
    assert_int_equal(is->bytes, was->bytes);
    assert_true(may_move || is->data - damaged.bytes == was->data - made.bytes);
}

/* With a smaller number of tensors the last ones are not seen; whoever needs them says so. */
static void assert_fewer_tensors(const struct entries *e, const struct gguf *file)
{
    const size_t n = gguf_tensor_count(file);

    assert_true(n <= N_TENSORS);
    for (size_t i = 0; i < n; i++) {
        assert_same_tensor(gguf_tensor_find(e->file, plan[i].name), file, n < N_TENSORS);
    }
}

/* What was read is the whole file but for the entry that the byte is in. */
static void assert_same_but(const struct entries *e, size_t n_values, size_t position,
                            const struct gguf *file)
{
    const struct gguf_value *alignment = gguf_find(e->file, "general.alignment");
    const bool may_move =
        position >= value_begin(alignment) && position < alignment->position + sizeof(uint32_t);

    assert_int_equal(gguf_value_count(file), n_values);
    for (size_t i = 0; i < n_values; i++) {
        if (position < e->begins[1 + i] || position >= e->begins[2 + i]) {
            assert_same_value(e->values[i], file);
        }
    }
    if (position < COUNTS_BYTES) {
        assert_fewer_tensors(e, file);
        return;
    }
    assert_int_equal(gguf_tensor_count(file), N_TENSORS);
    for (size_t i = 0; i < N_TENSORS; i++) {
        const size_t entry = 1 + n_values + i;

        if (position < e->begins[entry] || position >= e->begins[entry + 1]) {
            assert_same_tensor(gguf_tensor_find(e->file, plan[i].name), file, may_move);
        }
    }
}

/* One line that begins with the file and tells the place: a byte, a key or a tensor. */
static void assert_clear_refusal(enum status status)
{
    const char *message = status_message();

    assert_true(status == STATUS_BAD_FORMAT || status == STATUS_UNSUPPORTED);
    assert_true(strncmp(message, "t.gguf: ", 8) == 0);
    assert_true(strstr(message, "byte ") != NULL || strstr(message, "tensor ") != NULL);
    for (size_t i = 0; message[i] != '\0'; i++) {
        assert_true(message[i] >= ' ' && message[i] != 0x7f);
    }
}

/* A header has no checksum, so a byte may make another key, text or number of what it is in. It
 * must not reach further: a file with one wrong byte is refused in one clear line, or it is read as
 * it is but for the one entry that holds the byte. */
static void a_wrong_byte_is_refused_or_stays_in_its_entry(void **state)
{
    struct gguf *pristine = NULL;
    struct entries entries;
    size_t n_refused = 0, n_read = 0;

    (void)state;
    make_file(3, "smollm");
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &pristine));
    const size_t n_values = find_entries(pristine, &entries);

    damaged = made;
    for (size_t i = 0; i < 6 * made.n_header; i++) {
        const size_t at = i / 6;
        const unsigned char was = made.bytes[at];
        const unsigned char wrong[] = {(unsigned char)(was ^ 1u),
                                       (unsigned char)(was ^ 1u << at % 8),
                                       (unsigned char)(was ^ 0x80u),
                                       0,
                                       0xff,
                                       (unsigned char)(was + 1)};
        struct gguf *file = NULL;

        damaged.bytes[at] = wrong[i % 6];
        if (wrong[i % 6] != was) {
            const enum status status = gguf_parse("t.gguf", damaged.bytes, made.n, &file);

            if (status == STATUS_OK) {
                n_read++;
                assert_same_but(&entries, n_values, at, file);
            } else {
                n_refused++;
                assert_null(file);
                assert_clear_refusal(status);
            }
        }
        gguf_close(file);
        damaged.bytes[at] = was;
    }
    gguf_close(pristine);
    assert_true(n_refused > made.n_header && n_read > made.n_header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_byte_is_refused_or_stays_in_its_entry),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
