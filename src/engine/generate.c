#include "engine/generate_private.h"

#include <string.h>

hypura_status generator_create(struct generator **out, struct engine *engine, const struct vocabulary *vocabulary,
                               hypura_error *error)
{
    const struct plan *plan = engine_plan(engine);
    struct generator *generator;
    hypura_status status = ALLOCATE(&generator, 1, "generator", error);
    if (status)
        return status;
    pthread_mutex_init(&generator->mutex, NULL);
    generator->engine = engine;
    generator->vocabulary = vocabulary;
    generator->positions = plan->positions;
    generator->chunk = plan->chunk;
    generator->room = engine_room(engine);
    generator->prefixes = engine_prefixes(engine);
    generator->marks_most = prefix_marks(generator);
    status = ALLOCATE(&generator->slots, plan->sequences, "sequence table", error);
    if (!status)
        generator->slot_count = plan->sequences;
    for (uint32_t s = 0; !status && s < generator->slot_count; s++) {
        engine_truncate(engine, s, 0); /* leftovers of other users are in no history */
        status = ALLOCATE(&generator->slots[s].history, plan->positions, "token history", error);
    }
    if (!status)
        status = ALLOCATE(&generator->wanted, plan->sequences, "sequence table", error);
    if (!status)
        status = ALLOCATE(&generator->due, plan->sequences, "batch", error);
    if (!status)
        status = ALLOCATE(&generator->batch_tokens, plan->chunk, "batch", error);
    if (!status)
        status = ALLOCATE(&generator->batch_positions, plan->chunk, "batch", error);
    if (!status)
        status = ALLOCATE(&generator->batch_sequences, plan->chunk, "batch", error);
    if (!status)
        status = ALLOCATE(&generator->batch_want, plan->chunk, "batch", error);
    if (!status && engine_drafting(engine) != DRAFTING_OFF && engine_drafts(engine))
        status = drafter_create(&generator->drafter, engine, error);
    if (status) {
        generator_destroy(generator);
        return status;
    }
    *out = generator;
    return HYPURA_OK;
}

void generator_keep(struct generator *generator)
{
    for (uint32_t s = 0; s < generator->slot_count; s++)
        slot_keep(generator, &generator->slots[s], 0);
}

void generator_destroy(struct generator *generator)
{
    if (!generator)
        return;
    if (generator->prefixes && prefix_outlasts(generator->prefixes))
        generator_keep(generator);
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        if (generator->slots[s].task)
            task_end(generator->slots[s].task, FINISH_CANCELLED);
        memory_free(generator->slots[s].history);
    }
    while (generator->first) {
        struct task *task = generator->first;
        generator->first = task->next;
        task_end(task, FINISH_CANCELLED);
    }
    memory_free(generator->slots);
    memory_free(generator->wanted);
    memory_free(generator->batch_tokens);
    memory_free(generator->batch_positions);
    memory_free(generator->batch_sequences);
    memory_free(generator->batch_want);
    memory_free(generator->due);
    drafter_destroy(generator->drafter);
    pthread_mutex_destroy(&generator->mutex);
    memory_free(generator);
}

hypura_status generator_submit(struct generator *generator, const struct generation_request *request, uint64_t *id,
                               hypura_error *error)
{
    const struct model *model = engine_model(generator->engine);
    uint32_t vocabulary = model_parameters(model)->vocabulary;
    if (model_architecture(model)->flags & ARCHITECTURE_ENCODER)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s is an encoder: it gives embeddings (hypura embed), no text", model_name(model));
    if (request->count == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the prompt has no tokens");
    if (request->count >= generator->positions)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "the prompt has %zu tokens, which leaves no room for an answer in a context of %u",
                         request->count, generator->positions);
    for (size_t i = 0; i < request->count; i++) {
        if (request->tokens[i] < 0 || (uint32_t)request->tokens[i] >= vocabulary)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "token %zu of the prompt is %d: expected 0 to %u", i,
                             request->tokens[i], vocabulary - 1);
    }
    struct task *task;
    hypura_status status = ALLOCATE(&task, 1, "request", error);
    if (status)
        return status;
    task->request = *request;
    status = ALLOCATE(&task->tokens, request->count, "prompt", error);
    if (status) {
        task_free(task);
        return status;
    }
    stop_matcher_start(&task->stops, request->stops, request->stop_count);
    memcpy(task->tokens, request->tokens, request->count * sizeof *task->tokens);
    task->count = (uint32_t)request->count;
    task->request.tokens = task->tokens;
    task->result.stop_token = NO_TOKEN;
    task->result.prompt_tokens = (uint32_t)request->count;
    token_decoder_start(&task->decoder, generator->vocabulary, request->show_special);

    pthread_mutex_lock(&generator->mutex);
    task->id = ++generator->next_id;
    if (id)
        *id = task->id;
    if (generator->last)
        generator->last->next = task;
    else
        generator->first = task;
    generator->last = task;
    pthread_mutex_unlock(&generator->mutex);
    return HYPURA_OK;
}

