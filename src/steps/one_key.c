/* Attention whose cache has one row per position, the key and the value of all heads (DeepSeek V4, 2026).
 *
 * Queries are of low rank. A head sees a window of rows, and compressed rows, each of which represents a block of
 * positions: all of them, or, if blocks are short and overlap, those that an indexer chooses by keys that are
 * compressed in the same way. Values carry the rope of their position, so a head's output is rotated back. The output
 * projection has one matrix per group of heads, and then one for all groups. */
#include "steps/steps_private.h"

static struct step_head part_head(enum step_buffer buffer, uint32_t heads, uint32_t size, uint32_t rotary)
{
    return (struct step_head){.buffer = buffer, .heads = heads, .size = size, .turned = size - rotary, .norm = NO_UNIT};
}

static struct step_heads turned_heads(const struct builder *b)
{
    return (struct step_heads){.query = {.buffer = BUFFER_NONE, .norm = NO_UNIT},
                               .key = {.buffer = BUFFER_NONE, .norm = NO_UNIT},
                               .turns = true,
                               .local = b->layer->rope_local,
                               .layout = b->architecture->rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX,
                               .rotary = b->p->rotary,
                               .epsilon = b->p->norm_epsilon};
}

static void compress(struct builder *b, enum step_buffer values, uint32_t size, unit_number bias, unit_number norm,
                     uint32_t plane)
{
    add_step(b, STEP_COMPRESS)->compress =
        (struct step_compress){.values = values,
                               .gates = BUFFER_RAW,
                               .out = BUFFER_VALUE,
                               .bias = bias,
                               .norm = norm,
                               .size = size,
                               .every = b->layer->compress,
                               .overlaps = b->layer->compress == COMPRESS_OVERLAPPING,
                               .plane = plane,
                               .turned = size - b->p->rotary,
                               .rotary = b->p->rotary,
                               .layout = b->architecture->rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX,
                               .epsilon = b->p->norm_epsilon};
}

static void make_search(struct builder *b, enum step_buffer in)
{
    const struct model_parameters *p = b->p;
    struct step *products = add_multiply(b, in, p->embedding);
    add_matrix(b, products, ROLE_INDEX_COMPRESS_KV, BUFFER_INDEX_KEY);
    add_matrix(b, products, ROLE_INDEX_COMPRESS_GATE, BUFFER_RAW);
    add_matrix(b, products, ROLE_INDEX_WEIGHTS, BUFFER_INDEX_WEIGHT);
    add_matrix(b, add_multiply(b, BUFFER_ATTENDED, p->q_rank), ROLE_INDEX_Q_B, BUFFER_INDEX_QUERY);
    compress(b, BUFFER_INDEX_KEY, p->index_size, unit_of(b, ROLE_INDEX_COMPRESS_BIAS),
             unit_of(b, ROLE_INDEX_COMPRESS_NORM), INDEX_PLANE);
    struct step_heads queries = turned_heads(b);
    queries.query = part_head(BUFFER_INDEX_QUERY, p->index_heads, p->index_size, p->rotary);
    add_step(b, STEP_HEADS)->heads = queries;
    add_step(b, STEP_INDEX)->index = (struct step_index){.query = BUFFER_INDEX_QUERY,
                                                         .weights = BUFFER_INDEX_WEIGHT,
                                                         .out = BUFFER_CHOSEN,
                                                         .plane = INDEX_PLANE,
                                                         .heads = p->index_heads,
                                                         .size = p->index_size,
                                                         .every = b->layer->compress,
                                                         .block = 1,
                                                         .most = p->index_most};
}

void make_one_key_attention(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    const struct model_layer *layer = b->layer;
    const uint32_t heads = layer->heads, size = p->key_size;
    struct step *products = add_multiply(b, in, p->embedding);
    add_matrix(b, products, ROLE_ATTENTION_Q_A, BUFFER_ATTENDED);
    add_matrix(b, products, ROLE_ATTENTION_KV, BUFFER_KEY);
    if (layer->compress) {
        add_matrix(b, products, ROLE_COMPRESS_KV, BUFFER_LATENTS);
        add_matrix(b, products, ROLE_COMPRESS_GATE, BUFFER_RAW);
    }

    struct step_heads keys = turned_heads(b);
    keys.key = part_head(BUFFER_KEY, 1, size, p->rotary);
    keys.key.norm = unit_of(b, ROLE_ATTENTION_KV_A_NORM);
    keys.key.normed = keys.key.norm_width = size;
    keys.value_size = size;
    keys.stores = true;
    add_step(b, STEP_HEADS)->heads = keys;
    if (layer->compress)
        compress(b, BUFFER_LATENTS, size, unit_of(b, ROLE_COMPRESS_BIAS), unit_of(b, ROLE_COMPRESS_NORM), 0);

    add_groups_norm(b, BUFFER_ATTENDED, BUFFER_ATTENDED, unit_of(b, ROLE_ATTENTION_Q_A_NORM), 1, p->q_rank);
    add_matrix(b, add_multiply(b, BUFFER_ATTENDED, p->q_rank), ROLE_ATTENTION_Q_B, BUFFER_QUERY);
    struct step_heads queries = turned_heads(b);
    queries.query = part_head(BUFFER_QUERY, heads, size, p->rotary);
    queries.plain_norm = true;
    add_step(b, STEP_HEADS)->heads = queries;
    if (layer->indexed)
        make_search(b, in);

    add_step(b, STEP_ATTEND)->attend =
        (struct step_attend){.query = BUFFER_QUERY,
                             .out = BUFFER_ATTENDED,
                             .chosen = {.buffer = layer->indexed ? BUFFER_CHOSEN : BUFFER_NONE,
                                        .sets = 1,
                                        .most = layer->indexed ? p->index_most : 0,
                                        .block = 1},
                             .source = (uint32_t)b->number,
                             .heads = heads,
                             .kv_heads = 1,
                             .key_size = size,
                             .value_size = size,
                             .scale = p->attention_scale,
                             .window = layer->window,
                             .compressed = layer->compress,
                             .sinks = unit_of(b, ROLE_ATTENTION_SINKS)};
    struct step_heads back = turned_heads(b);
    back.query = part_head(BUFFER_ATTENDED, heads, size, p->rotary);
    back.back = true;
    add_step(b, STEP_HEADS)->heads = back;

    struct step *groups = add_multiply(b, BUFFER_ATTENDED, heads * size / p->output_groups);
    add_matrix(b, groups, ROLE_ATTENTION_OUTPUT_A, BUFFER_RAW);
    groups->multiply.stride = heads * size;
    groups->multiply.groups = p->output_groups;
    add_matrix(b, add_multiply(b, BUFFER_RAW, p->output_groups * p->output_rank), ROLE_ATTENTION_OUTPUT_B, out);
}
