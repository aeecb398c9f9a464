/* Rows of a table that stays on the drive. They follow from the tokens, so all reads begin with the pass and go on
 * while it computes. */
#include "engine/cpu/execute.h"

#include <string.h>

/* Finds the rows of the table. Hashes need earlier tokens, which are kept in the sequence's cache, so that they move
 * with the sequence. */
static void find_rows(struct batch *batch, const struct step_look_up *l)
{
    const int32_t *tokens = batch->asked->tokens;
    uint32_t *rows = batch->scratch.table_rows;
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &batch->scratch.spans[i];
        uint32_t held = batch->kv.held[span->sequence];
        int32_t *text = l->ngrams ? kv_cache_tokens(&batch->kv, span->sequence) : NULL;
        if (text)
            memcpy(text + held, tokens + span->first_row, span->rows * sizeof *text);
        for (uint32_t r = 0; r < span->rows; r++) {
            uint32_t *out = rows + (size_t)(span->first_row + r) * l->rows;
            if (text)
                model_ngram_rows(l->ngrams, text + held + r, held + r, out);
            else
                *out = (uint32_t)tokens[span->first_row + r];
        }
    }
}

hypura_status look_up_begin(struct batch *batch, hypura_error *error)
{
    const struct step *step = batch->open->geometry.look_up;
    if (!step)
        return HYPURA_OK;
    const struct step_look_up *l = &step->look_up;
    find_rows(batch, l);
    struct store_rows rows = {
        .rows = batch->scratch.table_rows, .count = batch->rows * l->rows, .out = batch->scratch.looked_up};
    return store_want_rows(batch->open->store, l->table, &rows, error);
}

hypura_status look_up_rows(struct batch *batch, const struct step *step, float *out, hypura_error *error)
{
    const struct step_look_up *l = &step->look_up;
    size_t count = batch->rows * l->rows;
    TRY(store_get_rows(batch->open->store, l->table, error));
    struct matrix row = unit_matrix(batch, l->table, NULL);
    for (size_t i = 0; i < count; i++)
        compute_dequantize(row.type, batch->scratch.looked_up + i * row.row_bytes, out + i * l->width, l->width);
    if (l->scale != 1.0f)
        compute_scale(batch->compute, out, out, l->scale, count * l->width);
    return HYPURA_OK;
}

hypura_status run_look_up(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    (void)held;
    return look_up_rows(batch, step, rows_of(batch, step->look_up.out), error);
}
