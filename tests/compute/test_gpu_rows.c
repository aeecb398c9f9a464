/* The GPU's kernels on rows of floats and for mixtures of experts, compared with plain C. */
#include "gpu_test.h"

#include "core/half.h"
#include "engine/engine_private.h"

#define NONE ((struct gpu_range){0})

static struct compute *plain(void)
{
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    return compute;
}

static struct gpu_range floats(struct gpu *gpu, const float *values, size_t count)
{
    return gpu_test_range(gpu, values, count * sizeof(float));
}

/* The largest error so far. The tests print it, for docs/gpu-internals.md. */
static double worst;

static void expect_floats(struct gpu *gpu, struct gpu_range range, const float *expected, size_t count, double bound)
{
    float *values = gpu_test_take(gpu, range, count * sizeof *values);
    double error = gpu_test_error(values, expected, count);
    worst = fmax(worst, error);
    if (!(error < bound))
        fail_msg("the error is %g, above %g", error, bound);
    free(values);
}

static void print_worst(const char *what)
{
    fprintf(stderr, "# %s: largest relative error %.1e\n", what, worst);
    worst = 0;
}

static void norms_rows(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct compute *compute = plain();
    struct random random;
    random_seed(&random, 1);
    const uint32_t shapes[][2] = {{1, 4096}, {5, 24}, {3, 1001}, {70, 64}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        uint32_t rows = shapes[i][0], columns = shapes[i][1], count = rows * columns;
        float *in = gpu_test_floats(&random, count), *weight = gpu_test_floats(&random, columns);
        float *bias = gpu_test_floats(&random, columns), *expected = malloc(count * sizeof *expected);
        assert_non_null(expected);
        struct gpu_range weights = floats(gpu, weight, columns), biases = floats(gpu, bias, columns);
        struct gpu_range first = floats(gpu, in, count);
        struct gpu_range second = gpu_test_range(gpu, NULL, count * sizeof(float));
        gpu_begin(gpu);
        gpu_rms_norm(gpu, second, first, weights, biases, rows, columns, 1e-5f);
        gpu_barrier(gpu);
        gpu_rms_norm(gpu, second, second, NONE, NONE, rows, columns, 1e-6f);
        gpu_test_run(gpu);
        compute_rms_norm(compute, expected, in, weight, rows, columns, 1e-5f);
        for (uint32_t r = 0; r < rows; r++)
            compute_add(compute, expected + r * columns, expected + r * columns, bias, columns);
        compute_rms_norm(compute, expected, expected, NULL, rows, columns, 1e-6f);
        expect_floats(gpu, second, expected, count, 1e-6);
        for (uint32_t c = 0; c < count; c++)
            in[c] += 3; /* gives the row a mean to subtract */
        struct gpu_range third = floats(gpu, in, count);
        gpu_begin(gpu);
        gpu_layer_norm(gpu, third, third, weights, biases, rows, columns, 1e-5f);
        gpu_test_run(gpu);
        compute_layer_norm(compute, expected, in, weight, bias, rows, columns, 1e-5f);
        expect_floats(gpu, third, expected, count, 1e-6);
        gpu_buffer_destroy(gpu, weights.buffer);
        gpu_buffer_destroy(gpu, biases.buffer);
        gpu_buffer_destroy(gpu, first.buffer);
        free(in);
        free(weight);
        free(bias);
        free(expected);
    }
    compute_destroy(compute);
    print_worst("norms");
}

