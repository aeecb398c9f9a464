/* store/device: units that the plan puts on devices. Only src/engine/gpu, which computes there, includes this; to all
 * others, every unit is alike. Owners: device.c; in_place.c, moves.c, usage.c.
 *
 * store_load reads these units once and uploads them; no copy stays in memory. Experts on a device are in slots (struct
 * store_slots). If the plan lets experts change sides, store_advance gives the slots of rarely used ones to those used
 * more. So all results here are valid until the next store_advance or store_take_lent, during which the device must be
 * idle.
 */
#ifndef HYPURA_STORE_DEVICE_H
#define HYPURA_STORE_DEVICE_H

#include "compute/vulkan/gpu.h"
#include "store/store.h"

/* Which of count units from the first on, such as a layer's experts, devices hold and compute; the CPU computes the
 * others.
 */
void store_on_device(const struct store *store, unit_number first, uint32_t count, bool *there);

/* The slices of a held unit as ranges on the device: in its memory or, for an expert in the cache with
 * store_reads_in_place, in host memory. Without a buffer: the device cannot read it. */
void store_ranges(const struct store *store, unit_number unit, struct gpu_range ranges[UNIT_MAX_SLICES]);

/* Experts of a layer on one device. Slice i of the expert in slot s is at slices[i] + s * strides[i]. table: the slot
 * of each expert of the layer, 32 bits, or GPU_NO_SLOT. */
struct store_slots {
    uint32_t count; /* 0: the layer has none there; the table is valid all the same */
    struct gpu_range slices[UNIT_MAX_SLICES], table;
    struct gpu_range tables[UNIT_MAX_SLICES]; /* per slice, if they differ; without a buffer: table */
    uint64_t strides[UNIT_MAX_SLICES];
};
void store_slots(const struct store *store, uint32_t device, uint32_t layer, struct store_slots *out);

/* Whether the device reads experts in place in the cache: memory is shared, the plan has in_place, and the driver
 * allows it. */
bool store_reads_in_place(const struct store *store);

/* Memory of a device that the experts of the plan's lent layers share with its caller; NULL: there is none. It is
 * mapped if all of the device's memory can be. First the experts have it. store_take_lent, between passes while the
 * device is idle, makes the first so many bytes the caller's. Experts there leave the device at once. In what the
 * caller has no longer, experts of these layers are again from some later fixed point on. HYPURA_ERROR_DEVICE: as for
 * store_advance. store_is_taken: whether a layer's slots are in the caller's part. */
struct gpu_buffer *store_lent(const struct store *store, uint32_t device);
hypura_status store_take_lent(struct store *store, uint32_t device, uint64_t bytes, hypura_error *error);
bool store_is_taken(const struct store *store, uint32_t layer);

/* Notes experts that the device computes in this pass. They are never wanted, but their use is remembered from run to
 * run too. */
void store_note_uses(struct store *store, const unit_number *units, size_t count);

#endif
