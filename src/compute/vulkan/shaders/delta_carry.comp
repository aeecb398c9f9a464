#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "delta.glsl"
#include "delta_chunks.glsl"

/* Carries states from chunk to chunk (delta_chunks.glsl). A work group takes some columns of one head's matrix through
 * the chunks of a sequence. The matrix is in registers, four columns of KEYS / 16 rows per invocation, with a copy in
 * shared memory for the products with it. An invocation computes four columns of four rows of these products: two of
 * erase and the same two of read. What the next step needs is requested before a step begins. */
layout(constant_id = 2) const uint THREADS = 128;

#define DOWN 16u  /* invocations by rows; the others by columns */
#define TILE 32u  /* channels of erase and read at a time */
#define TILE_QUADS (2 * CHUNK * TILE / 4)
#define MOST_ROWS 16u

layout(local_size_x_id = 2) in;
layout(push_constant) uniform Push
{
    Vec4s blocks;
    Sequences sequences;
    Floats into;
    uint value_heads, key_size, value_size;
};

const uint ACROSS = THREADS / DOWN, COLUMNS = 4 * ACROSS, KEY_ROWS = KEYS / DOWN;
const uint WRITTEN = KEYS > 128 ? 16 : 32; /* rows of write at a time */

shared vec4 held[4096 / 4];   /* the matrix; later the chunk's values */
shared vec4 placed[4096 / 4]; /* two tiles of erase and read; later rows of write */

uint thread;
vec4 asked[16];
vec4 matrix[MOST_ROWS];
vec4 sums[4];

/* A tile's rows are stored so that neighbouring rows' quads are in different banks. */
uint tile_place(uint row, uint quad)
{
    return row * (TILE / 4) + (quad ^ row % 8);
}

void ask_tile(uint block, uint tile)
{
    [[unroll]] for (uint n = 0; n < TILE_QUADS / THREADS; n++) {
        uint i = n * THREADS + thread;
        asked[n] = blocks.v[block + i / (TILE / 4) * KEY_QUADS + tile * (TILE / 4) + i % (TILE / 4)];
    }
}

void place_tile(uint tile)
{
    [[unroll]] for (uint n = 0; n < TILE_QUADS / THREADS; n++) {
        uint i = n * THREADS + thread;
        placed[tile % 2 * TILE_QUADS + tile_place(i / (TILE / 4), i % (TILE / 4))] = asked[n];
    }
}

void ask_written(uint block, uint first)
{
    [[unroll]] for (uint n = 0; n < WRITTEN * KEY_QUADS / THREADS; n++)
        asked[n] = blocks.v[block + WRITE + first * KEY_QUADS + n * THREADS + thread];
}

void place_written()
{
    [[unroll]] for (uint n = 0; n < WRITTEN * KEY_QUADS / THREADS; n++)
        placed[n * THREADS + thread] = asked[n];
}

void multiply_tile(uint tile, uint down, uint across)
{
    for (uint half_tile = 0; half_tile < 2; half_tile++)
        [[unroll]] for (uint i = 0; i < TILE / 8; i++) {
            uint quad = half_tile * (TILE / 8) + i;
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

void main()
{
    thread = gl_LocalInvocationID.x;
    uint slices = (value_size + COLUMNS - 1) / COLUMNS, head = gl_WorkGroupID.x / slices;
    uint slice = gl_WorkGroupID.x % slices;
    /* Shared memory serves twice as many invocations at a time if each reads what a neighbour reads: of the matrix, the
     * one beside it; of a tile, the one after that. */
    uint down = thread % 2 + thread / (2 * ACROSS) * 2, across = thread / 2 % ACROSS;
    uint column = slice * COLUMNS + across * 4, count = left_of(value_size, column);
    uint value_quads = padded_values(value_size) / 4;
    Sequence sequence = sequences.v[gl_WorkGroupID.y];

    /* Rows 4 * down to 4 * down + 3 of each 64 of the matrix. */
    uint rows = head * key_size * value_size + column;
    [[unroll]] for (uint k = 0; k < KEY_ROWS; k++)
        matrix[k] = vec4(0.0);
    if (sequence.fresh == 0)
        [[unroll]] for (uint k = 0; k < KEY_ROWS; k++) {
            uint row = k / 4 * 64 + down * 4 + k % 4;
            matrix[k] = load_some(Floats(sequence.state), rows + row * value_size, row < key_size ? count : 0);
        }

    uint block = (sequence.block * value_heads + head) * block_quads(value_size);
    ask_tile(block, 0);
    for (uint first = 0; first < sequence.rows; first += CHUNK) {
        uint next_block = block + value_heads * block_quads(value_size);
        vec4 want[2], rest[2], fade[MOST_ROWS / 4];
        uint to[2];
        barrier();
        [[unroll]] for (uint k = 0; k < KEY_ROWS; k++)
            held[(k / 4 * 64 + down * 4 + k % 4) * ACROSS + across] = matrix[k];
        place_tile(0);
        [[unroll]] for (uint i = 0; i < 2; i++) {
            uint row = down + 16 * i;
            to[i] = ((sequence.first_row + first + row) * value_heads + head) * value_size + column;
            want[i] = blocks.v[block + WANT + row * value_quads + slice * ACROSS + across];
            rest[i] = load_some(into, to[i], first + row < sequence.rows ? count : 0);
        }
        [[unroll]] for (uint k = 0; k < KEY_ROWS / 4; k++)
            fade[k] = blocks.v[block + FADE + k * 16 + down];
        barrier();

        [[unroll]] for (uint r = 0; r < 4; r++)
            sums[r] = vec4(0.0);
        for (uint tile = 0; tile < KEYS / TILE; tile++) {
            if (tile + 1 < KEYS / TILE)
                ask_tile(block, tile + 1);
            else
                ask_written(block, 0);
            multiply_tile(tile, down, across);
            if (tile + 1 < KEYS / TILE)
                place_tile(tile + 1);
            barrier();
        }
        [[unroll]] for (uint i = 0; i < 2; i++)
            store_some(into, to[i], rest[i] + sums[2 + i], first + down + 16 * i < sequence.rows ? count : 0);
        [[unroll]] for (uint i = 0; i < 2; i++)
            held[(down + 16 * i) * ACROSS + across] = want[i] - sums[i];

        [[unroll]] for (uint k = 0; k < KEY_ROWS; k++)
            matrix[k] *= fade[k / 4][k % 4];
        for (uint top = 0; top < CHUNK; top += WRITTEN) {
            if (top > 0)
                barrier();
            place_written();
            barrier();
            if (top + WRITTEN < CHUNK)
                ask_written(block, top + WRITTEN);
            else if (first + CHUNK < sequence.rows)
                ask_tile(next_block, 0);
            for (uint i = 0; i < WRITTEN; i += 8)
                [[unroll]] for (uint m = 0; m < 8; m++) {
                    vec4 value = held[(top + i + m) * ACROSS + across];
                    [[unroll]] for (uint k = 0; k < KEY_ROWS / 4; k++) {
                        vec4 key = placed[(i + m) * KEY_QUADS + k * 16 + down];
                        [[unroll]] for (uint n = 0; n < 4; n++)
                            matrix[4 * k + n] = fma(vec4(key[n]), value, matrix[4 * k + n]);
                    }
                }
        }
        block = next_block;
    }

    [[unroll]] for (uint k = 0; k < KEY_ROWS; k++) {
        uint row = k / 4 * 64 + down * 4 + k % 4;
        store_some(Floats(sequence.next), rows + row * value_size, matrix[k], row < key_size ? count : 0);
    }
}
