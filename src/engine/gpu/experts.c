#include "engine/gpu/pass.h"

#include <math.h>
#include <string.h>

/* ---- commands ------------------------------------------------------------------------------------------------------
 */

/* Whether there is a dense feed forward beside the experts, and norms and a router input of their own (Gemma 4). */
static bool has_dense_beside(const struct model_layer *layer)
{
    return layer->tensors[ROLE_ROUTER_SCALE] != NO_UNIT;
}

/* What the router reads. */
static struct gpu_range router_rows(struct engine *engine, const struct model_layer *layer)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    if (!has_dense_beside(layer))
        return pass_input(engine, layer->tensors[ROLE_FFN_NORM]);
    gpu_rms_norm(pass->gpu, pass->branch, pass->hidden, pass_vector(engine, layer->tensors[ROLE_ROUTER_SCALE]),
                 (struct gpu_range){0}, (uint32_t)engine->rows, p->embedding, p->norm_epsilon);
    gpu_barrier(pass->gpu);
    gpu_scale(pass->gpu, pass->branch, pass->branch, 1.0f / sqrtf((float)p->embedding),
              engine->rows * (uint64_t)p->embedding);
    gpu_barrier(pass->gpu);
    return pass->branch;
}

static void choose(struct engine *engine, const struct model_layer *layer)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    const struct gpu_range rows = router_rows(engine, layer);
    struct pass_product products[2] = {{.role = ROLE_ROUTER,
                                        .job = {.weights = pass_matrix(engine, layer->tensors[ROLE_ROUTER]),
                                                .in = rows,
                                                .out = pass->router,
                                                .bias = pass_vector(engine, layer->tensors[ROLE_ROUTER_BIAS]),
                                                .tokens = (uint32_t)engine->rows,
                                                .in_stride = p->embedding,
                                                .out_stride = p->experts}}};
    bool weighed = layer->tensors[ROLE_SHARED_ROUTER] != NO_UNIT;
    if (weighed) {
        products[1] = products[0];
        products[1].role = ROLE_SHARED_ROUTER;
        products[1].job.weights = pass_matrix(engine, layer->tensors[ROLE_SHARED_ROUTER]);
        products[1].job.bias = (struct gpu_range){0};
        products[1].job.out = pass->shared_gates;
        products[1].job.out_stride = 1;
    }
    pass_multiply(engine, layer, products, weighed ? 2 : 1);
    gpu_barrier(pass->gpu);
    struct gpu_router router = {.logits = pass->router,
                                .selection_bias = pass_vector(engine, layer->tensors[ROLE_ROUTER_SELECTION_BIAS]),
                                .expert_scales = pass_vector(engine, layer->tensors[ROLE_EXPERT_SCALE]),
                                .ids = pass->chosen,
                                .weights = pass->weights,
                                .rows = (uint32_t)engine->rows,
                                .experts = p->experts,
                                .used = p->experts_used,
                                .groups = p->expert_groups,
                                .groups_used = p->expert_groups_used,
                                .gate = (int)p->router_gate,
                                .normalise = p->router_normalise,
                                .scale = p->router_scale};
    gpu_router(pass->gpu, &router);
    gpu_barrier(pass->gpu);
    if (engine->rows <= GPU_VECTOR_TOKENS)
        return;
    gpu_expert_group(pass->gpu, pass->chosen, pass->groups, p->experts, p->experts_used, (uint32_t)engine->rows);
    gpu_barrier(pass->gpu);
}

static struct gpu_expert_matmul expert_job(const struct engine *engine, const struct model_layer *layer,
                                           const struct store_slots *slots, uint32_t slice, uint32_t columns,
                                           uint32_t rows)
{
    const struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    struct gpu_range table = slots->tables[slice].buffer ? slots->tables[slice] : slots->table;
    enum tensor_type type = model_unit(engine->model, layer->first_expert)->slices[slice].tensor->type;
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
                                      .experts = p->experts,
                                      .used = p->experts_used,
                                      .tokens = (uint32_t)engine->rows};
}

/* Weights multiply what experts read (Llama 4): being linear, their products. */
static bool weighs_inputs(const struct engine *engine)
{
    return model_architecture(engine->model)->flags & ARCHITECTURE_EXPERT_INPUT_WEIGHED;
}

