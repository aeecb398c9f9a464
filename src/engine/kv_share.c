/* Blocks of positions that sequences share, and the room that all sequences have together.
 *
 * A block always lies at its own offset, but it may be in any sequence's region: in its own sequence's, or in that of
 * another sequence with the same rows. Each block has one place per sequence, and each sequence uses one of them. So a
 * sequence that writes always finds a free place. Rings and states are never shared.
 *
 * Memory of a device cannot be returned page by page, so there are no regions: a block in a place that was written has
 * a block of a pool, which has as many as the room. */
#include "engine/engine_private.h"

#include <string.h>

_Static_assert(PLAN_KV_BLOCK == ATTENTION_BLOCK, "attention looks up the place of each of its blocks");

static uint16_t *place_of(const struct kv_cache *cache, uint32_t sequence, uint32_t block)
{
    return &cache->places[(size_t)sequence * cache->blocks + block];
}

static uint8_t *touched(const struct kv_cache *cache, uint32_t place, uint32_t block)
{
    return &cache->touched[(size_t)place * cache->blocks + block];
}

static uint32_t blocks_of(uint32_t positions)
{
    return (positions + PLAN_KV_BLOCK - 1) / PLAN_KV_BLOCK;
}

/* Whether a sequence other than "but" has rows of a block in this place, or is about to write them. */
static bool is_used(const struct kv_cache *cache, uint32_t place, uint32_t block, uint32_t but)
{
    for (uint32_t s = 0; s < cache->sequences; s++)
        if (s != but && *place_of(cache, s, block) == place &&
            MAX(cache->there[s], cache->claimed[s]) > block * PLAN_KV_BLOCK)
            return true;
    return false;
}

/* Finds a place that no other sequence uses, if possible the sequence's own. One is free, since each of the others uses
 * one at most. */
static uint32_t free_place(const struct kv_cache *cache, uint32_t sequence, uint32_t block)
{
    uint32_t place = sequence;
    for (uint32_t i = 0; i < cache->sequences && is_used(cache, place, block, sequence); i++)
        place = i;
    return place;
}

static void note_parted(struct kv_cache *cache, uint32_t sequence)
{
    cache->parted[sequence] = false;
    for (uint32_t b = 0; b < cache->blocks; b++)
        cache->parted[sequence] = cache->parted[sequence] || *place_of(cache, sequence, b) != sequence;
}

/* ---- pools on devices ----------------------------------------------------------------------------------------------
 */

static uint32_t *pool_block(const struct kv_cache *cache, uint32_t place, uint32_t block)
{
    return &cache->pool.at[(size_t)place * cache->blocks + block];
}

/* Notes that a block in a place is written. A pool has a block left for it. */
static void touch(struct kv_cache *cache, uint32_t place, uint32_t block)
{
    struct kv_pool *pool = &cache->pool;
    uint8_t *is = touched(cache, place, block);
    if (pool->blocks && !*is) {
        *pool_block(cache, place, block) = pool->free[--pool->free_count];
        pool->changes++;
    }
    *is = 1;
}

/* Notes that a block in a place holds nothing any more. */
static void untouch(struct kv_cache *cache, uint32_t place, uint32_t block)
{
    struct kv_pool *pool = &cache->pool;
    uint8_t *is = touched(cache, place, block);
    if (pool->blocks && *is)
        pool->free[pool->free_count++] = *pool_block(cache, place, block);
    *is = 0;
}

/* ---- sharing -------------------------------------------------------------------------------------------------------
 */

static void copy_part(struct kv_cache *cache, uint64_t to, uint64_t from, size_t bytes)
{
    memcpy(cache->memory + to, cache->memory + from, bytes);
}

/* Copies the first rows of a layer's block from one sequence's region to another's. */
static void copy_rows(struct kv_cache *cache, uint32_t layer, uint32_t to, uint32_t from, uint32_t block, uint32_t rows)
{
    const struct kv_layer *l = &cache->layers[layer];
    const uint64_t first = (uint64_t)block * PLAN_KV_BLOCK;
    if (l->on_gpu)
        return;
    for (uint64_t h = 0; h < l->heads; h++) {
        uint64_t at = l->keys + h * l->key_head_bytes + first * l->key_position_bytes;
        uint64_t stride = l->heads * l->key_head_bytes;
        copy_part(cache, at + to * stride, at + from * stride, rows * l->key_position_bytes);
        if (l->values_in_keys)
            continue;
        at = l->values + h * l->value_head_bytes + first * l->value_position_bytes;
        stride = l->heads * l->value_head_bytes;
        copy_part(cache, at + to * stride, at + from * stride, rows * l->value_position_bytes);
    }
}

/* Whether the memory before a block (step -1) or after it (step 1) may hold rows. "touched" is kept only if room is
 * limited. A head's last block lies before the next head's first. */
