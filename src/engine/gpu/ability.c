/* Which layers a GPU can compute, and the memory that they need there besides weights. */
#include "engine/gpu/pass.h"

#include <string.h>

/* A question about a layer. */
struct question {
    const struct gpu *gpu;
    const struct geometry *geometry;
    enum tensor_type kv_type;
    uint32_t layer;
};

/* Whether the GPU can use a unit for its purpose. */
static bool can_use(const struct question *q, const struct step_unit *unit)
{
    const struct gguf_tensor *tensor = model_unit(q->geometry->model, unit->unit)->slices[0].tensor;
    if (tensor->bytes > gpu_get_info(q->gpu)->max_allocation)
        return false;
    switch (unit->use) {
    case USE_VECTOR:
    case USE_BIASES:
    case USE_SEQUENCE:
        return tensor->type == TENSOR_F32;
    case USE_MATRIX:
    case USE_ROUTER:
    case USE_HEADS:
        return gpu_supports(q->gpu, tensor->type) ||
               (tensor->type == TENSOR_I32 && unit->use == USE_ROUTER); /* experts by token */
    case USE_TRIPLE:                                                    /* of all experts that groups share */
        return gpu_supports(q->gpu, tensor->type);
    case USE_ROWS:
    case USE_TABLE:
    case USE_WHOLE:
        break;
    }
    return false;
}

/* Bytes of weights that kernels read at once. Parts of a matrix begin at rows, which must be aligned to this. */
#define PART_ALIGNMENT 16u

static bool can_split(const struct question *q, const struct step_multiply *m)
{
    if (m->offset && (m->in == BUFFER_NORMED || m->in == BUFFER_ATTENDED || m->in == BUFFER_GATE)) /* may be halves */
        return false;
    for (uint32_t i = 0; i < m->count; i++) {
        const struct gguf_tensor *tensor = model_unit(q->geometry->model, m->matrices[i].unit)->slices[0].tensor;
        uint64_t row_bytes = 0;
        if (!tensor_row_bytes(tensor->type, tensor->dimensions[0], &row_bytes) ||
            m->matrices[i].first * row_bytes % PART_ALIGNMENT != 0 ||
            (m->groups > 1 && m->matrices[i].rows / m->groups * row_bytes % PART_ALIGNMENT != 0) ||
            (m->groups > 1 && q->geometry->adapters &&
             adapters_find(q->geometry->adapters, (int32_t)q->layer, m->matrices[i].role)))
            return false;
    }
    return true;
}

/* Whether the kernel for heads can do a step. It norms all heads as one row only by RMS, without gates next to queries,
 * and unless values are the keys before the norm. */
static bool can_turn(const struct question *q, const struct step_heads *h)
{
    const struct step_head *heads[] = {&h->query, &h->key};
    bool both = h->query.buffer != BUFFER_NONE && h->key.buffer != BUFFER_NONE;
    if (q->geometry->sequences > GPU_MAX_SEQUENCES || (both && h->query.size != h->key.size) ||
        (h->values_are_keys && h->key.size != h->value_size) ||
        (h->raw != BUFFER_NONE && h->query.size != h->value_size))
        return false;
    if (h->plane && h->key.heads != 1) /* a row of a plane is one head */
        return false;
    bool each = h->query.norm_each || h->key.norm_each;
    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        bool whole = heads[i]->norm != NO_UNIT && heads[i]->norm_width > heads[i]->size;
        bool shared = heads[i]->norm != NO_UNIT && heads[i]->heads > 1 && !heads[i]->norm_each;
        if ((each && shared) || (whole && (h->centred || h->values_are_keys || h->raw != BUFFER_NONE)))
            return false;
    }
    return true;
}

static bool can_attend(const struct question *q, const struct step_attend *a)
{
    if (a->around || a->alibi != 0.0f || (a->chosen.buffer != BUFFER_NONE && a->window && !a->compressed))
        return false;
    return gpu_attention_supports(q->kv_type, a->key_size, a->value_size);
}

