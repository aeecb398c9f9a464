/* Experts that groups of experts share, as commands. They read the sum of the chosen experts. They run as a mixture
 * whose experts are all on the device, each in the slot of its number. */
#include "engine/gpu/pass.h"

void pass_find_chunks(struct gpu_pass *pass, const struct geometry *geometry)
{
    const struct step *step = steps_find(steps_all(geometry->steps), STEP_CHUNK_EXPERTS);
    pass->chunks.experts = step ? step->chunk_experts.experts : 0;
    pass->chunks.width = step ? step->chunk_experts.width : 0;
}

hypura_status pass_open_chunks(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const uint32_t experts = pass->chunks.experts;
    uint32_t *slots = NULL;
    gpu_ticket arrived;
    if (experts == 0)
        return HYPURA_OK;
    TRY(ALLOCATE(&slots, experts, "table of experts", error));
    for (uint32_t e = 0; e < experts; e++)
        slots[e] = e;
    hypura_status status = gpu_upload(pass->gpu, pass->chunks.slots, slots, experts * sizeof *slots, &arrived, error);
    memory_free(slots);
    return status ? status : gpu_upload_wait(pass->gpu, arrived, error);
}

static struct gpu_expert_matmul job_of(const struct batch *batch, const struct step_chunk_experts *x, unit_number unit)
{
    const struct gpu_pass *pass = batch->pass;
    struct gpu_matrix matrix = pass_matrix(batch, unit);
    matrix.rows /= x->experts;
    return (struct gpu_expert_matmul){.weights = matrix,
                                      .slot_stride = matrix.rows * matrix.row_bytes,
                                      .slots = pass->chunks.slots,
                                      .ids = pass->chunks.ids,
                                      .groups = pass->chunks.groups,
                                      .experts = x->experts,
                                      .used = x->used,
                                      .tokens = (uint32_t)batch->rows};
}

hypura_status pass_record_chunk_experts(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_chunk_experts *x = &step->chunk_experts;
    const uint32_t rows = (uint32_t)batch->rows;
    const struct gpu_range gate = pass->rows[BUFFER_GATE], up = pass->rows[BUFFER_UP], none = {0};
    struct gpu_expert_matmul jobs[2] = {job_of(batch, x, x->gate), job_of(batch, x, x->up)};
    struct gpu_expert_matmul down = job_of(batch, x, x->down);
    (void)error;
    jobs[0].in = jobs[1].in = pass->rows[x->buffer];
    jobs[0].out = gate;
    jobs[1].out = up;
    down.in = gate;
    down.out = pass->expert_out;
    down.per_choice = true;
    pass_settle(pass); /* the sum of the chosen experts must have read expert_out, which these overwrite */
    if (rows > GPU_VECTOR_TOKENS) {
        gpu_expert_group(pass->gpu, pass->chunks.ids, pass->chunks.groups, x->experts, x->used, rows);
        gpu_barrier(pass->gpu);
    }
    gpu_expert_matmul(pass->gpu, jobs, 2);
    gpu_barrier(pass->gpu);
    gpu_glu(pass->gpu, x->glu, gate, gate, up, rows * x->used, x->width, x->width, x->width, 0.0f, 0.0f);
    gpu_barrier(pass->gpu);
    gpu_expert_matmul(pass->gpu, &down, 1);
    gpu_barrier(pass->gpu);
    gpu_residual(pass->gpu, &(struct gpu_residual){.hidden = pass->rows[x->buffer],
                                                   .branch = pass->rows[x->buffer],
                                                   .out = pass->rows[x->buffer],
                                                   .scale = x->scale,
                                                   .rows = rows,
                                                   .columns = model_parameters(batch->open->model)->embedding,
                                                   .mix = {.device_rows = pass->expert_out,
                                                           .ids = pass->chunks.ids,
                                                           .weights = pass->chunks.weights,
                                                           .slots = none,
                                                           .used = x->used}});
    gpu_barrier(pass->gpu);
    return HYPURA_OK;
}
