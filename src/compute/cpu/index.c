#include "compute/cpu/index.h"
#include "compute/cpu/kernels.h"

#include <math.h>
#include <string.h>

/* Up to this many queries share the unpacked keys. */
#define TILE_QUERIES ((size_t)192)

static const struct index_kernels *kernels_of(const struct compute *compute)
{
    switch (compute->instructions) {
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
    case INSTRUCTIONS_AVX_VNNI:
        return &index_kernels_avx2;
    case INSTRUCTIONS_AVX512:
    case INSTRUCTIONS_AMX:
        return &index_kernels_avx512;
#elif defined(__aarch64__)
    case INSTRUCTIONS_NEON:
        return &index_kernels_neon;
#endif
    default:
        return &index_kernels_plain;
    }
}

static size_t tile_rows(size_t heads)
{
    return MAX(TILE_QUERIES / heads, (size_t)1);
}

size_t index_scratch_bytes(const struct compute_limits *limits)
{
    if (limits->index_heads == 0)
        return 0;
    return index_work_floats(tile_rows(limits->index_heads), limits->index_heads, limits->index_size) * sizeof(float);
}

static size_t score_stride(size_t positions)
{
    return (size_t)align_up(positions, ATTENTION_BLOCK);
}

size_t index_score_floats(size_t rows, size_t sets, size_t positions)
{
    return rows * sets * score_stride(positions);
}

/* ---- choosing the best ------------------------------------------------------------------------------------------- */

/* A number that rises with the float. -0 and 0 have the same. */
static uint32_t rank_of(float score)
{
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? ~bits : bits | UINT32_C(1) << 31;
}

#define DIGIT_BITS 11
#define DIGITS ((size_t)1 << DIGIT_BITS)

/* Finds the rank of the score number "most" when count scores (more than that) are sorted, best first. *equal: how many
 * scores of that rank are among the best. It finds the rank digit by digit, from the highest. */
static uint32_t border_of(const float *scores, size_t count, size_t most, size_t *equal)
{
    uint32_t border = 0, known = 0;
    for (int shift = 32 - DIGIT_BITS; known != UINT32_MAX; shift = MAX(shift - DIGIT_BITS, 0)) {
        uint32_t places[DIGITS] = {0};
        for (size_t i = 0; i < count; i++) {
            uint32_t rank = rank_of(scores[i]);
            if ((rank & known) == border)
                places[rank >> shift & (DIGITS - 1)]++;
        }
        size_t digit = DIGITS - 1;
        for (; places[digit] < most; digit--)
            most -= places[digit];
        /* The last two digits overlap; the bits that are already known stay. */
        border |= (uint32_t)digit << shift;
        known |= (uint32_t)(DIGITS - 1) << shift;
    }
    *equal = most;
    return border;
}

/* Writes the ids of the best of count scores in rising order. Of equal scores, the earlier ones are chosen. */
static uint32_t choose_best(const float *scores, size_t count, size_t most, uint32_t *ids)
{
    uint32_t chosen = 0;
    if (count <= most) {
        for (; chosen < count; chosen++)
            ids[chosen] = chosen;
        return chosen;
    }
    size_t equal;
    uint32_t border = border_of(scores, count, most, &equal);
    for (size_t i = 0; i < count && chosen < most; i++) {
        uint32_t rank = rank_of(scores[i]);
        if (rank > border || (rank == border && equal > 0)) {
            equal -= rank == border;
            ids[chosen++] = (uint32_t)i;
        }
    }
    return chosen;
}

/* ---- the work of one call ---------------------------------------------------------------------------------------- */

struct search {
    const struct index_search *search;
    const struct index_kernels *kernels;
    struct compute *compute;
    size_t row, rows; /* the rows of the batch that are being processed */
    size_t stride, spans;
};

/* The number of keys that a row may choose from, and of the blocks that they form. */
static size_t keys_of(const struct index_search *s, size_t row)
{
    return ((size_t)s->positions[row] + 1) / s->every;
}

static size_t blocks_of(const struct index_search *s, size_t row)
{
    return (keys_of(s, row) + s->block - 1) / s->block;
}

static void score_task(void *context, size_t index, size_t worker)
{
    const struct search *all = context;
    const struct index_search *s = all->search;
    size_t at_once = tile_rows(s->heads), first_row = index / all->spans * at_once;
    struct index_tile tile = {.search = s,
                              .row = all->row + first_row,
                              .rows = MIN(at_once, all->rows - first_row),
                              .first = index % all->spans * INDEX_SPAN,
                              .scores = s->scores + first_row * index_sets(s) * all->stride,
                              .stride = all->stride};
    /* Positions rise within a sequence, so the last row has the most keys. */
    tile.end = MIN(tile.first + INDEX_SPAN, keys_of(s, tile.row + tile.rows - 1));
    if (tile.first < tile.end)
        all->kernels->score(&tile, (float *)(all->compute->scratch + worker * all->compute->scratch_bytes));
}

static void choose_task(void *context, size_t index, size_t worker)
{
    const struct search *all = context;
    const struct index_search *s = all->search;
    size_t sets = index_sets(s), row = all->row + index / sets, keys = keys_of(s, row), blocks = blocks_of(s, row);
    float *scores = s->scores + index * all->stride;
    uint32_t *set = s->words + row * s->stride + index % sets * (s->most + s->tail + 1);
    (void)worker;
    if (blocks > s->most) {
        for (size_t b = 0; b < blocks && s->block > 1; b++) {
            float best = scores[b * s->block];
            for (size_t i = b * s->block + 1; i < MIN((b + 1) * s->block, keys); i++)
                best = scores[i] > best ? scores[i] : best;
            scores[b] = best;
        }
        for (size_t b = blocks - MIN(blocks, (size_t)s->local); b < blocks; b++)
            scores[b] = INFINITY;
    }
    set[0] = choose_best(scores, blocks, s->most, set + 1);
    if (s->tail && keys * s->every <= s->positions[row])
        set[++set[0]] = (uint32_t)keys;
}

void compute_index(struct compute *compute, const struct index_search *s)
{
    struct search all = {.search = s, .kernels = kernels_of(compute), .compute = compute};
    size_t end = s->first_row + s->rows, sets = index_sets(s);
    all.stride = score_stride(keys_of(s, end - 1));
    size_t at_once = all.stride ? MAX(s->score_floats / (sets * all.stride), (size_t)1) : s->rows;
    for (all.row = s->first_row; all.row < end; all.row += all.rows) {
        all.rows = MIN(at_once, end - all.row);
        all.spans = (keys_of(s, all.row + all.rows - 1) + INDEX_SPAN - 1) / INDEX_SPAN;
        /* If even the last row has few enough blocks, all are chosen without scores. */
        if (blocks_of(s, all.row + all.rows - 1) > s->most)
            thread_pool_run(compute->pool, score_task, &all,
                            (all.rows + tile_rows(s->heads) - 1) / tile_rows(s->heads) * all.spans);
        thread_pool_run(compute->pool, choose_task, &all, all.rows * sets);
    }
}
