/* Encoders with sixteen unevenly spaced values: IQ4_NL, IQ4_XS and MXFP4, and NVFP4 with a scale per 16 elements. */
#include "compute/cpu/blocks.h"
#include "compute/cpu/grids.h"
#include "core/half.h"
#include "tools/quantize_encode.h"

#include <math.h>
#include <string.h>

/* The values in ascending order, and the midpoints between neighbours. */
struct codebook {
    float values[16], middles[15];
    uint8_t codes[16];
    int count;
};

static void make_codebook(struct codebook *book, const int8_t *values, int first_negative)
{
    book->count = 0;
    for (int i = 15; i > first_negative; i--) { /* descending; skips -0, which equals 0 */
        book->values[book->count] = values[i];
        book->codes[book->count++] = (uint8_t)i;
    }
    for (int i = 0; i < (first_negative < 15 ? 8 : 16); i++) {
        book->values[book->count] = values[i];
        book->codes[book->count++] = (uint8_t)i;
    }
    for (int i = 0; i + 1 < book->count; i++)
        book->middles[i] = (book->values[i] + book->values[i + 1]) / 2;
}

static int find(const struct codebook *book, float value)
{
    int index = 0;
    for (int i = 0; i + 1 < book->count; i++)
        index += value > book->middles[i];
    return index;
}

static float value_of(const struct codebook *book, float value)
{
    float found = book->values[0];
    for (int i = 0; i + 1 < book->count; i++)
        found = value > book->middles[i] ? book->values[i + 1] : found;
    return found;
}

static void sum_book(const struct codebook *book, const float *x, const float *w, int n, float factor, float *qq,
                     float *xq)
{
    float q2[LANES] = {0}, x1[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float q = value_of(book, x[i + l] * factor), wq = w[i + l] * q;
            q2[l] += wq * q;
            x1[l] += wq * x[i + l];
        }
    *qq = fold(q2);
    *xq = fold(x1);
}

static float fit_book(const struct codebook *book, const float *x, const float *w, int n)
{
    float far = 0, low = book->values[0], high = book->values[book->count - 1];
    for (int i = 0; i < n; i++)
        far = fabsf(x[i]) > fabsf(far) ? x[i] : far;
    if (far == 0)
        return 0;
    float best = far / low;
    double gain = -1;
    for (int step = 0; step < 38; step++) {
        float factor = step < 16   ? low * (1 + 0.02f * (float)(step - 10)) / far
                       : step < 32 ? high * (1 + 0.02f * (float)(step - 26)) / far
                                   : 1 / best;
        float qq, xq;
        sum_book(book, x, w, n, factor, &qq, &xq);
        if (!(qq > 0))
            continue;
        double now = (double)xq * xq / qq;
        if (now > gain) {
            gain = now;
            best = xq / qq;
        } else if (step >= 32) {
            break;
        }
        if (best == 0)
            return 0;
    }
    return best;
}

static float book_error(const struct codebook *book, const float *x, const float *w, int n, float scale)
{
    float sum[LANES] = {0}, factor = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float off = scale * value_of(book, x[i + l] * factor) - x[i + l];
            sum[l] += w[i + l] * off * off;
        }
    return fold(sum);
}

static void put_codes(const struct codebook *book, const float *x, float scale, int half, uint8_t *qs)
{
    float factor = scale != 0 ? 1 / scale : 0;
    for (int j = 0; j < half; j++)
        qs[j] = (uint8_t)(book->codes[find(book, x[j] * factor)] | book->codes[find(book, x[j + half] * factor)] << 4);
}

static float as_half(float value)
{
    return half_to_float(float_to_half(value));
}

static void encode_iq4_nl(const struct codebook *book, const float *x, const float *w, uint8_t *out)
{
    struct block_iq4_nl block;
    float d = as_half(fit_book(book, x, w, 32));
    block.d = float_to_half(d);
    put_codes(book, x, d, 16, block.qs);
    memcpy(out, &block, sizeof block);
}

/* ---- IQ4_XS: eight parts of 32, with 6-bit scales --------------------------------------------------------------- */

struct xs_block {
    float d, scales[8];
};

