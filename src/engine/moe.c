#include "engine/engine_private.h"

#include <math.h>
#include <string.h>

/* Gemma 4's router reads the residual stream through a norm and scales of its own. */
hypura_status router_input(struct engine *engine, const struct model_layer *layer, const float *state, float *out,
                           hypura_error *error)
{
    size_t width = model_parameters(engine->model)->embedding;
    TRY(norm(engine, out, state, layer->tensors[ROLE_ROUTER_SCALE], NO_UNIT, engine->rows, width, error));
    compute_scale(engine->compute, out, out, 1.0f / sqrtf((float)width), engine->rows * width);
    return HYPURA_OK;
}

/* Which experts each row wants, by the router of the layer. */
static hypura_status route(struct engine *engine, const struct model_layer *layer, struct held *held,
                           hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    bool own_input = layer->tensors[ROLE_ROUTER_SCALE] != NO_UNIT;
    if (own_input) {
        TRY(router_input(engine, layer, s->hidden, s->branch, error));
        activation_set(s->input, s->branch, engine->rows, p->embedding, p->embedding);
    }
    const float *selection_bias;
    struct matmul job = {.input = s->input, .tokens = engine->rows, .output = s->router, .output_stride = p->experts};
    TRY(hold_matrix(engine, held, layer->tensors[ROLE_ROUTER], &job.weights, error));
    TRY(hold_vector(engine, held, layer->tensors[ROLE_ROUTER_BIAS], &job.bias, error));
    TRY(hold_vector(engine, held, layer->tensors[ROLE_ROUTER_SELECTION_BIAS], &selection_bias, error));
    compute_matmul(engine->compute, &job, 1);
    adapt(engine, &job, layer, ROLE_ROUTER, 0, 0);
    router_choose(engine->compute, p, s->router, s->selection, selection_bias, engine->rows, s->chosen,
                  s->chosen_weights);
    if (own_input)
        activation_set(s->input, s->normed, engine->rows, p->embedding, p->embedding);
    release(engine, held);
    const float *scales; /* of what an expert gives */
    TRY(hold_vector(engine, held, layer->tensors[ROLE_EXPERT_SCALE], &scales, error));
    for (size_t i = 0; scales && i < engine->rows * p->experts_used; i++)
        s->chosen_weights[i] *= scales[s->chosen[i]];
    return HYPURA_OK;
}

/* Sorts the rows' choices by expert, and lists the experts that are needed in units[]; those elsewhere (NULL: there are
 * none) are left out. */
static uint32_t group_by_expert(struct engine *engine, const struct model_layer *layer, const bool *elsewhere)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t choices = engine->rows * p->experts_used;
    uint32_t *first = s->expert_first;
    memset(first, 0, (p->experts + 1) * sizeof *first);
    for (size_t i = 0; i < choices; i++)
        first[s->chosen[i] + 1] += !(elsewhere && elsewhere[s->chosen[i]]);
    uint32_t needed = 0;
    for (uint32_t e = 0; e < p->experts; e++) {
        if (first[e + 1])
            s->expert_units[needed++] = layer->first_expert + e;
        first[e + 1] += first[e];
    }
    /* Filling moves first[e] to its end, which is where the next begins: the table is shifted back afterwards. */
    for (size_t i = 0; i < choices; i++) {
        if (elsewhere && elsewhere[s->chosen[i]])
            continue;
        uint32_t place = first[s->chosen[i]]++;
        s->expert_token[place] = (uint32_t)(i / p->experts_used);
        s->expert_slot[place] = (uint32_t)i;
    }
    memmove(first + 1, first, p->experts * sizeof *first);
    first[0] = 0;
    return needed;
}

/* For engine_take_used, and for the cache. */
static void note_used(struct engine *engine, uint32_t number, uint32_t count)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    if (engine->rows > 1)
        store_note_tokens(engine->store, layer->first_expert, engine->scratch.chosen, engine->rows,
                          model_parameters(engine->model)->experts_used);
    atomic_bool *used = engine->used + (size_t)number * model_parameters(engine->model)->experts;
    for (uint32_t i = 0; i < count; i++)
        atomic_store_explicit(&used[engine->scratch.expert_units[i] - layer->first_expert], true, memory_order_relaxed);
}

