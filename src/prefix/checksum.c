#include "prefix/prefix_private.h"

#include <string.h>

/* Four independent sums, each of every fourth word, so that only memory limits the speed. They detect damage by a drive
 * or a crash, but not by an attacker. */
#define LANES 4
#define MIX UINT64_C(0x9e3779b97f4a7c15)

static uint64_t turn(uint64_t value)
{
    value ^= value >> 29;
    value *= UINT64_C(0xbf58476d1ce4e5b9);
    return value ^ value >> 32;
}

uint64_t prefix_checksum(const void *bytes, size_t size)
{
    uint64_t lanes[LANES] = {1, 2, 3, 4}, words[LANES];
    const uint8_t *at = bytes;
    size_t left = size;
    for (; left >= sizeof words; at += sizeof words, left -= sizeof words) {
        memcpy(words, at, sizeof words);
        for (int i = 0; i < LANES; i++) {
            lanes[i] = (lanes[i] ^ words[i]) * MIX;
            lanes[i] ^= lanes[i] >> 31;
        }
    }
    uint64_t sum = turn(size);
    for (int i = 0; i < LANES; i++)
        sum = turn(sum ^ lanes[i]) * MIX;
    return fnv1a(sum, at, left);
}
