#include "folder.h"

#include "compute/compute.h"
#include "format/format.h"
#include "model/model.h"
#include "tokenizer/vocabulary.h"
#include "tools/synth.h"

#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct synth_options preset_options(const char *name)
{
    struct synth_options options;
    const struct synth_preset *preset = synth_preset(name);
    assert_non_null(preset);
    synth_default_options(&options, preset);
    return options;
}

static unsigned char *read_data(const struct gguf *file, const struct gguf_tensor *tensor)
{
    unsigned char *data;
    assert_ok(ALLOCATE(&data, tensor->bytes, "tensor", &test_error));
    FILE *stream = fopen(gguf_file_path(file, tensor->file), "rb");
    assert_non_null(stream);
    assert_int_equal(fseek(stream, (long)tensor->offset, SEEK_SET), 0);
    assert_int_equal(fread(data, 1, tensor->bytes, stream), tensor->bytes);
    fclose(stream);
    return data;
}

static float *read_floats(const struct gguf *file, const char *name, uint64_t *count)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(file, name);
    assert_non_null(tensor);
    unsigned char *data = read_data(file, tensor);
    *count = 1;
    for (uint32_t i = 0; i < tensor->dimension_count; i++)
        *count *= tensor->dimensions[i];
    float *values;
    assert_ok(ALLOCATE(&values, *count, "values", &test_error));
    compute_dequantize(tensor->type, data, values, *count);
    memory_free(data);
    return values;
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

static void weights_of_every_type_have_the_requested_deviation(void **state)
{
    (void)state;
    struct buffer names = {0};
    assert_ok(synth_type_names(&names, &test_error));
    size_t seen = 0;
    for (char *rest = names.data, *name; (name = strtok_r(rest, ", ", &rest));) {
        struct synth_options options = preset_options("tiny-moe");
        options.geometry.layers = 2;
        options.geometry.vocabulary = 512;
        options.type = name;
        const char *path = path_in_folder("type.gguf");
        assert_ok(synth_write(path, &options, NULL, NULL, &test_error));
        struct gguf *file;
        assert_ok(gguf_open(&file, path, &test_error));
        uint64_t count;
        float *values = read_floats(file, "blk.1.ffn_gate_exps.weight", &count);
        double sum = 0, squares = 0;
        for (uint64_t i = 0; i < count; i++) {
            sum += (double)values[i];
            squares += (double)values[i] * (double)values[i];
        }
        double deviation = sqrt(squares / (double)count) * sqrt(options.geometry.embedding);
        double mean = sum / (double)count / sqrt(squares / (double)count);
        if (fabs(deviation - 1) > 0.02 || fabs(mean) > 0.02)
            fail_msg("%s: the deviation is %g of the requested one, the mean %g deviations", name, deviation, mean);
        memory_free(values);

        /* The end of every embedding row is nearly constant, which attention by distance needs. */
        values = read_floats(file, "token_embd.weight", &count);
        double first = 0, spread = 0;
        uint64_t columns = options.geometry.embedding, rows = count / columns;
        for (uint64_t row = 0; row < rows; row++) {
            double tail = 0;
            for (uint64_t i = columns - 32; i < columns; i++)
                tail += (double)values[row * columns + i];
            assert_true(tail > 0);
            first += tail / (double)rows;
            spread += tail * tail / (double)rows;
        }
        if (spread / (first * first) - 1 > 0.06 * 0.06)
            fail_msg("%s: embedding tails vary by %g of their mean", name, sqrt(spread / (first * first) - 1));
        memory_free(values);
        gguf_close(file);
        seen++;
    }
    buffer_free(&names);
    assert_int_equal(seen, 28);
}

static uint64_t hash_of(const char *path)
{
    uint64_t hash = FNV1A_START;
    char piece[4096];
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    for (size_t size; (size = fread(piece, 1, sizeof piece, stream)) > 0;)
        hash = fnv1a(hash, piece, size);
    fclose(stream);
    return hash;
}

