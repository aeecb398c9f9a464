/* store/tables: tensors of which rows are read and nothing else: the token embedding where it is not held, and tables
 * that are never held. Owner: tables.c.
 *
 * The rows that a pass wants follow from its tokens. So all of them are asked for when it begins, and they come while
 * it computes: demands, many at once, a page or two each. Rows that come again are kept in a cache, row by row, in sets
 * of TABLE_WAYS: one that was asked for since it came outlives those that were not.
 *
 * "Locked" wants io_mutex held.
 */
#ifndef HYPURA_PLAN_TABLES_H
#define HYPURA_PLAN_TABLES_H

#include "plan/plan.h"
#include "store/io.h"
#include "store/store.h"

struct store;

#define TABLE_WAYS 8u

/* Transfers of rows name this unit. */
#define ROWS_UNIT (NO_UNIT - 2)

/* Rows on their way lie in this much memory together, each in the pages that enclose it. */
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
    /* What is asked for. */
    struct store_rows asked;
    bool active;
    uint32_t number; /* of what is asked for now: what comes for something earlier is for nobody */
    size_t next, left;
    struct failure failure;
};

struct table_read {
    struct transfer transfer;
    uint32_t table, number;
    size_t index; /* of the rows that were asked for */
    uint32_t row;
    size_t start; /* of the row in the memory */
    bool busy;
    uint8_t *memory;
};

struct tables {
    struct table table[PLAN_TABLES];
    uint32_t count;
    uint32_t read_count;
    uint64_t read_bytes; /* of one read at most */
    struct table_read reads[TABLE_READS];
};

/* Not locked, before anything else runs. */
hypura_status tables_prepare(struct store *store, const struct plan_rows *tables, uint32_t count,
                             hypura_error *error);
void tables_free(struct store *store);

void tables_finished(struct store *store, struct transfer *transfer); /* locked */
void tables_forget(struct store *store);                              /* locked: all that was asked for */

#endif
