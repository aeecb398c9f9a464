/* The public header on top of the engine. */
#include <hypura/hypura.h>

#include "engine/engine.h"
#include "engine/generate.h"
#include "engine/prompt.h"
#include "sampling/sampler.h"

#include <stdio.h>
#include <string.h>

struct hypura_model {
    struct engine *engine;
    const struct vocabulary *vocabulary;
    struct chat_template *template;
    struct generator *generator;
    char plan[600];
};

/* One call of hypura_chat or hypura_complete. */
struct answer {
    const hypura_generation *how;
    bool done;
    struct generation_result result;
};

const char *hypura_version(void)
{
    return HYPURA_VERSION;
}

void hypura_default_options(hypura_options *options)
{
    *options = (hypura_options){0};
}

hypura_status hypura_open(hypura_model **out, const char *path, const hypura_options *options, hypura_error *error)
{
    struct engine_options engine_options;
    struct engine_adapter *adapters = NULL;
    engine_default_options(&engine_options);
    engine_options.budget = options->memory;
    engine_options.gpu = options->gpu;
    engine_options.gpu_budget = options->gpu_memory;
    engine_options.gpu_fixed = options->gpu_fixed;
    engine_options.threads = options->threads;
    engine_options.context = options->context;
    engine_options.draft_path = options->draft;
    engine_options.progress = options->on_load;
    engine_options.progress_context = options->on_load_context;
    struct hypura_model *model;
    hypura_status status = ALLOCATE(&model, 1, "model", error);
    if (status)
        return status;
    if (options->adapter_count)
        status = ALLOCATE(&adapters, options->adapter_count, "adapters", error);
    for (size_t i = 0; !status && i < options->adapter_count; i++)
        adapters[i] = (struct engine_adapter){options->adapters[i].path, options->adapters[i].scale};
    engine_options.adapters = adapters;
    engine_options.adapter_count = options->adapter_count;
    if (!status)
        status = engine_open(&model->engine, path, &engine_options, error);
    memory_free(adapters);
    if (!status)
        status = engine_vocabulary(&model->vocabulary, model->engine, error);
    if (!status)
        status = prompt_open_template(&model->template, model_file(engine_model(model->engine)), NULL, error);
    if (!status)
        status = generator_create(&model->generator, model->engine, model->vocabulary, error);
    if (status) {
        hypura_close(model);
        return status;
    }
    const struct plan *plan = engine_plan(model->engine);
    snprintf(model->plan, sizeof model->plan, "%s: %s Expected: %.2f tokens/s, bound by %s.",
             plan_mode_name(plan->mode), plan->reason, plan->predicted_tokens_per_second, plan_bound_name(plan->bound));
    *out = model;
    return HYPURA_OK;
}

void hypura_close(hypura_model *model)
{
    if (!model)
        return;
    generator_destroy(model->generator);
    chat_template_free(model->template);
    engine_close(model->engine);
    memory_free(model);
}

const char *hypura_model_name(const hypura_model *model)
{
    return model_name(engine_model(model->engine));
}

const char *hypura_plan(const hypura_model *model)
{
    return model->plan;
}

void hypura_default_generation(hypura_generation *generation)
{
    struct sampler_options sampling;
    sampler_default_options(&sampling);
    *generation = (hypura_generation){.temperature = sampling.temperature,
                                      .top_k = sampling.top_k,
                                      .top_p = sampling.top_p,
                                      .min_p = sampling.min_p,
                                      .repeat_penalty = sampling.repeat_penalty};
}

static bool pass_on_text(void *context, const struct generated_token *token)
{
    struct answer *answer = context;
    return !answer->how->on_text || token->size == 0 ||
           answer->how->on_text(answer->how->context, token->text, token->size);
}

static void note_done(void *context, const struct generation_result *result)
{
    struct answer *answer = context;
    answer->result = *result;
    answer->done = true;
}

static hypura_status generate(hypura_model *model, const struct token_array *tokens, const hypura_generation *how,
                              hypura_error *error)
{
    struct sampler_options sampling;
    struct sampler *sampler = NULL;
    sampler_default_options(&sampling);
    sampling.temperature = how->temperature;
    sampling.top_k = how->top_k;
    sampling.top_p = how->top_p;
    sampling.min_p = how->min_p;
    sampling.repeat_penalty = how->repeat_penalty;
    sampling.seed = how->seed;
    struct answer answer = {.how = how};
    struct generation_request request = {.tokens = tokens->ids,
                                         .count = tokens->count,
                                         .max_tokens = how->max_tokens,
                                         .stops = how->stops,
                                         .stop_count = how->stop_count,
                                         .on_token = pass_on_text,
                                         .on_done = note_done,
                                         .context = &answer};
    hypura_status status = sampler_create(&sampler, &sampling, vocabulary_size(model->vocabulary), error);
    request.sampler = sampler;
    engine_cancel(model->engine, false);
    if (!status)
        status = generator_submit(model->generator, &request, NULL, error);
    while (!status && !answer.done)
        generator_step(model->generator);
    sampler_destroy(sampler);
    if (!status && (answer.result.reason == FINISH_ERROR || answer.result.error.status)) {
        if (error)
            *error = answer.result.error;
        return answer.result.error.status;
    }
    return status;
}

hypura_status hypura_chat(hypura_model *model, const char *messages_json, const hypura_generation *generation,
                          hypura_error *error)
{
    json_error_t problem;
    json_t *messages = json_loads(messages_json, 0, &problem);
    if (!json_is_array(messages)) {
        bool parsed = messages != NULL;
        json_decref(messages);
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the messages are no JSON array: %s",
                         parsed ? "expected [{\"role\": ..., \"content\": ...}, ...]" : problem.text);
    }
    struct chat_input input = {.messages = messages, .add_generation_prompt = true, .now = prompt_now()};
    struct token_array tokens = {0};
    hypura_status status = prompt_from_chat(model->template, model->vocabulary, &input, &tokens, NULL, error);
    if (!status)
        status = generate(model, &tokens, generation, error);
    token_array_free(&tokens);
    json_decref(messages);
    return status;
}

hypura_status hypura_complete(hypura_model *model, const char *text, const hypura_generation *generation,
                              hypura_error *error)
{
    struct token_array tokens = {0};
    hypura_status status = vocabulary_tokenize(model->vocabulary, text, strlen(text),
                                               TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, &tokens, error);
    if (!status)
        status = generate(model, &tokens, generation, error);
    token_array_free(&tokens);
    return status;
}

void hypura_cancel(hypura_model *model)
{
    engine_cancel(model->engine, true);
}

void hypura_get_statistics(hypura_model *model, hypura_statistics *out)
{
    struct engine_statistics s;
    engine_statistics(model->engine, &s);
    *out = (hypura_statistics){
        .load_seconds = s.load_seconds,
        .prompt_seconds = s.prompt_seconds,
        .decode_seconds = s.decode_seconds,
        .prompt_tokens = s.prompt_tokens,
        .generated_tokens = s.generated_tokens,
        .bytes_read = s.store.bytes_read,
        .bytes_demanded = s.store.bytes_demanded,
        .bytes_guessed = s.store.bytes_prefetched,
        .bytes_wasted = s.store.bytes_wasted,
        .expert_hits = s.store.expert_hits,
        .expert_misses = s.store.expert_misses,
        .peak_rss_bytes = s.peak_rss_bytes,
        .budget_bytes = s.budget_bytes,
        .bytes_gpu = s.bytes_gpu,
        .bytes_ram = s.bytes_ram,
        .bytes_storage = s.bytes_storage,
    };
}
