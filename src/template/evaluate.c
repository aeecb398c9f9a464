/* Evaluates expressions. */
#include "template/template_private.h"

#include <string.h>

/* ---- names --------------------------------------------------------------------------------------------------------
 */

struct value *scope_find(struct jinja *j, const struct scope *scope, const struct string *name)
{
    size_t seen = 0;
    struct value *found = NULL;
    for (; scope && !found; scope = scope->parent)
        for (struct variable *v = scope->variables; v && !found; v = v->next, seen++)
            if (v->name->size == name->size && memcmp(v->name->bytes, name->bytes, name->size) == 0)
                found = &v->value;
    jinja_step(j, seen / 32); /* free for the usual number of variables */
    return found;
}

void scope_set(struct jinja *j, const struct string *name, struct value value)
{
    struct scope own = {.variables = j->scope->variables};
    struct value *there = scope_find(j, &own, name);
    if (there) {
        *there = value;
        return;
    }
    struct variable *v = jinja_allocate(&j->w, sizeof *v);
    *v = (struct variable){name, value, j->scope->variables};
    j->scope->variables = v;
}

static struct value builtin_value(struct jinja *j, const struct builtin *builtin, struct value self)
{
    struct callable *callable = jinja_allocate(&j->w, sizeof *callable);
    callable->builtin = builtin;
    callable->self = self;
    return (struct value){.kind = VALUE_CALLABLE, .callable = callable};
}

static struct value evaluate_name(struct jinja *j, const struct string *name)
{
    struct value *there = scope_find(j, j->scope, name);
    if (!there)
        there = dict_find_text(j, &j->globals, name->bytes, name->size);
    if (there)
        return *there;
    const struct builtin *global = jinja_find_global(name);
    if (global)
        return builtin_value(j, global, value_none());
    return value_undefined(&j->w, "'%.*s' is undefined", (int)MIN(name->size, (size_t)100), name->bytes);
}

/* ---- parts of values ----------------------------------------------------------------------------------------------
 */

static struct value loop_attribute(struct jinja *j, const struct loop *loop, const struct string *name)
{
    size_t i = loop->index, count = loop->count;
    if (string_is(name, "index"))
        return value_integer((int64_t)i + 1);
    if (string_is(name, "index0"))
        return value_integer((int64_t)i);
    if (string_is(name, "revindex"))
        return value_integer((int64_t)(count - i));
    if (string_is(name, "revindex0"))
        return value_integer((int64_t)(count - i) - 1);
    if (string_is(name, "first"))
        return value_boolean(i == 0);
    if (string_is(name, "last"))
        return value_boolean(i + 1 >= count);
    if (string_is(name, "length"))
        return value_integer((int64_t)count);
    if (string_is(name, "depth"))
        return value_integer((int64_t)loop->depth + 1);
    if (string_is(name, "depth0"))
        return value_integer((int64_t)loop->depth);
    if (string_is(name, "previtem"))
        return i > 0 ? loop->items[i - 1] : value_undefined(&j->w, "there is no previous item");
    if (string_is(name, "nextitem"))
        return i + 1 < count ? loop->items[i + 1] : value_undefined(&j->w, "there is no next item");
    return value_undefined(&j->w, "'LoopContext object' has no attribute '%.*s'", (int)MIN(name->size, (size_t)100),
                           name->bytes);
}

static struct value no_attribute(struct jinja *j, struct value target, const struct string *name)
{
    int length = (int)MIN(name->size, (size_t)100);
    if (target.kind == VALUE_NONE)
        return value_undefined(&j->w, "'None' has no attribute '%.*s'", length, name->bytes);
    return value_undefined(&j->w, "'%s object' has no attribute '%.*s'", value_type_name(target), length, name->bytes);
}

/* Returns an attribute of an object, without looking at its items; VALUE_MISSING if there is none of that name. */
static struct value own_attribute(struct jinja *j, struct value target, const struct string *name)
{
    const struct builtin *method = jinja_find_method(target, name);
    if (method)
        return builtin_value(j, method, target);
    if (target.kind == VALUE_LOOP)
        return loop_attribute(j, target.loop, name);
    if (target.kind == VALUE_NAMESPACE) {
        const struct value *there = dict_find_text(j, target.dict, name->bytes, name->size);
        if (there)
            return *there;
    }
    if (target.kind == VALUE_CYCLER && string_is(name, "current"))
        return target.cycler->items[target.cycler->index];
    if (target.kind == VALUE_CALLABLE && target.callable->macro && string_is(name, "name"))
        return value_from_string(target.callable->macro->text);
    return (struct value){.kind = VALUE_MISSING};
}

