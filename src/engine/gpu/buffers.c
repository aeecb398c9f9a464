/* A pass's device memory besides weights: the layout of its buffers, and the caches. */
#include "engine/gpu/pass.h"

/* Lent memory is taken for multiples of this many rows. */
#define ROWS_AT_ONCE 64u

/* Rows whose attention is cut into parts at the same time. */
#define PARTS_AT_ONCE 64u

struct layout {
    uint64_t scratch, upload, readback;
};

static struct gpu_range cut(struct gpu_buffer *buffer, uint64_t *used, uint64_t bytes)
{
    struct gpu_range range = {buffer, *used};
    *used += align_up(MAX(bytes, (uint64_t)1), GPU_ALIGNMENT);
    return range;
}

static struct shared_part cut_shared(struct gpu_buffer *buffer, uint64_t *used, uint64_t bytes)
{
    struct shared_part part = {.range = cut(buffer, used, bytes)};
    if (buffer)
        part.host = (uint8_t *)gpu_buffer_mapped(buffer) + part.range.offset;
    return part;
}

/* Bytes for the largest of a layer's products with experts as halves, with their inputs; 0: weights need the room. */
static uint64_t unpacked_expert_bytes(const struct geometry *g, const struct step_experts *x, uint32_t chunk)
{
    const struct unit *unit = model_unit(g->model, x->first);
    uint64_t most = 0;
    for (uint32_t i = 0; g->panels && i < unit->slice_count; i++) {
        const bool down = i + 1 == unit->slice_count;
        most = MAX(most, gpu_expert_unpacked_bytes(unit->slices[i].tensor->type, down ? x->columns : x->width,
                                                   down ? x->width : x->columns, model_parameters(g->model)->experts,
                                                   x->used, chunk));
    }
    return most <= g->panels_room ? most : 0;
}

/* Bytes for the largest matrix of a product as halves. */
static uint64_t unpacked_bytes(const struct geometry *g, uint32_t chunk)
{
    struct step_list all = steps_all(g->steps);
    uint64_t most = 0;
    for (size_t i = 0; g->halves && i < all.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = all.steps[i].layer < 0 ? 0 : step_units(&all.steps[i], units);
        for (size_t u = 0; u < count; u++) {
            if (units[u].use == USE_TABLE)
                continue;
            const struct gguf_tensor *t = model_unit(g->model, units[u].unit)->slices[0].tensor;
            most = MAX(most, gpu_unpacked_bytes(t->type, (uint32_t)(t->dimensions[1] * t->dimensions[2]),
                                                (uint32_t)t->dimensions[0], chunk, g->panels));
        }
        if (all.steps[i].kind == STEP_EXPERTS)
            most = MAX(most, unpacked_expert_bytes(g, &all.steps[i].experts, chunk));
    }
    return most;
}

/* Bytes for partial results of attention, which sequences with few rows need. This many rows at a time keep a device
 * busy. */
static uint64_t attention_bytes(const struct geometry *g, uint32_t chunk, uint32_t positions)
{
    struct step_list all = steps_all(g->steps);
    uint32_t rows = MIN(MIN(chunk, PARTS_AT_ONCE), g->sequences * GPU_VECTOR_TOKENS);
    uint64_t most = pass_latent_attention_bytes(g, chunk, positions);
    for (size_t i = 0; i < all.count; i++) {
        const struct step_attend *a = &all.steps[i].attend;
        if (all.steps[i].kind == STEP_ATTEND)
            most = MAX(most, gpu_attention_scratch_bytes(rows, a->heads, a->value_size, positions));
    }
    return most;
}

/* Bytes for gated delta nets of sequences with many rows. */
static uint64_t delta_net_bytes(const struct geometry *g, uint32_t chunk)
{
    struct step_list all = steps_all(g->steps);
    uint64_t most = 0;
    for (size_t i = 0; i < all.count; i++) {
        const struct step_delta_net *d = &all.steps[i].delta_net;
        if (all.steps[i].kind == STEP_DELTA_NET)
            most = MAX(most, gpu_delta_net_scratch_bytes(chunk, g->sequences, d->heads_v, d->key_size, d->value_size));
    }
    return most;
}

/* Rows come and go in the same memory. */
static uint64_t cut_handed(struct gpu_pass *pass, const struct geometry *g, uint32_t chunk)
{
    const struct model_parameters *p = model_parameters(g->model);
    const uint64_t few = GPU_VECTOR_TOKENS * sizeof(float);
    uint64_t used = 0;
    pass->divided.rows = cut_shared(pass->handed_rows, &used, few * p->embedding);
    pass->divided.logits = cut_shared(pass->handed_rows, &used, few * p->vocabulary);
    for (size_t i = 0; i < PASS_CARRIED; i++)
        pass->up_parts.carried[i] = pass->back_parts.carried[i] =
            cut_shared(pass->handed_rows, &used, (uint64_t)chunk * g->widths[pass_carried[i]] * sizeof(float));
    return used;
}

