/* One model over several hosts: shares and expected speed. */
#include "embedded.h"

#include "plan/hosts.h"

#include <math.h>
#include <string.h>

/* The search ends when no small change gains a ten-thousandth, which may be some thousandths short of the best. */
#define NEARLY (1 - 3e-3)

static struct hardware hardware;
static struct plan_request request;
static struct plan *first;

static uint64_t experts_bytes(void)
{
    uint64_t bytes = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++)
        bytes += model_unit(model, u)->kind == UNIT_EXPERT ? plan_unit_footprint(model_unit(model, u)) : 0;
    return bytes;
}

static void plan_first_with(uint64_t budget, double drive)
{
    hardware = machine();
    hardware.storage.bytes_per_second = drive;
    request = (struct plan_request){
        .budget = budget, .overhead = 2 * MIB, .positions = 256, .chunk = 16, .kv_type = TENSOR_F16};
    assert_ok(plan_make(&first, model, steps, &hardware, &request, &test_error));
}

static void plan_first(uint64_t budget)
{
    plan_first_with(budget, 1e9);
}

/* The first host has the room that its plan leaves. The others have the given room for experts and the given link. */
static void describe(struct plan_host *hosts, uint32_t count, uint64_t room, double link, double seconds)
{
    memset(hosts, 0, count * sizeof *hosts);
    for (uint32_t h = 0; h < count; h++)
        hosts[h] = (struct plan_host){.expert_room = h ? room : first->expert_cache_bytes,
                                      .compute_bytes_per_second = hardware.compute_bytes_per_second,
                                      .drive_bytes_per_second = hardware.storage.bytes_per_second,
                                      .link_bytes_per_second = link,
                                      .link_seconds = seconds};
}

static struct plan_hosts solve(const struct plan_host *hosts, uint32_t count)
{
    struct plan_hosts plan;
    double sum = 0;
    assert_ok(plan_hosts_make(&plan, first, model, steps, &hardware, &request, hosts, count, &test_error));
    for (uint32_t h = 0; h < count; h++)
        sum += plan.parts[h].share;
    assert_true(fabs(sum - 1) < 1e-9);
    assert_true(plan.tokens_per_second > 0 && plan.even_tokens_per_second <= plan.tokens_per_second);
    return plan;
}

static void one_host_equals_a_plan_without_hosts(void **state)
{
    (void)state;
    struct plan_host host;
    for (uint64_t budget = 7 * MIB; budget < 40 * MIB; budget += 4 * MIB) {
        plan_first(budget);
        describe(&host, 1, 0, 0, 0);
        struct plan_hosts plan = solve(&host, 1);
        assert_true(fabs(plan.tokens_per_second / first->predicted_tokens_per_second - 1) < 1e-6);
        assert_true(fabs(plan.even_tokens_per_second / first->even_tokens_per_second - 1) < 1e-6);
        assert_true(plan.link_bytes <= 0);
        plan_free(first);
    }
}

static void more_memory_is_never_slower(void **state)
{
    (void)state;
    struct plan_host hosts[4];
    double before = 0;
    plan_first(8 * MIB);
    const uint64_t all = experts_bytes();
    for (uint64_t room = 0; room <= all; room += all / 16) {
        describe(hosts, 4, room, 10e9, 5e-6);
        hosts[3].expert_room = room / 2;
        hosts[2].compute_bytes_per_second /= 3;
        struct plan_hosts plan = solve(hosts, 4);
        assert_true(plan.tokens_per_second >= before * NEARLY);
        assert_true(plan.tokens_per_second >= plan.alone_tokens_per_second * NEARLY);
        before = plan.tokens_per_second;
    }
    plan_free(first);
}

static void more_hosts_are_never_slower(void **state)
{
    (void)state;
    struct plan_host hosts[PLAN_MOST_HOSTS];
    double before = 0;
    plan_first(8 * MIB);
    for (uint32_t count = 1; count <= PLAN_MOST_HOSTS; count *= 2) {
        describe(hosts, count, 2 * MIB, 1e9, 20e-6);
        struct plan_hosts plan = solve(hosts, count);
        assert_true(plan.tokens_per_second >= before * NEARLY);
        before = plan.tokens_per_second;
    }
    plan_free(first);
}