struct value jinja_attribute(struct jinja *j, struct value target, const struct string *name)
{
    if (target.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, target);
    struct value own = own_attribute(j, target, name);
    if (own.kind != VALUE_MISSING)
        return own;
    if (target.kind == VALUE_DICT) {
        const struct value *there = dict_find_text(j, target.dict, name->bytes, name->size);
        if (there)
            return *there;
    }
    return no_attribute(j, target, name);
}

struct value jinja_item(struct jinja *j, struct value target, struct value index)
{
    if (target.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, target);
    if (target.kind == VALUE_DICT) {
        bool hashable = !(index.kind == VALUE_DICT || (index.kind == VALUE_LIST && index.list->type != LIST_TUPLE));
        const struct value *there = hashable ? dict_find(j, target.dict, index) : NULL;
        if (there)
            return *there;
    }
    bool whole = index.kind == VALUE_INTEGER || index.kind == VALUE_BOOLEAN;
    if (whole && target.kind == VALUE_LIST && target.list->type <= LIST_RANGE) {
        int64_t i = value_as_integer(index), count = (int64_t)target.list->count;
        i += i < 0 ? count : 0;
        if (i >= 0 && i < count)
            return target.list->items[i];
    }
    if (whole && target.kind == VALUE_STRING) {
        const struct string *s = target.string;
        jinja_step_characters(j, s);
        int64_t i = value_as_integer(index), count = (int64_t)string_length(s);
        i += i < 0 ? count : 0;
        if (i >= 0 && i < count) {
            size_t at = string_offset(s, (size_t)i);
            return string_part(&j->w, s, at, utf8_next(s->bytes, s->size, at, NULL));
        }
    }
    if (index.kind == VALUE_STRING) {
        struct value own = own_attribute(j, target, index.string);
        return own.kind != VALUE_MISSING ? own : no_attribute(j, target, index.string);
    }
    struct builder b;
    builder_begin(&b, &j->w);
    value_write_repr(j, &b, index, 0);
    const struct string *text = builder_end(&b).string;
    return value_undefined(&j->w, "%s object has no element %.*s", value_type_name(target),
                           (int)MIN(text->size, (size_t)100), text->bytes);
}

/* Clamps a bound of a slice to 0 .. count (for a negative step: -1 .. count - 1). */
static int64_t slice_bound(struct jinja *j, struct value bound, int64_t count, int64_t low, int64_t high,
                           int64_t otherwise)
{
    if (bound.kind == VALUE_NONE || bound.kind == VALUE_MISSING)
        return otherwise;
    if (bound.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, bound);
    if (bound.kind != VALUE_INTEGER && bound.kind != VALUE_BOOLEAN)
        jinja_fail(&j->w, "slice indices must be integers or None, not %s", value_type_name(bound));
    int64_t at = value_as_integer(bound);
    if (at < 0)
        at = at < -count ? low : at + count;
    return MAX(low, MIN(at, high));
}

struct value jinja_slice(struct jinja *j, struct value target, struct value start, struct value stop, struct value step)
{
    if (target.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, target);
    bool is_list = target.kind == VALUE_LIST && target.list->type <= LIST_RANGE;
    if (!is_list && target.kind != VALUE_STRING)
        jinja_fail(&j->w, "'%s' object is not subscriptable", value_type_name(target));
    int64_t count = (int64_t)(is_list ? target.list->count : string_length(target.string));
    if (step.kind == VALUE_NONE)
        step = value_integer(1);
    int64_t by = argument_integer(j, step, 1, "slice step");
    if (by == 0)
        jinja_fail(&j->w, "slice step cannot be zero");
    by = MAX(by, -(int64_t)INT32_MAX);
    by = MIN(by, (int64_t)INT32_MAX);
    int64_t low = by > 0 ? 0 : -1, high = by > 0 ? count : count - 1;
    int64_t from = slice_bound(j, start, count, low, high, by > 0 ? 0 : count - 1);
    int64_t to = slice_bound(j, stop, count, low, high, by > 0 ? count : -1);
    jinja_step(j, (size_t)count / 16);
    if (target.kind == VALUE_STRING && by == 1)
        return string_part(&j->w, target.string, string_offset(target.string, (size_t)from),
                           string_offset(target.string, (size_t)MAX(from, to)));
    struct list items = is_list ? *target.list : jinja_iterate(j, target);
    struct value part = list_new(&j->w, is_list ? target.list->type : LIST_PLAIN, 0);
    for (int64_t i = from; by > 0 ? i < to : i > to; i += by)
        list_append(&j->w, part.list, items.items[i]);
    if (is_list)
        return part;
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t i = 0; i < part.list->count; i++)
        builder_string(&b, part.list->items[i].string);
    return builder_end(&b);
}

