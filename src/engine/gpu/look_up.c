/* Rows of a table that stays on the drive: the CPU waits for them, and passes them to the device. */
#include "engine/gpu/pass.h"

static uint64_t bytes_of(const struct batch *batch, const struct step_look_up *l)
{
    return batch->rows * (uint64_t)l->rows * l->width * sizeof(float);
}

hypura_status pass_fill_table(struct batch *batch, uint32_t first, uint32_t end, hypura_error *error)
{
    const struct step *step = batch->open->geometry.look_up;
    if (!step || step->layer < (int32_t)first || step->layer >= (int32_t)end)
        return HYPURA_OK;
    return look_up_rows(batch, step, batch->pass->up_parts.looked_up.host, error);
}

hypura_status pass_record_look_up(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    if (!pass->ahead.recording)
        TRY(pass_fill_table(batch, (uint32_t)step->layer, (uint32_t)step->layer + 1, error));
    gpu_copy(pass->gpu, pass->rows[step->look_up.out], pass->up_parts.looked_up.range, bytes_of(batch, &step->look_up));
    return HYPURA_OK;
}
