/* The model's own prediction block, which drafts tokens (multi-token prediction): a layer after the others. It reads a
 * position's row after the output norm, together with the embedding of the token that follows, and predicts the token
 * after that. To draft further tokens, it continues from its own rows.
 *
 * The block has its own KV cache. Rows that the block missed, because their sequence was cut or another one ran, are
 * left out, and its rows are adjacent whatever their positions. That makes drafts worse, but nothing else; the same
 * goes for all failures here. Rows of a prompt pass the block with their batch. Rows of generated tokens wait until a
 * draft is requested, because often none is, or the rows turn out to belong to rejected drafts. If no draft is
 * requested until the room for them is full, they are dropped.
 *
 * The CPU computes the block, except for the output matrix if a device has it. Next to a device, a prompt's rows would
 * take the CPU longer than the layers take the device, so only the last rows of a prompt pass. */
#include "engine/cpu/execute.h"
#include "engine/gpu/pass.h"

#include <string.h>

struct predictor {
    struct kv_cache kv;
    struct step_list list;
    enum step_buffer left; /* where the list leaves the rows to continue from */
    uint32_t room;         /* for waiting rows */
    bool lasts;            /* only the last rows of a prompt pass */

    /* The waiting rows: those of count positions of a sequence, from first on. known: so is the token after the
     * last. */
    uint32_t sequence, first, count;
    bool known;

    bool wanted;      /* a draft was requested since the room was last full */
    uint32_t further; /* rows of the cache that belong to drafts */
    bool ready;       /* the row to continue from is there */
    bool moved;       /* the last pass's rows are in BUFFER_LAST */
};

hypura_status predictor_create(struct predictor **out, struct batch *batch, hypura_error *error)
{
    struct predictor *predictor;
    const struct opened *open = batch->open;
    enum step_buffer left;
    struct step_list list = steps_predicting(open->steps, &left);
    if (list.count == 0)
        return HYPURA_OK;
    TRY(ALLOCATE(&predictor, 1, "prediction block", error));
    predictor->list = list;
    predictor->left = left;
    predictor->lasts = open->plan->gpu && open->plan->gpu->taken;
    predictor->room = MIN(PREDICTION_ROWS, batch->scratch.chunk);
    hypura_status status = kv_cache_create_predicting(&predictor->kv, &open->geometry, open->plan->positions,
                                                      open->plan->kv_positions, open->plan->kv_type, error);
    if (status)
        predictor_destroy(predictor);
    else
        *out = predictor;
    return status;
}

void predictor_destroy(struct predictor *predictor)
{
    if (!predictor)
        return;
    kv_cache_destroy(&predictor->kv);
    memory_free(predictor);
}

static size_t width_of(const struct batch *batch)
{
    return model_parameters(batch->open->model)->embedding;
}

static void forget_further(struct predictor *predictor)
{
    if (predictor->further)
        kv_cache_truncate(&predictor->kv, predictor->sequence,
                          predictor->kv.held[predictor->sequence] - predictor->further);
    predictor->further = 0;
    predictor->ready = false;
}

static void drop(struct predictor *predictor)
{
    predictor->count = 0;
    predictor->known = false;
}

/* ---- a pass over the block -----------------------------------------------------------------------------------------
 */

/* Runs the block's steps. A device may compute the last one, which gives logits. */
static hypura_status run_steps(const struct predictor *predictor, struct batch *batch, hypura_error *error)
{
    const struct step_list list = predictor->list, rest = {list.steps + list.count - 1, 1};
    const struct step_output *output = &rest.steps->output;
    bool done = false;
    TRY(execute(batch, (struct step_list){list.steps, list.count - 1}, error));
    if (batch->wanted)
        TRY(gpu_pass_predict(batch, output, rows_of(batch, output->in) + batch->scratch.wanted[0] * width_of(batch),
                             batch->scratch.logits, &done, error));
    return done ? HYPURA_OK : execute(batch, rest, error);
}

