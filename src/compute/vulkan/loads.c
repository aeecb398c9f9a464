/* Adapts kernels to Mesa's lavapipe, as of 26.2. If a whole subgroup loads from one address, lavapipe loads even if no
 * invocation is active: in a short branch that none takes, and once more after the last iteration of a loop. An absent
 * address, or one that was itself loaded that way, then ends the process. If each invocation has its own address,
 * lavapipe checks first. So a 0 is added to the address of every load, computed from the invocation's number in a way
 * that no compiler simplifies. */
#include "compute/vulkan/gpu_private.h"

#include <string.h>

/* Numbers of the SPIR-V specification. */
enum {
    HEADER_WORDS = 5,
    BOUND = 3,
    OP_ENTRY_POINT = 15,
    OP_CAPABILITY = 17,
    OP_TYPE_INT = 21,
    OP_TYPE_POINTER = 32,
    OP_CONSTANT = 43,
    OP_FUNCTION = 54,
    OP_FUNCTION_PARAMETER = 55,
    OP_VARIABLE = 59,
    OP_LOAD = 61,
    OP_DECORATE = 71,
    OP_U_CONVERT = 113,
    OP_POINTER_TO_U = 117,
    OP_U_TO_POINTER = 120,
    OP_ADD = 128,
    OP_MULTIPLY = 132,
    OP_AND = 199,
    OP_LABEL = 248,
    CAPABILITY_INT64 = 11,
    DECORATION_BUILT_IN = 11,
    LOCAL_INVOCATION_INDEX = 29,
    STORAGE_INPUT = 1,
    STORAGE_ADDRESS = 5349, /* PhysicalStorageBuffer */
};

#define IS_TYPE UINT32_MAX

struct change {
    uint32_t *out;
    size_t count;
    uint32_t *addresses; /* for each id of the code: its type if it is an address; IS_TYPE: the id is such a type */
    uint32_t had, ids;   /* the number of ids, before and with those that were added */
    uint32_t uint_type, ulong_type, input_type, index; /* ids; 0: the code has none */
    bool has_index;                                    /* the code has the invocation's number in its work group */
    bool in_types, in_functions;                       /* the section reached: decorations and types, functions */
    bool zero_due;                                     /* this function has not computed its 0 yet */
    uint32_t one, zero;
    size_t loads, functions;
};

static void put(struct change *c, uint32_t op, const uint32_t *operands, size_t count)
{
    c->out[c->count++] = (uint32_t)(count + 1) << 16 | op;
    memcpy(c->out + c->count, operands, count * sizeof *operands);
    c->count += count;
}

static uint32_t put_unary(struct change *c, uint32_t op, uint32_t type, uint32_t a)
{
    put(c, op, (uint32_t[]){type, c->ids, a}, 3);
    return c->ids++;
}

static uint32_t put_binary(struct change *c, uint32_t op, uint32_t type, uint32_t a, uint32_t b)
{
    put(c, op, (uint32_t[]){type, c->ids, a, b}, 4);
    return c->ids++;
}

static uint32_t address_type(const struct change *c, uint32_t id)
{
    return id < c->had && c->addresses[id] != IS_TYPE ? c->addresses[id] : 0;
}

/* Finds existing declarations: types and built-in variables must not be declared twice. */
static void look(struct change *c, const uint32_t *words, uint32_t count)
{
    const uint32_t op = words[0] & 0xffff;
    c->functions += op == OP_FUNCTION;
    c->loads += op == OP_LOAD;
    if (c->functions) {
        if (count > 2 && words[1] < c->had && words[2] < c->had && c->addresses[words[1]] == IS_TYPE)
            c->addresses[words[2]] = words[1];
    } else if (op == OP_TYPE_INT && words[3] == 0) {
        c->uint_type = words[2] == 32 ? words[1] : c->uint_type;
        c->ulong_type = words[2] == 64 ? words[1] : c->ulong_type;
    } else if (op == OP_TYPE_POINTER && words[2] == STORAGE_ADDRESS && words[1] < c->had) {
        c->addresses[words[1]] = IS_TYPE;
    } else if (op == OP_TYPE_POINTER && words[2] == STORAGE_INPUT && words[3] == c->uint_type) {
        c->input_type = words[1];
    } else if (op == OP_DECORATE && count == 4 && words[2] == DECORATION_BUILT_IN &&
               words[3] == LOCAL_INVOCATION_INDEX) {
        c->index = words[1];
        c->has_index = true;
    }
}

