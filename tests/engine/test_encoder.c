/* Embeddings of small encoders, from every tier, compared with llama.cpp's vectors; and embeddings of models that
 * generate text. */
#include "copy_model.h"
#include "folder.h"
#include "reference.h"

#include "engine/prompt.h"

#include <jansson.h>

/* The reference takes GELU from a table of half-precision numbers. Scores of random classifiers amplify the error. */
static const struct {
    const char *name;
    double tolerance;
} encoders[] = {{"bert", 1e-3},
                {"nomic-bert", 1e-5},
                {"nomic-bert-moe", 1e-3},
                {"jina-bert-v2", 1e-3},
                {"modern-bert", 1e-3},
                {"modern-bert-silu", 1e-5},
                {"gemma-embedding", 1e-3},
                {"jina-bert-v2-rank", 5e-3},
                {"modern-bert-rank", 5e-3},
                {"qwen3-rank", 1e-3}};

static struct engine *open_model(const char *path, bool smallest, uint32_t chunk)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.threads = smallest ? 1 : 2;
    options.context = 512;
    options.chunk = chunk;
    if (smallest)
        return open_smallest(path, &options);
    assert_ok(engine_open(&engine, path, &options, &test_error));
    return engine;
}

static const char *encoder_path(const char *name, const char *ending)
{
    static char relative[256];
    snprintf(relative, sizeof relative, "embed/%s%s", name, ending);
    return test_data(relative);
}

static size_t embed(struct engine *engine, const char *text, float *out)
{
    const struct vocabulary *vocabulary;
    struct token_array tokens = {0};
    assert_ok(engine_vocabulary(&vocabulary, engine, &test_error));
    assert_ok(vocabulary_tokenize(vocabulary, text, strlen(text), TOKENIZE_ADD_SPECIAL, &tokens, &test_error));
    const bool judges = engine_judges(engine);
    assert_ok((judges ? engine_judge : engine_embed)(engine, tokens.ids, tokens.count, out, &test_error));
    token_array_free(&tokens);
    return judges ? 1 : model_parameters(engine_model(engine))->embedding;
}

static void agree_with_the_reference(void **state)
{
    (void)state;
    for (size_t e = 0; e < COUNT_OF(encoders); e++) {
        json_t *reference = json_load_file(encoder_path(encoders[e].name, ".json"), 0, NULL);
        assert_non_null(reference);
        struct engine *engine = open_model(encoder_path(encoders[e].name, ".gguf"), false, 0);
        struct engine *streaming = open_model(encoder_path(encoders[e].name, ".gguf"), true, 0);
        /* Sanitizers raise the smallest budget so far that these models fit in it, and some models are tiny. */
        assert_true(SANITIZED || model_bytes(engine_model(streaming)) < 256 << 10 ||
                    engine_plan(streaming)->mode != PLAN_FULL_RESIDENT);
        size_t i;
        json_t *text;
        json_array_foreach(json_object_get(reference, "texts"), i, text)
        {
            float found[64], streamed[64];
            double most = 0;
            size_t width = embed(engine, json_string_value(text), found);
            embed(streaming, json_string_value(text), streamed);
            assert_memory_equal(found, streamed, width * sizeof *found);
            const json_t *expected = json_array_get(json_object_get(reference, "embeddings"), i);
            assert_int_equal(json_array_size(expected), width);
            for (size_t d = 0; d < width; d++)
                most = fmax(most, fabs(json_real_value(json_array_get(expected, d)) - (double)found[d]));
            print_message("# %-17s %6.2g  %.40s\n", encoders[e].name, most, json_string_value(text));
            assert_true(most < encoders[e].tolerance);
        }
        engine_close(engine);
        engine_close(streaming);
        json_decref(reference);
    }
}

static void append(struct token_array *tokens, const struct vocabulary *vocabulary, int32_t before, const char *text)
{
    assert_ok(token_array_append(tokens, before, &test_error));
    assert_ok(vocabulary_tokenize(vocabulary, text, strlen(text), 0, tokens, &test_error));
}

/* Expects the tokens of a pair for the file's vocabulary and template. */
static void expect_pair(const struct gguf *file, const int32_t special[3], size_t count)
{
    static const char query[] = "the big [SEP] model", text[] = "hello {query} world";
    const struct prompt_pair pair = {query, strlen(query), text, strlen(text)};
    struct vocabulary *vocabulary;
    struct token_array found = {0}, expected = {0};
    assert_ok(vocabulary_open(&vocabulary, file, &test_error));
    assert_ok(prompt_tokenize_pair(vocabulary, file, &pair, NULL, &found, &test_error));
    append(&expected, vocabulary, special[0], query);
    append(&expected, vocabulary, special[1], text);
    if (count > 2)
        append(&expected, vocabulary, special[2], "");
    assert_int_equal(found.count, expected.count);
    assert_memory_equal(found.ids, expected.ids, found.count * sizeof *found.ids);
    token_array_free(&found);
    token_array_free(&expected);
    vocabulary_close(vocabulary);
}

