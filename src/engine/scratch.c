#include "engine/engine_private.h"

/* The queries before they meet the cache's rows, what comes back of all heads, and the low ranks between. */
static void latent_widths(struct geometry *out, const struct model_parameters *p, const struct model_layer *layer)
{
    size_t heads = layer->heads;
    size_t row = (size_t)p->kv_rank + p->rotary, expanded = p->latent_key_size - p->rotary + p->latent_value_size;
    out->query = MAX(out->query, heads * p->latent_key_size);
    out->attended = MAX(MAX(out->attended, heads * p->latent_value_size), (size_t)MAX(p->q_rank, p->kv_rank));
    out->key = MAX(out->key, row);
    if (layer->tensors[ROLE_ATTENTION_KV_B] != NO_UNIT) {
        out->latents = row;
        out->query_raw = MAX(out->query_raw, heads * expanded);
        out->key = MAX(out->key, heads * p->latent_key_size);
        out->value = MAX(out->value, heads * p->latent_value_size);
        return;
    }
    out->latent_rows = (uint32_t)MAX(LATENT_HEADS / heads, (size_t)1);
    out->heads = MAX(out->heads, heads);
    out->latent_query = MAX(out->latent_query, heads * row);
    out->latent_attended = MAX(out->latent_attended, heads * p->kv_rank);
    out->latent_head = MAX(p->kv_rank, p->latent_key_size - p->rotary);
}

/* The convolution's input and output stand in the buffers of queries, the gate in that of values. */
static void recurrent_widths(struct geometry *out, const struct model_parameters *p)
{
    size_t inner = (size_t)p->recurrent_heads_v * p->recurrent_value_size;
    size_t channels = inner + 2 * (size_t)p->recurrent_heads_k * p->recurrent_key_size;
    out->query = MAX(out->query, channels);
    out->query_raw = MAX(out->query_raw, channels);
    out->key = MAX(out->key, 4 * (size_t)p->recurrent_heads_v);
    out->value = MAX(out->value, inner);
    out->attended = MAX(out->attended, inner);
}

/* Small tensors that hold_vector has to convert. */
static void vector_widths(struct geometry *out, const struct model *model)
{
    for (unit_number i = 0; i < model_unit_count(model); i++) {
        const struct unit *unit = model_unit(model, i);
        const struct unit_slice *slice = &unit->slices[0];
        bool matrix = slice->tensor->dimensions[1] * slice->tensor->dimensions[2] > 1;
        bool rows = (unit->role >= ROLE_EXPERT_GATE_BIAS && unit->role <= ROLE_EXPERT_DOWN_BIAS) ||
                    unit->role == ROLE_RECURRENT_CONV;
        if (unit->kind == UNIT_TENSOR && (!matrix || rows) && !are_floats(slice))
            out->vector = MAX(out->vector, vector_elements(slice->tensor));
    }
}

void geometry_make(struct geometry *out, const struct model *model, size_t threads, uint32_t sequences)
{
    const struct model_parameters *p = model_parameters(model);
    *out = (struct geometry){.model = model, .threads = threads, .sequences = sequences};
    out->logits_rows = MAX(sequences, LOGITS_ROWS);
    out->projected = p->embedding;
    vector_widths(out, model);
    out->feed_forward = p->shared_feed_forward;
    for (uint32_t i = 0; i < p->layers; i++) {
        const struct model_layer *layer = model_layer(model, i);
        out->windows = out->windows || layer->window;
        out->shared = out->shared || p->shared_feed_forward || (layer->moe && layer->tensors[ROLE_FFN_UP] != NO_UNIT);
        if (!layer->moe || layer->tensors[ROLE_FFN_UP] != NO_UNIT)
            out->feed_forward = MAX(out->feed_forward, (size_t)layer->feed_forward);
        if (layer->kind == LAYER_LATENT) {
            latent_widths(out, p, layer);
            continue;
        }
        if (layer->kind == LAYER_RECURRENT) {
            recurrent_widths(out, p);
            continue;
        }
        out->query = MAX(out->query, (size_t)layer->heads * layer->key_size);
        out->key = MAX(out->key, (size_t)layer->kv_heads * layer->key_size);
        out->value = MAX(out->value, (size_t)layer->kv_heads * layer->value_size);
        out->attended = MAX(out->attended, (size_t)layer->heads * layer->value_size);
        if (model_architecture(model)->flags & ARCHITECTURE_QUERY_GATED)
            out->query_raw = MAX(out->query_raw, 2 * (size_t)layer->heads * layer->key_size);
    }
    out->projected = MAX(out->projected, out->attended);
}

