/* Gemma 4's mixtures on a GPU, under the validation layers: a dense feed forward next to the experts, with separate
 * norms and router input, and values that equal the keys. There is no reference model, so the test makes one and
 * compares GPU and CPU. Without a device, the tests are skipped. */
#include "gpu_engine.h"

#include "folder.h"

#define LAYERS 6u /* the last one sees all positions, the others a window */

enum { EMBEDDING = 64, VOCABULARY = 320, HEADS = 4, KV_HEADS = 2, EXPERTS = 6, WIDTH = 48, EXPERT_WIDTH = 32 };

struct made {
    const char *name;
    uint32_t columns, rows, experts; /* rows 0: a vector of values around 1 */
};

static struct made made[LAYERS * 24 + 3];
static char made_names[COUNT_OF(made)][64];
static size_t made_count;

static void make(int layer, const char *name, uint32_t columns, uint32_t rows, uint32_t experts)
{
    char *full = made_names[made_count];
    if (layer < 0)
        snprintf(full, sizeof made_names[0], "%s", name);
    else
        snprintf(full, sizeof made_names[0], "blk.%d.%s", layer, name);
    made[made_count++] = (struct made){full, columns, rows, experts};
}

static void make_layer(int layer)
{
    static const char *const norms[] = {
        "attn_norm.weight",      "post_attention_norm.weight", "ffn_norm.weight",      "post_ffw_norm_1.weight",
        "pre_ffw_norm_2.weight", "post_ffw_norm_2.weight",     "post_ffw_norm.weight", "ffn_gate_inp.scale"};
    bool all = layer + 1 == LAYERS;
    uint32_t size = all ? 32 : 16;
    for (size_t i = 0; i < COUNT_OF(norms); i++)
        make(layer, norms[i], EMBEDDING, 0, 1);
    make(layer, "attn_q.weight", EMBEDDING, HEADS * size, 1);
    make(layer, "attn_k.weight", EMBEDDING, KV_HEADS * size, 1);
    if (!all)
        make(layer, "attn_v.weight", EMBEDDING, KV_HEADS * size, 1);
    make(layer, "attn_q_norm.weight", size, 0, 1);
    make(layer, "attn_k_norm.weight", size, 0, 1);
    make(layer, "attn_output.weight", HEADS * size, EMBEDDING, 1);
    make(layer, "ffn_gate.weight", EMBEDDING, WIDTH, 1);
    make(layer, "ffn_up.weight", EMBEDDING, WIDTH, 1);
    make(layer, "ffn_down.weight", WIDTH, EMBEDDING, 1);
    make(layer, "ffn_gate_inp.weight", EMBEDDING, EXPERTS, 1);
    make(layer, "ffn_gate_up_exps.weight", EMBEDDING, 2 * EXPERT_WIDTH, EXPERTS);
    make(layer, "ffn_down_exps.weight", EXPERT_WIDTH, EMBEDDING, EXPERTS);
    make(layer, "ffn_down_exps.scale", EXPERTS, 0, 1);
    make(layer, "layer_output_scale.weight", 1, 0, 1);
}

