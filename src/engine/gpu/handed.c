/* Memory of the host in which several devices hand rows on: one writes there, the next one reads there. */
#include "engine/gpu/pass.h"

/* Devices import multiples of a page, or of more. */
#define IMPORT_ALIGNMENT ((uint64_t)2 << 20)

void pass_share_rows(struct batch *batch)
{
    const struct plan *plan = batch->open->plan;
    const struct devices *devices = &batch->open->devices;
    bool possible = plan_gpu_devices(plan->gpu) > 1;
    for (uint32_t d = 0; d < plan->gpu->part_count; d++)
        possible &= !plan->gpu->parts[d].taken || gpu_get_info(devices->gpus[d])->host_import;
    batch->handed_bytes = align_up(pass_handed_bytes(&batch->open->geometry, plan->chunk), IMPORT_ALIGNMENT);
    if (possible && memory_map(&batch->handed_rows, batch->handed_bytes, false, "rows", NULL))
        batch->handed_rows = NULL;
}

void pass_import_rows(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    if (batch->handed_rows &&
        gpu_buffer_import(pass->gpu, &pass->handed_rows, batch->handed_rows, batch->handed_bytes, NULL))
        pass->handed_rows = NULL;
}

void pass_unshare_rows(struct batch *batch)
{
    if (batch->handed_rows)
        memory_unmap(batch->handed_rows, batch->handed_bytes);
    batch->handed_rows = NULL;
}
