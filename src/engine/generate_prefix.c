/* Which data of a sequence is kept when it would be lost, and how it is restored for a text that was read before. */
#include "engine/generate_private.h"

#include <string.h>

/* A prompt with this many new tokens gets a checkpoint shortly before its end, for one that ends differently. If
 * there is none yet, it is worth the pass that it costs. */
#define LONG_PROMPT 1024u
#define SHORT_OF_END 32u

/* The smallest distance between checkpoints within a prompt. */
#define MARK_STEP 256u

/* The checkpoints of one prompt take at most one part in this many of the store. */
#define MARKS_PART 2

/* A request waits for another one that computes at least this many tokens of its beginning. */
#define WORTH_WAITING 256u

/* Other requests may run for this long while the drive reads. */
#define FETCH_NANOSECONDS UINT64_C(10000000000)

/* How often a lookup is repeated that failed because a file is gone or damaged. */
#define TRIES 3

struct of_sequence {
    struct generator *generator;
    struct slot *slot;
    const int32_t *tokens;
};

static uint32_t sequence_of(const struct generator *generator, const struct slot *slot)
{
    return (uint32_t)(slot - generator->slots);
}

static uint32_t common(const int32_t *a, uint32_t a_count, const int32_t *b, uint32_t b_count)
{
    uint32_t most = MIN(a_count, b_count), same = 0;
    while (same < most && a[same] == b[same])
        same++;
    return same;
}

/* ---- keeping -------------------------------------------------------------------------------------------------------
 */

static uint64_t rows_bytes(void *context, uint32_t first, uint32_t end)
{
    const struct of_sequence *of = context;
    return engine_rows_bytes(of->generator->engine, first, end);
}

static hypura_status read_rows(void *context, uint32_t first, uint32_t end, void *out, hypura_error *error)
{
    const struct of_sequence *of = context;
    return engine_read_rows(of->generator->engine, sequence_of(of->generator, of->slot), first, end, out, error);
}

static hypura_status read_checkpoint(void *context, void *out, hypura_error *error)
{
    const struct of_sequence *of = context;
    return engine_read_checkpoint(of->generator->engine, sequence_of(of->generator, of->slot), out, error);
}

static bool keep_checkpoint(struct generator *generator, struct slot *slot)
{
    struct of_sequence of = {generator, slot, slot->history};
    struct prefix_source source = {.checkpoint_bytes = engine_checkpoint_bytes_at(generator->engine, slot->held),
                                   .read_checkpoint = read_checkpoint,
                                   .context = &of};
    return prefix_checkpoint(generator->prefixes, slot->history, slot->held, &source);
}

void slot_keep(struct generator *generator, struct slot *slot, uint32_t same)
{
    struct of_sequence of = {generator, slot, slot->history};
    struct prefix_source source = {.rows_bytes = rows_bytes, .read_rows = read_rows, .context = &of};
    if (!generator->prefixes || !slot->held)
        return;
    if (generator->marks_most)
        keep_checkpoint(generator, slot);
    if (same < slot->held)
        prefix_save(generator->prefixes, slot->history, same, slot->held, &source);
}

/* ---- checkpoints within a prompt -----------------------------------------------------------------------------------
 */

uint32_t prefix_marks(const struct generator *generator)
{
    uint64_t bytes = engine_checkpoint_bytes(generator->engine);
    struct prefix_statistics statistics;
    if (!generator->prefixes || !bytes)
        return 0;
    prefix_statistics(generator->prefixes, &statistics);
    return (uint32_t)MIN(statistics.limit / MARKS_PART / bytes, (uint64_t)MARKS);
}

uint32_t slot_prompt_end(const struct generator *generator, const struct task *task)
{
    if (task->fed < task->shared)
        return task->shared;
    if (!generator->marks_most || task->count - task->known < LONG_PROMPT)
        return task->count;
    uint32_t end = (uint32_t)align_down(task->count - SHORT_OF_END, PLAN_KV_BLOCK);
    return task->fed < end ? end : task->count;
}

/* Checkpoints are denser towards the end. Drops the one that leaves the smallest gap relative to its distance from
 * the end. */
static void thin_out(struct generator *generator, struct slot *slot)
{
    uint32_t worst = 0;
    double least = 0;
    for (uint32_t i = 0; i + 1 < slot->mark_count; i++) {
        double before = i ? slot->marks[i - 1] : 0, after = slot->marks[i + 1];
        double gap = (after - before) / (slot->held - (double)slot->marks[i]);
        if (i == 0 || gap < least) {
            worst = i;
            least = gap;
        }
    }
    prefix_forget_checkpoint(generator->prefixes, slot->history, slot->marks[worst]);
    slot->mark_count--;
    memmove(slot->marks + worst, slot->marks + worst + 1, (slot->mark_count - worst) * sizeof *slot->marks);
}

