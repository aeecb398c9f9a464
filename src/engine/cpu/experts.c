/* Mixtures of experts: the router's choice, the chosen experts as they arrive, and their sum. */
#include "engine/cluster/share.h"
#include "engine/cpu/execute.h"

#include <string.h>

/* Chooses the experts of each row, and their weights. */
static hypura_status choose(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_route *r = &step->route;
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    const float *selection_bias, *scales;
    struct matmul job = {.input = input_of(batch, r->in, p->embedding, p->embedding, 0),
                         .tokens = batch->rows,
                         .output = s->router,
                         .output_stride = r->rule.experts};
    if (r->table != NO_UNIT)
        TRY(known_experts(batch, r, s->chosen, error));
    TRY(hold_matrix(batch, held, r->router, &job.weights, error));
    TRY(hold_vector(batch, held, r->bias, &job.bias, error));
    TRY(hold_vector(batch, held, r->selection_bias, &selection_bias, error));
    TRY(hold_vector(batch, held, r->expert_scales, &scales, error));
    expect_next(batch);
    compute_matmul(batch->compute, &job, 1);
    adapt(batch, &job, step->layer, ROLE_ROUTER, 0, 0);
    if (r->table == NO_UNIT) {
        router_choose(batch->compute, &r->rule, s->router, s->selection, selection_bias, batch->rows, s->chosen,
                      s->chosen_weights);
    } else {
        router_weigh(batch->compute, &r->rule, s->router, batch->rows, s->chosen, s->chosen_weights);
    }
    for (size_t i = 0; scales && i < batch->rows * r->rule.used; i++)
        s->chosen_weights[i] *= scales[s->chosen[i]];
    /* A shared expert's weight is the router's value for the expert whose number is that of the group. */
    for (size_t i = 0; r->rule.chunk_group && i < batch->rows * r->rule.used; i++)
        s->chunk_weights[i] = s->router[i / r->rule.used * r->rule.experts + s->chosen[i] / r->rule.chunk_group];
    return HYPURA_OK;
}

/* Whether a device (elsewhere, or NULL) or another host computes this expert of the layer. */
static bool is_elsewhere(const struct batch *batch, unit_number first_expert, const bool *elsewhere, uint32_t expert)
{
    const struct plan *plan = batch->open->plan;
    return (elsewhere && elsewhere[expert]) || (plan->elsewhere && plan->elsewhere[first_expert + expert]);
}

/* Sorts the rows' choices by expert, lists the needed experts in expert_units[], and returns their number. Leaves out
 * those that are computed elsewhere. */
static uint32_t group_by_expert(struct batch *batch, unit_number first_expert, const bool *elsewhere)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    size_t choices = batch->rows * p->experts_used;
    uint32_t *first = s->expert_first;
    memset(first, 0, (p->experts + 1) * sizeof *first);
    for (size_t i = 0; i < choices; i++)
        first[s->chosen[i] + 1] += !is_elsewhere(batch, first_expert, elsewhere, s->chosen[i]);
    uint32_t needed = 0;
    for (uint32_t e = 0; e < p->experts; e++) {
        if (first[e + 1])
            s->expert_units[needed++] = first_expert + e;
        first[e + 1] += first[e];
    }
    /* Filling moves first[e] to its end, where the next expert begins, so the table is shifted back afterwards. */
    for (size_t i = 0; i < choices; i++) {
        if (is_elsewhere(batch, first_expert, elsewhere, s->chosen[i]))
            continue;
        uint32_t place = first[s->chosen[i]]++;
        s->expert_token[place] = (uint32_t)(i / p->experts_used);
        s->expert_slot[place] = (uint32_t)i;
    }
    memmove(first + 1, first, p->experts * sizeof *first);
    first[0] = 0;
    return needed;
}

/* Notes used experts, for engine_take_used and for the cache. */
static void note_used(struct batch *batch, uint32_t number, unit_number first_expert, uint32_t count)
{
    if (batch->rows > 1)
        store_note_tokens(batch->open->store, first_expert, batch->scratch.chosen, batch->rows,
                          model_parameters(batch->open->model)->experts_used);
    if (number >= model_parameters(batch->open->model)->layers)
        return; /* a prediction block */
    atomic_bool *used = batch->counters->used + (size_t)number * model_parameters(batch->open->model)->experts;
    for (uint32_t i = 0; i < count; i++)
        atomic_store_explicit(&used[batch->scratch.expert_units[i] - first_expert], true, memory_order_relaxed);
}

/* Small tensors of all experts of a layer; NULL: none. */
struct expert_biases {
    const float *gate, *up, *down;
    const float *gate_scale, *up_scale, *down_scale;
};

