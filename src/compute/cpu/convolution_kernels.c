#include "compute/cpu/convolution.h"
#include "compute/cpu/lanes.h"

/* Up to LANES channels of a group from "first" on; "some" of them exist. */
static void convolve_lanes(const struct convolution *c, size_t group, size_t first, size_t some)
{
    size_t channel = group * c->width + first, step = MAX(c->dilation, (size_t)1), back = (c->taps - 1) * step;
    const float *input = c->input + group * c->group_stride + first;
    lanes weights[CONVOLUTION_MAX_TAPS], bias = lanes_all(0.0f);
    for (size_t tap = 0; tap < c->taps; tap++) {
        float part[LANES];
        for (size_t i = 0; i < LANES; i++)
            part[i] = i < some ? c->weights[(channel + i) * c->taps + tap] : 0.0f;
        weights[tap] = lanes_load(part);
    }
    if (c->bias)
        bias = lanes_load_some(c->bias + channel, some);
    for (size_t row = 0; row < c->rows; row++) {
        lanes sum = lanes_all(0.0f);
        for (size_t tap = 0; tap < c->taps; tap++) {
            size_t index = row + tap * step; /* counted from the first kept input */
            const float *from =
                index < back ? c->before + index * c->channels + channel : input + (index - back) * c->stride;
            sum = lanes_fma(lanes_load_some(from, some), weights[tap], sum);
        }
        if (c->bias)
            sum = lanes_add(sum, bias);
        if (c->silu)
            sum = lanes_multiply(sum, lanes_sigmoid(sum));
        float *out = c->output + row * c->channels + channel;
        if (some >= LANES)
            lanes_store(out, sum);
        else
            lanes_store_part(out, sum, some);
    }
}

static void convolve(const struct convolution *c, size_t group, size_t first, size_t count)
{
    for (size_t done = 0; done < count; done += LANES)
        convolve_lanes(c, group, first + done, count - done);
}

const struct convolution_kernels VARIANT(convolution_kernels) = {.convolve = convolve};