static bool can_attend_latent(const struct question *q, const struct step_attend_latent *a)
{
    /* All layers share one table of heads. */
    return a->heads == q->geometry->heads && a->heads <= GPU_ROUTER_EXPERTS &&
           gpu_attention_supports(q->kv_type, a->rank + a->rotary, a->rank);
}

/* A compressed row is stored as a head of keys. */
static bool can_compress(const struct question *q, uint32_t size, uint32_t plane)
{
    uint32_t every[PASS_BLOCKS];
    return q->geometry->sequences <= GPU_MAX_SEQUENCES && pass_find_blocks(q->geometry, every) <= PASS_BLOCKS &&
           gpu_attention_supports(plane ? kv_plane_type(q->kv_type) : q->kv_type, size, size);
}

/* Whether each of the experts that groups share is aligned as a matrix of its own would be. */
static bool can_share(const struct question *q, const struct step_chunk_experts *x)
{
    const unit_number units[] = {x->gate, x->up, x->down};
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        const struct gguf_tensor *tensor = model_unit(q->geometry->model, units[i])->slices[0].tensor;
        if (tensor->bytes / x->experts % GPU_ALIGNMENT != 0)
            return false;
    }
    return x->experts <= GPU_ROUTER_EXPERTS;
}

/* Whether the kernels can do a step. */
static bool can_record(const struct question *q, const struct step *step)
{
    struct step_unit units[STEP_UNITS];
    size_t count = step_units(step, units);
    if (!pass_records(step->kind))
        return false;
    for (size_t i = 0; i < count; i++)
        if (units[i].use != USE_TABLE && !can_use(q, &units[i])) /* a table's rows come from the drive */
            return false;
    switch (step->kind) {
    case STEP_MULTIPLY:
        return can_split(q, &step->multiply);
    case STEP_HEADS:
        return can_turn(q, &step->heads);
    case STEP_ATTEND:
        return can_attend(q, &step->attend);
    case STEP_ATTEND_LATENT:
        return can_attend_latent(q, &step->attend_latent);
    case STEP_POOL:
        return can_compress(q, step->pool.size, step->pool.plane);
    case STEP_COMPRESS:
        return can_compress(q, step->compress.size, step->compress.plane);
    case STEP_SCALE:
        return step->scale.factor == NO_UNIT;
    case STEP_GATHER:
        return step->gather.count <= STREAMS_MAX;
    case STEP_INDEX:
        return gpu_index_supports(kv_plane_type(q->kv_type), step->index.size);
    case STEP_SPREAD:
        return step->spread.rank + step->spread.rotary <= ATTENTION_MAX_SIZE;
    case STEP_SCAN:
        return gpu_scan_supports(step->scan.size);
    case STEP_DELTA_NET:
        return gpu_delta_net_supports(step->delta_net.key_size, step->delta_net.taps);
    case STEP_CHUNK_EXPERTS:
        return can_share(q, &step->chunk_experts);
    case STEP_MIX:
        return step->mix.scale == 1.0f;
    case STEP_FUNCTION:
        return step->function.function == FUNCTION_SILU ||
               (step->function.function == FUNCTION_GELU && step->function.scale == 0.0f);
    case STEP_EXPERTS:
        return !step->experts.alone;
    case STEP_ROUTE:
        return step->route.rule.experts <= GPU_ROUTER_EXPERTS && step->route.rule.used <= GPU_ROUTER_USED;
    default:
        return true;
    }
}

/* Whether the GPU can do all steps of a layer, in both rewritten lists. */
static bool can_compute(const struct question *q)
{
    bool can = true;
    for (int few = 0; few < 2 && can; few++) {
        struct step *steps;
        size_t count;
        if (steps_fuse(steps_of_layer(q->geometry->steps, q->layer), few, &steps, &count, NULL))
            return false;
        for (size_t i = 0; i < count; i++)
            can = can && can_record(q, &steps[i]);
        memory_free(steps);
    }
    return can;
}

