// Weights times many tokens. A work group makes a tile of TILE_ROWS rows by TILE_TOKENS tokens, DEPTH columns at a time:
// weights are unpacked and inputs copied into shared memory, while what the next step needs is on its way. Everything is a
// float. The order of a sum is that of the columns, so that which tile a row or token falls into changes no bit.
//
// A matrix of few rows has few tiles. With SLICES, that many invocations share a sum: each takes an equal part of every
// step's columns, and their sums are added in order. This hides what one waits for.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "types.glsl"

#ifndef SLICES
#define SLICES 1
#endif

// Only tokens vary.
#define LANES 128
#define GROUP (LANES * SLICES)
#define TILE_ROWS 64
#define MAX_TOKENS 32
layout(local_size_x = GROUP) in;
layout(constant_id = 0) const uint TILE_TOKENS = 32;
#define DEPTH 64

layout(push_constant) uniform Push
{
    uint64_t weights;
    Vec4s from;
    Floats into, bias;
    uint64_t table;
    uint rows, columns, row_bytes, tokens, from_stride, into_stride, accumulate;
#ifdef EXPERTS
    uint per_choice;
    Uints slots, groups;
    uint64_t slot_stride;
    uint used, experts;
#endif
};

// ---- weights

// A chunk's runs lie within SPAN columns; where that is more than DEPTH, a step uses every other pair of runs.
#if RUNS == 4
#define SPAN 128
#define RUNS_USED 2
#else
#define SPAN 64
#define RUNS_USED RUNS
#endif
#define ROW_CHUNKS (SPAN / CHUNK_ELEMENTS)
#define ITEMS (TILE_ROWS * ROW_CHUNKS / GROUP)

uint64_t tile_weights; // where the tile's rows start
uint tile_last_row;    // the last that exists
uint item_row(uint i)
{
    return (i * GROUP + gl_LocalInvocationID.x) / ROW_CHUNKS;
}

uint item_chunk(uint i, uint step)
{
    return step * DEPTH / SPAN * ROW_CHUNKS + (i * GROUP + gl_LocalInvocationID.x) % ROW_CHUNKS;
}

// ---- shared tiles, rows and tokens one after the other, in fours; the strides keep neighbours in different banks

#define STRIDE (DEPTH / 4 + 1)
shared vec4 row_tile[TILE_ROWS * STRIDE];
shared vec4 token_tile[TILE_TOKENS * STRIDE];

void store_chunk(Chunk chunk, uint i, uint step)
{
    uint index = item_chunk(i, step), row = item_row(i);
    bool inside = index * CHUNK_ELEMENTS < columns;
    float q[CHUNK_ELEMENTS], scale[RUNS], minimum[RUNS];
    chunk_unpack(chunk, index, q, scale, minimum);
    [[unroll]] for (uint r = 0; r < RUNS_USED; r++) {
        uint run = r, column = chunk_column(index, r) % DEPTH;
        float run_scale = scale[r], run_minimum = minimum[r];
#if RUNS == 4
        bool upper = step % 2 != 0;
        run_scale = upper ? scale[r + 2] : scale[r];
        run_minimum = upper ? minimum[r + 2] : minimum[r];
#endif
        [[unroll]] for (uint j = 0; j < LENGTH; j += 4) {
            vec4 four;
            [[unroll]] for (uint n = 0; n < 4; n++) {
                float value = q[r * LENGTH + j + n];
#if RUNS == 4
                value = upper ? q[(r + 2) * LENGTH + j + n] : value;
#endif
                four[n] = inside ? fma(run_scale, value, -run_minimum) : 0.0;
            }
            row_tile[row * STRIDE + (column + j) / 4] = four;
        }
    }
}

// ---- inputs: 16 times four columns a token

#define MAX_INPUTS (MAX_TOKENS * (DEPTH / 4) / GROUP)
const uint INPUTS = TILE_TOKENS * (DEPTH / 4) / GROUP;
uint tile_tokens;

uint input_token(uint i)
{
    return (i * GROUP + gl_LocalInvocationID.x) / (DEPTH / 4);
}

uint input_column(uint step)
{
    return step * (DEPTH / 4) + gl_LocalInvocationID.x % (DEPTH / 4);
}

void store_input(vec4 four, uint i, uint step)
{
    uint token = input_token(i), column = gl_LocalInvocationID.x % (DEPTH / 4);
    if (token >= tile_tokens || input_column(step) * 4 >= columns)
        four = vec4(0);
    token_tile[token * STRIDE + column] = four;
}

// ---- results

uint tile_first_row;
#ifdef EXPERTS
uint tile_first, tile_expert;
#else
uint tile_first;
#endif

// The row of inputs and of outputs of a token of the tile.
uint choice_of(uint token)
{
#ifdef EXPERTS
    return groups.v[4 + experts + 1 + tile_first + token];
#else
    return tile_first + token;
#endif
}

void write_result(uint row, uint token, float sum)
{
    row += tile_first_row;
    if (row >= rows || token >= tile_tokens)
        return;
#ifdef EXPERTS
    if (uint64_t(bias) != 0)
        sum += bias.v[tile_expert * rows + row];
#else
    if (uint64_t(bias) != 0)
        sum += bias.v[row];
#endif
    uint at = choice_of(token) * into_stride + row;
    into.v[at] = accumulate != 0 ? into.v[at] + sum : sum;
}

