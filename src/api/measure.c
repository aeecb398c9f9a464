/* Measures how fast a model runs: random tokens, in rounds of which the median counts. */
#include "api/api_private.h"

#include <stdlib.h>

#define MOST_SEQUENCES 64u

/* Time of decoding between two measurements of the memory bandwidth. Each measurement flushes the caches. */
#define METER_SECONDS 0.1

struct measuring {
    struct engine *engine;
    hypura_measure how;
    uint32_t vocabulary;
    struct random random;
    struct memory_meter *meter; /* or NULL */
    double decode_seconds, looked;
    double read_seconds, reads; /* sum of the seconds per byte, and the number of measurements */
};

static int32_t random_token(struct measuring *m)
{
    return (int32_t)(random_next(&m->random) % m->vocabulary);
}

/* Runs random tokens of a sequence from position first on, in chunks. */
static hypura_status feed(struct measuring *m, uint32_t sequence, uint32_t first, uint32_t count, hypura_error *error)
{
    uint32_t chunk = engine_plan(m->engine)->chunk;
    int32_t *tokens = NULL;
    uint32_t *positions = NULL, *sequences = NULL;
    hypura_status status = ALLOCATE(&tokens, chunk, "tokens", error);
    if (!status)
        status = ALLOCATE(&positions, chunk, "positions", error);
    if (!status)
        status = ALLOCATE(&sequences, chunk, "sequences", error);
    for (uint32_t done = 0; !status && done < count;) {
        uint32_t now = MIN(chunk, count - done);
        for (uint32_t i = 0; i < now; i++) {
            tokens[i] = random_token(m);
            positions[i] = first + done + i;
            sequences[i] = sequence;
        }
        struct engine_batch batch = {.count = now, .tokens = tokens, .positions = positions, .sequences = sequences};
        status = engine_forward(m->engine, &batch, error);
        done += now;
    }
    memory_free(tokens);
    memory_free(positions);
    memory_free(sequences);
    return status;
}

/* Makes every sequence hold exactly how.held_tokens tokens. Reuses those that it has, if it can be truncated. */
static hypura_status fill_context(struct measuring *m, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (uint32_t s = 0; !status && s < m->how.sequences; s++) {
        engine_truncate(m->engine, s, m->how.held_tokens);
        uint32_t held = engine_positions(m->engine, s);
        status = feed(m, s, held, m->how.held_tokens - held, error);
    }
    return status;
}

static void look_at_memory(struct measuring *m)
{
    m->read_seconds += 1.0 / memory_meter_read(m->meter);
    m->reads++;
    m->looked = m->decode_seconds;
}

/* Decodes count tokens in each sequence, one per pass. */
static hypura_status decode(struct measuring *m, uint32_t count, bool metered, hypura_error *error)
{
    int32_t tokens[MOST_SEQUENCES];
    uint32_t positions[MOST_SEQUENCES], sequences[MOST_SEQUENCES];
    bool want[MOST_SEQUENCES];
    hypura_status status = HYPURA_OK;
    m->decode_seconds = m->looked = m->read_seconds = m->reads = 0;
    for (uint32_t i = 0; !status && i < count; i++) {
        if (metered && m->decode_seconds - m->looked >= METER_SECONDS)
            look_at_memory(m);
        for (uint32_t s = 0; s < m->how.sequences; s++) {
            tokens[s] = random_token(m);
            positions[s] = m->how.held_tokens + i;
            sequences[s] = s;
            want[s] = true;
        }
        struct engine_batch batch = {.count = m->how.sequences,
                                     .tokens = tokens,
                                     .positions = positions,
                                     .sequences = sequences,
                                     .want_logits = want};
        uint64_t start = clock_nanoseconds();
        status = engine_forward(m->engine, &batch, error);
        m->decode_seconds += clock_seconds_since(start);
    }
    if (metered)
        look_at_memory(m);
    return status;
}

/* A run that does not count, in which pages, caches and clock rates settle. A GPU's kernels are compiled when they are
 * first used, so on a GPU it has a whole prompt. Then a GPU may need some tenths of a second of work until it has
 * raised its clock: an H100 takes 5.1 ms per token before, and 1.4 after. */
#define WARM_SECONDS 0.5

static hypura_status warm_up(struct measuring *m, hypura_error *error)
{
    bool gpu = engine_gpu(m->engine) != NULL;
    uint32_t chunk = engine_plan(m->engine)->chunk;
    hypura_status status = feed(m, 0, 0, MIN(gpu ? MAX(m->how.prompt_tokens, 8u) : 8u, chunk), error);
    uint64_t start = 0;
    while (!status && gpu && (!start || clock_seconds_since(start) < WARM_SECONDS)) {
        status = fill_context(m, error);
        if (!status)
            status = m->how.answer_tokens ? decode(m, MIN(m->how.answer_tokens, 4u), false, error)
                                          : feed(m, 0, m->how.held_tokens, MIN(m->how.prompt_tokens, chunk), error);
        start = start ? start : clock_nanoseconds();
    }
    return status;
}

