/* The steps between the projections of an attention layer: norms of heads, rope, the cache, attention. */
#include "compute/vulkan/gpu_private.h"

/* Positions per work group, for few queries. */
#define SPAN 128u

/* The last work group of a tile merges the states of its spans if they are no more than these (attend_last.glsl has
 * room for as many), which it does in the time of a launch. With 32 spans, it takes 4 us longer than that on an H200.
 */
#define MERGED_SPANS 8u
#define MERGED_BYTES (36u << 10)

/* With a->makes: the largest size, since a tile's queries, a key and a value fit in QUERY_FLOATS of attend_few.comp;
 * TEAM of heads.glsl; and the most work groups, since each of a tile makes its queries anew: 128 of them lose more
 * than a launch takes. */
#define MADE_SIZE 256u
#define HEADS_TEAM 64u
#define MADE_GROUPS 64u

/* For prompts with heads that no other kernel takes, a work group of attend_few walks all positions. */
#define ALL_POSITIONS 0x40000000u

/* Sequences with more rows in a batch are prompts. */
#define FEW_ROWS GPU_VECTOR_TOKENS

/* The largest size for attend_many and attend_cooperative. */
#define MANY_SIZE 256u

/* The largest sizes for attend_cooperative_latent. */
#define LATENT_KEY_SIZE 576u
#define LATENT_VALUE_SIZE 512u

/* Queries per tile, for attend_cooperative_latent and for the others. */
#define LATENT_QUERIES 32u
#define MANY_QUERIES 64u

bool gpu_attention_supports(enum tensor_type type, uint32_t key_size, uint32_t value_size)
{
    uint32_t multiple = type == TENSOR_Q8_0 || type == TENSOR_Q4_0 ? 32 : 8;
    return (type == TENSOR_F32 || type == TENSOR_F16 || type == TENSOR_BF16 || multiple == 32) && key_size > 0 &&
           value_size > 0 && key_size % multiple == 0 && value_size % multiple == 0 &&
           MAX(key_size, value_size) <= ATTENTION_MAX_SIZE;
}

/* The kernels for a type of cache; the last two are KERNEL_COUNT if there is none. */
struct attend_kernels {
    enum gpu_kernel few, many, cooperative, latent;
};

