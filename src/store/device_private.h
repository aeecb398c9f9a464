/* store/device (private): units in devices' memory. Owner: device.c. */
#ifndef HYPURA_STORE_DEVICE_PRIVATE_H
#define HYPURA_STORE_DEVICE_PRIVATE_H

#include "store/device.h"
#include "store/io.h"

struct store;
struct store_source;

/* The unit number of transfers that load a GPU's units; transfers of pinned ranges have NO_UNIT. */
#define DEVICE_UNIT (NO_UNIT - 1)

/* Not locked, before anything else runs, except for device_finished. */
hypura_status devices_prepare(struct store *store, struct gpu *const *gpus, uint32_t count,
                              const struct store_source *source, hypura_error *error);
void devices_free(struct store *store);
hypura_status devices_load(struct store *store, uint64_t total, store_progress progress, void *context,
                           hypura_error *error); /* total: what progress is told */
uint64_t devices_bytes(const struct store *store);
uint64_t device_import_alignment(const struct gpu *gpu); /* of memory that the GPU reads in place */
void device_finished(struct store *store, struct transfer *transfer);
uint32_t device_slots(const struct store *store, uint32_t layer); /* how many experts of a layer can be on devices */
bool device_lends(const struct store *store, uint32_t layer);     /* its slots are in lent memory */
/* Sets how much of it is taken; returns how much was before. */
uint64_t device_take(struct store *store, uint32_t device, uint64_t bytes);
/* The slot of an expert that is on a device; and whether a layer has an empty one from this number on. */
struct device_slot device_slot_of(const struct store *store, unit_number unit);
bool device_find_empty(const struct store *store, uint32_t layer, uint32_t from, struct device_slot *out);
/* An expert leaves its slot, and another of its layer comes to an empty one; first the table says that the slot is
 * empty, then whose it is. */
void device_leave(struct store *store, unit_number out);
void device_come(struct store *store, unit_number in, struct device_slot slot);
/* Sends the tables while no GPU reads them. HYPURA_ERROR_DEVICE: the device may lack the new table, and must not
 * compute with the old one. */
hypura_status devices_send_tables(struct store *store, hypura_error *error);
/* Copies an expert from memory to an empty slot of its layer; from any thread, not locked. */
hypura_status device_bring(struct store *store, unit_number in, struct device_slot slot, const struct store_view *view,
                           hypura_error *error);
/* Copies an expert that is there, laid out as in the cache; as device_bring. */
hypura_status device_fetch(struct store *store, unit_number out, uint8_t *memory, hypura_error *error);

#endif