/* Puts the block's cache in place of the layers' in the batch, where the executor expects it. */
static hypura_status walk(struct predictor *predictor, struct batch *batch, hypura_error *error)
{
    struct kv_cache layers = batch->kv;
    struct scratch *s = &batch->scratch;
    hypura_status status = HYPURA_OK;
    batch->kv = predictor->kv;
    if (!kv_cache_take_room(&batch->kv, s->spans, batch->span_count))
        status = error_set(error, HYPURA_ERROR_MEMORY, "no room to draft tokens");
    for (uint32_t i = 0; i < batch->span_count && !status; i++)
        kv_cache_begin(&batch->kv, s->spans[i].sequence, s->spans[i].rows);
    if (!status) {
        /* This is no pass of the layers, so the store must not count it as one. */
        store_begin(batch->open->store);
        status = run_steps(predictor, batch, error);
        store_abandon(batch->open->store);
    }
    predictor->kv = batch->kv;
    batch->kv = layers;
    return status;
}

/* Passes the spans' rows, which are in BUFFER_LAST, through the block. tokens: the token after each row. want: compute
 * the logits of the last row. */
static hypura_status pass(struct predictor *predictor, struct batch *batch, const int32_t *tokens, bool want,
                          hypura_error *error)
{
    struct scratch *s = &batch->scratch;
    struct thread_pool *pool = compute_pool(batch->compute);
    const struct engine_batch asked = {.count = batch->rows, .tokens = tokens};
    if (batch_is_to_end(batch))
        return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &s->spans[i];
        uint32_t held = predictor->kv.held[span->sequence];
        if (held + span->rows > batch->open->plan->positions)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the context is full");
        for (uint32_t r = 0; r < span->rows; r++)
            s->positions[span->first_row + r] = held + r;
    }
    thread_pool_skipped(pool); /* resets what an earlier pass left */
    forget_inputs(batch, UINT32_MAX);
    batch->asked = &asked;
    batch->wanted = want;
    s->wanted[0] = (uint32_t)batch->rows - 1;
    rope_table_fill(&batch->open->rope, pool, s->rope[0], s->positions, batch->rows);
    if (batch->open->rope_local.half)
        rope_table_fill(&batch->open->rope_local, pool, s->rope[1], s->positions, batch->rows);
    hypura_status status = walk(predictor, batch, error);
    batch->asked = NULL;
    if (!status && (batch_is_to_end(batch) || thread_pool_skipped(pool)))
        status = error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    return status;
}

static void one_span(struct batch *batch, uint32_t sequence, uint32_t rows)
{
    batch->rows = rows;
    batch->span_count = 1;
    batch->scratch.spans[0] = (struct span){.sequence = sequence, .rows = rows};
}

/* Passes all waiting rows. The token after the last one must be known. */
static hypura_status pass_waiting(struct predictor *predictor, struct batch *batch, bool want, hypura_error *error)
{
    struct scratch *s = &batch->scratch;
    const uint32_t count = predictor->count;
    memcpy(rows_of(batch, BUFFER_LAST), s->unpassed, count * width_of(batch) * sizeof *s->unpassed);
    one_span(batch, predictor->sequence, count);
    hypura_status status = pass(predictor, batch, s->unpassed_tokens, want, error);
    if (!status)
        kv_cache_commit(&predictor->kv, predictor->sequence, count);
    predictor->first += count;
    drop(predictor);
    return status;
}

/* ---- rows from passes of the layers --------------------------------------------------------------------------------
 */

static uint32_t sequence_at(const struct engine_batch *asked, size_t row)
{
    return asked->sequences ? asked->sequences[row] : 0;
}

/* Whether the batch has rows of a prompt: several of one sequence, and none of them drafts. */
static bool is_prompt(const struct engine_batch *asked)
{
    for (size_t r = 1; r < asked->count && !asked->drafted; r++)
        if (sequence_at(asked, r) == sequence_at(asked, r - 1))
            return true;
    return false;
}

