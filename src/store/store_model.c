/* What the store needs to know of a model and its plan. */
#include "store/store_private.h"

static const struct unit *unit_of_model(const void *model, unit_number unit)
{
    return model_unit(model, unit);
}

hypura_status store_open(struct store **out, const struct model *model, const struct plan *plan,
                         const struct store_options *options, hypura_error *error)
{
    const struct gguf *file = model_file(model);
    struct store_source source = {.model = model,
                                  .unit = unit_of_model,
                                  .unit_count = model_unit_count(model),
                                  .tiers = plan->tiers,
                                  .in_ring = plan->in_ring,
                                  .cuts = plan->cuts,
                                  .streams = plan->streams,
                                  .groups = plan->groups,
                                  .file_count = (uint32_t)gguf_file_count(file),
                                  .ring_bytes = plan->ring_bytes,
                                  .expert_cache_bytes = plan->expert_cache_bytes,
                                  .layers = model_parameters(model)->layers,
                                  .experts = model_parameters(model)->experts,
                                  .tables = plan->tables,
                                  .table_count = plan->table_count,
                                  .moves = plan->gpu && plan->gpu->moves,
                                  .in_place = plan->gpu && plan->gpu->in_place};
    const char **paths;
    hypura_status status = ALLOCATE(&paths, source.file_count, "files", error);
    if (status)
        return status;
    for (uint32_t i = 0; i < source.file_count; i++)
        paths[i] = gguf_file_path(file, i);
    source.paths = paths;
    status = store_open_source(out, &source, options, NULL, error);
    memory_free(paths);
    return status;
}
