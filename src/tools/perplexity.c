#include "tools/perplexity.h"

#include <math.h>
#include <string.h>

struct sums {
    double total, squares;
    uint64_t count;
};

/* Minus the log of the softmax at one id; in double, since a text has many tokens to add up. */
static double surprise(const float *logits, size_t vocabulary, int32_t id)
{
    float best = logits[0];
    for (size_t i = 1; i < vocabulary; i++)
        best = MAX(best, logits[i]);
    double sum = 0;
    for (size_t i = 0; i < vocabulary; i++)
        sum += exp((double)(logits[i] - best));
    return log(sum) - (double)(logits[id] - best);
}

static void conclude(const struct sums *sums, struct perplexity *out)
{
    double mean = sums->total / (double)sums->count;
    double variance = sums->squares / (double)sums->count - mean * mean;
    out->perplexity = exp(mean);
    out->counted = sums->count;
    out->uncertainty =
        sums->count > 1 && variance > 0 ? out->perplexity * sqrt(variance / (double)(sums->count - 1)) : 0;
}

struct batch_memory {
    int32_t *tokens;
    uint32_t *positions;
    bool *want;
    struct sums *sums;
    const int32_t *wanted; /* [index]: the token that follows the index-th one that wants logits */
    size_t vocabulary;
};

static bool count_logits(void *context, size_t index, const float *logits)
{
    struct batch_memory *memory = context;
    double value = surprise(logits, memory->vocabulary, memory->wanted[index]);
    memory->sums->total += value;
    memory->sums->squares += value * value;
    memory->sums->count++;
    return true;
}

static hypura_status run_window(struct engine *engine, const int32_t *tokens, uint32_t window, int32_t bos,
                                struct batch_memory *memory, hypura_error *error)
{
    uint32_t chunk = engine_plan(engine)->chunk, half = window / 2;
    engine_truncate(engine, 0, 0);
    for (uint32_t first = 0; first < window; first += chunk) {
        uint32_t now = MIN(chunk, window - first);
        memcpy(memory->tokens, tokens + first, now * sizeof *tokens);
        if (first == 0 && bos >= 0)
            memory->tokens[0] = bos;
        for (uint32_t i = 0; i < now; i++) {
            memory->positions[i] = first + i;
            memory->want[i] = first + i >= half && first + i + 1 < window;
        }
        memory->wanted = tokens + MAX(first, half) + 1;
        struct engine_batch batch = {.count = now,
                                     .tokens = memory->tokens,
                                     .positions = memory->positions,
                                     .want_logits = memory->want,
                                     .on_logits = count_logits,
                                     .on_logits_context = memory};
        hypura_status status = engine_forward(engine, &batch, error);
        if (status)
            return status;
    }
    return HYPURA_OK;
}

hypura_status perplexity_measure(struct engine *engine, const int32_t *tokens, size_t count, uint32_t window,
                                 int32_t bos, perplexity_progress progress, void *context, struct perplexity *out,
                                 hypura_error *error)
{
    if (window < 4 || window > engine_plan(engine)->positions)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "windows of %u tokens: expected 4 to the context, %u", window,
                         engine_plan(engine)->positions);
    if (count < window)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the text has %zu tokens: at least one window of %u is needed",
                         count, window);
    struct sums sums = {0};
    struct batch_memory memory = {.sums = &sums, .vocabulary = model_parameters(engine_model(engine))->vocabulary};
    size_t chunk = engine_plan(engine)->chunk;
    hypura_status status = ALLOCATE(&memory.tokens, chunk, "batch", error);
    if (!status)
        status = ALLOCATE(&memory.positions, chunk, "batch", error);
    if (!status)
        status = ALLOCATE(&memory.want, chunk, "batch", error);
    struct perplexity result = {0};
    size_t windows = count / window;
    for (size_t w = 0; !status && w < windows; w++) {
        status = run_window(engine, tokens + w * window, window, bos, &memory, error);
        if (status)
            break;
        conclude(&sums, &result);
        result.windows = w + 1;
        if (progress && !progress(context, &result, windows))
            status = error_set(error, HYPURA_ERROR_CANCELLED, "stopped after %zu of %zu windows", w + 1, windows);
    }
    memory_free(memory.tokens);
    memory_free(memory.positions);
    memory_free(memory.want);
    if (!status)
        *out = result;
    return status;
}
