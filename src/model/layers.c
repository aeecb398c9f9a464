/* Reads each layer's kind, heads, windows, positions and widths. */
#include "model/model_private.h"

/* Whether a layer slides its window: as the file says layer by layer, or in the architecture's pattern. */
static hypura_status layer_slides(struct reader *reader, uint32_t layer, bool *out, hypura_error *error)
{
    const struct architecture *a = reader->architecture;
    const struct gguf_value *value = gguf_find(reader->file, key(reader, "attention.sliding_window_pattern"));
    *out = true;
    if (a->window_pattern == WINDOWS_EVERYWHERE)
        return HYPURA_OK;
    int64_t slides = 0;
    if (value && value->type == GGUF_ARRAY ? !gguf_element_int64(value, layer, &slides)
                                           : a->window_pattern == WINDOWS_LISTED)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' does not say whether layer %u has a window",
                         gguf_file_path(reader->file, 0), reader->key, layer);
    *out = slides != 0;
    if (value && value->type == GGUF_ARRAY)
        return HYPURA_OK;
    uint32_t pattern = a->window_pattern;
    gguf_get_uint32(reader->file, reader->key, &pattern);
    *out = pattern && layer % pattern != (a->window_first ? 0 : pattern - 1);
    return HYPURA_OK;
}

/* The window of layers that have one; 0: none has. */
static hypura_status read_window(struct reader *reader, const struct model_parameters *p, uint32_t *out,
                                 hypura_error *error)
{
    const struct architecture *a = reader->architecture;
    bool fixed = a->flags & ARCHITECTURE_WINDOW_FIXED;
    *out = 0;
    if (a->window_pattern == 0 || (a->window_layers && a->window_layers != p->layers))
        return HYPURA_OK;
    *out = fixed ? 0 : a->window;
    TRY(optional_number(reader, "attention.sliding_window", UINT32_MAX, out, error));
    if (fixed && *out)
        *out = a->window;
    return HYPURA_OK;
}

/* Whether a layer has positions. */
static bool layer_turns(const struct architecture *a, const struct model_layer *layer, uint32_t number, bool windows,
                        uint32_t leading)
{
    bool left_out = a->no_rope_interval && (number + 1) % a->no_rope_interval == 0;
    bool leads = (a->flags & ARCHITECTURE_LEADING_TURN) && number < leading;
    bool wide = windows && (a->flags & ARCHITECTURE_WINDOWS_TURN) && !layer->window && !leads;
    return a->rope != ROPE_STYLE_NONE && !left_out && !wide;
}

/* The last layers may share the keys and values of the last earlier layer with the same window (Gemma 4). */
static hypura_status share_keys(struct model *model, struct reader *reader, uint32_t number, uint32_t first_shared,
                                hypura_error *error)
{
    struct model_layer *layer = &model->layers[number];
    if (number < first_shared || number >= model->parameters.layers)
        return HYPURA_OK;
    for (uint32_t i = first_shared; i-- > 0;) {
        const struct model_layer *source = &model->layers[i];
        if ((source->window != 0) != (layer->window != 0))
            continue;
        if (source->kv_heads != layer->kv_heads)
            break;
        layer->kv_source = i;
        return HYPURA_OK;
    }
    return error_set(error, HYPURA_ERROR_FORMAT,
                     "%s: layer %u shares keys, but no layer before layer %u has keys of this kind",
                     gguf_file_path(reader->file, 0), number, first_shared);
}

/* The number of layers at the end that compute no keys. Some files store it as a float. */
static hypura_status read_shared(struct reader *reader, uint32_t layers, uint32_t *out, hypura_error *error)
{
    const uint32_t own = reader->architecture->own_key_layers;
    float number = 0.0f;
    *out = own && layers > own ? layers - own : 0;
    const struct gguf_value *value = gguf_find(reader->file, key(reader, "attention.shared_kv_layers"));
    if (!value || (value->type != GGUF_FLOAT32 && value->type != GGUF_FLOAT64))
        return optional_number(reader, "attention.shared_kv_layers", layers, out, error);
    if (!has_float(reader, "attention.shared_kv_layers", &number))
        return HYPURA_OK; /* reported with the other keys */
    if (!(number >= 0.0f && number <= (float)layers))
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is %g; expected at most %u",
                         gguf_file_path(reader->file, 0), reader->key, (double)number, layers);
    *out = (uint32_t)number;
    return HYPURA_OK;
}