/* Buffers are cut from one mapping, one after another. With no base only the size counts. The widths are bounded by the
 * reader of the metadata and the chunk by engine_open, so that nothing here comes near 64 bits. */
struct cutter {
    uint8_t *base;
    size_t used;
};

static void *cut(struct cutter *cutter, size_t count, size_t size)
{
    void *start = cutter->base ? cutter->base + cutter->used : NULL;
    cutter->used += (size_t)align_up(count * size, 64);
    return start;
}

#define CUT(field, count) (s->field = cut(&cutter, (count), sizeof *s->field))

static size_t lay_out(struct scratch *s, const struct geometry *g, uint32_t chunk, uint8_t *base)
{
    const struct model_parameters *p = model_parameters(g->model);
    struct cutter cutter = {.base = base};
    size_t c = chunk, used = p->experts_used, experts = p->experts;
    s->chunk = chunk;
    s->expert_rows = (uint32_t)MAX(c, used);
    CUT(hidden, c * p->embedding);
    CUT(normed, c * p->embedding);
    for (size_t i = 0; i < COUNT_OF(s->vectors); i++)
        CUT(vectors[i], g->vector);
    size_t free_at_the_end = cutter.used; /* of a pass, up to the logits */
    CUT(branch, c * p->embedding);
    CUT(query, c * g->query);
    CUT(query_raw, c * g->query_raw);
    CUT(key, c * g->key);
    CUT(value, c * g->value);
    CUT(attended, c * g->attended);
    CUT(rope[0], c * p->rotary);
    CUT(rope[1], c * p->rotary_local);
    size_t gate = MAX(c * g->feed_forward, s->expert_rows * (size_t)p->expert_feed_forward);
    CUT(gate, gate);
    CUT(up, gate);
    CUT(logits, (size_t)g->logits_rows * p->vocabulary);
    s->output_rows = (cutter.used - free_at_the_end) / sizeof *s->logits / MAX(p->vocabulary, 1u);
    CUT(embedding_row, p->embedding * sizeof(double)); /* no type takes more than 8 bytes an element */
    CUT(latents, c * g->latents);
    if (g->latent_rows) {
        size_t rows = MIN(c, (size_t)g->latent_rows);
        CUT(latent_query, rows * g->latent_query);
        CUT(latent_attended, rows * g->latent_attended);
        CUT(head_rows, rows * g->heads);
    }
    CUT(positions, c);
    CUT(wanted, c);
    CUT(spans, g->sequences);
    CUT(attention, g->sequences);
    if (g->on_gpu)
        CUT(device_sequences, g->sequences);
    if (experts) {
        CUT(router, c * experts);
        CUT(selection, c * experts);
        CUT(chosen, c * used);
        CUT(chosen_weights, c * used);
        CUT(expert_out, c * used * p->embedding);
        if (g->shared) {
            CUT(shared_out, c * p->embedding);
            CUT(shared_weights, c);
        }
        CUT(guessed, (size_t)GUESS_LAYERS * GUESS_LAYERS * GUESS_ROWS * guess_ranks(p));
        CUT(margins, (size_t)GUESS_LAYERS * GUESS_LAYERS * GUESS_ROWS * guess_ranks(p));
        CUT(guessed_weights, GUESS_ROWS * guess_ranks(p));
        CUT(likely, experts);
        CUT(guess_units, experts);
        CUT(guess_probabilities, experts);
        CUT(expert_first, experts + 1);
        CUT(expert_token, c * used);
        CUT(expert_slot, c * used);
        CUT(identity, s->expert_rows);
        CUT(expert_units, experts);
        CUT(jobs, 2 * MIN(experts, (size_t)s->expert_rows));
    }
    return cutter.used;
}

