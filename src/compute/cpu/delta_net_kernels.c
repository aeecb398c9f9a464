#include "compute/cpu/delta_net.h"
#include "compute/cpu/lanes.h"

#include <math.h>

/* ---- convolution ------------------------------------------------------------------------------------------------- */

/* The inputs of a part; index 0 is taps - 1 rows back. */
static inline const float *input_at(const struct delta_net *net, const float *before, size_t part, size_t index)
{
    const size_t back = net->taps - 1;
    return index < back ? before + index * delta_channels(net)
                        : net->input[part] + (index - back) * net->input_stride[part];
}

static void convolve(const struct delta_net *net, size_t part, size_t first, size_t count)
{
    const size_t channels = delta_channels(net), offset = part * net->heads_k * net->key_size;
    const float *before = net->state + net->heads_v * net->key_size * net->value_size + offset;
    const float *filters = net->convolution[part];
    float *out = net->convolved + offset;
    for (size_t c = first; c < first + count; c += LANES) {
        size_t some = first + count - c;
        lanes weights[DELTA_NET_MAX_TAPS];
        for (size_t tap = 0; tap < net->taps; tap++) {
            float some_weights[LANES];
            for (size_t i = 0; i < LANES; i++)
                some_weights[i] = i < some ? filters[(c + i) * net->taps + tap] : 0.0f;
            weights[tap] = lanes_load(some_weights);
        }
        for (size_t row = 0; row < net->rows; row++) {
            lanes sum = lanes_all(0.0f);
            for (size_t tap = 0; tap < net->taps; tap++)
                sum = lanes_fma(lanes_load_some(input_at(net, before, part, row + tap) + c, some), weights[tap], sum);
            lanes_store_some(out + row * channels + c, sum, some);
        }
    }
}

static void normalise(const struct delta_net *net, size_t row)
{
    float *head = net->convolved + row * delta_channels(net);
    size_t size = net->key_size;
    for (size_t h = 0; h < 2 * net->heads_k; h++, head += size) {
        lanes sum = lanes_all(0.0f);
        for (size_t i = 0; i < size; i += LANES) {
            lanes a = lanes_load_some(head + i, size - i);
            sum = lanes_fma(a, a, sum);
        }
        float squares = lanes_fold_add(sum);
        float factor = 1.0f / (net->root_epsilon ? sqrtf(squares + net->epsilon) : fmaxf(sqrtf(squares), net->epsilon));
        if (h < net->heads_k)
            factor /= sqrtf((float)size);
        for (size_t i = 0; i < size; i += LANES)
            lanes_store_some(head + i, lanes_multiply(lanes_load_some(head + i, size - i), lanes_all(factor)),
                             size - i);
    }
}

/* ---- the rule ---------------------------------------------------------------------------------------------------- */

/* Runs groups x LANES columns at once, so that several sums over the keys run in parallel. The last group has "last"
 * columns. The columns stay in the first-level cache from row to row. */
static inline void run_columns(const struct delta_net *net, size_t head, size_t first, size_t groups, size_t last,
                               bool by_channel)
{
    size_t keys = net->key_size, values = net->value_size, channels = delta_channels(net);
    size_t shared = net->tiled ? head % net->heads_k : head / (net->heads_v / net->heads_k);
    const float *old = net->state + head * keys * values + first;
    float *matrix = net->next + head * keys * values + first;
    for (size_t row = 0; row < net->rows; row++, old = matrix) {
        const float *query = net->convolved + row * channels + shared * keys;
        const float *key = query + net->heads_k * keys;
        const float *value = net->convolved + row * channels + 2 * net->heads_k * keys + head * values + first;
        float *out = net->output + (row * net->heads_v + head) * values + first;
        const float *decays = net->decay + (row * net->heads_v + head) * (by_channel ? keys : 1);
        lanes decay = lanes_all(*decays);
        lanes beta = lanes_all(net->beta[row * net->heads_v + head]);
        lanes delta[DELTA_COLUMNS / LANES], answer[DELTA_COLUMNS / LANES];
        for (size_t g = 0; g < groups; g++)
            delta[g] = answer[g] = lanes_all(0.0f);
        for (size_t k = 0; k < keys; k++) {
            if (by_channel)
                decay = lanes_all(decays[k]);
            for (size_t g = 0; g < groups; g++) {
                lanes kept = lanes_load_some(old + k * values + g * LANES, g + 1 < groups ? LANES : last);
                delta[g] = lanes_fma(lanes_multiply(kept, decay), lanes_all(key[k]), delta[g]);
            }
        }
        for (size_t g = 0; g < groups; g++) {
            lanes wanted = lanes_load_some(value + g * LANES, g + 1 < groups ? LANES : last);
            delta[g] = lanes_multiply(lanes_subtract(wanted, delta[g]), beta);
        }
        for (size_t k = 0; k < keys; k++) {
            if (by_channel)
                decay = lanes_all(decays[k]);
            for (size_t g = 0; g < groups; g++) {
                size_t some = g + 1 < groups ? LANES : last;
                lanes kept = lanes_multiply(lanes_load_some(old + k * values + g * LANES, some), decay);
                lanes now = lanes_fma(lanes_all(key[k]), delta[g], kept);
                lanes_store_some(matrix + k * values + g * LANES, now, some);
                answer[g] = lanes_fma(lanes_all(query[k]), now, answer[g]);
            }
        }
        for (size_t g = 0; g < groups; g++)
            lanes_store_some(out + g * LANES, answer[g], g + 1 < groups ? LANES : last);
    }
}

static void run(const struct delta_net *net, size_t head, size_t first, size_t count)
{
    if (count == DELTA_COLUMNS && net->by_channel) {
        run_columns(net, head, first, DELTA_COLUMNS / LANES, LANES, true);
        return;
    }
    if (count == DELTA_COLUMNS) {
        run_columns(net, head, first, DELTA_COLUMNS / LANES, LANES, false);
        return;
    }
    for (size_t done = 0; done < count; done += LANES)
        run_columns(net, head, first + done, 1, MIN(count - done, (size_t)LANES), net->by_channel);
}

static void decay(const struct delta_decay *d, size_t row)
{
    float *values = d->values + row * d->heads * d->size;
    for (size_t h = 0; h < d->heads; h++)
        for (size_t i = 0; i < d->size; i += LANES) {
            size_t some = d->size - i;
            float *to = values + h * d->size + i;
            lanes f = lanes_add(lanes_load_some(to, some), lanes_load_some(d->bias + h * d->size + i, some));
            lanes g = d->bounded ? lanes_multiply(lanes_all(d->bound),
                                                  lanes_sigmoid(lanes_multiply(lanes_all(fabsf(d->rate[h])), f)))
                                 : lanes_multiply(lanes_all(d->rate[h]), lanes_softplus(f));
            lanes_store_some(to, lanes_exp(g), some);
        }
}

const struct delta_net_kernels VARIANT(delta_net_kernels) = {
    .convolve = convolve, .normalise = normalise, .run = run, .decay = decay};
