#include "engine/draft.h"
#include "sampling/sampler.h"

#include <math.h>
#include <string.h>

/* Tokens in the same order that are looked for at most: longer ones are no surer. */
#define LONGEST_MATCH 16u

/* Kinds of drafts: by the length of the match, then by the probability that the smaller model or the block gave. */
#define MATCH_KINDS 6u
#define MODEL_KINDS 4u
#define KINDS (MATCH_KINDS + MODEL_KINDS)

/* How often a kind comes true: what was seen, of which half is forgotten after some fifty drafts, beside so many
 * that are assumed. */
#define REMEMBERED 0.986f
#define ASSUMED 4.0f
#define ASSUMED_TRUE 0.4f
/* A kind that does not pay is forgotten so much each time that it is not tried, and so is tried again. */
#define FORGOTTEN 0.995f

/* A further token takes this share of a pass, until it was measured; and how fast measured times count. */
#define ASSUMED_SHARE 0.3
#define LEARNING 0.25
/* One pass of so many goes without drafts, so that what it takes stays known. */
#define ALONE 32u

struct kind {
    float drafted, accepted;
};

struct drafter {
    struct engine *engine;
    struct engine *small; /* NULL: none */
    bool predicts;        /* the engine's own block drafts */
    uint32_t vocabulary;
    bool always;
    struct kind kinds[KINDS], model; /* model: of the smaller model or the block, however sure it was */
    double pass, further; /* nanoseconds of a pass over one token, and of each more; pass 0: not measured yet */
    uint32_t passes;
    double drafting; /* of a draft by either; 0: not measured yet */

    /* The drafts at hand. */
    uint32_t count;
    uint8_t kind[DRAFT_MOST];

