/* Logits of a few rows, of which several devices compute some each.
 *
 * The last device leaves the normed rows in memory that the host sees, and goes on with its own rows of the output
 * matrix. The commands of the others are sent meanwhile, and wait for these rows. If all devices import the same
 * memory, the host copies nothing. */
#include "engine/gpu/pass.h"

#include <string.h>

static size_t rows_bytes(const struct batch *batch)
{
    return batch->rows * model_parameters(batch->open->model)->embedding * sizeof(float);
}

/* Records the current device's share. rows: the normed ones. */
static hypura_status send_share(struct batch *batch, struct gpu_range rows, hypura_error *error)
{
    const struct gpu_matrix matrix = pass_output_rows(batch);
    pass_record_some_logits(batch, &matrix, batch->pass->plan->output_first, rows, batch->rows);
    return pass_send(batch->pass, error);
}

/* Where another device than the last one reads the rows. */
static struct shared_part arriving(const struct gpu_pass *pass)
{
    return pass->handed_rows ? pass->divided.rows : pass->up_parts.carried[0];
}

/* Sends another device its share. It waits until the host signals that the rows are there. */
static hypura_status send_other(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    pass_record(pass);
    gpu_await_host(pass->gpu, ++pass->signals);
    gpu_copy(pass->gpu, pass->picked, arriving(pass).range, rows_bytes(batch));
    gpu_barrier(pass->gpu);
    return send_share(batch, pass->picked, error);
}

static hypura_status let_begin(const struct batch *batch, struct gpu_pass *pass, const struct gpu_pass *last,
                               hypura_error *error)
{
    void *const to = arriving(pass).host;
    if (to != last->divided.rows.host) /* devices may share the memory */
        memcpy(to, last->divided.rows.host, rows_bytes(batch));
    return gpu_signal_host(pass->gpu, pass->signals, error);
}

/* Waits for another device's share. */
static hypura_status take(const struct batch *batch, struct gpu_pass *pass, const struct gpu_pass *last,
                          hypura_error *error)
{
    const size_t all = model_parameters(batch->open->model)->vocabulary;
    const float *const from = pass->divided.logits.host;
    float *const to = last->divided.logits.host;
    TRY(gpu_wait(pass->gpu, pass->last, error));
    for (size_t r = 0; r < batch->rows && to != from; r++) {
        const size_t at = r * all + pass->plan->output_first;
        memcpy(to + at, from + at, pass->plan->output_rows * sizeof(float));
    }
    return HYPURA_OK;
}

hypura_status pass_end_divided(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *const last = batch->pass, *others[HARDWARE_MAX_GPUS];
    size_t count = 0;
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++)
        if (batch->passes[d] && batch->passes[d]->output_copy)
            others[count++] = batch->passes[d];
    if (!last->ahead.used)
        TRY(pass_record_normed(batch, last->divided.rows.range, error));
    TRY(pass_send(last, error));
    const gpu_ticket normed = last->last;
    for (size_t i = 0; i < count; i++) {
        batch->pass = others[i];
        TRY(send_other(batch, error));
    }
    batch->pass = last;
    pass_record(last);
    TRY(send_share(batch, last->rows[pass_output_step(batch)->in], error));
    pass_record_ahead(batch, 0);
    TRY(gpu_wait(last->gpu, normed, error));
    for (size_t i = 0; i < count; i++)
        TRY(let_begin(batch, others[i], last, error));
    TRY(pass_finish(batch, error));
    for (size_t i = 0; i < count; i++)
        TRY(take(batch, others[i], last, error));
    return HYPURA_OK;
}
