/* Replaces the network: answers come from the bytes that a target sets. */
#ifndef HYPURA_FAKE_FETCH_H
#define HYPURA_FAKE_FETCH_H

#include <stddef.h>
#include <stdint.h>

/* Sets the answers. The data is borrowed. Each answer begins with three bytes: the first encodes its status, whether
 * ranges are supported, and the number of pieces; the others are its length, low byte first. */
void fake_fetch_set(const uint8_t *data, size_t size);

#endif