/* In the first layers of Gemma 3n, only the greatest twentieth of the gates stays open. */
#define SPARSE_LAYERS 10u
#define SPARSITY 1.6448533535003662f

/* Smaller limits mean no limit. */
#define LEAST_LIMIT 1e-6f

static hypura_status read_limits(const struct architecture *a, struct reader *reader, uint32_t number,
                                 struct model_layer *layer, hypura_error *error)
{
    TRY(layer_float(reader, "swiglu_clamp_exp", number, &layer->expert_limit, error));
    if (a->flags & ARCHITECTURE_SHARED_CLAMPED) {
        layer->shared_limit = layer->expert_limit;
        TRY(layer_float(reader, "swiglu_clamp_shexp", number, &layer->shared_limit, error));
    }
    if (a->activation == FFN_SILU_CAPPED)
        TRY(layer_float(reader, "swiglu_clamp_shexp", number, &layer->shared_limit, error));
    layer->expert_limit = layer->expert_limit > LEAST_LIMIT ? layer->expert_limit : 0.0f;
    layer->shared_limit = layer->shared_limit > LEAST_LIMIT ? layer->shared_limit : 0.0f;
    layer->dense_limit = a->activation == FFN_SILU_CAPPED ? layer->shared_limit : 0.0f;
    return HYPURA_OK;
}

#define MAX_COMPRESS 65536u

/* A layer with one row as key and value: its window, and its compressed rows. Without compressed rows, it uses the
 * usual rope base. */
static hypura_status read_one_key(const struct model *model, struct reader *reader, uint32_t number,
                                  hypura_error *error)
{
    struct model_layer *layer = &model->layers[number];
    TRY(needed_number(reader, "attention.sliding_window", UINT32_MAX, &layer->window, error));
    TRY(layer_number(reader, "attention.compress_ratios", number, UINT32_MAX, &layer->compress, error));
    layer->rope_local = layer->compress == 0;
    layer->recurrent = layer->compress != 0; /* the state of an unfinished block */
    if (layer->kv_heads != 1 || layer->compress > MAX_COMPRESS)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: layer %u has %u key heads and compresses %u positions to one; expected one key head and "
                         "at most %u positions",
                         gguf_file_path(reader->file, 0), number, layer->kv_heads, layer->compress, MAX_COMPRESS);
    if (layer->heads % model->parameters.output_groups != 0)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: %u heads of layer %u are not a multiple of %u output groups",
                         gguf_file_path(reader->file, 0), layer->heads, number, model->parameters.output_groups);
    return HYPURA_OK;
}

