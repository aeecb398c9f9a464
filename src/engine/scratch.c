#include "engine/engine_private.h"

/* The sizes of MLA's queries against the cache's rows, and of the results of all heads. */
static void latent_widths(struct geometry *out, const struct step_attend_latent *a)
{
    size_t heads = a->heads;
    out->latent_rows = (uint32_t)MAX(LATENT_HEADS / heads, (size_t)1);
    out->heads = MAX(out->heads, heads);
    out->latent_query = MAX(out->latent_query, heads * (a->rank + a->rotary));
    out->latent_attended = MAX(out->latent_attended, heads * a->rank);
    out->latent_head = MAX(out->latent_head, MAX(a->rank, a->plain));
}

/* The widths of the rows that products read. */
static void input_widths(struct geometry *out, const struct step *step)
{
    size_t embedding = model_parameters(out->model)->embedding;
    if (step->kind == STEP_MULTIPLY && step->multiply.in == BUFFER_GATE)
        out->inner = MAX(out->inner, (size_t)step->multiply.columns);
    else if (step->kind == STEP_MULTIPLY)
        out->input = MAX(out->input, (size_t)step->multiply.columns);
    else if (step->kind == STEP_EXPERTS)
        out->inner = MAX(out->inner, (size_t)step->experts.width);
    if (step->kind == STEP_CHUNK_EXPERTS)
        out->inner = MAX(out->inner, (size_t)step->chunk_experts.width);
    if (step->kind == STEP_EXPERTS)
        out->input = MAX(out->input, (size_t)step->experts.columns);
    out->input = MAX(out->input, embedding);
    out->inner = MAX(out->inner, (size_t)1); /* a model may have no feed forward */
}

/* The size of a small tensor, if hold_vector has to convert it. */
static void vector_width(struct geometry *out, unit_number unit)
{
    const struct unit_slice *slice = unit == NO_UNIT ? NULL : &model_unit(out->model, unit)->slices[0];
    if (slice && !are_floats(slice))
        out->vector = MAX(out->vector, vector_elements(slice->tensor));
}

static void vector_widths(struct geometry *out, const struct step *step)
{
    struct step_unit units[STEP_UNITS];
    size_t count = step_units(step, units);
    for (size_t i = 0; i < count; i++)
        if (units[i].use == USE_VECTOR || units[i].use == USE_BIASES || units[i].use == USE_SEQUENCE)
            vector_width(out, units[i].unit);
}

/* What a step needs, apart from the widths of buffers. */
static void measure(struct geometry *out, const struct step *step)
{
    const size_t embedding = model_parameters(out->model)->embedding;
    struct state_input inputs[STEP_TOUCHES];
    size_t count;
    vector_widths(out, step);
    input_widths(out, step);
    if (step->kind == STEP_MULTIPLY && step->multiply.groups > 1) {
        out->groups = MAX(out->groups, step->multiply.groups);
        out->group_columns = MAX(out->group_columns, (size_t)step->multiply.columns);
    }
    if (step->kind == STEP_ATTEND_LATENT)
        latent_widths(out, &step->attend_latent);
    out->state_inputs += state_inputs(step, embedding, inputs, &count);
    if (step->kind == STEP_LOOK_UP)
        out->look_up = step;
    if (step->kind == STEP_INDEX)
        out->index_sets = MAX(out->index_sets, step->index.by_head ? step->index.heads : 1);
}

/* Whether each row that a step stores in the KV cache belongs to one position. */
static bool has_plain_rows(const struct step *step)
{
    return step->kind != STEP_COMPRESS && step->kind != STEP_POOL && (step->kind != STEP_HEADS || !step->heads.plane);
}

/* Whether a step runs in a process with this geometry. */
static bool runs_here(const struct geometry *g, const struct step *step)
{
    return !g->experts_only || step->kind == STEP_EXPERTS;
}

