/* Rows of tables are read as demands of a pass, many at once, and rows that are used often are kept. No other part of a
 * table is read. */
#include "fixture.h"

#include <errno.h>

enum { ROWS = 900, ROW_BYTES = 172 };

static const struct fixture_shape shape = {
    .tensors = 3, .tensor_bytes = 40000, .layers = 2, .experts = 4, .slice_bytes = 9000, .pin_tensors = true};

/* Makes a fixture whose second tensor is a table. */
static void make(struct fixture *fixture, struct plan_rows *table, uint64_t cache)
{
    fixture_make(fixture, &shape);
    fixture->tiers[1] = TIER_STORAGE;
    *table = (struct plan_rows){.unit = 1, .row_bytes = ROW_BYTES, .cache_bytes = cache};
}

static struct store *open_tables(const struct fixture *fixture, const struct plan_rows *tables,
                                 const struct io_fault *fault)
{
    struct store *store;
    struct store_source source = fixture_source(fixture, 0, fixture->largest_expert * 2);
    source.tables = tables;
    source.table_count = 1;
    assert_ok(store_open_source(&store, &source, &(struct store_options){.allow_buffered = true}, fault, &test_error));
    assert_ok(store_load(store, NULL, NULL, &test_error));
    return store;
}

static uint32_t rows_of_table(const struct fixture *fixture)
{
    return (uint32_t)(fixture->units[1].bytes / ROW_BYTES);
}

static void check(struct store *store, const struct fixture *fixture, const uint32_t *rows, size_t count)
{
    static uint8_t out[ROWS * ROW_BYTES];
    const struct unit_slice *slice = &fixture->units[1].slices[0];
    memset(out, 0, sizeof out);
    store_begin(store);
    assert_ok(store_want_rows(store, 1, &(struct store_rows){rows, count, out}, &test_error));
    assert_ok(store_get_rows(store, 1, &test_error));
    for (size_t i = 0; i < count; i++)
        assert_memory_equal(out + i * ROW_BYTES,
                            fixture->bytes[slice->file] + slice->offset + rows[i] * (uint64_t)ROW_BYTES, ROW_BYTES);
    assert_ok(store_get_rows(store, 1, &test_error)); /* nothing is left to read */
    assert_ok(store_advance(store, &test_error));
}

static void rows_match_the_file(void **state)
{
    (void)state;
    const uint64_t caches[] = {0, 5000, 1 << 20};
    for (size_t c = 0; c < COUNT_OF(caches); c++) {
        struct fixture fixture;
        struct plan_rows table;
        struct random random;
        uint32_t rows[ROWS];
        random_seed(&random, 3);
        make(&fixture, &table, caches[c]);
        struct store *store = open_tables(&fixture, &table, NULL);
        for (int pass = 0; pass < 20; pass++) {
            size_t count = pass % 2 ? ROWS : 1 + random_next(&random) % 7;
            for (size_t i = 0; i < count; i++)
                rows[i] = (uint32_t)(random_next(&random) % rows_of_table(&fixture));
            rows[count - 1] = rows_of_table(&fixture) - 1;
            check(store, &fixture, rows, count);
        }
        store_close(store);
        fixture_free(&fixture);
    }
}

static void hot_rows_are_kept(void **state)
{
    (void)state;
    struct fixture fixture;
    struct plan_rows table;
    struct store_statistics before, after;
    make(&fixture, &table, (uint64_t)ROW_BYTES * 64);
    struct store *store = open_tables(&fixture, &table, NULL);
    const uint32_t hot[] = {3, 9, 17};
    check(store, &fixture, hot, COUNT_OF(hot));
    check(store, &fixture, hot, COUNT_OF(hot));
    for (uint32_t i = 0; i < rows_of_table(&fixture); i++) /* rows used once do not evict the hot ones */
        check(store, &fixture, (const uint32_t[]){i, 3, 9, 17}, 4);
    store_statistics(store, &before);
    check(store, &fixture, hot, COUNT_OF(hot));
    store_statistics(store, &after);
    assert_int_equal(after.bytes_demanded, before.bytes_demanded);
    assert_int_equal(after.rows_wanted - before.rows_wanted, 3);
    assert_int_equal(after.rows_cached - before.rows_cached, 3);
    store_close(store);
    fixture_free(&fixture);
}

