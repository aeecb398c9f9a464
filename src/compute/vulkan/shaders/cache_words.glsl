/* Reads of the cache, 16 bytes each. The includer defines CACHE, one of those of cache.glsl. A word of a read is two elements
 * in half precision (one float where that would lose something: F32, BF16).
 *
 * With FRESH_CACHE a kernel of the same chain (chain.glsl) may have written the cache. */
#ifdef FRESH_CACHE
#define CACHE_QUADS FreshUvec4s
#define CACHE_SCALES FreshShorts
#else
#define CACHE_QUADS Uvec4s
#define CACHE_SCALES Shorts
#endif

#if CACHE == CACHE_F32
#define PER_WORD 1u
#define PER_READ 4u
#elif CACHE == CACHE_BF16
#define PER_WORD 1u
#define PER_READ 8u
#elif CACHE == CACHE_F16
#define PER_WORD 2u
#define PER_READ 8u
#elif CACHE == CACHE_Q8_0
#define PER_WORD 2u
#define PER_READ 16u
#else /* Q4_0 */
#define PER_WORD 2u
#define PER_READ 32u
#endif
#define READ_FOURS (PER_READ / PER_WORD / 4) /* fours of words */

#define QUANTS (CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0)

uint64_t cache_head_bytes(uint capacity, uint row_elements)
{
    return uint64_t(capacity) * (cache_row_bytes(CACHE, row_elements) + (QUANTS ? row_elements / 16 : 0));
}

/* Where the row index of a region begins, and, with quants, where its scales do. */
CACHE_QUADS cache_quads(uint64_t region, uint row_elements, uint index)
{
    return CACHE_QUADS(region + uint64_t(index) * cache_row_bytes(CACHE, row_elements));
}

CACHE_SCALES cache_scales(uint64_t region, uint capacity, uint row_elements, uint index)
{
    return CACHE_SCALES(region + uint64_t(capacity) * cache_row_bytes(CACHE, row_elements) +
                        uint64_t(index) * (row_elements / 16));
}

/* Two bytes of a word from bit "from" on, as signed numbers. */
vec2 two_bytes(uint word, int from)
{
    return vec2(bitfieldExtract(int(word), from, 8), bitfieldExtract(int(word), from + 8, 8));
}

/* Two nibbles, a byte apart, of a word. */
vec2 two_nibbles(uint word, int from)
{
    return vec2(bitfieldExtract(word, from, 4), bitfieldExtract(word, from + 8, 4)) - 8.0;
}

/* Four words of a read, from word 4 * k on. scale: the bits of a half, for quants. */
uvec4 read_words(uvec4 bits, uint scale, uint k)
{
#if CACHE == CACHE_F32 || CACHE == CACHE_F16
    return bits;
#elif CACHE == CACHE_BF16
    uvec2 pairs = k == 0 ? bits.xy : bits.zw;
    return uvec4(pairs.x << 16, pairs.x & 0xffff0000u, pairs.y << 16, pairs.y & 0xffff0000u);
#else
    float s = unpackHalf2x16(scale).x;
    uvec2 fours = k % 2 == 0 ? bits.xy : bits.zw;
#if CACHE == CACHE_Q8_0
    return uvec4(packHalf2x16(two_bytes(fours.x, 0) * s), packHalf2x16(two_bytes(fours.x, 16) * s),
                 packHalf2x16(two_bytes(fours.y, 0) * s), packHalf2x16(two_bytes(fours.y, 16) * s));
#else
    int from = k < 2 ? 0 : 4;
    return uvec4(packHalf2x16(two_nibbles(fours.x, from) * s), packHalf2x16(two_nibbles(fours.x, from + 16) * s),
                 packHalf2x16(two_nibbles(fours.y, from) * s), packHalf2x16(two_nibbles(fours.y, from + 16) * s));
#endif
#endif
}
