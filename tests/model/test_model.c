#include "test.h"

#include "model/model.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static struct model *open_data(const char *name)
{
    char relative[256];
    snprintf(relative, sizeof relative, "oracle/models/%s.gguf", name);
    struct model *model = NULL;
    assert_ok(model_open(&model, test_data(relative), &test_error));
    return model;
}

static void reads_llama(void **state)
{
    (void)state;
    struct model *model = open_data("llama");
    const struct model_parameters *p = model_parameters(model);
    assert_string_equal(model_architecture(model)->name, "llama");
    assert_string_equal(model_name(model), "llama");
    assert_int_equal(p->layers, 3);
    assert_int_equal(p->embedding, 96);
    assert_int_equal(p->vocabulary, 448);
    assert_int_equal(p->key_size, 32);
    assert_int_equal(p->rotary, 32);
    assert_int_equal(p->experts, 0);
    assert_true(p->attention_scale == 1.0f / sqrtf(32.0f));
    assert_int_equal(model_layer(model, 2)->kv_heads, 2);
    assert_int_equal(model_layer(model, 2)->feed_forward, 160);
    assert_false(model_layer(model, 0)->moe);
    assert_null(model_layer(model, 3));
    assert_false(model_tied_output(model));
    model_close(model);
}

static void ties_the_output_if_there_is_none(void **state)
{
    (void)state;
    struct model *model = open_data("llama-tied");
    assert_true(model_tied_output(model));
    assert_int_equal(model_tensor(model, ROLE_OUTPUT), NO_UNIT);
    assert_true(model_parameters(model)->norm_epsilon > 0.01f);
    model_close(model);
}

static void reads_yarn(void **state)
{
    (void)state;
    struct model *model = open_data("mistral3");
    const struct model_parameters *p = model_parameters(model);
    assert_int_equal(p->rope_scaling, ROPE_SCALING_YARN);
    assert_true(p->rope_factor == 16.0f);
    assert_int_equal(p->rope_original_context, 16);
    assert_true(p->attention_temperature_floor == 16.0f);
    model_close(model);
}

/* Each byte of each tensor is in exactly one unit, and units are in the order of use. */
static void units_cover_the_file(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "qwen3", "mixtral", "qwen3moe", "q-mixtral-Q4_K-Q4_K-Q6_K"};
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        struct model *model = open_data(names[n]);
        const struct gguf *file = model_file(model);
        uint64_t in_tensors = 0, in_units = 0;
        for (size_t i = 0; i < gguf_tensor_count(file); i++)
            in_tensors += gguf_tensor_at(file, i)->bytes;
        int32_t layer = -1;
        bool experts = false;
        for (uint32_t u = 0; u < model_unit_count(model); u++) {
            const struct unit *unit = model_unit(model, u);
            uint64_t bytes = 0;
            for (uint32_t s = 0; s < unit->slice_count; s++) {
                const struct unit_slice *slice = &unit->slices[s];
                bytes += slice->bytes;
                assert_true(slice->offset >= slice->tensor->offset);
                assert_true(slice->offset + slice->bytes <= slice->tensor->offset + slice->tensor->bytes);
            }
            assert_int_equal(bytes, unit->bytes);
            in_units += bytes;
            if (unit->kind == UNIT_EXPERT && !experts) {
                experts = true;
                layer = -1;
            }
            assert_int_equal(unit->kind, experts ? UNIT_EXPERT : UNIT_TENSOR);
            if (unit->layer >= 0) {
                assert_true(unit->layer >= layer);
                layer = unit->layer;
            }
        }
        assert_int_equal(in_units, in_tensors);
        assert_int_equal(in_units, model_bytes(model));
        model_close(model);
    }
}

static void experts_are_slices_of_their_tensors(void **state)
{
    (void)state;
    struct model *model = open_data("qwen3moe");
    const struct model_layer *layer = model_layer(model, 1);
    assert_true(layer->moe);
    for (uint32_t e = 0; e < 10; e++) {
        const struct unit *unit = model_unit(model, layer->first_expert + e);
        assert_int_equal(unit->expert, e);
        assert_int_equal(unit->layer, 1);
        assert_int_equal(unit->slice_count, 3);
        assert_int_equal(unit->slices[0].role, ROLE_EXPERT_GATE);
        assert_int_equal(unit->slices[2].role, ROLE_EXPERT_DOWN);
        for (uint32_t s = 0; s < 3; s++)
            assert_int_equal(unit->slices[s].offset - unit->slices[s].tensor->offset, e * 96u * 32u * 2u);
    }
    model_close(model);
}

