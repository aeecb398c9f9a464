/* Rows of the cache brought to shared memory. The includer defines CACHE (one of those of cache.glsl), THREADS and
 * TILE_WORDS, the words of a row of the tile; with TILE_QUADS the tile is of uvec4s, TILE_STRIDE / 4 a row.
 *
 * A piece is BLOCK positions by at most PIECE elements, brought by every thread of the work group together: first
 * piece_ask, which only starts the reads, and later, once the tile is free, piece_place. In the tile a word is two
 * elements in half precision (one float where that would lose something: F32, BF16), and a row is TILE_STRIDE words,
 * one more than are used, so that threads that read a column meet no bank twice.
 *
 * With FRESH_CACHE a kernel of the same chain (chain.glsl) may have written the cache. */
#ifdef FRESH_CACHE
#define CACHE_QUADS FreshUvec4s
#define CACHE_SCALES FreshShorts
#else
#define CACHE_QUADS Uvec4s
#define CACHE_SCALES Shorts
#endif

#define BLOCK 64u

#ifndef TILE_STRIDE
#define TILE_STRIDE (TILE_WORDS + 1u)
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

#define PIECE (TILE_WORDS * PER_WORD)
#define READS (BLOCK * PIECE / PER_READ / THREADS)

#define QUANTS (CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0)

#ifdef TILE_QUADS
shared uvec4 tile[BLOCK * TILE_STRIDE / 4];
#else
shared uint tile[BLOCK * TILE_STRIDE];
#endif

uvec4 asked[READS];
#if CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0
uint asked_scales[READS];
#endif

uint64_t cache_head_bytes(uint capacity, uint row_elements)
{
    return uint64_t(capacity) * (cache_row_bytes(CACHE, row_elements) + (QUANTS ? row_elements / 16 : 0));
}

/* Asks for elements first to first + elements of the rows index to index + BLOCK; of rows from "from" up to "end"
 * within the block, the others stay as they are. */
void piece_ask_rows(uint64_t region, uint capacity, uint row_elements, uint index, uint first, uint elements, uint from,
               uint end)
{
    uint across = elements / PER_READ;
    CACHE_QUADS quads = CACHE_QUADS(region + uint64_t(index) * cache_row_bytes(CACHE, row_elements));
    uint row_quads = cache_row_bytes(CACHE, row_elements) / 16, first_quad = first / PER_READ;
#if CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0
    CACHE_SCALES scales = CACHE_SCALES(region + uint64_t(capacity) * cache_row_bytes(CACHE, row_elements) +
                           uint64_t(index) * (row_elements / 16));
#endif
    [[unroll]] for (uint i = 0; i < READS; i++) {
        uint read = gl_LocalInvocationID.x + i * THREADS, row = read / across, column = read % across;
        if (row >= from && row < end) {
            asked[i] = quads.v[row * row_quads + first_quad + column];
#if CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0
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
#if CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0
        asked_scales[i] = 0;
#endif
    }
    piece_ask_rows(region, capacity, row_elements, index, first, elements, from, end);
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

void piece_place(uint elements)
{
    uint across = elements / PER_READ;
    [[unroll]] for (uint i = 0; i < READS; i++) {
        uint read = gl_LocalInvocationID.x + i * THREADS, row = read / across, column = read % across;
#ifndef TILE_QUADS /* there, arrays are to be registers, and glslc unrolls no loop with a continue */
        if (row >= BLOCK)
            continue;
#endif
        uint words[PER_READ / PER_WORD];
        [[unroll]] for (uint k = 0; k < 4; k++) {
            uint four = asked[i][k];
#if CACHE == CACHE_F32 || CACHE == CACHE_F16
            words[k] = four;
#elif CACHE == CACHE_BF16
            words[2 * k] = four << 16;
            words[2 * k + 1] = four & 0xffff0000u;
#else
            float scale = unpackHalf2x16(asked_scales[i]).x;
#if CACHE == CACHE_Q8_0
            words[2 * k] = packHalf2x16(two_bytes(four, 0) * scale);
            words[2 * k + 1] = packHalf2x16(two_bytes(four, 16) * scale);
#else
            words[2 * k] = packHalf2x16(two_nibbles(four, 0) * scale);
            words[2 * k + 1] = packHalf2x16(two_nibbles(four, 16) * scale);
            words[2 * k + 8] = packHalf2x16(two_nibbles(four, 4) * scale);
            words[2 * k + 9] = packHalf2x16(two_nibbles(four, 20) * scale);
#endif
#endif
        }
        uint at = row * TILE_STRIDE + column * (PER_READ / PER_WORD);
#ifdef TILE_QUADS
        [[unroll]] for (uint k = 0; k < PER_READ / PER_WORD; k += 4)
            if (row < BLOCK)
                tile[(at + k) / 4] = uvec4(words[k], words[k + 1], words[k + 2], words[k + 3]);
#else
        [[unroll]] for (uint k = 0; k < PER_READ / PER_WORD; k++)
            tile[at + k] = words[k];
#endif
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
