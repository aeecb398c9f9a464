/* The forward pass compared with llama.cpp's logits of small models, one per architecture and one per tensor type.
 *
 * With HYPURA_ORACLE in the environment (the folder of the whole reference set), the test uses every model there,
 * otherwise those in the repository. */
#include "reference.h"

#include <dirent.h>

/* Logits have a standard deviation of about 2.5. */
struct tolerance {
    double exact; /* largest difference from exact arithmetic */
    double kl;    /* mean divergence from llama.cpp's run */
};

/* Depends on the coarsest rounding of activations for the file's matrices. */
static struct tolerance tolerance_of(const struct model *model)
{
    struct tolerance tolerance = {2e-4, 1e-3};
    if (model_architecture(model)->activation == FFN_GELU)
        tolerance.exact = 0.05; /* the reference takes GELU from a table of half-precision numbers */
    for (uint32_t u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        for (uint32_t s = 0; s < unit->slice_count; s++) {
            enum tensor_type type = unit->slices[s].tensor->type;
            if (type == TENSOR_BF16 && tolerance.exact < 0.1)
                tolerance.exact = 0.1;
            else if (type != TENSOR_F32 && type != TENSOR_F16 && type != TENSOR_BF16)
                tolerance = (struct tolerance){0.5, 5e-3}; /* both programs round activations to 8 bits */
        }
    }
    return tolerance;
}

static char folder[4096];
static int failures; /* the test checks all models before it fails */

#define complain(...) (print_error(__VA_ARGS__), failures++)

static const char *in_folder(const char *kind, const char *name, const char *ending)
{
    static char path[8192];
    snprintf(path, sizeof path, "%s/%s/%s%s", folder, kind, name, ending);
    return path;
}

static struct engine *open_engine(const char *name, enum tensor_type kv_type, uint32_t context)
{
    struct engine_options options;
    engine_default_options(&options);
    options.context = context;
    options.kv_type = kv_type;
    options.threads = 2;
    struct engine *engine = NULL;
    hypura_status status = engine_open(&engine, in_folder("models", name, ".gguf"), &options, &test_error);
    if (status == HYPURA_ERROR_UNSUPPORTED)
        return NULL;
    if (status)
        fail_msg("%s: %s", name, test_error.message);
    return engine;
}

/* Long prompts, which move windows and fill blocks. Their tokens are in the file of logits, or in a separate file if
 * only the last positions have logits. */
#define LONG_ROUNDING 1e-3

static const struct ending {
    const char *logits, *ids;
    uint32_t context;
    bool exact, long_prompt;
} endings[] = {{".exact.bin", NULL, 256, true, false},
               {".bin", NULL, 256, false, false},
               {".long.exact.bin", NULL, 256, true, true},
               {".xlong.exact.bin", NULL, 512, true, true},
               {".vlong.exact.bin", ".vlong.ids", 16384, true, true}};

static void check_continuation(struct engine *engine, const char *name, const struct reference *reference,
                               float *logits, double difference)
{
    size_t vocabulary = reference->vocabulary;
    int32_t token = greatest(logits + (reference->tokens - 1) * vocabulary, vocabulary);
    for (uint32_t g = 0; g < reference->generated && reference->margins[g] > 2 * difference; g++) {
        if (token != reference->continuation[g]) {
            complain("%s: token %u of the continuation is %d, the reference has %d (margin %g)\n", name, g, token,
                     reference->continuation[g], (double)reference->margins[g]);
            return;
        }
        feed(engine, 0, &token, 1, 1, logits);
        token = greatest(logits, vocabulary);
    }
}

/* Reads tokens from a comma-separated file, or from the reference if path is NULL. The caller frees them. */
static int32_t *read_tokens(const struct reference *reference, const char *path, size_t *count)
{
    FILE *file = path ? fopen(path, "r") : NULL;
    size_t room = path ? 16384 : reference->tokens;
    int32_t *tokens = calloc(room, sizeof *tokens);
    assert_non_null(tokens);
    *count = 0;
    if (path) {
        assert_non_null(file);
        while (*count < room && fscanf(file, "%d,", &tokens[*count]) == 1)
            ++*count;
        fclose(file);
    } else {
        memcpy(tokens, reference->prompt, room * sizeof *tokens);
        *count = room;
    }
    assert_true(*count >= reference->tokens);
    return tokens;
}

