/* store/tables: tensors of which only rows are read: the token embedding if it is not held, and tables that are never
 * held. Owner: tables.c.
 *
 * The rows for a pass follow from its tokens. So all of them are requested when it begins, and arrive while it
 * computes: many demands at once, of a page or two each. A cache keeps rows in sets of TABLE_WAYS; a row that was
 * requested again since it was read outlives the others.
 *
 * "Locked" requires io_mutex.
 */
#ifndef HYPURA_PLAN_TABLES_H
#define HYPURA_PLAN_TABLES_H

#include "plan/plan.h"
#include "store/io.h"
#include "store/store.h"

struct store;

#define TABLE_WAYS 8u

/* The unit number of transfers of rows. */
#define ROWS_UNIT (NO_UNIT - 2)

/* The memory for rows in flight, each with the pages around it. */
#define TABLE_READ_BYTES ((size_t)192 << 10)
#define TABLE_READS 24u

struct table_entry {
    uint32_t row; /* less one; 0: empty */
    uint32_t heat;
};

struct table {
    unit_number unit;
    uint64_t row_bytes;
    uint32_t sets;
    struct table_entry *entries; /* [sets][TABLE_WAYS] */
    uint8_t *rows;
    /* The present request. */
    struct store_rows asked;
    bool active;
    uint32_t number; /* of the present request; rows of an earlier one are dropped */
    size_t next, left;
    struct failure failure;
};

struct table_read {
    struct transfer transfer;
    uint32_t table, number;
    size_t index; /* among the requested rows */
    uint32_t row;
    size_t start; /* of the row in the memory */
    bool busy;
    uint8_t *memory;
};

struct tables {
    struct table table[PLAN_TABLES];
    uint32_t count;
    uint32_t read_count;
    uint64_t read_bytes; /* the most bytes per read */
    struct table_read reads[TABLE_READS];
};

/* Not locked, before anything else runs. */
hypura_status tables_prepare(struct store *store, const struct plan_rows *tables, uint32_t count, hypura_error *error);
void tables_free(struct store *store);

void tables_finished(struct store *store, struct transfer *transfer); /* locked */
void tables_forget(struct store *store);                              /* locked: drops the present request */

#endif
