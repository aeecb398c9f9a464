/* Prompts on several devices: in how many parts they pass, and in how many groups the layers alternate.
 *
 * With g groups per device, a prompt in p parts is p * g units of work for each of n devices. The first device begins
 * at once, the last one after n - 1 units, so all end after p * g + n - 1 units. A part comes back to a device after it
 * has passed all n, so a device with fewer than n parts waits. Shorter parts cost more per row. */
#include "plan/plan_private.h"

/* Parts with fewer rows lose more time than the overlap saves. */
#define PART_ROWS 256u
#define MOST_PARTS 8u

/* In decoding, passing from device to device takes at most this share of a token's time: two H200 decode a token 1.03
 * times as fast as one (docs/notes/2026-11-23-many-cores-two-cards.md). */
#define WAYS_SHARE 0.03

static double cost_of(const struct plan_pace *pace, uint64_t rows)
{
    if (pace->panels)
        return pace->kept * plan_gpu_row_cost(KEPT_PANELS, rows) +
               (1 - pace->kept) * plan_gpu_row_cost(UNPACKED_PANELS, rows);
    return pace->unpacked * plan_gpu_row_cost(UNPACKED_ROWS, rows) +
           (1 - pace->unpacked) * plan_gpu_row_cost(NOT_UNPACKED, rows);
}

uint32_t plan_gpu_devices(const struct plan_gpu *plan)
{
    uint32_t count = 0;
    for (uint32_t d = 0; d < plan->part_count; d++)
        count += plan->parts[d].taken > 0;
    return count;
}

static double prompt_seconds(const struct plan_gpu *plan, uint32_t groups, uint32_t parts, uint64_t rows)
{
    const struct plan_pace *pace = &plan->pace;
    const double devices = plan_gpu_devices(plan), part = (double)rows / parts;
    const double experts =
        pace->experts
            ? plan_gpu_experts_seconds(&pace->expert_speed, pace->expert_elements, part * pace->used,
                                       MIN(part * pace->used, (double)pace->experts), part * pace->used / pace->experts)
            : 0;
    const double unit = (pace->row_seconds * part * cost_of(pace, rows / parts) + experts) / groups;
    const double way = pace->way_seconds + pace->way_row_seconds * part;
    const double round = MAX(parts * unit, devices * (unit + way));
    return (groups - 1) * round + parts * unit + (devices - 1) * (unit + way);
}

static uint32_t best_parts(const struct plan_gpu *plan, uint32_t groups, uint64_t rows)
{
    uint32_t best = 1;
    for (uint32_t parts = 2; parts <= MOST_PARTS && rows / parts >= PART_ROWS; parts++)
        if (prompt_seconds(plan, groups, parts, rows) < prompt_seconds(plan, groups, best, rows))
            best = parts;
    return best;
}

uint32_t plan_gpu_parts(const struct plan_gpu *plan, uint64_t rows)
{
    return best_parts(plan, plan->groups, rows);
}

uint32_t plan_gpu_run_end(const struct plan_gpu *plan, uint32_t layer)
{
    uint32_t end = layer + 1;
    while (end < plan->layer_count && plan->layers[end] && plan->devices[end] == plan->devices[layer])
        end++;
    return end;
}

/* ---- the pace ---------------------------------------------------------------------------------------------------- */

/* What a device multiplies in prompts, in elements: of matrices, and of one expert of each layer; and the bytes of
 * what batches unpack, once it is. */
struct device_work {
    double dense, expert, unpacked_bytes;
};

/* Adds a unit of a device. panels: experts are unpacked, and may stay so. Returns the share of its bytes that a row
 * reads; *packed: those that must be unpacked. */
static double add_unit(struct device_work *work, const struct unit *unit, const struct model_parameters *p, bool panels,
                       double *packed)
{
    const bool expert = unit->kind == UNIT_EXPERT;
    double bytes = 0;
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct tensor_type_info *info = tensor_type_info(unit->slices[i].tensor->type);
        const double elements = (double)unit->slices[i].bytes / info->block_bytes * info->block_size;
        const double read = (expert ? (double)p->experts_used / p->experts : 1) * (double)unit->slices[i].bytes;
        work->dense += expert ? 0 : elements;
        work->expert += expert ? elements / p->experts : 0;
        work->unpacked_bytes += !expert || panels ? elements * sizeof(uint16_t) : 0;
        bytes += read;
        *packed += unit->slices[i].tensor->type == TENSOR_F16 ? 0 : read;
    }
    return bytes;
}