static size_t inner_width(const struct geometry *g)
{
    return MAX(g->feed_forward, (size_t)model_parameters(g->model)->expert_feed_forward);
}

static size_t latent_input_rows(const struct geometry *g, uint32_t chunk)
{
    return MIN(chunk, g->latent_rows) * g->heads;
}

struct compute_limits compute_limits_of(const struct geometry *g, uint32_t chunk)
{
    const struct model_parameters *p = model_parameters(g->model);
    struct compute_limits limits = {.tokens = MAX(chunk, p->experts_used),
                                    .key_size = MAX(p->latent_key_size, p->kv_rank + p->rotary),
                                    .value_size = MAX(p->latent_value_size, p->kv_rank)};
    for (uint32_t i = 0; i < p->layers; i++) {
        const struct model_layer *layer = model_layer(g->model, i);
        size_t group = layer->kind == LAYER_LATENT ? layer->heads : layer->heads / MAX(layer->kv_heads, 1u);
        limits.queries = MAX(limits.queries, chunk * group);
        limits.key_size = MAX(limits.key_size, (size_t)layer->key_size);
        limits.value_size = MAX(limits.value_size, (size_t)layer->value_size);
    }
    return limits;
}

static uint64_t guess_input_bytes(const struct geometry *g)
{
    return activation_bytes(GUESS_ROWS, model_parameters(g->model)->embedding);
}

uint64_t scratch_bytes(const struct geometry *geometry, uint32_t chunk)
{
    struct scratch layout = {0};
    struct compute_limits limits = compute_limits_of(geometry, chunk);
    return align_up(lay_out(&layout, geometry, chunk, NULL), memory_page_size()) +
           activation_bytes(chunk, geometry->projected) + activation_bytes(layout.expert_rows, inner_width(geometry)) +
           (geometry->latent_rows ? activation_bytes(latent_input_rows(geometry, chunk), geometry->latent_head) : 0) +
           (model_parameters(geometry->model)->experts ? guess_input_bytes(geometry) : 0) +
           compute_scratch_bytes(geometry->threads, &limits);
}

hypura_status scratch_create(struct scratch *out, const struct geometry *geometry, uint32_t chunk, hypura_error *error)
{
    *out = (struct scratch){0};
    size_t bytes = lay_out(out, geometry, chunk, NULL);
    void *memory;
    TRY(memory_map(&memory, bytes, false, "buffers of the forward pass", error));
    *out = (struct scratch){0};
    lay_out(out, geometry, chunk, memory);
    out->memory = memory;
    out->bytes = bytes;
    for (uint32_t i = 0; out->identity && i < out->expert_rows; i++)
        out->identity[i] = i;
    if (geometry->latent_rows)
        TRY(activation_create(&out->latent_input, latent_input_rows(geometry, chunk), geometry->latent_head, error));
    if (model_parameters(geometry->model)->experts)
        TRY(activation_create(&out->guess_input, GUESS_ROWS, model_parameters(geometry->model)->embedding, error));
    TRY(activation_create(&out->input, chunk, geometry->projected, error));
    return activation_create(&out->inner, out->expert_rows, inner_width(geometry), error);
}

void scratch_destroy(struct scratch *scratch)
{
    activation_destroy(scratch->input);
    activation_destroy(scratch->inner);
    activation_destroy(scratch->latent_input);
    activation_destroy(scratch->guess_input);
    if (scratch->memory)
        memory_unmap(scratch->memory, scratch->bytes);
    *scratch = (struct scratch){0};
}
