#include "compute/cpu/lanes.h"
#include "compute/cpu/rows.h"

/* Loops over count elements, sixteen at a time. The last few go through padded copies, so that all elements get the
 * same arithmetic. */
#define FOR_LANES(i, count) for (size_t i = 0; i < (count); i += LANES)

static inline lanes load_some(const float *from, size_t i, size_t count, float fill)
{
    return count - i >= LANES ? lanes_load(from + i) : lanes_load_part(from + i, count - i, fill);
}

static inline void store_some(float *to, size_t i, size_t count, lanes a)
{
    if (count - i >= LANES)
        lanes_store(to + i, a);
    else
        lanes_store_part(to + i, a, count - i);
}

static float sum_of_squares(const float *in, size_t columns, float mean)
{
    lanes sum = lanes_all(0.0f);
    FOR_LANES(i, columns)
    {
        lanes a = lanes_subtract(load_some(in, i, columns, mean), lanes_all(mean));
        sum = lanes_fma(a, a, sum);
    }
    return lanes_fold_add(sum);
}

static float rms_factor(const float *in, size_t columns, float epsilon)
{
    return 1.0f / sqrtf(sum_of_squares(in, columns, 0.0f) / (float)columns + epsilon);
}

static void rms_norm(float *out, const float *in, const float *weight, size_t columns, float epsilon)
{
    float factor = rms_factor(in, columns, epsilon);
    FOR_LANES(i, columns)
    {
        lanes a = lanes_multiply(load_some(in, i, columns, 0.0f), lanes_all(factor));
        if (weight)
            a = lanes_multiply(a, load_some(weight, i, columns, 0.0f));
        store_some(out, i, columns, a);
    }
}

static void layer_norm(float *out, const float *in, const float *weight, const float *bias, size_t columns,
                       float epsilon)
{
    lanes sum = lanes_all(0.0f);
    FOR_LANES(i, columns)
    sum = lanes_add(sum, load_some(in, i, columns, 0.0f));
    float mean = lanes_fold_add(sum) / (float)columns;
    float spread = sum_of_squares(in, columns, mean) / (float)columns + epsilon;
    float factor = spread > 0.0f ? 1.0f / sqrtf(spread) : 0.0f; /* epsilon may be 0 */
    FOR_LANES(i, columns)
    {
        lanes a = lanes_subtract(load_some(in, i, columns, 0.0f), lanes_all(mean));
        a = lanes_multiply(a, lanes_all(factor));
        if (weight)
            a = lanes_multiply(a, load_some(weight, i, columns, 0.0f));
        if (bias)
            a = lanes_add(a, load_some(bias, i, columns, 0.0f));
        store_some(out, i, columns, a);
    }
}

static void add(float *out, const float *a, const float *b, size_t count)
{
    FOR_LANES(i, count)
    store_some(out, i, count, lanes_add(load_some(a, i, count, 0.0f), load_some(b, i, count, 0.0f)));
}

static void scale(float *out, const float *in, float factor, size_t count)
{
    FOR_LANES(i, count)
    store_some(out, i, count, lanes_multiply(load_some(in, i, count, 0.0f), lanes_all(factor)));
}

static inline lanes silu(lanes a)
{
    return lanes_multiply(a, lanes_sigmoid(a));
}

/* x / 2 * (1 + tanh u) with u = sqrt(2 / pi) * (x + 0.044715 x^3) equals x * sigmoid(2 u), which avoids cancellation.
 */
static inline lanes gelu(lanes a)
{
    lanes cube = lanes_multiply(lanes_multiply(a, a), a);
    lanes u = lanes_fma(lanes_all(0.044715f), cube, a);
    return lanes_multiply(a, lanes_sigmoid(lanes_multiply(lanes_all(1.5957691216f), u)));
}

static inline lanes relu(lanes a)
{
    return lanes_max(a, lanes_all(0.0f));
}

static inline lanes each(lanes a, float (*function)(float))
{
    float values[LANES];
    lanes_store(values, a);
    for (size_t i = 0; i < LANES; i++)
        values[i] = function(values[i]);
    return lanes_load(values);
}

static float gelu_erf(float a)
{
    return 0.5f * a * (1.0f + erff(a * 0.70710678f));
}

static inline void clamp(lanes *gate, lanes *up, float limit)
{
    *gate = lanes_min(*gate, lanes_all(limit));
    *up = lanes_max(lanes_min(*up, lanes_all(limit)), lanes_all(-limit));
}

static inline lanes capped(lanes a, float cap)
{
    return lanes_multiply(lanes_tanh(lanes_divide(a, lanes_all(cap))), lanes_all(cap));
}