void generator_cancel(struct generator *generator, uint64_t id)
{
    pthread_mutex_lock(&generator->mutex);
    for (struct task *task = generator->first; task; task = task->next)
        task->cancelled |= task->id == id;
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct task *task = generator->slots[s].task;
        if (task)
            task->cancelled |= task->id == id;
    }
    pthread_mutex_unlock(&generator->mutex);
}

static bool is_awaited(const struct task *task)
{
    return !task->cancelled && (!task->request.is_awaited || task->request.is_awaited(task->request.context));
}

void generator_look(struct generator *generator)
{
    pthread_mutex_lock(&generator->mutex);
    bool awaited = !generator->passing;
    for (uint32_t s = 0; !awaited && s < generator->slot_count; s++) {
        const struct slot *slot = &generator->slots[s];
        awaited = slot->task && slot->in_batch && is_awaited(slot->task);
    }
    if (!awaited && !generator->stopped) {
        generator->stopped = true;
        engine_stop(generator->engine, true);
    }
    pthread_mutex_unlock(&generator->mutex);
}

/* ---- one batch -----------------------------------------------------------------------------------------------------
 */

static void add_to_batch(struct generator *generator, uint32_t sequence, int32_t token, bool want, size_t *count)
{
    struct slot *slot = &generator->slots[sequence];
    generator->batch_tokens[*count] = token;
    generator->batch_positions[*count] = slot->held + slot->in_batch;
    generator->batch_sequences[*count] = sequence;
    generator->batch_want[*count] = want;
    slot->in_batch++;
    (*count)++;
}

/* Adds drafts after the only token of a batch. They take no block of the shared room. */
static void add_drafts(struct generator *generator, uint32_t sequence, size_t *count)
{
    struct slot *slot = &generator->slots[sequence];
    const struct task *task = slot->task;
    uint32_t most = MIN(engine_drafts(generator->engine), task_context(generator, task) - slot->held - 1);
    if (generator->room != UINT64_MAX)
        most = MIN(most, (uint32_t)whole_blocks(slot->held + 1) - slot->held - 1);
    if (task->request.max_tokens)
        most = MIN(most, task->request.max_tokens - task->result.generated_tokens - 1);
    slot->history[slot->held] = task->last_token;
    generator->drafted =
        drafter_propose(generator->drafter, sequence, slot->history, slot->held + 1, most, generator->drafts);
    for (uint32_t i = 0; i < generator->drafted; i++)
        add_to_batch(generator, sequence, generator->drafts[i], true, count);
}

/* Tokens of a sequence are adjacent, as the engine requires. Decoding sequences come first, so that a long prompt
 * never starves them. */
static size_t fill_batch(struct generator *generator)
{
    size_t count = 0;
    generator->drafted = 0;
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct slot *slot = &generator->slots[s];
        slot->in_batch = 0;
        if (slot->task && slot->task->decoding && count < generator->chunk)
            add_to_batch(generator, s, slot->task->last_token, true, &count);
    }
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct task *task = generator->slots[s].task;
        if (!task || task->decoding)
            continue;
        uint32_t end = slot_prompt_end(generator, task);
        for (uint32_t i = task->fed; i < end && count < generator->chunk; i++)
            add_to_batch(generator, s, task->tokens[i], i + 1 == task->count, &count);
    }
    uint32_t sequence = generator->batch_sequences[0];
    if (generator->drafter && count == 1 && generator->slots[sequence].task->decoding)
        add_drafts(generator, sequence, &count);
    return count;
}

