/* Plans for real models: converts a model into the planner's table. */
#include "plan/plan_private.h"

#include <string.h>

void plan_table_free(struct plan_table *table)
{
    memory_free(table->units);
    table->units = NULL;
}

/* A piece has this part of all dense weights: then a ring of a few pieces is small, and the number of pieces, which
 * need bookkeeping, is bounded. Drives read smaller pieces badly; larger ones only make coarser steps. */
#define PIECES_OF_ALL 1024u
#define SMALLEST_PIECE ((uint64_t)24 << 10)
#define LARGEST_PIECE ((uint64_t)64 << 20)

/* A piece has whole rows and, if possible, whole pages, so that all pieces start at the same offset in a page. */
static uint64_t rows_a_piece(uint64_t row_bytes, uint64_t piece_bytes)
{
    uint64_t step = 1;
    while (step < STORAGE_ALIGNMENT && step * row_bytes % STORAGE_ALIGNMENT)
        step *= 2;
    uint64_t rows = piece_bytes / row_bytes;
    return rows >= step ? rows / step * step : MAX(rows, (uint64_t)1);
}

static uint64_t part_footprint(const struct unit_slice *slice, uint64_t start, uint64_t bytes)
{
    uint64_t offset = slice->offset + start;
    return align_up(offset + bytes, STORAGE_ALIGNMENT) - align_down(offset, STORAGE_ALIGNMENT);
}

static void cut_unit(struct plan_unit *row, const struct unit *unit, uint64_t piece_bytes)
{
    const struct unit_slice *slice = &unit->slices[0];
    row->cut = (struct plan_cut){.first = row->cut.first, .count = 1, .bytes = unit->bytes};
    row->piece = row->last_piece = row->footprint;
    if (!row->cuttable || unit->bytes <= piece_bytes || row->priority >= PRIORITY_EXPERT)
        return;
    uint64_t rows = slice->tensor->dimensions[1] * slice->tensor->dimensions[2], row_bytes = unit->bytes / rows;
    uint64_t bytes = rows_a_piece(row_bytes, piece_bytes) * row_bytes;
    uint64_t count = (unit->bytes + bytes - 1) / bytes, last = unit->bytes - (count - 1) * bytes;
    row->cut.count = (uint32_t)count;
    row->cut.bytes = bytes;
    row->piece = 0;
    for (uint64_t i = 0; i + 1 < count; i++)
        row->piece = MAX(row->piece, part_footprint(slice, i * bytes, bytes));
    row->last_piece = part_footprint(slice, (count - 1) * bytes, last);
    row->piece = MAX(row->piece, row->last_piece);
}

static void cut_units(struct plan_table *table, const struct model *model)
{
    uint64_t dense = 0;
    for (uint32_t i = 0; i < table->count; i++)
        dense += table->units[i].priority < PRIORITY_EXPERT ? table->units[i].footprint : 0;
    uint64_t piece_bytes = MIN(MAX(dense / PIECES_OF_ALL, SMALLEST_PIECE), LARGEST_PIECE);
    table->piece_count = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        struct plan_unit *row = &table->units[i];
        row->cut.first = table->piece_count;
        cut_unit(row, model_unit(model, i), piece_bytes);
        table->piece_count += row->cut.count;
    }
}

static uint64_t row_bytes_of(const struct unit *unit)
{
    return unit->bytes / MAX(unit->slices[0].tensor->dimensions[1], (uint64_t)1);
}

/* The bytes read for a row: whole pages, and one more, because most rows cross a page boundary. */
static uint64_t read_bytes_of(uint64_t row_bytes)
{
    return align_up(row_bytes, STORAGE_ALIGNMENT) + STORAGE_ALIGNMENT;
}

static void add_rows(struct plan_table *table, unit_number unit, uint64_t row_bytes)
{
    for (uint32_t i = 0; i < table->row_count; i++)
        if (table->rows[i].unit == unit)
            return;
    if (table->row_count < PLAN_TABLES)
        table->rows[table->row_count++] = (struct plan_rows){.unit = unit, .row_bytes = row_bytes};
}

/* Adds a table once: several layers may look up the same rows of it. */
static void add_table(struct plan_table *table, const struct model *model, const struct step_look_up *look_up)
{
    uint64_t row_bytes = row_bytes_of(model_unit(model, look_up->table));
    add_rows(table, look_up->table, row_bytes);
    table->table_bytes_per_token = look_up->rows * read_bytes_of(row_bytes);
}

