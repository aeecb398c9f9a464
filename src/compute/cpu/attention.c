#include "compute/cpu/attention.h"
#include "compute/cpu/kernels.h"

#include <stdatomic.h>

/* A worker's scratch holds its tile and, in the last fifth, states of spans that wait to be merged. */
#define MOST_TILE_FLOATS ((size_t)(512 << 10) / sizeof(float))
#define SPANS_PART 5

/* With more queries, more share the unpacked keys and values, but they would overflow the second-level cache. */
#define TILE_QUERIES ((size_t)192)

/* With fewer tiles per thread than this, some threads would wait long for others. So tiles get smaller, down to
 * LEAST_TILE_QUERIES, and then spans are spread over threads. */
#define TILES_PER_THREAD ((size_t)4)
#define LEAST_TILE_QUERIES ((size_t)16)

/* Starting a section of the pool takes about as long as this many products of elements. */
#define ALONE_PRODUCTS ((size_t)1 << 17)

/* The most tiles whose spans run at the same time. */
#define SPREAD_TILES ((size_t)256)

const uint32_t *attention_chosen(const struct attention_tile *tile, size_t row)
{
    const struct attention_choice *choice = tile->attention->choice;
    size_t set = choice->sets > 1 ? tile->kv_head : 0;
    if (!choice->words)
        return NULL;
    return choice->words + (tile->sequence->first_row + row) * choice->stride + set * (choice->most + 1);
}

static struct attention_range chosen_range(const struct attention_tile *tile, size_t row, uint32_t own)
{
    const struct attention_choice *choice = tile->attention->choice;
    const uint32_t *set = attention_chosen(tile, row), block = choice->block;
    if (choice->ring)
        return (struct attention_range){0,
                                        attention_near(choice, own) + (set ? set[0] : (own + 1) / choice->every) - 1};
    if (set[0] == 0)
        return (struct attention_range){1, 0};
    uint32_t first = set[set[0]] * block; /* of the last block */
    return (struct attention_range){0, (set[0] - 1) * block + MIN(own - first, block - 1)};
}

struct attention_range attention_row_range(const struct attention_tile *tile, size_t row)
{
    const struct attention *attention = tile->attention;
    const struct attention_sequence *sequence = tile->sequence;
    const uint32_t *positions = attention->positions + sequence->first_row;
    uint32_t own = positions[row];
    if (attention->choice)
        return chosen_range(tile, row, own);
    struct attention_range range = {0, attention->bidirectional ? positions[sequence->rows - 1] : own};
    if (attention->window > 0 && own >= attention->window)
        range.first = own - attention->window + 1;
    if (attention->around > 0) {
        range.first = own >= attention->around ? own - attention->around + 1 : 0;
        range.last = MIN(range.last, own + attention->around - 1);
    }
    if (attention->chunk > 0)
        range.first = MAX(range.first, own - own % attention->chunk);
    return range;
}

static struct attention_range tile_range(const struct attention_tile *tile)
{
    size_t group = tile->attention->heads / tile->attention->kv_heads;
    size_t row = tile->first / group;
    size_t last_row = (tile->first + tile->count - 1) / group;
    struct attention_range range = attention_row_range(tile, row);
    while (row++ < last_row) {
        struct attention_range other = attention_row_range(tile, row);
        range.first = MIN(range.first, other.first);
        range.last = MAX(range.last, other.last);
    }
    return range;
}

/* ---- the work of one call ---------------------------------------------------------------------------------------- */

struct plan {
    const struct attention *attention;
    const struct attention_kernels *kernels;
    struct compute *compute;
    size_t tile_queries;

    /* For spans spread over threads: the most spans of a tile, the first tile in progress, and the unfinished spans of
     * each tile. */
    size_t spans, first_tile, state_floats;
    atomic_size_t left[SPREAD_TILES];

    /* For a tile with more spans than slots: the first span in progress, and its slot. */
    const struct attention_tile *tile;
    size_t first_span, first_slot;
};