static struct attend_kernels kernels_of(enum tensor_type type)
{
#define FLOATS(name)                                                                                                   \
    ((struct attend_kernels){KERNEL_attend_few_##name, KERNEL_attend_many_##name, KERNEL_COUNT, KERNEL_COUNT})
#define HALVES(name)                                                                                                   \
    ((struct attend_kernels){KERNEL_attend_few_##name, KERNEL_attend_many_##name, KERNEL_attend_cooperative_##name,    \
                             KERNEL_attend_cooperative_latent_##name})
    switch (type) {
    case TENSOR_F32:
        return FLOATS(f32);
    case TENSOR_BF16:
        return FLOATS(bf16);
    case TENSOR_Q8_0:
        return HALVES(q8_0);
    case TENSOR_Q4_0:
        return HALVES(q4_0);
    default:
        return HALVES(f16);
    }
#undef FLOATS
#undef HALVES
}

uint32_t gpu_row_elements(enum tensor_type type, uint32_t position_bytes)
{
    switch (type) {
    case TENSOR_F32:
        return position_bytes / 4;
    case TENSOR_Q8_0:
        return position_bytes / 34 * 32;
    case TENSOR_Q4_0:
        return position_bytes / 18 * 32;
    default:
        return position_bytes / 2;
    }
}

/* As struct Sequence of cache.glsl. */
struct sequence_entry {
    uint64_t keys, values, blocks;
    uint32_t first_row, rows, first_position, capacity;
};

/* The table of the sequences with few rows, of those with many, or of both. */
static uint64_t sequence_table(struct gpu *gpu, struct gpu_range cache, const struct gpu_sequence *sequences,
                               uint32_t count, bool few, bool many, uint32_t *taken)
{
    struct sequence_entry entries[GPU_MAX_SEQUENCES];
    uint64_t address = gpu_address(cache);
    *taken = 0;
    if (count > GPU_MAX_SEQUENCES) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u sequences in a batch; expected at most %u", count,
                         GPU_MAX_SEQUENCES);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct gpu_sequence *s = &sequences[i];
        if (!(s->rows <= FEW_ROWS ? few : many))
            continue;
        if (s->capacity == 0 || s->capacity % ATTENTION_BLOCK || (address + s->keys) % 16 ||
            (address + s->values) % 16) {
            gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: a cache of %u positions at %llu and %llu", s->capacity,
                             (unsigned long long)s->keys, (unsigned long long)s->values);
            return 0;
        }
        entries[(*taken)++] = (struct sequence_entry){.keys = address + s->keys,
                                                      .values = address + s->values,
                                                      .blocks = gpu_address(s->blocks),
                                                      .first_row = s->first_row,
                                                      .rows = s->rows,
                                                      .first_position = s->first_position,
                                                      .capacity = s->capacity};
    }
    return *taken ? gpu_table(gpu, entries, *taken * sizeof *entries) : 0;
}

uint64_t gpu_sequence_table(struct gpu *gpu, struct gpu_range cache, const struct gpu_sequence *sequences,
                            uint32_t count)
{
    uint32_t taken;
    return sequence_table(gpu, cache, sequences, count, true, true, &taken);
}

/* ---- heads ------------------------------------------------------------------------------------------------------- */

void gpu_heads(struct gpu *gpu, const struct gpu_heads *heads)
{
    uint32_t kv_heads = heads->key.buffer ? heads->kv_heads : 0, sequences = 0;
    uint64_t table = 0;
    if ((kv_heads && !gpu_attention_supports(heads->type, heads->key_size, heads->value_size)) ||
        MAX(heads->key_size, heads->value_size) > ATTENTION_MAX_SIZE || heads->normed > heads->key_size ||
        (uint64_t)heads->turned_from + heads->rotary > heads->key_size || heads->rows > GPU_MAX_GROUPS ||
        heads->heads > UINT16_MAX / 3 || heads->kv_heads > UINT16_MAX / 3) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED,
                         "GPU: %u rows of %u heads of %u and %u elements, %u of them turned", heads->rows, heads->heads,
                         heads->key_size, heads->value_size, heads->rotary);
        return;
    }
    if (kv_heads) {
        table = sequence_table(gpu, heads->cache, heads->sequences, heads->sequence_count, true, true, &sequences);
        if (!table)
            return;
    }
    const uint32_t slots = heads->heads + kv_heads * (heads->values_in_keys ? 1 : 2);
    const bool chained = (uint64_t)heads->rows * slots <= GPU_CHAIN_GROUPS;
    const struct chain_link link = chained ? gpu_chain(gpu) : (struct chain_link){0};
    const struct {
        uint64_t query, key, value, query_norm, key_norm, query_scales, table, out, sequences, progress;
        uint32_t query_stride, query_head_stride, key_stride, value_stride;
        uint32_t sizes, counts, rotary_and_sequences;
        float epsilon;
        uint32_t key_row, value_row, out_head_stride, awaited;
    } push = {gpu_address(heads->query),
              gpu_address(heads->key),
              gpu_address(heads->value),
              gpu_address(heads->query_norm),
              gpu_address(heads->key_norm),
              gpu_address(heads->query_scales),
              gpu_address(heads->table),
              gpu_address(heads->out),
              table,
              link.progress,
              heads->query_stride,
              heads->query_head_stride,
              heads->key_stride,
              heads->value_stride,
              heads->key_size | heads->value_size << 16,
              heads->heads | kv_heads << 16,
              heads->rotary | sequences << 16,
              heads->epsilon,
              gpu_row_elements(heads->type, heads->key_position_bytes),
              gpu_row_elements(heads->type, heads->value_position_bytes),
              heads->out_head_stride ? heads->out_head_stride : heads->key_size,
              link.awaited};
    const uint32_t constants[] = {(uint32_t)heads->type,
                                  heads->layout == ROPE_NORMAL,
                                  heads->norm_after_rope,
                                  heads->value_norm,
                                  (MAX(heads->key_size, heads->value_size) + 63) / 64,
                                  heads->normed,
                                  heads->turned_from,
                                  heads->plain_norm,
                                  heads->centred,
                                  heads->norm_each,
                                  heads->back,
                                  heads->ring};
    (chained ? gpu_launch_chained : gpu_launch)(gpu, KERNEL_heads, constants, COUNT_OF(constants), &push, sizeof push,
                                                heads->rows, slots, 1);
}

