#include "engine/cluster/share.h"
#include "engine/cpu/execute.h"
#include "engine/gpu/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Before any of a class were made, this many prefetches count as made, with these probabilities of being right: one for
 * experts that the router would choose now, one for its runners-up. */
#define PRIOR_WEIGHT 16.0f
#define PRIOR_CHOSEN 0.6f
#define PRIOR_NEXT 0.15f

#define LEAST_SHARE 1e-20f

/* The probability that a prefetch is right. The residual stream changes little from layer to layer, so a router that
 * runs on an earlier layer's output still finds most of its later choice. The farther an expert is from the border
 * between chosen and not chosen, the surer it is. So the share of right prefetches is counted per margin and per number
 * of layers ahead. */
static float prefetch_probability(const struct prefetcher *prefetcher, uint32_t ahead, uint32_t margin)
{
    float prior = margin >= PREFETCH_MARGINS / 2 ? PRIOR_CHOSEN : PRIOR_NEXT;
    return ((float)prefetcher->right[ahead][margin] + PRIOR_WEIGHT * prior) /
           ((float)prefetcher->made[ahead][margin] + PRIOR_WEIGHT);
}

uint32_t prefetch_ranks(const struct model_parameters *p)
{
    /* Experts outside the chosen groups cannot come next. */
    uint32_t ranks = p->expert_groups ? p->experts_used : 2 * p->experts_used;
    return MIN(MIN(ranks, p->experts), PREFETCH_MAX_RANKS);
}

/* What was prefetched for a layer, by layers ahead (minus one). */
static struct look *look_at(struct prefetcher *prefetcher, uint32_t ahead, uint32_t layer)
{
    return &prefetcher->looks[ahead][layer % PREFETCH_LAYERS];
}

/* The index of a prefetch's experts in scratch.prefetched, and of their classes in scratch.margins. */
static size_t prefetch_place(const struct batch *batch, uint32_t ahead, uint32_t layer)
{
    return ((size_t)ahead * PREFETCH_LAYERS + layer % PREFETCH_LAYERS) * PREFETCH_ROWS * batch->prefetcher.ranks;
}

void prefetch_check(struct batch *batch, uint32_t number)
{
    struct prefetcher *prefetcher = &batch->prefetcher;
    const struct scratch *s = &batch->scratch;
    uint32_t used = model_parameters(batch->open->model)->experts_used;
    for (uint32_t ahead = 0; ahead < PREFETCH_LAYERS; ahead++) {
        struct look *look = look_at(prefetcher, ahead, number);
        bool made = look->rows == batch->rows && look->layer == number;
        size_t place = prefetch_place(batch, ahead, number);
        for (size_t r = 0; made && r < look->rows; r++)
            for (uint32_t rank = 0; rank < prefetcher->ranks; rank++, place++) {
                prefetcher->made[ahead][s->margins[place]]++;
                for (uint32_t i = 0; i < used; i++)
                    prefetcher->right[ahead][s->margins[place]] += s->chosen[r * used + i] == s->prefetched[place];
            }
        look->rows = 0;
    }
}

/* Classifies each expert by the distance of its score from the border, relative to the range of all scores: 0 to
 * PREFETCH_MARGINS - 1. Experts that would be chosen are in the upper half. */
static void find_margins(const struct batch *batch, const struct router_rule *rule, const float *selection_bias,
                         const uint32_t *chosen, uint8_t *margins)
{
    uint32_t ranks = batch->prefetcher.ranks, border = MIN(rule->used, ranks - 1);
    float scores[PREFETCH_MAX_RANKS];
    for (size_t r = 0; r < batch->rows; r++, chosen += ranks, margins += ranks) {
        const float *router = batch->scratch.router + r * rule->experts;
        for (uint32_t i = 0; i < ranks; i++) {
            scores[i] = router[chosen[i]] + (selection_bias ? selection_bias[chosen[i]] : 0);
            if (rule->gate == ROUTER_SOFTMAX && !selection_bias)
                scores[i] = logf(fmaxf(scores[i], LEAST_SHARE));
        }
        float range = fmaxf(scores[0] - scores[ranks - 1], LEAST_SHARE);
        for (uint32_t i = 0; i < ranks; i++) {
            uint32_t half = PREFETCH_MARGINS / 2;
            float from = i < rule->used ? scores[border] : scores[border - 1];
            float distance = fminf(fabsf(scores[i] - from) / range, 1);
            uint32_t steps = MIN((uint32_t)(distance * (float)half), half - 1);
            margins[i] = (uint8_t)(i < rule->used ? half + steps : half - 1 - steps);
        }
    }
}

