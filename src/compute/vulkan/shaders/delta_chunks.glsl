/* The rule of a gated delta net for CHUNK rows at once. Within a chunk, what rows do to each other needs no state: it is
 * a triangle of products of keys, solved once (delta_chunks.comp). It leaves a block of floats for each value head:
 *   erase, read, write [CHUNK][KEYS];  fade [KEYS];  want [CHUNK][values]
 * with which the chunk's outputs and the next state follow from the state S before it (delta_carry.comp):
 *   values = want - erase S;  outputs += read S;  S = fade S + transposed write times values
 * KEYS is the size of a key, filled up with zeros to 64, 128 or 256; values are filled up to a multiple of 32. Rows that a
 * last chunk lacks are zeros that forget nothing. */
#define CHUNK 32u

layout(constant_id = 0) const uint KEYS = 128;
layout(constant_id = 1) const uint WIDE = 1; /* rows begin at multiples of 16 bytes, and so do heads */

/* In vec4s. */
const uint KEY_QUADS = KEYS / 4;
const uint READ = CHUNK * KEY_QUADS, WRITE = 2 * READ, FADE = 3 * READ, WANT = FADE + KEY_QUADS;

uint padded_values(uint value_size)
{
    return (value_size + 31) / 32 * 32;
}

uint block_quads(uint value_size)
{
    return WANT + CHUNK * padded_values(value_size) / 4;
}

/* Up to four floats of a row, of which "count" are there. */
vec4 load_some(Floats from, uint at, uint count)
{
    if (WIDE != 0)
        return count > 0 ? Vec4s(uint64_t(from)).v[at / 4] : vec4(0.0);
    vec4 four = vec4(0.0);
    [[unroll]] for (uint n = 0; n < 4; n++)
        if (n < count)
            four[n] = from.v[at + n];
    return four;
}

void store_some(Floats into, uint at, vec4 four, uint count)
{
    if (WIDE != 0) {
        if (count > 0)
            Vec4s(uint64_t(into)).v[at / 4] = four;
        return;
    }
    [[unroll]] for (uint n = 0; n < 4; n++)
        if (n < count)
            into.v[at + n] = four[n];
}

/* How many of the elements of a row are left from this one on. */
uint left_of(uint size, uint at)
{
    return at < size ? size - at : 0;
}
