#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "delta.glsl"
#include "delta_chunks.glsl"

/* Carries states from chunk to chunk (delta_chunks.glsl). A work group takes some columns of one head's matrix through
 * the chunks of a sequence. The matrix is in registers, four columns of four or eight rows per invocation, with a copy
 * in shared memory for the products with it. Of these products, an invocation computes four columns of four rows, two
 * of erase and the same two of read, and that for half of the channels. Then halves exchange their sums.
 * Tiles are requested two ahead, and rows of write a chunk ahead, because blocks are more than the nearest caches
 * hold. */
layout(constant_id = 2) const uint THREADS = 256;

#define DOWN 16u /* invocations of a half by rows; the others by columns */
#define TILE 32u /* channels of erase and read at a time */
#define TILE_QUADS (2 * CHUNK * TILE / 4)
#define MOST_ASKED 8u

layout(local_size_x_id = 2) in;
layout(push_constant) uniform Push
{
    Vec4s blocks;
    Sequences sequences;
    Floats into;
    uint value_heads, key_size, value_size;
};

const uint TILES = KEYS / TILE; /* an even number */
const uint HALF = THREADS / 2, ACROSS = HALF / DOWN, COLUMNS = 4 * ACROSS;
const uint WRITTEN = KEYS > 128 ? 16 : 32; /* rows of write at a time */
const bool TALL = KEYS > 128;              /* eight rows of the matrix; keys of 64 leave the second half idle */

shared vec4 held[4096 / 4];   /* the matrix; later the chunk's values, and sums */
shared vec4 placed[4096 / 4]; /* two tiles of erase and read; later rows of write */

uint thread, upper, down, across;
vec4 matrix[4], tall[4]; /* rows of the matrix, and those 128 below */
vec4 sums[4];

/* A tile's rows are stored so that neighbouring rows' quads are in different banks. */
uint tile_place(uint row, uint quad)
{
    return row * (TILE / 4) + (quad ^ row % 8);
}

vec4[MOST_ASKED] ask_tile(uint block, uint tile)
{
    vec4 asked[MOST_ASKED];
    [[unroll]] for (uint n = 0; n < MOST_ASKED; n++) {
        uint i = n * THREADS + thread;
        if (n < TILE_QUADS / THREADS)
            asked[n] = blocks.v[block + i / (TILE / 4) * KEY_QUADS + tile * (TILE / 4) + i % (TILE / 4)];
    }
    return asked;
}

void place_tile(uint tile, vec4 asked[MOST_ASKED])
{
    [[unroll]] for (uint n = 0; n < MOST_ASKED; n++) {
        uint i = n * THREADS + thread;
        if (n < TILE_QUADS / THREADS)
            placed[tile % 2 * TILE_QUADS + tile_place(i / (TILE / 4), i % (TILE / 4))] = asked[n];
    }
}

vec4[MOST_ASKED] ask_written(uint block, uint first)
{
    vec4 asked[MOST_ASKED];
    [[unroll]] for (uint n = 0; n < MOST_ASKED; n++)
        if (n < WRITTEN * KEY_QUADS / THREADS)
            asked[n] = blocks.v[block + WRITE + first * KEY_QUADS + n * THREADS + thread];
    return asked;
}

void place_written(vec4 asked[MOST_ASKED])
{
    [[unroll]] for (uint n = 0; n < MOST_ASKED; n++)
        if (n < WRITTEN * KEY_QUADS / THREADS)
            placed[n * THREADS + thread] = asked[n];
}

void multiply_tile(uint tile)
{
    for (uint i = 0; i < TILE / 8; i++) {
        uint quad = upper * (TILE / 8) + i;
        vec4 left[4];
        [[unroll]] for (uint r = 0; r < 4; r++)
            left[r] = placed[tile % 2 * TILE_QUADS + tile_place(down + 16 * r, quad)];
        [[unroll]] for (uint n = 0; n < 4; n++) {
            vec4 right = held[(tile * TILE + quad * 4 + n) * ACROSS + across];
            [[unroll]] for (uint r = 0; r < 4; r++)
                sums[r] = fma(vec4(left[r][n]), right, sums[r]);
        }
    }
}

/* Adds the sums of both halves. The lower half's sums[0] and sums[1] become those of erase, the upper half's those of
 * read. */
void exchange_sums()
{
    uint to = CHUNK * ACROSS + thread % HALF;
    held[to + upper * HALF] = upper != 0 ? sums[0] : sums[2];
    held[to + (2 + upper) * HALF] = upper != 0 ? sums[1] : sums[3];
    barrier();
    uint other = 1 - upper;
    sums[0] = (upper != 0 ? sums[2] : sums[0]) + held[to + other * HALF];
    sums[1] = (upper != 0 ? sums[3] : sums[1]) + held[to + (2 + other) * HALF];
}

