/* Stands in for the network: every answer is made of the bytes that a target gives. */
#ifndef HYPURA_FAKE_FETCH_H
#define HYPURA_FAKE_FETCH_H

#include <stddef.h>
#include <stdint.h>

/* Borrowed. Each answer begins with a byte that says its status, whether ranges are known and into how many pieces it
 * is cut, and two of its length, the lower first. */
void fake_fetch_set(const uint8_t *data, size_t size);

#endif
