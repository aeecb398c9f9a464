#include "engine/gpu/pass.h"

#include <math.h>
#include <stdlib.h>

/* How many of its first guesses count as made before there was one: right with this probability when the router of the
 * next layer would choose it now, or nearly would. */
#define PRIOR_WEIGHT 16.0f
#define PRIOR_CHOSEN 0.6f
#define PRIOR_NEXT 0.15f

/* The router of a layer on a state that it was not trained for still finds most of what it will choose, since the
 * residual stream moves little from layer to layer. How often the guess of each rank came true, so many layers ahead,
 * is counted and offered as its probability. */
static float rank_probability(const struct guess *guess, uint32_t ahead, uint32_t rank, uint32_t used)
{
    float prior = rank < used ? PRIOR_CHOSEN : PRIOR_NEXT;
    return ((float)guess->right[ahead][rank] + PRIOR_WEIGHT * prior) / ((float)guess->made[ahead][rank] + PRIOR_WEIGHT);
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

static uint32_t *guessed_at(const struct engine *engine, uint32_t ahead, uint32_t layer)
{
    size_t look = (size_t)ahead * GUESS_LAYERS + layer % GUESS_LAYERS;
    return engine->scratch.guessed + look * GUESS_ROWS * engine->guess.ranks;
}

void guess_check(struct engine *engine, uint32_t number)
{
    struct guess *guess = &engine->guess;
    const struct scratch *s = &engine->scratch;
    uint32_t used = model_parameters(engine->model)->experts_used;
    for (uint32_t ahead = 0; ahead < GUESS_LAYERS; ahead++) {
        struct look *look = look_at(guess, ahead, number);
        bool made = look->rows == engine->rows && look->layer == number;
        const uint32_t *guessed = guessed_at(engine, ahead, number);
        for (size_t r = 0; made && r < look->rows; r++)
            for (uint32_t rank = 0; rank < guess->ranks; rank++) {
                uint32_t expert = guessed[r * guess->ranks + rank];
                guess->made[ahead][rank]++;
                for (uint32_t i = 0; i < used; i++)
                    guess->right[ahead][rank] += s->chosen[r * used + i] == expert;
            }
        look->rows = 0;
    }
}

/* The choice that a later layer's router would make now. */
static hypura_status route_ahead(struct engine *engine, const struct model_layer *layer, uint32_t *chosen,
                                 struct held *held, hypura_error *error)
{
    struct model_parameters parameters = *model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    if (layer->tensors[ROLE_ROUTER_SCALE] != NO_UNIT)
        TRY(router_input(engine, layer, s->hidden, s->branch, error));
    else
        TRY(norm(engine, s->branch, s->hidden, layer->tensors[ROLE_FFN_NORM], layer->tensors[ROLE_FFN_NORM_BIAS],
                 engine->rows, parameters.embedding, error));
    const float *selection_bias;
    struct matmul job = {
        .input = s->guess_input, .tokens = engine->rows, .output = s->router, .output_stride = parameters.experts};
    TRY(hold_matrix(engine, held, layer->tensors[ROLE_ROUTER], &job.weights, error));
    TRY(hold_vector(engine, held, layer->tensors[ROLE_ROUTER_BIAS], &job.bias, error));
    TRY(hold_vector(engine, held, layer->tensors[ROLE_ROUTER_SELECTION_BIAS], &selection_bias, error));
    activation_set(s->guess_input, s->branch, engine->rows, parameters.embedding, parameters.embedding);
    compute_matmul(engine->compute, &job, 1);
    parameters.experts_used = engine->guess.ranks;
    router_choose(engine->compute, &parameters, s->router, s->selection, selection_bias, engine->rows, chosen,
                  s->guessed_weights);
    return HYPURA_OK;
}

static int likelier_first(const void *left, const void *right)
{
    const struct likely *a = left, *b = right;
    if (a->probability != b->probability)
        return a->probability > b->probability ? -1 : 1;
    return a->expert < b->expert ? -1 : a->expert > b->expert;
}

/* Offers what is left in likely[] of a layer, the likeliest first. */
static void offer(struct engine *engine, const struct model_layer *layer, uint32_t count)
{
    struct scratch *s = &engine->scratch;
    qsort(s->likely, count, sizeof *s->likely, likelier_first);
    for (uint32_t i = 0; i < count; i++) {
        s->guess_units[i] = layer->first_expert + s->likely[i].expert;
        s->guess_probabilities[i] = s->likely[i].probability;
    }
    store_predict(engine->store, s->guess_units, s->guess_probabilities, count);
}

/* A long batch uses nearly all experts of every layer. */
static void guess_all(struct engine *engine, const struct model_layer *next)
{
    const struct model_parameters *p = model_parameters(engine->model);
    float probability = 1.0f - powf(1.0f - (float)p->experts_used / (float)p->experts, (float)engine->rows);
    for (uint32_t e = 0; e < p->experts; e++)
        engine->scratch.likely[e] = (struct likely){e, probability};
    offer(engine, next, p->experts);
}

static hypura_status guess_layer(struct engine *engine, uint32_t number, uint32_t ahead, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    const struct model_layer *layer = model_layer(engine->model, number);
    struct scratch *s = &engine->scratch;
    struct guess *guess = &engine->guess;
    uint32_t *guessed = guessed_at(engine, ahead, number);
    struct held held = {0};
    hypura_status status = route_ahead(engine, layer, guessed, &held, error);
    release(engine, &held);
    if (status)
        return status;
    *look_at(guess, ahead, number) = (struct look){number, (uint32_t)engine->rows};
    for (uint32_t e = 0; e < p->experts; e++)
        s->likely[e] = (struct likely){e, 0};
    for (size_t r = 0; r < engine->rows; r++)
        for (uint32_t rank = 0; rank < guess->ranks; rank++) {
            float *probability = &s->likely[guessed[r * guess->ranks + rank]].probability;
            *probability += (1 - *probability) * rank_probability(guess, ahead, rank, p->experts_used);
        }
    uint32_t count = 0;
    for (uint32_t e = 0; e < p->experts; e++)
        if (s->likely[e].probability > 0)
            s->likely[count++] = s->likely[e];
    offer(engine, layer, count);
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
    const struct model_layer *layer = model_layer(engine->model, number);
    return layer && layer->moe && !gpu_pass_has(engine, number) &&
           !plan_in_ring(engine->plan, layer->tensors[ROLE_ROUTER]);
}

hypura_status guess_ahead(struct engine *engine, uint32_t number, hypura_error *error)
{
    if (engine->plan->expert_cache_bytes == 0 || gpu_pass_has(engine, number) || !can_guess(engine, number + 1) ||
        !guesses_by_token(engine) || !store_wants_guesses(engine->store, 1))
        return HYPURA_OK;
    TRY(guess_layer(engine, number + 1, 0, error));
    for (uint32_t ahead = 1; ahead < GUESS_LAYERS && can_guess(engine, number + 1 + ahead); ahead++) {
        if (!store_wants_guesses(engine->store, ahead + 1))
            break;
        TRY(guess_layer(engine, number + 1 + ahead, ahead, error));
    }
    return HYPURA_OK;
}

void guess_prompt(struct engine *engine, uint32_t number)
{
    const struct model_layer *next = model_layer(engine->model, number + 1);
    if (engine->plan->expert_cache_bytes && uses_all_experts(engine) && next && next->moe)
        guess_all(engine, next);
}
