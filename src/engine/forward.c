#include "engine/cpu/execute.h"
#include "engine/gpu/pass.h"

#include <inttypes.h>
#include <string.h>

/* ---- the batch -----------------------------------------------------------------------------------------------------
 */

/* Checks tokens and positions, and cuts the batch into spans of one sequence each. Nothing is changed on an error. */
static hypura_status read_batch(struct engine *engine, const struct engine_batch *batch, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    uint32_t vocabulary = model_parameters(engine->model)->vocabulary;
    if (batch->count == 0 || batch->count > s->chunk)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a batch of %zu tokens; 1 to %u are possible", batch->count,
                         s->chunk);
    engine->rows = batch->count;
    engine->span_count = 0;
    engine->wanted = 0;
    for (uint32_t r = 0; r < batch->count; r++) {
        uint32_t sequence = batch->sequences ? batch->sequences[r] : 0;
        if (batch->tokens[r] < 0 || (uint32_t)batch->tokens[r] >= vocabulary)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "token %d is not one of the %u of the vocabulary",
                             batch->tokens[r], vocabulary);
        if (sequence >= engine->kv.sequences)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "sequence %u; there are %u", sequence, engine->kv.sequences);
        struct span *span = engine->span_count ? &s->spans[engine->span_count - 1] : NULL;
        if (!span || span->sequence != sequence) {
            for (uint32_t i = 0; i < engine->span_count; i++)
                if (s->spans[i].sequence == sequence)
                    return error_set(error, HYPURA_ERROR_ARGUMENT, "tokens of sequence %u are not adjacent", sequence);
            span = &s->spans[engine->span_count++];
            *span = (struct span){.sequence = sequence, .first_row = r};
        }
        uint32_t expected = engine->kv.held[sequence] + span->rows;
        if (batch->positions[r] != expected)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "position %u of sequence %u; the next is %u",
                             batch->positions[r], sequence, expected);
        if (expected >= engine->plan->positions)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the context of %u positions is full",
                             engine->plan->positions);
        span->rows++;
        s->positions[r] = expected;
        if (batch->want_logits ? batch->want_logits[r] : r + 1 == batch->count && !is_encoder(engine))
            s->wanted[engine->wanted++] = r;
    }
    if (batch->drafted > engine_drafts(engine) || batch->drafted >= batch->count ||
        (batch->drafted && engine->span_count > 1))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%u guessed tokens in a batch of %zu, of %u sequences",
                         batch->drafted, batch->count, engine->span_count);
    if (!batch->on_logits && engine->wanted > engine->geometry.logits_rows)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%zu tokens want logits and none takes them as they come; %u can be kept", engine->wanted,
                         engine->geometry.logits_rows);
    return is_encoder(engine) ? check_encoder_batch(engine, batch, error) : HYPURA_OK;
}

static hypura_status check_cancel(struct engine *engine, hypura_error *error)
{
    if (engine_is_to_end(engine) || thread_pool_skipped(compute_pool(engine->compute)))
        return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    return HYPURA_OK;
}

/* ---- logits --------------------------------------------------------------------------------------------------------
 */

hypura_status give_logits(struct engine *engine, const struct engine_batch *batch, size_t first, size_t count,
                          const float *logits, hypura_error *error)
{
    if (!batch->on_logits)
        return HYPURA_OK;
    TRY(check_cancel(engine, error)); /* or what was computed for a part only would be taken for logits */
    for (size_t i = 0; i < count; i++)
        if (!batch->on_logits(batch->on_logits_context, first + i,
                              logits + i * model_parameters(engine->model)->vocabulary))
            return error_set(error, HYPURA_ERROR_CANCELLED, "stopped while logits were read");
    return HYPURA_OK;
}

/* ---- the pass ------------------------------------------------------------------------------------------------------
 */

static hypura_status embed(struct engine *engine, hypura_error *error)
{
    bool done;
    TRY(gpu_pass_embed(engine, engine->batch->tokens, &done, error));
    return done ? HYPURA_OK : execute(engine, steps_before(engine->steps), error);
}

static hypura_status run_layers(struct engine *engine, hypura_error *error)
{
    for (uint32_t i = 0; i < model_parameters(engine->model)->layers; i++) {
        TRY(check_cancel(engine, error));
        if (gpu_pass_has(engine, i)) {
            TRY(gpu_pass_layer(engine, i, error));
            continue;
        }
        TRY(gpu_pass_to_host(engine, error));
        TRY(execute(engine, steps_of_layer(engine->steps, i), error));
        TRY(guess_ahead(engine, i, error));
    }
    return HYPURA_OK;
}

static hypura_status output(struct engine *engine, hypura_error *error)
{
    bool done;
    TRY(gpu_pass_output(engine, engine->batch, &done, error));
    if (done)
        return HYPURA_OK;
    TRY(gpu_pass_to_host(engine, error));
    return execute(engine, steps_after(engine->steps), error);
}

