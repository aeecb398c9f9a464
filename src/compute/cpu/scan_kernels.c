#include "compute/cpu/lanes.h"
#include "compute/cpu/scan.h"

/* BLOCK rows are processed while a part of the state, of PART elements, is in registers. */
#define BLOCK 32
#define PART 4

/* The rows of a block, for LANES channels. */
struct block {
    size_t first, rows;
    lanes decay[BLOCK]; /* per head; if each element has a rate: the steps */
    lanes added[BLOCK]; /* step times input */
    lanes sums[BLOCK];
};

static void end_block(const struct scan *s, const struct block *block, size_t channel, lanes skip, size_t some)
{
    for (size_t r = 0; r < block->rows; r++) {
        size_t row = block->first + r;
        lanes x = lanes_load_some(s->input + row * s->input_stride + channel, some);
        lanes_store_some(s->output + row * s->heads * s->width + channel, lanes_fma(x, skip, block->sums[r]), some);
    }
}

/* ---- one rate per head ------------------------------------------------------------------------------------------- */

/* Passes all rows of a block through count elements (at most PART) of the state, from n on. */
static inline void pass_part(const struct scan *s, struct block *block, const float *from, float *to, size_t group,
                             size_t n, size_t count, size_t some)
{
    lanes state[PART];
    for (size_t i = 0; i < count; i++)
        state[i] = lanes_load_some(from + i * s->width, some);
    for (size_t r = 0; r < block->rows; r++) {
        const float *write = s->write + (block->first + r) * s->write_stride + group * s->size + n;
        const float *read = s->read + (block->first + r) * s->read_stride + group * s->size + n;
        lanes sum = block->sums[r];
        for (size_t i = 0; i < count; i++) {
            state[i] = lanes_fma(lanes_all(write[i]), block->added[r], lanes_multiply(state[i], block->decay[r]));
            sum = lanes_fma(lanes_all(read[i]), state[i], sum);
        }
        block->sums[r] = sum;
    }
    for (size_t i = 0; i < count; i++)
        lanes_store_some(to + i * s->width, state[i], some);
}

static void run_lanes(const struct scan *s, size_t head, size_t first, size_t some)
{
    size_t group = head / (s->heads / s->groups), matrix = head * s->size * s->width + first;
    size_t channel = head * s->width + first;
    const float *from = s->state + matrix;
    float *to = s->next + matrix;
    struct block block;
    for (block.first = 0; block.first < s->rows; block.first += BLOCK, from = to) {
        block.rows = MIN((size_t)BLOCK, s->rows - block.first);
        for (size_t r = 0; r < block.rows; r++) {
            size_t row = block.first + r;
            float step = s->steps[row * s->heads + head];
            block.decay[r] = lanes_exp(lanes_all(step * s->rates[head]));
            block.added[r] =
                lanes_multiply(lanes_load_some(s->input + row * s->input_stride + channel, some), lanes_all(step));
            block.sums[r] = lanes_all(0.0f);
        }
        size_t n = 0;
        for (; n + PART <= s->size; n += PART)
            pass_part(s, &block, from + n * s->width, to + n * s->width, group, n, PART, some);
        for (; n < s->size; n++)
            pass_part(s, &block, from + n * s->width, to + n * s->width, group, n, 1, some);
        end_block(s, &block, channel, lanes_all(s->skip[head]), some);
    }
}

/* ---- rates of each element --------------------------------------------------------------------------------------- */

static void run_lanes_each(const struct scan *s, size_t first, size_t some)
{
    const float *from = s->state;
    lanes skip = lanes_load_some(s->skip + first, some);
    struct block block;
    for (block.first = 0; block.first < s->rows; block.first += BLOCK, from = s->next) {
        block.rows = MIN((size_t)BLOCK, s->rows - block.first);
        for (size_t r = 0; r < block.rows; r++) {
            size_t row = block.first + r;
            block.decay[r] = lanes_load_some(s->steps + row * s->heads + first, some);
            block.added[r] =
                lanes_multiply(lanes_load_some(s->input + row * s->input_stride + first, some), block.decay[r]);
            block.sums[r] = lanes_all(0.0f);
        }
        for (size_t n = 0; n < s->size; n++) {
            float part[LANES];
            for (size_t i = 0; i < LANES; i++)
                part[i] = i < some ? s->rates[(first + i) * s->size + n] : 0.0f;
            lanes rates = lanes_load(part), state = lanes_load_some(from + n * s->heads + first, some);
            for (size_t r = 0; r < block.rows; r++) {
                size_t row = block.first + r;
                lanes decay = lanes_exp(lanes_multiply(block.decay[r], rates));
                state = lanes_fma(lanes_all(s->write[row * s->write_stride + n]), block.added[r],
                                  lanes_multiply(state, decay));
                block.sums[r] = lanes_fma(lanes_all(s->read[row * s->read_stride + n]), state, block.sums[r]);
            }
            lanes_store_some(s->next + n * s->heads + first, state, some);
        }
        end_block(s, &block, first, skip, some);
    }
}

static void run(const struct scan *s, size_t head, size_t first, size_t count)
{
    for (size_t done = 0; done < count; done += LANES)
        if (s->each)
            run_lanes_each(s, first + done, count - done);
        else
            run_lanes(s, head, first + done, count - done);
}

const struct scan_kernels VARIANT(scan_kernels) = {.run = run};
