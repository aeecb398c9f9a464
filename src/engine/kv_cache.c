#include "engine/engine_private.h"

static void add_plane(struct kv_layer *out, uint32_t plane, size_t width, uint32_t every, enum tensor_type type,
                      uint32_t positions)
{
    out->planes[plane - 1] =
        (struct kv_plane){.every = every,
                          .width = width,
                          .row_bytes = attention_row_bytes(kv_plane_type(type), width),
                          .rows = align_up(((uint64_t)positions + every - 1) / every, ATTENTION_BLOCK)};
}

/* Finds what a layer keeps per sequence: states, heads of keys and values per position, or nothing if it reads another
 * layer's. */
static void layer_shape(struct kv_layer *out, const struct geometry *geometry, uint32_t number, enum tensor_type type,
                        uint32_t positions)
{
    struct step_list list = steps_of_layer(geometry->steps, number);
    *out = (struct kv_layer){0};
    for (size_t i = 0; i < list.count; i++) {
        const struct step *step = &list.steps[i];
        out->state_floats += step_state(step);
        if (step->kind == STEP_COMPRESS) {
            const struct step_compress *c = &step->compress;
            if (c->plane)
                add_plane(out, c->plane, c->size, c->every, type, positions);
            else
                out->every = c->every;
        } else if (step->kind == STEP_HEADS && step->heads.plane) {
            add_plane(out, step->heads.plane, (size_t)step->heads.key.heads * step->heads.key.size, 1, type, positions);
        } else if (step->kind == STEP_POOL) {
            add_plane(out, step->pool.plane, step->pool.size, step->pool.every, type, positions);
        } else if (step->kind == STEP_HEADS && step->heads.stores) {
            out->heads = step->heads.key.heads;
            out->key_size = step->heads.key.size;
            out->value_size = step->heads.value_size;
            out->values_in_keys = step->heads.value == BUFFER_NONE;
        } else if (step->kind == STEP_ATTEND && step->attend.source == number) {
            out->window = step->attend.window;
        }
    }
    if (out->heads == 0)
        return;
    uint64_t capacity = positions;
    if (out->window)
        capacity = MIN(capacity, (uint64_t)out->window + WINDOW_SLACK);
    out->ring = (size_t)align_up(capacity, ATTENTION_BLOCK);
    out->capacity = out->ring;
    if (out->every)
        out->capacity += (size_t)align_up(((uint64_t)positions + out->every - 1) / out->every, ATTENTION_BLOCK);
    /* Rows are stored head by head, because attention reads all positions of one head in order. */
    out->key_position_bytes = attention_row_bytes(type, out->key_size);
    out->value_position_bytes = attention_row_bytes(type, out->value_size);
    out->key_head_bytes = out->capacity * out->key_position_bytes;
    out->value_head_bytes = out->capacity * out->value_position_bytes;
    if (out->values_in_keys) {
        out->value_head_bytes = out->key_head_bytes;
        out->value_position_bytes = out->key_position_bytes;
    }
}

/* Whether each row of a layer belongs to one position. */
static bool may_be_shared(const struct kv_layer *layer)
{
    bool may = !layer->every;
    for (size_t i = 0; i < KV_PLANES; i++)
        may = may && !layer->planes[i].width;
    return may;
}

static uint64_t blocks_of(uint64_t positions)
{
    return (positions + PLAN_KV_BLOCK - 1) / PLAN_KV_BLOCK;
}

/* The blocks that all sequences need on a device, or 0 if each has a region of its own there. */
static uint64_t pool_blocks(const struct geometry *geometry, uint32_t positions, uint32_t sequences, uint64_t room)
{
    const uint64_t all = sequences * blocks_of(positions);
    const bool limited = room < (uint64_t)sequences * positions;
    return !geometry->plain_rows || sequences < 2 ? 0 : limited ? MIN(all, blocks_of(room)) : all;
}

/* Makes the rows of a layer on a device a pool, whose blocks belong to any sequence; a ring stays as it is. */
static bool make_pool(struct kv_layer *layer, uint32_t positions, uint64_t blocks)
{
    if (blocks == 0 || layer->heads == 0 || layer->ring < positions)
        return true;
    layer->pooled = true;
    layer->capacity = blocks * PLAN_KV_BLOCK;
    layer->key_head_bytes = layer->capacity * layer->key_position_bytes;
    layer->value_head_bytes = layer->capacity * layer->value_position_bytes;
    return layer->capacity <= UINT32_MAX;
}