/* ---- invalid files ----------------------------------------------------------------------------------------------- */

struct variant {
    const char *architecture;
    const char *without; /* a tensor to leave out */
    const char *extra;   /* an additional tensor */
    uint32_t heads, embedding, vocabulary_rows;
    const char *real; /* a key of the architecture, which gets "value"; NULL: none */
    float value;
};

static const char *write_variant(const struct variant *variant)
{
    static char path[] = "/tmp/hypura-test-model-XXXXXX.gguf";
    strcpy(path, "/tmp/hypura-test-model-XXXXXX.gguf");
    int descriptor = mkstemps(path, 5);
    assert_true(descriptor >= 0);
    close(descriptor);
    struct gguf_writer *writer;
    char key[64];
    assert_ok(gguf_writer_create(&writer, path, 0, &test_error));
    assert_ok(gguf_writer_add_string(writer, "general.architecture", variant->architecture, &test_error));
    static const struct {
        const char *name;
        uint32_t value;
    } numbers[] = {{"context_length", 128}, {"block_count", 1}, {"feed_forward_length", 24}};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        snprintf(key, sizeof key, "%s.%s", variant->architecture, numbers[i].name);
        assert_ok(gguf_writer_add_uint32(writer, key, numbers[i].value, &test_error));
    }
    snprintf(key, sizeof key, "%s.embedding_length", variant->architecture);
    assert_ok(gguf_writer_add_uint32(writer, key, variant->embedding, &test_error));
    snprintf(key, sizeof key, "%s.attention.head_count", variant->architecture);
    assert_ok(gguf_writer_add_uint32(writer, key, variant->heads, &test_error));
    snprintf(key, sizeof key, "%s.%s", variant->architecture, variant->real ? variant->real : "");
    if (variant->real)
        assert_ok(gguf_writer_add(writer, key, GGUF_FLOAT32, &variant->value, 1, false, &test_error));
    const struct {
        const char *name;
        uint64_t columns, rows;
    } tensors[] = {{"token_embd.weight", 16, variant->vocabulary_rows},
                   {"output_norm.weight", 16, 1},
                   {"blk.0.attn_norm.weight", 16, 1},
                   {"blk.0.attn_q.weight", 16, 16},
                   {"blk.0.attn_k.weight", 16, 16},
                   {"blk.0.attn_v.weight", 16, 16},
                   {"blk.0.attn_output.weight", 16, 16},
                   {"blk.0.ffn_norm.weight", 16, 1},
                   {"blk.0.ffn_gate.weight", 16, 24},
                   {"blk.0.ffn_up.weight", 16, 24},
                   {"blk.0.ffn_down.weight", 24, 16},
                   {variant->extra, 16, 1}};
    uint64_t bytes = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < COUNT_OF(tensors); i++) {
            if (!tensors[i].name || (variant->without && strcmp(tensors[i].name, variant->without) == 0))
                continue;
            uint64_t dimensions[] = {tensors[i].columns, tensors[i].rows};
            bytes = tensors[i].columns * tensors[i].rows * 4;
            static const uint8_t zeros[16 * 1024];
            assert_true(bytes <= sizeof zeros);
            if (pass == 0)
                assert_ok(gguf_writer_add_tensor(writer, tensors[i].name, TENSOR_F32, tensors[i].rows == 1 ? 1 : 2,
                                                 dimensions, &test_error));
            else
                assert_ok(gguf_writer_write(writer, zeros, bytes, &test_error));
        }
    }
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
    return path;
}

static void refuses(const struct variant *variant, hypura_status status, const char *word)
{
    struct model *model = NULL;
    const char *path = write_variant(variant);
    hypura_status found = model_open(&model, path, &test_error);
    unlink(path);
    assert_int_equal(found, status);
    assert_null(model);
    if (!strstr(test_error.message, word))
        fail_msg("the error '%s' does not mention '%s'", test_error.message, word);
}

static const struct variant good = {"llama", NULL, NULL, 2, 16, 32, NULL, 0};