uint64_t pass_handed_bytes(const struct geometry *geometry, uint32_t chunk)
{
    struct gpu_pass pass = {0};
    return cut_handed(&pass, geometry, chunk);
}

/* The layout on a rank that computes only experts. */
static struct layout lay_out_experts(struct gpu_pass *pass, const struct geometry *g, uint32_t chunk)
{
    const struct model_parameters *p = model_parameters(g->model);
    struct layout used = {0};
    const uint64_t f = sizeof(float), half = g->halves ? sizeof(uint16_t) : 0, x = MAX(p->embedding, p->expert_columns);
    const uint64_t c = chunk, choices = c * p->experts_used, inner = choices * p->expert_feed_forward;
    struct gpu_buffer *s = pass->scratch, *u = pass->upload, *b = pass->readback;
    for (enum step_buffer buffer = BUFFER_HIDDEN; buffer < BUFFER_COUNT; buffer++) {
        const bool of_experts = buffer == BUFFER_GATE || buffer == BUFFER_UP;
        pass->rows[buffer] = cut(s, &used.scratch, (of_experts ? inner : c * g->widths[buffer]) * f);
    }
    pass->normed_halves = cut(s, &used.scratch, c * x * half);
    pass->inner_halves = cut(s, &used.scratch, inner * half);
    pass->chosen = cut(s, &used.scratch, choices * f);
    pass->weights = cut(s, &used.scratch, choices * f);
    pass->groups = cut(s, &used.scratch, gpu_expert_group_bytes(p->experts, p->experts_used, chunk));
    pass->expert_out = cut(s, &used.scratch, choices * x * f);
    pass->served.rows = cut_shared(u, &used.upload, c * x * f);
    pass->served.chosen = cut_shared(u, &used.upload, choices * f);
    pass->served.weights = cut_shared(u, &used.upload, choices * f);
    pass->served.expert_rows = cut_shared(b, &used.readback, choices * x * f);
    return used;
}

/* Rows of latent attention that have room in a batch. */
static uint64_t latent_rows(const struct geometry *g, uint32_t chunk)
{
    const uint32_t rows = pass_latent_rows(g, chunk);
    return rows ? rows + LATENT_MORE_ROWS : 0;
}

/* Lays out what stays from batch to batch, or does not depend on the length of a batch. Before the buffers exist, it
 * only counts their sizes. */
static struct layout lay_out_lasting(struct gpu_pass *pass, const struct geometry *g, uint32_t chunk,
                                     uint32_t positions)
{
    const struct model_parameters *p = model_parameters(g->model);
    struct layout used = {0};
    uint64_t c = chunk, e = p->embedding, x = MAX(e, p->expert_columns), f = sizeof(float),
             choices = c * p->experts_used;
    struct gpu_buffer *s = pass->scratch, *u = pass->upload, *b = pass->readback;
    pass_find_chunks(pass, g);
    pass->chunks.slots = cut(s, &used.scratch, pass->chunks.experts * f);
    pass->latent.heads = cut(s, &used.scratch, latent_rows(g, chunk) * g->heads * f);
    pass->state_inputs = cut(s, &used.scratch, g->drafts ? MIN(c, (uint64_t)DRAFT_ROWS) * g->state_inputs * f : 0);
    const uint32_t asked = pass_asked_buffers(g), asked_rows = MIN(chunk, PREFETCH_ROWS);
    for (enum step_buffer buffer = BUFFER_HIDDEN; buffer < BUFFER_COUNT; buffer++)
        if (asked >> buffer & 1)
            pass->asked.rows[buffer] = cut(s, &used.scratch, asked_rows * MAX(e, g->widths[buffer]) * f);
    pass->asked.logits = cut(s, &used.scratch, asked_rows * (uint64_t)p->experts * f);
    for (size_t i = 0; i < PREFETCH_ASKED && p->experts; i++)
        pass->asked.back[i] = cut_shared(b, &used.readback, asked_rows * (uint64_t)p->experts * f);
    pass->picked = cut(s, &used.scratch, g->logits_rows * e * f);
    pass->logits = cut(s, &used.scratch, (uint64_t)g->logits_rows * p->vocabulary * f);
    const bool pools = g->plain_rows && g->sequences > 1;
    const uint64_t blocks = (positions + PLAN_KV_BLOCK - 1) / PLAN_KV_BLOCK;
    pass->blocks = cut(s, &used.scratch, pools ? g->sequences * blocks * sizeof(uint32_t) : 0);
    if (p->experts) {
        pass->back_parts.normed = cut_shared(b, &used.readback, c * x * f);
        pass->back_parts.chosen = cut_shared(b, &used.readback, choices * f);
        pass->back_parts.weights = cut_shared(b, &used.readback, choices * f);
    }
    for (int i = 0; i < 2 && p->experts; i++)
        pass->visits[i].table = cut_shared(u, &used.upload, UNIT_MAX_SLICES * p->experts * sizeof(uint32_t));
    for (size_t i = 0; i < PASS_CARRIED && !pass->handed_rows; i++)
        pass->back_parts.carried[i] = cut_shared(b, &used.readback, c * g->widths[pass_carried[i]] * f);
    pass->divided.rows = pass->back_parts.hidden = cut_shared(b, &used.readback, c * e * f);
    pass->divided.logits = pass->back_parts.logits =
        cut_shared(b, &used.readback, (uint64_t)g->logits_rows * p->vocabulary * f);
    if (pass->handed_rows)
        cut_handed(pass, g, chunk);
    return used;
}