void main()
{
    thread = gl_LocalInvocationID.x;
    upper = thread / HALF;
    uint slices = (value_size + COLUMNS - 1) / COLUMNS, head = gl_WorkGroupID.x / slices;
    uint slice = gl_WorkGroupID.x % slices;
    /* Shared memory serves twice as many invocations at a time if each reads what a neighbour reads: of the matrix, the
     * one beside it; of a tile, the one after that. */
    down = thread % 2 + thread % HALF / (2 * ACROSS) * 2;
    across = thread / 2 % ACROSS;
    uint column = slice * COLUMNS + across * 4, count = left_of(value_size, column);
    uint value_quads = padded_values(value_size) / 4;
    Sequence sequence = sequences.v[gl_WorkGroupID.y];

    uint four = upper * DOWN + down; /* the matrix's rows 4 * four to 4 * four + 3 */
    uint rows = head * key_size * value_size + column;
    [[unroll]] for (uint n = 0; n < 4; n++)
        matrix[n] = tall[n] = vec4(0.0);
    if (sequence.fresh == 0)
        [[unroll]] for (uint n = 0; n < 4; n++) {
            uint row = 4 * four + n;
            matrix[n] = load_some(Floats(sequence.state), rows + row * value_size, row < key_size ? count : 0);
            if (TALL)
                tall[n] = load_some(Floats(sequence.state), rows + (row + 128) * value_size,
                                    row + 128 < key_size ? count : 0);
        }

    uint block = (sequence.block * value_heads + head) * block_quads(value_size);
    vec4 even[MOST_ASKED] = ask_tile(block, 0), odd[MOST_ASKED] = ask_tile(block, 1);
    vec4 written[MOST_ASKED] = ask_written(block, 0);
    for (uint first = 0; first < sequence.rows; first += CHUNK) {
        uint next_block = first + CHUNK < sequence.rows ? block + value_heads * block_quads(value_size) : block;
        vec4 given[2]; /* what the lower half's sums are taken from, and the upper half's added to */
        uint to[2];
        barrier();
        [[unroll]] for (uint n = 0; n < 4; n++) {
            held[(4 * four + n) * ACROSS + across] = matrix[n];
            if (TALL)
                held[(4 * four + n + 128) * ACROSS + across] = tall[n];
        }
        place_tile(0, even);
        [[unroll]] for (uint i = 0; i < 2; i++) {
            uint row = down + 16 * i;
            to[i] = ((sequence.first_row + first + row) * value_heads + head) * value_size + column;
            if (upper == 0)
                given[i] = blocks.v[block + WANT + row * value_quads + slice * ACROSS + across];
            else
                given[i] = load_some(into, to[i], first + row < sequence.rows ? count : 0);
        }
        vec4 fade = blocks.v[block + FADE + four], tall_fade = TALL ? blocks.v[block + FADE + 32 + four] : vec4(0.0);
        barrier();

        [[unroll]] for (uint r = 0; r < 4; r++)
            sums[r] = vec4(0.0);
        for (uint tile = 0; tile < TILES; tile += 2) {
            bool last = tile + 2 == TILES;
            even = ask_tile(last ? next_block : block, last ? 0 : tile + 2);
            multiply_tile(tile);
            place_tile(1, odd);
            barrier();
            odd = ask_tile(last ? next_block : block, last ? 1 : tile + 3);
            multiply_tile(tile + 1);
            if (!last)
                place_tile(0, even);
            barrier();
        }
        exchange_sums();
        [[unroll]] for (uint i = 0; i < 2; i++) {
            uint row = down + 16 * i;
            if (upper == 0)
                held[row * ACROSS + across] = given[i] - sums[i];
            else
                store_some(into, to[i], given[i] + sums[i], first + row < sequence.rows ? count : 0);
        }

        [[unroll]] for (uint n = 0; n < 4; n++) {
            matrix[n] *= fade[n];
            tall[n] *= tall_fade[n];
        }
        for (uint top = 0; top < CHUNK; top += WRITTEN) {
            if (top > 0)
                barrier();
            place_written(written);
            barrier();
            bool last = top + WRITTEN == CHUNK;
            written = ask_written(last ? next_block : block, last ? 0 : top + WRITTEN);
            for (uint i = 0; i < WRITTEN; i += 8)
                [[unroll]] for (uint m = 0; m < 8; m++) {
                    vec4 value = held[(top + i + m) * ACROSS + across];
                    vec4 key = placed[(i + m) * KEY_QUADS + four];
                    vec4 tall_key = TALL ? placed[(i + m) * KEY_QUADS + 32 + four] : vec4(0.0);
                    [[unroll]] for (uint n = 0; n < 4; n++) {
                        matrix[n] = fma(vec4(key[n]), value, matrix[n]);
                        if (TALL)
                            tall[n] = fma(vec4(tall_key[n]), value, tall[n]);
                    }
                }
        }
        block = next_block;
    }

    [[unroll]] for (uint n = 0; n < 4; n++) {
        uint row = 4 * four + n;
        store_some(Floats(sequence.next), rows + row * value_size, matrix[n], row < key_size ? count : 0);
        if (TALL)
            store_some(Floats(sequence.next), rows + (row + 128) * value_size, tall[n],
                       row + 128 < key_size ? count : 0);
    }
}
