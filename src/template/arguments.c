/* Arguments of filters, tests, methods and functions, and the search of their tables. */
#include "template/template_private.h"

const struct builtin *builtin_find(const struct builtin *table, size_t count, const struct string *name)
{
    for (size_t i = 0; i < count; i++)
        if (string_is(name, table[i].name))
            return &table[i];
    return NULL;
}

const struct string *argument_string(struct jinja *j, struct value value, const char *what)
{
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, value);
    if (value.kind != VALUE_STRING)
        jinja_fail(&j->w, "%s must be str, not %s", what, value_type_name(value));
    return value.string;
}

int64_t argument_integer(struct jinja *j, struct value value, int64_t otherwise, const char *what)
{
    if (value.kind == VALUE_MISSING)
        return otherwise;
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, value);
    if (value.kind != VALUE_INTEGER && value.kind != VALUE_BOOLEAN)
        jinja_fail(&j->w, "%s must be int, not %s", what, value_type_name(value));
    return value_as_integer(value);
}
