/* store/device: units that the plan puts on devices. src/engine/gpu, which computes there, includes this; for all
 * others a unit is a unit. Owners: device.c; in_place.c, usage.c.
 *
 * These units are read once, at store_load, and passed on; no copy stays in memory. Experts there stand in slots, as
 * struct store_slots says; where the plan lets them change sides, store_advance gives slots of rarely used ones to
 * those that are used more. So what is said here holds until the next store_advance, when nothing on the device may be
 * running.
 */
#ifndef HYPURA_STORE_DEVICE_H
#define HYPURA_STORE_DEVICE_H

#include "compute/vulkan/gpu.h"
#include "store/store.h"

/* Of so many units from the first on, such as the experts of a layer: which of them the device has, and computes. The
 * others are the CPU's. */
void store_on_device(const struct store *store, unit_number first, uint32_t count, bool *there);

/* Where the slices of a unit that is held are on the device: in its memory, or, of an expert in the cache while
 * store_reads_in_place, in the host's. Without a buffer: the device cannot read it. */
void store_ranges(const struct store *store, unit_number unit, struct gpu_range ranges[UNIT_MAX_SLICES]);

/* Experts of a layer on one device: slice i of the one in slot s is at slices[i] + s * strides[i]. table: for each
 * expert of the layer its slot, as 32 bits, or GPU_NO_SLOT. */
struct store_slots {
    uint32_t count; /* 0: the layer has none there; the table still says so */
    struct gpu_range slices[UNIT_MAX_SLICES], table;
    struct gpu_range tables[UNIT_MAX_SLICES]; /* of the slices, where each has its own; without a buffer: the table */
    uint64_t strides[UNIT_MAX_SLICES];
};
void store_slots(const struct store *store, uint32_t device, uint32_t layer, struct store_slots *out);

/* Whether the device can read what is in the expert cache where it is: memory is shared, the plan wants it (in_place),
 * and the driver takes it. */
bool store_reads_in_place(const struct store *store);

/* The device computes these experts in this pass: nobody wants them, and their use is remembered from run to run too.
 */
void store_note_uses(struct store *store, const unit_number *units, size_t count);

#endif