static void glu(enum glu_kind kind, float *out, const float *gate, const float *up, size_t count, float alpha,
                float limit)
{
    FOR_LANES(i, count)
    {
        lanes g = load_some(gate, i, count, 0.0f);
        lanes u = load_some(up, i, count, 0.0f);
        switch (kind) {
        case GLU_SILU:
            g = silu(g);
            break;
        case GLU_GELU:
            g = gelu(g);
            break;
        case GLU_GELU_ERF:
            g = each(g, gelu_erf);
            break;
        case GLU_RELU:
            g = relu(g);
            break;
        case GLU_OAI:
            clamp(&g, &u, limit);
            g = lanes_multiply(g, lanes_sigmoid(lanes_multiply(lanes_all(alpha), g)));
            u = lanes_add(u, lanes_all(1.0f));
            break;
        case GLU_PRODUCT:
            break;
        case GLU_SIGMOID:
            g = lanes_sigmoid(g);
            break;
        case GLU_SILU_CLAMPED:
            clamp(&g, &u, limit);
            g = silu(g);
            break;
        case GLU_SILU_CAPPED:
            g = silu(g);
            clamp(&g, &u, limit);
            break;
        case GLU_SOFTPLUS:
            g = lanes_softplus(g);
            break;
        case GLU_SITU:
            g = lanes_multiply(capped(g, alpha), lanes_sigmoid(g));
            if (limit != 0.0f)
                u = capped(u, limit);
            break;
        case GLU_KINDS:
            break;
        }
        store_some(out, i, count, lanes_multiply(g, u));
    }
}

static void function(enum activation_function function, float *values, size_t count)
{
    FOR_LANES(i, count)
    {
        lanes a = load_some(values, i, count, 0.0f);
        switch (function) {
        case FUNCTION_SILU:
            a = silu(a);
            break;
        case FUNCTION_GELU:
            a = gelu(a);
            break;
        case FUNCTION_GELU_ERF:
            a = each(a, gelu_erf);
            break;
        case FUNCTION_RELU:
            a = relu(a);
            break;
        case FUNCTION_RELU_SQUARED:
            a = relu(a);
            a = lanes_multiply(a, a);
            break;
        case FUNCTION_SIGMOID:
            a = lanes_sigmoid(a);
            break;
        case FUNCTION_TANH:
            a = lanes_tanh(a);
            break;
        case FUNCTION_SOFTPLUS:
            a = lanes_softplus(a);
            break;
        }
        store_some(values, i, count, a);
    }
}

static void soft_cap(float *values, size_t count, float cap)
{
    FOR_LANES(i, count)
    {
        store_some(values, i, count, capped(load_some(values, i, count, 0.0f), cap));
    }
}

static void clamp_all(float *values, size_t count, float limit)
{
    FOR_LANES(i, count)
    {
        lanes a = lanes_min(load_some(values, i, count, 0.0f), lanes_all(limit));
        store_some(values, i, count, lanes_max(a, lanes_all(-limit)));
    }
}

/* direction: 1, or -1 to rotate back. */
static void rope(enum rope_layout layout, float *head, size_t rotary, const float *table, float direction)
{
    size_t pairs = rotary / 2;
    size_t step = layout == ROPE_NORMAL ? 2 : 1;
    size_t apart = layout == ROPE_NORMAL ? 1 : pairs;
    for (size_t i = 0; i < pairs; i++) {
        float *x = head + i * step;
        float cosine = table[2 * i], sine = table[2 * i + 1] * direction;
        float a = x[0], b = x[apart];
        x[0] = a * cosine - b * sine;
        x[apart] = a * sine + b * cosine;
    }
}

/* ---- residual streams -------------------------------------------------------------------------------------------- */

static void gather(float *out, const float *streams, const float *weights, size_t count, size_t width)
{
    FOR_LANES(i, width)
    {
        lanes sum = lanes_multiply(load_some(streams, i, width, 0.0f), lanes_all(weights[0]));
        for (size_t s = 1; s < count; s++)
            sum = lanes_fma(load_some(streams + s * width, i, width, 0.0f), lanes_all(weights[s]), sum);
        store_some(out, i, width, sum);
    }
}

static float dot(const float *a, const float *b, size_t count)
{
    lanes sum = lanes_all(0.0f);
    FOR_LANES(i, count)
    {
        sum = lanes_fma(load_some(a, i, count, 0.0f), load_some(b, i, count, 0.0f), sum);
    }
    return lanes_fold_add(sum);
}

/* matrix NULL: streams are not mixed, only added to. */
static void scatter(float *streams, const float *branch, const float *back, const float *matrix, size_t count,
                    size_t width)
{
    FOR_LANES(i, width)
    {
        lanes old[STREAMS_MAX], row = load_some(branch, i, width, 0.0f);
        for (size_t s = 0; s < count; s++)
            old[s] = load_some(streams + s * width, i, width, 0.0f);
        for (size_t t = 0; t < count; t++) {
            lanes sum = lanes_multiply(row, lanes_all(back[t]));
            for (size_t s = 0; matrix && s < count; s++)
                sum = lanes_fma(old[s], lanes_all(matrix[s * count + t]), sum);
            store_some(streams + t * width, i, width, matrix ? sum : lanes_add(old[t], sum));
        }
    }
}

const struct row_kernels VARIANT(row_kernels) = {
    .rms_factor = rms_factor,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .add = add,
    .scale = scale,
    .glu = glu,
    .function = function,
    .soft_cap = soft_cap,
    .clamp = clamp_all,
    .rope = rope,
    .dot = dot,
    .gather = gather,
    .scatter = scatter,
};