/* For every type, the result is the CPU's for the same bytes. */
static void embeds_tokens(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 8);
    enum { ROWS = 9, VOCABULARY = 5, COLUMNS = 768 };
    const int32_t tokens[ROWS] = {0, 4, 2, 2, 1, 3, 0, 4, 4};
    unsigned types = 0;
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT; type++) {
        uint64_t row_bytes;
        if (!tensor_row_bytes((enum tensor_type)type, COLUMNS, &row_bytes) ||
            !gpu_embed_supports((enum tensor_type)type, row_bytes))
            continue;
        types++;
        uint8_t *data = gpu_test_weights(&random, (enum tensor_type)type, VOCABULARY, COLUMNS);
        float *expected = malloc(ROWS * COLUMNS * sizeof *expected);
        assert_non_null(expected);
        for (size_t r = 0; r < ROWS; r++)
            compute_dequantize((enum tensor_type)type, data + (uint64_t)tokens[r] * row_bytes, expected + r * COLUMNS,
                               COLUMNS);
        for (size_t i = 0; i < ROWS * COLUMNS; i++)
            expected[i] *= 3;
        struct gpu_matrix matrix = {.data = gpu_test_range(gpu, data, VOCABULARY * row_bytes),
                                    .type = (enum tensor_type)type,
                                    .rows = VOCABULARY,
                                    .columns = COLUMNS,
                                    .row_bytes = row_bytes};
        struct gpu_range ids = gpu_test_range(gpu, tokens, sizeof tokens);
        struct gpu_range out = gpu_test_range(gpu, NULL, ROWS * COLUMNS * sizeof(float));
        gpu_begin(gpu);
        gpu_embed(gpu, &matrix, ids, out, ROWS, 3);
        gpu_test_run(gpu);
        expect_floats(gpu, out, expected, ROWS * COLUMNS, 1e-6);
        gpu_buffer_destroy(gpu, matrix.data.buffer);
        gpu_buffer_destroy(gpu, ids.buffer);
        free(data);
        free(expected);
    }
    assert_int_equal(types, 26);
    print_worst("embeddings");
}

static void works_on_elements(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct compute *compute = plain();
    struct random random;
    random_seed(&random, 2);
    const size_t counts[] = {1, 3, 1023, 5000, 70001};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        size_t n = counts[i];
        float *a = gpu_test_floats(&random, n), *expected = malloc(n * sizeof *expected);
        assert_non_null(expected);
        for (size_t c = 0; c < n; c++)
            a[c] *= c % 7 ? 1 : 30; /* large enough for exponentials to overflow or vanish */
        memcpy(expected, a, n * sizeof *a);
        struct gpu_range x = floats(gpu, a, n), y = gpu_test_range(gpu, NULL, n * sizeof(float));
        gpu_begin(gpu);
        gpu_scale(gpu, y, x, -3, n);
        gpu_barrier(gpu);
        gpu_soft_cap(gpu, x, n, 30);
        gpu_test_run(gpu);
        compute_soft_cap(compute, expected, n, 30);
        expect_floats(gpu, x, expected, n, 1e-6);
        compute_scale(compute, expected, a, -3, n);
        expect_floats(gpu, y, expected, n, 1e-6);
        x = floats(gpu, a, n);
        gpu_begin(gpu);
        gpu_gelu(gpu, x, n);
        gpu_test_run(gpu);
        compute_function(compute, FUNCTION_GELU, a, n);
        expect_floats(gpu, x, a, n, 1e-6);
        x = floats(gpu, a, n);
        gpu_begin(gpu);
        gpu_clamp(gpu, x, n, 0.25f);
        gpu_test_run(gpu);
        compute_clamp(compute, a, n, 0.25f);
        expect_floats(gpu, x, a, n, 1e-6);
        free(a);
        free(expected);
    }
    compute_destroy(compute);
    print_worst("elements");
}