/* A bias is added after the scale, so products with a scale leave it out. */
static const float *bias_of(const float *biases, const float *scales, uint32_t expert, size_t width)
{
    return biases && !scales ? biases + expert * width : NULL;
}

static void scale_expert(struct batch *batch, const struct matmul *job, const float *scales, const float *biases,
                         uint32_t expert)
{
    if (scales)
        scale_job(batch, job, scales[expert], biases ? biases + expert * job->weights.rows : NULL);
}

/* Experts whose weights have arrived, computed together: all gate and up products, the activation, all down products.
 * Each writes its own rows, so the grouping changes no bit. */
struct expert_group {
    uint32_t count;
    uint32_t first, rows; /* of gate and up */
    uint32_t experts[64];
    struct store_view views[64];
};

/* Applies the weights of experts' inputs: the products are linear, so the weights can follow them. */
static void weigh_inputs(struct batch *batch, size_t width, const struct expert_group *group)
{
    struct scratch *s = &batch->scratch;
    size_t row = group->first;
    for (uint32_t i = 0; i < group->count; i++)
        for (uint32_t at = s->expert_first[group->experts[i]]; at < s->expert_first[group->experts[i] + 1]; at++) {
            float weight = s->chosen_weights[s->expert_slot[at]];
            float *rows[] = {rows_of(batch, BUFFER_GATE) + row * width, rows_of(batch, BUFFER_UP) + row * width};
            for (size_t half = 0; half < COUNT_OF(rows); half++)
                compute_scale(batch->compute, rows[half], rows[half], weight, width);
            row++;
        }
}

/* The down matrices are multiplied right after the others. */
static void expect_down(struct batch *batch, const struct step *step, const struct expert_group *group)
{
    const struct unit *unit = model_unit(batch->open->model, step->experts.first);
    const uint32_t down = unit->slice_count - 1;
    struct matrix weights[COUNT_OF(group->views)];
    for (uint32_t i = 0; i < group->count; i++)
        weights[i] = matrix_at(group->views[i].slices[down], unit->slices[down].tensor->type, step->experts.width,
                               step->experts.columns);
    compute_expect(batch->compute, weights, group->rows == group->count ? group->count : 0, 1);
}

/* Experts with two matrices: the first one's result serves as its own gate. */
static void compute_inner_ungated(struct batch *batch, const struct step *step, const struct expert_group *group,
                                  const struct expert_biases *biases)
{
    const struct step_experts *x = &step->experts;
    struct scratch *s = &batch->scratch;
    const size_t width = x->width, columns = x->columns;
    const struct unit_slice *up = &model_unit(batch->open->model, x->first)->slices[0];
    float *rows = rows_of(batch, BUFFER_GATE) + group->first * width, *out = rows;
    for (uint32_t i = 0; i < group->count; i++) {
        uint32_t e = group->experts[i], first = s->expert_first[e];
        s->jobs[i] = (struct matmul){.weights = matrix_at(group->views[i].slices[0], up->tensor->type, columns, width),
                                     .input = input_of(batch, x->in, columns, columns, 0),
                                     .input_rows = s->expert_token + first,
                                     .tokens = s->expert_first[e + 1] - first,
                                     .output = out,
                                     .output_stride = width,
                                     .bias = bias_of(biases->up, biases->up_scale, e, width)};
        out += s->jobs[i].tokens * width;
    }
    expect_down(batch, step, group);
    compute_matmul(batch->compute, s->jobs, group->count);
    for (uint32_t i = 0; i < group->count; i++)
        scale_expert(batch, &s->jobs[i], biases->up_scale, biases->up, group->experts[i]);
    for (uint32_t i = 0; i < group->count; i++)
        adapt(batch, &s->jobs[i], step->layer, ROLE_EXPERT_UP, group->experts[i], 0);
    for (uint32_t i = 0; i < group->count; i++)
        watch_inputs(batch, up, group->experts[i], &s->jobs[i]);
    if (x->alone)
        compute_function(batch->compute, FUNCTION_GELU, rows, group->rows * width);
    else
        compute_glu(batch->compute, x->glu, rows, width, rows, width, rows, width, group->rows, width, x->alpha,
                    x->limit);
}

