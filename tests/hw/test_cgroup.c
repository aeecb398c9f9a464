/* The effective limit on memory or time is the tightest of a cgroup and its ancestors, for both versions of cgroups and
 * however they are mounted. */
#include "folder.h"

#include "hw/hw_private.h"

#include <errno.h>
#ifdef __linux__
#include <sched.h>
#endif
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

static void put(const char *path, const char *text)
{
    char whole[1024];
    snprintf(whole, sizeof whole, "%s/%s", test_folder, path);
    for (char *slash = strchr(whole + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(whole, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(whole, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void version_2_takes_the_group_with_least_room(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/user.slice/session.scope\n");
    put("proc/self/mountinfo", "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                               "31 25 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
    /* A limit of 4 GiB with little used, under a parent with a limit of 8 GiB, of which others use 6 GiB. */
    put("sys/fs/cgroup/user.slice/session.scope/memory.max", "4294967296\n");
    put("sys/fs/cgroup/user.slice/session.scope/memory.current", "104857600\n");
    put("sys/fs/cgroup/user.slice/memory.max", "8589934592\n");
    put("sys/fs/cgroup/user.slice/memory.current", "7516192768\n");
    put("sys/fs/cgroup/user.slice/memory.stat",
        "anon 1\ninactive_file 1073741824\nactive_file 0\nslab_reclaimable 0\n");
    uint64_t limit, used;
    hw_cgroup_memory(test_folder, &limit, &used);
    assert_int_equal(limit, 8192 * MIB);
    assert_int_equal(used, 6144 * MIB);
}

static void version_2_counts_high_as_a_limit(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/job\n");
    put("proc/self/mountinfo", "31 25 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put("sys/fs/cgroup/job/memory.max", "max\n");
    put("sys/fs/cgroup/job/memory.high", "1073741824\n");
    put("sys/fs/cgroup/job/memory.current", "4096\n");
    uint64_t limit, used;
    hw_cgroup_memory(test_folder, &limit, &used);
    assert_int_equal(limit, 1024 * MIB);
    assert_int_equal(used, 4096);
}

static void no_limit_is_reported_as_such(void **state)
{
    (void)state;
    put("proc/self/cgroup", "9:name=systemd:/\n4:memory:/a\n0::/\n");
    put("proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                               "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "123456789\n");
    uint64_t limit = 1, used = 1;
    hw_cgroup_memory(test_folder, &limit, &used);
    assert_int_equal(limit, UINT64_MAX);
    assert_int_equal(used, 0);
}

static void version_1_counts_ancestors_too(void **state)
{
    (void)state;
    put("proc/self/cgroup", "5:cpu,cpuacct:/other\n4:memory:/outer/inner\n");
    put("proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("sys/fs/cgroup/memory/outer/inner/memory.limit_in_bytes", "2147483648\n");
    put("sys/fs/cgroup/memory/outer/inner/memory.usage_in_bytes", "1048576\n");
    put("sys/fs/cgroup/memory/outer/memory.limit_in_bytes", "1073741824\n");
    put("sys/fs/cgroup/memory/outer/memory.usage_in_bytes", "10485760\n");
    put("sys/fs/cgroup/memory/outer/memory.stat",
        "inactive_file 7\ntotal_inactive_file 2097152\ntotal_active_file 1048576\n");
    uint64_t limit, used;
    hw_cgroup_memory(test_folder, &limit, &used);
    assert_int_equal(limit, 1024 * MIB);
    assert_int_equal(used, 7 * MIB);
}

/* A container sees the host's path of its group in /proc/self/cgroup, but mounts only its own part of the tree. */
static void a_container_finds_its_own_group(void **state)
{
    (void)state;
    put("proc/self/cgroup", "4:memory:/docker/c0ffee/sub\n");
    put("proc/self/mountinfo",
        "35 31 0:32 /docker/c0ffee /sys/fs/cgroup/memory\\040here ro - cgroup cgroup rw,memory\n");
    put("sys/fs/cgroup/memory here/memory.limit_in_bytes", "536870912\n");
    put("sys/fs/cgroup/memory here/memory.usage_in_bytes", "0\n");
    put("sys/fs/cgroup/memory here/sub/memory.limit_in_bytes", "268435456\n");
    put("sys/fs/cgroup/memory here/sub/memory.usage_in_bytes", "0\n");
    uint64_t limit, used;
    hw_cgroup_memory(test_folder, &limit, &used);
    assert_int_equal(limit, 256 * MIB);

    put("proc/self/cgroup", "4:memory:/../../escaped\n");
    hw_cgroup_memory(test_folder, &limit, &used);
    assert_int_equal(limit, 512 * MIB);
}

static void files_that_are_missing_or_nonsense_mean_no_limit(void **state)
{
    (void)state;
    uint64_t limit = 1, used = 1;
    hw_cgroup_memory(test_folder, &limit, &used);
    assert_int_equal(limit, UINT64_MAX);
    put("proc/self/cgroup", "no colons here\n0::\n::::\n4:memory\n");
    put("proc/self/mountinfo", "garbage\n1 2 3\n31 25 0:28 / /cg rw - cgroup2 x rw\n");
    put("cg/memory.max", "many\n");
    hw_cgroup_memory(test_folder, &limit, &used);
    assert_int_equal(limit, UINT64_MAX);
    assert_int_equal(used, 0);
}

#ifdef __linux__
static void put_siblings(int cpu, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    put(path, text);
}
#endif

static void threads_of_a_core_count_once(void **state)
{
    (void)state;
#ifndef __linux__
    skip();
#else
    cpu_set_t cpus;
    assert_int_equal(sched_getaffinity(0, sizeof cpus, &cpus), 0);
    assert_int_equal(hw_physical_cores(test_folder), thread_usable_cores());
    size_t usable = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus)) { /* list them in pairs, like the threads of a core */
            char text[64];
            snprintf(text, sizeof text, "%zu,%zu\n", usable / 2, usable / 2 + 64);
            put_siblings(cpu, text);
            usable++;
        }
    assert_int_equal(hw_physical_cores(test_folder), (usable + 1) / 2);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus))
            put_siblings(cpu, "0-127\n");
    assert_int_equal(hw_physical_cores(test_folder), 1);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus))
            put_siblings(cpu, "unknown\n");
    assert_int_equal(hw_physical_cores(test_folder), usable);
#endif
}

static void the_tightest_quota_of_time_counts(void **state)
{
    (void)state;
    assert_true(hw_cgroup_cores(test_folder) == SIZE_MAX);
    put("proc/self/cgroup", "0::/system.slice/hypura.service\n");
    put("proc/self/mountinfo", "31 25 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put("sys/fs/cgroup/system.slice/hypura.service/cpu.max", "max 100000\n");
    assert_true(hw_cgroup_cores(test_folder) == SIZE_MAX);
    put("sys/fs/cgroup/system.slice/hypura.service/cpu.max", "400000 100000\n");
    put("sys/fs/cgroup/system.slice/cpu.max", "250000 100000\n");
    assert_int_equal(hw_cgroup_cores(test_folder), 3);
    put("sys/fs/cgroup/system.slice/cpu.max", "1000 100000\n");
    assert_int_equal(hw_cgroup_cores(test_folder), 1);

    put("proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/other\n");
    put("proc/self/mountinfo", "35 31 0:32 / /cg rw - cgroup cgroup rw,cpu,cpuacct\n");
    put("cg/job/cpu.cfs_quota_us", "-1\n");
    put("cg/job/cpu.cfs_period_us", "100000\n");
    assert_true(hw_cgroup_cores(test_folder) == SIZE_MAX);
    put("cg/job/cpu.cfs_quota_us", "200000\n");
    assert_int_equal(hw_cgroup_cores(test_folder), 2);
}

static void free_memory_counts_what_the_kernel_would_drop(void **state)
{
    (void)state;
    put("proc/meminfo", "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:   12000000 kB\n");
    struct hardware hardware = {0};
    hw_detect_memory(&hardware, test_folder);
    assert_int_equal(hardware.memory_total, (uint64_t)16000000 * 1024);
    assert_int_equal(hardware.memory_available, (uint64_t)12000000 * 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(version_2_takes_the_group_with_least_room, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(version_2_counts_high_as_a_limit, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(no_limit_is_reported_as_such, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(version_1_counts_ancestors_too, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_container_finds_its_own_group, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(files_that_are_missing_or_nonsense_mean_no_limit, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(threads_of_a_core_count_once, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(the_tightest_quota_of_time_counts, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(free_memory_counts_what_the_kernel_would_drop, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