static void multiplies_gates(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct compute *compute = plain();
    struct random random;
    random_seed(&random, 3);
    const uint32_t shapes[][2] = {{1, 14336}, {3, 100}, {33, 1025}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        uint32_t rows = shapes[i][0], columns = shapes[i][1], stride = 2 * columns + 1;
        float *both = gpu_test_floats(&random, (size_t)rows * stride);
        float *expected = malloc((size_t)rows * columns * sizeof *expected);
        assert_non_null(expected);
        for (size_t c = 0; c < (size_t)rows * stride; c++)
            both[c] *= 12;
        for (int kind = GLU_SILU; kind < GLU_KINDS; kind++) {
            struct gpu_range in = floats(gpu, both, (size_t)rows * stride), up = in;
            struct gpu_range out = gpu_test_range(gpu, NULL, (size_t)rows * columns * sizeof(float));
            up.offset += columns * sizeof(float);
            gpu_begin(gpu);
            gpu_glu(gpu, (enum glu_kind)kind, out, in, up, rows, columns, stride, stride, 1.702f, 7);
            gpu_test_run(gpu);
            compute_glu(compute, (enum glu_kind)kind, expected, columns, both, stride, both + columns, stride, rows,
                        columns, 1.702f, 7);
            expect_floats(gpu, out, expected, (size_t)rows * columns, 2e-6);
            gpu_buffer_destroy(gpu, in.buffer);
        }
        /* One gate per row. */
        for (int softplus = 0; softplus < 2; softplus++) {
            const enum glu_kind kind = softplus ? GLU_SOFTPLUS : GLU_SIGMOID;
            struct gpu_range gates = floats(gpu, both, rows), ups = floats(gpu, both + rows, (size_t)rows * columns);
            struct gpu_range out = gpu_test_range(gpu, NULL, (size_t)rows * columns * sizeof(float));
            gpu_begin(gpu);
            gpu_glu_rows(gpu, kind, out, gates, ups, rows, columns);
            gpu_test_run(gpu);
            compute_glu_rows(compute, kind, expected, both, both + rows, rows, columns);
            expect_floats(gpu, out, expected, (size_t)rows * columns, 2e-6);
            gpu_buffer_destroy(gpu, gates.buffer);
            gpu_buffer_destroy(gpu, ups.buffer);
        }
        /* Rows with weights. */
        float *weights = gpu_test_floats(&random, rows);
        struct gpu_range in = floats(gpu, both, (size_t)rows * stride), up = in, by = floats(gpu, weights, rows);
        struct gpu_range out = gpu_test_range(gpu, NULL, (size_t)rows * columns * sizeof(float));
        up.offset += columns * sizeof(float);
        gpu_begin(gpu);
        gpu_glu_weighed(gpu, GLU_SILU, out, in, up, by, rows, columns, stride, stride, 0, 0);
        gpu_test_run(gpu);
        for (uint32_t row = 0; row < rows; row++)
            compute_scale(compute, both + row * stride, both + row * stride, weights[row], stride);
        compute_glu(compute, GLU_SILU, expected, columns, both, stride, both + columns, stride, rows, columns, 0, 0);
        expect_floats(gpu, out, expected, (size_t)rows * columns, 2e-6);
        gpu_buffer_destroy(gpu, in.buffer);
        gpu_buffer_destroy(gpu, by.buffer);
        free(weights);
        free(both);
        free(expected);
    }
    compute_destroy(compute);
    print_worst("glu");
}

/* ---- mixtures of experts ----------------------------------------------------------------------------------------- */

