/* Predicts the time for a prompt: batch by batch, the longest of everything that runs at the same time.
 *
 * A batch unpacks every matrix once and multiplies it by all of its tokens. It reads what streams once. Many tokens
 * choose nearly all experts of a layer; those that are not in the cache are read once too. A layer on a GPU computes
 * the experts that it has. The others are uploaded or computed on the CPU, whichever is faster (plan_gpu_visit).
 * Reading runs next to computing. The time for attention grows with the position. Only the logits of the last row are
 * needed. So steps that leave nothing for later tokens, mostly the end of the last layer, process that row only. */
#include "plan/plan_private.h"

#include <math.h>

/* Attention multiplies floats, in two passes, at a third of the speed of weights. */
#define ATTENTION_SHARE 0.33

/* What a layer takes per token for a delta net (an H200, 32 heads of 128 x 128) and for a scan (an H100). Both multiply
 * floats and wait for each other's results, so neither the device's bandwidth nor its matrix units count. */
#define DELTA_NET_SECONDS 0.35e-6
#define SCAN_SECONDS 1.1e-6

/* A batch of any length reads and unpacks each weight once. On a GPU, that takes as long as the pass of one token. */
static double gpu_product_seconds(double elements, double tokens, double one_pass_seconds, double multiply_adds)
{
    return elements * tokens / multiply_adds + one_pass_seconds;
}

/* Products on the CPU. A matrix takes no less time for a few tokens than for one. */
struct products {
    double one_token, start, each;
};

static void add_products(struct products *products, const struct plan_unit *unit)
{
    products->one_token += unit->compute_seconds;
    products->start += unit->batch_start;
    products->each += unit->batch_each;
}

static double product_seconds(const struct products *products, double tokens)
{
    return tokens > 0 ? fmax(products->start + products->each * tokens, products->one_token) : 0;
}

/* The tensors and attention of a layer. */
struct part {
    struct products tensors; /* on the CPU */
    double gpu_elements, gpu_bytes;
    double pair;        /* multiply-adds per query and position */
    double gpu_in_turn; /* seconds per token of what processes one token after the other */
};

struct work {
    struct part all, late; /* for all rows, and for those whose logits are needed */
    bool late_experts;
    struct products expert; /* per expert, as are the next two fields */
    double expert_elements, expert_bytes;
    unit_number first_expert;
    uint32_t device; /* 1 + the part; 0: on the CPU */
    bool brings;     /* missing experts can be uploaded */
    double window;   /* the most positions that a row sees */
};

/* Steps that process only rows whose logits are needed. */
struct late {
    bool *units;
    uint32_t layer; /* the first layer with such steps; later layers have no others */
    size_t split;   /* the number of other steps at the start of that layer */
};

static bool on_device(const struct plan *plan, uint32_t layer)
{
    return plan->gpu && plan->gpu->layers[layer];
}

/* The first step that processes fewer rows. On a device, that is only possible in the last layer, after attention. */
static size_t split_of(struct step_list list, bool device)
{
    const struct step *route;
    size_t split = steps_split(list, &route);
    for (size_t i = split; device && i < list.count; i++)
        if (list.steps[i].kind == STEP_ATTEND || list.steps[i].kind == STEP_ATTEND_LATENT)
            split = i + 1;
    return split;
}

/* The last layer that writes something for later tokens, or the one after it if its last step does so. Layers on a
 * device end the search, except the last. */
static void find_late_layer(struct late *out, const struct plan *plan, const struct steps *steps, uint32_t layers)
{
    out->layer = layers;
    for (uint32_t l = layers; l-- > 0 && (l + 1 == layers || !on_device(plan, l));) {
        const struct step_list list = steps_of_layer(steps, l);
        const size_t split = split_of(list, on_device(plan, l));
        if (split == list.count)
            break;
        out->layer = l;
        out->split = split;
        if (split || on_device(plan, l))
            break;
    }
}

uint32_t plan_late_layer(const struct plan *plan, const struct steps *steps, uint32_t layers)
{
    struct late late = {0};
    find_late_layer(&late, plan, steps, layers);
    return late.layer;
}

