/* Several drives combined into one: copies are read in parallel, parts of a model in turn. */
#include "folder.h"

#include "hw/hw_private.h"

#include <math.h>
#include <string.h>

static void within(double value, double expected)
{
    if (fabs(value - expected) > 0.01 * expected)
        fail_msg("%g, expected %g", value, expected);
}

/* Drives of 2 and 1 GB/s, and files of 3 and 1 GB. With copies, each drive has both files. */
static struct drives *make(bool copies)
{
    static struct drives drives;
    static struct drive_copy table[4];
    static uint64_t bytes[2] = {3000000000u, 1000000000u};
    memset(table, 0, sizeof table);
    table[0].path = table[1].path = (char *)"here";
    if (copies)
        table[2] = table[3] = (struct drive_copy){(char *)"there", 1};
    else
        table[1].drive = 1;
    drives = (struct drives){
        .count = 2, .file_count = 2, .copy_count = copies ? 2 : 1, .together = 1, .file_bytes = bytes, .copies = table};
    for (uint32_t d = 0; d < 2; d++)
        drives.storages[d] = (struct storage){.bytes_per_second = d ? 1e9 : 2e9,
                                              .direct_supported = true,
                                              .latency_seconds = 100e-6,
                                              .reading_beside = 0.9,
                                              .computing_beside = 0.8,
                                              .block_bytes = d ? 1 << 20 : 1 << 19,
                                              .depth = 8};
    return &drives;
}

static void copies_add_up(void **state)
{
    (void)state;
    struct storage all;
    double shares[HARDWARE_MAX_DRIVES];
    struct drives *drives = make(true);
    drives_shares(shares, drives);
    within(shares[0], 2 / 3.0);
    within(shares[1], 1 / 3.0);
    drives_as_one(&all, drives);
    within(all.bytes_per_second, 3e9);
    assert_int_equal(all.depth, 16);
    assert_int_equal(all.block_bytes, 1 << 19);
    within(hardware_read_speed(&all, 4 << 20, 64), 3e9);
    /* A single read at a time is no faster with two drives. */
    assert_true(hardware_read_speed(&all, 4096, 1) <= 1.01 * 4096 / 100e-6);
    drives->together = 0.5; /* they share a bus */
    drives_as_one(&all, drives);
    within(all.bytes_per_second, 1.5e9);
}

static void parts_take_turns(void **state)
{
    (void)state;
    struct storage all;
    double shares[HARDWARE_MAX_DRIVES];
    struct drives *drives = make(false);
    drives_shares(shares, drives);
    within(shares[0], 0.75);
    within(shares[1], 0.25);
    drives_as_one(&all, drives);
    within(all.bytes_per_second, 4 / (3 / 2e9 + 1 / 1e9));
    assert_int_equal(all.depth, 8);
}

static void files_of_one_drive_are_on_one(void **state)
{
    (void)state;
    struct hardware hardware;
    struct drives *drives;
    const char *paths[4] = {path_in_folder("a"), path_in_folder("b"), path_in_folder("a"), NULL};
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(paths[i], "w");
        fputs("weights", file);
        fclose(file);
    }
    assert_ok(hardware_detect(&hardware, paths[0], &test_error));
    assert_ok(hardware_find_drives(&drives, &hardware, paths, 2, 2, &test_error));
    assert_int_equal(drives->count, 1);
    assert_null(drives->of_files);
    assert_int_equal(drives->file_bytes[1], 7);
    assert_null(drives->copies[3].path);
    double speed = hardware.storage.bytes_per_second;
    hardware_set_drives(&hardware, drives);
    assert_true(hardware.storage.bytes_per_second == speed); /* one drive: unchanged */
    hardware_drop_drives(&hardware);
    paths[1] = path_in_folder("none");
    assert_int_equal(hardware_find_drives(&drives, &hardware, paths, 2, 1, &test_error), HYPURA_ERROR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_add_up),
        cmocka_unit_test(parts_take_turns),
        cmocka_unit_test_setup_teardown(files_of_one_drive_are_on_one, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