static void opens_written_files(void **state)
{
    (void)state;
    struct model *model = NULL;
    const char *path = write_variant(&good);
    assert_ok(model_open(&model, path, &test_error));
    unlink(path);
    assert_non_null(strstr(model_name(model), "hypura-test-model-"));
    assert_null(strstr(model_name(model), ".gguf"));
    model_close(model);
}

static void errors_name_the_problem(void **state)
{
    (void)state;
    struct variant variant = good;
    variant.architecture = "mamba17";
    refuses(&variant, HYPURA_ERROR_UNSUPPORTED, "mamba17");
    refuses(&variant, HYPURA_ERROR_UNSUPPORTED, "qwen3moe"); /* the message lists supported ones */

    variant = good;
    variant.without = "blk.0.attn_k.weight";
    refuses(&variant, HYPURA_ERROR_FORMAT, "blk.0.attn_k.weight");
    variant.without = "output_norm.weight";
    refuses(&variant, HYPURA_ERROR_FORMAT, "output_norm.weight");
    variant.without = "token_embd.weight";
    refuses(&variant, HYPURA_ERROR_FORMAT, "token_embd.weight");

    variant = good;
    variant.extra = "blk.0.attn_magic.weight"; /* ignoring it would silently change answers */
    refuses(&variant, HYPURA_ERROR_UNSUPPORTED, "blk.0.attn_magic.weight");
    variant.extra = "blk.0.attn_kv_a_norm.weight"; /* known, but belongs to another kind of layer */
    refuses(&variant, HYPURA_ERROR_UNSUPPORTED, "blk.0.attn_kv_a_norm.weight");
    variant.extra = "blk.00.attn_norm.weight"; /* one of the two would be ignored */
    refuses(&variant, HYPURA_ERROR_FORMAT, "'blk.0.attn_norm.weight' and 'blk.00.attn_norm.weight'");

    variant = good;
    variant.embedding = 32;
    refuses(&variant, HYPURA_ERROR_FORMAT, "[16, 32]");
    variant.embedding = 0;
    refuses(&variant, HYPURA_ERROR_FORMAT, "embedding_length");
    variant.embedding = UINT32_MAX;
    refuses(&variant, HYPURA_ERROR_FORMAT, "embedding_length");

    variant = good;
    variant.heads = 0;
    refuses(&variant, HYPURA_ERROR_FORMAT, "head");
    variant.heads = 3; /* keys of 5 elements cannot rotate in pairs */
    refuses(&variant, HYPURA_ERROR_FORMAT, "rotary");

    static const struct {
        const char *key;
        float value;
    } reals[] = {{"rope.freq_base", NAN},
                 {"rope.freq_base", 0.0f},
                 {"rope.freq_base_swa", -1.0f},
                 {"rope.scaling.factor", INFINITY},
                 {"attention.layer_norm_rms_epsilon", -1.0f},
                 {"attention.layer_norm_rms_epsilon", NAN},
                 {"attention.scale", NAN}};
    for (size_t i = 0; i < COUNT_OF(reals); i++) {
        variant = good;
        variant.real = reals[i].key;
        variant.value = reals[i].value;
        refuses(&variant, HYPURA_ERROR_FORMAT,
                isfinite(reals[i].value) ? "expected an epsilon of at least 0" : reals[i].key);
    }
}

/* ---- files with several layers ----------------------------------------------------------------------------------- */

struct number {
    const char *key;
    uint32_t value;
};

struct shape {
    const char *name;
    uint64_t extents[3]; /* 0 marks the end */
};

static void add_tensor(struct gguf_writer *writer, const char *name, const uint64_t *extents, uint64_t *bytes)
{
    uint32_t count = 0;
    uint64_t size = 4;
    for (; count < 3 && extents[count]; count++)
        size *= extents[count];
    assert_ok(gguf_writer_add_tensor(writer, name, TENSOR_F32, count, extents, &test_error));
    *bytes += size;
}

