#include "compute/cpu/delta_net.h"
#include "compute/cpu/lanes.h"

#include <math.h>

static inline size_t channels_of(const struct delta_net *net)
{
    return 2 * net->heads_k * net->key_size + net->heads_v * net->value_size;
}

static inline lanes load_some(const float *from, size_t count)
{
    return count >= LANES ? lanes_load(from) : lanes_load_part(from, count, 0.0f);
}

static inline void store_some(float *to, lanes a, size_t count)
{
    if (count >= LANES)
        lanes_store(to, a);
    else
        lanes_store_part(to, a, count);
}

/* ---- convolution ------------------------------------------------------------------------------------------------- */

/* The inputs of a channel, from the one taps - 1 rows back. */
static inline const float *input_at(const struct delta_net *net, size_t channels, size_t index)
{
    const float *before = net->state + net->heads_v * net->key_size * net->value_size;
    return index < net->taps - 1 ? before + index * channels : net->input + (index - (net->taps - 1)) * channels;
}

static void convolve(const struct delta_net *net, size_t first, size_t count)
{
    size_t channels = channels_of(net);
    for (size_t c = first; c < first + count; c += LANES) {
        size_t some = first + count - c;
        lanes weights[DELTA_NET_MAX_TAPS];
        for (size_t tap = 0; tap < net->taps; tap++) {
            float part[LANES];
            for (size_t i = 0; i < LANES; i++)
                part[i] = i < some ? net->convolution[(c + i) * net->taps + tap] : 0.0f;
            weights[tap] = lanes_load(part);
        }
        for (size_t row = 0; row < net->rows; row++) {
            lanes sum = lanes_all(0.0f);
            for (size_t tap = 0; tap < net->taps; tap++)
                sum = lanes_fma(load_some(input_at(net, channels, row + tap) + c, some), weights[tap], sum);
            store_some(net->convolved + row * channels + c, sum, some);
        }
    }
}

static void normalise(const struct delta_net *net, size_t row)
{
    float *head = net->convolved + row * channels_of(net);
    size_t size = net->key_size;
    for (size_t h = 0; h < 2 * net->heads_k; h++, head += size) {
        lanes sum = lanes_all(0.0f);
        for (size_t i = 0; i < size; i += LANES) {
            lanes a = load_some(head + i, size - i);
            sum = lanes_fma(a, a, sum);
        }
        float factor = 1.0f / fmaxf(sqrtf(lanes_fold_add(sum)), net->epsilon);
        if (h < net->heads_k)
            factor /= sqrtf((float)size);
        for (size_t i = 0; i < size; i += LANES)
            store_some(head + i, lanes_multiply(load_some(head + i, size - i), lanes_all(factor)), size - i);
    }
}

/* ---- the rule ---------------------------------------------------------------------------------------------------- */

/* groups x LANES columns at once, so that sums over the keys run beside one another; the last group has "last" columns.
 * The columns of a matrix stay in the first-level cache from row to row. */
static inline void run_columns(const struct delta_net *net, size_t head, size_t first, size_t groups, size_t last)
{
    size_t keys = net->key_size, values = net->value_size, channels = channels_of(net);
    size_t shared = net->tiled ? head % net->heads_k : head / (net->heads_v / net->heads_k);
    const float *old = net->state + head * keys * values + first;
    float *matrix = net->next + head * keys * values + first;
    for (size_t row = 0; row < net->rows; row++, old = matrix) {
        const float *query = net->convolved + row * channels + shared * keys;
        const float *key = query + net->heads_k * keys;
        const float *value = net->convolved + row * channels + 2 * net->heads_k * keys + head * values + first;
        float *out = net->output + (row * net->heads_v + head) * values + first;
        lanes decay = lanes_all(net->decay[row * net->heads_v + head]);
        lanes beta = lanes_all(net->beta[row * net->heads_v + head]);
        lanes delta[DELTA_COLUMNS / LANES], answer[DELTA_COLUMNS / LANES];
        for (size_t g = 0; g < groups; g++)
            delta[g] = answer[g] = lanes_all(0.0f);
        for (size_t k = 0; k < keys; k++)
            for (size_t g = 0; g < groups; g++) {
                lanes kept = load_some(old + k * values + g * LANES, g + 1 < groups ? LANES : last);
                delta[g] = lanes_fma(lanes_multiply(kept, decay), lanes_all(key[k]), delta[g]);
            }
        for (size_t g = 0; g < groups; g++) {
            lanes wanted = load_some(value + g * LANES, g + 1 < groups ? LANES : last);
            delta[g] = lanes_multiply(lanes_subtract(wanted, delta[g]), beta);
        }
        for (size_t k = 0; k < keys; k++)
            for (size_t g = 0; g < groups; g++) {
                size_t some = g + 1 < groups ? LANES : last;
                lanes kept = lanes_multiply(load_some(old + k * values + g * LANES, some), decay);
                lanes now = lanes_fma(lanes_all(key[k]), delta[g], kept);
                store_some(matrix + k * values + g * LANES, now, some);
                answer[g] = lanes_fma(lanes_all(query[k]), now, answer[g]);
            }
        for (size_t g = 0; g < groups; g++)
            store_some(out + g * LANES, answer[g], g + 1 < groups ? LANES : last);
    }
}

static void run(const struct delta_net *net, size_t head, size_t first, size_t count)
{
    if (count == DELTA_COLUMNS) {
        run_columns(net, head, first, DELTA_COLUMNS / LANES, LANES);
        return;
    }
    for (size_t done = 0; done < count; done += LANES)
        run_columns(net, head, first + done, 1, MIN(count - done, (size_t)LANES));
}

const struct delta_net_kernels VARIANT(delta_net_kernels) = {.convolve = convolve, .normalise = normalise, .run = run};
