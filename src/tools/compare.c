#include "tools/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOGITS_BYTES ((size_t)48 << 20) /* limit for the logits of a batch */

struct sum {
    double total, squares;
};

struct state {
    size_t vocabulary, room;
    float *logits; /* the first model's */
    const int32_t *wanted;
    struct sum surprise[2], ratio, divergence;
    uint64_t counted, agreed;
    float *divergences; /* one per token */
};

static void add(struct sum *sum, double value)
{
    sum->total += value;
    sum->squares += value * value;
}

static struct compared_value mean_of(const struct sum *sum, uint64_t count)
{
    double n = (double)MAX(count, 1), mean = sum->total / n, variance = sum->squares / n - mean * mean;
    return (struct compared_value){mean, count > 1 && variance > 0 ? sqrt(variance / (n - 1)) : 0};
}

static bool keep_logits(void *context, size_t index, const float *logits)
{
    struct state *state = context;
    memcpy(state->logits + index * state->vocabulary, logits, state->vocabulary * sizeof *logits);
    return true;
}

/* Returns the most likely token; *log_sum is the logarithm of the sum of all exponentials. */
static size_t normalise(const float *logits, size_t count, double *log_sum)
{
    size_t best = 0;
    double sum = 0;
    for (size_t i = 1; i < count; i++)
        best = logits[i] > logits[best] ? i : best;
    for (size_t i = 0; i < count; i++)
        sum += exp((double)logits[i] - (double)logits[best]);
    *log_sum = log(sum) + (double)logits[best];
    return best;
}

static bool compare_logits(void *context, size_t index, const float *second)
{
    struct state *state = context;
    const float *first = state->logits + index * state->vocabulary;
    double log_sum[2], divergence = 0;
    size_t best[2] = {normalise(first, state->vocabulary, &log_sum[0]),
                      normalise(second, state->vocabulary, &log_sum[1])};
    for (size_t i = 0; i < state->vocabulary; i++) {
        double p = (double)first[i] - log_sum[0];
        if (p > -40)
            divergence += exp(p) * (p - ((double)second[i] - log_sum[1]));
    }
    int32_t id = state->wanted[index];
    double surprise[2] = {log_sum[0] - (double)first[id], log_sum[1] - (double)second[id]};
    add(&state->surprise[0], surprise[0]);
    add(&state->surprise[1], surprise[1]);
    add(&state->ratio, surprise[1] - surprise[0]);
    add(&state->divergence, MAX(divergence, 0));
    state->divergences[state->counted++] = (float)MAX(divergence, 0);
    state->agreed += best[0] == best[1];
    return true;
}

static hypura_status run_window(struct engine *const engines[2], struct state *state, int32_t *window, uint32_t size,
                                const int32_t *tokens, hypura_error *error)
{
    uint32_t positions[512];
    bool want[512];
    for (int m = 0; m < 2; m++)
        engine_truncate(engines[m], 0, 0);
    for (uint32_t first = 0, now; first < size; first += now) {
        now = MIN((uint32_t)state->room, size - first);
        for (uint32_t i = 0; i < now; i++) {
            positions[i] = first + i;
            want[i] = first + i >= size / 2 && first + i + 1 < size;
        }
        state->wanted = tokens + MAX(first, size / 2) + 1;
        for (int m = 0; m < 2; m++) {
            struct engine_batch batch = {.count = now,
                                         .tokens = window + first,
                                         .positions = positions,
                                         .want_logits = want,
                                         .on_logits = m == 0 ? keep_logits : compare_logits,
                                         .on_logits_context = state};
            hypura_status status = engine_forward(engines[m], &batch, error);
            if (status)
                return status;
        }
    }
    return HYPURA_OK;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void conclude(const struct state *state, struct comparison *out)
{
    for (int m = 0; m < 2; m++) {
        struct compared_value mean = mean_of(&state->surprise[m], state->counted);
        out->perplexity[m] = (struct compared_value){exp(mean.value), exp(mean.value) * mean.uncertainty};
    }
    double share = (double)state->agreed / (double)MAX(state->counted, 1);
    out->log_ratio = mean_of(&state->ratio, state->counted);
    out->divergence = mean_of(&state->divergence, state->counted);
    out->agreement = (struct compared_value){share, sqrt(share * (1 - share) / (double)MAX(state->counted, 1))};
    out->counted = state->counted;
}

hypura_status compare_models(struct engine *const engines[2], const int32_t *tokens, size_t count, uint32_t window,
                             int32_t bos, compare_progress progress, void *context, struct comparison *out,
                             hypura_error *error)
{
    uint32_t most = MIN(engine_plan(engines[0])->positions, engine_plan(engines[1])->positions);
    struct state state = {.vocabulary = model_parameters(engine_model(engines[0]))->vocabulary};
    struct comparison result = {0};
    int32_t *copy = NULL;
    if (model_parameters(engine_model(engines[1]))->vocabulary != state.vocabulary)
        return error_set(
            error, HYPURA_ERROR_ARGUMENT,
            "the vocabularies have %zu and %u tokens: only models with the same vocabulary can be compared",
            state.vocabulary, model_parameters(engine_model(engines[1]))->vocabulary);
    if (window < 4 || window > most)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "windows of %u tokens: expected 4 to %u, the context", window,
                         most);
    if (count < window)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the text has %zu tokens: at least one window of %u is needed",
                         count, window);
    size_t chunk = MIN(engine_plan(engines[0])->chunk, engine_plan(engines[1])->chunk), windows = count / window;
    state.room = MAX(MIN(MIN(chunk, 512), LOGITS_BYTES / (state.vocabulary * sizeof(float))), 1);
    hypura_status status = ALLOCATE(&state.logits, state.room * state.vocabulary, "logits", error);
    if (!status)
        status = ALLOCATE(&state.divergences, windows * (window / 2 + 1), "divergences", error);
    if (!status)
        status = ALLOCATE(&copy, window, "window", error);
    for (size_t w = 0; !status && w < windows; w++) {
        memcpy(copy, tokens + w * window, window * sizeof *copy);
        if (bos >= 0)
            copy[0] = bos;
        if ((status = run_window(engines, &state, copy, window, tokens + w * window, error)))
            break;
        conclude(&state, &result);
        result.windows = w + 1;
        if (progress && !progress(context, &result, windows))
            status = error_set(error, HYPURA_ERROR_CANCELLED, "stopped after %zu of %zu windows", w + 1, windows);
    }
    if (!status) {
        qsort(state.divergences, state.counted, sizeof *state.divergences, by_size);
        result.median = (double)state.divergences[state.counted / 2];
        result.percentile_99 = (double)state.divergences[(state.counted - 1) * 99 / 100];
        result.greatest = (double)state.divergences[state.counted - 1];
        *out = result;
    }
    memory_free(state.logits);
    memory_free(state.divergences);
    memory_free(copy);
    return status;
}
