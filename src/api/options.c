/* Converts a program's options to those of the engine. */
#include "api/api_private.h"

#include <string.h>

static hypura_status read_kv_type(struct engine_options *out, const char *name, hypura_error *error)
{
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0};
    enum tensor_type type;
    if (!name)
        return HYPURA_OK;
    bool known = tensor_type_by_name(name, &type), possible = false;
    for (size_t i = 0; known && i < COUNT_OF(types); i++)
        possible |= type == types[i];
    if (!possible)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "kv_type \"%s\": expected f32, f16, bf16, q8_0 or q4_0", name);
    out->kv_type = type;
    return HYPURA_OK;
}

static hypura_status read_reader(struct engine_options *out, const char *name, hypura_error *error)
{
    static const char *const names[] = {"auto", "io_uring", "threads"};
    static const enum store_reader readers[] = {STORE_READER_AUTO, STORE_READER_URING, STORE_READER_THREADS};
    for (size_t i = 0; name && i < COUNT_OF(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            out->reader = readers[i];
            return HYPURA_OK;
        }
    }
    return name ? error_set(error, HYPURA_ERROR_ARGUMENT, "reader \"%s\": expected auto, io_uring or threads", name)
                : HYPURA_OK;
}

static hypura_status read_switches(struct opening *out, hypura_error *error)
{
    static const enum engine_drafting draftings[] = {DRAFTING_AUTO, DRAFTING_ON, DRAFTING_OFF};
    static const enum store_prefetching prefetchings[] = {STORE_PREFETCH_AUTO, STORE_PREFETCH_ON, STORE_PREFETCH_OFF};
    const hypura_options *given = &out->given;
    if ((unsigned)given->drafting > HYPURA_OFF || (unsigned)given->prefetch > HYPURA_OFF)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "options.drafting or options.prefetch: expected HYPURA_AUTO, HYPURA_ON or HYPURA_OFF");
    out->engine.drafting = draftings[given->drafting];
    out->engine.prefetching = prefetchings[given->prefetch];
    if (given->draft_path && given->drafting == HYPURA_OFF)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "options.draft_path names a draft model, but options.drafting is off");
    if (given->prefix_folder && given->forget_prefixes)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "options.prefix_folder and options.forget_prefixes exclude each other");
    return HYPURA_OK;
}

static hypura_status read_adapters(struct opening *out, hypura_error *error)
{
    const hypura_options *given = &out->given;
    if (!given->adapter_count)
        return HYPURA_OK;
    hypura_status status = ALLOCATE(&out->adapters, given->adapter_count, "adapters", error);
    for (size_t i = 0; !status && i < given->adapter_count; i++)
        out->adapters[i] = (struct engine_adapter){given->adapters[i].path, given->adapters[i].scale};
    out->engine.adapters = out->adapters;
    out->engine.adapter_count = given->adapter_count;
    return status;
}

hypura_status read_options(struct opening *out, const hypura_options *options, hypura_error *error)
{
    struct engine_options *engine = &out->engine;
    const hypura_options *given = &out->given;
    *out = (struct opening){0};
    engine_default_options(engine);
    hypura_status status = take_struct(&out->given, sizeof out->given, options, "hypura_options", error);
    if (status)
        return status;
    engine->budget = given->memory_bytes;
    engine->gpu = given->gpu;
    engine->gpu_budget = given->gpu_memory_bytes;
    engine->gpu_fixed = given->gpu_fixed;
    engine->threads = given->threads;
    engine->context = given->context_tokens;
    engine->sequences = given->sessions;
    engine->shared_context = given->sessions != 1;
    engine->chunk = given->chunk_tokens;
    engine->draft_path = given->draft_path;
    engine->keep_prefixes = !given->forget_prefixes;
    engine->prefix_bytes = given->prefix_memory_bytes;
    engine->prefix_path = given->prefix_folder;
    engine->prefix_path_bytes = given->prefix_folder_bytes;
    engine->begin_early = !given->on_load || given->load_behind; /* otherwise on_load must run on the opening thread */
    engine->progress = given->on_load;
    engine->progress_context = given->on_load_context;
    engine->remember_usage = !given->forget_usage;
    engine->depth = given->reads_in_flight;
    engine->mirrors = given->mirror_paths;
    engine->mirror_count = given->mirror_count;
    engine->cache_policy = given->cache_policy;
    engine->fill = !given->no_fill;
    engine->wait_for_all = given->no_overlap;
    engine->trace_path = given->trace_path;
    if (given->gpu_count > COUNT_OF(engine->gpu_budgets))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "options.gpu_count is %zu: at most %zu are possible",
                         given->gpu_count, COUNT_OF(engine->gpu_budgets));
    for (size_t i = 0; i < given->gpu_count; i++)
        engine->gpu_budgets[i] = given->gpus_memory_bytes[i];
    status = read_kv_type(engine, given->kv_type, error);
    if (!status)
        status = read_reader(engine, given->reader, error);
    if (!status)
        status = read_switches(out, error);
    return status ? status : read_adapters(out, error);
}

/* Copies one text. */
static hypura_status keep_text(struct opening *opening, const char **text, hypura_error *error)
{
    if (!*text)
        return HYPURA_OK;
    hypura_status status = string_copy(&opening->texts[opening->text_count], *text, error);
    if (!status)
        *text = opening->texts[opening->text_count++];
    return status;
}

hypura_status keep_options(struct opening *opening, hypura_error *error)
{
    struct engine_options *engine = &opening->engine;
    const char **const single[] = {&engine->gpu, &engine->cache_policy, &engine->draft_path, &engine->prefix_path,
                                   &engine->trace_path};
    const size_t most = COUNT_OF(single) + engine->adapter_count + engine->mirror_count;
    hypura_status status = ALLOCATE(&opening->texts, most, "options", error);
    for (size_t i = 0; !status && i < COUNT_OF(single); i++)
        status = keep_text(opening, single[i], error);
    for (size_t i = 0; !status && i < engine->adapter_count; i++)
        status = keep_text(opening, &opening->adapters[i].path, error);
    const size_t first = opening->text_count;
    for (size_t i = 0; !status && i < engine->mirror_count; i++) {
        const char *text = engine->mirrors[i];
        status = keep_text(opening, &text, error);
    }
    if (!status && engine->mirror_count)
        engine->mirrors = (const char *const *)opening->texts + first;
    opening->given = (hypura_options){0}; /* it points to the program's memory */
    return status;
}

void close_options(struct opening *opening)
{
    memory_free(opening->adapters);
    for (size_t i = 0; i < opening->text_count; i++)
        memory_free(opening->texts[i]);
    memory_free(opening->texts);
    *opening = (struct opening){0};
}
