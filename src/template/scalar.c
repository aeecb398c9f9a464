/* Scalar values: constructors, types and numbers. */
#include "template/template_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct value value_none(void)
{
    return (struct value){.kind = VALUE_NONE};
}

struct value value_boolean(bool boolean)
{
    return (struct value){.kind = VALUE_BOOLEAN, .boolean = boolean};
}

struct value value_integer(int64_t integer)
{
    return (struct value){.kind = VALUE_INTEGER, .integer = integer};
}

struct value value_float(double number)
{
    return (struct value){.kind = VALUE_FLOAT, .number = number};
}

struct value value_from_string(const struct string *string)
{
    return (struct value){.kind = VALUE_STRING, .string = string};
}

struct value value_undefined(struct workspace *w, const char *format, ...)
{
    char text[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char *reason = jinja_allocate(w, strlen(text) + 1);
    strcpy(reason, text);
    return (struct value){.kind = VALUE_UNDEFINED, .reason = reason};
}

const char *value_type_name(struct value value)
{
    switch (value.kind) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
        return "Undefined";
    case VALUE_NONE:
        return "NoneType";
    case VALUE_BOOLEAN:
        return "bool";
    case VALUE_INTEGER:
        return "int";
    case VALUE_FLOAT:
        return "float";
    case VALUE_STRING:
        return "str";
    case VALUE_LIST:
        switch (value.list->type) {
        case LIST_PLAIN:
            return "list";
        case LIST_TUPLE:
            return "tuple";
        case LIST_RANGE:
            return "range";
        case LIST_VIEW:
            return value.list->view;
        case LIST_GENERATOR:
            return "generator";
        }
        break;
    case VALUE_DICT:
        return "dict";
    case VALUE_NAMESPACE:
        return "Namespace";
    case VALUE_CALLABLE:
        return value.callable->macro ? "Macro" : "function";
    case VALUE_LOOP:
        return "LoopContext";
    case VALUE_CYCLER:
        return value.cycler->joiner ? "Joiner" : "Cycler";
    }
    return "object";
}

_Noreturn void value_fail_undefined(struct jinja *j, struct value value)
{
    jinja_fail(&j->w, "%s", value.reason);
}

bool value_is_true(struct jinja *j, struct value value)
{
    (void)j;
    switch (value.kind) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOLEAN:
        return value.boolean;
    case VALUE_INTEGER:
        return value.integer != 0;
    case VALUE_FLOAT:
        return value.number != 0;
    case VALUE_STRING:
        return value.string->size != 0;
    case VALUE_LIST:
        return value.list->type == LIST_GENERATOR || value.list->count != 0;
    case VALUE_DICT:
        return value.dict->count != 0;
    case VALUE_NAMESPACE:
    case VALUE_CALLABLE:
    case VALUE_LOOP:
    case VALUE_CYCLER:
        break;
    }
    return true;
}

bool value_is_number(struct value value)
{
    return value.kind == VALUE_BOOLEAN || value.kind == VALUE_INTEGER || value.kind == VALUE_FLOAT;
}

int64_t value_as_integer(struct value value)
{
    return value.kind == VALUE_BOOLEAN ? value.boolean : value.integer;
}

double value_as_number(struct value value)
{
    return value.kind == VALUE_FLOAT ? value.number : (double)value_as_integer(value);
}

/* Compares an integer and a float exactly, as Python does. */
int value_compare_numbers(struct value a, struct value b)
{
    if (a.kind != VALUE_FLOAT && b.kind != VALUE_FLOAT) {
        int64_t x = value_as_integer(a), y = value_as_integer(b);
        return (x > y) - (x < y);
    }
    if (a.kind == VALUE_FLOAT && b.kind == VALUE_FLOAT)
        return (a.number > b.number) - (a.number < b.number);
    if (a.kind == VALUE_FLOAT)
        return -value_compare_numbers(b, a);
    if (isnan(b.number))
        return 0; /* NaN: neither is larger, as between two floats */
    if (b.number >= 0x1p63)
        return -1;
    if (b.number < -0x1p63)
        return 1;
    int64_t x = value_as_integer(a), whole = (int64_t)b.number;
    if (x != whole)
        return x < whole ? -1 : 1;
    double rest = b.number - (double)whole;
    return (rest < 0) - (rest > 0);
}