void pass_run_experts(struct engine *engine, uint32_t number, const struct store_slots *slots)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    const struct unit *unit = model_unit(engine->model, layer->first_expert);
    uint32_t rows = (uint32_t)engine->rows, inner = p->expert_feed_forward, down = unit->slice_count - 1;
    bool fused = unit->slices[0].role == ROLE_EXPERT_GATE_UP;
    if (slots->count == 0)
        return;
    struct gpu_expert_matmul jobs[2];
    for (uint32_t i = 0; i < 2; i++) {
        jobs[i] = expert_job(engine, layer, slots, fused ? 0 : i, p->embedding, inner);
        jobs[i].in = pass_input(engine, layer->tensors[ROLE_FFN_NORM]);
        jobs[i].in_halves = pass_input_halves(engine, layer->tensors[ROLE_FFN_NORM]);
        jobs[i].out = i == 0 ? pass->gate : pass->up;
        jobs[i].bias = pass_vector(engine, layer->tensors[i == 0 ? ROLE_EXPERT_GATE_BIAS : ROLE_EXPERT_UP_BIAS]);
    }
    if (fused)
        jobs[1].weights.data.offset += inner * jobs[1].weights.row_bytes;
    struct gpu_expert_matmul job = expert_job(engine, layer, slots, down, inner, p->embedding);
    const struct gpu_glu_kind glu = pass_glu_kind(engine);
    bool halves = false, weighed = weighs_inputs(engine);
    if (weighed) {
        gpu_expert_matmul(pass->gpu, jobs, 2);
        gpu_barrier(pass->gpu);
        gpu_glu_weighed(pass->gpu, glu.kind, pass->gate, pass->gate, pass->up, pass->weights, rows * p->experts_used,
                        inner, inner, inner, glu.alpha, glu.limit);
        gpu_barrier(pass->gpu);
    } else if (gpu_expert_matmul_glu(pass->gpu, jobs, &glu)) {
        gpu_barrier(pass->gpu);
    } else {
        gpu_expert_matmul(pass->gpu, jobs, 2);
        gpu_barrier(pass->gpu);
        halves = pass_glu(engine, &job.weights, job.slot_stride, rows * p->experts_used, inner, true);
    }
    job.in = halves ? (struct gpu_range){0} : pass->gate;
    job.in_halves = halves ? pass->inner_halves : (struct gpu_range){0};
    job.out = pass->expert_out;
    job.bias = pass_vector(engine, layer->tensors[ROLE_EXPERT_DOWN_BIAS]);
    job.per_choice = true;
    gpu_expert_matmul(pass->gpu, &job, 1);
    gpu_barrier(pass->gpu);
}

/* What the CPU needs for its share. */
static void read_back(struct engine *engine, const struct model_layer *layer)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    uint64_t choices = engine->rows * (uint64_t)p->experts_used;
    gpu_copy(pass->gpu, pass->back_parts.chosen.range, pass->chosen, choices * sizeof(uint32_t));
    gpu_copy(pass->gpu, pass->back_parts.weights.range, pass->weights, choices * sizeof(float));
    gpu_copy(pass->gpu, pass->back_parts.normed.range, pass_input(engine, layer->tensors[ROLE_FFN_NORM]),
             engine->rows * p->embedding * sizeof(float));
}

/* The dense feed forward of all rows, and then what experts read in place of what it read. */
static void run_dense_beside(struct engine *engine, const struct model_layer *layer)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    unit_number norm = layer->tensors[ROLE_FFN_DENSE_POST_NORM];
    pass_dense(engine, layer, ROLE_FFN_GATE, ROLE_FFN_UP, ROLE_FFN_DOWN, layer->feed_forward, pass->shared_out, false);
    gpu_barrier(pass->gpu);
    if (norm != NO_UNIT)
        gpu_rms_norm(pass->gpu, pass->shared_out, pass->shared_out, pass_vector(engine, norm), (struct gpu_range){0},
                     (uint32_t)engine->rows, p->embedding, p->norm_epsilon);
    pass_norm_hidden(engine, layer->tensors[ROLE_EXPERT_NORM]);
}

/* Adds the sum of the experts, which has a norm of its own, to what the dense feed forward gave. */
static void add_to_dense(struct engine *engine, const struct model_layer *layer, const struct gpu_mix *mix)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    gpu_residual(pass->gpu,
                 &(struct gpu_residual){.hidden = pass->shared_out,
                                        .post_norm = pass_vector(engine, layer->tensors[ROLE_EXPERT_POST_NORM]),
                                        .scale = 1.0f,
                                        .epsilon = p->norm_epsilon,
                                        .rows = (uint32_t)engine->rows,
                                        .columns = p->embedding,
                                        .mix = *mix});
    gpu_barrier(pass->gpu);
}

