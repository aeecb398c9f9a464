/* Types with evenly spaced codes: a block has parts of 16 or 32 values, each with a scale and possibly a minimum, which
 * are multiples of floats of the block.
 *
 * First, each part by itself gets the scale (and minimum) with the smallest weighted squared error: several roundings
 * are tried, and the best scale for each follows by least squares. Then the block's floats are chosen, each part tries
 * the multiples around its own scale, and the floats are refined by least squares as long as the error decreases.
 */
#include "compute/cpu/blocks.h"
#include "core/half.h"
#include "tools/quantize_encode.h"

#include <math.h>
#include <string.h>

/* ---- scale and minimum: scale * q - minimum, 0 <= q <= most ----------------------------------------------------- */

struct affine {
    float scale, minimum; /* both are 0 or more */
};

struct affine_sums {
    float q, qq, xq;
};

static struct affine_sums sum_affine(const float *x, const float *w, int n, float factor, float shift, float most)
{
    float q1[LANES] = {0}, q2[LANES] = {0}, xq[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float q = clamp(nearest((x[i + l] + shift) * factor), 0, most), wq = w[i + l] * q;
            q1[l] += wq;
            q2[l] += wq * q;
            xq[l] += wq * x[i + l];
        }
    return (struct affine_sums){fold(q1), fold(q2), fold(xq)};
}

static void sum_values(const float *x, const float *w, int n, float *sum_w, float *sum_x)
{
    float a[LANES] = {0}, b[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            a[l] += w[i + l];
            b[l] += w[i + l] * x[i + l];
        }
    *sum_w = fold(a);
    *sum_x = fold(b);
}

/* Tries factors that spread the values over one code more than there are, down to three fewer: values that were
 * quantised before often use fewer codes. */
#define STEPS 43

static struct affine fit_affine(const float *x, const float *w, int n, float most)
{
    float low = 0, high = x[0], sum_w, sum_x;
    for (int i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    struct affine best = {0, -low};
    if (!(high > low))
        return best;
    best.scale = (high - low) / most;
    sum_values(x, w, n, &sum_w, &sum_x);
    double gain = -1;
    float shift = -low;
    for (int step = 0; step < STEPS + 4; step++) {
        /* After these steps, the best fit is iterated: each round starts from the result of least squares. */
        float factor = step < STEPS ? (most + 1 - 0.1f * (float)step) / (high - low) : 1 / best.scale;
        if (factor <= 0) /* possible for types with few codes */
            continue;
        shift = step < STEPS ? -low : best.minimum;
        struct affine_sums s = sum_affine(x, w, n, factor, shift, most);
        double determinant = (double)sum_w * s.qq - (double)s.q * s.q;
        if (!(determinant > 0))
            continue;
        double scale = ((double)sum_w * s.xq - (double)sum_x * s.q) / determinant;
        double least = ((double)s.qq * sum_x - (double)s.q * s.xq) / determinant;
        if (least > 0) {
            least = 0;
            scale = (double)s.xq / s.qq;
        }
        double now = scale * s.xq + least * sum_x;
        if (scale > 0 && now > gain) {
            gain = now;
            best = (struct affine){(float)scale, (float)-least};
        } else if (step >= STEPS) {
            break;
        }
    }
    return best;
}

static float affine_error(const float *x, const float *w, int n, struct affine fit, float most)
{
    float sum[LANES] = {0}, factor = fit.scale > 0 ? 1 / fit.scale : 0;
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float q = clamp(nearest((x[i + l] + fit.minimum) * factor), 0, most);
            float off = fit.scale * q - fit.minimum - x[i + l];
            sum[l] += w[i + l] * off * off;
        }
    return fold(sum);
}

struct affine_block {
    int parts, size;
    float most, most_scale;
    float d, m; /* rounded to half precision */
    float scales[16], minima[16];
};

static float as_half(float value)
{
    return half_to_float(float_to_half(value));
}

static struct affine part_fit(const struct affine_block *block, int part)
{
    return (struct affine){block->d * block->scales[part], block->m * block->minima[part]};
}

static float nearest_multiple(const struct affine_block *block, float wanted, float unit)
{
    return unit > 0 ? clamp(nearest(wanted / unit), 0, block->most_scale) : 0;
}

/* Chooses the multiples of d and m, near a part's own fit, with the smallest error, and returns that error. For a part
 * by itself, codes that are all one higher or lower with another minimum are as good, and that minimum may be nearer to
 * a multiple of m. */
