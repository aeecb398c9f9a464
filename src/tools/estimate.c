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

/* The first pass from this one on that is not of a prompt, or not of an answer; pass_count: there is none. */
static size_t end_of(const struct trace *trace, size_t first, bool prompt)
{
    while (first < trace->pass_count && (trace->passes[first].tokens > 1) == prompt)
        first++;
    return first;
}

/* Returns how many passes of the trace only fill the cache: the first prompt, and its answer if another prompt follows;
 * or a quarter of the passes. */
static size_t warm_passes(const struct trace *trace)
{
    const size_t prompt = end_of(trace, 0, true), answer = end_of(trace, prompt, false);
    if (prompt == 0 || prompt == trace->pass_count)
        return trace->pass_count / 4;
    return answer < trace->pass_count ? answer : prompt;
}

/* The first expert of a layer of the trace; NO_UNIT: the model has none there. */
static unit_number first_expert(const struct estimate_request *request, uint32_t layer)
{
    const uint32_t number = request->trace->shape.layers[layer].layer;
    const bool exists = number < model_parameters(request->model)->layers;
    const struct step *experts = exists ? steps_find(steps_of_layer(request->steps, number), STEP_EXPERTS) : NULL;
    return experts ? experts->experts.first : NO_UNIT;
}

/* Counts a trace's uses of each unit. */
static hypura_status count_uses(uint64_t **out, const struct estimate_request *request, hypura_error *error)
{
    const struct trace_shape *shape = &request->trace->shape;
    TRY(ALLOCATE(out, model_unit_count(request->model), "uses of experts", error));
    for (uint32_t l = 0; l < shape->layer_count; l++) {
        const unit_number first = first_expert(request, l);
        if (first == NO_UNIT)
            return error_set(
                error, HYPURA_ERROR_ARGUMENT,
                "the trace belongs to another model, \"%.100s\": it has experts in layer %u, where this one has none",
                shape->name, shape->layers[l].layer);
        for (size_t i = 0; i < request->trace->pass_count; i++) {
            const size_t choices = (size_t)request->trace->passes[i].tokens * shape->used;
            const uint16_t *experts = request->trace->passes[i].experts + l * choices;
            for (size_t c = 0; c < choices; c++)
                (*out)[first + experts[c]]++;
        }
    }
    return HYPURA_OK;
}

/* What is to be replayed: the decoding of a trace, with prompts as this plan's model passes them. Experts that stay on
 * devices take no part. Those in room that devices lend to long batches do: after a prompt they are missing, and come
 * back soon. */
struct replaying {
    const struct trace *trace;
    struct replay_how how;
    bool *left_out, *returns;
    double cached, lent; /* bytes of experts: on no device; in room that devices lend */
    double spare;        /* bytes of the cache that it has only while no long batch runs */
    double here;         /* of the uses that take part, those of experts on no device */
};

static hypura_status prepare(struct replaying *out, const struct plan *plan, const struct estimate_request *request,
                             const uint64_t *uses, hypura_error *error)
{
    const struct trace_shape *shape = &request->trace->shape;
    uint64_t used_here = 0, used_lent = 0;
    TRY(ALLOCATE(&out->left_out, (size_t)shape->layer_count * shape->experts, "experts on devices", error));
    TRY(ALLOCATE(&out->returns, (size_t)shape->layer_count * shape->experts, "experts on devices", error));
    for (uint32_t l = 0; l < shape->layer_count; l++) {
        const unit_number first = first_expert(request, l);
        const bool lends = plan->gpu && plan->gpu->lent[shape->layers[l].layer];
        for (uint32_t e = 0; e < shape->experts; e++) {
            if (!plan->gpu || !plan->gpu->units[first + e]) {
                used_here += uses[first + e];
            } else if (lends) {
                used_lent += uses[first + e];
                out->returns[l * shape->experts + e] = true;
                out->lent += (double)shape->layers[l].expert_bytes;
            } else {
                out->left_out[l * shape->experts + e] = true;
            }
        }
    }
    out->how.left_out = out->left_out;
    out->how.returns = out->returns;
    out->cached = (double)plan->expert_bytes;
    out->spare = (double)plan->spare_scratch_bytes;
    out->here = (double)used_here / (double)MAX(used_here + used_lent, (uint64_t)1);
    return HYPURA_OK;
}

