/* Figures are measured until two rounds agree. */
#include "test.h"

#include "hw/hw_private.h"

static void measures_until_two_rounds_agree(void **state)
{
    (void)state;
    const struct {
        double seconds[HW_MOST_ROUNDS];
        uint32_t rounds;
        double best;
    } cases[] = {
        {{1.00, 1.05}, 2, 1.00},             /* agrees at once */
        {{1.05, 1.00}, 2, 1.00},             /* the better one counts */
        {{1.40, 1.00, 1.09}, 3, 1.00},       /* a slow first round */
        {{1.00, 3.00, 1.02}, 3, 1.00},       /* a slow second round */
        {{1.40, 1.45}, 2, 1.40},             /* slow all the time */
        {{1.40, 1.60, 1.00, 1.01}, 4, 1.00}, /* two slow rounds, each in its own way */
        {{2.00, 1.50, 1.20, 1.00}, 4, 1.00}, /* never: the best */
        {{1.00, 1.20, 1.30, 1.40}, 4, 1.00},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct hw_figure figure = {0};
        for (uint32_t round = 0; round < cases[i].rounds; round++) {
            assert_false(hw_is_settled(&figure));
            hw_note_round(&figure, cases[i].seconds[round]);
        }
        assert_true(hw_is_settled(&figure));
        assert_true(figure.best == cases[i].best);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(measures_until_two_rounds_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