/* Whether the GPU can use the thin matrices of a role. */
static bool can_adapt(const struct gpu *gpu, const struct adapters *adapters, int32_t layer, enum tensor_role role)
{
    const struct thin_pair *pair = adapters ? adapters_find(adapters, layer, role) : NULL;
    for (; pair; pair = pair->next)
        if (!gpu_supports(gpu, pair->a->type) || !gpu_supports(gpu, pair->b->type))
            return false;
    return pass_adapter_bytes(adapters, layer) <= gpu_get_info(gpu)->max_allocation;
}

/* Whether adapters add to experts of the layer, which only the CPU can do. */
static bool adapts_experts(const struct adapters *adapters, uint32_t layer)
{
    bool any = false;
    for (enum tensor_role role = ROLE_EXPERT_GATE_UP; adapters && role <= ROLE_EXPERT_DOWN; role++)
        any = any || adapters_find(adapters, (int32_t)layer, role);
    return any;
}

static bool can_run_experts(const struct gpu *gpu, const struct geometry *geometry, uint32_t number)
{
    const struct model *model = geometry->model;
    const struct step *step = steps_find(steps_of_layer(geometry->steps, number), STEP_EXPERTS);
    if (!step)
        return true;
    if (adapts_experts(geometry->adapters, number))
        return false;
    const struct unit *unit = model_unit(model, step->experts.first);
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        uint64_t row_bytes = 0;
        enum tensor_type type = unit->slices[i].tensor->type;
        if (!gpu_supports(gpu, type))
            return false;
        if (i == 0 && step->experts.gate_up_rows &&
            (!tensor_row_bytes(type, model_parameters(model)->embedding, &row_bytes) ||
             row_bytes * step->experts.width % GPU_ALIGNMENT != 0))
            return false;
    }
    return true;
}

/* The same on a host that computes nothing else of the layer. */
static bool can_run_experts_alone(const struct question *q)
{
    const struct model_parameters *p = model_parameters(q->geometry->model);
    const struct step *experts = steps_find(steps_of_layer(q->geometry->steps, q->layer), STEP_EXPERTS);
    return experts && can_record(q, experts) && can_run_experts(q->gpu, q->geometry, q->layer) &&
           p->experts <= GPU_ROUTER_EXPERTS && p->experts_used <= GPU_ROUTER_USED;
}

static enum gpu_ability ability_of(const struct geometry *geometry, const struct gpu *gpu, uint32_t number,
                                   enum tensor_type kv_type)
{
    const struct question q = {gpu, geometry, kv_type, number};
    if (geometry->experts_only)
        return can_run_experts_alone(&q) ? GPU_CAN : GPU_CANNOT;
    if (!can_compute(&q))
        return GPU_CANNOT;
    for (int role = 0; role < ROLE_COUNT; role++)
        if (!can_adapt(gpu, geometry->adapters, (int32_t)number, (enum tensor_role)role))
            return GPU_CANNOT;
    return can_run_experts(gpu, geometry, number) ? GPU_CAN : GPU_CAN_BUT_EXPERTS;
}

static bool can_output(const struct gpu *gpu, const struct geometry *geometry)
{
    const struct question q = {.gpu = gpu, .geometry = geometry};
    struct step_list after = steps_after(geometry->steps);
    for (size_t i = 0; i < after.count; i++) {
        if (after.steps[i].kind != STEP_OUTPUT && !can_record(&q, &after.steps[i]))
            return false;
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(&after.steps[i], units);
        for (size_t u = 0; u < count; u++)
            if (!can_use(&q, &units[u]))
                return false;
    }
    return steps_find(after, STEP_OUTPUT) && can_adapt(gpu, geometry->adapters, -1, ROLE_OUTPUT);
}

static bool can_embed(const struct gpu *gpu, const struct geometry *geometry)
{
    struct step_list before = steps_before(geometry->steps);
    const struct gguf_tensor *tensor = model_unit(geometry->model, before.steps->embed.unit)->slices[0].tensor;
    uint64_t row_bytes = 0;
    return before.count == 1 && before.steps->embed.copies == 1 && tensor->bytes <= gpu_get_info(gpu)->max_allocation &&
           tensor_row_bytes(tensor->type, tensor->dimensions[0], &row_bytes) &&
           gpu_embed_supports(tensor->type, row_bytes);
}