void slot_mark(struct generator *generator, struct slot *slot)
{
    const struct task *task = slot->task;
    uint32_t last = slot->mark_count ? slot->marks[slot->mark_count - 1] : task->known;
    bool before_end = task->count - task->known >= LONG_PROMPT && task->count - slot->held <= 2 * PLAN_KV_BLOCK;
    bool wanted = slot->held >= last + MARK_STEP || before_end || slot->held == task->shared;
    if (!generator->marks_most || slot->in_batch < 2 || !wanted || !keep_checkpoint(generator, slot))
        return;
    slot->marks[slot->mark_count++] = slot->held;
    if (slot->mark_count > generator->marks_most)
        thin_out(generator, slot);
}

/* ---- coming back ---------------------------------------------------------------------------------------------------
 */

static hypura_status write_rows(void *context, uint32_t first, uint32_t end, const void *rows, uint64_t bytes,
                                hypura_error *error)
{
    const struct of_sequence *of = context;
    if (bytes != engine_rows_bytes(of->generator->engine, first, end))
        return error_set(error, HYPURA_ERROR_FORMAT, "a kept prefix has rows of another size");
    return engine_write_rows(of->generator->engine, sequence_of(of->generator, of->slot), first, end, rows, error);
}

static hypura_status write_checkpoint(void *context, uint32_t position, const void *checkpoint, uint64_t bytes,
                                      hypura_error *error)
{
    const struct of_sequence *of = context;
    if (bytes != engine_checkpoint_bytes_at(of->generator->engine, position))
        return error_set(error, HYPURA_ERROR_FORMAT, "a checkpoint has another size");
    return engine_write_checkpoint(of->generator->engine, sequence_of(of->generator, of->slot), position, of->tokens,
                                   checkpoint, error);
}

/* The other slot that shares most of the text; among equals a running one, since its rows stay. */
static struct slot *find_other(struct generator *generator, const struct slot *slot, uint32_t *same)
{
    const struct task *task = slot->task;
    struct slot *best = NULL;
    *same = 0;
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct slot *other = &generator->slots[s];
        uint32_t most = other == slot ? 0 : common(other->history, other->held, task->tokens, task->count - 1);
        if (most > *same || (most && most == *same && !best->task && other->task)) {
            best = other;
            *same = most;
        }
    }
    return best;
}

/* Saves another sequence's data of the text to the store, from where this one can take it. */
static void keep_of_other(struct generator *generator, const struct slot *slot, struct slot *other, uint32_t there,
                          uint32_t most)
{
    const struct task *task = slot->task;
    /* How far a sequence with these rows could be brought. */
    uint32_t end = prefix_find(generator->prefixes, task->tokens, task->count - 1, most).position;
    struct of_sequence of = {generator, other, other->history};
    struct prefix_source source = {.rows_bytes = rows_bytes, .read_rows = read_rows, .context = &of};
    if (end > there)
        prefix_save(generator->prefixes, other->history, there, MIN(end, most), &source);
}

/* Copies rows of a block that another sequence does not have whole. */
static uint32_t copy_rest(struct generator *generator, uint32_t sequence, uint32_t from, uint32_t first, uint32_t end)
{
    struct engine *engine = generator->engine;
    uint8_t *rows = NULL;
    /* Some models have no rows at all. */
    bool copied =
        !memory_allocate((void **)&rows, (size_t)engine_rows_bytes(engine, first, end) + 1, 1, "rows", NULL) &&
        !engine_read_rows(engine, from, first, end, rows, NULL) &&
        !engine_write_rows(engine, sequence, first, end, rows, NULL);
    memory_free(rows);
    return copied ? end : first;
}

/* Shares the rows that another sequence has in memory. False: that is impossible, or brings nothing. */
static bool share_with(struct generator *generator, struct slot *slot, const struct slot *other, uint32_t most,
                       uint32_t *there)
{
    struct engine *engine = generator->engine;
    const struct task *task = slot->task;
    const uint32_t sequence = sequence_of(generator, slot), from = sequence_of(generator, other);
    const uint32_t whole = (uint32_t)align_down(most, PLAN_KV_BLOCK);
    if (engine_checkpoint_bytes(engine) &&
        (!generator->prefixes || prefix_find(generator->prefixes, task->tokens, task->count - 1, most).position <=
                                     engine_positions(engine, sequence)))
        return false;
    if (engine_share_rows(engine, sequence, from, whole, NULL))
        return false;
    *there = most > whole ? copy_rest(generator, sequence, from, whole, most) : whole;
    if (!engine_checkpoint_bytes(engine))
        engine_write_checkpoint(engine, sequence, *there, task->tokens, NULL, NULL);
    return true;
}