/* Small tensors of all experts of a layer. */
struct expert_biases {
    const float *gate, *up, *down;
};

/* Experts whose weights are there, computed together: every product of the first kind, the gate, every product of the
 * second kind. Each writes rows of its own, so that which experts share a call changes nothing. */
struct expert_group {
    uint32_t count;
    uint32_t first, rows; /* of gate and up */
    uint32_t experts[64];
    struct store_view views[64];
};

/* Weights of what experts read: their products are linear, so the weight can come after them. */
static void weigh_inputs(struct engine *engine, const struct expert_group *group)
{
    struct scratch *s = &engine->scratch;
    size_t width = model_parameters(engine->model)->expert_feed_forward, row = group->first;
    for (uint32_t i = 0; i < group->count; i++)
        for (uint32_t at = s->expert_first[group->experts[i]]; at < s->expert_first[group->experts[i] + 1]; at++) {
            float weight = s->chosen_weights[s->expert_slot[at]];
            float *rows[] = {s->gate + row * width, s->up + row * width};
            for (size_t half = 0; half < COUNT_OF(rows); half++)
                compute_scale(engine->compute, rows[half], rows[half], weight, width);
            row++;
        }
}

static void compute_inner(struct engine *engine, const struct model_layer *layer, const struct expert_group *group,
                          const struct expert_biases *biases)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t width = p->expert_feed_forward;
    const struct unit *unit = model_unit(engine->model, layer->first_expert);
    bool fused = unit->slices[0].role == ROLE_EXPERT_GATE_UP;
    uint32_t row = group->first;
    for (uint32_t i = 0; i < group->count; i++) {
        uint32_t e = group->experts[i], first = s->expert_first[e], rows = s->expert_first[e + 1] - first;
        const uint8_t *const *slices = group->views[i].slices;
        struct matmul job = {
            .input = s->input, .input_rows = s->expert_token + first, .tokens = rows, .output_stride = width};
        struct matrix gate = matrix_at(slices[0], unit->slices[0].tensor->type, p->embedding, width);
        job.weights = gate;
        job.output = s->gate + row * width;
        job.bias = biases->gate ? biases->gate + e * width : NULL;
        s->jobs[2 * i] = job;
        if (fused)
            job.weights.data += width * gate.row_bytes;
        else
            job.weights = matrix_at(slices[1], unit->slices[1].tensor->type, p->embedding, width);
        job.output = s->up + row * width;
        job.bias = biases->up ? biases->up + e * width : NULL;
        s->jobs[2 * i + 1] = job;
        row += rows;
    }
    compute_matmul(engine->compute, s->jobs, 2 * group->count);
    for (uint32_t i = 0; i < group->count; i++) {
        adapt(engine, &s->jobs[2 * i], layer, unit->slices[0].role, group->experts[i], 0);
        adapt(engine, &s->jobs[2 * i + 1], layer, fused ? ROLE_EXPERT_GATE_UP : ROLE_EXPERT_UP, group->experts[i],
              fused ? width : 0);
    }
    if (model_architecture(engine->model)->flags & ARCHITECTURE_EXPERT_INPUT_WEIGHED)
        weigh_inputs(engine, group);
    float *gate = s->gate + group->first * width, *up = s->up + group->first * width;
    compute_glu(engine->compute, feed_forward_glu(engine->model), gate, width, gate, width, up, width, group->rows,
                width, OAI_ALPHA, OAI_LIMIT);
}

