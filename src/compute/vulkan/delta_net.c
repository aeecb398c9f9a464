/* Gated delta nets: work groups, and the places of states. */
#include "compute/vulkan/gpu_private.h"

/* As in shaders/delta_net.comp. */
#define COLUMNS 32u

bool gpu_delta_net_supports(uint32_t key_size, uint32_t taps)
{
    return key_size > 0 && key_size % 4 == 0 && key_size <= GPU_DELTA_KEYS && taps >= 2 && taps <= DELTA_NET_MAX_TAPS;
}

void gpu_delta_net(struct gpu *gpu, const struct gpu_delta_net *net)
{
    const uint32_t heads = 2 * net->heads_k + net->heads_v, slices = (net->value_size + COLUMNS - 1) / COLUMNS;
    const uint32_t channels = 2 * net->heads_k * net->key_size + net->heads_v * net->value_size;
    if (!gpu_delta_net_supports(net->key_size, net->taps) || net->heads_k == 0 || net->heads_v % net->heads_k ||
        net->sequence_count == 0 || net->sequence_count > GPU_MAX_SEQUENCES || net->rows > GPU_MAX_GROUPS ||
        heads > GPU_MAX_GROUPS || (uint64_t)net->heads_v * slices > GPU_MAX_GROUPS) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED,
                         "GPU: a delta net of %u and %u heads of %u and %u elements, of %u rows of %u sequences",
                         net->heads_k, net->heads_v, net->key_size, net->value_size, net->rows, net->sequence_count);
        return;
    }
    const uint64_t table = gpu_state_table(gpu, net->states, net->sequences, net->sequence_count);
    const struct {
        uint64_t convolution[DELTA_PARTS], in[DELTA_PARTS], out, sequences;
        uint32_t strides[DELTA_PARTS], sequence_count, key_heads, key_size, value_size, channels, matrix_floats;
        float epsilon;
        uint32_t root_epsilon;
    } inputs = {{gpu_address(net->convolution[0]), gpu_address(net->convolution[1]), gpu_address(net->convolution[2])},
                {gpu_address(net->input[0]), gpu_address(net->input[1]), gpu_address(net->input[2])},
                gpu_address(net->convolved),
                table,
                {net->input_stride[0], net->input_stride[1], net->input_stride[2]},
                net->sequence_count,
                net->heads_k,
                net->key_size,
                net->value_size,
                channels,
                net->heads_v * net->key_size * net->value_size,
                net->epsilon,
                net->root_epsilon};
    gpu_launch(gpu, KERNEL_delta_inputs, &net->taps, 1, &inputs, sizeof inputs, net->rows, heads, 1);
    gpu_barrier(gpu);
    const struct {
        uint64_t in, beta, alpha, step_bias, decay_rate, out, sequences;
        uint32_t key_heads, value_heads, value_size, channels, gate_stride, gate_group, tiled, decay;
        float bound;
    } rule = {gpu_address(net->convolved),
              gpu_address(net->beta),
              gpu_address(net->alpha),
              gpu_address(net->step_bias),
              gpu_address(net->decay_rate),
              gpu_address(net->output),
              table,
              net->heads_k,
              net->heads_v,
              net->value_size,
              channels,
              net->gate_stride,
              net->gate_group,
              net->tiled,
              net->by_channel ? 1 + (uint32_t)net->bounded : 0,
              net->bound};
    gpu_launch(gpu, KERNEL_delta_net, &net->key_size, 1, &rule, sizeof rule, net->heads_v * slices, net->sequence_count,
               1);
}
