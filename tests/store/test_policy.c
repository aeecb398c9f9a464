/* Cache policies on traces with known optimum, and compared with a plain implementation of Belady's rule. */
#include "test.h"

#include "store/policy.h"
#include "tools/replay.h"

#include <string.h>
#include <unistd.h>

static struct trace *make_trace(uint32_t layers, uint32_t experts, uint32_t used, size_t passes, uint32_t tokens,
                                uint32_t (*choose)(struct random *random, size_t pass, uint32_t layer, uint32_t which))
{
    struct trace *trace;
    struct random random;
    random_seed(&random, 5);
    assert_ok(ALLOCATE(&trace, 1, "test", &test_error));
    assert_ok(ALLOCATE(&trace->shape.layers, layers, "test", &test_error));
    assert_ok(ALLOCATE(&trace->passes, passes, "test", &test_error));
    assert_ok(ALLOCATE(&trace->choice, (size_t)layers * used * tokens * passes, "test", &test_error));
    trace->shape.layer_count = layers;
    trace->shape.experts = experts;
    trace->shape.used = used;
    trace->pass_count = passes;
    for (uint32_t i = 0; i < layers; i++)
        trace->shape.layers[i] = (struct trace_layer){i, 100};
    uint16_t *at = trace->choice;
    for (size_t pass = 0; pass < passes; pass++) {
        trace->passes[pass] = (struct trace_pass){tokens, at};
        for (uint32_t layer = 0; layer < layers; layer++) {
            for (uint32_t i = 0; i < tokens * used; i++)
                *at++ = (uint16_t)(choose(&random, pass, layer, i) % experts);
        }
    }
    return trace;
}

static double hit_rate(const struct trace *trace, const char *policy, uint64_t slots, size_t warm)
{
    struct replay_result result;
    assert_ok(replay_run(&result, trace,
                         &(struct replay_how){.policy = policy, .cache_bytes = slots * 100, .warm_passes = warm},
                         &test_error));
    assert_int_equal(result.bytes_missed, result.misses * 100);
    return (double)result.hits / (double)(result.hits + result.misses);
}

/* The same experts in every pass: a cycle. */
static uint32_t same(struct random *random, size_t pass, uint32_t layer, uint32_t which)
{
    (void)random;
    (void)pass;
    return layer + which;
}

static void a_cycle_larger_than_the_cache(void **state)
{
    (void)state;
    struct trace *trace = make_trace(10, 16, 2, 100, 1, same);
    /* 20 experts cycle through 15 slots. LRU evicts each just before its next use. The optimal policy needs one slot
     * for incoming experts, so 14 of the 20 can stay. */
    assert_true(hit_rate(trace, "lru", 15, 10) < 1e-9);
    assert_true(hit_rate(trace, "belady", 15, 10) > 0.69);
    assert_true(hit_rate(trace, "cycle", 15, 10) > 0.65);
    assert_true(hit_rate(trace, "cycle", 20, 10) > 1 - 1e-9);
    assert_true(hit_rate(trace, "lru", 20, 10) > 1 - 1e-9);
    trace_free(trace);
}

/* Each layer has four favourites; the other uses are random. */
static uint32_t favourites(struct random *random, size_t pass, uint32_t layer, uint32_t which)
{
    (void)pass;
    uint32_t dice = (uint32_t)random_next(random);
    if (which == 0)
        return layer * 3 + dice % 4;
    return dice % 64;
}

