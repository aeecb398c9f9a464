/* Short convolutions and scans of state spaces: work groups, and the places of states. */
#include "compute/vulkan/gpu_private.h"

/* As in shaders/convolve.comp and scan.comp. */
#define CONVOLVE_GROUP 64u
#define SCAN_GROUP 32u

uint64_t gpu_state_table(struct gpu *gpu, struct gpu_range states, const struct gpu_state_sequence *sequences,
                         uint32_t count)
{
    struct state_sequence entries[GPU_MAX_SEQUENCES];
    for (uint32_t i = 0; i < count; i++)
        entries[i] = gpu_state_entry(states, &sequences[i]);
    return gpu_table(gpu, entries, count * sizeof *entries);
}

void gpu_convolution(struct gpu *gpu, const struct gpu_convolution *c)
{
    const uint32_t across = (c->channels + CONVOLVE_GROUP - 1) / CONVOLVE_GROUP;
    if (c->taps < 2 || c->taps > CONVOLUTION_MAX_TAPS || c->width == 0 || c->sequence_count == 0 ||
        c->sequence_count > GPU_MAX_SEQUENCES || c->rows > GPU_MAX_GROUPS || across > GPU_MAX_GROUPS) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED,
                         "GPU: a convolution over %u tokens of %u channels, of %u rows of %u sequences", c->taps,
                         c->channels, c->rows, c->sequence_count);
        return;
    }
    const struct {
        uint64_t weights, bias, in, out, sequences;
        uint32_t sequence_count, channels, width, group_stride, stride;
    } push = {gpu_address(c->weights),
              gpu_address(c->bias),
              gpu_address(c->input),
              gpu_address(c->output),
              gpu_state_table(gpu, c->states, c->sequences, c->sequence_count),
              c->sequence_count,
              c->channels,
              c->width,
              c->group_stride,
              c->stride};
    const uint32_t constants[] = {c->taps, c->silu, MAX(c->dilation, 1u)};
    gpu_launch(gpu, KERNEL_convolve, constants, COUNT_OF(constants), &push, sizeof push, c->rows, across, 1);
}

bool gpu_scan_supports(uint32_t size)
{
    return size > 0 && size % 4 == 0 && size <= GPU_SCAN_SIZE;
}

void gpu_scan(struct gpu *gpu, const struct gpu_scan *s)
{
    const uint32_t channels = s->each ? s->heads : s->width, slices = (channels + SCAN_GROUP - 1) / SCAN_GROUP;
    const uint64_t across = (uint64_t)slices * (s->each ? 1 : s->heads);
    if (!gpu_scan_supports(s->size) || s->groups == 0 || s->heads % s->groups || (s->each && s->groups > 1) ||
        s->sequence_count == 0 || s->sequence_count > GPU_MAX_SEQUENCES || across == 0 || across > GPU_MAX_GROUPS) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED,
                         "GPU: a scan of %u heads in %u groups, states of %u x %u, of %u sequences", s->heads,
                         s->groups, s->size, s->width, s->sequence_count);
        return;
    }
    const struct {
        uint64_t in, write, read, steps, step_bias, rates, skip, out, sequences;
        uint32_t heads, groups, width, in_stride, write_stride, read_stride;
    } push = {gpu_address(s->input),
              gpu_address(s->write),
              gpu_address(s->read),
              gpu_address(s->steps),
              gpu_address(s->step_bias),
              gpu_address(s->rates),
              gpu_address(s->skip),
              gpu_address(s->output),
              gpu_state_table(gpu, s->states, s->sequences, s->sequence_count),
              s->heads,
              s->groups,
              s->width,
              s->input_stride,
              s->write_stride,
              s->read_stride};
    const uint32_t constants[] = {s->size, s->each};
    gpu_launch(gpu, KERNEL_scan, constants, COUNT_OF(constants), &push, sizeof push, (uint32_t)across,
               s->sequence_count, 1);
}