void geometry_make(struct geometry *out, const struct model *model, const struct steps *steps, size_t threads,
                   uint32_t sequences, bool experts_only)
{
    const struct step_list all = steps_all(steps);
    const struct model_parameters *p = model_parameters(model);
    *out = (struct geometry){.model = model, .steps = steps, .threads = threads, .sequences = sequences};
    out->experts_only = experts_only && p->experts; /* without experts, it computes layers */
    if (!out->experts_only) {
        out->logits_rows = MAX(sequences, LOGITS_ROWS);
        out->widths[BUFFER_NORMED] = out->widths[BUFFER_BRANCH] = p->embedding;
        for (enum tensor_role role = ROLE_ROPE_FACTORS; role <= ROLE_ROPE_FACTORS_SHORT; role++)
            vector_width(out, model_tensor(model, role));
    }
    out->plain_rows = true;
    for (size_t i = 0; i < all.count; i++) {
        const struct step *step = &all.steps[i];
        out->windows = out->windows || (step->kind == STEP_ATTEND && step->attend.window);
        out->plain_rows = out->plain_rows && (step->layer >= (int32_t)p->layers || has_plain_rows(step));
        if (!runs_here(out, step))
            continue;
        steps_widths((struct step_list){step, 1}, p->embedding, out->widths);
        measure(out, step);
    }
}

/* Cuts buffers from one mapping, one after another. Without a base, only counts their size. The metadata reader bounds
 * the widths, and engine_open the chunk, so no size comes near 64 bits. */
struct cutter {
    uint8_t *base;
    size_t used;
    struct cuts *cuts; /* NULL, or where they are listed */
};

#define MOST_CUTS 96u

struct cuts {
    size_t start[MOST_CUTS], bytes[MOST_CUTS];
    uint32_t count;
};

/* For data that stays from batch to batch: not listed. */
static void *cut_lasting(struct cutter *cutter, size_t count, size_t size)
{
    void *start = cutter->base ? cutter->base + cutter->used : NULL;
    cutter->used += (size_t)align_up(count * size, 64);
    return start;
}

static void *cut(struct cutter *cutter, size_t count, size_t size)
{
    if (cutter->cuts && cutter->cuts->count < MOST_CUTS) {
        cutter->cuts->start[cutter->cuts->count] = cutter->used;
        cutter->cuts->bytes[cutter->cuts->count++] = count * size;
    }
    return cut_lasting(cutter, count, size);
}

#define CUT(field, count) (s->field = cut(cutter, (count), sizeof *s->field))
#define CUT_LASTING(field, count) (s->field = cut_lasting(cutter, (count), sizeof *s->field))

/* Index scores at a time: those of one row, or of more rows up to this number. */
#define INDEX_SCORES ((size_t)1 << 18)

static size_t index_scores(const struct geometry *g, uint32_t chunk, uint32_t positions)
{
    size_t all = index_score_floats(chunk, g->index_sets, positions);
    return MAX(MIN(all, INDEX_SCORES), index_score_floats(1, g->index_sets, positions));
}

/* The rows of experts that are computed at a time. */
static uint32_t expert_rows(const struct geometry *g, uint32_t chunk)
{
    return MAX(chunk, model_parameters(g->model)->experts_used);
}

