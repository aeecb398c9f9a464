/* Rows of tables, requested together and read in parallel. */
#include "store/store_private.h"

#include <errno.h>
#include <string.h>

/* ---- the cache of rows ------------------------------------------------------------------------------------------- */

#define HOTTEST 3u

static struct table_entry *set_of(const struct table *table, uint32_t row)
{
    uint32_t mixed = row * 2654435761u; /* neighbours go to different sets */
    return table->entries + (size_t)(((uint64_t)mixed * table->sets) >> 32) * TABLE_WAYS;
}

static uint8_t *memory_of(const struct table *table, const struct table_entry *entry)
{
    return table->rows + (size_t)(entry - table->entries) * table->row_bytes;
}

static bool copy_cached(const struct table *table, uint32_t row, uint8_t *out)
{
    if (table->sets == 0)
        return false;
    struct table_entry *set = set_of(table, row);
    for (uint32_t i = 0; i < TABLE_WAYS; i++)
        if (set[i].row == row + 1) {
            set[i].heat = MIN(set[i].heat + 1, HOTTEST);
            memcpy(out, memory_of(table, &set[i]), table->row_bytes);
            return true;
        }
    return false;
}

static void keep(const struct table *table, uint32_t row, const uint8_t *bytes)
{
    if (table->sets == 0)
        return;
    struct table_entry *set = set_of(table, row), *victim = NULL;
    for (uint32_t i = 0; i < TABLE_WAYS; i++)
        if (set[i].row == row + 1)
            return;
    while (!victim) {
        for (uint32_t i = 0; i < TABLE_WAYS && !victim; i++)
            if (set[i].row == 0 || set[i].heat == 0)
                victim = &set[i];
        for (uint32_t i = 0; i < TABLE_WAYS && !victim; i++)
            set[i].heat--;
    }
    *victim = (struct table_entry){.row = row + 1};
    memcpy(memory_of(table, victim), bytes, table->row_bytes);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static uint64_t largest_read(uint64_t row_bytes)
{
    return align_up(row_bytes, IO_ALIGNMENT) + IO_ALIGNMENT;
}

static hypura_status make_cache(struct table *table, uint64_t bytes, hypura_error *error)
{
    uint64_t set = TABLE_WAYS * (table->row_bytes + sizeof(struct table_entry));
    table->sets = (uint32_t)MIN(bytes / set, (uint64_t)UINT32_MAX / TABLE_WAYS);
    if (table->sets == 0)
        return HYPURA_OK;
    hypura_status status = ALLOCATE(&table->entries, (size_t)table->sets * TABLE_WAYS, "cache of rows", error);
    if (!status)
        status = memory_map((void **)&table->rows, (size_t)table->sets * TABLE_WAYS * table->row_bytes, false,
                            "cache of rows", error);
    return status;
}

hypura_status tables_prepare(struct store *store, const struct plan_rows *tables, uint32_t count, hypura_error *error)
{
    struct tables *all = &store->tables;
    for (uint32_t i = 0; i < count; i++) {
        struct table *table = &all->table[i];
        const struct plan_rows *wanted = &tables[i];
        if (count > PLAN_TABLES || wanted->unit >= store->model_units || wanted->row_bytes == 0 ||
            store_unit(store, wanted->unit)->slice_count != 1)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is not a table of rows", wanted->unit);
        *table = (struct table){.unit = wanted->unit, .row_bytes = wanted->row_bytes};
        all->count = i + 1;
        hypura_status status = make_cache(table, wanted->cache_bytes, error);
        if (status)
            return status;
        if (largest_read(table->row_bytes) <= TABLE_READ_BYTES)
            all->read_bytes = MAX(all->read_bytes, largest_read(table->row_bytes));
    }
    all->read_count = all->read_bytes ? (uint32_t)MIN(TABLE_READ_BYTES / all->read_bytes, (uint64_t)TABLE_READS) : 0;
    for (uint32_t i = 0; i < all->read_count; i++)
        all->reads[i].memory = store->bounce + (BOUNCE_BYTES - TABLE_READ_BYTES) + i * all->read_bytes;
    return HYPURA_OK;
}

void tables_free(struct store *store)
{
    for (uint32_t i = 0; i < store->tables.count; i++) {
        struct table *table = &store->tables.table[i];
        memory_free(table->entries);
        if (table->rows)
            memory_unmap(table->rows, (size_t)table->sets * TABLE_WAYS * table->row_bytes);
    }
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static struct table_read *free_read(struct tables *all)
{
    for (uint32_t i = 0; i < all->read_count; i++)
        if (!all->reads[i].busy)
            return &all->reads[i];
    return NULL;
}

static void start_read(struct store *store, struct table *table, struct table_read *read, size_t index)
{
    const struct unit_slice *slice = &store_unit(store, table->unit)->slices[0];
    uint32_t row = table->asked.rows[index];
    uint64_t offset = slice->offset + row * table->row_bytes, start = align_down(offset, IO_ALIGNMENT);
    read->table = (uint32_t)(table - store->tables.table);
    read->number = table->number;
    read->index = index;
    read->row = row;
    read->start = (size_t)(offset - start);
    read->busy = true;
    read->transfer = (struct transfer){.unit = ROWS_UNIT, .segment_count = 1, .priority = PRIORITY_DEMAND};
    read->transfer.segments[0] = (struct segment){.file = slice->file,
                                                  .offset = start,
                                                  .bytes = align_up(offset + table->row_bytes, IO_ALIGNMENT) - start,
                                                  .needed = offset + table->row_bytes - start,
                                                  .memory = read->memory};
    io_start(store->io, &read->transfer);
}

/* Starts as many reads as there is memory for; copies rows that are in memory. */
static void pump(struct store *store, struct table *table)
{
    for (; table->active && table->failure.kind == FAILURE_NONE && table->next < table->asked.count; table->next++) {
        uint32_t row = table->asked.rows[table->next];
        uint8_t *out = table->asked.out + table->next * table->row_bytes;
        if (copy_cached(table, row, out)) {
            store->counts.rows_cached++;
            table->left--;
            continue;
        }
        if (rows_copy_pinned(store, table->unit, row * table->row_bytes, table->row_bytes, out)) {
            table->left--;
            continue;
        }
        struct table_read *read = free_read(&store->tables);
        if (!read)
            return;
        start_read(store, table, read, table->next);
    }
}

void tables_finished(struct store *store, struct transfer *transfer)
{
    struct table_read *read = (struct table_read *)(void *)transfer; /* its first member */
    struct table *table = &store->tables.table[read->table];
    read->busy = false;
    if (table->active && read->number == table->number) {
        if (transfer->failure.kind != FAILURE_NONE) {
            table->failure = transfer->failure;
        } else if (transfer->abandoned) {
            table->failure = (struct failure){.kind = FAILURE_SYSTEM, .number = EIO};
        } else {
            const uint8_t *bytes = read->memory + read->start;
            memcpy(table->asked.out + read->index * table->row_bytes, bytes, table->row_bytes);
            keep(table, read->row, bytes);
            table->left--;
        }
    }
    for (uint32_t i = 0; i < store->tables.count; i++)
        pump(store, &store->tables.table[i]);
}

static void forget(struct table *table)
{
    table->active = false;
    table->number++;
}

void tables_forget(struct store *store)
{
    for (uint32_t i = 0; i < store->tables.count; i++)
        forget(&store->tables.table[i]);
}

/* ---- what the forward pass calls --------------------------------------------------------------------------------- */

static struct table *find_table(struct store *store, unit_number unit)
{
    for (uint32_t i = 0; i < store->tables.count; i++)
        if (store->tables.table[i].unit == unit)
            return &store->tables.table[i];
    return NULL;
}

static hypura_status no_table(unit_number unit, hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is not a tensor that is read by rows", unit);
}

hypura_status store_want_rows(struct store *store, unit_number unit, const struct store_rows *rows, hypura_error *error)
{
    hypura_status status = store_check_unit(store, unit, error);
    struct table *table = status ? NULL : find_table(store, unit);
    if (status || !table)
        return status ? status : no_table(unit, error);
    uint64_t held = store_unit(store, unit)->slices[0].bytes / table->row_bytes;
    for (size_t i = 0; i < rows->count; i++)
        if (rows->rows[i] >= held)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "row %u of a table of %llu rows", rows->rows[i],
                             (unsigned long long)held);
    if (largest_read(table->row_bytes) > TABLE_READ_BYTES) { /* one after another */
        for (size_t i = 0; i < rows->count && !status; i++)
            status = store_read(store, unit, rows->rows[i] * table->row_bytes, table->row_bytes,
                                rows->out + i * table->row_bytes, error);
        return status;
    }
    pthread_mutex_lock(store->mutex);
    table->asked = *rows;
    table->active = true;
    table->number++;
    table->next = 0;
    table->left = rows->count;
    table->failure.kind = FAILURE_NONE;
    store->counts.rows_wanted += rows->count;
    pump(store, table);
    pthread_mutex_unlock(store->mutex);
    return HYPURA_OK;
}

hypura_status store_get_rows(struct store *store, unit_number unit, hypura_error *error)
{
    struct table *table = find_table(store, unit);
    if (!table)
        return no_table(unit, error);
    hypura_status status = HYPURA_OK;
    uint64_t start = 0;
    pthread_mutex_lock(store->mutex);
    while (!status && table->active && table->left > 0) {
        if (atomic_load(&store->cancelled)) {
            status = store_cancelled_error(error);
        } else if (table->failure.kind != FAILURE_NONE) {
            status = failure_error(&table->failure, store->files, error);
        } else {
            start = start ? start : clock_nanoseconds();
            store_wait_locked(store);
        }
    }
    forget(table);
    if (start)
        store->counts.stall_nanoseconds += clock_nanoseconds() - start;
    pthread_mutex_unlock(store->mutex);
    return status;
}