/* Adds a region to *total, in whole pages; false: too large. The metadata reader bounds every field (2^20 wide, 2^16
 * heads), so only the sum over the layers can exceed 64 bits. */
static bool add_region(uint64_t *total, uint64_t positions, uint64_t bytes, uint64_t sequences)
{
    uint64_t region;
    return !__builtin_mul_overflow(positions, bytes, &region) && !__builtin_mul_overflow(region, sequences, &region) &&
           region < (UINT64_C(1) << 60) && !__builtin_add_overflow(*total, align_up(region, memory_page_size()), total);
}

/* Places a layer's regions at *total and advances it; false: too large. */
static bool lay_out(struct kv_layer *layer, uint32_t sequences, uint64_t *total)
{
    const uint32_t regions = layer->pooled ? 1 : sequences;
    layer->keys = *total;
    if (!add_region(total, layer->heads, layer->key_head_bytes, regions))
        return false;
    layer->values = layer->values_in_keys ? layer->keys : *total;
    if (!layer->values_in_keys && !add_region(total, layer->heads, layer->value_head_bytes, regions))
        return false;
    for (size_t i = 0; i < KV_PLANES; i++) {
        layer->planes[i].offset = *total;
        if (!add_region(total, layer->planes[i].rows, layer->planes[i].row_bytes, sequences))
            return false;
    }
    layer->states = *total;
    return add_region(total, 2 * sizeof(float), layer->state_floats, sequences);
}

static bool keeps_tokens(const struct geometry *geometry)
{
    return geometry->look_up && geometry->look_up->look_up.ngrams;
}

static bool lay_out_tokens(const struct geometry *geometry, uint32_t positions, uint32_t sequences, uint64_t *total)
{
    return !keeps_tokens(geometry) || add_region(total, positions, sizeof(int32_t), sequences);
}

/* The number of layers, including the prediction block. */
static uint32_t all_layers(const struct geometry *geometry)
{
    const struct model_parameters *p = model_parameters(geometry->model);
    return p->layers + p->predicting;
}

static bool is_on_gpu(const struct geometry *geometry, uint32_t layer)
{
    return geometry->on_gpu && layer < model_parameters(geometry->model)->layers && geometry->on_gpu[layer];
}

uint64_t kv_device_bytes(const struct geometry *geometry, uint32_t number, uint32_t positions, uint32_t sequences,
                         uint64_t kv_positions, enum tensor_type type)
{
    struct kv_layer layer;
    uint64_t total = 0;
    layer_shape(&layer, geometry, number, type, positions);
    const bool fits = make_pool(&layer, positions, pool_blocks(geometry, positions, sequences, kv_positions));
    return fits && lay_out(&layer, sequences, &total) ? total : UINT64_MAX;
}

uint64_t kv_cache_bytes(const struct geometry *geometry, uint32_t positions, uint32_t sequences, enum tensor_type type)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < all_layers(geometry); i++) {
        struct kv_layer layer;
        layer_shape(&layer, geometry, i, type, positions);
        if (!is_on_gpu(geometry, i) && !lay_out(&layer, sequences, &total))
            return UINT64_MAX;
    }
    return lay_out_tokens(geometry, positions, sequences, &total) ? align_up(total, memory_page_size()) : UINT64_MAX;
}

/* The most bytes of pages that a run of this many bytes, one of equal runs in a row, can touch. */
static uint64_t part_bytes(uint64_t bytes)
{
    const uint64_t page = memory_page_size(), step = MIN(bytes & -bytes, page);
    return bytes ? align_up(page - step + bytes, page) : 0;
}

/* The most memory that a sequence's block takes in one layer. */
static uint64_t block_bytes(const struct kv_layer *layer)
{
    uint64_t bytes = layer->heads * part_bytes(PLAN_KV_BLOCK * layer->key_position_bytes);
    if (!layer->values_in_keys)
        bytes += layer->heads * part_bytes(PLAN_KV_BLOCK * layer->value_position_bytes);
    for (size_t i = 0; i < KV_PLANES; i++)
        if (layer->planes[i].width)
            bytes += part_bytes(PLAN_KV_BLOCK / layer->planes[i].every * layer->planes[i].row_bytes);
    return bytes;
}

