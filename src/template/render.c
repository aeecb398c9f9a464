/* Runs a template: statements, macros, loops. */
#include "template/template_private.h"

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

static enum flow execute(struct jinja *j, const struct node *node);

/* ---- scopes and assignment ----------------------------------------------------------------------------------------
 */

static struct scope *scope_new(struct jinja *j, struct scope *parent)
{
    struct scope *scope = jinja_allocate(&j->w, sizeof *scope);
    scope->parent = parent;
    return scope;
}

/* Runs a body in the given scope. */
static enum flow execute_in(struct jinja *j, struct scope *scope, const struct node *body)
{
    struct scope *outer = j->scope;
    j->scope = scope;
    enum flow flow = execute(j, body);
    j->scope = outer;
    return flow;
}

/* Runs a body in a scope and returns its output as a string. */
static struct value capture(struct jinja *j, struct scope *scope, const struct node *body)
{
    struct builder text, *outer = j->out;
    builder_begin(&text, &j->w);
    j->out = &text;
    if (execute_in(j, scope, body) != FLOW_ON)
        jinja_fail(&j->w, "'break' or 'continue' outside of a loop");
    j->out = outer;
    return builder_end(&text);
}

static void assign(struct jinja *j, const struct node *target, struct value value)
{
    if (target->kind == NODE_NAME) {
        scope_set(j, target->text, value);
        return;
    }
    if (target->kind == NODE_ATTRIBUTE) {
        struct value object = jinja_evaluate(j, target->a);
        if (object.kind != VALUE_NAMESPACE)
            jinja_fail(&j->w, "cannot assign attribute on non-namespace object");
        dict_set(&j->w, object.dict, value_from_string(target->text), value);
        return;
    }
    struct list items = jinja_iterate(j, value);
    size_t i = 0;
    for (const struct node *part = target->first; part; part = part->next, i++) {
        if (i >= items.count)
            jinja_fail(&j->w, "not enough values to unpack: got %zu", items.count);
        jinja_enter(j);
        assign(j, part, items.items[i]);
        j->depth--;
    }
    if (i < items.count)
        jinja_fail(&j->w, "too many values to unpack: expected %zu, got %zu", i, items.count);
}

/* ---- macros -------------------------------------------------------------------------------------------------------
 */

static struct value macro_value(struct jinja *j, const struct node *macro)
{
    struct callable *callable = jinja_allocate(&j->w, sizeof *callable);
    callable->macro = macro;
    callable->scope = j->scope;
    return (struct value){.kind = VALUE_CALLABLE, .callable = callable};
}

