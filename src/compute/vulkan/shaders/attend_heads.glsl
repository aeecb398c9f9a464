/* What attend_few does of heads.comp with HEADS: the queries of a tile and, in the span of the sequence's row, the row's key
 * and value, one after another in the memory of the queries. */
#define TEAMS 2
#define HEADS_EACH ((QUERIES + 3) / 2)
#define MOST_EACH 5
#define MOST_STEPS 4
#define KEY_HEAD QUERIES
#define VALUE_HEAD (QUERIES + 1)
#define HEAD(head, i) queries[((head) * KEY_SIZE + (i)) / 2][((head) * KEY_SIZE + (i)) % 2]
#define TEAM_SUM(i) weights[(i) / 4][(i) % 4]
#define NORM(head, i) ((head) < KEY_HEAD ? query_norms[i] : key_norms[i])

const uint STEPS = ((KEY_SIZE > VALUE_SIZE ? KEY_SIZE : VALUE_SIZE) + 63) / 64;
const uint TURNED_FROM = 0;
const bool CENTRED = false;
const bool BACK = false;
float epsilon;

/* The team's heads: where each is, its size, how many elements are normed and pairs turned. */
FreshFloats head_source[MOST_EACH];
uint head_sizes[MOST_EACH], head_normed[MOST_EACH], head_pairs[MOST_EACH];
bool head_weighted[MOST_EACH];
float query_norms[MOST_STEPS], key_norms[MOST_STEPS], query_scale;

#include "heads.glsl"

FreshFloats floats_at(FreshFloats floats, uint first)
{
    return FreshFloats(uint64_t(floats) + uint64_t(first) * 4);
}

/* What does not depend on the projections. makes_row: also the key and the value. */
void prepare_heads(uint row, uint kv_head, uint first_query, uint last_query, bool makes_row)
{
    uint lane = team_lane(), size = made.key_size, rotary = made.rotary;
    Floats query_norm = made.query_norm, key_norm = made.key_norm, table = made.table, scales = made.query_scales;
    epsilon = made.epsilon;
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++) {
        uint head = team_head(n), of_kv = kv_head * (heads / kv_heads) + min(first_query + head, last_query);
        if (head < KEY_HEAD) {
            head_source[n] = floats_at(query, row * made.query_stride + of_kv * made.query_head_stride);
            head_sizes[n] = size;
            head_weighted[n] = uint64_t(query_norm) != 0;
        } else if (head == KEY_HEAD) {
            head_source[n] = floats_at(made.key, row * made.key_stride + kv_head * size);
            head_sizes[n] = makes_row ? size : 0;
            head_weighted[n] = uint64_t(key_norm) != 0;
        } else {
            head_source[n] = floats_at(made.value, row * made.value_stride + kv_head * made.value_size);
            head_sizes[n] = makes_row && head == VALUE_HEAD ? made.value_size : 0;
            head_weighted[n] = false;
        }
        head_normed[n] = head_weighted[n] || (VALUE_NORM && head == VALUE_HEAD) ? head_sizes[n] : 0;
        head_pairs[n] = head <= KEY_HEAD && head_sizes[n] > 0 ? rotary / 2 : 0;
    }
    [[unroll]] for (uint i = 0; i < STEPS; i++) {
        query_norms[i] = uint64_t(query_norm) != 0 && lane + i * TEAM < size ? query_norm.v[lane + i * TEAM] : 1.0;
        key_norms[i] = uint64_t(key_norm) != 0 && lane + i * TEAM < size ? key_norm.v[lane + i * TEAM] : 1.0;
    }
    [[unroll]] for (uint i = 0; i < (STEPS + 1) / 2; i++) {
        uint pair = lane + i * TEAM, at = row * rotary + 2 * pair;
        if (pair < rotary / 2)
            angles[i] = vec2(table.v[at], table.v[at + 1]);
    }
    query_scale = uint64_t(scales) != 0 ? scales.v[row] : 1.0;
}

void make_heads()
{
    uint lane = team_lane();
    float raw[MOST_EACH * MOST_STEPS];
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++)
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            raw[n * MOST_STEPS + i] = lane + i * TEAM < head_sizes[n] ? head_source[n].v[lane + i * TEAM] : 0.0;
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++)
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            if (lane + i * TEAM < head_sizes[n])
                HEAD(team_head(n), lane + i * TEAM) = raw[n * MOST_STEPS + i];
    barrier();
    if (NORMS && !NORM_AFTER_ROPE)
        norm_heads(head_normed, head_weighted);
    if (TURNS)
        turn_heads(head_pairs);
    if (NORMS && NORM_AFTER_ROPE)
        norm_heads(head_normed, head_weighted);
    if (SCALES) {
        [[unroll]] for (uint n = 0; n < HEADS_EACH; n++)
            [[unroll]] for (uint i = 0; i < STEPS; i++)
                if (team_head(n) < KEY_HEAD && lane + i * TEAM < head_sizes[n])
                    HEAD(team_head(n), lane + i * TEAM) *= query_scale;
        barrier();
    }
}

/* A piece of the row's key or value, as if it had been asked for; and stores it. */
void piece_make(uint64_t region, uint capacity, uint row_elements, uint index, uint first, uint elements, uint row,
                uint head)
{
    uint across = elements / PER_READ, first_quad = first / PER_READ;
    CACHE_QUADS quads = cache_quads(region, row_elements, index + row);
#if QUANTS
    CACHE_SCALES scales = cache_scales(region, capacity, row_elements, index + row);
#endif
    /* Of the reads of a row, a thread has one at most. */
    uint column = (gl_LocalInvocationID.x - row * across) % THREADS, scale = 0;
    uvec4 bits = uvec4(0);
    if (column < across) {
        bits = packed(head, first + column * PER_READ, scale);
        quads.v[first_quad + column] = bits;
#if QUANTS
        scales.v[(first + column * PER_READ) / 32] = uint16_t(scale);
#endif
    }
    [[unroll]] for (uint i = 0; i < READS; i++)
        if ((gl_LocalInvocationID.x + i * THREADS) / across == row) {
            asked[i] = bits;
#if QUANTS
            asked_scales[i] = scale;
#endif
        }
}