uint64_t kv_cache_shared_bytes(const struct geometry *geometry, uint32_t positions, uint32_t sequences,
                               uint64_t kv_positions, enum tensor_type type)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < all_layers(geometry); i++) {
        struct kv_layer layer;
        uint64_t whole = 0, blocks = 0;
        layer_shape(&layer, geometry, i, type, positions);
        if (is_on_gpu(geometry, i))
            continue;
        /* A layer never takes more than it would without sharing; that limits windows. */
        if (!lay_out(&layer, sequences, &whole) ||
            !add_region(&blocks, kv_positions / PLAN_KV_BLOCK, block_bytes(&layer), 1) ||
            !add_region(&blocks, 2 * sizeof(float), layer.state_floats, sequences) ||
            __builtin_add_overflow(total, MIN(whole, blocks), &total))
            return UINT64_MAX;
    }
    return lay_out_tokens(geometry, positions, sequences, &total) ? align_up(total, memory_page_size()) : UINT64_MAX;
}

void kv_cache_kinds(struct engine_kept *out, const struct geometry *geometry, uint32_t positions, enum tensor_type type)
{
    *out = (struct engine_kept){0};
    for (uint32_t i = 0; i < all_layers(geometry); i++) {
        struct kv_layer layer;
        layer_shape(&layer, geometry, i, type, positions);
        uint64_t row = layer.heads * (uint64_t)layer.key_position_bytes;
        row += layer.values_in_keys ? 0 : layer.heads * (uint64_t)layer.value_position_bytes;
        if (layer.window)
            out->windows += row * layer.ring;
        else
            out->keys += (double)row;
        out->compressed += layer.every ? (double)row / layer.every : 0;
        for (size_t p = 0; p < KV_PLANES; p++)
            out->index += layer.planes[p].width ? (double)layer.planes[p].row_bytes / layer.planes[p].every : 0;
        out->states += 2 * sizeof(float) * (uint64_t)layer.state_floats;
    }
}

/* Creates the table of blocks: at first, each block is in its own sequence's region, and a pool is empty. */
static hypura_status create_places(struct kv_cache *out, hypura_error *error)
{
    out->blocks = (uint32_t)blocks_of(out->capacity);
    TRY(ALLOCATE(&out->touched, (size_t)out->sequences * out->blocks, "table of blocks", error));
    TRY(ALLOCATE(&out->places, (size_t)out->sequences * out->blocks, "table of blocks", error));
    for (uint32_t s = 0; s < out->sequences; s++)
        for (uint32_t b = 0; b < out->blocks; b++)
            out->places[(size_t)s * out->blocks + b] = (uint16_t)s;
    if (!out->pool.blocks)
        return HYPURA_OK;
    TRY(ALLOCATE(&out->pool.at, (size_t)out->sequences * out->blocks, "table of blocks", error));
    TRY(ALLOCATE(&out->pool.free, out->pool.blocks, "table of blocks", error));
    for (uint32_t i = 0; i < out->pool.blocks; i++)
        out->pool.free[i] = out->pool.blocks - 1 - i;
    out->pool.free_count = out->pool.blocks;
    return HYPURA_OK;
}

/* Finds the number of blocks of the pools on devices; all layers' have the same. */
static void count_pool(struct kv_cache *out, const struct geometry *geometry, uint32_t first)
{
    const uint64_t blocks = pool_blocks(geometry, out->capacity, out->sequences, out->room);
    for (uint32_t i = first; i < out->layer_count; i++)
        if (is_on_gpu(geometry, i))
            out->pool.blocks = (uint32_t)MIN(blocks, (uint64_t)UINT32_MAX);
}

