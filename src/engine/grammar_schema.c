/* From a JSON schema to GBNF. Keywords: https://json-schema.org/draft/2020-12. */
#include "engine/grammar_internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NESTING 100
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

static hypura_status visit(struct schema_writer *w, const json_t *schema, struct buffer *expression);

/* "NAME ::= EXPRESSION" goes out; the expression is freed. */
static unsigned new_rule(struct schema_writer *w)
{
    return w->rules++;
}

static void end_rule(struct schema_writer *w, unsigned rule, struct buffer *expression)
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
        status = visit(w, json_array_get(prefix, (size_t)i), &list);
        buffer_append_string(&list, " ws ");
    }
    if (status == HYPURA_OK && more && (high < 0 || high > fixed)) {
        unsigned item = new_rule(w);
        struct buffer body = {0};
        if (items)
            status = visit(w, items, &body);
        else
            buffer_append_string(&body, "value");
        buffer_append_string(&body, " ws");
        end_rule(w, item, &body);
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

/* ---- objects ------------------------------------------------------------------------------------------------------
 */

static bool is_required(const json_t *required, const char *name)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *other = json_string_value(json_array_get(required, i));
        if (other && strcmp(other, name) == 0)
            return true;
    }
    return false;
}

static const char *name_at(const json_t *names, size_t i)
{
    const char *name = json_string_value(json_array_get(names, i));
    return name ? name : "";
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The inside of a string that is none of the names from first to last, which share `at` bytes. Escapes are left out,
 * since a name could be spelt with them. */
static void write_other_names(struct buffer *e, const char **names, size_t first, size_t last, size_t at)
{
    static const char plain[] = "[^\"\\\\\\x00-\\x1f\\x7f]";
    bool ends = names[first][at] == 0; /* sorted, so it would be the first */
    size_t from = first + ends;
    buffer_append_string(e, "(");
    if (!ends)
        buffer_append_string(e, "\"\" | ");
    buffer_append_string(e, "[^\"\\\\\\x00-\\x1f\\x7f");
    for (size_t i = from; i <= last && from <= last;) {
        /* Names go on with these characters: whole ones, for a class has no bytes. */
        unsigned char lead = (unsigned char)names[i][at];
        size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4, next = i;
        while (next <= last && strncmp(names[next] + at, names[i] + at, length) == 0)
            next++;
        buffer_append_string(e, strchr("]\\-^[", (int)lead) ? "\\" : "");
        buffer_append(e, names[i] + at, strnlen(names[i] + at, length));
        i = next;
    }
    buffer_append_format(e, "] %s*", plain);
    for (size_t i = from; i <= last && from <= last;) {
        unsigned char lead = (unsigned char)names[i][at];
        size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4, next = i;
        while (next <= last && strncmp(names[next] + at, names[i] + at, length) == 0)
            next++;
        length = strnlen(names[i] + at, length);
        buffer_append_string(e, " | ");
        grammar_write_literal(e, names[i] + at, length);
        buffer_append_string(e, " ");
        write_other_names(e, names, i, next - 1, at + length);
        i = next;
    }
    buffer_append_string(e, ")");
}

static bool is_plain_text(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == '"' || *text == '\\' || *text == 0x7f)
            return false;
    return true;
}

/* Members with other names than the listed ones, as a rule. */
static hypura_status write_additional(struct schema_writer *w, const json_t *schema, const char **names, size_t count,
                                      unsigned *rule)
{
    struct buffer body = {0};
    hypura_status status = HYPURA_OK;
    *rule = new_rule(w);
    if (count == 0) {
        buffer_append_string(&body, "string");
    } else {
        const char **sorted = NULL;
        status = ALLOCATE(&sorted, count, "JSON schema", w->error);
        size_t kept = 0;
        for (size_t i = 0; i < count && status == HYPURA_OK; i++) {
            if (strlen(names[i]) >= 80)
                status =
                    schema_refuse(w,
                                  "the JSON schema has additional properties beside \"%.80s...\": names of 80 bytes or "
                                  "more are not supported there",
                                  names[i]);
            else if (is_plain_text(names[i])) /* others cannot come out of plain characters */
                sorted[kept++] = names[i];
        }
        if (status == HYPURA_OK && kept) {
            qsort(sorted, kept, sizeof *sorted, compare_names);
            buffer_append_string(&body, "\"\\\"\" ");
            write_other_names(&body, sorted, 0, kept - 1, 0);
            buffer_append_string(&body, " \"\\\"\"");
        } else {
            buffer_append_string(&body, "\"\\\"\" [^\"\\\\\\x00-\\x1f\\x7f]* \"\\\"\"");
        }
        memory_free(sorted);
    }
    buffer_append_string(&body, " ws \":\" ws ");
    if (status == HYPURA_OK && json_is_object(schema))
        status = visit(w, schema, &body);
    else
        buffer_append_string(&body, "value");
    buffer_append_string(&body, " ws");
    end_rule(w, *rule, &body);
    return status;
}

