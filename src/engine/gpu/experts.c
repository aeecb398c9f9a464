/* Mixtures of experts as commands, and the CPU's share of them at the same time. */
#include "engine/gpu/pass.h"

#include <string.h>

/* ---- the router's choice -------------------------------------------------------------------------------------------
 */

/* The step that computes what a router chose. */
static const struct step *experts_after(const struct step *route)
{
    const struct step *step = route;
    while (step->kind != STEP_EXPERTS)
        step++;
    return step;
}

/* Whether what experts read is made after the choice only. */
static bool reads_later(const struct step *route, const struct step *experts)
{
    for (const struct step *step = route; step < experts; step++)
        if (step_writes(step, experts->experts.in))
            return true;
    return false;
}

/* What the CPU needs for its share goes to it; it has time for that while the device goes on with the layer. */
static hypura_status hand_over(struct batch *batch, const struct step *experts, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    struct mixture *mixture = &pass->mixture;
    uint64_t choices = batch->rows * (uint64_t)experts->experts.used;
    pass_settle(pass);
    gpu_copy(pass->gpu, pass->back_parts.chosen.range, pass->chosen, choices * sizeof(uint32_t));
    gpu_copy(pass->gpu, pass->back_parts.weights.range, pass->weights, choices * sizeof(float));
    if (!mixture->in_place)
        gpu_copy(pass->gpu, pass->back_parts.normed.range, pass->rows[experts->experts.in],
                 batch->rows * model_parameters(batch->open->model)->embedding * sizeof(float));
    TRY(pass_send(pass, error));
    mixture->routed = pass->last;
    pass_record(pass);
    return HYPURA_OK;
}

/* Where the experts that the device does not have are computed. */
static void divide(struct batch *batch, const struct step *experts)
{
    struct gpu_pass *pass = batch->pass;
    uint32_t number = (uint32_t)experts->layer;
    bool missing = pass->slots[number].count < model_parameters(batch->open->model)->experts;
    bool in_place = missing && pass_reads_in_place(batch, number);
    bool visits = missing && !in_place && pass_should_visit(batch, number);
    pass->mixture = (struct mixture){
        .in_place = in_place, .visits = visits, .divided = missing && !in_place && !visits, .layer = number};
}

hypura_status pass_record_route(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_route *r = &step->route;
    const struct router_rule *rule = &r->rule;
    const struct step *experts = experts_after(step);
    struct pass_product product = {.role = ROLE_ROUTER,
                                   .job = {.weights = pass_matrix(batch, r->router),
                                           .in = pass->rows[r->in],
                                           .out = pass->router,
                                           .bias = pass_vector(batch, r->bias),
                                           .tokens = (uint32_t)batch->rows,
                                           .in_stride = model_parameters(batch->open->model)->embedding,
                                           .out_stride = rule->experts}};
    divide(batch, experts);
    pass_multiply(batch, step->layer, &product, 1);
    gpu_barrier(pass->gpu);
    gpu_router(pass->gpu, &(struct gpu_router){.logits = pass->router,
                                               .selection_bias = pass_vector(batch, r->selection_bias),
                                               .expert_scales = pass_vector(batch, r->expert_scales),
                                               .ids = pass->chosen,
                                               .weights = pass->weights,
                                               .rows = (uint32_t)batch->rows,
                                               .experts = rule->experts,
                                               .used = rule->used,
                                               .groups = rule->groups,
                                               .groups_used = rule->groups_used,
                                               .gate = (int)rule->gate,
                                               .normalise = rule->normalise,
                                               .scale = rule->scale});
    gpu_barrier(pass->gpu);
    if (batch->rows > GPU_VECTOR_TOKENS) {
        gpu_expert_group(pass->gpu, pass->chosen, pass->groups, rule->experts, rule->used, (uint32_t)batch->rows);
        gpu_barrier(pass->gpu);
    }
    bool wanted = pass->mixture.in_place || pass->mixture.divided || batch->trace;
    return wanted && !reads_later(step, experts) ? hand_over(batch, experts, error) : HYPURA_OK;
}

/* ---- experts in slots ----------------------------------------------------------------------------------------------
 */

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
                                      .tokens = (uint32_t)batch->rows};
}

void pass_run_experts(struct batch *batch, const struct step *step, const struct store_slots *slots)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_experts *x = &step->experts;
    const struct unit *unit = model_unit(batch->open->model, x->first);
    uint32_t rows = (uint32_t)batch->rows, inner = x->width, down = unit->slice_count - 1;
    uint32_t embedding = model_parameters(batch->open->model)->embedding;
    bool fused = x->gate_up_rows;
    if (slots->count == 0)
        return;
    struct gpu_expert_matmul jobs[2];
    for (uint32_t i = 0; i < 2; i++) {
        jobs[i] = expert_job(batch, x, slots, fused ? 0 : i, embedding, inner);
        jobs[i].in = pass_floats(pass, x->in);
        jobs[i].in_halves = pass_halves(pass, x->in);
        jobs[i].out = pass->rows[i == 0 ? BUFFER_GATE : BUFFER_UP];
        jobs[i].bias = pass_vector(batch, i == 0 ? x->gate_bias : x->up_bias);
    }
    if (fused)
        jobs[1].weights.data.offset += inner * jobs[1].weights.row_bytes;
    struct gpu_expert_matmul job = expert_job(batch, x, slots, down, inner, embedding);
    const struct gpu_glu_kind glu = {x->glu, OAI_ALPHA, x->limit};
    bool halves = false;
    if (x->weighs_input) {
        gpu_expert_matmul(pass->gpu, jobs, 2);
        gpu_barrier(pass->gpu);
        gpu_glu_weighed(pass->gpu, glu.kind, jobs[0].out, jobs[0].out, jobs[1].out, pass->weights, rows * x->used,
                        inner, inner, inner, glu.alpha, glu.limit);
    } else if (!gpu_expert_matmul_glu(pass->gpu, jobs, &glu)) {
        gpu_expert_matmul(pass->gpu, jobs, 2);
        gpu_barrier(pass->gpu);
        halves = pass_glu(batch, &glu, &job.weights, job.slot_stride, rows * x->used, inner, true);
    }
    gpu_barrier(pass->gpu);
    job.in = halves ? (struct gpu_range){0} : jobs[0].out;
    job.in_halves = halves ? pass->inner_halves : (struct gpu_range){0};
    job.out = pass->expert_out;
    job.bias = pass_vector(batch, x->down_bias);
    job.per_choice = true;
    gpu_expert_matmul(pass->gpu, &job, 1);
    gpu_barrier(pass->gpu);
}

