#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"
#include "decay.glsl"
#include "delta.glsl"
#include "delta_chunks.glsl"

/* What the rows of a chunk do to each other (delta_chunks.glsl). A work group takes one value head of one chunk. With
 * d(i, j) what rows j + 1 to i leave of each channel, and the triangles
 *   A[i][j] = beta_i sum(k_i d(i, j) k_j) for j < i,   P[i][j] = sum(q_i d(i, j) k_j) for j <= i,
 * it inverts I + A. With X = (I + A)^-1 beta [v, d(i, start) k] = [want, erase] come the outputs P want and
 * read = d(i, start) q - P erase. Decays are multiplied, never divided: whatever they are, nothing overflows.
 *
 * Bounds of loops over registers are literals, because an array whose loop is not unrolled stays in memory. */
layout(constant_id = 2) const uint BY_CHANNEL = 0; /* decays are */

#define THREADS 128u
#define SLAB 16u  /* quads of a row at a time */
#define PITCH 9u  /* of a triangle's columns, in quads; odd, so that they begin in different banks */
#define PARTS 8u  /* of a slab, side by side */
#define PAIRS (CHUNK / 2) /* of columns */
#define ROW_QUADS (CHUNK / 4)

layout(local_size_x = THREADS) in;
layout(push_constant) uniform Push
{
    Floats from; /* queries, keys and values of a row */
    Floats beta;
    Floats alpha;
    Floats step_bias;
    Floats decay_rate;
    Floats into;
    Vec4s blocks;
    Sequences sequences;
    uint sequence_count, key_heads, value_heads, key_size, value_size, channels, gate_stride, gate_group, tiled;
    uint decay_kind;
    float bound;
};

/* Triangles are stored column by column. */
shared vec4 triangle[CHUNK * PITCH]; /* A; later P times the inverse */
shared vec4 reaching[CHUNK * PITCH]; /* P */
shared vec4 inverse[CHUNK * PITCH];
shared vec4 slabs[2 * CHUNK * SLAB];
shared vec4 shares[ROW_QUADS], head_decays[ROW_QUADS], since_start[ROW_QUADS];
shared float until_end[CHUNK];

uint thread, head, first, rows, block;
uint keys_at, values_at; /* in a row */
uint quad, four;         /* an invocation brings this quad of a slab, of rows 4 * four to 4 * four + 3 */

/* Shared memory serves twice as many invocations at a time if each reads what a neighbour reads, the one beside it or
 * the one after that. This is why numbers of invocations are taken apart as they are. A slab's rows are stored so that
 * rows 4 apart have a quad in different banks. */
uint slab_place(uint row, uint at)
{
    return row * SLAB + (at ^ (row / 4 % 2 * 4 + row / 8 % 4));
}

/* In place of a row that a last chunk lacks, any will do, because its share is 0. */
uint row_at(uint row)
{
    return (first + min(row, rows - 1)) * channels;
}

vec4 load_key(uint row, uint key_quad)
{
    uint channel = 4 * key_quad;
    return load_some(from, row_at(row) + keys_at + key_heads * key_size + channel, left_of(key_size, channel));
}

vec4 load_query(uint row, uint key_quad)
{
    return load_some(from, row_at(row) + keys_at + 4 * key_quad, left_of(key_size, 4 * key_quad));
}

/* ---- triangles, with decays of a head ---------------------------------------------------------------------------- */

/* Products of decays, where products of keys will be. */
void multiply_decays()
{
    if (thread > 2 * CHUNK)
        return;
    uint column = thread < 2 * CHUNK ? thread % CHUNK : CHUNK;
    float decay = thread < 2 * CHUNK ? 0.0 : 1.0;
    for (uint n = 0; n < ROW_QUADS; n++) {
        vec4 some = head_decays[n], products;
        [[unroll]] for (uint m = 0; m < 4; m++) {
            decay = 4 * n + m == column ? 1.0 : decay * some[m];
            products[m] = decay;
        }
        if (thread < CHUNK)
            triangle[column * PITCH + n] = products;
        else if (thread < 2 * CHUNK)
            reaching[column * PITCH + n] = products;
        else
            since_start[n] = products;
    }
    if (thread < CHUNK)
        until_end[column] = decay;
}

