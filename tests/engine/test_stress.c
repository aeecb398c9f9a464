/* Equal bits under load: whatever streams, in whatever order, while budgets change and passes are cancelled, every
 * position has the bits that it has with all weights in memory. The budget is never exceeded.
 *
 * HYPURA_STRESS_SECONDS sets the duration, with other models each time. HYPURA_STRESS_SEED sets the first seed;
 * failures report theirs. */
#include "answer.h"
#include "copy_model.h"
#include "folder.h"
#include "reference.h"

#include "tools/synth.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define SEQUENCES 4u
#define LENGTH 48u /* tokens per sequence */
#define RUNS 4u    /* runs per model */
#define STEPS 24u
#define ANSWERS 6u
#define ANSWER_TOKENS 20u

/* Memory that the process may hold beyond the plan: the test's own, and the allocator's reserve. */
#define SLACK ((uint64_t)2 << 20)

struct script {
    int32_t tokens[LENGTH];
    float *logits; /* [LENGTH][vocabulary] */
};

struct world {
    struct random random;
    uint64_t seed;
    char path[4096];
    char description[200];
    uint32_t vocabulary;
    uint64_t bytes;
    uint32_t context; /* some ropes depend on it */
    enum tensor_type kv_type;
    struct script scripts[SEQUENCES];
    bool speaks; /* has a vocabulary, so it can answer */
    struct answer answers[ANSWERS];
};

static uint32_t below(struct random *random, uint32_t count)
{
    return (uint32_t)(random_next(random) % count);
}