static bool is_predicting(const struct model *model, int32_t layer)
{
    return layer >= 0 && (uint32_t)layer >= model_parameters(model)->layers;
}

/* Finds out what the steps do with each tensor. One that is read by rows and also multiplied by counts as the latter.
 */
static void find_traits(struct plan_table *table, const struct model *model, const struct steps *steps)
{
    struct step_list all = steps_all(steps);
    for (size_t i = 0; i < all.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(&all.steps[i], units);
        for (size_t u = 0; u < count; u++) {
            struct plan_unit *row = &table->units[units[u].unit];
            const struct unit *unit = model_unit(model, units[u].unit);
            struct plan_traits traits = plan_traits_of(units[u].use, all.steps[i].part, unit->bytes);
            /* A prediction block runs outside the order in which tensors stream. So its tensors stay in memory, and so
             * does the output matrix if it shares that. */
            if (is_predicting(model, all.steps[i].layer) &&
                (is_predicting(model, unit->layer) || units[u].use == USE_MATRIX))
                traits = (struct plan_traits){PRIORITY_ALWAYS, 0, false};
            row->priority = traits.priority;
            row->group = traits.group;
            row->cuttable = traits.cuttable;
            if (units[u].use == USE_TABLE)
                add_table(table, model, &all.steps[i].look_up);
        }
    }
}

static void measure_work(struct plan_unit *row, const struct unit *unit, const struct hardware *hardware)
{
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct unit_slice *slice = &unit->slices[i];
        const struct tensor_type_info *info = tensor_type_info(slice->tensor->type);
        uint64_t elements = slice->bytes / info->block_bytes * info->block_size;
        struct product_cost cost =
            hardware_product_cost(hardware, slice->tensor->type, (double)slice->bytes, (double)elements);
        row->elements += elements;
        row->batch_start += cost.start;
        row->batch_each += cost.each;
        row->compute_seconds += (double)slice->bytes / hardware_kernel_speed(hardware, slice->tensor->type);
    }
}

hypura_status plan_table_make(struct plan_table *out, const struct model *model, const struct steps *steps,
                              const struct hardware *hardware, hypura_error *error)
{
    const struct model_parameters *parameters = model_parameters(model);
    struct plan_table table = {.count = model_unit_count(model),
                               .layers = parameters->layers,
                               .experts = parameters->experts,
                               .experts_used = MIN(parameters->experts_used, parameters->experts),
                               .context = parameters->context,
                               .tied_output = model_tied_output(model),
                               .embedding_unit = model_tensor(model, ROLE_TOKEN_EMBEDDING)};
    hypura_status status = ALLOCATE(&table.units, table.count, "planner's units", error);
    if (status != HYPURA_OK)
        return status;
    for (unit_number number = 0; number < table.count; number++) {
        const struct unit *unit = model_unit(model, number);
        struct plan_unit *row = &table.units[number];
        row->footprint = plan_unit_footprint(unit);
        row->slices = unit->slice_count;
        row->file = unit->slices[0].file;
        row->layer = unit->layer;
        row->expert = unit->kind == UNIT_EXPERT ? unit->expert : -1;
        measure_work(row, unit, hardware);
        if (unit->layer >= 0 && (uint32_t)unit->layer >= parameters->layers + parameters->predicting)
            row->priority = PRIORITY_UNUSED;
        else if (unit->kind == UNIT_EXPERT)
            row->priority = PRIORITY_EXPERT;
        else
            row->priority = PRIORITY_ALWAYS; /* unless find_traits changes it */
    }
    find_traits(&table, model, steps);
    if (table.embedding_unit != NO_UNIT) {
        struct plan_unit *embedding = &table.units[table.embedding_unit];
        const struct unit *unit = model_unit(model, table.embedding_unit);
        table.embedding_row_bytes = read_bytes_of(row_bytes_of(unit));
        if (!table.tied_output && embedding->priority != PRIORITY_ALWAYS)
            embedding->priority = PRIORITY_ROWS;
        add_rows(&table, table.embedding_unit, row_bytes_of(unit));
    }
    cut_units(&table, model);
    *out = table;
    return HYPURA_OK;
}

