/* The tests ("is ...") and the global functions of the template language. */
#include "template/template_private.h"

#include <math.h>
#include <string.h>

typedef const struct arguments *args;

/* ---- tests --------------------------------------------------------------------------------------------------------
 */

#define TEST(name, condition)                                                                                          \
    static struct value test_##name(struct jinja *j, struct value self, args a)                                        \
    {                                                                                                                  \
        (void)j;                                                                                                       \
        (void)self;                                                                                                    \
        (void)a;                                                                                                       \
        return value_boolean(condition);                                                                               \
    }

static bool is_iterable(struct value value)
{
    return value.kind == VALUE_STRING || value.kind == VALUE_LIST || value.kind == VALUE_DICT ||
           value.kind == VALUE_UNDEFINED || value.kind == VALUE_LOOP;
}

/* Whether a value has a length and items. */
static bool is_sequence(struct value value)
{
    return value.kind == VALUE_STRING || value.kind == VALUE_DICT ||
           (value.kind == VALUE_LIST && value.list->type <= LIST_RANGE);
}

static bool same_text(struct jinja *j, struct value self, const char *method)
{
    struct value text = value_from_string(value_string(j, self));
    const struct builtin *function = jinja_find_method(text, value_from_text(&j->w, method).string);
    return value_is_true(j, jinja_call_builtin(j, function, text, &(struct arguments){0}));
}

/* Whether the remainder of a division by `by` equals a number. */
static bool leaves(struct jinja *j, struct value self, struct value by, int64_t number)
{
    struct value rest = jinja_binary(j, OPERATION_MODULO, self, by);
    return value_is_number(rest) && value_as_number(rest) == (double)number;
}

static bool ordered(struct jinja *j, struct value self, args a, bool less, bool equal)
{
    int order = value_compare(j, self, a->positional[0], less ? "<" : ">");
    return (order == 0 && equal) || (less ? order < 0 : order > 0);
}

TEST(defined, self.kind != VALUE_UNDEFINED)
TEST(undefined, self.kind == VALUE_UNDEFINED)
TEST(none, self.kind == VALUE_NONE)
TEST(boolean, self.kind == VALUE_BOOLEAN)
TEST(true, self.kind == VALUE_BOOLEAN && self.boolean)
TEST(false, self.kind == VALUE_BOOLEAN && !self.boolean)
TEST(integer, self.kind == VALUE_INTEGER)
TEST(float, self.kind == VALUE_FLOAT)
TEST(number, value_is_number(self))
TEST(string, self.kind == VALUE_STRING)
TEST(mapping, self.kind == VALUE_DICT)
TEST(iterable, is_iterable(self))
TEST(sequence, is_sequence(self) || self.kind == VALUE_UNDEFINED)
TEST(callable, self.kind == VALUE_CALLABLE || self.kind == VALUE_LOOP || self.kind == VALUE_UNDEFINED ||
                   (self.kind == VALUE_CYCLER && self.cycler->joiner))
TEST(sameas, self.kind == a->positional[0].kind && value_equal(j, self, a->positional[0]))
TEST(escaped, false)
TEST(lower, same_text(j, self, "islower"))
TEST(upper, same_text(j, self, "isupper"))
TEST(odd, leaves(j, self, value_integer(2), 1))
TEST(even, leaves(j, self, value_integer(2), 0))
TEST(divisibleby, leaves(j, self, a->positional[0], 0))
TEST(equal, value_equal(j, self, a->positional[0]))
TEST(not_equal, !value_equal(j, self, a->positional[0]))
TEST(less, ordered(j, self, a, true, false))
TEST(less_equal, ordered(j, self, a, true, true))
TEST(greater, ordered(j, self, a, false, false))
TEST(greater_equal, ordered(j, self, a, false, true))
TEST(in, value_contains(j, a->positional[0], self))
TEST(filter, self.kind == VALUE_STRING && jinja_find_filter(self.string) != NULL)
TEST(test, self.kind == VALUE_STRING && jinja_find_test(self.string) != NULL)

static const struct builtin tests[] = {
    {"!=", "other ", test_not_equal},
    {"<", "other ", test_less},
    {"<=", "other ", test_less_equal},
    {"==", "other ", test_equal},
    {">", "other ", test_greater},
    {">=", "other ", test_greater_equal},
    {"boolean", "", test_boolean},
    {"callable", "", test_callable},
    {"defined", "", test_defined},
    {"divisibleby", "num ", test_divisibleby},
    {"eq", "other ", test_equal},
    {"equalto", "other ", test_equal},
    {"escaped", "", test_escaped},
    {"even", "", test_even},
    {"false", "", test_false},
    {"filter", "", test_filter},
    {"float", "", test_float},
    {"ge", "other ", test_greater_equal},
    {"greaterthan", "other ", test_greater},
    {"gt", "other ", test_greater},
    {"in", "seq ", test_in},
    {"integer", "", test_integer},
    {"iterable", "", test_iterable},
    {"le", "other ", test_less_equal},
    {"lessthan", "other ", test_less},
    {"lower", "", test_lower},
    {"lt", "other ", test_less},
    {"mapping", "", test_mapping},
    {"ne", "other ", test_not_equal},
    {"none", "", test_none},
    {"number", "", test_number},
    {"odd", "", test_odd},
    {"sameas", "other ", test_sameas},
    {"sequence", "", test_sequence},
    {"string", "", test_string},
    {"test", "", test_test},
    {"true", "", test_true},
    {"undefined", "", test_undefined},
    {"upper", "", test_upper},
};

