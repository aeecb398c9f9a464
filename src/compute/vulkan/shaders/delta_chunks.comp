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
 * it solves (I + A) X = beta [v, d(i, start) k], so that X is [want, erase], and computes the outputs P want and
 * read = d(i, start) q - P erase. Decays are multiplied, never divided: whatever they are, nothing overflows. */
layout(constant_id = 2) const uint BY_CHANNEL = 0; /* decays are */

#define THREADS 64u
#define PARTS 4u                 /* of a key, side by side */
#define PAIRS (CHUNK / 2)        /* of columns of the triangles, which an invocation walks down */
#define MOST_ROWS 8u             /* at a time */
#define MOST_QUADS (256u / 4 / PARTS)

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

const uint ROWS = KEYS > 128 ? 4 : 8, QUADS = KEY_QUADS / PARTS, ASKED = ROWS * KEY_QUADS / THREADS;

shared vec4 queries[MOST_ROWS * 128 / 4], keys[MOST_ROWS * 128 / 4], decays[MOST_ROWS * 128 / 4];
shared vec2 sums[2 * MOST_ROWS * PARTS * PAIRS]; /* of the parts */
shared vec4 solving[CHUNK * CHUNK / 4];          /* A, column by column */
shared vec4 reaching[CHUNK * CHUNK / 4];         /* P, row by row */
shared float shares[CHUNK], head_decays[CHUNK];

/* The part of row i of P times X that four rows of X give. */
vec4 reach(vec4 sum, uint i, uint n, vec4 a, vec4 b, vec4 c, vec4 d)
{
    vec4 p = reaching[i * (CHUNK / 4) + n];
    return fma(vec4(p.w), d, fma(vec4(p.z), c, fma(vec4(p.y), b, fma(vec4(p.x), a, sum))));
}

uint thread, head, first, rows;
uint channel; /* the first of four that the invocation brings to shared memory */
uint keys_at; /* in a row */
vec4 asked_queries[4], asked_keys[4], asked_alphas[4], bias;

/* Requests some rows. In place of rows that a last chunk lacks, any will do, because their share is 0. */
void ask(uint top)
{
    if (channel >= key_size)
        return;
    [[unroll]] for (uint n = 0; n < ASKED; n++) {
        uint row = first + min(top + (n * THREADS + thread) / KEY_QUADS, rows - 1), at = row * channels + keys_at;
        asked_queries[n] = load_some(from, at, 4);
        asked_keys[n] = load_some(from, at + key_heads * key_size, 4);
        if (BY_CHANNEL != 0)
            asked_alphas[n] = load_some(alpha, (row * value_heads + head) * key_size + channel, 4);
    }
}

