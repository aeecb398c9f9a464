#include "test.h"

#include "compute/compute.h"

#include <math.h>
#include <string.h>

/* Functions on rows give the right values for any length, with the same bits for every instruction set and number of
 * threads. */

static struct random numbers;

static void fill(float *values, size_t count, double spread)
{
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(random_normal(&numbers) * spread);
}

enum function_under_test {
    RMS_NORM,
    LAYER_NORM,
    ADD,
    SCALE,
    GLU,
    FUNCTION,
    SOFT_CAP,
    ROPE,
    GLU_ROWS,
    CLAMP,
    FUNCTIONS_UNDER_TEST
};

#define ROWS 37
#define COLUMNS 1030

static float in[ROWS * COLUMNS], other[ROWS * COLUMNS], weight[COLUMNS], bias[COLUMNS];
static float out[ROWS * COLUMNS], expected[ROWS * COLUMNS];

static void run(struct compute *compute, enum function_under_test function, int kind, size_t rows, size_t columns)
{
    memcpy(out, in, sizeof out);
    switch (function) {
    case RMS_NORM:
        compute_rms_norm(compute, out, in, kind ? weight : NULL, rows, columns, 1e-5f);
        break;
    case LAYER_NORM:
        compute_layer_norm(compute, out, in, kind ? weight : NULL, kind > 1 ? bias : NULL, rows, columns, 1e-5f);
        break;
    case ADD:
        compute_add(compute, out, in, other, rows * columns);
        break;
    case SCALE:
        compute_scale(compute, out, in, 0.37f, rows * columns);
        break;
    case GLU:
        compute_glu(compute, (enum glu_kind)kind, out, columns, in, columns, other, columns, rows, columns, 1.702f,
                    7.0f);
        break;
    case FUNCTION:
        compute_function(compute, (enum activation_function)kind, out, rows * columns);
        break;
    case SOFT_CAP:
        compute_soft_cap(compute, out, rows * columns, 3.0f);
        break;
    case ROPE:
        compute_rope(compute, (enum rope_layout)kind, out, rows, columns, 2, columns / 2, columns / 4 / 2 * 2, other);
        break;
    case GLU_ROWS:
        compute_glu_rows(compute, kind ? GLU_SOFTPLUS : GLU_SIGMOID, out, in, other, rows, columns);
        break;
    case CLAMP:
        compute_clamp(compute, out, rows * columns, 1.5f);
        break;
    default:
        break;
    }
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double gelu(double x)
{
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

static double gelu_erf(double x)
{
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
}

static double gated(enum glu_kind kind, double g, double u)
{
    switch (kind) {
    case GLU_SILU:
        return g * sigmoid(g) * u;
    case GLU_GELU:
        return gelu(g) * u;
    case GLU_GELU_ERF:
        return gelu_erf(g) * u;
    case GLU_RELU:
        return fmax(g, 0) * u;
    case GLU_OAI:
        g = fmin(g, 7);
        return g * sigmoid((double)1.702f * g) * (fmax(fmin(u, 7), -7) + 1);
    case GLU_SIGMOID:
        return sigmoid(g) * u;
    case GLU_SILU_CLAMPED:
        g = fmin(g, 7);
        return g * sigmoid(g) * fmax(fmin(u, 7), -7);
    case GLU_SILU_CAPPED:
        return fmin(g * sigmoid(g), 7) * fmax(fmin(u, 7), -7);
    case GLU_SOFTPLUS:
        return log1p(exp(g)) * u;
    case GLU_SITU:
        return (double)1.702f * tanh(g / (double)1.702f) * sigmoid(g) * 7 * tanh(u / 7);
    case GLU_PRODUCT:
        return g * u;
    case GLU_KINDS:
        break;
    }
    return NAN;
}

static double activated(enum activation_function function, double x)
{
    switch (function) {
    case FUNCTION_SILU:
        return x * sigmoid(x);
    case FUNCTION_GELU:
        return gelu(x);
    case FUNCTION_GELU_ERF:
        return gelu_erf(x);
    case FUNCTION_RELU:
        return fmax(x, 0);
    case FUNCTION_RELU_SQUARED:
        return fmax(x, 0) * fmax(x, 0);
    case FUNCTION_SIGMOID:
        return sigmoid(x);
    case FUNCTION_TANH:
        return tanh(x);
    case FUNCTION_SOFTPLUS:
        return log1p(exp(x));
    }
    return NAN;
}

static void expect_row(enum function_under_test function, int kind, size_t row, size_t columns)
{
    const float *x = in + row * columns;
    const float *y = other + row * columns;
    float *e = expected + row * columns;
    double mean = 0, squares = 0;
    for (size_t c = 0; c < columns; c++)
        mean += x[c] / (double)columns;
    if (function == RMS_NORM)
        mean = 0;
    for (size_t c = 0; c < columns; c++)
        squares += (x[c] - mean) * (x[c] - mean);
    double factor = 1 / sqrt(squares / (double)columns + 1e-5);
    for (size_t c = 0; c < columns; c++) {
        double value = x[c];
        if (function == RMS_NORM || function == LAYER_NORM)
            value =
                (x[c] - mean) * factor * (kind ? weight[c] : 1) + (function == LAYER_NORM && kind > 1 ? bias[c] : 0);
        else if (function == ADD)
            value = (double)x[c] + y[c];
        else if (function == SCALE)
            value = x[c] * (double)0.37f;
        else if (function == GLU)
            value = gated((enum glu_kind)kind, x[c], y[c]);
        else if (function == GLU_ROWS)
            value = gated(kind ? GLU_SOFTPLUS : GLU_SIGMOID, in[row], y[c]);
        else if (function == CLAMP)
            value = fmax(fmin(x[c], 1.5), -1.5);
        else if (function == FUNCTION)
            value = activated((enum activation_function)kind, x[c]);
        else if (function == SOFT_CAP)
            value = 3 * tanh(x[c] / 3.0);
        e[c] = (float)value;
    }
    if (function != ROPE)
        return;
    size_t size = columns / 2, rotary = columns / 4 / 2 * 2;
    const float *table = other + row * rotary;
    for (size_t head = 0; head < 2; head++) {
        for (size_t i = 0; i < rotary / 2; i++) {
            size_t first = head * size + (kind == ROPE_NORMAL ? 2 * i : i);
            size_t second = first + (kind == ROPE_NORMAL ? 1 : rotary / 2);
            e[first] = (float)((double)x[first] * table[2 * i] - (double)x[second] * table[2 * i + 1]);
            e[second] = (float)((double)x[first] * table[2 * i + 1] + (double)x[second] * table[2 * i]);
        }
    }
}

static void every_function_is_right_and_reproducible(void **state)
{
    (void)state;
    static const int kinds[FUNCTIONS_UNDER_TEST] = {2, 3, 1, 1, GLU_KINDS, 7, 1, 2, 2, 1};
    static const size_t columns[] = {1, 7, 16, 40, 513, COLUMNS};
    struct compute *reference;
    assert_ok(compute_create(&reference, 1, INSTRUCTIONS_PLAIN, &test_error));
    random_seed(&numbers, 5);
    for (int function = 0; function < FUNCTIONS_UNDER_TEST; function++) {
        for (int kind = 0; kind < kinds[function]; kind++) {
            for (size_t i = 0; i < COUNT_OF(columns); i++) {
                size_t count = ROWS * columns[i];
                static float plain[ROWS * COLUMNS];
                fill(in, ROWS * COLUMNS, 4);
                fill(other, ROWS * COLUMNS, 4);
                fill(weight, COLUMNS, 1);
                fill(bias, COLUMNS, 1);
                run(reference, (enum function_under_test)function, kind, ROWS, columns[i]);
                for (size_t row = 0; row < ROWS; row++)
                    expect_row((enum function_under_test)function, kind, row, columns[i]);
                /* A rotation may subtract numbers that are far larger than the result. */
                float tolerance = function == ROPE ? 1e-5f : 2e-6f;
                for (size_t j = 0; j < count; j++)
                    if (!(fabsf(out[j] - expected[j]) <= tolerance * (1 + fabsf(expected[j]))))
                        fail_msg("function %d kind %d columns %zu at %zu: %.9g, expected %.9g", function, kind,
                                 columns[i], j, (double)out[j], (double)expected[j]);
                memcpy(plain, out, sizeof plain);
                for (int set = 0; set <= INSTRUCTIONS_NEON; set++) {
                    if (!compute_has_instructions((enum instruction_set)set))
                        continue;
                    struct compute *compute;
                    assert_ok(compute_create(&compute, 1 + (size_t)set, (enum instruction_set)set, &test_error));
                    run(compute, (enum function_under_test)function, kind, ROWS, columns[i]);
                    if (memcmp(out, plain, count * sizeof *out) != 0)
                        fail_msg("function %d kind %d columns %zu: %s differs from plain C", function, kind, columns[i],
                                 compute_instructions_name((enum instruction_set)set));
                    compute_destroy(compute);
                }
            }
        }
    }
    compute_destroy(reference);
}

static void extremes_stay_numbers(void **state)
{
    (void)state;
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, compute_best_instructions(), &test_error));
    float values[] = {-1e30f, -200.0f, -100.0f, 100.0f, 200.0f, 1e30f};
    float copy[COUNT_OF(values)];
    memcpy(copy, values, sizeof copy);
    compute_function(compute, FUNCTION_SIGMOID, copy, COUNT_OF(copy));
    assert_true(copy[0] == 0.0f && copy[2] < 1e-40f && copy[3] == 1.0f && copy[5] == 1.0f);
    memcpy(copy, values, sizeof copy);
    compute_soft_cap(compute, copy, COUNT_OF(copy), 30.0f);
    assert_true(copy[0] == -30.0f && copy[5] == 30.0f);
    compute_destroy(compute);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_function_is_right_and_reproducible),
        cmocka_unit_test(extremes_stay_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
