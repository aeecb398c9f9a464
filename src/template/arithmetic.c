/* The operators of the template language: arithmetic, sequences, comparisons. */
#include "template/template_private.h"

#include <math.h>

static const char *const operation_text[] = {
    "+", "-", "*", "/", "//", "%", "** or pow()", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

static struct value power(struct jinja *j, struct value a, struct value b)
{
    if (a.kind == VALUE_FLOAT || b.kind == VALUE_FLOAT || value_as_integer(b) < 0)
        return value_float(pow(value_as_number(a), value_as_number(b)));
    int64_t result = 1, base = value_as_integer(a), exponent = value_as_integer(b);
    bool fits = true;
    while (exponent > 0 && fits) {
        if (exponent & 1)
            fits = !__builtin_mul_overflow(result, base, &result);
        exponent >>= 1;
        if (exponent && fits)
            fits = !__builtin_mul_overflow(base, base, &base);
    }
    if (!fits)
        jinja_fail(&j->w, "an integer does not fit in 64 bits");
    return value_integer(result);
}

/* Returns a / b rounded down; *rest is the remainder, with the sign of b. */
static double floor_divide(double a, double b, double *rest)
{
    *rest = fmod(a, b);
    double quotient = (a - *rest) / b;
    if (*rest != 0 && (*rest < 0) != (b < 0)) {
        *rest += b;
        quotient -= 1;
    }
    if (*rest == 0)
        *rest = copysign(0, b);
    return quotient == 0 ? copysign(0, a / b) : round(quotient);
}

static struct value arithmetic_float(struct jinja *j, enum operation operation, double a, double b)
{
    if ((operation == OPERATION_DIVIDE || operation == OPERATION_FLOOR_DIVIDE || operation == OPERATION_MODULO) &&
        b == 0)
        jinja_fail(&j->w, "division by zero");
    double rest, quotient;
    switch (operation) {
    case OPERATION_ADD:
        return value_float(a + b);
    case OPERATION_SUBTRACT:
        return value_float(a - b);
    case OPERATION_MULTIPLY:
        return value_float(a * b);
    case OPERATION_DIVIDE:
        return value_float(a / b);
    default:
        quotient = floor_divide(a, b, &rest);
        return value_float(operation == OPERATION_MODULO ? rest : quotient);
    }
}

static struct value arithmetic(struct jinja *j, enum operation operation, struct value a, struct value b)
{
    if (operation == OPERATION_POWER)
        return power(j, a, b);
    if (operation == OPERATION_DIVIDE || a.kind == VALUE_FLOAT || b.kind == VALUE_FLOAT)
        return arithmetic_float(j, operation, value_as_number(a), value_as_number(b));
    int64_t x = value_as_integer(a), y = value_as_integer(b), result = 0;
    bool fits;
    switch (operation) {
    case OPERATION_ADD:
        fits = !__builtin_add_overflow(x, y, &result);
        break;
    case OPERATION_SUBTRACT:
        fits = !__builtin_sub_overflow(x, y, &result);
        break;
    case OPERATION_MULTIPLY:
        fits = !__builtin_mul_overflow(x, y, &result);
        break;
    default:
        if (y == 0)
            jinja_fail(&j->w, "integer division or modulo by zero");
        fits = y != -1 || x != INT64_MIN;
        if (fits) {
            int64_t rest = x % y;
            bool down = rest != 0 && (rest < 0) != (y < 0);
            result = operation == OPERATION_MODULO ? (down ? rest + y : rest) : x / y - down;
        }
    }
    if (!fits)
        jinja_fail(&j->w, "an integer does not fit in 64 bits");
    return value_integer(result);
}

static struct value repeat(struct jinja *j, struct value sequence, int64_t times)
{
    if (sequence.kind == VALUE_LIST) {
        struct value list = list_new(&j->w, sequence.list->type, 0);
        for (int64_t i = 0; sequence.list->count && i < times; i++) {
            jinja_step(j, sequence.list->count);
            for (size_t k = 0; k < sequence.list->count; k++)
                list_append(&j->w, list.list, sequence.list->items[k]);
        }
        return list;
    }
    struct builder b;
    builder_begin(&b, &j->w);
    for (int64_t i = 0; sequence.string->size && i < times; i++) {
        jinja_step(j, 1);
        builder_string(&b, sequence.string);
    }
    return builder_end(&b);
}

static bool is_sequence(struct value value)
{
    return value.kind == VALUE_STRING || (value.kind == VALUE_LIST && value.list->type <= LIST_TUPLE);
}

static struct value add_sequences(struct jinja *j, struct value a, struct value b)
{
    if (a.kind == VALUE_STRING) {
        struct builder text;
        builder_begin(&text, &j->w);
        builder_string(&text, a.string);
        builder_string(&text, b.string);
        return builder_end(&text);
    }
    struct value list = list_new(&j->w, a.list->type, a.list->count + b.list->count);
    jinja_step(j, a.list->count + b.list->count);
    for (size_t i = 0; i < a.list->count; i++)
        list_append(&j->w, list.list, a.list->items[i]);
    for (size_t i = 0; i < b.list->count; i++)
        list_append(&j->w, list.list, b.list->items[i]);
    return list;
}

struct value jinja_binary(struct jinja *j, enum operation operation, struct value a, struct value b)
{
    if (value_is_number(a) && value_is_number(b))
        return arithmetic(j, operation, a, b);
    if (operation == OPERATION_MODULO && a.kind == VALUE_STRING)
        return string_format_percent(j, a.string, b);
    if (a.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, a);
    if (b.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, b);
    if (operation == OPERATION_ADD && is_sequence(a)) {
        if (a.kind == b.kind && (a.kind == VALUE_STRING || a.list->type == b.list->type))
            return add_sequences(j, a, b);
        jinja_fail(&j->w, "can only concatenate %s (not \"%s\") to %s", value_type_name(a), value_type_name(b),
                   value_type_name(a));
    }
    if (operation == OPERATION_MULTIPLY) {
        if (is_sequence(a) && (b.kind == VALUE_INTEGER || b.kind == VALUE_BOOLEAN))
            return repeat(j, a, value_as_integer(b));
        if (is_sequence(b) && (a.kind == VALUE_INTEGER || a.kind == VALUE_BOOLEAN))
            return repeat(j, b, value_as_integer(a));
    }
    jinja_fail(&j->w, "unsupported operand type(s) for %s: '%s' and '%s'", operation_text[operation],
               value_type_name(a), value_type_name(b));
}

struct value jinja_negate(struct jinja *j, struct value number)
{
    return number.kind == VALUE_FLOAT ? value_float(-number.number)
                                      : arithmetic(j, OPERATION_SUBTRACT, value_integer(0), number);
}

bool jinja_compare(struct jinja *j, enum operation operation, struct value a, struct value b)
{
    switch (operation) {
    case OPERATION_EQUAL:
        return value_equal(j, a, b);
    case OPERATION_NOT_EQUAL:
        return !value_equal(j, a, b);
    case OPERATION_IN:
        return value_contains(j, b, a);
    case OPERATION_NOT_IN:
        return !value_contains(j, b, a);
    default:
        break;
    }
    bool nan = (a.kind == VALUE_FLOAT && isnan(a.number)) || (b.kind == VALUE_FLOAT && isnan(b.number));
    int order = value_compare(j, a, b, operation_text[operation]);
    if (nan)
        return false;
    switch (operation) {
    case OPERATION_LESS:
        return order < 0;
    case OPERATION_LESS_EQUAL:
        return order <= 0;
    case OPERATION_GREATER:
        return order > 0;
    default:
        return order >= 0;
    }
}
