/* Indexers (DeepSeek V3.2, 2025).
 *
 * Each position stores a short key in a plane of the cache. A token's few short queries are compared with the keys of
 * all earlier positions, and attention sees only the best ones. The choice stays in BUFFER_CHOSEN, because layers
 * without an indexer use the choice of the nearest earlier one. */
#include "steps/steps_private.h"

/* Heads of the indexer, as wide as a key. */
static struct step_head index_head(const struct builder *b, enum step_buffer buffer, uint32_t heads, unit_number norm)
{
    const struct model_parameters *p = b->p;
    return (struct step_head){.buffer = buffer,
                              .heads = heads,
                              .size = p->index_size,
                              .normed = p->index_size,
                              .turned = b->architecture->index_turns_last ? p->index_size - p->rotary : 0,
                              .norm = norm,
                              .norm_width = p->index_size};
}

static struct step *add_index(struct builder *b)
{
    const struct model_parameters *p = b->p;
    struct step *step = add_step(b, STEP_INDEX);
    step->index = (struct step_index){.query = BUFFER_INDEX_QUERY,
                                      .weights = BUFFER_NONE,
                                      .out = BUFFER_CHOSEN,
                                      .plane = INDEX_PLANE,
                                      .heads = p->index_heads,
                                      .size = p->index_size,
                                      .every = 1,
                                      .block = p->index_block,
                                      .local = p->index_local,
                                      .most = p->index_most};
    return step;
}

/* Norms without a mean, rope, and storing the keys. */
static void add_index_heads(struct builder *b, unit_number query_norm, unit_number key_norm)
{
    add_step(b, STEP_HEADS)->heads =
        (struct step_heads){.query = index_head(b, BUFFER_INDEX_QUERY, b->p->index_heads, query_norm),
                            .key = index_head(b, BUFFER_INDEX_KEY, 1, key_norm),
                            .turns = true,
                            .stores = true,
                            .plane = INDEX_PLANE,
                            .layout = b->architecture->index_rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX,
                            .rotary = b->p->rotary,
                            .epsilon = b->p->norm_epsilon};
}

/* Chooses positions for all heads: queries from the low-rank ones, a weight per head, a layer norm of the key. */
static void make_position_index(struct builder *b, enum step_buffer in, enum step_buffer low)
{
    const unit_number norm = unit_of(b, ROLE_INDEX_K_NORM);
    struct step *products = add_multiply(b, in, b->p->embedding);
    add_matrix(b, products, ROLE_INDEX_K_A, BUFFER_INDEX_KEY);
    add_matrix(b, products, ROLE_INDEX_WEIGHTS, BUFFER_INDEX_WEIGHT);
    add_matrix(b, add_multiply(b, low, b->p->q_rank), ROLE_INDEX_Q_B, BUFFER_INDEX_QUERY);
    if (norm != NO_UNIT) {
        struct step *step = add_groups_norm(b, BUFFER_INDEX_KEY, BUFFER_INDEX_KEY, norm, 1, b->p->index_size);
        step->norm.bias = unit_of(b, ROLE_INDEX_K_NORM_BIAS);
        step->norm.centred = true;
        step->norm.epsilon = b->p->index_epsilon;
    }
    add_index_heads(b, NO_UNIT, NO_UNIT);
    add_index(b)->index.weights = BUFFER_INDEX_WEIGHT;
}

/* Chooses blocks, separately for each kv head. */
static void make_block_index(struct builder *b, enum step_buffer in)
{
    struct step *products = add_multiply(b, in, b->p->embedding);
    add_matrix(b, products, ROLE_INDEX_Q, BUFFER_INDEX_QUERY);
    add_matrix(b, products, ROLE_INDEX_K, BUFFER_INDEX_KEY);
    add_index_heads(b, unit_of(b, ROLE_INDEX_Q_NORM), unit_of(b, ROLE_INDEX_K_NORM));
    add_index(b)->index.by_head = true;
}

/* Chooses blocks by the mean of their keys, and always the unfinished block. */
static void make_pooled_index(struct builder *b, enum step_buffer in)
{
    const struct model_parameters *p = b->p;
    const enum rope_layout layout = b->architecture->index_rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX;
    struct step *products = add_multiply(b, in, p->embedding);
    add_matrix(b, products, ROLE_INDEX_Q, BUFFER_INDEX_QUERY);
    add_matrix(b, products, ROLE_INDEX_K, BUFFER_INDEX_KEY);
    add_step(b, STEP_HEADS)->heads =
        (struct step_heads){.query = index_head(b, BUFFER_INDEX_QUERY, p->index_heads, unit_of(b, ROLE_INDEX_Q_NORM)),
                            .key = {.buffer = BUFFER_NONE, .norm = NO_UNIT},
                            .turns = true,
                            .layout = layout,
                            .rotary = p->rotary,
                            .epsilon = p->norm_epsilon};
    add_step(b, STEP_POOL)->pool = (struct step_pool){.in = BUFFER_INDEX_KEY,
                                                      .out = BUFFER_INDEX_WEIGHT,
                                                      .plane = INDEX_PLANE,
                                                      .every = b->layer->index_every,
                                                      .size = p->index_size,
                                                      .rotary = p->rotary,
                                                      .norm = unit_of(b, ROLE_INDEX_K_NORM),
                                                      .layout = layout,
                                                      .epsilon = p->index_epsilon};
    struct step *index = add_index(b);
    index->index.every = b->layer->index_every;
    index->index.most = p->index_most / b->layer->index_every;
    index->index.tail = true;
}

void make_index(struct builder *b, enum step_buffer in, enum step_buffer low)
{
    if (!b->layer->indexed)
        return;
    if (b->architecture->index == INDEX_BLOCKS)
        make_block_index(b, in);
    else if (b->architecture->index == INDEX_POOLED)
        make_pooled_index(b, in);
    else
        make_position_index(b, in, low);
}

struct step_choice choice_of_layer(const struct builder *b)
{
    const struct model_parameters *p = b->p;
    if (!b->layer->chosen)
        return (struct step_choice){.buffer = BUFFER_NONE};
    if (b->architecture->index == INDEX_POOLED)
        return (struct step_choice){.buffer = BUFFER_CHOSEN,
                                    .sets = 1,
                                    .most = p->index_most / b->layer->index_every + 1,
                                    .block = b->layer->index_every,
                                    .all = p->index_most + b->layer->index_every - 1};
    uint64_t all = (uint64_t)p->index_most * p->index_block;
    return (struct step_choice){.buffer = BUFFER_CHOSEN,
                                .sets = b->architecture->index == INDEX_BLOCKS ? p->index_heads : 1,
                                .most = p->index_most,
                                .block = p->index_block,
                                .all = (uint32_t)MIN(all, (uint64_t)UINT32_MAX)};
}