/* The table is read only by rows, with at most two pages per row. */
static void nothing_but_rows_is_read(void **state)
{
    (void)state;
    struct fixture fixture;
    struct plan_rows table;
    struct store_statistics statistics;
    make(&fixture, &table, 0);
    struct store *store = open_tables(&fixture, &table, NULL);
    wait_until_idle(store);
    store_statistics(store, &statistics);
    uint64_t loaded = statistics.bytes_loaded;
    assert_true(loaded <= fixture.tensor_footprint - footprint(&fixture, 1) + 8192);
    check(store, &fixture, (const uint32_t[]){1, 90, 50, 7}, 4);
    store_statistics(store, &statistics);
    assert_in_range(statistics.bytes_demanded, 4 * ROW_BYTES, (uint64_t)4 * 2 * 4096);
    assert_int_equal(statistics.bytes_loaded, loaded);
    assert_int_equal(store_unit_state(store, 1), UNIT_ON_STORAGE);
    store_close(store);
    fixture_free(&fixture);
}

static int fail_once(void *context, uint32_t file, uint64_t offset, uint32_t *bytes)
{
    (void)file, (void)offset, (void)bytes;
    int *left = context;
    return *left && --*left == 0 ? EIO : 0;
}

static void errors_end_the_pass_and_the_next_one_reads_again(void **state)
{
    (void)state;
    struct fixture fixture;
    struct plan_rows table;
    int left = 0;
    static uint8_t out[ROWS * ROW_BYTES];
    uint32_t rows[150];
    make(&fixture, &table, 0);
    struct store *store = open_tables(&fixture, &table, &(struct io_fault){fail_once, &left});
    for (uint32_t i = 0; i < COUNT_OF(rows); i++)
        rows[i] = i;
    left = 70;
    store_begin(store);
    assert_ok(store_want_rows(store, 1, &(struct store_rows){rows, COUNT_OF(rows), out}, &test_error));
    assert_int_equal(store_get_rows(store, 1, &test_error), HYPURA_ERROR_IO);
    store_abandon(store);
    check(store, &fixture, rows, COUNT_OF(rows));

    store_begin(store); /* the pass ends before the wanted rows arrive */
    assert_ok(store_want_rows(store, 1, &(struct store_rows){rows, COUNT_OF(rows), out}, &test_error));
    store_abandon(store);
    memset(out, 0x5a, sizeof out); /* nothing may write to it any more */
    wait_until_idle(store);
    for (size_t i = 0; i < sizeof out; i++)
        assert_int_equal(out[i], 0x5a);
    store_cancel(store, true);
    assert_ok(store_want_rows(store, 1, &(struct store_rows){rows, COUNT_OF(rows), out}, &test_error));
    assert_int_equal(store_get_rows(store, 1, &test_error), HYPURA_ERROR_CANCELLED);
    store_cancel(store, false);
    check(store, &fixture, rows, COUNT_OF(rows));
    rows[3] = rows_of_table(&fixture);
    assert_int_equal(store_want_rows(store, 1, &(struct store_rows){rows, 4, out}, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(store_want_rows(store, 0, &(struct store_rows){rows, 1, out}, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(store_get_rows(store, 0, &test_error), HYPURA_ERROR_ARGUMENT);
    store_close(store);
    fixture_free(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_match_the_file), cmocka_unit_test(hot_rows_are_kept),
                                       cmocka_unit_test(nothing_but_rows_is_read),
                                       cmocka_unit_test(errors_end_the_pass_and_the_next_one_reads_again)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