static void policies_that_count_keep_favourites(void **state)
{
    (void)state;
    struct trace *trace = make_trace(8, 64, 2, 2000, 1, favourites);
    double best = hit_rate(trace, "belady", 32, 200);
    /* 32 slots could hold the favourites of 8 layers, which are half of all uses, but the other uses need a slot, too.
     */
    assert_true(hit_rate(trace, "lfu", 32, 200) > 0.45);
    assert_true(hit_rate(trace, "cycle", 32, 200) > 0.42);
    assert_true(hit_rate(trace, "lru", 32, 200) < 0.40);
    for (size_t i = 0; i < replay_policy_count(); i++) {
        double rate = hit_rate(trace, replay_policy_name(i), 32, 200);
        assert_true(rate > 0 && rate <= best);
        /* A cache with room for all experts misses each one once. */
        struct replay_result result;
        assert_ok(replay_run(&result, trace,
                             &(struct replay_how){.policy = replay_policy_name(i),
                                                  .cache_bytes = replay_total_bytes(trace),
                                                  .warm_passes = 0},
                             &test_error));
        assert_true(result.misses <= 8 * 64);
        /* A cache without room for any expert never hits, and the replay still ends. */
        assert_ok(replay_run(&result, trace,
                             &(struct replay_how){.policy = replay_policy_name(i), .cache_bytes = 99, .warm_passes = 0},
                             &test_error));
        assert_int_equal(result.hits, 0);
    }
    trace_free(trace);
}

/* A long pass uses all 16 experts of a layer, every other pass two of 12 in turn. */
static uint32_t two_in_turn(struct random *random, size_t pass, uint32_t layer, uint32_t which)
{
    (void)random, (void)layer;
    return pass % 20 == 0 ? which : ((uint32_t)pass * 2 + which) % 12;
}

static struct replay_result replay_with(const struct trace *trace, uint64_t slots, uint64_t lent, bool tokens_only)
{
    struct replay_result result;
    assert_ok(replay_run(
        &result, trace,
        &(struct replay_how){
            .policy = "lru", .cache_bytes = slots * 100, .lent_bytes = lent * 100, .tokens_only = tokens_only},
        &test_error));
    return result;
}

/* Lent slots are there for passes of one token, and empty after a long pass. */
static void lent_slots_fill_again(void **state)
{
    (void)state;
    struct trace *trace = make_trace(1, 16, 2, 40, 8, two_in_turn);
    for (size_t i = 0; i < trace->pass_count; i++)
        trace->passes[i].tokens = i % 20 == 0 ? 8 : 1;
    /* 19 passes with two uses each follow each of the two long ones. 12 experts in turn never hit in 8 slots. */
    const struct replay_result without = replay_with(trace, 8, 0, true), with = replay_with(trace, 8, 4, true);
    assert_int_equal(without.hits + without.misses, 2 * 38);
    assert_true(without.hits <= 2 * 8);
    /* With 12 slots, those that are missing after the long pass are missed once: four at least, twelve at most. */
    assert_true(with.misses >= 2 * 4 && with.misses <= 2 * 12);
    /* Long passes do not have them. */
    const struct replay_result all = replay_with(trace, 8, 4, false), alone = replay_with(trace, 8, 0, false);
    assert_true(all.misses - with.misses >= 2 * 8 && alone.misses - without.misses >= 2 * 8);
    trace_free(trace);
}

/* Experts that come back after a prompt are read then, although nothing uses them, and get room of their own later. */
static void experts_come_back_after_a_prompt(void **state)
{
    (void)state;
    struct trace *trace = make_trace(1, 16, 2, 40, 8, two_in_turn);
    for (size_t i = 0; i < trace->pass_count; i++)
        trace->passes[i].tokens = i % 20 == 0 ? 8 : 1;
    const bool returns[16] = {[12] = true, [13] = true, [14] = true, [15] = true};
    struct replay_how how = {.policy = "lru", .cache_bytes = 8 * 100, .returns = returns, .tokens_only = true};
    struct replay_result without, with;
    assert_ok(replay_run(&without, trace, &how, &test_error));
    assert_int_equal(without.returned, 2 * 4);
    how.returning_bytes = 4 * 100;
    assert_ok(replay_run(&with, trace, &how, &test_error));
    assert_int_equal(with.returned, 2 * 4);
    assert_true(with.misses < without.misses);
    how.returns = NULL;
    how.returning_bytes = 0;
    assert_ok(replay_run(&with, trace, &how, &test_error));
    assert_int_equal(with.returned, 0);
    trace_free(trace);
}

