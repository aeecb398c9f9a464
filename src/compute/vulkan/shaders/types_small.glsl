// Types of one to three and a half bits: what types.glsl includes where one of them is defined. A chunk is a part of 32 of
// a super-block of 256, in two runs of 16; that of TQ2_0 is a chunk of Q2_K.
//
// The IQ types take several elements together from a codebook (compute/cpu/grids.h has them, packed as here), which a work
// group copies to shared memory.

#if defined(TYPE_IQ2_XXS)
#define CODEBOOK 256
#elif defined(TYPE_IQ2_XS)
#define CODEBOOK 512
#elif defined(TYPE_IQ2_S)
#define CODEBOOK 1024
#elif defined(TYPE_IQ3_XXS)
#define CODEBOOK 256
#elif defined(TYPE_IQ3_S)
#define CODEBOOK 512
#elif defined(TYPE_IQ1_S) || defined(TYPE_IQ1_M)
#define CODEBOOK 2048
#endif

#if defined(CODEBOOK)
shared uint codebook_words[CODEBOOK / 2];

void copy_codebook(Uints table, uint group)
{
    for (uint i = gl_LocalInvocationIndex; i < CODEBOOK / 2; i += group)
        codebook_words[i] = table.v[i];
    barrier();
}

uint codebook_entry(uint index)
{
    return codebook_words[index >> 1] >> (16u * (index & 1u)) & 0xffffu;
}

// A number with its sign turned where the bit is set.
float with_sign(float value, uint bit)
{
    return uintBitsToFloat(floatBitsToUint(value) ^ bit << 31);
}
#endif

#if defined(TYPE_IQ2_XXS) || defined(TYPE_IQ2_XS) || defined(TYPE_IQ3_XXS)
// Eight sign bits from seven: the eighth makes the number of ones even.
uint even_signs(uint seven)
{
    return seven | uint(bitCount(seven) & 1) << 7;
}
#endif

// ---- two bits of a codebook an element: 8, 25 or 43, with a sign

#if defined(TYPE_IQ2_XXS) || defined(TYPE_IQ2_XS) || defined(TYPE_IQ2_S)
struct Chunk { uvec2 quants; uint signs, scales, d; };

void unpack_eight(uint k, uint index, uint signs, inout float q[CHUNK_ELEMENTS])
{
    uint bits = codebook_entry(index);
    [[unroll]] for (uint i = 0; i < 8; i++) {
        uint two = bits >> (2 * i) & 3u;
        q[8 * k + i] = with_sign(float(8u + 17u * two + (two >> 1)), signs >> i & 1u);
    }
}

#if defined(TYPE_IQ2_XXS)
Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 8 * 66;
    Chunk c;
    c.quants = load_eight(row, block + 2 + chunk % 8 * 8);
    c.signs = c.scales = 0;
    c.d = load_short(row, block);
    return c;
}
#elif defined(TYPE_IQ2_XS)
Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 8 * 74, part = chunk % 8;
    Chunk c;
    c.quants = load_eight(row, block + 2 + part * 8);
    c.signs = 0;
    c.scales = load_byte(row, block + 66 + part);
    c.d = load_short(row, block);
    return c;
}
#else
Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 8 * 82, part = chunk % 8;
    Chunk c;
    c.quants = uvec2(load_four(row, block + 2 + part * 4), load_byte(row, block + 66 + part));
    c.signs = load_four(row, block + 34 + part * 4);
    c.scales = load_byte(row, block + 74 + part);
    c.d = load_short(row, block);
    return c;
}
#endif

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    float d = half_float(c.d) * 0.125;
#if defined(TYPE_IQ2_XXS)
    scale[0] = scale[1] = d * float(2u * (c.quants.y >> 28) + 1u);
#else
    scale[0] = d * float(2u * (c.scales & 15u) + 1u);
    scale[1] = d * float(2u * (c.scales >> 4) + 1u);
#endif
    minimum[0] = minimum[1] = 0;
    [[unroll]] for (uint k = 0; k < 4; k++) {
#if defined(TYPE_IQ2_XXS)
        unpack_eight(k, c.quants.x >> (8 * k) & 255u, even_signs(c.quants.y >> (7 * k) & 127u), q);
#elif defined(TYPE_IQ2_XS)
        uint both = c.quants[k / 2] >> (16 * (k % 2)) & 0xffffu;
        unpack_eight(k, both & 511u, even_signs(both >> 9), q);
#else
        unpack_eight(k, (c.quants.x >> (8 * k) & 255u) | (c.quants.y >> (2 * k) & 3u) << 8, c.signs >> (8 * k), q);
#endif
    }
}

// ---- three bits of a codebook an element, with a sign

