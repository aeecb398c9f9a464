/* The commands of the next token, recorded while the device computes this one: so it starts as soon as the token is
 * chosen, and need not wait for the CPU between layers. What the token is, and what depends on positions alone, is read
 * from mapped memory, which is filled when it is known; all else is as if it had been recorded then. */
#include "engine/gpu/pass.h"

/* A token that takes longer is sent in parts, so that a device which hangs is told from one that is slow. */
#define MOST_SECONDS 2.0

/* Whether the device computes all of a token, but perhaps the embedding. */
bool pass_can_record_ahead(const struct engine *engine)
{
    const struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    if (!pass->plan->output)
        return false;
    for (uint32_t i = 0; i < p->layers; i++)
        if (!pass->plan->layers[i] ||
            (steps_find(steps_of_layer(engine->steps, i), STEP_EXPERTS) && pass->slots[i].count < p->experts))
            return false;
    return true;
}

/* Whether a batch is one token of each of a few sequences, with logits of all. */
static bool is_step(const struct engine *engine)
{
    return engine->rows <= GPU_VECTOR_TOKENS && engine->span_count == engine->rows && engine->wanted == engine->rows &&
           engine->wanted <= engine->geometry.logits_rows && !engine->trace;
}

void pass_expect(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    const struct scratch *s = &engine->scratch;
    struct ahead *ahead = &pass->ahead;
    bool step = is_step(engine);
    ahead->expected = step && ahead->rows == engine->rows;
    for (uint32_t r = 0; ahead->expected && r < ahead->rows; r++)
        ahead->expected = s->spans[r].sequence == ahead->sequences[r] && s->positions[r] == ahead->positions[r];
    ahead->used = ahead->ready && ahead->expected;
    if (ahead->ready && !ahead->used)
        gpu_drop(pass->gpu);
    ahead->ready = false;
    ahead->rows = step ? (uint32_t)engine->rows : 0;
    for (uint32_t r = 0; r < ahead->rows; r++) {
        ahead->sequences[r] = s->spans[r].sequence;
        ahead->positions[r] = s->positions[r] + 1;
    }
}

static hypura_status record(struct engine *engine)
{
    bool done;
    TRY(gpu_pass_embed(engine, NULL, &done, NULL)); /* or the CPU does it */
    for (uint32_t i = 0; i < model_parameters(engine->model)->layers; i++)
        TRY(gpu_pass_layer(engine, i, NULL));
    return pass_record_output(engine, 0, engine->wanted, NULL);
}

void pass_record_ahead(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    struct ahead *ahead = &pass->ahead;
    /* One that was expected is likely to be followed by another. */
    if (!ahead->possible || !ahead->expected || ahead->seconds > MOST_SECONDS)
        return;
    for (uint32_t r = 0; r < ahead->rows; r++)
        if (ahead->positions[r] >= engine->plan->positions)
            return;
    const struct gpu_pass before = *pass;
    ahead->recording = true;
    pass->on_device = pass->inputs_sent = false;
    for (uint32_t r = 0; r < ahead->rows; r++)
        engine->scratch.positions[r]++;
    hypura_status status = record(engine);
    for (uint32_t r = 0; r < ahead->rows; r++)
        engine->scratch.positions[r]--;
    *pass = before;
    ahead->ready = status == HYPURA_OK && gpu_recorded(pass->gpu) == HYPURA_OK;
    if (!ahead->ready)
        gpu_drop(pass->gpu);
}
