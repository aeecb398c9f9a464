/* Fills the memory of devices, in the order that plan.h describes. */
#include "plan/plan_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The context if the request leaves it open, as in plan.c. */
#define DEFAULT_POSITIONS 4096u

/* Limits of the tokens per batch. From MOST_CHUNK on, matrix products are bound by arithmetic. */
#define MOST_CHUNK 2048u
#define LEAST_CHUNK 64u

/* Experts that are uploaded for a long batch take at most this part of the budget. Uploading more than VISIT_BYTES at a
 * time would not be faster. */
#define VISIT_SHARE 4u
#define VISIT_BYTES ((uint64_t)128 << 20)

/* At most this part of the device's experts changes sides at a time. */
#define MOVE_SHARE 16u

/* Buffers may take this part of the budget, or a smaller one if the drive must read weights without room. Lent buffers
 * do not count then; a prompt's experts on their way may take this part of them. */
#define BUFFER_SHARE 8u
#define BUFFER_SHARE_READING 10u
#define VISIT_SHARE_LENT 16u

void plan_gpu_free(struct plan_gpu *plan)
{
    if (!plan)
        return;
    memory_free(plan->layers);
    memory_free(plan->slots);
    memory_free(plan->lent);
    memory_free(plan->units);
    memory_free(plan->devices);
    memory_free(plan->used_there);
    for (uint32_t i = 0; i < plan->part_count; i++) {
        memory_free(plan->parts[i].layers);
        memory_free(plan->parts[i].slots);
        memory_free(plan->parts[i].lent);
        memory_free(plan->parts[i].units);
    }
    memory_free(plan->parts);
    memory_free(plan);
}

struct gpu_planner {
    const struct model *model;
    const struct steps *steps;
    const struct plan_gpu_request *request;
    struct plan_gpu *plan;
    struct plan_gpu *part; /* the device that the functions below fill */
    uint32_t positions;
    uint64_t kv_positions; /* of all sequences */
    uint64_t left[HARDWARE_MAX_GPUS];
    uint64_t *weights; /* [layer_count]: all bytes of a layer, with its experts; 0: no device can compute it */
    const struct plan_gpu *like; /* a plan with one group, whose devices get as many layers here; NULL: none */
    bool lends;                  /* buffers of long batches to experts */
};

static uint32_t number_of(const struct gpu_planner *planner)
{
    return (uint32_t)(planner->part - planner->plan->parts);
}

static uint64_t left_there(const struct gpu_planner *planner)
{
    return planner->left[number_of(planner)];
}

/* Units that are taken together: all that a list of steps reads and that are not on the device yet, each once. */
#define UNITS_TOGETHER 256u
struct together {
    unit_number units[UNITS_TOGETHER];
    size_t count;
    uint64_t bytes, largest;
};

/* The steps of a layer that a device computes. */
static struct step_list steps_taken(const struct gpu_planner *planner, uint32_t number)
{
    const struct step_list list = steps_of_layer(planner->steps, number);
    const struct step *experts = planner->request->experts_only ? steps_find(list, STEP_EXPERTS) : NULL;
    return planner->request->experts_only ? (struct step_list){experts, experts != NULL} : list;
}

static bool take(struct gpu_planner *planner, uint64_t bytes)
{
    if (bytes > left_there(planner))
        return false;
    planner->left[number_of(planner)] -= bytes;
    return true;
}

static void take_unit(struct gpu_planner *planner, unit_number unit)
{
    planner->plan->units[unit] = (uint8_t)(1 + number_of(planner));
    planner->part->units[unit] = 1;
    planner->part->resident_bytes += plan_gpu_unit_bytes(model_unit(planner->model, unit));
}

static bool has(const struct together *together, unit_number unit)
{
    for (size_t i = 0; i < together->count; i++)
        if (together->units[i] == unit)
            return true;
    return false;
}

