/* Memory nodes: those that the system, cpusets, an affinity mask and numactl's policies leave to the process. The
 * machines are simulated by files; no test needs several real nodes. */
#include "folder.h"

#include "hw/hw_private.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

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

/* Two sockets of 8 cores with two threads each, numbered as on Linux, and a node that has only memory. */
static void put_machine(const char *cpus, const char *memory)
{
    char status[256];
    put("sys/devices/system/node/online", "0-2\n");
    put("sys/devices/system/node/node0/cpulist", "0-7,16-23\n");
    put("sys/devices/system/node/node1/cpulist", "8-15,24-31\n");
    put("sys/devices/system/node/node2/cpulist", "\n");
    snprintf(status, sizeof status,
             "Name:\thypura\nCpus_allowed:\tffffffff\nCpus_allowed_list:\t%s\nMems_allowed_list:\t%s\n", cpus, memory);
    put("proc/self/status", status);
}

static struct hardware_nodes find(enum hw_policy policy, uint64_t bound)
{
    struct hardware_nodes nodes;
    hw_find_nodes(&nodes, test_folder, policy, bound);
    return nodes;
}

static void two_sockets_are_two_nodes(void **state)
{
    (void)state;
    put_machine("0-31", "0-2");
    struct hardware_nodes nodes = find(HW_POLICY_NONE, 0);
    assert_int_equal(nodes.count, 2);
    assert_true(nodes.place);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(nodes.nodes[i].number, i);
        assert_int_equal(nodes.nodes[i].cores, 16);
    }
    assert_int_equal(nodes.nodes[0].cpus[0], 0x00ff00ff);
    assert_int_equal(nodes.nodes[1].cpus[0], 0xff00ff00);
    assert_int_equal(hardware_first_thread(&nodes, 0, 16), 0);
    assert_int_equal(hardware_first_thread(&nodes, 1, 16), 8);
    assert_int_equal(hardware_first_thread(&nodes, 2, 16), 16);
    assert_int_equal(hardware_first_thread(&nodes, 1, 3), 2);
}

static void affinity_leaves_whole_nodes_or_parts(void **state)
{
    (void)state;
    put_machine("0-7,16-23", "0-2"); /* taskset, or a container's cpuset */
    assert_int_equal(find(HW_POLICY_NONE, 0).count, 1);
    put_machine("4-9", "0-2");
    struct hardware_nodes nodes = find(HW_POLICY_NONE, 0);
    assert_int_equal(nodes.count, 2);
    assert_int_equal(nodes.nodes[0].cores, 4);
    assert_int_equal(nodes.nodes[1].cores, 2);
    assert_int_equal(nodes.nodes[1].cpus[0], 0x300);
    assert_int_equal(hardware_first_thread(&nodes, 1, 6), 4); /* in proportion to their cores */
}

static void no_memory_is_placed_on_forbidden_nodes(void **state)
{
    (void)state;
    put_machine("0-31", "0"); /* a cpuset with the memory of one node */
    struct hardware_nodes nodes = find(HW_POLICY_NONE, 0);
    assert_int_equal(nodes.count, 2); /* threads may run on both */
    assert_false(nodes.place);
    put_machine("0-31", "0-2");
    assert_false(find(HW_POLICY_BIND, 1).place);  /* numactl --membind=0 */
    assert_true(find(HW_POLICY_BIND, 3).place);   /* numactl --membind=0,1 */
    assert_false(find(HW_POLICY_OTHER, 0).place); /* numactl --interleave, --preferred */
}

static void unreadable_files_mean_one_node(void **state)
{
    (void)state;
    assert_int_equal(find(HW_POLICY_NONE, 0).count, 1);
    put_machine("0-31", "0-2");
    put("sys/devices/system/node/online", "0\n");
    assert_int_equal(find(HW_POLICY_NONE, 0).count, 1);
    put("sys/devices/system/node/online", "nonsense\n");
    assert_int_equal(find(HW_POLICY_NONE, 0).count, 1);
    put("sys/devices/system/node/online", "0-1\n");
    put("sys/devices/system/node/node1/cpulist", "8-,x\n");
    assert_int_equal(find(HW_POLICY_NONE, 0).count, 1);
    put("proc/self/status", "Name:\thypura\n");
    assert_int_equal(find(HW_POLICY_NONE, 0).count, 1);
}

static void at_most_eight_nodes_are_used(void **state)
{
    (void)state;
    char name[80], list[32];
    put_machine("0-1023", "0-63");
    put("sys/devices/system/node/online", "0-11\n");
    for (unsigned i = 0; i < 12; i++) {
        snprintf(name, sizeof name, "sys/devices/system/node/node%u/cpulist", i);
        snprintf(list, sizeof list, "%u-%u\n", 8 * i, 8 * i + 7);
        put(name, list);
    }
    assert_int_equal(find(HW_POLICY_NONE, 0).count, 1); /* more than are supported */
    put("sys/devices/system/node/online", "0-7\n");
    struct hardware_nodes nodes = find(HW_POLICY_NONE, 0);
    assert_int_equal(nodes.count, 8);
    for (uint32_t i = 0; i <= 8; i++)
        assert_int_equal(hardware_first_thread(&nodes, i, 64), 8 * i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(two_sockets_are_two_nodes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(affinity_leaves_whole_nodes_or_parts, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(no_memory_is_placed_on_forbidden_nodes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(unreadable_files_mean_one_node, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(at_most_eight_nodes_are_used, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