const struct builtin *jinja_find_test(const struct string *name)
{
    return builtin_find(tests, COUNT_OF(tests), name);
}

/* ---- global functions ---------------------------------------------------------------------------------------------
 */

static struct value global_range(struct jinja *j, struct value self, args a)
{
    (void)self;
    enum { MOST = 100000 };
    int64_t first = argument_integer(j, a->positional[0], 0, "range"), stop = first, step;
    bool one = a->positional[1].kind == VALUE_MISSING;
    if (one)
        first = 0;
    else
        stop = argument_integer(j, a->positional[1], 0, "range");
    step = argument_integer(j, a->positional[2], 1, "range");
    if (step == 0)
        jinja_fail(&j->w, "range() arg 3 must not be zero");
    struct value list = list_new(&j->w, LIST_RANGE, 0);
    for (int64_t i = first; step > 0 ? i < stop : i > stop;) {
        if (list.list->count == MOST)
            jinja_fail(&j->w, "range() of more than %d numbers", MOST);
        list_append(&j->w, list.list, value_integer(i));
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return list;
}

static struct value global_dict(struct jinja *j, struct value self, args a)
{
    struct value dict = dict_new(&j->w);
    (void)self;
    if (a->count > 1)
        jinja_fail(&j->w, "dict expected at most 1 argument, got %zu", a->count);
    if (a->count && (a->positional[0].kind == VALUE_DICT || a->positional[0].kind == VALUE_NAMESPACE)) {
        const struct dict *from = a->positional[0].dict;
        for (size_t i = 0; i < from->count; i++)
            dict_set(&j->w, dict.dict, from->entries[i].key, from->entries[i].value);
    } else if (a->count) {
        struct list items = jinja_iterate(j, a->positional[0]);
        for (size_t i = 0; i < items.count; i++) {
            struct list pair = jinja_iterate(j, items.items[i]);
            if (pair.count != 2)
                jinja_fail(&j->w, "dictionary update sequence element #%zu has length %zu; 2 is required", i,
                           pair.count);
            dict_set(&j->w, dict.dict, pair.items[0], pair.items[1]);
        }
    }
    for (size_t i = 0; i < a->named.count; i++)
        dict_set(&j->w, dict.dict, a->named.entries[i].key, a->named.entries[i].value);
    return dict;
}

static struct value global_namespace(struct jinja *j, struct value self, args a)
{
    struct value dict = global_dict(j, self, a);
    dict.kind = VALUE_NAMESPACE;
    return dict;
}

static struct value global_cycler(struct jinja *j, struct value self, args a)
{
    (void)self;
    if (a->count == 0)
        jinja_fail(&j->w, "at least one item has to be provided");
    struct cycler *cycler = jinja_allocate(&j->w, sizeof *cycler);
    *cycler = (struct cycler){.items = a->positional, .count = a->count};
    return (struct value){.kind = VALUE_CYCLER, .cycler = cycler};
}

static struct value global_joiner(struct jinja *j, struct value self, args a)
{
    (void)self;
    struct cycler *joiner = jinja_allocate(&j->w, sizeof *joiner);
    *joiner = (struct cycler){.items = jinja_allocate(&j->w, sizeof(struct value)), .count = 1, .joiner = true};
    joiner->items[0] = a->positional[0].kind == VALUE_MISSING ? value_from_text(&j->w, ", ") : a->positional[0];
    return (struct value){.kind = VALUE_CYCLER, .cycler = joiner};
}

static struct value global_raise_exception(struct jinja *j, struct value self, args a)
{
    (void)self;
    if (a->positional[0].kind == VALUE_MISSING)
        jinja_fail(&j->w, "raise_exception() needs a message");
    const struct string *message = value_string(j, a->positional[0]);
    jinja_fail(&j->w, "%.*s", (int)MIN(message->size, (size_t)350), message->bytes);
}

static struct value global_strftime_now(struct jinja *j, struct value self, args a)
{
    (void)self;
    return time_format(j, argument_string(j, a->positional[0], "the format of strftime_now"), j->now);
}

static const struct builtin globals[] = {
    {"cycler", NULL, global_cycler},
    {"dict", NULL, global_dict},
    {"joiner", "sep ", global_joiner},
    {"namespace", NULL, global_namespace},
    {"raise_exception", "message ", global_raise_exception},
    {"range", "start stop step ", global_range},
    {"strftime_now", "format ", global_strftime_now},
};

const struct builtin *jinja_find_global(const struct string *name)
{
    return builtin_find(globals, COUNT_OF(globals), name);
}