static void a_slow_link_limits_and_a_fast_one_costs_nothing(void **state)
{
    (void)state;
    struct plan_host hosts[2];
    double before = 0;
    plan_first_with(8 * MIB, 50e6);
    const uint64_t all = experts_bytes();
    describe(hosts, 2, all, 100, 0.1);
    struct plan_hosts plan = solve(hosts, 2);
    assert_int_equal(plan.used, 1);
    assert_true(plan.parts[1].share <= 0);
    assert_true(fabs(plan.tokens_per_second / plan.alone_tokens_per_second - 1) < 1e-9);
    bool bound = false;
    for (double seconds = 0.1; seconds > 1e-7; seconds /= 2) { /* per message, and bytes in proportion */
        describe(hosts, 2, all, 1e3 / seconds, seconds);
        plan = solve(hosts, 2);
        assert_true(plan.tokens_per_second >= before * NEARLY);
        bound |= plan.bound == HOSTS_BOUND_LINKS;
        before = plan.tokens_per_second;
    }
    assert_true(bound);
    assert_true(plan.bound != HOSTS_BOUND_LINKS && plan.bound != HOSTS_BOUND_DRIVES);
    assert_int_equal(plan.used, 2);
    assert_true(plan.tokens_per_second > 1.5 * plan.alone_tokens_per_second);
    plan_free(first);
}

/* Rows per token: a host that computes experts receives one row, and returns one row per expert. */
static void traffic_follows_from_the_shares(void **state)
{
    (void)state;
    struct plan_host hosts[2];
    const struct model_parameters *p = model_parameters(model);
    plan_first(8 * MIB);
    describe(hosts, 2, experts_bytes(), 1e12, 1e-9);
    struct plan_hosts plan = solve(hosts, 2);
    const double share = plan.parts[1].share, asked = 1 - pow(1 - share, p->experts_used);
    const double rows = p->layers * (asked + p->experts_used * share) * p->embedding * sizeof(float);
    assert_true(plan.link_bytes >= rows && plan.link_bytes < 1.5 * rows);
    assert_true(fabs(plan.messages - 2 * asked * p->layers) < 1e-6);
    plan_free(first);
}

static void a_faster_drive_gets_more_of_the_streamed_experts(void **state)
{
    (void)state;
    struct plan_host hosts[3];
    plan_first(8 * MIB);
    describe(hosts, 3, MIB, 10e9, 5e-6);
    hosts[2].drive_bytes_per_second *= 4;
    struct plan_hosts plan = solve(hosts, 3);
    assert_true(plan.parts[2].share > 1.2 * plan.parts[1].share);
    plan_free(first);
}

static void experts_are_dealt_out_by_shares_in_each_layer(void **state)
{
    (void)state;
    struct plan_hosts plan = {.count = 3, .parts = {{.share = 0.5}, {.share = 0.25}, {.share = 0.25}}};
    const struct model_parameters *p = model_parameters(model);
    uint8_t *owners = calloc(model_unit_count(model), 1);
    assert_int_equal(plan_hosts_owners(owners, model, steps, &plan, NULL, NULL), 0);
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        double counts[3] = {0};
        for (unit_number u = 0; u < model_unit_count(model); u++) {
            const struct unit *unit = model_unit(model, u);
            if (unit->kind != UNIT_EXPERT)
                assert_int_equal(owners[u], 0);
            else if (unit->layer == (int32_t)layer)
                counts[owners[u]]++;
        }
        for (uint32_t h = 0; h < 3; h++)
            assert_true(fabs(counts[h] - plan.parts[h].share * p->experts) <= 1);
    }
    /* A host that has only some experts gets no others. */
    uint8_t *some = calloc(p->layers, p->experts);
    const uint8_t *const has[3] = {NULL, some, NULL};
    for (size_t i = 0; i < (size_t)p->layers * p->experts; i += 5)
        some[i] = 1;
    assert_int_equal(plan_hosts_owners(owners, model, steps, &plan, has, NULL), 0);
    uint32_t own = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        own += owners[u] == 1;
        assert_true(owners[u] != 1 || some[(size_t)unit->layer * p->experts + (size_t)unit->expert]);
    }
    assert_true(own > 0);
    free(some);
    free(owners);
}

static void too_many_hosts_are_refused(void **state)
{
    (void)state;
    static struct plan_host hosts[PLAN_MOST_HOSTS + 1];
    struct plan_hosts plan;
    plan_first(8 * MIB);
    describe(hosts, PLAN_MOST_HOSTS + 1, MIB, 1e9, 1e-5);
    assert_int_equal(
        plan_hosts_make(&plan, first, model, steps, &hardware, &request, hosts, PLAN_MOST_HOSTS + 1, &test_error),
        HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "1 to 64"));
    plan_free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_host_equals_a_plan_without_hosts),
        cmocka_unit_test(more_memory_is_never_slower),
        cmocka_unit_test(more_hosts_are_never_slower),
        cmocka_unit_test(a_slow_link_limits_and_a_fast_one_costs_nothing),
        cmocka_unit_test(traffic_follows_from_the_shares),
        cmocka_unit_test(a_faster_drive_gets_more_of_the_streamed_experts),
        cmocka_unit_test(experts_are_dealt_out_by_shares_in_each_layer),
        cmocka_unit_test(too_many_hosts_are_refused),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
