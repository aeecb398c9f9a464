/* The prediction block: its logits equal those of a separate model that has only the block's layer and reads rows
 * computed here. Also tests when the block is used. */
#include "predicting_model.h"
#include "reference.h"

#define PROMPT 23

static struct engine *open_with(const char *path, enum engine_drafting drafting, uint32_t chunk)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 128;
    options.threads = 2;
    options.chunk = chunk;
    options.gpu = "none";
    options.kv_type = TENSOR_F32;
    options.drafting = drafting;
    if (engine_open(&engine, path, &options, &test_error))
        fail_msg("%s: %s", path, test_error.message);
    return engine;
}

static void prompt_of(int32_t *tokens, size_t count)
{
    struct random random;
    random_seed(&random, 5);
    for (size_t i = 0; i < count; i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
}

/* ---- the block as a separate model ------------------------------------------------------------------------------- */

static float *floats_of(const struct gguf *file, const char *name)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(file, name);
    if (!tensor)
        fail_msg("the file has no tensor '%s'", name);
    uint8_t *data = read_tensor(file, tensor);
    const uint64_t columns = tensor->dimensions[0], rows = tensor->dimensions[1];
    float *out = malloc(columns * rows * sizeof *out);
    for (uint64_t r = 0; r < rows; r++)
        compute_dequantize(tensor->type, data + r * (tensor->bytes / rows), out + r * columns, columns);
    free(data);
    return out;
}

static void norm(double *out, const float *row, const float *weight, size_t count, double epsilon)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)row[i] * (double)row[i];
    for (size_t i = 0; i < count; i++)
        out[i] = (double)row[i] / sqrt(sum / (double)count + epsilon) * (double)weight[i];
}

/* The rows that the block's layer reads. Row j joins the token after token j with the last hidden row of token j. */
static float *join_rows(const struct model *model, uint32_t block, const int32_t *tokens, const float *last,
                        size_t count)
{
    const struct model_parameters *p = model_parameters(model);
    const struct gguf *file = model_file(model);
    const size_t e = p->embedding;
    char name[3][80];
    snprintf(name[0], sizeof name[0], "blk.%u.nextn.enorm.weight", block);
    snprintf(name[1], sizeof name[1], "blk.%u.nextn.hnorm.weight", block);
    snprintf(name[2], sizeof name[2], "blk.%u.nextn.eh_proj.weight", block);
    float *embedding = floats_of(file, "token_embd.weight"), *of_token = floats_of(file, name[0]);
    float *of_row = floats_of(file, name[1]), *join = floats_of(file, name[2]);
    float *out = calloc(p->vocabulary * e, sizeof *out);
    double *both = malloc(2 * e * sizeof *both);
    for (size_t j = 0; j < count; j++) {
        norm(both, embedding + (size_t)tokens[j + 1] * e, of_token, e, (double)p->norm_epsilon);
        norm(both + e, last + j * e, of_row, e, (double)p->norm_epsilon);
        for (size_t r = 0; r < e; r++) {
            double sum = 0;
            for (size_t c = 0; c < 2 * e; c++)
                sum += (double)join[r * 2 * e + c] * both[c];
            out[j * e + r] = (float)sum;
        }
    }
    free(embedding);
    free(of_token);
    free(of_row);
    free(join);
    free(both);
    return out;
}

/* Writes a model with only the block's layer. The embedding of its token j is row j. */
static void make_layer_model(const char *path, const struct model *model, uint32_t block, const float *rows)
{
    struct made made;
    const struct gguf *file = model_file(model);
    const struct model_parameters *p = model_parameters(model);
    char of_block[32], key[2][80], name[80];
    make_begin(&made, path);
    snprintf(key[0], sizeof key[0], "%s.block_count", model_architecture(model)->name);
    snprintf(key[1], sizeof key[1], "%s.nextn_predict_layers", model_architecture(model)->name);
    snprintf(of_block, sizeof of_block, "blk.%u.", block);
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        bool array = value->type == GGUF_ARRAY;
        if (strcmp(value->key.data, key[0]) != 0 && strcmp(value->key.data, key[1]) != 0)
            assert_ok(gguf_writer_add(made.writer, value->key.data, array ? value->element_type : value->type,
                                      value->data, value->count, array, &test_error));
    }
    assert_ok(gguf_writer_add_uint32(made.writer, key[0], 1, &test_error));
    make_floats(&made, "token_embd.weight", p->embedding, p->vocabulary, rows);
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        const char *rest = tensor->name.data + strlen(of_block);
        if (model_tied_output(model) && strcmp(tensor->name.data, "token_embd.weight") == 0)
            make_copy(&made, file, tensor, "output.weight", false);
        if (strncmp(tensor->name.data, "blk.", 4) != 0 && strcmp(tensor->name.data, "token_embd.weight") != 0 &&
            strcmp(tensor->name.data, "output_norm.weight") != 0)
            make_copy(&made, file, tensor, tensor->name.data, false);
        if (strncmp(tensor->name.data, of_block, strlen(of_block)) != 0)
            continue;
        bool own = strncmp(rest, "nextn.", 6) == 0;
        snprintf(name, sizeof name, "blk.0.%s", rest);
        if (!own || strcmp(rest, "nextn.shared_head_norm.weight") == 0)
            make_copy(&made, file, tensor, own ? "output_norm.weight" : name, false);
    }
    make_end(&made);
}

