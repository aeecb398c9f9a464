/* References within a JSON schema, and schemas that are combinations of others. */
#include "grammar/grammar_private.h"

#include <string.h>

/* The schema that "#/a/b" names. */
hypura_status schema_resolve(const struct schema_writer *w, const char *reference, const json_t **out)
{
    if (reference[0] != '#' || (reference[1] && reference[1] != '/'))
        return schema_refuse(w, "the JSON schema refers to \"%s\": only references within it (#/...) are supported",
                             reference);
    const json_t *at = w->root;
    for (const char *part = reference + 1; *part && at;) {
        char name[256];
        size_t length = 0;
        part++;
        for (; *part && *part != '/' && length + 1 < sizeof name; part++) {
            bool escaped = part[0] == '~' && (part[1] == '0' || part[1] == '1');
            name[length++] = escaped ? (part[1] == '0' ? '~' : '/') : *part;
            part += escaped;
        }
        name[length] = 0;
        at = json_is_array(at) ? json_array_get(at, (size_t)strtoul(name, NULL, 10)) : json_object_get(at, name);
    }
    if (!at)
        return schema_refuse(w, "the JSON schema refers to \"%s\", which it does not have", reference);
    *out = at;
    return HYPURA_OK;
}

/* The same schema is one rule, so that it may refer to itself. */
hypura_status schema_write_reference(struct schema_writer *w, const char *reference, struct buffer *e)
{
    const json_t *target;
    hypura_status status = schema_resolve(w, reference, &target);
    if (status != HYPURA_OK)
        return status;
    for (uint32_t i = 0; i < w->known_count; i++)
        if (w->known[i].schema == target) {
            buffer_append_format(e, "r%u", w->known[i].rule);
            return HYPURA_OK;
        }
    status = grammar_grow((void **)&w->known, w->known_count, &w->known_capacity, sizeof *w->known, 5000, w->error);
    if (status != HYPURA_OK)
        return status;
    unsigned rule = schema_new_rule(w);
    w->known[w->known_count++] = (struct known_schema){target, rule};
    struct buffer body = {0};
    status = schema_write(w, target, &body);
    schema_end_rule(w, rule, &body);
    buffer_append_format(e, "r%u", rule);
    return status;
}

bool schema_is_annotation(const char *key)
{
    static const char *const names[] = {"title",     "description", "default", "examples",    "example",    "$schema",
                                        "$id",       "$comment",    "$defs",   "definitions", "deprecated", "readOnly",
                                        "writeOnly", "$anchor",     "strict",  "name"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(names[i], key) == 0)
            return true;
    return strncmp(key, "x-", 2) == 0;
}

/* Adds what one schema asks for to another that is an object of our own. */
hypura_status schema_merge(struct schema_writer *w, json_t *into, const json_t *from)
{
    const char *key;
    json_t *value;
    if (!json_is_object(from))
        return schema_refuse(w, "the JSON schema has an %s that is not an object", "allOf or anyOf");
    const char *reference = json_string_value(json_object_get(from, "$ref"));
    hypura_status status = HYPURA_OK;
    if (reference) {
        const json_t *target;
        status = schema_resolve(w, reference, &target);
        if (status == HYPURA_OK && ++w->nesting > SCHEMA_MAX_NESTING)
            return schema_refuse(w, "the JSON schema is nested %s", "too deeply");
        if (status == HYPURA_OK)
            status = schema_merge(w, into, target);
        w->nesting--;
    }
    json_object_foreach((json_t *)from, key, value)
    {
        json_t *there = json_object_get(into, key);
        if (status != HYPURA_OK)
            return status;
        if (schema_is_annotation(key) || strcmp(key, "$ref") == 0)
            continue;
        int failed = 0;
        if (!there) {
            failed = json_object_set(into, key, value);
        } else if (strcmp(key, "properties") == 0 && json_is_object(there)) {
            json_t *both = json_copy(there);
            const char *name;
            json_t *schema;
            json_object_foreach(value, name, schema) if (json_object_get(both, name) &&
                                                         !json_equal(json_object_get(both, name), schema)) status =
                schema_refuse(w, "the JSON schema describes \"%s\" twice in its allOf", name);
            failed = json_object_update(both, value) | json_object_set_new(into, key, both);
        } else if (strcmp(key, "required") == 0 && json_is_array(there)) {
            json_t *both = json_copy(there);
            for (size_t i = 0; i < json_array_size(value); i++)
                if (!schema_is_required(both, schema_name_at(value, i)))
                    failed |= json_array_append(both, json_array_get(value, i));
            failed |= json_object_set_new(into, key, both);
        } else if (!json_equal(there, value)) {
            status = schema_refuse(w, "the JSON schema says two things about \"%s\" in its allOf or anyOf", key);
        }
        if (failed)
            status = error_set(w->error, HYPURA_ERROR_MEMORY, "no memory for the JSON schema");
    }
    return status;
}

/* A copy without some keys, owned by the writer. */
hypura_status schema_copy_without(struct schema_writer *w, const json_t *schema, const char *key, json_t **out)
{
    json_t *copy = json_copy((json_t *)schema);
    if (!copy || json_array_append_new(w->owned, copy) != 0)
        return error_set(w->error, HYPURA_ERROR_MEMORY, "no memory for the JSON schema");
    json_object_del(copy, key);
    *out = copy;
    return HYPURA_OK;
}

/* Whether a schema says nothing but annotations. */
bool schema_is_plain(const json_t *schema)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)schema, key, value) if (!schema_is_annotation(key)) return false;
    return true;
}

hypura_status schema_write_alternatives(struct schema_writer *w, const json_t *schema, const char *key,
                                        struct buffer *e)
{
    const json_t *list = json_object_get(schema, key);
    json_t *rest = NULL;
    if (json_array_size(list) == 0)
        return schema_refuse(w, "the \"%s\" of the JSON schema is not a list of schemas", key);
    hypura_status status = schema_copy_without(w, schema, key, &rest);
    buffer_append_string(e, "(");
    for (size_t i = 0; i < json_array_size(list) && status == HYPURA_OK; i++) {
        const json_t *option = json_array_get(list, i);
        buffer_append_string(e, i ? " | " : "");
        if (schema_is_plain(rest)) {
            status = schema_write(w, option, e);
            continue;
        }
        json_t *both = NULL;
        status = schema_copy_without(w, rest, "", &both);
        if (status == HYPURA_OK)
            status = schema_merge(w, both, option);
        if (status == HYPURA_OK)
            status = schema_write(w, both, e);
    }
    buffer_append_string(e, ")");
    return status;
}

hypura_status schema_write_all(struct schema_writer *w, const json_t *schema, const char *key, struct buffer *e)
{
    const json_t *list = json_object_get(schema, key);
    json_t *both = NULL;
    hypura_status status = schema_copy_without(w, schema, key, &both);
    for (size_t i = 0; i < json_array_size(list) && status == HYPURA_OK; i++)
        status = schema_merge(w, both, json_array_get(list, i));
    return status == HYPURA_OK ? schema_write(w, both, e) : status;
}
