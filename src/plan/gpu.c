/* Decides what goes into device memory: fills it in several ways, with longer batches, less common room for sequences,
 * on one device or in groups of layers, and takes the best. */
#include "plan/plan_private.h"

/* Whether some layer has experts on both sides, so that a long batch uploads some. */
static bool is_visited(const struct plan_gpu *plan, const struct model *model, const struct steps *steps)
{
    bool any = false;
    for (uint32_t i = 0; i < plan->layer_count; i++)
        any |= plan->layers[i] == GPU_CAN && plan_first_expert(steps, i) != NO_UNIT &&
               plan->slots[i] < model_parameters(model)->experts;
    return any && plan->visit_slots > 0;
}

/* Tries longer batches, which may take room from experts, but not from layers. */
static hypura_status lengthen(struct plan_gpu **plan, const struct model *model, const struct steps *steps,
                              const struct plan_gpu_request *request, hypura_error *error)
{
    uint32_t longest = plan_gpu_longest_chunk(request, plan_gpu_positions(model, request));
    hypura_status status = HYPURA_OK;
    for (uint32_t chunk = 2 * (*plan)->chunk; chunk <= longest && !status; chunk *= 2) {
        struct plan_gpu *longer = NULL;
        const struct plan_gpu_way way = {.kv_positions = (*plan)->kv_positions, .chunk = chunk, .groups = 1};
        status = plan_gpu_fill(&longer, model, steps, request, way, error);
        bool better = longer && longer->taken == (*plan)->taken && longer->output == (*plan)->output &&
                      longer->visit_slots > 0 && !plan_gpu_costs_reads(longer, model, request) &&
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

/* Plans for the devices whose budget is not 0. */
static hypura_status make_long(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                               const struct plan_gpu_request *request, uint64_t kv_positions, hypura_error *error)
{
    struct plan_gpu *plan = NULL;
    const struct plan_gpu_way way = {.kv_positions = kv_positions, .chunk = request->chunk, .groups = 1};
    hypura_status status = plan_gpu_fill(&plan, model, steps, request, way, error);
    if (!status && plan && request->chunk == 0 && request->hardware && is_visited(plan, model, steps))
        status = lengthen(&plan, model, steps, request, error);
    if (status)
        plan_gpu_free(plan);
    else if (plan)
        *out = plan;
    return status;
}

static bool is_whole(const struct plan_gpu *plan, const struct model *model, const struct steps *steps)
{
    bool whole = plan && plan->taken == plan->layer_count && plan->output;
    for (uint32_t i = 0; whole && i < plan->layer_count; i++)
        whole = plan_first_expert(steps, i) == NO_UNIT || plan->slots[i] == model_parameters(model)->experts;
    return whole;
}

/* If all sequences together have more room than that of one context, it may take this part of the budget. */
#define KV_SHARE 8u

static uint64_t weights_there(const struct plan_gpu *plan)
{
    return plan ? plan->resident_bytes + plan->expert_bytes : 0;
}

/* Whether a plan's room is worth what it costs, compared with the least room. */
static bool may_have_room(const struct plan_gpu *plan, const struct plan_gpu *least)
{
    return plan && (weights_there(plan) >= weights_there(least) || plan->kv_bytes <= plan->budget / KV_SHARE);
}

/* Halves the sequences' common room as long as that may bring more weights to the devices. */
static hypura_status make_with_room(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                                    const struct plan_gpu_request *request, hypura_error *error)
{
    const uint32_t positions = plan_gpu_positions(model, request);
    const uint64_t most = (uint64_t)positions * MAX(request->sequences, 1u);
    const uint64_t least_room = request->shares_room ? MIN(most, align_up(positions, PLAN_KV_BLOCK)) : most;
    struct plan_gpu *plan = NULL, *least = NULL;
    hypura_status status = make_long(&plan, model, steps, request, most, error);
    if (!status && least_room < most && !is_whole(plan, model, steps))
        status = make_long(&least, model, steps, request, least_room, error);
    for (uint64_t room = most / 2; least && !status && room > least_room && !may_have_room(plan, least); room /= 2) {
        plan_gpu_free(plan);
        plan = NULL;
        status = make_long(&plan, model, steps, request, align_up(room, PLAN_KV_BLOCK), error);
    }
    const bool fewest = !status && least && !may_have_room(plan, least);
    *out = status ? NULL : fewest ? least : plan;
    plan_gpu_free(status || fewest ? plan : least);
    if (status)
        plan_gpu_free(least);
    return status;
}

/* If the fastest device holds the whole model, and the transfer to another one would slow down every token noticeably,
 * the model stays on that device. Otherwise *out is unchanged. */
static hypura_status keep_on_one(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                                 const struct plan_gpu_request *request, hypura_error *error)
{
    struct plan_gpu_request single = *request;
    const uint32_t best = plan_gpu_quickest(request->devices, request->device_count);
    struct plan_gpu *plan = NULL;
    for (uint32_t d = 0; d < request->device_count; d++)
        single.budgets[d] = d == best ? request->budgets[d] : 0;
    hypura_status status = make_with_room(&plan, model, steps, &single, error);
    if (!status && is_whole(plan, model, steps) && plan_gpu_way_is_felt(plan, model, &request->devices[best]))
        *out = plan;
    else
        plan_gpu_free(plan);
    return status;
}

/* If several groups are better than one, replaces the plan. It stays if a device has no room for other layers than its
 * own. */
static hypura_status alternate(struct plan_gpu **plan, const struct model *model, const struct steps *steps,
                               const struct plan_gpu_request *request, hypura_error *error)
{
    struct plan_gpu *other = NULL;
    const uint32_t layers = (*plan)->layer_count;
    if (request->device_count < 2 || !is_whole(*plan, model, steps) || plan_gpu_first_shared(steps, layers) < layers)
        return HYPURA_OK;
    const struct plan_gpu_way way = {.kv_positions = (*plan)->kv_positions,
                                     .chunk = (*plan)->chunk,
                                     .groups = plan_gpu_choose_groups(*plan, model, request),
                                     .like = *plan};
    hypura_status status = way.groups > 1 ? plan_gpu_fill(&other, model, steps, request, way, error) : HYPURA_OK;
    if (!status && is_whole(other, model, steps)) {
        struct plan_gpu *before = *plan;
        *plan = other;
        other = before;
    }
    plan_gpu_free(other);
    return status;
}

/* Notes how much of each layer's experts the devices compute, where their uses are known. */
static hypura_status note_uses(struct plan_gpu *plan, const struct model *model, const struct steps *steps,
                               const struct plan_gpu_request *request, hypura_error *error)
{
    if (!request->uses)
        return HYPURA_OK;
    TRY(ALLOCATE(&plan->used_there, plan->layer_count, "plan for the GPU", error));
    for (uint32_t l = 0; l < plan->layer_count; l++) {
        const unit_number first = plan_first_expert(steps, l);
        if (first != NO_UNIT)
            plan->used_there[l] = (float)(1 - plan_gpu_share_here(plan, model, request, l, first));
    }
    return HYPURA_OK;
}

hypura_status plan_gpu_make(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                            const struct plan_gpu_request *request, hypura_error *error)
{
    struct plan_gpu *plan = NULL;
    hypura_status status = HYPURA_OK;
    if (request->device_count > 1 && request->devices && !request->spread)
        status = keep_on_one(&plan, model, steps, request, error);
    if (!status && !plan)
        status = make_with_room(&plan, model, steps, request, error);
    if (!status && plan)
        status = alternate(&plan, model, steps, request, error);
    if (!status && plan && is_whole(plan, model, steps))
        plan_gpu_divide_output(plan, model, steps, request);
    if (!status && plan)
        status = note_uses(plan, model, steps, request, error);
    if (status)
        plan_gpu_free(plan);
    else if (plan)
        *out = plan;
    return status;
}