static void put_types(struct change *c)
{
    if (!c->ulong_type) {
        c->ulong_type = c->ids++;
        put(c, OP_TYPE_INT, (uint32_t[]){c->ulong_type, 64, 0}, 3);
    }
    if (!c->input_type) {
        c->input_type = c->ids++;
        put(c, OP_TYPE_POINTER, (uint32_t[]){c->input_type, STORAGE_INPUT, c->uint_type}, 3);
    }
    if (!c->has_index)
        put(c, OP_VARIABLE, (uint32_t[]){c->input_type, c->index, STORAGE_INPUT}, 3);
    c->one = put_unary(c, OP_CONSTANT, c->uint_type, 1);
}

/* n (n + 1) is even, so its lowest bit is 0. */
static void put_zero(struct change *c)
{
    uint32_t n = put_unary(c, OP_LOAD, c->uint_type, c->index);
    uint32_t next = put_binary(c, OP_ADD, c->uint_type, n, c->one);
    uint32_t even = put_binary(c, OP_MULTIPLY, c->uint_type, n, next);
    c->zero = put_unary(c, OP_U_CONVERT, c->ulong_type, put_binary(c, OP_AND, c->uint_type, even, c->one));
    c->zero_due = false;
}

static void change(struct change *c, const uint32_t *words, uint32_t count)
{
    const uint32_t op = words[0] & 0xffff;
    if (op == OP_CAPABILITY && c->count == HEADER_WORDS && !c->ulong_type)
        put(c, OP_CAPABILITY, &(uint32_t){CAPABILITY_INT64}, 1);
    if (op == OP_DECORATE && !c->in_types && !c->has_index)
        put(c, OP_DECORATE, (uint32_t[]){c->index, DECORATION_BUILT_IN, LOCAL_INVOCATION_INDEX}, 3);
    c->in_types |= op == OP_DECORATE;
    if (op == OP_FUNCTION && !c->in_functions)
        put_types(c);
    c->in_functions |= op == OP_FUNCTION;
    c->zero_due |= op == OP_FUNCTION;
    if (c->zero_due && op != OP_FUNCTION && op != OP_FUNCTION_PARAMETER && op != OP_LABEL && op != OP_VARIABLE)
        put_zero(c);
    uint32_t type = op == OP_LOAD ? address_type(c, words[3]) : 0, address = 0;
    if (type) {
        uint32_t number = put_unary(c, OP_POINTER_TO_U, c->ulong_type, words[3]);
        address = put_unary(c, OP_U_TO_POINTER, type, put_binary(c, OP_ADD, c->ulong_type, number, c->zero));
    }
    uint32_t *copy = c->out + c->count;
    memcpy(copy, words, count * sizeof *words);
    c->count += count;
    if (type)
        copy[3] = address;
    if (op == OP_ENTRY_POINT && !c->has_index) {
        c->out[c->count++] = c->index;
        copy[0] += 1u << 16;
    }
}

hypura_status loads_part(const uint32_t *code, size_t bytes, uint32_t **out, size_t *out_bytes, hypura_error *error)
{
    *out = NULL;
    size_t words = bytes / sizeof *code;
    struct change c = {.had = code[BOUND], .ids = code[BOUND], .count = HEADER_WORDS};
    hypura_status status = ALLOCATE(&c.addresses, c.had, "the addresses of a kernel", error);
    bool sound = !status;
    for (size_t at = HEADER_WORDS; sound && at < words; at += code[at] >> 16) {
        sound = code[at] >> 16 != 0 && code[at] >> 16 <= words - at;
        if (sound)
            look(&c, code + at, code[at] >> 16);
    }
    if (!status && !(sound && c.uint_type && c.functions))
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED, "GPU: a kernel's loads have an unknown form");
    if (!c.has_index)
        c.index = c.ids++;
    /* 13 words for each load, 22 for each function, and the declarations. */
    if (!status)
        status = ALLOCATE(&c.out, words + 13 * c.loads + 22 * c.functions + 32, "a kernel for a CPU", error);
    for (size_t at = HEADER_WORDS; !status && at < words; at += code[at] >> 16)
        change(&c, code + at, code[at] >> 16);
    memory_free(c.addresses);
    if (status)
        return status;
    memcpy(c.out, code, HEADER_WORDS * sizeof *code);
    c.out[BOUND] = c.ids;
    *out = c.out;
    *out_bytes = c.count * sizeof *c.out;
    return HYPURA_OK;
}