void plan_gpu_set_pace(struct plan_gpu *plan, const struct model *model, const struct plan_gpu_request *request)
{
    const struct model_parameters *p = model_parameters(model);
    const double choices = (double)plan->chunk * p->experts_used, average = choices / MAX(p->experts, 1u);
    struct device_work works[HARDWARE_MAX_GPUS] = {0};
    struct plan_pace pace = {.panels = request->devices, .kept = 1, .experts = p->experts, .used = p->experts_used};
    double bytes = 0, packed = 0, slowest = -1;
    for (unit_number u = 0; u < plan->unit_count; u++) {
        const struct unit *unit = model_unit(model, u);
        if (!plan->units[u] || unit->layer < 0)
            continue;
        const bool stay = plan->slots[unit->layer] == p->experts && !plan->lent[unit->layer];
        bytes += add_unit(&works[plan->units[u] - 1], unit, p, stay && gpu_expert_panels(average, false), &packed);
    }
    pace.unpacked = bytes > 0 ? packed / bytes : 0;
    for (uint32_t d = 0; d < plan->part_count; d++) {
        const struct hardware_gpu *device = request->devices ? &request->devices[d] : NULL;
        const struct device_work *work = &works[d];
        struct plan_gpu *part = &plan->parts[d];
        const double room = device && device->info.panels ? (double)plan_gpu_keep_bytes(part) : 0;
        const double share = work->unpacked_bytes > 0 ? MIN(room / work->unpacked_bytes, 1.0) : 1;
        const struct plan_expert_speed speed =
            device ? plan_gpu_expert_speed(device, share) : (struct plan_expert_speed){0};
        const double dense = work->dense / (device ? MAX(device->multiply_adds_per_second, 1.0) : 1);
        const double experts =
            device ? plan_gpu_experts_seconds(&speed, work->expert, choices, MIN(choices, (double)p->experts), average)
                   : work->expert * choices;
        if (plan->chunk * dense + experts > slowest) {
            slowest = plan->chunk * dense + experts;
            pace.row_seconds = dense;
            pace.expert_elements = work->expert;
            pace.expert_speed = speed;
        }
        if (!device || !part->taken)
            continue;
        part->keeps = device->info.panels && share >= 1;
        pace.panels &= device->info.panels;
        pace.kept = MIN(pace.kept, share);
        plan->kept_bytes += (uint64_t)(share * work->unpacked_bytes);
        /* Rows go to the host's memory and from there to the next device. */
        pace.way_seconds = MAX(pace.way_seconds, device->move_seconds);
        pace.way_row_seconds =
            MAX(pace.way_row_seconds, 2.0 * p->embedding * sizeof(float) / MAX(device->upload_bytes_per_second, 1.0));
    }
    plan->pace = pace;
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

/* The time of a token without passing on. */
static double token_seconds(const struct plan_gpu *plan, const struct model *model,
                            const struct plan_gpu_request *request)
{
    const struct model_parameters *p = model_parameters(model);
    const double used = p->experts ? (double)p->experts_used / p->experts : 1;
    double seconds = 0;
    for (uint32_t d = 0; d < plan->part_count; d++) {
        const struct hardware_gpu *device = &request->devices[d];
        seconds += ((double)plan->parts[d].resident_bytes + used * (double)plan->parts[d].expert_bytes) /
                       MAX(device->memory_bytes_per_second, 1.0) +
                   plan->parts[d].taken * device->layer_seconds;
    }
    return seconds;
}

/* The time of a usual request that depends on the groups. */
static double request_seconds(const struct plan_gpu *plan, uint32_t groups)
{
    const uint64_t rows = MIN(plan->chunk, USUAL_PROMPT);
    const uint32_t ways = groups * plan_gpu_devices(plan) - 1;
    return (double)USUAL_PROMPT / (double)rows * prompt_seconds(plan, groups, best_parts(plan, groups, rows), rows) +
           USUAL_ANSWER * ways * plan->pace.way_seconds;
}

bool plan_gpu_is_measured(const struct plan_gpu *plan, const struct plan_gpu_request *request)
{
    bool measured = request->devices;
    for (uint32_t d = 0; measured && d < plan->part_count; d++)
        measured = !plan->parts[d].taken || request->devices[d].measured;
    return measured;
}

uint32_t plan_gpu_choose_groups(const struct plan_gpu *plan, const struct model *model,
                                const struct plan_gpu_request *request)
{
    const uint32_t devices = plan_gpu_devices(plan);
    uint32_t most = PLAN_MOST_GROUPS, best = 1;
    for (uint32_t d = 0; d < plan->part_count; d++)
        most = plan->parts[d].taken ? MIN(most, plan->parts[d].taken) : most;
    if (devices < 2)
        return 1;
    if (request->groups)
        return MIN(request->groups, most);
    if (!request->parts || !plan_gpu_is_measured(plan, request))
        return 1;
    const double room = WAYS_SHARE * token_seconds(plan, model, request);
    for (uint32_t groups = 2; groups <= most && (groups * devices - 1) * plan->pace.way_seconds <= room; groups++)
        if (request_seconds(plan, groups) < request_seconds(plan, best))
            best = groups;
    return best;
}