static void compute_inner(struct batch *batch, const struct step *step, const struct expert_group *group,
                          const struct expert_biases *biases)
{
    if (step->experts.ungated) {
        compute_inner_ungated(batch, step, group, biases);
        return;
    }
    const struct step_experts *x = &step->experts;
    struct scratch *s = &batch->scratch;
    size_t width = x->width;
    const struct unit *unit = model_unit(batch->open->model, x->first);
    struct activation *input = input_of(batch, x->in, x->columns, x->columns, 0);
    float *gates = rows_of(batch, BUFFER_GATE), *ups = rows_of(batch, BUFFER_UP);
    bool fused = x->gate_up_rows;
    uint32_t row = group->first;
    for (uint32_t i = 0; i < group->count; i++) {
        uint32_t e = group->experts[i], first = s->expert_first[e], rows = s->expert_first[e + 1] - first;
        const uint8_t *const *slices = group->views[i].slices;
        struct matmul job = {
            .input = input, .input_rows = s->expert_token + first, .tokens = rows, .output_stride = width};
        struct matrix gate = matrix_at(slices[0], unit->slices[0].tensor->type, x->columns, width);
        job.weights = gate;
        job.output = gates + row * width;
        job.bias = bias_of(biases->gate, biases->gate_scale, e, width);
        s->jobs[2 * i] = job;
        if (fused)
            job.weights.data += width * gate.row_bytes;
        else
            job.weights = matrix_at(slices[1], unit->slices[1].tensor->type, x->columns, width);
        job.output = ups + row * width;
        job.bias = bias_of(biases->up, biases->up_scale, e, width);
        s->jobs[2 * i + 1] = job;
        row += rows;
    }
    expect_down(batch, step, group);
    compute_matmul(batch->compute, s->jobs, 2 * group->count);
    for (uint32_t i = 0; i < group->count; i++) {
        scale_expert(batch, &s->jobs[2 * i], biases->gate_scale, biases->gate, group->experts[i]);
        scale_expert(batch, &s->jobs[2 * i + 1], biases->up_scale, biases->up, group->experts[i]);
        adapt(batch, &s->jobs[2 * i], step->layer, unit->slices[0].role, group->experts[i], 0);
        adapt(batch, &s->jobs[2 * i + 1], step->layer, fused ? ROLE_EXPERT_GATE_UP : ROLE_EXPERT_UP, group->experts[i],
              fused ? width : 0);
        watch_inputs(batch, &unit->slices[0], group->experts[i], &s->jobs[2 * i]);
        if (!fused)
            watch_inputs(batch, &unit->slices[1], group->experts[i], &s->jobs[2 * i + 1]);
    }
    if (x->weighs_input)
        weigh_inputs(batch, width, group);
    float *gate = gates + group->first * width, *up = ups + group->first * width;
    compute_glu(batch->compute, x->glu, gate, width, gate, width, up, width, group->rows, width, x->alpha, x->limit);
}

static void compute_down(struct batch *batch, const struct step *step, const struct expert_group *group,
                         const struct expert_biases *biases)
{
    struct scratch *s = &batch->scratch;
    size_t width = step->experts.width, columns = step->experts.columns;
    const struct unit *unit = model_unit(batch->open->model, step->experts.first);
    struct activation *inner = s->inputs[1].activation;
    uint32_t down = unit->slice_count - 1, row = 0;
    activation_set(inner, rows_of(batch, BUFFER_GATE) + group->first * width, group->rows, width, width);
    for (uint32_t i = 0; i < group->count; i++) {
        uint32_t e = group->experts[i], first = s->expert_first[e], rows = s->expert_first[e + 1] - first;
        s->jobs[i] = (struct matmul){
            .weights = matrix_at(group->views[i].slices[down], unit->slices[down].tensor->type, width, columns),
            .input = inner,
            .input_rows = s->identity + row,
            .tokens = rows,
            .output = s->expert_out,
            .output_stride = columns,
            .output_rows = s->expert_slot + first,
            .bias = bias_of(biases->down, biases->down_scale, e, columns)};
        row += rows;
    }
    expect_next(batch);
    compute_matmul(batch->compute, s->jobs, group->count);
    for (uint32_t i = 0; i < group->count; i++)
        scale_expert(batch, &s->jobs[i], biases->down_scale, biases->down, group->experts[i]);
    for (uint32_t i = 0; i < group->count; i++)
        adapt(batch, &s->jobs[i], step->layer, ROLE_EXPERT_DOWN, group->experts[i], 0);
    for (uint32_t i = 0; i < group->count; i++)
        watch_inputs(batch, &unit->slices[down], group->experts[i], &s->jobs[i]);
}

/* Takes experts that have arrived out of expert_units[], as many as fit into the buffers next to the one that was
 * begun. */
