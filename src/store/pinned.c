/* The ranges of the files that hold pinned units are sorted and joined, and cut again into parts that are read in the
 * order of use. */
#include "store/store_private.h"

#include <stdlib.h>

#define POPULATE_BYTES ((uint64_t)32 << 20)

struct pinned_slice {
    const struct unit_slice *slice;
    uint32_t place; /* in store->pinned.slices */
    unit_number unit;
};

/* Units are numbered in the order of use. */
static int by_use(const void *left, const void *right)
{
    const struct load_order *a = left, *b = right;
    if (a->unit != b->unit)
        return a->unit < b->unit ? -1 : 1;
    return a->transfer < b->transfer ? -1 : a->transfer > b->transfer;
}

static int by_file_and_offset(const void *left, const void *right)
{
    const struct unit_slice *a = ((const struct pinned_slice *)left)->slice;
    const struct unit_slice *b = ((const struct pinned_slice *)right)->slice;
    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Joins sorted slices into ranges; only counts them if load is NULL. Writes positions from the arena's start to
 * slice_positions. */
static uint32_t join(const struct pinned_slice *slices, uint32_t count, struct transfer *load,
                     uint64_t *slice_positions, uint64_t *arena_bytes)
{
    uint32_t ranges = 0;
    uint64_t position = 0; /* of the range */
    struct segment range = {0};
    for (uint32_t i = 0; i < count; i++) {
        const struct unit_slice *slice = slices[i].slice;
        uint64_t start = align_down(slice->offset, IO_ALIGNMENT);
        uint64_t end = align_up(slice->offset + slice->bytes, IO_ALIGNMENT);
        if (ranges == 0 || range.file != slice->file || range.offset + range.bytes < start) {
            position += range.bytes;
            range = (struct segment){.file = slice->file, .offset = start};
            ranges++;
        }
        range.bytes = MAX(range.bytes, end - range.offset);
        range.needed = MAX(range.needed, slice->offset + slice->bytes - range.offset);
        if (load) {
            load[ranges - 1].segments[0] = range;
            slice_positions[slices[i].place] = position + (slice->offset - range.offset);
        }
    }
    *arena_bytes = position + range.bytes;
    return ranges;
}

/* A transfer ends where another layer begins, or after this much, so that an expert is read with few others. */
#define LEAST_BYTES ((uint64_t)512 << 10)

struct cuts {
    struct transfer *load;
    unit_number *first; /* the first unit of each; NULL with load: only counted */
    uint32_t count;
};

static bool belong_together(const struct store *store, unit_number a, unit_number b)
{
    const struct unit *one = store_unit(store, a), *other = store_unit(store, b);
    return one->layer == other->layer && one->kind == other->kind;
}

static void add_cut(struct cuts *cuts, const struct segment *range, uint64_t from, uint64_t to, unit_number first)
{
    if (cuts->load) {
        const uint64_t needed = range->needed - (from - range->offset);
        cuts->first[cuts->count] = first;
        cuts->load[cuts->count] = (struct transfer){.unit = NO_UNIT, .segment_count = 1, .priority = PRIORITY_AHEAD};
        cuts->load[cuts->count].segments[0] = (struct segment){.file = range->file,
                                                               .offset = from,
                                                               .bytes = to - from,
                                                               .needed = MIN(needed, to - from),
                                                               .memory = range->memory + (from - range->offset)};
    }
    cuts->count++;
}

/* Cuts ranges at pages, because a page belongs to one transfer. */
static void cut_ranges(const struct store *store, const struct pinned_slice *slices, uint32_t count,
                       const struct transfer *ranges, struct cuts *cuts)
{
    const struct segment *range = NULL;
    uint64_t from = 0;
    unit_number first = NO_UNIT;
    uint32_t next = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct unit_slice *slice = slices[i].slice;
        if (!range || range->file != slice->file || slice->offset >= range->offset + range->bytes) {
            if (range)
                add_cut(cuts, range, from, range->offset + range->bytes, first);
            range = &ranges[next++].segments[0];
            from = range->offset;
            first = slices[i].unit;
            continue;
        }
        const uint64_t at = align_up(slice->offset, IO_ALIGNMENT);
        if (at <= from || at >= range->offset + range->bytes ||
            (belong_together(store, first, slices[i].unit) && at - from < LEAST_BYTES))
            continue;
        add_cut(cuts, range, from, at, first);
        from = at;
        first = slices[i].unit;
    }
    add_cut(cuts, range, from, range->offset + range->bytes, first);
}

