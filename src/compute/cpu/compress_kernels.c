#include "compute/cpu/compress.h"
#include "compute/cpu/lanes.h"

#include <float.h>

/* The running weighted mean of sixteen channels. Before the first row, the greatest weight is far below all possible
 * ones. */
struct mean {
    lanes most, sum, values;
};

static struct mean nothing(void)
{
    return (struct mean){lanes_all(-FLT_MAX), lanes_all(0.0f), lanes_all(0.0f)};
}

static lanes load_some(const float *from, size_t i, size_t end)
{
    return end - i >= LANES ? lanes_load(from + i) : lanes_load_part(from + i, end - i, 0.0f);
}

static void store_some(float *to, size_t i, size_t end, lanes a)
{
    if (end - i >= LANES)
        lanes_store(to + i, a);
    else
        lanes_store_part(to + i, a, end - i);
}

static struct mean load_mean(const float *state, size_t size, size_t i, size_t end)
{
    return (struct mean){load_some(state, i, end), load_some(state + size, i, end),
                         load_some(state + 2 * size, i, end)};
}

static void store_mean(float *state, size_t size, size_t i, size_t end, const struct mean *mean)
{
    store_some(state, i, end, mean->most);
    store_some(state + size, i, end, mean->sum);
    store_some(state + 2 * size, i, end, mean->values);
}

static inline void take(struct mean *mean, lanes gate, lanes value)
{
    lanes most = lanes_max(mean->most, gate);
    lanes keep = lanes_exp(lanes_subtract(mean->most, most)), weight = lanes_exp(lanes_subtract(gate, most));
    mean->sum = lanes_fma(mean->sum, keep, weight);
    mean->values = lanes_fma(mean->values, keep, lanes_multiply(weight, value));
    mean->most = most;
}

static void take_row(struct mean *mean, const struct compression *c, size_t row, size_t phase, size_t at, size_t end)
{
    const size_t stride = c->size * (c->overlaps ? 2 : 1);
    lanes gate = c->gates ? load_some(c->gates + row * stride, at, end) : lanes_all(0.0f);
    if (c->bias)
        gate = lanes_add(gate, load_some(c->bias + phase * stride, at, end));
    take(mean, gate, load_some(c->values + row * stride, at, end));
}

static void compress_sixteen(const struct compression *c, size_t i, size_t end)
{
    struct mean mean = nothing(), next = nothing();
    float *out = c->out;
    if (c->position > 0) {
        mean = load_mean(c->state, c->size, i, end);
        next = c->overlaps ? load_mean(c->state + 3 * c->size, c->size, i, end) : next;
    }
    for (size_t row = 0; row < c->rows; row++) {
        const size_t phase = (c->position + row) % c->every, own = c->overlaps ? c->size : 0;
        take_row(&mean, c, row, phase, own + i, own + end);
        if (c->overlaps)
            take_row(&next, c, row, phase, i, end);
        if (phase + 1 < c->every)
            continue;
        store_some(out, i, end, lanes_divide(mean.values, mean.sum));
        out += c->size;
        mean = next;
        next = nothing();
    }
    store_mean(c->next, c->size, i, end, &mean);
    if (c->overlaps)
        store_mean(c->next + 3 * c->size, c->size, i, end, &next);
}

static void compress(const struct compression *c, size_t first, size_t end)
{
    for (size_t i = first; i < end; i += LANES)
        compress_sixteen(c, i, MIN(i + LANES, end));
}

const struct compress_kernels VARIANT(compress_kernels) = {.compress = compress};
