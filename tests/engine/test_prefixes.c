/* Texts that begin like earlier ones reuse what was computed, from memory, from another sequence and from a drive. The
 * answers have the bits of a newly opened model. */
#define ANSWER 10 /* tokens */

#include "folder.h"
#include "reference.h"
#include "text_answers.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#define CONTEXT 2048

/* Models with attention, experts, windows, delta nets, a scan and latent attention. */
static const char *const models[] = {"llama",  "mixtral",   "gpt-oss",   "gemma2",
                                     "qwen35", "qwen3next", "mamba-rms", "deepseek2-v3"};

static struct answered ask(struct generator *generator, struct engine *engine, const struct text *text)
{
    struct answered answered;
    submit(generator, engine, text, &answered);
    while (generator_step(generator))
        ;
    end(&answered);
    return answered;
}

static struct engine *open_as(const char *name, uint32_t sequences, const char *folder, bool keep,
                              enum tensor_type type)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = CONTEXT;
    options.sequences = sequences;
    options.threads = 2;
    options.chunk = 300;
    options.gpu = "none";
    options.keep_prefixes = keep;
    options.prefix_path = folder;
    options.prefix_bytes = 256 << 20;
    options.kv_type = type;
    assert_ok(engine_open(&engine, model_path(name), &options, &test_error));
    return engine;
}

static struct engine *open_with(const char *name, uint32_t sequences, const char *folder, bool keep)
{
    return open_as(name, sequences, folder, keep, TENSOR_F16);
}

static struct answered cold_with(const char *name, const struct text *text, enum tensor_type type)
{
    struct engine *engine = open_as(name, 1, NULL, false, type);
    struct generator *generator = generator_of(engine);
    struct answered answered = ask(generator, engine, text);
    assert_int_equal(answered.cached, 0);
    generator_destroy(generator);
    engine_close(engine);
    return answered;
}

static void assert_same(const char *name, const char *what, const struct answered *a, const struct answered *b)
{
    if (a->count != b->count || a->logits != b->logits || memcmp(a->tokens, b->tokens, sizeof a->tokens) != 0)
        fail_msg("%s, %s: the answer differs from that of a newly opened model", name, what);
}

static void assert_cached(const char *name, const char *what, const struct answered *answered, uint32_t least)
{
    if (answered->cached < least)
        fail_msg("%s, %s: %u tokens were reused, expected at least %u", name, what, answered->cached, least);
}

static struct answered cold(const char *name, const struct text *text)
{
    return cold_with(name, text, TENSOR_F16);
}

/* Makes a text that continues after an answer, like the next turn of a chat. */
static void next_turn(struct text *out, const struct text *text, const struct answered *answered, uint64_t seed)
{
    *out = *text;
    memcpy(out->tokens + out->count, answered->tokens, answered->count * sizeof *out->tokens);
    random_tokens(out, text->count + answered->count, text->count + answered->count + 25, seed);
}

static struct text first, other, second, edited;

static void texts_are_reused(void **state)
{
    (void)state;
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        const char *name = models[m];
        char folder[300];
        snprintf(folder, sizeof folder, "%s", path_in_folder(name));
        struct engine *engine = open_with(name, 1, folder, true);
        struct generator *generator = generator_of(engine);
        random_tokens(&first, 0, 1290, 1);
        random_tokens(&other, 0, 200, 2);
        struct answered a = ask(generator, engine, &first);
        assert_int_equal(a.cached, 0);
        next_turn(&second, &first, &a, 3);
        edited = first;
        random_tokens(&edited, first.count - 20, first.count + 5, 4);
        struct answered cold_first = cold(name, &first), cold_second = cold(name, &second),
                        cold_edited = cold(name, &edited), cold_other = cold(name, &other);
        assert_same(name, "first", &a, &cold_first);
        struct answered b = ask(generator, engine, &other); /* uses the only sequence */
        assert_same(name, "other", &b, &cold_other);
        b = ask(generator, engine, &second);
        assert_same(name, "second turn", &b, &cold_second);
        assert_cached(name, "second turn", &b, first.count + ANSWER - 1);
        b = ask(generator, engine, &edited);
        assert_same(name, "edited", &b, &cold_edited);
        assert_cached(name, "edited", &b, first.count - 20 - 2 * PLAN_KV_BLOCK);
        b = ask(generator, engine, &second); /* the earlier branch */
        assert_same(name, "back", &b, &cold_second);
        assert_cached(name, "back", &b, first.count + ANSWER - 1);
        generator_destroy(generator);
        engine_close(engine);
        engine = open_with(name, 1, folder, true);
        generator = generator_of(engine);
        b = ask(generator, engine, &second);
        assert_same(name, "after a restart", &b, &cold_second);
        assert_cached(name, "after a restart", &b, first.count + ANSWER - 1);
        b = ask(generator, engine, &edited);
        assert_same(name, "edited after a restart", &b, &cold_edited);
        assert_cached(name, "edited after a restart", &b, first.count - 20 - 2 * PLAN_KV_BLOCK);
        generator_destroy(generator);
        engine_close(engine);
    }
}

