/* How fast a device multiplies, by the number of rows in a batch. */
#include "plan/plan_private.h"

#include <math.h>

/* The time per row in batches of 2048, 1024, 512 and 256 rows, measured on an H200 and, for panels, on an H100
 * (docs/notes/2026-11-23-many-cores-two-cards.md, docs/notes/2026-11-24-panels.md). Those from kept panels were
 * measured on two cards, where parts of 1024 and 512 rows cost less than on one: each card rests now and then. */
#define LONGEST_BATCH 2048u
static const double costs[][4] = {
    [0] = {[NOT_UNPACKED] = 1, [UNPACKED_ROWS] = 1, [UNPACKED_PANELS] = 1, [KEPT_PANELS] = 1},
    [1] = {[NOT_UNPACKED] = 1.03, [UNPACKED_ROWS] = 1.05, [UNPACKED_PANELS] = 1.14, [KEPT_PANELS] = 1.01},
    [2] = {[NOT_UNPACKED] = 1.10, [UNPACKED_ROWS] = 1.25, [UNPACKED_PANELS] = 1.46, [KEPT_PANELS] = 1.10},
    [3] = {[NOT_UNPACKED] = 1.25, [UNPACKED_ROWS] = 1.76, [UNPACKED_PANELS] = 2.19, [KEPT_PANELS] = 1.55},
};

/* On an H100, products through tiles have this share of the speed that those from panels have with 2048 rows. */
#define TILES_SHARE 0.54
#define PANELS_LEAST_ROWS 256u

/* The tokens of a tile. The last tile may be partly empty. */
#define TILE_TOKENS 128u

double plan_gpu_row_cost(enum plan_unpacking unpacking, uint64_t rows)
{
    uint64_t longer = LONGEST_BATCH;
    size_t i = 0;
    for (; i + 2 < COUNT_OF(costs) && rows < longer / 2; i++)
        longer /= 2;
    /* In between, the cost rises with the number of batches. */
    rows = MAX(rows, (uint64_t)1);
    const double way = rows < longer ? (double)longer / (double)rows - 1 : 0;
    return (costs[i][unpacking] + way * (costs[i + 1][unpacking] - costs[i][unpacking])) *
           (double)align_up(rows, TILE_TOKENS) / (double)rows;
}

double plan_gpu_tile_speed(const struct hardware_gpu *device)
{
    return device->multiply_adds_per_second * (device->info.panels ? TILES_SHARE : 1);
}

double plan_gpu_batch_speed(const struct hardware_gpu *device, double rows)
{
    if (rows < PANELS_LEAST_ROWS || !device->info.panels)
        return plan_gpu_tile_speed(device);
    return device->multiply_adds_per_second / plan_gpu_row_cost(UNPACKED_PANELS, (uint64_t)rows);
}

/* A tile unpacks its weights for its own tokens only. On an H100, products of 32, 64 and 128 tokens have 0.39, 0.52 and
 * 0.8 of the speed of 2048 (Q4_K, 57344 x 2048), and Mixtral's experts in tiles of 128 have 1.1 of it. */
static double tile_share(uint32_t tile)
{
    return tile >= 128 ? 0.9 : tile >= 64 ? 0.52 : 0.39;
}

/* Of a long batch's time, the share for unpacking weights to panels, and the one for multiplying. */
#define UNPACKING_SHARE 0.1
#define MULTIPLYING_SHARE (1 - UNPACKING_SHARE)

struct plan_expert_speed plan_gpu_expert_speed(const struct hardware_gpu *device, double kept)
{
    const double speed = fmax(device->multiply_adds_per_second, 1);
    return (struct plan_expert_speed){.tiles = fmax(plan_gpu_tile_speed(device), 1),
                                      .panels = device->info.panels ? speed / MULTIPLYING_SHARE : 0,
                                      .unpack = (1 - kept) * UNPACKING_SHARE * LONGEST_BATCH / speed,
                                      .read = sizeof(uint16_t) / fmax(device->memory_bytes_per_second, 1),
                                      .cooperative = device->info.cooperative_matrix,
                                      .keeps = kept >= 1};
}

double plan_gpu_experts_seconds(const struct plan_expert_speed *speed, double elements, double choices, double touched,
                                double average)
{
    if (choices <= 0 || touched <= 0)
        return 0;
    const bool panels = speed->panels > 0 && gpu_expert_panels(average, speed->keeps);
    const uint32_t tile = panels ? TILE_TOKENS : gpu_expert_tile(speed->cooperative, average);
    /* The last tile of an expert is half full on average, and the only one is never empty. */
    const double tokens = fmax(choices / touched / tile + 0.5, 1) * tile;
    /* Multiplying and reading overlap in part: within 4 % of what 2048, 1024 and 512 rows took for Mixtral's experts on an
     * H100 (docs/notes/2026-11-24-panels.md). */
    if (panels)
        return touched * elements * (hypot(tokens / speed->panels, speed->read) + speed->unpack);
    return touched * elements * tokens / (speed->tiles * (speed->cooperative ? tile_share(tile) : 1));
}
