/* The experts of a layer that are in slots, as commands. */
#include "engine/gpu/pass.h"

uint32_t pass_experts_there(const struct batch *batch, uint32_t layer)
{
    return store_is_taken(batch->open->store, layer) ? 0 : batch->pass->slots[layer].count;
}

static struct gpu_expert_matmul expert_job(const struct batch *batch, const struct step_experts *x,
                                           const struct store_slots *slots, uint32_t slice, uint32_t columns,
                                           uint32_t rows)
{
    const struct gpu_pass *pass = batch->pass;
    struct gpu_range table = slots->tables[slice].buffer ? slots->tables[slice] : slots->table;
    enum tensor_type type = model_unit(batch->open->model, x->first)->slices[slice].tensor->type;
    struct matrix matrix = matrix_at(NULL, type, columns, rows);
    return (struct gpu_expert_matmul){.weights = {.data = slots->slices[slice],
                                                  .type = type,
                                                  .rows = rows,
                                                  .columns = columns,
                                                  .row_bytes = matrix.row_bytes},
                                      .slot_stride = slots->strides[slice],
                                      .slots = table,
                                      .ids = pass->chosen,
                                      .groups = pass->groups,
                                      .experts = model_parameters(batch->open->model)->experts,
                                      .used = x->used,
                                      .tokens = (uint32_t)batch->rows,
                                      .routed = true};
}

/* Whether what is in a slot does not change. */
static bool stay(const struct gpu_pass *pass, uint32_t layer, const struct gpu_expert_matmul *job)
{
    const struct gpu_range own = pass->slots[layer].table;
    return job->slot_count == job->experts && !pass->plan->lent[layer] && job->slots.buffer == own.buffer &&
           job->slots.offset == own.offset;
}

/* Lets the job unpack its weights for a long batch. product: as of pass_keep_experts. */
static void let_unpack(const struct batch *batch, struct gpu_expert_matmul *job, const struct store_slots *slots,
                       uint32_t layer, uint32_t product)
{
    const struct gpu_pass *pass = batch->pass;
    if (pass->unpacked_bytes == 0 || job->slots.buffer != slots->table.buffer)
        return; /* no room; or experts are anywhere in host memory */
    job->unpacked = pass->unpacked;
    job->unpacked_bytes = pass->unpacked_bytes;
    job->slot_count = slots->count;
    if (!stay(pass, layer, job))
        return;
    job->keeps = pass->plan->keeps;
    job->kept = pass_keep_experts(pass, layer, product, job);
}

/* Multiplies rows by the scales of their experts and adds the biases, for experts on this device. Does nothing without
 * scales. */
static void scale_experts(const struct batch *batch, const struct gpu_expert_matmul *job, unit_number scales,
                          unit_number biases)
{
    if (scales != NO_UNIT)
        gpu_rescale(batch->pass->gpu, &(struct gpu_rescale){.rows = job->out,
                                                            .scales = pass_vector(batch, scales),
                                                            .bias = pass_vector(batch, biases),
                                                            .ids = job->ids,
                                                            .slots = job->slots,
                                                            .count = job->tokens * job->used,
                                                            .columns = job->weights.rows,
                                                            .stride = job->weights.rows});
}

static struct gpu_range bias_of(const struct batch *batch, unit_number biases, unit_number scales)
{
    return pass_vector(batch, scales == NO_UNIT ? biases : NO_UNIT);
}

void pass_run_experts(struct batch *batch, const struct step *step, const struct store_slots *slots)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_experts *x = &step->experts;
    const struct unit *unit = model_unit(batch->open->model, x->first);
    uint32_t rows = (uint32_t)batch->rows, inner = x->width, down = unit->slice_count - 1;
    const uint32_t products = x->ungated ? 1 : 2;
    bool fused = x->gate_up_rows;
    const unit_number biases[2] = {x->ungated ? x->up_bias : x->gate_bias, x->up_bias};
    const unit_number scales[2] = {x->ungated ? x->up_scale : x->gate_scale, x->up_scale};
    const bool scaled = scales[0] != NO_UNIT || scales[1] != NO_UNIT;
    if (slots->count == 0)
        return;
    struct gpu_expert_matmul jobs[2];
    for (uint32_t i = 0; i < products; i++) {
        jobs[i] = expert_job(batch, x, slots, fused ? 0 : i, x->columns, inner);
        jobs[i].in = pass_floats(pass, x->in);
        jobs[i].in_halves = pass_halves(pass, x->in);
        jobs[i].norm = pass_vector(batch, x->norm.weight);
        jobs[i].epsilon = x->norm.epsilon;
        jobs[i].out = pass->rows[i == 0 ? BUFFER_GATE : BUFFER_UP];
        jobs[i].bias = bias_of(batch, biases[i], scales[i]);
    }
    if (fused)
        jobs[1].weights.data.offset += inner * jobs[1].weights.row_bytes;
    for (uint32_t i = 0; i < products; i++)
        let_unpack(batch, &jobs[i], slots, (uint32_t)step->layer, i);
    struct gpu_expert_matmul job = expert_job(batch, x, slots, down, inner, x->columns);
    const struct gpu_glu_kind glu = {x->glu, x->alpha, x->limit};
    bool halves = false;
    if (scaled || x->ungated || x->weighs_input) {
        gpu_expert_matmul(pass->gpu, jobs, products);
        gpu_barrier(pass->gpu);
    }
    if (scaled) {
        for (uint32_t i = 0; i < products; i++)
            scale_experts(batch, &jobs[i], scales[i], biases[i]);
        gpu_barrier(pass->gpu);
    }
    if (x->ungated) {
        gpu_glu(pass->gpu, glu.kind, jobs[0].out, jobs[0].out, jobs[0].out, rows * x->used, inner, inner, inner,
                glu.alpha, glu.limit);
    } else if (x->weighs_input) {
        gpu_glu_weighed(pass->gpu, glu.kind, jobs[0].out, jobs[0].out, jobs[1].out, pass->weights, rows * x->used,
                        inner, inner, inner, glu.alpha, glu.limit);
    } else if (scaled) {
        halves = pass_glu(batch, &glu, &job.weights, job.slot_stride, rows * x->used, inner, true);
    } else if (!gpu_expert_matmul_glu(pass->gpu, jobs, &glu)) {
        gpu_expert_matmul(pass->gpu, jobs, 2);
        gpu_barrier(pass->gpu);
        halves = pass_glu(batch, &glu, &job.weights, job.slot_stride, rows * x->used, inner, true);
    }
    gpu_barrier(pass->gpu);
    job.in = halves ? (struct gpu_range){0} : jobs[0].out;
    job.in_halves = halves ? pass->inner_halves : (struct gpu_range){0};
    job.out = pass->expert_out;
    job.bias = bias_of(batch, x->down_bias, x->down_scale);
    job.per_choice = true;
    let_unpack(batch, &job, slots, (uint32_t)step->layer, PASS_EXPERT_PRODUCTS - 1);
    gpu_expert_matmul(pass->gpu, &job, 1);
    gpu_barrier(pass->gpu);
    if (x->down_scale == NO_UNIT)
        return;
    scale_experts(batch, &job, x->down_scale, x->down_bias);
    gpu_barrier(pass->gpu);
}