/* If requests with a common beginning arrive together, it is computed once. */
static void requests_share_a_beginning(void **state)
{
    (void)state;
    static struct text texts[4];
    struct answered answered[COUNT_OF(texts)];
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        const char *name = models[m];
        struct engine *engine = open_with(name, COUNT_OF(texts), NULL, true);
        struct generator *generator = generator_of(engine);
        for (size_t i = 0; i < COUNT_OF(texts); i++) {
            random_tokens(&texts[i], 0, 500, 5);
            random_tokens(&texts[i], 500, 530 + (uint32_t)i, 6 + i);
            submit(generator, engine, &texts[i], &answered[i]);
        }
        while (generator_step(generator))
            ;
        uint64_t new = 0;
        for (size_t i = 0; i < COUNT_OF(texts); i++) {
            end(&answered[i]);
            struct answered alone = cold(name, &texts[i]);
            assert_same(name, "together", &answered[i], &alone);
            new += texts[i].count - answered[i].cached;
        }
        if (new > 500 + COUNT_OF(texts) * (40 + PLAN_KV_BLOCK))
            fail_msg("%s: %llu tokens were computed, too many", name, (unsigned long long)new);
        generator_destroy(generator);
        engine_close(engine);
    }
}

/* Requests that wait for a beginning do not hold up a request with another one. */
static void other_requests_pass_waiting_ones(void **state)
{
    (void)state;
    struct answered long_one, waits, passes;
    struct engine *engine = open_with("llama", 2, NULL, true);
    struct generator *generator = generator_of(engine);
    random_tokens(&first, 0, 1700, 5);
    random_tokens(&second, 0, 1650, 5);
    random_tokens(&other, 0, 20, 9);
    submit(generator, engine, &first, &long_one);
    submit(generator, engine, &second, &waits);
    submit(generator, engine, &other, &passes);
    while (generator_step(generator))
        if (!passes.done)
            assert_true(!waits.done && long_one.count < ANSWER);
    end(&long_one);
    end(&waits);
    end(&passes);
    assert_true(waits.cached >= 1600);
    struct answered alone = cold("llama", &second);
    assert_same("llama", "the waiting request", &waits, &alone);
    generator_destroy(generator);
    engine_close(engine);
}

/* A prompt that passes more checkpoints than are kept has some along its whole length, denser towards the end. */
static void long_prompts_have_checkpoints_throughout(void **state)
{
    (void)state;
    static const char *const some[] = {"qwen35", "gpt-oss"};
    for (size_t m = 0; m < COUNT_OF(some); m++) {
        struct engine_options options;
        struct engine *engine = NULL;
        engine_default_options(&options);
        options.context = 6016;
        options.threads = 2;
        options.chunk = 256;
        options.gpu = "none";
        options.prefix_bytes = 256 << 20;
        assert_ok(engine_open(&engine, model_path(some[m]), &options, &test_error));
        struct generator *generator = generator_of(engine);
        random_tokens(&first, 0, 5900, 1);
        ask(generator, engine, &first);
        static const uint32_t same[] = {5850, 5500, 4000, 2000};
        for (size_t i = 0; i < COUNT_OF(same); i++) {
            edited = first;
            random_tokens(&edited, same[i], same[i] + 30, 10 + i);
            struct answered answered = ask(generator, engine, &edited);
            assert_cached(some[m], "edited", &answered, same[i] - MAX(300u, (first.count - same[i]) / 2));
        }
        generator_destroy(generator);
        engine_close(engine);
    }
}

