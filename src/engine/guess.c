#include "engine/cpu/execute.h"
#include "engine/gpu/pass.h"

#include <math.h>
#include <stdlib.h>

/* How many of its first guesses count as made before there was one: right with this probability when the router of the
 * layer would choose it now, or nearly would. */
#define PRIOR_WEIGHT 16.0f
#define PRIOR_CHOSEN 0.6f
#define PRIOR_NEXT 0.15f

#define LEAST_SHARE 1e-20f

/* The router of a layer on a state that it was not trained for still finds most of what it will choose, since the
 * residual stream moves little from layer to layer: the surer, the farther a guess is from the border between what is
 * chosen and what is not. How often guesses of each margin came true, so many layers ahead, is counted and offered as
 * their probability. */
static float guess_probability(const struct guess *guess, uint32_t ahead, uint32_t margin)
{
    float prior = margin >= GUESS_MARGINS / 2 ? PRIOR_CHOSEN : PRIOR_NEXT;
    return ((float)guess->right[ahead][margin] + PRIOR_WEIGHT * prior) /
           ((float)guess->made[ahead][margin] + PRIOR_WEIGHT);
}

uint32_t guess_ranks(const struct model_parameters *p)
{
    /* Experts outside of the chosen groups cannot be next. */
    uint32_t ranks = p->expert_groups ? p->experts_used : 2 * p->experts_used;
    return MIN(MIN(ranks, p->experts), GUESS_MAX_RANKS);
}

/* What was guessed so many layers ahead (less one) for a layer. */
static struct look *look_at(struct guess *guess, uint32_t ahead, uint32_t layer)
{
    return &guess->looks[ahead][layer % GUESS_LAYERS];
}

/* Where the experts of a guess stand in guessed, and how sure they are in margins. */
static size_t guess_place(const struct engine *engine, uint32_t ahead, uint32_t layer)
{
    return ((size_t)ahead * GUESS_LAYERS + layer % GUESS_LAYERS) * GUESS_ROWS * engine->guess.ranks;
}

void guess_check(struct engine *engine, uint32_t number)
{
    struct guess *guess = &engine->guess;
    const struct scratch *s = &engine->scratch;
    uint32_t used = model_parameters(engine->model)->experts_used;
    for (uint32_t ahead = 0; ahead < GUESS_LAYERS; ahead++) {
        struct look *look = look_at(guess, ahead, number);
        bool made = look->rows == engine->rows && look->layer == number;
        size_t place = guess_place(engine, ahead, number);
        for (size_t r = 0; made && r < look->rows; r++)
            for (uint32_t rank = 0; rank < guess->ranks; rank++, place++) {
                guess->made[ahead][s->margins[place]]++;
                for (uint32_t i = 0; i < used; i++)
                    guess->right[ahead][s->margins[place]] += s->chosen[r * used + i] == s->guessed[place];
            }
        look->rows = 0;
    }
}

/* Each choice's distance from the border, in parts of how far all of them are apart: 0 to GUESS_MARGINS - 1, of which
 * the upper half would be chosen. */
static void find_margins(const struct engine *engine, const struct router_rule *rule, const float *selection_bias,
                         const uint32_t *chosen, uint8_t *margins)
{
    uint32_t ranks = engine->guess.ranks, border = MIN(rule->used, ranks - 1);
    float scores[GUESS_MAX_RANKS];
    for (size_t r = 0; r < engine->rows; r++, chosen += ranks, margins += ranks) {
        const float *router = engine->scratch.router + r * rule->experts;
        for (uint32_t i = 0; i < ranks; i++) {
            scores[i] = router[chosen[i]] + (selection_bias ? selection_bias[chosen[i]] : 0);
            if (rule->gate == ROUTER_SOFTMAX && !selection_bias)
                scores[i] = logf(fmaxf(scores[i], LEAST_SHARE));
        }
        float range = fmaxf(scores[0] - scores[ranks - 1], LEAST_SHARE);
        for (uint32_t i = 0; i < ranks; i++) {
            uint32_t half = GUESS_MARGINS / 2;
            float from = i < rule->used ? scores[border] : scores[border - 1];
            float distance = fminf(fabsf(scores[i] - from) / range, 1);
            uint32_t steps = MIN((uint32_t)(distance * (float)half), half - 1);
            margins[i] = (uint8_t)(i < rule->used ? half + steps : half - 1 - steps);
        }
    }
}

/* The choice that a later layer's router would make now. */
static hypura_status route_ahead(struct engine *engine, const struct step_router *router, uint32_t *chosen,
                                 uint8_t *margins, struct held *held, hypura_error *error)
{
    const struct step_route *r = &router->route->route;
    const struct step_norm *n = &router->norm->norm;
    struct step norm = *router->norm;
    struct scratch *s = &engine->scratch;
    struct router_rule rule = r->rule;
    const float *selection_bias;
    struct matmul job = {
        .input = s->guess_input, .tokens = engine->rows, .output = s->router, .output_stride = rule.experts};
    norm.norm.out = BUFFER_BRANCH;
    TRY(run_norm(engine, &norm, held, error));
    forget_inputs(engine, 1u << BUFFER_BRANCH);
    TRY(hold_matrix(engine, held, r->router, &job.weights, error));
    TRY(hold_vector(engine, held, r->bias, &job.bias, error));
    TRY(hold_vector(engine, held, r->selection_bias, &selection_bias, error));
    activation_set(s->guess_input, rows_of(engine, BUFFER_BRANCH), engine->rows, n->width, n->width);
    compute_matmul(engine->compute, &job, 1);
    rule.used = engine->guess.ranks;
    router_choose(engine->compute, &rule, s->router, s->selection, selection_bias, engine->rows, chosen,
                  s->guessed_weights);
    find_margins(engine, &r->rule, selection_bias, chosen, margins);
    return HYPURA_OK;
}

