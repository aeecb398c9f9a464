/* Compressed positions are the weighted means that compute.h defines, with the same bits for every instruction set,
 * number of threads and division of a text. */
#include "test.h"

#include "compute/compute.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 301
#define SIZE 70
#define MOST_EVERY 128

static float values[ROWS * 2 * SIZE], gates[ROWS * 2 * SIZE], bias[MOST_EVERY * 2 * SIZE];

struct form {
    size_t every;
    bool overlaps, gated;
};

static double gate_at(const struct form *form, size_t row, size_t column)
{
    size_t width = form->overlaps ? 2 * SIZE : SIZE;
    return form->gated ? (double)gates[row * width + column] + bias[row % form->every * width + column] : 0;
}

/* Adds the entries of a block one by one, knowing the greatest gate in advance, unlike the function under test. */
static double expected(const struct form *form, size_t block, size_t channel)
{
    size_t width = form->overlaps ? 2 * SIZE : SIZE, own = form->overlaps ? SIZE + channel : channel;
    size_t first = block * form->every, before = form->overlaps && block > 0 ? form->every : 0;
    double most = -1e300, sum = 0, mean = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t row = first - before; row < first + form->every; row++) {
            size_t column = row < first ? channel : own;
            double gate = gate_at(form, row, column), weight = exp(gate - most);
            most = pass ? most : fmax(most, gate);
            sum += pass ? weight : 0;
            mean += pass ? weight * values[row * width + column] : 0;
        }
    return mean / sum;
}

/* Compresses the rows in pieces of "cut" rows. Each piece starts from the state that the previous one left. */
static void run(enum instruction_set set, size_t threads, const struct form *form, size_t cut, float *out)
{
    struct compute *compute;
    size_t floats = compression_state_floats(SIZE, form->overlaps), width = form->overlaps ? 2 * SIZE : SIZE;
    float *states[2] = {malloc(floats * sizeof(float)), malloc(floats * sizeof(float))};
    assert_ok(compute_create(&compute, threads, set, &test_error));
    assert_true(states[0] && states[1]);
    memset(states[0], 0xff, floats * sizeof(float)); /* must not be read at position 0 */
    for (size_t row = 0, turn = 0; row < ROWS; row += cut, turn ^= 1) {
        struct compression compression = {.rows = MIN(cut, ROWS - row),
                                          .position = row,
                                          .size = SIZE,
                                          .every = form->every,
                                          .overlaps = form->overlaps,
                                          .values = values + row * width,
                                          .gates = form->gated ? gates + row * width : NULL,
                                          .bias = form->gated ? bias : NULL,
                                          .state = states[turn],
                                          .next = states[turn ^ 1],
                                          .out = out};
        compute_compression(compute, &compression);
        out += compressed_rows(row, compression.rows, form->every) * SIZE;
    }
    free(states[0]);
    free(states[1]);
    compute_destroy(compute);
}

static void blocks_become_rows(void **state)
{
    static const struct form forms[] = {{4, true, true}, {128, false, true}, {4, false, false}, {1, false, true}};
    static float plain[ROWS * SIZE], out[ROWS * SIZE];
    struct random random;
    (void)state;
    random_seed(&random, 3);
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        values[i] = (float)random_normal(&random);
        gates[i] = (float)(3 * random_normal(&random));
    }
    for (size_t i = 0; i < COUNT_OF(bias); i++)
        bias[i] = (float)random_normal(&random);
    gates[5] = -1e30f; /* far below all others, then far above */
    gates[SIZE + 9] = 1e30f;
    for (size_t f = 0; f < COUNT_OF(forms); f++) {
        const struct form *form = &forms[f];
        size_t blocks = ROWS / form->every;
        run(INSTRUCTIONS_PLAIN, 1, form, ROWS, plain);
        for (size_t i = 0; i < blocks * SIZE; i++) {
            double right = expected(form, i / SIZE, i % SIZE);
            if (!(fabs(plain[i] - right) <= 2e-6 * (1 + fabs(right))))
                fail_msg("form %zu, block %zu, channel %zu: %.9g, expected %.9g", f, i / SIZE, i % SIZE,
                         (double)plain[i], right);
        }
        for (int set = 0; set <= INSTRUCTIONS_NEON; set++)
            for (size_t cut = 1; cut <= 129 && compute_has_instructions((enum instruction_set)set); cut += 32) {
                run((enum instruction_set)set, 1 + cut % 3, form, cut, out);
                assert_memory_equal(out, plain, blocks * SIZE * sizeof *out);
            }
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(blocks_become_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
