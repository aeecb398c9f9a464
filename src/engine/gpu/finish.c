/* Waits until the current device has done all that was sent. */
#include "engine/gpu/pass.h"

hypura_status pass_finish(struct batch *batch, hypura_error *error)
{
    TRY(pass_send(batch->pass, error));
    TRY(pass_host_share(batch, error));
    TRY(gpu_wait(batch->pass->gpu, batch->pass->last, error));
    const struct plan_gpu *plan = batch->open->plan->gpu;
    /* Whether the device has nothing to do while others compute layers. Commands that are sent ahead keep it busy. */
    const bool pauses =
        plan->taken < plan->layer_count || (plan_gpu_devices(plan) > 1 && !batch->pass->ahead.possible);
    if (batch->rows <= GPU_VECTOR_TOKENS && pauses)
        gpu_stay_awake(batch->pass->gpu);
    return pass_let_go(batch, error);
}
