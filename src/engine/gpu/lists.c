/* The lists of steps of the device's layers, rewritten for the device. */
#include "engine/gpu/pass.h"

/* Neighbouring layers are rewritten together, so that one ends with the norm that the next begins with. */
static hypura_status make_run(struct batch *batch, struct device_list *lists, bool few, uint32_t first, uint32_t count,
                              hypura_error *error)
{
    const struct plan_gpu *plan = batch->pass->plan;
    struct step_list all = steps_of_layer(batch->open->steps, first), out = {0}, *part;
    struct step *steps;
    for (uint32_t i = 1; i < count; i++)
        all.count += steps_of_layer(batch->open->steps, first + i).count;
    if (first + count == plan->layer_count && plan->output)
        all.count += steps_after(batch->open->steps).count;
    TRY(steps_fuse(all, few, &steps, &out.count, error));
    lists->runs[lists->run_count++] = steps;
    for (size_t i = 0; i < out.count; i++) {
        part = steps[i].layer < 0 ? &lists->after : &lists->layers[steps[i].layer];
        if (part->count++ == 0)
            part->steps = &steps[i];
    }
    return HYPURA_OK;
}

hypura_status pass_make_lists(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    uint32_t layers = pass->plan->layer_count;
    for (int few = 0; few < 2; few++) {
        struct device_list *lists = &pass->lists[few];
        TRY(ALLOCATE(&lists->runs, layers, "lists of steps", error));
        TRY(ALLOCATE(&lists->layers, layers, "lists of steps", error));
        for (uint32_t i = 0, count; i < layers; i += MAX(count, 1u)) {
            for (count = 0; i + count < layers && pass->plan->layers[i + count];)
                count++;
            if (count)
                TRY(make_run(batch, lists, few, i, count, error));
        }
    }
    return HYPURA_OK;
}

void pass_free_lists(struct gpu_pass *pass)
{
    for (size_t few = 0; few < COUNT_OF(pass->lists); few++) {
        struct device_list *lists = &pass->lists[few];
        for (uint32_t i = 0; i < lists->run_count; i++)
            memory_free(lists->runs[i]);
        memory_free(lists->runs);
        memory_free(lists->layers);
    }
}

struct step_list pass_steps(const struct batch *batch, uint32_t layer)
{
    return batch->pass->lists[batch->rows <= GPU_VECTOR_TOKENS].layers[layer];
}

struct step_list pass_steps_after(const struct batch *batch)
{
    return batch->pass->lists[batch->rows <= GPU_VECTOR_TOKENS].after;
}