void gpu_spread(struct gpu *gpu, const struct gpu_spread *spread)
{
    if (spread->rows > GPU_MAX_GROUPS || spread->heads > GPU_MAX_GROUPS) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u rows of %u heads", spread->rows, spread->heads);
        return;
    }
    const struct {
        uint64_t projected, latents, key, value;
        uint32_t heads, key_size, value_size, rotary, latent_size;
    } push = {gpu_address(spread->projected),
              gpu_address(spread->latents),
              gpu_address(spread->key),
              gpu_address(spread->value),
              spread->heads,
              spread->key_size,
              spread->value_size,
              spread->rotary,
              spread->latent_size};
    gpu_launch(gpu, KERNEL_spread, NULL, 0, &push, sizeof push, spread->rows, spread->heads, 1);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

static uint32_t first_seen(const struct gpu_attention *a, uint32_t position)
{
    uint32_t first = a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
    return a->chunk > 0 ? MAX(first, position - position % a->chunk) : first;
}

/* The most spans of any sequence, among those with few rows or among those with many. */
static uint32_t most_spans(const struct gpu_attention *a, bool few, uint32_t span)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < a->sequence_count; i++) {
        const struct gpu_sequence *s = &a->sequences[i];
        if (s->rows == 0 || (s->rows <= FEW_ROWS) != few)
            continue;
        uint32_t last = s->first_position + s->rows - 1;
        most = MAX(most, last / span - first_seen(a, s->first_position) / span + 1);
    }
    return most;
}

uint64_t gpu_attention_scratch_bytes(uint32_t rows, uint32_t heads, uint32_t value_size, uint32_t positions)
{
    uint64_t spans = (uint64_t)positions / SPAN + 2;
    return rows * spans * heads * (value_size + 2) * sizeof(float);
}

/* Queries per tile: all, up to the number that the kernel's registers hold; fewer if cores would have no work. Changes
 * no bit. */
static uint32_t few_queries(const struct gpu *gpu, const struct gpu_attention *a, uint32_t rows, uint32_t spans)
{
    uint32_t group = a->heads / a->kv_heads, most = MAX(a->key_size, a->value_size) > 256 ? 4 : 8, queries = 1;
    while (queries < most && queries < rows * group)
        queries *= 2;
    while (queries > 1 && 2 * rows * a->heads / queries * spans <= gpu->info.cores)
        queries /= 2;
    return queries;
}

/* states_bytes: the scratch for the states of this many rows. scratch_room: the scratch available. */
static uint64_t states_bytes(const struct gpu_attention *a, uint32_t rows, uint32_t spans)
{
    return (uint64_t)rows * a->heads * spans * (a->value_size + 2) * sizeof(float);
}

static uint64_t scratch_room(const struct gpu_attention *a)
{
    uint64_t rest = a->scratch.buffer ? gpu_buffer_bytes(a->scratch.buffer) - a->scratch.offset : 0;
    return a->scratch_bytes ? MIN(a->scratch_bytes, rest) : rest;
}

/* Otherwise two kernels with the same sums may add them in another order. */
static bool has_one_subgroup_size(const struct gpu *gpu)
{
    return gpu->info.subgroup_min == gpu->info.subgroup_max;
}

/* As struct Heads of attend_few.comp. */
struct heads_entry {
    uint64_t key, value, query_norm, key_norm, query_scales, table;
    uint32_t query_stride, query_head_stride, key_stride, value_stride;
    uint32_t key_size, value_size, rotary;
    float epsilon;
};

static uint64_t heads_table(struct gpu *gpu, const struct gpu_heads *heads)
{
    const struct heads_entry entry = {.key = gpu_address(heads->key),
                                      .value = gpu_address(heads->value),
                                      .query_norm = gpu_address(heads->query_norm),
                                      .key_norm = gpu_address(heads->key_norm),
                                      .query_scales = gpu_address(heads->query_scales),
                                      .table = gpu_address(heads->table),
                                      .query_stride = heads->query_stride,
                                      .query_head_stride = heads->query_head_stride,
                                      .key_stride = heads->key_stride,
                                      .value_stride = heads->value_stride,
                                      .key_size = heads->key_size,
                                      .value_size = heads->value_size,
                                      .rotary = heads->table.buffer ? heads->rotary : 0,
                                      .epsilon = heads->epsilon};
    return gpu_table(gpu, &entry, sizeof entry);
}