static float choose_affine(struct affine_block *block, int part, const float *x, const float *w, struct affine wanted)
{
    const float own = nearest_multiple(block, wanted.scale, block->d);
    float best_scale = own, best_minimum = 0, least = -1;
    for (float scale = own - 1; scale <= own + 1; scale++)
        for (int higher = -1; higher <= 1 && scale >= 0 && scale <= block->most_scale; higher++) {
            const struct affine fit = {block->d * scale, wanted.minimum + (float)higher * block->d * scale};
            const float near = nearest_multiple(block, fit.minimum, block->m);
            for (float minimum = near - 1; minimum <= near + 1; minimum++) {
                if (minimum < 0 || minimum > block->most_scale)
                    continue;
                float error =
                    affine_error(x, w, block->size, (struct affine){fit.scale, block->m * minimum}, block->most);
                if (least < 0 || error < least) {
                    least = error;
                    best_scale = scale;
                    best_minimum = minimum;
                }
            }
        }
    block->scales[part] = best_scale;
    block->minima[part] = best_minimum;
    return least;
}

/* Refines d and m by least squares, for the current codes and multiples. */
static void refine_affine(struct affine_block *block, const float *x, const float *w)
{
    double dd = 0, dm = 0, mm = 0, xd = 0, xm = 0;
    for (int part = 0; part < block->parts; part++) {
        const float *px = x + part * block->size, *pw = w + part * block->size;
        struct affine fit = part_fit(block, part);
        float sum_w, sum_x;
        sum_values(px, pw, block->size, &sum_w, &sum_x);
        struct affine_sums s =
            sum_affine(px, pw, block->size, fit.scale > 0 ? 1 / fit.scale : 0, fit.minimum, block->most);
        double scale = block->scales[part], minimum = block->minima[part];
        dd += scale * scale * s.qq;
        dm -= scale * minimum * s.q;
        mm += minimum * minimum * sum_w;
        xd += scale * s.xq;
        xm -= minimum * sum_x;
    }
    double determinant = dd * mm - dm * dm;
    double d = block->d, m = block->m;
    if (determinant > 1e-9 * dd * mm) {
        d = (xd * mm - xm * dm) / determinant;
        m = (xm * dd - xd * dm) / determinant;
    } else if (dd > 0) {
        d = (xd - dm * m) / dd;
    }
    if (d > 0 && m >= 0) {
        block->d = as_half((float)d);
        block->m = as_half((float)m);
    }
}

static void find_affine(struct affine_block *block, const float *x, const float *w)
{
    struct affine wanted[16];
    float most_scale = 0, most_minimum = 0, error = 0;
    for (int part = 0; part < block->parts; part++) {
        wanted[part] = fit_affine(x + part * block->size, w + part * block->size, block->size, block->most);
        most_scale = wanted[part].scale > most_scale ? wanted[part].scale : most_scale;
        most_minimum = wanted[part].minimum > most_minimum ? wanted[part].minimum : most_minimum;
    }
    block->d = as_half(most_scale / block->most_scale);
    block->m = as_half(most_minimum / block->most_scale);
    for (int part = 0; part < block->parts; part++)
        error += choose_affine(block, part, x + part * block->size, w + part * block->size, wanted[part]);
    for (int round = 0; round < 3; round++) {
        struct affine_block next = *block;
        float now = 0;
        refine_affine(&next, x, w);
        for (int part = 0; part < block->parts; part++)
            now += choose_affine(&next, part, x + part * block->size, w + part * block->size, part_fit(&next, part));
        if (!(now < error))
            break;
        error = now;
        *block = next;
    }
}

static void affine_codes(const struct affine_block *block, const float *x, uint8_t *codes)
{
    for (int part = 0; part < block->parts; part++) {
        struct affine fit = part_fit(block, part);
        float factor = fit.scale > 0 ? 1 / fit.scale : 0;
        for (int i = part * block->size; i < (part + 1) * block->size; i++)
            codes[i] = (uint8_t)clamp(nearest((x[i] + fit.minimum) * factor), 0, block->most);
    }
}

/* ---- a scale of either sign: scale * q, low <= q <= high -------------------------------------------------------- */

struct symmetric {
    float low, high;
};

