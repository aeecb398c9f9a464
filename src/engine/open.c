/* Opens an engine in order: the model, the smaller model that drafts, caches and buffers, the store of prefixes. */
#include "cluster/cluster.h"
#include "engine/engine_private.h"

#include <string.h>

hypura_status engine_plan_only(struct plan **out, const struct model *model, const struct hardware *hardware,
                               const struct engine_options *options, hypura_error *error)
{
    struct vocabulary *vocabulary = NULL;
    struct planned_draft draft = {0};
    struct engine_options rest = *options;
    /* A run holds its vocabulary within the budget, so it is open while the plan counts the process's memory. */
    vocabulary_open(&vocabulary, model_file(model), NULL);
    hypura_status status = draft_model_plan(&draft, model, hardware, &rest, error);
    if (!status)
        status = engine_plan_beside(out, model, hardware, &rest, error);
    planned_draft_close(&draft);
    vocabulary_close(vocabulary);
    return status;
}

/* No plan divides a dense model's layers between GPUs and other hosts. */
static hypura_status leave_out_gpus(struct engine_options *options, const struct model *model, hypura_error *error)
{
    if (!cluster_here() || options->alone || model_parameters(model)->experts)
        return HYPURA_OK;
    if (options->gpu && strcmp(options->gpu, "none") != 0 && strcmp(options->gpu, "auto") != 0)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s is dense, and GPUs cannot be used for dense models with several ranks: leave out "
                         "\"--gpu %.40s\", or start without mpirun",
                         model_name(model), options->gpu);
    options->gpu = "none";
    return HYPURA_OK;
}

hypura_status engine_open(struct engine **out, const char *path, const struct engine_options *options,
                          hypura_error *error)
{
    struct engine *engine;
    struct engine_options rest = *options;
    uint64_t start = clock_nanoseconds();
    TRY(engine_open_model(&engine, path, &rest, error));
    hypura_status status = leave_out_gpus(&rest, engine->open.model, error);
    if (!status && draft_model_wanted(engine->open.model, options))
        status = draft_model_open(engine, &rest, error);
    if (!status)
        status = engine_open_places(engine, &rest, error);
    if (!status)
        status = prefixes_open(engine, options, error);
    if (status) {
        engine_close(engine);
        return status;
    }
    engine->open.load_seconds = clock_seconds_since(start);
    *out = engine;
    return HYPURA_OK;
}
