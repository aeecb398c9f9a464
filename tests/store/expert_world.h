/* For the tests of prefetching and filling: a cache of experts on a drive whose reads can be counted, slowed down, held
 * back or made to fail. */
#ifndef HYPURA_TEST_EXPERT_WORLD_H
#define HYPURA_TEST_EXPERT_WORLD_H

#include "fixture.h"

#include <errno.h>
#include <stdatomic.h>

/* 4 layers of 16 experts. */
static const struct fixture_shape shape = {
    .tensors = 2, .layers = 4, .experts = 16, .tensor_bytes = 5000, .slice_bytes = 20000, .pin_tensors = true};

struct world {
    struct fixture fixture;
    struct store *store;
    uint64_t largest;
    atomic_uint reads, largest_read, sleep_microseconds;
    atomic_bool broken;
    atomic_uint spared;         /* the one unit that a broken drive still reads; 0: none */
    atomic_bool stop_after_one; /* the drive answers one more read, then nothing until io_hold(false) */
    struct io_fault fault;
};

/* Whether a segment of the unit begins at this offset. */
static bool begins(const struct world *world, unit_number unit, uint32_t file, uint64_t offset)
{
    struct unit_layout layout;
    unit_layout_make(&layout, &world->fixture.units[unit]);
    for (uint32_t i = 0; i < layout.segment_count; i++) {
        if (layout.segments[i].file == file && layout.segments[i].offset == offset)
            return true;
    }
    return false;
}

static bool is_broken(struct world *world, uint32_t file, uint64_t offset)
{
    bool spared = !atomic_load(&world->broken) || begins(world, atomic_load(&world->spared), file, offset);
    for (unit_number i = 0; i < world->fixture.tensors; i++)
        spared = spared || begins(world, i, file, offset);
    return !spared;
}

static int watch(void *context, uint32_t file, uint64_t offset, uint32_t *bytes)
{
    struct world *world = context;
    atomic_fetch_add(&world->reads, 1);
    if (*bytes > atomic_load(&world->largest_read))
        atomic_store(&world->largest_read, *bytes);
    if (atomic_load(&world->sleep_microseconds))
        usleep(atomic_load(&world->sleep_microseconds));
    if (atomic_exchange(&world->stop_after_one, false))
        io_hold(world->store->io, true);
    return is_broken(world, file, offset) ? EIO : 0;
}

static void make_world(struct world *world, const struct fixture_shape *of)
{
    *world = (struct world){0};
    fixture_make(&world->fixture, of);
    footprints(&world->fixture, UNIT_EXPERT, &world->largest);
    world->fault = (struct io_fault){watch, world};
}

static void open_world(struct world *world, uint64_t slots, const struct store_options *options)
{
    world->store = open_store(&world->fixture, 0, slots * world->largest, options, &world->fault);
}

static void close_world(struct world *world)
{
    store_close(world->store);
    fixture_free(&world->fixture);
}

static unit_number expert(uint32_t layer, uint32_t number)
{
    return shape.tensors + layer * shape.experts + number;
}

static bool is_cached(struct world *world, unit_number unit)
{
    return store_unit_state(world->store, unit) == UNIT_CACHED;
}

static struct store_statistics statistics(struct world *world)
{
    struct store_statistics result;
    store_statistics(world->store, &result);
    return result;
}

#endif
