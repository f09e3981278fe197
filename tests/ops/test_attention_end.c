/* Attention reads no entry that no row sees: behind the last one there is memory that cannot be
 * read. In training another thread may just be writing there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/attention_fixture.h"

#include <sys/mman.h>
#include <unistd.h>

#define PAGES_MAX 4

/* Pages of one sequence whose last entry ends where nothing may be read. */
struct edge {
    char *map;
    size_t map_bytes;
    float *data;
    int32_t blocks[PAGES_MAX];
};

/* Words from the first page's begin to the last entry's end. */
static size_t used_words(const struct attention_case *c, const struct kv_pages *pages)
{
    const size_t last = c->lengths[0] - 1;

    return last / KV_BLOCK_TOKENS * pages->page_stride +
           last % KV_BLOCK_TOKENS * pages->entry_stride +
           kv_entry_words(pages, entry_width(c->shape));
}

/* The cache's pages in order of their tokens: it has them from the last to the first. */
static void edge_open(const struct attention_case *c, const struct cache *cache, struct edge *edge)
{
    const struct kv_pages *pages = &cache->pages;
    const size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE), used = used_words(c, pages);
    const size_t n_readable = (used * sizeof(float) + page_bytes - 1) / page_bytes * page_bytes;

    edge->map_bytes = n_readable + page_bytes;
    edge->map =
        mmap(NULL, edge->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(edge->map != MAP_FAILED);
    assert_int_equal(mprotect(edge->map + n_readable, page_bytes, PROT_NONE), 0);
    void *const data = edge->map + n_readable - used * sizeof(float);

    edge->data = data;
    for (size_t i = 0; i < pages_of(c->lengths[0]); i++) {
        const size_t at = i * pages->page_stride, left = used - at;
        const size_t n = left < pages->page_stride ? left : pages->page_stride;

        memcpy(edge->data + at, pages->data + (cache->n_pages - 1 - i) * pages->page_stride,
               n * sizeof(float));
        edge->blocks[i] = (int32_t)i;
    }
}

/* As run_backward of a case of one sequence, of pages at the edge. */
static void run_at_edge(struct backend *b, const void *context, float *out)
{
    const struct attention_case *c = context;
    const size_t n_pairs = c->n_rows * c->shape.n_heads;
    float *const dq_latent = out + out_floats(c), *const dq_rope =
                                                      dq_latent + n_pairs * c->shape.rk;
    struct cache cache, d_cache;
    struct edge edge;
    struct kv_span whole, span;

    make_cache(c, c->shape.cache, &cache);
    make_gradient_cache(c, &d_cache);
    whole_spans(c->n_sequences, c->lengths, &cache, &whole);
    copy_entries(b, c, &whole, 1, &cache, c->entries, true);
    edge_open(c, &cache, &edge);
    span = (struct kv_span){0, c->n_rows, 0, edge.blocks};
    struct attention_backward_args args = {.forward = forward_args(c, &cache, &span, 1, out),
                                           .d_out = c->d_out,
                                           .dq = dq_latent,
                                           .dq_rope = c->shape.dr == 0 ? NULL : dq_rope,
                                           .d_pages = d_cache.pages,
                                           .precision = c->products};

    args.forward.pages.data = edge.data;
    assert_ok(b->ops->attention(b, &args.forward));
    assert_ok(b->ops->attention_backward(b, &args));
    copy_entries(b, c, &span, 1, &d_cache, dq_rope + n_pairs * c->shape.dr, false);
    assert_int_equal(munmap(edge.map, edge.map_bytes), 0);
    drop_cache(&d_cache);
    drop_cache(&cache);
}

static void check_edge(struct shape shape, size_t length)
{
    struct attention_case c;

    make_case(&c, shape, 1, &length);
    c.products = shape.cache == PRECISION_BF16 ? PRECISION_BF16 : PRECISION_F32;
    const size_t n = out_floats(&c) + c.n_rows * shape.n_heads * (shape.rk + shape.dr) +
                     c.n_rows * entry_width(shape);
    float *const got = new_floats(n), *const want = new_floats(n);

    run_everywhere(run_backward, &c, n, want);
    run_everywhere(run_at_edge, &c, n, got);
    assert_same_bits("out, lse, gradients", got, want, n);
    memory_free(want);
    memory_free(got);
    drop_case(&c);
}

static void nothing_behind_the_last_entry_is_read(void **state)
{
    static const size_t lengths[] = {1, 7, 17, 129};
    static const struct shape some[] = {{3, 17, 2, 0, 0, PRECISION_F32},
                                        {4, 32, 0, 2, 0, PRECISION_F32},
                                        {3, 7, 2, 0, 4, PRECISION_F32}};
    static const enum precision precisions[] = {PRECISION_F32, PRECISION_BF16, PRECISION_FP8};

    (void)state;
    for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
        for (size_t j = 0; j < 3; j++) {
            struct shape shape = some[i];

            shape.cache = precisions[j];
            for (size_t k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++) {
                check_edge(shape, lengths[k]);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_behind_the_last_entry_is_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
