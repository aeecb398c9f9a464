/* store/in_place: slots of the cache that a device reads in place. Owner: in_place.c. */
#ifndef HYPURA_STORE_IN_PLACE_H
#define HYPURA_STORE_IN_PLACE_H

#include "store/device.h"

struct store;

hypura_status in_place_prepare(struct store *store, struct gpu *gpu, hypura_error *error); /* after cache_prepare */
void in_place_free(struct store *store);

/* Locked, while the device is idle: lets the cache grow as requested, and makes slots in use readable. true: the cache
 * may have grown. */
bool in_place_settle(struct store *store);

struct gpu_range in_place_range(const struct store *store, const uint8_t *memory); /* without a buffer: not readable */

#endif
