#include "engine/cluster/share.h"

#include "engine/cpu/execute.h"

#include <string.h>

/* ---- sending -------------------------------------------------------------------------------------------------------
 */

static uint32_t owner(const struct share *share, const struct step *experts, uint32_t expert)
{
    return share->owners[experts->experts.first + expert];
}

/* The number of a row's chosen experts that a rank has. */
static uint32_t choices_of(const struct batch *batch, const struct step *experts, size_t row, uint32_t rank)
{
    const uint32_t used = experts->experts.used, *chosen = batch->scratch.chosen + row * used;
    uint32_t count = 0;
    for (uint32_t i = 0; i < used; i++)
        count += owner(batch->share, experts, chosen[i]) == rank;
    return count;
}

/* Sends a rank those of the rows first to first + count that chose any of its experts. */
static hypura_status send_task(struct batch *batch, const struct step *experts, uint32_t rank, size_t first,
                               size_t count, hypura_error *error)
{
    struct share *share = batch->share;
    struct cluster *cluster = share->cluster;
    const struct step_experts *x = &experts->experts;
    const struct scratch *s = &batch->scratch;
    struct task task = {.layer = (uint32_t)experts->layer,
                        .used = x->used,
                        .columns = x->columns,
                        .weighed = x->weighs_input,
                        .watched = batch->watch != NULL};
    for (size_t r = first; r < first + count; r++) {
        const uint32_t choices = choices_of(batch, experts, r, rank);
        if (!choices)
            continue;
        for (uint32_t i = 0; i < x->used; i++) {
            share->choices[task.rows * x->used + i] = (uint16_t)s->chosen[r * x->used + i];
            share->weights[task.rows * x->used + i] = s->chosen_weights[r * x->used + i];
        }
        task.rows++;
        task.choices += choices;
    }
    share->wanted[rank] = task.choices;
    if (!task.choices)
        return HYPURA_OK;
    const size_t of_choices = (size_t)task.rows * x->used, row_bytes = x->columns * sizeof(float);
    const uint64_t bytes = sizeof task + of_choices * sizeof *share->choices +
                           (task.weighed ? of_choices * sizeof *share->weights : 0) + task.rows * row_bytes;
    TRY(message_send(cluster, rank, MESSAGE_EXPERTS, share->model, bytes, error));
    TRY(cluster_write(cluster, rank, &task, sizeof task, error));
    TRY(cluster_write(cluster, rank, share->choices, of_choices * sizeof *share->choices, error));
    if (task.weighed)
        TRY(cluster_write(cluster, rank, share->weights, of_choices * sizeof *share->weights, error));
    const float *rows = rows_of(batch, x->in);
    for (size_t r = first; r < first + count; r++)
        if (choices_of(batch, experts, r, rank))
            TRY(cluster_write(cluster, rank, rows + r * x->columns, row_bytes, error));
    pthread_mutex_lock(&share->mutex);
    share->traffic[rank].bytes_sent += bytes;
    pthread_mutex_unlock(&share->mutex);
    share->passing = true;
    return cluster_flush(cluster, rank, error);
}

/* Sends the rows from "first" on, as many as the other ranks take at once. */
static hypura_status send_tasks(struct batch *batch, const struct step *experts, size_t first, hypura_error *error)
{
    struct share *share = batch->share;
    share->first = first;
    share->count = MIN(batch->rows - first, (size_t)share->rows);
    memset(share->wanted, 0, sizeof share->wanted);
    share->experts = experts;
    uint64_t own = 0;
    for (size_t r = first; r < first + share->count; r++)
        own += choices_of(batch, experts, r, 0);
    pthread_mutex_lock(&share->mutex);
    share->traffic[0].counted.experts += own;
    pthread_mutex_unlock(&share->mutex);
    for (uint32_t rank = 1; rank < share->ranks; rank++)
        TRY(send_task(batch, experts, rank, first, share->count, error));
    return HYPURA_OK;
}

/* The step that computes the chosen experts; NULL if a step after the router writes its input. */
static const struct step *experts_after(const struct step *route)
{
    const struct step *experts = route;
    while (experts->kind != STEP_EXPERTS)
        experts++;
    for (const struct step *step = route; step < experts; step++)
        if (step_writes(step, experts->experts.in))
            return NULL;
    return experts;
}

hypura_status share_begin(struct batch *batch, const struct step *route, hypura_error *error)
{
    const struct step *experts = experts_after(route);
    return experts ? share_send(batch, experts, error) : HYPURA_OK;
}

hypura_status share_send(struct batch *batch, const struct step *experts, hypura_error *error)
{
    return send_tasks(batch, experts, 0, error);
}

/* ---- receiving -----------------------------------------------------------------------------------------------------
 */