/* Runs a later layer's router now. */
static hypura_status ask_router(struct batch *batch, const struct step_router *router, struct held *held,
                                hypura_error *error)
{
    const struct step_route *r = &router->route->route;
    struct scratch *s = &batch->scratch;
    struct matmul job = {
        .input = s->prefetch_input, .tokens = batch->rows, .output = s->router, .output_stride = r->rule.experts};
    for (uint32_t i = 0; i < router->count; i++) /* between two layers, nothing else reads what they write */
        TRY(execute(batch, (struct step_list){router->steps[i], 1}, error));
    TRY(hold_matrix(batch, held, r->router, &job.weights, error));
    TRY(hold_vector(batch, held, r->bias, &job.bias, error));
    const size_t width = job.weights.columns;
    activation_set(s->prefetch_input, rows_of(batch, r->in), batch->rows, width, width);
    compute_matmul(batch->compute, &job, 1);
    return HYPURA_OK;
}

/* Finds the choice that a later layer's router would make now. said: its logits from a device; NULL: computed here. */
static hypura_status route_ahead(struct batch *batch, const struct step_router *router, const float *said,
                                 uint32_t *chosen, uint8_t *margins, struct held *held, hypura_error *error)
{
    const struct step_route *r = &router->route->route;
    struct scratch *s = &batch->scratch;
    struct router_rule rule = r->rule;
    const float *selection_bias;
    if (said)
        memcpy(s->router, said, batch->rows * rule.experts * sizeof *said);
    else
        TRY(ask_router(batch, router, held, error));
    TRY(hold_vector(batch, held, r->selection_bias, &selection_bias, error));
    rule.used = batch->prefetcher.ranks;
    router_choose(batch->compute, &rule, s->router, s->selection, selection_bias, batch->rows, chosen,
                  s->prefetch_weights);
    find_margins(batch, &r->rule, selection_bias, chosen, margins);
    return HYPURA_OK;
}

static int likelier_first(const void *left, const void *right)
{
    const struct likely *a = left, *b = right;
    if (a->probability != b->probability)
        return a->probability > b->probability ? -1 : 1;
    return a->expert < b->expert ? -1 : a->expert > b->expert;
}

/* Offers the first count entries of likely[] to the store, the likeliest first, without experts on other hosts.
 * first_expert: the unit of the layer's expert 0. */
static void offer(struct batch *batch, unit_number first_expert, uint32_t count)
{
    struct scratch *s = &batch->scratch;
    const uint8_t *elsewhere = batch->open->plan->elsewhere;
    uint32_t own = 0;
    qsort(s->likely, count, sizeof *s->likely, likelier_first);
    for (uint32_t i = 0; i < count; i++) {
        if (elsewhere && elsewhere[first_expert + s->likely[i].expert])
            continue;
        s->prefetch_units[own] = first_expert + s->likely[i].expert;
        s->prefetch_probabilities[own++] = s->likely[i].probability;
    }
    if (own)
        store_prefetch(batch->open->store, s->prefetch_units, s->prefetch_probabilities, own);
}

/* Offers all experts of a layer, as a long batch uses nearly all of them. */
static void prefetch_all(struct batch *batch, unit_number first_expert, size_t rows)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    float probability = 1.0f - powf(1.0f - (float)p->experts_used / (float)p->experts, (float)rows);
    for (uint32_t e = 0; e < p->experts; e++)
        batch->scratch.likely[e] = (struct likely){e, probability};
    offer(batch, first_expert, p->experts);
}

static hypura_status prefetch_layer(struct batch *batch, uint32_t number, uint32_t ahead, const float *said,
                                    hypura_error *error)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    struct prefetcher *prefetcher = &batch->prefetcher;
    size_t place = prefetch_place(batch, ahead, number);
    struct held held = {0};
    struct step_router router;
    steps_router(batch->open->steps, number, &router);
    hypura_status status = route_ahead(batch, &router, said, s->prefetched + place, s->margins + place, &held, error);
    release(batch, &held);
    if (status)
        return status;
    *look_at(prefetcher, ahead, number) = (struct look){number, (uint32_t)batch->rows};
    for (uint32_t e = 0; e < p->experts; e++)
        s->likely[e] = (struct likely){e, 0};
    for (size_t r = 0; r < batch->rows; r++)
        for (uint32_t rank = 0; rank < prefetcher->ranks; rank++, place++) {
            float *probability = &s->likely[s->prefetched[place]].probability;
            *probability += (1 - *probability) * prefetch_probability(prefetcher, ahead, s->margins[place]);
        }
    uint32_t count = 0;
    for (uint32_t e = 0; e < p->experts; e++)
        if (s->likely[e].probability > 0)
            s->likely[count++] = s->likely[e];
    offer(batch, router.route->route.first, count);
    if (batch->share && batch->share->streams && !batch->watch) /* a rank that sends inputs reads nothing meanwhile */
        share_prefetch(batch, number, router.route->route.first, s->likely, count);
    return HYPURA_OK;
}

