#include "compute/cpu/gemm.h"

#include <string.h>

/* The bytes of 256 columns of a row. */
static size_t step_bytes(enum tensor_type type)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    return (size_t)PANEL_COLUMNS / info->block_size * info->block_bytes;
}

struct work {
    const struct panel_multiplier *multiplier;
    panel_maker *make; /* NULL: plain C */
    const struct matmul *job;
    enum activation_kind inputs;
    unsigned narrow_16, narrow_32; /* the greatest peaks for which sums of parts stay narrow */
    size_t first_row, rows;
    size_t first_token, tokens;
    size_t group_row, group_rows; /* of the current group */
    size_t segments;              /* of 256 columns */
    struct panel *panels;
    float *sums; /* [tokens][GROUP_ROWS] */
};

static size_t blocks_in(const struct work *work, size_t segment)
{
    return MIN((work->job->weights.columns - segment * PANEL_COLUMNS) / 32, (size_t)8);
}

/* Whether the sum of each part of a super-block is sure to fit 16 bits. */
static bool is_narrow(const struct work *work, const struct activation_peaks *peaks)
{
    return peaks->of_16 <= work->narrow_16 && peaks->of_32 <= work->narrow_32;
}

/* Prefetches the data for the next call of take_tile, because the rows of tokens are far apart. */
static void prefetch_tile(const struct work *work, size_t first, size_t count, size_t segment)
{
    const struct activation *input = work->job->input;
    const uint32_t *rows = work->job->input_rows;
    const size_t kind = work->inputs - ACTIVATION_Q8_32, blocks = work->inputs == ACTIVATION_Q8_32 ? 8 : 1;
    const float *scales = input->scales[kind] + segment * blocks;
    const int16_t *sums = input->sums[kind] + segment * (blocks == 8 ? 8 : 16);
    const struct activation_peaks *peaks = input->peaks + segment;
    for (size_t t = work->first_token + first; t < work->first_token + first + count; t++) {
        size_t row = rows ? rows[t] : t;
        __builtin_prefetch(scales + row * input->scale_stride[kind]);
        __builtin_prefetch(sums + row * input->sum_stride[kind]);
        if (blocks == 1)
            __builtin_prefetch(peaks + row * input->peak_stride);
    }
}

static float *output_row(const struct work *work, size_t token)
{
    const struct matmul *job = work->job;
    token += work->first_token;
    return job->output + (job->output_rows ? job->output_rows[token] : token) * job->output_stride;
}

/* The sums of the last segment go to the outputs directly, unless the group ends with part of a panel. */
static bool leaves_scratch(const struct work *work, size_t segment)
{
    return segment + 1 == work->segments && work->group_rows % PANEL_ROWS == 0;
}

/* Sets up the tile of the tokens from "first" on, over the columns of a segment. */
static void take_tile(const struct work *work, size_t first, size_t segment, struct panel_tile *out)
{
    const struct activation *input = work->job->input;
    const uint32_t *rows = work->job->input_rows;
    const size_t kind = work->inputs - ACTIVATION_Q8_32, blocks = work->inputs == ACTIVATION_Q8_32 ? 8 : 1;
    const int8_t *quants = input->quants[kind] + segment * PANEL_COLUMNS;
    const float *scales = input->scales[kind] + segment * blocks;
    const int16_t *sums = input->sums[kind] + segment * (blocks == 8 ? 8 : 16);
    const struct activation_peaks *peaks[TILE_TOKENS];
    const size_t count = MIN((size_t)TILE_TOKENS, work->tokens - first);
    const bool leaves = leaves_scratch(work, segment);
    for (size_t t = 0; t < count; t++) {
        size_t row = work->first_token + first + t;
        row = rows ? rows[row] : row;
        struct panel_token *token = &out->tokens[t];
        token->quants = quants + row * input->quant_stride;
        token->scales = scales + row * input->scale_stride[kind];
        token->sums = sums + row * input->sum_stride[kind];
        token->from = work->sums + (first + t) * GROUP_ROWS;
        token->to = leaves ? output_row(work, first + t) + work->group_row : work->sums + (first + t) * GROUP_ROWS;
        peaks[t] = input->peaks + segment + row * input->peak_stride;
        /* What was prefetched a tile ago has left the first-level cache by now. */
        __builtin_prefetch(token->sums);
        if (blocks == 1)
            __builtin_prefetch(peaks[t]);
    }
    bool narrow = blocks == 1;
    for (size_t t = 0; narrow && t < count; t++)
        narrow = is_narrow(work, peaks[t]);
    out->count = count;
    out->narrow = narrow;
    work->multiplier->make_sides(work->job->weights.type, out);
    size_t next = first + count;
    if (next < work->tokens)
        prefetch_tile(work, next, MIN((size_t)TILE_TOKENS, work->tokens - next), segment);
    else if (segment + 1 < work->segments)
        prefetch_tile(work, 0, MIN((size_t)TILE_TOKENS, work->tokens), segment + 1);
}