static void compute_down(struct engine *engine, const struct model_layer *layer, const struct expert_group *group,
                         const struct expert_biases *biases)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t width = p->expert_feed_forward;
    const struct unit *unit = model_unit(engine->model, layer->first_expert);
    uint32_t down = unit->slice_count - 1, row = 0;
    activation_set(s->inner, s->gate + group->first * width, group->rows, width, width);
    for (uint32_t i = 0; i < group->count; i++) {
        uint32_t e = group->experts[i], first = s->expert_first[e], rows = s->expert_first[e + 1] - first;
        s->jobs[i] = (struct matmul){
            .weights = matrix_at(group->views[i].slices[down], unit->slices[down].tensor->type, width, p->embedding),
            .input = s->inner,
            .input_rows = s->identity + row,
            .tokens = rows,
            .output = s->expert_out,
            .output_stride = p->embedding,
            .output_rows = s->expert_slot + first,
            .bias = biases->down ? biases->down + (size_t)e * p->embedding : NULL};
        row += rows;
    }
    compute_matmul(engine->compute, s->jobs, group->count);
    for (uint32_t i = 0; i < group->count; i++)
        adapt(engine, &s->jobs[i], layer, ROLE_EXPERT_DOWN, group->experts[i], 0);
}

/* Takes those of the waiting experts that are there, as many as the buffers hold beside one that was begun, out of
 * units[]. */
static hypura_status take_ready(struct engine *engine, const struct model_layer *layer, uint32_t *waiting,
                                const struct expert_group *begun, struct expert_group *group, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    uint32_t kept = 0;
    hypura_status status = HYPURA_OK;
    group->count = group->rows = 0;
    group->first = begun->rows;
    for (uint32_t i = 0; i < *waiting; i++) {
        unit_number unit = s->expert_units[i];
        uint32_t e = unit - layer->first_expert;
        uint32_t rows = s->expert_first[e + 1] - s->expert_first[e];
        bool fits = group->count < COUNT_OF(group->experts) && group->first + group->rows + rows <= s->expert_rows;
        if (!status && fits && !(begun->count && begun->experts[0] == e) && store_ready(engine->store, unit)) {
            status = store_get(engine->store, unit, &group->views[group->count], error);
            if (!status) {
                group->experts[group->count++] = e;
                group->rows += rows;
                continue;
            }
        }
        s->expert_units[kept++] = unit;
    }
    *waiting = kept;
    return status;
}

static void put_group(struct engine *engine, const struct model_layer *layer, struct expert_group *group)
{
    for (uint32_t i = 0; i < group->count; i++)
        store_put(engine->store, layer->first_expert + group->experts[i]);
    group->count = 0;
}

/* Of an expert whose last slice is still on its way what comes before that, while there is nothing else to do: what is
 * left when it arrives is a third. */
static void begin_expert(struct engine *engine, const struct model_layer *layer, uint32_t waiting, uint32_t slices,
                         const struct expert_biases *biases, struct expert_group *begun)
{
    struct scratch *s = &engine->scratch;
    for (uint32_t i = 0; i < waiting && begun->count == 0; i++) {
        uint32_t e = s->expert_units[i] - layer->first_expert;
        if (!store_peek(engine->store, s->expert_units[i], slices, &begun->views[0]))
            continue;
        begun->experts[begun->count++] = e;
        begun->rows = s->expert_first[e + 1] - s->expert_first[e];
        compute_inner(engine, layer, begun, biases);
    }
}

static hypura_status end_expert(struct engine *engine, const struct model_layer *layer, uint32_t *waiting,
                                const struct expert_biases *biases, struct expert_group *begun, hypura_error *error)
{
    unit_number unit = layer->first_expert + begun->experts[0], *units = engine->scratch.expert_units;
    TRY(store_get(engine->store, unit, &begun->views[0], error));
    compute_down(engine, layer, begun, biases);
    put_group(engine, layer, begun);
    begun->rows = 0;
    uint32_t at = 0;
    while (units[at] != unit)
        at++;
    memmove(units + at, units + at + 1, (--*waiting - at) * sizeof *units);
    return HYPURA_OK;
}

/* What comes before a smaller last slice takes as long to begin as to compute. */
#define BEGUN_LEAST_BYTES ((uint64_t)1 << 20)

/* Slices of an expert with which it is worth beginning; 0: none. What was begun needs rows of its own. */
static uint32_t slices_to_begin(const struct engine *engine, const struct model_layer *layer)
{
    const struct unit *unit = model_unit(engine->model, layer->first_expert);
    uint32_t last = unit->slice_count - 1;
    bool all_fit = engine->rows * model_parameters(engine->model)->experts_used <= engine->scratch.expert_rows;
    return all_fit && unit->slices[last].bytes >= BEGUN_LEAST_BYTES ? last : 0;
}

