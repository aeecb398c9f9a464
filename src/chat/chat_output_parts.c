/* Helpers that all call parsers share: views of text, and lists of calls. */
#include "chat/chat_output_private.h"
#include "core/json_text.h"

#include <stdlib.h>
#include <string.h>

struct view view_trim(struct view v)
{
    while (v.size && strchr(" \t\r\n", v.text[0]) && v.text[0]) {
        v.text++;
        v.size--;
    }
    while (v.size && strchr(" \t\r\n", v.text[v.size - 1]) && v.text[v.size - 1])
        v.size--;
    return v;
}

bool view_begins(struct view v, const char *text)
{
    size_t length = strlen(text);
    return v.size >= length && memcmp(v.text, text, length) == 0;
}

bool view_split(struct view *rest, const char *mark, struct view *head)
{
    size_t length = strlen(mark);
    const char *found = rest->size ? memmem(rest->text, rest->size, mark, length) : NULL;
    if (!found)
        return false;
    *head = (struct view){rest->text, (size_t)(found - rest->text)};
    rest->size -= head->size + length;
    rest->text = found + length;
    return true;
}

bool view_split_value(struct view *rest, const char *mark, const char *next, struct view *head)
{
    struct view after = *rest, part;
    while (view_split(&after, mark, &part)) {
        const struct view follows = view_trim(after);
        if (follows.size && !view_begins(follows, next))
            continue;
        *head = (struct view){rest->text, (size_t)(after.text - rest->text) - strlen(mark)};
        *rest = after;
        return true;
    }
    return false;
}

/* ---- calls --------------------------------------------------------------------------------------------------------
 */

void chat_calls_free(struct chat_calls *calls)
{
    for (size_t i = 0; i < calls->count; i++) {
        memory_free(calls->items[i].name);
        free(calls->items[i].arguments);
    }
    memory_free(calls->items);
    *calls = (struct chat_calls){0};
}

/* Writes compact JSON whose numbers survive a round trip. */
static char *write_json(const json_t *value)
{
    char *text = json_text_write(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    json_t *again = text ? json_text_read_string(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
    if (text && !json_equal(again, value)) {
        free(text);
        text = json_text_write(value, JSON_COMPACT | JSON_ENCODE_ANY);
    }
    json_decref(again);
    return text;
}

bool chat_add_arguments(struct chat_calls *calls, const char *name, size_t name_size, const json_t *arguments)
{
    char *copy = NULL, *text = NULL;
    if (name_size == 0 || name_size > 256 || memchr(name, 0, name_size))
        return false;
    if (calls->count == calls->capacity) {
        size_t capacity = MAX(calls->capacity * 2, (size_t)4);
        if (memory_resize((void **)&calls->items, calls->capacity, capacity, sizeof *calls->items, "tool calls",
                          NULL) != HYPURA_OK)
            return false;
        calls->capacity = capacity;
    }
    text = arguments ? write_json(arguments) : strdup("{}");
    if (!text || ALLOCATE(&copy, name_size + 1, "tool call", NULL) != HYPURA_OK) {
        free(text);
        return false;
    }
    memcpy(copy, name, name_size);
    calls->items[calls->count++] = (struct chat_call){copy, text};
    return true;
}

json_t *view_json(struct view v)
{
    return v.size ? json_text_read(v.text, v.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
}

bool chat_add_call(struct chat_calls *calls, const char *name, size_t name_size, const char *arguments, size_t size)
{
    struct view text = view_trim((struct view){arguments, size});
    json_t *value = view_json(text);
    bool added = (value || text.size == 0) && chat_add_arguments(calls, name, name_size, value);
    json_decref(value);
    return added;
}

/* ---- parameters as text -------------------------------------------------------------------------------------------
 */

/* Returns the schema of a parameter from the tool's description, or NULL. */
static const json_t *parameter_schema(const json_t *tools, struct view tool, struct view parameter)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *entry = json_array_get(tools, i), *function = json_object_get(entry, "function");
        const json_t *description = function ? function : entry, *name = json_object_get(description, "name");
        if (!json_is_string(name) || json_string_length(name) != tool.size ||
            memcmp(json_string_value(name), tool.text, tool.size) != 0)
            continue;
        const json_t *properties = json_object_get(json_object_get(description, "parameters"), "properties");
        return json_object_getn(properties, parameter.text, parameter.size);
    }
    return NULL;
}

/* Whether a schema allows a type: directly, in a list, or in one of its alternatives. */
static bool allows(const json_t *schema, const char *type)
{
    static const char *const choices[] = {"anyOf", "oneOf"};
    const json_t *own = json_object_get(schema, "type");
    if (json_is_string(own) && strcmp(json_string_value(own), type) == 0)
        return true;
    for (size_t i = 0; i < json_array_size(own); i++)
        if (json_is_string(json_array_get(own, i)) && strcmp(json_string_value(json_array_get(own, i)), type) == 0)
            return true;
    for (size_t c = 0; c < COUNT_OF(choices); c++)
        for (size_t i = 0; i < json_array_size(json_object_get(schema, choices[c])); i++) {
            const json_t *one = json_array_get(json_object_get(schema, choices[c]), i);
            const json_t *its = json_object_get(one, "type");
            if (json_is_string(its) && strcmp(json_string_value(its), type) == 0)
                return true;
        }
    return false;
}

/* Whether the tool accepts this value as it is. If not, it expects the text as a string. */
static bool is_wanted(const json_t *schema, const json_t *value)
{
    return !allows(schema, "string") || (json_is_null(value) && allows(schema, "null")) ||
           (json_is_object(value) && allows(schema, "object")) || (json_is_array(value) && allows(schema, "array")) ||
           (json_is_boolean(value) && allows(schema, "boolean")) ||
           (json_is_number(value) && (allows(schema, "number") || allows(schema, "integer")));
}

bool chat_set_parameter(json_t *arguments, const json_t *tools, struct view tool, struct view key, struct view text)
{
    const json_t *schema = parameter_schema(tools, tool, key);
    const bool typed =
        json_object_get(schema, "type") || json_object_get(schema, "anyOf") || json_object_get(schema, "oneOf");
    json_t *value = view_json(view_trim(text));
    if (value && !is_wanted(schema, value)) {
        json_decref(value);
        value = NULL;
    }
    if (!value && allows(schema, "boolean"))
        value = view_begins(view_trim(text), "True")    ? json_true()
                : view_begins(view_trim(text), "False") ? json_false()
                                                        : NULL;
    if (!value || (json_is_string(value) && !typed)) {
        json_decref(value);
        value = json_stringn(text.text, text.size);
    }
    return json_object_setn_new(arguments, key.text, key.size, value) == 0;
}
