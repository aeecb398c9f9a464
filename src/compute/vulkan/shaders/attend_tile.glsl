/* Pieces of the cache, brought to shared memory. The includer defines CACHE (one of those of cache.glsl), THREADS and
 * TILE_WORDS, the words of a row of the tile; with TILE_QUADS the tile is of uvec4s, TILE_STRIDE / 4 a row.
 *
 * A piece is BLOCK positions by at most PIECE elements, brought by every thread of the work group together: first
 * piece_ask, which only starts the reads, and later, once the tile is free, piece_place. A row of the tile is TILE_STRIDE
 * words (cache_words.glsl), one more than are used, so that threads that read a column meet no bank twice. */
#include "cache_words.glsl"

#define BLOCK 64u

#ifndef TILE_STRIDE
#define TILE_STRIDE (TILE_WORDS + 1u)
#endif

#define PIECE (TILE_WORDS * PER_WORD)
#define READS (BLOCK * PIECE / PER_READ / THREADS)

#ifdef TILE_QUADS
shared uvec4 tile[BLOCK * TILE_STRIDE / 4];
#else
shared uint tile[BLOCK * TILE_STRIDE];
#endif

uvec4 asked[READS];
#if QUANTS
uint asked_scales[READS];
#endif

/* Asks for elements first to first + elements of the rows index to index + BLOCK; of rows from "from" up to "end"
 * within the block, the others stay as they are. */
void piece_ask_rows(uint64_t region, uint capacity, uint row_elements, uint index, uint first, uint elements, uint from,
               uint end)
{
    uint across = elements / PER_READ;
    CACHE_QUADS quads = cache_quads(region, row_elements, index);
#if QUANTS
    CACHE_SCALES scales = cache_scales(region, capacity, row_elements, index);
#endif
    uint row_quads = cache_row_bytes(CACHE, row_elements) / 16, first_quad = first / PER_READ;
    [[unroll]] for (uint i = 0; i < READS; i++) {
        uint read = gl_LocalInvocationID.x + i * THREADS, row = read / across, column = read % across;
        if (row >= from && row < end) {
            asked[i] = quads.v[row * row_quads + first_quad + column];
#if QUANTS
            asked_scales[i] = uint(scales.v[row * (row_elements / 32) + (first + column * PER_READ) / 32]);
#endif
        }
    }
}

/* The others are zero. */
void piece_ask(uint64_t region, uint capacity, uint row_elements, uint index, uint first, uint elements, uint from,
               uint end)
{
    [[unroll]] for (uint i = 0; i < READS; i++) {
        asked[i] = uvec4(0);
#if QUANTS
        asked_scales[i] = 0;
#endif
    }
    piece_ask_rows(region, capacity, row_elements, index, first, elements, from, end);
}

void piece_place(uint elements)
{
    uint across = elements / PER_READ;
    [[unroll]] for (uint i = 0; i < READS; i++) {
        uint read = gl_LocalInvocationID.x + i * THREADS, row = read / across, column = read % across;
#ifndef TILE_QUADS /* there, arrays are to be registers, and glslc unrolls no loop with a continue */
        if (row >= BLOCK)
            continue;
#endif
        uint at = row * TILE_STRIDE + column * (PER_READ / PER_WORD);
        [[unroll]] for (uint k = 0; k < READ_FOURS; k++) {
#if QUANTS
            uvec4 words = read_words(asked[i], asked_scales[i], k);
#else
            uvec4 words = read_words(asked[i], 0, k);
#endif
#ifdef TILE_QUADS
            if (row < BLOCK)
                tile[at / 4 + k] = words;
#else
            [[unroll]] for (uint n = 0; n < 4; n++)
                tile[at + 4 * k + n] = words[n];
#endif
        }
    }
}

#ifndef TILE_QUADS
/* A word of the tile as numbers; the second is not used where a word is one. */
vec2 tile_numbers(uint word)
{
    return PER_WORD == 2 ? unpackHalf2x16(word) : vec2(uintBitsToFloat(word), 0.0);
}

/* Elements 2 * pair and 2 * pair + 1 of a row. */
vec2 tile_pair(uint row, uint pair)
{
#if CACHE == CACHE_F32 || CACHE == CACHE_BF16
    uint at = row * TILE_STRIDE + 2 * pair;
    return vec2(uintBitsToFloat(tile[at]), uintBitsToFloat(tile[at + 1]));
#else
    return unpackHalf2x16(tile[row * TILE_STRIDE + pair]);
#endif
}
#endif