static void sum_symmetric(const float *x, const float *w, int n, float factor, struct symmetric range, float *qq,
                          float *xq)
{
    float q2[LANES] = {0}, x1[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float q = clamp(nearest(x[i + l] * factor), range.low, range.high), wq = w[i + l] * q;
            q2[l] += wq * q;
            x1[l] += wq * x[i + l];
        }
    *qq = fold(q2);
    *xq = fold(x1);
}

static float fit_symmetric(const float *x, const float *w, int n, struct symmetric range)
{
    float far = 0;
    for (int i = 0; i < n; i++)
        far = fabsf(x[i]) > fabsf(far) ? x[i] : far;
    if (far == 0)
        return 0;
    float best = far / range.low;
    double gain = -1;
    for (int step = 0; step < 46; step++) {
        /* The farthest value is near the low end, which has no counterpart; then near the high end; then iterate the
         * best. */
        float factor = step < 20   ? (range.low + 0.1f * (float)(step - 9)) / far
                       : step < 40 ? (range.high + 0.1f * (float)(step - 30)) / far
                                   : 1 / best;
        float qq, xq;
        sum_symmetric(x, w, n, factor, range, &qq, &xq);
        if (!(qq > 0))
            continue;
        double now = (double)xq * xq / qq;
        if (now > gain) {
            gain = now;
            best = xq / qq;
        } else if (step >= 40) {
            break;
        }
        if (best == 0)
            return 0;
    }
    return best;
}

static float symmetric_error(const float *x, const float *w, int n, float scale, struct symmetric range)
{
    float sum[LANES] = {0}, factor = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float off = scale * clamp(nearest(x[i + l] * factor), range.low, range.high) - x[i + l];
            sum[l] += w[i + l] * off * off;
        }
    return fold(sum);
}

/* A block of sixteen parts with sixteen values each. */
struct symmetric_block {
    struct symmetric range, scale_range;
    float d;
    float scales[16];
};

static float choose_symmetric(struct symmetric_block *block, int part, const float *x, const float *w, float wanted)
{
    float near = block->d != 0 ? nearest(wanted / block->d) : 0, best = 0, least = -1;
    near = clamp(near, block->scale_range.low, block->scale_range.high);
    for (int i = -1; i <= 1; i++) {
        float scale = near + (float)i;
        if (scale < block->scale_range.low || scale > block->scale_range.high)
            continue;
        float error = symmetric_error(x, w, 16, block->d * scale, block->range);
        if (least < 0 || error < least) {
            least = error;
            best = scale;
        }
    }
    block->scales[part] = best;
    return least;
}

static float choose_all(struct symmetric_block *block, const float *x, const float *w, const float *wanted)
{
    float error = 0;
    for (int part = 0; part < 16; part++)
        error += choose_symmetric(block, part, x + 16 * part, w + 16 * part,
                                  wanted ? wanted[part] : block->d * block->scales[part]);
    return error;
}

static void find_symmetric(struct symmetric_block *block, const float *x, const float *w)
{
    float wanted[16], far = 0;
    for (int part = 0; part < 16; part++) {
        wanted[part] = fit_symmetric(x + 16 * part, w + 16 * part, 16, block->range);
        far = fabsf(wanted[part]) > fabsf(far) ? wanted[part] : far;
    }
    block->d = as_half(far / block->scale_range.low);
    float error = choose_all(block, x, w, wanted);
    for (int round = 0; round < 3; round++) {
        struct symmetric_block next = *block;
        double qq = 0, xq = 0;
        for (int part = 0; part < 16; part++) {
            float scale = block->scales[part], a, b;
            if (scale == 0 || block->d == 0)
                continue;
            sum_symmetric(x + 16 * part, w + 16 * part, 16, 1 / (block->d * scale), block->range, &a, &b);
            qq += (double)scale * scale * a;
            xq += (double)scale * b;
        }
        if (!(qq > 0))
            break;
        next.d = as_half((float)(xq / qq));
        float now = choose_all(&next, x, w, NULL);
        if (!(now < error))
            break;
        error = now;
        *block = next;
    }
}

/* Computes the codes, shifted to begin at 0. */
static void symmetric_codes(const struct symmetric_block *block, const float *x, uint8_t *codes)
{
    for (int i = 0; i < 256; i++) {
        float scale = block->d * block->scales[i / 16], factor = scale != 0 ? 1 / scale : 0;
        codes[i] = (uint8_t)(clamp(nearest(x[i] * factor), block->range.low, block->range.high) - block->range.low);
    }
}

/* ---- layouts ---------------------------------------------------------------------------------------------------- */