// Each invocation has four rows and four tokens, far enough apart that neighbours read neighbouring banks.
#define ROW_LANES (TILE_ROWS / 4)
#define TOKEN_LANES (LANES / ROW_LANES)

#if SLICES > 1
// The first slice gets the sums of all, in order. Every invocation must come here.
void add_slices(uint slice, uint lane, inout float sums[4][4])
{
    for (uint s = 1; s < SLICES; s++) {
        [[unroll]] for (uint r = 0; r < 4; r++)
            if (slice == s)
                row_tile[r * LANES + lane] = vec4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
        barrier();
        [[unroll]] for (uint i = 0; i < 16; i++)
            if (slice == 0)
                sums[i / 4][i % 4] += row_tile[i / 4 * LANES + lane][i % 4];
        barrier();
    }
}
#endif

void main()
{
    tile_weights = weights;
    tile_first_row = gl_WorkGroupID.y * TILE_ROWS;
#ifdef EXPERTS
    // groups: number of tiles, three numbers that are not used, where each expert's choices start, the choices by expert,
    // then the tiles: expert and first choice.
    if (gl_WorkGroupID.x >= groups.v[0])
        return;
    uint choices = groups.v[4 + experts], tile = 4 + experts + 1 + choices + 2 * gl_WorkGroupID.x;
    tile_expert = groups.v[tile];
    tile_first = groups.v[tile + 1];
    tile_tokens = min(groups.v[4 + tile_expert + 1] - tile_first, TILE_TOKENS);
    uint slot = slots.v[tile_expert];
    if (slot == 0xffffffffu)
        return;
    tile_weights += slot * slot_stride;
#else
    tile_first = gl_WorkGroupID.x * TILE_TOKENS;
    tile_tokens = min(tokens - tile_first, TILE_TOKENS);
#endif
    TYPES_PREPARE(GROUP);
    tile_last_row = min(rows - tile_first_row, TILE_ROWS) - 1;

    uint64_t item_rows[ITEMS];
    [[unroll]] for (uint i = 0; i < ITEMS; i++)
        item_rows[i] = tile_weights + uint64_t(tile_first_row + min(item_row(i), tile_last_row)) * row_bytes;
    uint input_rows[MAX_INPUTS];
    [[unroll]] for (uint i = 0; i < MAX_INPUTS; i++) {
        uint row = choice_of(min(input_token(i), tile_tokens - 1));
#ifdef EXPERTS
        row = per_choice != 0 ? row : row / used;
#endif
        input_rows[i] = row * (from_stride / 4);
    }

    uint slice = SLICES > 1 ? gl_LocalInvocationID.x / LANES : 0, lane = gl_LocalInvocationID.x % LANES;
    uint row_lane = lane % ROW_LANES, token_lane = lane / ROW_LANES;
    float sums[4][4];
    [[unroll]] for (uint r = 0; r < 4; r++)
        [[unroll]] for (uint t = 0; t < 4; t++)
            sums[r][t] = 0;

    uint steps = (columns + DEPTH - 1) / DEPTH, last_chunk = columns / CHUNK_ELEMENTS - 1, last_column = columns / 4 - 1;
    Chunk chunks[ITEMS];
    vec4 inputs[MAX_INPUTS];
    [[unroll]] for (uint i = 0; i < ITEMS; i++)
        chunks[i] = chunk_fetch(item_rows[i], min(item_chunk(i, 0), last_chunk));
    [[unroll]] for (uint i = 0; i < MAX_INPUTS; i++)
        if (i < INPUTS)
            inputs[i] = from.v[input_rows[i] + min(input_column(0), last_column)];

    for (uint step = 0; step < steps; step++) {
        [[unroll]] for (uint i = 0; i < ITEMS; i++)
            store_chunk(chunks[i], i, step);
        [[unroll]] for (uint i = 0; i < MAX_INPUTS; i++)
            if (i < INPUTS)
                store_input(inputs[i], i, step);
        barrier();
        if (step + 1 < steps) {
            [[unroll]] for (uint i = 0; i < ITEMS; i++)
                chunks[i] = chunk_fetch(item_rows[i], min(item_chunk(i, step + 1), last_chunk));
            [[unroll]] for (uint i = 0; i < MAX_INPUTS; i++)
                if (i < INPUTS)
                    inputs[i] = from.v[input_rows[i] + min(input_column(step + 1), last_column)];
        }
        for (uint n = 0; n < DEPTH / 4 / SLICES; n++) {
            uint k = slice * (DEPTH / 4 / SLICES) + n;
            vec4 a[4], b[4];
            [[unroll]] for (uint i = 0; i < 4; i++) {
                a[i] = row_tile[(row_lane + i * ROW_LANES) * STRIDE + k];
                b[i] = token_tile[(token_lane + i * TOKEN_LANES) * STRIDE + k];
            }
            [[unroll]] for (uint c = 0; c < 4; c++)
                [[unroll]] for (uint r = 0; r < 4; r++)
                    [[unroll]] for (uint t = 0; t < 4; t++)
                        sums[r][t] = fma(a[r][c], b[t][c], sums[r][t]);
        }
        barrier();
    }

#if SLICES > 1
    add_slices(slice, lane, sums);
    if (slice > 0)
        return;
#endif
    [[unroll]] for (uint r = 0; r < 4; r++)
        [[unroll]] for (uint t = 0; t < 4; t++)
            write_result(row_lane + r * ROW_LANES, token_lane + t * TOKEN_LANES, sums[r][t]);
}