static void write_model(const char *path)
{
    static const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {{"block_count", LAYERS},          {"context_length", 512},
                   {"embedding_length", EMBEDDING},  {"feed_forward_length", WIDTH},
                   {"attention.head_count", HEADS},  {"attention.head_count_kv", KV_HEADS},
                   {"attention.key_length", 32},     {"attention.value_length", 32},
                   {"attention.key_length_swa", 16}, {"attention.value_length_swa", 16},
                   {"attention.sliding_window", 8},  {"rope.dimension_count", 32},
                   {"rope.dimension_count_swa", 16}, {"expert_count", EXPERTS},
                   {"expert_used_count", 2},         {"expert_feed_forward_length", EXPERT_WIDTH}};
    struct gguf_writer *writer;
    struct random random;
    random_seed(&random, 4);
    assert_ok(gguf_writer_create(&writer, path, 0, &test_error));
    assert_ok(gguf_writer_add_string(writer, "general.architecture", "gemma4", &test_error));
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        char key[128];
        snprintf(key, sizeof key, "gemma4.%s", numbers[i].key);
        assert_ok(gguf_writer_add_uint32(writer, key, numbers[i].value, &test_error));
    }
    assert_ok(gguf_writer_add_float(writer, "gemma4.attention.layer_norm_rms_epsilon", 1e-6f, &test_error));
    assert_ok(gguf_writer_add_float(writer, "gemma4.final_logit_softcapping", 30, &test_error));
    made_count = 0;
    make(-1, "token_embd.weight", EMBEDDING, VOCABULARY, 1);
    make(-1, "output_norm.weight", EMBEDDING, 0, 1);
    for (uint32_t i = 0; i < LAYERS; i++)
        make_layer((int)i);
    for (size_t i = 0; i < made_count; i++) {
        const uint64_t dimensions[] = {made[i].columns, made[i].rows, made[i].experts};
        assert_ok(gguf_writer_add_tensor(writer, made[i].name, TENSOR_F32,
                                         made[i].rows == 0      ? 1
                                         : made[i].experts == 1 ? 2
                                                                : 3,
                                         dimensions, &test_error));
    }
    for (size_t i = 0; i < made_count; i++) {
        size_t count = (size_t)made[i].columns * MAX(made[i].rows, 1u) * made[i].experts;
        double spread = made[i].rows ? 1 / sqrt((double)made[i].columns) : 0.1;
        float *values = malloc(count * sizeof *values);
        assert_non_null(values);
        for (size_t v = 0; v < count; v++)
            values[v] = (float)((made[i].rows ? 0 : 1) + spread * random_normal(&random));
        assert_ok(gguf_writer_write(writer, values, count * sizeof *values, &test_error));
        free(values);
    }
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
}

/* Runs the model. kind: 0 on the CPU, 1 on the GPU, 2 on the GPU with half of the experts on the CPU. */
static float *run_made(const char *path, int kind, uint64_t *budget)
{
    struct engine_options options;
    struct engine *engine = NULL;
    set_options(&options, &(struct setting){.kv_type = TENSOR_F16});
    if (kind == 0)
        options.gpu = "none";
    if (kind == 2)
        options.gpu_budget = *budget;
    assert_ok(engine_open(&engine, path, &options, &test_error));
    assert_int_equal(engine_gpu(engine) == NULL, kind == 0);
    if (kind > 0) {
        const struct plan_gpu *plan = engine->open.plan->gpu;
        uint32_t experts = 0;
        for (uint32_t i = 0; i < plan->layer_count; i++)
            experts += plan->slots[i];
        assert_int_equal(plan->taken, LAYERS);
        assert_true(plan->output);
        assert_true(kind == 1 ? experts == LAYERS * EXPERTS : experts < LAYERS * EXPERTS && experts > 0);
        *budget = plan->scratch_bytes + plan->resident_bytes + plan->kv_bytes + plan->expert_bytes / 2;
    }
    float *logits = run_tokens(engine);
    close_silent(engine);
    return logits;
}

static void runs_whole_and_divided(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    char path[512];
    uint64_t budget = 0;
    snprintf(path, sizeof path, "%s", path_in_folder("gemma4.gguf"));
    write_model(path);
    float *logits[3];
    for (int kind = 0; kind < 3; kind++)
        logits[kind] = run_made(path, kind, &budget);
    for (int kind = 1; kind < 3; kind++) {
        struct distance d = measure(logits[0], logits[kind], TOKENS, VOCABULARY);
        print_message("# %s: most %.2g, KL %.2g\n", kind == 1 ? "whole" : "divided", d.most, d.kl_mean);
        assert_true(d.kl_mean < 2e-3);
    }
    for (int kind = 0; kind < 3; kind++)
        free(logits[kind]);
    treat_memory_as("shared");
}

static int prepare(void **state)
{
    return make_folder(state) || find_device(state);
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(runs_whole_and_divided)};
    return cmocka_run_group_tests(tests, prepare, remove_folder);
}
