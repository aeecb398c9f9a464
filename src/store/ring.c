/* The ring: streamed tensors and pieces of tensors, which forward passes use in the order of their numbers, over and
 * over. Both are called tensors here.
 *
 * The cursor is the tensor that was requested last. Tensors after it are read ahead in order, as many as the window
 * holds. Room comes from the tensor whose next use is farthest away, which in a cyclic order is the one used last. So
 * memory beyond the window keeps some tensors for the next cycle, as the optimal policy would.
 *
 * Resident pieces are part of the order too, because they may be released while running; until then they are skipped.
 *
 * Tensors differ in size. So room is a place in one range of memory: the gap, or the adjacent tensors, whose loss costs
 * least.
 */
#include "store/store_private.h"

#define NO_ENTRY UINT32_MAX

static struct stored_unit *entry_unit(struct store *store, uint32_t entry)
{
    return &store->units[store->ring.entries[entry].unit];
}

/* Steps until an entry is used: 0 is the one after the cursor. */
static uint32_t distance(const struct ring *ring, uint32_t entry)
{
    return (entry + ring->count - 1 - ring->cursor) % ring->count;
}

/* Whether an entry is a resident piece. */
static bool is_kept(struct store *store, uint32_t entry)
{
    return entry_unit(store, entry)->place == PLACE_PINNED;
}

/* The whole pages of a resident piece, without those at its ends that it shares with neighbours. */
static uint64_t own_pages(const struct store *store, unit_number unit)
{
    uint64_t page = memory_page_size(), bytes = store_unit(store, unit)->bytes;
    return bytes > 2 * page ? align_down(bytes - 2 * page, page) : 0;
}

static uint64_t ring_bytes_of(const struct store *store, unit_number unit)
{
    return align_up(unit_footprint(store, unit), memory_page_size());
}

static void add_entry(struct store *store, uint32_t entry, unit_number unit)
{
    struct ring *ring = &store->ring;
    if (store->units[unit].place == PLACE_PINNED)
        ring->kept += own_pages(store, unit);
    else
        store->units[unit].item = entry;
    ring->entries[entry].unit = unit;
    ring->entries[entry].bytes = ring_bytes_of(store, unit);
    ring->largest = MAX(ring->largest, ring->entries[entry].bytes);
    ring->total += ring->entries[entry].bytes;
}

/* Whether a unit streams, or is a resident piece that could. A piece that the ring has no room for always stays. */
static bool belongs(const struct store *store, unit_number unit, uint64_t bytes)
{
    return store->units[unit].place == PLACE_RING ||
           (unit >= store->model_units && ring_bytes_of(store, unit) <= bytes);
}

/* The group of a whole tensor, not of a piece. */
static uint32_t group_of(const struct store_source *source, unit_number unit)
{
    return source->groups && unit < source->unit_count ? source->groups[unit] : 0;
}

/* The least bytes with which the ring works: for any tensor of a group (struct plan) next to the earlier ones. n
 * tensors leave up to n + 1 gaps. */
static uint64_t find_least(const struct store *store, const struct store_source *source)
{
    const struct ring *ring = &store->ring;
    uint64_t least = ring->largest, before = 0, count = 0;
    for (uint32_t i = 0; i < ring->count; i++) {
        const struct unit *unit = store_unit(store, ring->entries[i].unit);
        const struct unit *previous = i ? store_unit(store, ring->entries[i - 1].unit) : NULL;
        uint32_t group = group_of(source, ring->entries[i].unit);
        if (!previous || !group || previous->layer != unit->layer ||
            group_of(source, ring->entries[i - 1].unit) != group)
            before = count = 0;
        count++;
        least = MAX(least, before + count * ring->entries[i].bytes);
        before += ring->entries[i].bytes;
    }
    return least;
}

hypura_status ring_prepare(struct store *store, const struct store_source *source, hypura_error *error)
{
    const uint64_t bytes = source->ring_bytes;
    struct ring *ring = &store->ring;
    ring->waiting = (struct waiting_list){NO_UNIT, NO_UNIT};
    ring->lowest = NO_ENTRY;
    for (unit_number i = 0; i < store->unit_count; i++)
        ring->count += belongs(store, i, bytes);
    if (ring->count == 0)
        return HYPURA_OK;
    hypura_status status = ALLOCATE(&ring->entries, ring->count, "streamed tensors", error);
    if (status)
        return status;
    uint32_t entry = 0;
    for (unit_number i = 0; i < store->model_units; i++) {
        struct store_pieces pieces = store_pieces(store, i);
        for (uint32_t piece = 0; piece < pieces.count; piece++) {
            if (belongs(store, pieces.first + piece, bytes))
                add_entry(store, entry++, pieces.first + piece);
        }
    }
    ring->cursor = ring->count - 1;
    ring->reserved = ring->total + ring->largest;
    ring->window = MIN(bytes, ring->reserved);
    ring->least = find_least(store, source);
    if (bytes < ring->least)
        return error_set(error, HYPURA_ERROR_MEMORY,
                         "a ring of %llu bytes does not hold the largest streamed tensor: the smallest that works has "
                         "%llu",
                         (unsigned long long)bytes, (unsigned long long)ring->least);
    status = memory_map((void **)&ring->memory, ring->reserved, false, "streamed tensors", error);
    if (!status && places_any(&store->places))
        hardware_interleave(&store->places.nodes, ring->memory, ring->reserved);
    if (!status)
        ring_set_capacity(store, bytes);
    return status;
}

