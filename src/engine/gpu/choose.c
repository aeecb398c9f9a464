/* The search for positions worth attention, and attention to only those, as commands. */
#include "engine/gpu/pass.h"

/* Scores of this size keep a device busy. */
#define SCORE_BYTES ((uint64_t)32 << 20)

static size_t row_words(const struct step_index *x)
{
    return step_choice_words(&(struct step_choice){.sets = x->by_head ? x->heads : 1, .most = x->most + x->tail});
}

uint64_t pass_score_bytes(const struct geometry *g, uint32_t chunk, uint32_t positions)
{
    struct step_list all = steps_all(g->steps);
    uint64_t most = 0;
    for (size_t i = 0; i < all.count; i++) {
        const struct step_index *x = &all.steps[i].index;
        if (all.steps[i].kind != STEP_INDEX)
            continue;
        uint64_t row = gpu_index_score_bytes(x->by_head ? x->heads : 1, positions / x->every);
        most = MAX(most, MAX(row, MIN(chunk * row, SCORE_BYTES)));
    }
    return most;
}

hypura_status pass_record_index(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_index *x = &step->index;
    const struct kv_plane *plane = &batch->kv.layers[step->layer].planes[x->plane - 1];
    (void)error;
    gpu_index(pass->gpu,
              &(struct gpu_index){.query = pass->rows[x->query],
                                  .weights = x->weights == BUFFER_NONE ? (struct gpu_range){0} : pass->rows[x->weights],
                                  .cache = {pass->caches[step->layer], 0},
                                  .words = pass->rows[x->out],
                                  .scores = pass->scores,
                                  .score_bytes = pass->score_bytes,
                                  .rows = (uint32_t)batch->rows,
                                  .heads = x->heads,
                                  .size = x->size,
                                  .by_head = x->by_head,
                                  .tail = x->tail,
                                  .every = x->every,
                                  .block = x->block,
                                  .local = x->local,
                                  .most = x->most,
                                  .row_words = (uint32_t)row_words(x),
                                  .type = kv_plane_type(batch->kv.type),
                                  .key_position_bytes = (uint32_t)plane->row_bytes,
                                  .sequences = pass_find_plane(batch, (uint32_t)step->layer, x->plane),
                                  .sequence_count = batch->span_count});
    return HYPURA_OK;
}

/* Whether some row chose fewer positions than it could see. */
static bool any_chose(const struct step_choice *chosen, const struct gpu_attention *attention)
{
    for (uint32_t i = 0; i < attention->sequence_count; i++) {
        const struct gpu_sequence *s = &attention->sequences[i];
        if (s->first_position + s->rows > chosen->all)
            return true;
    }
    return false;
}

void pass_attend_compressed(struct batch *batch, const struct step_attend *attend,
                            const struct gpu_attention *attention)
{
    struct gpu_pass *pass = batch->pass;
    const bool chosen = attend->chosen.buffer != BUFFER_NONE;
    gpu_attend_chosen(pass->gpu, attention,
                      &(struct gpu_choice){.words = chosen ? pass->rows[attend->chosen.buffer] : (struct gpu_range){0},
                                           .sets = 1,
                                           .most = attend->chosen.most,
                                           .block = 1,
                                           .ring = (uint32_t)batch->kv.layers[attend->source].ring,
                                           .window = attend->window,
                                           .every = attend->compressed});
}

bool pass_attend_chosen(struct batch *batch, const struct step_choice *chosen, uint32_t first_row,
                        const struct gpu_attention *attention)
{
    struct gpu_pass *pass = batch->pass;
    if (chosen->buffer == BUFFER_NONE || !any_chose(chosen, attention))
        return false;
    gpu_attend_chosen(pass->gpu, attention,
                      &(struct gpu_choice){.words = range_at(pass->rows[chosen->buffer],
                                                             (uint64_t)first_row * step_choice_words(chosen)),
                                           .sets = chosen->sets,
                                           .most = chosen->most,
                                           .block = chosen->block});
    return true;
}
