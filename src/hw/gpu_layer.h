/* What a layer takes on a GPU besides its weights (gpu_speed.c measures by it). */
#ifndef HYPURA_GPU_LAYER_H
#define HYPURA_GPU_LAYER_H

#include "compute/vulkan/gpu.h"
#include "core/core.h"

/* Buffers of a layer that is there for being measured. */
struct gpu_layer {
    struct gpu_buffer *all;
    struct gpu_range hidden, normed, branch, query, key, value, attended, inner, out, vector, router, logits, ids,
        weights, slots, cache, scratch;
};

hypura_status gpu_layer_make(struct gpu_layer *layer, struct gpu *gpu, hypura_error *error);
void gpu_layer_free(struct gpu_layer *layer, struct gpu *gpu);

/* Bytes of the weights of such a layer, a dense one or a mixture, that a token reads. */
uint64_t gpu_layer_bytes(enum tensor_type type, bool mixture);

/* Records count layers for one token, whose weights are anything in the buffer from its start on: at least
 * gpu_layer_bytes. */
void gpu_layer_record(const struct gpu_layer *layer, struct gpu *gpu, struct gpu_buffer *weights, uint64_t bytes,
                      enum tensor_type type, bool mixture, uint32_t count);

#endif
