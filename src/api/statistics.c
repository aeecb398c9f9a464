/* What a model has done so far, and where its weights are. */
#include "api/api_private.h"
#include "core/json_text.h"

#include <stdlib.h>
#include <string.h>

void hypura_get_statistics(hypura_model *model, hypura_statistics *out)
{
    hypura_statistics own = {.bound = "", .share_of_limit = -1, .share_of_both_limits = -1};
    if (model->engine)
        figures_of(model->engine, &own);
    give_struct(out, &own, sizeof own);
}

hypura_status hypura_statistics_json(hypura_model *model, char **text, hypura_error *error)
{
    struct buffer buffer = {0};
    uint64_t failures = memory_failures();
    json_t *json = model->engine ? figures_json(model->engine) : json_object();
    char *dumped = json ? json_text_write(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (dumped)
        buffer_append_string(&buffer, dumped);
    free(dumped);
    if (memory_check(failures, "statistics", error) || !buffer.data) {
        buffer_free(&buffer);
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the statistics");
    }
    *text = buffer.data;
    return HYPURA_OK;
}

static void add_places(hypura_places *row, const uint64_t bytes[UNIT_STATES])
{
    row->gpu_bytes += bytes[UNIT_ON_GPU];
    row->ram_bytes += bytes[UNIT_PINNED];
    row->cached_bytes += bytes[UNIT_CACHED];
    row->storage_bytes += bytes[UNIT_ON_STORAGE] + bytes[UNIT_IN_FLIGHT];
}

size_t hypura_get_places(hypura_model *model, hypura_places *rows, size_t room)
{
    size_t layers = model->info.layers;
    if (!model->engine)
        return 0;
    for (size_t i = 0; i < MIN(room, layers + 1); i++)
        rows[i] = (hypura_places){0};
    const struct model *known = engine_model(model->engine);
    for (unit_number u = 0; u < model_unit_count(known); u++) {
        int32_t layer = model_unit(known, u)->layer;
        size_t row = layer < 0 ? layers : (size_t)layer;
        uint64_t bytes[UNIT_STATES] = {0};
        if (row >= room)
            continue;
        store_count_bytes(engine_store(model->engine), u, bytes);
        add_places(&rows[row], bytes);
    }
    return layers + 1;
}

size_t hypura_take_used_experts(hypura_model *model, bool *used, size_t room)
{
    size_t count = (size_t)model->info.layers * model->info.experts;
    bool *all;
    if (!model->engine || !count || ALLOCATE(&all, count, "expert usage", NULL))
        return 0;
    engine_take_used(model->engine, all);
    memcpy(used, all, MIN(room, count) * sizeof *all);
    memory_free(all);
    return count;
}
