/* Opens engines with all or part of a model on a GPU. The tests that need a GPU share this. */
#ifndef HYPURA_TEST_GPU_ENGINE_H
#define HYPURA_TEST_GPU_ENGINE_H

#include "reference.h"

#include "compute/vulkan/gpu_private.h"
#include "engine/gpu/pass.h"

#include <stdlib.h>

#define UNUSED __attribute__((unused))

static int device = -1;
UNUSED static struct gpu_info device_info;
static char number[16];
UNUSED static unsigned complaints; /* by the validation layers, also while an engine closes */

UNUSED static void print_log(void *context, enum log_level level, const char *message)
{
    (void)context;
    complaints += strstr(message, "Vulkan validation") != NULL;
    if (level >= LOG_WARNING)
        fprintf(stderr, "# %s\n", message);
}

/* Whether the device can be opened for the tests. If the validation layers are missing, the tests use a real GPU
 * without them, but skip a device that is the CPU, since the layers are easily installed there. */
UNUSED static bool opens(char *why, size_t bytes)
{
    const char *validate = getenv("HYPURA_GPU_VALIDATE");
    struct gpu *gpu = NULL;
    hypura_status status = gpu_open(&gpu, &(struct gpu_options){.index = (uint32_t)device}, &test_error);
    if (status == HYPURA_ERROR_UNSUPPORTED && validate && strcmp(validate, "1") == 0 && device_info.kind != GPU_CPU) {
        fprintf(stderr, "# without validation: %s\n", test_error.message);
        setenv("HYPURA_GPU_VALIDATE", "0", 1);
        status = gpu_open(&gpu, &(struct gpu_options){.index = (uint32_t)device}, &test_error);
    }
    if (status) {
        snprintf(why, bytes, "%s", test_error.message);
        return false;
    }
    gpu_close(gpu);
    return true;
}

UNUSED static int find_device(void **state)
{
    (void)state;
    struct gpu_info infos[8];
    size_t count;
    char why[512] = "";
    const char *wanted = getenv("HYPURA_GPU_TEST");
    log_set_sink(print_log, NULL);
    assert_ok(gpu_list(infos, COUNT_OF(infos), &count, why, &test_error));
    for (size_t i = 0; i < count && i < COUNT_OF(infos) && device < 0; i++)
        if (wanted ? (size_t)atoi(wanted) == i : infos[i].lacks[0] == '\0')
            device = (int)i;
    if (device >= 0) {
        device_info = infos[device];
        device = opens(why, sizeof why) ? device : -1;
    }
    if (device < 0)
        fprintf(stderr, "# no GPU to test: %s\n", why);
    snprintf(number, sizeof number, "%d", device);
    return 0;
}

#define device_or_skip()                                                                                               \
    do {                                                                                                               \
        if (device < 0)                                                                                                \
            skip();                                                                                                    \
    } while (0)

/* A discrete GPU has its own memory and does not read weights in place from the host's. */
#define shared_memory_or_skip()                                                                                        \
    do {                                                                                                               \
        device_or_skip();                                                                                              \
        if (!device_info.unified) {                                                                                    \
            fprintf(stderr, "# skipped: %s has memory of its own\n", device_info.name);                                \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

struct setting {
    uint64_t gpu_budget, budget;
    size_t batch;
    enum tensor_type kv_type;
    bool fixed; /* experts do not change sides */
};

UNUSED static void treat_memory_as(const char *what)
{
    if (strcmp(what, "separate") == 0)
        setenv("HYPURA_GPU_SEPARATE", "1", 1);
    else
        unsetenv("HYPURA_GPU_SEPARATE");
}

UNUSED static void set_options(struct engine_options *options, const struct setting *setting)
{
    engine_default_options(options);
    options->context = 256;
    options->threads = 2;
    options->chunk = 64; /* fixed, so that a smaller budget means fewer weights instead of shorter batches */
    options->kv_type = setting->kv_type;
    options->gpu = number;
    options->gpu_budget = setting->gpu_budget ? setting->gpu_budget : (uint64_t)512 << 20;
    options->budget = setting->budget;
    options->gpu_fixed = setting->fixed;
}

UNUSED static struct engine *open_with(const char *name, const struct setting *setting)
{
    struct engine_options options;
    struct engine *engine = NULL;
    set_options(&options, setting);
    if (engine_open(&engine, model_path(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    return engine;
}

UNUSED static void close_silent(struct engine *engine)
{
    for (uint32_t d = 0; d < engine->open.devices.count; d++)
        assert_int_equal(gpu_validation_messages(engine->open.devices.gpus[d]), 0);
    engine_close(engine);
}

/* Makes long batches upload experts, however small these are. */
UNUSED static void let_experts_visit(struct engine *engine)
{
    engine->open.devices.infos[0].upload_bytes_per_second = 1e18;
    engine->open.hardware.multiply_adds_per_second = 1;
}

#define PROMPT 20
#define TOKENS (PROMPT + 4)

UNUSED static void prompt_of(int32_t *tokens)
{
    struct random random;
    random_seed(&random, 11);
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
}

UNUSED static float *run_tokens(struct engine *engine)
{
    int32_t tokens[TOKENS];
    prompt_of(tokens);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(TOKENS * vocabulary, sizeof *logits);
    feed(engine, 0, tokens, PROMPT, SIZE_MAX, logits);
    feed(engine, 0, tokens + PROMPT, TOKENS - PROMPT, 1, logits + PROMPT * vocabulary);
    return logits;
}

UNUSED static float *run_tokens_on_cpu(const char *name, const int32_t *tokens, size_t count, size_t *vocabulary)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.gpu = "none";
    assert_ok(engine_open(&engine, model_path(name), &options, &test_error));
    assert_null(engine_gpu(engine));
    *vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(count * *vocabulary, sizeof *logits);
    feed(engine, 0, tokens, count, SIZE_MAX, logits);
    engine_close(engine);
    return logits;
}

UNUSED static float *run_on_cpu(const char *name, size_t *vocabulary)
{
    int32_t tokens[TOKENS];
    prompt_of(tokens);
    return run_tokens_on_cpu(name, tokens, TOKENS, vocabulary);
}

/* The mean KL divergence from a reference, for its prompt at once or token by token, whichever is greater. Infinite if
 * it is NaN or the file is missing. */
UNUSED static double distance_from(struct engine *engine, const char *name, const char *path)
{
    struct reference reference = {0};
    double most = 0;
    if (!reference_read(&reference, path))
        return INFINITY;
    float *logits = calloc((size_t)reference.tokens * reference.vocabulary, sizeof *logits);
    for (int one = 0; one < 2; one++) {
        engine_truncate(engine, 0, 0);
        feed(engine, 0, reference.prompt, reference.tokens, one ? 1 : SIZE_MAX, logits);
        struct distance d = measure(reference.logits, logits, reference.tokens, reference.vocabulary);
        print_message("# %-32s %s most %8.2g  KL %8.2g  top-1 %.3f\n", name, one ? "by one " : "at once", d.most,
                      d.kl_mean, d.top);
        most = isnan(d.kl_mean) ? INFINITY : fmax(most, d.kl_mean);
    }
    free(logits);
    reference_free(&reference);
    return most;
}

/* The largest allowed divergence. CPU and GPU round activations for quantised weights to 8 bits in other blocks, so a
 * router may sometimes choose other experts. If it does so for the first token of a prompt, all others see that. */
UNUSED static double most_kl(const char *name)
{
    return strcmp(name, "embedded") == 0 ? 1.5e-1 : 2e-3;
}

#endif