/* inner_rows: expert_rows, or fewer for a batch that has no more. */
static size_t lay_out(struct scratch *s, const struct geometry *g, uint32_t chunk, uint32_t positions,
                      uint32_t inner_rows, struct cutter *cutter)
{
    const struct model_parameters *p = model_parameters(g->model);
    size_t c = chunk, used = p->experts_used, experts = p->experts;
    s->chunk = chunk;
    s->expert_rows = inner_rows;
    CUT(buffers[BUFFER_HIDDEN], c * g->widths[BUFFER_HIDDEN]);
    CUT(buffers[BUFFER_NORMED], c * g->widths[BUFFER_NORMED]);
    for (size_t i = 0; i < COUNT_OF(s->vectors); i++)
        CUT(vectors[i], g->vector);
    size_t free_at_the_end = cutter->used; /* what follows, up to the logits, is free at the end of a pass */
    for (enum step_buffer buffer = BUFFER_BRANCH; buffer < BUFFER_COUNT; buffer++) {
        bool inner = buffer == BUFFER_GATE || buffer == BUFFER_UP;
        size_t chosen = inner ? s->expert_rows * (size_t)p->expert_feed_forward : 0;
        CUT(buffers[buffer], MAX(c * g->widths[buffer], chosen));
    }
    CUT(rope[0], c * p->rotary);
    CUT(rope[1], c * p->rotary_local);
    CUT(logits, (size_t)g->logits_rows * p->vocabulary);
    s->output_rows = (cutter->used - free_at_the_end) / sizeof *s->logits / MAX(p->vocabulary, 1u);
    CUT(embedding_row, p->embedding * sizeof(double)); /* no type takes more than 8 bytes per element */
    if (g->look_up) {
        const struct step_look_up *l = &g->look_up->look_up;
        const struct gguf_tensor *tensor = model_unit(g->model, l->table)->slices[0].tensor;
        CUT(table_rows, c * l->rows);
        CUT(looked_up, c * l->rows * (size_t)(tensor->bytes / tensor->dimensions[1]));
    }
    if (g->drafts && g->state_inputs) {
        CUT(state_inputs, MIN(c, (size_t)DRAFT_ROWS) * g->state_inputs);
        CUT(state_inputs_of, p->layers);
    }
    if (g->latent_rows) {
        size_t rows = MIN(c, (size_t)g->latent_rows);
        CUT(latent_query, rows * g->latent_query);
        CUT(latent_attended, rows * g->latent_attended);
        CUT(head_rows, rows * g->heads);
    }
    s->index_score_floats = index_scores(g, chunk, positions);
    CUT(index_scores, s->index_score_floats);
    if (g->groups)
        CUT(group_rows, c * g->groups);
    if (p->predicting) {
        CUT(unpassed, PREDICTION_ROWS * (size_t)p->embedding);
        CUT_LASTING(unpassed_tokens, MAX(c, (size_t)PREDICTION_ROWS));
    }
    CUT(positions, c);
    CUT(wanted, c);
    CUT(left, c);
    CUT(left_tokens, c);
    CUT(spans, g->sequences);
    CUT(all_spans, g->sequences);
    CUT(attention, g->sequences);
    if (g->on_gpu)
        CUT(device_sequences, g->sequences);
    if (experts) {
        CUT(router, c * experts);
        CUT(selection, c * experts);
        CUT(chosen, c * used);
        CUT(chosen_weights, c * used);
        CUT(chunk_weights, p->chunk_group ? c * used : 0);
        CUT(expert_out, c * used * MAX(p->embedding, p->expert_columns));
        CUT(prefetched, (size_t)PREFETCH_LAYERS * PREFETCH_LAYERS * PREFETCH_ROWS * prefetch_ranks(p));
        CUT(margins, (size_t)PREFETCH_LAYERS * PREFETCH_LAYERS * PREFETCH_ROWS * prefetch_ranks(p));
        CUT(prefetch_weights, PREFETCH_ROWS * prefetch_ranks(p));
        CUT(likely, experts);
        CUT(prefetch_units, experts);
        CUT(prefetch_probabilities, experts);
        CUT(expert_first, experts + 1);
        CUT(expert_token, c * used);
        CUT(expert_slot, c * used);
        CUT_LASTING(identity, s->expert_rows);
        CUT(expert_units, experts);
        CUT(jobs, 2 * MIN(experts, (size_t)s->expert_rows));
    }
    return cutter->used;
}

static size_t latent_input_rows(const struct geometry *g, uint32_t chunk)
{
    return MIN(chunk, g->latent_rows) * g->heads;
}