static void mark(struct late *late, struct step_list list, size_t from, size_t to, bool is_late)
{
    for (size_t i = from; i < to; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(&list.steps[i], units);
        for (size_t u = 0; u < count; u++)
            late->units[units[u].unit] = is_late;
    }
}

static hypura_status find_late(struct late *out, const struct plan *plan, const struct steps *steps,
                               const struct plan_table *table, hypura_error *error)
{
    TRY(ALLOCATE(&out->units, table->count, "planner's units", error));
    find_late_layer(out, plan, steps, table->layers);
    for (uint32_t l = out->layer; l < table->layers; l++) {
        const struct step_list list = steps_of_layer(steps, l);
        const size_t split = l == out->layer ? out->split : 0;
        mark(out, list, split, list.count, true);
        mark(out, list, 0, split, false);
    }
    return HYPURA_OK;
}

static void add_units(struct work *works, double *ring, const struct plan *plan, const struct plan_table *table,
                      const struct model *model, const struct late *late)
{
    for (uint32_t u = 0; u < table->count; u++) {
        const struct plan_unit *row = &table->units[u];
        if (row->layer >= (int32_t)table->layers || row->priority == PRIORITY_ROWS || row->priority == PRIORITY_TABLE ||
            row->priority == PRIORITY_UNUSED || (plan->elsewhere && plan->elsewhere[u]))
            continue;
        struct work *work = &works[row->layer + 1];
        struct part *part = late->units[u] ? &work->late : &work->all;
        bool there = plan->gpu && plan->gpu->units[u];
        *ring += (double)plan_streamed_footprint(row, plan->streams);
        if (row->expert >= 0) {
            if (work->expert_bytes == 0) {
                work->first_expert = u;
                work->expert_elements = (double)row->elements;
                add_products(&work->expert, row);
                work->expert_bytes = (double)row->footprint;
            }
            work->late_experts = row->layer >= (int32_t)late->layer;
        } else if (row->priority == PRIORITY_OUTPUT && row->layer < 0) {
            part = &work->late;
        }
        if (row->expert >= 0)
            continue;
        if (there) {
            part->gpu_elements += (double)row->elements;
            part->gpu_bytes += (double)model_unit(model, u)->bytes;
        } else {
            add_products(&part->tensors, row);
        }
    }
}

/* Attention, and what processes one token after the other. */
static void add_attention(struct work *works, const struct plan *plan, const struct steps *steps, uint32_t layers,
                          const struct late *late)
{
    for (uint32_t l = 0; l < layers; l++) {
        struct step_list list = steps_of_layer(steps, l);
        struct work *work = &works[l + 1];
        work->window = INFINITY;
        if (plan->gpu && plan->gpu->layers[l]) {
            work->device = 1u + plan->gpu->devices[l];
            work->brings = plan->gpu->layers[l] == GPU_CAN;
        }
        for (size_t i = 0; i < list.count; i++) {
            const struct step *step = &list.steps[i];
            const struct step_choice *chosen = NULL;
            const bool is_late = l > late->layer || (l == late->layer && i >= late->split);
            struct part *part = is_late ? &work->late : &work->all;
            part->gpu_in_turn += step->kind == STEP_DELTA_NET ? DELTA_NET_SECONDS
                                 : step->kind == STEP_SCAN    ? SCAN_SECONDS
                                                              : 0;
            if (step->kind == STEP_ATTEND) {
                const struct step_attend *a = &step->attend;
                part->pair += (double)a->heads * (a->key_size + a->value_size);
                work->window = a->window ? a->window : a->chunk ? a->chunk / 2.0 : INFINITY;
                chosen = &a->chosen;
            } else if (step->kind == STEP_ATTEND_LATENT) {
                const struct step_attend_latent *a = &step->attend_latent;
                part->pair += (double)a->heads * (2.0 * a->rank + a->rotary);
                chosen = &a->chosen;
            }
            if (chosen && chosen->buffer != BUFFER_NONE && chosen->most)
                work->window = fmin(work->window, (double)chosen->most * MAX(chosen->block, 1u));
        }
    }
}