static hypura_status run_batch(struct engine *engine, const struct engine_batch *batch, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    if (atomic_load(&engine->lost))
        return error_set(error, HYPURA_ERROR_DEVICE,
                         "the GPU was lost in an earlier request; the model has to be opened anew");
    thread_pool_skipped(compute_pool(engine->compute)); /* in an earlier pass */
    TRY(check_cancel(engine, error));
    engine->batch = batch;
    forget_inputs(engine, UINT32_MAX);
    TRY(read_batch(engine, batch, error));
    if (engine->trace)
        TRY(trace_writer_begin(engine->trace, (uint32_t)engine->rows, error));
    struct thread_pool *pool = compute_pool(engine->compute);
    rope_table_fill(&engine->rope, pool, s->rope[0], s->positions, engine->rows);
    if (engine->rope_local.half)
        rope_table_fill(&engine->rope_local, pool, s->rope[1], s->positions, engine->rows);
    if (!kv_cache_take_room(&engine->kv, s->spans, engine->span_count))
        return error_set(error, HYPURA_ERROR_MEMORY, "the sequences together have room for %" PRIu64 " positions only",
                         engine->kv.room);
    for (uint32_t i = 0; i < engine->span_count; i++) {
        uint32_t sequence = s->spans[i].sequence;
        engine->kv.reached[sequence] = MAX(engine->kv.reached[sequence], engine->kv.held[sequence] + s->spans[i].rows);
    }
    gpu_pass_begin(engine);
    store_begin(engine->store);
    hypura_status status = embed(engine, error);
    if (!status)
        status = guess_start(engine, error);
    if (!status)
        status = run_layers(engine, error);
    if (!status)
        status = output(engine, error);
    if (!status)
        status = check_cancel(engine, error);
    if (!status)
        status = store_advance(engine->store, error);
    if (status) {
        gpu_pass_abandon(engine); /* before what it reads may go */
        store_abandon(engine->store);
        if (status == HYPURA_ERROR_DEVICE)
            atomic_store(&engine->lost, true);
        return status;
    }
    if (engine->trace)
        TRY(trace_writer_end(engine->trace, error));
    return HYPURA_OK;
}

hypura_status engine_forward(struct engine *engine, const struct engine_batch *batch, hypura_error *error)
{
    uint64_t start = clock_nanoseconds();
    uint64_t read_before = store_bytes_used(engine->store);
    TRY(run_batch(engine, batch, error));
    bool prompt = false;
    for (uint32_t i = 0; i < engine->span_count; i++) {
        const struct span *span = &engine->scratch.spans[i];
        kv_cache_commit(&engine->kv, span->sequence, span->rows);
        prompt = prompt || span->rows > 1 + batch->drafted;
    }
    engine->drafted = batch->drafted;
    uint64_t taken = clock_nanoseconds() - start;
    if (!prompt) /* may go down: what was wasted now was read before */
        atomic_fetch_add(&engine->decode_bytes_read, store_bytes_used(engine->store) - read_before);
    atomic_fetch_add(prompt ? &engine->prompt_tokens : &engine->generated_tokens, engine->rows - batch->drafted);
    atomic_fetch_add(&engine->decode_passes, !prompt);
    atomic_fetch_add(&engine->drafted_tokens, batch->drafted);
    atomic_fetch_add(prompt ? &engine->prompt_nanoseconds : &engine->decode_nanoseconds, taken);
    return HYPURA_OK;
}

uint32_t engine_drafts(const struct engine *engine)
{
    if (engine->trace || is_encoder(engine))
        return 0;
    for (uint32_t i = 0; i < engine->kv.layer_count; i++)
        if (engine->kv.layers[i].state_floats)
            return 0;
    return MIN(LOGITS_ROWS, engine->scratch.chunk) - 1;
}

void engine_accept(struct engine *engine, uint32_t sequence, uint32_t accepted)
{
    engine_truncate(engine, sequence, engine_positions(engine, sequence) - (engine->drafted - accepted));
    atomic_fetch_add(&engine->generated_tokens, accepted);
    atomic_fetch_add(&engine->accepted_tokens, accepted);
    engine->drafted = 0;
}

const float *engine_logits(const struct engine *engine, size_t index)
{
    const float *there = gpu_pass_logits(engine);
    return (there ? there : engine->scratch.logits) + index * model_parameters(engine->model)->vocabulary;
}

size_t engine_logits_rows(const struct engine *engine)
{
    return engine->geometry.logits_rows;
}

const float *engine_hidden(const struct engine *engine)
{
    const float *there = gpu_pass_hidden(engine);
    if (there)
        return there;
    /* An encoder's last layer ends with a norm of its own. */
    bool normed = steps_find(steps_after(engine->steps), STEP_NORM);
    return engine->scratch.buffers[normed ? BUFFER_NORMED : BUFFER_HIDDEN];
}
