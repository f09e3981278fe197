/* Owns the order in which a thread reads its chunks' keys; see attention_fetch.h. */
#include "kernels/cpu/simd/attention_fetch.h"

/* The place's row of chunks, one a KV head, is behind; goes to the next place. */
static void next_place(struct chunk_list *list)
{
    const struct attention_args *a = list->args;
    const struct kv_span *span = &a->spans[list->span];

    list->kv_head = 0;
    list->row += list->n_rows;
    if (list->row >= span->n_rows) {
        list->before += attention_work(a, span, span->n_rows);
        list->row = 0;
        list->span++;
    }
}

/* Whether the thread works on the chunk: those that begin in its share of the work. */
static bool is_own(const struct chunk_list *list, const struct chunk *c)
{
    const struct attention_args *a = list->args;
    const size_t until = attention_work(a, c->span, c->i);
    const size_t work = attention_work(a, c->span, c->i + c->n_rows) - until;
    const size_t done = (list->before + until) * a->n_kv_heads + c->kv_head * work;

    return work_owner(done, list->total_work * a->n_kv_heads, list->n_threads) ==
           list->thread_index;
}

bool ISA(chunk_list_next)(struct chunk_list *list, struct chunk *out)
{
    const struct attention_args *a = list->args;

    while (list->span < a->n_spans) {
        if (list->row < a->spans[list->span].n_rows && list->kv_head < a->n_kv_heads) {
            *out = chunk_at(&a->spans[list->span], list->row, list->n_rows);
            out->kv_head = list->kv_head++;
            if (is_own(list, out)) {
                return true;
            }
        } else {
            next_place(list);
        }
    }
    return false;
}

/* The first block of the next chunk that reads its keys in order. */
static void next_chunk(struct key_fetch *fetch)
{
    do {
        fetch->is_over = !ISA(chunk_list_next)(&fetch->list, &fetch->chunk);
    } while (!fetch->is_over && has_selection(fetch->list.args, &fetch->chunk));
    fetch->block = 0;
}

/* The other part of the block's entries, or the next block. */
static void next_part(struct key_fetch *fetch)
{
    const struct attention_args *a = fetch->list.args;

    fetch->is_in_values = !values_are_in_keys(a) && !fetch->is_in_values;
    if (!fetch->is_in_values) {
        fetch->block += KEY_BLOCK;
        if (fetch->block >= fetch->chunk.n_keys) {
            next_chunk(fetch);
        }
    }
    fetch->token = fetch->block;
    fetch->end = smaller(fetch->block + KEY_BLOCK, fetch->chunk.n_keys);
}

static void locate_step(struct key_fetch *fetch)
{
    const struct attention_args *a = fetch->list.args;
    const size_t at =
        fetch->chunk.kv_head * a->kv_head_stride + (fetch->is_in_values ? a->value_at : 0);

    fetch->at = entry_of(&a->pages, fetch->chunk.span, fetch->token) + fetch_words_before(a, at);
    fetch->n_rows = KV_STEP_TOKENS;
    fetch->row_lines = fetch->is_in_values ? fetch_value_lines(a) : fetch_key_lines(a);
    fetch->stride = a->pages.entry_stride;
}

void ISA(fetch_go_on)(struct key_fetch *fetch)
{
    fetch->token += KV_STEP_TOKENS;
    if (fetch->token >= fetch->end) {
        next_part(fetch);
    }
    if (!fetch->is_over) {
        locate_step(fetch);
    }
}

void ISA(fetch_begin)(struct key_fetch *fetch, const struct chunk_list *list)
{
    *fetch = (struct key_fetch){.list = *list, .allowed = FETCH_AHEAD};
    next_chunk(fetch);
    if (!fetch->is_over) {
        fetch->end = smaller(KEY_BLOCK, fetch->chunk.n_keys);
        locate_step(fetch);
        fetch_lines(&(struct fetch_pace){fetch, FETCH_AHEAD});
    }
}