/* Opens a model of zeros with an embedding of width x 8, an output norm, and tensors of these shapes in every layer. */
static hypura_status open_layers(struct model **model, const char *architecture, uint64_t width, int layers,
                                 const struct number *numbers, const struct shape *shapes)
{
    char path[] = "/tmp/hypura-test-model-XXXXXX", name[96];
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    struct gguf_writer *writer;
    assert_ok(gguf_writer_create(&writer, path, 0, &test_error));
    assert_ok(gguf_writer_add_string(writer, "general.architecture", architecture, &test_error));
    for (; numbers->key; numbers++) {
        snprintf(name, sizeof name, "%s.%s", architecture, numbers->key);
        assert_ok(gguf_writer_add_uint32(writer, name, numbers->value, &test_error));
    }
    snprintf(name, sizeof name, "%s.rope.freq_base", architecture);
    assert_ok(gguf_writer_add_float(writer, name, 5000.0f, &test_error));
    uint64_t left = 0;
    add_tensor(writer, "token_embd.weight", (const uint64_t[]){width, 8, 0}, &left);
    add_tensor(writer, "output_norm.weight", (const uint64_t[]){width, 0, 0}, &left);
    for (int layer = 0; layer < layers; layer++)
        for (const struct shape *shape = shapes; shape->name; shape++) {
            snprintf(name, sizeof name, "blk.%d.%s", layer, shape->name);
            add_tensor(writer, name, shape->extents, &left);
        }
    static const uint8_t zeros[1 << 16];
    for (uint64_t piece; left; left -= piece) {
        piece = MIN(left, sizeof zeros);
        assert_ok(gguf_writer_write(writer, zeros, piece, &test_error));
    }
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
    *model = NULL;
    hypura_status status = model_open(model, path, &test_error);
    unlink(path);
    return status;
}

/* A unit takes more memory than a file needs to declare it, so a small file could request too many. */
static void more_experts_than_any_model_has_are_refused(void **state)
{
    (void)state;
    enum { LAYERS = 17, EXPERTS = 65536 };
    static const struct number numbers[] = {{"context_length", 128},
                                            {"block_count", LAYERS},
                                            {"embedding_length", 2},
                                            {"attention.head_count", 1},
                                            {"expert_count", EXPERTS},
                                            {"expert_used_count", 1},
                                            {NULL, 0}};
    static const struct shape shapes[] = {{"attn_norm.weight", {2}},
                                          {"attn_q.weight", {2, 2}},
                                          {"attn_k.weight", {2, 2}},
                                          {"attn_v.weight", {2, 2}},
                                          {"attn_output.weight", {2, 2}},
                                          {"ffn_norm.weight", {2}},
                                          {"ffn_gate_inp.weight", {2, EXPERTS}},
                                          {"ffn_gate_exps.weight", {2, 1, EXPERTS}},
                                          {"ffn_up_exps.weight", {2, 1, EXPERTS}},
                                          {"ffn_down_exps.weight", {1, 2, EXPERTS}},
                                          {NULL, {0}}};
    struct model *model;
    assert_int_equal(open_layers(&model, "llama", 2, LAYERS, numbers, shapes), HYPURA_ERROR_UNSUPPORTED);
    assert_non_null(strstr(test_error.message, "experts"));
}

/* OLMo 3 uses the architecture name olmo2. If the file has a window, three of four layers slide and rotate without the
 * scaling of rope. */
static void olmo_slides_if_the_file_has_a_window(void **state)
{
    (void)state;
    enum { LAYERS = 5 };
    struct number numbers[] = {{"context_length", 128},
                               {"block_count", LAYERS},
                               {"embedding_length", 16},
                               {"feed_forward_length", 8},
                               {"attention.head_count", 2},
                               {"attention.sliding_window", 6},
                               {NULL, 0}};
    static const struct shape shapes[] = {
        {"attn_q.weight", {16, 16}},          {"attn_q_norm.weight", {16}},   {"attn_k.weight", {16, 16}},
        {"attn_k_norm.weight", {16}},         {"attn_v.weight", {16, 16}},    {"attn_output.weight", {16, 16}},
        {"post_attention_norm.weight", {16}}, {"ffn_gate.weight", {16, 8}},   {"ffn_up.weight", {16, 8}},
        {"ffn_down.weight", {8, 16}},         {"post_ffw_norm.weight", {16}}, {NULL, {0}}};
    struct model *model;
    for (uint32_t window = 6;; window = 0) {
        assert_ok(open_layers(&model, "olmo2", 16, LAYERS, numbers, shapes));
        assert_true(model_parameters(model)->rope_base_local == 5000.0f);
        for (uint32_t i = 0; i < LAYERS; i++) {
            assert_int_equal(model_layer(model, i)->window, i == 3 ? 0 : window);
            assert_int_equal(model_layer(model, i)->rope_local, i != 3 && window);
        }
        model_close(model);
        if (!window)
            break;
        numbers[5].key = NULL; /* OLMo 2 */
    }
}

