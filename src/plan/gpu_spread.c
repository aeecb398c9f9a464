/* Spreads a model over devices of different speed and memory. */
#include "plan/plan_private.h"

/* Weights per byte of a quantised model. */
#define WEIGHTS_A_BYTE 2.0

/* Handing a layer's output to another device may take this share of a token's time. */
#define WAY_SHARE 0.02

/* The time of a usual request on a device, per byte of weights. */
static double seconds_a_byte(const struct hardware_gpu *device)
{
    return USUAL_ANSWER / MAX(device->memory_bytes_per_second, 1.0) +
           USUAL_PROMPT * WEIGHTS_A_BYTE / MAX(device->multiply_adds_per_second, 1.0);
}

void plan_gpu_share(uint64_t *out, const uint64_t *rooms, const struct hardware_gpu *devices, uint32_t count,
                    uint64_t bytes)
{
    double room = 0, left = (double)bytes;
    bool fixed[HARDWARE_MAX_GPUS] = {false}, changes = true;
    for (uint32_t d = 0; d < count; d++)
        room += (double)rooms[d];
    for (uint32_t d = 0; d < count && room <= left; d++)
        out[d] = (uint64_t)(room > 0 ? left * ((double)rooms[d] / room) : 0);
    while (room > (double)bytes && changes) {
        double speeds = 0;
        changes = false;
        for (uint32_t d = 0; d < count; d++)
            speeds += fixed[d] ? 0 : devices ? 1 / seconds_a_byte(&devices[d]) : 1;
        for (uint32_t d = 0; d < count; d++)
            if (!fixed[d])
                out[d] = (uint64_t)(left * (devices ? 1 / seconds_a_byte(&devices[d]) : 1) / speeds);
        for (uint32_t d = 0; d < count && !changes; d++)
            if (!fixed[d] && out[d] > rooms[d]) { /* the others share the rest */
                fixed[d] = changes = true;
                out[d] = rooms[d];
                left -= (double)rooms[d];
            }
    }
}

uint32_t plan_gpu_quickest(const struct hardware_gpu *devices, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t d = 1; d < count; d++)
        if (seconds_a_byte(&devices[d]) < seconds_a_byte(&devices[best]))
            best = d;
    return best;
}

bool plan_gpu_way_is_felt(const struct plan_gpu *plan, const struct model *model, const struct hardware_gpu *device)
{
    const struct model_parameters *p = model_parameters(model);
    double used = p->experts ? (double)p->experts_used / p->experts : 0;
    double token =
        ((double)plan->resident_bytes + used * (double)plan->expert_bytes) / MAX(device->memory_bytes_per_second, 1.0);
    return device->move_seconds > WAY_SHARE * token;
}
