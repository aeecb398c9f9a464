/* Files of random bytes with units laid out as in a GGUF file: tensors one after another, and experts whose three
 * slices lie in three stacked tensors. */
#ifndef HYPURA_TEST_STORE_FIXTURE_H
#define HYPURA_TEST_STORE_FIXTURE_H

#include "test.h"

#include "store/store_private.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define FIXTURE_FILES 2u

struct fixture {
    char paths[FIXTURE_FILES][64];
    const char *path_table[FIXTURE_FILES];
    uint8_t *bytes[FIXTURE_FILES];
    uint64_t sizes[FIXTURE_FILES];
    uint32_t tensors, layers, experts; /* the units: tensors, then layers x experts */
    uint32_t count;
    struct unit *units;
    uint8_t *tiers, *in_ring;
    const struct plan_cut *cuts; /* NULL: no tensor is in pieces */
    const uint8_t *streams;
    const uint8_t *groups;                     /* [count]; NULL: no tensors are held together */
    uint64_t tensor_footprint, largest_tensor; /* sum and largest footprint when fixture_make returns */
    uint64_t expert_footprint, largest_expert;
};

struct fixture_shape {
    const char *folder; /* NULL: /tmp */
    uint32_t tensors, layers, experts;
    uint32_t tensor_bytes; /* largest size of a tensor; sizes vary */
    uint32_t slice_bytes;  /* size of an expert's slices; in every other layer the third is larger by half */
    bool pin_tensors, pin_experts;
};

__attribute__((unused)) static const struct unit *fixture_unit(const void *model, unit_number unit)
{
    return &((const struct fixture *)model)->units[unit];
}

static uint64_t take_range(struct fixture *fixture, uint32_t file, uint64_t bytes)
{
    uint64_t at = align_up(fixture->sizes[file], 32);
    fixture->sizes[file] = at + bytes;
    return at;
}

__attribute__((unused)) static uint64_t footprint(const struct fixture *fixture, unit_number unit)
{
    struct unit_layout layout;
    unit_layout_make(&layout, &fixture->units[unit]);
    return layout.footprint;
}

/* The sum of the footprints of all units of a kind, and the largest of them. */
static uint64_t footprints(const struct fixture *fixture, enum unit_kind kind, uint64_t *largest)
{
    uint64_t sum = 0;
    *largest = 0;
    for (uint32_t i = 0; i < fixture->count; i++) {
        if (fixture->units[i].kind != kind)
            continue;
        sum += footprint(fixture, i);
        *largest = MAX(*largest, footprint(fixture, i));
    }
    return sum;
}

static void fixture_make(struct fixture *fixture, const struct fixture_shape *shape)
{
    struct random random;
    random_seed(&random, 7);
    memset(fixture, 0, sizeof *fixture);
    fixture->tensors = shape->tensors;
    fixture->layers = shape->layers;
    fixture->experts = shape->experts;
    fixture->count = shape->tensors + shape->layers * shape->experts;
    assert_ok(ALLOCATE(&fixture->units, fixture->count, "test", &test_error));
    assert_ok(ALLOCATE(&fixture->tiers, fixture->count, "test", &test_error));
    assert_ok(ALLOCATE(&fixture->in_ring, fixture->count, "test", &test_error));
    fixture->sizes[0] = 777; /* the header */
    fixture->sizes[1] = 33;
    for (uint32_t i = 0; i < shape->tensors; i++) {
        uint64_t bytes = 1 + random_next(&random) % shape->tensor_bytes;
        uint32_t file = i & 1;
        fixture->units[i] =
            (struct unit){.kind = UNIT_TENSOR, .layer = -1, .expert = -1, .slice_count = 1, .bytes = bytes};
        fixture->units[i].slices[0] =
            (struct unit_slice){.file = file, .offset = take_range(fixture, file, bytes), .bytes = bytes};
        fixture->tiers[i] = shape->pin_tensors ? TIER_RAM : TIER_STORAGE;
        fixture->in_ring[i] = !shape->pin_tensors;
    }
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        for (uint32_t j = 0; j < 3; j++) {
            uint32_t file = (layer + (j == 2)) & 1; /* the third slice is in the other file */
            uint64_t bytes = shape->slice_bytes + (j == 2 && layer % 2 ? shape->slice_bytes / 2 : 0);
            uint64_t start = take_range(fixture, file, bytes * shape->experts);
            for (uint32_t expert = 0; expert < shape->experts; expert++) {
                uint32_t number = shape->tensors + layer * shape->experts + expert;
                struct unit *unit = &fixture->units[number];
                unit->kind = UNIT_EXPERT;
                unit->layer = (int32_t)layer;
                unit->expert = (int32_t)expert;
                unit->bytes += bytes;
                unit->slices[unit->slice_count++] =
                    (struct unit_slice){.file = file, .offset = start + expert * bytes, .bytes = bytes};
                fixture->tiers[number] = shape->pin_experts ? TIER_RAM : TIER_STORAGE;
            }
        }
    }
    for (uint32_t file = 0; file < FIXTURE_FILES; file++) {
        snprintf(fixture->paths[file], sizeof fixture->paths[file], "%s/hypura-test-store-XXXXXX",
                 shape->folder ? shape->folder : "/tmp");
        int descriptor = mkstemp(fixture->paths[file]);
        assert_true(descriptor >= 0);
        fixture->path_table[file] = fixture->paths[file];
        fixture->bytes[file] = malloc(fixture->sizes[file] + 8);
        for (uint64_t i = 0; i < fixture->sizes[file]; i += 8) {
            uint64_t value = random_next(&random);
            memcpy(fixture->bytes[file] + i, &value, 8);
        }
        assert_int_equal(write(descriptor, fixture->bytes[file], fixture->sizes[file]), fixture->sizes[file]);
        close(descriptor);
    }
    fixture->tensor_footprint = footprints(fixture, UNIT_TENSOR, &fixture->largest_tensor);
    fixture->expert_footprint = footprints(fixture, UNIT_EXPERT, &fixture->largest_expert);
}

