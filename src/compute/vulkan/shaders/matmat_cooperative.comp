// Weights times many tokens by the hardware's matrices of 16 x 16 halves, whose sums are floats. A work group makes a tile
// of TILE_ROWS rows by TILE_TOKENS tokens, DEPTH columns at a time: weights are unpacked and inputs copied into shared
// memory while what the next step needs is on its way. The order of a sum is that of the columns, so that which tile a row
// or token falls into changes no bit.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "types.glsl"
#include "cooperative.glsl"

#define THREADS 256
#define TILE_ROWS 128
#define MOST_TOKENS 128
#define DEPTH 64
layout(local_size_x = THREADS) in;
layout(constant_id = 0) const uint TILE_TOKENS = 128; // 32, 64 or 128
layout(constant_id = 1) const bool HALVES = true;     // inputs are halves, else floats

layout(push_constant) uniform Push
{
    uint64_t weights, from;
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

// Eight subgroups, four along the rows; each has two times TOKEN_PARTS matrices of sums.
#define ROW_SUBGROUPS 4
#define TOKEN_SUBGROUPS 2
#define ROW_PARTS 2
#define MOST_TOKEN_PARTS 4
const uint TOKEN_PARTS = TILE_TOKENS / TOKEN_SUBGROUPS / 16;

// ---- weights

// The runs of a chunk lie within SPAN columns, which are SUBS steps of DEPTH.
#if RUNS == 4
#define SPAN 128
#else
#define SPAN DEPTH
#endif
#define SUBS (SPAN / DEPTH)
#define RUNS_USED (RUNS / SUBS)
#define ROW_CHUNKS (SPAN / CHUNK_ELEMENTS)
#define ITEMS (TILE_ROWS * ROW_CHUNKS / THREADS)

uint item_row(uint i)
{
    return (i * THREADS + gl_LocalInvocationID.x) / ROW_CHUNKS;
}

uint item_chunk(uint i, uint span)
{
    return span * ROW_CHUNKS + (i * THREADS + gl_LocalInvocationID.x) % ROW_CHUNKS;
}

// ---- shared tiles: eight halves each, rows and tokens one after the other; an odd stride keeps neighbours apart

#define STRIDE (DEPTH / 8 + 1)
shared uvec4 row_tile[TILE_ROWS * STRIDE];
shared uvec4 token_tile[TILE_TOKENS * STRIDE];

void store_chunk(Chunk chunk, uint i, uint span, uint sub)
{
    uint index = item_chunk(i, span), row = item_row(i) * STRIDE;
    bool inside = index * CHUNK_ELEMENTS < columns;
#ifdef TYPE_F16
    row_tile[row + index % ROW_CHUNKS] = inside ? chunk.bits : uvec4(0);
#else
    float q[CHUNK_ELEMENTS], scale[RUNS], minimum[RUNS];
    chunk_unpack(chunk, index, q, scale, minimum);
    [[unroll]] for (uint n = 0; n < RUNS_USED; n++) {
        uint r = sub * RUNS_USED + n, column = chunk_column(index, r) % DEPTH;
        uint words[LENGTH / 2];
        [[unroll]] for (uint j = 0; j < LENGTH; j += 2) {
            vec2 pair = vec2(q[r * LENGTH + j], q[r * LENGTH + j + 1]);
            words[j / 2] = inside ? packHalf2x16(fma(vec2(scale[r]), pair, vec2(-minimum[r]))) : 0;
        }
#if LENGTH == 4
        if (column % 8 == 0)
            row_tile[row + column / 8].xy = uvec2(words[0], words[1]);
        else
            row_tile[row + column / 8].zw = uvec2(words[0], words[1]);
#else
        [[unroll]] for (uint j = 0; j < LENGTH / 2; j += 4)
            row_tile[row + column / 8 + j / 4] = uvec4(words[j], words[j + 1], words[j + 2], words[j + 3]);
#endif
    }
#endif
}

// ---- inputs, eight columns at a time

#define EIGHTS (DEPTH / 8)
#define MOST_INPUTS (MOST_TOKENS * EIGHTS / THREADS)
const uint INPUTS = TILE_TOKENS * EIGHTS / THREADS;
struct Eight { uvec4 low, high; }; // eight halves, or twice four floats

uint input_token(uint i)
{
    return (i * THREADS + gl_LocalInvocationID.x) / EIGHTS;
}

Eight fetch_input(uint row, uint step)
{
    uint eighth = min(step * EIGHTS + gl_LocalInvocationID.x % EIGHTS, columns / 8 - 1);
    Uvec4s source = Uvec4s(from);
    if (HALVES)
        return Eight(source.v[row + eighth], uvec4(0));
    return Eight(source.v[row + 2 * eighth], source.v[row + 2 * eighth + 1]);
}

void store_input(Eight e, uint i, uint step)
{
    uint eighth = gl_LocalInvocationID.x % EIGHTS;
    uvec4 halves = e.low;
    if (!HALVES) {
        vec4 low = uintBitsToFloat(e.low), high = uintBitsToFloat(e.high);
        halves = uvec4(halves_of(low.xy), halves_of(low.zw), halves_of(high.xy), halves_of(high.zw));
    }
    token_tile[input_token(i) * STRIDE + eighth] = (step * EIGHTS + eighth) * 8 < columns ? halves : uvec4(0);
}

// ---- results

uint tile_first_row, tile_first, tile_tokens;
#ifdef EXPERTS
uint tile_expert;
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

// Through shared memory, which no multiplication needs any more.
void write_part(Sums sums, uint row, uint token)
{
    STORE_SUMS(sums, row_tile, gl_SubgroupID * 64, 4);
    subgroupMemoryBarrierShared();
    subgroupBarrier();
    for (uint i = gl_SubgroupInvocationID; i < 64; i += 32) {
        uint t = token + i / 4, first = tile_first_row + row + i % 4 * 4;
        if (t >= tile_tokens || first >= rows)
            continue;
        vec4 four = uintBitsToFloat(row_tile[gl_SubgroupID * 64 + i]);
        uint at = choice_of(t) * into_stride + first;
        [[unroll]] for (uint n = 0; n < 4; n++)
            if (first + n < rows) {
#ifdef EXPERTS
                if (uint64_t(bias) != 0)
                    four[n] += bias.v[tile_expert * rows + first + n];
#else
                if (uint64_t(bias) != 0)
                    four[n] += bias.v[first + n];
#endif
                if (accumulate != 0)
                    four[n] += into.v[at + n];
            }
        if (into_stride % 4 == 0 && uint(uint64_t(into)) % 16 == 0 && first + 3 < rows)
            Vec4s(uint64_t(into)).v[at / 4] = four;
        else
            [[unroll]] for (uint n = 0; n < 4; n++)
                if (first + n < rows)
                    into.v[at + n] = four[n];
    }
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

void main()
{
    uint64_t tile_weights = weights;
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
    TYPES_PREPARE(THREADS);
    uint last_row = min(rows - tile_first_row, TILE_ROWS) - 1;

    uint64_t item_rows[ITEMS];
    [[unroll]] for (uint i = 0; i < ITEMS; i++)
        item_rows[i] = tile_weights + uint64_t(tile_first_row + min(item_row(i), last_row)) * row_bytes;
    uint input_rows[MOST_INPUTS];
    [[unroll]] for (uint i = 0; i < MOST_INPUTS; i++) {
        uint row = choice_of(min(input_token(i), tile_tokens - 1));
#ifdef EXPERTS
        row = per_choice != 0 ? row : row / used;
#endif
        input_rows[i] = row * (from_stride / (HALVES ? 8 : 4));
    }

    uint row_part = gl_SubgroupID % ROW_SUBGROUPS * (ROW_PARTS * 16);
    uint token_part = gl_SubgroupID / ROW_SUBGROUPS * TOKEN_PARTS * 16;
    Sums sums[ROW_PARTS][MOST_TOKEN_PARTS];
    [[unroll]] for (uint r = 0; r < ROW_PARTS; r++)
        [[unroll]] for (uint t = 0; t < MOST_TOKEN_PARTS; t++)
            sums[r][t] = Sums(0.0);

    uint steps = (columns + SPAN - 1) / SPAN * SUBS, last_chunk = columns / CHUNK_ELEMENTS - 1;
    Chunk chunks[ITEMS];
    Eight inputs[MOST_INPUTS];
#define FETCH_CHUNKS(span)                                                                                             \
    [[unroll]] for (uint i = 0; i < ITEMS; i++)                                                                        \
        chunks[i] = chunk_fetch(item_rows[i], min(item_chunk(i, span), last_chunk));
#define FETCH_INPUTS(step)                                                                                             \
    [[unroll]] for (uint i = 0; i < MOST_INPUTS; i++)                                                                  \
        if (i < INPUTS)                                                                                                \
            inputs[i] = fetch_input(input_rows[i], step);
#define STORE(step, sub)                                                                                               \
    [[unroll]] for (uint i = 0; i < ITEMS; i++)                                                                        \
        store_chunk(chunks[i], i, (step) / SUBS, sub);                                                                 \
    [[unroll]] for (uint i = 0; i < MOST_INPUTS; i++)                                                                  \
        if (i < INPUTS)                                                                                                \
            store_input(inputs[i], i, step);
    FETCH_CHUNKS(0)
    FETCH_INPUTS(0)
    STORE(0, 0)
    barrier();
    for (uint first = 0; first < steps; first += SUBS)
        [[unroll]] for (uint sub = 0; sub < SUBS; sub++) {
            uint next = first + sub + 1;
            if (next < steps) {
                if (sub == SUBS - 1) {
                    FETCH_CHUNKS(first / SUBS + 1)
                }
                FETCH_INPUTS(next)
            }
            [[unroll]] for (uint k = 0; k < EIGHTS; k += 2) {
                Rows row_matrices[ROW_PARTS];
                [[unroll]] for (uint r = 0; r < ROW_PARTS; r++)
                    LOAD_ROWS(row_matrices[r], row_tile, (row_part + r * 16) * STRIDE + k, STRIDE);
                [[unroll]] for (uint t = 0; t < MOST_TOKEN_PARTS; t++)
                    if (t < TOKEN_PARTS) {
                        Tokens token_matrix;
                        LOAD_TOKENS(token_matrix, token_tile, (token_part + t * 16) * STRIDE + k, STRIDE);
                        [[unroll]] for (uint r = 0; r < ROW_PARTS; r++)
                            sums[r][t] = MULTIPLY_ADD(row_matrices[r], token_matrix, sums[r][t]);
                    }
            }
            barrier();
            if (next < steps) {
                STORE(next, (sub + 1) % SUBS)
            }
            barrier();
        }

#ifndef EXPERTS
    if (tile_first_row + TILE_ROWS <= rows && tile_tokens == TILE_TOKENS && uint64_t(bias) == 0 && accumulate == 0 &&
        into_stride % 4 == 0 && uint(uint64_t(into)) % 16 == 0) {
        Uvec4s fours = Uvec4s(uint64_t(into));
        [[unroll]] for (uint t = 0; t < MOST_TOKEN_PARTS; t++)
            [[unroll]] for (uint r = 0; r < ROW_PARTS; r++)
                if (t < TOKEN_PARTS)
                    STORE_SUMS(sums[r][t], fours.v,
                               ((tile_first + token_part + t * 16) * into_stride + tile_first_row + row_part + r * 16) / 4,
                               into_stride / 4);
        return;
    }
#endif
    [[unroll]] for (uint t = 0; t < MOST_TOKEN_PARTS; t++)
        [[unroll]] for (uint r = 0; r < ROW_PARTS; r++)
            if (t < TOKEN_PARTS)
                write_part(sums[r][t], row_part + r * 16, token_part + t * 16);
}
