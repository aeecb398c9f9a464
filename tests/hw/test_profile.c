/* A whole profile, with a temporary file: longer than a quick test may take. */
#include "test.h"

#include "hw/hw_private.h"

#include <string.h>
#include <unistd.h>

static void a_profile_measures_everything_in_time_and_leaves_nothing(void **state)
{
    (void)state;
    const char *temporary = getenv("TMPDIR");
    char folder[256], path[300];
    snprintf(folder, sizeof folder, "%s/hypura-profile-XXXXXX", temporary ? temporary : "/tmp");
    assert_non_null(mkdtemp(folder));
    setenv("XDG_CACHE_HOME", folder, 1);
    snprintf(path, sizeof path, "%s/hypura", folder); /* of the cache; the file to read is made beside it */
    struct hardware profile, again;
    uint64_t start = clock_nanoseconds();
    assert_ok(hardware_profile(&profile, folder, NULL, NULL, &test_error));
    assert_true(clock_seconds_since(start) < 20);
    assert_true(profile.measured && profile.kernel_count > 0 && profile.storage.sample_count > 50);
    assert_true(profile.memory_bytes_per_second > 1e8 && profile.multiply_adds_per_second > 1e8);
    assert_ok(hardware_detect(&again, folder, &test_error));
    assert_true(again.measured);
    assert_int_equal(again.storage.depth, profile.storage.depth);
    char cached[4096];
    assert_true(hw_profile_path(&profile, cached, sizeof cached));
    unlink(cached);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* A server's cache of 300 MiB is no memory. */
static void what_is_read_is_in_no_cache(void **state)
{
    (void)state;
    struct hardware hardware = {
        .cache_l3 = (uint64_t)300 << 20, .memory_available = (uint64_t)64 << 30, .cgroup_limit = UINT64_MAX};
    assert_true(hw_test_bytes(&hardware) >= 3 * hardware.cache_l3);
    assert_true(hw_test_bytes(&hardware) <= hardware.memory_available / 8);
    hardware.memory_available = (uint64_t)2 << 30;
    assert_int_equal(hw_test_bytes(&hardware), (uint64_t)256 << 20);
    hardware.cgroup_limit = (uint64_t)1 << 30; /* of which half is taken */
    hardware.cgroup_used = (uint64_t)1 << 29;
    assert_int_equal(hw_test_bytes(&hardware), (uint64_t)64 << 20);
    hardware.cgroup_limit = UINT64_MAX;
    hardware.cache_l3 = 0;
    assert_int_equal(hw_test_bytes(&hardware), (uint64_t)64 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_read_is_in_no_cache),
                                       cmocka_unit_test(a_profile_measures_everything_in_time_and_leaves_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