static float choose_scales(const struct codebook *book, struct xs_block *block, const float *x, const float *w,
                           const float *wanted)
{
    float total = 0;
    for (int part = 0; part < 8; part++) {
        float near = block->d != 0 ? clamp(nearest(wanted[part] / block->d), -32, 31) : 0, least = -1, best = 0;
        for (float scale = near - 1; scale <= near + 1; scale++) {
            if (scale < -32 || scale > 31)
                continue;
            float error = book_error(book, x + 32 * part, w + 32 * part, 32, block->d * scale);
            if (least < 0 || error < least) {
                least = error;
                best = scale;
            }
        }
        block->scales[part] = best;
        total += least;
    }
    return total;
}

static void find_xs(const struct codebook *book, struct xs_block *block, const float *x, const float *w)
{
    float wanted[8], far = 0;
    for (int part = 0; part < 8; part++) {
        wanted[part] = fit_book(book, x + 32 * part, w + 32 * part, 32);
        far = fabsf(wanted[part]) > fabsf(far) ? wanted[part] : far;
    }
    block->d = as_half(far / -32);
    float error = choose_scales(book, block, x, w, wanted);
    for (int round = 0; round < 3; round++) {
        struct xs_block next = *block;
        double qq = 0, xq = 0;
        for (int part = 0; part < 8; part++) {
            float scale = block->scales[part], a, b;
            if (scale == 0 || block->d == 0)
                continue;
            sum_book(book, x + 32 * part, w + 32 * part, 32, 1 / (block->d * scale), &a, &b);
            qq += (double)scale * scale * a;
            xq += (double)scale * b;
        }
        if (!(qq > 0))
            break;
        next.d = as_half((float)(xq / qq));
        for (int part = 0; part < 8; part++)
            wanted[part] = next.d * next.scales[part];
        float now = choose_scales(book, &next, x, w, wanted);
        if (!(now < error))
            break;
        error = now;
        *block = next;
    }
}

static void encode_iq4_xs(const struct codebook *book, const float *x, const float *w, uint8_t *out)
{
    struct xs_block fit;
    struct block_iq4_xs block;
    find_xs(book, &fit, x, w);
    memset(&block, 0, sizeof block);
    for (int part = 0; part < 8; part++) {
        unsigned scale = (unsigned)((int)fit.scales[part] + 32);
        block.scales_l[part / 2] = (uint8_t)(block.scales_l[part / 2] | (scale & 15) << (part % 2 * 4));
        block.scales_h = (uint16_t)(block.scales_h | scale >> 4 << (2 * part));
        put_codes(book, x + 32 * part, fit.d * fit.scales[part], 16, block.qs + 16 * part);
    }
    block.d = float_to_half(fit.d);
    memcpy(out, &block, sizeof block);
}

/* ---- NVFP4: four parts of 16, each with an 8-bit float as its scale --------------------------------------------- */

static void encode_nvfp4(const struct codebook *book, const float *x, const float *w, uint8_t *out)
{
    struct block_nvfp4 block;
    for (int part = 0; part < 4; part++) {
        const float *px = x + 16 * part, *pw = w + 16 * part;
        float wanted = fabsf(fit_book(book, px, pw, 16)), least = -1;
        int near = 0, best = 0;
        while (near < 126 && scales_ue4m3[near + 1] <= wanted)
            near++;
        for (int code = near > 0 ? near - 1 : 0; code <= near + 2 && code <= 126; code++) {
            float error = book_error(book, px, pw, 16, scales_ue4m3[code]);
            if (least < 0 || error < least) {
                least = error;
                best = code;
            }
        }
        block.d[part] = (uint8_t)best;
        put_codes(book, px, scales_ue4m3[best], 8, block.qs + 8 * part);
    }
    memcpy(out, &block, sizeof block);
}

void encode_codebook(enum tensor_type type, const float *values, const float *weights, uint8_t *out)
{
    struct codebook book;
    make_codebook(&book, type == TENSOR_NVFP4 ? codebook_e2m1 : codebook_iq4, type == TENSOR_NVFP4 ? 8 : 15);
    if (type == TENSOR_IQ4_NL)
        encode_iq4_nl(&book, values, weights, out);
    else if (type == TENSOR_IQ4_XS)
        encode_iq4_xs(&book, values, weights, out);
    else
        encode_nvfp4(&book, values, weights, out);
}
