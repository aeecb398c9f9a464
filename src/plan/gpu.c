/* What goes into device memory. */
#include "plan/plan_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Context when nobody asked, as in memory. */
#define DEFAULT_POSITIONS 4096u

/* Tokens a batch, when nobody asked and the device has room: matrix products are bound by arithmetic from here on. */
#define MOST_CHUNK 2048u
#define LEAST_CHUNK 64u

/* Of the budget, at most this part is for experts that come for a long batch. */
#define VISIT_SHARE 4u

/* Bytes of a unit in device memory. */
static uint64_t unit_bytes(const struct unit *unit)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < unit->slice_count; i++)
        bytes += align_up(unit->slices[i].bytes, PLAN_GPU_ALIGNMENT);
    return bytes;
}

void plan_gpu_free(struct plan_gpu *plan)
{
    if (!plan)
        return;
    memory_free(plan->layers);
    memory_free(plan->slots);
    memory_free(plan->units);
    memory_free(plan);
}

uint64_t plan_gpu_bytes(const struct plan_gpu *plan)
{
    return plan ? plan->resident_bytes + plan->expert_bytes + plan->kv_bytes + plan->scratch_bytes : 0;
}

struct gpu_planner {
    const struct model *model;
    const struct steps *steps;
    const struct plan_gpu_request *request;
    struct plan_gpu *plan;
    uint32_t positions;
    uint64_t left;
};

/* What the planner takes together: each unit that a list reads and that is not there yet, once. */
#define UNITS_TOGETHER 256u
struct together {
    unit_number units[UNITS_TOGETHER];
    size_t count;
    uint64_t bytes, largest;
};

static bool take(struct gpu_planner *planner, uint64_t bytes)
{
    if (bytes > planner->left)
        return false;
    planner->left -= bytes;
    return true;
}

static void take_unit(struct gpu_planner *planner, unit_number unit)
{
    planner->plan->units[unit] = 1;
    planner->plan->resident_bytes += unit_bytes(model_unit(planner->model, unit));
}

static bool has(const struct together *together, unit_number unit)
{
    for (size_t i = 0; i < together->count; i++)
        if (together->units[i] == unit)
            return true;
    return false;
}

/* False: there are more than can be taken. */
static bool gather(struct together *together, const struct gpu_planner *planner, struct step_list list)
{
    *together = (struct together){0};
    for (size_t i = 0; i < list.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(&list.steps[i], units);
        for (size_t u = 0; u < count; u++) {
            unit_number unit = units[u].unit;
            if (planner->plan->units[unit] || units[u].use == USE_ROWS || units[u].use == USE_TABLE ||
                has(together, unit))
                continue;
            if (together->count == UNITS_TOGETHER)
                return false;
            uint64_t bytes = unit_bytes(model_unit(planner->model, unit));
            together->units[together->count++] = unit;
            together->bytes += bytes;
            together->largest = MAX(together->largest, bytes);
        }
    }
    return true;
}

static void take_together(struct gpu_planner *planner, const struct together *together)
{
    for (size_t i = 0; i < together->count; i++)
        take_unit(planner, together->units[i]);
}

static void take_output(struct gpu_planner *planner)
{
    struct together output;
    /* Not at the cost of the layers, which also save the way there and back; nor behind a last layer on the CPU. */
    if (!planner->request->output || planner->request->layers[planner->plan->layer_count - 1] == GPU_CANNOT ||
        !gather(&output, planner, steps_after(planner->steps)) || output.bytes > planner->left / 2 ||
        !take(planner, output.bytes))
        return;
    take_together(planner, &output);
    planner->plan->output = true;
}

/* Whether all of a model is there but the embedding: then rows of it are made there too, since the device would wait
 * while the CPU makes those of a prompt, and sends them. Of what is left for experts it may take this part. */
#define EMBEDDING_SHARE 16u

static void take_embedding(struct gpu_planner *planner)
{
    const struct step *embed = steps_find(steps_before(planner->steps), STEP_EMBED);
    const struct plan_gpu *plan = planner->plan;
    if (!planner->request->embedding || !plan->output || plan->taken < plan->layer_count ||
        plan->units[embed->embed.unit])
        return;
    uint64_t bytes = unit_bytes(model_unit(planner->model, embed->embed.unit));
    if (bytes <= planner->left / EMBEDDING_SHARE && take(planner, bytes))
        take_unit(planner, embed->embed.unit);
}

static uint64_t layer_kv_bytes(const struct gpu_planner *planner, uint32_t number)
{
    const struct plan_gpu_request *request = planner->request;
    return request->kv_bytes(request->context, number, planner->positions, MAX(request->sequences, 1u),
                             request->kv_type);
}

