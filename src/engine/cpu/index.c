/* Chooses the earlier positions that a token's attention sees. */
#include "engine/cpu/execute.h"

hypura_status run_index(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_index *x = &step->index;
    const struct scratch *s = &batch->scratch;
    const struct kv_plane *plane = &batch->kv.layers[step->layer].planes[x->plane - 1];
    struct index_search search = {.query = rows_of(batch, x->query),
                                  .weights = x->weights == BUFFER_NONE ? NULL : rows_of(batch, x->weights),
                                  .positions = s->positions,
                                  .key_bytes = plane->row_bytes,
                                  .type = kv_plane_type(batch->kv.type),
                                  .heads = x->heads,
                                  .size = x->size,
                                  .by_head = x->by_head,
                                  .every = x->every,
                                  .block = x->block,
                                  .local = x->local,
                                  .most = x->most,
                                  .tail = x->tail,
                                  .words = (uint32_t *)(void *)rows_of(batch, x->out),
                                  .stride = step_choice_words(&(struct step_choice){.sets = x->by_head ? x->heads : 1,
                                                                                    .most = x->most + x->tail}),
                                  .scores = s->index_scores,
                                  .score_floats = s->index_score_floats};
    (void)held, (void)error;
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &s->spans[i];
        search.first_row = span->first_row;
        search.rows = span->rows;
        search.keys = kv_cache_plane(&batch->kv, (uint32_t)step->layer, x->plane, span->sequence);
        compute_index(batch->compute, &search);
    }
    return HYPURA_OK;
}

const struct attention_choice *choice_of(struct batch *batch, const struct step_choice *chosen, const struct span *span,
                                         struct attention_choice *out)
{
    /* Rows that see few enough positions see all: the same bits in less time. */
    if (chosen->buffer == BUFFER_NONE || batch->scratch.positions[span->first_row + span->rows - 1] < chosen->all)
        return NULL;
    *out = (struct attention_choice){.words = (const uint32_t *)(const void *)rows_of(batch, chosen->buffer),
                                     .stride = step_choice_words(chosen),
                                     .sets = chosen->sets,
                                     .most = chosen->most,
                                     .block = chosen->block};
    return out;
}