/* The experts that are there, sent at once; the CPU's rows are waited for by what comes next. The layer before this one
 * has its turn now that there is work for the device. */
static hypura_status run_divided(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    uint64_t value = ++pass->signals;
    pass_run_experts(batch, step, &pass->slots[step->layer]);
    TRY(pass_send(pass, error));
    TRY(pass_host_share(batch, error));
    pass->host_share.waiting = true;
    pass->host_share.experts = step;
    pass->host_share.routed = pass->mixture.routed;
    pass->host_share.value = value;
    pass_record(pass);
    pass->wait_value = value;
    return HYPURA_OK;
}

hypura_status pass_record_experts(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct mixture *mixture = &pass->mixture;
    bool handed = mixture->routed;
    if ((mixture->in_place || mixture->divided || batch->trace) && !handed)
        TRY(hand_over(batch, step, error));
    if (mixture->in_place)
        return pass_in_place(batch, step, error);
    if (mixture->divided || batch->trace)
        return run_divided(batch, step, error);
    pass_run_experts(batch, step, &pass->slots[step->layer]);
    return mixture->visits ? pass_visit(batch, step, error) : HYPURA_OK;
}

struct gpu_mix pass_mix(const struct batch *batch, const struct step_mix *m)
{
    const struct gpu_pass *pass = batch->pass;
    const struct mixture *mixture = &pass->mixture;
    const struct gpu_range none = {0};
    return (struct gpu_mix){.device_rows = pass->expert_out,
                            .host_rows = mixture->divided ? pass->up_parts.expert_rows.range : none,
                            .ids = pass->chosen,
                            .weights = m->weighed ? none : pass->weights,
                            .slots = mixture->visits || mixture->in_place ? none : pass->slots[mixture->layer].table,
                            .shared = m->side == BUFFER_NONE ? none : pass->rows[m->side],
                            .shared_gates = m->gates == BUFFER_NONE ? none : pass->rows[m->gates],
                            .used = m->used};
}

/* ---- the CPU's share ------------------------------------------------------------------------------------------------
 */

static bool any_in_memory(const struct batch *batch, size_t choices)
{
    for (size_t i = 0; i < choices; i++)
        if (!batch->pass->there[batch->scratch.chosen[i]])
            return true;
    return false;
}

static void note_uses(struct batch *batch, unit_number first_expert, size_t choices)
{
    unit_number units[64];
    for (size_t first = 0, count; first < choices; first += count) {
        count = MIN(choices - first, COUNT_OF(units));
        for (size_t i = 0; i < count; i++)
            units[i] = first_expert + batch->scratch.chosen[first + i];
        store_note_uses(batch->open->store, units, count);
    }
}

hypura_status pass_take_choices(struct batch *batch, const struct step *experts, hypura_error *error)
{
    const uint32_t number = (uint32_t)experts->layer;
    const struct gpu_pass *pass = batch->pass;
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    size_t choices = batch->rows * p->experts_used;
    memcpy(s->chosen, pass->back_parts.chosen.host, choices * sizeof *s->chosen);
    memcpy(s->chosen_weights, pass->back_parts.weights.host, choices * sizeof *s->chosen_weights);
    for (size_t i = 0; i < choices; i++)
        if (s->chosen[i] >= p->experts)
            return error_set(error, HYPURA_ERROR_DEVICE, "the GPU chose expert %u of %u in layer %u", s->chosen[i],
                             p->experts, number);
    if (batch->trace)
        TRY(trace_writer_layer(batch->trace, number, s->chosen, error));
    note_uses(batch, experts->experts.first, choices);
    return HYPURA_OK;
}

static hypura_status compute_share(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step *experts = pass->host_share.experts;
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    size_t choices = batch->rows * p->experts_used, width = p->embedding;
    TRY(gpu_wait(pass->gpu, pass->host_share.routed, error));
    TRY(pass_take_choices(batch, experts, error));
    store_on_device(batch->open->store, experts->experts.first, p->experts, pass->there);
    if (!any_in_memory(batch, choices))
        return HYPURA_OK;
    memcpy(s->buffers[experts->experts.in], pass->back_parts.normed.host, batch->rows * width * sizeof(float));
    forget_inputs(batch, 1u << experts->experts.in);
    TRY(run_chosen_experts(batch, experts, pass->there, error));
    float *rows = pass->up_parts.expert_rows.host;
    for (size_t i = 0; i < choices; i++)
        if (!pass->there[s->chosen[i]])
            memcpy(rows + i * width, s->expert_out + i * width, width * sizeof *rows);
    return HYPURA_OK;
}

hypura_status pass_host_share(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    if (!pass->host_share.waiting)
        return HYPURA_OK;
    TRY(compute_share(batch, error));
    TRY(gpu_signal_host(pass->gpu, pass->host_share.value, error));
    pass->host_share.waiting = false;
    return HYPURA_OK;
}
