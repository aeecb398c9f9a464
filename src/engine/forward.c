#include "engine/cluster/share.h"
#include "engine/cpu/execute.h"
#include "engine/gpu/pass.h"

#include <inttypes.h>
#include <string.h>

/* ---- the batch -----------------------------------------------------------------------------------------------------
 */

/* A token of an encoder attends to all of its text, later parts included. So a text passes as one batch, from
 * position 0. */
static bool is_encoder(const struct batch *batch)
{
    return model_architecture(batch->open->model)->flags & ARCHITECTURE_ENCODER;
}

static hypura_status check_encoder_batch(const struct batch *batch, const struct engine_batch *asked,
                                         hypura_error *error)
{
    const char *name = model_name(batch->open->model);
    if (asked->want_logits || asked->on_logits)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s is an encoder: it gives embeddings (hypura embed), no tokens", name);
    for (uint32_t i = 0; i < batch->span_count; i++)
        if (batch->scratch.positions[batch->scratch.spans[i].first_row] != 0)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "%s is an encoder: a text must pass as one batch", name);
    return HYPURA_OK;
}

/* Tokens of a batch that may be drafted. */
static uint32_t most_drafts(const struct batch *batch)
{
    if (batch->trace || is_encoder(batch))
        return 0;
    if (batch->open->geometry.state_inputs && !batch->scratch.state_inputs)
        return 0;
    return MIN(DRAFT_ROWS, batch->scratch.chunk) - 1;
}

/* Checks tokens and positions, and divides the batch into spans of one sequence each. An error leaves everything
 * unchanged. */
static hypura_status read_batch(struct batch *batch, const struct engine_batch *asked, hypura_error *error)
{
    struct scratch *s = &batch->scratch;
    uint32_t vocabulary = model_parameters(batch->open->model)->vocabulary;
    if (asked->count == 0 || asked->count > s->chunk)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a batch of %zu tokens; 1 to %u are possible", asked->count,
                         s->chunk);
    batch->rows = asked->count;
    batch->span_count = 0;
    batch->wanted = 0;
    for (uint32_t r = 0; r < asked->count; r++) {
        uint32_t sequence = asked->sequences ? asked->sequences[r] : 0;
        if (asked->tokens[r] < 0 || (uint32_t)asked->tokens[r] >= vocabulary)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "token %d is not in the vocabulary of %u tokens",
                             asked->tokens[r], vocabulary);
        if (sequence >= batch->kv.sequences)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "no sequence %u: there are %u", sequence,
                             batch->kv.sequences);
        struct span *span = batch->span_count ? &s->spans[batch->span_count - 1] : NULL;
        if (!span || span->sequence != sequence) {
            for (uint32_t i = 0; i < batch->span_count; i++)
                if (s->spans[i].sequence == sequence)
                    return error_set(error, HYPURA_ERROR_ARGUMENT, "tokens of sequence %u are not adjacent", sequence);
            span = &s->spans[batch->span_count++];
            *span = (struct span){.sequence = sequence, .first_row = r};
        }
        uint32_t expected = batch->kv.held[sequence] + span->rows;
        if (asked->positions[r] != expected)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "position %u of sequence %u; the next is %u",
                             asked->positions[r], sequence, expected);
        if (expected >= batch->open->plan->positions)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the context of %u positions is full",
                             batch->open->plan->positions);
        span->rows++;
        s->positions[r] = expected;
        if (asked->want_logits ? asked->want_logits[r] : r + 1 == asked->count && !is_encoder(batch))
            s->wanted[batch->wanted++] = r;
    }
    if (asked->drafted > most_drafts(batch) || asked->drafted >= asked->count ||
        (asked->drafted && batch->span_count > 1))
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%u drafted tokens are too many for a batch of %zu tokens of %u sequences", asked->drafted,
                         asked->count, batch->span_count);
    if (!asked->on_logits && batch->wanted > batch->open->geometry.logits_rows)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%zu tokens want logits; without on_logits, at most %u are possible", batch->wanted,
                         batch->open->geometry.logits_rows);
    return is_encoder(batch) ? check_encoder_batch(batch, asked, error) : HYPURA_OK;
}

static hypura_status check_cancel(struct batch *batch, hypura_error *error)
{
    if (batch_is_to_end(batch) || thread_pool_skipped(compute_pool(batch->compute)))
        return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    return HYPURA_OK;
}