/* A slow implementation of Belady's rule: of the experts not in use, it evicts the one with the farthest next use. */
static uint64_t slow_belady(const struct trace *trace, uint32_t slots)
{
    uint32_t layers = trace->shape.layer_count, experts = trace->shape.experts, used = trace->shape.used;
    uint32_t count = layers * experts;
    bool *present = calloc(count, 1);
    uint32_t there = 0;
    uint64_t hits = 0;
    for (size_t step = 0; step < trace->pass_count * layers; step++) {
        uint32_t layer = (uint32_t)(step % layers);
        const uint16_t *chosen = trace->passes[step / layers].experts + layer * used;
        for (uint32_t i = 0; i < used; i++)
            hits += present[layer * experts + chosen[i]];
        for (uint32_t i = 0; i < used; i++) {
            if (present[layer * experts + chosen[i]])
                continue;
            if (there == slots) {
                uint32_t victim = NO_ITEM;
                size_t farthest = 0;
                for (uint32_t item = 0; item < count; item++) {
                    bool in_use = false;
                    for (uint32_t j = 0; j < used; j++)
                        in_use |= item == layer * experts + chosen[j];
                    if (!present[item] || in_use)
                        continue;
                    size_t next = step + 1;
                    for (; next < trace->pass_count * layers; next++) {
                        const uint16_t *then = trace->passes[next / layers].experts + next % layers * used;
                        bool found = false;
                        for (uint32_t j = 0; j < used; j++)
                            found |= next % layers * experts + then[j] == item;
                        if (found)
                            break;
                    }
                    if (victim == NO_ITEM || next > farthest) {
                        victim = item;
                        farthest = next;
                    }
                }
                present[victim] = false;
                there--;
            }
            present[layer * experts + chosen[i]] = true;
            there++;
        }
    }
    free(present);
    return hits;
}

static uint32_t two_of_many(struct random *random, size_t pass, uint32_t layer, uint32_t which)
{
    (void)pass;
    (void)layer;
    uint32_t dice = (uint32_t)random_next(random);
    return which * 6 + dice % 12 * (dice >> 8) % 6; /* two different experts of 12 */
}

static void belady_is_belady(void **state)
{
    (void)state;
    struct trace *trace = make_trace(3, 12, 2, 120, 1, two_of_many);
    for (uint32_t slots = 3; slots < 20; slots += 4) {
        struct replay_result result;
        assert_ok(replay_run(&result, trace,
                             &(struct replay_how){.policy = "belady", .cache_bytes = slots * 100, .warm_passes = 0},
                             &test_error));
        assert_int_equal(result.hits + result.misses, 3 * 2 * 120);
        assert_int_equal(result.hits, slow_belady(trace, slots));
    }
    trace_free(trace);
}

static void tokens_of_a_pass_share_their_experts(void **state)
{
    (void)state;
    struct trace *trace = make_trace(2, 8, 2, 1, 50, two_of_many);
    struct replay_result result;
    assert_ok(
        replay_run(&result, trace,
                   &(struct replay_how){.policy = "lru", .cache_bytes = replay_total_bytes(trace), .warm_passes = 0},
                   &test_error));
    assert_true(result.hits == 0 && result.misses <= 2 * 8);
    trace_free(trace);
}

static struct replay_result replayed(const struct trace *trace, struct replay_how how)
{
    struct replay_result result;
    assert_ok(replay_run(&result, trace, &how, &test_error));
    return result;
}

