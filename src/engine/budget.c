/* The memory budget while the process runs: the pool follows it, lends memory to kept prefixes, and borrows that of
 * buffers which only long batches use. */
#include "engine/engine_private.h"

/* A loan up to this size is asked back whole. */
#define LEAST_LENT ((uint64_t)1 << 20)

/* The memory that the plan uses, without the pool. */
static uint64_t fixed_bytes(const struct plan *plan)
{
    if (plan->pool_bytes)
        return plan->budget - MIN(plan->budget, plan->pool_bytes);
    return plan->overhead_bytes + plan->reserve_bytes + plan->resident_bytes + plan->table_bytes + plan->kv_bytes +
           plan->scratch_bytes;
}

static hypura_status set_budget(struct engine *engine, uint64_t bytes, hypura_error *error)
{
    const struct plan *plan = engine->open.plan;
    uint64_t fixed = fixed_bytes(plan) + engine->lent;
    if (plan->pool_bytes == 0 && bytes < fixed) {
        char text[32];
        return error_set(error, HYPURA_ERROR_MEMORY,
                         "all weights are pinned in memory; without loading the model again, the smallest budget is %s",
                         format_bytes(text, sizeof text, (double)fixed));
    }
    if (plan->pool_bytes) {
        hypura_status status =
            store_resize(engine->open.store, (int64_t)MIN(bytes, (uint64_t)INT64_MAX) - (int64_t)fixed, error);
        if (status)
            return error_prefix(error, "a budget of %.1f MiB, of which %.1f MiB cannot be released",
                                (double)bytes / 1048576.0, (double)fixed / 1048576.0);
    }
    atomic_store(&engine->counters.budget, bytes);
    if (bytes > atomic_load(&engine->counters.largest_budget))
        atomic_store(&engine->counters.largest_budget, bytes);
    return HYPURA_OK;
}

hypura_status engine_set_budget(struct engine *engine, uint64_t bytes, hypura_error *error)
{
    for (uint64_t before = UINT64_MAX;;) {
        pthread_mutex_lock(&engine->budget_mutex);
        hypura_status status = set_budget(engine, bytes, error);
        uint64_t lent = engine->lent;
        pthread_mutex_unlock(&engine->budget_mutex);
        if (!status || lent == 0 || lent >= before)
            return status;
        before = lent;
        /* Without the lock: the lending thread holds that of the store. */
        prefix_shrink(engine->prefixes, lent > LEAST_LENT ? lent / 2 : 0);
    }
}

void budget_lend_buffers(struct batch *batch, size_t rows)
{
    const struct plan *plan = batch->open->plan;
    const bool lends = scratch_is_short(&batch->open->geometry, rows);
    if (plan->spare_scratch_bytes == 0 || lends == batch->lends)
        return;
    batch->lends = lends;
    if (lends)
        scratch_release(&batch->scratch, &batch->open->geometry, plan->positions);
    store_lend(batch->open->store, lends ? plan->spare_scratch_bytes : 0);
}

uint64_t budget_spare(const struct engine *engine)
{
    uint64_t budget = atomic_load(&engine->counters.budget);
    return budget - MIN(budget, fixed_bytes(engine->open.plan));
}

bool budget_lend(struct engine *engine, uint64_t bytes)
{
    const struct plan *plan = engine->open.plan;
    pthread_mutex_lock(&engine->budget_mutex);
    int64_t left = (int64_t)atomic_load(&engine->counters.budget) - (int64_t)fixed_bytes(plan) - (int64_t)bytes;
    bool lent = left >= 0 && (!plan->pool_bytes || !store_resize(engine->open.store, left, NULL));
    if (lent)
        engine->lent = bytes;
    pthread_mutex_unlock(&engine->budget_mutex);
    return lent;
}