static hypura_status take_ready(struct batch *batch, const struct step *step, uint32_t *waiting,
                                const struct expert_group *begun, struct expert_group *group, hypura_error *error)
{
    struct scratch *s = &batch->scratch;
    uint32_t kept = 0;
    hypura_status status = HYPURA_OK;
    group->count = group->rows = 0;
    group->first = begun->rows;
    for (uint32_t i = 0; i < *waiting; i++) {
        unit_number unit = s->expert_units[i];
        uint32_t e = unit - step->experts.first;
        uint32_t rows = s->expert_first[e + 1] - s->expert_first[e];
        bool fits = group->count < COUNT_OF(group->experts) && group->first + group->rows + rows <= s->expert_rows;
        if (!status && fits && !(begun->count && begun->experts[0] == e) && store_ready(batch->open->store, unit)) {
            status = store_get(batch->open->store, unit, &group->views[group->count], error);
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

static void put_group(struct batch *batch, const struct step *step, struct expert_group *group)
{
    for (uint32_t i = 0; i < group->count; i++)
        store_put(batch->open->store, step->experts.first + group->experts[i]);
    group->count = 0;
}

/* Computes what precedes the last slice of an expert while that slice is still being read and nothing else is to be
 * done. A third of the work is left when it arrives. */
static void begin_expert(struct batch *batch, const struct step *step, uint32_t waiting, uint32_t slices,
                         const struct expert_biases *biases, struct expert_group *begun)
{
    struct scratch *s = &batch->scratch;
    for (uint32_t i = 0; i < waiting && begun->count == 0; i++) {
        uint32_t e = s->expert_units[i] - step->experts.first;
        if (!store_peek(batch->open->store, s->expert_units[i], slices, &begun->views[0]))
            continue;
        begun->experts[begun->count++] = e;
        begun->rows = s->expert_first[e + 1] - s->expert_first[e];
        compute_inner(batch, step, begun, biases);
    }
}

static hypura_status end_expert(struct batch *batch, const struct step *step, uint32_t *waiting,
                                const struct expert_biases *biases, struct expert_group *begun, hypura_error *error)
{
    unit_number unit = step->experts.first + begun->experts[0], *units = batch->scratch.expert_units;
    TRY(store_get(batch->open->store, unit, &begun->views[0], error));
    compute_down(batch, step, begun, biases);
    put_group(batch, step, begun);
    begun->rows = 0;
    uint32_t at = 0;
    while (units[at] != unit)
        at++;
    memmove(units + at, units + at + 1, (--*waiting - at) * sizeof *units);
    return HYPURA_OK;
}

/* With a smaller last slice, beginning early costs as much time as it saves. */
#define BEGUN_LEAST_BYTES ((uint64_t)1 << 20)

/* The number of slices with which an expert can begin; 0: beginning is not worth it. A begun expert needs rows of its
 * own. */
static uint32_t slices_to_begin(const struct batch *batch, const struct step *step)
{
    const struct unit *unit = model_unit(batch->open->model, step->experts.first);
    uint32_t last = unit->slice_count - 1;
    bool all_fit = batch->rows * step->experts.used <= batch->scratch.expert_rows;
    return all_fit && unit->slices[last].bytes >= BEGUN_LEAST_BYTES ? last : 0;
}

/* Computes hits first, then misses as they arrive. */
static hypura_status run_waiting(struct batch *batch, const struct step *step, uint32_t *waiting,
                                 const struct expert_biases *biases, hypura_error *error)
{
    struct expert_group group = {0}, begun = {0};
    const struct scratch *s = &batch->scratch;
    uint32_t slices = slices_to_begin(batch, step);
    hypura_status status = HYPURA_OK;
    size_t index;
    for (uint32_t i = 0; batch->open->wait_for_all && !status && i < *waiting; i++)
        status = store_wait_any(batch->open->store, s->expert_units + i, 1, 0, &index, error);
    while (!status && *waiting) {
        status = take_ready(batch, step, waiting, &begun, &group, error);
        bool none = group.count == 0;
        if (!status && !none) {
            compute_inner(batch, step, &group, biases);
            compute_down(batch, step, &group, biases);
        }
        put_group(batch, step, &group);
        if (status || !none)
            continue;
        if (begun.count && store_ready(batch->open->store, step->experts.first + begun.experts[0])) {
            status = end_expert(batch, step, waiting, biases, &begun, error);
            continue;
        }
        if (begun.count == 0)
            begin_expert(batch, step, *waiting, slices, biases, &begun);
        status = store_wait_any(batch->open->store, s->expert_units, *waiting, begun.count ? 0 : slices, &index, error);
    }
    return status;
}

/* ---- the sum -------------------------------------------------------------------------------------------------------
 */

/* A parallel section costs about as much as this many elements. */
#define PARALLEL_ELEMENTS ((size_t)16 << 10)

struct mix {
    const float *experts, *weights, *side; /* weights NULL: applied already; side NULL: none */
    float *out;
    size_t width, used;
    float scale;
};

/* Sums in the router's order, whichever expert arrived first. */
static void mix_row(void *context, size_t row, size_t worker)
{
    const struct mix *mix = context;
    (void)worker;
    float *out = mix->out + row * mix->width;
    for (size_t i = 0; i < mix->used; i++) {
        const float *expert = mix->experts + (row * mix->used + i) * mix->width;
        float weight = mix->weights ? mix->weights[row * mix->used + i] : 1.0f;
        if (i == 0)
            for (size_t c = 0; c < mix->width; c++)
                out[c] = weight * expert[c];
        else
            for (size_t c = 0; c < mix->width; c++)
                out[c] += weight * expert[c];
    }
    if (mix->side)
        for (size_t c = 0; c < mix->width; c++)
            out[c] += mix->side[row * mix->width + c];
    if (mix->scale != 1.0f)
        for (size_t c = 0; c < mix->width; c++)
            out[c] *= mix->scale;
}

hypura_status run_mix(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_mix *m = &step->mix;
    struct mix mix = {.experts = batch->scratch.expert_out,
                      .weights = m->weighed ? NULL : batch->scratch.chosen_weights,
                      .side = m->side == BUFFER_NONE ? NULL : rows_of(batch, m->side),
                      .out = rows_of(batch, m->out),
                      .width = m->width,
                      .used = m->used,
                      .scale = m->scale};
    (void)held, (void)error;
    if (batch->rows * mix.used * mix.width < PARALLEL_ELEMENTS)
        for (size_t row = 0; row < batch->rows; row++)
            mix_row(&mix, row, 0);
    else
        thread_pool_run(compute_pool(batch->compute), mix_row, &mix, batch->rows);
    return HYPURA_OK;
}

/* ---- from the choice to the rows -----------------------------------------------------------------------------------
 */

void forget_experts(struct batch *batch)
{
    struct scratch *s = &batch->scratch;
    if (s->waiting)
        store_forget(batch->open->store, s->expert_units, s->waiting);
    s->waiting = 0;
    if (batch->share)
        share_drop(batch);
}

hypura_status want_chosen(struct batch *batch, uint32_t layer, unit_number first_expert, const bool *elsewhere,
                          hypura_error *error)
{
    struct scratch *s = &batch->scratch;
    uint32_t waiting = group_by_expert(batch, first_expert, elsewhere);
    note_used(batch, layer, first_expert, waiting);
    s->waiting = waiting;
    hypura_status status = store_want(batch->open->store, s->expert_units, waiting, error);
    prefetch_prompt(batch, layer);
    return status;
}

hypura_status run_chosen_experts(struct batch *batch, const struct step *experts, const bool *elsewhere,
                                 hypura_error *error)
{
    struct held held = {0};
    hypura_status status = want_chosen(batch, (uint32_t)experts->layer, experts->experts.first, elsewhere, error);
    if (!status)
        status = prefetch_asked(batch, (uint32_t)experts->layer, error);
    if (!status)
        status = run_experts(batch, experts, &held, error);
    release(batch, &held);
    if (status)
        forget_experts(batch);
    return status;
}

hypura_status run_route(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    uint32_t number = (uint32_t)step->layer;
    hypura_status status = choose(batch, step, held, error);
    release(batch, held);
    if (status)
        return status;
    if (batch->trace)
        TRY(trace_writer_layer(batch->trace, number, batch->scratch.chosen, error));
    prefetch_check(batch, number);
    TRY(want_chosen(batch, number, step->route.first, NULL, error));
    return batch->share ? share_begin(batch, step, error) : HYPURA_OK;
}

hypura_status run_experts(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_experts *x = &step->experts;
    struct expert_biases biases = {0};
    TRY(hold_vector(batch, held, x->gate_bias, &biases.gate, error));
    TRY(hold_vector(batch, held, x->up_bias, &biases.up, error));
    TRY(hold_vector(batch, held, x->down_bias, &biases.down, error));
    TRY(hold_vector(batch, held, x->gate_scale, &biases.gate_scale, error));
    TRY(hold_vector(batch, held, x->up_scale, &biases.up_scale, error));
    TRY(hold_vector(batch, held, x->down_scale, &biases.down_scale, error));
    hypura_status status = run_waiting(batch, step, &batch->scratch.waiting, &biases, error);
    if (!status && batch->share)
        status = share_collect(batch, step, error);
    forget_inputs(batch, 1u << BUFFER_GATE | 1u << BUFFER_UP);
    return status;
}
