/* Which request runs on which sequence, and which one waits for room. */
#include "engine/generate_private.h"

#include <string.h>

void task_free(struct task *task)
{
    if (!task)
        return;
    memory_free(task->tokens);
    stop_matcher_free(&task->stops);
    buffer_free(&task->text);
    memory_free(task);
}

void task_end(struct task *task, enum finish_reason reason)
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

/* How much of a slot a request shares; a beginning common to all chats of a template is no reason to lose the rest
 * of one. */
static uint32_t worth(const struct slot *slot, const struct task *task)
{
    uint32_t same = common_prefix(slot, task);
    return same < PLAN_KV_BLOCK && same < slot->held / 2 ? 0 : same;
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
        uint32_t same = worth(slot, task);
        if (!best || same > best_same || (same == best_same && slot->last_used < best->last_used)) {
            best = slot;
            best_same = same;
        }
    }
    return best;
}

static void take_from_queue(struct generator *generator, struct task *task)
{
    struct task *before = NULL;
    for (struct task *at = generator->first; at != task; at = at->next)
        before = at;
    *(before ? &before->next : &generator->first) = task->next;
    if (generator->last == task)
        generator->last = before;
    task->next = NULL;
}

/* The next request to end or to begin. One that waits for another to compute its beginning, or for the drive to read
 * it, lets others pass. */
static struct task *next_in_queue(struct generator *generator)
{
    struct task *task = generator->first;
    while (task && !task->cancelled && (prefix_is_coming(generator, task) || prefix_is_far(generator, task)))
        task = task->next;
    return task;
}

uint64_t whole_blocks(uint32_t tokens)
{
    return align_up(tokens, PLAN_KV_BLOCK);
}

/* Whether there is room for a request next to the running ones: for its tokens and some of its answer. Tokens that
 * others have yet to generate are not counted, since few answers reach their limit; if necessary, the latest request
 * makes room later. */
static bool has_room(const struct generator *generator, const struct task *task)
{
    if (generator->room == UINT64_MAX)
        return true;
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        const struct slot *slot = &generator->slots[s];
        generator->wanted[s] = slot->task ? MAX(slot->held + 1, slot->task->count + 1) : 0;
    }
    uint64_t taken = engine_room_of(generator->engine, generator->wanted);
    if (taken == 0)
        return true;
    uint32_t most = task->request.max_tokens, done = task->result.generated_tokens;
    uint32_t answer = most ? MIN(most - MIN(most, done), PLAN_KV_BLOCK) : PLAN_KV_BLOCK;
    uint64_t more = whole_blocks(MIN(task->count + answer, generator->positions)) - prefix_shared(generator, task);
    return taken + more <= generator->room;
}

/* Returns false if it waits again, because there was less room than it seemed. */
static bool start_task(struct generator *generator, struct slot *slot)
{
    struct task *task = slot->task;
    uint32_t sequence = (uint32_t)(slot - generator->slots);
    uint32_t same = common_prefix(slot, task);
    slot_keep(generator, slot, same);
    if (slot->held != same)
        engine_truncate(generator->engine, sequence, same);
    /* Layers with a state cannot go back; then nothing remains. */
    slot->held = engine_positions(generator->engine, sequence);
    same = slot_share(generator, slot, same); /* takes no room */
    slots_make_room(generator);               /* for data that may be restored */
    if (slot->task != task)
        return false;
    slot_bring(generator, slot, same);
    task->fed = task->known = slot->held;
    if (task->started)
        return true; /* it made room for another */
    task->result.cached_tokens = slot->held;
    task->started = clock_nanoseconds();
    /* Penalties look back into the prompt too. */
    for (uint32_t i = 0; i < task->count; i++)
        sampler_accept(task->request.sampler, task->tokens[i]);
    return true;
}

void slots_start_waiting(struct generator *generator)
{
    for (;;) {
        pthread_mutex_lock(&generator->mutex);
        struct task *task = next_in_queue(generator);
        bool cancelled = task && task->cancelled;
        struct slot *slot = task && !cancelled && has_room(generator, task) ? best_slot(generator, task) : NULL;
        if (cancelled || slot) {
            take_from_queue(generator, task);
            if (slot)
                slot->task = task;
        }
        pthread_mutex_unlock(&generator->mutex);
        if (cancelled) {
            task_end(task, FINISH_CANCELLED);
            continue;
        }
        if (!slot || !start_task(generator, slot))
            return;
    }
}

void slot_end(struct generator *generator, struct slot *slot, enum finish_reason reason)
{
    struct task *task = slot->task;
    slot->last_used = ++generator->clock;
    /* on_done runs without the mutex, and after the slot is free: it may submit the next turn. */
    pthread_mutex_lock(&generator->mutex);
    slot->task = NULL;
    pthread_mutex_unlock(&generator->mutex);
    task_end(task, reason);
}

/* ---- shared room --------------------------------------------------------------------------------------------------
 */

static void empty(struct generator *generator, struct slot *slot)
{
    slot_keep(generator, slot, 0);
    engine_truncate(generator->engine, (uint32_t)(slot - generator->slots), 0);
    slot->held = 0;
}

/* ---- sequences that others read and write --------------------------------------------------------------------------
 */