static hypura_status create(struct kv_cache *out, const struct geometry *geometry, uint32_t first, uint32_t layers,
                            uint32_t positions, uint64_t room, enum tensor_type type, hypura_error *error)
{
    *out = (struct kv_cache){.type = type,
                             .sequences = geometry->sequences,
                             .layer_count = layers,
                             .capacity = positions,
                             .room = room < (uint64_t)positions * geometry->sequences ? room : UINT64_MAX};
    count_pool(out, geometry, first);
    TRY(ALLOCATE(&out->layers, layers, "table of caches", error));
    TRY(ALLOCATE(&out->held, geometry->sequences, "table of sequences", error));
    TRY(ALLOCATE(&out->there, geometry->sequences, "table of sequences", error));
    TRY(ALLOCATE(&out->reached, geometry->sequences, "table of sequences", error));
    TRY(ALLOCATE(&out->resumed, geometry->sequences, "table of sequences", error));
    TRY(ALLOCATE(&out->claimed, geometry->sequences, "table of sequences", error));
    TRY(ALLOCATE(&out->parted, geometry->sequences, "table of sequences", error));
    TRY(ALLOCATE(&out->counted, geometry->sequences, "table of sequences", error));
    TRY(create_places(out, error));
    TRY(ALLOCATE(&out->state, geometry->sequences, "table of sequences", error));
    out->can_share = geometry->sequences > 1 && geometry->sequences <= UINT16_MAX;
    uint64_t offset = 0;
    for (uint32_t i = first; i < layers; i++) {
        struct kv_layer *layer = &out->layers[i];
        layer_shape(layer, geometry, i, type, positions);
        if (layer->capacity && (!layer->key_position_bytes || !layer->value_position_bytes)) {
            const struct tensor_type_info *info = tensor_type_info(type);
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "a KV cache of type %s cannot hold heads of %zu and %zu elements; f16 can",
                             info && info->name ? info->name : "?", layer->key_size, layer->value_size);
        }
        layer->on_gpu = is_on_gpu(geometry, i);
        uint64_t own = 0;
        if ((layer->on_gpu && !make_pool(layer, positions, out->pool.blocks)) ||
            !lay_out(layer, geometry->sequences, layer->on_gpu ? &own : &offset))
            return error_set(error, HYPURA_ERROR_MEMORY, "a KV cache of %u positions is too large", positions);
        out->can_share = out->can_share && may_be_shared(layer);
    }
    out->keeps_tokens = first == 0 && keeps_tokens(geometry);
    out->tokens = offset;
    if (out->keeps_tokens && !lay_out_tokens(geometry, positions, geometry->sequences, &offset))
        return error_set(error, HYPURA_ERROR_MEMORY, "a KV cache of %u positions is too large", positions);
    out->bytes = offset;
    if (offset == 0)
        return HYPURA_OK; /* the GPUs hold all of it */
    void *memory;
    TRY(memory_map(&memory, (size_t)offset, false, "KV cache", error));
    out->memory = memory;
    return HYPURA_OK;
}

hypura_status kv_cache_create(struct kv_cache *out, const struct geometry *geometry, uint32_t positions, uint64_t room,
                              enum tensor_type type, hypura_error *error)
{
    return create(out, geometry, 0, model_parameters(geometry->model)->layers, positions, room, type, error);
}

hypura_status kv_cache_create_predicting(struct kv_cache *out, const struct geometry *geometry, uint32_t positions,
                                         uint64_t room, enum tensor_type type, hypura_error *error)
{
    return create(out, geometry, model_parameters(geometry->model)->layers, all_layers(geometry), positions, room, type,
                  error);
}

void kv_cache_destroy(struct kv_cache *cache)
{
    if (cache->memory)
        memory_unmap(cache->memory, (size_t)cache->bytes);
    memory_free(cache->layers);
    memory_free(cache->held);
    memory_free(cache->there);
    memory_free(cache->reached);
    memory_free(cache->resumed);
    memory_free(cache->claimed);
    memory_free(cache->parted);
    memory_free(cache->counted);
    memory_free(cache->touched);
    memory_free(cache->places);
    memory_free(cache->pool.at);
    memory_free(cache->pool.free);
    memory_free(cache->state);
    *cache = (struct kv_cache){0};
}

static uint8_t *key_region(const struct kv_cache *cache, uint32_t layer, uint32_t sequence)
{
    const struct kv_layer *l = &cache->layers[layer];
    return cache->memory + l->keys + (uint64_t)sequence * l->heads * l->key_head_bytes;
}

static uint8_t *value_region(const struct kv_cache *cache, uint32_t layer, uint32_t sequence)
{
    const struct kv_layer *l = &cache->layers[layer];
    return cache->memory + l->values + (uint64_t)sequence * l->heads * l->value_head_bytes;
}

struct attention kv_cache_attention(const struct kv_cache *cache, uint32_t layer)
{
    const struct kv_layer *kv = &cache->layers[layer];
    return (struct attention){.kv_heads = kv->heads,
                              .key_size = kv->key_size,
                              .value_size = kv->value_size,
                              .key_type = cache->type,
                              .value_type = cache->type,
                              .key_position_bytes = kv->key_position_bytes,
                              .key_head_bytes = kv->key_head_bytes,
                              .value_position_bytes = kv->value_position_bytes,
                              .value_head_bytes = kv->value_head_bytes};
}

/* Whether some blocks of a sequence lie in other sequences' regions in this layer. Devices have pools instead. */
static bool is_parted(const struct kv_cache *cache, uint32_t layer, uint32_t sequence)
{
    return cache->parted[sequence] && !kv_cache_is_ring(cache, layer) && !cache->layers[layer].on_gpu;
}