#elif defined(TYPE_IQ3_XXS) || defined(TYPE_IQ3_S)
struct Chunk { uvec2 quants; uint high, signs, scale, d; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint part = chunk % 8;
    Chunk c;
#if defined(TYPE_IQ3_XXS)
    uint block = chunk / 8 * 98;
    c.signs = load_four(row, block + 66 + part * 4);
    c.high = 0;
    c.scale = c.signs >> 28;
#else
    uint block = chunk / 8 * 110;
    c.signs = load_four(row, block + 74 + part * 4);
    c.high = load_byte(row, block + 66 + part);
    c.scale = load_byte(row, block + 106 + part / 2) >> (part % 2 * 4) & 15u;
#endif
    c.quants = load_eight(row, block + 2 + part * 8);
    c.d = load_short(row, block);
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
#if defined(TYPE_IQ3_XXS)
    const float unit = 0.25;
#else
    const float unit = 1.0;
#endif
    scale[0] = scale[1] = half_float(c.d) * (unit * float(2u * c.scale + 1u));
    minimum[0] = minimum[1] = 0;
    [[unroll]] for (uint k = 0; k < 8; k++) {
#if defined(TYPE_IQ3_XXS)
        uint signs = even_signs(c.signs >> (k / 2 * 7) & 127u) >> (k % 2 * 4);
#else
        uint signs = c.signs >> (4 * k);
#endif
        uint bits = codebook_entry((c.quants[k / 4] >> (8 * (k % 4)) & 255u) | (c.high >> k & 1u) << 8);
        [[unroll]] for (uint i = 0; i < 4; i++) {
            uint three = bits >> (8 * (i % 2) + 4 * (i / 2)) & 7u;
#if defined(TYPE_IQ3_XXS)
            float value = float(4u + 8u * three + (three == 7u ? 2u : 0u));
#else
            float value = float(2u * three + 1u);
#endif
            q[4 * k + i] = with_sign(value, signs >> i & 1u);
        }
    }
}

// ---- -1, 0 or 1 of a codebook, plus or minus an eighth for eight elements

#elif defined(TYPE_IQ1_S) || defined(TYPE_IQ1_M)
struct Chunk { uint quants, high, d; uint scales[2]; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint part = chunk % 8;
    Chunk c;
#if defined(TYPE_IQ1_S)
    uint block = chunk / 8 * 50;
    c.quants = load_four(row, block + 2 + part * 4);
    c.high = load_short(row, block + 34 + part * 2);
    c.scales[0] = c.scales[1] = c.high >> 12 & 7u;
    c.d = load_short(row, block);
#else
    uint block = chunk / 8 * 56;
    c.quants = load_four(row, block + part * 4);
    c.high = load_short(row, block + 32 + part * 2);
    uvec2 words = load_eight(row, block + 48);
    uint scales = words[part / 4] >> (16 * (part / 2 % 2) + part % 2 * 6);
    c.scales[0] = scales & 7u;
    c.scales[1] = scales >> 3 & 7u;
    c.d = (words.x >> 12 & 15u) | (words.x >> 28) << 4 | (words.y >> 12 & 15u) << 8 | (words.y >> 28) << 12;
#endif
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    [[unroll]] for (uint r = 0; r < 2; r++) {
        scale[r] = half_float(c.d) * float(2u * c.scales[r] + 1u);
        minimum[r] = 0;
    }
    [[unroll]] for (uint k = 0; k < 4; k++) {
#if defined(TYPE_IQ1_S)
        uint high = c.high >> (3 * k) & 7u, down = c.high >> 15;
#else
        uint high = c.high >> (4 * k) & 7u, down = c.high >> (4 * k + 3) & 1u;
#endif
        uint bits = codebook_entry((c.quants >> (8 * k) & 255u) | high << 8);
        float offset = down != 0 ? -1.125 : -0.875;
        [[unroll]] for (uint i = 0; i < 8; i++)
            q[8 * k + i] = float(bits >> (2 * i) & 3u) + offset;
    }
}

// ---- digits of base three, five a byte, the first the highest, as a fraction of 256

#elif defined(TYPE_TQ1_0)
struct Chunk { uvec4 quants[2]; uint d; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 8 * 54, part = chunk % 8;
    Chunk c;
    [[unroll]] for (uint r = 0; r < 2; r++) {
        uint at = part < 5 ? 16 * r : 32;
        if (2 * part + r < 15)
            c.quants[r] = uvec4(load_eight(row, block + at), load_eight(row, block + at + 8));
        else
            c.quants[r] = uvec4(load_four(row, block + 48)); // its bytes' first four digits
    }
    c.d = load_short(row, block + 52);
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    const uint powers[5] = {1, 3, 9, 27, 81};
    uint part = chunk % 8;
    [[unroll]] for (uint r = 0; r < 2; r++) {
        scale[r] = minimum[r] = half_float(c.d);
        bool last = 2 * part + r == 15;
        [[unroll]] for (uint i = 0; i < 16; i++) {
            uint digit = last ? i / 4 : part < 5 ? part : 2 * part + r - 10;
            uint rest = (c.quants[r][i / 4] >> (8 * (i % 4)) & 255u) * powers[digit] & 255u;
            q[16 * r + i] = float(rest * 3u >> 8);
        }
    }
}

// ---- two bits

#elif defined(TYPE_TQ2_0)
struct Chunk { uint quants, d; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 16 * 66;
    return Chunk(load_four(row, block + chunk % 16 * 4), load_short(row, block + 64));
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    [[unroll]] for (int p = 0; p < 4; p++) {
        vec4 four = bits_floats(c.quants, 2 * p, 2);
        scale[p] = half_float(c.d);
        minimum[p] = scale[p] * (1 + 4);
        [[unroll]] for (int j = 0; j < 4; j++)
            q[4 * p + j] = four[j];
    }
}
#endif
