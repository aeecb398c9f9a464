/* Checks the options and turns them into requests to the planner. */
#include "engine/gpu/pass.h"
#include "store/policy.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_SEQUENCES 1024u

/* The default context of an encoder, where all tokens of a text pass together. */
#define ENCODER_CONTEXT 2048u
#define MAX_THREADS 256u

static uint64_t planned_kv_bytes(const void *context, uint32_t positions, uint32_t sequences, enum tensor_type type)
{
    return kv_cache_bytes(context, positions, sequences, type);
}

static uint64_t planned_shared_bytes(const void *context, uint32_t positions, uint32_t sequences, uint64_t kv_positions,
                                     enum tensor_type type)
{
    return kv_cache_shared_bytes(context, positions, sequences, kv_positions, type);
}

static uint64_t planned_scratch_bytes(const void *context, uint32_t chunk, uint32_t positions)
{
    return scratch_bytes(context, chunk, positions);
}

static uint64_t planned_spare_bytes(const void *context, uint32_t chunk, uint32_t positions)
{
    return scratch_spare_bytes(context, chunk, positions);
}

static hypura_status check_options(const struct engine_options *options, hypura_error *error)
{
    if (options->context > MAX_POSITIONS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a context of %u positions; at most %u are possible",
                         options->context, MAX_POSITIONS);
    if (options->chunk > MAX_CHUNK)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "batches of %u tokens; at most %u are possible", options->chunk,
                         MAX_CHUNK);
    if (options->sequences > MAX_SEQUENCES)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%u sequences; at most %u are possible", options->sequences,
                         MAX_SEQUENCES);
    if (options->threads > MAX_THREADS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%zu threads; at most %u are possible", options->threads,
                         MAX_THREADS);
    return policy_check(options->cache_policy, error);
}

/* Checks that every tensor's type has a kernel: here, rather than in the middle of a pass. */
static hypura_status check_types(const struct model *model, hypura_error *error)
{
    for (uint32_t u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        for (uint32_t i = 0; i < unit->slice_count; i++) {
            const struct gguf_tensor *tensor = unit->slices[i].tensor;
            if (unit->role == ROLE_ROUTER_TABLE ? tensor->type == TENSOR_I32 : compute_supports(tensor->type))
                continue;
            const struct tensor_type_info *info = tensor_type_info(tensor->type);
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "%s: tensor '%s' is of type %s, which this program cannot compute with",
                             gguf_file_path(model_file(model), tensor->file), tensor->name.data,
                             info && info->name ? info->name : "?");
        }
    }
    return HYPURA_OK;
}

static hypura_status check_heads(const struct model *model, const struct steps *steps, hypura_error *error)
{
    struct step_list all = steps_all(steps);
    size_t key = 0, value = 0;
    for (size_t i = 0; i < all.count; i++) {
        const struct step *step = &all.steps[i];
        if (step->kind == STEP_ATTEND) {
            key = MAX(key, step->attend.key_size);
            value = MAX(value, step->attend.value_size);
        } else if (step->kind == STEP_ATTEND_LATENT) {
            key = MAX(key, step->attend_latent.rank + step->attend_latent.rotary);
            value = MAX(value, step->attend_latent.rank);
        }
    }
    if (key > ATTENTION_MAX_SIZE || value > ATTENTION_MAX_SIZE)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: attention heads of %zu and %zu elements; at most %d are possible",
                         gguf_file_path(model_file(model), 0), key, value, ATTENTION_MAX_SIZE);
    return HYPURA_OK;
}

static size_t choose_threads(const struct engine_options *options, const struct hardware *hardware)
{
    return options->threads ? options->threads : MIN(MAX(hardware->cores, (size_t)1), (size_t)MAX_THREADS);
}