/* Collects them. false: there are too many, or another device has one of them. */
static bool gather(struct together *together, const struct gpu_planner *planner, struct step_list list)
{
    *together = (struct together){0};
    for (size_t i = 0; i < list.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(&list.steps[i], units);
        for (size_t u = 0; u < count; u++) {
            unit_number unit = units[u].unit;
            if (planner->part->units[unit] || units[u].use == USE_ROWS || units[u].use == USE_TABLE ||
                has(together, unit))
                continue;
            if (together->count == UNITS_TOGETHER || planner->plan->units[unit])
                return false;
            uint64_t bytes = plan_gpu_unit_bytes(model_unit(planner->model, unit));
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
    /* The output matrix is not taken if it needs more than half of the room, because layers on the device save
     * transfers too, nor if the last layer is on the CPU. */
    if (!planner->request->output || planner->request->layers[planner->plan->layer_count - 1] == GPU_CANNOT ||
        !gather(&output, planner, steps_after(planner->steps)) || output.bytes > left_there(planner) / 2 ||
        !take(planner, output.bytes))
        return;
    take_together(planner, &output);
    planner->plan->output = planner->part->output = true;
}

/* If all layers and the output matrix are on the device, the token embedding goes there too: otherwise the device would
 * wait while the CPU makes a prompt's rows and sends them. It may take this part of the room left for experts. */
#define EMBEDDING_SHARE 16u

static void take_embedding(struct gpu_planner *planner)
{
    const struct step *embed = steps_find(steps_before(planner->steps), STEP_EMBED);
    const struct plan_gpu *plan = planner->plan;
    if (!planner->request->embedding || !plan->output || plan->taken < plan->layer_count ||
        plan->units[embed->embed.unit])
        return;
    uint64_t bytes = plan_gpu_unit_bytes(model_unit(planner->model, embed->embed.unit));
    if (bytes <= left_there(planner) / EMBEDDING_SHARE && take(planner, bytes))
        take_unit(planner, embed->embed.unit);
}

static uint64_t layer_kv_bytes(const struct gpu_planner *planner, uint32_t number)
{
    const struct plan_gpu_request *request = planner->request;
    return request->kv_bytes(request->context, number, planner->positions, MAX(request->sequences, 1u),
                             planner->kv_positions, request->kv_type);
}

static bool take_layer(struct gpu_planner *planner, uint32_t number)
{
    const struct plan_gpu_request *request = planner->request;
    struct together layer;
    const uint64_t kv = layer_kv_bytes(planner, number);
    if (!gather(&layer, planner, steps_taken(planner, number)) || MAX(kv, layer.largest) > request->max_allocation ||
        !take(planner, kv + layer.bytes))
        return false;
    take_together(planner, &layer);
    planner->part->kv_bytes += kv;
    planner->part->layers[number] = planner->plan->layers[number] = request->layers[number];
    planner->plan->devices[number] = (uint8_t)number_of(planner);
    planner->part->taken++;
    planner->plan->taken++;
    return true;
}

uint32_t plan_gpu_first_shared(const struct steps *steps, uint32_t layers)
{
    const struct step_list all = steps_all(steps);
    uint32_t first = layers;
    for (size_t i = 0; i < all.count; i++)
        if (all.steps[i].kind == STEP_ATTEND && all.steps[i].layer >= 0 &&
            all.steps[i].attend.source != (uint32_t)all.steps[i].layer)
            first = MIN(first, all.steps[i].attend.source);
    return first;
}

/* Takes all layers from the first one on that the device can compute, or none. */
static bool take_layers(struct gpu_planner *planner, uint32_t first)
{
    const struct plan_gpu_request *request = planner->request;
    uint64_t bytes = 0;
    for (uint32_t i = first; i < planner->plan->layer_count; i++) {
        struct together layer;
        if (request->layers[i] == GPU_CANNOT)
            continue;
        const uint64_t kv = layer_kv_bytes(planner, i);
        if (!gather(&layer, planner, steps_taken(planner, i)) || MAX(kv, layer.largest) > request->max_allocation)
            return false;
        bytes += layer.bytes + kv;
    }
    if (bytes > left_there(planner))
        return false;
    bool all = true;
    for (uint32_t i = first; i < planner->plan->layer_count; i++)
        all = all && (request->layers[i] == GPU_CANNOT || take_layer(planner, i));
    return all;
}

/* The experts of a layer that are not on other hosts; first: the first of the layer. */
static uint32_t own_experts(const struct gpu_planner *planner, unit_number first)
{
    const uint8_t *elsewhere = planner->request->elsewhere;
    uint32_t own = 0;
    for (uint32_t e = 0; e < model_parameters(planner->model)->experts; e++)
        own += !elsewhere || !elsewhere[first + e];
    return own;
}

static uint64_t layer_weight(const struct gpu_planner *planner, uint32_t number)
{
    struct together layer;
    const struct plan_gpu_request *request = planner->request;
    unit_number first = plan_first_expert(planner->steps, number);
    if (request->layers[number] == GPU_CANNOT || !gather(&layer, planner, steps_taken(planner, number)))
        return 0;
    uint64_t experts = first == NO_UNIT || request->layers[number] != GPU_CAN
                           ? 0
                           : own_experts(planner, first) * plan_gpu_unit_bytes(model_unit(planner->model, first));
    return layer_kv_bytes(planner, number) + layer.bytes + experts;
}

static uint64_t weight_of(const struct gpu_planner *planner, uint32_t first, uint32_t end)
{
    uint64_t sum = 0;
    for (uint32_t i = first; i < end; i++)
        sum += planner->weights[i];
    return sum;
}

/* Whether a device that took this many bytes leaves the next layer to the devices before it. */
static bool is_enough(const struct gpu_planner *planner, uint64_t taken, uint64_t share, uint64_t room, uint32_t layers)
{
    uint32_t number = number_of(planner);
    uint64_t next = planner->weights[layers - 1], before = 0;
    for (uint32_t d = 0; d < number; d++)
        before += planner->left[d];
    if (number == 0 || next == 0)
        return false;
    if (share <= room && taken + next > room) /* no room for the layer with its experts */
        return true;
    return taken + next / 2 > share && (share > room || weight_of(planner, 0, layers) <= before);
}

static void spread_layers(struct gpu_planner *planner)
{
    const struct plan_gpu_request *request = planner->request;
    const uint32_t layers = planner->plan->layer_count;
    const uint32_t shared = request->experts_only ? layers : plan_gpu_first_shared(planner->steps, layers);
    uint64_t shares[HARDWARE_MAX_GPUS];
    uint32_t left = layers;
    plan_gpu_share(shares, planner->left, request->devices, request->device_count, weight_of(planner, 0, layers));
    for (uint32_t d = request->device_count; d-- > 0;) {
        uint64_t room = planner->left[d];
        planner->part = &planner->plan->parts[d];
        if (left == layers && shared < layers && take_layers(planner, shared))
            left = shared;
        uint64_t taken = left < layers ? weight_of(planner, left, layers) : 0;
        for (uint32_t after = d + 1; after < request->device_count; after++)
            for (uint32_t i = left; i < layers; i++)
                taken -= planner->plan->layers[i] && planner->plan->devices[i] == after ? planner->weights[i] : 0;
        while (left > 0 && (shared == layers || left <= shared) && !is_enough(planner, taken, shares[d], room, left) &&
               (request->layers[left - 1] == GPU_CANNOT || take_layer(planner, left - 1)))
            taken += planner->weights[--left];
    }
}

/* Gives each device as many layers as it has in the other plan, but in several runs. */
static void alternate_layers(struct gpu_planner *planner)
{
    const uint32_t groups = planner->plan->groups;
    uint32_t layer = 0;
    for (uint32_t g = 0; g < groups; g++)
        for (uint32_t d = 0; d < planner->plan->part_count; d++) {
            const uint32_t taken = planner->like->parts[d].taken;
            planner->part = &planner->plan->parts[d];
            for (uint32_t i = taken * g / groups; i < taken * (g + 1) / groups; i++)
                if (!take_layer(planner, layer++))
                    return;
        }
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

struct candidate {
    uint64_t uses;
    unit_number unit;
    uint32_t layer, expert;
};

/* Sorts the most used experts first; without statistics, the first of every layer, then the second of every layer. */
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

/* Whether the drive must read some weights for each token. */
static bool drive_binds(const struct model *model, const struct plan_gpu_request *request)
{
    uint64_t room = request->memory, own = model_bytes(model);
    for (uint32_t d = 0; d < request->device_count; d++)
        room += request->budgets[d];
    for (unit_number u = 0; request->elsewhere && u < model_unit_count(model); u++)
        own -= request->elsewhere[u] ? MIN(model_unit(model, u)->bytes, own) : 0;
    return own > room;
}

/* The bytes of the largest expert of all layers. */
static uint64_t largest_expert(const struct gpu_planner *planner)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < planner->plan->layer_count; i++) {
        unit_number first = plan_first_expert(planner->steps, i);
        if (first != NO_UNIT)
            largest = MAX(largest, plan_gpu_unit_bytes(model_unit(planner->model, first)));
    }
    return largest;
}

/* Returns the room of buffers for long batches, with that of visiting experts, to those that stay. */
static void lend_buffers(struct gpu_planner *planner)
{
    const struct plan_gpu_request *request = planner->request;
    struct plan_gpu *part = planner->part;
    part->lent_bytes = part->visit_bytes + request->lent_bytes(request->context, part->chunk, planner->positions);
    planner->left[number_of(planner)] += part->lent_bytes;
}

/* If not all experts fit, takes room for those that are uploaded for a long batch. It counts as scratch. With other
 * hosts there are none, because they compute at the same time. */
static void take_visits(struct gpu_planner *planner, const struct candidate *candidates, size_t count)
{
    uint64_t all = 0, largest = 0, slice = 0, slices[UNIT_MAX_SLICES] = {0};
    for (size_t i = 0; i < count; i++) {
        const struct unit *unit = model_unit(planner->model, candidates[i].unit);
        if (planner->plan->devices[candidates[i].layer] != number_of(planner))
            continue;
        all += plan_gpu_unit_bytes(unit);
        /* Each slice may be largest in another layer. */
        for (uint32_t s = 0; s < unit->slice_count; s++)
            slices[s] = MAX(slices[s], align_up(unit->slices[s].bytes, PLAN_GPU_ALIGNMENT));
    }
    for (uint32_t s = 0; s < UNIT_MAX_SLICES; s++) {
        largest += slices[s];
        slice = MAX(slice, slices[s]);
    }
    if (all <= left_there(planner) || largest == 0 || planner->request->elsewhere)
        return;
    uint64_t slots = MIN(planner->part->budget / VISIT_SHARE / (2 * largest), planner->request->max_allocation / slice);
    slots = MIN(slots, (uint64_t)model_parameters(planner->model)->experts);
    slots = MIN(slots, left_there(planner) / 2 / (2 * largest)); /* the other half is for experts that stay */
    slots = MIN(slots, MAX(VISIT_BYTES / largest, (uint64_t)1));
    if (planner->lends) {
        slots = MIN(slots, MAX(planner->part->budget / VISIT_SHARE_LENT / (2 * largest), (uint64_t)1));
    } else if (drive_binds(planner->model, planner->request)) {
        uint64_t buffers = planner->part->budget / BUFFER_SHARE_READING;
        buffers -= MIN(buffers, planner->part->scratch_bytes);
        slots = MIN(slots, MAX(buffers / (2 * largest), (uint64_t)1));
    }
    if (slots == 0 || !take(planner, 2 * slots * largest))
        return;
    planner->part->visit_slots = (uint32_t)slots;
    planner->part->visit_bytes = 2 * slots * largest;
    planner->part->scratch_bytes += planner->part->visit_bytes;
    if (planner->lends)
        lend_buffers(planner);
}

/* The bytes of a layer's biases for all experts, which experts on the CPU need too. */
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
            if (request->elsewhere && request->elsewhere[unit])
                continue;
            candidates[count++] = (struct candidate){request->uses ? request->uses[unit] : 0, unit, i, e};
        }
    }
    uint64_t all = 0;
    for (size_t i = 0; i < count; i++)
        all += plan_gpu_unit_bytes(model_unit(planner->model, candidates[i].unit));
    plan->in_place = request->in_place && plan->part_count == 1 && all > planner->left[0];
    plan->parts[0].in_place = plan->in_place;
    if (plan->in_place)
        count = 0;
    for (uint32_t d = 0; d < plan->part_count; d++) {
        planner->part = &plan->parts[d];
        take_visits(planner, candidates, count);
    }
    if (count)
        qsort(candidates, count, sizeof *candidates, hotter_first);
    for (size_t i = 0; i < count; i++) {
        const struct unit *unit = model_unit(planner->model, candidates[i].unit);
        uint32_t *slots = &plan->slots[candidates[i].layer];
        uint64_t bytes = plan_gpu_unit_bytes(unit);
        planner->part = &plan->parts[plan->devices[candidates[i].layer]];
        /* All slices of one kind in a layer share a buffer. */
        if ((*slots + 1) * largest_slice(unit) > request->max_allocation || !take(planner, bytes))
            continue;
        planner->part->slots[candidates[i].layer] = ++*slots;
        plan->units[candidates[i].unit] = (uint8_t)(1 + number_of(planner));
        planner->part->units[candidates[i].unit] = 1;
        planner->part->expert_bytes += bytes;
    }
    memory_free(candidates);
    for (uint32_t i = 0; i < plan->layer_count; i++)
        if (plan->layers[i] && plan->slots[i] < experts)
            plan->host_bytes += bias_bytes(planner, i);
    uint32_t there = 0;
    for (uint32_t i = 0; i < plan->layer_count; i++) {
        const unit_number first = plan_first_expert(planner->steps, i);
        there += first != NO_UNIT && plan->slots[i] < own_experts(planner, first) ? plan->slots[i] : 0;
    }
    plan->moves = request->moves && there ? MIN(MAX(there / MOVE_SHARE, 1u), MOST_MOVES) : 0;
    if (planner->lends)
        planner->lends = plan_gpu_lend(plan, planner->model, planner->steps, request);
    return HYPURA_OK;
}

