/* Sixteen floats as one value, on every instruction set: one zmm, two ymm, four NEON registers, or an array.
 *
 * A kernel that is written with these and built once for each instruction set gives the same bits from each build,
 * because every operation here is one IEEE operation on each lane and the folds have one order. VARIANT(name)
 * appends the instruction set to the name.
 */
#ifndef HYPURA_LANES_H
#define HYPURA_LANES_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "core/half.h"

#define LANES 16

#if !defined(PLAIN_KERNELS) && defined(__AVX512F__)
#include "compute/cpu/lanes_avx512.h"
#elif !defined(PLAIN_KERNELS) && defined(__AVX2__)
#include "compute/cpu/lanes_avx2.h"
#elif !defined(PLAIN_KERNELS) && defined(__aarch64__)
#include "compute/cpu/lanes_neon.h"
#else
#include "compute/cpu/lanes_plain.h"
#endif

#undef LANES_EACH

/* Loads the first count (below LANES) elements; the rest are fill. */
static inline lanes lanes_load_part(const float *from, size_t count, float fill)
{
    float part[LANES];
    for (size_t i = 0; i < LANES; i++)
        part[i] = i < count ? from[i] : fill;
    return lanes_load(part);
}

static inline void lanes_store_part(float *to, lanes a, size_t count)
{
    float part[LANES];
    lanes_store(part, a);
    memcpy(to, part, count * sizeof *to);
}

/* Load and store all lanes, or the first count if that is fewer. */
static inline lanes lanes_load_some(const float *from, size_t count)
{
    return count >= LANES ? lanes_load(from) : lanes_load_part(from, count, 0.0f);
}

static inline void lanes_store_some(float *to, lanes a, size_t count)
{
    if (count >= LANES)
        lanes_store(to, a);
    else
        lanes_store_part(to, a, count);
}

/* e to the power of a, within about 1 ulp; 0 below -104, infinity above 88.8. Reduction by Cody and Waite, then a
 * polynomial (Taylor's terms with the last two fitted) on [-ln 2 / 2, ln 2 / 2]. */
static inline lanes lanes_exp(lanes a)
{
    a = lanes_max(lanes_all(-104.0f), lanes_min(lanes_all(89.0f), a));
    lanes shifted = lanes_fma(a, lanes_all(0x1.715476p+0f), lanes_all(0x1.8p+23f));
    lanes n = lanes_subtract(shifted, lanes_all(0x1.8p+23f));
    lanes r = lanes_fma(n, lanes_all(-0x1.62e4p-1f), a);
    r = lanes_fma(n, lanes_all(-0x1.7f7d1cp-20f), r);
    lanes p = lanes_all(0x1.6850e4p-10f);
    p = lanes_fma(p, r, lanes_all(0x1.123bccp-7f));
    p = lanes_fma(p, r, lanes_all(0x1.555b98p-5f));
    p = lanes_fma(p, r, lanes_all(0x1.55548ep-3f));
    p = lanes_fma(p, r, lanes_all(0x1.fffff8p-2f));
    p = lanes_fma(p, r, lanes_all(1.0f));
    p = lanes_fma(p, r, lanes_all(1.0f));
    return lanes_times_power(p, shifted);
}

/* 1 / (1 + exp(-a)) */
static inline lanes lanes_sigmoid(lanes a)
{
    lanes one = lanes_all(1.0f);
    return lanes_divide(one, lanes_add(one, lanes_exp(lanes_subtract(lanes_all(0.0f), a))));
}

static inline lanes lanes_tanh(lanes a)
{
    lanes one = lanes_all(1.0f);
    lanes e = lanes_exp(lanes_add(a, a));
    return lanes_subtract(one, lanes_divide(lanes_all(2.0f), lanes_add(one, e)));
}

/* log(1 + exp(a)) = max(a, 0) + log(1 + e) with e = exp(-|a|). log(1 + e) = 2 atanh(e / (2 + e)), by its series, whose
 * argument is at most 1 / 3. */
static inline lanes lanes_softplus(lanes a)
{
    lanes zero = lanes_all(0.0f), e = lanes_exp(lanes_min(a, lanes_subtract(zero, a)));
    lanes s = lanes_divide(e, lanes_add(lanes_all(2.0f), e)), squared = lanes_multiply(s, s);
    lanes p = lanes_all(1.0f / 15.0f);
    for (int i = 13; i > 0; i -= 2)
        p = lanes_fma(p, squared, lanes_all(1.0f / (float)i));
    return lanes_add(lanes_max(a, zero), lanes_multiply(lanes_add(s, s), p));
}

#endif