/* The experts of one layer are a tenth larger. Few slots are all of their size, and what is left over holds nothing. */
static void few_slots_have_the_size_of_the_largest(void **state)
{
    (void)state;
    struct trace *trace = make_trace(2, 12, 2, 200, 1, two_of_many);
    trace->shape.layers[1].expert_bytes = 110;
    struct replay_result slots = replayed(trace, (struct replay_how){.cache_bytes = 9 * 110});
    struct replay_result more = replayed(trace, (struct replay_how){.cache_bytes = 10 * 110});
    struct replay_result almost = replayed(trace, (struct replay_how){.cache_bytes = 10 * 110 - 1});
    assert_int_equal(almost.hits, slots.hits);
    assert_true(more.hits > slots.hits);
    trace_free(trace);
}

/* A prompt reads the experts of a late layer for its last token only. */
static void late_layers_take_the_last_token_of_a_prompt(void **state)
{
    (void)state;
    struct trace *trace = make_trace(2, 64, 2, 1, 50, two_of_many);
    const struct replay_how how = {.cache_bytes = replay_total_bytes(trace)};
    struct replay_how late = how;
    late.narrows = true;
    late.late_layer = 1;
    struct replay_result all = replayed(trace, how), narrowed = replayed(trace, late);
    assert_true(all.misses > narrowed.misses && narrowed.misses > 2);
    late.late_layer = 0;
    assert_int_equal(replayed(trace, late).misses, 2 * 2);
    late.tokens_only = true;
    assert_int_equal(replayed(trace, late).misses, 0);
    assert_int_equal(replayed(trace, late).tokens, 0);
    trace_free(trace);
}

/* A long prompt reads its experts once per batch, and those of a late layer in the last batch only. */
static void a_long_prompt_passes_in_batches(void **state)
{
    (void)state;
    struct trace *trace = make_trace(2, 64, 2, 1, 50, two_of_many);
    struct replay_how how = {.cache_bytes = 4 * 100, .narrows = true, .late_layer = 1};
    const struct replay_result whole = replayed(trace, how);
    how.chunk = 10;
    const struct replay_result batches = replayed(trace, how);
    assert_true(batches.misses > whole.misses);
    assert_int_equal(batches.tokens, 50);
    how.cache_bytes = replay_total_bytes(trace);
    assert_int_equal(replayed(trace, how).misses, whole.misses);
    how.late_layer = 0;
    assert_int_equal(replayed(trace, how).misses, 2 * 2);
    trace_free(trace);
}

/* Experts that are elsewhere are not counted, and take no room from the others. */
static void experts_may_be_left_out(void **state)
{
    (void)state;
    struct trace *trace = make_trace(2, 12, 2, 200, 1, two_of_many);
    bool left_out[2 * 12] = {false};
    struct replay_how how = {.cache_bytes = 8 * 100};
    const struct replay_result all = replayed(trace, how);
    for (size_t e = 0; e < 12; e++)
        left_out[e] = true;
    how.left_out = left_out;
    const struct replay_result second = replayed(trace, how);
    assert_int_equal(second.hits + second.misses, 2 * 200);
    assert_true(second.misses < all.misses / 2);
    for (size_t e = 0; e < 12; e++)
        left_out[12 + e] = true;
    assert_int_equal(replayed(trace, how).hits + replayed(trace, how).misses, 0);
    trace_free(trace);
}

static void an_unknown_policy_is_named(void **state)
{
    (void)state;
    struct trace *trace = make_trace(2, 8, 2, 1, 1, same);
    struct replay_result result;
    assert_int_equal(replay_run(&result, trace,
                                &(struct replay_how){.policy = "fifo", .cache_bytes = 100, .warm_passes = 0},
                                &test_error),
                     HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "cycle, lru"));
    trace_free(trace);
}

/* No policy evicts an item that must stay, or returns an item that was removed. */
static bool is_odd(void *context, uint32_t item)
{
    (void)context;
    return item % 2;
}

static bool is_none(void *context, uint32_t item)
{
    (void)context;
    (void)item;
    return false;
}

static bool may_go_always(void *context, uint32_t item)
{
    (void)context;
    (void)item;
    return true;
}