static bool is_touched(const struct kv_cache *cache, uint32_t place, uint32_t block, int step, uint32_t head,
                       uint32_t heads)
{
    const uint32_t last = step < 0 ? 0 : cache->blocks - 1;
    if (cache->room == UINT64_MAX)
        return true;
    if (block != last)
        return *touched(cache, place, block + (uint32_t)step);
    const bool another_head = head != (step < 0 ? 0 : heads - 1);
    const bool another_place = place != (step < 0 ? 0 : cache->sequences - 1);
    return (!another_head && !another_place) ||
           *touched(cache, another_head ? place : place + (uint32_t)step, step < 0 ? cache->blocks - 1 : 0);
}

/* Returns the memory of a part of a block. before, after: the neighbours' rows still need the pages at its ends. */
static void give_part_back(const struct kv_cache *cache, uint64_t offset, uint64_t bytes, bool before, bool after)
{
    const uint64_t page = memory_page_size(), end = offset + bytes;
    const uint64_t first = before ? align_up(offset, page) : align_down(offset, page);
    const uint64_t last = after ? align_down(end, page) : MIN(align_up(end, page), cache->bytes);
    if (first < last)
        memory_decommit(cache->memory + first, last - first);
}

static void give_heads_back(const struct kv_cache *cache, uint32_t layer, bool values, uint32_t place, uint32_t block)
{
    const struct kv_layer *l = &cache->layers[layer];
    const uint64_t row = values ? l->value_position_bytes : l->key_position_bytes;
    const uint64_t head = values ? l->value_head_bytes : l->key_head_bytes;
    const uint64_t first = (uint64_t)block * PLAN_KV_BLOCK;
    const bool ring = kv_cache_is_ring(cache, layer);
    for (uint32_t h = 0; h < l->heads && first < l->ring; h++)
        give_part_back(cache, (values ? l->values : l->keys) + ((uint64_t)place * l->heads + h) * head + first * row,
                       PLAN_KV_BLOCK * row, ring || is_touched(cache, place, block, -1, h, (uint32_t)l->heads),
                       ring || is_touched(cache, place, block, 1, h, (uint32_t)l->heads));
}

/* The positions that a sequence holds or is about to write. */
static uint32_t wanted(const struct kv_cache *cache, uint32_t sequence)
{
    return MAX(cache->held[sequence], cache->claimed[sequence]);
}

/* Returns the memory of a place that holds no sequence's rows. Its own sequence may still need the rings. */
static void give_back(struct kv_cache *cache, uint32_t place, uint32_t block)
{
    const bool ring_used = wanted(cache, place) > block * PLAN_KV_BLOCK;
    for (uint32_t i = 0; i < cache->layer_count; i++) {
        const struct kv_layer *l = &cache->layers[i];
        if (l->on_gpu)
            continue;
        if (l->heads && (!ring_used || !kv_cache_is_ring(cache, i))) {
            give_heads_back(cache, i, false, place, block);
            if (!l->values_in_keys)
                give_heads_back(cache, i, true, place, block);
        }
        for (uint32_t p = 0; p < KV_PLANES; p++) {
            const struct kv_plane *plane = &l->planes[p];
            const uint64_t rows = plane->width ? PLAN_KV_BLOCK / plane->every : 0;
            if (rows)
                give_part_back(cache, plane->offset + (place * plane->rows + block * rows) * plane->row_bytes,
                               rows * plane->row_bytes, is_touched(cache, place, block, -1, 0, 1),
                               is_touched(cache, place, block, 1, 0, 1));
        }
    }
    untouch(cache, place, block);
}

/* Whether some sequence needs a block in this place. */
static bool is_wanted(const struct kv_cache *cache, uint32_t place, uint32_t block)
{
    for (uint32_t s = 0; s < cache->sequences; s++)
        if (*place_of(cache, s, block) == place && wanted(cache, s) > block * PLAN_KV_BLOCK)
            return true;
    return false;
}

/* Returns every block that no sequence needs, including rows that are there but not held. */
static void give_all_back(struct kv_cache *cache)
{
    for (uint32_t p = 0; p < cache->sequences; p++) {
        cache->there[p] = MIN(cache->there[p], blocks_of(wanted(cache, p)) * PLAN_KV_BLOCK);
        for (uint32_t b = 0; b < cache->blocks; b++)
            if (*touched(cache, p, b) && !is_wanted(cache, p, b))
                give_back(cache, p, b);
    }
}

/* Copies the first rows of a block to another place. *copy: the part that devices have to do. false: their pool is
 * full. */
