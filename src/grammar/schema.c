/* From a JSON schema to GBNF. Keywords: https://json-schema.org/draft/2020-12. */
#include "grammar/grammar_private.h"

#include <string.h>

#define MAX_TEXT ((size_t)1 << 20)

static const char json_rules[] =
    "ws ::= \"\" | \" \" | \"\\n\" [ \\t]{0,20}\n"
    "hex ::= [0-9a-fA-F]\n"
    /* Halves of surrogate pairs come in pairs only. */
    "escape ::= \"\\\\\" ([\"\\\\/bfnrt] | \"u\" ([0-9a-ce-fA-CE-F] hex{3} | [dD] [0-7] hex{2} | "
    "[dD] [89abAB] hex{2} \"\\\\u\" [dD] [c-fC-F] hex{2}))\n"
    "char ::= [^\"\\\\\\x00-\\x1f\\x7f] | escape\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    "integral ::= \"0\" | [1-9] [0-9]{0,15}\n"
    "integer ::= \"-\"? integral\n"
    "number ::= \"-\"? integral (\".\" [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?\n"
    "boolean ::= \"true\" | \"false\"\n"
    "null ::= \"null\"\n"
    "member ::= string ws \":\" ws value ws\n"
    "object ::= \"{\" ws (member (\",\" ws member)*)? \"}\"\n"
    "array ::= \"[\" ws (value ws (\",\" ws value ws)*)? \"]\"\n"
    "value ::= object | array | string | number | boolean | null\n";

unsigned schema_new_rule(struct schema_writer *w)
{
    return w->rules++;
}

void schema_end_rule(struct schema_writer *w, unsigned rule, struct buffer *expression)
{
    if (expression->failed)
        w->out->failed = true;
    buffer_append_format(w->out, "r%u ::= ", rule);
    buffer_append(w->out, expression->data ? expression->data : "", expression->size);
    buffer_append_string(w->out, "\n");
    buffer_free(expression);
}

/* ---- arrays -------------------------------------------------------------------------------------------------------
 */

static hypura_status write_array(struct schema_writer *w, const json_t *schema, struct buffer *e)
{
    const json_t *items = json_object_get(schema, "items"), *prefix = json_object_get(schema, "prefixItems");
    json_int_t low, high;
    hypura_status status = schema_read_counts(w, schema, "minItems", "maxItems", &low, &high);
    if (status != HYPURA_OK)
        return status;
    if (json_is_array(items)) { /* the form of draft 7 */
        prefix = items;
        items = json_object_get(schema, "additionalItems");
    }
    json_int_t fixed = (json_int_t)json_array_size(prefix);
    if (high >= 0)
        fixed = MIN(fixed, high);
    bool more = prefix ? items && !json_is_false(items) : !json_is_false(items);
    if (status == HYPURA_OK && low > fixed && !more)
        return schema_refuse(w, "the JSON schema wants %s than its prefixItems", "more items");
    struct buffer list = {0};
    for (json_int_t i = 0; i < fixed && status == HYPURA_OK; i++) {
        buffer_append_string(&list, i ? "\",\" ws " : "");
        status = schema_write(w, json_array_get(prefix, (size_t)i), &list);
        buffer_append_string(&list, " ws ");
    }
    if (status == HYPURA_OK && more && (high < 0 || high > fixed)) {
        unsigned item = schema_new_rule(w);
        struct buffer body = {0};
        if (items)
            status = schema_write(w, items, &body);
        else
            buffer_append_string(&body, "value");
        buffer_append_string(&body, " ws");
        schema_end_rule(w, item, &body);
        json_int_t least = MAX(low - fixed, 0), most = high < 0 ? -1 : high - fixed;
        if (fixed) {
            buffer_append_format(&list, "(\",\" ws r%u)", item);
            schema_write_repeat(&list, least, most);
        } else {
            buffer_append_format(&list, "(r%u (\",\" ws r%u)", item, item);
            schema_write_repeat(&list, MAX(least - 1, 0), most < 0 ? -1 : most - 1);
            buffer_append_string(&list, least ? ")" : ")?");
        }
    }
    buffer_append_string(e, "\"[\" ws ");
    buffer_append(e, list.data ? list.data : "", list.size);
    buffer_append_string(e, " \"]\"");
    e->failed |= list.failed;
    buffer_free(&list);
    return status;
}

