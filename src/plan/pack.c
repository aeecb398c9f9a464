/* Finds the subset of dense tensors with the most bytes that fits: a bounded subset-sum problem.
 *
 * A model's tensors have few sizes (a Llama with 80 layers has four). So the search decides how many of each size to
 * take, most first; the last size is settled by a division. It leaves a branch as soon as even all that remains could
 * not beat the best sum so far. */
#include "plan/plan_private.h"

#define MAX_STEPS 200000u

struct search {
    struct pack_class *classes;
    size_t count;
    uint64_t best;
    uint32_t steps;
    uint32_t *taken; /* in the current branch */
};

static uint64_t class_total(const struct pack_class *class)
{
    return class->size * class->count;
}

/* sum: taken so far; left: remaining capacity; rest: the sizes of all classes from number on. true ends the search. */
static bool search_from(struct search *search, size_t number, uint64_t sum, uint64_t left, uint64_t rest)
{
    if (number == search->count || left == 0) {
        if (sum > search->best) {
            search->best = sum;
            for (size_t i = 0; i < search->count; i++)
                search->classes[i].taken = i < number ? search->taken[i] : 0;
        }
        return left == 0;
    }
    const struct pack_class *class = &search->classes[number];
    uint64_t later = rest - class_total(class);
    uint64_t most = class->size ? MIN((uint64_t) class->count, left / class->size) : class->count;
    for (uint64_t take = most + 1; take-- > 0;) {
        uint64_t used = take * class->size;
        if (sum + used + MIN(left - used, later) <= search->best)
            break; /* taking fewer of this one cannot be better */
        if (++search->steps > MAX_STEPS)
            return true;
        search->taken[number] = (uint32_t)take;
        if (search_from(search, number + 1, sum + used, left - used, later))
            return true;
    }
    return false;
}

uint64_t plan_pack(struct pack_class *classes, size_t count, uint64_t capacity)
{
    uint32_t taken[64];
    uint64_t total = 0, greedy = 0, left = capacity;
    for (size_t i = 0; i < count; i++) {
        classes[i].taken =
            classes[i].size ? (uint32_t)MIN((uint64_t)classes[i].count, left / classes[i].size) : classes[i].count;
        left -= classes[i].taken * classes[i].size;
        greedy += classes[i].taken * classes[i].size;
        total += class_total(&classes[i]);
    }
    if (greedy == total || left == 0 || count > COUNT_OF(taken))
        return greedy;
    struct search search = {.classes = classes, .count = count, .best = greedy, .taken = taken};
    search_from(&search, 0, 0, capacity, total);
    return search.best;
}
