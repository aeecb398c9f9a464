/* Products with experts from panels.
 *
 * With many tokens per expert, unpacking its weights for all of them is faster than unpacking them for each tile.
 * Inputs are gathered by expert, so that a tile reads whole panels. */
#include "compute/vulkan/gpu_private.h"

static uint32_t gathered_rows(uint32_t experts, uint32_t used, uint32_t tokens)
{
    return (uint32_t)expert_most_tiles(PANELS_TOKENS, experts, used, tokens) * PANELS_TOKENS;
}

static bool are_enough(uint32_t experts, uint32_t used, uint32_t tokens, bool keeps)
{
    return gpu_expert_panels((double)tokens * used / MAX(experts, 1u), keeps);
}

uint64_t gpu_expert_unpacked_bytes(enum tensor_type type, uint32_t rows, uint32_t columns, uint32_t experts,
                                   uint32_t used, uint32_t tokens)
{
    if (!are_enough(experts, used, tokens, false) || !halves_suit_panels(type, columns))
        return 0;
    const uint64_t one = panels_bytes(rows, columns);
    return MAX(MIN(one * experts, 2 * GPU_UNPACKED_BYTES), one) +
           panels_bytes(gathered_rows(experts, used, tokens), columns);
}

/* The room for weights; 0: none. */
static uint64_t room_of(const struct gpu_expert_matmul *job)
{
    const uint64_t inputs = panels_bytes(gathered_rows(job->experts, job->used, job->tokens), job->weights.columns);
    return job->unpacked.buffer && job->unpacked_bytes > inputs ? job->unpacked_bytes - inputs : 0;
}

bool expert_panels_fit(const struct gpu *gpu, const struct gpu_expert_matmul *job)
{
    return gpu->info.panels && are_enough(job->experts, job->used, job->tokens, job->keeps) &&
           halves_suit_panels(job->weights.type, job->weights.columns) && job->groups.buffer &&
           room_of(job) >= panels_bytes(job->weights.rows, job->weights.columns) && gpu_address(job->out) % 8 == 0 &&
           gpu_expert_out_stride(job) % 2 == 0;
}

static void unpack(struct gpu *gpu, const struct gpu_expert_matmul *job, struct gpu_range out, uint32_t first,
                   uint32_t count)
{
    struct gpu_matrix weights = job->weights;
    weights.data.offset += first * job->slot_stride;
    halves_unpack_panels(gpu, &weights, out, count, job->slot_stride, panels_bytes(weights.rows, weights.columns));
}

void expert_panels_multiply(struct gpu *gpu, const struct gpu_expert_matmul *jobs, size_t count)
{
    const uint32_t rows = gathered_rows(jobs->experts, jobs->used, jobs->tokens);
    const struct gpu_range inputs = jobs->unpacked,
                           room = {inputs.buffer, inputs.offset + panels_bytes(rows, jobs->weights.columns)};
    bool wrote = true, room_used = false; /* since the last barrier; ever */
    halves_gather_panels(gpu, inputs, jobs, rows);
    for (size_t i = 0; i < count; i++) {
        const struct gpu_expert_matmul *job = &jobs[i];
        const uint64_t fit = room_of(job) / panels_bytes(job->weights.rows, job->weights.columns);
        const uint64_t parts = job->kept ? 1 : (job->slot_count + fit - 1) / fit;
        const uint32_t at_once = (uint32_t)((job->slot_count + parts - 1) / MAX(parts, 1u));
        const struct gpu_range to = job->kept ? (struct gpu_range){job->kept->buffer, 0} : room;
        for (uint32_t first = 0; first < job->slot_count; first += at_once) {
            const uint32_t slots = MIN(at_once, job->slot_count - first);
            if (!job->kept && room_used)
                gpu_barrier(gpu);
            if (!job->kept || !job->kept->filled) {
                unpack(gpu, job, to, first, slots);
                wrote = true;
            }
            if (wrote)
                gpu_barrier(gpu);
            panels_multiply_experts(gpu, job, inputs, to, first, slots);
            room_used |= !job->kept;
            wrote = false;
        }
        if (job->kept)
            job->kept->filled = true;
    }
}
