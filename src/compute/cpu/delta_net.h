/* delta_net: the private contract between delta_net.c, which splits work over threads, and delta_net_kernels.c, which
 * is built once for each instruction set. All variants give the same bits: see lanes.h. */
#ifndef HYPURA_COMPUTE_DELTA_NET_H
#define HYPURA_COMPUTE_DELTA_NET_H

#include "compute/compute.h"

/* Columns of a matrix, or channels, per task. */
#define DELTA_COLUMNS 64
#define DELTA_CHANNELS 128

struct delta_net_kernels {
    /* Convolves channels [first, first + count) of a part, for all rows, without SiLU. */
    void (*convolve)(const struct delta_net *net, size_t part, size_t first, size_t count);
    /* Normalises the queries and keys of a row. */
    void (*normalise)(const struct delta_net *net, size_t row);
    /* Runs all rows through columns [first, first + count) of a value head's matrix. */
    void (*run)(const struct delta_net *net, size_t head, size_t first, size_t count);
    void (*decay)(const struct delta_decay *decay, size_t row);
};

/* The channels of a part, and of all parts. */
static inline size_t delta_part_channels(const struct delta_net *net, size_t part)
{
    return part < 2 ? net->heads_k * net->key_size : net->heads_v * net->value_size;
}

static inline size_t delta_channels(const struct delta_net *net)
{
    return 2 * net->heads_k * net->key_size + net->heads_v * net->value_size;
}

extern const struct delta_net_kernels delta_net_kernels_plain;
extern const struct delta_net_kernels delta_net_kernels_avx2;
extern const struct delta_net_kernels delta_net_kernels_avx512;
extern const struct delta_net_kernels delta_net_kernels_neon;

#endif