bool prefix_is_coming(struct generator *generator, const struct task *task)
{
    struct task *first = NULL;
    uint32_t have = 0, most = 0;
    for (uint32_t s = 0; generator->prefixes && s < generator->slot_count; s++) {
        const struct slot *slot = &generator->slots[s];
        if (!slot->task || slot->task->decoding) {
            have = MAX(have, common(slot->history, slot->held, task->tokens, task->count - 1));
            continue;
        }
        uint32_t same = common(slot->task->tokens, slot->task->count, task->tokens, task->count - 1);
        if (same > most && slot->task->fed < same) {
            first = slot->task;
            most = same;
        }
    }
    if (!first || most < have + WORTH_WAITING)
        return false;
    if (generator->marks_most) /* a checkpoint is due */
        first->shared = first->shared ? MIN(first->shared, most) : most;
    return true;
}

bool prefix_is_far(struct generator *generator, struct task *task)
{
    bool alone = true;
    uint32_t have = 0;
    const uint64_t now = clock_nanoseconds();
    if (!generator->prefixes || !prefix_outlasts(generator->prefixes))
        return false;
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        const struct slot *slot = &generator->slots[s];
        alone = alone && !slot->task;
        have = MAX(have, common(slot->history, slot->held, task->tokens, task->count - 1));
    }
    if (alone || (task->fetched && now >= task->fetched))
        return false;
    struct prefix_match match = prefix_find(generator->prefixes, task->tokens, task->count - 1, have);
    bool there = match.position <= have || prefix_fetch(generator->prefixes, task->tokens, &match, !task->fetched);
    task->fetched = there ? 1 : task->fetched ? task->fetched : now + FETCH_NANOSECONDS;
    return !there;
}

uint32_t prefix_shared(const struct generator *generator, const struct task *task)
{
    uint32_t most = 0;
    for (uint32_t s = 0; s < generator->slot_count && engine_can_share(generator->engine); s++)
        if (generator->slots[s].task)
            most =
                MAX(most, common(generator->slots[s].history, generator->slots[s].held, task->tokens, task->count - 1));
    if (most && engine_checkpoint_bytes(generator->engine))
        most = generator->prefixes
                   ? MIN(most, prefix_find(generator->prefixes, task->tokens, task->count - 1, most).position)
                   : 0;
    return (uint32_t)align_down(most, PLAN_KV_BLOCK);
}

/* Records what the engine now holds of the text. */
static void note_held(struct generator *generator, struct slot *slot, const int32_t *tokens)
{
    slot->held = engine_positions(generator->engine, sequence_of(generator, slot));
    memcpy(slot->history, tokens, slot->held * sizeof *slot->history);
}

uint32_t slot_share(struct generator *generator, struct slot *slot, uint32_t same)
{
    uint32_t most;
    struct slot *other = find_other(generator, slot, &most);
    if (!other || most < slot->held + PLAN_KV_BLOCK)
        return same;
    if (share_with(generator, slot, other, most, &same))
        note_held(generator, slot, slot->task->tokens);
    else if (generator->prefixes)
        keep_of_other(generator, slot, other, slot->held, most);
    return same;
}

void prefix_bring(struct generator *generator, struct slot *slot, const int32_t *tokens, uint32_t count, uint32_t same)
{
    struct engine *engine = generator->engine;
    uint32_t sequence = sequence_of(generator, slot);
    struct of_sequence of = {generator, slot, tokens};
    struct prefix_target target = {write_rows, write_checkpoint, &of};
    slot->mark_count = 0;
    for (int i = 0; i < TRIES && generator->prefixes; i++) {
        hypura_error error;
        uint32_t there = MIN(same, engine_rows_there(engine, sequence));
        struct prefix_match match = prefix_find(generator->prefixes, tokens, count, there);
        if (match.position <= engine_positions(engine, sequence))
            break;
        prefix_fetch(generator->prefixes, tokens, &match, true);
        if (!prefix_restore(generator->prefixes, tokens, &match, &target, &error))
            break;
        log_write(LOG_DEBUG, "cannot restore a kept prefix: %s", error.message);
        engine_truncate(engine, sequence, 0);
        same = 0;
    }
    note_held(generator, slot, tokens);
    engine_truncate(engine, sequence, slot->held); /* later rows belong to no text */
}

void slot_bring(struct generator *generator, struct slot *slot, uint32_t same)
{
    prefix_bring(generator, slot, slot->task->tokens, slot->task->count - 1, same);
}