/* ---- logits --------------------------------------------------------------------------------------------------------
 */

hypura_status give_logits(struct batch *batch, const struct engine_batch *asked, size_t first, size_t count,
                          const float *logits, hypura_error *error)
{
    if (!asked->on_logits)
        return HYPURA_OK;
    TRY(check_cancel(batch, error)); /* a cancelled pass has no complete logits */
    for (size_t i = 0; i < count; i++)
        if (!asked->on_logits(asked->on_logits_context, first + i,
                              logits + i * model_parameters(batch->open->model)->vocabulary))
            return error_set(error, HYPURA_ERROR_CANCELLED, "stopped while logits were read");
    return HYPURA_OK;
}

/* ---- the pass ------------------------------------------------------------------------------------------------------
 */

static hypura_status embed(struct batch *batch, hypura_error *error)
{
    bool done;
    TRY(gpu_pass_embed(batch, batch->asked->tokens, &done, error));
    return done ? HYPURA_OK : execute(batch, steps_before(batch->open->steps), error);
}

static hypura_status run_layers(struct batch *batch, hypura_error *error)
{
    for (uint32_t i = 0; i < model_parameters(batch->open->model)->layers && batch->rows; i++) {
        TRY(check_cancel(batch, error));
        if (gpu_pass_has(batch, i)) {
            TRY(gpu_pass_layer(batch, i, error));
            continue;
        }
        TRY(gpu_pass_to_host(batch, error));
        if (i == batch->narrowing.layer)
            TRY(execute_narrowing(batch, i, error));
        else
            TRY(execute(batch, steps_of_layer(batch->open->steps, i), error));
        TRY(prefetch_ahead(batch, i, error));
    }
    return HYPURA_OK;
}

static hypura_status output(struct batch *batch, hypura_error *error)
{
    bool done;
    if (batch->rows == 0)
        return gpu_pass_end(batch, error);
    TRY(gpu_pass_output(batch, batch->asked, &done, error));
    if (done)
        return HYPURA_OK;
    TRY(gpu_pass_to_host(batch, error));
    return execute(batch, steps_after(batch->open->steps), error);
}

/* Gives the rows of the batch their places in the caches. */
static hypura_status take_places(struct batch *batch, hypura_error *error)
{
    const struct span *spans = batch->scratch.spans;
    struct kv_cache *kv = &batch->kv;
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; i < batch->span_count; i++)
        kv_cache_begin(kv, spans[i].sequence, spans[i].rows);
    for (uint32_t i = 0; i < batch->span_count && !status; i++) {
        const uint32_t held = kv->held[spans[i].sequence];
        status = batch_own_rows(batch, spans[i].sequence, held, held + spans[i].rows, error);
    }
    if (!status && !kv_cache_take_room(kv, spans, batch->span_count))
        status = error_set(error, HYPURA_ERROR_MEMORY,
                           "all sequences together have room for only %" PRIu64 " positions", kv->room);
    if (!status)
        status = gpu_pass_place_blocks(batch, error);
    for (uint32_t i = 0; i < batch->span_count && status; i++)
        kv->claimed[spans[i].sequence] = 0;
    if (status == HYPURA_ERROR_DEVICE)
        atomic_store(&batch->lost, true);
    return status;
}

/* Lends buffers that this batch leaves unused to experts, or takes them back. */
static hypura_status lend_buffers(struct batch *batch, hypura_error *error)
{
    budget_lend_buffers(batch, gives_many_logits(batch) ? SIZE_MAX : batch->rows);
    hypura_status status = gpu_pass_lend(batch, error);
    if (status == HYPURA_ERROR_DEVICE)
        atomic_store(&batch->lost, true);
    return status;
}