struct compute_limits compute_limits_of(const struct geometry *g, uint32_t chunk)
{
    const struct model_parameters *p = model_parameters(g->model);
    struct compute_limits limits = {.tokens = MAX(chunk, p->experts_used), .key_size = 1, .value_size = 1};
    struct step_list all = steps_all(g->steps);
    for (size_t i = 0; i < all.count; i++) {
        const struct step *step = &all.steps[i];
        if (!runs_here(g, step))
            continue;
        if (step->kind == STEP_ATTEND) {
            limits.queries = MAX(limits.queries, chunk * (size_t)(step->attend.heads / step->attend.kv_heads));
            limits.key_size = MAX(limits.key_size, (size_t)step->attend.key_size);
            limits.value_size = MAX(limits.value_size, (size_t)step->attend.value_size);
            limits.chooses = limits.chooses || step->attend.chosen.buffer != BUFFER_NONE || step->attend.compressed;
        } else if (step->kind == STEP_ATTEND_LATENT) {
            const struct step_attend_latent *a = &step->attend_latent;
            limits.queries = MAX(limits.queries, chunk * (size_t)a->heads);
            limits.key_size = MAX(limits.key_size, (size_t)a->rank + a->rotary);
            limits.value_size = MAX(limits.value_size, (size_t)a->rank);
            limits.chooses = limits.chooses || a->chosen.buffer != BUFFER_NONE;
        } else if (step->kind == STEP_INDEX) {
            limits.index_heads = MAX(limits.index_heads, (size_t)step->index.heads);
            limits.index_size = MAX(limits.index_size, (size_t)step->index.size);
        }
    }
    return limits;
}

static uint64_t prefetch_input_bytes(const struct geometry *g)
{
    return activation_bytes(PREFETCH_ROWS, model_parameters(g->model)->embedding);
}

uint64_t scratch_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions)
{
    struct scratch layout = {0};
    struct compute_limits limits = compute_limits_of(geometry, chunk);
    struct cutter cutter = {0};
    return align_up(lay_out(&layout, geometry, chunk, positions, expert_rows(geometry, chunk), &cutter),
                    memory_page_size()) +
           activation_bytes(chunk, geometry->input) + activation_bytes(expert_rows(geometry, chunk), geometry->inner) +
           (geometry->groups ? activation_bytes((size_t)chunk * geometry->groups, geometry->group_columns) : 0) +
           (geometry->latent_rows ? activation_bytes(latent_input_rows(geometry, chunk), geometry->latent_head) : 0) +
           (model_parameters(geometry->model)->experts ? prefetch_input_bytes(geometry) : 0) +
           compute_scratch_bytes(geometry->threads, &limits);
}

hypura_status scratch_create(struct scratch *out, const struct geometry *geometry, uint32_t chunk, uint32_t positions,
                             hypura_error *error)
{
    *out = (struct scratch){0};
    struct cutter sizes = {0}, cutter = {0};
    size_t bytes = lay_out(out, geometry, chunk, positions, expert_rows(geometry, chunk), &sizes);
    void *memory;
    TRY(memory_map(&memory, bytes, false, "buffers of the forward pass", error));
    *out = (struct scratch){0};
    cutter.base = memory;
    lay_out(out, geometry, chunk, positions, expert_rows(geometry, chunk), &cutter);
    out->memory = memory;
    out->bytes = bytes;
    for (uint32_t i = 0; out->identity && i < out->expert_rows; i++)
        out->identity[i] = i;
    size_t before = 0;
    for (uint32_t i = 0; out->state_inputs && i < model_parameters(geometry->model)->layers; i++) {
        struct step_list list = steps_of_layer(geometry->steps, i);
        struct state_input inputs[STEP_TOUCHES];
        size_t count;
        out->state_inputs_of[i] = before;
        for (size_t s = 0; s < list.count; s++)
            before += state_inputs(&list.steps[s], model_parameters(geometry->model)->embedding, inputs, &count);
    }
    if (geometry->groups)
        TRY(activation_create(&out->group_input, (size_t)chunk * geometry->groups, geometry->group_columns, error));
    if (geometry->latent_rows)
        TRY(activation_create(&out->latent_input, latent_input_rows(geometry, chunk), geometry->latent_head, error));
    if (model_parameters(geometry->model)->experts)
        TRY(activation_create(&out->prefetch_input, PREFETCH_ROWS, model_parameters(geometry->model)->embedding,
                              error));
    TRY(activation_create(&out->inputs[0].activation, chunk, geometry->input, error));
    return activation_create(&out->inputs[1].activation, out->expert_rows, geometry->inner, error);
}