static int likelier_first(const void *left, const void *right)
{
    const struct likely *a = left, *b = right;
    if (a->probability != b->probability)
        return a->probability > b->probability ? -1 : 1;
    return a->expert < b->expert ? -1 : a->expert > b->expert;
}

/* Offers what is left in likely[] of the experts from one on, the likeliest first. */
static void offer(struct engine *engine, unit_number first_expert, uint32_t count)
{
    struct scratch *s = &engine->scratch;
    qsort(s->likely, count, sizeof *s->likely, likelier_first);
    for (uint32_t i = 0; i < count; i++) {
        s->guess_units[i] = first_expert + s->likely[i].expert;
        s->guess_probabilities[i] = s->likely[i].probability;
    }
    store_prefetch(engine->store, s->guess_units, s->guess_probabilities, count);
}

/* A long batch uses nearly all experts of every layer. */
static void guess_all(struct engine *engine, unit_number first_expert)
{
    const struct model_parameters *p = model_parameters(engine->model);
    float probability = 1.0f - powf(1.0f - (float)p->experts_used / (float)p->experts, (float)engine->rows);
    for (uint32_t e = 0; e < p->experts; e++)
        engine->scratch.likely[e] = (struct likely){e, probability};
    offer(engine, first_expert, p->experts);
}

static hypura_status guess_layer(struct engine *engine, uint32_t number, uint32_t ahead, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    struct guess *guess = &engine->guess;
    size_t place = guess_place(engine, ahead, number);
    struct held held = {0};
    struct step_router router;
    steps_router(engine->steps, number, &router);
    hypura_status status = route_ahead(engine, &router, s->guessed + place, s->margins + place, &held, error);
    release(engine, &held);
    if (status)
        return status;
    *look_at(guess, ahead, number) = (struct look){number, (uint32_t)engine->rows};
    for (uint32_t e = 0; e < p->experts; e++)
        s->likely[e] = (struct likely){e, 0};
    for (size_t r = 0; r < engine->rows; r++)
        for (uint32_t rank = 0; rank < guess->ranks; rank++, place++) {
            float *probability = &s->likely[s->guessed[place]].probability;
            *probability += (1 - *probability) * guess_probability(guess, ahead, s->margins[place]);
        }
    uint32_t count = 0;
    for (uint32_t e = 0; e < p->experts; e++)
        if (s->likely[e].probability > 0)
            s->likely[count++] = s->likely[e];
    offer(engine, router.route->route.first, count);
    return HYPURA_OK;
}

/* Single tokens, or a few; a long batch of them uses all experts; what is between uses too many to guess. */
static bool uses_all_experts(const struct engine *engine)
{
    const struct model_parameters *p = model_parameters(engine->model);
    return (uint64_t)engine->rows * p->experts_used >= 2 * (uint64_t)p->experts;
}

static bool guesses_by_token(const struct engine *engine)
{
    return engine->rows <= GUESS_ROWS && !uses_all_experts(engine);
}

/* Whether a layer's experts are worth guessing, and its router at hand: a read of its own would come too late, and what
 * is on the GPU cannot be asked. */
static bool can_guess(const struct engine *engine, uint32_t number)
{
    struct step_router router;
    return steps_router(engine->steps, number, &router) && !gpu_pass_has(engine, number) &&
           !plan_in_ring(engine->plan, router.route->route.router);
}

/* A guess for this layer was made in this pass, farther ahead. */
static bool guessed_before(struct guess *guess, uint32_t number, uint32_t ahead)
{
    for (uint32_t farther = ahead + 1; farther < GUESS_LAYERS; farther++) {
        const struct look *look = look_at(guess, farther, number);
        if (look->rows && look->layer == number)
            return true;
    }
    return false;
}

/* For this layer and those after it. */
static hypura_status guess_from(struct engine *engine, uint32_t number, hypura_error *error)
{
    if (engine->plan->expert_cache_bytes == 0 || !can_guess(engine, number) || !guesses_by_token(engine) ||
        !store_wants_prefetch(engine->store, 1))
        return HYPURA_OK;
    TRY(guess_layer(engine, number, 0, error));
    for (uint32_t ahead = 1; ahead < GUESS_LAYERS && can_guess(engine, number + ahead); ahead++) {
        if (guessed_before(&engine->guess, number + ahead, ahead))
            continue;
        if (!store_wants_prefetch(engine->store, ahead + 1))
            break;
        TRY(guess_layer(engine, number + ahead, ahead, error));
    }
    return HYPURA_OK;
}

hypura_status guess_ahead(struct engine *engine, uint32_t number, hypura_error *error)
{
    return gpu_pass_has(engine, number) ? HYPURA_OK : guess_from(engine, number + 1, error);
}

hypura_status guess_start(struct engine *engine, hypura_error *error)
{
    if (!can_guess(engine, 0) || !guesses_by_token(engine))
        return HYPURA_OK;
    TRY(gpu_pass_to_host(engine, error));
    return guess_from(engine, 0, error);
}

void guess_prompt(struct engine *engine, uint32_t number)
{
    struct step_router next;
    if (engine->plan->expert_cache_bytes && uses_all_experts(engine) && steps_router(engine->steps, number + 1, &next))
        guess_all(engine, next.route->route.first);
}