/* Lays out what the host writes for batches of up to this many rows, as lay_out_rows. */
static uint64_t lay_out_uploads(struct gpu_pass *pass, const struct geometry *g, uint32_t most, struct gpu_buffer *u,
                                uint64_t used)
{
    const struct model_parameters *p = model_parameters(g->model);
    const uint64_t c = most, x = MAX(p->embedding, p->expert_columns), f = sizeof(float);
    uint32_t every[PASS_BLOCKS];
    if (p->experts)
        pass->up_parts.expert_rows = cut_shared(u, &used, c * p->experts_used * x * f);
    for (size_t i = 0; i < PASS_CARRIED && !pass->handed_rows; i++)
        pass->up_parts.carried[i] = cut_shared(u, &used, c * g->widths[pass_carried[i]] * f);
    for (uint32_t i = MIN(pass_find_blocks(g, every), PASS_BLOCKS); i-- > 0;)
        pass->up_parts.block_rope[i] = cut_shared(u, &used, MIN(c, c / every[i] + g->sequences) * p->rotary * f);
    pass->up_parts.looked_up = cut_shared(u, &used, c * g->widths[BUFFER_LOOKED_UP] * f);
    pass->up_parts.tokens = cut_shared(u, &used, c * f);
    pass->up_parts.rope[0] = cut_shared(u, &used, c * p->rotary * f);
    pass->up_parts.rope[1] = cut_shared(u, &used, c * p->rotary_local * f);
    pass->up_parts.scales = cut_shared(u, &used, c * f);
    return used;
}

/* Lays out the rest for batches of up to this many rows, from "used" of a buffer (or none) on. Returns where it ends.
 */