/* Packs two bits each: byte 32 g + j holds elements 128 g + 32 n + j. */
static void put_two_bits(uint8_t *qs, const uint8_t *codes)
{
    for (int j = 0; j < 64; j++) {
        const uint8_t *first = codes + j / 32 * 128 + j % 32;
        qs[j] = (uint8_t)((first[0] & 3) | (first[32] & 3) << 2 | (first[64] & 3) << 4 | (first[96] & 3) << 6);
    }
}

/* Packs four bits each: byte 32 g + j holds elements 64 g + j and 64 g + 32 + j. */
static void put_four_bits(uint8_t *qs, const uint8_t *codes)
{
    for (int j = 0; j < 128; j++) {
        const uint8_t *first = codes + j / 32 * 64 + j % 32;
        qs[j] = (uint8_t)((first[0] & 15) | (first[32] & 15) << 4);
    }
}

/* Packs eight scales and eight minima of six bits. */
static void put_sixes(uint8_t out[12], const float *scales, const float *minima)
{
    memset(out, 0, 12);
    for (int j = 0; j < 8; j++) {
        unsigned s = (unsigned)scales[j], m = (unsigned)minima[j];
        if (j < 4) {
            out[j] = (uint8_t)(out[j] | s);
            out[j + 4] = (uint8_t)(out[j + 4] | m);
        } else {
            out[j + 4] = (uint8_t)((s & 15) | (m & 15) << 4);
            out[j - 4] = (uint8_t)(out[j - 4] | (s >> 4) << 6);
            out[j] = (uint8_t)(out[j] | (m >> 4) << 6);
        }
    }
}

static void super_q2_k(const float *x, const float *w, uint8_t *out)
{
    struct affine_block fit = {.parts = 16, .size = 16, .most = 3, .most_scale = 15};
    struct block_q2_k block;
    uint8_t codes[256];
    find_affine(&fit, x, w);
    affine_codes(&fit, x, codes);
    for (int j = 0; j < 16; j++)
        block.scales[j] = (uint8_t)((unsigned)fit.scales[j] | (unsigned)fit.minima[j] << 4);
    put_two_bits(block.qs, codes);
    block.d = float_to_half(fit.d);
    block.dmin = float_to_half(fit.m);
    memcpy(out, &block, sizeof block);
}

static void super_q4_k(const float *x, const float *w, uint8_t *out)
{
    struct affine_block fit = {.parts = 8, .size = 32, .most = 15, .most_scale = 63};
    struct block_q4_k block;
    uint8_t codes[256];
    find_affine(&fit, x, w);
    affine_codes(&fit, x, codes);
    put_sixes(block.scales, fit.scales, fit.minima);
    put_four_bits(block.qs, codes);
    block.d = float_to_half(fit.d);
    block.dmin = float_to_half(fit.m);
    memcpy(out, &block, sizeof block);
}

static void super_q5_k(const float *x, const float *w, uint8_t *out)
{
    struct affine_block fit = {.parts = 8, .size = 32, .most = 31, .most_scale = 63};
    struct block_q5_k block;
    uint8_t codes[256];
    find_affine(&fit, x, w);
    affine_codes(&fit, x, codes);
    put_sixes(block.scales, fit.scales, fit.minima);
    put_four_bits(block.qs, codes);
    memset(block.qh, 0, sizeof block.qh);
    for (int i = 0; i < 256; i++)
        block.qh[i % 32] = (uint8_t)(block.qh[i % 32] | (codes[i] >> 4) << (i / 32));
    block.d = float_to_half(fit.d);
    block.dmin = float_to_half(fit.m);
    memcpy(out, &block, sizeof block);
}

static void super_q3_k(const float *x, const float *w, uint8_t *out)
{
    struct symmetric_block fit = {.range = {-4, 3}, .scale_range = {-32, 31}};
    struct block_q3_k block;
    uint8_t codes[256];
    find_symmetric(&fit, x, w);
    symmetric_codes(&fit, x, codes);
    memset(&block, 0, sizeof block);
    for (int j = 0; j < 16; j++) {
        unsigned scale = (unsigned)((int)fit.scales[j] + 32);
        block.scales[j % 8] = (uint8_t)(block.scales[j % 8] | (scale & 15) << (j / 8 * 4));
        block.scales[8 + j % 4] = (uint8_t)(block.scales[8 + j % 4] | (scale >> 4) << (j / 4 * 2));
    }
    put_two_bits(block.qs, codes);
    for (int i = 0; i < 256; i++)
        block.hmask[i % 32] = (uint8_t)(block.hmask[i % 32] | (codes[i] >> 2) << (i / 32));
    block.d = float_to_half(fit.d);
    memcpy(out, &block, sizeof block);
}