/* ---- the whole plan ---------------------------------------------------------------------------------------------- */

uint32_t plan_gpu_positions(const struct model *model, const struct plan_gpu_request *request)
{
    uint32_t trained = model_parameters(model)->context;
    return request->positions ? request->positions : trained ? MIN(trained, DEFAULT_POSITIONS) : DEFAULT_POSITIONS;
}

uint32_t plan_gpu_longest_chunk(const struct plan_gpu_request *request, uint32_t positions)
{
    uint32_t longest = request->longest_chunk ? MIN(request->longest_chunk, MOST_CHUNK) : MOST_CHUNK;
    return MIN(longest, MAX(positions, LEAST_CHUNK));
}

/* The memory for batches of so many tokens; UINT64_MAX: the driver allows no such buffer. */
static uint64_t buffer_bytes(const struct gpu_planner *planner, uint32_t chunk)
{
    const struct plan_gpu_request *request = planner->request;
    if (!planner->lends)
        return request->scratch_bytes(request->context, chunk, planner->positions);
    const uint64_t lasting = request->lasting_bytes(request->context, chunk, planner->positions);
    const uint64_t lent = request->lent_bytes(request->context, chunk, planner->positions);
    return lasting == UINT64_MAX || lent == UINT64_MAX ? UINT64_MAX : lasting + lent;
}