/* Hits first, then misses as they arrive. */
static hypura_status run_experts(struct engine *engine, const struct model_layer *layer, uint32_t *waiting,
                                 const struct expert_biases *biases, hypura_error *error)
{
    struct expert_group group = {0}, begun = {0};
    const struct scratch *s = &engine->scratch;
    uint32_t slices = slices_to_begin(engine, layer);
    hypura_status status = HYPURA_OK;
    size_t index;
    for (uint32_t i = 0; engine->wait_for_all && !status && i < *waiting; i++)
        status = store_wait_any(engine->store, s->expert_units + i, 1, 0, &index, error);
    while (!status && *waiting) {
        status = take_ready(engine, layer, waiting, &begun, &group, error);
        bool none = group.count == 0;
        if (!status && !none) {
            compute_inner(engine, layer, &group, biases);
            compute_down(engine, layer, &group, biases);
        }
        put_group(engine, layer, &group);
        if (status || !none)
            continue;
        if (begun.count && store_ready(engine->store, layer->first_expert + begun.experts[0])) {
            status = end_expert(engine, layer, waiting, biases, &begun, error);
            continue;
        }
        if (begun.count == 0)
            begin_expert(engine, layer, *waiting, slices, biases, &begun);
        status = store_wait_any(engine->store, s->expert_units, *waiting, begun.count ? 0 : slices, &index, error);
    }
    return status;
}

/* ---- shared experts ------------------------------------------------------------------------------------------------
 */

/* Every token passes them, so they run while the reads of the chosen ones are under way. Where they have a router of
 * their own (Qwen), its sigmoid weighs them. */
static hypura_status run_shared(struct engine *engine, const struct model_layer *layer, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    if (layer->tensors[ROLE_FFN_UP] != NO_UNIT) {
        /* A dense feed forward beside the experts, which have norms of their own. */
        TRY(dense_feed_forward(engine, layer, ROLE_FFN_GATE, ROLE_FFN_UP, ROLE_FFN_DOWN, layer->feed_forward,
                               s->shared_out, error));
        if (layer->tensors[ROLE_FFN_DENSE_POST_NORM] != NO_UNIT)
            TRY(norm(engine, s->shared_out, s->shared_out, layer->tensors[ROLE_FFN_DENSE_POST_NORM], NO_UNIT,
                     engine->rows, p->embedding, error));
        return HYPURA_OK;
    }
    if (p->shared_feed_forward == 0)
        return HYPURA_OK;
    bool weighed = layer->tensors[ROLE_SHARED_ROUTER] != NO_UNIT;
    if (weighed) {
        TRY(project_rows(engine, layer, ROLE_SHARED_ROUTER, false, NULL, s->shared_weights, error));
        compute_function(engine->compute, FUNCTION_SIGMOID, s->shared_weights, engine->rows);
    }
    TRY(dense_feed_forward(engine, layer, ROLE_SHARED_GATE, ROLE_SHARED_UP, ROLE_SHARED_DOWN, p->shared_feed_forward,
                           s->shared_out, error));
    for (size_t r = 0; weighed && r < engine->rows; r++) {
        float *row = s->shared_out + r * p->embedding;
        compute_scale(engine->compute, row, row, s->shared_weights[r], p->embedding);
    }
    return HYPURA_OK;
}

/* ---- the sum -------------------------------------------------------------------------------------------------------
 */

/* A parallel section costs about as much as so many elements. */
#define PARALLEL_ELEMENTS ((size_t)16 << 10)

struct mix {
    const struct scratch *scratch;
    size_t width, used;
    bool shared;
    bool weighed; /* already, at the input */
};

/* In the router's order, whichever expert came first. */
static void mix_row(void *context, size_t row, size_t worker)
{
    const struct mix *mix = context;
    (void)worker;
    float *out = mix->scratch->branch + row * mix->width;
    for (size_t i = 0; i < mix->used; i++) {
        const float *expert = mix->scratch->expert_out + (row * mix->used + i) * mix->width;
        float weight = mix->weighed ? 1.0f : mix->scratch->chosen_weights[row * mix->used + i];
        if (i == 0)
            for (size_t c = 0; c < mix->width; c++)
                out[c] = weight * expert[c];
        else
            for (size_t c = 0; c < mix->width; c++)
                out[c] += weight * expert[c];
    }
    if (mix->shared)
        for (size_t c = 0; c < mix->width; c++)
            out[c] += mix->scratch->shared_out[row * mix->width + c];
}