/* With more sequences than room, none is refused. A sequence that makes room for another later restores its data,
 * stored in the type of the cache. */
static void check_parking(const char *name, enum tensor_type type, const char *folder)
{
    struct engine_options options;
    static struct text texts[6];
    struct answered answered[COUNT_OF(texts)];
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.sequences = COUNT_OF(texts);
    options.shared_context = true;
    options.chunk = 384; /* all prompts pass at once, but there is too little room for their answers */
    options.kv_type = type;
    options.prefix_bytes = 8 << 20;
    options.prefix_path = folder;
    struct engine *engine = open_smallest(model_path(name), &options);
    assert_ok(engine_set_budget(engine, options.budget + (2 << 20), &test_error)); /* for the prefix store */
    struct generator *generator = generator_of(engine);
    if (SANITIZED && engine_room(engine) > options.context) { /* sanitizers raise the budget too far */
        generator_destroy(generator);
        engine_close(engine);
        return;
    }
    assert_int_equal(engine_room(engine), options.context);
    uint32_t most = 0;
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        random_tokens(&texts[i], 0, 60, 20 + i); /* each answer needs a second block */
        submit(generator, engine, &texts[i], &answered[i]);
    }
    while (generator_step(generator)) {
        uint32_t held[COUNT_OF(texts)], at_once = 0;
        for (uint32_t s = 0; s < COUNT_OF(texts); s++) {
            held[s] = engine_positions(engine, s);
            at_once += held[s] > 0;
        }
        assert_true(engine_room_of(engine, held) <= engine_room(engine));
        most = MAX(most, at_once);
    }
    assert_true(most > 1);
    struct engine_statistics statistics;
    engine_statistics(engine, &statistics);
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        end(&answered[i]);
        struct answered alone = cold_with(name, &texts[i], type);
        assert_same(name, "parked", &answered[i], &alone);
    }
    if (statistics.prefix.restored_tokens < texts[0].count)
        fail_msg("%s: no sequence restored its data", name);
    generator_destroy(generator);
    engine_close(engine);
}

static void sequences_that_make_room_are_not_fed_again(void **state)
{
    (void)state;
    check_parking("embedded", TENSOR_F16, path_in_folder("parked"));
    check_parking("embedded", TENSOR_F16, NULL);
    check_parking("embedded", TENSOR_Q8_0, NULL);
    check_parking("qwen35", TENSOR_F32, NULL);
}

/* A common beginning takes its room once, so all requests run at the same time. */
static void a_shared_beginning_takes_its_room_once(void **state)
{
    (void)state;
    enum { BEGINNING = 20 * PLAN_KV_BLOCK, REQUESTS = 8 };
    static struct text texts[REQUESTS];
    struct answered answered[REQUESTS];
    struct engine_options options;
    engine_default_options(&options);
    options.context = CONTEXT;
    options.threads = 2;
    options.sequences = REQUESTS;
    options.shared_context = true;
    struct engine *engine = open_smallest(model_path("embedded"), &options);
    struct generator *generator = generator_of(engine);
    assert_int_equal(engine_room(engine), CONTEXT); /* each request alone takes two thirds of it */
    for (size_t i = 0; i < REQUESTS; i++) {
        random_tokens(&texts[i], 0, BEGINNING, 5);
        random_tokens(&texts[i], BEGINNING, BEGINNING + 20, 30 + i);
        submit(generator, engine, &texts[i], &answered[i]);
    }
    uint32_t most = 0;
    while (generator_step(generator)) {
        uint32_t held[REQUESTS], at_once = 0;
        for (uint32_t s = 0; s < REQUESTS; s++) {
            held[s] = engine_positions(engine, s);
            at_once += held[s] > BEGINNING;
        }
        assert_true(engine_room_of(engine, held) <= engine_room(engine));
        most = MAX(most, at_once);
    }
    assert_int_equal(most, REQUESTS);
    for (size_t i = 0; i < REQUESTS; i++) {
        end(&answered[i]);
        struct answered alone = cold("embedded", &texts[i]);
        assert_same("embedded", "with one beginning", &answered[i], &alone);
        assert_int_equal(answered[i].cached, i ? BEGINNING : 0);
    }
    generator_destroy(generator);
    engine_close(engine);
}