void ring_free(struct store *store)
{
    memory_unmap(store->ring.memory, store->ring.reserved);
    memory_free(store->ring.entries);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void link_entry(struct ring *ring, uint32_t number, uint64_t position)
{
    struct ring_entry *entry = &ring->entries[number];
    uint32_t lower = NO_ENTRY, higher = ring->lowest;
    while (higher != NO_ENTRY && ring->entries[higher].position < position) {
        lower = higher;
        higher = ring->entries[higher].higher;
    }
    entry->position = position;
    entry->lower = lower;
    entry->higher = higher;
    if (lower == NO_ENTRY)
        ring->lowest = number;
    else
        ring->entries[lower].higher = number;
    if (higher != NO_ENTRY)
        ring->entries[higher].lower = number;
    ring->used += entry->bytes;
}

static void unlink_entry(struct ring *ring, uint32_t number)
{
    struct ring_entry *entry = &ring->entries[number];
    if (entry->lower == NO_ENTRY)
        ring->lowest = entry->higher;
    else
        ring->entries[entry->lower].higher = entry->higher;
    if (entry->higher != NO_ENTRY)
        ring->entries[entry->higher].lower = entry->lower;
    ring->used -= entry->bytes;
}

static bool is_above(const struct ring *ring, uint32_t entry)
{
    return ring->entries[entry].position + ring->entries[entry].bytes > ring->capacity;
}

/* A shrink is done when nothing is above the capacity. */
static void finish_shrink(struct ring *ring)
{
    if (ring->committed <= ring->capacity)
        return;
    for (uint32_t i = ring->lowest; i != NO_ENTRY; i = ring->entries[i].higher) {
        if (is_above(ring, i))
            return;
    }
    memory_set_huge(ring->memory + ring->capacity, ring->committed - ring->capacity, false);
    memory_decommit(ring->memory + ring->capacity, ring->committed - ring->capacity);
    ring->committed = ring->capacity;
}

static void evict(struct store *store, uint32_t number)
{
    struct stored_unit *unit = entry_unit(store, number);
    unlink_entry(&store->ring, number);
    unit->stage = STAGE_ABSENT;
    unit->memory = NULL;
    finish_shrink(&store->ring);
}

/* ---- room -------------------------------------------------------------------------------------------------------- */

/* Whether an entry in memory may be evicted: its next use is at least this many steps away. */
static bool may_go(struct store *store, uint32_t entry, uint32_t nearest, bool force)
{
    const struct stored_unit *unit = entry_unit(store, entry);
    if (unit->stage != STAGE_READY || unit->holds > 0)
        return false;
    return force || (unit->wants == 0 && distance(&store->ring, entry) >= nearest);
}

/* The cheapest place for some bytes: all entries between two that stay are evicted. */
struct place {
    uint64_t position;
    uint32_t first, end; /* entries to evict, by position; end is the first that stays, or NO_ENTRY */
    double cost;         /* bytes lost, weighted by how soon they are used */
    uint64_t gap;        /* of two places with the same cost, the tighter is better */
};

static bool find_place(struct store *store, uint64_t bytes, uint32_t nearest, bool force, struct place *best)
{
    struct ring *ring = &store->ring;
    bool found = false;
    uint32_t first = ring->lowest, end = ring->lowest;
    uint64_t start = 0;
    double cost = 0;
    /* [start, stop) is the room if the entries from first up to end are evicted; both ends only move up. */
    for (;;) {
        uint64_t stop = end == NO_ENTRY ? ring->capacity : MIN(ring->entries[end].position, ring->capacity);
        if (stop >= start && stop - start >= bytes) {
            if (!found || cost < best->cost || (cost <= best->cost && stop - start < best->gap))
                *best = (struct place){start, first, end, cost, stop - start};
            found = true;
            if (first == end) { /* an empty gap: the next one */
                if (end == NO_ENTRY)
                    return found;
                start = ring->entries[end].position + ring->entries[end].bytes;
                first = end = ring->entries[end].higher;
                cost = 0;
            } else { /* try with one entry less */
                const struct ring_entry *entry = &ring->entries[first];
                cost -= (double)entry->bytes * (ring->count - distance(ring, first));
                start = entry->position + entry->bytes;
                first = entry->higher;
            }
        } else if (end == NO_ENTRY) {
            return found;
        } else if (may_go(store, end, nearest, force)) {
            cost += (double)ring->entries[end].bytes * (ring->count - distance(ring, end));
            end = ring->entries[end].higher;
        } else {
            start = ring->entries[end].position + ring->entries[end].bytes;
            first = end = ring->entries[end].higher;
            cost = 0;
        }
    }
}

static bool start(struct store *store, uint32_t number, enum priority priority, uint32_t nearest, bool force)
{
    struct ring *ring = &store->ring;
    struct ring_entry *entry = &ring->entries[number];
    struct place place = {0};
    if (!find_place(store, entry->bytes, nearest, force, &place))
        return false;
    for (uint32_t i = place.first; i != place.end;) {
        uint32_t next = ring->entries[i].higher;
        bool wanted = entry_unit(store, i)->wants > 0;
        evict(store, i);
        if (wanted) {
            entry_unit(store, i)->stage = STAGE_WAITING;
            waiting_append(store, &ring->waiting, ring->entries[i].unit);
        }
        i = next;
    }
    link_entry(ring, number, place.position);
    struct stored_unit *unit = entry_unit(store, number);
    unit->stage = STAGE_READING;
    unit->memory = ring->memory + place.position;
    layout_transfer(&entry->transfer, store_unit(store, entry->unit), entry->unit, unit->memory, priority);
    io_start(store->io, &entry->transfer);
    return true;
}

/* Stops reading ahead the tensor that is used last, to make room for one that is needed now. */
static bool abandon_farthest(struct store *store)
{
    struct ring *ring = &store->ring;
    uint32_t farthest = NO_ENTRY;
    for (uint32_t i = ring->lowest; i != NO_ENTRY; i = ring->entries[i].higher) {
        const struct stored_unit *unit = entry_unit(store, i);
        if (unit->stage == STAGE_READING && unit->wants == 0 && !ring->entries[i].transfer.abandoned &&
            (farthest == NO_ENTRY || distance(ring, i) > distance(ring, farthest)))
            farthest = i;
    }
    if (farthest == NO_ENTRY)
        return false;
    if (io_abandon(store->io, &ring->entries[farthest].transfer))
        evict(store, farthest);
    return true;
}

static bool is_draining(const struct ring *ring)
{
    for (uint32_t i = ring->lowest; i != NO_ENTRY; i = ring->entries[i].higher) {
        if (ring->entries[i].transfer.abandoned && ring->entries[i].transfer.state != TRANSFER_IDLE)
            return true;
    }
    return false;
}

/* ---- reading ahead ----------------------------------------------------------------------------------------------- */

static void read_ahead(struct store *store)
{
    struct ring *ring = &store->ring;
    uint64_t ahead = 0;
    for (uint32_t steps = 0; steps + 1 < ring->count && ahead < ring->window; steps++) {
        uint32_t number = (ring->cursor + 1 + steps) % ring->count;
        const struct stored_unit *unit = entry_unit(store, number);
        if (is_kept(store, number))
            continue;
        if (unit->stage == STAGE_ABSENT) {
            if (unit->skips >= SKIPS)
                continue;
            if (!start(store, number, PRIORITY_AHEAD, steps + 1, false))
                return;
        }
        ahead += ring->entries[number].bytes;
    }
}

void ring_pump(struct store *store)
{
    struct ring *ring = &store->ring;
    while (ring->waiting.first != NO_UNIT) {
        uint32_t number = store->units[ring->waiting.first].item;
        /* For a tensor that is needed now, any tensor that is not wanted may be evicted. */
        waiting_remove(store, &ring->waiting, ring->entries[number].unit);
        while (!start(store, number, PRIORITY_DEMAND, 0, false)) {
            if (is_draining(ring) || !abandon_farthest(store)) {
                waiting_prepend(store, &ring->waiting, ring->entries[number].unit);
                return;
            }
        }
    }
    if (ring->count > 0 && !atomic_load(&store->cancelled))
        read_ahead(store);
}

void ring_want(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct ring_entry *entry = &store->ring.entries[unit->item];
    if (unit->stage == STAGE_READING && !entry->transfer.abandoned) {
        io_promote(store->io, &entry->transfer, PRIORITY_DEMAND);
    } else if (unit->stage == STAGE_ABSENT) {
        unit->stage = STAGE_WAITING;
        waiting_append(store, &store->ring.waiting, number);
    }
}

void ring_ask(struct store *store, unit_number number)
{
    struct ring *ring = &store->ring;
    uint32_t entry = store->units[number].item;
    /* Entries in between were skipped, unless this is a step back: then a pass began again or was cut short. */
    uint32_t steps = distance(ring, entry);
    if (entry != ring->cursor && steps < ring->count / 2 + 1) {
        for (uint32_t i = 0; i < steps; i++) {
            struct stored_unit *passed = entry_unit(store, (ring->cursor + 1 + i) % ring->count);
            if (passed->wants == 0 && passed->skips < SKIPS)
                passed->skips++;
        }
    }
    store->units[number].skips = 0;
    ring->cursor = entry;
}

void ring_released(struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    if (unit->stage == STAGE_READY && is_above(&store->ring, unit->item))
        evict(store, unit->item);
    ring_pump(store);
}

void ring_unwanted(struct store *store, unit_number number)
{
    io_promote(store->io, &store->ring.entries[store->units[number].item].transfer, PRIORITY_AHEAD);
}

void ring_finished(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct ring *ring = &store->ring;
    struct transfer *transfer = &ring->entries[unit->item].transfer;
    if (transfer->abandoned || transfer->failure.kind != FAILURE_NONE) {
        evict(store, unit->item);
        if (unit_not_brought(store, number, transfer))
            waiting_append(store, &ring->waiting, number);
    } else {
        unit->stage = STAGE_READY;
        if (unit->wants == 0 && is_above(ring, unit->item))
            evict(store, unit->item);
    }
    /* A failed read is not repeated ahead of need, or a broken drive would be read without end. */
    if (transfer->failure.kind != FAILURE_NONE)
        unit->skips = SKIPS;
    ring_pump(store);
}

bool ring_force(struct store *store, unit_number number)
{
    struct ring *ring = &store->ring;
    waiting_remove(store, &ring->waiting, number);
    waiting_prepend(store, &ring->waiting, number);
    ring_pump(store);
    if (store->units[number].stage != STAGE_WAITING)
        return true;
    for (uint32_t i = ring->lowest; i != NO_ENTRY; i = ring->entries[i].higher) {
        if (entry_unit(store, i)->stage == STAGE_READING)
            return true; /* something will change */
    }
    waiting_remove(store, &ring->waiting, number);
    if (start(store, store->units[number].item, PRIORITY_DEMAND, 0, true))
        return true;
    waiting_prepend(store, &ring->waiting, number);
    return false;
}

void ring_set_capacity(struct store *store, uint64_t bytes)
{
    struct ring *ring = &store->ring;
    bytes = align_down(MIN(bytes, ring->reserved), memory_page_size());
    ring->capacity = bytes;
    if (bytes >= ring->committed) {
        memory_set_huge(ring->memory + ring->committed, bytes - ring->committed, true);
        ring->committed = bytes;
        return;
    }
    for (uint32_t i = ring->lowest; i != NO_ENTRY;) {
        uint32_t next = ring->entries[i].higher;
        const struct stored_unit *unit = entry_unit(store, i);
        if (is_above(ring, i) && unit->wants == 0 && unit->holds == 0 && !ring->entries[i].transfer.abandoned) {
            if (unit->stage == STAGE_READY || io_abandon(store->io, &ring->entries[i].transfer))
                evict(store, i);
        }
        i = next;
    }
    finish_shrink(ring);
}

/* Releases pieces spread evenly over the resident ones. Their addresses stay unused; later they are read into the ring.
 */
void ring_give_back(struct store *store)
{
    struct ring *ring = &store->ring;
    uint64_t share = ring->to_give, all = ring->kept, passed = 0, given = 0;
    if (share == 0 || !atomic_load(&store->pinned.complete)) /* while loading, pieces are read to their own addresses */
        return;
    for (uint32_t i = 0; i < ring->count && given < share; i++) {
        unit_number number = ring->entries[i].unit;
        struct stored_unit *unit = &store->units[number];
        uint64_t bytes = is_kept(store, i) ? own_pages(store, number) : 0;
        passed += bytes;
        if (bytes == 0 || (double)given >= (double)passed / (double)all * (double)share)
            continue;
        uint8_t *memory = store->pinned.slices[unit->item];
        memory_set_huge((void *)align_up((uintptr_t)memory, memory_page_size()), bytes, false);
        memory_decommit(memory, store_unit(store, number)->bytes);
        *unit = (struct stored_unit){.place = PLACE_RING, .item = i};
        given += bytes;
        ring->kept -= bytes;
    }
    ring->to_give = 0;
    ring_set_capacity(store, ring->capacity + ring->lent);
    ring->lent = 0;
    ring_pump(store);
}