/* The longest batch whose buffers take at most their share of the device with the smallest budget. */
static uint32_t choose_chunk(const struct gpu_planner *planner)
{
    const struct plan_gpu_request *request = planner->request;
    uint32_t chunk = plan_gpu_longest_chunk(request, planner->positions);
    uint64_t budget = UINT64_MAX;
    for (uint32_t d = 0; d < request->device_count; d++)
        budget = MIN(budget, request->budgets[d] ? request->budgets[d] : UINT64_MAX);
    bool reading = !planner->lends && drive_binds(planner->model, request);
    uint64_t room = budget / (reading ? BUFFER_SHARE_READING : BUFFER_SHARE);
    room -= reading ? MIN(room, 2 * largest_expert(planner)) : 0; /* an expert being uploaded, and the next */
    while (chunk > LEAST_CHUNK && buffer_bytes(planner, chunk) > room)
        chunk /= 2;
    return MAX(chunk, LEAST_CHUNK);
}

/* The requested chunk, or the longest one whose buffers the driver can allocate. */
static uint32_t shorten_chunk(const struct gpu_planner *planner, uint32_t chunk)
{
    const struct plan_gpu_request *request = planner->request;
    while (!request->whole_chunk && chunk > LEAST_CHUNK && buffer_bytes(planner, chunk) == UINT64_MAX)
        chunk = MAX(chunk / 2, LEAST_CHUNK);
    return chunk;
}

