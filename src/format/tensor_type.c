#include "format/format.h"

#include <strings.h>

static const struct tensor_type_info types[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32] = {"F32", 1, 4},
    [TENSOR_F16] = {"F16", 1, 2},
    [TENSOR_Q4_0] = {"Q4_0", 32, 18},
    [TENSOR_Q4_1] = {"Q4_1", 32, 20},
    [TENSOR_Q5_0] = {"Q5_0", 32, 22},
    [TENSOR_Q5_1] = {"Q5_1", 32, 24},
    [TENSOR_Q8_0] = {"Q8_0", 32, 34},
    [TENSOR_Q8_1] = {"Q8_1", 32, 36},
    [TENSOR_Q2_K] = {"Q2_K", 256, 84},
    [TENSOR_Q3_K] = {"Q3_K", 256, 110},
    [TENSOR_Q4_K] = {"Q4_K", 256, 144},
    [TENSOR_Q5_K] = {"Q5_K", 256, 176},
    [TENSOR_Q6_K] = {"Q6_K", 256, 210},
    [TENSOR_Q8_K] = {"Q8_K", 256, 292},
    [TENSOR_IQ2_XXS] = {"IQ2_XXS", 256, 66},
    [TENSOR_IQ2_XS] = {"IQ2_XS", 256, 74},
    [TENSOR_IQ3_XXS] = {"IQ3_XXS", 256, 98},
    [TENSOR_IQ1_S] = {"IQ1_S", 256, 50},
    [TENSOR_IQ4_NL] = {"IQ4_NL", 32, 18},
    [TENSOR_IQ3_S] = {"IQ3_S", 256, 110},
    [TENSOR_IQ2_S] = {"IQ2_S", 256, 82},
    [TENSOR_IQ4_XS] = {"IQ4_XS", 256, 136},
    [TENSOR_I8] = {"I8", 1, 1},
    [TENSOR_I16] = {"I16", 1, 2},
    [TENSOR_I32] = {"I32", 1, 4},
    [TENSOR_I64] = {"I64", 1, 8},
    [TENSOR_F64] = {"F64", 1, 8},
    [TENSOR_IQ1_M] = {"IQ1_M", 256, 56},
    [TENSOR_BF16] = {"BF16", 1, 2},
    [TENSOR_TQ1_0] = {"TQ1_0", 256, 54},
    [TENSOR_TQ2_0] = {"TQ2_0", 256, 66},
    [TENSOR_MXFP4] = {"MXFP4", 32, 17},
    [TENSOR_NVFP4] = {"NVFP4", 64, 36},
    [TENSOR_Q1_0] = {"Q1_0", 128, 18},
    [TENSOR_Q2_0] = {"Q2_0", 64, 18},
};

const struct tensor_type_info *tensor_type_info(uint32_t type)
{
    return type < TENSOR_TYPE_COUNT && types[type].name ? &types[type] : NULL;
}

bool tensor_type_by_name(const char *name, enum tensor_type *type)
{
    for (uint32_t i = 0; i < TENSOR_TYPE_COUNT; i++) {
        if (types[i].name && strcasecmp(types[i].name, name) == 0) {
            *type = (enum tensor_type)i;
            return true;
        }
    }
    return false;
}

bool tensor_row_bytes(enum tensor_type type, uint64_t elements, uint64_t *bytes)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    uint64_t product;
    if (!info || elements % info->block_size ||
        __builtin_mul_overflow(elements / info->block_size, (uint64_t)info->block_bytes, &product))
        return false;
    *bytes = product;
    return true;
}
