/* Replaces all other files of this folder if the build had no working shader compiler or no Vulkan headers. */
#include "compute/vulkan/gpu.h"

#include <stdio.h>

static const char reason[] = "this hypura was built without Vulkan (no glslc that works, or no Vulkan headers)";

hypura_status gpu_list(struct gpu_info *out, size_t capacity, size_t *count, char *why, hypura_error *error)
{
    (void)out, (void)capacity, (void)error;
    *count = 0;
    if (why)
        snprintf(why, sizeof reason, "%s", reason);
    return HYPURA_OK;
}

bool gpu_multiplies_bytes(enum tensor_type type)
{
    (void)type;
    return false;
}

hypura_status gpu_open(struct gpu **out, const struct gpu_options *options, hypura_error *error)
{
    (void)out, (void)options;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s", reason);
}
