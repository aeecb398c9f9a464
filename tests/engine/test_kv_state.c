/* The data of a sequence at a position, read out and written back to another sequence and to a newly opened model. The
 * text continues with the bits of a run from the start. */
#include "reference.h"

#include "plan/plan.h"
#include "tools/synth.h"

#include <unistd.h>

#define CONTEXT 1024
#define COUNT 700 /* long enough for a window's ring to wrap around */
#define AFTER 8   /* tokens whose logits are compared after each position */

/* Borders of blocks, positions within blocks, and both sides of the positions where rings wrap around. */
static const uint32_t stops[] = {1, 63, 64, 100, 128, 511, 576, 650, COUNT};

struct checkpoint {
    uint32_t position;
    uint8_t *bytes, *rows;
};

/* A run from the start: the data at each stop, and the logits of AFTER tokens behind it. */
struct cold {
    int32_t tokens[COUNT + AFTER];
    float *logits; /* [COUNT_OF(stops)][AFTER][vocabulary] */
    struct checkpoint kept[COUNT_OF(stops)];
    uint64_t digest;
};

static struct engine *open_engine(const char *name, enum tensor_type type, uint32_t sequences, size_t threads)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = CONTEXT;
    options.threads = threads;
    options.sequences = sequences;
    options.kv_type = type;
    options.gpu = "none";
    if (engine_open(&engine, model_path(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    return engine;
}

static size_t vocabulary_of(const struct engine *engine)
{
    return model_parameters(engine_model(engine))->vocabulary;
}

/* Feeds tokens up to "end" without logits. */
static void pass_over(struct engine *engine, uint32_t sequence, const int32_t *tokens, uint32_t end, uint32_t batch)
{
    for (uint32_t at; (at = engine_positions(engine, sequence)) < end;) {
        uint32_t positions[256], sequences[256], count = MIN(MIN(end - at, batch), engine_plan(engine)->chunk);
        for (uint32_t i = 0; i < count; i++) {
            positions[i] = at + i;
            sequences[i] = sequence;
        }
        struct engine_batch b = {.count = count, .tokens = tokens + at, .positions = positions, .sequences = sequences};
        assert_ok(engine_forward(engine, &b, &test_error));
    }
}

static void read_all(struct engine *engine, uint32_t sequence, struct checkpoint *out)
{
    uint32_t position = out->position = engine_positions(engine, sequence);
    uint64_t bytes = engine_checkpoint_bytes_at(engine, position), rows = engine_rows_bytes(engine, 0, position);
    assert_true(bytes <= engine_checkpoint_bytes(engine));
    out->bytes = bytes ? malloc(bytes) : NULL;
    out->rows = malloc(rows + 1);
    out->rows[rows] = 0xA5;
    assert_ok(engine_read_rows(engine, sequence, 0, position, out->rows, &test_error));
    assert_int_equal(out->rows[rows], 0xA5);
    if (bytes)
        assert_ok(engine_read_checkpoint(engine, sequence, out->bytes, &test_error));
}

static void run_cold(struct cold *out, struct engine *engine)
{
    size_t vocabulary = vocabulary_of(engine);
    struct random random;
    random_seed(&random, 5);
    for (size_t i = 0; i < COUNT_OF(out->tokens); i++)
        out->tokens[i] = (int32_t)(random_next(&random) % MIN(vocabulary, (size_t)300));
    out->logits = calloc(COUNT_OF(stops) * AFTER * vocabulary, sizeof *out->logits);
    for (size_t s = 0; s < COUNT_OF(stops); s++) {
        pass_over(engine, 0, out->tokens, stops[s], 50);
        read_all(engine, 0, &out->kept[s]);
    }
    /* Start again each time, so that the expected logits do not depend on the functions under test. */
    for (size_t s = 0; s < COUNT_OF(stops); s++) {
        engine_truncate(engine, 1, 0);
        pass_over(engine, 1, out->tokens, stops[s], 100);
        feed(engine, 1, out->tokens + stops[s], AFTER, AFTER, out->logits + s * AFTER * vocabulary);
    }
    assert_ok(engine_state_digest(&out->digest, engine, &test_error));
}

static void free_cold(struct cold *cold)
{
    for (size_t s = 0; s < COUNT_OF(stops); s++) {
        free(cold->kept[s].bytes);
        free(cold->kept[s].rows);
    }
    free(cold->logits);
}

/* Checks that a sequence at a stop continues with the expected logits. */
static void assert_goes_on(struct engine *engine, uint32_t sequence, const struct cold *cold, size_t stop, size_t batch,
                           const char *name, const char *what)
{
    size_t vocabulary = vocabulary_of(engine);
    float *logits = calloc(AFTER * vocabulary, sizeof *logits);
    assert_int_equal(engine_positions(engine, sequence), stops[stop]);
    feed(engine, sequence, cold->tokens + stops[stop], AFTER, batch, logits);
    if (memcmp(logits, cold->logits + stop * AFTER * vocabulary, AFTER * vocabulary * sizeof *logits) != 0)
        fail_msg("%s: the bits differ after position %u, %s", name, stops[stop], what);
    free(logits);
}

/* Writes the data of a stop to a sequence, all at once or block by block. */
static void write_all(struct engine *engine, uint32_t sequence, const struct cold *cold, size_t stop, bool by_block)
{
    const struct checkpoint *kept = &cold->kept[stop];
    const uint32_t end = stops[stop], step = by_block ? PLAN_KV_BLOCK : end;
    engine_truncate(engine, sequence, 0);
    for (uint32_t first = 0; first < end; first += step)
        assert_ok(engine_write_rows(engine, sequence, first, MIN(first + step, end),
                                    kept->rows + engine_rows_bytes(engine, 0, first), &test_error));
    assert_int_equal(engine_positions(engine, sequence), 0);
    assert_int_equal(engine_rows_there(engine, sequence), end);
    assert_ok(engine_write_checkpoint(engine, sequence, end, cold->tokens, kept->bytes, &test_error));
}

static void check_model(const char *name, enum tensor_type type)
{
    struct cold cold;
    uint64_t digest;
    struct engine *engine = open_engine(name, type, 3, 2);
    run_cold(&cold, engine);
    bool needs = engine_checkpoint_bytes(engine) > 0;

    /* Rows never change: those read early equal those read at the end. */
    const struct checkpoint *last = &cold.kept[COUNT_OF(stops) - 1];
    for (size_t s = 0; s < COUNT_OF(stops); s++)
        if (stops[s] % PLAN_KV_BLOCK == 0)
            assert_memory_equal(cold.kept[s].rows, last->rows, engine_rows_bytes(engine, 0, stops[s]));

    /* Write to another sequence, while others keep their data. */
    for (size_t s = 0; s < COUNT_OF(stops); s++) {
        write_all(engine, 2, &cold, s, s % 2);
        assert_goes_on(engine, 2, &cold, s, 3, name, "in another sequence");
    }
    /* Go back in the sequence itself to earlier and earlier positions. It still has the rows. */
    for (size_t s = COUNT_OF(stops); s-- > 0;) {
        if (s % 2)
            engine_truncate(engine, 0, stops[s]);
        assert_int_equal(engine_rows_there(engine, 0) >= stops[s], true);
        assert_ok(engine_write_checkpoint(engine, 0, stops[s], cold.tokens, cold.kept[s].bytes, &test_error));
        assert_goes_on(engine, 0, &cold, s, AFTER, name, "where it was before");
        if (!needs)
            assert_true(engine_truncate(engine, 0, stops[s]));
    }
    engine_close(engine);

    /* Write to a newly opened model. The rows of a longer run begin with those of a shorter one. */
    engine = open_engine(name, type, 1, 1);
    assert_ok(engine_state_digest(&digest, engine, &test_error));
    assert_true(digest == cold.digest);
    for (size_t s = 0; s < COUNT_OF(stops); s += 2) {
        write_all(engine, 0, &cold, s, !(s % 2));
        assert_goes_on(engine, 0, &cold, s, 1, name, "in a newly opened model");
    }
    engine_close(engine);
    free_cold(&cold);
}

static void same_bits_from_kept_data(void **state)
{
    (void)state;
    /* Models with heads of one and of several kinds, latent rows, windows, three kinds of recurrence, and experts. */
    static const char *const names[] = {"qwen3",     "q-llama-Q8_0", "deepseek2-v3", "gemma2",  "gpt-oss",
                                        "mamba-rms", "qwen3next",    "qwen35",       "embedded"};
    for (size_t m = 0; m < COUNT_OF(names); m++)
        check_model(names[m], TENSOR_F16);
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_Q8_0};
    static const char *const typed[] = {"llama", "gemma2", "qwen3next"};
    for (size_t m = 0; m < COUNT_OF(typed); m++)
        for (size_t t = 0; t < COUNT_OF(types); t++)
            check_model(typed[m], types[t]);
}

/* Models of the whole reference set, if it is present: with an index, with rows that represent several positions, with
 * tables of n-grams, and with two kinds of data in one layer. */
static void same_bits_for_the_larger_set(void **state)
{
    (void)state;
    static const char *const names[] = {"glm-dsa", "hy-v4",   "minimax-m3", "deepseek4", "qwen4exp",
                                        "jamba",   "kimi-k3", "falcon-h1",  "lfm2-swa",  "gemma3n"};
    const char *folder = getenv("HYPURA_ORACLE");
    char path[4096];
    for (size_t m = 0; folder && m < COUNT_OF(names); m++) {
        snprintf(path, sizeof path, "%s/models/%s.gguf", folder, names[m]);
        check_model(path, TENSOR_F16);
    }
}

/* Other sequences continue from shared rows, in any order, while the sequence that owns these reads another text. */
static void check_sharing(const char *name, enum tensor_type type)
{
    struct cold cold;
    struct engine *engine = open_engine(name, type, 4, 2);
    const size_t stop = 6; /* position 576 */
    const uint32_t end = stops[stop];
    size_t vocabulary = vocabulary_of(engine);
    run_cold(&cold, engine);
    assert_int_equal(end % PLAN_KV_BLOCK, 0);
    for (int round = 0; round < 2; round++) {
        for (uint32_t s = 1; s < 4; s++) {
            /* The third shares rows of a sequence that itself shares them. */
            assert_ok(engine_share_rows(engine, s, s == 3 ? 2 : 0, end, &test_error));
            assert_int_equal(engine_positions(engine, s), 0);
            assert_int_equal(engine_rows_there(engine, s), end);
            assert_ok(engine_write_checkpoint(engine, s, end, cold.tokens, cold.kept[stop].bytes, &test_error));
        }
        assert_goes_on(engine, 1, &cold, stop, 3, name, "after rows of another sequence");
        /* The first sequence goes back and reads another text, from the middle of a block and from the start. */
        int32_t others[300];
        for (size_t i = 0; i < COUNT_OF(others); i++)
            others[i] = cold.tokens[i] ^ 1;
        float *logits = calloc(COUNT_OF(others) * vocabulary, sizeof *logits);
        assert_ok(engine_write_checkpoint(engine, 0, stops[3], cold.tokens, cold.kept[3].bytes, &test_error));
        assert_goes_on(engine, 0, &cold, 3, 2, name, "while other sequences share its rows");
        if (round)
            engine_truncate(engine, 0, 0);
        feed(engine, 0, others, COUNT_OF(others), 70, logits);
        free(logits);
        assert_goes_on(engine, 2, &cold, stop, 1, name, "after the first sequence read another text");
        assert_goes_on(engine, 3, &cold, stop, AFTER, name, "with rows that another sequence shares");
        uint8_t *rows = malloc(engine_rows_bytes(engine, 0, end));
        assert_ok(engine_read_rows(engine, 3, 0, end, rows, &test_error));
        assert_memory_equal(rows, cold.kept[stop].rows, engine_rows_bytes(engine, 0, end));
        free(rows);
        write_all(engine, 0, &cold, COUNT_OF(stops) - 1, round);
        assert_goes_on(engine, 0, &cold, COUNT_OF(stops) - 1, 1, name, "after another text");
    }
    engine_close(engine);
    free_cold(&cold);
}

static void sequences_share_rows(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen3", "deepseek2-v3", "gpt-oss", "qwen3next"};
    for (size_t m = 0; m < COUNT_OF(names); m++)
        check_sharing(names[m], TENSOR_F16);
    check_sharing("gemma2", TENSOR_Q8_0);
    check_sharing("llama", TENSOR_F32);
}

/* Eight sequences with a common beginning take hardly more memory than one. */
static void a_shared_beginning_takes_memory_once(void **state)
{
    (void)state;
    enum { LONG = 4032, OWN = 24, SEQUENCES = 8 };
    static int32_t tokens[LONG + OWN];
    struct engine_options options;
    struct engine *engine;
    struct synth_options synth;
    char path[] = "/tmp/hypura-test-XXXXXX";
    close(mkstemp(path));
    synth_default_options(&synth, synth_preset("tiny-dense"));
    synth.geometry.layers = 3;
    assert_ok(synth_write(path, &synth, NULL, NULL, &test_error));
    engine_default_options(&options);
    options.context = 4096;
    options.sequences = SEQUENCES;
    options.gpu = "none";
    options.kv_type = TENSOR_F32;
    assert_ok(engine_open(&engine, path, &options, &test_error));
    for (size_t i = 0; i < COUNT_OF(tokens); i++)
        tokens[i] = (int32_t)(i * 7 % 300);
    const uint64_t prefix = engine_rows_bytes(engine, 0, LONG);
    pass_over(engine, 0, tokens, LONG, 256); /* also touches the buffers */
    uint64_t before = memory_resident_bytes();
    for (uint32_t s = 1; s < SEQUENCES; s++) {
        assert_ok(engine_share_rows(engine, s, 0, LONG, &test_error));
        assert_ok(engine_write_checkpoint(engine, s, LONG, tokens, NULL, &test_error));
        pass_over(engine, s, tokens, LONG + OWN, OWN);
    }
    uint64_t more = memory_resident_bytes() - before;
    print_message("# a beginning of %.1f MiB, shared by seven more: %.1f MiB more\n", (double)prefix / 1048576,
                  (double)more / 1048576);
    assert_true(SANITIZED || more < prefix * 3 / 10);
    engine_close(engine);
    unlink(path);
}

#define assert_refused(call, words)                                                                                    \
    do {                                                                                                               \
        assert_int_equal(call, HYPURA_ERROR_ARGUMENT);                                                                 \
        assert_non_null(strstr(test_error.message, words));                                                            \
    } while (0)

static void impossible_requests_are_refused(void **state)
{
    (void)state;
    static const int32_t tokens[100] = {1, 2, 3};
    struct engine *engine = open_engine("qwen35", TENSOR_F16, 2, 1);
    uint8_t *rows = calloc(1, engine_rows_bytes(engine, 0, CONTEXT));
    uint8_t *checkpoint = calloc(1, engine_checkpoint_bytes(engine));
    assert_int_equal(engine_rows_bytes(engine, 5, 5), 0);
    assert_int_equal(engine_rows_bytes(engine, 0, CONTEXT + 1), 0);
    pass_over(engine, 0, tokens, 100, 50);
    assert_refused(engine_read_rows(engine, 2, 0, 1, rows, &test_error), "no sequence 2: there are 2");
    assert_refused(engine_read_rows(engine, 0, 0, 101, rows, &test_error), "the sequence has 100");
    assert_refused(engine_read_rows(engine, 0, 9, 8, rows, &test_error), "positions 9 to 8");
    assert_refused(engine_read_checkpoint(engine, 7, checkpoint, &test_error), "sequence 7");
    assert_refused(engine_share_rows(engine, 1, 0, 63, &test_error), "whole blocks of 64");
    assert_refused(engine_share_rows(engine, 1, 0, 128, &test_error), "which has 100");
    assert_refused(engine_share_rows(engine, 0, 0, 64, &test_error), "sequence 0, which");
    assert_refused(engine_write_rows(engine, 1, 1, 2, rows, &test_error), "the sequence has 0");
    assert_refused(engine_write_rows(engine, 0, 0, CONTEXT + 1, rows, &test_error), "at most 1024 are possible");
    assert_refused(engine_write_checkpoint(engine, 0, 101, tokens, checkpoint, &test_error), "has 100 rows");
    assert_refused(engine_write_checkpoint(engine, 0, 100, tokens, NULL, &test_error), "needs a checkpoint");
    assert_int_equal(engine_positions(engine, 0), 100);
    /* Rows that a batch overwrote are gone. */
    assert_false(engine_truncate(engine, 0, 90));
    assert_int_equal(engine_rows_there(engine, 0), 90);
    pass_over(engine, 0, tokens, 20, 50);
    assert_refused(engine_write_checkpoint(engine, 0, 90, tokens, checkpoint, &test_error), "has 20 rows");
    free(rows);
    free(checkpoint);
    engine_close(engine);
}

static uint64_t digest_of(const char *name, enum tensor_type type)
{
    uint64_t digest;
    struct engine *engine = open_engine(name, type, 1, 1);
    assert_ok(engine_state_digest(&digest, engine, &test_error));
    engine_close(engine);
    return digest;
}

/* A file with the same layout but other weights is a different model. */
static void digests_tell_models_apart(void **state)
{
    (void)state;
    char copy[] = "/tmp/hypura-test-XXXXXX";
    uint64_t usual = digest_of("llama", TENSOR_F16);
    assert_true(usual == digest_of("llama", TENSOR_F16));
    assert_true(usual != digest_of("llama", TENSOR_Q8_0));
    assert_true(usual != digest_of("mistral3", TENSOR_F16));
    FILE *from = fopen(model_path("llama"), "rb"), *to = fdopen(mkstemp(copy), "wb");
    for (int byte; (byte = fgetc(from)) != EOF;)
        fputc(byte, to);
    fclose(from);
    fclose(to);
    assert_true(usual == digest_of(copy, TENSOR_F16));
    struct model *model;
    assert_ok(model_open(&model, copy, &test_error));
    const struct gguf *file = model_file(model);
    const struct gguf_tensor *tensor = gguf_tensor_find(file, "blk.1.attn_q.weight");
    assert_non_null(tensor);
    to = fopen(copy, "r+b");
    fseek(to, (long)tensor->offset, SEEK_SET);
    for (uint64_t i = 0; i < tensor->bytes; i++)
        fputc(0, to);
    fclose(to);
    model_close(model);
    assert_true(usual != digest_of(copy, TENSOR_F16));
    unlink(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_from_kept_data),
        cmocka_unit_test(same_bits_for_the_larger_set),
        cmocka_unit_test(sequences_share_rows),
        cmocka_unit_test(a_shared_beginning_takes_memory_once),
        cmocka_unit_test(impossible_requests_are_refused),
        cmocka_unit_test(digests_tell_models_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