/* Delivers text that can no longer be part of a stop string. Returns false when the generation ends here. */
static bool give_text(struct task *task, const struct generated_token *token, enum finish_reason *reason)
{
    struct generated_token out = *token;
    const char *stop = NULL;
    out.cached_tokens = task->result.cached_tokens;
    stop_matcher_push(&task->stops, task->text.data, task->text.size, &out.text, &out.size, &stop);
    if (task->text.failed || task->stops.failed) {
        error_set(&task->result.error, HYPURA_ERROR_MEMORY, "no memory for the text of the answer");
        *reason = FINISH_ERROR;
        return false;
    }
    bool go_on = !task->request.on_token || task->request.on_token(task->request.context, &out);
    if (stop) {
        task->result.stop_string = stop;
        *reason = FINISH_STOP;
        return false;
    }
    if (!go_on)
        *reason = FINISH_CANCELLED;
    return go_on;
}

/* Delivers the text that was held back, if no stop string completed it. */
static void give_rest(struct task *task, enum finish_reason *reason)
{
    buffer_clear(&task->text);
    token_decoder_finish(&task->decoder, &task->text);
    struct generated_token rest = {.id = NO_TOKEN, .cached_tokens = task->result.cached_tokens};
    enum finish_reason ended = FINISH_STOP;
    if (!give_text(task, &rest, &ended)) {
        *reason = ended == FINISH_ERROR ? ended : *reason;
        return;
    }
    stop_matcher_finish(&task->stops, &rest.text, &rest.size);
    if (rest.size && task->request.on_token)
        task->request.on_token(task->request.context, &rest);
}

/* Chooses the next token of a sequence; on any thread. */
static void sample(void *context, size_t index, size_t worker)
{
    struct due *due = (struct due *)context + index;
    struct task *task = due->slot->task;
    (void)worker;
    due->status = sampler_sample(task->request.sampler, due->logits, &task->last_token, &task->result.error);
}

/* Delivers the chosen token. Returns false when the request is done, with the reason. */
static bool next_token(struct generator *generator, const struct due *due, enum finish_reason *reason)
{
    struct slot *slot = due->slot;
    struct task *task = slot->task;
    const struct vocabulary *vocabulary = generator->vocabulary;
    if (!task->decoding) {
        task->decoding = true;
        if (!task->first_token)
            task->first_token = clock_nanoseconds();
    }
    if (due->status) {
        *reason = due->status == HYPURA_ERROR_CANCELLED ? FINISH_CANCELLED : FINISH_ERROR;
        return false;
    }
    task->result.generated_tokens++;
    struct generated_token token = {.id = task->last_token, .logits = due->logits};
    bool end = !task->request.ignore_end && vocabulary_is_end_of_generation(vocabulary, token.id);
    buffer_clear(&task->text);
    if (!end)
        token_decoder_push(&task->decoder, token.id, &task->text);
    if (!give_text(task, &token, reason))
        return false;
    *reason = FINISH_LENGTH;
    if (end) {
        task->result.stop_token = token.id;
        *reason = FINISH_STOP;
    }
    if (end || (task->request.max_tokens && task->result.generated_tokens >= task->request.max_tokens) ||
        (slot->held >= task_context(generator, task) && !task->request.shift)) {
        give_rest(task, reason);
        return false;
    }
    return true;
}

static bool is_cancelled(struct generator *generator, const struct slot *slot)
{
    pthread_mutex_lock(&generator->mutex);
    bool cancelled = slot->task && slot->task->cancelled;
    pthread_mutex_unlock(&generator->mutex);
    return cancelled;
}

static void end_cancelled(struct generator *generator)
{
    for (uint32_t s = 0; s < generator->slot_count; s++)
        if (is_cancelled(generator, &generator->slots[s]))
            slot_end(generator, &generator->slots[s], FINISH_CANCELLED);
}

/* The whole batch failed: ends every request in it. */
static void end_all(struct generator *generator, const hypura_error *error)
{
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct slot *slot = &generator->slots[s];
        if (!slot->task || !slot->in_batch)
            continue;
        slot->held = engine_positions(generator->engine, s);
        slot->task->result.error = *error;
        slot_end(generator, slot, error->status == HYPURA_ERROR_CANCELLED ? FINISH_CANCELLED : FINISH_ERROR);
    }
}

