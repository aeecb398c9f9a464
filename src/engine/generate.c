#include "engine/generate.h"
#include "engine/stop_strings.h"

#include <pthread.h>
#include <string.h>

/* A request from submission to its done callback. */
struct task {
    struct task *next; /* in the queue */
    uint64_t id;
    struct generation_request request;
    int32_t *tokens; /* to feed: the prompt, and what was generated when the sequence had to make room */
    uint32_t count;
    uint64_t started, first_token;
    bool cancelled; /* under the mutex */

    uint32_t fed;       /* of tokens, in the sequence */
    int32_t last_token; /* sampled, not yet fed */
    bool decoding;
    struct token_decoder decoder;
    struct stop_matcher stops;
    struct buffer text; /* of the token at hand */
    struct generation_result result;
};

/* What a sequence of the engine holds. */
struct slot {
    struct task *task; /* NULL: free */
    int32_t *history;  /* [positions]: tokens in the engine's cache */
    uint32_t held;
    uint64_t last_used;
    uint32_t in_batch; /* tokens of the batch at hand */
};

/* A sequence whose next token is to be chosen. */
struct due {
    struct slot *slot;
    const float *logits;
    hypura_status status;
};

struct generator {
    struct engine *engine;
    const struct vocabulary *vocabulary;
    uint32_t positions, chunk;
    uint64_t room; /* engine_room */

    struct slot *slots;
    uint32_t slot_count;
    uint64_t clock;

    int32_t *batch_tokens;
    uint32_t *batch_positions, *batch_sequences;
    bool *batch_want;
    struct due *due; /* [slot_count] */

    pthread_mutex_t mutex; /* guards the queue, next_id, and task->cancelled */
    struct task *first, *last;
    uint64_t next_id;
};

static void task_free(struct task *task)
{
    if (!task)
        return;
    memory_free(task->tokens);
    stop_matcher_free(&task->stops);
    buffer_free(&task->text);
    memory_free(task);
}

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
    status = ALLOCATE(&generator->slots, plan->sequences, "sequence table", error);
    if (!status)
        generator->slot_count = plan->sequences;
    for (uint32_t s = 0; !status && s < generator->slot_count; s++) {
        engine_truncate(engine, s, 0); /* what others left there is in no history */
        status = ALLOCATE(&generator->slots[s].history, plan->positions, "token history", error);
    }
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
    if (status) {
        generator_destroy(generator);
        return status;
    }
    *out = generator;
    return HYPURA_OK;
}

/* Ends a request that is in no slot any more. */
static void finish(struct task *task, enum finish_reason reason)
{
    uint64_t now = clock_nanoseconds();
    task->result.reason = reason;
    uint64_t started = task->started ? task->started : now, first = task->first_token ? task->first_token : now;
    task->result.prompt_nanoseconds = first - started;
    task->result.decode_nanoseconds = now - first;
    if (task->request.on_done)
        task->request.on_done(task->request.context, &task->result);
    task_free(task);
}

void generator_destroy(struct generator *generator)
{
    if (!generator)
        return;
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        if (generator->slots[s].task)
            finish(generator->slots[s].task, FINISH_CANCELLED);
        memory_free(generator->slots[s].history);
    }
    while (generator->first) {
        struct task *task = generator->first;
        generator->first = task->next;
        finish(task, FINISH_CANCELLED);
    }
    memory_free(generator->slots);
    memory_free(generator->batch_tokens);
    memory_free(generator->batch_positions);
    memory_free(generator->batch_sequences);
    memory_free(generator->batch_want);
    memory_free(generator->due);
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

/* ---- giving sequences to requests ----------------------------------------------------------------------------------
 */

static uint32_t common_prefix(const struct slot *slot, const struct task *task)
{
    /* The last token always runs: its logits are needed. */
    uint32_t most = MIN(slot->held, task->count - 1), same = 0;
    while (same < most && slot->history[same] == task->tokens[same])
        same++;
    return same;
}

/* The free slot that shares most with the prompt; among equals the one that was idle longest. */
static struct slot *best_slot(struct generator *generator, const struct task *task)
{
    struct slot *best = NULL;
    uint32_t best_same = 0;
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct slot *slot = &generator->slots[s];
        if (slot->task)
            continue;
        uint32_t same = common_prefix(slot, task);
        if (!best || same > best_same || (same == best_same && slot->last_used < best->last_used)) {
            best = slot;
            best_same = same;
        }
    }
    return best;
}

