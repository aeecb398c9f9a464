#include "tools/estimate.h"
#include "tools/optimize.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GIB ((uint64_t)1 << 30)

/* Room for an answer after the long prompt. */
#define ANSWER 480u

hypura_status estimate_check_trace(const struct trace *trace, const struct model *model, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(model);
    if (trace->shape.experts == p->experts && trace->shape.used == p->experts_used &&
        trace->shape.layer_count <= p->layers)
        return HYPURA_OK;
    return error_set(
        error, HYPURA_ERROR_ARGUMENT,
        "the trace belongs to another model, \"%.100s\": %u of %u experts in %u layers; this one uses %u of %u",
        trace->shape.name, trace->shape.used, trace->shape.experts, trace->shape.layer_count, p->experts_used,
        p->experts);
}

/* ---- recorded routing ------------------------------------------------------------------------------------------- */

/* Returns how many passes of the trace only fill the cache: its leading batches, which are the prompt, or a quarter. */
static size_t warm_passes(const struct trace *trace)
{
    size_t passes = 0;
    while (passes < trace->pass_count && trace->passes[passes].tokens > 1)
        passes++;
    return passes && passes < trace->pass_count ? passes : trace->pass_count / 4;
}

/* What is to be replayed: the decoding of a trace, with prompts as this plan's model passes them. */
struct replaying {
    const struct trace *trace;
    struct replay_how how;
    double lent;  /* of the experts that are on no device or in lent room, those in lent room */
    double spare; /* of the experts that are on no device, those that have room only while no long batch runs */
};

/* Bytes of experts on devices whose room long batches take. */
static uint64_t lent_bytes(const struct plan *plan, const struct model *model)
{
    uint64_t bytes = 0;
    for (unit_number u = 0; plan->gpu && u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        if (unit->kind == UNIT_EXPERT && plan->gpu->units[u] && unit->layer < (int32_t)plan->gpu->layer_count &&
            plan->gpu->lent[unit->layer])
            bytes += unit->bytes;
    }
    return bytes;
}

/* share: of the experts that are on no device, those that the cache and the buffers of long batches have room for.
 * Experts in lent room take part in the replay: after a prompt they are missing, and come back like those of the
 * cache. */
static hypura_status play_at(float *out, double share, struct replaying *replaying, hypura_error *error)
{
    struct replay_result result;
    const double all = (double)replay_total_bytes(replaying->trace), here = 1 - replaying->lent,
                 spare = fmin(share, replaying->spare);
    replaying->how.cache_bytes = (uint64_t)((share - spare) * here * all);
    replaying->how.lent_bytes = (uint64_t)((replaying->lent + spare * here) * all);
    hypura_status status = replay_run(&result, replaying->trace, &replaying->how, error);
    if (!status) {
        const double missed = (double)result.misses / (double)MAX(result.hits + result.misses, (uint64_t)1);
        *out = (float)fmax(1 - missed / here, 0);
    }
    return status;
}

/* Replays caches of several sizes, and one of the plan's size, to fill the curve of hit rates. */
static hypura_status play(struct plan_hit_curve *out, const struct plan *plan, const struct estimate_request *request,
                          hypura_error *error)
{
    const struct trace *trace = request->trace;
    const size_t warm = warm_passes(trace);
    const uint32_t layers = model_parameters(request->model)->layers;
    struct replaying replaying = {trace,
                                  {.chunk = plan->chunk,
                                   .warm_passes = warm,
                                   .narrows = true,
                                   .late_layer = plan_late_layer(plan, request->steps, layers)}};
    replaying.how.tokens_only = warm < trace->pass_count && trace->passes[warm].tokens == 1;
    const double lent = (double)lent_bytes(plan, request->model);
    replaying.lent = lent / fmax(lent + (double)plan->expert_bytes, 1);
    const double experts = fmax((double)plan->expert_bytes, 1);
    replaying.spare = (double)plan->spare_scratch_bytes / experts;
    const double share = fmin((double)(plan->expert_cache_bytes + plan->spare_scratch_bytes) / experts, 1);
    uint32_t below = (uint32_t)fmin(share * PLAN_CURVE_POINTS, PLAN_CURVE_POINTS - 1), last = 0;
    hypura_status status = HYPURA_OK;
    float rate = 0, before = 0;
    for (uint32_t points = 2; !status && points <= PLAN_CURVE_POINTS; points *= 2) {
        status = play_at(&rate, (double)points / PLAN_CURVE_POINTS, &replaying, error);
        for (uint32_t i = last; i < points; i++)
            out->hits[i] = before + (rate - before) * (float)(i + 1 - last) / (float)(points - last);
        last = points;
        before = rate;
    }
    if (!status)
        status = play_at(&rate, share, &replaying, error);
    out->known = true;
    /* Set the two points around the plan's size to the rate measured for it. */
    out->hits[below] = share > 0 && below == 0 ? (float)fmin(rate / (share * PLAN_CURVE_POINTS), 1) : rate;
    if (below)
        out->hits[below - 1] = rate;
    return status;
}

/* ---- one size of memory ----------------------------------------------------------------------------------------- */

