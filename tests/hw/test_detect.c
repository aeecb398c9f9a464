/* hardware_detect describes the machine that it runs on. */
#include "test.h"

#include "core/sanitized.h"
#include "hw/hw.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void the_machine_is_described(void **state)
{
    (void)state;
    struct hardware hardware;
    assert_ok(hardware_detect(&hardware, "/", &test_error));
    assert_true(strlen(hardware.cpu) > 0);
    assert_true(strlen(hardware.instructions) > 0);
    assert_true(hardware.cores >= 1 && hardware.cores <= thread_usable_cores());
    assert_true(hardware.memory_total > 0);
    assert_true(hardware.memory_available <= hardware.memory_total);
    assert_true(hardware.memory_bytes_per_second > 0 && hardware.compute_bytes_per_second > 0);
    assert_true(strlen(hardware.storage.file_system) > 0);
    assert_true(hardware.storage.block_bytes >= STORAGE_ALIGNMENT && hardware.storage.depth >= 1);
    assert_true(hardware.storage.alignment <= STORAGE_ALIGNMENT);
}

static void a_path_that_is_not_there_is_named(void **state)
{
    (void)state;
    struct hardware hardware;
    memset(&hardware, 7, sizeof hardware);
    assert_int_equal(hardware_detect(&hardware, "/nowhere/model.gguf", &test_error), HYPURA_ERROR_IO);
    assert_non_null(strstr(test_error.message, "/nowhere/model.gguf"));
    assert_int_equal(hardware.cpu[0], 7); /* untouched */
}

static void memory_file_systems_have_no_direct_reads(void **state)
{
    (void)state;
    struct storage storage;
    struct stat info;
    if (stat("/dev/shm", &info)) {
        skip();
        return;
    }
    assert_ok(hardware_detect_storage(&storage, "/dev/shm", &test_error));
    if (strcmp(storage.file_system, "tmpfs")) {
        skip();
        return;
    }
    assert_false(storage.direct_supported);
    assert_false(storage.direct_pays);
    assert_string_equal(storage.device, "");
}

static void the_default_budget_leaves_room(void **state)
{
    (void)state;
    const uint64_t gib = (uint64_t)1 << 30;
    struct hardware hardware = {.memory_total = 64 * gib, .memory_available = 40 * gib, .cgroup_limit = UINT64_MAX};
    assert_int_equal(hardware_default_budget(&hardware), 38 * gib);
    /* The free part of the cgroup's limit counts, not the limit itself. */
    hardware.cgroup_limit = 8 * gib;
    hardware.cgroup_used = 4 * gib;
    uint64_t budget = hardware_default_budget(&hardware);
    assert_true(budget < 4 * gib && budget > 3 * gib);
    /* Small and unusual machines. */
    hardware.cgroup_used = 9 * gib;
    assert_int_equal(hardware_default_budget(&hardware), 0);
    hardware.cgroup_limit = UINT64_MAX;
    hardware.memory_available = gib / 2;
    budget = hardware_default_budget(&hardware);
    assert_true(budget <= gib / 2 && budget >= gib / 4);
}

static void code_is_in_memory(void **state)
{
    (void)state;
    uint64_t code = hardware_code_bytes();
    assert_true(SANITIZED ? code == 0 : code > 0 && code < ((uint64_t)16 << 20)); /* 0 with sanitizers */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_machine_is_described),
        cmocka_unit_test(a_path_that_is_not_there_is_named),
        cmocka_unit_test(memory_file_systems_have_no_direct_reads),
        cmocka_unit_test(the_default_budget_leaves_room),
        cmocka_unit_test(code_is_in_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