static void describe(const struct gpu_planner *planner)
{
    struct plan_gpu *plan = planner->plan;
    uint32_t experts = 0, lent = 0, all = 0, per_layer = model_parameters(planner->model)->experts;
    for (uint32_t i = 0; i < plan->layer_count; i++) {
        experts += plan->slots[i];
        lent += plan->lent[i] ? plan->slots[i] : 0;
        all += plan_first_expert(planner->steps, i) != NO_UNIT ? per_layer : 0;
    }
    char text[32], some[96] = "";
    if (all && plan->in_place)
        snprintf(some, sizeof some, " (the GPU reads experts from the host's memory)");
    else if (all)
        snprintf(some, sizeof some, ", %u of %u experts%s", experts, all,
                 experts < all
                     ? planner->request->uses ? " (those used most in earlier runs)" : " (their use is not known yet)"
                     : "");
    char parts[16 * HARDWARE_MAX_GPUS + 32] = "";
    char runs[32] = "";
    if (plan->groups > 1)
        snprintf(runs, sizeof runs, " in %u runs each", plan->groups);
    for (uint32_t d = 0, used = 0; plan->part_count > 1 && d < plan->part_count; d++)
        used +=
            (uint32_t)snprintf(parts + used, sizeof parts - used, "%s%u%s%s", d ? " + " : " (", plan->parts[d].taken,
                               d + 1 < plan->part_count ? "" : runs, d + 1 < plan->part_count ? "" : ")");
    snprintf(plan->reason, sizeof plan->reason, "%u of %u layers%s%s%s: %s of weights.", plan->taken, plan->layer_count,
             parts, some, plan->output ? " and the output matrix" : "",
             format_bytes(text, sizeof text, (double)(plan->resident_bytes + plan->expert_bytes)));
    const size_t length = strlen(plan->reason);
    if (lent)
        snprintf(plan->reason + length, sizeof plan->reason - length,
                 " Long prompts take the room of up to %u experts.", lent);
    else if (plan->kept_bytes)
        snprintf(plan->reason + length, sizeof plan->reason - length,
                 " Once a long prompt has passed, up to %s more keep unpacked weights.",
                 format_bytes(text, sizeof text, (double)plan->kept_bytes));
}