static hypura_status run_batch(struct batch *batch, const struct engine_batch *asked, hypura_error *error)
{
    struct scratch *s = &batch->scratch;
    if (atomic_load(&batch->lost))
        return error_set(error, HYPURA_ERROR_DEVICE, "the GPU was lost in an earlier request; open the model again");
    if (batch->share)
        TRY(cluster_check(batch->share->cluster, error));
    thread_pool_skipped(compute_pool(batch->compute)); /* in an earlier pass */
    TRY(check_cancel(batch, error));
    batch->asked = asked;
    forget_inputs(batch, UINT32_MAX);
    TRY(read_batch(batch, asked, error));
    TRY(lend_buffers(batch, error));
    if (batch->trace)
        TRY(trace_writer_begin(batch->trace, (uint32_t)batch->rows, error));
    struct thread_pool *pool = compute_pool(batch->compute);
    rope_table_fill(&batch->open->rope, pool, s->rope[0], s->positions, batch->rows);
    if (batch->open->rope_local.half)
        rope_table_fill(&batch->open->rope_local, pool, s->rope[1], s->positions, batch->rows);
    TRY(take_places(batch, error));
    narrow_begin(batch);
    gpu_pass_begin(batch);
    store_begin(batch->open->store);
    hypura_status status = look_up_begin(batch, error);
    bool embeds;
    const bool pipelines = gpu_pass_pipelines(batch, &embeds);
    if (!status)
        status = known_begin(batch, error);
    if (!status && !embeds)
        status = embed(batch, error);
    if (!status)
        status = prefetch_start(batch, error);
    if (!status && pipelines)
        status = gpu_pass_pipeline(batch, error);
    if (!status && !pipelines)
        status = run_layers(batch, error);
    if (!status && !pipelines)
        status = output(batch, error);
    narrow_end(batch);
    if (batch->share)
        share_passed(batch);
    if (!status)
        status = check_cancel(batch, error);
    if (!status)
        status = store_advance(batch->open->store, error);
    if (status) {
        gpu_pass_abandon(batch); /* before its inputs may go */
        store_abandon(batch->open->store);
        for (uint32_t i = 0; i < batch->span_count; i++)
            kv_cache_truncate(&batch->kv, s->spans[i].sequence, batch->kv.held[s->spans[i].sequence]);
        if (status == HYPURA_ERROR_DEVICE)
            atomic_store(&batch->lost, true);
        return status;
    }
    if (batch->trace)
        TRY(trace_writer_end(batch->trace, error));
    return HYPURA_OK;
}

hypura_status engine_pass_row(struct engine *engine, float *row, hypura_error *error)
{
    struct batch *batch = &engine->batch;
    const struct step_list list = steps_pooled(engine->open.steps);
    const size_t bytes = model_parameters(engine->open.model)->embedding * sizeof *row;
    if (list.count == 0)
        return HYPURA_OK;
    batch->asked = NULL;
    batch->rows = 1;
    batch->span_count = 0;
    forget_inputs(batch, UINT32_MAX);
    memcpy(rows_of(batch, BUFFER_HIDDEN), row, bytes);
    store_begin(engine->open.store);
    hypura_status status = execute(batch, list, error);
    if (!status)
        status = check_cancel(batch, error);
    if (!status)
        status = store_advance(engine->open.store, error);
    if (status)
        store_abandon(engine->open.store);
    else
        memcpy(row, rows_of(batch, BUFFER_BRANCH), bytes);
    return status;
}

hypura_status engine_forward(struct engine *engine, const struct engine_batch *asked, hypura_error *error)
{
    struct batch *batch = &engine->batch;
    struct counters *counters = &engine->counters;
    uint64_t start = clock_nanoseconds();
    uint64_t read_before = store_bytes_used(engine->open.store);
    if (engine->predictor)
        predictor_before(engine->predictor, batch, asked);
    batch->whole =
        asked->want_hidden || batch->watch || (engine->predictor && predictor_wants(engine->predictor, asked));
    TRY(run_batch(batch, asked, error));
    bool prompt = false;
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &batch->scratch.spans[i];
        kv_cache_commit(&batch->kv, span->sequence, span->rows);
        prompt = prompt || span->rows > 1 + asked->drafted;
    }
    batch->drafted = asked->drafted;
    const size_t rows = batch->rows;
    if (engine->predictor)
        predictor_after(engine->predictor, batch, asked, engine_hidden(engine));
    uint64_t taken = clock_nanoseconds() - start;
    if (!prompt) /* may decrease: bytes wasted in this pass were read before it */
        atomic_fetch_add(&counters->decode_bytes_read, store_bytes_used(engine->open.store) - read_before);
    atomic_fetch_add(prompt ? &counters->prompt_tokens : &counters->generated_tokens, rows - asked->drafted);
    atomic_fetch_add(&counters->decode_passes, !prompt);
    atomic_fetch_add(&counters->drafted_tokens, asked->drafted);
    atomic_fetch_add(prompt ? &counters->prompt_nanoseconds : &counters->decode_nanoseconds, taken);
    return HYPURA_OK;
}