/* Records that the sequences now hold the batch's tokens, except drafts. Returns how many sequences are due for a
 * token. */
static size_t note_batch(struct generator *generator, size_t count)
{
    size_t due = 0;
    for (size_t i = 0; i < count; i++) {
        struct slot *slot = &generator->slots[generator->batch_sequences[i]];
        slot->history[slot->held++] = generator->batch_tokens[i];
        if (!slot->task->decoding)
            slot->task->fed++;
        /* Threads that are stopped early leave the status unchanged. */
        if (generator->batch_want[i]) {
            generator->due[due] = (struct due){slot, engine_logits(generator->engine, due), HYPURA_ERROR_CANCELLED};
            due++;
        }
    }
    return due;
}

/* Chooses tokens as long as each next draft equals the chosen token. */
static void take_drafts(struct generator *generator, uint64_t nanoseconds)
{
    const uint32_t sequence = generator->batch_sequences[0];
    struct slot *slot = &generator->slots[sequence];
    enum finish_reason reason = FINISH_LENGTH;
    uint32_t accepted = 0;
    bool on;
    slot->history[slot->held++] = generator->batch_tokens[0];
    for (;;) {
        struct due due = {slot, engine_logits(generator->engine, accepted), HYPURA_ERROR_CANCELLED};
        engine_run(generator->engine, sample, &due, 1);
        on = next_token(generator, &due, &reason);
        if (!on || accepted == generator->drafted || slot->task->last_token != generator->drafts[accepted] ||
            is_cancelled(generator, slot)) /* the next step ends it */
            break;
        slot->history[slot->held++] = generator->drafts[accepted++];
    }
    uint64_t start = clock_nanoseconds();
    hypura_error error = {0};
    hypura_status status = engine_accept(generator->engine, accepted, &error);
    drafter_learn(generator->drafter, accepted, nanoseconds + clock_nanoseconds() - start);
    if (status) {
        slot->held = engine_positions(generator->engine, sequence);
        if (on) {
            slot->task->result.error = error;
            reason = status == HYPURA_ERROR_CANCELLED ? FINISH_CANCELLED : FINISH_ERROR;
        }
        on = false;
    }
    if (!on)
        slot_end(generator, slot, reason);
}

/* Runs the engine in a way that generator_look can end. */
static hypura_status run_batch(struct generator *generator, const struct engine_batch *batch, hypura_error *error)
{
    pthread_mutex_lock(&generator->mutex);
    generator->passing = true;
    pthread_mutex_unlock(&generator->mutex);
    hypura_status status = engine_forward(generator->engine, batch, error);
    pthread_mutex_lock(&generator->mutex);
    generator->passing = false;
    if (generator->stopped)
        engine_stop(generator->engine, false);
    generator->stopped = false;
    pthread_mutex_unlock(&generator->mutex);
    return status;
}

bool generator_step(struct generator *generator)
{
    end_cancelled(generator);
    slots_shift_full(generator);
    slots_start_waiting(generator);
    slots_make_room(generator);
    size_t count = fill_batch(generator);
    if (count == 0)
        return false;
    hypura_error error = {0};
    struct engine_batch batch = {.count = count,
                                 .tokens = generator->batch_tokens,
                                 .positions = generator->batch_positions,
                                 .sequences = generator->batch_sequences,
                                 .want_logits = generator->batch_want,
                                 .drafted = generator->drafted};
    uint64_t start = clock_nanoseconds();
    if (run_batch(generator, &batch, &error)) {
        end_all(generator, &error);
        return true;
    }
    if (generator->drafter && count == 1 + generator->drafted &&
        generator->slots[generator->batch_sequences[0]].task->decoding) {
        take_drafts(generator, clock_nanoseconds() - start);
        return true;
    }
    size_t due = note_batch(generator, count);
    for (uint32_t s = 0; s < generator->slot_count; s++)
        if (generator->slots[s].task && generator->slots[s].in_batch && !generator->slots[s].task->decoding)
            slot_mark(generator, &generator->slots[s]);
    engine_run(generator->engine, sample, generator->due, due);
    for (size_t i = 0; i < due; i++) {
        enum finish_reason reason;
        struct slot *slot = generator->due[i].slot;
        if (!next_token(generator, &generator->due[i], &reason))
            slot_end(generator, slot, reason);
    }
    return true;
}