/* A long batch uses all experts, and a batch of a few tokens can be predicted token by token. A batch in between uses
 * too many experts to tell which. */
static bool use_all_experts(const struct batch *batch, size_t rows)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    return (uint64_t)rows * p->experts_used >= 2 * (uint64_t)p->experts;
}

static bool prefetches_by_token(const struct batch *batch)
{
    return batch->rows <= PREFETCH_ROWS && !use_all_experts(batch, batch->rows);
}

/* Whether the CPU can run a layer's router ahead. A router that streams would have to be read first, which takes too
 * long, and one on the GPU is out of reach. */
static bool can_prefetch(const struct batch *batch, uint32_t number)
{
    struct step_router router;
    if (!steps_router(batch->open->steps, number, &router) || gpu_pass_has(batch, number) ||
        plan_in_ring(batch->open->plan, router.route->route.router))
        return false;
    for (uint32_t i = 0; i < router.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(router.steps[i], units);
        for (size_t u = 0; u < count; u++)
            if (plan_in_ring(batch->open->plan, units[u].unit))
                return false;
    }
    return true;
}

/* Whether this layer was already prefetched in this pass, from farther ahead. */
static bool prefetched_before(struct prefetcher *prefetcher, uint32_t number, uint32_t ahead)
{
    for (uint32_t farther = ahead + 1; farther < PREFETCH_LAYERS; farther++) {
        const struct look *look = look_at(prefetcher, farther, number);
        if (look->rows && look->layer == number)
            return true;
    }
    return false;
}

/* Prefetches for this layer and, while the drive is idle, for those after it. */
static hypura_status prefetch_from(struct batch *batch, uint32_t number, hypura_error *error)
{
    const bool others = batch->share && batch->share->streams;
    if ((batch->open->plan->expert_cache_bytes == 0 && !others) || !can_prefetch(batch, number) ||
        !prefetches_by_token(batch) || !(store_wants_prefetch(batch->open->store, 1) || others))
        return HYPURA_OK;
    TRY(prefetch_layer(batch, number, 0, NULL, error));
    for (uint32_t ahead = 1; ahead < PREFETCH_LAYERS && can_prefetch(batch, number + ahead); ahead++) {
        if (prefetched_before(&batch->prefetcher, number + ahead, ahead))
            continue;
        if (!store_wants_prefetch(batch->open->store, ahead + 1))
            break;
        TRY(prefetch_layer(batch, number + ahead, ahead, NULL, error));
    }
    return HYPURA_OK;
}

hypura_status prefetch_ahead(struct batch *batch, uint32_t number, hypura_error *error)
{
    return gpu_pass_has(batch, number) ? HYPURA_OK : prefetch_from(batch, number + 1, error);
}

hypura_status prefetch_start(struct batch *batch, hypura_error *error)
{
    if (!can_prefetch(batch, 0) || !prefetches_by_token(batch))
        return HYPURA_OK;
    TRY(gpu_pass_to_host(batch, error));
    return prefetch_from(batch, 0, error);
}

bool prefetch_may_ask(const struct batch *batch, uint32_t number)
{
    struct step_router router;
    return batch->open->plan->expert_cache_bytes > 0 && prefetches_by_token(batch) &&
           steps_router(batch->open->steps, number, &router) && store_wants_prefetch(batch->open->store, 1);
}

hypura_status prefetch_asked(struct batch *batch, uint32_t number, hypura_error *error)
{
    const float **said = batch->prefetcher.said;
    for (uint32_t ahead = 0; ahead < PREFETCH_ASKED; ahead++) {
        if (said[ahead] && store_wants_prefetch(batch->open->store, ahead + 1))
            TRY(prefetch_layer(batch, number + 1 + ahead, ahead, said[ahead], error));
        said[ahead] = NULL;
    }
    return HYPURA_OK;
}

void prefetch_prompt(struct batch *batch, uint32_t number)
{
    struct step_router next;
    const size_t rows = narrow_rows_in(batch, number + 1);
    if (batch->open->plan->expert_cache_bytes && use_all_experts(batch, rows) &&
        steps_router(batch->open->steps, number + 1, &next))
        prefetch_all(batch, next.route->route.first, rows);
}