void engine_ask(struct asked *out, const struct geometry *geometry, const struct engine_options *options)
{
    *out = (struct asked){options->context, options->chunk, options->kv_type};
    if (geometry->windows)
        out->chunk = MIN(out->chunk, WINDOW_SLACK);
    const uint32_t most = model_parameters(geometry->model)->context;
    bool encoder = model_architecture(geometry->model)->flags & ARCHITECTURE_ENCODER;
    if (encoder || model_tensor(geometry->model, ROLE_POSITION_EMBEDDING) != NO_UNIT) /* it has one row per position */
        out->positions = MIN(out->positions ? out->positions : encoder ? ENCODER_CONTEXT : most, most);
    if (!encoder)
        return;
    /* A text passes an encoder as one batch, and nothing reads its cache later. */
    out->chunk = MIN(out->positions, MAX_CHUNK);
    out->kv_type = TENSOR_F32;
}

static uint64_t held_bytes(const struct engine_options *options)
{
    return (uint64_t)MAX((int64_t)memory_resident_bytes() + options->reserved, (int64_t)0);
}

uint64_t engine_held_bytes(const struct engine_options *options, uint64_t budget)
{
    const uint64_t held = held_bytes(options);
    return held - (budget < PLAN_SMALL_BUDGET ? MIN(hardware_code_bytes(), held) : 0);
}

static hypura_status plan_rest(struct plan **out, struct plan_request *request, const struct geometry *geometry,
                               const struct plan_gpu *gpu, const struct planned *planned, hypura_error *error)
{
    const struct devices *devices = planned->devices;
    const struct hardware *hardware = planned->hardware;
    const struct engine_options *options = planned->options;
    bool encoder = model_architecture(geometry->model)->flags & ARCHITECTURE_ENCODER;
    struct asked asked;
    engine_ask(&asked, geometry, options);
    *request = (struct plan_request){.budget = options->budget,
                                     .overhead = held_bytes(options),
                                     .code = hardware_code_bytes(),
                                     .wobble = 256 << 10,
                                     .positions = asked.positions,
                                     .sequences = geometry->sequences,
                                     .chunk = gpu ? MIN(asked.chunk, gpu->chunk) : asked.chunk,
                                     .kv_type = asked.kv_type,
                                     .working_set = {.kv_bytes = planned_kv_bytes,
                                                     .scratch_bytes = planned_scratch_bytes,
                                                     .spare_bytes = planned_spare_bytes,
                                                     .context = geometry},
                                     .gpu = gpu,
                                     .devices = devices->infos};
    if (options->shared_context && !encoder && kv_cache_can_share(geometry, options->kv_type))
        request->working_set.shared_kv_bytes = planned_shared_bytes;
    if (gpu)
        request->overhead += gpu->host_bytes + devices->still_to_take;
    for (uint32_t d = 0; hardware->elsewhere && d < devices->count;
         d++) /* another machine's: this process does not hold their drivers' memory */
        request->overhead += devices->infos[d].host_bytes;
    request->elsewhere = options->elsewhere;
    if (options->experts_only) { /* it keeps no keys and values */
        request->working_set.kv_bytes = NULL;
        request->positions = EXPERT_POSITIONS;
        request->chunk = 0;
    }
    char path[4096];
    if (options->routing)
        request->hit_curve = *options->routing;
    else if (options->remember_usage && store_usage_path(geometry->model, path, sizeof path))
        memory_free(store_usage_read(geometry->model, path, &request->hit_curve));
    for (uint32_t d = 0; gpu && d < devices->count; d++)
        if (devices->infos[d].info.unified)
            request->overhead += plan_gpu_bytes(&gpu->parts[d]);
    TRY(plan_make(out, geometry->model, geometry->steps, hardware, request, error));
    if (!geometry->windows || (*out)->chunk <= WINDOW_SLACK)
        return HYPURA_OK;
    /* Rings of sliding windows have room for only WINDOW_SLACK tokens beyond the window, so plan smaller batches. */
    plan_free(*out);
    *out = NULL;
    request->chunk = WINDOW_SLACK;
    return plan_make(out, geometry->model, geometry->steps, hardware, request, error);
}

