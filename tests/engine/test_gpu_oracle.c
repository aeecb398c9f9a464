/* Every reference model on a GPU, under the validation layers: logits are close to exact ones, for a prompt at once and
 * token by token. Models in the repository must be entirely on the GPU.
 *
 * With HYPURA_ORACLE in the environment (the folder of the whole reference set), the test uses the models there,
 * otherwise those in the repository. HYPURA_ORACLE_ONLY names some models. Then each of these must be entirely on the
 * GPU, longer prompts are tested, too, and other models may be missing from the folder. */
#include "gpu_engine.h"

#include <dirent.h>
#include <unistd.h>

static char folder[4096];

static const char *in_folder(const char *kind, const char *name, const char *ending)
{
    static char path[8192];
    snprintf(path, sizeof path, "%s/%s/%s%s", folder, kind, name, ending);
    return path;
}

/* The path of a model in the repository. */
static const char *test_model(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "oracle/models/%s.gguf", name);
    return test_data(path);
}

/* Whether all layers and all experts are on the GPU. */
static bool is_whole(const struct engine *engine)
{
    const struct plan_gpu *plan = engine->open.plan->gpu;
    const struct model_parameters *p = model_parameters(engine->open.model);
    bool whole = plan && plan->taken == p->layers && plan->output;
    for (uint32_t i = 0; whole && i < p->layers; i++)
        whole = !model_layer(engine->open.model, i)->moe || plan->slots[i] == p->experts;
    return whole;
}

static int check_model(const char *name)
{
    const struct setting setting = {.kv_type = TENSOR_F16};
    struct engine_options options;
    struct engine *engine = NULL;
    const bool some = getenv("HYPURA_ORACLE_ONLY");
    set_options(&options, &setting);
    if (some)
        options.context = 512;
    if (engine_open(&engine, in_folder("models", name, ".gguf"), &options, &test_error)) {
        print_message("# %-32s left out: %.150s\n", name, test_error.message);
        return 0;
    }
    int failures = 0;
    bool carried = access(test_model(name), R_OK) == 0;
    if (!is_whole(engine) && (carried || some)) {
        print_error("%s: %u layers on the GPU\n", name, engine->open.plan->gpu ? engine->open.plan->gpu->taken : 0);
        failures++;
    }
    static const char *const endings[] = {".exact.bin", ".long.exact.bin", ".xlong.exact.bin"};
    for (size_t i = 0; i < (some ? COUNT_OF(endings) : 1); i++) {
        const char *path = in_folder("logits", name, endings[i]);
        double kl = i && access(path, R_OK) ? 0 : distance_from(engine, name, path);
        if (!(kl < 2e-3)) {
            print_error("%s%s: a mean KL divergence of %g\n", name, endings[i], kl);
            failures++;
        }
    }
    close_silent(engine);
    return failures;
}

/* Whether HYPURA_ORACLE_ONLY names the model, or is not set. */
static bool is_wanted(const char *name)
{
    const char *words = getenv("HYPURA_ORACLE_ONLY");
    const size_t length = strlen(name);
    for (const char *at = words; at && (at = strstr(at, name)); at += length)
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
            return true;
    return !words;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void agrees_with_the_reference(void **state)
{
    (void)state;
    device_or_skip();
    char *names[256];
    size_t count = 0;
    int failures = 0;
    DIR *directory = opendir(in_folder("models", "", ""));
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) && count < COUNT_OF(names);) {
        size_t length = strlen(entry->d_name);
        if (length > 5 && strcmp(entry->d_name + length - 5, ".gguf") == 0)
            names[count++] = strndup(entry->d_name, length - 5);
    }
    closedir(directory);
    if (count < (getenv("HYPURA_ORACLE_ONLY") ? 1 : 20))
        fail_msg("%s has %zu models, but the whole set has more than 20 (HYPURA_ORACLE_ONLY selects fewer)",
                 in_folder("models", "", ""), count);
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        if (is_wanted(names[i]))
            failures += check_model(names[i]);
        free(names[i]);
    }
    assert_int_equal(failures, 0);
}

/* Tests part of a model whose layers pass more than one row to the next. */
static int check_part(const char *name)
{
    struct setting setting = {.kv_type = TENSOR_F32};
    struct engine_options options;
    struct engine *engine = NULL;
    int failures = 0;
    for (int part = 0; part < 2; part++) {
        set_options(&options, &setting);
        assert_ok(engine_open(&engine, in_folder("models", name, ".gguf"), &options, &test_error));
        const struct plan_gpu *plan = engine->open.plan->gpu;
        if (part) {
            const struct step_list all = steps_all(engine->open.steps);
            for (size_t i = 0; plan && i < all.count; i++) /* layers that share a cache are on the same side */
                if (all.steps[i].kind == STEP_ATTEND && (uint32_t)all.steps[i].layer < plan->layer_count)
                    assert_int_equal(!plan->layers[all.steps[i].layer], !plan->layers[all.steps[i].attend.source]);
            print_message("# %u of %u layers of %s\n", plan ? plan->taken : 0, plan ? plan->layer_count : 0, name);
            failures += !plan || plan->taken == 0 || plan->taken == plan->layer_count;
            failures += !(distance_from(engine, name, in_folder("logits", name, ".exact.bin")) < 2e-3);
        } else {
            assert_non_null(plan);
            setting.gpu_budget =
                plan->scratch_bytes + (plan->resident_bytes + plan->kv_bytes + plan->expert_bytes) * 3 / 4;
        }
        close_silent(engine);
    }
    if (failures)
        print_error("%s: the result is wrong with part of the layers on the GPU\n", name);
    return failures;
}

static void part_of_the_layers_works(void **state)
{
    static const char *const names[] = {"glm-dsa", "minimax-m3", "deepseek4", "hy-v4", "qwen4exp", "gemma3n", "gemma4"};
    int failures = 0;
    (void)state;
    device_or_skip();
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (is_wanted(names[i]) && access(in_folder("models", names[i], ".gguf"), R_OK) == 0)
            failures += check_part(names[i]);
    assert_int_equal(failures, 0);
}

int main(void)
{
    const char *whole_set = getenv("HYPURA_ORACLE");
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    snprintf(folder, sizeof folder, "%s", whole_set ? whole_set : test_data("oracle"));
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_the_reference),
                                       cmocka_unit_test(part_of_the_layers_works)};
    return cmocka_run_group_tests(tests, find_device, NULL);
}
