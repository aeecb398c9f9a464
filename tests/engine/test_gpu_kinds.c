/* Each kind of step gives the same results on a GPU as on the CPU: both execute the same single step on the same rows.
 * Without a device, the tests are skipped. */
#include "gpu_engine.h"

#include "engine/cpu/execute.h"

#define MOST_ROWS 20

/* The same model on CPU and GPU, in the middle of a batch. */
struct pair {
    struct engine *cpu, *gpu;
    const char *name;
    size_t rows;
    uint32_t embedding;
    struct gpu_buffer *back;
    struct random random;
    double worst;
    uint32_t compared[STEP_KINDS + 1];
};

static size_t width_of(const struct pair *pair, enum step_buffer buffer)
{
    return pair->cpu->open.geometry.widths[buffer];
}

static void open_pair(struct pair *pair, const char *name)
{
    struct engine_options options;
    struct setting setting = {.kv_type = TENSOR_F32};
    *pair = (struct pair){.name = name};
    set_options(&options, &setting);
    options.gpu = "none";
    assert_ok(engine_open(&pair->cpu, model_path(name), &options, &test_error));
    pair->gpu = open_with(name, &setting);
    pair->embedding = model_parameters(engine_model(pair->cpu))->embedding;
    size_t widest = 0;
    for (enum step_buffer buffer = BUFFER_HIDDEN; buffer < BUFFER_COUNT; buffer++)
        widest = widest > width_of(pair, buffer) ? widest : width_of(pair, buffer);
    widest = widest > 16 * pair->embedding ? widest : 16 * pair->embedding; /* the experts' outputs */
    assert_ok(gpu_buffer_create(pair->gpu->open.devices.gpus[0], &pair->back, widest * MOST_ROWS * sizeof(float),
                                GPU_READBACK, &test_error));
    random_seed(&pair->random, 5);
}

static void close_pair(struct pair *pair)
{
    gpu_buffer_destroy(pair->gpu->open.devices.gpus[0], pair->back);
    engine_close(pair->cpu);
    close_silent(pair->gpu);
}

/* Sets positions, spans and ropes as for a first batch of this many tokens. The sequence keeps nothing of it. */
static void begin_batch(struct pair *pair, size_t rows)
{
    static int32_t tokens[TOKENS];
    static const struct engine_batch asked = {.tokens = tokens};
    struct engine *engines[] = {pair->cpu, pair->gpu};
    size_t vocabulary = model_parameters(engine_model(pair->cpu))->vocabulary;
    float *logits = calloc(rows * vocabulary, sizeof *logits);
    pair->rows = rows;
    prompt_of(tokens);
    for (size_t i = 0; i < COUNT_OF(engines); i++) {
        engine_truncate(engines[i], 0, 0);
        feed(engines[i], 0, tokens, rows, SIZE_MAX, logits);
        engine_truncate(engines[i], 0, 0);
        engines[i]->batch.asked = &asked;
        store_begin(engines[i]->open.store);
    }
    free(logits);
}

static void end_batch(struct pair *pair)
{
    store_abandon(pair->cpu->open.store);
    store_abandon(pair->gpu->open.store);
}

/* Fills a buffer with the same random floats on both sides. */
static void fill_floats(struct pair *pair, float *here, struct gpu_range there, size_t count)
{
    struct gpu *gpu = pair->gpu->open.devices.gpus[0];
    gpu_ticket ticket;
    if (!here || count == 0)
        return;
    for (size_t i = 0; i < count; i++)
        here[i] = (float)random_normal(&pair->random);
    assert_ok(gpu_upload(gpu, there, here, count * sizeof *here, &ticket, &test_error));
    assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
}