/* ---- rounds ---- */

enum figure { PROMPT_SPEED, ANSWER_SPEED, MEMORY_SPEED, MEMORY_SHARE, ANSWER_BYTES, FIGURES };

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static hypura_rate rate_of(double *values, uint32_t count)
{
    qsort(values, count, sizeof *values, compare_doubles);
    return (hypura_rate){.median = count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]),
                         .least = values[0],
                         .most = values[count - 1]};
}

static double decode_bytes(const struct measuring *m)
{
    struct engine_statistics statistics;
    engine_statistics(m->engine, &statistics);
    return (double)statistics.decode_bytes_read;
}

static hypura_status run_round(struct measuring *m, double figures[FIGURES], hypura_error *error)
{
    hypura_status status = fill_context(m, error);
    uint64_t start = clock_nanoseconds();
    if (!status)
        status = feed(m, 0, m->how.held_tokens, m->how.prompt_tokens, error);
    figures[PROMPT_SPEED] = m->how.prompt_tokens / clock_seconds_since(start);
    /* Decoding starts from the held tokens, not after the prompt, so the two results are independent. */
    if (!status)
        status = fill_context(m, error);
    const double read = decode_bytes(m);
    if (!status)
        status = decode(m, m->how.answer_tokens, m->meter != NULL, error);
    if (status)
        return status;
    double tokens = (double)m->how.answer_tokens * m->how.sequences;
    figures[ANSWER_SPEED] = m->decode_seconds > 0 ? tokens / m->decode_seconds : 0;
    figures[ANSWER_BYTES] = tokens > 0 ? (decode_bytes(m) - read) / tokens : 0;
    figures[MEMORY_SPEED] = figures[MEMORY_SHARE] = 0;
    if (m->meter) {
        figures[MEMORY_SPEED] = m->reads / m->read_seconds;
        figures[MEMORY_SHARE] =
            figures[ANSWER_SPEED] * bytes_per_token(engine_model(m->engine)) / figures[MEMORY_SPEED];
    }
    return HYPURA_OK;
}

static hypura_status run_rounds(struct measuring *m, hypura_speed *out, hypura_error *error)
{
    double *values[FIGURES] = {0}, figures[FIGURES];
    hypura_rate *const rates[FIGURES] = {&out->prompt_tokens_per_second, &out->answer_tokens_per_second,
                                         &out->memory_bytes_per_second, &out->share_of_memory,
                                         &out->answer_bytes_per_token};
    hypura_status status = HYPURA_OK;
    for (int i = 0; !status && i < FIGURES; i++)
        status = ALLOCATE(&values[i], m->how.rounds, "figures", error);
    if (!status)
        status = warm_up(m, error);
    for (uint32_t round = 0; !status && round < m->how.rounds; round++) {
        status = run_round(m, figures, error);
        for (int i = 0; !status && i < FIGURES; i++)
            values[i][round] = figures[i];
    }
    for (int i = 0; i < FIGURES; i++) {
        if (!status)
            *rates[i] = rate_of(values[i], m->how.rounds);
        memory_free(values[i]);
    }
    return status;
}

static hypura_status check(const hypura_measure *how, const hypura_plan *plan, hypura_error *error)
{
    uint64_t needed = (uint64_t)how->held_tokens + MAX(MAX(how->prompt_tokens, how->answer_tokens), 8u);
    if (how->sequences > MIN(plan->sessions, MOST_SEQUENCES))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%u sequences at once, but the model was opened for %u",
                         how->sequences, plan->sessions);
    if (needed > plan->context_tokens)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%llu tokens do not fit the context of %u",
                         (unsigned long long)needed, plan->context_tokens);
    return HYPURA_OK;
}

hypura_status hypura_measure_speed(hypura_session *session, const hypura_measure *how, hypura_speed *out,
                                   hypura_error *error)
{
    hypura_model *model = session->model;
    struct measuring m = {.engine = model->engine, .vocabulary = model->info.vocabulary_size};
    hypura_speed speed = {0};
    hypura_status status = take_struct(&m.how, sizeof m.how, how, "hypura_measure", error);
    if (status)
        return status;
    m.how.sequences = MAX(m.how.sequences, 1u);
    m.how.rounds = m.how.rounds ? m.how.rounds : 3;
    random_seed(&m.random, m.how.seed);
    status = check(&m.how, &model->plan, error);
    if (!status && session->started)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "an answer of the session still runs");
    if (!status)
        status = scheduler_begin_alone(session, ALONE_EMPTY, error);
    if (status)
        return status;
    if (m.how.meter_memory)
        status = memory_meter_open(&m.meter, engine_hardware(m.engine), engine_threads(m.engine), error);
    if (!status)
        status = run_rounds(&m, &speed, error);
    memory_meter_close(m.meter);
    for (uint32_t s = 0; s < m.how.sequences; s++)
        engine_truncate(m.engine, s, 0);
    scheduler_end_alone(session);
    if (!status)
        give_struct(out, &speed, sizeof speed);
    return status;
}