static struct task *take_from_queue(struct generator *generator)
{
    struct task *task = generator->first;
    if (task) {
        generator->first = task->next;
        if (!generator->first)
            generator->last = NULL;
        task->next = NULL;
    }
    return task;
}

/* Positions that this many tokens take of the shared room. */
static uint64_t blocks(uint32_t tokens)
{
    return align_up(tokens, PLAN_KV_BLOCK);
}

/* Whether there is room for a request beside those that run: its tokens, and some of its answer. What others have yet
 * to generate is not counted, since few answers are as long as they may be; who came last makes room then. */
static bool has_room(const struct generator *generator, const struct task *task)
{
    uint64_t taken = 0;
    for (uint32_t s = 0; s < generator->slot_count; s++)
        if (generator->slots[s].task)
            taken += blocks(MAX(generator->slots[s].held + 1, generator->slots[s].task->count + 1));
    uint32_t most = task->request.max_tokens, done = task->result.generated_tokens;
    uint32_t answer = most ? MIN(most - MIN(most, done), PLAN_KV_BLOCK) : PLAN_KV_BLOCK;
    return taken == 0 || taken + blocks(MIN(task->count + answer, generator->positions)) <= generator->room;
}

static void start_task(struct generator *generator, struct slot *slot)
{
    struct task *task = slot->task;
    uint32_t sequence = (uint32_t)(slot - generator->slots);
    uint32_t same = common_prefix(slot, task);
    if (slot->held != same)
        engine_truncate(generator->engine, sequence, same);
    /* Layers with a state cannot go back; then nothing is left. */
    slot->held = engine_positions(generator->engine, sequence);
    task->fed = slot->held;
    if (task->started)
        return; /* it made room for another */
    task->result.cached_tokens = slot->held;
    task->started = clock_nanoseconds();
    /* Penalties look back into the prompt too. */
    for (uint32_t i = 0; i < task->count; i++)
        sampler_accept(task->request.sampler, task->tokens[i]);
}

static void start_waiting_tasks(struct generator *generator)
{
    for (;;) {
        pthread_mutex_lock(&generator->mutex);
        struct task *task = generator->first;
        bool cancelled = task && task->cancelled;
        struct slot *slot = task && !cancelled && has_room(generator, task) ? best_slot(generator, task) : NULL;
        if (cancelled || slot) {
            take_from_queue(generator);
            if (slot)
                slot->task = task;
        }
        pthread_mutex_unlock(&generator->mutex);
        if (cancelled) {
            finish(task, FINISH_CANCELLED);
            continue;
        }
        if (!slot)
            return;
        start_task(generator, slot);
    }
}

static void release(struct generator *generator, struct slot *slot, enum finish_reason reason)
{
    struct task *task = slot->task;
    slot->last_used = ++generator->clock;
    /* on_done runs without the mutex, and with the slot free already: it may submit the next turn. */
    pthread_mutex_lock(&generator->mutex);
    slot->task = NULL;
    pthread_mutex_unlock(&generator->mutex);
    finish(task, reason);
}

/* ---- shared room --------------------------------------------------------------------------------------------------
 */

static void empty(struct generator *generator, struct slot *slot)
{
    engine_truncate(generator->engine, (uint32_t)(slot - generator->slots), 0);
    slot->held = 0;
}

/* The request goes back to the head of the queue, to be fed again with all that it has: the same bits follow. */
static void make_wait(struct generator *generator, struct slot *slot)
{
    struct task *task = slot->task;
    if (task->decoding) {
        if (memory_resize((void **)&task->tokens, task->count, slot->held + 1, sizeof *task->tokens, "prompt",
                          &task->result.error)) {
            release(generator, slot, FINISH_ERROR);
            return;
        }
        memcpy(task->tokens, slot->history, slot->held * sizeof *task->tokens);
        task->tokens[slot->held] = task->last_token;
        task->count = slot->held + 1;
        task->request.tokens = task->tokens;
    }
    task->decoding = false;
    empty(generator, slot);
    pthread_mutex_lock(&generator->mutex);
    slot->task = NULL;
    task->next = generator->first;
    generator->first = task;
    if (!generator->last)
        generator->last = task;
    pthread_mutex_unlock(&generator->mutex);
}

/* After the next batch. */
static uint32_t next_positions(const struct slot *slot)
{
    const struct task *task = slot->task;
    return !task ? slot->held : task->decoding ? slot->held + 1 : MAX(task->count, slot->held);
}

