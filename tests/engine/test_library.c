/* The library as other programs meet it: its public header alone, and the shared object. */
#include <hypura/hypura.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static hypura_error problem;

#define assert_done(call)                                                                                              \
    do {                                                                                                               \
        if ((call) != HYPURA_OK)                                                                                       \
            fail_msg("%s: %s", #call, problem.message);                                                                \
    } while (0)

static const char question[] = "[{\"role\": \"user\", \"content\": \"What does the ls command do?\"}]";

static const char *embedded_model(void)
{
    static char path[4096];
    const char *folder = getenv("HYPURA_MODELS");
    snprintf(path, sizeof path, "%s/manpage-moe-24m-Q4_K_M.gguf", folder ? folder : "models");
    return path;
}

static hypura_model *open_model(uint64_t memory)
{
    hypura_options options;
    hypura_model *model = NULL;
    hypura_default_options(&options);
    options.memory = memory;
    options.context = 256;
    options.gpu = "none";
    assert_done(hypura_open(&model, embedded_model(), &options, &problem));
    return model;
}

struct text {
    char bytes[4096];
    size_t size, pieces, most;
    hypura_model *cancel;
};

static bool collect(void *context, const char *bytes, size_t size)
{
    struct text *text = context;
    assert_true(text->size + size < sizeof text->bytes);
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    text->bytes[text->size] = '\0';
    text->pieces++;
    if (text->cancel && text->pieces == text->most)
        hypura_cancel(text->cancel);
    return text->cancel || text->most == 0 || text->pieces < text->most;
}

static hypura_generation greedy(struct text *text)
{
    hypura_generation how;
    hypura_default_generation(&how);
    how.temperature = 0;
    how.max_tokens = 24;
    how.on_text = collect;
    how.context = text;
    return how;
}

static void a_chat_is_answered_whatever_the_memory(void **state)
{
    (void)state;
    struct text texts[2] = {0};
    hypura_statistics statistics[2];
    for (int small = 0; small < 2; small++) {
        hypura_model *model = open_model(small ? 12 << 20 : 0);
        hypura_generation how = greedy(&texts[small]);
        assert_string_equal(hypura_model_name(model), "Manpage MoE 24M");
        assert_non_null(strstr(hypura_plan(model), small ? "expert-streaming" : "full-resident"));
        assert_done(hypura_chat(model, question, &how, &problem));
        hypura_get_statistics(model, &statistics[small]);
        hypura_close(model);
    }
    assert_memory_equal(texts[0].bytes, "ls - list directory contents", 28);
    assert_string_equal(texts[0].bytes, texts[1].bytes);
    assert_true(statistics[0].bytes_storage == 0 && statistics[1].bytes_storage > 0);
    assert_true(statistics[1].expert_misses > 0 && statistics[1].budget_bytes == 12 << 20);
    assert_true(statistics[0].prompt_tokens > 0 && statistics[0].generated_tokens > 0);
}

static void an_answer_ends_when_it_shall(void **state)
{
    (void)state;
    hypura_model *model = open_model(0);
    const char *stops[] = {" directory"};
    struct text text = {0};
    hypura_generation how = greedy(&text);
    how.stops = stops;
    how.stop_count = 1;
    assert_done(hypura_chat(model, question, &how, &problem));
    assert_string_equal(text.bytes, "ls - list");

    text = (struct text){.most = 3};
    how = greedy(&text);
    assert_done(hypura_complete(model, "The kernel", &how, &problem));
    assert_int_equal(text.pieces, 3);

    text = (struct text){.most = 3, .cancel = model};
    how = greedy(&text);
    assert_int_equal(hypura_complete(model, "The kernel", &how, &problem), HYPURA_ERROR_CANCELLED);
    assert_int_equal(text.pieces, 3);

    /* The next call starts afresh. */
    text = (struct text){0};
    how = greedy(&text);
    assert_done(hypura_chat(model, question, &how, &problem));
    assert_memory_equal(text.bytes, "ls - list directory contents", 28);
    hypura_close(model);
}

static void refusals_have_a_sentence(void **state)
{
    (void)state;
    hypura_options options;
    hypura_model *model = NULL;
    hypura_default_options(&options);
    assert_int_equal(hypura_open(&model, "/nowhere/model.gguf", &options, &problem), HYPURA_ERROR_IO);
    assert_non_null(strstr(problem.message, "/nowhere/model.gguf"));
    assert_int_equal(hypura_open(&model, "/nowhere/model.gguf", &options, NULL), HYPURA_ERROR_IO);
    options.memory = 1 << 20;
    assert_int_equal(hypura_open(&model, embedded_model(), &options, &problem), HYPURA_ERROR_MEMORY);
    assert_non_null(strstr(problem.message, "works is"));
    assert_null(model);
    hypura_close(NULL);

    model = open_model(0);
    struct text text = {0};
    hypura_generation how = greedy(&text);
    const char *const wrong[] = {"", "{}", "[1]", "[{\"role\": 3}]", "nonsense"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        problem.message[0] = '\0';
        assert_int_not_equal(hypura_chat(model, wrong[i], &how, &problem), HYPURA_OK);
        assert_true(problem.message[0] != '\0');
    }
    assert_int_equal(text.size, 0);
    hypura_close(model);
}

static void the_version_is_told(void **state)
{
    (void)state;
    unsigned major, minor, patch;
    assert_int_equal(sscanf(hypura_version(), "%u.%u.%u", &major, &minor, &patch), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_is_answered_whatever_the_memory),
        cmocka_unit_test(an_answer_ends_when_it_shall),
        cmocka_unit_test(refusals_have_a_sentence),
        cmocka_unit_test(the_version_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