uint32_t generator_held(const struct generator *generator, uint32_t sequence, const int32_t **tokens)
{
    *tokens = generator->slots[sequence].history;
    return generator->slots[sequence].held;
}

uint32_t generator_find(const struct generator *generator, const int32_t *tokens, uint32_t count, uint32_t *same)
{
    uint32_t best = 0;
    *same = 0;
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        const struct slot *slot = &generator->slots[s];
        uint32_t most = MIN(slot->held, count), shared = 0;
        while (shared < most && slot->history[shared] == tokens[shared])
            shared++;
        if (shared > *same) {
            *same = shared;
            best = s;
        }
    }
    return best;
}

uint32_t generator_vacate(struct generator *generator)
{
    struct slot *oldest = &generator->slots[0];
    for (uint32_t s = 1; s < generator->slot_count; s++)
        if (generator->slots[s].last_used < oldest->last_used)
            oldest = &generator->slots[s];
    empty(generator, oldest);
    return (uint32_t)(oldest - generator->slots);
}

uint32_t generator_bring(struct generator *generator, const int32_t *tokens, uint32_t count, uint32_t *same)
{
    uint32_t found = generator_find(generator, tokens, count, same);
    if (!generator->prefixes || prefix_find(generator->prefixes, tokens, count, 0).position <= *same)
        return found;
    struct slot *slot = &generator->slots[generator_vacate(generator)];
    prefix_bring(generator, slot, tokens, count, 0);
    return generator_find(generator, tokens, count, same);
}

void generator_hold(struct generator *generator, uint32_t sequence, const int32_t *tokens, uint32_t count)
{
    struct slot *slot = &generator->slots[sequence];
    if (count)
        memcpy(slot->history, tokens, count * sizeof *tokens);
    else
        engine_truncate(generator->engine, sequence, 0);
    slot->held = count;
    slot->last_used = ++generator->clock;
}

void generator_clear(struct generator *generator)
{
    for (uint32_t s = 0; s < generator->slot_count; s++)
        empty(generator, &generator->slots[s]);
}

/* ---- making room ---------------------------------------------------------------------------------------------------
 */

/* Makes the tokens of a request in its slot the ones to feed, without "dropped" tokens at "from". Returns false if
 * it ended because memory is short. */
static bool take_back(struct generator *generator, struct slot *slot, uint32_t from, uint32_t dropped)
{
    struct task *task = slot->task;
    uint32_t count = slot->held - dropped + 1;
    if (memory_resize((void **)&task->tokens, task->count, count, sizeof *task->tokens, "prompt",
                      &task->result.error)) {
        slot_end(generator, slot, FINISH_ERROR);
        return false;
    }
    memcpy(task->tokens, slot->history, from * sizeof *task->tokens);
    memcpy(task->tokens + from, slot->history + from + dropped, (count - 1 - from) * sizeof *task->tokens);
    task->tokens[count - 1] = task->last_token;
    task->count = count;
    task->request.tokens = task->tokens;
    task->decoding = false;
    return true;
}

/* Returns the request to the head of the queue. Its data is kept; what is lost by its turn is computed again, with
 * the same bits. */
static void make_wait(struct generator *generator, struct slot *slot)
{
    struct task *task = slot->task;
    if (task->decoding && !take_back(generator, slot, slot->held, 0))
        return;
    empty(generator, slot);
    pthread_mutex_lock(&generator->mutex);
    slot->task = NULL;
    task->next = generator->first;
    generator->first = task;
    if (!generator->last)
        generator->last = task;
    pthread_mutex_unlock(&generator->mutex);
}

/* The number of positions after the next batch. */
static uint32_t next_positions(const struct slot *slot)
{
    const struct task *task = slot->task;
    return !task ? slot->held : task->decoding ? slot->held + 1 : MAX(task->count, slot->held);
}

void slots_make_room(struct generator *generator)
{
    while (generator->room != UINT64_MAX) {
        struct slot *idle = NULL, *youngest = NULL;
        for (uint32_t s = 0; s < generator->slot_count; s++) {
            struct slot *slot = &generator->slots[s];
            generator->wanted[s] = next_positions(slot);
            if (!slot->task && slot->held && (!idle || slot->last_used < idle->last_used))
                idle = slot;
            if (slot->task && (!youngest || slot->task->id > youngest->task->id))
                youngest = slot;
        }
        if (engine_room_of(generator->engine, generator->wanted) <= generator->room)
            return;
        if (idle)
            empty(generator, idle);
        else
            make_wait(generator, youngest);
    }
}

/* ---- a full context -------------------------------------------------------------------------------------------------
 */

uint32_t task_context(const struct generator *generator, const struct task *task)
{
    return task->request.positions ? MIN(task->request.positions, generator->positions) : generator->positions;
}

void slots_shift_full(struct generator *generator)
{
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct slot *slot = &generator->slots[s];
        const struct task *task = slot->task;
        if (!task || !task->decoding || !task->request.shift || slot->held < task_context(generator, task))
            continue;
        /* Each shift costs a pass over all remaining tokens, so it makes room for more than a few. */
        uint32_t keep = MIN(task->request.shift_keep, slot->held - MAX(slot->held / 4, 1u));
        if (take_back(generator, slot, keep, MAX((slot->held - keep) / 2, 1u)))
            start_task(generator, slot);
    }
}
