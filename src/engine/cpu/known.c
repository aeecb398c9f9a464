/* Experts that follow from the token ids alone (hash-routed layers). They are known when a pass begins, so their reads
 * begin then, layer by layer. */
#include "engine/cpu/execute.h"
#include "engine/gpu/pass.h"

#include <string.h>

hypura_status known_experts(struct batch *batch, const struct step_route *r, uint32_t *chosen, hypura_error *error)
{
    struct held held = {0};
    struct matrix table;
    const struct model *model = batch->open->model;
    TRY(hold_matrix(batch, &held, r->table, &table, error));
    hypura_status status = HYPURA_OK;
    for (size_t row = 0; row < batch->rows && !status; row++, chosen += r->rule.used) {
        memcpy(chosen, table.data + (size_t)batch->asked->tokens[row] * table.row_bytes, r->rule.used * sizeof *chosen);
        for (uint32_t i = 0; i < r->rule.used && !status; i++)
            if (chosen[i] >= r->rule.experts)
                status =
                    error_set(error, HYPURA_ERROR_FORMAT, "%s: tensor '%s' names expert %u, but there are %u",
                              gguf_file_path(model_file(model), 0),
                              model_unit(model, r->table)->slices[0].tensor->name.data, chosen[i], r->rule.experts);
    }
    release(batch, &held);
    return status;
}

/* Lists the experts of a layer, each once, and returns their number. */
static uint32_t list_known(struct batch *batch, const struct step_route *r)
{
    struct scratch *s = &batch->scratch;
    uint32_t *rows = s->expert_first, count = 0;
    memset(rows, 0, r->rule.experts * sizeof *rows);
    for (size_t i = 0; i < batch->rows * r->rule.used; i++)
        if (rows[s->chosen[i]]++ == 0)
            s->expert_units[count++] = r->first + s->chosen[i];
    return count;
}

hypura_status known_begin(struct batch *batch, hypura_error *error)
{
    const struct plan *plan = batch->open->plan;
    uint32_t layers = model_parameters(batch->open->model)->layers;
    for (uint32_t i = 0; i < layers && plan->expert_cache_bytes; i++) {
        const struct step *step = steps_find(steps_of_layer(batch->open->steps, i), STEP_ROUTE);
        /* A table that streams is read only with its layer. */
        if (!step || step->route.table == NO_UNIT || gpu_pass_has(batch, i) || plan_in_ring(plan, step->route.table) ||
            narrow_rows_in(batch, i) < batch->rows)
            continue;
        TRY(known_experts(batch, &step->route, batch->scratch.chosen, error));
        store_demand(batch->open->store, batch->scratch.expert_units, list_known(batch, &step->route));
    }
    return HYPURA_OK;
}
