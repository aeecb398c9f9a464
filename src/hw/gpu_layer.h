/* A layer to measure on a GPU: gpu_speed.c finds by it the time that a layer takes in addition to reading weights. */
#ifndef HYPURA_GPU_LAYER_H
#define HYPURA_GPU_LAYER_H

#include "compute/vulkan/gpu.h"
#include "core/core.h"

/* The buffers of a layer: parts of "all", which the layer owns. */
struct gpu_layer {
    struct gpu_buffer *all;
    struct gpu_range hidden, normed, query, key, value, attended, inner, out, vector, router, logits, ids, weights,
        slots, cache, scratch;
};

hypura_status gpu_layer_make(struct gpu_layer *layer, struct gpu *gpu, hypura_error *error);
void gpu_layer_free(struct gpu_layer *layer, struct gpu *gpu);

/* The bytes of weights that one token reads of a dense layer or of a mixture of experts, without the router; and of the
 * router, in F32. */
uint64_t gpu_layer_bytes(enum tensor_type type, bool mixture);
uint64_t gpu_layer_router_bytes(void);

/* Records count layers for one token. Their weights are taken from a buffer of at least gpu_layer_bytes; the contents
 * do not matter. */
void gpu_layer_record(const struct gpu_layer *layer, struct gpu *gpu, struct gpu_buffer *weights, uint64_t bytes,
                      enum tensor_type type, bool mixture, uint32_t count);

#endif