/* Work groups of attend_few for each tile, and tiles of each sequence. */
struct few_shape {
    uint32_t spans, queries, across;
};

static struct few_shape few_shape(const struct gpu *gpu, const struct gpu_attention *a, uint32_t rows, uint32_t spans)
{
    const uint32_t queries = few_queries(gpu, a, rows, spans), group = a->heads / a->kv_heads;
    return (struct few_shape){spans, queries, (rows * group + queries - 1) / queries * a->kv_heads};
}

bool gpu_attention_makes_heads(const struct gpu *gpu, const struct gpu_heads *heads,
                               const struct gpu_attention *attention)
{
    const uint32_t size = MAX(heads->key_size, heads->value_size);
    for (uint32_t i = 0; i < attention->sequence_count; i++)
        if (attention->sequences[i].rows != 1)
            return false;
    if (attention->sequence_count == 0 || attention->sequence_count > GPU_MAX_SEQUENCES || attention->kv_heads == 0 ||
        heads->sequences != attention->sequences || heads->sequence_count != attention->sequence_count ||
        heads->heads != attention->heads || heads->kv_heads != attention->kv_heads ||
        heads->key_size != attention->key_size || heads->value_size != attention->value_size ||
        heads->type != attention->type || gpu_address(heads->cache) != gpu_address(attention->cache) ||
        gpu_address(heads->out) != gpu_address(attention->query))
        return false;
    if (!heads->query.buffer || !heads->key.buffer || !heads->value.buffer || heads->values_in_keys || heads->ring ||
        heads->centred || heads->norm_each || heads->back || heads->plain_norm || heads->normed || heads->turned_from ||
        (heads->out_head_stride && heads->out_head_stride != heads->key_size))
        return false;
    if (size > MADE_SIZE || gpu->info.subgroup_max > HEADS_TEAM || !has_one_subgroup_size(gpu))
        return false;
    const struct few_shape shape = few_shape(gpu, attention, 1, most_spans(attention, true, SPAN));
    return (uint64_t)shape.spans * shape.across * attention->sequence_count <= MADE_GROUPS;
}

