/* Keys that stand for several positions, for the search for positions worth attention. */
#include "engine/cpu/execute.h"

#include <string.h>

/* Finishes a block after its last position: takes the mean, norms it, rotates it to the block's first position, and
 * stores it. */
static void store_block(struct batch *batch, const struct step *step, const struct span *span, const float *sum,
                        const float *weight, uint32_t block)
{
    const struct step_pool *p = &step->pool;
    float *key = rows_of(batch, p->out), *table = key + p->size;
    const uint32_t first = block * p->every;
    compute_scale(batch->compute, key, sum, 1.0f / (float)p->every, p->size);
    compute_rms_norm(batch->compute, key, key, weight, 1, p->size, p->epsilon);
    rope_table_fill(&batch->open->rope, compute_pool(batch->compute), table, &first, 1);
    compute_rope(batch->compute, p->layout, key, 1, p->size, 1, p->size, p->rotary, table);
    kv_cache_write_plane(&batch->kv, (uint32_t)step->layer, p->plane, span->sequence, block, 1, key);
}

hypura_status run_pool(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_pool *p = &step->pool;
    const float *weight;
    TRY(hold_vector(batch, held, p->norm, &weight, error));
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &batch->scratch.spans[i];
        const struct states states = states_of(batch, step, span);
        float *sum = states.next;
        memcpy(sum, states.now, p->size * sizeof *sum);
        for (uint32_t r = span->first_row; r < span->first_row + span->rows; r++) {
            const float *key = rows_of(batch, p->in) + (size_t)r * p->size;
            uint32_t position = batch->scratch.positions[r];
            if (position % p->every == 0)
                memcpy(sum, key, p->size * sizeof *sum);
            else
                compute_add(batch->compute, sum, sum, key, p->size);
            if ((position + 1) % p->every == 0)
                store_block(batch, step, span, sum, weight, position / p->every);
        }
    }
    return HYPURA_OK;
}