/* Predicts the speed of the plan if all experts are used equally. */
static hypura_status predict_evenly(struct plan *plan, const struct plan_table *table, const struct model *model,
                                    const struct steps *steps, const struct hardware *hardware,
                                    const struct plan_request *request, hypura_error *error)
{
    struct plan even = *plan;
    struct plan_request evenly = *request;
    plan->even_tokens_per_second = plan->predicted_tokens_per_second;
    if (plan->predicted_hit_rate >= 1 || plan_knows_routing(table, request))
        return HYPURA_OK;
    plan_ask_evenly(&evenly);
    hypura_status status = plan_predict(&even, table, hardware, &evenly, error);
    if (!status && request->gpu)
        status = plan_gpu_predict(&even, table, model, steps, hardware, &evenly, error);
    if (!status)
        plan->even_tokens_per_second = MIN(even.predicted_tokens_per_second, plan->predicted_tokens_per_second);
    return status;
}

static void leave_out_elsewhere(struct plan_table *table, const struct plan_request *request)
{
    for (unit_number u = 0; request->elsewhere && u < table->count; u++) {
        if (!request->elsewhere[u])
            continue;
        table->units[u].priority = PRIORITY_UNUSED;
        table->units[u].compute_seconds = 0;
        if (u == table->embedding_unit)
            table->embedding_unit = NO_UNIT;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; request->elsewhere && i < table->row_count; i++)
        if (!request->elsewhere[table->rows[i].unit])
            table->rows[kept++] = table->rows[i];
    if (request->elsewhere)
        table->row_count = kept;
}

static hypura_status keep_elsewhere(struct plan *plan, const struct plan_request *request, hypura_error *error)
{
    if (!request->elsewhere)
        return HYPURA_OK;
    hypura_status status = ALLOCATE(&plan->elsewhere, plan->unit_count, "plan", error);
    if (status == HYPURA_OK)
        memcpy(plan->elsewhere, request->elsewhere, plan->unit_count);
    return status;
}

hypura_status plan_make(struct plan **out, const struct model *model, const struct steps *steps,
                        const struct hardware *hardware, const struct plan_request *request, hypura_error *error)
{
    struct plan_table table;
    hypura_status status = plan_table_make(&table, model, steps, hardware, error);
    if (status != HYPURA_OK)
        return status;
    for (unit_number u = 0; request->gpu && u < table.count; u++) {
        if (request->gpu->units[u])
            table.units[u].priority = PRIORITY_GPU;
    }
    leave_out_elsewhere(&table, request);
    table.experts_move = request->gpu && (request->gpu->moves || request->gpu->in_place);
    table.moves = request->gpu ? request->gpu->moves : 0;
    for (unit_number u = 0; table.experts_move && u < table.count; u++) {
        /* All slots have the same size, but slices begin anywhere in a page. */
        if (table.units[u].priority == PRIORITY_EXPERT)
            table.units[u].footprint += (uint64_t)table.units[u].slices * STORAGE_ALIGNMENT;
    }
    struct plan *plan;
    status = plan_make_units(&plan, &table, hardware, request, error);
    if (status == HYPURA_OK) {
        status = keep_elsewhere(plan, request, error);
        if (status != HYPURA_OK)
            plan_free(plan);
    }
    if (status == HYPURA_OK) {
        if (request->gpu)
            status = plan_gpu_predict(plan, &table, model, steps, hardware, request, error);
        if (status == HYPURA_OK)
            status = predict_evenly(plan, &table, model, steps, hardware, request, error);
        if (status != HYPURA_OK)
            plan_free(plan);
    }
    if (status == HYPURA_OK)
        *out = plan;
    plan_table_free(&table);
    return status;
}

hypura_status plan_tokens_per_second_with(const struct model *model, const struct steps *steps,
                                          const struct hardware *hardware, const struct plan_request *request,
                                          int64_t more_bytes, double *out, hypura_error *error)
{
    struct plan_request changed = *request;
    uint64_t budget = request->budget ? request->budget : hardware_default_budget(hardware);
    if (more_bytes < 0)
        changed.budget = budget - MIN(budget, (uint64_t)0 - (uint64_t)more_bytes);
    else
        changed.budget = budget > UINT64_MAX - (uint64_t)more_bytes ? UINT64_MAX : budget + (uint64_t)more_bytes;
    /* 0 would mean the default budget. */
    changed.budget = MAX(changed.budget, (uint64_t)1);
    struct plan *plan;
    hypura_status status = plan_make(&plan, model, steps, hardware, &changed, error);
    if (status != HYPURA_OK)
        return status;
    *out = plan->predicted_tokens_per_second;
    plan_free(plan);
    return HYPURA_OK;
}