static void attend_spans(struct gpu *gpu, const struct gpu_attention *a, bool few)
{
    const uint32_t span = few ? SPAN : ALL_POSITIONS;
    uint32_t spans = most_spans(a, few, span), count, rows = 0, last_row = 0;
    if (spans == 0)
        return;
    uint64_t table = sequence_table(gpu, a->cache, a->sequences, a->sequence_count, few, !few, &count);
    for (uint32_t i = 0; i < a->sequence_count; i++)
        if ((a->sequences[i].rows <= FEW_ROWS) == few) {
            rows = MAX(rows, a->sequences[i].rows);
            last_row = MAX(last_row, a->sequences[i].first_row + a->sequences[i].rows);
        }
    uint64_t bytes = states_bytes(a, last_row, spans);
    if (spans > 1 && bytes > scratch_room(a)) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: attention over %u spans needs %llu bytes of scratch", spans,
                         (unsigned long long)bytes);
        return;
    }
    const struct gpu_heads *heads = a->makes;
    const struct few_shape shape = few_shape(gpu, a, rows, spans);
    const uint32_t queries = shape.queries, across = shape.across;
    const bool chained = (uint64_t)spans * across * count <= GPU_CHAIN_GROUPS;
    const bool merged = has_one_subgroup_size(gpu) && spans <= MERGED_SPANS &&
                        (uint64_t)across * count <= GPU_TILE_COUNTERS &&
                        queries * spans * a->value_size * sizeof(float) <= MERGED_BYTES;
    const struct chain_link link = chained ? gpu_chain(gpu) : (struct chain_link){0};
    const struct {
        uint64_t query, out, states, totals, sinks, sequences, progress, made, arrived;
        uint32_t heads, kv_heads, key_row, value_row;
        float scale, soft_cap;
        uint32_t window, chunk, bidirectional, most_spans, awaited;
    } push = {gpu_address(heads ? heads->query : a->query),
              gpu_address(a->out),
              gpu_address(a->scratch),
              gpu_address(a->scratch) + (uint64_t)last_row * a->heads * spans * a->value_size * sizeof(float),
              gpu_address(a->sinks),
              table,
              link.progress,
              heads ? heads_table(gpu, heads) : 0,
              merged ? gpu->counters->address + GPU_TILES_AT : 0,
              a->heads,
              a->kv_heads,
              gpu_row_elements(a->type, a->key_position_bytes),
              gpu_row_elements(a->type, a->value_position_bytes),
              a->scale,
              a->soft_cap,
              a->window,
              a->chunk,
              a->bidirectional,
              spans,
              link.awaited};
    const uint32_t constants[] = {a->key_size,
                                  a->value_size,
                                  queries,
                                  spans == 1,
                                  span,
                                  heads != NULL,
                                  heads && heads->layout == ROPE_NORMAL,
                                  heads && heads->norm_after_rope,
                                  heads && heads->value_norm,
                                  heads && (heads->value_norm || heads->query_norm.buffer || heads->key_norm.buffer),
                                  heads && heads->table.buffer && heads->rotary,
                                  heads && heads->query_scales.buffer};
    (chained ? gpu_launch_chained : gpu_launch)(gpu, kernels_of(a->type).few, constants, COUNT_OF(constants), &push,
                                                sizeof push, spans, across, count);
    if (spans == 1 || merged)
        return;
    gpu_barrier(gpu);
    const struct chain_link merge_link = gpu_chain(gpu);
    const struct {
        uint64_t out, states, totals, sinks, sequences, progress;
        uint32_t heads, most_spans, window, chunk, bidirectional, sequence_count, awaited;
    } merge = {push.out, push.states, push.totals, push.sinks,       table, merge_link.progress, a->heads,
               spans,    a->window,   a->chunk,    a->bidirectional, count, merge_link.awaited};
    const uint32_t merge_constants[] = {a->value_size, span};
    gpu_launch_chained(gpu, KERNEL_attend_merge, merge_constants, COUNT_OF(merge_constants), &merge, sizeof merge,
                       a->heads, last_row, 1);
}

/* Adjacent sequences with few rows share a launch as long as their states fit; the next launch reuses the scratch. */
static void attend_few(struct gpu *gpu, const struct gpu_attention *a)
{
    bool first_part = true;
    for (uint32_t first = 0, next; first < a->sequence_count; first = next) {
        next = first + 1;
        if (a->sequences[first].rows > FEW_ROWS)
            continue;
        struct gpu_sequence sequences[GPU_MAX_SEQUENCES];
        struct gpu_attention part = *a;
        uint32_t from = a->sequences[first].first_row, to = from + a->sequences[first].rows;
        part.sequences = a->sequences + first;
        part.sequence_count = 1;
        for (; next < a->sequence_count && a->sequences[next].rows <= FEW_ROWS && a->sequences[next].first_row == to;
             next++) {
            part.sequence_count++;
            uint32_t spans = most_spans(&part, true, SPAN), end = to + a->sequences[next].rows;
            if (spans > 1 && states_bytes(a, end - from, spans) > scratch_room(a)) {
                part.sequence_count--;
                break;
            }
            to = end;
        }
        for (uint32_t i = 0; i < part.sequence_count; i++) {
            sequences[i] = a->sequences[first + i];
            sequences[i].first_row -= from;
        }
        part.sequences = sequences;
        part.query.offset += (uint64_t)from * a->heads * a->key_size * sizeof(float);
        part.out.offset += (uint64_t)from * a->heads * a->value_size * sizeof(float);
        struct gpu_heads heads;
        if (a->makes) {
            heads = *a->makes;
            heads.query.offset += (uint64_t)from * heads.query_stride * sizeof(float);
            heads.key.offset += (uint64_t)from * heads.key_stride * sizeof(float);
            heads.value.offset += (uint64_t)from * heads.value_stride * sizeof(float);
            heads.query_scales.offset += (uint64_t)from * sizeof(float);
            heads.table.offset += (uint64_t)from * heads.rotary * sizeof(float);
            part.makes = &heads;
        }
        if (!first_part)
            gpu_barrier(gpu);
        first_part = false;
        attend_spans(gpu, &part, true);
    }
}