/* share: of the experts on no device, those that the cache has room for, with its spare room. */
static hypura_status play_at(float *out, double share, struct replaying *replaying, hypura_error *error)
{
    struct replay_result result;
    const double bytes = share * replaying->cached, spare = fmin(bytes, replaying->spare);
    replaying->how.cache_bytes = (uint64_t)(bytes - spare);
    replaying->how.lent_bytes = (uint64_t)spare;
    replaying->how.returning_bytes = (uint64_t)replaying->lent;
    hypura_status status = replay_run(&result, replaying->trace, &replaying->how, error);
    if (!status) {
        const double missed =
            (double)(result.misses + result.returned) / (double)MAX(result.hits + result.misses, (uint64_t)1);
        *out = (float)fmax(1 - missed / fmax(replaying->here, 1e-6), 0);
    }
    return status;
}

/* Replays caches of several sizes, and one of the plan's size, to fill the curve of hit rates. */
static hypura_status play_all(struct plan_hit_curve *out, const struct plan *plan, struct replaying *replaying,
                              hypura_error *error)
{
    const double share = fmin((replaying->spare + (double)plan->expert_cache_bytes) / fmax(replaying->cached, 1), 1);
    uint32_t below = (uint32_t)fmin(share * PLAN_CURVE_POINTS, PLAN_CURVE_POINTS - 1), last = 0;
    hypura_status status = HYPURA_OK;
    float rate = 0, before = 0;
    for (uint32_t points = 2; !status && points <= PLAN_CURVE_POINTS; points *= 2) {
        status = play_at(&rate, (double)points / PLAN_CURVE_POINTS, replaying, error);
        for (uint32_t i = last; i < points; i++)
            out->hits[i] = before + (rate - before) * (float)(i + 1 - last) / (float)(points - last);
        last = points;
        before = rate;
    }
    if (!status)
        status = play_at(&rate, share, replaying, error);
    out->known = out->apart = true;
    /* Set the two points around the plan's size to the rate measured for it. */
    out->hits[below] = share > 0 && below == 0 ? (float)fmin(rate / (share * PLAN_CURVE_POINTS), 1) : rate;
    if (below)
        out->hits[below - 1] = rate;
    return status;
}

static hypura_status play(struct plan_hit_curve *out, const struct plan *plan, const struct estimate_request *request,
                          const uint64_t *uses, hypura_error *error)
{
    const struct trace *trace = request->trace;
    const size_t warm = warm_passes(trace);
    const uint32_t layers = model_parameters(request->model)->layers;
    struct replaying replaying = {.trace = trace,
                                  .how = {.chunk = plan->chunk,
                                          .warm_passes = warm,
                                          .tokens_only = end_of(trace, warm, true) < trace->pass_count,
                                          .narrows = true,
                                          .late_layer = plan_late_layer(plan, request->steps, layers)}};
    hypura_status status = prepare(&replaying, plan, request, uses, error);
    if (!status)
        status = play_all(out, plan, &replaying, error);
    memory_free(replaying.left_out);
    memory_free(replaying.returns);
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

static hypura_status forecast_once(struct plan **out, double seconds[2], const struct estimate_request *request,
                                   const struct engine_options *options, hypura_error *error)
{
    const uint32_t prompts[2] = {ESTIMATE_SHORT_PROMPT, ESTIMATE_LONG_PROMPT};
    return engine_forecast(out, seconds, prompts, 2, request->model, request->hardware, options, error);
}

/* With a trace: plans, replays the trace with this plan's caches, and plans again with the hit rates found. */
static hypura_status forecast(struct plan **out, double seconds[2], const struct estimate_request *request,
                              struct engine_options *options, hypura_error *error)
{
    struct plan_hit_curve curve = {0};
    uint64_t *uses = NULL;
    hypura_status status = request->trace ? count_uses(&uses, request, error) : HYPURA_OK;
    options->uses = uses;
    if (!status)
        status = forecast_once(out, seconds, request, options, error);
    if (!status && request->trace && (*out)->predicted_hit_rate < 1) {
        status = play(&curve, *out, request, uses, error);
        plan_free(*out);
        *out = NULL;
        options->routing = &curve;
        if (!status)
            status = forecast_once(out, seconds, request, options, error);
    }
    options->routing = NULL;
    options->uses = NULL;
    memory_free(uses);
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
