/* Owns where a forward is cut into parts (policy_part.c). Rows are independent of one another
 * (DESIGN 3), so a cut changes no bit; it only must not come between spans that share entries.
 *
 * What a cut costs: every part reads all weights, where a product that threads share reads its
 * panels once. It pays as soon as a part has arithmetic enough for every byte that it reads. What
 * it saves is more than waiting: rows that stay with a thread never cross from one core's cache to
 * another. Parts that meet (policy_extend.c) read the experts and the head once between them. */
#include "model/model_cost.h"
#include "model/policy_part_internal.h"

/* Flop of a part for each byte of weights that it reads, at least: where a cache that the threads
 * share holds all weights, and where memory does. Measured by batches of 2 to 64 sequences; at half
 * as much the cut loses up to 10 %, from memory up to 30. */
#define INTENSITY_CACHE 4.0
#define INTENSITY_MEMORY 10.0
/* From memory parts gain by meeting for the experts and the head, which are most of the weights,
 * until they have this much. Measured by batches of 8 to 256: 8, 18, 17, 20 and 2 % in fp32. */
#define INTENSITY_MEETING 60.0
/* And only if what they still read alone is no more than this share of all: a dense model of 135 M
 * parameters, a fifth of them the head, loses 10 %. */
#define OWN_SHARE_MAX 0.5
#define CACHE_BYTES (24.0 * 1024 * 1024)   /* most of the last cache of a few cores of a server */
#define ALL_EXPERTS_ROWS ((size_t)1 << 20) /* so many rows leave no expert out */
/* The largest part's work over the mean: above, sharing every product is faster than waiting. */
#define IMBALANCE_MAX 1.15

/* What is cut: spans in order of their rows, and the rows that draw or are targets, ascending. */
struct cutting {
    const struct kv_span *spans;
    const int32_t *draw_rows;
    size_t n_spans, n_rows, n_draws;
    bool has_prefixes; /* a span with cached tokens belongs to the nearest one without before it */
};

/* Draws come with ascending rows, so that a run of rows has a run of draws. */
static bool are_ascending(const int32_t *rows, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if (rows[i] < rows[i - 1]) {
            return false;
        }
    }
    return true;
}

/* Spans that must stay together, the first of them at `at`: adds them to *part. first_draw: of
 * their draws. */
static void take_group(const struct policy *policy, const struct cutting *c, size_t at,
                       size_t first_draw, struct policy_part *part)
{
    size_t draw = first_draw;

    for (size_t i = at; i < c->n_spans; i++) {
        const struct kv_span *span = &c->spans[i];
        const size_t end_row = span->first_row + span->n_rows;
        const double n_keys = (double)span->n_cached + 0.5 * (double)(span->n_rows + 1);

        if (i > at && !(c->has_prefixes && span->n_cached > 0)) {
            break;
        }
        while (draw < c->n_draws && (size_t)c->draw_rows[draw] < end_row) {
            draw++;
        }
        part->n_spans++;
        part->n_copies += i > at ? 1 : 0;
        part->n_rows += span->n_rows;
        part->work += (double)span->n_rows * (policy->row_work + n_keys * policy->key_work);
    }
    part->n_draws += draw - first_draw;
    part->work += (double)(draw - first_draw) * policy->draw_work;
}

/* Everything as one part. */
static struct policy_part whole_of(const struct policy *policy, const struct cutting *c)
{
    struct policy_part whole = {.n_rows = 0};

    while (whole.n_spans < c->n_spans) {
        take_group(policy, c, whole.n_spans, whole.n_draws, &whole);
    }
    return whole;
}

/* A part that begins where `before` ends, or at the beginning. */
static struct policy_part part_behind(const struct policy_part *before)
{
    return before == NULL
               ? (struct policy_part){.n_rows = 0}
               : (struct policy_part){.first_row = before->first_row + before->n_rows,
                                      .first_span = before->first_span + before->n_spans,
                                      .first_copy = before->first_copy + before->n_copies,
                                      .first_draw = before->first_draw + before->n_draws};
}

/* Adds to *part, which begins when `done` work is with others, as many groups as have their middle
 * before `end`. */