struct property {
    const char *name;
    const json_t *schema; /* NULL: any value */
    bool required;
    unsigned rule;
};

static hypura_status write_property(struct schema_writer *w, struct property *property)
{
    struct buffer body = {0};
    json_t *name = json_string(property->name);
    property->rule = new_rule(w);
    hypura_status status = name ? schema_write_constant(w, name, &body)
                                : error_set(w->error, HYPURA_ERROR_MEMORY, "no memory for the JSON schema");
    json_decref(name);
    buffer_append_string(&body, " ws \":\" ws ");
    if (status == HYPURA_OK && property->schema)
        status = visit(w, property->schema, &body);
    else
        buffer_append_string(&body, "value");
    buffer_append_string(&body, " ws");
    end_rule(w, property->rule, &body);
    return status;
}

/* The members in order, with commas between those that are there. */
static void write_members(struct schema_writer *w, const struct property *properties, size_t count, bool more,
                          unsigned additional, struct buffer *e)
{
    /* after: what may follow once there was a member, as rules from the last to the first. */
    struct buffer body = {0};
    unsigned after = new_rule(w), before;
    if (more)
        buffer_append_format(&body, "(\",\" ws r%u)*", additional);
    else
        buffer_append_string(&body, "\"\"");
    end_rule(w, after, &body);
    /* before: what may come while there was none. */
    before = new_rule(w);
    body = (struct buffer){0};
    if (more)
        buffer_append_format(&body, "(r%u r%u)?", additional, after);
    else
        buffer_append_string(&body, "\"\"");
    end_rule(w, before, &body);
    for (size_t i = count; i-- > 0;) {
        unsigned next_after = new_rule(w), next_before = new_rule(w);
        const struct property *p = &properties[i];
        body = (struct buffer){0};
        buffer_append_format(&body, p->required ? "\",\" ws r%u r%u" : "(\",\" ws r%u)? r%u", p->rule, after);
        end_rule(w, next_after, &body);
        body = (struct buffer){0};
        buffer_append_format(&body, "r%u r%u", p->rule, after);
        if (!p->required)
            buffer_append_format(&body, " | r%u", before);
        end_rule(w, next_before, &body);
        after = next_after;
        before = next_before;
    }
    buffer_append_format(e, "\"{\" ws r%u \"}\"", before);
}

static hypura_status write_object(struct schema_writer *w, const json_t *schema, struct buffer *e)
{
    const json_t *listed = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const json_t *others = json_object_get(schema, "additionalProperties");
    size_t count = json_object_size(listed), room = count + json_array_size(required);
    struct property *properties = NULL;
    const char **names = NULL;
    if ((listed && !json_is_object(listed)) || (required && !json_is_array(required)))
        return schema_refuse(w, "the \"%s\" of the JSON schema is not of the right type", "properties or required");
    bool more = others ? !json_is_false(others) : room == 0;
    if (room == 0 && more && !json_is_object(others)) {
        buffer_append_string(e, "object");
        return HYPURA_OK;
    }
    hypura_status status = ALLOCATE(&properties, room, "JSON schema", w->error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&names, room, "JSON schema", w->error);
    count = 0;
    const char *key;
    json_t *value;
    if (status == HYPURA_OK)
        json_object_foreach((json_t *)listed, key, value) properties[count++] =
            (struct property){key, value, is_required(required, key), 0};
    for (size_t i = 0; i < json_array_size(required) && status == HYPURA_OK; i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name)
            status = schema_refuse(w, "the JSON schema has a \"%s\" that is not a list of names", "required");
        else if (!json_object_get(listed, name) && json_is_false(others))
            status = schema_refuse(w, "the JSON schema requires \"%s\" but does not allow it", name);
        else if (!json_object_get(listed, name))
            properties[count++] = (struct property){name, json_is_object(others) ? others : NULL, true, 0};
    }
    for (size_t i = 0; i < count && status == HYPURA_OK; i++) {
        names[i] = properties[i].name;
        status = write_property(w, &properties[i]);
    }
    unsigned additional = 0;
    if (status == HYPURA_OK && more)
        status = write_additional(w, others, names, count, &additional);
    if (status == HYPURA_OK)
        write_members(w, properties, count, more, additional, e);
    memory_free(properties);
    memory_free(names);
    return status;
}

/* ---- references and combinations ----------------------------------------------------------------------------------
 */

/* The schema that "#/a/b" names. */
static hypura_status resolve(const struct schema_writer *w, const char *reference, const json_t **out)
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
static hypura_status write_reference(struct schema_writer *w, const char *reference, struct buffer *e)
{
    const json_t *target;
    hypura_status status = resolve(w, reference, &target);
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
    unsigned rule = new_rule(w);
    w->known[w->known_count++] = (struct known_schema){target, rule};
    struct buffer body = {0};
    status = visit(w, target, &body);
    end_rule(w, rule, &body);
    buffer_append_format(e, "r%u", rule);
    return status;
}