/* Plans for devices, with batches of at most "longest" tokens (0: any), and for memory. */
static hypura_status plan_all(struct plan **out, struct plan_request *request, struct geometry *geometry,
                              const struct planned *planned, uint32_t longest, hypura_error *error)
{
    const struct devices *devices = planned->devices;
    struct plan_gpu *gpu_plan = NULL;
    if (devices->count)
        TRY(gpu_pass_plan(&gpu_plan, geometry, devices, planned->hardware, planned->options, longest, error));
    if (devices->count && !gpu_plan && !planned->quiet)
        log_write(LOG_WARNING, "%s%s: %s", devices->infos[0].info.name,
                  devices->count > 1 ? " and the other GPUs compute nothing" : " computes nothing",
                  geometry->foreign        ? "it has no kernels for the layers of this model"
                  : geometry->experts_only ? "no expert of this host fits its memory"
                                           : "no layer of this model fits its memory");
    geometry->on_gpu = gpu_plan && !geometry->experts_only ? gpu_plan->layers : NULL;
    hypura_status status = plan_rest(out, request, geometry, gpu_plan, planned, error);
    if (status)
        plan_gpu_free(gpu_plan);
    else
        (*out)->gpu = gpu_plan;
    request->gpu = gpu_plan;
    return status;
}

hypura_status make_plan(struct plan **out, struct plan_request *request, struct geometry *geometry,
                        const struct planned *planned, hypura_error *error)
{
    const struct engine_options *options = planned->options;
    TRY(check_options(options, error));
    TRY(check_types(planned->model, error));
    TRY(check_heads(planned->model, planned->steps, error));
    geometry_make(geometry, planned->model, planned->steps, choose_threads(options, planned->hardware),
                  MAX(options->sequences, 1u), options->experts_only);
    geometry->adapters = planned->adapters;
    geometry->drafts = options->drafting != DRAFTING_OFF && !options->trace_path;
    TRY(plan_all(out, request, geometry, planned, 0, error));
    const uint32_t longest = (*out)->chunk;
    if (!(*out)->gpu || (*out)->gpu->chunk <= longest)
        return HYPURA_OK;
    /* Memory has no room for the batches that devices could take. */
    plan_free(*out);
    *out = NULL;
    return plan_all(out, request, geometry, planned, longest, error);
}

/* A plan for which nothing is loaded, and what it was made from. */
struct sketch {
    struct steps *steps;
    struct adapters *adapters;
    struct devices devices;
    struct geometry geometry;
    struct plan_request request;
    struct plan *plan;
};

/* Call sketch_free even after an error. */
static hypura_status sketch_make(struct sketch *sketch, const struct model *model, const struct hardware *hardware,
                                 const struct engine_options *options, hypura_error *error)
{
    *sketch = (struct sketch){0};
    TRY(gpu_pass_open_devices(&sketch->devices, hardware, options, error));
    TRY(steps_make(&sketch->steps, model, error));
    TRY(adapters_open(&sketch->adapters, model, sketch->steps, options->adapters, options->adapter_count, error));
    const struct planned planned = {model, sketch->steps, sketch->adapters, hardware, &sketch->devices, options};
    return make_plan(&sketch->plan, &sketch->request, &sketch->geometry, &planned, error);
}

static void sketch_free(struct sketch *sketch)
{
    plan_free(sketch->plan);
    adapters_close(sketch->adapters);
    steps_free(sketch->steps);
    gpu_pass_close_devices(&sketch->devices);
}

/* Returns the plan, which the caller then owns, and frees the rest. */
static struct plan *sketch_take_plan(struct sketch *sketch)
{
    struct plan *plan = sketch->plan;
    sketch->plan = NULL;
    sketch_free(sketch);
    return plan;
}

hypura_status engine_plan_beside(struct plan **out, const struct model *model, const struct hardware *hardware,
                                 const struct engine_options *options, hypura_error *error)
{
    struct sketch sketch;
    hypura_status status = sketch_make(&sketch, model, hardware, options, error);
    struct plan *plan = sketch_take_plan(&sketch);
    if (!status)
        *out = plan;
    return status;
}

