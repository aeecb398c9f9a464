/* Experts of a rank other than 0: the device computes those in its slots, and the CPU those in memory meanwhile. Rank 0
 * sent the rows and the choices, and gets a row per choice. */
#include "engine/gpu/pass.h"

#include <string.h>

static uint64_t count_there(const struct batch *batch, size_t choices)
{
    uint64_t count = 0;
    for (size_t i = 0; i < choices; i++)
        count += batch->pass->there[batch->scratch.chosen[i]];
    return count;
}

/* Sends rows, choices and the commands for the device's experts. */
static hypura_status begin(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_experts *x = &step->experts;
    const struct scratch *s = &batch->scratch;
    const uint32_t experts = model_parameters(batch->open->model)->experts, rows = (uint32_t)batch->rows;
    const uint64_t floats = (uint64_t)rows * x->columns;
    pass_record(pass);
    pass_send_part(batch, pass->rows[x->in], &pass->served.rows, s->buffers[x->in], x->columns * sizeof(float));
    pass_send_part(batch, pass->chosen, &pass->served.chosen, s->chosen, x->used * sizeof *s->chosen);
    if (x->weighs_input)
        pass_send_part(batch, pass->weights, &pass->served.weights, s->chosen_weights,
                       x->used * sizeof *s->chosen_weights);
    gpu_barrier(pass->gpu);
    pass->state[x->in] = ROWS_FLOATS;
    if (x->in == BUFFER_NORMED && pass->halves && rows > GPU_VECTOR_TOKENS && floats % 8 == 0) {
        gpu_halves(pass->gpu, pass->normed_halves, pass->rows[x->in], floats);
        pass->state[x->in] = ROWS_BOTH;
    }
    if (rows > GPU_VECTOR_TOKENS)
        gpu_expert_group(pass->gpu, pass->chosen, pass->groups, experts, x->used, rows);
    gpu_barrier(pass->gpu);
    pass_run_experts(batch, step, &pass->slots[step->layer]);
    gpu_copy(pass->gpu, pass->served.expert_rows.range, pass->expert_out, floats * x->used * sizeof(float));
    return pass_send(pass, error);
}

/* Takes the device's rows, each to its place in the router's order. */
static void take_rows(struct batch *batch, const struct step *step)
{
    const struct gpu_pass *pass = batch->pass;
    const struct scratch *s = &batch->scratch;
    const size_t width = step->experts.columns, choices = batch->rows * step->experts.used;
    const float *rows = pass->served.expert_rows.host;
    for (size_t i = 0; i < choices; i++)
        if (pass->there[s->chosen[i]])
            memcpy(s->expert_out + i * width, rows + i * width, width * sizeof *rows);
}

hypura_status gpu_pass_experts(struct batch *batch, const struct step *experts, uint64_t *there, hypura_error *error)
{
    const size_t choices = batch->rows * experts->experts.used;
    pass_choose(batch, (uint32_t)experts->layer);
    struct gpu_pass *pass = batch->pass;
    store_on_device(batch->open->store, experts->experts.first, model_parameters(batch->open->model)->experts,
                    pass->there);
    pass_note_uses(batch, experts->experts.first, choices);
    *there = count_there(batch, choices);
    if (*there)
        TRY(begin(batch, experts, error));
    hypura_status status = run_chosen_experts(batch, experts, pass->there, error);
    /* Even after an error, because the next rows go to memory that the device may still read. */
    const hypura_status done = *there ? gpu_wait(pass->gpu, pass->last, status ? NULL : error) : HYPURA_OK;
    status = status ? status : done;
    if (!status)
        take_rows(batch, experts);
    return status;
}

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

/* Computes an expert of the device for a row of zeros. */
static hypura_status try_layer(struct batch *batch, const struct step *step, hypura_error *error)
{
    const uint32_t experts = model_parameters(batch->open->model)->experts;
    const struct step_experts *x = &step->experts;
    struct scratch *s = &batch->scratch;
    uint32_t expert = 0;
    store_on_device(batch->open->store, x->first, experts, batch->pass->there);
    while (expert + 1 < experts && !batch->pass->there[expert])
        expert++;
    memset(s->buffers[x->in], 0, x->columns * sizeof(float));
    for (uint32_t i = 0; i < x->used; i++) {
        s->chosen[i] = expert;
        s->chosen_weights[i] = 0;
    }
    TRY(begin(batch, step, error));
    return gpu_wait(batch->pass->gpu, batch->pass->last, error);
}

hypura_status pass_try_experts(struct batch *batch, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step *step = NULL;
    hypura_error problem;
    for (uint32_t i = 0; i < pass->plan->layer_count && !step; i++)
        if (pass->slots[i].count)
            step = steps_find(steps_of_layer(batch->open->steps, i), STEP_EXPERTS);
    batch->rows = 1;
    const hypura_status status = step ? try_layer(batch, step, &problem) : HYPURA_OK;
    batch->rows = 0;
    return status ? error_set(error, HYPURA_ERROR_DEVICE, "%s", problem.message) : HYPURA_OK;
}