/* One model against one reference file. */
static void check_reference(const char *name, const struct ending *ending)
{
    struct reference reference;
    size_t count;
    if (!reference_read(&reference, in_folder("logits", name, ending->logits)))
        return;
    int32_t *tokens = read_tokens(&reference, ending->ids ? in_folder("logits", name, ending->ids) : NULL, &count);
    struct engine *engine = open_engine(name, TENSOR_F32, ending->context);
    struct tolerance tolerance = tolerance_of(engine_model(engine));
    if (ending->long_prompt)
        tolerance.exact = fmax(tolerance.exact, LONG_ROUNDING);
    float *all = calloc(count * reference.vocabulary, sizeof *all);
    float *logits = all + (count - reference.tokens) * reference.vocabulary;
    feed(engine, 0, tokens, count, SIZE_MAX, all);
    struct distance d = measure(reference.logits, logits, reference.tokens, reference.vocabulary);
    print_message("# %-28s %-16s most %8.2g  KL %8.2g  top-1 %.3f\n", name, ending->logits, d.most, d.kl_mean, d.top);
    if (ending->exact && !(d.most <= tolerance.exact))
        complain("%s: logits differ by up to %g from exact ones; rounding explains %g (%s)\n", name, d.most,
                 tolerance.exact, ending->logits);
    if (!(d.kl_mean <= tolerance.kl))
        complain("%s: mean KL divergence of %g from %s\n", name, d.kl_mean, ending->logits);
    if (d.top < 0.99)
        complain("%s: the best token is that of %s in %.1f %% of the positions\n", name, ending->logits, 100 * d.top);
    if (!ending->ids)
        check_continuation(engine, name, &reference, logits, d.most);
    free(all);
    free(tokens);
    reference_free(&reference);
    engine_close(engine);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t list_models(char **names, size_t most)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/models", folder);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory)) && count < most;) {
        size_t length = strlen(entry->d_name);
        if (length > 5 && strcmp(entry->d_name + length - 5, ".gguf") == 0)
            names[count++] = strndup(entry->d_name, length - 5);
    }
    closedir(directory);
    qsort(names, count, sizeof *names, compare_names);
    return count;
}

static void agrees_with_the_reference(void **state)
{
    (void)state;
    char *names[256];
    size_t count = list_models(names, COUNT_OF(names)), checked = 0;
    for (size_t i = 0; i < count; i++) {
        struct engine *engine = open_engine(names[i], TENSOR_F32, 256);
        if (engine) {
            engine_close(engine);
            for (size_t e = 0; e < COUNT_OF(endings); e++)
                check_reference(names[i], &endings[e]);
            checked++;
        } else {
            complain("%s: %.150s\n", names[i], test_error.message);
        }
        free(names[i]);
    }
    assert_true(checked >= 10);
    assert_int_equal(failures, 0);
}

/* Coarser types of the cache change logits only by their rounding. */
static void caches_of_all_types(void **state)
{
    (void)state;
    static const struct {
        enum tensor_type type;
        double most;
    } types[] = {{TENSOR_F16, 0.1}, {TENSOR_Q8_0, 0.5}, {TENSOR_Q4_0, 4.0}};
    static const char *const models[] = {"llama", "qwen2"}; /* without routers, whose choices might change */
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        struct reference reference;
        assert_true(reference_read(&reference, in_folder("logits", models[m], ".exact.bin")));
        double before = 0;
        for (size_t t = 0; t < COUNT_OF(types); t++) {
            struct engine *engine = open_engine(models[m], types[t].type, 256);
            float *logits = calloc((size_t)reference.tokens * reference.vocabulary, sizeof *logits);
            feed(engine, 0, reference.prompt, reference.tokens, SIZE_MAX, logits);
            struct distance d = measure(reference.logits, logits, reference.tokens, reference.vocabulary);
            print_message("# %s, cache type %d: most %g, KL %g\n", models[m], types[t].type, d.most, d.kl_mean);
            assert_true(d.most < types[t].most);
            assert_true(d.most > before); /* the type takes effect */
            before = d.most;
            free(logits);
            engine_close(engine);
        }
        reference_free(&reference);
    }
}

int main(void)
{
    const char *whole = getenv("HYPURA_ORACLE");
    snprintf(folder, sizeof folder, "%s", whole && *whole ? whole : test_data("oracle"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_reference),
        cmocka_unit_test(caches_of_all_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