static hypura_status make_transfers(struct store *store, const struct pinned_slice *slices, uint32_t count,
                                    const struct transfer *ranges, hypura_error *error)
{
    struct pinned *pinned = &store->pinned;
    struct cuts cuts = {0};
    cut_ranges(store, slices, count, ranges, &cuts);
    pinned->load_count = pinned->missing = cuts.count;
    hypura_status status = ALLOCATE(&pinned->load, pinned->load_count, "table of weights", error);
    if (!status)
        status = ALLOCATE(&pinned->there, pinned->load_count, "table of weights", error);
    if (!status)
        status = ALLOCATE(&pinned->order, pinned->load_count, "table of weights", error);
    if (!status)
        status = ALLOCATE(&cuts.first, pinned->load_count, "table of weights", error);
    if (!status) {
        cuts.load = pinned->load;
        cuts.count = 0;
        cut_ranges(store, slices, count, ranges, &cuts);
        for (uint32_t i = 0; i < cuts.count; i++)
            pinned->order[i] = (struct load_order){cuts.first[i], i};
        qsort(pinned->order, cuts.count, sizeof *pinned->order, by_use);
    }
    memory_free(cuts.first);
    return status;
}

static hypura_status place_slices(struct store *store, struct pinned_slice *slices, uint32_t count, hypura_error *error)
{
    uint64_t *positions = NULL;
    struct transfer *ranges = NULL;
    qsort(slices, count, sizeof *slices, by_file_and_offset);
    const uint32_t range_count = join(slices, count, NULL, NULL, &store->pinned.bytes);
    hypura_status status = ALLOCATE(&positions, count, "table of weights", error);
    if (!status)
        status = ALLOCATE(&ranges, range_count, "table of weights", error);
    if (!status)
        status = memory_map((void **)&store->pinned.memory, store->pinned.bytes, true, "pinned weights", error);
    if (!status) {
        join(slices, count, ranges, positions, &store->pinned.bytes);
        uint8_t *memory = store->pinned.memory;
        for (uint32_t i = 0; i < range_count; i++) {
            ranges[i].segments[0].memory = memory;
            memory += ranges[i].segments[0].bytes;
        }
        for (uint32_t i = 0; i < count; i++)
            store->pinned.slices[slices[i].place] = store->pinned.memory + positions[slices[i].place];
        status = make_transfers(store, slices, count, ranges, error);
    }
    memory_free(ranges);
    memory_free(positions);
    return status;
}

static hypura_status place_on_nodes(struct store *store, uint32_t count, hypura_error *error)
{
    struct places *places = &store->places;
    uint32_t experts = 0;
    hypura_status status = places_reserve(places, count, error);
    if (status || !places_any(places))
        return status;
    for (unit_number i = 0; i < store->unit_count; i++)
        experts = (uint32_t)MAX((int64_t)experts, (int64_t)store_unit(store, i)->expert + 1);
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        for (uint32_t j = 0; store->units[i].place == PLACE_PINNED && j < unit->slice_count; j++) {
            uint8_t *memory = store->pinned.slices[store->units[i].item + j];
            if (unit->kind == UNIT_EXPERT)
                places_add(places, memory, unit->slices[j].bytes, (uint32_t)unit->expert, experts);
            else
                places_split(places, memory, unit->slices[j].bytes);
        }
    }
    places_settle(places);
    return HYPURA_OK;
}

hypura_status pinned_prepare(struct store *store, hypura_error *error)
{
    uint32_t count = 0;
    for (unit_number i = 0; i < store->unit_count; i++) {
        if (store->units[i].place != PLACE_PINNED)
            continue;
        store->units[i].item = count;
        count += store_unit(store, i)->slice_count;
    }
    if (count == 0) {
        store->loaded = true;
        atomic_store(&store->pinned.complete, true);
        return HYPURA_OK;
    }
    struct pinned_slice *slices;
    hypura_status status = ALLOCATE(&slices, count, "table of weights", error);
    if (status)
        return status;
    status = ALLOCATE(&store->pinned.slices, count, "table of weights", error);
    if (!status) {
        uint32_t place = 0;
        for (unit_number i = 0; i < store->unit_count; i++) {
            const struct unit *unit = store_unit(store, i);
            for (uint32_t j = 0; store->units[i].place == PLACE_PINNED && j < unit->slice_count; j++, place++)
                slices[place] = (struct pinned_slice){&unit->slices[j], place, i};
        }
        status = place_slices(store, slices, count, error);
    }
    if (!status)
        status = place_on_nodes(store, count, error);
    memory_free(slices);
    return status;
}