bool predictor_wants(const struct predictor *predictor, const struct engine_batch *asked)
{
    /* Without want_logits, a batch gives the logits of its last row. */
    return !predictor->lasts || !is_prompt(asked) || !asked->want_logits || asked->want_logits[asked->count - 1];
}

void predictor_before(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked)
{
    hypura_error error;
    struct kv_cache *kv = &predictor->kv;
    const uint32_t end = predictor->first + predictor->count;
    predictor->moved = false;
    forget_further(predictor);
    for (size_t r = 0; r < asked->count; r++) { /* rows that were written otherwise never passed here */
        uint32_t sequence = sequence_at(asked, r);
        if (sequence < kv->sequences && asked->positions[r] < kv->held[sequence])
            kv_cache_truncate(kv, sequence, asked->positions[r]);
    }
    for (size_t r = 0; r < asked->count && predictor->count; r++) {
        if (sequence_at(asked, r) != predictor->sequence)
            continue;
        int32_t token = asked->tokens[r];
        predictor->known = asked->positions[r] == end && token >= 0 &&
                           (uint32_t)token < model_parameters(batch->open->model)->vocabulary;
        if (predictor->known)
            batch->scratch.unpassed_tokens[predictor->count - 1] = token;
        else
            drop(predictor);
        break;
    }
    const bool full = predictor->count + asked->count > predictor->room;
    if (predictor->known && (is_prompt(asked) || (full && predictor->wanted)))
        pass_waiting(predictor, batch, false, &error);
    if (full)
        predictor->wanted = false;
}

/* Adds rows of the batch to the waiting ones; if they do not continue these, replaces them. */
static void keep(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked, size_t first,
                 size_t count, const float *hidden)
{
    struct scratch *s = &batch->scratch;
    const size_t width = width_of(batch);
    const uint32_t sequence = sequence_at(asked, first), position = asked->positions[first];
    bool joins = predictor->known && predictor->sequence == sequence &&
                 predictor->first + predictor->count == position && predictor->count + count <= predictor->room;
    if (!joins) {
        predictor->sequence = sequence;
        predictor->first = position;
        predictor->count = 0;
    }
    memcpy(s->unpassed + predictor->count * width, hidden + first * width, count * width * sizeof *hidden);
    for (size_t i = 0; i + 1 < count; i++)
        s->unpassed_tokens[predictor->count + i] = asked->tokens[first + i + 1];
    predictor->count += (uint32_t)count;
    predictor->known = false;
}

/* Passes the last rows of a prompt. The very last one waits, because its next token is unknown. */
static void pass_end_of_prompt(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked,
                               const float *hidden)
{
    hypura_error error;
    const struct span span = batch->scratch.spans[batch->span_count - 1];
    const uint32_t count = MIN(span.rows, predictor->room) - 1, first = span.first_row + span.rows - 1 - count;
    keep(predictor, batch, asked, first, count + 1, hidden);
    if (count == 0)
        return;
    const size_t width = width_of(batch);
    float *last = batch->scratch.unpassed + count * width;
    memcpy(rows_of(batch, BUFFER_LAST), batch->scratch.unpassed, count * width * sizeof *last);
    memmove(batch->scratch.unpassed, last, width * sizeof *last);
    predictor->first += count;
    predictor->count = 1;
    one_span(batch, predictor->sequence, count);
    if (!pass(predictor, batch, batch->scratch.unpassed_tokens, false, &error))
        kv_cache_commit(&predictor->kv, predictor->sequence, count);
}

/* Passes all rows of the batch. The next token of each span's last row is unknown: this row passes with its own token,
 * is not committed, and is overwritten later. */