/* ---- memory of long batches ----------------------------------------------------------------------------------------
 */

uint32_t scratch_short_rows(const struct geometry *geometry)
{
    return MAX(SHORT_ROWS, geometry->sequences);
}

/* The rows of an expert's inner values in a short batch. */
static uint32_t short_expert_rows(const struct geometry *geometry, uint32_t chunk)
{
    const uint64_t most =
        (uint64_t)scratch_short_rows(geometry) * MAX(model_parameters(geometry->model)->experts_used, 1u);
    return (uint32_t)MIN((uint64_t)expert_rows(geometry, chunk), most);
}

bool scratch_is_short(const struct geometry *geometry, size_t rows)
{
    return rows <= scratch_short_rows(geometry);
}

/* The parts that only a long batch touches: in each buffer, what follows the rows of a short one. */
static void find_spare(struct cuts *out, const struct geometry *geometry, uint32_t chunk, uint32_t positions)
{
    struct scratch layout = {0};
    struct cuts few = {0};
    struct cutter all = {.cuts = out}, some = {.cuts = &few};
    out->count = 0;
    lay_out(&layout, geometry, chunk, positions, expert_rows(geometry, chunk), &all);
    lay_out(&layout, geometry, MIN(chunk, scratch_short_rows(geometry)), positions, short_expert_rows(geometry, chunk),
            &some);
    for (uint32_t i = 0; i < out->count; i++) {
        out->start[i] += few.bytes[i];
        out->bytes[i] -= few.bytes[i];
    }
}

uint64_t scratch_spare_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions)
{
    struct cuts spare;
    if (chunk <= scratch_short_rows(geometry))
        return 0;
    find_spare(&spare, geometry, chunk, positions);
    uint64_t bytes =
        activation_spare_bytes(chunk, geometry->input, scratch_short_rows(geometry)) +
        activation_spare_bytes(expert_rows(geometry, chunk), geometry->inner, short_expert_rows(geometry, chunk));
    for (uint32_t i = 0; i < spare.count; i++)
        bytes += memory_whole_pages(spare.start[i], spare.bytes[i]);
    return bytes;
}

void scratch_release(struct scratch *scratch, const struct geometry *geometry, uint32_t positions)
{
    struct cuts spare;
    find_spare(&spare, geometry, scratch->chunk, positions);
    for (uint32_t i = 0; i < spare.count; i++)
        memory_decommit((uint8_t *)scratch->memory + spare.start[i], spare.bytes[i]);
    activation_release(scratch->inputs[0].activation, scratch_short_rows(geometry));
    activation_release(scratch->inputs[1].activation, short_expert_rows(geometry, scratch->chunk));
}

void scratch_destroy(struct scratch *scratch)
{
    for (size_t i = 0; i < COUNT_OF(scratch->inputs); i++)
        activation_destroy(scratch->inputs[i].activation);
    activation_destroy(scratch->latent_input);
    activation_destroy(scratch->group_input);
    activation_destroy(scratch->prefetch_input);
    if (scratch->memory)
        memory_unmap(scratch->memory, scratch->bytes);
    *scratch = (struct scratch){0};
}
