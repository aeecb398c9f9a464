/* Compresses blocks of positions to rows of the cache, as commands. These rows then get their norm, rotation and place
 * as heads of keys do. */
#include "engine/gpu/pass.h"

uint32_t pass_find_blocks(const struct geometry *geometry, uint32_t out[PASS_BLOCKS])
{
    const struct step_list all = steps_all(geometry->steps);
    uint32_t count = 0;
    for (size_t i = 0; i < all.count; i++) {
        const struct step *step = &all.steps[i];
        const uint32_t every = step->kind == STEP_COMPRESS ? step->compress.every
                               : step->kind == STEP_POOL   ? step->pool.every
                                                           : 0;
        uint32_t known = 0;
        while (known < count && out[known] != every)
            known++;
        if (every && known == count && count++ < PASS_BLOCKS)
            out[known] = every;
        if (count > PASS_BLOCKS)
            return count;
    }
    return count;
}

uint32_t pass_fill_blocks(struct batch *batch, uint32_t every, float *angles)
{
    const struct scratch *s = &batch->scratch;
    const uint32_t rotary = model_parameters(batch->open->model)->rotary;
    uint32_t count = 0;
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const uint32_t position = s->positions[s->spans[i].first_row];
        const uint32_t own = (uint32_t)compressed_rows(position, s->spans[i].rows, every);
        for (uint32_t b = 0; b < own && angles; b++) {
            const uint32_t first = (position / every + b) * every;
            rope_table_fill(&batch->open->rope, compute_pool(batch->compute), angles + (size_t)(count + b) * rotary,
                            &first, 1);
        }
        count += own;
    }
    return count;
}

/* What STEP_COMPRESS and STEP_POOL have in common. */
struct blocks {
    const struct step *step;
    enum step_buffer values, gates, out;
    unit_number bias, norm;
    uint32_t size, every, plane, turned, rotary;
    bool overlaps, pools;
    enum rope_layout layout;
    float epsilon;
};

/* Finds where the blocks that end in this batch go, per sequence: after its ring, or to a plane. Returns the number of
 * sequences that have some. */
static uint32_t place_blocks(const struct batch *batch, const struct blocks *b, struct gpu_sequence *out)
{
    const uint32_t layer = (uint32_t)b->step->layer;
    const struct gpu_sequence *all =
        b->plane ? pass_find_plane(batch, layer, b->plane) : pass_find_sequences(batch, layer);
    uint32_t count = 0, rows = 0;
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const uint32_t own = (uint32_t)compressed_rows(all[i].first_position, all[i].rows, b->every);
        if (own == 0)
            continue;
        out[count] = all[i];
        out[count].first_row = rows;
        out[count].rows = own;
        out[count++].first_position =
            all[i].first_position / b->every + (b->plane ? 0 : (uint32_t)batch->kv.layers[layer].ring);
        rows += own;
    }
    return count;
}

static void store_blocks(struct batch *batch, const struct blocks *b)
{
    struct gpu_pass *pass = batch->pass;
    const struct kv_layer *kv = &batch->kv.layers[b->step->layer];
    const uint32_t bytes = (uint32_t)(b->plane ? kv->planes[b->plane - 1].row_bytes : kv->key_position_bytes);
    struct gpu_sequence sequences[GPU_MAX_SEQUENCES];
    const uint32_t count = place_blocks(batch, b, sequences);
    uint32_t blocks[PASS_BLOCKS], which = 0;
    if (count == 0)
        return;
    pass_find_blocks(&batch->open->geometry, blocks);
    while (blocks[which] != b->every)
        which++;
    gpu_barrier(pass->gpu);
    gpu_heads(pass->gpu, &(struct gpu_heads){.key = pass->rows[b->out],
                                             .key_norm = pass_vector(batch, b->norm),
                                             .table = pass->block_rope[which],
                                             .cache = {pass->caches[b->step->layer], 0},
                                             .key_stride = b->size,
                                             .values_in_keys = true,
                                             .epsilon = b->epsilon,
                                             .layout = b->layout,
                                             .rotary = b->rotary,
                                             .turned_from = b->turned,
                                             .rows = sequences[count - 1].first_row + sequences[count - 1].rows,
                                             .kv_heads = 1,
                                             .key_size = b->size,
                                             .value_size = b->size,
                                             .type = b->plane ? kv_plane_type(batch->kv.type) : batch->kv.type,
                                             .key_position_bytes = bytes,
                                             .value_position_bytes = bytes,
                                             .sequences = sequences,
                                             .sequence_count = count});
}

static void record_blocks(struct batch *batch, const struct blocks *b)
{
    struct gpu_pass *pass = batch->pass;
    struct gpu_state_sequence sequences[GPU_MAX_SEQUENCES];
    uint32_t positions[GPU_MAX_SEQUENCES];
    pass_find_states(batch, b->step, sequences);
    for (uint32_t i = 0; i < batch->span_count; i++)
        positions[i] = batch->scratch.positions[sequences[i].first_row];
    gpu_compress(pass->gpu, &(struct gpu_compression){.values = pass->rows[b->values],
                                                      .gates = b->gates == BUFFER_NONE ? (struct gpu_range){0}
                                                                                       : pass->rows[b->gates],
                                                      .bias = pass_vector(batch, b->bias),
                                                      .out = pass->rows[b->out],
                                                      .states = {pass->caches[b->step->layer], 0},
                                                      .rows = (uint32_t)batch->rows,
                                                      .size = b->size,
                                                      .every = b->every,
                                                      .overlaps = b->overlaps,
                                                      .pools = b->pools,
                                                      .sequences = sequences,
                                                      .positions = positions,
                                                      .sequence_count = batch->span_count});
    store_blocks(batch, b);
}

hypura_status pass_record_compress(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct step_compress *c = &step->compress;
    (void)error;
    record_blocks(batch, &(struct blocks){.step = step,
                                          .values = c->values,
                                          .gates = c->gates,
                                          .out = c->out,
                                          .bias = c->bias,
                                          .norm = c->norm,
                                          .size = c->size,
                                          .every = c->every,
                                          .plane = c->plane,
                                          .turned = c->turned,
                                          .rotary = c->rotary,
                                          .overlaps = c->overlaps,
                                          .layout = c->layout,
                                          .epsilon = c->epsilon});
    return HYPURA_OK;
}

hypura_status pass_record_pool(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct step_pool *p = &step->pool;
    (void)error;
    record_blocks(batch, &(struct blocks){.step = step,
                                          .values = p->in,
                                          .gates = BUFFER_NONE,
                                          .out = p->out,
                                          .bias = NO_UNIT,
                                          .norm = p->norm,
                                          .size = p->size,
                                          .every = p->every,
                                          .plane = p->plane,
                                          .rotary = p->rotary,
                                          .pools = true,
                                          .layout = p->layout,
                                          .epsilon = p->epsilon});
    return HYPURA_OK;
}
