#include "engine/draft.h"
#include "sampling/sampler.h"

#include <math.h>
#include <string.h>

/* The longest match that is looked for; longer ones predict no better. */
#define LONGEST_MATCH 16u

/* The weight of the latest time of a draft by a model in the running mean. */
#define LEARNING 0.25

struct drafter {
    struct engine *engine;
    struct engine *small; /* NULL: none */
    bool predicts;        /* the engine's own prediction block drafts */
    uint32_t vocabulary;
    struct draft_choice choice;

    int32_t *fed;      /* [positions of the smaller model] the tokens that its sequence holds */
    uint8_t *state;    /* the state before its own drafts, if its states cannot go back; NULL: they can */
    uint32_t state_at; /* the position of that state; 0: there is none */
};

hypura_status drafter_create(struct drafter **out, struct engine *engine, hypura_error *error)
{
    struct drafter *drafter;
    struct engine *small = engine_draft_model(engine);
    hypura_status status = ALLOCATE(&drafter, 1, "drafts", error);
    if (status)
        return status;
    drafter->engine = engine;
    drafter->small = small;
    drafter->predicts = !small && engine_predicts(engine);
    drafter->choice.always = engine_drafting(engine) == DRAFTING_ON;
    drafter->vocabulary = model_parameters(engine_model(engine))->vocabulary;
    if (small)
        status = ALLOCATE(&drafter->fed, engine_plan(small)->positions, "token history", error);
    if (!status && small && engine_has_states(small))
        status = ALLOCATE(&drafter->state, engine_checkpoint_bytes(small), "state of the model that drafts", error);
    if (status)
        drafter_destroy(drafter);
    else
        *out = drafter;
    return status;
}

void drafter_destroy(struct drafter *drafter)
{
    if (!drafter)
        return;
    memory_free(drafter->fed);
    memory_free(drafter->state);
    memory_free(drafter);
}

void drafter_learn(struct drafter *drafter, uint32_t accepted, uint64_t nanoseconds)
{
    draft_learn(&drafter->choice, accepted, nanoseconds);
}

/* ---- the text itself -----------------------------------------------------------------------------------------------
 */

static uint32_t match_kind(uint32_t length)
{
    static const uint8_t least[DRAFT_MATCH_KINDS] = {1, 2, 3, 4, 6, 10};
    uint32_t kind = DRAFT_MATCH_KINDS - 1;
    while (kind && length < least[kind])
        kind--;
    return kind;
}

/* Finds the last earlier place where the longest run of the final tokens occurs: the index after it, or 0. */
static size_t find_match(const int32_t *tokens, size_t count, uint32_t *length)
{
    size_t best = 0;
    *length = 0;
    for (size_t end = count - 1; end > 0 && *length < LONGEST_MATCH; end--) {
        if (tokens[end - 1] != tokens[count - 1])
            continue;
        uint32_t same = 1;
        while (same < LONGEST_MATCH && same < end && tokens[end - 1 - same] == tokens[count - 1 - same])
            same++;
        if (same > *length) {
            *length = same;
            best = end;
        }
    }
    return best;
}

/* Drafts what followed there: a text that repeats itself tends to go on doing so. */
static void draft_by_match(struct drafter *drafter, const int32_t *tokens, size_t count, size_t start, uint32_t length,
                           uint32_t most, int32_t *out)
{
    struct draft_choice *choice = &drafter->choice;
    for (uint32_t i = 0; i < most; i++) {
        struct draft_kind *kind = &choice->kinds[match_kind(length + i)];
        if (!draft_pays(choice, (double)draft_chance(kind), choice->further)) {
            if (i == 0)
                draft_refuse(choice, kind);
            return;
        }
        out[i] = start + i < count ? tokens[start + i] : out[start + i - count];
        draft_add(choice, match_kind(length + i));
    }
}

/* ---- the smaller model, and the block
 * ---------------------------------------------------------------------------------------------
 */

static uint32_t model_kind(float logprob)
{
    static const float least[DRAFT_MODEL_KINDS] = {0, 0.3f, 0.6f, 0.85f};
    float probability = expf(logprob);
    uint32_t kind = DRAFT_MODEL_KINDS - 1;
    while (kind && probability < least[kind])
        kind--;
    return DRAFT_MATCH_KINDS + kind;
}

static void learn_drafting(struct drafter *drafter, uint64_t start)
{
    double taken = (double)(clock_nanoseconds() - start), *drafting = &drafter->choice.drafting;
    *drafting += (*drafting > 0 ? LEARNING : 1) * (taken - *drafting);
}

