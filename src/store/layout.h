/* store/layout: where the slices of a unit are in files, and in the memory that they are read into. Owner: layout.c. */
#ifndef HYPURA_STORE_LAYOUT_H
#define HYPURA_STORE_LAYOUT_H

#include "store/io.h"

/* The segments that enclose a unit's slices, with adjacent ones joined, and the position of each slice from the start
 * of the memory. Segments are adjacent in memory. Their "memory" is left NULL. */
struct unit_layout {
    uint32_t segment_count;
    struct segment segments[UNIT_MAX_SLICES];
    uint64_t slice_position[UNIT_MAX_SLICES];
    uint64_t footprint; /* sum of the segments' bytes */
};

void unit_layout_make(struct unit_layout *out, const struct unit *unit);

/* Makes a transfer that reads a unit, with this number, to memory. */
void layout_transfer(struct transfer *out, const struct unit *unit, unit_number number, uint8_t *memory,
                     enum priority priority);

/* Whether the first "slices" slices of a unit that is being read have arrived. */
bool layout_has_arrived(const struct unit *unit, uint32_t slices, const struct transfer *transfer);

#endif