static uint64_t lay_out_rows(struct gpu_pass *pass, const struct geometry *g, uint32_t most, uint32_t positions,
                             struct gpu_buffer *s, uint64_t used)
{
    const struct model_parameters *p = model_parameters(g->model);
    uint64_t c = most, e = p->embedding, x = MAX(e, p->expert_columns), f = sizeof(float),
             choices = c * p->experts_used;
    pass_find_chunks(pass, g);
    uint64_t inner = MAX(c * g->widths[BUFFER_GATE], choices * MAX(p->expert_feed_forward, pass->chunks.width));
    for (enum step_buffer buffer = BUFFER_HIDDEN; buffer < BUFFER_COUNT; buffer++) {
        bool experts = buffer == BUFFER_GATE || buffer == BUFFER_UP;
        bool always = buffer == BUFFER_HIDDEN || buffer == BUFFER_NORMED || buffer == BUFFER_BRANCH;
        uint64_t floats = experts ? inner : c * MAX(always ? e : 0, g->widths[buffer]);
        pass->rows[buffer] = cut(s, &used, floats * f);
    }
    uint64_t rank = g->adapters ? adapters_rank(g->adapters) : 0;
    pass->low_floats = align_up(c * rank, GPU_ALIGNMENT / f);
    pass->low = cut(s, &used, PASS_PRODUCTS * pass->low_floats * f);
    pass->attention_bytes = attention_bytes(g, most, positions);
    pass->delta_net_bytes = delta_net_bytes(g, most);
    pass->attention = cut(s, &used, MAX(pass->attention_bytes, pass->delta_net_bytes));
    pass->score_bytes = pass_score_bytes(g, most, positions);
    pass->scores = cut(s, &used, pass->score_bytes);
    pass->latent.rows = pass_latent_rows(g, most);
    const uint64_t rows = latent_rows(g, most);
    const uint32_t heads = (uint32_t)g->heads;
    pass->latent.query = cut(s, &used, rows * g->latent_query * f);
    pass->latent.attended = cut(s, &used, rows * g->latent_attended * f);
    pass->latent.groups = cut(s, &used, rows ? gpu_expert_group_bytes(heads, heads, (uint32_t)rows) : 0);
    uint64_t half = g->halves ? sizeof(uint16_t) : 0;
    pass->normed_halves = cut(s, &used, c * e * half);
    pass->inner_halves = cut(s, &used, inner * half);
    pass->unpacked_bytes = unpacked_bytes(g, most);
    pass->unpacked = cut(s, &used, pass->unpacked_bytes);
    pass->tokens = cut(s, &used, c * f);
    pass->rope[0] = cut(s, &used, c * p->rotary * f);
    pass->rope[1] = cut(s, &used, c * p->rotary_local * f);
    pass->scales = cut(s, &used, c * f);
    uint32_t every[PASS_BLOCKS];
    for (uint32_t i = MIN(pass_find_blocks(g, every), PASS_BLOCKS); i-- > 0;)
        pass->block_rope[i] = cut(s, &used, MIN(c, c / every[i] + g->sequences) * p->rotary * f);
    if (p->experts) {
        pass->router = cut(s, &used, c * p->experts * f);
        pass->chosen = cut(s, &used, choices * f);
        pass->weights = cut(s, &used, choices * f);
        const uint32_t chunks = pass->chunks.experts;
        pass->chunks.ids = cut(s, &used, chunks ? choices * f : 0);
        pass->chunks.weights = cut(s, &used, chunks ? choices * f : 0);
        pass->chunks.groups = cut(s, &used, chunks ? gpu_expert_group_bytes(chunks, p->experts_used, most) : 0);
        pass->groups = cut(s, &used, gpu_expert_group_bytes(p->experts, p->experts_used, most));
        pass->expert_out = cut(s, &used, choices * x * f);
    }
    return used;
}

/* Lays out buffers for batches of up to "most" rows of a device that has room for "chunk". */
static struct layout lay_out_own(struct gpu_pass *pass, const struct geometry *g, uint32_t chunk, uint32_t most,
                                 uint32_t positions)
{
    struct layout used = lay_out_lasting(pass, g, chunk, positions);
    used.scratch = lay_out_rows(pass, g, most, positions, pass->scratch, used.scratch);
    used.upload = lay_out_uploads(pass, g, g->visible ? most : chunk, pass->upload, used.upload);
    return used;
}

/* Lays out the others in lent memory, after experts that visit. Returns how much of it is needed. */
static uint64_t lay_out_lent(struct gpu_pass *pass, const struct geometry *g, uint32_t most, uint32_t positions,
                             uint64_t visits)
{
    const uint64_t used = lay_out_rows(pass, g, most, positions, pass->lent, visits);
    return g->visible ? lay_out_uploads(pass, g, most, pass->lent, used) : used;
}

/* Lays out all buffers, or those for short batches if memory is lent. */
static struct layout lay_out(struct gpu_pass *pass, const struct geometry *g, uint32_t chunk, uint32_t positions)
{
    if (g->experts_only)
        return lay_out_experts(pass, g, chunk);
    return lay_out_own(pass, g, chunk, pass->lent ? MIN(chunk, scratch_short_rows(g)) : chunk, positions);
}

static uint64_t adapters_bytes(const struct geometry *geometry)
{
    uint64_t bytes = 0;
    for (int32_t i = -1; !geometry->experts_only && i < (int32_t)model_parameters(geometry->model)->layers; i++)
        bytes += pass_adapter_bytes(geometry->adapters, i);
    return bytes;
}

/* Memory that the host sees may be the device's, too. */
static uint64_t sum(const struct layout *used, const struct geometry *geometry)
{
    if (geometry->largest_buffer && MAX(MAX(used->scratch, used->upload), used->readback) > geometry->largest_buffer)
        return UINT64_MAX; /* a shorter batch may fit */
    return used->scratch + used->upload + used->readback + adapters_bytes(geometry);
}

uint64_t gpu_pass_scratch_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions)
{
    struct gpu_pass pass = {0};
    const struct layout used = lay_out(&pass, geometry, chunk, positions);
    return sum(&used, geometry);
}

uint64_t gpu_pass_lasting_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions)
{
    struct gpu_pass pass = {0};
    const struct layout used = lay_out_own(&pass, geometry, chunk, MIN(chunk, scratch_short_rows(geometry)), positions);
    return sum(&used, geometry);
}

