/* Compresses blocks of positions to rows of the cache (compute.h says how). */
#include "engine/cpu/execute.h"

#include <string.h>

/* Norms each block's row and rotates it to the block's first position. */
static void finish_blocks(struct batch *batch, const struct step_compress *c, const float *norm, size_t first,
                          size_t count, float *rows)
{
    float *angles = rows + count * c->size;
    compute_rms_norm(batch->compute, rows, rows, norm, count, c->size, c->epsilon);
    for (size_t i = 0; i < count; i++) {
        uint32_t position = (uint32_t)((first + i) * c->every);
        rope_table_fill(&batch->open->rope, compute_pool(batch->compute), angles, &position, 1);
        compute_rope(batch->compute, c->layout, rows + i * c->size + c->turned, 1, c->size, 1, c->size, c->rotary,
                     angles);
    }
}

hypura_status run_compress(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_compress *c = &step->compress;
    const size_t width = (size_t)c->size * (c->overlaps ? 2 : 1);
    const uint32_t layer = (uint32_t)step->layer;
    const float *norm;
    struct compression compression = {
        .size = c->size, .every = c->every, .overlaps = c->overlaps, .out = rows_of(batch, c->out)};
    TRY(hold_vector(batch, held, c->bias, &compression.bias, error));
    TRY(hold_vector(batch, held, c->norm, &norm, error));
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &batch->scratch.spans[i];
        const uint32_t position = batch->scratch.positions[span->first_row];
        const struct states states = states_of(batch, step, span);
        compression.position = position;
        compression.rows = span->rows;
        compression.values = rows_of(batch, c->values) + span->first_row * width;
        compression.gates = c->gates == BUFFER_NONE ? NULL : rows_of(batch, c->gates) + span->first_row * width;
        compression.state = states.now;
        compression.next = states.next;
        compute_compression(batch->compute, &compression);
        const uint32_t first = position / c->every;
        const uint32_t count = (uint32_t)compressed_rows(position, span->rows, c->every);
        if (count == 0)
            continue;
        finish_blocks(batch, c, norm, first, count, compression.out);
        if (c->plane)
            kv_cache_write_plane(&batch->kv, layer, c->plane, span->sequence, first, count, compression.out);
        else
            kv_cache_write_compressed(&batch->kv, layer, span->sequence, first, count, compression.out);
    }
    return HYPURA_OK;
}