static void fill_part(const struct policy *policy, const struct cutting *c, double done, double end,
                      struct policy_part *part)
{
    while (part->first_span + part->n_spans < c->n_spans) {
        struct policy_part more = *part;

        take_group(policy, c, part->first_span + part->n_spans, part->first_draw + part->n_draws,
                   &more);
        if (done + (part->work + more.work) / 2 > end) {
            return;
        }
        *part = more;
    }
}

/* Shares the groups out; true when the parts are about equal. */
static bool share_spans(struct policy *policy, const struct cutting *c, double total, size_t n)
{
    double done = 0, largest = 0;

    for (size_t i = 0; i < n; i++) {
        struct policy_part part = part_behind(i == 0 ? NULL : &policy->parts[i - 1]);
        const double end = total * (double)(i + 1) / (double)n;

        fill_part(policy, c, done, i + 1 < n ? end : 2 * total, &part);
        done += part.work;
        largest = part.work > largest ? part.work : largest;
        part.buffers = policy->parts[i].buffers;
        policy->parts[i] = part;
    }
    return largest * (double)n <= total * IMBALANCE_MAX;
}

/* Marks the pages that spans of part `index` write to. */
static void mark_pages(struct policy_cache *cache, const struct policy_part *part, size_t index,
                       const struct kv_span *spans)
{
    for (size_t i = 0; i < part->n_spans; i++) {
        const struct kv_span *span = &spans[part->first_span + i];
        const size_t end = span->n_cached + span->n_rows;

        for (size_t j = span->n_cached / KV_BLOCK_TOKENS; j * KV_BLOCK_TOKENS < end; j++) {
            cache->writers[span->blocks[j]] = cache->writer_base + index;
        }
    }
}

/* true when no span of the part reads a page that another part writes to. */
static bool reads_own_pages(const struct policy_cache *cache, const struct policy_part *part,
                            size_t index, const struct kv_span *spans)
{
    for (size_t i = 0; i < part->n_spans; i++) {
        const struct kv_span *span = &spans[part->first_span + i];
        const size_t n_tokens = span->n_cached + span->n_rows;

        for (size_t j = 0; j * KV_BLOCK_TOKENS < n_tokens; j++) {
            const uint64_t writer = cache->writers[span->blocks[j]];

            if (writer >= cache->writer_base && writer != cache->writer_base + index) {
                return false;
            }
        }
    }
    return true;
}

static bool are_apart(const struct policy *policy, struct policy_cache *cache,
                      const struct kv_span *spans, size_t n)
{
    bool are_so = true;

    cache->writer_base += policy->n_parts; /* no page has a mark as high as this */
    for (size_t i = 0; i < n; i++) {
        mark_pages(cache, &policy->parts[i], i, spans);
    }
    for (size_t i = 0; i < n && are_so; i++) {
        are_so = reads_own_pages(cache, &policy->parts[i], i, spans);
    }
    return are_so;
}

/* Logit rows: a part's own draws, or as equal shares as there are when not all have room. */
static void share_logits(struct policy *policy, size_t n_draws, size_t n)
{
    const size_t n_rows = policy->logit_rows;

    for (size_t i = 0; i < n; i++) {
        struct policy_part *part = &policy->parts[i];

        part->logit_at = n_draws <= n_rows ? part->first_draw : n_rows * i / n;
        part->logit_rows =
            n_draws <= n_rows ? part->n_draws : n_rows * (i + 1) / n - part->logit_at;
    }
}

static struct kv_span moved(struct kv_span span, size_t first_row)
{
    span.first_row -= first_row;
    return span;
}

/* The parts' spans and the copies behind them, their rows counted from the part's first. copies:
 * those of all. */
static void place_spans(struct policy *policy, const struct cutting *c, size_t n)
{
    struct kv_span *out = policy->part_spans;

    for (size_t i = 0; i < n; i++) {
        struct policy_part *part = &policy->parts[i];

        part->spans = out;
        for (size_t j = 0; j < part->n_spans; j++) {
            *out++ = moved(c->spans[part->first_span + j], part->first_row);
        }
        for (size_t j = 0; j < part->n_copies; j++) {
            *out++ = moved(c->spans[c->n_spans + part->first_copy + j], part->first_row);
        }
    }
}

enum way { WAY_WHOLE, WAY_MEETING, WAY_ALONE };