static void victims_are_present_and_may_go(void **state)
{
    (void)state;
    uint32_t group_of[60];
    for (uint32_t i = 0; i < COUNT_OF(group_of); i++)
        group_of[i] = i / 10;
    struct policy_shape shape = {COUNT_OF(group_of), 6, group_of};
    for (size_t p = 0; p < policy_count(); p++) {
        struct cache_policy *policy;
        struct random random;
        random_seed(&random, 4);
        bool present[COUNT_OF(group_of)] = {0};
        assert_ok(policy_create(&policy, policy_name(p), &shape, &test_error));
        const struct cache_policy_operations *operations = policy->operations;
        assert_string_equal(operations->name, policy_name(p));
        assert_int_equal(operations->victim(policy, is_odd, NULL), NO_ITEM);
        for (int step = 0; step < 5000; step++) {
            uint32_t item = (uint32_t)(random_next(&random) % COUNT_OF(group_of)), odd = 0, all = 0;
            operations->access(policy, item);
            if (!present[item])
                operations->insert(policy, item);
            present[item] = true;
            for (uint32_t i = 0; i < COUNT_OF(group_of); i++) {
                odd += present[i] && i % 2;
                all += present[i];
            }
            assert_int_equal(operations->victim(policy, is_none, NULL), NO_ITEM);
            uint32_t victim = operations->victim(policy, is_odd, NULL);
            assert_int_equal(victim == NO_ITEM, odd == 0);
            if (all > 30 && victim != NO_ITEM) {
                assert_true(present[victim] && victim % 2);
                operations->remove(policy, victim);
                present[victim] = false;
            }
            if (step % 20 == 0 && operations->pass)
                operations->pass(policy);
        }
        operations->destroy(policy);
    }
}

/* If every token of a prompt uses one item, and each other item has a single use, only the first is a favourite. */
static void tokens_of_a_prompt_count_one_by_one(void **state)
{
    (void)state;
    uint32_t group_of[40] = {0};
    struct policy_shape shape = {COUNT_OF(group_of), 1, group_of};
    struct cache_policy *policy;
    assert_ok(policy_create(&policy, "cycle", &shape, &test_error));
    const struct cache_policy_operations *operations = policy->operations;
    for (uint32_t token = 1; token < COUNT_OF(group_of); token++) {
        operations->token(policy, 0);
        operations->access(policy, 0);
        operations->access(policy, token);
    }
    for (uint32_t item = 0; item < COUNT_OF(group_of); item++)
        operations->insert(policy, item);
    operations->pass(policy);
    assert_true(operations->rate(policy, 0) > 0.99f);
    for (uint32_t item = 1; item < COUNT_OF(group_of); item++)
        assert_true(operations->rate(policy, item) < 0.05f && operations->chance(policy, item) < 0.3f);
    for (uint32_t item = 1; item < COUNT_OF(group_of); item++) {
        uint32_t victim = operations->victim(policy, may_go_always, NULL);
        assert_true(victim != NO_ITEM && victim != 0);
        operations->remove(policy, victim);
    }
    operations->destroy(policy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cycle_larger_than_the_cache),
        cmocka_unit_test(policies_that_count_keep_favourites),
        cmocka_unit_test(lent_slots_fill_again),
        cmocka_unit_test(experts_come_back_after_a_prompt),
        cmocka_unit_test(belady_is_belady),
        cmocka_unit_test(tokens_of_a_pass_share_their_experts),
        cmocka_unit_test(few_slots_have_the_size_of_the_largest),
        cmocka_unit_test(late_layers_take_the_last_token_of_a_prompt),
        cmocka_unit_test(a_long_prompt_passes_in_batches),
        cmocka_unit_test(experts_may_be_left_out),
        cmocka_unit_test(an_unknown_policy_is_named),
        cmocka_unit_test(victims_are_present_and_may_go),
        cmocka_unit_test(tokens_of_a_prompt_count_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