/* Receives a rank's results, each to its place in out. */
static hypura_status take_rows(struct batch *batch, uint32_t rank, float *out, hypura_error *error)
{
    struct share *share = batch->share;
    const struct step_experts *x = &share->experts->experts;
    const uint32_t *chosen = batch->scratch.chosen;
    struct counted counted;
    const uint64_t row_bytes = x->columns * sizeof *out, bytes = sizeof counted + share->wanted[rank] * row_bytes;
    const uint64_t start = clock_nanoseconds();
    share->wanted[rank] = 0;
    TRY(share_answer(batch, rank, bytes, error));
    TRY(cluster_read(share->cluster, rank, &counted, sizeof counted, error));
    for (size_t i = share->first * x->used; i < (share->first + share->count) * x->used; i++)
        if (owner(share, share->experts, chosen[i]) == rank)
            TRY(cluster_read(share->cluster, rank, out + i * x->columns, row_bytes, error));
    pthread_mutex_lock(&share->mutex);
    share->traffic[rank].bytes_received += bytes;
    share->traffic[rank].wait_nanoseconds += clock_nanoseconds() - start;
    share->traffic[rank].counted = counted;
    pthread_mutex_unlock(&share->mutex);
    return HYPURA_OK;
}

/* Receives the results of all ranks: even after an error of one, or the others' results would be taken for those of
 * another layer. */
static hypura_status take_all(struct batch *batch, hypura_error *error)
{
    struct share *share = batch->share;
    hypura_status status = HYPURA_OK;
    hypura_error further;
    for (uint32_t rank = 1; rank < share->ranks; rank++)
        if (share->wanted[rank]) {
            hypura_status one = take_rows(batch, rank, batch->scratch.expert_out, status ? &further : error);
            status = status ? status : one;
        }
    return status;
}

hypura_status share_collect(struct batch *batch, const struct step *experts, hypura_error *error)
{
    struct share *share = batch->share;
    hypura_status status = HYPURA_OK;
    if (share->experts != experts)
        status = send_tasks(batch, experts, 0, error);
    if (!status)
        status = take_all(batch, error);
    while (!status && share->first + share->count < batch->rows) {
        status = send_tasks(batch, experts, share->first + share->count, error);
        if (!status)
            status = take_all(batch, error);
    }
    if (status)
        share_drop(batch);
    share->experts = NULL;
    return status;
}

void share_drop(struct batch *batch)
{
    struct share *share = batch->share;
    hypura_error error;
    if (share->experts)
        take_all(batch, &error);
    share->experts = NULL;
}

/* ---- prefetches, passes, statistics --------------------------------------------------------------------------------
 */

void share_prefetch(struct batch *batch, uint32_t layer, unit_number first, const struct likely *likely, uint32_t count)
{
    struct share *share = batch->share;
    hypura_error error; /* the next call that waits for the rank reports its loss */
    for (uint32_t rank = 1; rank < share->ranks; rank++) {
        uint64_t own = 0;
        for (uint32_t i = 0; i < count; i++)
            own += share->owners[first + likely[i].expert] == rank;
        if (own == 0 || message_send(share->cluster, rank, MESSAGE_PREFETCH, share->model,
                                     sizeof layer + own * sizeof *likely, &error))
            continue;
        hypura_status status = cluster_write(share->cluster, rank, &layer, sizeof layer, &error);
        for (uint32_t i = 0; !status && i < count; i++)
            if (share->owners[first + likely[i].expert] == rank)
                status = cluster_write(share->cluster, rank, &likely[i], sizeof *likely, &error);
        if (!status)
            cluster_flush(share->cluster, rank, &error);
        share->passing = true;
    }
}

void share_passed(struct batch *batch)
{
    struct share *share = batch->share;
    hypura_error error;
    for (uint32_t rank = 1; share->passing && rank < share->ranks; rank++)
        message_send(share->cluster, rank, MESSAGE_PASSED, share->model, 0, &error);
    share->passing = false;
}

uint32_t engine_ranks(struct engine *engine, struct engine_rank *out, uint32_t most)
{
    struct share *share = engine->batch.share;
    struct store_statistics own;
    if (!share)
        return 0;
    const uint32_t count = MIN(share->ranks, most);
    store_statistics(engine->open.store, &own);
    pthread_mutex_lock(&share->mutex);
    for (uint32_t rank = 0; rank < count; rank++) {
        struct traffic traffic = share->traffic[rank];
        const struct cluster_link link = cluster_link(share->cluster, rank);
        if (rank == 0)
            traffic.counted = (struct counted){.experts = traffic.counted.experts,
                                               .bytes_read = own.bytes_read,
                                               .expert_hits = own.expert_hits,
                                               .expert_misses = own.expert_misses};
        out[rank] = (struct engine_rank){.rank = rank,
                                         .name = cluster_host(share->cluster, rank),
                                         .layers = share->layers[rank],
                                         .experts_computed = traffic.counted.experts,
                                         .gpu_experts_computed = traffic.counted.device_experts,
                                         .expert_hits = traffic.counted.expert_hits,
                                         .expert_misses = traffic.counted.expert_misses,
                                         .bytes_read = traffic.counted.bytes_read,
                                         .bytes_sent = traffic.bytes_sent,
                                         .bytes_received = traffic.bytes_received,
                                         .busy_seconds = (double)traffic.counted.busy_nanoseconds * 1e-9,
                                         .wait_seconds = (double)traffic.wait_nanoseconds * 1e-9,
                                         .link_seconds = link.seconds,
                                         .link_bytes_per_second = link.bytes_per_second};
    }
    pthread_mutex_unlock(&share->mutex);
    return count;
}

double engine_ranks_expect(const struct engine *engine)
{
    return engine->batch.share ? engine->batch.share->expected : 0;
}