struct sides {
    double gpu, cpu, disk, upload;
};

/* The number of a layer's experts that this many tokens use together. An expert that a cache with room for all experts
 * used so far would miss is used for the first time. So the hit rate for each cache size tells how the number grows. */
static hypura_status count_touched(double *out, double tokens, const struct plan_table *table,
                                   const struct plan_request *request, hypura_error *error)
{
    double all = table->experts, used = table->experts_used, bytes = 0;
    *out = fmin(used, all);
    for (uint32_t i = 0; i < table->count; i++)
        bytes += table->units[i].priority == PRIORITY_EXPERT ? (double)table->units[i].footprint : 0;
    /* Eight steps per doubling, because most new experts come at the beginning. */
    for (double at = 1; all > 0 && at < tokens && *out < all; at *= 1.09) {
        double hits, step = fmin(at * 1.09, tokens) - at;
        hypura_status status = plan_hit_rate(&hits, table, (uint64_t)(*out / all * bytes), request, error);
        if (status)
            return status;
        *out = fmin(*out + step * used * (1 - hits), all);
    }
    return HYPURA_OK;
}

/* The time for a layer's experts, for a batch. on_gpu: how many of these are on the GPU. cached: the share of all
 * others that is in memory. */
static struct sides experts(const struct work *work, uint32_t on_gpu, double tokens, double touched, double cached,
                            const struct plan *plan, const struct plan_table *table, const struct model *model,
                            const struct hardware *hardware, const struct hardware_gpu *devices)
{
    struct sides sides = {0};
    double all = table->experts, used = table->experts_used;
    double there = MIN((double)on_gpu / all, 1.0), choices = tokens * used;
    /* The choices are divided equally among the experts used. */
    sides.cpu = touched * (1 - there) * product_seconds(&work->expert, choices / fmax(touched, 1));
    sides.disk = touched * (1 - there) * (1 - cached) * work->expert_bytes / hardware->storage.bytes_per_second;
    if (work->device) {
        const struct hardware_gpu *device = &devices[work->device - 1];
        /* Of a first prompt: nothing is kept yet. */
        const struct plan_expert_speed speed = plan_gpu_expert_speed(device, 0);
        sides.gpu =
            plan_gpu_experts_seconds(&speed, work->expert_elements, choices * there, touched * there, choices / all);
        uint32_t missing = table->experts - MIN(on_gpu, table->experts);
        uint32_t slots = plan->gpu->parts[work->device - 1].visit_slots;
        struct plan_visit visit =
            plan_gpu_visit(model, work->first_expert, missing, slots, (uint64_t)tokens, hardware, device);
        const bool in_place = plan->gpu->in_place && work->brings;
        const bool uploads = missing && visit.many && work->brings && visit.upload_seconds < sides.cpu;
        if (in_place || uploads) {
            sides.cpu = 0;
            sides.upload = uploads ? visit.upload_seconds : 0;
            sides.gpu = plan_gpu_experts_seconds(&speed, work->expert_elements, choices, touched, choices / all);
        }
    }
    return sides;
}

struct batch {
    double position, tokens, wanted; /* wanted: rows whose logits are needed */
    double touched, touched_late;    /* experts used: by all rows, and by those */
    double ring_seconds;
    double leaving; /* bytes of experts that leave devices for it, which memory's cache has no more room for */
};

static double part_seconds(const struct part *part, double tokens, double seen, const struct work *work,
                           const struct hardware *hardware, const struct hardware_gpu *device)
{
    const double pairs = tokens * fmin(seen, work->window) * part->pair;
    double seconds = product_seconds(&part->tensors, tokens);
    if (tokens <= 0)
        return 0;
    if (!device)
        return seconds + pairs / (ATTENTION_SHARE * hardware->multiply_adds_per_second);
    return seconds +
           gpu_product_seconds(part->gpu_elements, tokens, part->gpu_bytes / device->memory_bytes_per_second,
                               plan_gpu_batch_speed(device, tokens)) +
           pairs / (ATTENTION_SHARE * plan_gpu_tile_speed(device)) + tokens * part->gpu_in_turn;
}