struct value jinja_call_macro(struct jinja *j, const struct callable *callable, const struct arguments *arguments)
{
    const struct node *macro = callable->macro;
    int length = (int)MIN(macro->text->size, (size_t)60);
    jinja_enter(j);
    struct scope *outer = j->scope;
    j->scope = scope_new(j, callable->scope);
    size_t position = 0, named = 0;
    for (const struct node *parameter = macro->second; parameter; parameter = parameter->next, position++) {
        const struct value *given = dict_find_text(j, &arguments->named, parameter->text->bytes, parameter->text->size);
        struct value value;
        named += given != NULL;
        if (given && position < arguments->count)
            jinja_fail(&j->w, "macro '%.*s' got multiple values for argument '%.*s'", length, macro->text->bytes,
                       (int)MIN(parameter->text->size, (size_t)60), parameter->text->bytes);
        if (position < arguments->count)
            value = arguments->positional[position];
        else if (given)
            value = *given;
        else if (parameter->a)
            value = jinja_evaluate(j, parameter->a);
        else
            value = value_undefined(&j->w, "parameter '%.*s' was not provided",
                                    (int)MIN(parameter->text->size, (size_t)60), parameter->text->bytes);
        scope_set(j, parameter->text, value);
    }
    struct value *caller = dict_find_text(j, &arguments->named, "caller", 6);
    if (caller) {
        scope_set(j, value_from_text(&j->w, "caller").string, *caller);
        named++;
    }
    if (arguments->count > position && !macro->any_positional)
        jinja_fail(&j->w, "macro '%.*s' takes not more than %zu argument(s)", length, macro->text->bytes, position);
    if (arguments->named.count > named && !macro->any_named)
        jinja_fail(&j->w, "macro '%.*s' got an unexpected named argument", length, macro->text->bytes);
    if (macro->any_positional) {
        struct value rest = list_new(&j->w, LIST_TUPLE, 0);
        for (size_t i = position; i < arguments->count; i++)
            list_append(&j->w, rest.list, arguments->positional[i]);
        scope_set(j, value_from_text(&j->w, "varargs").string, rest);
    }
    if (macro->any_named) {
        struct value rest = dict_new(&j->w);
        struct scope own = {.variables = j->scope->variables};
        for (size_t i = 0; i < arguments->named.count; i++)
            if (!scope_find(j, &own, arguments->named.entries[i].key.string))
                dict_set(&j->w, rest.dict, arguments->named.entries[i].key, arguments->named.entries[i].value);
        scope_set(j, value_from_text(&j->w, "kwargs").string, rest);
    }
    struct value text = capture(j, j->scope, macro->first);
    j->scope = outer;
    j->depth--;
    return text;
}

/* ---- loops --------------------------------------------------------------------------------------------------------
 */

static void run_loop(struct jinja *j, const struct node *node, struct value iterable, struct scope *parent,
                     size_t depth)
{
    struct list items = jinja_iterate(j, iterable);
    struct scope *outer = j->scope;
    if (node->c) {
        struct value kept = list_new(&j->w, LIST_PLAIN, 0);
        for (size_t i = 0; i < items.count; i++) {
            j->scope = scope_new(j, parent);
            assign(j, node->a, items.items[i]);
            if (value_is_true(j, jinja_evaluate(j, node->c)))
                list_append(&j->w, kept.list, items.items[i]);
        }
        items = *kept.list;
    }
    struct loop *loop = jinja_allocate(&j->w, sizeof *loop);
    *loop = (struct loop){.items = items.items, .count = items.count, .depth = depth, .node = node, .scope = parent};
    const struct string *name = value_from_text(&j->w, "loop").string;
    for (; loop->index < items.count; loop->index++) {
        jinja_step(j, 1);
        j->scope = scope_new(j, parent);
        scope_set(j, name, (struct value){.kind = VALUE_LOOP, .loop = loop});
        assign(j, node->a, items.items[loop->index]);
        if (execute(j, node->first) == FLOW_BREAK)
            break;
    }
    j->scope = outer;
    if (items.count == 0)
        execute_in(j, scope_new(j, parent), node->second);
}

struct value jinja_call_loop(struct jinja *j, struct loop *loop, const struct arguments *arguments)
{
    if (!loop->node->recursive)
        jinja_fail(&j->w, "the loop must have the 'recursive' marker to be called");
    if (arguments->count != 1 || arguments->named.count)
        jinja_fail(&j->w, "loop() takes one argument");
    jinja_enter(j);
    struct builder text, *outer = j->out;
    builder_begin(&text, &j->w);
    j->out = &text;
    run_loop(j, loop->node, arguments->positional[0], loop->scope, loop->depth + 1);
    j->out = outer;
    j->depth--;
    return builder_end(&text);
}

/* ---- statements ---------------------------------------------------------------------------------------------------
 */

/* Evaluates an expression in which NODE_CAPTURED is the output of a body. */
static struct value filtered(struct jinja *j, const struct node *expression, const struct node *body)
{
    struct value outer = j->captured, text = capture(j, scope_new(j, j->scope), body);
    j->captured = text;
    struct value value = jinja_evaluate(j, expression);
    j->captured = outer;
    return value;
}