/* Prefetches the weights of a panel: the next columns of the same rows, or the first columns of the next group. The
 * processor does not prefetch so many short runs by itself. */
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
    for (size_t i = 0; i < PANEL_ROWS; i++) /* past the end: repeats the last row, unused */
        rows[i] = weights->data + MIN(row + i, last) * weights->row_bytes + offset;
    if (work->make)
        work->make(out, rows, blocks_in(work, segment));
    else
        panel_make(weights->type, out, rows, blocks_in(work, segment),
                   work->multiplier->raises ? work->multiplier->raises[weights->type] : work->multiplier->raise);
    if (work->multiplier->finish)
        work->multiplier->finish(weights->type, out);
}

/* Prefetches a tile's first outputs; multiplying prefetches the others. */
static void prefetch_outputs(const struct panel_tile *tile)
{
    for (size_t t = 0; t < tile->count; t++)
        for (size_t r = 0; r < 2 * PANEL_ROWS; r += 16)
            __builtin_prefetch(tile->tokens[t].to + r, 1);
}

static void write_outputs(const struct work *work)
{
    for (size_t t = 0; t < work->tokens; t++)
        memcpy(output_row(work, t) + work->group_row, work->sums + t * GROUP_ROWS, work->group_rows * sizeof(float));
}

/* The current tile, and the next: of the same columns, or the first tile of the next columns. */
struct tiles {
    struct panel_tile of[2];
    size_t now;
};

/* Multiplies all tokens over the columns of a segment. */
static void multiply_tiles(const struct work *work, struct tiles *tiles, size_t panels, size_t segment)
{
    bool more = segment + 1 < work->segments, last = leaves_scratch(work, segment);
    for (size_t t = 0; t < work->tokens; tiles->now ^= 1) {
        const struct panel_tile *tile = &tiles->of[tiles->now];
        struct panel_tile *next = &tiles->of[tiles->now ^ 1];
        size_t end = t + tile->count;
        if (end < work->tokens)
            take_tile(work, end, segment, next);
        else if (more)
            take_tile(work, 0, segment + 1, next);
        if (last)
            prefetch_outputs(tile);
        struct panel_product product = {.panels = work->panels,
                                        .panel_count = panels,
                                        .blocks = blocks_in(work, segment),
                                        .tile = tile,
                                        .next = end < work->tokens || more ? next : tile,
                                        .last = last};
        work->multiplier->multiply(work->job->weights.type, &product);
        t = end;
    }
}

static void multiply_group(struct work *work, size_t group)
{
    size_t row = work->group_row = work->first_row + group * GROUP_ROWS;
    work->group_rows = MIN(work->first_row + work->rows - row, (size_t)GROUP_ROWS);
    size_t panels = (work->group_rows + PANEL_ROWS - 1) / PANEL_ROWS;
    struct tiles tiles;
    tiles.now = 0;
    take_tile(work, 0, 0, &tiles.of[0]);
    memset(work->sums, 0, work->tokens * GROUP_ROWS * sizeof(float));
    for (size_t p = 0; group == 0 && p < panels; p++)
        prefetch_panel(work, row + p * PANEL_ROWS, 0);
    for (size_t segment = 0; segment < work->segments; segment++) {
        bool last = segment + 1 == work->segments;
        for (size_t p = 0; p < panels; p++) {
            size_t panel_row = row + p * PANEL_ROWS;
            make_panel(work, &work->panels[p], panel_row, segment);
            prefetch_panel(work, panel_row + (last ? GROUP_ROWS : 0), last ? 0 : segment + 1);
        }
        multiply_tiles(work, &tiles, panels, segment);
    }
    if (!leaves_scratch(work, work->segments - 1))
        write_outputs(work);
}

void gemm_by_panels(const struct panel_multiplier *multiplier, panel_maker *const *makers, const struct matmul *job,
                    size_t first_row, size_t rows, size_t first_token, size_t tokens, void *scratch)
{
    enum tensor_type type = job->weights.type;
    struct work work = {.multiplier = multiplier,
                        .make = makers ? makers[type] : NULL,
                        .job = job,
                        .inputs = panel_kind(type) < PANEL_WHOLE ? ACTIVATION_Q8_32 : ACTIVATION_Q8_256,
                        .first_row = first_row,
                        .rows = rows,
                        .first_token = first_token,
                        .tokens = tokens,
                        .segments = (job->weights.columns + PANEL_COLUMNS - 1) / PANEL_COLUMNS,
                        .panels = scratch};
    panel_narrow(type, &work.narrow_16, &work.narrow_32);
    work.sums = (float *)(work.panels + GROUP_PANELS);
    for (size_t group = 0; group * GROUP_ROWS < rows; group++)
        multiply_group(&work, group);
}

size_t gemm_panels_scratch_bytes(size_t tokens)
{
    return GROUP_PANELS * sizeof(struct panel) + GROUP_ROWS * tokens * sizeof(float);
}
