/* Objects of a JSON schema as GBNF: listed properties in their order, others by names that differ from these. */
#include "grammar/grammar_private.h"

#include <stdlib.h>
#include <string.h>

bool schema_is_required(const json_t *required, const char *name)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *other = json_string_value(json_array_get(required, i));
        if (other && strcmp(other, name) == 0)
            return true;
    }
    return false;
}

const char *schema_name_at(const json_t *names, size_t i)
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
    *rule = schema_new_rule(w);
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
        status = schema_write(w, schema, &body);
    else
        buffer_append_string(&body, "value");
    buffer_append_string(&body, " ws");
    schema_end_rule(w, *rule, &body);
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
    property->rule = schema_new_rule(w);
    hypura_status status = name ? schema_write_constant(w, name, &body)
                                : error_set(w->error, HYPURA_ERROR_MEMORY, "no memory for the JSON schema");
    json_decref(name);
    buffer_append_string(&body, " ws \":\" ws ");
    if (status == HYPURA_OK && property->schema)
        status = schema_write(w, property->schema, &body);
    else
        buffer_append_string(&body, "value");
    buffer_append_string(&body, " ws");
    schema_end_rule(w, property->rule, &body);
    return status;
}

/* The members in order, with commas between those that are there. */
static void write_members(struct schema_writer *w, const struct property *properties, size_t count, bool more,
                          unsigned additional, struct buffer *e)
{
    /* after: what may follow once there was a member, as rules from the last to the first. */
    struct buffer body = {0};
    unsigned after = schema_new_rule(w), before;
    if (more)
        buffer_append_format(&body, "(\",\" ws r%u)*", additional);
    else
        buffer_append_string(&body, "\"\"");
    schema_end_rule(w, after, &body);
    /* before: what may come while there was none. */
    before = schema_new_rule(w);
    body = (struct buffer){0};
    if (more)
        buffer_append_format(&body, "(r%u r%u)?", additional, after);
    else
        buffer_append_string(&body, "\"\"");
    schema_end_rule(w, before, &body);
    for (size_t i = count; i-- > 0;) {
        unsigned next_after = schema_new_rule(w), next_before = schema_new_rule(w);
        const struct property *p = &properties[i];
        body = (struct buffer){0};
        buffer_append_format(&body, p->required ? "\",\" ws r%u r%u" : "(\",\" ws r%u)? r%u", p->rule, after);
        schema_end_rule(w, next_after, &body);
        body = (struct buffer){0};
        buffer_append_format(&body, "r%u r%u", p->rule, after);
        if (!p->required)
            buffer_append_format(&body, " | r%u", before);
        schema_end_rule(w, next_before, &body);
        after = next_after;
        before = next_before;
    }
    buffer_append_format(e, "\"{\" ws r%u \"}\"", before);
}

hypura_status schema_write_object(struct schema_writer *w, const json_t *schema, struct buffer *e)
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
            (struct property){key, value, schema_is_required(required, key), 0};
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