uint32_t engine_drafts(const struct engine *engine)
{
    return most_drafts(&engine->batch);
}

/* Runs only the steps with a state again, for the first rows of the batch. */
static hypura_status run_states(struct batch *batch, hypura_error *error)
{
    TRY(check_cancel(batch, error));
    for (uint32_t i = 0; i < model_parameters(batch->open->model)->layers; i++)
        TRY(gpu_pass_has(batch, i) ? gpu_pass_again(batch, i, error)
                                   : execute_again(batch, steps_of_layer(batch->open->steps, i), error));
    TRY(gpu_pass_end_again(batch, error));
    return check_cancel(batch, error);
}

/* Resets the sequence's state to before the batch, then advances it over this many of its rows. */
static hypura_status go_back(struct batch *batch, uint32_t rows, hypura_error *error)
{
    struct span *span = &batch->scratch.spans[0];
    const size_t all = batch->rows;
    kv_cache_undo(&batch->kv, span->sequence, span->rows);
    batch->rows = span->rows = rows;
    hypura_status status = run_states(batch, error);
    batch->rows = all;
    if (status) {
        gpu_pass_abandon(batch);
        if (status == HYPURA_ERROR_DEVICE)
            atomic_store(&batch->lost, true);
        kv_cache_truncate(&batch->kv, span->sequence, 0);
        return status;
    }
    kv_cache_commit(&batch->kv, span->sequence, rows);
    return HYPURA_OK;
}

hypura_status engine_accept(struct engine *engine, uint32_t accepted, hypura_error *error)
{
    struct batch *batch = &engine->batch;
    const struct span *span = &batch->scratch.spans[0];
    const uint32_t wrong = batch->drafted - accepted;
    hypura_status status = HYPURA_OK;
    batch->drafted = 0;
    const uint32_t before = batch->kv.held[span->sequence];
    if (wrong && batch->scratch.state_inputs)
        status = go_back(batch, span->rows - wrong, error);
    else
        kv_cache_truncate(&batch->kv, span->sequence, before - wrong);
    const uint32_t now = batch->kv.held[span->sequence];
    if (engine->predictor && now < before)
        predictor_truncate(engine->predictor, span->sequence, now, before - now);
    atomic_fetch_add(&engine->counters.generated_tokens, accepted);
    atomic_fetch_add(&engine->counters.accepted_tokens, accepted);
    return status;
}

bool engine_predicts(const struct engine *engine)
{
    return engine->predictor;
}

hypura_status engine_predict(struct engine *engine, uint32_t sequence, int32_t token, bool further,
                             const float **logits, hypura_error *error)
{
    struct counters *counters = &engine->counters;
    uint64_t start = clock_nanoseconds(), read_before = store_bytes_used(engine->open.store);
    if (!engine->predictor || sequence >= engine->batch.kv.sequences)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "sequence %u of a model without a prediction block", sequence);
    TRY(predictor_ask(engine->predictor, &engine->batch, sequence, token, further, error));
    *logits = engine->batch.scratch.logits;
    atomic_fetch_add(&counters->decode_bytes_read, store_bytes_used(engine->open.store) - read_before);
    atomic_fetch_add(&counters->decode_nanoseconds, clock_nanoseconds() - start);
    return HYPURA_OK;
}

const float *engine_logits(const struct engine *engine, size_t index)
{
    const float *there = gpu_pass_logits(&engine->batch);
    return (there ? there : engine->batch.scratch.logits) + index * model_parameters(engine->open.model)->vocabulary;
}

size_t engine_logits_rows(const struct engine *engine)
{
    return engine->open.geometry.logits_rows;
}

const float *engine_hidden(const struct engine *engine)
{
    const float *there = gpu_pass_hidden(&engine->batch);
    if (!there && engine->predictor)
        there = predictor_moved(engine->predictor, &engine->batch);
    if (there)
        return there;
    /* An encoder's last layer ends with a norm of its own. */
    bool normed = steps_find(steps_after(engine->open.steps), STEP_NORM);
    return engine->batch.scratch.buffers[normed ? BUFFER_NORMED : BUFFER_HIDDEN];
}