/* The end of loading: from here on, counters are those of passes. */
static void all_there(struct store *store)
{
    struct io_counters counters;
    io_counters(store->io, &counters);
    store->loaded_counters.busy_nanoseconds = counters.busy_nanoseconds;
    for (uint32_t i = 0; i < io_spread(store->io)->count; i++)
        store->loaded_of[i] = io_spread(store->io)->drives[i].bytes;
    atomic_store_explicit(&store->pinned.complete, true, memory_order_release);
}

void pinned_finished(struct store *store, struct transfer *transfer)
{
    struct pinned *pinned = &store->pinned;
    if (transfer->failure.kind != FAILURE_NONE && pinned->failure.kind == FAILURE_NONE)
        pinned->failure = transfer->failure;
    if (transfer->failure.kind == FAILURE_NONE && !transfer->abandoned) {
        pinned->there[transfer - pinned->load] = true;
        pinned->came += transfer->bytes_read;
        store->loaded_counters.bytes[PRIORITY_AHEAD] += transfer->bytes_read;
        if (--pinned->missing == 0)
            all_there(store);
    }
    pinned->load_left--;
    pthread_cond_broadcast(&store->changed);
}

static uint64_t bytes_done(const struct store *store)
{
    uint64_t done = 0;
    for (uint32_t i = 0; i < store->pinned.load_count; i++)
        done += MIN(store->pinned.load[i].bytes_read, store->pinned.load[i].segments[0].bytes);
    return done;
}

static void abandon_load(struct store *store)
{
    for (uint32_t i = 0; i < store->pinned.load_count; i++) {
        if (store->pinned.load[i].state != TRANSFER_IDLE && !store->pinned.load[i].abandoned &&
            io_abandon(store->io, &store->pinned.load[i]))
            store->pinned.load_left--;
    }
}

/* A waiting thread clears fresh pages, which would delay the I/O thread. */
static bool populate(struct store *store)
{
    struct pinned *pinned = &store->pinned;
    if (pinned->populated == pinned->bytes)
        return false;
    const uint64_t at = pinned->populated, bytes = MIN(POPULATE_BYTES, pinned->bytes - at);
    pinned->populated += bytes;
    pthread_mutex_unlock(store->mutex);
    memory_populate(pinned->memory + at, bytes);
    pthread_mutex_lock(store->mutex);
    return true;
}

static void start_all(struct store *store)
{
    struct pinned *pinned = &store->pinned;
    pinned->failure.kind = FAILURE_NONE;
    for (uint32_t i = 0; i < pinned->load_count; i++) {
        const uint32_t number = pinned->order[i].transfer;
        if (pinned->there[number])
            continue;
        pinned->load_left++;
        io_start(store->io, &pinned->load[number]);
    }
}

/* Locked. */
static void load_ranges(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context,
                        bool *stopped)
{
    while (store->pinned.load_left > 0) {
        if ((*stopped || !populate(store)) && (*stopped || !cache_populate(store)))
            store_wait_locked(store);
        uint64_t done = before + bytes_done(store);
        if (progress && !*stopped) {
            pthread_mutex_unlock(store->mutex);
            *stopped = !progress(context, done, total);
            pthread_mutex_lock(store->mutex);
        }
        *stopped |= atomic_load(&store->cancelled);
        if (*stopped || store->pinned.failure.kind != FAILURE_NONE)
            abandon_load(store);
    }
}

hypura_status pinned_load(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context,
                          hypura_error *error)
{
    struct pinned *pinned = &store->pinned;
    bool stopped = false;
    start_all(store);
    load_ranges(store, before, total, progress, context, &stopped);
    if (pinned->failure.kind != FAILURE_NONE)
        return failure_error(&pinned->failure, store->files, error);
    if (stopped)
        return error_set(error, HYPURA_ERROR_CANCELLED, "loading the weights was cancelled");
    return HYPURA_OK;
}

/* ---- loading behind ---------------------------------------------------------------------------------------------- */

void pinned_start(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context)
{
    struct pinned *pinned = &store->pinned;
    pinned->before = before;
    pinned->total = total;
    pinned->progress = progress;
    pinned->progress_context = context;
    start_all(store);
}