static void chooses_as(struct gpu *gpu, const struct router_rule *p, bool bias, bool scales, bool ties, uint32_t rows,
                       struct random *random)
{
    struct compute *compute = plain();
    size_t count = (size_t)rows * p->experts, choices = (size_t)rows * p->used;
    float *logits = gpu_test_floats(random, count), *selection = malloc(count * sizeof *selection);
    float *biases = gpu_test_floats(random, p->experts), *expert_scales = gpu_test_floats(random, p->experts);
    float *weights = malloc(choices * sizeof *weights);
    uint32_t *chosen = malloc(choices * sizeof *chosen);
    assert_true(selection && weights && chosen);
    for (size_t i = 0; ties && i < count; i++)
        logits[i] = floorf(logits[i]);
    struct gpu_router router = {.logits = floats(gpu, logits, count),
                                .selection_bias = bias ? floats(gpu, biases, p->experts) : NONE,
                                .expert_scales = scales ? floats(gpu, expert_scales, p->experts) : NONE,
                                .ids = gpu_test_range(gpu, NULL, choices * sizeof *chosen),
                                .weights = gpu_test_range(gpu, NULL, choices * sizeof *weights),
                                .rows = rows,
                                .experts = p->experts,
                                .used = p->used,
                                .groups = p->groups,
                                .groups_used = p->groups_used,
                                .gate = (int)p->gate,
                                .normalise = p->normalise,
                                .scale = p->scale};
    gpu_begin(gpu);
    gpu_router(gpu, &router);
    gpu_test_run(gpu);
    router_choose(compute, p, logits, selection, bias ? biases : NULL, rows, chosen, weights);
    for (size_t i = 0; scales && i < choices; i++)
        weights[i] *= expert_scales[chosen[i]];
    uint32_t *ids = gpu_test_take(gpu, router.ids, choices * sizeof *ids);
    assert_memory_equal(ids, chosen, choices * sizeof *ids);
    expect_floats(gpu, router.weights, weights, choices, 1e-6);
    gpu_buffer_destroy(gpu, router.logits.buffer);
    gpu_buffer_destroy(gpu, router.selection_bias.buffer);
    gpu_buffer_destroy(gpu, router.expert_scales.buffer);
    free(ids);
    free(logits);
    free(selection);
    free(biases);
    free(expert_scales);
    free(weights);
    free(chosen);
    compute_destroy(compute);
}

static void chooses_experts(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 5);
    for (int gate = ROUTER_SOFTMAX; gate <= ROUTER_SQRT_SOFTPLUS; gate++)
        for (int normalise = 0; normalise < 2; normalise++) {
            struct router_rule p = {
                .gate = (enum router_gate)gate, .normalise = normalise, .scale = 2.5f, .experts = 8, .used = 2};
            bool bias = gate >= ROUTER_SIGMOID;
            chooses_as(gpu, &p, bias, false, false, 1, &random);
            p.experts = 300;
            p.used = 9;
            chooses_as(gpu, &p, bias, true, false, 37, &random);
            chooses_as(gpu, &p, false, false, gate == ROUTER_SOFTMAX_SELECTED, 5, &random);
            p.experts = 256;
            p.used = 8;
            p.groups = 8;
            p.groups_used = 4;
            chooses_as(gpu, &p, bias, false, false, 33, &random);
        }
    print_worst("router");
}

struct experts {
    uint32_t rows, used, columns;
    bool all_here; /* on the device; else half of them */
    float *device_rows, *host_rows, *weights, *shared, *gates;
    uint32_t *ids;
    struct gpu_mix mix;
};

#define MIX_EXPERTS 11u

static void make_experts(struct gpu *gpu, struct experts *e, struct random *random)
{
    size_t choices = (size_t)e->rows * e->used;
    uint32_t slots[MIX_EXPERTS];
    e->device_rows = gpu_test_floats(random, choices * e->columns);
    e->host_rows = gpu_test_floats(random, choices * e->columns);
    e->weights = gpu_test_floats(random, choices);
    e->shared = gpu_test_floats(random, (size_t)e->rows * e->columns);
    e->gates = gpu_test_floats(random, e->rows);
    e->ids = malloc(choices * sizeof *e->ids);
    assert_non_null(e->ids);
    for (uint32_t i = 0; i < MIX_EXPERTS; i++)
        slots[i] = i % 2 ? i / 2 : GPU_NO_SLOT;
    for (size_t i = 0; i < choices; i++) {
        e->ids[i] = e->all_here ? 1 : (uint32_t)(random_next(random) >> 33) % MIX_EXPERTS;
        /* The other place's rows may contain anything. */
        float *elsewhere = e->ids[i] % 2 ? e->host_rows : e->device_rows;
        for (uint32_t c = 0; c < e->columns; c++)
            elsewhere[i * e->columns + c] = NAN;
    }
    e->mix = (struct gpu_mix){.device_rows = floats(gpu, e->device_rows, choices * e->columns),
                              .host_rows = floats(gpu, e->host_rows, choices * e->columns),
                              .ids = gpu_test_range(gpu, e->ids, choices * sizeof *e->ids),
                              .weights = floats(gpu, e->weights, choices),
                              .slots = e->all_here ? NONE : gpu_test_range(gpu, slots, sizeof slots),
                              .shared = floats(gpu, e->shared, (size_t)e->rows * e->columns),
                              .shared_gates = floats(gpu, e->gates, e->rows),
                              .used = e->used};
}

