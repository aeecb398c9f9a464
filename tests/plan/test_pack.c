/* The packer finds the best sum, the same as trying every subset. */
#include "test.h"

#include "plan/plan_private.h"

static uint64_t best_subset(const uint64_t *sizes, size_t count, uint64_t capacity)
{
    uint64_t best = 0;
    for (uint32_t mask = 0; mask < 1u << count; mask++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < count; i++)
            sum += mask >> i & 1 ? sizes[i] : 0;
        if (sum <= capacity)
            best = MAX(best, sum);
    }
    return best;
}

static void packing_is_exact(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 1);
    for (int round = 0; round < 2000; round++) {
        struct pack_class classes[5];
        uint64_t sizes[15];
        size_t units = 0, count = 1 + random_next(&random) % COUNT_OF(classes);
        for (size_t i = 0; i < count; i++) {
            classes[i] = (struct pack_class){.size = 1 + random_next(&random) % 40,
                                             .count = 1 + (uint32_t)(random_next(&random) % 3)};
            for (uint32_t j = 0; j < classes[i].count; j++)
                sizes[units++] = classes[i].size;
        }
        uint64_t capacity = random_next(&random) % 200;
        uint64_t sum = plan_pack(classes, count, capacity), taken = 0;
        for (size_t i = 0; i < count; i++) {
            assert_true(classes[i].taken <= classes[i].count);
            taken += classes[i].size * classes[i].taken;
        }
        assert_int_equal(taken, sum);
        assert_true(sum <= capacity);
        assert_int_equal(sum, best_subset(sizes, units, capacity));
    }
}

static void earlier_classes_win_ties(void **state)
{
    (void)state;
    struct pack_class classes[] = {{.size = 6, .count = 2}, {.size = 4, .count = 3}, {.size = 12, .count = 1}};
    assert_int_equal(plan_pack(classes, 3, 12), 12);
    assert_int_equal(classes[0].taken, 2);
    assert_int_equal(classes[1].taken, 0);
    assert_int_equal(classes[2].taken, 0);
}

/* Llama 70B's four sizes and 80 layers: the remaining room is far smaller than the smallest tensor. */
static void a_large_model_is_packed_tightly_and_at_once(void **state)
{
    (void)state;
    struct pack_class classes[] = {{.size = 862617600, .count = 1},
                                   {.size = 132124672, .count = 160},
                                   {.size = 132124672, .count = 40},
                                   {.size = 192688128, .count = 40}};
    for (uint64_t gib = 1; gib <= 30; gib++) {
        uint64_t capacity = gib << 30;
        uint64_t sum = plan_pack(classes, COUNT_OF(classes), capacity);
        assert_true(sum <= capacity);
        assert_true(capacity - sum < 132124672);
    }
}

/* A search that gives up is still no worse than greedily taking classes in order. */
static void many_sizes_are_never_worse_than_greedy(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 7);
    for (size_t count = 30; count <= 90; count += 30) {
        struct pack_class classes[90];
        uint64_t total = 0;
        for (size_t i = 0; i < count; i++) {
            classes[i] = (struct pack_class){.size = 1000003 + random_next(&random) % 5000000, .count = 20};
            total += classes[i].size * classes[i].count;
        }
        uint64_t left = total / 3, greedy = 0;
        for (size_t i = 0; i < count; i++) {
            uint64_t take = MIN(left / classes[i].size, (uint64_t)classes[i].count);
            left -= take * classes[i].size;
            greedy += take * classes[i].size;
        }
        uint64_t sum = plan_pack(classes, count, total / 3);
        assert_true(sum >= greedy && sum <= total / 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_is_exact),
        cmocka_unit_test(earlier_classes_win_ties),
        cmocka_unit_test(a_large_model_is_packed_tightly_and_at_once),
        cmocka_unit_test(many_sizes_are_never_worse_than_greedy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