float add_products(float sum, vec4 a, vec4 b)
{
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

/* An invocation has four columns of four rows of one of the triangles. Rows of a slab are keys, then queries. */
void multiply_keys()
{
    uint down = thread % 2 + thread / 4 % 4 * 2 + thread / 64 * 8, across = thread / 2 % 2 + thread / 16 % 4 * 2;
    vec4 keys[4], queries[4], sums[4];
    [[unroll]] for (uint n = 0; n < 4; n++) {
        keys[n] = load_key(4 * four + n, quad);
        queries[n] = load_query(4 * four + n, quad);
        sums[n] = vec4(0.0);
    }
    multiply_decays();
    for (uint top = 0; top < KEY_QUADS; top += SLAB) {
        barrier();
        [[unroll]] for (uint n = 0; n < 4; n++) {
            slabs[slab_place(4 * four + n, quad)] = keys[n];
            slabs[slab_place(CHUNK + 4 * four + n, quad)] = queries[n];
            blocks.v[block + WRITE + (4 * four + n) * KEY_QUADS + top + quad] = keys[n] * until_end[4 * four + n];
        }
        barrier();
        if (top + SLAB < KEY_QUADS)
            [[unroll]] for (uint n = 0; n < 4; n++) {
                keys[n] = load_key(4 * four + n, top + SLAB + quad);
                queries[n] = load_query(4 * four + n, top + SLAB + quad);
            }
        for (uint at = 0; at < SLAB; at++) {
            vec4 left[4], right[4];
            [[unroll]] for (uint n = 0; n < 4; n++) {
                left[n] = slabs[slab_place(4 * down + n, at)];
                right[n] = slabs[slab_place(4 * across + n, at)];
            }
            [[unroll]] for (uint n = 0; n < 4; n++)
                [[unroll]] for (uint r = 0; r < 4; r++)
                    sums[n][r] = add_products(sums[n][r], left[r], right[n]);
        }
    }
    [[unroll]] for (uint n = 0; n < 4; n++) {
        uint at = (4 * across + n) * PITCH + down % ROW_QUADS;
        if (down < ROW_QUADS)
            triangle[at] *= sums[n] * shares[down];
        else
            reaching[at] *= sums[n];
    }
    if (thread < KEY_QUADS)
        blocks.v[block + FADE + thread] = vec4(since_start[ROW_QUADS - 1].w);
}

/* ---- triangles, with decays of channels -------------------------------------------------------------------------- */

#define STEP 8u               /* rows in shared memory at a time */
#define QUERIES (STEP * SLAB) /* places in slabs */
#define DECAYS (2 * STEP * SLAB)
#define SUMS (3 * STEP * SLAB)

vec4 asked_key, asked_query, asked_alpha;

/* Of STEP rows, an invocation brings one quad. */
void ask(uint top, uint row)
{
    asked_key = load_key(row, top + quad);
    asked_query = load_query(row, top + quad);
    uint channel = 4 * (top + quad), at = ((first + min(row, rows - 1)) * value_heads + head) * key_size + channel;
    asked_alpha = load_some(alpha, at, left_of(key_size, channel));
}

/* An invocation walks down from two columns, with a part of the keys and what the rows since then left of it. */
void walk_keys()
{
    uint part = thread % 2 + thread / 4 % 4 * 2, pair = thread / 2 % 2 + thread / 16 * 2, column = 2 * pair;
    for (uint top = 0; top < KEY_QUADS; top += SLAB) {
        uint channel = 4 * (top + quad);
        vec4 bias = load_some(step_bias, head * key_size + channel, left_of(key_size, channel)), left = vec4(1.0);
        vec4 even[2], odd[2];
        [[unroll]] for (uint n = 0; n < 2; n++)
            even[n] = odd[n] = vec4(0.0);
        ask(top, four);
        for (uint row = 0; row < CHUNK; row++) {
            if (row % STEP == 0) {
                barrier();
                uint at = four * SLAB + quad;
                slabs[at] = asked_key;
                slabs[QUERIES + at] = asked_query;
                vec4 decay = vec4(1.0);
                if (row + four < rows)
                    [[unroll]] for (uint m = 0; m < 4; m++)
                        decay[m] = decay_of(decay_kind, asked_alpha[m] + bias[m], decay_rate.v[head], bound);
                slabs[DECAYS + at] = decay;
                barrier();
                if (row + STEP < CHUNK)
                    ask(top, row + STEP + four);
            }
            uint from_row = row % STEP * SLAB;
            left *= slabs[DECAYS + from_row + quad];
            if (row / 4 == four) {
                uint to = block + row * KEY_QUADS + top + quad;
                blocks.v[to] = left * slabs[from_row + quad] * shares[row / 4][row % 4];
                blocks.v[to + READ] = left * slabs[QUERIES + from_row + quad];
            }
            vec4 sums = vec4(0.0);
            if (row >= column)
                [[unroll]] for (uint n = 0; n < 2; n++) {
                    uint at = from_row + n * PARTS + part;
                    vec4 key = slabs[at], query = slabs[QUERIES + at], decay = slabs[DECAYS + at];
                    even[n] = row == column ? key : even[n] * decay;
                    odd[n] = row == column + 1 ? key : odd[n] * decay;
                    sums.x = add_products(sums.x, key, even[n]);
                    sums.y = add_products(sums.y, key, odd[n]);
                    sums.z = add_products(sums.z, query, even[n]);
                    sums.w = add_products(sums.w, query, odd[n]);
                }
            slabs[SUMS + (row % 4 * PARTS + part) * PAIRS + pair] = sums;
            if (row % 4 < 3)
                continue;
            barrier();
            if (thread < 4 * PAIRS) {
                uint n = thread / PAIRS, to = 2 * (thread % PAIRS) * PITCH + row / 4;
                vec4 all = vec4(0.0);
                [[unroll]] for (uint p = 0; p < PARTS; p++)
                    all += slabs[SUMS + (n * PARTS + p) * PAIRS + thread % PAIRS];
                all.xy *= shares[row / 4][n];
                if (top > 0)
                    all += vec4(triangle[to][n], triangle[to + PITCH][n], reaching[to][n], reaching[to + PITCH][n]);
                triangle[to][n] = all.x;
                triangle[to + PITCH][n] = all.y;
                reaching[to][n] = all.z;
                reaching[to + PITCH][n] = all.w;
            }
            barrier();
        }
        [[unroll]] for (uint n = 0; n < 2; n++) {
            uint to = block + WRITE + column * KEY_QUADS + top + n * PARTS + part;
            blocks.v[to] = even[n];
            blocks.v[to + KEY_QUADS] = odd[n];
        }
        if (four == 0)
            blocks.v[block + FADE + top + quad] = left;
    }
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

/* An invocation computes one column of the inverse. */
void invert()
{
    float x[CHUNK];
    [[unroll]] for (uint i = 0; i < CHUNK; i++)
        x[i] = i == thread ? 1.0 : 0.0;
    [[unroll]] for (uint n = 0; n < (CHUNK - 1) * ROW_QUADS; n++) {
        uint j = n / ROW_QUADS, i = n % ROW_QUADS * 4;
        vec4 a = triangle[j * PITCH + i / 4];
        x[i] = i > j ? fma(-a.x, x[j], x[i]) : x[i];
        x[i + 1] = i + 1 > j ? fma(-a.y, x[j], x[i + 1]) : x[i + 1];
        x[i + 2] = i + 2 > j ? fma(-a.z, x[j], x[i + 2]) : x[i + 2];
        x[i + 3] = i + 3 > j ? fma(-a.w, x[j], x[i + 3]) : x[i + 3];
    }
    [[unroll]] for (uint n = 0; n < ROW_QUADS; n++)
        inverse[thread * PITCH + n] = vec4(x[4 * n], x[4 * n + 1], x[4 * n + 2], x[4 * n + 3]);
}

/* P times the inverse: an invocation has eight rows of a column. */
void multiply_triangles()
{
    uint column = thread % CHUNK, eight = thread / CHUNK;
    vec4 low = vec4(0.0), high = vec4(0.0);
    for (uint n = 0; n < 2 * eight + 2; n++) {
        vec4 some = inverse[column * PITCH + n];
        [[unroll]] for (uint m = 0; m < 4; m++) {
            uint at = (4 * n + m) * PITCH + 2 * eight;
            low = fma(reaching[at], vec4(some[m]), low);
            high = fma(reaching[at + 1], vec4(some[m]), high);
        }
    }
    triangle[column * PITCH + 2 * eight] = low;
    triangle[column * PITCH + 2 * eight + 1] = high;
}

/* Slabs of right sides: those of keys, then those of values. */
struct Slab
{
    bool is_key;
    uint quad, count; /* the invocation's in the row of a key or value, and how many floats are there */
};

Slab slab_of(uint number)
{
    bool is_key = number < KEY_QUADS / SLAB;
    uint at = (is_key ? number : number - KEY_QUADS / SLAB) * SLAB + quad;
    return Slab(is_key, at, left_of(is_key ? key_size : value_size, 4 * at));
}

vec4 right_side(Slab slab, uint row)
{
    float share = shares[row / 4][row % 4];
    if (!slab.is_key)
        return share * load_some(from, row_at(row) + values_at + 4 * slab.quad, slab.count);
    if (BY_CHANNEL != 0)
        return blocks.v[block + row * KEY_QUADS + slab.quad];
    return share * since_start[row / 4][row % 4] * load_key(row, slab.quad);
}

void store_row(Slab slab, uint row, vec4 solution, vec4 reach)
{
    uint value_quads = padded_values(value_size) / 4;
    if (slab.is_key) {
        uint to = block + row * KEY_QUADS + slab.quad;
        vec4 query = BY_CHANNEL != 0 ? blocks.v[to + READ] : since_start[row / 4][row % 4] * load_query(row, slab.quad);
        blocks.v[to] = solution;
        blocks.v[to + READ] = query - reach;
    } else if (slab.quad < value_quads) {
        blocks.v[block + WANT + row * value_quads + slab.quad] = solution;
        if (row < rows)
            store_some(into, ((first + row) * value_heads + head) * value_size + 4 * slab.quad, reach, slab.count);
    }
}

/* Two slabs at a time. An invocation has its quads of its four rows of both products. */
void solve()
{
    uint count = KEY_QUADS / SLAB + (padded_values(value_size) / 4 + SLAB - 1) / SLAB;
    for (uint number = 0; number < count; number += 2) {
        Slab slab = slab_of(number), other = slab_of(number + 1);
        barrier();
        [[unroll]] for (uint n = 0; n < 4; n++) {
            uint row = 4 * four + n;
            slabs[slab_place(row, quad)] = right_side(slab, row);
            slabs[slab_place(CHUNK + row, quad)] = right_side(other, row);
        }
        barrier();
        vec4 solution[4], other_solution[4], reach[4], other_reach[4];
        [[unroll]] for (uint n = 0; n < 4; n++)
            solution[n] = other_solution[n] = reach[n] = other_reach[n] = vec4(0.0);
        for (uint n = 0; n <= four; n++)
            [[unroll]] for (uint m = 0; m < 4; m++) {
                uint row = 4 * n + m;
                vec4 some = slabs[slab_place(row, quad)], others = slabs[slab_place(CHUNK + row, quad)];
                vec4 solve = inverse[row * PITCH + four], through = triangle[row * PITCH + four];
                [[unroll]] for (uint r = 0; r < 4; r++) {
                    solution[r] = fma(vec4(solve[r]), some, solution[r]);
                    other_solution[r] = fma(vec4(solve[r]), others, other_solution[r]);
                    reach[r] = fma(vec4(through[r]), some, reach[r]);
                    other_reach[r] = fma(vec4(through[r]), others, other_reach[r]);
                }
            }
        [[unroll]] for (uint r = 0; r < 4; r++) {
            store_row(slab, 4 * four + r, solution[r], reach[r]);
            store_row(other, 4 * four + r, other_solution[r], other_reach[r]);
        }
    }
}

void main()
{
    thread = gl_LocalInvocationID.x;
    head = gl_WorkGroupID.x;
    uint number = gl_WorkGroupID.y, s = 0;
    Sequence sequence = sequences.v[0];
    while (s + 1 < sequence_count && number >= sequences.v[s + 1].block)
        sequence = sequences.v[++s];
    uint before = (number - sequence.block) * CHUNK;
    first = sequence.first_row + before;
    rows = min(sequence.rows - before, CHUNK);
    uint shared_head = tiled != 0 ? head % key_heads : head / (value_heads / key_heads);
    uint gate = gate_group > 0 ? head / gate_group * 2 * gate_group + head % gate_group : head;
    block = (number * value_heads + head) * block_quads(value_size);
    keys_at = shared_head * key_size;
    values_at = 2 * key_heads * key_size + head * value_size;
    quad = thread / 2 % SLAB;
    four = thread % 2 + thread / (2 * SLAB) * 2;

    if (thread < CHUNK) {
        bool inside = thread < rows;
        uint at = (first + min(thread, rows - 1)) * gate_stride + gate;
        shares[thread / 4][thread % 4] = inside ? sigmoid(beta.v[at]) : 0.0;
        if (BY_CHANNEL == 0)
            head_decays[thread / 4][thread % 4] =
                inside ? decay_of(0, alpha.v[at] + step_bias.v[head], decay_rate.v[head], bound) : 1.0;
    }
    barrier();
    if (BY_CHANNEL != 0)
        walk_keys();
    else
        multiply_keys();
    barrier();
    if (thread < CHUNK)
        invert();
    barrier();
    multiply_triangles();
    solve();
}