/* Whether values are the first elements of the keys. */
static bool shares_keys(const struct gpu_attention *a)
{
    for (uint32_t i = 0; i < a->sequence_count; i++)
        if (a->sequences[i].keys != a->sequences[i].values)
            return false;
    return a->key_position_bytes == a->value_position_bytes && a->value_size <= a->key_size;
}

/* The kernel for sequences with many rows; KERNEL_COUNT: none walks through their positions in blocks. */
static enum gpu_kernel many_kernel(const struct gpu *gpu, const struct gpu_attention *a)
{
    const struct attend_kernels kernels = kernels_of(a->type);
    const uint32_t size = MAX(a->key_size, a->value_size);
    const bool matrices = gpu->info.cooperative_matrix && kernels.cooperative != KERNEL_COUNT &&
                          (a->key_size | a->value_size) % 16 == 0 &&
                          (gpu_address(a->query) | gpu_address(a->out)) % 16 == 0;
    if (size <= MANY_SIZE)
        return matrices ? kernels.cooperative : kernels.many;
    return matrices && a->key_size % 32 == 0 && a->key_size <= LATENT_KEY_SIZE && a->value_size <= LATENT_VALUE_SIZE &&
                   shares_keys(a)
               ? kernels.latent
               : KERNEL_COUNT;
}

bool gpu_attention_makes_halves(const struct gpu *gpu, const struct gpu_attention *attention)
{
    for (uint32_t i = 0; i < attention->sequence_count; i++)
        if (attention->sequences[i].rows <= FEW_ROWS)
            return false;
    const enum gpu_kernel kernel = many_kernel(gpu, attention);
    return kernel != KERNEL_COUNT && kernel != kernels_of(attention->type).many;
}

static void attend_many(struct gpu *gpu, const struct gpu_attention *a, enum gpu_kernel kernel)
{
    const struct attend_kernels kernels = kernels_of(a->type);
    const uint32_t tile = kernel == kernels.latent ? LATENT_QUERIES : MANY_QUERIES;
    uint32_t rows = 0, count;
    for (uint32_t i = 0; i < a->sequence_count; i++)
        rows = MAX(rows, a->sequences[i].rows);
    if (rows <= FEW_ROWS)
        return;
    uint64_t table = sequence_table(gpu, a->cache, a->sequences, a->sequence_count, false, true, &count);
    const struct {
        uint64_t query, out, sinks, sequences;
        uint32_t heads, kv_heads, key_row, value_row;
        float scale, soft_cap;
        uint32_t window, chunk, bidirectional;
    } push = {gpu_address(a->query),
              gpu_address(a->out),
              gpu_address(a->sinks),
              table,
              a->heads,
              a->kv_heads,
              gpu_row_elements(a->type, a->key_position_bytes),
              gpu_row_elements(a->type, a->value_position_bytes),
              a->scale,
              a->soft_cap,
              a->window,
              a->chunk,
              a->bidirectional};
    const uint32_t constants[] = {a->key_size, a->value_size, a->halves};
    uint32_t queries = rows * (a->heads / a->kv_heads);
    gpu_launch(gpu, kernel, constants, kernel == kernels.many ? 2 : 3, &push, sizeof push, (queries + tile - 1) / tile,
               a->kv_heads, count);
}

void gpu_attention(struct gpu *gpu, const struct gpu_attention *attention)
{
    if (!gpu_attention_supports(attention->type, attention->key_size, attention->value_size) ||
        attention->kv_heads == 0 || attention->sequence_count > GPU_MAX_SEQUENCES ||
        attention->heads % attention->kv_heads) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: attention of %u heads over %u, of %u and %u elements",
                         attention->heads, attention->kv_heads, attention->key_size, attention->value_size);
        return;
    }
    if (attention->halves && !gpu_attention_makes_halves(gpu, attention)) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: this attention cannot write half-precision results");
        return;
    }
    if (attention->makes && !gpu_attention_makes_heads(gpu, attention->makes, attention)) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: this attention cannot make its heads");
        return;
    }
    attend_few(gpu, attention);
    const enum gpu_kernel kernel = many_kernel(gpu, attention);
    if (kernel != KERNEL_COUNT)
        attend_many(gpu, attention, kernel);
    else
        attend_spans(gpu, attention, false);
}