static void same_options_give_the_same_bytes(void **state)
{
    (void)state;
    struct synth_options options = preset_options("tiny-mixtral");
    options.threads = 1;
    assert_ok(synth_write(path_in_folder("one.gguf"), &options, NULL, NULL, &test_error));
    options.threads = 3;
    assert_ok(synth_write(path_in_folder("three.gguf"), &options, NULL, NULL, &test_error));
    options.seed++;
    assert_ok(synth_write(path_in_folder("other.gguf"), &options, NULL, NULL, &test_error));
    assert_int_equal(hash_of(path_in_folder("one.gguf")), hash_of(path_in_folder("three.gguf")));
    assert_int_not_equal(hash_of(path_in_folder("one.gguf")), hash_of(path_in_folder("other.gguf")));
}

static void no_two_experts_are_alike(void **state)
{
    (void)state;
    struct synth_options options = preset_options("tiny-moe");
    options.type = "Q8_0";
    const char *path = path_in_folder("experts.gguf");
    assert_ok(synth_write(path, &options, NULL, NULL, &test_error));
    struct gguf *file;
    assert_ok(gguf_open(&file, path, &test_error));
    static const char *const names[] = {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight",
                                        "blk.3.ffn_gate_exps.weight"};
    unsigned char *data[3];
    size_t bytes = gguf_tensor_find(file, names[0])->bytes / options.geometry.experts;
    for (size_t i = 0; i < 3; i++)
        data[i] = read_data(file, gguf_tensor_find(file, names[i]));
    for (size_t a = 0; a < 3 * options.geometry.experts; a++)
        for (size_t b = 0; b < a; b++)
            assert_memory_not_equal(data[a / options.geometry.experts] + a % options.geometry.experts * bytes,
                                    data[b / options.geometry.experts] + b % options.geometry.experts * bytes, bytes);
    for (size_t i = 0; i < 3; i++)
        memory_free(data[i]);
    gguf_close(file);
}

/* ---- routers ----------------------------------------------------------------------------------------------------- */

/* The entropy of expert use for random states, relative to its maximum. */
static double router_entropy(float skew, double *favourite)
{
    enum { TOKENS = 3000 };
    struct synth_options options = preset_options("tiny-moe");
    options.skew = skew;
    const char *path = path_in_folder("router.gguf");
    assert_ok(synth_write(path, &options, NULL, NULL, &test_error));
    struct gguf *file;
    assert_ok(gguf_open(&file, path, &test_error));
    uint64_t count;
    float *rows = read_floats(file, "blk.1.ffn_gate_inp.weight", &count);
    uint32_t experts = options.geometry.experts, used = options.geometry.experts_used;
    uint32_t columns = options.geometry.embedding, uses[64] = {0};
    struct random random;
    random_seed(&random, 5);
    for (int token = 0; token < TOKENS; token++) {
        double logits[64] = {0};
        for (uint32_t i = 0; i < columns; i++) {
            double x = random_normal(&random);
            for (uint32_t e = 0; e < experts; e++)
                logits[e] += x * (double)rows[e * columns + i];
        }
        for (uint32_t k = 0; k < used; k++) {
            uint32_t best = 0;
            for (uint32_t e = 1; e < experts; e++)
                best = logits[e] > logits[best] ? e : best;
            logits[best] = -INFINITY;
            uses[best]++;
        }
    }
    double entropy = 0;
    uint32_t most = 0;
    for (uint32_t e = 0; e < experts; e++) {
        double share = (double)uses[e] / (TOKENS * used);
        entropy -= share > 0 ? share * log(share) : 0;
        most = MAX(most, uses[e]);
    }
    *favourite = (double)most / TOKENS;
    memory_free(rows);
    gguf_close(file);
    return entropy / log(experts);
}