/* Feeds tokens after those that the smaller model's sequence holds; its logits are then those after the last. */
static hypura_status feed(struct drafter *drafter, const int32_t *tokens, size_t count)
{
    struct engine *small = drafter->small;
    while (count) {
        uint32_t positions[256], held = engine_positions(small, 0);
        size_t now = MIN(MIN(count, (size_t)engine_plan(small)->chunk), COUNT_OF(positions));
        for (uint32_t i = 0; i < now; i++)
            positions[i] = held + i;
        memcpy(drafter->fed + held, tokens, now * sizeof *tokens);
        struct engine_batch batch = {.count = now, .tokens = tokens, .positions = positions};
        uint64_t start = clock_nanoseconds();
        hypura_status status = engine_forward(small, &batch, NULL);
        if (status)
            return status;
        if (now == 1)
            learn_drafting(drafter, start);
        tokens += now;
        count -= now;
    }
    return HYPURA_OK;
}

/* Keeps the state before the smaller model's own drafts, most of which will not be accepted. */
static hypura_status keep_state(struct drafter *drafter)
{
    if (!drafter->state)
        return HYPURA_OK;
    drafter->state_at = 0;
    hypura_status status = engine_read_checkpoint(drafter->small, 0, drafter->state, NULL);
    if (!status)
        drafter->state_at = engine_positions(drafter->small, 0);
    return status;
}

static void go_back(struct drafter *drafter, uint32_t position)
{
    if (position < drafter->state_at)
        drafter->state_at = 0; /* the next call may bring another text */
    const uint32_t kept = drafter->state_at;
    if (position == engine_positions(drafter->small, 0) || !kept ||
        engine_write_checkpoint(drafter->small, 0, kept, drafter->fed, drafter->state, NULL))
        engine_truncate(drafter->small, 0, position);
}

/* Brings the smaller model's sequence to these tokens. */
static hypura_status follow(struct drafter *drafter, const int32_t *tokens, size_t count)
{
    uint32_t held = engine_positions(drafter->small, 0), same = 0;
    while (same < held && same + 1 < count && drafter->fed[same] == tokens[same])
        same++;
    go_back(drafter, same);
    same = engine_positions(drafter->small, 0);
    return feed(drafter, tokens + same, count - same);
}

/* Computes the logits of the token after these and the first drafts. */
static hypura_status next_logits(struct drafter *drafter, uint32_t sequence, const int32_t *tokens, size_t count,
                                 const int32_t *drafts, uint32_t drafted, const float **out)
{
    if (drafter->predicts) {
        uint64_t start = clock_nanoseconds();
        int32_t last = drafted ? drafts[drafted - 1] : tokens[count - 1];
        hypura_status status = engine_predict(drafter->engine, sequence, last, drafted > 0, out, NULL);
        if (!status)
            learn_drafting(drafter, start);
        return status;
    }
    if (count + drafted >= engine_plan(drafter->small)->positions)
        return HYPURA_ERROR_ARGUMENT;
    if (drafted == 1 && keep_state(drafter))
        return HYPURA_ERROR_ARGUMENT;
    hypura_status status = drafted ? feed(drafter, drafts + drafted - 1, 1) : follow(drafter, tokens, count);
    *out = status ? NULL : engine_logits(drafter->small, 0);
    return status;
}

static void draft_by_model(struct drafter *drafter, uint32_t sequence, const int32_t *tokens, size_t count,
                           uint32_t most, int32_t *out)
{
    struct draft_choice *choice = &drafter->choice;
    const struct engine *engine = drafter->small ? drafter->small : drafter->engine;
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    for (uint32_t i = 0; i < most; i++) {
        struct draft_kind *kind = &choice->model;
        struct token_logprob best;
        if (draft_pays(choice, (double)draft_chance(kind), choice->further + choice->drafting)) {
            const float *logits;
            uint64_t start = clock_nanoseconds();
            hypura_status status = next_logits(drafter, sequence, tokens, count, out, i, &logits);
            draft_spent(choice, (double)(clock_nanoseconds() - start));
            if (status)
                return;
            logits_logprobs(logits, vocabulary, 0, &best, 1);
            kind = &choice->kinds[model_kind(best.logprob)];
        }
        if (kind == &choice->model || best.token < 0 || (uint32_t)best.token >= drafter->vocabulary ||
            !draft_pays(choice, (double)draft_chance(kind), choice->further)) {
            if (i == 0)
                draft_refuse(choice, kind);
            return;
        }
        out[i] = best.token;
        draft_add(choice, model_kind(best.logprob));
    }
}

uint32_t drafter_propose(struct drafter *drafter, uint32_t sequence, const int32_t *tokens, size_t count, uint32_t most,
                         int32_t out[DRAFT_MOST])
{
    uint32_t length = 0;
    struct draft_choice *choice = &drafter->choice;
    most = draft_begin(choice, most);
    if (most == 0 || count == 0)
        return 0;
    size_t match = find_match(tokens, count, &length);
    bool model = drafter->small || drafter->predicts;
    if (match && (!model || draft_chance(&choice->kinds[match_kind(length)]) >= draft_chance(&choice->model)))
        draft_by_match(drafter, tokens, count, match, length, most, out);
    else if (model)
        draft_by_model(drafter, sequence, tokens, count, most, out);
    return choice->count;
}
