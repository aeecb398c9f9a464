/* The forward pass with a part of the model on a GPU, under the validation layers: near the reference's logits whatever
 * is where, and clean when the device refuses or is lost. Without a device the tests say skipped. */
#include "reference.h"

#include "engine/gpu/pass.h"

#include <stdlib.h>

static int device = -1;
static char number[16];

static void print_log(void *context, enum log_level level, const char *message)
{
    (void)context;
    if (level >= LOG_WARNING)
        fprintf(stderr, "# %s\n", message);
}

static int find_device(void **state)
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

struct setting {
    uint64_t gpu_budget, budget;
    size_t batch;
    enum tensor_type kv_type;
};

static struct engine *open_with(const char *name, const struct setting *setting)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.kv_type = setting->kv_type;
    options.gpu = number;
    options.gpu_budget = setting->gpu_budget ? setting->gpu_budget : (uint64_t)512 << 20;
    options.budget = setting->budget;
    if (engine_open(&engine, model_path(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    return engine;
}

static void close_silent(struct engine *engine)
{
    if (engine->gpu)
        assert_int_equal(gpu_validation_messages(engine->gpu), 0);
    engine_close(engine);
}

/* Mean KL divergence of a run from exact logits. */
static double distance_of(const char *name, const struct setting *setting, uint32_t *layers)
{
    char path[512];
    struct reference reference = {0};
    snprintf(path, sizeof path, "oracle/logits/%s.exact.bin", name);
    if (!reference_read(&reference, test_data(path)))
        fail_msg("%s: no reference", name);
    struct engine *engine = open_with(name, setting);
    *layers = engine->plan->gpu ? engine->plan->gpu->taken : 0;
    float *logits = calloc((size_t)reference.tokens * reference.vocabulary, sizeof *logits);
    feed(engine, 0, reference.prompt, reference.tokens, setting->batch, logits);
    struct distance d = measure(reference.logits, logits, reference.tokens, reference.vocabulary);
    print_message("%-28s batch %-3zu layers %u: most %8.2g  KL %8.2g  top-1 %.3f\n", name,
                  setting->batch == SIZE_MAX ? 0 : setting->batch, *layers, d.most, d.kl_mean, d.top);
    free(logits);
    reference_free(&reference);
    close_silent(engine);
    return d.kl_mean;
}

/* Every mechanism and tensor type that the GPU has; the whole model is there. */
static void agrees_with_the_reference(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const names[] = {"llama",
                                        "llama-tied",
                                        "mixtral",
                                        "qwen3moe",
                                        "qwen2",
                                        "gemma2",
                                        "gpt-oss",
                                        "q-llama-Q4_K_M",
                                        "q-mixtral-Q4_K-Q4_K-Q6_K",
                                        "mistral3",
                                        "granitemoe-shared"};
    int failures = 0;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        for (int one = 0; one < 2; one++) {
            struct setting setting = {.batch = one ? 1 : SIZE_MAX, .kv_type = TENSOR_F16};
            uint32_t layers;
            double kl = distance_of(names[i], &setting, &layers);
            if (!(kl < 2e-3) || layers == 0) {
                print_error("%s: mean KL divergence %g, %u layers on the GPU\n", names[i], kl, layers);
                failures++;
            }
        }
    }
    assert_int_equal(failures, 0);
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_reference),
    };
    return cmocka_run_group_tests(tests, find_device, NULL);
}