static bool is_annotation(const char *key)
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
static hypura_status merge(struct schema_writer *w, json_t *into, const json_t *from)
{
    const char *key;
    json_t *value;
    if (!json_is_object(from))
        return schema_refuse(w, "the JSON schema has an %s that is not an object", "allOf or anyOf");
    const char *reference = json_string_value(json_object_get(from, "$ref"));
    hypura_status status = HYPURA_OK;
    if (reference) {
        const json_t *target;
        status = resolve(w, reference, &target);
        if (status == HYPURA_OK && ++w->nesting > MAX_NESTING)
            return schema_refuse(w, "the JSON schema is nested %s", "too deeply");
        if (status == HYPURA_OK)
            status = merge(w, into, target);
        w->nesting--;
    }
    json_object_foreach((json_t *)from, key, value)
    {
        json_t *there = json_object_get(into, key);
        if (status != HYPURA_OK)
            return status;
        if (is_annotation(key) || strcmp(key, "$ref") == 0)
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
                if (!is_required(both, name_at(value, i)))
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
static hypura_status copy_without(struct schema_writer *w, const json_t *schema, const char *key, json_t **out)
{
    json_t *copy = json_copy((json_t *)schema);
    if (!copy || json_array_append_new(w->owned, copy) != 0)
        return error_set(w->error, HYPURA_ERROR_MEMORY, "no memory for the JSON schema");
    json_object_del(copy, key);
    *out = copy;
    return HYPURA_OK;
}

/* Whether a schema says nothing but annotations. */
static bool is_plain(const json_t *schema)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)schema, key, value) if (!is_annotation(key)) return false;
    return true;
}

static hypura_status write_alternatives(struct schema_writer *w, const json_t *schema, const char *key,
                                        struct buffer *e)
{
    const json_t *list = json_object_get(schema, key);
    json_t *rest = NULL;
    if (json_array_size(list) == 0)
        return schema_refuse(w, "the \"%s\" of the JSON schema is not a list of schemas", key);
    hypura_status status = copy_without(w, schema, key, &rest);
    buffer_append_string(e, "(");
    for (size_t i = 0; i < json_array_size(list) && status == HYPURA_OK; i++) {
        const json_t *option = json_array_get(list, i);
        buffer_append_string(e, i ? " | " : "");
        if (is_plain(rest)) {
            status = visit(w, option, e);
            continue;
        }
        json_t *both = NULL;
        status = copy_without(w, rest, "", &both);
        if (status == HYPURA_OK)
            status = merge(w, both, option);
        if (status == HYPURA_OK)
            status = visit(w, both, e);
    }
    buffer_append_string(e, ")");
    return status;
}

static hypura_status write_all(struct schema_writer *w, const json_t *schema, const char *key, struct buffer *e)
{
    const json_t *list = json_object_get(schema, key);
    json_t *both = NULL;
    hypura_status status = copy_without(w, schema, key, &both);
    for (size_t i = 0; i < json_array_size(list) && status == HYPURA_OK; i++)
        status = merge(w, both, json_array_get(list, i));
    return status == HYPURA_OK ? visit(w, both, e) : status;
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
        bool fine = is_annotation(key) || (strcmp(key, "uniqueItems") == 0 && json_is_false(value));
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
        return write_object(w, schema, e);
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
        status = copy_without(w, schema, "$ref", &rest);
        if (status != HYPURA_OK || is_plain(rest))
            return status == HYPURA_OK ? write_reference(w, reference, e) : status;
        const json_t *target;
        status = resolve(w, reference, &target);
        if (status == HYPURA_OK)
            status = merge(w, rest, target);
        return status == HYPURA_OK ? visit(w, rest, e) : status;
    }
    if (json_object_get(schema, "allOf"))
        return write_all(w, schema, "allOf", e);
    if (json_object_get(schema, "anyOf"))
        return write_alternatives(w, schema, "anyOf", e);
    if (json_object_get(schema, "oneOf"))
        return write_alternatives(w, schema, "oneOf", e);
    if (json_object_get(schema, "const"))
        return schema_write_constant(w, json_object_get(schema, "const"), e);
    if (json_object_get(schema, "enum"))
        return schema_write_enum(w, json_object_get(schema, "enum"), e);
    return write_types(w, schema, e);
}

/* Appends an expression for what a schema describes. */
static hypura_status visit(struct schema_writer *w, const json_t *schema, struct buffer *expression)
{
    if (json_is_true(schema)) {
        buffer_append_string(expression, "value");
        return HYPURA_OK;
    }
    if (!json_is_object(schema))
        return schema_refuse(w, "a JSON schema must be an object or true, not %s",
                             json_is_false(schema) ? "false" : "this");
    if (++w->nesting > MAX_NESTING)
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
    hypura_status status = visit(&w, schema, &root);
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