/* ---- schemas ------------------------------------------------------------------------------------------------------
 */

static hypura_status check_keywords(const struct schema_writer *w, const json_t *schema)
{
    static const char *const known[] = {"type",
                                        "enum",
                                        "const",
                                        "properties",
                                        "required",
                                        "additionalProperties",
                                        "items",
                                        "prefixItems",
                                        "minItems",
                                        "maxItems",
                                        "additionalItems",
                                        "minLength",
                                        "maxLength",
                                        "pattern",
                                        "format",
                                        "minimum",
                                        "maximum",
                                        "exclusiveMinimum",
                                        "exclusiveMaximum",
                                        "nullable",
                                        "$ref",
                                        "anyOf",
                                        "oneOf",
                                        "allOf"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)schema, key, value)
    {
        bool fine = schema_is_annotation(key) || (strcmp(key, "uniqueItems") == 0 && json_is_false(value));
        for (size_t i = 0; i < COUNT_OF(known) && !fine; i++)
            fine = strcmp(known[i], key) == 0;
        if (!fine)
            return schema_refuse(w, "the keyword \"%s\" of the JSON schema is not supported", key);
    }
    return HYPURA_OK;
}

/* The type that the other keywords speak of, when the schema does not say. */
static const char *guess_type(const json_t *schema)
{
    static const char *const words[][2] = {
        {"properties", "object"}, {"required", "object"},         {"additionalProperties", "object"},
        {"items", "array"},       {"prefixItems", "array"},       {"minItems", "array"},
        {"maxItems", "array"},    {"pattern", "string"},          {"minLength", "string"},
        {"maxLength", "string"},  {"format", "string"},           {"minimum", "number"},
        {"maximum", "number"},    {"exclusiveMinimum", "number"}, {"exclusiveMaximum", "number"}};
    for (size_t i = 0; i < COUNT_OF(words); i++)
        if (json_object_get(schema, words[i][0]))
            return words[i][1];
    return "any";
}

static hypura_status write_type(struct schema_writer *w, const json_t *schema, const char *type, struct buffer *e)
{
    if (strcmp(type, "object") == 0)
        return schema_write_object(w, schema, e);
    if (strcmp(type, "array") == 0)
        return write_array(w, schema, e);
    if (strcmp(type, "string") == 0)
        return schema_write_string(w, schema, e);
    if (strcmp(type, "number") == 0 || strcmp(type, "integer") == 0)
        return schema_write_number(w, schema, type[0] == 'i', e);
    if (strcmp(type, "boolean") == 0 || strcmp(type, "null") == 0)
        buffer_append_string(e, type);
    else if (strcmp(type, "any") == 0)
        buffer_append_string(e, "value");
    else
        return schema_refuse(w, "the JSON schema has the type \"%s\", which JSON has not", type);
    return HYPURA_OK;
}

static hypura_status write_types(struct schema_writer *w, const json_t *schema, struct buffer *e)
{
    const json_t *type = json_object_get(schema, "type");
    hypura_status status = HYPURA_OK;
    buffer_append_string(e, "(");
    if (json_is_array(type)) {
        for (size_t i = 0; i < json_array_size(type) && status == HYPURA_OK; i++) {
            const char *name = json_string_value(json_array_get(type, i));
            buffer_append_string(e, i ? " | " : "");
            status = write_type(w, schema, name ? name : "", e);
        }
    } else {
        const char *name = json_string_value(type);
        status = write_type(w, schema, type ? (name ? name : "") : guess_type(schema), e);
    }
    buffer_append_string(e, json_is_true(json_object_get(schema, "nullable")) ? " | null)" : ")");
    return status;
}