/* Flop for each byte of a part's weights from which on it gains to read them alone. */
static double least_intensity(double bytes)
{
    return bytes <= CACHE_BYTES ? INTENSITY_CACHE : INTENSITY_MEMORY;
}

/* What parts that meet share: bytes of the experts and of the head. */
static double shared_bytes(const struct policy *policy, size_t n_rows, size_t linear, size_t head)
{
    const struct model_config *config = &policy->config;
    const double all = model_weight_bytes(config, n_rows, linear, head);

    return all - model_weight_bytes(config, 0, linear, 0);
}

/* How n parts are best run: each alone with all weights, if they have work, in flop, for that; or
 * meeting, if they may and have enough for the rest of the weights. */
static enum way best_way(const struct policy *policy, const struct cutting *c, double work,
                         size_t n, bool may_meet)
{
    static const size_t value_bytes[] = {
        [PRECISION_F32] = 4, [PRECISION_BF16] = 2, [PRECISION_FP8] = 1};
    const size_t linear = value_bytes[policy_linear(policy)];
    const size_t head = value_bytes[policy_unquantised(policy)];
    const double all = model_weight_bytes(&policy->config, ALL_EXPERTS_ROWS, linear, head);
    const double bytes = model_weight_bytes(&policy->config, c->n_rows / n, linear, head);
    const double own = bytes - shared_bytes(policy, c->n_rows / n, linear, head);
    const double whole_to_alone = least_intensity(all) * bytes * (double)n;
    const double whole_to_meeting = least_intensity(own) * own * (double)n;
    const double meeting_to_alone =
        all <= CACHE_BYTES ? whole_to_alone : INTENSITY_MEETING * bytes * (double)n;

    if (may_meet && own <= OWN_SHARE_MAX * bytes && work >= whole_to_meeting &&
        work < meeting_to_alone) {
        return WAY_MEETING;
    }
    return work >= whole_to_alone ? WAY_ALONE : WAY_WHOLE;
}

/* What a test asks for. */
static enum way wanted_way(const struct policy *policy, size_t n_rows, size_t n, bool may_meet)
{
    if (n_rows < n * policy->options.part_rows_min) {
        return WAY_WHOLE;
    }
    return policy->options.parts_meet && may_meet ? WAY_MEETING : WAY_ALONE;
}

/* The number of parts that the spans were shared among, 1 when there is no good way. may_meet: what
 * the forward is can be run by parts that meet. */
static size_t cut(struct policy *policy, const struct cutting *c, bool may_meet)
{
    const size_t n = policy->n_parts < c->n_spans ? policy->n_parts : c->n_spans;

    if (n < 2 || !are_ascending(c->draw_rows, c->n_draws)) {
        return 1;
    }
    const double work = whole_of(policy, c).work;
    const enum way way = policy->options.part_rows_min > 0
                             ? wanted_way(policy, c->n_rows, n, may_meet)
                             : best_way(policy, c, work, n, may_meet);

    policy->parts_meet = way == WAY_MEETING;
    return c->n_rows >= n && way != WAY_WHOLE && share_spans(policy, c, work, n) ? n : 1;
}

size_t policy_cut_extend(struct policy *policy, struct policy_cache *cache,
                         const struct policy_extend_args *args)
{
    const struct cutting c = {.spans = args->spans,
                              .draw_rows = args->draw_rows,
                              .n_spans = args->n_spans,
                              .n_rows = args->n_rows,
                              .n_draws = args->n_draws};
    const bool has_logit_rows = args->n_draws <= policy->logit_rows;
    const size_t n = cut(policy, &c, has_logit_rows);

    if (n == 1 || policy->logit_rows < n || !are_apart(policy, cache, args->spans, n)) {
        return 1;
    }
    share_logits(policy, args->n_draws, n);
    place_spans(policy, &c, n);
    return n;
}

size_t policy_cut_batch(struct policy *policy, size_t n_rows)
{
    const struct cutting c = {.spans = policy->spans,
                              .draw_rows = policy->host_targets,
                              .n_spans = policy->n_spans,
                              .n_rows = n_rows,
                              .n_draws = policy->n_targets,
                              .has_prefixes = true};
    const size_t n = cut(policy, &c, false);

    if (n > 1) {
        place_spans(policy, &c, n);
    }
    return n;
}