static bool take_layer(struct gpu_planner *planner, uint32_t number)
{
    const struct plan_gpu_request *request = planner->request;
    struct together layer;
    const uint64_t kv = layer_kv_bytes(planner, number);
    if (!gather(&layer, planner, steps_of_layer(planner->steps, number)) ||
        MAX(kv, layer.largest) > request->max_allocation || !take(planner, kv + layer.bytes))
        return false;
    take_together(planner, &layer);
    planner->plan->kv_bytes += kv;
    planner->plan->layers[number] = request->layers[number];
    planner->plan->taken++;
    return true;
}

/* The first of the layers of which some read the cache of another: all from there on go together. As many layers as
 * there are: none does. */
static uint32_t first_shared(const struct gpu_planner *planner)
{
    const struct step_list all = steps_all(planner->steps);
    uint32_t first = planner->plan->layer_count;
    for (size_t i = 0; i < all.count; i++)
        if (all.steps[i].kind == STEP_ATTEND && all.steps[i].layer >= 0 &&
            all.steps[i].attend.source != (uint32_t)all.steps[i].layer)
            first = MIN(first, all.steps[i].attend.source);
    return first;
}

/* All layers from the first one on that the device can compute, or none. */
static bool take_layers(struct gpu_planner *planner, uint32_t first)
{
    const struct plan_gpu_request *request = planner->request;
    uint64_t bytes = 0;
    for (uint32_t i = first; i < planner->plan->layer_count; i++) {
        struct together layer;
        if (request->layers[i] == GPU_CANNOT)
            continue;
        const uint64_t kv = layer_kv_bytes(planner, i);
        if (!gather(&layer, planner, steps_of_layer(planner->steps, i)) ||
            MAX(kv, layer.largest) > request->max_allocation)
            return false;
        bytes += layer.bytes + kv;
    }
    if (bytes > planner->left)
        return false;
    bool all = true;
    for (uint32_t i = first; i < planner->plan->layer_count; i++)
        all = all && (request->layers[i] == GPU_CANNOT || take_layer(planner, i));
    return all;
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

struct candidate {
    uint64_t uses;
    unit_number unit;
    uint32_t layer, expert;
};

/* The most used first; without statistics the first of every layer, then the second of every layer. */
static int hotter_first(const void *a, const void *b)
{
    const struct candidate *left = a, *right = b;
    if (left->uses != right->uses)
        return left->uses > right->uses ? -1 : 1;
    if (left->expert != right->expert)
        return left->expert < right->expert ? -1 : 1;
    return (left->layer > right->layer) - (left->layer < right->layer);
}

static uint64_t largest_slice(const struct unit *unit)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < unit->slice_count; i++)
        largest = MAX(largest, align_up(unit->slices[i].bytes, PLAN_GPU_ALIGNMENT));
    return largest;
}

/* Where not all experts fit, a part of the room is for those that come for a long batch: the scratch's. */
static void take_visits(struct gpu_planner *planner, const struct candidate *candidates, size_t count)
{
    uint64_t all = 0, largest = 0, slice = 0, slices[UNIT_MAX_SLICES] = {0};
    for (size_t i = 0; i < count; i++) {
        const struct unit *unit = model_unit(planner->model, candidates[i].unit);
        all += unit_bytes(unit);
        /* Layers may differ in every slice. */
        for (uint32_t s = 0; s < unit->slice_count; s++)
            slices[s] = MAX(slices[s], align_up(unit->slices[s].bytes, PLAN_GPU_ALIGNMENT));
    }
    for (uint32_t s = 0; s < UNIT_MAX_SLICES; s++) {
        largest += slices[s];
        slice = MAX(slice, slices[s]);
    }
    if (all <= planner->left || largest == 0)
        return;
    uint64_t slots =
        MIN(planner->request->budget / VISIT_SHARE / (2 * largest), planner->request->max_allocation / slice);
    slots = MIN(slots, (uint64_t)model_parameters(planner->model)->experts);
    slots = MIN(slots, planner->left / 2 / (2 * largest)); /* the other half is for those that stay */
    if (slots == 0 || !take(planner, 2 * slots * largest))
        return;
    planner->plan->visit_slots = (uint32_t)slots;
    planner->plan->scratch_bytes += 2 * slots * largest;
}

/* Of all experts of a layer: those on the CPU need them too. */
static uint64_t bias_bytes(const struct gpu_planner *planner, uint32_t layer)
{
    struct step_list list = steps_of_layer(planner->steps, layer);
    uint64_t bytes = 0;
    for (size_t i = 0; i < list.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(&list.steps[i], units);
        for (size_t u = 0; u < count; u++)
            bytes += units[u].use == USE_BIASES ? model_unit(planner->model, units[u].unit)->bytes : 0;
    }
    return bytes;
}