static void super_q6_k(const float *x, const float *w, uint8_t *out)
{
    struct symmetric_block fit = {.range = {-32, 31}, .scale_range = {-128, 127}};
    struct block_q6_k block;
    uint8_t codes[256];
    find_symmetric(&fit, x, w);
    symmetric_codes(&fit, x, codes);
    for (int half = 0; half < 2; half++) {
        const uint8_t *c = codes + 128 * half;
        for (int j = 0; j < 32; j++) {
            block.ql[64 * half + j] = (uint8_t)((c[j] & 15) | (c[j + 64] & 15) << 4);
            block.ql[64 * half + 32 + j] = (uint8_t)((c[j + 32] & 15) | (c[j + 96] & 15) << 4);
            block.qh[32 * half + j] =
                (uint8_t)(c[j] >> 4 | c[j + 32] >> 4 << 2 | c[j + 64] >> 4 << 4 | c[j + 96] >> 4 << 6);
        }
    }
    for (int j = 0; j < 16; j++)
        block.scales[j] = (int8_t)fit.scales[j];
    block.d = float_to_half(fit.d);
    memcpy(out, &block, sizeof block);
}

void encode_super(enum tensor_type type, const float *values, const float *weights, uint8_t *out)
{
    switch (type) {
    case TENSOR_Q2_K:
        super_q2_k(values, weights, out);
        break;
    case TENSOR_Q3_K:
        super_q3_k(values, weights, out);
        break;
    case TENSOR_Q4_K:
        super_q4_k(values, weights, out);
        break;
    case TENSOR_Q5_K:
        super_q5_k(values, weights, out);
        break;
    default:
        super_q6_k(values, weights, out);
        break;
    }
}

/* ---- blocks of 32 with one scale -------------------------------------------------------------------------------- */

static void small_symmetric(float *d, uint8_t codes[32], const float *x, const float *w, struct symmetric range)
{
    *d = as_half(fit_symmetric(x, w, 32, range));
    float factor = *d != 0 ? 1 / *d : 0;
    for (int j = 0; j < 32; j++)
        codes[j] = (uint8_t)(clamp(nearest(x[j] * factor), range.low, range.high) - range.low);
}

/* Here the minimum may have either sign: if all values are positive, the smallest is subtracted first. */
static void small_affine(float *d, float *m, uint8_t codes[32], const float *x, const float *w, float most)
{
    float above = x[0], shifted[32];
    for (int j = 0; j < 32; j++)
        above = x[j] < above ? x[j] : above;
    above = above > 0 ? above : 0;
    for (int j = 0; j < 32; j++)
        shifted[j] = x[j] - above;
    struct affine fit = fit_affine(shifted, w, 32, most);
    *d = as_half(fit.scale);
    *m = as_half(above - fit.minimum);
    float factor = *d > 0 ? 1 / *d : 0;
    for (int j = 0; j < 32; j++)
        codes[j] = (uint8_t)clamp(nearest((x[j] - *m) * factor), 0, most);
}

void encode_small(enum tensor_type type, const float *values, const float *weights, uint8_t *out)
{
    bool five = type == TENSOR_Q5_0 || type == TENSOR_Q5_1, affine = type == TENSOR_Q4_1 || type == TENSOR_Q5_1;
    uint8_t codes[32];
    float d, m = 0; /* a minimum only if affine */
    if (affine)
        small_affine(&d, &m, codes, values, weights, five ? 31 : 15);
    else
        small_symmetric(&d, codes, values, weights, five ? (struct symmetric){-16, 15} : (struct symmetric){-8, 7});
    uint16_t half = float_to_half(d);
    memcpy(out, &half, sizeof half);
    out += sizeof half;
    if (affine) {
        half = float_to_half(m);
        memcpy(out, &half, sizeof half);
        out += sizeof half;
    }
    if (five) {
        memset(out, 0, 4);
        for (int j = 0; j < 32; j++)
            out[j / 8] = (uint8_t)(out[j / 8] | (codes[j] >> 4) << (j % 8));
        out += 4;
    }
    for (int j = 0; j < 16; j++)
        out[j] = (uint8_t)((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}
