/* A whole profile, with a temporary file. This takes too long for a quick test. */
#include "folder.h"

#include "hw/hw_private.h"

#include <string.h>
#include <unistd.h>

/* Whether there are samples of this kind of reads with the largest block, with one read in flight and with several. */
static bool has_kind(const struct storage *storage, bool direct, bool sequential)
{
    bool one = false, more = false;
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *sample = &storage->samples[i];
        if (sample->direct == direct && sample->sequential == sequential && sample->block_bytes == 4u << 20)
            *(sample->depth == 1 ? &one : &more) = true;
    }
    return one && more;
}

static void a_profile_measures_everything_in_time_and_leaves_nothing(void **state)
{
    (void)state;
    setenv("XDG_CACHE_HOME", test_folder, 1);
    struct hardware profile, again;
    uint64_t start = clock_nanoseconds();
    assert_ok(hardware_profile(&profile, test_folder, NULL, NULL, &test_error));
    assert_true(clock_seconds_since(start) < 100);
    assert_true(profile.measured && profile.kernel_count > 0 && profile.storage.sample_count > 50);
    for (int kind = 0; kind < 4; kind++)
        assert_true(has_kind(&profile.storage, kind & 1, kind & 2) || (kind & 1 && !profile.storage.direct_supported));
    assert_true(profile.memory_bytes_per_second > 1e8 && profile.multiply_adds_per_second > 1e8);
    assert_true(profile.storage.reading_beside > 0 && profile.storage.reading_beside <= 1);
    assert_true(profile.storage.computing_beside > 0 && profile.storage.computing_beside <= 1);
    assert_ok(hardware_detect(&again, test_folder, &test_error));
    assert_true(again.measured);
    assert_int_equal(again.storage.depth, profile.storage.depth);
    char cached[4096];
    assert_true(hw_profile_path(&profile, cached, sizeof cached));
    unlink(cached);
    assert_int_equal(rmdir(path_in_folder("hypura")), 0);                /* the cache is empty */
    assert_int_equal(rmdir(test_folder) || mkdir(test_folder, 0700), 0); /* the file to read was removed */
}

static void make(const char *name, size_t bytes, bool hole)
{
    FILE *file = fopen(path_in_folder(name), "w");
    assert_non_null(file);
    for (size_t i = 0; i < bytes && !hole; i++)
        fputc('x', file);
    assert_int_equal(fflush(file), 0);
    assert_int_equal(ftruncate(fileno(file), (off_t)bytes), 0);
    assert_int_equal(fsync(fileno(file)), 0);
    fclose(file);
}

static void the_largest_file_without_holes_is_found(void **state)
{
    (void)state;
    char found[1400];
    make("small", 70000, false);
    assert_false(hw_find_large_file(test_folder, 100000, found, sizeof found));
    make("larger", 150000, false);
    make("hole", 9000000, true);
    assert_int_equal(symlink("larger", path_in_folder("name")), 0);
    assert_true(hw_find_large_file(test_folder, 100000, found, sizeof found));
    assert_string_equal(found, path_in_folder("larger"));
    assert_false(hw_find_large_file(path_in_folder("nowhere"), 1, found, sizeof found));
}

/* The data for measuring memory must exceed even a server's cache of 300 MiB. */
static void the_data_to_read_exceeds_the_caches(void **state)
{
    (void)state;
    struct hardware hardware = {
        .cache_l3 = (uint64_t)300 << 20, .memory_available = (uint64_t)64 << 30, .cgroup_limit = UINT64_MAX};
    assert_true(hw_test_bytes(&hardware) >= 3 * hardware.cache_l3);
    assert_true(hw_test_bytes(&hardware) <= hardware.memory_available / 8);
    hardware.memory_available = (uint64_t)2 << 30;
    assert_int_equal(hw_test_bytes(&hardware), (uint64_t)256 << 20);
    hardware.cgroup_limit = (uint64_t)1 << 30; /* half of it in use */
    hardware.cgroup_used = (uint64_t)1 << 29;
    assert_int_equal(hw_test_bytes(&hardware), (uint64_t)64 << 20);
    hardware.cgroup_limit = UINT64_MAX;
    hardware.cache_l3 = 0;
    assert_int_equal(hw_test_bytes(&hardware), (uint64_t)64 << 20);
}

/* The speed of drives measured together is remembered, whatever the order of the drives. */
static void the_joint_speed_of_drives_is_kept(void **state)
{
    (void)state;
    const char *paths[2] = {test_folder, "/dev/shm"};
    struct hardware hardware;
    struct drives *drives = NULL;
    double alone[HARDWARE_MAX_DRIVES], together[HARDWARE_MAX_DRIVES];
    setenv("XDG_CACHE_HOME", test_folder, 1);
    if (hardware_detect(&hardware, paths[1], &test_error) ||
        hardware_find_drives(&drives, &hardware, paths, 2, 1, &test_error))
        skip();
    if (drives->count < 2) {
        drives_free(drives);
        skip();
    }
    assert_true(drives->together == 1);
    hypura_status status = hardware_measure_together(drives, alone, together, &test_error);
    double seen = drives->together;
    drives_free(drives);
    if (status) /* no room for the test's file */
        skip();
    assert_true(seen > 0 && seen <= 1 && alone[0] > 0 && alone[1] > 0 && together[0] > 0 && together[1] > 0);
    paths[0] = "/dev/shm";
    paths[1] = test_folder;
    assert_ok(hardware_find_drives(&drives, &hardware, paths, 2, 1, &test_error));
    assert_true(drives->together > 0.99 * seen && drives->together < 1.01 * seen);
    drives_free(drives);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_data_to_read_exceeds_the_caches),
        cmocka_unit_test_setup_teardown(the_largest_file_without_holes_is_found, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(the_joint_speed_of_drives_is_kept, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_profile_measures_everything_in_time_and_leaves_nothing, make_folder,
                                        remove_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