hypura_status engine_speed_with(double *tokens_per_second, const struct model *model, const struct hardware *hardware,
                                const struct engine_options *options, int64_t more_bytes, hypura_error *error)
{
    struct sketch sketch;
    hypura_status status = sketch_make(&sketch, model, hardware, options, error);
    if (!status) {
        sketch.request.budget = sketch.plan->budget;
        sketch.request.positions = sketch.plan->positions; /* do not spend more memory on a longer context */
        status = plan_tokens_per_second_with(model, sketch.steps, hardware, &sketch.request, more_bytes,
                                             tokens_per_second, error);
    }
    sketch_free(&sketch);
    return status;
}

hypura_status engine_forecast(struct plan **out, double *seconds, const uint32_t *prompts, size_t count,
                              const struct model *model, const struct hardware *hardware,
                              const struct engine_options *options, hypura_error *error)
{
    struct sketch sketch;
    hypura_status status = sketch_make(&sketch, model, hardware, options, error);
    if (!status)
        status = plan_prompt_seconds(seconds, prompts, count, sketch.plan, model, sketch.steps, hardware,
                                     &sketch.request, error);
    if (status)
        sketch_free(&sketch);
    else
        *out = sketch_take_plan(&sketch);
    return status;
}

hypura_status engine_kept_of(struct engine_kept *out, const struct model *model, uint32_t positions,
                             enum tensor_type type, hypura_error *error)
{
    struct geometry geometry;
    struct steps *steps;
    TRY(steps_make(&steps, model, error));
    geometry_make(&geometry, model, steps, 1, 1, false);
    kv_cache_kinds(out, &geometry, positions, type);
    steps_free(steps);
    return HYPURA_OK;
}

/* ---- the block that predicts further tokens ------------------------------------------------------------------------
 */

bool model_writes_text(const struct model *model)
{
    return !(model_architecture(model)->flags & ARCHITECTURE_ENCODER);
}

/* The share of speed and of context that the block's memory may cost. If dense tensors stream, a pass over several
 * tokens takes hardly longer than over one, so drafts are worth more. */
#define PREDICTION_COST 0.02
#define PREDICTION_COST_STREAMING 0.1

static void say(char *why, const char *what)
{
    if (why)
        snprintf(why, ENGINE_WHY, "%s", what);
}

static hypura_status plan_model(struct plan **out, const char *path, bool predicting, const struct hardware *hardware,
                                const struct engine_options *options, hypura_error *error)
{
    struct model *model;
    struct engine_options fair = *options;
    fair.remember_usage = false; /* it may be known for only one of the two plans */
    TRY(predicting ? model_open_predicting(&model, path, error) : model_open(&model, path, error));
    hypura_status status = engine_plan_beside(out, model, hardware, &fair, error);
    model_close(model);
    return status;
}

/* Whether the block costs hardly anything: compares the plans with and without it. */
static bool is_as_good(const struct plan *with, const struct plan *without, bool mixture)
{
    const bool dense = with->mode > PLAN_EXPERT_STREAMING && !mixture;
    const double least = 1 - (dense ? PREDICTION_COST_STREAMING : PREDICTION_COST);
    if (with->mode != without->mode || with->positions < least * without->positions)
        return false;
    return with->mode == PLAN_FULL_RESIDENT ||
           with->predicted_tokens_per_second >= least * without->predicted_tokens_per_second;
}

/* The share of a pass's time that a draft may take. With more, drafts do not pay, since some are wrong. */
#define DRAFT_PART 0.8

static uint64_t tensor_bytes(const struct model *model, unit_number unit)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < model_unit(model, unit)->slice_count; i++)
        bytes += model_unit(model, unit)->slices[i].bytes;
    return bytes;
}

