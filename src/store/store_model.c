/* The description of a store from a model and its plan. */
#include "store/store_private.h"

#include "store/mirrors.h"

static const struct unit *unit_of_model(const void *model, unit_number unit)
{
    return model_unit(model, unit);
}

static hypura_status paths_of(const char ***out, const struct model *model, hypura_error *error)
{
    hypura_status status = ALLOCATE(out, model_path_count(model), "files", error);
    for (uint32_t i = 0; !status && i < model_path_count(model); i++)
        (*out)[i] = model_path_at(model, i);
    return status;
}

hypura_status store_find_drives(struct hardware *hardware, const struct model *model, const char *const *mirrors,
                                size_t mirror_count, hypura_error *error)
{
    const char **paths;
    struct drives *drives = NULL;
    hypura_status status = paths_of(&paths, model, error);
    if (status)
        return status;
    status = mirrors_find(&drives, hardware, paths, model_path_count(model),
                          (uint32_t)gguf_file_count(model_file(model)), mirrors, mirror_count, error);
    memory_free(paths);
    if (!status)
        hardware_set_drives(hardware, drives);
    return status;
}

hypura_status store_open(struct store **out, const struct model *model, const struct plan *plan,
                         const struct store_options *options, hypura_error *error)
{
    struct store_source source = {.model = model,
                                  .unit = unit_of_model,
                                  .unit_count = model_unit_count(model),
                                  .tiers = plan->tiers,
                                  .in_ring = plan->in_ring,
                                  .cuts = plan->cuts,
                                  .streams = plan->streams,
                                  .groups = plan->groups,
                                  .elsewhere = plan->elsewhere,
                                  .file_count = model_path_count(model),
                                  .ring_bytes = plan->ring_bytes,
                                  .expert_cache_bytes = plan->expert_cache_bytes,
                                  .layers = model_parameters(model)->layers,
                                  .experts = model_parameters(model)->experts,
                                  .experts_used = model_parameters(model)->experts_used,
                                  .tables = plan->tables,
                                  .table_count = plan->table_count,
                                  .devices = plan->gpu ? plan->gpu->units : NULL,
                                  .lent = plan->gpu ? plan->gpu->lent : NULL,
                                  .moves = plan->gpu ? plan->gpu->moves : 0,
                                  .in_place = plan->gpu && plan->gpu->in_place};
    const char **paths;
    hypura_status status = paths_of(&paths, model, error);
    if (status)
        return status;
    source.paths = paths;
    status = store_open_source(out, &source, options, NULL, error);
    memory_free(paths);
    return status;
}