uint64_t gpu_pass_lent_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions)
{
    struct gpu_pass pass = {0};
    const uint64_t bytes = lay_out_lent(&pass, geometry, chunk, positions, 0);
    return geometry->largest_buffer && bytes > geometry->largest_buffer ? UINT64_MAX : bytes;
}

static void lay_out_again(struct batch *batch, struct gpu_pass *pass)
{
    lay_out(pass, &batch->open->geometry, batch->open->plan->chunk, batch->open->plan->positions);
}

/* The next chunk of a prompt finds what the last one took, even with a short batch in between: experts would hardly be
 * back before they left again. */
static hypura_status lend(struct batch *batch, struct gpu_pass *pass, bool is_short, hypura_error *error)
{
    const struct plan *plan = batch->open->plan;
    const uint32_t most = (uint32_t)MIN(align_up(batch->rows, ROWS_AT_ONCE), (uint64_t)plan->chunk);
    uint64_t taken = pass->taken;
    if (!is_short)
        taken = MAX(taken, lay_out_lent(pass, &batch->open->geometry, most, plan->positions, pass->plan->visit_bytes));
    else if (pass->is_short)
        taken = 0;
    else
        lay_out_again(batch, pass);
    pass->is_short = is_short;
    if (taken != pass->taken)
        TRY(store_take_lent(batch->open->store, pass->number, taken, error));
    pass->taken = taken;
    return HYPURA_OK;
}

hypura_status gpu_pass_lend(struct batch *batch, hypura_error *error)
{
    const bool is_short = scratch_is_short(&batch->open->geometry, batch->rows);
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++)
        if (batch->passes[d] && batch->passes[d]->lent)
            TRY(lend(batch, batch->passes[d], is_short, error));
    return HYPURA_OK;
}

/* Creates the table of blocks, with zeros. */
static hypura_status open_blocks(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const size_t count = (size_t)batch->kv.sequences * batch->kv.blocks;
    gpu_ticket arrived;
    if (!batch->kv.pool.blocks)
        return HYPURA_OK;
    TRY(ALLOCATE(&pass->known_blocks, count, "table of blocks", error));
    TRY(gpu_upload(pass->gpu, pass->blocks, pass->known_blocks, count * sizeof *pass->known_blocks, &arrived, error));
    return gpu_upload_wait(pass->gpu, arrived, error);
}

static uint64_t pool_bytes(const struct kv_layer *layer)
{
    const uint64_t head = layer->key_head_bytes + (layer->values_in_keys ? 0 : layer->value_head_bytes);
    return layer->pooled ? layer->heads * head : 0;
}

hypura_status pass_make_buffers(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct plan *plan = batch->open->plan;
    const struct geometry *g = &batch->open->geometry;
    pass->lent = pass->plan->lent_bytes ? store_lent(batch->open->store, pass->number) : NULL;
    pass->is_short = true;
    const struct layout sizes = lay_out(pass, g, plan->chunk, plan->positions);
    TRY(gpu_buffer_create(pass->gpu, &pass->scratch, sizes.scratch, GPU_DEVICE, error));
    TRY(gpu_buffer_create(pass->gpu, &pass->upload, sizes.upload, GPU_UPLOAD, error));
    TRY(gpu_buffer_create(pass->gpu, &pass->readback, sizes.readback, GPU_READBACK, error));
    lay_out_again(batch, pass);
    if (g->experts_only)
        return HYPURA_OK;
    TRY(pass_make_visits(batch, error));
    TRY(pass_make_holds(batch, error));
    TRY(pass_open_latent(batch, error));
    TRY(pass_open_chunks(batch, error));
    TRY(pass_open_adapters(batch, error));
    TRY(open_blocks(batch, error));
    TRY(ALLOCATE(&pass->caches, batch->kv.layer_count, "table of caches", error));
    for (uint32_t i = 0; i < batch->kv.layer_count; i++) {
        const uint64_t bytes =
            kv_device_bytes(g, i, plan->positions, plan->sequences, plan->kv_positions, batch->kv.type);
        if (!pass->plan->layers[i] || !bytes) /* a feed forward alone keeps nothing */
            continue;
        TRY(gpu_buffer_create(pass->gpu, &pass->caches[i], bytes, GPU_DEVICE, error));
        pass->cache_bytes += bytes;
        pass->pool_bytes += pool_bytes(&batch->kv.layers[i]);
    }
    pass->block_bytes = pass->pool_bytes / MAX(batch->kv.pool.blocks, 1u);
    return HYPURA_OK;
}
