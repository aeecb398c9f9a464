#include "engine/engine_private.h"

#include <math.h>
#include <string.h>

/* How many of its first guesses count as made before there was one: right with this probability when the router of the
 * next layer would choose it now, or nearly would. */
#define PRIOR_WEIGHT 16.0f
#define PRIOR_CHOSEN 0.6f
#define PRIOR_NEXT 0.15f

/* The router of a layer on a state that it was not trained for still finds most of what it will choose (the residual
 * stream moves little in one layer). How often the guess of each rank came true is counted and offered as its
 * probability. */
static float rank_probability(const struct guess *guess, uint32_t rank, uint32_t used)
{
    float prior = rank < used ? PRIOR_CHOSEN : PRIOR_NEXT;
    return ((float)guess->right[rank] + PRIOR_WEIGHT * prior) / ((float)guess->made[rank] + PRIOR_WEIGHT);
}

uint32_t guess_ranks(const struct model_parameters *p)
{
    /* Experts outside of the chosen groups cannot be next. */
    uint32_t ranks = p->expert_groups ? p->experts_used : 2 * p->experts_used;
    return MIN(MIN(ranks, p->experts), GUESS_MAX_RANKS);
}

void guess_check(struct engine *engine, uint32_t number)
{
    struct guess *guess = &engine->guess;
    const struct scratch *s = &engine->scratch;
    uint32_t used = model_parameters(engine->model)->experts_used;
    if (guess->rows != engine->rows || guess->layer != number)
        return;
    for (size_t r = 0; r < guess->rows; r++)
        for (uint32_t rank = 0; rank < guess->ranks; rank++) {
            uint32_t expert = s->guessed[r * guess->ranks + rank];
            guess->made[rank]++;
            for (uint32_t i = 0; i < used; i++)
                guess->right[rank] += s->chosen[r * used + i] == expert;
        }
    guess->rows = 0;
}

/* A long batch uses nearly all experts of every layer. */
static void guess_all(struct engine *engine, const struct model_layer *next)
{
    const struct model_parameters *p = model_parameters(engine->model);
    float probability = 1.0f - powf(1.0f - (float)p->experts_used / (float)p->experts, (float)engine->rows);
    unit_number units[64];
    float probabilities[64];
    for (uint32_t first = 0, count; first < p->experts; first += count) {
        count = MIN(p->experts - first, (uint32_t)COUNT_OF(units));
        for (uint32_t i = 0; i < count; i++) {
            units[i] = next->first_expert + first + i;
            probabilities[i] = probability;
        }
        store_predict(engine->store, units, probabilities, count);
    }
}

/* The state that the next layer's router would see if this layer's chosen experts added nothing. */
static hypura_status route_ahead(struct engine *engine, const struct model_layer *next, struct held *held,
                                 hypura_error *error)
{
    struct model_parameters parameters = *model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t count = engine->rows * parameters.embedding;
    const float *state = s->hidden, *selection_bias;
    if (engine->geometry.shared) {
        compute_add(engine->compute, s->branch, s->hidden, s->shared_out, count);
        state = s->branch;
    }
    if (next->tensors[ROLE_ROUTER_SCALE] != NO_UNIT)
        TRY(router_input(engine, next, state, s->branch, error));
    else
        TRY(norm(engine, s->branch, state, next->tensors[ROLE_FFN_NORM], next->tensors[ROLE_FFN_NORM_BIAS],
                 engine->rows, parameters.embedding, error));
    struct matmul job = {
        .input = s->guess_input, .tokens = engine->rows, .output = s->router, .output_stride = parameters.experts};
    TRY(hold_matrix(engine, held, next->tensors[ROLE_ROUTER], &job.weights, error));
    TRY(hold_vector(engine, held, next->tensors[ROLE_ROUTER_BIAS], &job.bias, error));
    TRY(hold_vector(engine, held, next->tensors[ROLE_ROUTER_SELECTION_BIAS], &selection_bias, error));
    activation_set(s->guess_input, s->branch, engine->rows, parameters.embedding, parameters.embedding);
    compute_matmul(engine->compute, &job, 1);
    parameters.experts_used = engine->guess.ranks;
    router_choose(engine->compute, &parameters, s->router, s->selection, selection_bias, engine->rows, s->guessed,
                  s->guessed_weights);
    return HYPURA_OK;
}

hypura_status guess_next(struct engine *engine, uint32_t number, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    const struct model_layer *next = model_layer(engine->model, number + 1);
    struct guess *guess = &engine->guess;
    guess->rows = 0;
    if (engine->plan->expert_cache_bytes == 0 || !next || !next->moe ||
        plan_in_ring(engine->plan, next->tensors[ROLE_ROUTER]))
        return HYPURA_OK; /* nothing to read, or a read of its own would be needed to know what */
    if ((uint64_t)engine->rows * p->experts_used >= 2 * (uint64_t)p->experts) {
        guess_all(engine, next);
        return HYPURA_OK;
    }
    if (engine->rows > GUESS_ROWS)
        return HYPURA_OK;
    struct held held = {0};
    guess->layer = number + 1;
    hypura_status status = route_ahead(engine, next, &held, error);
    release(engine, &held);
    if (status)
        return status;
    guess->rows = (uint32_t)engine->rows;
    for (uint32_t rank = 0; rank < guess->ranks; rank++) { /* the likeliest first */
        unit_number units[GUESS_ROWS];
        float probabilities[GUESS_ROWS];
        for (uint32_t r = 0; r < guess->rows; r++) {
            units[r] = next->first_expert + engine->scratch.guessed[r * guess->ranks + rank];
            probabilities[r] = rank_probability(guess, rank, p->experts_used);
        }
        store_predict(engine->store, units, probabilities, guess->rows);
    }
    return HYPURA_OK;
}