static hypura_status visit_object(struct schema_writer *w, const json_t *schema, struct buffer *e)
{
    hypura_status status = check_keywords(w, schema);
    if (status != HYPURA_OK)
        return status;
    const char *reference = json_string_value(json_object_get(schema, "$ref"));
    if (reference) {
        json_t *rest = NULL;
        status = schema_copy_without(w, schema, "$ref", &rest);
        if (status != HYPURA_OK || schema_is_plain(rest))
            return status == HYPURA_OK ? schema_write_reference(w, reference, e) : status;
        const json_t *target;
        status = schema_resolve(w, reference, &target);
        if (status == HYPURA_OK)
            status = schema_merge(w, rest, target);
        return status == HYPURA_OK ? schema_write(w, rest, e) : status;
    }
    if (json_object_get(schema, "allOf"))
        return schema_write_all(w, schema, "allOf", e);
    if (json_object_get(schema, "anyOf"))
        return schema_write_alternatives(w, schema, "anyOf", e);
    if (json_object_get(schema, "oneOf"))
        return schema_write_alternatives(w, schema, "oneOf", e);
    if (json_object_get(schema, "const"))
        return schema_write_constant(w, json_object_get(schema, "const"), e);
    if (json_object_get(schema, "enum"))
        return schema_write_enum(w, json_object_get(schema, "enum"), e);
    return write_types(w, schema, e);
}

/* Appends an expression for what a schema describes. */
hypura_status schema_write(struct schema_writer *w, const json_t *schema, struct buffer *expression)
{
    if (json_is_true(schema)) {
        buffer_append_string(expression, "value");
        return HYPURA_OK;
    }
    if (!json_is_object(schema))
        return schema_refuse(w, "a JSON schema must be an object or true, not %s",
                             json_is_false(schema) ? "false" : "this");
    if (++w->nesting > SCHEMA_MAX_NESTING)
        return schema_refuse(w, "the JSON schema is nested %s", "more than 100 levels deep");
    if (w->out->size > MAX_TEXT || expression->size > MAX_TEXT || w->out->failed || expression->failed)
        return schema_refuse(w, "the JSON schema is %s", "too large");
    hypura_status status = visit_object(w, schema, expression);
    w->nesting--;
    return status;
}

hypura_status grammar_schema_text(struct buffer *text, const json_t *schema, hypura_error *error)
{
    struct schema_writer w = {.root = schema, .out = text, .owned = json_array(), .error = error};
    struct buffer root = {0};
    buffer_append_string(text, json_rules);
    hypura_status status = schema_write(&w, schema, &root);
    buffer_append_string(text, "root ::= ");
    buffer_append(text, root.data ? root.data : "", root.size);
    buffer_append_string(text, "\n");
    if (status == HYPURA_OK && (text->failed || root.failed || text->size > MAX_TEXT))
        status = schema_refuse(&w, "the JSON schema is %s", "too large");
    buffer_free(&root);
    memory_free(w.known);
    json_decref(w.owned);
    return status;
}

hypura_status grammar_from_schema(struct grammar **out, const json_t *schema, hypura_error *error)
{
    struct buffer text = {0};
    hypura_status status = grammar_schema_text(&text, schema, error);
    if (status == HYPURA_OK)
        status = grammar_parse(out, text.data, text.size, error);
    buffer_free(&text);
    return status;
}

hypura_status grammar_json(struct grammar **out, hypura_error *error)
{
    struct buffer text = {0};
    buffer_append_string(&text, json_rules);
    buffer_append_string(&text, "root ::= object\n");
    hypura_status status = text.failed ? error_set(error, HYPURA_ERROR_MEMORY, "no memory for the grammar")
                                       : grammar_parse(out, text.data, text.size, error);
    buffer_free(&text);
    return status;
}
