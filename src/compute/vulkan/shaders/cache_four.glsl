/* Four elements of a row of the cache (cache.glsl), from element c, a multiple of 4. CACHE is a constant. */
uint64_t cache_head_bytes(uint capacity, uint row_elements)
{
    return uint64_t(capacity) *
           (cache_row_bytes(CACHE, row_elements) + (CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0 ? row_elements / 16 : 0));
}

float cache_scale(uint64_t region, uint capacity, uint row_elements, uint index, uint c)
{
    Shorts scales = Shorts(region + uint64_t(capacity) * cache_row_bytes(CACHE, row_elements));
    return half_float(scales.v[index * (row_elements / 32) + c / 32]);
}

vec4 cache_four(uint64_t region, uint capacity, uint row_elements, uint index, uint c)
{
    uint64_t row = region + uint64_t(index) * cache_row_bytes(CACHE, row_elements);
    if (CACHE == CACHE_F32)
        return Vec4s(row).v[c / 4];
    if (CACHE == CACHE_F16) {
        Uints words = Uints(row + 2 * c);
        return vec4(unpackHalf2x16(words.v[0]), unpackHalf2x16(words.v[1]));
    }
    if (CACHE == CACHE_BF16) {
        Uints words = Uints(row + 2 * c);
        uint a = words.v[0], b = words.v[1];
        return vec4(bfloat_float(a & 0xffffu), bfloat_float(a >> 16), bfloat_float(b & 0xffffu), bfloat_float(b >> 16));
    }
    float scale = cache_scale(region, capacity, row_elements, index, c);
    if (CACHE == CACHE_Q8_0) {
        int word = int(Uints(row + c).v[0]);
        return vec4(word << 24 >> 24, word << 16 >> 24, word << 8 >> 24, word >> 24) * scale;
    }
    uint word = Uints(row + c / 32 * 16 + c % 16).v[0] >> (c % 32 < 16 ? 0 : 4);
    return (vec4(word & 15u, word >> 8 & 15u, word >> 16 & 15u, word >> 24 & 15u) - 8.0) * scale;
}

/* The sequence of a row of the batch; its rows are 0 where there is none. */
Sequence sequence_of(Sequences sequences, uint count, uint row)
{
    uint s = 0;
    Sequence sequence = sequences.v[0];
    while (s + 1 < count && row >= sequence.first_row + sequence.rows)
        sequence = sequences.v[++s];
    if (row - sequence.first_row >= sequence.rows)
        sequence.rows = 0;
    return sequence;
}