static void free_experts(struct gpu *gpu, struct experts *e)
{
    struct gpu_range all[] = {e->mix.device_rows, e->mix.host_rows, e->mix.ids,         e->mix.weights,
                              e->mix.slots,       e->mix.shared,    e->mix.shared_gates};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        gpu_buffer_destroy(gpu, all[i].buffer);
    float *floats_of[] = {e->device_rows, e->host_rows, e->weights, e->shared, e->gates};
    for (size_t i = 0; i < COUNT_OF(floats_of); i++)
        free(floats_of[i]);
    free(e->ids);
}

static void expected_mix(const struct experts *e, float *out)
{
    for (uint32_t t = 0; t < e->rows; t++)
        for (uint32_t c = 0; c < e->columns; c++) {
            float sum = 0;
            for (uint32_t i = t * e->used; i < (t + 1) * e->used; i++)
                sum += e->weights[i] * (e->ids[i] % 2 ? e->device_rows : e->host_rows)[i * e->columns + c];
            out[t * e->columns + c] = sum + e->shared[t * e->columns + c] / (1 + expf(-e->gates[t]));
        }
}

/* Rows that a bank keeps next to the residual stream. */
static void recalls_rows(void **state)
{
    static const uint32_t widths[] = {96, 999, 5120};
    struct gpu *gpu = gpu_or_skip(state);
    struct compute *compute = plain();
    struct random random;
    random_seed(&random, 13);
    for (uint32_t kept = 0; kept < 3; kept++) {
        const uint32_t rows = 5, room = 3, width = widths[kept];
        const size_t count = (size_t)rows * width;
        float *bank = gpu_test_floats(&random, count * room), *row = gpu_test_floats(&random, count);
        float *weight = gpu_test_floats(&random, width), *expected = malloc(count * sizeof *expected);
        for (uint32_t i = 0; i < width; i++)
            weight[i] /= sqrtf((float)width);
        struct gpu_recall recall = {.bank = floats(gpu, bank, count * room),
                                    .in = floats(gpu, row, count),
                                    .weight = floats(gpu, weight, width),
                                    .out = gpu_test_range(gpu, NULL, count * sizeof(float)),
                                    .rows = rows,
                                    .kept = kept,
                                    .room = room,
                                    .width = width,
                                    .epsilon = 0.02f};
        gpu_begin(gpu);
        gpu_recall(gpu, &recall);
        gpu_test_run(gpu);
        compute_recall(compute, bank, (size_t)room * width, kept, row, weight, 0.02f, expected, rows, width);
        expect_floats(gpu, recall.out, expected, count, 2e-6);
        expect_floats(gpu, recall.bank, bank, count * room, 1e-9);
        gpu_buffer_destroy(gpu, recall.in.buffer);
        gpu_buffer_destroy(gpu, recall.weight.buffer);
        free(bank);
        free(row);
        free(weight);
        free(expected);
    }
    compute_destroy(compute);
    print_worst("recall");
}

