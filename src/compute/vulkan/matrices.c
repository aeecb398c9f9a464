/* Translates kernels from NVIDIA's older extension for cooperative matrices to VK_KHR_cooperative_matrix. They are
 * compiled for the older one because shader compilers such as Debian 12's know no other (shaders/cooperative.glsl). In
 * the newer one, a matrix's type says which operand it is, which saves drivers a transposition of each second operand.
 * The two differ in a few instructions, which are replaced here. */
#include "compute/vulkan/gpu_private.h"

#include <string.h>

/* Numbers of the SPIR-V specification and of the two extensions. */
enum {
    HEADER_WORDS = 5,
    BOUND = 3,
    OP_EXTENSION = 10,
    OP_CAPABILITY = 17,
    OP_TYPE_INT = 21,
    OP_TYPE_FLOAT = 22,
    OP_CONSTANT_TRUE = 41,
    OP_CONSTANT_FALSE = 42,
    OP_CONSTANT = 43,
    CAPABILITY_NV = 5357,
    CAPABILITY_KHR = 6022,
    OP_TYPE_NV = 5358,
    OP_LOAD_NV = 5359,
    OP_STORE_NV = 5360,
    OP_MULTIPLY_NV = 5361,
    OP_LENGTH_NV = 5362,
    OP_TYPE_KHR = 4456,
    OP_LOAD_KHR = 4457,
    OP_STORE_KHR = 4458,
    OP_MULTIPLY_KHR = 4459,
};

static const char name_nv[28] = "SPV_NV_cooperative_matrix", name_khr[28] = "SPV_KHR_cooperative_matrix";

struct translation {
    uint32_t *out;
    size_t count;
    uint32_t numbers; /* the id of constant 0; the ids of 1 and 2 follow */
    uint32_t uint_type, float_type, row, column;
    bool declared;
};

static void put(struct translation *t, uint32_t op, const uint32_t *operands, size_t count)
{
    t->out[t->count++] = (uint32_t)(count + 1) << 16 | op;
    memcpy(t->out + t->count, operands, count * sizeof *operands);
    t->count += count;
}

/* Finds which operand a matrix is: sums are floats, and cooperative.glsl uses a separate constant for the columns of
 * second operands. */
static void put_type(struct translation *t, const uint32_t *words)
{
    if (!t->declared)
        for (uint32_t i = 0; i < 3; i++)
            put(t, OP_CONSTANT, (uint32_t[]){t->uint_type, t->numbers + i, i}, 3);
    t->declared = true;
    uint32_t use = words[2] == t->float_type ? 2 : words[5] != words[4];
    put(t, OP_TYPE_KHR, (uint32_t[]){words[1], words[2], words[3], words[4], words[4], t->numbers + use}, 6);
}

/* The first "before" operands of the old instruction end with the stride, and a boolean follows: columns are adjacent.
 * In the new instruction this is a number, and precedes the stride. */
static bool put_access(struct translation *t, uint32_t op, const uint32_t *words, uint32_t count, uint32_t before)
{
    uint32_t operands[16];
    if (count < before + 2 || count - 1 > COUNT_OF(operands) ||
        (words[before + 1] != t->row && words[before + 1] != t->column))
        return false;
    memcpy(operands, words + 1, (count - 1) * sizeof *operands);
    operands[before] = words[before];
    operands[before - 1] = t->numbers + (words[before + 1] == t->column);
    put(t, op, operands, count - 1);
    return true;
}

static bool translate(struct translation *t, const uint32_t *words, uint32_t count)
{
    switch (words[0] & 0xffff) {
    case OP_CAPABILITY:
        put(t, OP_CAPABILITY, &(uint32_t){words[1] == CAPABILITY_NV ? CAPABILITY_KHR : words[1]}, 1);
        return true;
    case OP_EXTENSION:
        memcpy(t->out + t->count, words, count * sizeof *words);
        if (count == 1 + sizeof name_nv / 4 && memcmp(words + 1, name_nv, sizeof name_nv) == 0)
            memcpy(t->out + t->count + 1, name_khr, sizeof name_khr);
        t->count += count;
        return true;
    case OP_TYPE_NV:
        if (count != 6)
            return false;
        put_type(t, words);
        return true;
    case OP_LOAD_NV:
        return put_access(t, OP_LOAD_KHR, words, count, 4);
    case OP_STORE_NV:
        return put_access(t, OP_STORE_KHR, words, count, 3);
    case OP_MULTIPLY_NV:
        put(t, OP_MULTIPLY_KHR, words + 1, count - 1);
        return true;
    case OP_LENGTH_NV:
        return false;
    case OP_TYPE_INT:
        if (words[2] == 32 && words[3] == 0)
            t->uint_type = words[1];
        break;
    case OP_TYPE_FLOAT:
        if (words[2] == 32)
            t->float_type = words[1];
        break;
    case OP_CONSTANT_TRUE:
        t->column = words[2];
        break;
    case OP_CONSTANT_FALSE:
        t->row = words[2];
        break;
    default:
        break;
    }
    memcpy(t->out + t->count, words, count * sizeof *words);
    t->count += count;
    return true;
}

hypura_status matrices_translate(const uint32_t *code, size_t bytes, uint32_t **out, size_t *out_bytes,
                                 hypura_error *error)
{
    size_t words = bytes / sizeof *code;
    struct translation t = {.numbers = code[BOUND], .count = HEADER_WORDS};
    /* Adds three constants, and a word for each of a few types. */
    hypura_status status = ALLOCATE(&t.out, words + words / 4 + 64, "a kernel with cooperative matrices", error);
    if (status)
        return status;
    memcpy(t.out, code, HEADER_WORDS * sizeof *code);
    t.out[BOUND] += 3;
    for (size_t at = HEADER_WORDS; at < words; at += code[at] >> 16) {
        if (code[at] >> 16 == 0 || code[at] >> 16 > words - at || !translate(&t, code + at, code[at] >> 16)) {
            memory_free(t.out);
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "GPU: a kernel uses cooperative matrices in an unknown form");
        }
    }
    *out = t.out;
    *out_bytes = t.count * sizeof *t.out;
    return HYPURA_OK;
}

bool matrices_used(const uint32_t *code, size_t bytes)
{
    for (size_t at = HEADER_WORDS; at < bytes / sizeof *code && (code[at] & 0xffff) == OP_CAPABILITY; at += 2)
        if (code[at + 1] == CAPABILITY_NV)
            return true;
    return false;
}
