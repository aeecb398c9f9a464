#include "engine/cpu/execute.h"

#include <math.h>

/* The least sum of the chosen weights, as in other engines (the smallest normal half-precision number): sigmoid routers
 * may give almost nothing. */
#define LEAST_SUM 6.103515625e-5f

/* Rows per task. */
#define ROWS_A_TASK 8

struct router {
    const struct router_rule *rule;
    float *logits, *selection;
    const float *bias;
    size_t rows;
    bool given; /* the choice is given */
    uint32_t *chosen;
    float *weights;
};

static void softmax(float *values, size_t count)
{
    float most = values[0], sum = 0.0f;
    for (size_t i = 1; i < count; i++)
        most = MAX(most, values[i]);
    for (size_t i = 0; i < count; i++) {
        values[i] = expf(values[i] - most);
        sum += values[i];
    }
    for (size_t i = 0; i < count; i++)
        values[i] /= sum;
}

/* Takes the greatest value not yet taken; of equal ones, the first. A taken value becomes NaN, so none is taken twice,
 * whatever the others are. */
static uint32_t take_greatest(float *values, size_t count)
{
    size_t best = 0;
    while (best + 1 < count && isnan(values[best]))
        best++;
    for (size_t i = best + 1; i < count; i++)
        if (values[i] > values[best])
            best = i;
    values[best] = NAN;
    return (uint32_t)best;
}

/* Group-limited choice (DeepSeek V3): a group's score is the sum of its two best experts. Experts outside the best
 * groups are excluded. */
static void mask_groups(const struct router_rule *p, float *selection)
{
    size_t size = p->experts / p->groups;
    for (uint32_t left = p->groups - p->groups_used; left; left--) {
        uint32_t worst = 0;
        float worst_score = INFINITY;
        for (uint32_t g = 0; g < p->groups; g++) {
            const float *group = selection + g * size;
            float first = -INFINITY, second = -INFINITY;
            for (size_t i = 0; i < size; i++) {
                if (group[i] > first) {
                    second = first;
                    first = group[i];
                } else if (group[i] > second) {
                    second = group[i];
                }
            }
            float score = size > 1 ? first + second : first;
            /* The last of equal groups is excluded first, so ties go to the lower index. */
            if (first > -INFINITY && score <= worst_score) {
                worst_score = score;
                worst = g;
            }
        }
        for (size_t i = 0; i < size; i++)
            selection[worst * size + i] = -INFINITY;
    }
}

static void choose(const struct router *router, size_t row)
{
    const struct router_rule *p = router->rule;
    size_t experts = p->experts, used = p->used;
    float *probabilities = router->logits + row * experts;
    float *selection = router->given ? NULL : router->selection + row * experts;
    uint32_t *chosen = router->chosen + row * used;
    float *weights = router->weights + row * used;
    if (p->gate == ROUTER_SOFTMAX)
        softmax(probabilities, experts);
    else if (p->gate == ROUTER_SIGMOID)
        for (size_t i = 0; i < experts; i++)
            probabilities[i] = 1.0f / (1.0f + expf(-probabilities[i]));
    else if (p->gate == ROUTER_SQRT_SOFTPLUS)
        for (size_t i = 0; i < experts; i++)
            probabilities[i] = sqrtf(MAX(probabilities[i], 0.0f) + log1pf(expf(-fabsf(probabilities[i]))));
    for (size_t i = 0; !router->given && i < experts; i++) {
        float value = router->bias ? probabilities[i] + router->bias[i] : probabilities[i];
        selection[i] = isnan(value) ? -INFINITY : value;
    }
    if (p->groups && !router->given)
        mask_groups(p, selection);

    float sum = 0.0f;
    for (size_t i = 0; i < used; i++) {
        if (!router->given)
            chosen[i] = take_greatest(selection, experts);
        weights[i] = probabilities[chosen[i]];
    }
    if (p->gate == ROUTER_SOFTMAX_SELECTED)
        softmax(weights, used);
    for (size_t i = 0; i < used; i++)
        sum += weights[i];
    sum = MAX(sum, LEAST_SUM);
    for (size_t i = 0; i < used; i++) {
        if (p->normalise)
            weights[i] /= sum;
        weights[i] *= p->scale;
    }
}

static void choose_rows(void *context, size_t index, size_t worker)
{
    const struct router *router = context;
    (void)worker;
    for (size_t row = index * ROWS_A_TASK; row < MIN((index + 1) * ROWS_A_TASK, router->rows); row++)
        choose(router, row);
}

static void choose_all(struct compute *compute, struct router *router)
{
    if (router->rows == 1)
        choose(router, 0);
    else
        thread_pool_run(compute_pool(compute), choose_rows, router, (router->rows + ROWS_A_TASK - 1) / ROWS_A_TASK);
}

void router_choose(struct compute *compute, const struct router_rule *rule, float *logits, float *selection,
                   const float *selection_bias, size_t rows, uint32_t *chosen, float *weights)
{
    struct router router = {.rule = rule,
                            .logits = logits,
                            .selection = selection,
                            .bias = selection_bias,
                            .rows = rows,
                            .chosen = chosen,
                            .weights = weights};
    choose_all(compute, &router);
}

void router_weigh(struct compute *compute, const struct router_rule *rule, float *logits, size_t rows, uint32_t *chosen,
                  float *weights)
{
    struct router router = {
        .rule = rule, .logits = logits, .rows = rows, .given = true, .chosen = chosen, .weights = weights};
    choose_all(compute, &router);
}
