/* The types of a synthetic model's matrices: by type name, by the matrix's purpose, and by the length of its rows. */
#include "tools/synth_private.h"

#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    enum tensor_type base;
    uint32_t number;
} mixtures[] = {{"Q4_K_M", TENSOR_Q4_K, 15}, {"Q5_K_M", TENSOR_Q5_K, 17}};

/* general.file_type of models whose matrices all have the same type (llama_ftype). */
static const struct {
    enum tensor_type type;
    uint32_t number;
} file_types[] = {{TENSOR_F32, 0},      {TENSOR_F16, 1},     {TENSOR_Q4_0, 2},     {TENSOR_Q4_1, 3},
                  {TENSOR_Q8_0, 7},     {TENSOR_Q5_0, 8},    {TENSOR_Q5_1, 9},     {TENSOR_Q2_K, 10},
                  {TENSOR_Q3_K, 11},    {TENSOR_Q4_K, 14},   {TENSOR_Q5_K, 16},    {TENSOR_Q6_K, 18},
                  {TENSOR_IQ2_XXS, 19}, {TENSOR_IQ2_XS, 20}, {TENSOR_IQ3_XXS, 23}, {TENSOR_IQ1_S, 24},
                  {TENSOR_IQ4_NL, 25},  {TENSOR_IQ3_S, 26},  {TENSOR_IQ2_S, 28},   {TENSOR_IQ4_XS, 30},
                  {TENSOR_IQ1_M, 31},   {TENSOR_BF16, 32},   {TENSOR_TQ1_0, 36},   {TENSOR_TQ2_0, 37},
                  {TENSOR_MXFP4, 38},   {TENSOR_NVFP4, 39}};

hypura_status synth_type_names(struct buffer *out, hypura_error *error)
{
    for (size_t i = 0; i < COUNT_OF(mixtures); i++)
        buffer_append_format(out, "%s%s", out->size ? ", " : "", mixtures[i].name);
    for (size_t i = 0; i < COUNT_OF(file_types); i++)
        buffer_append_format(out, ", %s", tensor_type_info(file_types[i].type)->name);
    return out->failed ? error_set(error, HYPURA_ERROR_MEMORY, "no memory for the names of types") : HYPURA_OK;
}

hypura_status synth_type_parse(struct synth_type *out, const char *name, hypura_error *error)
{
    for (size_t i = 0; i < COUNT_OF(mixtures); i++) {
        if (strcasecmp(mixtures[i].name, name) == 0) {
            *out = (struct synth_type){mixtures[i].base, true, mixtures[i].number};
            return HYPURA_OK;
        }
    }
    enum tensor_type type;
    for (size_t i = 0; i < COUNT_OF(file_types) && tensor_type_by_name(name, &type); i++) {
        if (file_types[i].type == type) {
            *out = (struct synth_type){type, false, file_types[i].number};
            return HYPURA_OK;
        }
    }
    struct buffer names = {0};
    hypura_status status = synth_type_names(&names, error);
    if (!status)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a supported type; expected one of %s", name,
                           names.data);
    buffer_free(&names);
    return status;
}

/* llama-quantize gives more bits to the first and last eighth of the layers, and to every third in between. */
static bool more_bits(uint32_t layer, uint32_t layers)
{
    return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

static enum tensor_type mixture_type(const struct synth_type *type, const struct synth_geometry *geometry,
                                     enum synth_role role, uint32_t layer)
{
    bool more = more_bits(layer, geometry->layers);
    switch (role) {
    case MATRIX_OUTPUT:
        return TENSOR_Q6_K;
    case MATRIX_K:
        return geometry->experts == 8 ? TENSOR_Q8_0 : type->base;
    case MATRIX_V:
        if (geometry->experts == 8)
            return TENSOR_Q8_0;
        if (more)
            return TENSOR_Q6_K;
        /* In 70B models, the value matrix is an eighth of the query matrix, so more bits cost little. */
        return geometry->layers == 80 && geometry->heads == 8 * geometry->kv_heads ? TENSOR_Q5_K : type->base;
    case MATRIX_O:
        return geometry->experts == 8 && type->base == TENSOR_Q4_K ? TENSOR_Q5_K : type->base;
    case MATRIX_DOWN:
        return more ? TENSOR_Q6_K : type->base;
    default:
        return type->base;
    }
}

/* Returns the type that llama-quantize uses if the rows do not fill whole blocks. */
static enum tensor_type fitting_type(enum tensor_type type, uint64_t columns)
{
    if (columns % tensor_type_info(type)->block_size == 0)
        return type;
    switch (type) {
    case TENSOR_Q4_K:
        return TENSOR_Q5_0;
    case TENSOR_Q5_K:
        return TENSOR_Q5_1;
    case TENSOR_Q6_K:
        return TENSOR_Q8_0;
    case TENSOR_TQ1_0:
    case TENSOR_TQ2_0:
        return TENSOR_Q4_0;
    default:
        return TENSOR_IQ4_NL;
    }
}

enum tensor_type synth_role_type(const struct synth_list *list, enum synth_role role, uint32_t layer, uint64_t columns)
{
    const struct synth_geometry *geometry = &list->options.geometry;
    enum tensor_type type = list->type.base;
    bool expert = geometry->experts && (role == MATRIX_GATE_UP || role == MATRIX_DOWN);
    if (list->type.mixture)
        type = mixture_type(&list->type, geometry, role, layer);
    else if (type == TENSOR_MXFP4 && geometry->experts && !expert)
        type = TENSOR_Q8_0; /* only experts are published in MXFP4 */
    else if ((role == MATRIX_EMBEDDING || role == MATRIX_OUTPUT) && !synth_tail_supported(type))
        type = TENSOR_Q4_K; /* published models keep these two at 4 bits or more */
    return fitting_type(type, columns);
}

enum tensor_type synth_matrix_type(const struct synth_list *list, const char *name, uint64_t columns)
{
    enum synth_role role = strstr(name, "down_exps")                ? MATRIX_DOWN
                           : strstr(name, "_exps")                  ? MATRIX_GATE_UP
                           : strcmp(name, "token_embd.weight") == 0 ? MATRIX_EMBEDDING
                           : strcmp(name, "output.weight") == 0     ? MATRIX_OUTPUT
                                                                    : MATRIX_Q;
    enum tensor_type type = synth_role_type(list, role, list->options.geometry.layers / 2, columns);
    /* Small types are for experts; the rest of such a model hardly counts. */
    return columns % tensor_type_info(type)->block_size ? TENSOR_F16 : type;
}