/* Chooses every other position for each row. If "every" is greater than 1, an entry represents that many positions. */
static void fill_choice(struct pair *pair, const struct step_choice *chosen, uint32_t every)
{
    uint32_t *words = (uint32_t *)(void *)pair->cpu->batch.scratch.buffers[chosen->buffer];
    struct gpu *gpu = pair->gpu->open.devices.gpus[0];
    const size_t stride = step_choice_words(chosen);
    gpu_ticket ticket;
    for (size_t row = 0; row < pair->rows; row++)
        for (uint32_t s = 0; s < chosen->sets; s++) {
            uint32_t *set = words + row * stride + s * (chosen->most + 1), count = 0;
            const uint32_t ids = (uint32_t)(every > 1 ? (row + 1) / every : row / chosen->block + 1);
            for (uint32_t id = ids ? s % ids : 0; id < ids && count < chosen->most; id += 2)
                set[++count] = id;
            set[0] = count;
        }
    assert_ok(gpu_upload(gpu, pair->gpu->batch.pass->rows[chosen->buffer], words, pair->rows * stride * sizeof *words,
                         &ticket, &test_error));
    assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
    memcpy(pair->gpu->batch.scratch.buffers[chosen->buffer], words, pair->rows * stride * sizeof *words);
}

/* Fills all buffers and the experts' outputs. */
static void fill(struct pair *pair)
{
    struct batch *cpu = &pair->cpu->batch, *gpu = &pair->gpu->batch;
    size_t used = model_parameters(engine_model(pair->cpu))->experts_used;
    gpu_pass_begin(gpu);
    forget_inputs(cpu, UINT32_MAX);
    for (enum step_buffer buffer = BUFFER_HIDDEN; buffer < BUFFER_COUNT; buffer++)
        fill_floats(pair, cpu->scratch.buffers[buffer], gpu->pass->rows[buffer], pair->rows * width_of(pair, buffer));
    fill_floats(pair, cpu->scratch.expert_out, gpu->pass->expert_out, pair->rows * used * pair->embedding);
    /* Also fill the buffers that are uploaded when the device's layers begin. */
    for (size_t i = 0; i < COUNT_OF(pass_carried); i++)
        if (width_of(pair, pass_carried[i]))
            memcpy(gpu->scratch.buffers[pass_carried[i]], cpu->scratch.buffers[pass_carried[i]],
                   pair->rows * width_of(pair, pass_carried[i]) * sizeof(float));
}

/* Executes steps on the CPU, and their equivalent on the GPU. */
static void run(struct pair *pair, struct step_list here, const struct step *there)
{
    struct batch *gpu = &pair->gpu->batch;
    assert_ok(execute(&pair->cpu->batch, here, &test_error));
    pass_to_device(gpu);
    assert_ok(pass_record_steps(gpu, (struct step_list){there, 1}, &test_error));
    assert_ok(pass_finish(gpu, &test_error));
}

static const void *bring(struct pair *pair, struct gpu_range from, size_t bytes)
{
    struct batch *gpu = &pair->gpu->batch;
    pass_record(gpu->pass);
    gpu_copy(gpu->pass->gpu, (struct gpu_range){pair->back, 0}, from, bytes);
    assert_ok(pass_finish(gpu, &test_error));
    return gpu_buffer_mapped(pair->back);
}

/* The largest allowed difference. For quantised weights, the CPU rounds inputs to 8 bits, a GPU only for few rows. */
static double most_apart(const struct pair *pair, const struct step *step)
{
    const struct model *model = pair->cpu->open.model;
    struct step_unit units[STEP_UNITS + 1];
    size_t count = step_units(step, units);
    if (step->kind == STEP_EXPERTS)
        units[count++].unit = step->experts.first;
    for (size_t i = 0; i < count; i++)
        if (tensor_type_info(model_unit(model, units[i].unit)->slices[0].tensor->type)->block_size > 1)
            return 0.15;
    return 5e-3;
}