/* The bytes that the CPU reads per draft. */
static hypura_status draft_bytes(uint64_t *out, const char *path, const struct plan_gpu *gpu, hypura_error *error)
{
    struct model *model;
    struct steps *steps = NULL;
    enum step_buffer left;
    *out = 0;
    TRY(model_open_predicting(&model, path, error));
    hypura_status status = steps_make(&steps, model, error);
    const struct step_list list = status ? (struct step_list){0} : steps_predicting(steps, &left);
    for (size_t i = 0; i < list.count; i++) {
        struct step_unit units[STEP_UNITS];
        const struct step *step = &list.steps[i];
        const size_t count = step_units(step, units);
        for (size_t u = 0; u < count; u++)
            if (units[u].use != USE_ROWS && units[u].use != USE_TABLE && !gpu->units[units[u].unit])
                *out += tensor_bytes(model, units[u].unit);
        if (step->kind == STEP_EXPERTS)
            *out += step->experts.used * tensor_bytes(model, step->experts.first);
    }
    steps_free(steps);
    model_close(model);
    return status;
}

/* Whether the CPU, which computes the block, can keep up with the devices that compute the layers. */
static bool keeps_up(const char *path, const struct plan *plan, const struct hardware *hardware)
{
    uint64_t bytes;
    hypura_error error;
    return !plan->gpu ||
           (!draft_bytes(&bytes, path, plan->gpu, &error) &&
            (double)bytes * plan->predicted_tokens_per_second <= DRAFT_PART * hardware->compute_bytes_per_second);
}

/* Whether loading the prediction block pays; if not, why gets the reason. */
static bool predictions_pay(const char *path, bool mixture, const struct hardware *hardware,
                            const struct engine_options *options, char *why)
{
    hypura_error error;
    struct plan *with = NULL, *without = NULL;
    bool pay = false;
    hypura_status status = plan_model(&with, path, true, hardware, options, &error);
    if (!status)
        status = plan_model(&without, path, false, hardware, options, &error);
    if (status)
        say(why, error.message);
    else if (options->drafting != DRAFTING_ON && !keeps_up(path, with, hardware))
        say(why, "the GPU computes a token faster than the CPU would draft one");
    else
        pay = options->drafting == DRAFTING_ON || is_as_good(with, without, mixture);
    if (!pay && why && !why[0])
        say(why, "its memory would cost speed or context");
    plan_free(with);
    plan_free(without);
    return pay;
}

static void close_opened(struct model **model)
{
    model_close(*model);
    *model = NULL;
}

/* Finds the drives of the model's files; the drive of a single file is known already. Closes the model on error. */
static hypura_status find_drives(struct hardware *hardware, struct model **model, const struct engine_options *options,
                                 hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    if (options->mirror_count || model_path_count(*model) > 1)
        status = store_find_drives(hardware, *model, options->mirrors, options->mirror_count, error);
    if (status)
        close_opened(model);
    return status;
}

hypura_status engine_open_file(struct model **out, const char *path, struct hardware *hardware,
                               const struct engine_options *options, char *why, hypura_error *error)
{
    struct steps *steps;
    hypura_error problem;
    say(why, "");
    TRY(model_open_predicting(out, path, error));
    model_use_expert_file(*out);
    TRY(find_drives(hardware, out, options, error));
    if (!model_parameters(*out)->predicting) {
        say(why, model_prediction_problem(*out) ? model_prediction_problem(*out) : "");
        return HYPURA_OK;
    }
    if (options->drafting == DRAFTING_OFF) {
        say(why, "drafting is off");
    } else if (options->trace_path || options->draft_path) {
        say(why, options->trace_path ? "the routing is recorded" : "a smaller model drafts");
    } else if (!model_writes_text(*out)) {
        say(why, "it is an encoder");
    } else if (steps_make(&steps, *out, &problem)) {
        say(why, problem.message);
    } else {
        steps_free(steps);
        if (predictions_pay(path, model_parameters(*out)->experts, hardware, options, why))
            return HYPURA_OK;
    }
    const bool experts =
        model_expert_file(*out) != NULL; /* else a warning about the file has been logged, or it has none */
    close_opened(out);
    TRY(model_open(out, path, error));
    if (experts)
        model_use_expert_file(*out);
    return HYPURA_OK;
}