/* The architecture's row and the file's keys decide which layers slide and which rotate. */
static void layers_slide_and_rotate_as_their_architecture_says(void **state)
{
    (void)state;
    enum { LAYERS = 5, WINDOW = 6 };
    static const struct {
        const char *architecture;
        uint32_t asked, window; /* the file's value and the resulting one */
        const char *slide, *turn;
    } cases[] = {{"laguna", WINDOW, WINDOW, ".###.", "#####"},
                 {"laguna", 0, 0, ".....", "#####"},
                 {"cohere2moe", WINDOW, WINDOW, ".###.", "####."}, /* the first layer is dense */
                 {"exaone-moe", WINDOW, WINDOW, "###.#", "###.#"},
                 {"exaone4", WINDOW, 0, ".....", "#####"}, /* slides only with 64 layers */
                 {"afmoe", WINDOW, WINDOW, "###.#", "###.#"},
                 {"smallthinker", WINDOW, 4096, ".###.", ".###."},
                 {"smallthinker", 0, 0, ".....", "#####"}};
    static const struct shape shapes[] = {
        {"attn_norm.weight", {16}},   {"attn_q.weight", {16, 16}},          {"attn_k.weight", {16, 16}},
        {"attn_v.weight", {16, 16}},  {"post_attention_norm.weight", {16}}, {"attn_output.weight", {16, 16}},
        {"ffn_norm.weight", {16}},    {"ffn_gate.weight", {16, 8}},         {"ffn_up.weight", {16, 8}},
        {"ffn_down.weight", {8, 16}}, {"post_ffw_norm.weight", {16}},       {NULL, {0}}};
    struct model *model;
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        const struct number numbers[] = {{"context_length", 128},
                                         {"block_count", LAYERS},
                                         {"embedding_length", 16},
                                         {"feed_forward_length", 8},
                                         {"attention.head_count", 2},
                                         {"leading_dense_block_count", 1},
                                         {cases[c].asked ? "attention.sliding_window" : NULL, cases[c].asked},
                                         {NULL, 0}};
        assert_ok(open_layers(&model, cases[c].architecture, 16, LAYERS, numbers, shapes));
        for (uint32_t i = 0; i < LAYERS; i++) {
            assert_int_equal(model_layer(model, i)->window, cases[c].slide[i] == '#' ? cases[c].window : 0);
            assert_int_equal(model_layer(model, i)->rope, cases[c].turn[i] == '#');
        }
        model_close(model);
    }
    const struct number unlisted[] = {{"context_length", 128},
                                      {"block_count", LAYERS},
                                      {"embedding_length", 16},
                                      {"feed_forward_length", 8},
                                      {"attention.head_count", 2},
                                      {"attention.sliding_window", WINDOW},
                                      {NULL, 0}};
    assert_int_equal(open_layers(&model, "mimo2", 16, LAYERS, unlisted, shapes), HYPURA_ERROR_FORMAT);
    assert_non_null(strstr(test_error.message, "mimo2.attention.sliding_window_pattern"));
}

static void every_role_has_a_name(void **state)
{
    (void)state;
    for (int role = 0; role < ROLE_COUNT; role++) {
        assert_non_null(tensor_role_name(role));
        for (int other = 0; other < role; other++)
            assert_string_not_equal(tensor_role_name(role), tensor_role_name(other));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_llama),
        cmocka_unit_test(ties_the_output_if_there_is_none),
        cmocka_unit_test(reads_yarn),
        cmocka_unit_test(units_cover_the_file),
        cmocka_unit_test(experts_are_slices_of_their_tensors),
        cmocka_unit_test(opens_written_files),
        cmocka_unit_test(errors_name_the_problem),
        cmocka_unit_test(more_experts_than_any_model_has_are_refused),
        cmocka_unit_test(olmo_slides_if_the_file_has_a_window),
        cmocka_unit_test(layers_slide_and_rotate_as_their_architecture_says),
        cmocka_unit_test(every_role_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