/* Sums up the parts. */
static void add_up(struct plan_gpu *plan)
{
    for (uint32_t d = 0; d < plan->part_count; d++) {
        struct plan_gpu *part = &plan->parts[d];
        if (part->taken == 0 && !part->output) /* it computes nothing */
            part->scratch_bytes = part->lent_bytes = 0;
        plan->budget += part->budget;
        plan->resident_bytes += part->resident_bytes;
        plan->expert_bytes += part->expert_bytes;
        plan->kv_bytes += part->kv_bytes;
        plan->scratch_bytes += part->scratch_bytes;
        plan->visit_bytes += part->visit_bytes;
        plan->lent_bytes += part->lent_bytes;
        plan->visit_slots = MAX(plan->visit_slots, part->visit_slots);
    }
}

static hypura_status fill(struct gpu_planner *planner, uint32_t chunk, hypura_error *error)
{
    const struct plan_gpu_request *request = planner->request;
    struct plan_gpu *plan = planner->plan;
    planner->positions = plan_gpu_positions(planner->model, request);
    plan->chunk = chunk ? shorten_chunk(planner, chunk) : choose_chunk(planner);
    planner->lends = planner->lends && plan->chunk > request->short_rows;
    const uint64_t scratch = buffer_bytes(planner, plan->chunk);
    bool any = false;
    for (uint32_t d = 0; d < plan->part_count; d++) {
        planner->part = &plan->parts[d];
        planner->part->budget = planner->left[d] = request->budgets[d];
        planner->part->chunk = plan->chunk;
        if (take(planner, scratch))
            planner->part->scratch_bytes = scratch;
        else
            planner->left[d] = 0;
        any |= planner->left[d] > 0;
    }
    if (!any)
        return HYPURA_OK;
    uint32_t last = plan->part_count - 1;
    while (last > 0 && planner->left[last] == 0)
        last--;
    planner->part = &plan->parts[last];
    take_output(planner);
    for (uint32_t i = 0; i < plan->layer_count; i++)
        planner->weights[i] = layer_weight(planner, i);
    if (planner->like)
        alternate_layers(planner);
    else
        spread_layers(planner);
    planner->part = &plan->parts[plan->devices[0]];
    take_embedding(planner);
    hypura_status status = take_experts(planner, error);
    add_up(plan);
    return status;
}