struct attention_sequence kv_cache_sequence(const struct kv_cache *cache, uint32_t layer, uint32_t sequence,
                                            uint32_t first, uint32_t rows)
{
    const struct kv_layer *l = &cache->layers[layer];
    const bool parted = is_parted(cache, layer, sequence);
    return (struct attention_sequence){.first_row = first,
                                       .rows = rows,
                                       .keys = key_region(cache, layer, parted ? 0 : sequence),
                                       .values = value_region(cache, layer, parted ? 0 : sequence),
                                       .capacity = l->capacity,
                                       .places = parted ? cache->places + (size_t)sequence * cache->blocks : NULL,
                                       .place_key_bytes = l->heads * l->key_head_bytes,
                                       .place_value_bytes = l->heads * l->value_head_bytes};
}

uint32_t kv_cache_block(const struct kv_cache *cache, uint32_t sequence, uint32_t block)
{
    const size_t place = cache->places[(size_t)sequence * cache->blocks + block];
    return cache->pool.at[place * cache->blocks + block];
}

struct kv_run kv_cache_run(const struct kv_cache *cache, uint32_t layer, uint32_t sequence, bool values, size_t head,
                           size_t index, size_t rows)
{
    const struct kv_layer *l = &cache->layers[layer];
    const size_t head_bytes = values ? l->value_head_bytes : l->key_head_bytes, within = index % PLAN_KV_BLOCK;
    const uint64_t region = values ? l->values : l->keys;
    const uint32_t block = (uint32_t)(index / PLAN_KV_BLOCK);
    size_t place = sequence;
    if (l->pooled)
        return (struct kv_run){.region = region + head * head_bytes,
                               .index = (size_t)kv_cache_block(cache, sequence, block) * PLAN_KV_BLOCK + within,
                               .rows = MIN(rows, PLAN_KV_BLOCK - within)};
    if (is_parted(cache, layer, sequence)) {
        place = cache->places[(size_t)sequence * cache->blocks + block];
        rows = MIN(rows, PLAN_KV_BLOCK - within);
    }
    return (struct kv_run){.region = region + (place * l->heads + head) * head_bytes, .index = index, .rows = rows};
}

/* Writes the keys or the values of all heads. */
static void store(struct kv_cache *cache, uint32_t layer, uint32_t sequence, bool values, uint32_t position,
                  uint32_t rows, const float *from)
{
    const struct kv_layer *l = &cache->layers[layer];
    const size_t size = values ? l->value_size : l->key_size;
    const size_t row_bytes = values ? l->value_position_bytes : l->key_position_bytes;
    while (rows) { /* the rows may cross the end of the ring or of a block */
        size_t index = position % l->ring, count = MIN((size_t)rows, l->ring - index);
        for (size_t head = 0; head < l->heads; head++) {
            const struct kv_run run = kv_cache_run(cache, layer, sequence, values, head, index, count);
            attention_store(cache->type, from + head * size, run.rows, size, l->heads * size,
                            cache->memory + run.region + run.index * row_bytes, row_bytes);
            count = run.rows;
        }
        from += count * l->heads * size;
        position += (uint32_t)count;
        rows -= (uint32_t)count;
    }
}

void kv_cache_write(struct kv_cache *cache, uint32_t layer, uint32_t sequence, uint32_t position, uint32_t rows,
                    const float *keys, const float *values)
{
    store(cache, layer, sequence, false, position, rows, keys);
    if (!cache->layers[layer].values_in_keys)
        store(cache, layer, sequence, true, position, rows, values);
}

void kv_cache_write_compressed(struct kv_cache *cache, uint32_t layer, uint32_t sequence, uint32_t first, uint32_t rows,
                               const float *keys)
{
    const struct kv_layer *l = &cache->layers[layer];
    attention_store(cache->type, keys, rows, l->key_size, l->key_size,
                    key_region(cache, layer, sequence) + (l->ring + first) * l->key_position_bytes,
                    l->key_position_bytes);
}

enum tensor_type kv_plane_type(enum tensor_type cache_type)
{
    return cache_type == TENSOR_F32 || cache_type == TENSOR_BF16 ? cache_type : TENSOR_F16;
}

uint8_t *kv_cache_plane(const struct kv_cache *cache, uint32_t layer, uint32_t plane, uint32_t sequence)
{
    const struct kv_plane *p = &cache->layers[layer].planes[plane - 1];
    return cache->memory + p->offset + sequence * p->rows * p->row_bytes;
}

