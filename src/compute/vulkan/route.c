/* Mixtures of experts: the choice, the sum of the chosen experts' outputs, and the residual after a layer. */
#include "compute/vulkan/gpu_private.h"

#include <string.h>

bool router_check(struct gpu *gpu, const struct gpu_router *router)
{
    if (router->experts <= GPU_ROUTER_EXPERTS && router->used <= GPU_ROUTER_USED && router->used <= router->experts &&
        (!router->groups || router->experts % router->groups == 0))
        return true;
    gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: a router of %u experts, %u used, in %u groups",
                     router->experts, router->used, router->groups);
    return false;
}

struct router_addresses router_find_addresses(const struct gpu_router *router)
{
    return (struct router_addresses){
        gpu_address(router->selection_bias), gpu_address(router->expert_scales), gpu_address(router->ids),
        gpu_address(router->weights),        gpu_address(router->table),         gpu_address(router->tokens),
        gpu_address(router->chunk_ids),      gpu_address(router->chunk_weights)};
}

void router_set_constants(const struct gpu_router *router, uint32_t constants[ROUTER_CONSTANTS])
{
    const uint32_t values[ROUTER_CONSTANTS] = {(uint32_t)router->gate,
                                               router->normalise,
                                               router->table.buffer != NULL,
                                               0,
                                               router->experts,
                                               router->used,
                                               router->groups,
                                               router->groups_used,
                                               router->chunk_ids.buffer ? router->chunk : 0};
    memcpy(constants, values, sizeof values);
    memcpy(&constants[3], &router->scale, sizeof router->scale);
}

void gpu_router(struct gpu *gpu, const struct gpu_router *router)
{
    if (!router_check(gpu, router))
        return;
    const bool chained = router->rows <= GPU_VECTOR_TOKENS;
    const struct chain_link link = chained ? gpu_chain(gpu) : (struct chain_link){0};
    const struct {
        uint64_t logits;
        struct router_addresses addresses;
        uint64_t progress;
        uint32_t awaited, rows;
    } push = {gpu_address(router->logits), router_find_addresses(router), link.progress, link.awaited, router->rows};
    uint32_t constants[ROUTER_CONSTANTS];
    router_set_constants(router, constants);
    (chained ? gpu_launch_chained : gpu_launch)(gpu, KERNEL_router, constants, COUNT_OF(constants), &push, sizeof push,
                                                MIN(router->rows, GPU_MAX_GROUPS), 1, 1);
    gpu->routed = gpu->chained;
}

void gpu_residual(struct gpu *gpu, const struct gpu_residual *residual)
{
    const struct gpu_mix *mix = &residual->mix;
    /* MIX_MEMBERS of mix.glsl in the middle */
    const uint64_t out = gpu_address(residual->out), halves = gpu_address(residual->out_halves);
    /* Push constants only have room for the distance, in units of 16 bytes. */
    const bool near = halves > out && (halves - out) % 16 == 0 && (halves - out) / 16 <= UINT32_MAX;
    struct {
        uint64_t hidden, branch, post_norm, layer_scale, norm, out;
        uint64_t device_rows, host_rows, ids, weights, slots, shared, shared_gates;
        uint32_t used, rows, halves, awaited;
        uint64_t progress;
    } push = {gpu_address(residual->hidden),
              gpu_address(residual->branch),
              gpu_address(residual->post_norm),
              gpu_address(residual->layer_scale),
              gpu_address(residual->norm),
              gpu_address(residual->out),
              gpu_address(mix->device_rows),
              gpu_address(mix->host_rows),
              gpu_address(mix->ids),
              gpu_address(mix->weights),
              gpu_address(mix->slots),
              gpu_address(mix->shared),
              gpu_address(mix->shared_gates),
              mix->used,
              residual->rows};
    uint64_t together = push.hidden | push.branch | push.post_norm | push.norm | push.out | push.device_rows |
                        push.host_rows | push.shared;
    const uint32_t steps = mix->used > GPU_ROUTER_USED ? 0 : gpu_row_steps(residual->columns, together);
    const bool joined = halves && residual->norm.buffer && near && steps && halves % 16 == 0;
    push.halves = joined ? (uint32_t)((halves - out) / 16) : 0;
    uint32_t constants[] = {steps, residual->fresh, residual->columns, 0, 0};
    memcpy(&constants[3], &residual->scale, sizeof residual->scale);
    memcpy(&constants[4], &residual->epsilon, sizeof residual->epsilon);
    const bool chained = residual->rows <= GPU_VECTOR_TOKENS;
    const struct chain_link link = chained ? gpu_chain(gpu) : (struct chain_link){0};
    push.awaited = link.awaited;
    push.progress = link.progress;
    (chained ? gpu_launch_chained : gpu_launch)(gpu, KERNEL_residual, constants, COUNT_OF(constants), &push,
                                                sizeof push, MIN(residual->rows, GPU_MAX_GROUPS), 1, 1);
    if (halves && residual->norm.buffer && !joined) {
        gpu_barrier(gpu);
        gpu_halves(gpu, residual->out_halves, residual->out, (uint64_t)residual->rows * residual->columns);
    }
}

void gpu_recall(struct gpu *gpu, const struct gpu_recall *recall)
{
    const struct {
        uint64_t bank, in, weight, out;
        uint32_t rows, kept, room, width;
        float epsilon;
    } push = {gpu_address(recall->bank),
              gpu_address(recall->in),
              gpu_address(recall->weight),
              gpu_address(recall->out),
              recall->rows,
              recall->kept,
              recall->room,
              recall->width,
              recall->epsilon};
    if (recall->kept >= recall->room || recall->kept >= RECALL_MAX) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u kept rows per token; there is room for %u",
                         recall->kept, recall->room);
        return;
    }
    gpu_launch(gpu, KERNEL_recall, NULL, 0, &push, sizeof push, MIN(recall->rows, GPU_MAX_GROUPS), 1, 1);
}