static void execute_call_block(struct jinja *j, const struct node *node)
{
    struct value macro = jinja_evaluate(j, node->a->a);
    struct arguments arguments = jinja_arguments(j, node->a->first);
    dict_set(&j->w, &arguments.named, value_from_text(&j->w, "caller"), macro_value(j, node->b));
    value_write(j, j->out, jinja_call(j, macro, &arguments));
}

static enum flow execute_one(struct jinja *j, const struct node *node)
{
    struct scope *scope;
    switch (node->kind) {
    case NODE_TEXT:
        builder_string(j->out, node->constant.string);
        return FLOW_ON;
    case NODE_OUTPUT:
        value_write(j, j->out, jinja_evaluate(j, node->a));
        return FLOW_ON;
    case NODE_IF:
        for (; node && node->kind == NODE_IF; node = node->second) {
            if (value_is_true(j, jinja_evaluate(j, node->a)))
                return execute(j, node->first);
            if (!node->second || !node->second->elif)
                return execute(j, node->second);
        }
        return FLOW_ON;
    case NODE_FOR:
        run_loop(j, node, jinja_evaluate(j, node->b), j->scope, 0);
        return FLOW_ON;
    case NODE_SET:
        assign(j, node->a, jinja_evaluate(j, node->b));
        return FLOW_ON;
    case NODE_SET_BLOCK:
        assign(j, node->a, filtered(j, node->b, node->first));
        return FLOW_ON;
    case NODE_FILTER_BLOCK:
        value_write(j, j->out, filtered(j, node->b, node->first));
        return FLOW_ON;
    case NODE_MACRO:
        scope_set(j, node->text, macro_value(j, node));
        return FLOW_ON;
    case NODE_CALL_BLOCK:
        execute_call_block(j, node);
        return FLOW_ON;
    case NODE_WITH:
        scope = scope_new(j, j->scope);
        for (const struct node *set = node->second; set; set = set->next) {
            struct value value = jinja_evaluate(j, set->b);
            struct scope *outer = j->scope;
            j->scope = scope;
            assign(j, set->a, value);
            j->scope = outer;
        }
        return execute_in(j, scope, node->first);
    case NODE_SCOPE:
        return execute_in(j, scope_new(j, j->scope), node->first);
    case NODE_DO:
        jinja_evaluate(j, node->a);
        return FLOW_ON;
    case NODE_BREAK:
        return FLOW_BREAK;
    case NODE_CONTINUE:
        return FLOW_CONTINUE;
    default:
        jinja_fail(&j->w, "expected a statement");
    }
}

static enum flow execute(struct jinja *j, const struct node *node)
{
    enum flow flow = FLOW_ON;
    jinja_enter(j);
    for (; node && flow == FLOW_ON; node = node->next) {
        jinja_step(j, 1);
        j->w.line = node->line;
        flow = execute_one(j, node);
    }
    j->depth--;
    return flow;
}

static void execute_program(struct jinja *j, const struct node *program)
{
    if (execute(j, program) != FLOW_ON)
        jinja_fail(&j->w, "'break' or 'continue' outside of a loop");
}

void jinja_render(struct jinja *j, const struct node *program, const json_t *variables, const json_t *trusted,
                  struct builder *out)
{
    struct value globals = value_from_json(&j->w, variables, true, 0);
    struct value own = trusted ? value_from_json(&j->w, trusted, false, 0) : dict_new(&j->w);
    if (globals.kind != VALUE_DICT || own.kind != VALUE_DICT)
        jinja_fail(&j->w, "the variables of a template must be a JSON object");
    for (size_t i = 0; i < own.dict->count; i++)
        dict_set(&j->w, globals.dict, own.dict->entries[i].key, own.dict->entries[i].value);
    j->globals = *globals.dict;
    j->scope = scope_new(j, NULL);
    builder_begin(out, &j->w);
    j->out = out;
    execute_program(j, program);
}
