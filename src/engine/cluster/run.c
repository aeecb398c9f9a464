/* Runs of steps whose weights another rank has: sends it the rows and takes the results. */
#include "engine/cluster/share.h"
#include "engine/cpu/execute.h"

#include <string.h>

size_t share_run(const struct batch *batch, struct step_list list, size_t from, uint32_t *rank)
{
    const struct share *share = batch->share;
    const int32_t layer = list.steps[from].layer;
    const struct model_parameters *p = model_parameters(batch->open->model);
    if (!share || p->experts || layer < 0 || (uint32_t)layer >= p->layers)
        return 0;
    /* The list may be a part of the layer's steps, but one rank has the whole run. */
    const struct step_list whole = steps_of_layer(batch->open->steps, (uint32_t)layer);
    size_t first;
    const size_t left = steps_run_left(whole, (size_t)(&list.steps[from] - whole.steps), &first);
    if (!left)
        return 0;
    while (whole.steps[first].kind != STEP_MULTIPLY)
        first++;
    *rank = share->owners[whole.steps[first].multiply.matrices[0].unit];
    return *rank ? MIN(left, list.count - from) : 0;
}

/* Sends rows of all buffers of a run; the other side knows their order and widths. */
static hypura_status send_rows(struct batch *batch, uint32_t rank, const size_t *widths, size_t first, size_t count,
                               hypura_error *error)
{
    for (enum step_buffer b = BUFFER_NONE + 1; b < BUFFER_COUNT; b++)
        if (widths[b])
            TRY(cluster_write(batch->share->cluster, rank, rows_of(batch, b) + first * widths[b],
                              count * widths[b] * sizeof(float), error));
    return cluster_flush(batch->share->cluster, rank, error);
}

static hypura_status take_rows(struct batch *batch, uint32_t rank, const size_t *widths, size_t first, size_t count,
                               hypura_error *error)
{
    for (enum step_buffer b = BUFFER_NONE + 1; b < BUFFER_COUNT; b++)
        if (widths[b])
            TRY(cluster_read(batch->share->cluster, rank, rows_of(batch, b) + first * widths[b],
                             count * widths[b] * sizeof(float), error));
    return HYPURA_OK;
}

static hypura_status ask(struct batch *batch, uint32_t rank, struct run_task task, const struct step_rows_of_run *rows,
                         size_t first, hypura_error *error)
{
    struct share *share = batch->share;
    struct counted counted;
    const uint64_t sent = sizeof task + task.rows * rows->in_width * sizeof(float);
    const uint64_t received = sizeof counted + task.rows * rows->out_width * sizeof(float);
    TRY(message_send(share->cluster, rank, MESSAGE_RUN, share->model, sent, error));
    TRY(cluster_write(share->cluster, rank, &task, sizeof task, error));
    share->passing = true;
    TRY(send_rows(batch, rank, rows->in, first, task.rows, error));
    const uint64_t start = clock_nanoseconds();
    TRY(share_answer(batch, rank, received, error));
    TRY(cluster_read(share->cluster, rank, &counted, sizeof counted, error));
    TRY(take_rows(batch, rank, rows->out, first, task.rows, error));
    pthread_mutex_lock(&share->mutex);
    share->traffic[rank].bytes_sent += sent;
    share->traffic[rank].bytes_received += received;
    share->traffic[rank].wait_nanoseconds += clock_nanoseconds() - start;
    share->traffic[rank].counted = counted;
    pthread_mutex_unlock(&share->mutex);
    return HYPURA_OK;
}

hypura_status share_compute(struct batch *batch, struct step_list list, size_t from, size_t count, uint32_t rank,
                            hypura_error *error)
{
    const int32_t layer = list.steps[from].layer;
    const struct step_list whole = steps_of_layer(batch->open->steps, (uint32_t)layer);
    const size_t first = (size_t)(&list.steps[from] - whole.steps);
    struct step_rows_of_run rows;
    steps_run_rows(whole, first, count, model_parameters(batch->open->model)->embedding, &rows);
    for (size_t r = 0; r < batch->rows; r += batch->share->rows) {
        const size_t some = MIN(batch->rows - r, (size_t)batch->share->rows);
        TRY(ask(batch, rank,
                (struct run_task){(uint32_t)layer, (uint32_t)first, (uint32_t)count, (uint32_t)some, rows.in_width,
                                  rows.out_width, batch->watch != NULL},
                &rows, r, error));
    }
    forget_inputs(batch, rows.changed);
    return HYPURA_OK;
}