static double batch_seconds(const struct work *works, const struct batch *batch, const struct plan *plan,
                            const struct plan_table *table, const struct model *model, const struct hardware *hardware,
                            const struct hardware_gpu *devices)
{
    double computing = 0, disk = batch->ring_seconds, seen = batch->position + batch->tokens / 2, cached = 1;
    if (plan->expert_cache_bytes)
        cached = fmin((double)plan->expert_cache_bytes / fmax((double)plan->expert_bytes + batch->leaving, 1), 1);
    for (uint32_t l = 0; l <= table->layers; l++) {
        const struct work *work = &works[l];
        const struct hardware_gpu *device = work->device ? &devices[work->device - 1] : NULL;
        double layer =
            part_seconds(&work->all, batch->tokens, seen, work, hardware, device) +
            part_seconds(&work->late, batch->wanted, batch->position + batch->tokens, work, hardware, device);
        layer += device ? device->layer_seconds : l ? LAYER_SECONDS : 0;
        const double rows = work->late_experts ? batch->wanted : batch->tokens;
        struct sides sides = {0};
        if (work->expert_bytes > 0 && rows > 0)
            sides = experts(work, device ? plan_gpu_slots(plan->gpu, l - 1, (uint64_t)batch->tokens) : 0, rows,
                            work->late_experts ? batch->touched_late : batch->touched, cached, plan, table, model,
                            hardware, devices);
        computing += fmax(layer + fmax(sides.gpu, sides.cpu), sides.upload); /* uploads do not wait for the router */
        disk += sides.disk;
    }
    return hardware_side_by_side(&hardware->storage, computing, disk);
}

/* Bytes of experts that leave devices for a batch of this many tokens. */
static double leaving_bytes(const struct work *works, const struct plan *plan, uint32_t layers, uint64_t tokens)
{
    double bytes = 0;
    for (uint32_t l = 0; l < layers && plan->gpu; l++)
        bytes += (plan->gpu->slots[l] - plan_gpu_slots(plan->gpu, l, tokens)) * works[l + 1].expert_bytes;
    return bytes;
}

hypura_status plan_prompt_seconds(double *seconds, const uint32_t *prompts, size_t count, const struct plan *plan,
                                  const struct model *model, const struct steps *steps, const struct hardware *hardware,
                                  const struct plan_request *request, hypura_error *error)
{
    struct plan_table table;
    struct work *works = NULL;
    struct late late = {0};
    struct batch batch = {0};
    double ring = 0, whole = 0, rest = 0;
    hypura_status status = plan_table_make(&table, model, steps, hardware, error);
    if (status)
        return status;
    const uint32_t chunk = MAX(plan->chunk, 1u);
    status = ALLOCATE(&works, (size_t)table.layers + 1, "costs of layers", error);
    if (!status)
        status = count_touched(&whole, chunk, &table, request, error);
    if (!status)
        status = count_touched(&batch.touched_late, 1, &table, request, error);
    if (!status)
        status = find_late(&late, plan, steps, &table, error);
    if (!status) {
        add_units(works, &ring, plan, &table, model, &late);
        add_attention(works, plan, steps, table.layers, &late);
    }
    batch.ring_seconds = ring > 0 ? ring / plan_ring_speed(&table, plan, &hardware->storage) : 0;
    for (size_t i = 0; !status && i < count; i++) {
        seconds[i] = 0;
        status = count_touched(&rest, prompts[i] % chunk, &table, request, error);
        for (uint32_t done = 0; !status && done < prompts[i];) {
            uint32_t tokens = MIN(prompts[i] - done, chunk);
            batch.position = done;
            batch.tokens = tokens;
            batch.wanted = done + tokens == prompts[i];
            batch.leaving = leaving_bytes(works, plan, table.layers, tokens);
            batch.touched = tokens == chunk ? whole : rest;
            seconds[i] += batch_seconds(works, &batch, plan, &table, model, hardware, request->devices);
            done += tokens;
        }
    }
    memory_free(late.units);
    memory_free(works);
    plan_table_free(&table);
    return status;
}