/* ---- logits ------------------------------------------------------------------------------------------------------ */

static double difference(const float *a, const float *b, size_t count)
{
    double sum = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        all += (double)b[i] * (double)b[i];
    }
    return sqrt(sum / all);
}

static const char *why_not(const char *path)
{
    static char why[ENGINE_WHY];
    struct engine_options options;
    struct hardware hardware;
    struct model *model;
    engine_default_options(&options);
    options.gpu = "none";
    options.drafting = DRAFTING_ON;
    assert_ok(hardware_detect(&hardware, path, &test_error));
    assert_ok(engine_open_file(&model, path, &hardware, &options, why, &test_error));
    model_close(model);
    return why;
}

/* The block's logits for the token after a prompt, and after the likeliest token that follows. */
static void ask_block(const char *path, uint32_t chunk, const int32_t *tokens, float *first, float *second)
{
    struct engine *engine = open_with(path, DRAFTING_ON, chunk);
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    const float *logits;
    float *all = malloc(PROMPT * vocabulary * sizeof *all);
    if (!engine_predicts(engine))
        fail_msg("%s", why_not(path));
    feed(engine, 0, tokens, PROMPT, chunk, all);
    assert_ok(engine_predict(engine, 0, tokens[PROMPT], false, &logits, &test_error));
    memcpy(first, logits, vocabulary * sizeof *logits);
    assert_ok(engine_predict(engine, 0, greatest(first, vocabulary), true, &logits, &test_error));
    memcpy(second, logits, vocabulary * sizeof *logits);
    free(all);
    engine_close(engine);
}

/* The allowed differences: rounding only; and, if only one of the two models norms a row, the effect of epsilon. */
#define NEAR 1e-5
#define NEAR_UNNORMED 1e-3

static void compare_with_layer(const char *base)
{
    char path[2][512];
    struct model *model;
    int32_t tokens[PROMPT + 1], again[PROMPT + 1];
    prompt_of(tokens, COUNT_OF(tokens));
    temporary_path(path[0], sizeof path[0]);
    temporary_path(path[1], sizeof path[1]);
    const uint32_t block = make_predicting(path[0], model_path(base), PREDICTION_RANDOM);
    assert_ok(model_open(&model, path[0], &test_error));
    const struct model_parameters *p = model_parameters(model);
    const size_t e = p->embedding, vocabulary = p->vocabulary;
    float *logits = malloc((PROMPT + 1) * vocabulary * sizeof *logits), *last = calloc((PROMPT + 1) * e, sizeof *last);
    float *found[4];
    for (size_t i = 0; i < COUNT_OF(found); i++)
        found[i] = malloc(vocabulary * sizeof **found);

    struct engine *engine = open_with(path[0], DRAFTING_OFF, 64);
    assert_false(engine_predicts(engine));
    feed(engine, 0, tokens, PROMPT, 64, logits);
    memcpy(last, engine_hidden(engine), PROMPT * e * sizeof *last);
    engine_close(engine);

    float *rows = join_rows(model, block, tokens, last, PROMPT);
    make_layer_model(path[1], model, block, rows);
    free(rows);
    for (int32_t j = 0; j <= PROMPT; j++)
        again[j] = j;
    engine = open_with(path[1], DRAFTING_OFF, 64);
    feed(engine, 0, again, PROMPT, 64, logits);
    memcpy(last + PROMPT * e, engine_hidden(engine) + (PROMPT - 1) * e, e * sizeof *last);
    engine_close(engine);

    ask_block(path[0], 64, tokens, found[0], found[1]);
    ask_block(path[0], 4, tokens, found[2], found[3]);
    double far = difference(found[0], logits + (PROMPT - 1) * vocabulary, vocabulary);
    printf("# %s: difference %.2g", base, far);
    assert_true(far < NEAR);
    /* The division of the prompt makes no difference. */
    assert_memory_equal(found[0], found[2], vocabulary * sizeof **found);
    assert_memory_equal(found[1], found[3], vocabulary * sizeof **found);

    /* The next prediction starts from the block's own row. The separate model gives only the normed row. The block
     * norms it again, so without the norm's weights it can replace the row itself. */
    int32_t further[PROMPT + 2];
    memcpy(further, tokens, sizeof tokens);
    further[PROMPT + 1] = greatest(found[0], vocabulary);
    const bool unnormed = model_architecture(model)->flags & ARCHITECTURE_PREDICTS_UNNORMED;
    if (unnormed) {
        char name[80];
        snprintf(name, sizeof name, "blk.%u.nextn.shared_head_norm.weight", block);
        float *weights = floats_of(model_file(model), name);
        for (size_t i = 0; i < e; i++)
            last[PROMPT * e + i] /= weights[i];
        free(weights);
    }
    rows = join_rows(model, block, further, last, PROMPT + 1);
    make_layer_model(path[1], model, block, rows);
    free(rows);
    engine = open_with(path[1], DRAFTING_OFF, 64);
    feed(engine, 0, again, PROMPT + 1, 64, logits);
    engine_close(engine);
    far = difference(found[1], logits + PROMPT * vocabulary, vocabulary);
    printf(", the next %.2g", far);
    assert_true(far < (unnormed ? NEAR_UNNORMED : NEAR));
    printf("\n");
    for (size_t i = 0; i < COUNT_OF(found); i++)
        free(found[i]);
    free(logits);
    free(last);
    model_close(model);
    unlink(path[0]);
    unlink(path[1]);
}