void place(uint top)
{
    [[unroll]] for (uint n = 0; n < ASKED; n++) {
        uint i = n * THREADS + thread;
        queries[i] = asked_queries[n];
        keys[i] = asked_keys[n];
        if (BY_CHANNEL != 0) {
            vec4 f = asked_alphas[n] + bias, four = vec4(1.0);
            if (top + i / KEY_QUADS < rows)
                [[unroll]] for (uint m = 0; m < 4; m++)
                    four[m] = decay_of(decay_kind, f[m], decay_rate.v[head], bound);
            decays[i] = four;
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
    uint value_quads = padded_values(value_size) / 4, block = (number * value_heads + head) * block_quads(value_size);

    channel = thread % KEY_QUADS * 4;
    keys_at = shared_head * key_size + channel;
    [[unroll]] for (uint n = 0; n < ASKED; n++)
        asked_queries[n] = asked_keys[n] = asked_alphas[n] = vec4(0.0);
    bias = BY_CHANNEL != 0 && channel < key_size ? load_some(step_bias, head * key_size + channel, 4) : vec4(0.0);
    ask(0);
    if (thread < CHUNK) {
        bool inside = thread < rows;
        uint at = (first + min(thread, rows - 1)) * gate_stride + gate;
        shares[thread] = inside ? sigmoid(beta.v[at]) : 0.0;
        head_decays[thread] = 1.0;
        if (BY_CHANNEL == 0 && inside)
            head_decays[thread] = decay_of(0, alpha.v[at] + step_bias.v[head], decay_rate.v[head], bound);
    }

    /* The keys of two columns, with what the rows since then left of them: parts of each key. */
    uint pair = thread % 8 + thread / 32 * 8, part = thread / 8 % PARTS, column = 2 * pair;
    vec4 even[MOST_QUADS], odd[MOST_QUADS];
    [[unroll]] for (uint n = 0; n < QUADS; n++)
        even[n] = odd[n] = vec4(0.0);
    vec4 left = vec4(1.0); /* since the chunk began; for the invocations that will solve columns of keys */
    for (uint top = 0; top < CHUNK; top += ROWS) {
        barrier();
        place(top);
        barrier();
        if (top + ROWS < CHUNK)
            ask(top + ROWS);
        if (thread < KEY_QUADS) {
            for (uint r = 0; r < ROWS; r++) {
                uint at = r * KEY_QUADS + thread, to = block + (top + r) * KEY_QUADS + thread;
                left *= BY_CHANNEL != 0 ? decays[at] : vec4(head_decays[top + r]);
                blocks.v[to] = left * keys[at] * shares[top + r];
                blocks.v[to + READ] = left * queries[at];
            }
        }
        for (uint r = 0; r < ROWS; r++) {
            uint row = top + r;
            vec4 even_key = vec4(0.0), odd_key = vec4(0.0), even_query = vec4(0.0), odd_query = vec4(0.0);
            if (row >= column) {
                vec4 decay = vec4(head_decays[row]);
                [[unroll]] for (uint n = 0; n < QUADS; n++) {
                    uint at = r * KEY_QUADS + n * PARTS + part;
                    vec4 key = keys[at], query = queries[at];
                    if (BY_CHANNEL != 0)
                        decay = decays[at];
                    even[n] = row == column ? key : even[n] * decay;
                    odd[n] = row == column + 1 ? key : odd[n] * decay;
                    even_key = fma(key, even[n], even_key);
                    odd_key = fma(key, odd[n], odd_key);
                    even_query = fma(query, even[n], even_query);
                    odd_query = fma(query, odd[n], odd_query);
                }
            }
            vec4 one = vec4(1.0);
            sums[(r * PARTS + part) * PAIRS + pair] = vec2(dot(even_key, one), dot(odd_key, one));
            sums[((ROWS + r) * PARTS + part) * PAIRS + pair] = vec2(dot(even_query, one), dot(odd_query, one));
        }
        barrier();
        for (uint i = thread; i < ROWS * PAIRS; i += THREADS) {
            uint row = top + i / PAIRS, at = i / PAIRS * PARTS * PAIRS + i % PAIRS, j = i % PAIRS * 2;
            vec2 with_key = vec2(0.0), with_query = vec2(0.0);
            [[unroll]] for (uint p = 0; p < PARTS; p++) {
                with_key += sums[at + p * PAIRS];
                with_query += sums[ROWS * PARTS * PAIRS + at + p * PAIRS];
            }
            with_key *= shares[row];
            solving[j * (CHUNK / 4) + row / 4][row % 4] = with_key.x;
            solving[(j + 1) * (CHUNK / 4) + row / 4][row % 4] = with_key.y;
            reaching[row * (CHUNK / 4) + j / 4][j % 4] = with_query.x;
            reaching[row * (CHUNK / 4) + j / 4][j % 4 + 1] = with_query.y;
        }
    }
    [[unroll]] for (uint n = 0; n < QUADS; n++) {
        uint to = block + WRITE + column * KEY_QUADS + n * PARTS + part;
        blocks.v[to] = even[n];
        blocks.v[to + KEY_QUADS] = odd[n];
    }
    if (thread < KEY_QUADS)
        blocks.v[block + FADE + thread] = left;
    barrier();

    /* An invocation solves four columns. Those of keys have their right side where it wrote it above. */
    for (uint quad = thread; quad < KEY_QUADS + value_quads; quad += THREADS) {
        bool is_key = quad < KEY_QUADS;
        uint column = is_key ? 0 : (quad - KEY_QUADS) * 4, count = left_of(value_size, column);
        uint to = block + (is_key ? quad : WANT + quad - KEY_QUADS), stride = is_key ? KEY_QUADS : value_quads;
        uint values = 2 * key_heads * key_size + head * value_size + column;
        vec4 x[CHUNK];
        if (is_key)
            [[unroll]] for (uint i = 0; i < CHUNK; i++)
                x[i] = blocks.v[to + i * stride];
        else
            [[unroll]] for (uint i = 0; i < CHUNK; i++)
                x[i] = load_some(from, (first + min(i, rows - 1)) * channels + values, count) * shares[i];
        [[unroll]] for (uint j = 0; j + 1 < CHUNK; j++)
            [[unroll]] for (uint n = (j + 1) / 4; n < CHUNK / 4; n++) {
                vec4 a = solving[j * (CHUNK / 4) + n];
                [[unroll]] for (uint m = 0; m < 4; m++)
                    if (4 * n + m > j)
                        x[4 * n + m] = fma(vec4(-a[m]), x[j], x[4 * n + m]);
            }
        [[unroll]] for (uint i = 0; i < CHUNK; i++)
            blocks.v[to + i * stride] = x[i];
        vec4 next = is_key ? blocks.v[to + READ] : vec4(0.0);
        for (uint i = 0; i < CHUNK; i++) {
            vec4 read = next, sum = vec4(0.0);
            if (is_key)
                next = blocks.v[to + READ + min(i + 1, CHUNK - 1) * stride];
            [[unroll]] for (uint n = 0; n < CHUNK / 8; n++)
                sum = reach(sum, i, n, x[4 * n], x[4 * n + 1], x[4 * n + 2], x[4 * n + 3]);
            if (i >= CHUNK / 2)
                [[unroll]] for (uint n = CHUNK / 8; n < CHUNK / 4; n++)
                    sum = reach(sum, i, n, x[4 * n], x[4 * n + 1], x[4 * n + 2], x[4 * n + 3]);
            if (is_key)
                blocks.v[to + READ + i * stride] = read - sum;
            else if (i < rows)
                store_some(into, ((first + i) * value_heads + head) * value_size + column, sum, count);
        }
    }
}