static bool copy_block(struct kv_cache *cache, uint32_t to, uint32_t from, uint32_t block, uint32_t rows,
                       struct kv_copy *copy)
{
    if (cache->pool.blocks) {
        const bool fresh = !*touched(cache, to, block);
        if (fresh && !cache->pool.free_count)
            give_all_back(cache);
        if (fresh && !cache->pool.free_count)
            return false;
        touch(cache, to, block);
        *copy = (struct kv_copy){*pool_block(cache, from, block), *pool_block(cache, to, block), rows};
    }
    for (uint32_t i = 0; i < cache->layer_count; i++)
        if (!kv_cache_is_ring(cache, i))
            copy_rows(cache, i, to, from, block, rows);
    return true;
}

bool kv_cache_own(struct kv_cache *cache, uint32_t sequence, uint32_t first, uint32_t end, struct kv_copy *copy)
{
    bool moved = false;
    *copy = (struct kv_copy){0};
    for (uint32_t b = first / PLAN_KV_BLOCK; b < blocks_of(end) && cache->can_share; b++) {
        const uint32_t place = *place_of(cache, sequence, b);
        if (!is_used(cache, place, b, sequence))
            continue;
        const uint32_t own = free_place(cache, sequence, b), start = b * PLAN_KV_BLOCK;
        if (first > start && !copy_block(cache, own, place, b, first - start, copy))
            return false;
        *place_of(cache, sequence, b) = (uint16_t)own;
        moved = true;
    }
    cache->pool.changes += moved;
    if (moved)
        note_parted(cache, sequence);
    return true;
}

void kv_cache_share(struct kv_cache *cache, uint32_t sequence, uint32_t from, uint32_t positions)
{
    for (uint32_t b = 0; b < positions / PLAN_KV_BLOCK; b++) {
        const uint32_t before = *place_of(cache, sequence, b), place = *place_of(cache, from, b);
        if (before == place)
            continue;
        *place_of(cache, sequence, b) = (uint16_t)place;
        if (!is_used(cache, before, b, sequence))
            give_back(cache, before, b);
    }
    note_parted(cache, sequence);
    cache->there[sequence] = positions;
    cache->pool.changes++;
}

/* ---- room ----------------------------------------------------------------------------------------------------------
 */

/* Whether a sequence's block is full; otherwise the sequence gets its own copy when it writes to it. */
static bool is_shareable(const struct kv_cache *cache, uint32_t sequence, uint32_t block)
{
    return (block + 1) * PLAN_KV_BLOCK <= MAX(cache->held[sequence], cache->there[sequence]);
}

uint64_t kv_cache_room_of(const struct kv_cache *cache, const uint32_t *positions)
{
    uint64_t blocks = 0;
    memset(cache->counted, 0, cache->sequences * sizeof *cache->counted);
    for (uint32_t b = 0; b < cache->blocks; b++)
        for (uint32_t s = 0; s < cache->sequences; s++) {
            uint32_t *counted = &cache->counted[*place_of(cache, s, b)];
            const bool may = is_shareable(cache, s, b);
            if (positions[s] <= b * PLAN_KV_BLOCK || (may && *counted == b + 1))
                continue;
            blocks++;
            *counted = may ? b + 1 : *counted;
        }
    return blocks * PLAN_KV_BLOCK;
}

bool kv_cache_take_room(struct kv_cache *cache, const struct span *spans, uint32_t count)
{
    bool grows = false;
    for (uint32_t i = 0; i < count && cache->room == UINT64_MAX && cache->pool.blocks; i++) {
        const uint32_t s = spans[i].sequence, held = cache->held[s];
        for (uint32_t b = held / PLAN_KV_BLOCK; b < blocks_of(held + spans[i].rows); b++)
            touch(cache, *place_of(cache, s, b), b);
    }
    for (uint32_t i = 0; i < count && cache->room != UINT64_MAX; i++) {
        const uint32_t s = spans[i].sequence, end = cache->held[s] + spans[i].rows;
        cache->claimed[s] = end;
        for (uint32_t b = 0; b < blocks_of(end); b++)
            grows = grows || !*touched(cache, *place_of(cache, s, b), b);
    }
    if (!grows)
        return true;
    uint64_t most = 0, least = 0;
    for (uint32_t p = 0; p < cache->sequences; p++)
        for (uint32_t b = 0; b < cache->blocks; b++) {
            bool is = is_wanted(cache, p, b);
            least += is ? PLAN_KV_BLOCK : 0;
            most += is || *touched(cache, p, b) ? PLAN_KV_BLOCK : 0;
        }
    if (least > cache->room) {
        for (uint32_t i = 0; i < count; i++)
            cache->claimed[spans[i].sequence] = 0;
        return false;
    }
    if (most > cache->room)
        give_all_back(cache);
    for (uint32_t p = 0; p < cache->sequences; p++)
        for (uint32_t b = 0; b < cache->blocks; b++)
            if (is_wanted(cache, p, b))
                touch(cache, p, b);
    return true;
}
