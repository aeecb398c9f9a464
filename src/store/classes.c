#include "store/classes.h"

#include <stdlib.h>

/* Units share slots if the smaller one wastes at most this part of a slot. Slices with another offset in a page take
 * one more page, which does not matter; the two kinds of layers of a Q4_K_M file differ by a tenth or more. */
#define CLASS_TOLERANCE 32u

/* A class needs at least this many slots to work; with fewer, all units share slots of the largest size. */
#define CLASS_LEAST_SLOTS 16u

static int by_size_then_number(const void *left, const void *right)
{
    const struct sized_unit *a = left, *b = right;
    if (a->footprint != b->footprint)
        return a->footprint > b->footprint ? -1 : 1;
    return a->unit < b->unit ? -1 : a->unit > b->unit;
}

/* The class that has the smallest share of its slots and room for one more in so many bytes; count: none. */
static uint32_t poorest(const uint32_t targets[MAX_CLASSES], const struct size_class *classes, uint32_t count,
                        uint64_t left)
{
    uint32_t found = count;
    for (uint32_t i = 0; i < count; i++) {
        if (targets[i] >= classes[i].most || classes[i].stride > left)
            continue;
        if (found == count || (uint64_t)targets[i] * classes[found].most < (uint64_t)targets[found] * classes[i].most)
            found = i;
    }
    return found;
}

/* One slot each, then in proportion to the classes' units, then the rest to classes that can still use it. */
bool classes_share_out(uint32_t targets[MAX_CLASSES], const struct size_class *classes, uint32_t count, uint64_t bytes)
{
    uint64_t all = 0, least = 0;
    for (uint32_t i = 0; i < count; i++) {
        all += classes[i].unit_bytes;
        least += classes[i].stride;
    }
    if (bytes < least)
        return false;
    uint64_t left = bytes - least;
    for (uint32_t i = 0; i < count; i++) {
        double part = (double)bytes * ((double)classes[i].unit_bytes / (double)MAX(all, (uint64_t)1));
        uint64_t slots = MIN((uint64_t)(part / (double)classes[i].stride), (uint64_t)classes[i].most);
        uint64_t more = MIN(slots > 0 ? slots - 1 : 0, left / classes[i].stride);
        targets[i] = (uint32_t)more + 1;
        left -= more * classes[i].stride;
    }
    for (uint32_t i; (i = poorest(targets, classes, count, left)) < count;) {
        targets[i]++;
        left -= classes[i].stride;
    }
    return true;
}

static void merge(struct size_class *classes, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        classes[0].unit_count += classes[i].unit_count;
        classes[0].here += classes[i].here;
        classes[0].most += classes[i].most;
        classes[0].unit_bytes += classes[i].unit_bytes;
    }
}

uint32_t classes_find(struct size_class classes[MAX_CLASSES], struct sized_unit *units, uint32_t count,
                      uint64_t alignment, uint32_t moves, uint64_t cache_bytes)
{
    uint32_t found = 0, targets[MAX_CLASSES];
    if (count == 0)
        return 0;
    qsort(units, count, sizeof *units, by_size_then_number);
    for (uint32_t i = 0; i < count; i++) {
        struct size_class *last = found ? &classes[found - 1] : NULL;
        if (!last || (found < MAX_CLASSES && units[i].footprint < last->stride - last->stride / CLASS_TOLERANCE)) {
            last = &classes[found++];
            *last = (struct size_class){.stride = align_up(units[i].footprint, alignment)};
        }
        last->unit_count++;
        last->here += units[i].here;
        last->unit_bytes += units[i].here ? units[i].footprint : 0;
    }
    for (uint32_t i = 0; i < found; i++)
        classes[i].most = MIN(classes[i].here + MAX(moves, 1u), classes[i].unit_count);
    bool enough = classes_share_out(targets, classes, found, cache_bytes);
    for (uint32_t i = 0; enough && i < found; i++)
        enough = targets[i] >= MIN(CLASS_LEAST_SLOTS, classes[i].most);
    if (enough)
        return found;
    merge(classes, found);
    return 1;
}
