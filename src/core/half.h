/* 16-bit floating point to and from float, in plain C. Round to nearest even, as the hardware does. */
#ifndef HYPURA_HALF_H
#define HYPURA_HALF_H

#include <stdint.h>
#include <string.h>

static inline float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t float_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0x1f)
        return float_from_bits(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0) {
        /* Subnormal: mantissa times 2^-24 is exact in a float. */
        float magnitude = (float)mantissa * 0x1p-24f;
        return float_from_bits(sign | float_to_bits(magnitude));
    }
    return float_from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

static inline uint16_t float_to_half(float value)
{
    uint32_t bits = float_to_bits(value);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits >= 0x7f800000u) /* infinity, or NaN, which stays quiet */
        return (uint16_t)(sign | (bits > 0x7f800000u ? 0x7e00u | ((bits >> 13) & 0x3ffu) : 0x7c00u));
    if (bits >= 0x477ff000u) /* rounds to more than 65504 */
        return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x38800000u) { /* subnormal or zero: adding 0.5 aligns the mantissa and rounds to even */
        float shifted = float_from_bits(bits) + 0.5f;
        return (uint16_t)(sign | (uint16_t)(float_to_bits(shifted) - 0x3f000000u));
    }
    uint32_t odd = (bits >> 13) & 1u;
    bits += 0xfffu + odd;
    return (uint16_t)(sign | (uint16_t)((bits - 0x38000000u) >> 13));
}

static inline float bfloat_to_float(uint16_t bfloat)
{
    return float_from_bits((uint32_t)bfloat << 16);
}

static inline uint16_t float_to_bfloat(float value)
{
    uint32_t bits = float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
