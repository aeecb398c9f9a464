/* Passes what each matrix of a layer is multiplied by to a watcher (engine_watch_inputs). */
#include "engine/cpu/execute.h"

void watch_inputs(const struct batch *batch, const struct unit_slice *slice, uint32_t matrix, const struct matmul *job)
{
    const struct engine_watch *watch = batch->watch;
    if (!watch)
        return;
    for (size_t t = 0; t < job->tokens; t++)
        watch->see(watch->context, slice->tensor, matrix,
                   activation_values(job->input, job->input_rows ? job->input_rows[t] : t), job->weights.columns);
}