/* Makes sure that what runs has room for its next tokens: sequences that are free give up theirs, the longest idle
 * first, then who came last waits. */
static void make_room(struct generator *generator)
{
    while (generator->room != UINT64_MAX) {
        uint64_t wanted = 0;
        struct slot *idle = NULL, *youngest = NULL;
        for (uint32_t s = 0; s < generator->slot_count; s++) {
            struct slot *slot = &generator->slots[s];
            wanted += blocks(next_positions(slot));
            if (!slot->task && slot->held && (!idle || slot->last_used < idle->last_used))
                idle = slot;
            if (slot->task && (!youngest || slot->task->id > youngest->task->id))
                youngest = slot;
        }
        if (wanted <= generator->room)
            return;
        if (idle)
            empty(generator, idle);
        else
            make_wait(generator, youngest);
    }
}

/* ---- one batch
 * ------------------------------------------------------------------------------------------------------- */

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

/* Tokens of a sequence stand together, as the engine asks. Decoding sequences come first, so that a long prompt never
 * starves them. */
static size_t fill_batch(struct generator *generator)
{
    size_t count = 0;
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
        for (uint32_t i = task->fed; i < task->count && count < generator->chunk; i++)
            add_to_batch(generator, s, task->tokens[i], i + 1 == task->count, &count);
    }
    return count;
}

/* Hands on text that no stop string can still take back. Returns false when the generation ends here. */
static bool give_text(struct task *task, const struct generated_token *token, enum finish_reason *reason)
{
    struct generated_token out = *token;
    const char *stop = NULL;
    stop_matcher_push(&task->stops, task->text.data, task->text.size, &out.text, &out.size, &stop);
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

/* The text that was held back is due when no stop string completed it. */
static void give_rest(struct task *task)
{
    buffer_clear(&task->text);
    token_decoder_finish(&task->decoder, &task->text);
    struct generated_token rest = {.id = NO_TOKEN};
    enum finish_reason ignored;
    if (!give_text(task, &rest, &ignored))
        return;
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

/* Hands on the token that was chosen. Returns false when the request is done, with the reason. */
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
        slot->held >= generator->positions) {
        give_rest(task);
        return false;
    }
    return true;
}

static void end_cancelled(struct generator *generator)
{
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct slot *slot = &generator->slots[s];
        pthread_mutex_lock(&generator->mutex);
        bool cancelled = slot->task && slot->task->cancelled;
        pthread_mutex_unlock(&generator->mutex);
        if (cancelled)
            release(generator, slot, FINISH_CANCELLED);
    }
}

/* The whole batch failed: all that took part end. */
static void end_all(struct generator *generator, const hypura_error *error)
{
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct slot *slot = &generator->slots[s];
        if (!slot->task || !slot->in_batch)
            continue;
        slot->held = engine_positions(generator->engine, s);
        slot->task->result.error = *error;
        release(generator, slot, error->status == HYPURA_ERROR_CANCELLED ? FINISH_CANCELLED : FINISH_ERROR);
    }
}

bool generator_step(struct generator *generator)
{
    end_cancelled(generator);
    start_waiting_tasks(generator);
    make_room(generator);
    size_t count = fill_batch(generator);
    if (count == 0)
        return false;
    hypura_error error = {0};
    struct engine_batch batch = {.count = count,
                                 .tokens = generator->batch_tokens,
                                 .positions = generator->batch_positions,
                                 .sequences = generator->batch_sequences,
                                 .want_logits = generator->batch_want};
    if (engine_forward(generator->engine, &batch, &error)) {
        end_all(generator, &error);
        return true;
    }
    size_t due = 0;
    for (size_t i = 0; i < count; i++) {
        struct slot *slot = &generator->slots[generator->batch_sequences[i]];
        slot->history[slot->held++] = generator->batch_tokens[i];
        if (!slot->task->decoding)
            slot->task->fed++;
        /* Threads that are told to stop leave the status as it is. */
        if (generator->batch_want[i]) {
            generator->due[due] = (struct due){slot, engine_logits(generator->engine, due), HYPURA_ERROR_CANCELLED};
            due++;
        }
    }
    engine_run(generator->engine, sample, generator->due, due);
    for (size_t i = 0; i < due; i++) {
        enum finish_reason reason;
        struct slot *slot = generator->due[i].slot;
        if (!next_token(generator, &generator->due[i], &reason))
            release(generator, slot, reason);
    }
    return true;
}