static bool perhaps(struct random *random)
{
    return below(random, 2);
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

static const char *const types[] = {"Q4_K_M", "Q8_0",  "F16", "Q4_0", "Q6_K", "IQ4_XS",
                                    "BF16",   "MXFP4", "F32", "Q3_K", "NVFP4"};

static void make_file(struct world *world, const char *path)
{
    struct random *random = &world->random;
    struct synth_options options;
    const struct synth_preset *preset; /* without a recipe, which would fix the sizes */
    do
        preset = synth_preset_at(below(random, (uint32_t)synth_preset_count()));
    while (preset->recipe);
    synth_default_options(&options, preset);
    struct synth_geometry *g = &options.geometry;
    options.type = types[below(random, COUNT_OF(types))];
    options.seed = world->seed;
    options.threads = 1;
    g->layers = 1 + below(random, 5);
    g->embedding = 256;
    g->kv_heads = 1 + below(random, 3);
    g->heads = g->kv_heads * (1 + below(random, 3));
    g->head_size = 32 * (1 + below(random, 2));
    g->vocabulary = 512 + below(random, 600);
    g->feed_forward = 256 * (1 + below(random, g->experts ? 2 : 6));
    if (g->experts) {
        g->experts = 3 + below(random, 30);
        g->experts_used = 1 + below(random, MAX(g->experts / 3, 1u));
    }
    assert_ok(synth_write(path, &options, NULL, NULL, &test_error));
    assert_ok(synth_bytes(&world->bytes, &options, &test_error));
    snprintf(world->description, sizeof world->description, "%s %s, %u layers, %u of %u experts, %u wide",
             g->architecture, options.type, g->layers, g->experts_used, g->experts, g->feed_forward);
}

/* Writes the tensors from first to end as one part of a split file. */
static void write_part(const struct gguf *file, const char *path, uint16_t number, uint16_t count, size_t first,
                       size_t end)
{
    struct gguf_writer *writer;
    int32_t tensors = (int32_t)gguf_tensor_count(file);
    assert_ok(gguf_writer_create(&writer, path, 0, &test_error));
    if (number == 0)
        copy_values(writer, file);
    assert_ok(gguf_writer_add(writer, "split.no", GGUF_UINT16, &number, 1, false, &test_error));
    assert_ok(gguf_writer_add(writer, "split.count", GGUF_UINT16, &count, 1, false, &test_error));
    assert_ok(gguf_writer_add(writer, "split.tensors.count", GGUF_INT32, &tensors, 1, false, &test_error));
    for (size_t i = first; i < end; i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        assert_ok(gguf_writer_add_tensor(writer, tensor->name.data, tensor->type, tensor->dimension_count,
                                         tensor->dimensions, &test_error));
    }
    for (size_t i = first; i < end; i++) {
        uint8_t *data = read_tensor(file, gguf_tensor_at(file, i));
        assert_ok(gguf_writer_write(writer, data, gguf_tensor_at(file, i)->bytes, &test_error));
        free(data);
    }
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
}

static void split_file(struct world *world, const char *whole)
{
    struct gguf *file;
    assert_ok(gguf_open(&file, whole, &test_error));
    size_t tensors = gguf_tensor_count(file);
    uint16_t count = (uint16_t)(2 + below(&world->random, 3));
    for (uint16_t part = 0; part < count; part++) {
        char name[64];
        snprintf(name, sizeof name, "part-%05u-of-%05u.gguf", part + 1u, (unsigned)count);
        write_part(file, path_in_folder(name), part, count, tensors * part / count, tensors * (part + 1u) / count);
        if (part == 0)
            snprintf(world->path, sizeof world->path, "%s", path_in_folder(name));
    }
    gguf_close(file);
}

static void make_model(struct world *world)
{
    static const char *const references[] = {"gemma2",        "deepseek2-v3", "qwen3next", "llama4",
                                             "phi3-longrope", "gpt-oss",      "embedded",  "q-mixtral-Q4_K-Q4_K-Q6_K"};
    const char *whole = path_in_folder("whole.gguf");
    if (below(&world->random, 4) == 0) {
        const char *name = references[below(&world->random, COUNT_OF(references))];
        whole = model_path(name);
        snprintf(world->description, sizeof world->description, "%s", name);
        world->bytes = 4 << 20;
        world->kv_type = TENSOR_F16; /* other types need heads of whole blocks */
    } else {
        make_file(world, whole);
    }
    snprintf(world->path, sizeof world->path, "%s", whole);
    if (below(&world->random, 3) == 0)
        split_file(world, whole);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* Requests answer i, whose prompt is the start of a script, so that some prompts begin alike. */
static void ask(const struct world *world, struct generator *generator, struct answer *answer, uint32_t i)
{
    struct sampler_options options;
    sampler_default_options(&options);
    options.seed = i;
    options.temperature = 1;
    options.repeat_penalty = 1.1f;
    *answer = (struct answer){0};
    assert_ok(sampler_create(&answer->sampler, &options, world->vocabulary, &test_error));
    struct generation_request request = {.tokens = world->scripts[i % SEQUENCES].tokens,
                                         .count = 3 + 5 * i,
                                         .max_tokens = ANSWER_TOKENS - i,
                                         .ignore_end = true};
    submit_for(answer, generator, request);
}

/* Makes the expected answers, one at a time. */
static void make_answers(struct world *world, struct engine *engine)
{
    const struct vocabulary *vocabulary;
    struct generator *generator;
    world->speaks = engine_vocabulary(&vocabulary, engine, NULL) == HYPURA_OK;
    if (!world->speaks)
        return;
    assert_ok(generator_create(&generator, engine, vocabulary, &test_error));
    for (uint32_t i = 0; i < ANSWERS; i++) {
        ask(world, generator, &world->answers[i], i);
        while (generator_step(generator))
            ;
        assert_true(world->answers[i].done && world->answers[i].result.reason == FINISH_LENGTH);
        sampler_destroy(world->answers[i].sampler);
    }
    generator_destroy(generator);
}

/* Makes the expected logits, each sequence alone, with all weights in memory. */
static void make_scripts(struct world *world)
{
    struct engine_options options;
    struct engine *engine;
    engine_default_options(&options);
    options.gpu = "none";
    options.context = world->context;
    options.threads = 1 + below(&world->random, 2);
    options.kv_type = world->kv_type;
    if (engine_open(&engine, world->path, &options, &test_error))
        fail_msg("%s: %s", world->description, test_error.message);
    assert_int_equal(engine_plan(engine)->mode, PLAN_FULL_RESIDENT);
    world->vocabulary = model_parameters(engine_model(engine))->vocabulary;
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        struct script *script = &world->scripts[s];
        for (uint32_t i = 0; i < LENGTH; i++)
            script->tokens[i] = (int32_t)below(&world->random, world->vocabulary);
        script->logits = calloc((size_t)LENGTH * world->vocabulary, sizeof *script->logits);
        engine_truncate(engine, 0, 0);
        feed(engine, 0, script->tokens, LENGTH, 1 + below(&world->random, LENGTH), script->logits);
    }
    engine_truncate(engine, 0, 0);
    make_answers(world, engine);
    engine_close(engine);
}

/* ---- interference ------------------------------------------------------------------------------------------------ */

struct meddler {
    struct engine *engine;
    struct random random;
    uint64_t least, most; /* smallest and largest budget to set */
    bool resizes, cancels;
    atomic_bool stop;
    _Atomic uint64_t allowed; /* the largest budget set so far */
    bool *used;
};

static void *meddle(void *argument)
{
    struct meddler *meddler = argument;
    hypura_error error;
    struct engine_statistics statistics;
    while (!atomic_load(&meddler->stop)) {
        usleep(below(&meddler->random, 3000));
        uint32_t what = below(&meddler->random, 16);
        if (what < 4 && meddler->resizes) {
            uint64_t budget = meddler->least + random_next(&meddler->random) % (meddler->most - meddler->least);
            uint64_t before = atomic_load(&meddler->allowed);
            atomic_store(&meddler->allowed, MAX(before, budget));
            engine_set_budget(meddler->engine, budget, &error);
        } else if (what == 4 && meddler->cancels) {
            engine_cancel(meddler->engine, true);
            usleep(below(&meddler->random, 2000));
            engine_cancel(meddler->engine, false);
        } else if (what < 10) {
            engine_statistics(meddler->engine, &statistics);
        } else {
            engine_take_used(meddler->engine, meddler->used);
        }
    }
    return NULL;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

struct run {
    struct world *world;
    struct engine *engine;
    struct engine_options options;
    char description[300];
    bool beside_other;
    uint32_t room; /* most tokens per batch */
    size_t count;
    int32_t tokens[SEQUENCES * LENGTH];
    uint32_t positions[SEQUENCES * LENGTH], sequences[SEQUENCES * LENGTH];
    bool want[SEQUENCES * LENGTH];
    size_t stop_after; /* number of logits after which a batch is stopped */
    uint32_t passes, cancelled;
};

#define fail_run(run, format, ...)                                                                                     \
    fail_msg("seed %llu, %s; %s: " format, (unsigned long long)(run)->world->seed, (run)->world->description,          \
             (run)->description, __VA_ARGS__)

static bool compare_logits(void *context, size_t index, const float *logits)
{
    struct run *run = context;
    const struct world *world = run->world;
    size_t i = 0;
    for (size_t wanted = 0;; i++) {
        wanted += run->want[i];
        if (wanted == index + 1)
            break;
    }
    const float *expected = world->scripts[run->sequences[i]].logits + (size_t)run->positions[i] * world->vocabulary;
    if (memcmp(expected, logits, world->vocabulary * sizeof *logits) != 0)
        fail_run(run, "other bits at position %u of sequence %u", run->positions[i], run->sequences[i]);
    return index != run->stop_after;
}

static void add_tokens(struct run *run, uint32_t sequence, uint32_t count)
{
    uint32_t held = engine_positions(run->engine, sequence);
    for (uint32_t i = 0; i < count && run->count < run->room && held + i < LENGTH; i++) {
        run->tokens[run->count] = run->world->scripts[sequence].tokens[held + i];
        run->positions[run->count] = held + i;
        run->sequences[run->count] = sequence;
        run->want[run->count++] = below(&run->world->random, 3) > 0;
    }
}

static void step(struct run *run)
{
    struct random *random = &run->world->random;
    run->count = 0;
    for (uint32_t s = 0; s < run->options.sequences; s++) {
        if (engine_positions(run->engine, s) == LENGTH || below(random, 12) == 0)
            engine_truncate(run->engine, s, below(random, LENGTH));
        if (perhaps(random) || s + 1 == run->options.sequences)
            add_tokens(run, s, perhaps(random) ? 1 : 1 + below(random, LENGTH));
    }
    if (run->count == 0)
        return;
    run->stop_after = below(random, 10) == 0 ? below(random, 8) : SIZE_MAX;
    uint32_t held[SEQUENCES];
    for (uint32_t s = 0; s < run->options.sequences; s++)
        held[s] = engine_positions(run->engine, s);
    struct engine_batch batch = {.count = run->count,
                                 .tokens = run->tokens,
                                 .positions = run->positions,
                                 .sequences = run->sequences,
                                 .want_logits = run->want,
                                 .on_logits = compare_logits,
                                 .on_logits_context = run};
    hypura_status status = engine_forward(run->engine, &batch, &test_error);
    run->passes++;
    if (!status)
        return;
    for (uint32_t s = 0; s < run->options.sequences; s++)
        assert_int_equal(engine_positions(run->engine, s), held[s]);
    run->cancelled += status == HYPURA_ERROR_CANCELLED;
    if (status == HYPURA_ERROR_MEMORY && strstr(test_error.message, "have room for"))
        engine_truncate(run->engine, below(random, run->options.sequences), 0);
    else if (status != HYPURA_ERROR_CANCELLED)
        fail_run(run, "%s", test_error.message);
}

static void assert_held(const struct run *run, uint64_t allowed)
{
    uint64_t held = memory_resident_bytes();
    allowed += engine_plan(run->engine)->code_on_top + SLACK;
    if (!SANITIZED && !run->beside_other && held > allowed)
        fail_run(run, "%llu bytes are held, %llu may be", (unsigned long long)held, (unsigned long long)allowed);
}

static void choose_options(struct run *run)
{
    static const char *const policies[] = {NULL, "lru", "lfu", "s3fifo", "cycle"};
    struct random *random = &run->world->random;
    struct engine_options *options = &run->options;
    engine_default_options(options);
    options->gpu = "none"; /* a GPU gives other bits */
    options->context = run->world->context;
    options->kv_type = run->world->kv_type;
    options->sequences = 1 + below(random, SEQUENCES);
    options->threads = 1 + below(random, 3);
    options->chunk = perhaps(random) ? 0 : 1 + below(random, 40);
    options->shared_context = perhaps(random);
    options->reader = below(random, 3) ? STORE_READER_AUTO : STORE_READER_THREADS;
    options->prefetching = (enum store_prefetching)below(random, 3);
    options->fill = perhaps(random);
    options->cache_policy = policies[below(random, COUNT_OF(policies))];
    options->depth = perhaps(random) ? 0 : 1 + below(random, 12);
    options->wait_for_all = below(random, 4) == 0;
    options->remember_usage = perhaps(random);
    run->beside_other = below(random, 4) == 0;
}

/* Runs answers that begin at random times, some cancelled, under interference. Those that end have the expected tokens.
 */
static void answer_all(struct run *run)
{
    struct world *world = run->world;
    const struct vocabulary *vocabulary;
    struct generator *generator;
    struct answer answers[ANSWERS] = {0};
    uint32_t asked = 0, first = below(&world->random, ANSWERS);
    if (!world->speaks)
        return;
    assert_ok(engine_vocabulary(&vocabulary, run->engine, &test_error));
    assert_ok(generator_create(&generator, run->engine, vocabulary, &test_error));
    for (bool more = true; more || asked < ANSWERS;) {
        if (asked < ANSWERS && below(&world->random, 3) == 0) {
            uint32_t i = (first + asked++) % ANSWERS;
            ask(world, generator, &answers[i], i);
        }
        if (below(&world->random, 30) == 0)
            generator_cancel(generator, answers[below(&world->random, ANSWERS)].id);
        more = generator_step(generator);
    }
    generator_destroy(generator);
    for (uint32_t i = 0; i < ANSWERS; i++) {
        const struct answer *answer = &answers[i], *expected = &world->answers[i];
        assert_true(answer->done);
        sampler_destroy(answer->sampler);
        if (answer->result.reason == FINISH_ERROR)
            fail_run(run, "%s", answer->result.error.message);
        if (answer->count > expected->count ||
            (answer->result.reason == FINISH_LENGTH && answer->count != expected->count) ||
            memcmp(answer->tokens, expected->tokens, answer->count * sizeof *answer->tokens) != 0)
            fail_run(run, "answer %u has other tokens", i);
    }
}

/* Another engine for the same model, with passes at the same time. Its thread records failures and does not report
 * them. */
struct other {
    const struct world *world;
    struct engine *engine;
    atomic_bool stop;
    uint32_t first; /* position of the current batch */
    bool wrong;
    hypura_error error;
};

static bool compare_other(void *context, size_t index, const float *logits)
{
    struct other *other = context;
    const float *expected = other->world->scripts[0].logits + (other->first + index) * other->world->vocabulary;
    other->wrong |= memcmp(expected, logits, other->world->vocabulary * sizeof *logits) != 0;
    return true;
}

static void *run_other(void *argument)
{
    struct other *other = argument;
    uint32_t positions[LENGTH];
    bool want[LENGTH];
    while (!atomic_load(&other->stop) && !other->error.status) {
        other->first = engine_positions(other->engine, 0);
        uint32_t count = MIN(MIN(1 + other->first % 7, engine_plan(other->engine)->chunk), LENGTH - other->first);
        if (count == 0) {
            engine_truncate(other->engine, 0, 0);
            continue;
        }
        for (uint32_t i = 0; i < count; i++) {
            positions[i] = other->first + i;
            want[i] = true;
        }
        struct engine_batch batch = {.count = count,
                                     .tokens = other->world->scripts[0].tokens + other->first,
                                     .positions = positions,
                                     .want_logits = want,
                                     .on_logits = compare_other,
                                     .on_logits_context = other};
        engine_forward(other->engine, &batch, &other->error);
    }
    return NULL;
}

static void run_once(struct world *world)
{
    struct random *random = &world->random;
    struct run run = {.world = world};
    choose_options(&run);
    uint64_t more = below(random, 3) ? random_next(random) % (world->bytes + 1) : 0;
    run.engine = open_above_smallest(world->path, &run.options, more);
    const struct plan *plan = engine_plan(run.engine);
    const struct model_parameters *p = model_parameters(engine_model(run.engine));
    run.room = MIN(plan->chunk, (uint32_t)COUNT_OF(run.tokens));
    struct meddler meddler = {.engine = run.engine,
                              .least = run.options.budget - (run.options.budget >> 3),
                              .most = run.options.budget + world->bytes,
                              .resizes = perhaps(random),
                              .cancels = perhaps(random),
                              .allowed = run.options.budget,
                              .used = calloc((size_t)p->layers * p->experts + 1, 1)};
    snprintf(run.description, sizeof run.description,
             "%s, budget %llu, %u sequences, %zu threads, chunk %u, %s, prefetching %d, fill %d, depth %u, resizes %d, "
             "cancels %d%s",
             plan_mode_name(plan->mode), (unsigned long long)plan->budget, run.options.sequences, run.options.threads,
             plan->chunk, run.options.cache_policy ? run.options.cache_policy : "-", run.options.prefetching,
             run.options.fill, run.options.depth, meddler.resizes, meddler.cancels,
             run.beside_other ? ", with another engine" : "");
    random_seed(&meddler.random, world->seed);
    struct other other = {.world = world};
    pthread_t thread, other_thread;
    if (run.beside_other) {
        struct run second = {.world = world};
        choose_options(&second);
        other.engine = open_above_smallest(world->path, &second.options, 0);
        assert_int_equal(pthread_create(&other_thread, NULL, run_other, &other), 0);
    }
    assert_int_equal(pthread_create(&thread, NULL, meddle, &meddler), 0);
    for (uint32_t i = 0; i < STEPS; i++) {
        step(&run);
        assert_held(&run, atomic_load(&meddler.allowed));
    }
    answer_all(&run);
    assert_held(&run, atomic_load(&meddler.allowed));
    atomic_store(&meddler.stop, true);
    pthread_join(thread, NULL);
    free(meddler.used);
    atomic_store(&other.stop, true);
    if (run.beside_other)
        pthread_join(other_thread, NULL);
    if (other.wrong || other.error.status)
        fail_run(&run, "the other engine: %s", other.wrong ? "wrong bits" : other.error.message);
    engine_close(other.engine);
    /* Start again and run everything once more, to detect anything that a cancel or a resize left behind. */
    if (engine_set_budget(run.engine, run.options.budget, &test_error) && plan->pool_bytes)
        fail_run(&run, "%s", test_error.message);
    for (uint32_t s = 0; s < run.options.sequences; s++)
        engine_truncate(run.engine, s, 0);
    for (uint32_t i = 0; i < STEPS / 4; i++)
        step(&run);
    assert_held(&run, run.options.budget);
    if (getenv("HYPURA_STRESS_SECONDS"))
        print_message("# %llu: %s; %s: %u passes, %u cancelled\n", (unsigned long long)world->seed, world->description,
                      run.description, run.passes, run.cancelled);
    engine_close(run.engine);
}

static size_t open_files(void)
{
    size_t count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder))
        count++;
    if (folder)
        closedir(folder);
    return count;
}

static void run_model(uint64_t seed)
{
    struct world world = {.seed = seed};
    static const enum tensor_type kv_types[] = {TENSOR_F16, TENSOR_F32, TENSOR_Q8_0};
    random_seed(&world.random, seed);
    world.context = perhaps(&world.random) ? 64 : 256;
    world.kv_type = kv_types[below(&world.random, COUNT_OF(kv_types))];
    make_model(&world);
    make_scripts(&world);
    size_t files = open_files();
    for (uint32_t i = 0; i < RUNS; i++)
        run_once(&world);
    assert_int_equal(open_files(), files);
    for (uint32_t s = 0; s < SEQUENCES; s++)
        free(world.scripts[s].logits);
}

static void nothing_changes_a_bit(void **state)
{
    (void)state;
    const char *seconds = getenv("HYPURA_STRESS_SECONDS"), *first = getenv("HYPURA_STRESS_SEED");
    uint64_t seed = first ? strtoull(first, NULL, 10) : 1, start = clock_nanoseconds();
    setenv("XDG_STATE_HOME", test_folder, 1);
    for (uint64_t i = 0; seconds ? clock_seconds_since(start) < atof(seconds) : i < 6; i++)
        run_model(seed + i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_changes_a_bit, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