static void its_logits_match_its_layers(void **state)
{
    (void)state;
    static const char *const bases[] = {"llama", "mixtral", "qwen3moe", "deepseek2-v3", "qwen3"};
    for (size_t i = 0; i < COUNT_OF(bases); i++)
        compare_with_layer(bases[i]);
    /* The models of the whole reference set, if it is present. */
    static const char *const reference[] = {"glm4moe", "hy-v3", "glm-dsa", "deepseek32"};
    const char *folder = getenv("HYPURA_ORACLE");
    for (size_t i = 0; folder && i < COUNT_OF(reference); i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/models/%s.gguf", folder, reference[i]);
        compare_with_layer(path);
    }
}

/* ---- drafts ------------------------------------------------------------------------------------------------------ */

/* A block whose predictions are right predicts token after token, whatever was accepted before. */
static void its_predictions_are_right(void **state)
{
    (void)state;
    char path[512];
    int32_t tokens[PROMPT], said[12];
    temporary_path(path, sizeof path);
    make_predicting(path, model_path("mixtral"), PREDICTION_TRUE);
    struct engine *engine = open_with(path, DRAFTING_ON, 16);
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = malloc(PROMPT * vocabulary * sizeof *logits);
    prompt_of(tokens, COUNT_OF(tokens));
    feed(engine, 0, tokens, PROMPT, 16, logits);
    said[0] = greatest(logits + (PROMPT - 1) * vocabulary, vocabulary);
    for (size_t i = 1; i < COUNT_OF(said); i++) {
        feed(engine, 0, said + i - 1, 1, 1, logits);
        said[i] = greatest(logits, vocabulary);
    }
    for (uint32_t accepted = 0; accepted < 4; accepted++) {
        const float *found;
        engine_truncate(engine, 0, 0);
        feed(engine, 0, tokens, PROMPT, 16, logits);
        size_t next = 0;
        for (int pass = 0; pass < 2; pass++) {
            int32_t batch[5] = {said[next]};
            for (size_t i = 0; i < 4; i++) {
                assert_ok(engine_predict(engine, 0, batch[i], i > 0, &found, &test_error));
                batch[i + 1] = greatest(found, vocabulary);
                assert_int_equal(batch[i + 1], said[next + i + 1]);
            }
            uint32_t positions[5];
            const bool want[5] = {true, true, true, true, true};
            for (uint32_t i = 0; i < 5; i++)
                positions[i] = engine_positions(engine, 0) + i;
            struct engine_batch b = {
                .count = 5, .tokens = batch, .positions = positions, .want_logits = want, .drafted = 4};
            assert_ok(engine_forward(engine, &b, &test_error));
            assert_ok(engine_accept(engine, accepted, &test_error));
            next += accepted + 1;
        }
    }
    free(logits);
    engine_close(engine);
    unlink(path);
}

