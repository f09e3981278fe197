/* A transfer against a publisher of paper: 20 chunks and a bit, more than one window. */
#include "base/memory.h"
#include "model/weights.h"
#include "rollout/weights_fetch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define N_FLOATS (20 * WEIGHTS_CHUNK_BYTES / sizeof(float) + 77)
#define N_CHUNKS 21u

struct paper {
    float *data, *received;
    struct digest128 digests[N_CHUNKS];
    struct weights_id id;
    struct weights_fetch *fetch;
};

static int setup(void **state)
{
    static struct paper paper;

    memset(&paper, 0, sizeof(paper));
    assert_int_equal(memory_alloc(N_FLOATS, sizeof(float), &paper.data), STATUS_OK);
    for (size_t i = 0; i < N_FLOATS; i++) {
        paper.data[i] = (float)(i % 1000003);
    }
    for (size_t i = 0; i < N_CHUNKS; i++) {
        paper.digests[i] = weights_chunk_digest(paper.data, N_FLOATS, i);
    }
    const struct digest128 root = weights_digest(paper.data, N_FLOATS);
    paper.id.version = 4;
    (void)hash_hex(root.bytes, sizeof(root.bytes), paper.id.digest);
    assert_int_equal(memory_alloc(N_FLOATS, sizeof(float), &paper.received), STATUS_OK);
    assert_int_equal(weights_fetch_create(N_FLOATS, paper.received, &paper.fetch), STATUS_OK);
    *state = &paper;
    return 0;
}

static int teardown(void **state)
{
    struct paper *paper = *state;

    weights_fetch_destroy(paper->fetch);
    memory_free(paper->received);
    memory_free(paper->data);
    return 0;
}

static enum status give_info(struct paper *paper)
{
    const struct weights_info info = {.version = 4,
                                      .bytes = N_FLOATS * sizeof(float),
                                      .chunk_bytes = WEIGHTS_CHUNK_BYTES,
                                      .digests = paper->digests[0].bytes,
                                      .digests_bytes = sizeof(paper->digests)};

    return weights_fetch_info(paper->fetch, &info, 0);
}

static enum status give_chunk(struct paper *paper, int64_t index, int64_t now_us)
{
    const size_t offset = (size_t)index * WEIGHTS_CHUNK_BYTES;
    const size_t left = N_FLOATS * sizeof(float) - offset;
    const size_t bytes = left < WEIGHTS_CHUNK_BYTES ? left : WEIGHTS_CHUNK_BYTES;

    return weights_fetch_chunk(paper->fetch, 4, index, (const char *)paper->data + offset, bytes,
                               now_us);
}

/* Begins, and asks for and gets the description. */
static void begin(struct paper *paper)
{
    struct fetch_request request;

    weights_fetch_begin(paper->fetch, &paper->id, 0);
    assert_true(weights_fetch_next(paper->fetch, 0, &request));
    assert_int_equal(request.first, -1);
    weights_fetch_asked(paper->fetch, &request, 0);
    assert_false(weights_fetch_next(paper->fetch, 1, &request));
    assert_int_equal(give_info(paper), STATUS_OK);
}

static void chunks_come_in_windows_and_make_the_version(void **state)
{
    struct paper *paper = *state;
    struct fetch_request request;

    begin(paper);
    assert_true(weights_fetch_next(paper->fetch, 0, &request));
    assert_int_equal(request.first, 0);
    assert_int_equal(request.count, FETCH_WINDOW);
    weights_fetch_asked(paper->fetch, &request, 0);
    assert_false(weights_fetch_next(paper->fetch, 0, &request));
    for (int64_t i = 15; i >= 12; i--) { /* out of order, and one twice */
        assert_int_equal(give_chunk(paper, i, 0), STATUS_OK);
        assert_int_equal(give_chunk(paper, i, 0), STATUS_OK);
    }
    assert_true(weights_fetch_next(paper->fetch, 0, &request));
    assert_int_equal(request.first, 16);
    assert_int_equal(request.count, 4);
    weights_fetch_asked(paper->fetch, &request, 0);
    for (int64_t i = 0; i < N_CHUNKS; i++) {
        assert_false(weights_fetch_is_complete(paper->fetch));
        assert_int_equal(give_chunk(paper, i, 0), STATUS_OK);
    }
    assert_true(weights_fetch_is_complete(paper->fetch));
    assert_false(weights_fetch_next(paper->fetch, 0, &request));
    assert_int_equal(weights_fetch_ready(paper->fetch), N_FLOATS);
    assert_memory_equal(paper->received, paper->data, N_FLOATS * sizeof(float));
}

static void what_is_missing_is_asked_for_again_after_a_stall(void **state)
{
    struct paper *paper = *state;
    struct fetch_request request;

    begin(paper);
    assert_true(weights_fetch_next(paper->fetch, 0, &request));
    weights_fetch_asked(paper->fetch, &request, 0);
    assert_int_equal(give_chunk(paper, 0, 10), STATUS_OK);
    assert_true(weights_fetch_next(paper->fetch, 10, &request)); /* room for chunk 16 */
    weights_fetch_asked(paper->fetch, &request, 10);
    assert_false(weights_fetch_next(paper->fetch, FETCH_STALL_US, &request));
    assert_true(weights_fetch_next(paper->fetch, 10 + FETCH_STALL_US, &request));
    assert_int_equal(request.first, 1);
    assert_int_equal(request.count, FETCH_WINDOW);
    weights_fetch_asked(paper->fetch, &request, 10 + FETCH_STALL_US);
    assert_false(weights_fetch_next(paper->fetch, 11 + FETCH_STALL_US, &request));
}