#ifdef RWF_NOWAIT
static unsigned far; /* number of calls that return EAGAIN, as if the data were not in the page cache */

/* Overrides the system's function. */
ssize_t preadv2(int file, const struct iovec *to, int count, off_t offset, int flags)
{
    (void)file, (void)to, (void)count, (void)offset, (void)flags;
    if (far == 0)
        return 1;
    far--;
    errno = EAGAIN;
    return -1;
}

/* While a drive reads the stored data of a text, other requests continue. When they are done, the text no longer waits
 * for the page cache. */
static void other_requests_run_while_the_drive_reads(void **state)
{
    (void)state;
    static const unsigned times[] = {0, 18, 1u << 30}, least[] = {0, 2, ANSWER}, most[] = {1, ANSWER - 1, ANSWER};
    struct answered before, runs, comes;
    const char *folder = path_in_folder("far");
    struct engine *engine = open_with("llama", 1, folder, true);
    struct generator *generator = generator_of(engine);
    random_tokens(&first, 0, 900, 5);
    random_tokens(&other, 0, 20, 9);
    before = ask(generator, engine, &first);
    generator_destroy(generator);
    engine_close(engine);
    for (size_t i = 0; i < COUNT_OF(times); i++) {
        engine = open_with("llama", 2, folder, true);
        generator = generator_of(engine);
        submit(generator, engine, &other, &runs);
        assert_true(generator_step(generator));
        submit(generator, engine, &first, &comes);
        far = times[i];
        uint32_t meanwhile = 0;
        while (generator_step(generator))
            meanwhile = comes.count ? meanwhile : runs.count;
        end(&runs);
        end(&comes);
        assert_cached("llama", "far", &comes, 832);
        assert_same("llama", "far", &comes, &before);
        assert_in_range(meanwhile, least[i], most[i]);
        generator_destroy(generator);
        engine_close(engine);
    }
    far = 0;
}
#endif

/* The prefix store borrows memory from the pool when it has something to keep. */
static void the_pool_lends_memory(void **state)
{
    (void)state;
    struct engine_options options;
    struct engine_statistics statistics;
    engine_default_options(&options);
    options.context = CONTEXT;
    options.threads = 2;
    options.prefix_bytes = 4 << 20;
    struct engine *engine = open_above_smallest(model_path("embedded"), &options, 12 << 20);
    struct generator *generator = generator_of(engine);
    engine_statistics(engine, &statistics);
    uint64_t pool = statistics.store.pool_bytes;
    assert_true(pool > 0 && statistics.prefix.bytes < 4096);
    random_tokens(&first, 0, 600, 1);
    random_tokens(&other, 0, 200, 2);
    struct answered a = ask(generator, engine, &first), b;
    engine_statistics(engine, &statistics);
    assert_int_equal(statistics.store.pool_bytes, pool);
    ask(generator, engine, &other);
    engine_statistics(engine, &statistics);
    assert_true(statistics.prefix.bytes > 0 && statistics.prefix.bytes <= statistics.prefix.limit);
    assert_true(statistics.store.pool_bytes + statistics.prefix.bytes <= pool);
    b = ask(generator, engine, &first);
    assert_same("embedded", "again", &b, &a);
    assert_true(b.cached > 0);
    assert_ok(engine_set_budget(engine, options.budget + (1 << 20), &test_error));
    assert_ok(engine_set_budget(engine, options.budget, &test_error));
    generator_destroy(generator);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_reused),
        cmocka_unit_test(requests_share_a_beginning),
        cmocka_unit_test(other_requests_pass_waiting_ones),
        cmocka_unit_test(long_prompts_have_checkpoints_throughout),
        cmocka_unit_test(sequences_that_make_room_are_not_fed_again),
        cmocka_unit_test(a_shared_beginning_takes_its_room_once),
#ifdef RWF_NOWAIT
        cmocka_unit_test(other_requests_run_while_the_drive_reads),
#endif
        cmocka_unit_test(the_pool_lends_memory),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