/* Compares by the root mean square, since single elements may be nearly zero. */
static void compare(struct pair *pair, const struct step *step, const float *expected, struct gpu_range found,
                    size_t count)
{
    const float *there = bring(pair, found, count * sizeof *expected);
    double square = 0, most = 0;
    for (size_t i = 0; i < count; i++) {
        double apart = fabs((double)there[i] - (double)expected[i]);
        square += (double)expected[i] * (double)expected[i];
        most = isnan(apart) || apart > most ? apart : most;
    }
    double relative = most / (sqrt(square / (double)count) + 1e-9);
    if (!(relative < most_apart(pair, step)))
        fail_msg("%s, layer %d, %zu rows: the GPU's result of %s differs by %g", pair->name, step->layer, pair->rows,
                 step_name(step->kind), relative);
    pair->worst = relative > pair->worst ? relative : pair->worst;
    pair->compared[step->kind]++;
}

static void compare_buffer(struct pair *pair, const struct step *step, enum step_buffer buffer, size_t width)
{
    struct batch *gpu = &pair->gpu->batch;
    if (gpu->pass->state[buffer] != ROWS_HALVES)
        compare(pair, step, pair->cpu->batch.scratch.buffers[buffer], gpu->pass->rows[buffer], pair->rows * width);
}

/* Compares the used words of each set. */
static void compare_choices(struct pair *pair, const struct step *step)
{
    const struct step_index *x = &step->index;
    const uint32_t *expected = (const uint32_t *)(const void *)pair->cpu->batch.scratch.buffers[x->out];
    const size_t sets = x->by_head ? x->heads : 1, stride = x->most + x->tail + 1;
    const uint32_t *found =
        bring(pair, pair->gpu->batch.pass->rows[x->out], pair->rows * sets * stride * sizeof *found);
    for (size_t set = 0; set < pair->rows * sets; set++, expected += stride, found += stride)
        assert_memory_equal(found, expected, (1 + expected[0]) * sizeof *found);
    pair->compared[step->kind]++;
}

/* Compares the results of a step. Recurrences and heads also use buffers that no later step reads: keys and values, for
 * example, go to the cache, and attention's result shows them. */
static void compare_results(struct pair *pair, const struct step *step)
{
    const struct scratch *s = &pair->cpu->batch.scratch;
    const struct gpu_pass *pass = pair->gpu->batch.pass;
    struct step_touch touches[STEP_TOUCHES];
    size_t count = step_touches(step, pair->embedding, touches);
    if (step->kind == STEP_ROUTE) {
        size_t choices = pair->rows * step->route.rule.used;
        assert_memory_equal(bring(pair, pass->chosen, choices * sizeof *s->chosen), s->chosen,
                            choices * sizeof *s->chosen);
        compare(pair, step, s->chosen_weights, pass->weights, choices);
        return;
    }
    if (step->kind == STEP_EXPERTS) {
        compare(pair, step, s->expert_out, pass->expert_out, pair->rows * step->experts.used * pair->embedding);
        return;
    }
    if (step->kind == STEP_INDEX) {
        compare_choices(pair, step);
        return;
    }
    if (step->kind == STEP_COMPRESS || step->kind == STEP_POOL) { /* attention or a search reads their results */
        pair->compared[step->kind]++;
        return;
    }
    for (size_t t = 0; t < count; t++) {
        bool counts = step->kind == STEP_HEADS           ? touches[t].buffer == step->heads.query.buffer
                      : step->kind == STEP_DELTA_NET     ? touches[t].buffer == step->delta_net.out
                      : step->kind == STEP_CONVOLVE      ? touches[t].buffer == step->convolve.out
                      : step->kind == STEP_SCAN          ? touches[t].buffer == step->scan.out
                      : step->kind == STEP_CHUNK_EXPERTS ? touches[t].buffer == step->chunk_experts.buffer
                      : step->kind == STEP_GATHER_GATED  ? touches[t].buffer != step->gather_gated.gates
                                                         : true;
        if (touches[t].writes && counts)
            compare_buffer(pair, step, touches[t].buffer, touches[t].width);
    }
}

