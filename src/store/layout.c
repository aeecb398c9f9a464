#include "store/layout.h"

void unit_layout_make(struct unit_layout *out, const struct unit *unit)
{
    uint32_t order[UNIT_MAX_SLICES];
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        uint32_t at = i;
        for (; at > 0; at--) {
            const struct unit_slice *before = &unit->slices[order[at - 1]], *slice = &unit->slices[i];
            if (before->file < slice->file || (before->file == slice->file && before->offset <= slice->offset))
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    struct unit_layout layout = {0};
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct unit_slice *slice = &unit->slices[order[i]];
        uint64_t start = align_down(slice->offset, IO_ALIGNMENT);
        uint64_t end = align_up(slice->offset + slice->bytes, IO_ALIGNMENT);
        struct segment *last = layout.segment_count ? &layout.segments[layout.segment_count - 1] : NULL;
        if (!last || last->file != slice->file || last->offset + last->bytes < start) {
            last = &layout.segments[layout.segment_count++];
            *last = (struct segment){.file = slice->file, .offset = start, .bytes = end - start};
            layout.footprint += end - start;
        } else if (end > last->offset + last->bytes) {
            layout.footprint += end - last->offset - last->bytes;
            last->bytes = end - last->offset;
        }
        last->needed = MAX(last->needed, slice->offset + slice->bytes - last->offset);
        layout.slice_position[order[i]] = layout.footprint - last->bytes + (slice->offset - last->offset);
    }
    *out = layout;
}

/* The segment of a slice. */
static uint32_t segment_of(const struct unit_layout *layout, uint32_t slice)
{
    uint64_t end = 0;
    uint32_t segment = 0;
    while ((end += layout->segments[segment].bytes) <= layout->slice_position[slice])
        segment++;
    return segment;
}

/* Segments are in the order of the slices, not of the file, so that what is computed first arrives first. */
void layout_transfer(struct transfer *out, const struct unit *unit, unit_number number, uint8_t *memory,
                     enum priority priority)
{
    struct unit_layout layout;
    unit_layout_make(&layout, unit);
    out->unit = number;
    out->priority = priority;
    out->segment_count = 0;
    for (uint32_t i = 0; i < layout.segment_count; i++) {
        layout.segments[i].memory = memory;
        memory += layout.segments[i].bytes;
    }
    bool taken[UNIT_MAX_SLICES] = {false};
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        uint32_t segment = segment_of(&layout, i);
        if (!taken[segment])
            out->segments[out->segment_count++] = layout.segments[segment];
        taken[segment] = true;
    }
}

bool layout_has_arrived(const struct unit *unit, uint32_t slices, const struct transfer *transfer)
{
    struct unit_layout layout;
    unit_layout_make(&layout, unit);
    uint32_t segments = 0;
    bool counted[UNIT_MAX_SLICES] = {false};
    for (uint32_t i = 0; i < slices; i++) {
        uint32_t segment = segment_of(&layout, i);
        segments += !counted[segment];
        counted[segment] = true;
    }
    return io_has_arrived(transfer, segments);
}