static hypura_status allocate(struct plan_gpu *plan, hypura_error *error)
{
    hypura_status status = ALLOCATE(&plan->layers, plan->layer_count, "plan for the GPU", error);
    if (!status)
        status = ALLOCATE(&plan->slots, plan->layer_count, "plan for the GPU", error);
    if (!status)
        status = ALLOCATE(&plan->lent, plan->layer_count, "plan for the GPU", error);
    if (!status)
        status = ALLOCATE(&plan->units, plan->unit_count, "plan for the GPU", error);
    return status;
}

/* lends: whether buffers may be lent; and whether they are. */
static hypura_status make_one(struct plan_gpu **out, bool *lends, const struct model *model, const struct steps *steps,
                              const struct plan_gpu_request *request, struct plan_gpu_way way, hypura_error *error)
{
    struct plan_gpu *plan;
    uint64_t *weights = NULL;
    hypura_status status = ALLOCATE(&plan, 1, "plan for the GPU", error);
    if (status)
        return status;
    plan->layer_count = model_parameters(model)->layers;
    plan->unit_count = model_unit_count(model);
    plan->groups = way.groups;
    plan->kv_positions = way.kv_positions;
    status = allocate(plan, error);
    if (!status)
        status = ALLOCATE(&plan->devices, plan->layer_count, "plan for the GPU", error);
    if (!status)
        status = ALLOCATE(&plan->parts, request->device_count, "plan for the GPU", error);
    for (; !status && plan->part_count < request->device_count; plan->part_count++) {
        struct plan_gpu *part = &plan->parts[plan->part_count];
        part->layer_count = plan->layer_count;
        part->unit_count = plan->unit_count;
        status = allocate(part, error);
    }
    if (!status)
        status = ALLOCATE(&weights, plan->layer_count, "plan for the GPU", error);
    struct gpu_planner planner = {.model = model,
                                  .steps = steps,
                                  .request = request,
                                  .plan = plan,
                                  .kv_positions = way.kv_positions,
                                  .weights = weights,
                                  .like = way.like,
                                  .lends = *lends};
    if (!status)
        status = fill(&planner, way.chunk, error);
    if (!status) {
        plan_gpu_set_pace(plan, model, request);
        describe(&planner);
    }
    *lends = planner.lends;
    memory_free(weights);
    if (status || plan->taken == 0 || (request->experts_only && plan->expert_bytes == 0)) {
        plan_gpu_free(plan);
        plan = NULL;
    }
    if (!status)
        *out = plan;
    return status;
}

/* Whether lending buffers pays: memory has no room for the weights that are not on devices, so each token of an answer
 * reads experts. */
static bool should_lend(const struct plan_gpu *plan, const struct model *model, const struct plan_gpu_request *request)
{
    return request->lent_bytes && plan->moves && !request->elsewhere && !request->experts_only &&
           model_bytes(model) - plan->resident_bytes - plan->expert_bytes > request->memory;
}

hypura_status plan_gpu_fill(struct plan_gpu **out, const struct model *model, const struct steps *steps,
                            const struct plan_gpu_request *request, struct plan_gpu_way way, hypura_error *error)
{
    struct plan_gpu *lending = NULL;
    bool lends = false;
    hypura_status status = make_one(out, &lends, model, steps, request, way, error);
    lends = !status && *out && should_lend(*out, model, request);
    if (lends)
        status = make_one(&lending, &lends, model, steps, request, way, error);
    if (lends && lending) {
        plan_gpu_free(*out);
        *out = lending;
    } else {
        plan_gpu_free(lending);
    }
    return status;
}

bool plan_gpu_costs_reads(const struct plan_gpu *plan, const struct model *model,
                          const struct plan_gpu_request *request)
{
    bool too_large = false;
    for (uint32_t d = 0; d < plan->part_count; d++)
        too_large |=
            plan->parts[d].scratch_bytes - plan->parts[d].lent_bytes > plan->parts[d].budget / BUFFER_SHARE_READING;
    return too_large && drive_binds(model, request);
}