void kv_cache_write_plane(struct kv_cache *cache, uint32_t layer, uint32_t plane, uint32_t sequence, uint32_t first,
                          uint32_t rows, const float *values)
{
    const struct kv_plane *p = &cache->layers[layer].planes[plane - 1];
    attention_store(kv_plane_type(cache->type), values, rows, p->width, p->width,
                    kv_cache_plane(cache, layer, plane, sequence) + first * p->row_bytes, p->row_bytes);
}

/* Requires that each part of a block is at least a page, so that no page belongs to more than two blocks. */
bool kv_cache_can_share(const struct geometry *geometry, enum tensor_type type)
{
    const size_t page = memory_page_size();
    for (uint32_t i = 0; i < all_layers(geometry); i++) {
        struct kv_layer layer;
        layer_shape(&layer, geometry, i, type, PLAN_KV_BLOCK);
        if (layer.every || (layer.heads && (layer.key_head_bytes < page || layer.value_head_bytes < page)))
            return false;
        for (size_t p = 0; p < KV_PLANES; p++) {
            const struct kv_plane *plane = &layer.planes[p];
            if (plane->width &&
                (PLAN_KV_BLOCK % plane->every || PLAN_KV_BLOCK / plane->every * plane->row_bytes < page))
                return false;
        }
    }
    return true;
}

float *kv_cache_state(const struct kv_cache *cache, const struct step *step, uint32_t sequence, bool next)
{
    const struct kv_layer *l = &cache->layers[step->layer];
    float *states = (float *)(void *)(cache->memory + l->states) + 2 * (size_t)sequence * l->state_floats;
    return states + (size_t)(cache->state[sequence] ^ next) * l->state_floats + step->state;
}

int32_t *kv_cache_tokens(const struct kv_cache *cache, uint32_t sequence)
{
    int32_t *all = (int32_t *)(void *)(cache->memory + cache->tokens);
    return cache->keeps_tokens ? all + (size_t)sequence * cache->capacity : NULL;
}

void kv_cache_begin(struct kv_cache *cache, uint32_t sequence, uint32_t rows)
{
    uint32_t held = cache->held[sequence];
    cache->there[sequence] = held;
    cache->claimed[sequence] = held + rows;
    cache->reached[sequence] = MAX(cache->reached[sequence], held + rows);
}

void kv_cache_undo(struct kv_cache *cache, uint32_t sequence, uint32_t rows)
{
    cache->held[sequence] -= rows;
    cache->there[sequence] = cache->held[sequence];
    cache->state[sequence] ^= 1;
}

void kv_cache_commit(struct kv_cache *cache, uint32_t sequence, uint32_t rows)
{
    cache->held[sequence] += rows;
    cache->there[sequence] = cache->held[sequence];
    cache->claimed[sequence] = 0;
    cache->state[sequence] ^= 1;
}

bool kv_cache_is_ring(const struct kv_cache *cache, uint32_t layer)
{
    const struct kv_layer *l = &cache->layers[layer];
    return l->window && l->ring < cache->capacity;
}

/* The first position that the next token, at "positions", sees through a window. */
static uint32_t window_start(const struct kv_layer *layer, uint32_t positions)
{
    return positions >= layer->window ? positions - layer->window + 1 : 0;
}

/* Whether a sequence can go back to this many positions: its windows must still hold all that the next token sees. A
 * ring loses position p when position p + ring is written. */
static bool can_truncate(const struct kv_cache *cache, uint32_t sequence, uint32_t positions)
{
    for (uint32_t i = 0; i < cache->layer_count; i++) {
        const struct kv_layer *l = &cache->layers[i];
        if (l->state_floats && positions > 0)
            return false; /* a state cannot go back */
        if (!kv_cache_is_ring(cache, i))
            continue;
        uint64_t first = window_start(l, positions);
        if (first < positions &&
            (first + l->ring < cache->reached[sequence] || first < window_start(l, cache->resumed[sequence])))
            return false;
    }
    return true;
}

bool kv_cache_truncate(struct kv_cache *cache, uint32_t sequence, uint32_t positions)
{
    cache->there[sequence] = MIN(cache->there[sequence], positions);
    cache->claimed[sequence] = 0;
    if (positions >= cache->held[sequence])
        return true;
    bool kept = can_truncate(cache, sequence, positions);
    cache->held[sequence] = kept ? positions : 0;
    if (cache->held[sequence] == 0)
        cache->reached[sequence] = cache->resumed[sequence] = 0;
    return kept;
}