/* ---- calls --------------------------------------------------------------------------------------------------------
 */

struct arguments jinja_arguments(struct jinja *j, const struct node *first)
{
    struct arguments arguments = {0};
    if (!first)
        return arguments;
    struct value list = list_new(&j->w, LIST_PLAIN, 4);
    for (const struct node *node = first; node; node = node->next) {
        if (node->kind == NODE_KEYWORD) {
            dict_set(&j->w, &arguments.named, value_from_string(node->text), jinja_evaluate(j, node->a));
        } else if (node->kind == NODE_SPREAD) {
            struct list items = jinja_iterate(j, jinja_evaluate(j, node->a));
            for (size_t i = 0; i < items.count; i++)
                list_append(&j->w, list.list, items.items[i]);
        } else if (node->kind == NODE_SPREAD_KEYWORDS) {
            struct value dict = jinja_evaluate(j, node->a);
            if (dict.kind != VALUE_DICT)
                jinja_fail(&j->w, "argument after ** must be a mapping, not %s", value_type_name(dict));
            for (size_t i = 0; i < dict.dict->count; i++) {
                if (dict.dict->entries[i].key.kind != VALUE_STRING)
                    jinja_fail(&j->w, "keywords must be strings");
                dict_set(&j->w, &arguments.named, dict.dict->entries[i].key, dict.dict->entries[i].value);
            }
        } else {
            list_append(&j->w, list.list, jinja_evaluate(j, node));
        }
    }
    arguments.positional = list.list->items;
    arguments.count = list.list->count;
    return arguments;
}

struct value jinja_call_builtin(struct jinja *j, const struct builtin *builtin, struct value self,
                                const struct arguments *arguments)
{
    jinja_step(j, 1);
    if (!builtin->parameters)
        return builtin->call(j, self, arguments);
    enum { MOST = 6 };
    struct value slots[MOST] = {0};
    struct arguments bound = {.positional = slots};
    size_t named = 0;
    for (const char *name = builtin->parameters; *name; bound.count++) {
        size_t length = strcspn(name, " ");
        struct value *given = dict_find_text(j, &arguments->named, name, length);
        if (bound.count < arguments->count)
            slots[bound.count] = arguments->positional[bound.count];
        if (given) {
            if (bound.count < arguments->count)
                jinja_fail(&j->w, "%s() got multiple values for argument '%.*s'", builtin->name, (int)length, name);
            slots[bound.count] = *given;
            named++;
        }
        name += length + (name[length] == ' ');
    }
    if (arguments->count > bound.count)
        jinja_fail(&j->w, "%s() takes at most %zu arguments, got %zu", builtin->name, bound.count, arguments->count);
    if (named < arguments->named.count)
        jinja_fail(&j->w, "%s() got an unexpected named argument", builtin->name);
    return builtin->call(j, self, &bound);
}

struct value jinja_call_method(struct jinja *j, struct value self, const char *name, const struct arguments *a)
{
    struct value text = value_from_string(value_string(j, self));
    const struct string *name_string = value_from_text(&j->w, name).string;
    return jinja_call_builtin(j, jinja_find_method(text, name_string), text, a);
}

struct value jinja_call(struct jinja *j, struct value function, const struct arguments *arguments)
{
    if (function.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, function);
    if (function.kind == VALUE_LOOP)
        return jinja_call_loop(j, function.loop, arguments);
    if (function.kind == VALUE_CALLABLE && function.callable->macro)
        return jinja_call_macro(j, function.callable, arguments);
    if (function.kind == VALUE_CALLABLE)
        return jinja_call_builtin(j, function.callable->builtin, function.callable->self, arguments);
    if (function.kind == VALUE_CYCLER && function.cycler->joiner) {
        struct cycler *joiner = function.cycler;
        return joiner->index++ ? joiner->items[0] : value_from_text(&j->w, "");
    }
    jinja_fail(&j->w, "'%s' object is not callable", value_type_name(function));
}

/* ---- node kinds ---------------------------------------------------------------------------------------------------
 */

static struct value evaluate_sign(struct jinja *j, const struct node *node)
{
    struct value value = jinja_evaluate(j, node->a);
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, value);
    if (!value_is_number(value))
        jinja_fail(&j->w, "bad operand type for unary %c: '%s'", node->kind == NODE_NEGATIVE ? '-' : '+',
                   value_type_name(value));
    if (node->kind == NODE_NEGATIVE)
        return jinja_negate(j, value);
    return value.kind == VALUE_BOOLEAN ? value_integer(value.boolean) : value;
}

