/* The time to choose a token: bench/sampling [VOCABULARY]
 *
 * Logits of 64 tokens in turn, more than a core's caches hold, as after a forward pass. Prints medians for a
 * temperature of 0 and for the default options. */
#include "core/core.h"
#include "sampling/sampler.h"

#include "median.h"

#include <stdio.h>
#include <stdlib.h>

#define ROWS 64u
#define ROUNDS 1000u

static hypura_error error;

static void check(hypura_status status)
{
    if (status) {
        fprintf(stderr, "sampling: %s\n", error.message);
        exit(1);
    }
}

static double microseconds(const struct sampler_options *options, const float *logits, size_t vocabulary)
{
    static double times[ROUNDS];
    struct sampler *sampler;
    check(sampler_create(&sampler, options, vocabulary, &error));
    for (size_t i = 0; i < ROUNDS; i++) {
        int32_t token;
        const uint64_t start = clock_nanoseconds();
        check(sampler_sample(sampler, logits + i % ROWS * vocabulary, &token, &error));
        times[i] = 1e6 * clock_seconds_since(start);
    }
    sampler_destroy(sampler);
    return median(times, ROUNDS);
}

int main(int count, char **arguments)
{
    const size_t vocabulary = count > 1 ? (size_t)strtoul(arguments[1], NULL, 10) : 128256;
    struct sampler_options options;
    struct random random;
    float *logits;
    check(ALLOCATE(&logits, ROWS * vocabulary, "logits", &error));
    random_seed(&random, 1);
    for (size_t i = 0; i < ROWS * vocabulary; i++)
        logits[i] = (float)random_normal(&random) * 3;
    sampler_default_options(&options);
    const double drawn = microseconds(&options, logits, vocabulary);
    options.temperature = 0;
    printf("%zu tokens: temperature 0 %.0f us, default options %.0f us\n", vocabulary,
           microseconds(&options, logits, vocabulary), drawn);
    memory_free(logits);
    return 0;
}
