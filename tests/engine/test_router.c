/* Whatever a router's output, including NaNs from damaged weights, a token gets the right number of experts, and none
 * of them twice. The sizes of the experts' batches depend on that. */
#include "test.h"

#include "engine/engine_private.h"

#include <math.h>
#include <string.h>

#define EXPERTS 12
#define USED 5

static void check(const struct router_rule *parameters, const float *logits, const float *bias,
                  const uint32_t *expected)
{
    float own[EXPERTS], selection[EXPERTS], weights[USED];
    uint32_t chosen[USED];
    bool taken[EXPERTS] = {false};
    memcpy(own, logits, sizeof own);
    router_choose(NULL, parameters, own, selection, bias, 1, chosen, weights);
    for (size_t i = 0; i < USED; i++) {
        assert_true(chosen[i] < EXPERTS && !taken[chosen[i]]);
        taken[chosen[i]] = true;
        if (expected)
            assert_int_equal(chosen[i], expected[i]);
    }
}

static struct router_rule parameters_of(enum router_gate gate, uint32_t groups, uint32_t groups_used)
{
    return (struct router_rule){.experts = EXPERTS,
                                .used = USED,
                                .groups = groups,
                                .groups_used = groups_used,
                                .gate = gate,
                                .normalise = true,
                                .scale = 1};
}

static void the_greatest_are_chosen_in_order(void **state)
{
    (void)state;
    const float logits[EXPERTS] = {1, 9, 2, 8, 8, 3, 0, -1, 7, -2, -3, 4};
    const uint32_t all[USED] = {1, 3, 4, 8, 11};
    /* Of three groups, the second has the greater sum of exponentials, the third the greater sum of sigmoids. */
    const uint32_t second[USED] = {1, 3, 4, 5, 2}, third[USED] = {1, 3, 8, 11, 2};
    for (int gate = ROUTER_SOFTMAX; gate <= ROUTER_SQRT_SOFTPLUS; gate++) {
        struct router_rule plain = parameters_of((enum router_gate)gate, 0, 0);
        struct router_rule grouped = parameters_of((enum router_gate)gate, 3, 2);
        check(&plain, logits, NULL, all);
        check(&grouped, logits, NULL, gate >= ROUTER_SIGMOID ? third : second);
    }
}

static void none_is_chosen_twice(void **state)
{
    (void)state;
    const float values[] = {NAN, -NAN, INFINITY, -INFINITY, 0, 1, 3.4e38f, -3.4e38f};
    struct random random;
    random_seed(&random, 1);
    for (int round = 0; round < 20000; round++) {
        float logits[EXPERTS], bias[EXPERTS];
        for (size_t i = 0; i < EXPERTS; i++) {
            logits[i] = values[random_next(&random) % (round % 7 + 1)];
            bias[i] = values[random_next(&random) % COUNT_OF(values)];
        }
        uint32_t groups = round % 3 ? 3 : 0;
        struct router_rule p = parameters_of((enum router_gate)(round % 4), groups, groups ? 2 : 0);
        check(&p, logits, round % 2 ? bias : NULL, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_greatest_are_chosen_in_order),
        cmocka_unit_test(none_is_chosen_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