static struct value evaluate_collection(struct jinja *j, const struct node *node)
{
    if (node->kind == NODE_DICT) {
        struct value dict = dict_new(&j->w);
        for (const struct node *key = node->first; key; key = key->next->next) {
            struct value name = jinja_evaluate(j, key);
            dict_set(&j->w, dict.dict, name, jinja_evaluate(j, key->next));
        }
        return dict;
    }
    struct value list = list_new(&j->w, node->kind == NODE_TUPLE ? LIST_TUPLE : LIST_PLAIN, 0);
    for (const struct node *item = node->first; item; item = item->next)
        list_append(&j->w, list.list, jinja_evaluate(j, item));
    return list;
}

static struct value evaluate_part(struct jinja *j, const struct node *node)
{
    struct value target = jinja_evaluate(j, node->a);
    if (node->kind == NODE_ATTRIBUTE)
        return jinja_attribute(j, target, node->text);
    struct value b = node->b ? jinja_evaluate(j, node->b) : value_none();
    if (node->kind == NODE_ITEM)
        return jinja_item(j, target, b);
    struct value c = node->c ? jinja_evaluate(j, node->c) : value_none();
    return jinja_slice(j, target, b, c, node->d ? jinja_evaluate(j, node->d) : value_none());
}

static struct value evaluate_call(struct jinja *j, const struct node *node)
{
    struct value target = jinja_evaluate(j, node->a);
    if (node->kind != NODE_CALL && !node->builtin)
        jinja_fail(&j->w, "no %s named '%.*s'", node->kind == NODE_FILTER ? "filter" : "test",
                   (int)MIN(node->text->size, (size_t)60), node->text->bytes);
    struct arguments arguments = jinja_arguments(j, node->first);
    j->w.line = node->line;
    if (node->kind == NODE_CALL)
        return jinja_call(j, target, &arguments);
    return jinja_call_builtin(j, node->builtin, target, &arguments);
}

static struct value evaluate_compare(struct jinja *j, const struct node *node)
{
    struct value left = jinja_evaluate(j, node->a);
    for (const struct node *operand = node->first; operand; operand = operand->next) {
        struct value right = jinja_evaluate(j, operand->a);
        if (!jinja_compare(j, operand->operation, left, right))
            return value_boolean(false);
        left = right;
    }
    return value_boolean(true);
}

static struct value evaluate_concat(struct jinja *j, const struct node *node)
{
    struct builder b;
    builder_begin(&b, &j->w);
    for (const struct node *item = node->first; item; item = item->next)
        value_write(j, &b, jinja_evaluate(j, item));
    return builder_end(&b);
}

static struct value evaluate(struct jinja *j, const struct node *node)
{
    struct value a;
    switch (node->kind) {
    case NODE_CONSTANT:
        return node->constant;
    case NODE_CAPTURED:
        return j->captured;
    case NODE_NAME:
        return evaluate_name(j, node->text);
    case NODE_TUPLE:
    case NODE_LIST:
    case NODE_DICT:
        return evaluate_collection(j, node);
    case NODE_ATTRIBUTE:
    case NODE_ITEM:
    case NODE_SLICE:
        return evaluate_part(j, node);
    case NODE_CALL:
    case NODE_FILTER:
    case NODE_TEST:
        return evaluate_call(j, node);
    case NODE_NEGATIVE:
    case NODE_POSITIVE:
        return evaluate_sign(j, node);
    case NODE_NOT:
        return value_boolean(!value_is_true(j, jinja_evaluate(j, node->a)));
    case NODE_AND:
        a = jinja_evaluate(j, node->a);
        return value_is_true(j, a) ? jinja_evaluate(j, node->b) : a;
    case NODE_OR:
        a = jinja_evaluate(j, node->a);
        return value_is_true(j, a) ? a : jinja_evaluate(j, node->b);
    case NODE_BINARY:
        a = jinja_evaluate(j, node->a);
        return jinja_binary(j, node->operation, a, jinja_evaluate(j, node->b));
    case NODE_CONCAT:
        return evaluate_concat(j, node);
    case NODE_COMPARE:
        return evaluate_compare(j, node);
    case NODE_CHOICE:
        if (value_is_true(j, jinja_evaluate(j, node->b)))
            return jinja_evaluate(j, node->a);
        if (node->c)
            return jinja_evaluate(j, node->c);
        return value_undefined(&j->w,
                               "the inline if-expression on line %d evaluated to false and no else section was "
                               "defined",
                               node->line);
    default:
        jinja_fail(&j->w, "expected an expression");
    }
}

struct value jinja_evaluate(struct jinja *j, const struct node *node)
{
    jinja_step(j, 1);
    jinja_enter(j);
    j->w.line = node->line;
    struct value value = evaluate(j, node);
    j->depth--;
    return value;
}
