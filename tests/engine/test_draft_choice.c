/* Drafting never costs noticeable speed, whatever drafts cost and however few are accepted. Passes are simulated. */
#include "test.h"

#include "core/core.h"
#include "engine/draft_choice.h"

#include <math.h>

struct scenario {
    double further;   /* time of a draft, in passes */
    double true_part; /* share of drafts that are right */
    double noise;     /* standard deviation of the logarithm of times */
    double displaced; /* time that a draft adds to the next pass, in passes */
};

/* A random length of a match, mostly short as in real texts. */
static uint32_t kind_of_match(struct random *random)
{
    static const uint8_t kinds[] = {0, 0, 0, 1, 1, 2, 3, 4, 5};
    return kinds[random_next(random) % COUNT_OF(kinds)];
}

/* Simulates the given number of tokens. Returns the speed as a multiple of that without drafts. */
static double go_on(struct draft_choice *choice, const struct scenario *s, struct random *random, uint32_t tokens)
{
    double time = 0, behind = 0;
    for (uint32_t made = 0; made < tokens;) {
        uint32_t kind = kind_of_match(random), most = draft_begin(choice, DRAFT_MOST), accepted = 0;
        for (uint32_t i = 0; i < most; i++, kind = MIN(kind + 1, DRAFT_MATCH_KINDS - 1)) {
            if (!draft_pays(choice, (double)draft_chance(&choice->kinds[kind]), choice->further)) {
                if (i == 0)
                    draft_refuse(choice, &choice->kinds[kind]);
                break;
            }
            draft_add(choice, kind);
        }
        const uint32_t drafted = choice->count;
        while (accepted < drafted && random_uniform(random) < s->true_part)
            accepted++;
        double varies = exp(s->noise * random_normal(random) - s->noise * s->noise / 2);
        double pass = (1 + drafted * s->further + behind) * varies;
        behind = drafted * s->displaced;
        draft_learn(choice, accepted, (uint64_t)(pass * 1e8));
        time += pass;
        made += 1 + accepted;
        if (made >= tokens)
            return made / time;
    }
    return 0;
}

static double speed(const struct scenario *s, uint32_t tokens)
{
    enum { RUNS = 12 };
    double sum = 0;
    for (uint64_t run = 0; run < RUNS; run++) {
        struct draft_choice choice = {0};
        struct random random;
        random_seed(&random, run);
        sum += go_on(&choice, s, &random, tokens);
    }
    return sum / RUNS;
}

static void drafts_never_cost_speed(void **state)
{
    (void)state;
    static const double further[] = {0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5}, parts[] = {0, 0.05, 0.1, 0.2, 0.4, 0.8};
    double worst = 1;
    for (size_t f = 0; f < COUNT_OF(further); f++)
        for (size_t p = 0; p < COUNT_OF(parts); p++)
            for (int noisy = 0; noisy < 2; noisy++)
                for (int displacing = 0; displacing < 2; displacing++) {
                    const struct scenario s = {further[f], parts[p], noisy ? 0.3 : 0.05, displacing ? 0.2 : 0};
                    const uint32_t tokens = noisy ? 2000 : 500;
                    double ratio = speed(&s, tokens);
                    worst = MIN(worst, ratio);
                    if (ratio < 0.98)
                        fail_msg("a draft takes %.2f passes and adds %.1f to the next, %.2f are right, noise %.2f: the "
                                 "speed is %.3f of that without drafts",
                                 s.further, s.displaced, s.true_part, s.noise, ratio);
                }
    print_message("# the worst case: %.3f of the speed without drafts\n", worst);
}

static void drafts_that_pay_are_made(void **state)
{
    (void)state;
    const struct scenario cheap = {0.05, 0.9, 0.1, 0}, streamed = {0.3, 0.9, 0.3, 0};
    assert_true(speed(&cheap, 1000) > 2.5);
    assert_true(speed(&streamed, 1000) > 1.3);
}

/* When the text changes, the time gained before is not lost again. */
static void drafting_stops_when_it_stops_paying(void **state)
{
    (void)state;
    const struct scenario good = {0.1, 0.9, 0.1, 0}, bad = {0.4, 0, 0.1, 0};
    struct draft_choice choice = {0};
    struct random random;
    random_seed(&random, 1);
    assert_true(go_on(&choice, &good, &random, 1000) > 1.5);
    for (int i = 0; i < 3; i++)
        assert_true(go_on(&choice, &bad, &random, 1000) > 0.98);
    assert_true(go_on(&choice, &good, &random, 2000) > 1.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(drafts_never_cost_speed),
                                       cmocka_unit_test(drafts_that_pay_are_made),
                                       cmocka_unit_test(drafting_stops_when_it_stops_paying)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
