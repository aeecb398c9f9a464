/* Opens and closes models. */
#include "api/api_private.h"

#include <string.h>

/* The default number of answers at once: as many as can share a pass at little cost. */
#define USUAL_SESSIONS 4

static hypura_status open_engine(hypura_model *model, const char *path, struct opening *opening, hypura_error *error)
{
    struct engine_options *options = &opening->engine;
    bool chosen = opening->given.sessions != 0;
    if (!chosen)
        options->sequences = USUAL_SESSIONS;
    hypura_status status = engine_open(&model->engine, path, options, error);
    while (status == HYPURA_ERROR_MEMORY && !chosen && options->sequences > 1) {
        options->sequences /= 2;
        status = engine_open(&model->engine, path, options, error);
    }
    if (!status)
        describe_plan(&model->plan, engine_model(model->engine), engine_plan(model->engine),
                      engine_hardware(model->engine));
    return status;
}

/* A model can compute without a supported vocabulary or template. Functions that need one report why it is missing. */
static void open_texts(hypura_model *model)
{
    const struct gguf *file = model->engine ? model_file(engine_model(model->engine)) : model->file;
    if (model->engine) {
        engine_vocabulary(&model->vocabulary, model->engine, &model->no_vocabulary);
    } else if (!vocabulary_open(&model->own_vocabulary, file, &model->no_vocabulary)) {
        model->vocabulary = model->own_vocabulary;
    }
    model->template_source = (struct gguf_string){chat_template_default, strlen(chat_template_default)};
    model->info.has_template = gguf_get_string(file, "tokenizer.chat_template", &model->template_source);
    struct gguf_string tools;
    if (!prompt_open_template(&model->template, file, NULL, &model->no_template) &&
        gguf_get_string(file, "tokenizer.chat_template.tool_use", &tools))
        prompt_open_template(&model->tool_template, file, "tool_use", &model->no_template);
}

static void describe_file(hypura_model *model)
{
    struct gguf_string text;
    if (gguf_get_string(model->file, "general.name", &text))
        model->info.name = text.data;
    if (gguf_get_string(model->file, "general.architecture", &text))
        model->info.architecture = model->info.title = text.data;
    model->info.vocabulary_size = model->vocabulary ? vocabulary_size(model->vocabulary) : 0;
}

void describe_model(hypura_model_info *info, const struct model *model)
{
    const struct model_parameters *p = model_parameters(model);
    info->name = model_name(model);
    info->architecture = model_architecture(model)->name;
    info->title = model_architecture(model)->title;
    info->files = (uint32_t)gguf_file_count(model_file(model));
    info->weight_bytes = model_bytes(model);
    info->layers = p->layers;
    info->embedding_width = p->embedding;
    info->vocabulary_size = p->vocabulary;
    info->trained_tokens = p->context;
    info->experts = p->experts;
    info->experts_used = p->experts_used;
    info->generates = !(model_architecture(model)->flags & ARCHITECTURE_ENCODER);
}

static void describe(hypura_model *model)
{
    hypura_model_info *info = &model->info;
    info->path = model->path;
    info->name = info->architecture = info->title = "";
    if (!model->engine) {
        describe_file(model);
        return;
    }
    const struct model *known = engine_model(model->engine);
    const struct gpu_info *gpu = engine_gpu(model->engine);
    describe_model(info, known);
    info->judges = engine_judges(model->engine);
    info->threads = (uint32_t)engine_threads(model->engine);
    info->gpu = gpu ? gpu->name : NULL;
}

static hypura_status open_model(hypura_model *model, const char *path, struct opening *opening, hypura_error *error)
{
    hypura_status status = string_copy(&model->path, path, error);
    if (!status && opening->given.text_only)
        status = gguf_open(&model->file, path, error);
    else if (!status)
        status = open_engine(model, path, opening, error);
    if (status)
        return status;
    open_texts(model);
    describe(model);
    return model->engine ? scheduler_start(model, error) : HYPURA_OK;
}

hypura_status hypura_open(hypura_model **out, const char *path, const hypura_options *options, hypura_error *error)
{
    struct opening opening;
    hypura_model *model = NULL;
    hypura_status status = read_options(&opening, options, error);
    if (!status)
        status = ALLOCATE(&model, 1, "model", error);
    if (!status) {
        pthread_mutex_init(&model->mutex, NULL);
        pthread_mutex_init(&model->grammar_mutex, NULL);
        pthread_cond_init(&model->changed, NULL);
        pthread_cond_init(&model->calm, NULL);
        status = open_model(model, path, &opening, error);
    }
    close_options(&opening);
    if (status)
        hypura_close(model);
    else
        *out = model;
    return status;
}

void hypura_close(hypura_model *model)
{
    if (!model)
        return;
    scheduler_stop(model);
    grammar_vocabulary_free(model->grammar);
    chat_template_free(model->template);
    chat_template_free(model->tool_template);
    engine_close(model->engine);
    vocabulary_close(model->own_vocabulary);
    gguf_close(model->file);
    pthread_mutex_destroy(&model->mutex);
    pthread_mutex_destroy(&model->grammar_mutex);
    pthread_cond_destroy(&model->changed);
    pthread_cond_destroy(&model->calm);
    memory_free(model->path);
    memory_free(model);
}

void hypura_leave(hypura_model *model)
{
    scheduler_stop(model);
    if (model->engine)
        engine_leave(model->engine);
}

const hypura_model_info *hypura_get_info(const hypura_model *model)
{
    return &model->info;
}

const hypura_plan *hypura_get_plan(const hypura_model *model)
{
    return model->engine ? &model->plan : NULL;
}

hypura_status hypura_set_memory(hypura_model *model, uint64_t bytes, hypura_error *error)
{
    struct hardware hardware;
    if (!model->engine)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the model was opened for text only: it has no weights");
    if (!bytes) {
        hypura_status status = hardware_detect(&hardware, model->path, error);
        if (status)
            return status;
        bytes = hardware_default_budget(&hardware) + memory_resident_bytes();
    }
    return engine_set_budget(model->engine, bytes, error);
}

hypura_status hypura_end_trace(hypura_model *model, hypura_error *error)
{
    if (!model->engine)
        return HYPURA_OK;
    scheduler_hold(model);
    hypura_status status = engine_end_trace(model->engine, error);
    scheduler_release(model);
    return status;
}

bool hypura_is_lost(const hypura_model *model)
{
    return model->engine && engine_lost(model->engine);
}