static uint64_t kv_bytes(const void *context, uint32_t layer, uint32_t positions, uint32_t sequences,
                         uint64_t kv_positions, enum tensor_type kv_type)
{
    return kv_device_bytes(context, layer, positions, sequences, kv_positions, kv_type);
}

static uint64_t no_kv_bytes(const void *context, uint32_t layer, uint32_t positions, uint32_t sequences,
                            uint64_t kv_positions, enum tensor_type kv_type)
{
    (void)context, (void)layer, (void)positions, (void)sequences, (void)kv_positions, (void)kv_type;
    return 0;
}

static uint64_t wanted_scratch(const void *context, uint32_t chunk, uint32_t positions)
{
    return gpu_pass_scratch_bytes(context, chunk, positions);
}

static uint64_t wanted_lasting(const void *context, uint32_t chunk, uint32_t positions)
{
    return gpu_pass_lasting_bytes(context, chunk, positions);
}

static uint64_t wanted_lent(const void *context, uint32_t chunk, uint32_t positions)
{
    return gpu_pass_lent_bytes(context, chunk, positions);
}

/* Layers that share a cache must be on the same side. */
static void agree_on_caches(const struct geometry *geometry, uint8_t *abilities)
{
    const struct step_list all = steps_all(geometry->steps);
    const uint32_t layers = model_parameters(geometry->model)->layers;
    bool changes = true;
    while (changes) {
        changes = false;
        for (size_t i = 0; i < all.count; i++) {
            const struct step *step = &all.steps[i];
            if (step->kind != STEP_ATTEND || step->layer < 0 || (uint32_t)step->layer >= layers)
                continue;
            uint8_t *reader = &abilities[step->layer], *owner = &abilities[step->attend.source];
            if ((*reader == GPU_CANNOT) != (*owner == GPU_CANNOT)) {
                *reader = *owner = GPU_CANNOT;
                changes = true;
            }
        }
    }
}

bool pass_can_part(const struct geometry *geometry)
{
    const struct step_list all = steps_all(geometry->steps);
    uint32_t every[PASS_BLOCKS];
    for (size_t i = 0; i < all.count; i++)
        if (step_state(&all.steps[i]))
            return false;
    for (size_t i = 0; i < PASS_CARRIED; i++)
        if (pass_carried[i] != BUFFER_HIDDEN && geometry->widths[pass_carried[i]])
            return false;
    return geometry->widths[BUFFER_HIDDEN] == model_parameters(geometry->model)->embedding && !geometry->look_up &&
           pass_find_blocks(geometry, every) == 0;
}

void gpu_pass_request(struct plan_gpu_request *out, uint8_t *abilities, const struct geometry *geometry,
                      const struct devices *devices, enum tensor_type kv_type)
{
    const uint32_t layers = model_parameters(geometry->model)->layers;
    memset(abilities, GPU_CAN, layers);
    out->max_allocation = UINT64_MAX;
    out->experts_only = geometry->experts_only;
    out->output = out->embedding = !geometry->experts_only;
    out->parts = !geometry->experts_only && pass_can_part(geometry);
    for (uint32_t d = 0; d < devices->count; d++) { /* only what all of them can do */
        struct gpu *gpu = devices->gpus[d];
        for (uint32_t i = 0; i < layers; i++)
            abilities[i] = MIN(abilities[i], (uint8_t)ability_of(geometry, gpu, i, kv_type));
        out->max_allocation = MIN(out->max_allocation, gpu_get_info(gpu)->max_allocation);
        out->output = out->output && can_output(gpu, geometry);
        out->embedding = out->embedding && can_embed(gpu, geometry);
    }
    if (!geometry->experts_only)
        agree_on_caches(geometry, abilities);
    out->layers = abilities;
    out->kv_type = kv_type;
    out->kv_bytes = geometry->experts_only ? no_kv_bytes : kv_bytes;
    out->scratch_bytes = wanted_scratch;
    out->lasting_bytes = wanted_lasting;
    out->lent_bytes = wanted_lent;
    out->short_rows = scratch_short_rows(geometry);
    out->context = geometry;
}