static void skew_makes_expert_use_uneven(void **state)
{
    (void)state;
    double favourite[3];
    double even = router_entropy(0, &favourite[0]);
    double some = router_entropy(0.5f, &favourite[1]);
    double strong = router_entropy(1.2f, &favourite[2]);
    assert_true(even > 0.98);
    assert_true(some < even && strong < some);
    assert_true(strong < 0.95);
    assert_true(favourite[0] < 0.36 && favourite[1] > favourite[0] && favourite[2] > 0.4);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static void every_preset_is_a_model(void **state)
{
    (void)state;
    for (size_t i = 0; i < synth_preset_count(); i++) {
        const struct synth_preset *preset = synth_preset_at(i);
        assert_ptr_equal(synth_preset(preset->name), preset);
        if (preset->recipe)
            continue;
        /* Keep the preset's architecture and mixture, but make it small. */
        struct synth_options options = preset_options(preset->name);
        options.geometry.layers = 2;
        options.geometry.embedding = 256;
        options.geometry.heads = options.geometry.heads / options.geometry.kv_heads * 2;
        options.geometry.kv_heads = 2;
        options.geometry.feed_forward = 256;
        options.geometry.vocabulary = MIN(options.geometry.vocabulary, 1000);
        const char *path = path_in_folder("preset.gguf");
        assert_ok(synth_write(path, &options, NULL, NULL, &test_error));
        struct model *model;
        assert_ok(model_open(&model, path, &test_error));
        assert_int_equal(model_parameters(model)->layers, 2);
        assert_int_equal(model_parameters(model)->experts, preset->geometry.experts);
        struct vocabulary *vocabulary;
        assert_ok(vocabulary_open(&vocabulary, model_file(model), &test_error));
        vocabulary_close(vocabulary);
        model_close(model);
    }
    assert_null(synth_preset("gpt-5"));
    assert_non_null(synth_preset("Mixtral-8x7B"));
}

static bool is_known(const char *architecture)
{
    for (size_t i = 0; i < architecture_count(); i++)
        if (strcmp(architecture_at(i)->name, architecture) == 0)
            return true;
    return false;
}

/* Headers of models with published geometries, and with fewer layers. */
static void headers_alone_are_models(void **state)
{
    (void)state;
    static const uint32_t depths[] = {0, 9};
    size_t recipes = 0;
    for (size_t i = 0; i < synth_preset_count(); i++)
        for (size_t d = 0; synth_preset_at(i)->recipe && d < COUNT_OF(depths); d++) {
            struct synth_options options = preset_options(synth_preset_at(i)->name);
            options.geometry.layers = depths[d] ? depths[d] : options.geometry.layers;
            int descriptor;
            char path[32];
            uint64_t bytes;
            struct gguf *file;
            struct model *model;
            assert_ok(synth_bytes(&bytes, &options, &test_error));
            assert_ok(synth_header(&descriptor, path, sizeof path, &options, &test_error));
            assert_ok(gguf_open(&file, path, &test_error));
            assert_in_range(gguf_file_bytes(file, 0), bytes, bytes + ((uint64_t)64 << 20));
            gguf_close(file);
            hypura_status status = model_open(&model, path, &test_error);
            if (!is_known(options.geometry.architecture)) {
                assert_int_equal(status, HYPURA_ERROR_UNSUPPORTED);
            } else {
                assert_ok(status);
                const struct model_parameters *p = model_parameters(model);
                assert_int_equal(p->layers, options.geometry.layers);
                assert_int_equal(p->experts, options.geometry.experts);
                assert_int_equal(p->experts_used, options.geometry.experts_used);
                assert_int_equal(p->vocabulary, options.geometry.vocabulary);
                model_close(model);
            }
            close(descriptor);
            recipes++;
        }
    assert_true(recipes >= 16);
}

/* llama.cpp accepts signed integers for unsigned ones, but no other width. */
static bool is_typed_alike(const struct gguf_value *a, const struct gguf_value *b)
{
    static const bool is_float[] = {[GGUF_FLOAT32] = true, [GGUF_FLOAT64] = true};
    enum gguf_value_type x = a->type == GGUF_ARRAY ? a->element_type : a->type;
    enum gguf_value_type y = b->type == GGUF_ARRAY ? b->element_type : b->type;
    if (x == GGUF_STRING || y == GGUF_STRING || x == GGUF_BOOL || y == GGUF_BOOL)
        return x == y;
    bool wide = x == GGUF_UINT64 || x == GGUF_INT64, as_wide = y == GGUF_UINT64 || y == GGUF_INT64;
    return is_float[x] == is_float[y] && wide == as_wide;
}

/* llama.cpp refuses files with wider values, or with single values instead of arrays. So a preset's keys have the types
 * of a reference model. */
static void keys_have_the_types_of_the_references(void **state)
{
    (void)state;
    const char *whole = getenv("HYPURA_ORACLE");
    char pattern[4200];
    snprintf(pattern, sizeof pattern, "%s/models/*.gguf", whole && *whole ? whole : test_data("oracle"));
    glob_t found;
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    size_t compared = 0;
    for (size_t i = 0; i < synth_preset_count(); i++) {
        struct synth_options options = preset_options(synth_preset_at(i)->name);
        int descriptor;
        char path[32];
        struct gguf *file;
        assert_ok(synth_header(&descriptor, path, sizeof path, &options, &test_error));
        assert_ok(gguf_open(&file, path, &test_error));
        for (size_t f = 0; f < found.gl_pathc; f++) {
            struct gguf *reference;
            struct gguf_string name;
            assert_ok(gguf_open(&reference, found.gl_pathv[f], &test_error));
            bool same = gguf_get_string(reference, "general.architecture", &name) &&
                        strlen(options.geometry.architecture) == name.size &&
                        memcmp(name.data, options.geometry.architecture, name.size) == 0;
            for (size_t v = 0; same && v < gguf_value_count(reference); v++) {
                const struct gguf_value *its = gguf_value_at(reference, v);
                char key[256];
                snprintf(key, sizeof key, "%.*s", (int)its->key.size, its->key.data);
                const struct gguf_value *ours = gguf_find(file, key);
                if (ours && !is_typed_alike(ours, its))
                    fail_msg("%s: \"%s\" has type %d (elements %d), but %s has %d (elements %d)",
                             synth_preset_at(i)->name, key, (int)ours->type, (int)ours->element_type, found.gl_pathv[f],
                             (int)its->type, (int)its->element_type);
                compared += ours != NULL;
            }
            gguf_close(reference);
        }
        gguf_close(file);
        close(descriptor);
    }
    globfree(&found);
    assert_true(compared >= 100);
}

static void sizes_match_published_files(void **state)
{
    (void)state;
    static const struct {
        const char *preset, *type;
        double gigabytes;
    } known[] = {
        {"llama-70b", "Q4_K_M", 42.52},     {"llama-8b", "Q4_K_M", 4.92},          {"mixtral-8x7b", "Q4_K_M", 28.45},
        {"qwen3.5-9b", "F16", 17.91}, /* 8.95e9 parameters */
        {"mixtral-8x7b", "Q5_K_M", 33.23},  {"mistral-7b", "Q4_K_M", 4.37},        {"qwen3-30b-a3b", "Q4_K_M", 18.56},
        {"gpt-oss-20b", "MXFP4", 12.1},     {"qwen3.8-flash-next", "Q4_K_M", 103}, {"deepseek-v4-flash", "MXFP4", 156},
        {"kimi-k3", "F16", 5560},           /* 2.78e12 parameters */
        {"nemotron-3-super", "F16", 241.2}, /* 120.6e9 parameters */
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        struct synth_options options = preset_options(known[i].preset);
        options.type = known[i].type;
        uint64_t bytes;
        assert_ok(synth_bytes(&bytes, &options, &test_error));
        double ratio = (double)bytes / 1e9 / known[i].gigabytes;
        if (ratio < 0.98 || ratio > 1.02)
            fail_msg("%s %s: %g GB, but the published file has %g GB", known[i].preset, known[i].type,
                     (double)bytes / 1e9, known[i].gigabytes);
    }
}

static void vocabularies_are_complete(void **state)
{
    (void)state;
    static const char *const presets[] = {"mistral-7b", "llama-8b", "qwen3-8b", "gpt-oss-20b"};
    for (size_t i = 0; i < COUNT_OF(presets); i++) {
        struct synth_options options = preset_options(presets[i]);
        uint32_t wanted = options.geometry.vocabulary;
        options.geometry.layers = 1;
        options.geometry.embedding = 256;
        options.geometry.feed_forward = 64;
        options.type = "Q4_0";
        const char *path = path_in_folder("vocabulary.gguf");
        assert_ok(synth_write(path, &options, NULL, NULL, &test_error));
        struct gguf *file;
        assert_ok(gguf_open(&file, path, &test_error));
        const struct gguf_value *tokens = gguf_find(file, "tokenizer.ggml.tokens");
        const struct gguf_value *merges = gguf_find(file, "tokenizer.ggml.merges");
        assert_int_equal(tokens->count, wanted);
        assert_int_equal(gguf_find(file, "tokenizer.ggml.token_type")->count, wanted);
        assert_int_equal(merges == NULL, i == 0);
        const struct gguf_string *list = tokens->data;
        /* A merge's text without its space is a token. Merges are in the order of the tokens that they make. */
        size_t token = 0;
        for (uint64_t j = 0; merges && j < merges->count; j++) {
            const struct gguf_string *merge = (const struct gguf_string *)merges->data + j;
            const char *space = memchr(merge->data, ' ', merge->size);
            assert_non_null(space);
            char text[64];
            size_t left = (size_t)(space - merge->data);
            memcpy(text, merge->data, left);
            memcpy(text + left, space + 1, merge->size - left - 1);
            while (token < tokens->count &&
                   (list[token].size != merge->size - 1 || memcmp(list[token].data, text, merge->size - 1) != 0))
                token++;
            assert_true(token < tokens->count);
        }
        gguf_close(file);
    }
}

static bool stop_at_once(void *context, uint64_t done, uint64_t total)
{
    assert_true(done <= total);
    ++*(int *)context;
    return false;
}

static void a_stopped_file_is_removed(void **state)
{
    (void)state;
    struct synth_options options = preset_options("tiny-dense");
    int calls = 0;
    assert_int_equal(synth_write(path_in_folder("stopped.gguf"), &options, stop_at_once, &calls, &test_error),
                     HYPURA_ERROR_CANCELLED);
    assert_int_equal(calls, 1);
    assert_int_equal(access(path_in_folder("stopped.gguf"), F_OK), -1);
    assert_int_equal(access(path_in_folder("stopped.gguf.partial"), F_OK), -1);
}

static void impossible_geometries_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *preset, *words;
        uint32_t embedding, heads, vocabulary, experts, experts_used;
        const char *architecture, *type;
        float skew;
    } bad[] = {
        {"tiny-dense", "embedding", .embedding = 100},
        {"tiny-dense", "heads", .heads = 3},
        {"tiny-dense", "vocabulary", .vocabulary = 100},
        {"tiny-dense", "gpt-4", .architecture = "gpt-4"},
        {"tiny-dense", "needs experts", .architecture = "qwen3moe"},
        {"tiny-dense", "Q9_9", .type = "Q9_9"},
        {"tiny-dense", "I32", .type = "I32"},
        {"tiny-moe", "experts used", .experts_used = 17},
        {"tiny-moe", "mixture of experts", .embedding = 128},
        {"tiny-moe", "skew", .experts_used = 8, .skew = 0.5f},
        {"tiny-moe", "has no experts", .architecture = "qwen2"},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct synth_options options = preset_options(bad[i].preset);
        struct synth_geometry *g = &options.geometry;
        g->embedding = bad[i].embedding ? bad[i].embedding : g->embedding;
        g->heads = bad[i].heads ? bad[i].heads : g->heads;
        g->vocabulary = bad[i].vocabulary ? bad[i].vocabulary : g->vocabulary;
        g->experts_used = bad[i].experts_used ? bad[i].experts_used : g->experts_used;
        g->architecture = bad[i].architecture ? bad[i].architecture : g->architecture;
        options.type = bad[i].type ? bad[i].type : options.type;
        options.skew = bad[i].skew > 0 ? bad[i].skew : options.skew;
        assert_int_equal(synth_write(path_in_folder("bad.gguf"), &options, NULL, NULL, &test_error),
                         HYPURA_ERROR_ARGUMENT);
        if (!strstr(test_error.message, bad[i].words))
            fail_msg("the error does not contain \"%s\": %s", bad[i].words, test_error.message);
    }
    struct synth_options huge = preset_options("qwen3-235b-a22b");
    huge.geometry.layers = 1000;
    huge.geometry.experts = 4096;
    assert_int_equal(synth_write(path_in_folder("huge.gguf"), &huge, NULL, NULL, &test_error), HYPURA_ERROR_IO);
    assert_non_null(strstr(test_error.message, "free"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_of_every_type_have_the_requested_deviation),
        cmocka_unit_test(same_options_give_the_same_bytes),
        cmocka_unit_test(no_two_experts_are_alike),
        cmocka_unit_test(skew_makes_expert_use_uneven),
        cmocka_unit_test(every_preset_is_a_model),
        cmocka_unit_test(headers_alone_are_models),
        cmocka_unit_test(keys_have_the_types_of_the_references),
        cmocka_unit_test(sizes_match_published_files),
        cmocka_unit_test(vocabularies_are_complete),
        cmocka_unit_test(a_stopped_file_is_removed),
        cmocka_unit_test(impossible_geometries_are_refused),
    };
    return cmocka_run_group_tests_name("synth", tests, make_folder, remove_folder);
}
