#include "compute/cpu/gemm.h"

#include <string.h>

/* Bytes of 256 columns of a row. */
static size_t step_bytes(enum tensor_type type)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    return (size_t)PANEL_COLUMNS / info->block_size * info->block_bytes;
}

/* The scratch of a task: panels, the sums of all its outputs, and as many columns of activations as still fit. */
struct work {
    const struct panel_multiplier *multiplier;
    panel_maker *make; /* NULL: plain C */
    const struct matmul *job;
    enum panel_kind kind;
    size_t first_row, rows, groups;
    size_t first_token, tokens, tile_tokens;
    size_t segments; /* of 256 columns */
    struct panel *panels;
    float *sums; /* [groups][tokens][GROUP_ROWS] */
    uint8_t *tiles;
};

static size_t blocks_in(const struct work *work, size_t segment)
{
    return MIN((work->job->weights.columns - segment * PANEL_COLUMNS) / 32, (size_t)8);
}

static void pack_token(const struct work *work, size_t token, size_t segment, uint8_t *quants, struct tile_side *side)
{
    const struct matmul *job = work->job;
    bool blocks = work->kind == PANEL_BLOCKS || work->kind == PANEL_BLOCKS_MINIMA;
    size_t row = job->input_rows ? job->input_rows[token] : token;
    struct activation_row x = activation_row(job->input, blocks ? ACTIVATION_Q8_32 : ACTIVATION_Q8_256, row);
    work->multiplier->pack(work->kind, quants, x.quants + segment * PANEL_COLUMNS);
    if (blocks) {
        for (size_t i = 0; i < 8; i++) {
            side->scales[i] = x.scales[segment * 8 + i];
            side->block_sums[i] = (float)x.sums[segment * 8 + i];
        }
        return;
    }
    const int16_t *sums = x.sums + segment * 16;
    side->scales[0] = x.scales[segment];
    if (work->kind == PANEL_PARTS_8_MINIMA)
        for (size_t i = 0; i < 8; i++)
            side->sums[i] = (int16_t)(sums[2 * i] + sums[2 * i + 1]);
    else
        memcpy(side->sums, sums, sizeof side->sums);
}

/* Segments first to first + count of all tokens: [segment][token of tile after tile]. */
static void pack(const struct work *work, size_t first, size_t count)
{
    for (size_t s = 0; s < count; s++) {
        for (size_t t = 0; t < work->tokens; t += work->tile_tokens) {
            size_t tokens = MIN(work->tile_tokens, work->tokens - t);
            uint8_t *tile = work->tiles + (s * work->tokens + t) * TILE_TOKEN_BYTES;
            struct tile_side *sides = (struct tile_side *)(tile + tokens * PANEL_COLUMNS);
            for (size_t i = 0; i < tokens; i++)
                pack_token(work, work->first_token + t + i, first + s, tile + i * PANEL_COLUMNS, &sides[i]);
        }
    }
}

/* Asks for the bytes of the panel after this one: the next columns of the same rows, or the first columns of a panel of
 * the next group. The processor does not guess so many short runs by itself. */
static void prefetch_panel(const struct work *work, size_t row, size_t segment)
{
    const struct matrix *weights = &work->job->weights;
    size_t bytes = step_bytes(weights->type);
    size_t offset = segment * bytes;
    size_t end = MIN(row + PANEL_ROWS, work->first_row + work->rows);
    bytes = MIN(bytes, weights->row_bytes - offset);
    for (; row < end; row++) {
        const uint8_t *from = weights->data + row * weights->row_bytes + offset;
        for (size_t byte = 0; byte < bytes + 63; byte += 64)
            __builtin_prefetch(from + MIN(byte, bytes - 1));
    }
}

static void make_panel(const struct work *work, struct panel *out, size_t row, size_t segment)
{
    const struct matrix *weights = &work->job->weights;
    size_t offset = segment * step_bytes(weights->type);
    size_t last = work->first_row + work->rows - 1;
    const uint8_t *rows[PANEL_ROWS];
    for (size_t i = 0; i < PANEL_ROWS; i++) /* past the end: the last row again, for nobody */
        rows[i] = weights->data + MIN(row + i, last) * weights->row_bytes + offset;
    if (work->make)
        work->make(out, rows, blocks_in(work, segment));
    else
        panel_make(weights->type, out, rows, blocks_in(work, segment));
}

