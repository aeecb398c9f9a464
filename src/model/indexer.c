/* Reads the metadata of indexers. */
#include "model/model_private.h"

#define MAX_CHOSEN (1u << 20)
#define MAX_INDEX_SIZE 1024u

hypura_status model_read_index(struct reader *reader, struct model_parameters *p, hypura_error *error)
{
    const struct architecture *a = reader->architecture;
    TRY(needed_number(reader, "attention.indexer.head_count", MAX_HEADS, &p->index_heads, error));
    TRY(needed_number(reader, "attention.indexer.key_length", MAX_WIDTH, &p->index_size, error));
    TRY(needed_number(reader, "attention.indexer.top_k", MAX_CHOSEN, &p->index_most, error));
    p->index_block = 1;
    if (a->index == INDEX_BLOCKS) {
        TRY(needed_number(reader, "attention.indexer.block_size", MAX_CHOSEN, &p->index_block, error));
        TRY(optional_number(reader, "attention.indexer.local_blocks", MAX_CHOSEN, &p->index_local, error));
    }
    p->index_epsilon = a->index_epsilon < 0.0f ? p->norm_epsilon : a->index_epsilon;
    if (p->rotary > p->index_size || p->index_size > MAX_INDEX_SIZE ||
        (uint64_t)p->index_heads * p->index_size > MAX_WIDTH)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: an indexer with %u heads of %u elements, %u of them rotary: expected heads of at most %u "
                         "elements, at least as many as rotary ones, and at most %u in all",
                         gguf_file_path(reader->file, 0), p->index_heads, p->index_size, p->rotary, MAX_INDEX_SIZE,
                         MAX_WIDTH);
    return HYPURA_OK;
}

hypura_status model_read_layer_index(struct model *model, struct reader *reader, uint32_t number, hypura_error *error)
{
    const struct architecture *a = model->architecture;
    const struct model_parameters *p = &model->parameters;
    struct model_layer *layer = &model->layers[number];
    uint32_t own = 1, dense = 0;
    if (a->index == INDEX_BLOCKS)
        TRY(optional_number(reader, "leading_dense_block_count", MAX_LAYERS, &dense, error));
    if (a->index == INDEX_NONE || number < dense || (a->index == INDEX_POOLED && layer->kind != LAYER_ATTENTION))
        return HYPURA_OK;
    if (a->index == INDEX_COMPRESSED) {
        layer->indexed = layer->chosen = layer->compress == COMPRESS_OVERLAPPING;
        return HYPURA_OK;
    }
    if (a->index == INDEX_POOLED) {
        TRY(layer_number(reader, "attention.compress_ratios", number, MAX_CHOSEN, &layer->index_every, error));
        if (layer->index_every == 1 || (layer->index_every && p->index_most % layer->index_every != 0))
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "%s: the indexer of layer %u chooses %u positions by keys of %u positions each: expected "
                             "at least 2 per key, and a divisor",
                             gguf_file_path(reader->file, 0), number, p->index_most, layer->index_every);
        layer->indexed = layer->chosen = layer->index_every != 0;
        return HYPURA_OK;
    }
    if (a->index_shared)
        TRY(layer_number(reader, "attention.indexer.types", number, UINT32_MAX, &own, error));
    layer->indexed = own;
    layer->chosen = true;
    if (number == 0 && !own)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: layer 0 has no indexer ('%s'), and no layer before it could choose for it",
                         gguf_file_path(reader->file, 0), key(reader, "attention.indexer.types"));
    if (a->index == INDEX_BLOCKS && p->index_heads != layer->kv_heads)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: the indexer of layer %u has %u heads; one for each of its %u key heads is needed",
                         gguf_file_path(reader->file, 0), number, p->index_heads, layer->kv_heads);
    return HYPURA_OK;
}