/* Text from users yields no special tokens, and inserted text is not searched for placeholders. */
static void a_pair_has_only_its_special_tokens(void **state)
{
    (void)state;
    struct gguf *file;
    struct gguf_writer *writer;
    assert_ok(gguf_open(&file, encoder_path("modern-bert-rank", ".gguf"), &test_error));
    expect_pair(file, (const int32_t[3]){2, 3}, 2); /* [CLS], [SEP] */
    assert_ok(gguf_writer_create(&writer, path_in_folder("template.gguf"), 0, &test_error));
    copy_values(writer, file);
    assert_ok(gguf_writer_add_string(writer, "tokenizer.chat_template.rerank", "[MASK]{query}[SEP]{document}[PAD]",
                                     &test_error));
    const struct gguf_tensor *tensor = gguf_tensor_find(file, "token_embd.weight");
    uint8_t *data = read_tensor(file, tensor);
    assert_ok(gguf_writer_add_tensor(writer, tensor->name.data, tensor->type, tensor->dimension_count,
                                     tensor->dimensions, &test_error));
    assert_ok(gguf_writer_write(writer, data, tensor->bytes, &test_error));
    free(data);
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
    gguf_close(file);
    assert_ok(gguf_open(&file, path_in_folder("template.gguf"), &test_error));
    expect_pair(file, (const int32_t[3]){4, 3, 0}, 3);
    gguf_close(file);
}

static void classifiers_give_no_vectors(void **state)
{
    (void)state;
    const int32_t tokens[] = {2, 6, 3};
    float out[64];
    struct engine *engine = open_model(encoder_path("modern-bert-rank", ".gguf"), false, 0);
    assert_int_equal(engine_embed(engine, tokens, 3, out, &test_error), HYPURA_ERROR_UNSUPPORTED);
    assert_non_null(strstr(test_error.message, "rerank"));
    engine_close(engine);
    engine = open_model(encoder_path("modern-bert", ".gguf"), false, 0);
    assert_int_equal(engine_judge(engine, tokens, 3, out, &test_error), HYPURA_ERROR_UNSUPPORTED);
    assert_non_null(strstr(test_error.message, "no classifier"));
    engine_close(engine);
}

static void a_token_sees_what_follows(void **state)
{
    (void)state;
    struct engine *engine = open_model(encoder_path("bert", ".gguf"), false, 0);
    assert_int_equal(model_parameters(engine_model(engine))->pooling, POOLING_FIRST);
    float one[64], other[64];
    size_t width = embed(engine, "hello world", one);
    embed(engine, "hello disk", other);
    assert_memory_not_equal(one, other, width * sizeof *one);
    engine_close(engine);
}

static void encoders_generate_no_text(void **state)
{
    (void)state;
    struct engine *engine = open_model(encoder_path("nomic-bert", ".gguf"), false, 0);
    int32_t tokens[] = {2, 6, 3};
    uint32_t positions[] = {0, 1, 2};
    bool want[] = {false, false, true};
    struct engine_batch batch = {.count = 3, .tokens = tokens, .positions = positions, .want_logits = want};
    assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_UNSUPPORTED);
    assert_non_null(strstr(test_error.message, "is an encoder"));
    batch.want_logits = NULL;
    assert_ok(engine_forward(engine, &batch, &test_error));
    for (size_t i = 0; i < 3; i++)
        positions[i] += 3;
    assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "one batch"));
    engine_close(engine);
}

/* A model that generates text also gives embeddings, which do not depend on the division into batches. */
static void any_model_embeds(void **state)
{
    (void)state;
    float whole[256], cut[256];
    struct engine *engine = open_model(model_path("qwen3"), false, 0);
    assert_int_equal(model_parameters(engine_model(engine))->pooling, POOLING_MEAN);
    size_t width = embed(engine, "The model is larger than the memory of this machine.", whole);
    double length = 0;
    for (size_t d = 0; d < width; d++)
        length += (double)whole[d] * (double)whole[d];
    assert_true(fabs(length - 1) < 1e-5);
    engine_close(engine);
    engine = open_model(model_path("qwen3"), false, 3);
    embed(engine, "The model is larger than the memory of this machine.", cut);
    assert_memory_equal(whole, cut, width * sizeof *whole);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agree_with_the_reference),
        cmocka_unit_test(classifiers_give_no_vectors),
        cmocka_unit_test_setup_teardown(a_pair_has_only_its_special_tokens, make_folder, remove_folder),
        cmocka_unit_test(a_token_sees_what_follows),
        cmocka_unit_test(encoders_generate_no_text),
        cmocka_unit_test(any_model_embeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