static void multiply_group(const struct work *work, size_t group, size_t first_segment, size_t segments)
{
    size_t row = work->first_row + group * GROUP_ROWS;
    size_t panels = (MIN(work->first_row + work->rows - row, (size_t)GROUP_ROWS) + PANEL_ROWS - 1) / PANEL_ROWS;
    float *sums = work->sums + group * work->tokens * GROUP_ROWS;
    for (size_t segment = first_segment; segment < first_segment + segments; segment++) {
        bool last = segment + 1 == first_segment + segments;
        for (size_t p = 0; p < panels; p++) {
            size_t panel_row = row + p * PANEL_ROWS;
            make_panel(work, &work->panels[p], panel_row, segment);
            prefetch_panel(work, panel_row + (last ? GROUP_ROWS : 0), last ? first_segment : segment + 1);
        }
        const uint8_t *tiles = work->tiles + (segment - first_segment) * work->tokens * TILE_TOKEN_BYTES;
        for (size_t t = 0; t < work->tokens; t += work->tile_tokens)
            work->multiplier->multiply(work->kind, work->panels, panels, tiles + t * TILE_TOKEN_BYTES,
                                       MIN(work->tile_tokens, work->tokens - t), blocks_in(work, segment),
                                       sums + t * GROUP_ROWS);
    }
}

static float *output_row(const struct matmul *job, size_t token)
{
    return job->output + (job->output_rows ? job->output_rows[token] : token) * job->output_stride;
}

static void write_outputs(const struct work *work)
{
    const struct matmul *job = work->job;
    for (size_t t = 0; t < work->tokens; t++) {
        size_t token = work->first_token + t;
        float *out = output_row(job, token) + work->first_row;
        /* Stores wait for their cache lines: ask early. */
        if (t + 2 < work->tokens)
            for (size_t row = 0; row < work->rows; row += 16)
                __builtin_prefetch(output_row(job, token + 2) + work->first_row + row, 1);
        for (size_t group = 0; group < work->groups; group++) {
            size_t row = group * GROUP_ROWS;
            memcpy(out + row, work->sums + (group * work->tokens + t) * GROUP_ROWS,
                   MIN(work->rows - row, (size_t)GROUP_ROWS) * sizeof(float));
        }
    }
}

void gemm_by_panels(const struct panel_multiplier *multiplier, panel_maker *const *makers, const struct matmul *job,
                    size_t first_row, size_t rows, size_t first_token, size_t tokens, void *scratch)
{
    struct work work = {.multiplier = multiplier,
                        .make = makers ? makers[job->weights.type] : NULL,
                        .job = job,
                        .kind = panel_kind(job->weights.type),
                        .first_row = first_row,
                        .rows = rows,
                        .groups = (rows + GROUP_ROWS - 1) / GROUP_ROWS,
                        .first_token = first_token,
                        .tokens = tokens,
                        .segments = (job->weights.columns + PANEL_COLUMNS - 1) / PANEL_COLUMNS};
    /* Tiles of about one size: eight tokens are 4 + 4, not 6 + 2. */
    size_t tiles = (tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    work.tile_tokens = (tokens + tiles - 1) / tiles;
    size_t sums_bytes = work.groups * tokens * GROUP_ROWS * sizeof(float);
    work.panels = scratch;
    work.sums = (float *)(work.panels + GROUP_PANELS);
    work.tiles = (uint8_t *)work.sums + sums_bytes;
    memset(work.sums, 0, sums_bytes);

    size_t room = GEMM_SCRATCH_BYTES - GROUP_PANELS * sizeof(struct panel) - sums_bytes;
    size_t step = room / (tokens * TILE_TOKEN_BYTES);
    for (size_t first = 0; first < work.segments; first += step) {
        size_t count = MIN(step, work.segments - first);
        pack(&work, first, count);
        for (size_t group = 0; group < work.groups; group++)
            multiply_group(&work, group, first, count);
    }
    write_outputs(&work);
}

_Static_assert(GROUP_PANELS * sizeof(struct panel) + GEMM_TASK_ROWS * GEMM_TASK_TOKENS * sizeof(float) +
                       GEMM_TASK_TOKENS * TILE_TOKEN_BYTES <=
                   GEMM_SCRATCH_BYTES,
               "a task of the greatest size has room for one segment");