static hypura_status mix_experts(struct engine *engine, const struct model_layer *layer, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    struct mix mix = {.scratch = s, .width = p->embedding, .used = p->experts_used};
    bool shared = p->shared_feed_forward != 0 || layer->tensors[ROLE_FFN_UP] != NO_UNIT;
    bool normed = layer->tensors[ROLE_EXPERT_POST_NORM] != NO_UNIT;
    mix.shared = shared && !normed;
    mix.weighed = model_architecture(engine->model)->flags & ARCHITECTURE_EXPERT_INPUT_WEIGHED;
    if (engine->rows * mix.used * mix.width < PARALLEL_ELEMENTS)
        for (size_t row = 0; row < engine->rows; row++)
            mix_row(&mix, row, 0);
    else
        thread_pool_run(compute_pool(engine->compute), mix_row, &mix, engine->rows);
    if (!normed)
        return HYPURA_OK;
    TRY(norm(engine, s->branch, s->branch, layer->tensors[ROLE_EXPERT_POST_NORM], NO_UNIT, engine->rows, p->embedding,
             error));
    if (shared)
        compute_add(engine->compute, s->branch, s->branch, s->shared_out, engine->rows * p->embedding);
    return HYPURA_OK;
}

static hypura_status hold_biases(struct engine *engine, const struct model_layer *layer, struct held *held,
                                 struct expert_biases *out, hypura_error *error)
{
    TRY(hold_vector(engine, held, layer->tensors[ROLE_EXPERT_GATE_BIAS], &out->gate, error));
    TRY(hold_vector(engine, held, layer->tensors[ROLE_EXPERT_UP_BIAS], &out->up, error));
    return hold_vector(engine, held, layer->tensors[ROLE_EXPERT_DOWN_BIAS], &out->down, error);
}

hypura_status run_chosen_experts(struct engine *engine, uint32_t number, const bool *elsewhere, hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    struct scratch *s = &engine->scratch;
    struct expert_biases biases = {0};
    struct held held = {0};
    uint32_t waiting = group_by_expert(engine, layer, elsewhere);
    note_used(engine, number, waiting);
    hypura_status status = store_want(engine->store, s->expert_units, waiting, error);
    guess_prompt(engine, number);
    if (!status)
        status = hold_biases(engine, layer, &held, &biases, error);
    if (!status)
        status = run_experts(engine, layer, &waiting, &biases, error);
    release(engine, &held);
    if (status)
        store_forget(engine->store, s->expert_units, waiting);
    return status;
}

hypura_status moe_feed_forward(struct engine *engine, uint32_t number, hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    struct scratch *s = &engine->scratch;
    struct expert_biases biases = {0};
    struct held held = {0};
    uint32_t waiting = 0;
    hypura_status status = route(engine, layer, &held, error);
    release(engine, &held);
    if (!status && engine->trace)
        status = trace_writer_layer(engine->trace, number, s->chosen, error);
    if (!status) {
        guess_check(engine, number);
        waiting = group_by_expert(engine, layer, NULL);
        note_used(engine, number, waiting);
        status = store_want(engine->store, s->expert_units, waiting, error);
        guess_prompt(engine, number);
    }
    if (!status)
        status = run_shared(engine, layer, error);
    if (!status && layer->tensors[ROLE_EXPERT_NORM] != NO_UNIT)
        status = set_input(engine, layer, ROLE_EXPERT_NORM, error);
    if (!status)
        status = hold_biases(engine, layer, &held, &biases, error);
    if (!status)
        status = run_experts(engine, layer, &waiting, &biases, error);
    release(engine, &held);
    if (status) {
        store_forget(engine->store, s->expert_units, waiting);
        return status;
    }
    return mix_experts(engine, layer, error);
}