static void fixture_free(struct fixture *fixture)
{
    for (uint32_t file = 0; file < FIXTURE_FILES; file++) {
        unlink(fixture->paths[file]);
        free(fixture->bytes[file]);
    }
    memory_free(fixture->units);
    memory_free(fixture->tiers);
    memory_free(fixture->in_ring);
}

static struct store_source fixture_source(const struct fixture *fixture, uint64_t ring, uint64_t cache)
{
    return (struct store_source){.model = fixture,
                                 .unit = fixture_unit,
                                 .unit_count = fixture->count,
                                 .tiers = fixture->tiers,
                                 .in_ring = fixture->in_ring,
                                 .cuts = fixture->cuts,
                                 .streams = fixture->streams,
                                 .groups = fixture->groups,
                                 .paths = fixture->path_table,
                                 .file_count = FIXTURE_FILES,
                                 .ring_bytes = ring,
                                 .expert_cache_bytes = cache};
}

__attribute__((unused)) static bool is_right(const struct fixture *fixture, unit_number number,
                                             const struct store_view *view)
{
    const struct unit *unit = &fixture->units[number];
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct unit_slice *slice = &unit->slices[i];
        if (memcmp(view->slices[i], fixture->bytes[slice->file] + slice->offset, slice->bytes) != 0)
            return false;
    }
    return true;
}

/* Gets a unit, compares every byte with the file's, and puts the unit back. */
__attribute__((unused)) static void get_and_check(struct store *store, const struct fixture *fixture, unit_number unit)
{
    struct store_view view;
    assert_ok(store_get(store, unit, &view, &test_error));
    if (!is_right(fixture, unit, &view))
        fail_msg("the bytes of unit %u differ from the file's", unit);
    store_put(store, unit);
}

__attribute__((unused)) static struct store *open_store(const struct fixture *fixture, uint64_t ring, uint64_t cache,
                                                        const struct store_options *options,
                                                        const struct io_fault *fault)
{
    struct store *store = NULL;
    struct store_source source = fixture_source(fixture, ring, cache);
    assert_ok(store_open_source(&store, &source, options, fault, &test_error));
    assert_ok(store_load(store, NULL, NULL, &test_error));
    return store;
}

/* Waits until no read is in flight. Whatever ends a read also starts the next one, so nothing is queued either. */
__attribute__((unused)) static void wait_until_idle(struct store *store)
{
    for (bool busy = true; busy;) {
        usleep(1000);
        pthread_mutex_lock(store->mutex);
        busy = io_busy(store->io) || io_unfinished(store->io, PRIORITY_PREFETCH) > 0;
        pthread_mutex_unlock(store->mutex);
    }
}

#endif
