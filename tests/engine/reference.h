/* Reads reference logits ("RLOG", described in tests/data/README.md) and runs an engine over their prompt. */
#ifndef HYPURA_TEST_REFERENCE_H
#define HYPURA_TEST_REFERENCE_H

#include "test.h"

#include "core/sanitized.h"
#include "engine/engine.h"

#include <math.h>
#include <string.h>

/* The path of a model: "llama" is a file of the reference set, "embedded" is the embedded model, and a name that begins
 * with / is a path. The result is valid until the next call. */
__attribute__((unused)) static const char *model_path(const char *name)
{
    static char path[4096];
    char relative[256];
    if (name[0] == '/')
        return name;
    if (strcmp(name, "embedded") == 0) {
        const char *folder = getenv("HYPURA_MODELS");
        snprintf(path, sizeof path, "%s/manpage-moe-24m-Q4_K_M.gguf", folder ? folder : "models");
        return path;
    }
    snprintf(relative, sizeof relative, "oracle/models/%s.gguf", name);
    return test_data(relative);
}

struct reference {
    uint32_t tokens, vocabulary, generated;
    int32_t *prompt, *continuation;
    float *margins;
    float *logits; /* [tokens][vocabulary] */
};

/* Returns false if the file is missing. */
__attribute__((unused)) static bool reference_read(struct reference *out, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    char magic[4];
    uint32_t header[4];
    assert_int_equal(fread(magic, 1, 4, file), 4);
    assert_memory_equal(magic, "RLOG", 4);
    assert_int_equal(fread(header, 4, 4, file), 4);
    assert_int_equal(header[0], 1);
    *out = (struct reference){.tokens = header[1], .vocabulary = header[2], .generated = header[3]};
    size_t logits = (size_t)out->tokens * out->vocabulary;
    out->prompt = calloc(out->tokens, 4);
    out->continuation = calloc(out->generated, 4);
    out->margins = calloc(out->generated, 4);
    out->logits = calloc(logits, 4);
    assert_int_equal(fread(out->prompt, 4, out->tokens, file), out->tokens);
    assert_int_equal(fread(out->continuation, 4, out->generated, file), out->generated);
    assert_int_equal(fread(out->margins, 4, out->generated, file), out->generated);
    assert_int_equal(fread(out->logits, 4, logits, file), logits);
    fclose(file);
    return true;
}

__attribute__((unused)) static void reference_free(struct reference *reference)
{
    free(reference->prompt);
    free(reference->continuation);
    free(reference->margins);
    free(reference->logits);
}

/* Opens a model under "more" bytes above the smallest budget that works. The error for a smaller budget names that one.
 * The smallest budget changes between tries, because the process holds other memory, such as ended threads' stacks. */
__attribute__((unused)) static struct engine *open_above_smallest(const char *path, struct engine_options *options,
                                                                  uint64_t more)
{
    struct engine *engine = NULL;
    options->budget = 1000;
    for (int tries = 0; engine_open(&engine, path, options, &test_error); tries++) {
        unsigned long long smallest = 0;
        const char *number = strstr(test_error.message, "the smallest that works is ");
        if (!number || sscanf(number, "the smallest that works is %llu bytes", &smallest) != 1 || tries == 20)
            fail_msg("%s: %s", path, test_error.message);
        options->budget = smallest + more + (SANITIZED ? 2 << 20 : 0);
    }
    return engine;
}

__attribute__((unused)) static struct engine *open_smallest(const char *path, struct engine_options *options)
{
    return open_above_smallest(path, options, 0);
}

struct copied_logits {
    float *out;
    size_t vocabulary;
};

__attribute__((unused)) static bool copy_logits(void *context, size_t index, const float *logits)
{
    struct copied_logits *copied = context;
    memcpy(copied->out + index * copied->vocabulary, logits, copied->vocabulary * sizeof *logits);
    return true;
}

/* Feeds tokens to a sequence from its current position on, in batches of at most "batch". Writes the logits of all. */
__attribute__((unused)) static void feed(struct engine *engine, uint32_t sequence, const int32_t *tokens, size_t count,
                                         size_t batch, float *logits)
{
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    for (size_t first = 0; first < count;) {
        uint32_t positions[1024], sequences[1024];
        bool want[1024];
        size_t now = count - first;
        now = now < batch ? now : batch;
        now = now < engine_plan(engine)->chunk ? now : engine_plan(engine)->chunk;
        now = now < 1024 ? now : 1024;
        for (size_t i = 0; i < now; i++) {
            positions[i] = engine_positions(engine, sequence) + (uint32_t)i;
            sequences[i] = sequence;
            want[i] = true;
        }
        struct copied_logits copied = {logits + first * vocabulary, vocabulary};
        struct engine_batch b = {.count = now,
                                 .tokens = tokens + first,
                                 .positions = positions,
                                 .sequences = sequences,
                                 .want_logits = want,
                                 .on_logits = copy_logits,
                                 .on_logits_context = &copied};
        assert_ok(engine_forward(engine, &b, &test_error));
        first += now;
    }
}

__attribute__((unused)) static int32_t greatest(const float *logits, size_t count)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

/* The difference of logits from the reference. */
struct distance {
    double most;             /* absolute difference */
    double kl_mean, kl_most; /* KL divergence of the other distribution from the reference */
    double top;              /* share of positions with the same best token, without near ties */
};

__attribute__((unused)) static struct distance measure(const float *reference, const float *logits, size_t rows,
                                                       size_t vocabulary)
{
    struct distance d = {0};
    size_t same = 0, fair = 0;
    for (size_t r = 0; r < rows; r++, reference += vocabulary, logits += vocabulary) {
        double most = 0, kl = 0, sums[2] = {0, 0};
        int32_t best[2] = {greatest(reference, vocabulary), greatest(logits, vocabulary)};
        double second = -INFINITY;
        for (size_t i = 0; i < vocabulary; i++) {
            most = fmax(most, fabs((double)reference[i] - logits[i]));
            sums[0] += exp((double)reference[i] - reference[best[0]]);
            sums[1] += exp((double)logits[i] - logits[best[1]]);
            if ((int32_t)i != best[0])
                second = fmax(second, reference[i]);
        }
        for (size_t i = 0; i < vocabulary; i++) {
            double p = (double)reference[i] - reference[best[0]] - log(sums[0]);
            double q = (double)logits[i] - logits[best[1]] - log(sums[1]);
            kl += exp(p) * (p - q);
        }
        d.most = isnan(most) ? INFINITY : fmax(d.most, most);
        d.kl_mean += kl / (double)rows;
        d.kl_most = fmax(d.kl_most, kl);
        if (reference[best[0]] - second > 2 * most || best[0] == best[1]) {
            fair++;
            same += best[0] == best[1];
        }
    }
    d.top = fair ? (double)same / (double)fair : 1.0;
    return d;
}

#endif