static hypura_status take_experts(struct gpu_planner *planner, hypura_error *error)
{
    const struct plan_gpu_request *request = planner->request;
    struct plan_gpu *plan = planner->plan;
    uint32_t experts = model_parameters(planner->model)->experts;
    struct candidate *candidates = NULL;
    size_t count = 0;
    if (experts == 0)
        return HYPURA_OK;
    hypura_status status =
        ALLOCATE(&candidates, (size_t)plan->layer_count * experts, "planner's list of experts", error);
    if (status)
        return status;
    for (uint32_t i = 0; i < plan->layer_count; i++) {
        unit_number first = plan_first_expert(planner->steps, i);
        for (uint32_t e = 0; first != NO_UNIT && plan->layers[i] == GPU_CAN && e < experts; e++) {
            unit_number unit = first + e;
            candidates[count++] = (struct candidate){request->uses ? request->uses[unit] : 0, unit, i, e};
        }
    }
    uint64_t all = 0;
    for (size_t i = 0; i < count; i++)
        all += unit_bytes(model_unit(planner->model, candidates[i].unit));
    plan->in_place = request->in_place && all > planner->left;
    if (plan->in_place)
        count = 0;
    take_visits(planner, candidates, count);
    if (count)
        qsort(candidates, count, sizeof *candidates, hotter_first);
    for (size_t i = 0; i < count; i++) {
        const struct unit *unit = model_unit(planner->model, candidates[i].unit);
        uint32_t *slots = &plan->slots[candidates[i].layer];
        uint64_t bytes = unit_bytes(unit);
        /* A layer's slices of one kind share a buffer. */
        if ((*slots + 1) * largest_slice(unit) > request->max_allocation || !take(planner, bytes))
            continue;
        ++*slots;
        plan->units[candidates[i].unit] = 1;
        plan->expert_bytes += bytes;
    }
    memory_free(candidates);
    for (uint32_t i = 0; i < plan->layer_count; i++)
        if (plan->layers[i] && plan->slots[i] < experts)
            plan->host_bytes += bias_bytes(planner, i);
    for (uint32_t i = 0; i < plan->layer_count; i++)
        plan->moves |= request->moves && plan->slots[i] > 0 && plan->slots[i] < experts;
    return HYPURA_OK;
}

/* ---- all ----------------------------------------------------------------------------------------------------------
 */

static uint32_t positions_of(const struct model *model, const struct plan_gpu_request *request)
{
    uint32_t trained = model_parameters(model)->context;
    return request->positions ? request->positions : trained ? MIN(trained, DEFAULT_POSITIONS) : DEFAULT_POSITIONS;
}

static uint32_t longest_chunk(const struct plan_gpu_request *request, uint32_t positions)
{
    uint32_t longest = request->longest_chunk ? MIN(request->longest_chunk, MOST_CHUNK) : MOST_CHUNK;
    return MIN(longest, MAX(positions, LEAST_CHUNK));
}

/* The longest batch whose buffers take an eighth of the device at most. */
static uint32_t choose_chunk(const struct gpu_planner *planner)
{
    const struct plan_gpu_request *request = planner->request;
    uint32_t chunk = longest_chunk(request, planner->positions);
    while (chunk > LEAST_CHUNK &&
           request->scratch_bytes(request->context, chunk, planner->positions) > request->budget / 8)
        chunk /= 2;
    return MAX(chunk, LEAST_CHUNK);
}

/* What was asked for, or as much of it as the driver's largest buffers have room for. */
static uint32_t shorten_chunk(const struct gpu_planner *planner, uint32_t chunk)
{
    const struct plan_gpu_request *request = planner->request;
    while (!request->whole_chunk && chunk > LEAST_CHUNK &&
           request->scratch_bytes(request->context, chunk, planner->positions) == UINT64_MAX)
        chunk = MAX(chunk / 2, LEAST_CHUNK);
    return chunk;
}

static void describe(const struct gpu_planner *planner)
{
    struct plan_gpu *plan = planner->plan;
    uint32_t experts = 0, all = 0, per_layer = model_parameters(planner->model)->experts;
    for (uint32_t i = 0; i < plan->layer_count; i++) {
        experts += plan->slots[i];
        all += plan_first_expert(planner->steps, i) != NO_UNIT ? per_layer : 0;
    }
    char text[32], some[96] = "";
    if (all && plan->in_place)
        snprintf(some, sizeof some, " (experts are read where they stand in memory)");
    else if (all)
        snprintf(some, sizeof some, ", %u of %u experts%s", experts, all,
                 experts < all ? planner->request->uses ? " (those used most in earlier runs)" : " (none used yet)"
                               : "");
    snprintf(plan->reason, sizeof plan->reason, "%u of %u layers%s%s: %s of weights.", plan->taken, plan->layer_count,
             some, plan->output ? " and the output matrix" : "",
             format_bytes(text, sizeof text, (double)(plan->resident_bytes + plan->expert_bytes)));
}

