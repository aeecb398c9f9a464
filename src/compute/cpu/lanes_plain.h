/* The operations of lanes.h, which includes this, in plain C. */
#ifndef HYPURA_LANES_PLAIN_H
#define HYPURA_LANES_PLAIN_H

#define VARIANT(name) name##_plain
#define LANES_TILE_ROWS 4
#define LANES_TILE_VECTORS 1

typedef struct {
    float v[LANES];
} lanes;

#define LANES_EACH(expression)                                                                                         \
    lanes result;                                                                                                      \
    for (int i = 0; i < LANES; i++)                                                                                    \
        result.v[i] = (expression);                                                                                    \
    return result

static inline lanes lanes_all(float value)
{
    LANES_EACH(value);
}

static inline lanes lanes_load(const float *from)
{
    LANES_EACH(from[i]);
}

static inline void lanes_store(float *to, lanes x)
{
    memcpy(to, x.v, sizeof x.v);
}

static inline lanes lanes_add(lanes x, lanes y)
{
    LANES_EACH(x.v[i] + y.v[i]);
}

static inline lanes lanes_subtract(lanes x, lanes y)
{
    LANES_EACH(x.v[i] - y.v[i]);
}

static inline lanes lanes_multiply(lanes x, lanes y)
{
    LANES_EACH(x.v[i] * y.v[i]);
}

static inline lanes lanes_divide(lanes x, lanes y)
{
    LANES_EACH(x.v[i] / y.v[i]);
}

static inline lanes lanes_fma(lanes x, lanes y, lanes z)
{
    LANES_EACH(fmaf(x.v[i], y.v[i], z.v[i]));
}

static inline lanes lanes_fma_negated(lanes x, lanes y, lanes z)
{
    LANES_EACH(fmaf(-x.v[i], y.v[i], z.v[i]));
}

static inline lanes lanes_max(lanes x, lanes y)
{
    LANES_EACH(x.v[i] > y.v[i] ? x.v[i] : y.v[i]);
}

static inline lanes lanes_min(lanes x, lanes y)
{
    LANES_EACH(x.v[i] < y.v[i] ? x.v[i] : y.v[i]);
}

static inline float lanes_one_from_half(uint16_t half)
{
    return half_to_float(half);
}

static inline lanes lanes_from_half(const uint16_t *from)
{
    LANES_EACH(half_to_float(from[i]));
}

static inline lanes lanes_from_bfloat(const uint16_t *from)
{
    LANES_EACH(bfloat_to_float(from[i]));
}

static inline lanes lanes_from_int8(const int8_t *from)
{
    LANES_EACH((float)from[i]);
}

static inline float lanes_one_times_power(float a, float n)
{
    int32_t whole = (int32_t)float_to_bits(n) - 0x4b400000;
    int32_t half = whole >> 1;
    return a * float_from_bits((uint32_t)(half + 127) << 23) * float_from_bits((uint32_t)(whole - half + 127) << 23);
}

static inline lanes lanes_times_power(lanes x, lanes y)
{
    LANES_EACH(lanes_one_times_power(x.v[i], y.v[i]));
}

static inline float lanes_fold_add(lanes x)
{
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x.v[i] += x.v[i + half];
    return x.v[0];
}

static inline void lanes_transpose(lanes x[LANES])
{
    lanes copy[LANES];
    memcpy(copy, x, sizeof copy);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++)
            x[i].v[j] = copy[j].v[i];
}

static inline float lanes_fold_max(lanes x)
{
    float result = x.v[0];
    for (int i = 1; i < LANES; i++)
        result = x.v[i] > result ? x.v[i] : result;
    return result;
}

#endif