/* Each part of the fused kernel, alone and combined, compared with the steps that it replaces. */
static void adds_to_the_residual_stream(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct compute *compute = plain();
    struct random random;
    random_seed(&random, 7);
    for (unsigned parts = 0; parts < 20; parts++) {
        bool experts = parts & 1, post = parts & 2, layer = parts & 4, normed = parts & 8, weighed = parts < 16;
        bool fresh = parts % 5 == 1; /* with rows of 768 and of 5120 */
        static const uint32_t columns[] = {1000, 768, 5120, 999, 9000};
        struct experts e = {.rows = parts % 3 ? 1 : 5,
                            .used = 1 + parts % 9,
                            .columns = columns[parts % 5],
                            .all_here = parts % 4 == 1};
        size_t count = (size_t)e.rows * e.columns;
        make_experts(gpu, &e, &random);
        float *hidden = gpu_test_floats(&random, count), *branch = gpu_test_floats(&random, count);
        float *post_norm = gpu_test_floats(&random, e.columns), *norm_weight = gpu_test_floats(&random, e.columns);
        float factor = 0.7f;
        for (size_t i = 0; fresh && i < count; i++)
            hidden[i] = NAN;
        struct gpu_residual residual = {.hidden = floats(gpu, hidden, count),
                                        .branch = floats(gpu, branch, count),
                                        .post_norm = post ? floats(gpu, post_norm, e.columns) : NONE,
                                        .layer_scale = layer ? floats(gpu, &factor, 1) : NONE,
                                        .norm = normed ? floats(gpu, norm_weight, e.columns) : NONE,
                                        .out = gpu_test_range(gpu, NULL, align_up(count * 6, 64)),
                                        .scale = 0.22f,
                                        .epsilon = 1e-5f,
                                        .rows = e.rows,
                                        .columns = e.columns,
                                        .fresh = fresh};
        if (experts)
            residual.mix = e.mix;
        for (size_t i = 0; !weighed && i < (size_t)e.rows * e.used; i++)
            e.weights[i] = 1; /* what missing weights mean */
        if (!weighed)
            residual.mix.weights = NONE;
        const bool halves = normed && count % 8 == 0;
        uint16_t *as_halves = malloc(count * sizeof *as_halves);
        assert_non_null(as_halves);
        if (halves)
            residual.out_halves = (struct gpu_range){residual.out.buffer, count * sizeof(float)};
        gpu_begin(gpu);
        gpu_residual(gpu, &residual);
        gpu_test_run(gpu);
        if (halves)
            gpu_test_download(gpu, residual.out_halves, as_halves, count * sizeof *as_halves);
        if (experts)
            expected_mix(&e, branch);
        if (post)
            compute_rms_norm(compute, branch, branch, post_norm, e.rows, e.columns, 1e-5f);
        for (size_t i = 0; i < count; i++)
            hidden[i] = ((fresh ? 0 : hidden[i]) + 0.22f * branch[i]) * (layer ? factor : 1);
        expect_floats(gpu, residual.hidden, hidden, count, 1e-6);
        if (normed) {
            compute_rms_norm(compute, hidden, hidden, norm_weight, e.rows, e.columns, 1e-5f);
            for (size_t i = 0; halves && i < count; i++)
                assert_float_equal(half_to_float(as_halves[i]), hidden[i], 1e-3 * (1 + fabsf(hidden[i])));
            expect_floats(gpu, residual.out, hidden, count, 1e-6);
        } else {
            gpu_buffer_destroy(gpu, residual.out.buffer);
        }
        gpu_buffer_destroy(gpu, residual.branch.buffer);
        gpu_buffer_destroy(gpu, residual.post_norm.buffer);
        gpu_buffer_destroy(gpu, residual.layer_scale.buffer);
        gpu_buffer_destroy(gpu, residual.norm.buffer);
        free_experts(gpu, &e);
        free(hidden);
        free(branch);
        free(post_norm);
        free(norm_weight);
        free(as_halves);
    }
    compute_destroy(compute);
    print_worst("residual");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_rows),        cmocka_unit_test(embeds_tokens),
        cmocka_unit_test(works_on_elements), cmocka_unit_test(multiplies_gates),
        cmocka_unit_test(chooses_experts),   cmocka_unit_test(adds_to_the_residual_stream),
        cmocka_unit_test(recalls_rows),
    };
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