    int32_t *fed;      /* [positions of the smaller model] what its sequence holds */
    uint8_t *state;    /* what it knew before its own drafts, where its states do not go back; NULL: they do */
    uint32_t state_at; /* the position of that; 0: there is none */
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
    drafter->always = engine_drafting(engine) == DRAFTING_ON;
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

/* ---- what pays -----------------------------------------------------------------------------------------------------
 */

static float chance(const struct kind *kind)
{
    return (kind->accepted + ASSUMED * ASSUMED_TRUE) / (kind->drafted + ASSUMED);
}

static void count_draft(struct kind *kind, bool accepted)
{
    kind->drafted = kind->drafted * REMEMBERED + 1;
    kind->accepted = kind->accepted * REMEMBERED + accepted;
}

static void forget(struct drafter *drafter, struct kind *kind)
{
    kind->drafted *= FORGOTTEN;
    kind->accepted *= FORGOTTEN;
    drafter->further += (1 - FORGOTTEN) * (ASSUMED_SHARE * drafter->pass - drafter->further);
}

/* What is expected of the drafts so far: that the next one comes to count, tokens, and nanoseconds. */
struct prospect {
    double reached, tokens, time;
};

static struct prospect prospect_start(const struct drafter *drafter)
{
    return (struct prospect){1, 1, drafter->pass};
}

static bool pays(const struct drafter *drafter, const struct prospect *prospect, double chance_of_next, double cost)
{
    return drafter->always || prospect->reached * chance_of_next * prospect->time > prospect->tokens * cost;
}

static void add(struct drafter *drafter, struct prospect *prospect, uint32_t kind)
{
    prospect->reached *= (double)chance(&drafter->kinds[kind]);
    prospect->tokens += prospect->reached;
    prospect->time += drafter->further;
    drafter->kind[drafter->count++] = (uint8_t)kind;
}

void drafter_learn(struct drafter *drafter, uint32_t accepted, uint64_t nanoseconds)
{
    uint32_t drafted = drafter->count;
    for (uint32_t i = 0; i < drafted && i <= accepted; i++) {
        count_draft(&drafter->kinds[drafter->kind[i]], i < accepted);
        if (drafter->kind[i] >= MATCH_KINDS)
            count_draft(&drafter->model, i < accepted);
    }
    drafter->count = 0;
    if (drafter->pass <= 0) {
        drafter->pass = (double)nanoseconds / (1 + ASSUMED_SHARE * drafted);
        drafter->further = ASSUMED_SHARE * drafter->pass;
        return;
    }
    /* A pass that was held up by something else counts as twice as long as expected at most. */
    double expected = drafter->pass + drafted * drafter->further;
    double step = LEARNING * (MIN((double)nanoseconds, 2 * expected) - expected);
    if (drafted)
        drafter->further = MAX(drafter->further + step / drafted, 0.0);
    else
        drafter->pass += step;
    drafter->passes++;
}

/* ---- the text itself -----------------------------------------------------------------------------------------------
 */

static uint32_t match_kind(uint32_t length)
{
    static const uint8_t least[MATCH_KINDS] = {1, 2, 3, 4, 6, 10};
    uint32_t kind = MATCH_KINDS - 1;
    while (kind && length < least[kind])
        kind--;
    return kind;
}

/* The last place where the most of the last tokens stand in the same order: the index behind it, or 0. */
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

/* What followed there; a text that repeats itself goes on doing so. */
static void draft_by_match(struct drafter *drafter, const int32_t *tokens, size_t count, size_t start, uint32_t length,
                           uint32_t most, int32_t *out)
{
    struct prospect prospect = prospect_start(drafter);
    for (uint32_t i = 0; i < most; i++) {
        struct kind *kind = &drafter->kinds[match_kind(length + i)];
        if (!pays(drafter, &prospect, (double)chance(kind), drafter->further)) {
            if (i == 0)
                forget(drafter, kind);
            return;
        }
        out[i] = start + i < count ? tokens[start + i] : out[start + i - count];
        add(drafter, &prospect, match_kind(length + i));
    }
}

/* ---- the smaller model, and the block
 * ---------------------------------------------------------------------------------------------
 */

static uint32_t model_kind(float logprob)
{
    static const float least[MODEL_KINDS] = {0, 0.3f, 0.6f, 0.85f};
    float probability = expf(logprob);
    uint32_t kind = MODEL_KINDS - 1;
    while (kind && probability < least[kind])
        kind--;
    return MATCH_KINDS + kind;
}

static void learn_drafting(struct drafter *drafter, uint64_t start)
{
    double taken = (double)(clock_nanoseconds() - start);
    drafter->drafting += (drafter->drafting > 0 ? LEARNING : 1) * (taken - drafter->drafting);
}

/* Tokens after those that the smaller model's sequence holds; its logits are then those after the last. */
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

/* Before the smaller model's own drafts: most of them will not be what comes. */
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
        drafter->state_at = 0; /* what comes now may be another text */
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

/* Logits of the token behind these and the first so many drafts. */
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
    struct prospect prospect = prospect_start(drafter);
    const struct engine *engine = drafter->small ? drafter->small : drafter->engine;
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    for (uint32_t i = 0; i < most; i++) {
        struct kind *kind = &drafter->model;
        struct token_logprob best;
        if (pays(drafter, &prospect, (double)chance(kind), drafter->further + drafter->drafting)) {
            const float *logits;
            if (next_logits(drafter, sequence, tokens, count, out, i, &logits))
                return;
            prospect.time += drafter->drafting;
            logits_logprobs(logits, vocabulary, 0, &best, 1);
            kind = &drafter->kinds[model_kind(best.logprob)];
        }
        if (kind == &drafter->model || best.token < 0 || (uint32_t)best.token >= drafter->vocabulary ||
            !pays(drafter, &prospect, (double)chance(kind), drafter->further)) {
            if (i == 0)
                forget(drafter, kind);
            return;
        }
        out[i] = best.token;
        add(drafter, &prospect, model_kind(best.logprob));
    }
}

uint32_t drafter_propose(struct drafter *drafter, uint32_t sequence, const int32_t *tokens, size_t count, uint32_t most,
                         int32_t out[DRAFT_MOST])
{
    uint32_t length = 0;
    drafter->count = 0;
    most = MIN(most, DRAFT_MOST);
    if (most == 0 || count == 0 || (!drafter->always && (drafter->pass <= 0 || drafter->passes % ALONE == ALONE - 1)))
        return 0;
    size_t match = find_match(tokens, count, &length);
    bool model = drafter->small || drafter->predicts;
    if (match && (!model || chance(&drafter->kinds[match_kind(length)]) >= chance(&drafter->model)))
        draft_by_match(drafter, tokens, count, match, length, most, out);
    else if (model)
        draft_by_model(drafter, sequence, tokens, count, most, out);
    return drafter->count;
}