static hypura_status fill(struct gpu_planner *planner, uint32_t chunk, hypura_error *error)
{
    const struct plan_gpu_request *request = planner->request;
    struct plan_gpu *plan = planner->plan;
    planner->positions = positions_of(planner->model, request);
    plan->budget = planner->left = request->budget;
    plan->chunk = chunk ? shorten_chunk(planner, chunk) : choose_chunk(planner);
    plan->scratch_bytes = request->scratch_bytes(request->context, plan->chunk, planner->positions);
    if (!take(planner, plan->scratch_bytes))
        return HYPURA_OK;
    take_output(planner);
    uint32_t shared = first_shared(planner), left = plan->layer_count;
    if (shared < left && take_layers(planner, shared))
        left = shared;
    while (left > 0 && (shared == plan->layer_count || left <= shared) &&
           (request->layers[left - 1] == GPU_CANNOT || take_layer(planner, left - 1)))
        left--;
    take_embedding(planner);
    hypura_status status = take_experts(planner, error);
    if (!status)
        describe(planner);
    return status;
}

/* chunk: tokens a batch; 0: those that an eighth has room for. */
static hypura_status make(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                          const struct plan_gpu_request *request, uint32_t chunk, hypura_error *error)
{
    struct plan_gpu *plan;
    hypura_status status = ALLOCATE(&plan, 1, "plan for the GPU", error);
    if (status)
        return status;
    plan->layer_count = model_parameters(model)->layers;
    plan->unit_count = model_unit_count(model);
    status = ALLOCATE(&plan->layers, plan->layer_count, "plan for the GPU", error);
    if (!status)
        status = ALLOCATE(&plan->slots, plan->layer_count, "plan for the GPU", error);
    if (!status)
        status = ALLOCATE(&plan->units, plan->unit_count, "plan for the GPU", error);
    struct gpu_planner planner = {.model = model, .steps = steps, .request = request, .plan = plan};
    if (!status)
        status = fill(&planner, chunk, error);
    if (status || plan->taken == 0) {
        plan_gpu_free(plan);
        plan = NULL;
    }
    if (!status)
        *out = plan;
    return status;
}

/* Whether some layer there has experts on both sides, so that a long batch brings some. */
static bool is_visited(const struct plan_gpu *plan, const struct model *model, const struct steps *steps)
{
    bool any = false;
    for (uint32_t i = 0; i < plan->layer_count; i++)
        any |= plan->layers[i] == GPU_CAN && plan_first_expert(steps, i) != NO_UNIT &&
               plan->slots[i] < model_parameters(model)->experts;
    return any && plan->visit_slots > 0;
}

/* A longer batch costs experts; never a layer. */
static hypura_status lengthen(struct plan_gpu **plan, const struct model *model, const struct steps *steps,
                              const struct plan_gpu_request *request, hypura_error *error)
{
    uint32_t longest = longest_chunk(request, positions_of(model, request));
    hypura_status status = HYPURA_OK;
    for (uint32_t chunk = 2 * (*plan)->chunk; chunk <= longest && !status; chunk *= 2) {
        struct plan_gpu *longer = NULL;
        status = make(&longer, model, steps, request, chunk, error);
        bool better = longer && longer->taken == (*plan)->taken && longer->output == (*plan)->output &&
                      longer->visit_slots > 0 &&
                      plan_gpu_request_seconds(longer, model, steps, request) <
                          plan_gpu_request_seconds(*plan, model, steps, request);
        if (better) {
            struct plan_gpu *shorter = *plan;
            *plan = longer;
            longer = shorter;
        }
        plan_gpu_free(longer);
    }
    return status;
}

hypura_status plan_gpu_make(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                            const struct plan_gpu_request *request, hypura_error *error)
{
    struct plan_gpu *plan = NULL;
    hypura_status status = make(&plan, model, steps, request, request->chunk, error);
    if (!status && plan && request->chunk == 0 && request->hardware && is_visited(plan, model, steps))
        status = lengthen(&plan, model, steps, request, error);
    if (status)
        plan_gpu_free(plan);
    else if (plan)
        *out = plan;
    return status;
}