/* Queries of one kv head that may share tiles: those of all rows, or of one row if each row chooses positions. */
static size_t shared_queries(const struct attention *a, const struct attention_sequence *sequence)
{
    return (a->choice ? 1 : sequence->rows) * (a->heads / a->kv_heads);
}

static size_t tiles_across(const struct plan *plan, const struct attention_sequence *sequence)
{
    return (shared_queries(plan->attention, sequence) + plan->tile_queries - 1) / plan->tile_queries;
}

static size_t sequence_tiles(const struct plan *plan, const struct attention_sequence *sequence)
{
    return tiles_across(plan, sequence) * (plan->attention->choice ? sequence->rows : 1) * plan->attention->kv_heads;
}

/* Tiles are numbered by sequence, then kv head, then queries from the last to the first, so that the longest run first.
 */
static struct attention_tile tile_at(const struct plan *plan, size_t index)
{
    const struct attention *a = plan->attention;
    const struct attention_sequence *sequence = a->sequences;
    for (; index >= sequence_tiles(plan, sequence); sequence++)
        index -= sequence_tiles(plan, sequence);
    size_t queries = shared_queries(a, sequence), across = tiles_across(plan, sequence);
    size_t all = sequence_tiles(plan, sequence) / a->kv_heads, number = all - 1 - index % all;
    size_t first = number % across * plan->tile_queries;
    return (struct attention_tile){.attention = a,
                                   .sequence = sequence,
                                   .kv_head = index / all,
                                   .first = number / across * queries + first,
                                   .count = MIN(plan->tile_queries, queries - first)};
}

static float *worker_scratch(const struct plan *plan, size_t worker)
{
    return (float *)(plan->compute->scratch + worker * plan->compute->scratch_bytes);
}

static size_t span_floats(const struct compute *compute)
{
    return compute->scratch_bytes / sizeof(float) / SPANS_PART;
}

static size_t tile_floats(const struct compute *compute)
{
    return compute->scratch_bytes / sizeof(float) - span_floats(compute);
}

static void attend_span(const struct plan *plan, const struct attention_tile *tile, struct attention_range range,
                        size_t span, float *state, float *work)
{
    uint32_t start = (uint32_t)(span * ATTENTION_SPAN);
    plan->kernels->attend(tile, MAX(range.first, start), MIN(range.last, start + (ATTENTION_SPAN - 1)), state, work);
}

static void run_tile(void *context, size_t index, size_t worker)
{
    const struct plan *plan = context;
    struct attention_tile tile = tile_at(plan, index);
    struct attention_range range = tile_range(&tile);
    size_t floats = attention_state_floats(tile.count, plan->attention->value_size);
    float *state = worker_scratch(plan, worker);
    float *next = state + floats;
    float *work = next + floats;
    size_t span = range.first / ATTENTION_SPAN;
    attend_span(plan, &tile, range, span, state, work);
    while (span++ < range.last / ATTENTION_SPAN) {
        attend_span(plan, &tile, range, span, next, work);
        plan->kernels->merge(state, next, tile.count, plan->attention->value_size);
    }
    plan->kernels->finish(&tile, state);
}

/* ---- few tiles --------------------------------------------------------------------------------------------------- */

/* Slots for the states of spans rotate over the workers' scratch. */
static float *span_state(const struct plan *plan, size_t slot)
{
    size_t threads = plan->compute->threads;
    return worker_scratch(plan, slot % threads) + tile_floats(plan->compute) + slot / threads * plan->state_floats;
}

static size_t span_count(struct attention_range range)
{
    return range.last / ATTENTION_SPAN - range.first / ATTENTION_SPAN + 1;
}

/* The worker that ends the last span of a tile merges all of them, in order. */
static void run_spread_span(void *context, size_t index, size_t worker)
{
    struct plan *plan = context;
    size_t number = index / plan->spans, span = index % plan->spans, slot = number * plan->spans;
    struct attention_tile tile = tile_at(plan, plan->first_tile + number);
    struct attention_range range = tile_range(&tile);
    size_t count = span_count(range);
    if (span >= count)
        return;
    attend_span(plan, &tile, range, range.first / ATTENTION_SPAN + span, span_state(plan, slot + span),
                worker_scratch(plan, worker));
    if (atomic_fetch_sub_explicit(&plan->left[number], 1, memory_order_acq_rel) > 1)
        return;
    for (size_t i = 1; i < count; i++)
        plan->kernels->merge(span_state(plan, slot), span_state(plan, slot + i), tile.count,
                             plan->attention->value_size);
    plan->kernels->finish(&tile, span_state(plan, slot));
}