static void sum_weights(struct estimate *out, const struct model *model, const struct plan *plan)
{
    const struct model_parameters *p = model_parameters(model);
    double used = p->experts ? (double)p->experts_used / p->experts : 0, token = 0, gpu = 0;
    double cached = plan->expert_bytes ? fmin((double)plan->expert_cache_bytes / (double)plan->expert_bytes, 1) : 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        if (unit->layer >= (int32_t)p->layers || unit->role == ROLE_TABLE || unit->role == ROLE_TOKEN_EMBEDDING)
            continue;
        bool expert = unit->kind == UNIT_EXPERT;
        uint64_t read = plan_bytes_on_storage(plan, u, unit->bytes);
        token += (double)unit->bytes * (expert ? used : 1);
        if (plan->tiers[u] == TIER_GPU) {
            out->bytes_gpu += unit->bytes;
            gpu += (double)unit->bytes * (expert ? used : 1);
        } else {
            out->bytes_memory += unit->bytes - read + (expert ? (uint64_t)(cached * (double)read) : 0);
        }
    }
    out->bytes_from_gpu = gpu;
    out->bytes_from_storage = plan->predicted_bytes_per_token;
    out->bytes_from_memory = fmax(token - gpu - out->bytes_from_storage, 0);
}

static hypura_status forecast(struct plan **out, double seconds[2], const struct estimate_request *request,
                              struct engine_options *options, hypura_error *error)
{
    const uint32_t prompts[2] = {ESTIMATE_SHORT_PROMPT, ESTIMATE_LONG_PROMPT};
    struct plan_hit_curve curve = {0};
    hypura_status status = engine_forecast(out, seconds, prompts, 2, request->model, request->hardware, options, error);
    if (status || !request->trace || (*out)->predicted_hit_rate >= 1)
        return status;
    status = play(&curve, *out, request, error);
    plan_free(*out);
    *out = NULL;
    options->routing = &curve;
    if (!status)
        status = engine_forecast(out, seconds, prompts, 2, request->model, request->hardware, options, error);
    options->routing = NULL;
    return status;
}

hypura_status estimate_make(struct estimate *out, const struct estimate_request *request, uint64_t memory,
                            hypura_error *error)
{
    struct engine_options options = *request->options;
    struct plan *plan = NULL, *longer = NULL;
    struct optimize_gain gain;
    double seconds[2], long_seconds[2] = {0};
    hypura_error problem;
    *out = (struct estimate){.memory = memory};
    options.budget = memory;
    options.remember_usage = options.remember_usage && !request->hardware->elsewhere && !request->trace;
    hypura_status status = forecast(&plan, seconds, request, &options, &problem);
    if (status == HYPURA_ERROR_MEMORY) {
        snprintf(out->why_not, sizeof out->why_not, "%s", problem.message);
        return HYPURA_OK;
    }
    if (status) {
        *error = problem;
        return status;
    }
    out->possible = true;
    out->least = plan->smallest_budget;
    out->mode = plan->mode;
    out->bound = plan->bound;
    out->context = plan->positions;
    out->least_tokens_per_second = plan->even_tokens_per_second;
    out->tokens_per_second = plan->predicted_tokens_per_second;
    out->hit_rate = plan->predicted_hit_rate;
    out->short_seconds = seconds[0];
    out->prompt_tokens_per_second = seconds[0] > 0 ? ESTIMATE_SHORT_PROMPT / seconds[0] : 0;
    out->long_seconds = seconds[1];
    sum_weights(out, request->model, plan);
    out->load_seconds = (double)(out->bytes_gpu + out->bytes_memory) / request->hardware->storage.bytes_per_second;
    if (optimize_gain_of_plan(&gain, request->model, request->hardware, plan))
        out->optimize_brings = gain.faster;
    /* If the plan's context is too small for the long prompt, plan again with a larger one. */
    if (plan->positions < ESTIMATE_LONG_PROMPT + ANSWER) {
        options.context = ESTIMATE_LONG_PROMPT + ANSWER;
        bool can = !request->options->context && model_parameters(request->model)->context >= options.context;
        out->long_seconds = 0;
        if (can && forecast(&longer, long_seconds, request, &options, &problem) == HYPURA_OK)
            out->long_seconds = long_seconds[1];
    }
    plan_free(longer);
    plan_free(plan);
    return HYPURA_OK;
}

size_t estimate_sizes(uint64_t sizes[ESTIMATE_SIZES], const struct model *model, const struct hardware *hardware)
{
    static const uint16_t steps[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
    uint64_t all = hardware_default_budget(hardware), whole = model_bytes(model) + model_bytes(model) / 8 + GIB;
    uint64_t last = MIN(all, whole);
    size_t first = 0, count = 0;
    while (first < COUNT_OF(steps) && steps[first] * GIB < last)
        first++;
    first = first > ESTIMATE_SIZES - 3 ? first - (ESTIMATE_SIZES - 3) : 0;
    for (; first < COUNT_OF(steps) && steps[first] * GIB < last - last / 16; first++)
        sizes[count++] = steps[first] * GIB;
    sizes[count++] = last;
    return count;
}