/* Whether a GPU fuses this step with others between a branch and the next product. */
static bool is_between(const struct step *step)
{
    return step->kind == STEP_MIX || step->kind == STEP_SCALE_ROWS || step->kind == STEP_SCALE ||
           step->kind == STEP_ADD || step->kind == STEP_NORM;
}

/* Whether a step after the sum with a branch belongs to that branch instead of the next one. */
static bool follows(const struct step *step)
{
    return step->kind == STEP_SCALE || (step->kind == STEP_NORM && step->norm.in == BUFFER_HIDDEN);
}

/* Compares a fused residual step with the CPU's steps that it replaces. If its mix weights shared experts, the CPU's
 * steps include those that compute the weights. */
static void compare_residual(struct pair *pair, struct step_list layer, struct step_list between,
                             const struct step *residual)
{
    const struct step_residual *r = &residual->residual;
    struct step here[16];
    size_t count = 0;
    for (size_t i = 0; r->mixes && r->mix.gates != BUFFER_NONE && i < layer.count; i++) {
        const struct step *step = &layer.steps[i];
        if (step->kind == STEP_SCALE_ROWS || (step->kind == STEP_FUNCTION && step->function.buffer == r->mix.gates))
            here[count++] = *step;
    }
    assert_true(count + between.count <= COUNT_OF(here));
    memcpy(here + count, between.steps, between.count * sizeof *here);
    fill(pair);
    run(pair, (struct step_list){here, count + between.count}, residual);
    compare_buffer(pair, residual, r->to, pair->embedding);
    if (r->out != BUFFER_NONE)
        compare_buffer(pair, residual, r->out, pair->embedding);
}

static void compare_one(struct pair *pair, const struct step *step)
{
    fill(pair);
    if (step->kind == STEP_ATTEND && step->attend.chosen.buffer != BUFFER_NONE)
        fill_choice(pair, &step->attend.chosen, MAX(step->attend.compressed, 1u));
    if (step->kind == STEP_ATTEND_LATENT && step->attend_latent.chosen.buffer != BUFFER_NONE)
        fill_choice(pair, &step->attend_latent.chosen, 1);
    if (step->kind == STEP_LOOK_UP) { /* normally begun with the pass */
        assert_ok(look_up_begin(&pair->cpu->batch, &test_error));
        assert_ok(look_up_begin(&pair->gpu->batch, &test_error));
    }
    run(pair, (struct step_list){step, 1}, step);
    compare_results(pair, step);
}

/* Compares each step of a list that a GPU supports. */
static void compare_alone(struct pair *pair, struct step_list list)
{
    for (size_t i = 0; i < list.count; i++)
        if (pass_records(list.steps[i].kind) &&
            (list.steps[i].kind != STEP_FUNCTION || list.steps[i].function.function == FUNCTION_SILU))
            compare_one(pair, &list.steps[i]);
}

/* Compares each step of a layer. Models do not have all functions of elements: see compare_function. */
static void compare_layer(struct pair *pair, uint32_t layer)
{
    struct step_list list = steps_of_layer(pair->cpu->open.steps, layer);
    struct step *fused;
    size_t fused_count, at = 0, count;
    assert_ok(steps_fuse(list, false, &fused, &fused_count, &test_error));
    for (size_t i = 0; i < list.count; i += count) {
        const struct step *step = &list.steps[i];
        bool adds = false;
        for (count = 0; i + count < list.count && is_between(&step[count]); count++) {
            if (adds && !follows(&step[count]))
                break;
            adds = adds || step[count].kind == STEP_ADD;
        }
        if (adds && step->kind == STEP_MIX)
            compare_one(pair, step);
        if (adds) {
            while (at < fused_count && fused[at].kind != STEP_RESIDUAL)
                at++;
            assert_true(at < fused_count);
            compare_residual(pair, list, (struct step_list){step, count}, &fused[at++]);
            continue;
        }
        count = 1;
        if (!pass_records(step->kind) || step->kind == STEP_FUNCTION)
            continue;
        compare_one(pair, step);
    }
    memory_free(fused);
}