hypura_status pass_experts(struct engine *engine, uint32_t number, unit_number next_norm, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    bool missing = pass->slots[number].count < p->experts, in_place = missing && pass_reads_in_place(engine, number);
    bool visits = missing && !in_place && pass_should_visit(engine, number);
    bool divided = missing && !in_place && !visits;
    choose(engine, layer);
    if (has_dense_beside(layer))
        run_dense_beside(engine, layer);
    uint64_t value = 0;
    if (in_place) {
        TRY(pass_in_place(engine, number, error));
    } else if (divided || engine->trace) {
        read_back(engine, layer);
        TRY(pass_send(pass, error));
        gpu_ticket routed = pass->last;
        /* The layer before this one has its turn now that there is work for the device. */
        pass_record(pass);
        value = ++pass->signals;
        if (p->shared_feed_forward)
            pass_dense(engine, layer, ROLE_SHARED_GATE, ROLE_SHARED_UP, ROLE_SHARED_DOWN, p->shared_feed_forward,
                       pass->shared_out, false);
        gpu_barrier(pass->gpu);
        pass_run_experts(engine, number, &pass->slots[number]);
        TRY(pass_send(pass, error));
        TRY(pass_host_share(engine, error));
        pass->host_share.waiting = true;
        pass->host_share.layer = number;
        pass->host_share.routed = routed;
        pass->host_share.value = value;
        pass_record(pass);
        pass->wait_value = value;
    } else {
        if (p->shared_feed_forward)
            pass_dense(engine, layer, ROLE_SHARED_GATE, ROLE_SHARED_UP, ROLE_SHARED_DOWN, p->shared_feed_forward,
                       pass->shared_out, false);
        gpu_barrier(pass->gpu);
        pass_run_experts(engine, number, &pass->slots[number]);
        if (visits)
            TRY(pass_visit(engine, number, error));
    }
    struct gpu_mix mix = {.device_rows = pass->expert_out,
                          .host_rows = divided ? pass->up_parts.expert_rows.range : (struct gpu_range){0},
                          .ids = pass->chosen,
                          .weights = weighs_inputs(engine) ? (struct gpu_range){0} : pass->weights,
                          .slots = visits || in_place ? (struct gpu_range){0} : pass->slots[number].table,
                          .shared = p->shared_feed_forward ? pass->shared_out : (struct gpu_range){0},
                          .used = p->experts_used};
    if (layer->tensors[ROLE_SHARED_ROUTER] != NO_UNIT)
        mix.shared_gates = pass->shared_gates;
    bool beside = has_dense_beside(layer);
    if (beside)
        add_to_dense(engine, layer, &mix);
    pass_add_branch(engine, pass->shared_out, layer->tensors[ROLE_FFN_POST_NORM], layer->tensors[ROLE_LAYER_SCALE],
                    next_norm, beside ? NULL : &mix);
    return HYPURA_OK;
}

/* ---- the CPU's share ------------------------------------------------------------------------------------------------
 */

static bool any_in_memory(const struct engine *engine, size_t choices)
{
    for (size_t i = 0; i < choices; i++)
        if (!engine->pass->there[engine->scratch.chosen[i]])
            return true;
    return false;
}

static void note_uses(struct engine *engine, const struct model_layer *layer, size_t choices)
{
    unit_number units[64];
    for (size_t first = 0, count; first < choices; first += count) {
        count = MIN(choices - first, COUNT_OF(units));
        for (size_t i = 0; i < count; i++)
            units[i] = layer->first_expert + engine->scratch.chosen[first + i];
        store_note_uses(engine->store, units, count);
    }
}

hypura_status pass_take_choices(struct engine *engine, uint32_t number, hypura_error *error)
{
    const struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t choices = engine->rows * p->experts_used;
    memcpy(s->chosen, pass->back_parts.chosen.host, choices * sizeof *s->chosen);
    memcpy(s->chosen_weights, pass->back_parts.weights.host, choices * sizeof *s->chosen_weights);
    for (size_t i = 0; i < choices; i++)
        if (s->chosen[i] >= p->experts)
            return error_set(error, HYPURA_ERROR_DEVICE, "the GPU chose expert %u of %u in layer %u", s->chosen[i],
                             p->experts, number);
    if (engine->trace)
        TRY(trace_writer_layer(engine->trace, number, s->chosen, error));
    note_uses(engine, model_layer(engine->model, number), choices);
    return HYPURA_OK;
}

static hypura_status compute_share(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    uint32_t number = pass->host_share.layer;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t choices = engine->rows * p->experts_used, width = p->embedding;
    TRY(gpu_wait(pass->gpu, pass->host_share.routed, error));
    TRY(pass_take_choices(engine, number, error));
    store_on_device(engine->store, layer->first_expert, p->experts, pass->there);
    if (!any_in_memory(engine, choices))
        return HYPURA_OK;
    memcpy(s->buffers[BUFFER_NORMED], pass->back_parts.normed.host, engine->rows * width * sizeof(float));
    forget_inputs(engine, 1u << BUFFER_NORMED);
    TRY(run_chosen_experts(engine, steps_find(steps_of_layer(engine->steps, number), STEP_EXPERTS), pass->there,
                           error));
    float *rows = pass->up_parts.expert_rows.host;
    for (size_t i = 0; i < choices; i++)
        if (!pass->there[s->chosen[i]])
            memcpy(rows + i * width, s->expert_out + i * width, width * sizeof *rows);
    return HYPURA_OK;
}

hypura_status pass_host_share(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    if (!pass->host_share.waiting)
        return HYPURA_OK;
    TRY(compute_share(engine, error));
    TRY(gpu_signal_host(pass->gpu, pass->host_share.value, error));
    pass->host_share.waiting = false;
    return HYPURA_OK;
}