hypura_status model_read_layers(struct model *model, struct reader *reader, hypura_error *error)
{
    const struct architecture *a = model->architecture;
    const struct model_parameters *p = &model->parameters;
    uint32_t window = 0, interval = 4, shared = 0, leading = 0;
    uint32_t window_key = p->key_size, window_value = p->value_size;
    bool turns = true;
    if (a->flags & ARCHITECTURE_ROPE_FINETUNED)
        gguf_get_bool(reader->file, key(reader, "rope.scaling.finetuned"), &turns);
    TRY(read_window(reader, p, &window, error));
    TRY(optional_number(reader, "leading_dense_block_count", MAX_LAYERS, &leading, error));
    if (window) {
        TRY(optional_number(reader, "attention.key_length_swa", MAX_WIDTH, &window_key, error));
        TRY(optional_number(reader, "attention.value_length_swa", MAX_WIDTH, &window_value, error));
    }
    TRY(read_shared(reader, p->layers, &shared, error));
    if (a->flags & ARCHITECTURE_RECURRENT)
        TRY(needed_number(reader, "full_attention_interval", MAX_LAYERS, &interval, error));
    for (uint32_t i = 0; i < all_layers(model); i++) {
        struct model_layer *layer = &model->layers[i];
        TRY(layer_number(reader, "attention.head_count", i, MAX_HEADS, &layer->heads, error));
        layer->kv_heads = layer->heads;
        TRY(layer_number(reader, "attention.head_count_kv", i, MAX_HEADS, &layer->kv_heads, error));
        TRY(layer_number(reader, "feed_forward_length", i, MAX_WIDTH, &layer->feed_forward, error));
        TRY(read_limits(a, reader, i, layer, error));
        if (a->flags & ARCHITECTURE_DENSE_SQUARE)
            layer->feed_forward = p->embedding;
        if (a->sides && i < SPARSE_LAYERS)
            layer->sparsity = SPARSITY;
        if (a->one_key)
            layer->kind = LAYER_ONE_KEY;
        else if ((a->flags & ARCHITECTURE_ONE_BRANCH) && layer->feed_forward)
            layer->kind = LAYER_NO_MIXER;
        else if (a->keyless != LAYER_ATTENTION && layer->kv_heads == 0)
            layer->kind = a->keyless;
        else if (a->flags & ARCHITECTURE_LATENT)
            layer->kind = LAYER_LATENT;
        else if ((a->flags & ARCHITECTURE_RECURRENT) && (i + 1) % interval != 0 && i < p->layers)
            layer->kind = LAYER_RECURRENT;
        else
            layer->kind = LAYER_ATTENTION;
        layer->scans = a->flags & ARCHITECTURE_SCAN_BESIDE;
        layer->recurrent = layer->scans || (layer->kind > LAYER_LATENT && layer->kind != LAYER_NO_MIXER);
        layer->no_feed_forward = (a->flags & ARCHITECTURE_ONE_BRANCH) && layer->kind != LAYER_NO_MIXER;
        bool slides = false;
        if (window && layer->kind <= LAYER_LATENT)
            TRY(layer_slides(reader, i, &slides, error));
        layer->window = slides ? window : 0;
        layer->rope = turns && layer_turns(a, layer, i, window, leading);
        bool chunked = a->flags & ARCHITECTURE_CHUNKED;
        layer->chunk = chunked && layer->rope ? CHUNK_OF_ATTENTION : 0;
        layer->sharpened = p->attention_temperature_scale != 0.0f && !(chunked && layer->rope);
        layer->rope_local = layer->window && (a->flags & (ARCHITECTURE_LOCAL_ROPE | ARCHITECTURE_LOCAL_ROPE_SCALED));
        if (layer->kind == LAYER_ONE_KEY)
            TRY(read_one_key(model, reader, i, error));
        layer->key_size = layer->window ? window_key : p->key_size;
        layer->value_size = layer->window ? window_value : p->value_size;
        if (layer->window && (a->flags & ARCHITECTURE_ENCODER)) { /* half of it on each side; all positions stay */
            layer->around = layer->window / 2 + 1;
            layer->window = 0;
        }
        layer->kv_source = i;
        layer->ngrams = p->ngrams.rows && model_has_ngrams(reader, i);
        layer->moe = model->layer_tensors[i][ROLE_ROUTER] != NULL;
        if (layer->moe && p->experts == 0)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: layer %u has a router, but '%s' is missing",
                             gguf_file_path(reader->file, 0), i, key(reader, "expert_count"));
        if (layer->kind <= LAYER_LATENT && (layer->heads == 0 || layer->kv_heads == 0))
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "%s: layer %u has %u heads and %u key heads; expected at least one of both",
                             gguf_file_path(reader->file, 0), i, layer->heads, layer->kv_heads);
        if (layer->kind == LAYER_ATTENTION && layer->heads % layer->kv_heads != 0)
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "%s: %u heads of layer %u are not a multiple of its %u key heads",
                             gguf_file_path(reader->file, 0), layer->heads, i, layer->kv_heads);
        TRY(model_read_layer_index(model, reader, i, error));
        TRY(share_keys(model, reader, i, p->layers - shared, error));
        uint32_t rotary = layer->rope_local ? p->rotary_local : p->rotary;
        if (layer->kind == LAYER_ATTENTION && layer->rope &&
            (rotary > layer->key_size || rotary % 2 != 0 || layer->value_size == 0))
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "%s: layer %u has heads with keys of %u, values of %u and %u rotary elements",
                             gguf_file_path(reader->file, 0), i, layer->key_size, layer->value_size, rotary);
        if (!layer->moe && layer->feed_forward == 0 && !layer->no_feed_forward)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is missing or zero for layer %u",
                             gguf_file_path(reader->file, 0), key(reader, "feed_forward_length"), i);
    }
    return HYPURA_OK;
}
