/* Mixtures of experts as commands. The CPU computes its share at the same time. */
#include "engine/gpu/pass.h"

/* ---- the router's choice -------------------------------------------------------------------------------------------
 */

/* The step that computes the chosen experts. */
static const struct step *experts_after(const struct step *route)
{
    const struct step *step = route;
    while (step->kind != STEP_EXPERTS)
        step++;
    return step;
}

/* Whether a step after the router writes the experts' input. */
static bool reads_later(const struct step *route, const struct step *experts)
{
    for (const struct step *step = route; step < experts; step++)
        if (step_writes(step, experts->experts.in))
            return true;
    return false;
}

/* Sends the CPU what it needs for its share, so that it can compute while the device continues with the layer. */
static hypura_status hand_over(struct batch *batch, const struct step *experts, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    struct mixture *mixture = &pass->mixture;
    const struct step_experts *x = &experts->experts;
    uint64_t choices = batch->rows * (uint64_t)x->used;
    pass_settle(pass);
    gpu_copy(pass->gpu, pass->back_parts.chosen.range, pass->chosen, choices * sizeof(uint32_t));
    gpu_copy(pass->gpu, pass->back_parts.weights.range, pass->weights, choices * sizeof(float));
    if (!mixture->in_place && x->norm.weight != NO_UNIT)
        gpu_rms_norm(pass->gpu, pass->back_parts.normed.range, pass->rows[x->in], pass_vector(batch, x->norm.weight),
                     (struct gpu_range){0}, (uint32_t)batch->rows, x->columns, x->norm.epsilon);
    else if (!mixture->in_place)
        gpu_copy(pass->gpu, pass->back_parts.normed.range, pass->rows[x->in], batch->rows * x->columns * sizeof(float));
    TRY(pass_send(pass, error));
    mixture->routed = pass->last;
    pass_record(pass);
    return HYPURA_OK;
}

/* Decides where experts that the device lacks are computed. */
static void divide(struct batch *batch, const struct step *experts)
{
    struct gpu_pass *pass = batch->pass;
    uint32_t number = (uint32_t)experts->layer;
    bool missing = pass_experts_there(batch, number) < model_parameters(batch->open->model)->experts;
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
                                           .norm = pass_vector(batch, r->norm.weight),
                                           .tokens = (uint32_t)batch->rows,
                                           .in_stride = model_parameters(batch->open->model)->embedding,
                                           .out_stride = rule->experts,
                                           .epsilon = r->norm.epsilon}};
    const struct gpu_router router = {.logits = pass->router,
                                      .selection_bias = pass_vector(batch, r->selection_bias),
                                      .expert_scales = pass_vector(batch, r->expert_scales),
                                      .table = pass_vector(batch, r->table),
                                      .tokens = pass->tokens,
                                      .chunk_ids = rule->chunk_group ? pass->chunks.ids : (struct gpu_range){0},
                                      .chunk_weights = pass->chunks.weights,
                                      .chunk = rule->chunk_group,
                                      .ids = pass->chosen,
                                      .weights = pass->weights,
                                      .rows = (uint32_t)batch->rows,
                                      .experts = rule->experts,
                                      .used = rule->used,
                                      .groups = rule->groups,
                                      .groups_used = rule->groups_used,
                                      .gate = (int)rule->gate,
                                      .normalise = rule->normalise,
                                      .scale = rule->scale};
    divide(batch, experts);
    if (pass_is_adapted(batch, step->layer, ROLE_ROUTER)) {
        pass_multiply(batch, step->layer, &product, 1);
        gpu_barrier(pass->gpu);
        gpu_router(pass->gpu, &router);
    } else {
        gpu_route(pass->gpu, &product.job, &router);
    }
    gpu_barrier(pass->gpu);
    if (batch->rows > GPU_VECTOR_TOKENS) {
        gpu_expert_group(pass->gpu, pass->chosen, pass->groups, rule->experts, rule->used, (uint32_t)batch->rows);
        gpu_barrier(pass->gpu);
    }
    bool wanted = pass->mixture.in_place || pass->mixture.divided || batch->trace;
    return wanted && !reads_later(step, experts) ? hand_over(batch, experts, error) : HYPURA_OK;
}

/* ---- experts --------------------------------------------------------------------------------------------------------
 */

/* Sends the device's experts at once; the next batch of commands waits for the CPU's rows. Now that the device has
 * work, the CPU computes its share of the previous layer. */
static hypura_status run_divided(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    uint64_t value = ++pass->signals;
    pass_run_experts(batch, step, &pass->slots[step->layer]);
    TRY(pass_send(pass, error));
    TRY(pass_host_share(batch, error));
    pass->host_share.waiting = true;
    /* The rows that were handed over are normed. */
    pass->host_share.experts = steps_find(steps_of_layer(batch->open->steps, (uint32_t)step->layer), STEP_EXPERTS);
    pass->host_share.routed = pass->mixture.routed;
    pass->host_share.value = value;
    pass->host_share.said = pass->asked.made;
    pass_record(pass);
    gpu_await_host(pass->gpu, value);
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
                            .slots = mixture->divided ? pass->slots[mixture->layer].table : none,
                            .shared = m->side == BUFFER_NONE ? none : pass->rows[m->side],
                            .shared_gates = m->gates == BUFFER_NONE ? none : pass->rows[m->gates],
                            .used = m->used};
}