/* A function of elements has no units, so it can be tested with any model. */
static void compare_function(struct pair *pair)
{
    struct step steps[2] = {{.kind = STEP_FUNCTION,
                             .reads = 1u << BUFFER_BRANCH,
                             .writes = 1u << BUFFER_BRANCH,
                             .function = {FUNCTION_GELU, BUFFER_BRANCH, pair->embedding}},
                            {.kind = STEP_KINDS}};
    fill(pair);
    run(pair, (struct step_list){steps, 1}, steps);
    compare_results(pair, steps);
}

/* Whether an earlier layer has the same kinds of steps. */
static bool is_known(const struct steps *steps, uint32_t layer)
{
    const struct step_list own = steps_of_layer(steps, layer);
    for (uint32_t i = 0; i < layer; i++) {
        const struct step_list other = steps_of_layer(steps, i);
        size_t same = 0;
        while (same < own.count && same < other.count && own.steps[same].kind == other.steps[same].kind)
            same++;
        if (same == own.count && same == other.count)
            return true;
    }
    return false;
}

static void compare_model(const char *name, bool functions, bool fuses, uint32_t *compared)
{
    struct pair pair;
    open_pair(&pair, name);
    const struct steps *steps = pair.cpu->open.steps;
    assert_non_null(pair.gpu->batch.pass);
    for (int many = 0; many < 2; many++) {
        begin_batch(&pair, many ? MOST_ROWS : 5);
        for (uint32_t i = 0; i < model_parameters(engine_model(pair.cpu))->layers; i++) {
            const bool there = gpu_pass_has(&pair.gpu->batch, i);
            if (there && fuses)
                compare_layer(&pair, i);
            else if (there && !is_known(steps, i))
                compare_alone(&pair, steps_of_layer(steps, i));
        }
        if (!fuses)
            compare_alone(&pair, steps_after(steps));
        if (functions)
            compare_function(&pair);
        end_batch(&pair);
    }
    print_message("# %-16s greatest difference %.2g\n", name, pair.worst);
    for (size_t kind = 0; kind < STEP_KINDS; kind++)
        compared[kind] += pair.compared[kind];
    close_pair(&pair);
}

static void each_kind_gives_the_cpus_results(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const carried[] = {"llama",        "gpt-oss",   "mixtral",         "gemma2",
                                          "deepseek2-v3", "qwen3next", "deepseek2-legacy"};
    /* Only in the whole reference set. The layers of the last ones add to more than the residual stream. */
    static const struct {
        const char *name;
        bool fuses;
    } further[] = {{"falcon-h1", true},  {"kimi-k3", true},   {"glm-dsa", true},
                   {"minimax-m3", true}, {"deepseek4", true}, {"hy-v4", true},
                   {"qwen4exp", false},  {"gemma3n", false},  {"grovemoe", true}};
    const char *whole = getenv("HYPURA_ORACLE");
    uint32_t compared[STEP_KINDS + 1] = {0};
    for (size_t m = 0; m < COUNT_OF(carried); m++)
        compare_model(carried[m], m == 0, true, compared);
    for (size_t m = 0; whole && m < COUNT_OF(further); m++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/models/%s.gguf", whole, further[m].name);
        compare_model(path, false, further[m].fuses, compared);
    }
    for (enum step_kind kind = 0; kind < STEP_KINDS; kind++)
        if (pass_records(kind) && compared[kind] == 0 && !whole)
            print_message("# %s is compared only with the whole reference set (HYPURA_ORACLE)\n", step_name(kind));
        else if (pass_records(kind) && compared[kind] == 0)
            fail_msg("the GPU supports %s, but no model here has such a step", step_name(kind));
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_kind_gives_the_cpus_results)};
    return cmocka_run_group_tests(tests, find_device, NULL);
}
