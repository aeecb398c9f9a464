/* Replaces gpu_speed.c in builds without a GPU tier, which never choose a device. */
#include "hw/hw.h"

hypura_status hardware_measure_gpu(struct hardware_gpu *gpu, hypura_error *error)
{
    (void)gpu;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}