/* The block predicts nothing after tokens that it did not see, and continues later. */
static void gaps_cost_only_drafts(void **state)
{
    (void)state;
    char path[512];
    int32_t tokens[PROMPT];
    const float *found;
    temporary_path(path, sizeof path);
    make_predicting(path, model_path("llama"), PREDICTION_RANDOM);
    struct engine *engine = open_with(path, DRAFTING_ON, 64);
    float *logits = malloc(PROMPT * model_parameters(engine_model(engine))->vocabulary * sizeof *logits);
    prompt_of(tokens, COUNT_OF(tokens));
    assert_int_not_equal(engine_predict(engine, 0, 1, false, &found, &test_error), HYPURA_OK);
    feed(engine, 0, tokens, PROMPT, 64, logits);
    assert_int_not_equal(engine_predict(engine, 0, 1, true, &found, &test_error), HYPURA_OK);
    assert_int_not_equal(engine_predict(engine, 1, 1, false, &found, &test_error), HYPURA_OK);
    assert_ok(engine_predict(engine, 0, 1, false, &found, &test_error));
    assert_true(engine_truncate(engine, 0, 9));
    assert_int_not_equal(engine_predict(engine, 0, 1, false, &found, &test_error), HYPURA_OK);
    feed(engine, 0, tokens + 9, 1, 1, logits);
    assert_ok(engine_predict(engine, 0, 1, false, &found, &test_error));
    assert_int_not_equal(engine_predict(engine, 0, -1, true, &found, &test_error), HYPURA_OK);
    /* More rows than the block may have waiting, and a full context. */
    for (int i = 0; engine_positions(engine, 0) < 127; i++)
        feed(engine, 0, tokens + i % PROMPT, 1, 1, logits);
    assert_ok(engine_predict(engine, 0, 1, false, &found, &test_error));
    for (int i = 0; i < 20; i++)
        engine_predict(engine, 0, 1, true, &found, &test_error);
    engine_truncate(engine, 0, 0);
    assert_int_not_equal(engine_predict(engine, 0, 1, false, &found, &test_error), HYPURA_OK);
    free(logits);
    engine_close(engine);
    unlink(path);
}

/* ---- use of the block -------------------------------------------------------------------------------------------- */

static void expect_file(const char *path, const struct engine_options *options, const char *says)
{
    struct hardware hardware;
    struct model *model;
    char why[ENGINE_WHY] = "?";
    assert_ok(hardware_detect(&hardware, path, &test_error));
    assert_ok(engine_open_file(&model, path, &hardware, options, why, &test_error));
    assert_int_equal(model_parameters(model)->predicting, says == NULL);
    if (says && !strstr(why, says))
        fail_msg("%s", why);
    model_close(model);
}

static void it_is_used_if_possible(void **state)
{
    (void)state;
    char path[512];
    struct engine_options options;
    engine_default_options(&options);
    options.context = 128;
    options.gpu = "none";
    temporary_path(path, sizeof path);
    make_predicting(path, model_path("mixtral"), PREDICTION_RANDOM);
    expect_file(path, &options, NULL);
    options.drafting = DRAFTING_OFF;
    expect_file(path, &options, "drafting is off");
    options.drafting = DRAFTING_AUTO;
    options.draft_path = path;
    expect_file(path, &options, "a smaller model drafts");
    options.draft_path = NULL;
    options.trace_path = "/nowhere";
    expect_file(path, &options, "recorded");
    options.trace_path = NULL;
    make_predicting(path, model_path("qwen3next"), PREDICTION_RANDOM);
    expect_file(path, &options, NULL);
    make_predicting(path, model_path("llama"), PREDICTION_WITHOUT_JOIN);
    expect_file(path, &options, "nextn.eh_proj.weight' is missing");
    expect_file(model_path("llama"), &options, "");
    unlink(path);
}

/* The block's weights count only if it is used. */
static void its_memory_is_planned_for(void **state)
{
    (void)state;
    char path[512];
    temporary_path(path, sizeof path);
    make_predicting(path, model_path("mixtral"), PREDICTION_RANDOM);
    struct engine *without = open_with(path, DRAFTING_OFF, 64);
    uint64_t resident = engine_plan(without)->resident_bytes, cache = engine_plan(without)->kv_bytes;
    engine_close(without);
    struct engine *with = open_with(path, DRAFTING_ON, 64);
    assert_true(engine_plan(with)->resident_bytes > resident);
    assert_true(engine_plan(with)->kv_bytes > cache);
    engine_close(with);
    /* If there is no room for the block, the model runs without it. */
    struct engine_options options;
    engine_default_options(&options);
    options.context = 128;
    options.gpu = "none";
    struct engine *small = open_smallest(path, &options);
    assert_true(SANITIZED || !engine_predicts(small));
    engine_close(small);
    unlink(path);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_logits_match_its_layers), cmocka_unit_test(its_predictions_are_right),
        cmocka_unit_test(gaps_cost_only_drafts),       cmocka_unit_test(it_is_used_if_possible),
        cmocka_unit_test(its_memory_is_planned_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
