/* The layer in which unwanted rows leave the batch (struct narrowing). A batch of more than GPU_VECTOR_TOKENS rows
 * keeps more than that, so that the same kernels compute the wanted rows, with the same bits: the last wanted row is
 * repeated. */
#include "engine/gpu/pass.h"

#include <string.h>

/* The number of steps after which rows are independent: what the sequence keeps is written, and attention has seen
 * all. */
static size_t split_of(struct step_list list)
{
    size_t split = 0;
    for (size_t i = 0; i < list.count; i++) {
        const enum step_kind kind = list.steps[i].kind;
        if (step_keeps(&list.steps[i]) || kind == STEP_ATTEND || kind == STEP_ATTEND_LATENT || kind == STEP_INDEX ||
            kind == STEP_LOOK_UP)
            split = i + 1;
    }
    return split;
}

static bool can_split(struct step_list list)
{
    const size_t split = split_of(list);
    for (size_t i = 0; i < list.count; i++) {
        const struct step *step = &list.steps[i];
        const bool mixture = step->kind == STEP_ROUTE || step->kind == STEP_EXPERTS || step->kind == STEP_MIX;
        if (i < split ? mixture : step->kind == STEP_ROUTE && step->route.table != NO_UNIT)
            return false;
    }
    return split < list.count;
}

bool gpu_pass_can_narrow(const struct batch *batch, uint32_t layer)
{
    const struct gpu_pass *pass = batch->passes[batch->open->plan->gpu->devices[layer]];
    return can_split(pass->lists[batch->rows <= GPU_VECTOR_TOKENS].layers[layer]);
}

/* Lists the wanted rows, then repeats the last one as often as needed. Returns the number of rows. */
static size_t fill_left(struct batch *batch)
{
    struct scratch *s = &batch->scratch;
    const uint64_t width = model_parameters(batch->open->model)->embedding;
    const size_t all = batch->rows;
    size_t count = batch->wanted;
    memcpy(s->left, s->wanted, count * sizeof *s->left);
    if (count == 0 || all <= GPU_VECTOR_TOKENS)
        return count;
    while (count < all && (count <= GPU_VECTOR_TOKENS || (count * width % 8 == 0) != (all * width % 8 == 0)))
        s->left[count++] = s->left[batch->wanted - 1];
    return count;
}

/* Moves rows to the front, adjacent ones in one copy. A barrier comes before a copy that overwrites rows that an
 * earlier one reads. */
static void move_rows(struct batch *batch, struct gpu_range rows, uint64_t row_bytes, size_t count)
{
    struct gpu_pass *pass = batch->pass;
    const uint32_t *left = batch->scratch.left;
    uint32_t read = 0; /* the lowest row that was read since the last barrier; 0: none was */
    for (size_t first = 0, run; first < count; first += run) {
        struct gpu_range to = rows, from = rows;
        for (run = 1; first + run < count && left[first + run] == left[first] + run && first + run < left[first];)
            run++;
        if (left[first] == first)
            continue;
        if (first + run > read && read) {
            gpu_barrier(pass->gpu);
            read = 0;
        }
        to.offset += first * row_bytes;
        from.offset += left[first] * row_bytes;
        gpu_copy(pass->gpu, to, from, run * row_bytes);
        if (!read)
            read = left[first];
    }
}

static hypura_status leave_behind(struct batch *batch, uint32_t layer, struct step_list rest, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    struct step_touch buffers[BUFFER_COUNT];
    TRY(pass_send(pass, error));
    TRY(pass_host_share(batch, error)); /* the CPU's share of the previous layer, for all rows */
    pass_record(pass);
    const size_t left = fill_left(batch), count = narrow_buffers(batch, NULL, rest, layer, buffers);
    for (size_t b = 0; b < count; b++) {
        const enum step_buffer buffer = buffers[b].buffer;
        const struct gpu_range floats = pass_floats(pass, buffer), halves = pass_halves(pass, buffer);
        if (floats.buffer)
            move_rows(batch, floats, buffers[b].width * sizeof(float), left);
        if (halves.buffer)
            move_rows(batch, halves, buffers[b].width * sizeof(uint16_t), left);
    }
    gpu_barrier(pass->gpu);
    narrow_rows(batch, left);
    return HYPURA_OK;
}

hypura_status pass_record_narrowing(struct batch *batch, struct step_list list, hypura_error *error)
{
    const size_t split = split_of(list);
    const struct step_list rest = {list.steps + split, list.count - split};
    TRY(pass_record_steps(batch, (struct step_list){list.steps, split}, error));
    TRY(leave_behind(batch, (uint32_t)list.steps[0].layer, rest, error));
    return batch->rows ? pass_record_steps(batch, rest, error) : HYPURA_OK;
}
