/* The memory nodes of weights, and the policies that the store sets. Both simulated nodes are the machine's first one,
 * so the test runs on machines with one node. It has not been run with two. */
#include "fixture.h"

#ifdef __linux__
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#endif

static const struct fixture_shape mixed = {
    .tensors = 4, .layers = 3, .experts = 64, .tensor_bytes = 300000, .slice_bytes = 9000};

static struct hardware_nodes two_nodes(bool place)
{
    struct hardware_nodes nodes = {.count = 2, .place = place};
    for (uint32_t i = 0; i < 2; i++)
        nodes.nodes[i].cores = 2;
    return nodes;
}

/* The memory policy at an address; -1 if the system does not report it. */
static int policy_at(const void *memory)
{
#if defined(__linux__) && defined(SYS_get_mempolicy)
    int mode;
    if (syscall(SYS_get_mempolicy, &mode, NULL, 0, memory, MPOL_F_ADDR) == 0)
        return mode;
#endif
    (void)memory;
    return -1;
}

static void get_all(struct store *store, const struct fixture *fixture, uint32_t *of_node)
{
    for (unit_number i = 0; i < fixture->count; i++) {
        struct store_view view;
        assert_ok(store_get(store, i, &view, &test_error));
        assert_true(is_right(fixture, i, &view));
        int node = store_node_of(store, view.slices[0]);
        if (fixture->units[i].kind == UNIT_TENSOR) {
            assert_int_equal(node, -1);
        } else {
            assert_in_range(node, 0, 1);
            of_node[node]++;
            for (uint32_t j = 1; j < 3; j++) /* all slices are on one node */
                assert_int_equal(store_node_of(store, view.slices[j]), node);
            if (fixture->tiers[i] == TIER_RAM)
                assert_int_equal(node, (uint32_t)fixture->units[i].expert >= fixture->experts / 2);
        }
#ifdef MPOL_PREFERRED
        if (policy_at(view.slices[0] + 4096) >= 0 && fixture->units[i].kind == UNIT_EXPERT && node == 0)
            assert_int_equal(policy_at(view.slices[0] + 4096), MPOL_PREFERRED);
#endif
        store_put(store, i);
    }
}

static void each_expert_is_on_one_node(void **state)
{
    (void)state;
    for (int pinned = 0; pinned < 2; pinned++) {
        struct fixture fixture;
        struct fixture_shape shape = mixed;
        struct hardware_nodes nodes = two_nodes(true);
        const struct store_options options = {.allow_buffered = true, .nodes = &nodes};
        uint32_t of_node[2] = {0};
        shape.pin_tensors = shape.pin_experts = pinned;
        fixture_make(&fixture, &shape);
        struct store *store = open_store(&fixture, pinned ? 0 : 3 * fixture.largest_tensor,
                                         pinned ? 0 : 64 * fixture.largest_expert, &options, NULL);
        get_all(store, &fixture, of_node);
        assert_true(of_node[0] >= 16 && of_node[1] >= 16);
        store_close(store);
        fixture_free(&fixture);
    }
}

static void without_permission_nothing_is_placed(void **state)
{
    (void)state;
    struct fixture fixture;
    struct hardware_nodes nodes = two_nodes(false);
    const struct store_options options = {.allow_buffered = true, .nodes = &nodes};
    struct store_view view;
    fixture_make(&fixture, &mixed);
    struct store *store = open_store(&fixture, 3 * fixture.largest_tensor, 64 * fixture.largest_expert, &options, NULL);
    assert_ok(store_get(store, 20, &view, &test_error));
    assert_int_equal(store_node_of(store, view.slices[0]), -1);
    if (policy_at(view.slices[0]) >= 0)
        assert_int_equal(policy_at(view.slices[0]), 0);
    store_put(store, 20);
    store_close(store);
    fixture_free(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_expert_is_on_one_node),
        cmocka_unit_test(without_permission_nothing_is_placed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