static void pass_prompt(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked,
                        const float *hidden)
{
    struct scratch *s = &batch->scratch;
    hypura_error error;
    memcpy(rows_of(batch, BUFFER_LAST), hidden, batch->rows * width_of(batch) * sizeof *hidden);
    predictor->moved = true;
    for (uint32_t i = 0; i < batch->span_count; i++)
        for (uint32_t r = s->spans[i].first_row, end = r + s->spans[i].rows; r < end; r++)
            s->unpassed_tokens[r] = asked->tokens[r + 1 < end ? r + 1 : r];
    hypura_status status = pass(predictor, batch, s->unpassed_tokens, false, &error);
    for (uint32_t i = 0; i < batch->span_count && !status; i++)
        kv_cache_commit(&predictor->kv, s->spans[i].sequence, s->spans[i].rows - 1);
}

void predictor_after(struct predictor *predictor, struct batch *batch, const struct engine_batch *asked,
                     const float *hidden)
{
    if (is_prompt(asked) && predictor->lasts) {
        drop(predictor);
        if (predictor_wants(predictor, asked) && !asked->want_hidden)
            pass_end_of_prompt(predictor, batch, asked, hidden);
    } else if (is_prompt(asked)) {
        pass_prompt(predictor, batch, asked, hidden);
        drop(predictor);
        keep(predictor, batch, asked, asked->count - 1, 1, rows_of(batch, BUFFER_LAST));
    } else if (batch->span_count == 1 && asked->count <= predictor->room) {
        keep(predictor, batch, asked, 0, asked->count, hidden);
    } else {
        drop(predictor);
    }
}

void predictor_truncate(struct predictor *predictor, uint32_t sequence, uint32_t positions, uint32_t removed)
{
    struct kv_cache *kv = &predictor->kv;
    const uint32_t end = predictor->first + predictor->count;
    uint32_t waiting = 0;
    forget_further(predictor);
    if (sequence == predictor->sequence && positions < end && predictor->count) {
        waiting = MIN(predictor->count, end - positions);
        predictor->count -= waiting;
        predictor->known = false;
    }
    /* Waiting rows are not in the cache. */
    uint32_t gone = positions ? removed - MIN(removed, waiting) : kv->held[sequence];
    kv_cache_truncate(kv, sequence, kv->held[sequence] - MIN(kv->held[sequence], gone));
}

/* ---- drafts --------------------------------------------------------------------------------------------------------
 */

hypura_status predictor_ask(struct predictor *predictor, struct batch *batch, uint32_t sequence, int32_t token,
                            bool further, hypura_error *error)
{
    const size_t width = width_of(batch);
    float *last = rows_of(batch, BUFFER_LAST);
    predictor->moved = false;
    if (token < 0 || (uint32_t)token >= model_parameters(batch->open->model)->vocabulary)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "token %d is not in the vocabulary", token);
    if (!further) {
        forget_further(predictor);
        if (predictor->sequence != sequence || predictor->count == 0 ||
            predictor->first + predictor->count != batch->kv.held[sequence])
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the last row of sequence %u is missing", sequence);
        batch->scratch.unpassed_tokens[predictor->count - 1] = token;
        predictor->wanted = true;
        TRY(pass_waiting(predictor, batch, true, error));
    } else {
        if (!predictor->ready || predictor->sequence != sequence)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "sequence %u has no draft to continue from", sequence);
        predictor->ready = false;
        one_span(batch, sequence, 1);
        TRY(pass(predictor, batch, &token, true, error));
        kv_cache_commit(&predictor->kv, sequence, 1);
        predictor->further++;
    }
    memcpy(last, rows_of(batch, predictor->left) + (batch->rows - 1) * width, width * sizeof *last);
    predictor->ready = true;
    return HYPURA_OK;
}

const float *predictor_moved(const struct predictor *predictor, const struct batch *batch)
{
    return predictor->moved ? batch->scratch.buffers[BUFFER_LAST] : NULL;
}