static void a_damaged_chunk_is_never_used(void **state)
{
    struct paper *paper = *state;
    struct fetch_request request;

    begin(paper);
    assert_true(weights_fetch_next(paper->fetch, 0, &request));
    weights_fetch_asked(paper->fetch, &request, 0);
    paper->data[3] += 1.0F;
    for (size_t i = 1; i < FETCH_BAD_CHUNKS_MAX; i++) {
        assert_int_equal(give_chunk(paper, 0, 0), STATUS_OK);
        assert_true(weights_fetch_next(paper->fetch, 0, &request));
        assert_int_equal(request.first, 0);
        weights_fetch_asked(paper->fetch, &request, 0);
    }
    assert_int_equal(give_chunk(paper, 0, 0), STATUS_BAD_FORMAT);
    paper->data[3] -= 1.0F;
    assert_true(paper->received[3] == 0.0F);
}

static void a_description_with_another_root_or_size_is_refused(void **state)
{
    struct paper *paper = *state;
    struct weights_info info = {.version = 4,
                                .bytes = N_FLOATS * sizeof(float) + 4,
                                .chunk_bytes = WEIGHTS_CHUNK_BYTES,
                                .digests = paper->digests[0].bytes,
                                .digests_bytes = sizeof(paper->digests)};

    weights_fetch_begin(paper->fetch, &paper->id, 0);
    assert_int_equal(weights_fetch_info(paper->fetch, &info, 0), STATUS_PEER);
    paper->digests[5].bytes[0] ^= 1;
    assert_int_equal(give_info(paper), STATUS_BAD_FORMAT);
    paper->digests[5].bytes[0] ^= 1;
    assert_int_equal(give_info(paper), STATUS_OK);
}

static void what_is_ready_has_no_hole_in_it(void **state)
{
    struct paper *paper = *state;
    const size_t n = WEIGHTS_CHUNK_BYTES / sizeof(float);

    begin(paper);
    assert_int_equal(weights_fetch_ready(paper->fetch), 0);
    assert_int_equal(give_chunk(paper, 1, 0), STATUS_OK);
    assert_int_equal(weights_fetch_ready(paper->fetch), 0);
    assert_int_equal(give_chunk(paper, 0, 0), STATUS_OK);
    assert_int_equal(weights_fetch_ready(paper->fetch), 2 * n);
    assert_int_equal(give_chunk(paper, N_CHUNKS - 1, 0), STATUS_OK);
    assert_int_equal(weights_fetch_ready(paper->fetch), 2 * n);
    for (int64_t i = 2; i < N_CHUNKS - 1; i++) {
        assert_int_equal(give_chunk(paper, i, 0), STATUS_OK);
    }
    assert_int_equal(weights_fetch_ready(paper->fetch), N_FLOATS);
    begin(paper); /* anew */
    assert_int_equal(weights_fetch_ready(paper->fetch), 0);
}

static void messages_of_another_version_are_ignored(void **state)
{
    struct paper *paper = *state;

    begin(paper);
    assert_int_equal(weights_fetch_chunk(paper->fetch, 3, 0, "junk", 4, 0), STATUS_OK);
    assert_int_equal(weights_fetch_chunk(paper->fetch, 4, N_CHUNKS, "junk", 4, 0), STATUS_OK);
    weights_fetch_end(paper->fetch);
    assert_int_equal(weights_fetch_chunk(paper->fetch, 4, 0, "junk", 4, 0), STATUS_OK);
    assert_false(weights_fetch_is_complete(paper->fetch));
}

static void create_fails_cleanly_at_every_allocation(void **state)
{
    struct weights_fetch *fetch = NULL;
    float weights[100];
    const size_t n_live = memory_live_blocks();
    enum status status = STATUS_NO_MEMORY;
    (void)state;

    for (long n = 0; status != STATUS_OK; n++) {
        memory_fail_after(n);
        status = weights_fetch_create(100, weights, &fetch);
        memory_fail_after(-1);
        if (status != STATUS_OK) {
            assert_int_equal(status, STATUS_NO_MEMORY);
            assert_null(fetch);
            assert_int_equal(memory_live_blocks(), n_live);
        }
    }
    weights_fetch_destroy(fetch);
    weights_fetch_destroy(NULL);
    assert_int_equal(memory_live_blocks(), n_live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(chunks_come_in_windows_and_make_the_version, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_missing_is_asked_for_again_after_a_stall, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_damaged_chunk_is_never_used, setup, teardown),
        cmocka_unit_test_setup_teardown(a_description_with_another_root_or_size_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_ready_has_no_hole_in_it, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_of_another_version_are_ignored, setup, teardown),
        cmocka_unit_test(create_fails_cleanly_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
