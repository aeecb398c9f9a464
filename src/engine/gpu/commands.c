/* Batches of commands. */
#include "engine/gpu/pass.h"

void pass_record(struct gpu_pass *pass)
{
    if (!pass->open)
        gpu_begin(pass->gpu);
    pass->open = true;
}

hypura_status pass_send(struct gpu_pass *pass, hypura_error *error)
{
    if (!pass->open)
        return HYPURA_OK;
    hypura_status status = gpu_submit(pass->gpu, &pass->last, pass->wait_upload, error);
    pass->open = false;
    pass->wait_upload = 0;
    pass->recorded = 0;
    pass->pending_reads = pass->pending_writes = 0; /* batches see what those before them wrote */
    pass->sent++;
    return status;
}

void pass_drop_ahead(struct gpu_pass *pass)
{
    if (pass->ahead.ready)
        gpu_drop(pass->gpu);
    pass->ahead.ready = false;
}