static void run_spread(struct plan *plan, size_t tiles, size_t most_tiles)
{
    for (plan->first_tile = 0; plan->first_tile < tiles; plan->first_tile += most_tiles) {
        size_t count = MIN(tiles - plan->first_tile, most_tiles);
        for (size_t i = 0; i < count; i++) {
            struct attention_tile tile = tile_at(plan, plan->first_tile + i);
            atomic_init(&plan->left[i], span_count(tile_range(&tile)));
        }
        thread_pool_run(plan->compute->pool, run_spread_span, plan, count * plan->spans);
    }
}

static void run_span(void *context, size_t index, size_t worker)
{
    const struct plan *plan = context;
    attend_span(plan, plan->tile, tile_range(plan->tile), plan->first_span + index,
                span_state(plan, plan->first_slot + index), worker_scratch(plan, worker));
}

/* Runs as many spans at a time as there are slots. Slot 0 keeps the merged state. */
static void run_tile_by_spans(struct plan *plan, const struct attention_tile *tile, size_t slots)
{
    struct attention_range range = tile_range(tile);
    size_t value_size = plan->attention->value_size;
    plan->tile = tile;
    plan->first_span = range.first / ATTENTION_SPAN;
    plan->first_slot = 0;
    size_t end = range.last / ATTENTION_SPAN + 1;
    while (plan->first_span < end) {
        size_t count = MIN(slots - plan->first_slot, end - plan->first_span);
        thread_pool_run(plan->compute->pool, run_span, plan, count);
        for (size_t i = MAX(plan->first_slot, (size_t)1); i < plan->first_slot + count; i++)
            plan->kernels->merge(span_state(plan, 0), span_state(plan, i), tile->count, value_size);
        plan->first_span += count;
        plan->first_slot = 1;
    }
    plan->kernels->finish(tile, span_state(plan, 0));
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static const struct attention_kernels *kernels_of(const struct compute *compute)
{
    switch (compute->instructions) {
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
    case INSTRUCTIONS_AVX_VNNI:
        return &attention_kernels_avx2;
    case INSTRUCTIONS_AVX512:
    case INSTRUCTIONS_AMX:
        return &attention_kernels_avx512;
#elif defined(__aarch64__)
    case INSTRUCTIONS_NEON:
        return &attention_kernels_neon;
#endif
    default:
        return &attention_kernels_plain;
    }
}

/* A tile's scratch, for two states and the work, is fixed_floats plus query_floats per query. */
static size_t fixed_floats(size_t key_size, size_t value_size, bool chooses)
{
    return attention_work_floats(0, key_size, value_size) +
           (chooses ? attention_choice_floats(key_size, value_size) : 0);
}

static size_t query_floats(size_t key_size, size_t value_size)
{
    return 2 * attention_state_floats(1, value_size) + attention_work_floats(1, key_size, value_size) -
           attention_work_floats(0, key_size, value_size);
}

size_t attention_scratch_bytes(const struct compute_limits *limits)
{
    size_t queries = MIN(MAX(limits->queries, (size_t)1), TILE_QUERIES);
    size_t floats = fixed_floats(limits->key_size, limits->value_size, false) +
                    queries * query_floats(limits->key_size, limits->value_size);
    floats = MIN(floats, MOST_TILE_FLOATS);
    if (limits->chooses)
        floats += attention_choice_floats(limits->key_size, limits->value_size);
    floats = MAX(floats / (SPANS_PART - 1) + 1, 2 * attention_state_floats(1, limits->value_size)) * SPANS_PART;
    return align_up(floats, 16) * sizeof(float);
}

/* The most queries, up to TILE_QUERIES, whose tile fits the scratch; with by_spans, two of its states must fit the
 * slots.
 */
static size_t choose_tile_queries(const struct compute *compute, const struct attention *a, bool by_spans)
{
    size_t room = tile_floats(compute) - fixed_floats(a->key_size, a->value_size, a->choice);
    size_t most = MIN(room / query_floats(a->key_size, a->value_size), TILE_QUERIES);
    return by_spans ? MIN(most, span_floats(compute) / 2 / attention_state_floats(1, a->value_size)) : most;
}

static size_t count_tiles(const struct plan *plan)
{
    size_t tiles = 0;
    for (size_t i = 0; i < plan->attention->sequence_count; i++)
        tiles += sequence_tiles(plan, &plan->attention->sequences[i]);
    return tiles;
}

/* Sets the most spans of any tile, and returns the number of products of elements of all tiles. */
static size_t survey(struct plan *plan, size_t tiles)
{
    size_t products = 0;
    plan->spans = 1;
    for (size_t i = 0; i < tiles; i++) {
        struct attention_tile tile = tile_at(plan, i);
        struct attention_range range = tile_range(&tile);
        size_t positions = range.last >= range.first ? range.last - range.first + 1 : 0;
        plan->spans = MAX(plan->spans, span_count(range));
        products += positions * tile.count * (plan->attention->key_size + plan->attention->value_size);
    }
    return products;
}

/* The most queries that a tile may have. */
static size_t most_queries(const struct attention *attention)
{
    size_t most = 1;
    for (size_t i = 0; i < attention->sequence_count; i++)
        most = MAX(most, shared_queries(attention, &attention->sequences[i]));
    return most;
}

/* Reduces queries per tile, down to least, until there are "wanted" spans. Returns the number of tiles. */
static size_t shrink_tiles(struct plan *plan, size_t wanted, size_t least)
{
    size_t tiles = count_tiles(plan);
    while (tiles * plan->spans < wanted && plan->tile_queries > least) {
        plan->tile_queries = MAX((plan->tile_queries + 1) / 2, least);
        tiles = count_tiles(plan);
    }
    return tiles;
}

static void attend_by_few_tiles(struct plan *plan)
{
    struct compute *compute = plan->compute;
    size_t wanted = TILES_PER_THREAD * compute->threads, tiles = count_tiles(plan);
    if (survey(plan, tiles) < ALONE_PRODUCTS) {
        for (size_t i = 0; i < tiles; i++)
            run_tile(plan, i, 0);
        return;
    }
    plan->tile_queries = MIN(plan->tile_queries, most_queries(plan->attention));
    shrink_tiles(plan, wanted, LEAST_TILE_QUERIES);
    tiles = shrink_tiles(plan, compute->threads, 1);
    if (tiles >= wanted || plan->spans == 1) {
        thread_pool_run(compute->pool, run_tile, plan, tiles);
        return;
    }
    plan->tile_queries = MIN(plan->tile_queries, choose_tile_queries(compute, plan->attention, true));
    plan->state_floats = attention_state_floats(plan->tile_queries, plan->attention->value_size);
    tiles = count_tiles(plan);
    size_t slots = span_floats(compute) / plan->state_floats * compute->threads;
    if (slots >= plan->spans) {
        run_spread(plan, tiles, MIN(slots / plan->spans, SPREAD_TILES));
        return;
    }
    for (size_t i = 0; i < tiles; i++) {
        struct attention_tile tile = tile_at(plan, i);
        run_tile_by_spans(plan, &tile, slots);
    }
}

void compute_attention(struct compute *compute, const struct attention *attention)
{
    struct plan plan;
    plan.attention = attention;
    plan.kernels = kernels_of(compute);
    plan.compute = compute;
    plan.tile_queries = choose_tile_queries(compute, attention, false);
    size_t tiles = count_tiles(&plan);
    if (tiles >= TILES_PER_THREAD * compute->threads || compute->threads == 1)
        thread_pool_run(compute->pool, run_tile, &plan, tiles);
    else
        attend_by_few_tiles(&plan);
}