void pinned_passed(struct store *store)
{
    struct pinned *pinned = &store->pinned;
    if (pinned->progress)
        pinned->progress(pinned->progress_context, pinned->total, pinned->total);
    pinned->progress = NULL;
}

/* Iterates over the transfers of a unit; NULL: the end. */
struct parts_of {
    uint32_t slice, next;
};

static uint32_t transfer_at(const struct pinned *pinned, const uint8_t *memory)
{
    uint32_t from = 0, end = pinned->load_count;
    while (end - from > 1) {
        const uint32_t middle = from + (end - from) / 2;
        if (pinned->load[middle].segments[0].memory <= memory)
            from = middle;
        else
            end = middle;
    }
    return from;
}

static struct transfer *next_part(const struct store *store, unit_number number, struct parts_of *parts)
{
    const struct pinned *pinned = &store->pinned;
    const struct unit *unit = store_unit(store, number);
    for (; parts->slice < unit->slice_count; parts->slice++, parts->next = 0) {
        const uint8_t *start = pinned->slices[store->units[number].item + parts->slice];
        if (parts->next == 0)
            parts->next = transfer_at(pinned, start) + 1;
        else if (parts->next == pinned->load_count ||
                 pinned->load[parts->next].segments[0].memory >= start + unit->slices[parts->slice].bytes)
            continue;
        else
            parts->next++;
        return &pinned->load[parts->next - 1];
    }
    return NULL;
}

static bool is_here(const struct store *store, const struct transfer *part)
{
    return store->pinned.there[part - store->pinned.load];
}

bool pinned_all_there(const struct store *store)
{
    return atomic_load_explicit(&store->pinned.complete, memory_order_acquire);
}

bool pinned_is_there(const struct store *store, unit_number unit)
{
    struct parts_of parts = {0};
    if (pinned_all_there(store))
        return true;
    for (const struct transfer *part; (part = next_part(store, unit, &parts));)
        if (!is_here(store, part))
            return false;
    return true;
}

bool pinned_is_settled(struct store *store, unit_number unit)
{
    struct parts_of parts = {0};
    bool there = true;
    if (pinned_all_there(store))
        return true;
    for (const struct transfer *part; (part = next_part(store, unit, &parts));) {
        if (!is_here(store, part) && part->state == TRANSFER_IDLE)
            return true; /* it failed */
        there = there && is_here(store, part);
    }
    return there;
}

void pinned_want(struct store *store, unit_number unit)
{
    struct parts_of parts = {0};
    for (struct transfer *part; (part = next_part(store, unit, &parts));) {
        if (is_here(store, part))
            continue;
        if (part->state == TRANSFER_IDLE) {
            part->priority = PRIORITY_DEMAND;
            store->pinned.load_left++;
            io_start(store->io, part);
        } else {
            io_promote(store->io, part, PRIORITY_DEMAND);
        }
    }
}

hypura_status pinned_linger(struct store *store, hypura_error *error)
{
    struct pinned *pinned = &store->pinned;
    bool goes_on = true;
    if (!populate(store))
        store_wait_locked(store);
    if (pinned->progress) {
        const uint64_t done = pinned->before + bytes_done(store);
        pthread_mutex_unlock(store->mutex);
        goes_on = pinned->progress(pinned->progress_context, done, pinned->total);
        pthread_mutex_lock(store->mutex);
    }
    if (atomic_load(&store->cancelled))
        return store_cancelled_error(error);
    return goes_on ? HYPURA_OK : error_set(error, HYPURA_ERROR_CANCELLED, "loading the weights was cancelled");
}

hypura_status pinned_wait(struct store *store, unit_number unit, hypura_error *error)
{
    struct parts_of parts = {0};
    hypura_status status = HYPURA_OK;
    pinned_want(store, unit);
    while (!status && !pinned_is_settled(store, unit))
        status = pinned_linger(store, error);
    for (const struct transfer *part; !status && (part = next_part(store, unit, &parts));)
        if (!is_here(store, part))
            status = failure_error(&part->failure, store->files, error);
    return status;
}

void pinned_free(struct store *store)
{
    memory_unmap(store->pinned.memory, store->pinned.bytes);
    memory_free(store->pinned.slices);
    memory_free(store->pinned.load);
    memory_free(store->pinned.there);
    memory_free(store->pinned.order);
}
