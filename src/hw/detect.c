#include "hw/hw_private.h"

hypura_status hardware_detect(struct hardware *out, const char *path, hypura_error *error)
{
    struct hardware found = {0};
    hypura_status status = hardware_detect_storage(&found.storage, path, error);
    if (status != HYPURA_OK)
        return status;
    hw_detect_cpu(&found);
    hw_detect_memory(&found, "");
    /* Two channels of DDR4, and kernels of a slow core. Most machines do better. */
    found.memory_bytes_per_second = 20e9;
    found.compute_bytes_per_second = MIN(5e9 * (double)found.cores, found.memory_bytes_per_second);
    found.multiply_adds_per_second = 20e9 * (double)found.cores;
    hw_load_profile(&found);
    *out = found;
    return HYPURA_OK;
}
