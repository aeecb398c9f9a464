/* Compound values: conversion from JSON, comparison, search; lists. */
#include "template/template_private.h"

#include <math.h>
#include <string.h>

/* Whether a text can be a role such as "user", which a template may build into a token. */
static bool is_role_word(const char *text, size_t size)
{
    if (size > 64)
        return false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                    c == '-' || c == '.';
        if (!word)
            return false;
    }
    return true;
}

struct value value_from_json(struct workspace *w, const json_t *json, bool user, size_t depth)
{
    if (depth > 100)
        jinja_fail(w, "a variable is nested more than 100 levels deep");
    switch (json_typeof(json)) {
    case JSON_OBJECT: {
        struct value dict = dict_new(w);
        for (void *at = json_object_iter((json_t *)json); at; at = json_object_iter_next((json_t *)json, at)) {
            const char *key = json_object_iter_key(at);
            size_t key_size = json_object_iter_key_len(at);
            const json_t *member = json_object_iter_value(at);
            bool role = strcmp(key, "role") == 0 && json_is_string(member) &&
                        is_role_word(json_string_value(member), json_string_length(member));
            dict_set(w, dict.dict, value_from_bytes(w, key, key_size, user),
                     value_from_json(w, member, user && !role, depth + 1));
        }
        return dict;
    }
    case JSON_ARRAY: {
        size_t count = json_array_size(json);
        struct value list = list_new(w, LIST_PLAIN, count);
        for (size_t i = 0; i < count; i++)
            list_append(w, list.list, value_from_json(w, json_array_get(json, i), user, depth + 1));
        return list;
    }
    case JSON_STRING:
        return value_from_bytes(w, json_string_value(json), json_string_length(json), user);
    case JSON_INTEGER:
        return value_integer(json_integer_value(json));
    case JSON_REAL:
        return value_float(json_real_value(json));
    case JSON_TRUE:
        return value_boolean(true);
    case JSON_FALSE:
        return value_boolean(false);
    case JSON_NULL:
        break;
    }
    return value_none();
}

/* ---- comparison ---------------------------------------------------------------------------------------------------
 */

static bool lists_comparable(struct value a, struct value b)
{
    return a.list->type == b.list->type && a.list->type != LIST_GENERATOR;
}

bool value_equal(struct jinja *j, struct value a, struct value b)
{
    jinja_step(j, 1);
    if (value_is_number(a) && value_is_number(b)) {
        bool nan = (a.kind == VALUE_FLOAT && isnan(a.number)) || (b.kind == VALUE_FLOAT && isnan(b.number));
        return !nan && value_compare_numbers(a, b) == 0;
    }
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case VALUE_STRING:
        if (a.string->size != b.string->size)
            return false;
        jinja_step(j, a.string->size / 64);
        return memcmp(a.string->bytes, b.string->bytes, a.string->size) == 0;
    case VALUE_LIST: {
        if (a.list == b.list)
            return true;
        if (!lists_comparable(a, b) || a.list->count != b.list->count)
            return false;
        jinja_enter(j);
        bool equal = true;
        for (size_t i = 0; equal && i < a.list->count; i++)
            equal = value_equal(j, a.list->items[i], b.list->items[i]);
        j->depth--;
        return equal;
    }
    case VALUE_DICT: {
        if (a.dict == b.dict)
            return true;
        if (a.dict->count != b.dict->count)
            return false;
        jinja_enter(j);
        bool equal = true;
        for (size_t i = 0; equal && i < a.dict->count; i++) {
            const struct value *other = dict_find(j, b.dict, a.dict->entries[i].key);
            equal = other && value_equal(j, a.dict->entries[i].value, *other);
        }
        j->depth--;
        return equal;
    }
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_NAMESPACE:
        return a.dict == b.dict;
    case VALUE_CALLABLE:
        return a.callable == b.callable;
    case VALUE_LOOP:
        return a.loop == b.loop;
    case VALUE_CYCLER:
        return a.cycler == b.cycler;
    case VALUE_BOOLEAN:
    case VALUE_INTEGER:
    case VALUE_FLOAT:
        break; /* numbers: handled above */
    }
    return false;
}

int value_compare(struct jinja *j, struct value a, struct value b, const char *operation)
{
    jinja_step(j, 1);
    if (value_is_number(a) && value_is_number(b))
        return value_compare_numbers(a, b);
    if (a.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, a);
    if (b.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, b);
    if (a.kind == VALUE_STRING && b.kind == VALUE_STRING) {
        jinja_step(j, MIN(a.string->size, b.string->size) / 64);
        int order = memcmp(a.string->bytes, b.string->bytes, MIN(a.string->size, b.string->size));
        return order ? order : (a.string->size > b.string->size) - (a.string->size < b.string->size);
    }
    if (a.kind == VALUE_LIST && b.kind == VALUE_LIST && lists_comparable(a, b) && a.list->type <= LIST_TUPLE) {
        jinja_enter(j);
        int order = 0;
        for (size_t i = 0; order == 0 && i < MIN(a.list->count, b.list->count); i++)
            if (!value_equal(j, a.list->items[i], b.list->items[i]))
                order = value_compare(j, a.list->items[i], b.list->items[i], operation);
        j->depth--;
        return order ? order : (a.list->count > b.list->count) - (a.list->count < b.list->count);
    }
    jinja_fail(&j->w, "'%s' not supported between instances of '%s' and '%s'", operation, value_type_name(a),
               value_type_name(b));
}

bool value_contains(struct jinja *j, struct value container, struct value item)
{
    if (container.kind == VALUE_STRING) {
        if (item.kind == VALUE_UNDEFINED)
            value_fail_undefined(j, item);
        if (item.kind != VALUE_STRING)
            jinja_fail(&j->w, "'in <string>' requires string as left operand, not %s", value_type_name(item));
        jinja_step(j, container.string->size / 64);
        return string_find(container.string, item.string, 0, container.string->size) != SIZE_MAX;
    }
    if (container.kind == VALUE_DICT)
        return dict_find(j, container.dict, item) != NULL;
    struct list items = jinja_iterate(j, container);
    for (size_t i = 0; i < items.count; i++)
        if (value_equal(j, items.items[i], item))
            return true;
    return false;
}

/* ---- lists --------------------------------------------------------------------------------------------------------
 */

struct value list_new(struct workspace *w, enum list_type type, size_t capacity)
{
    struct list *list = jinja_allocate(w, sizeof *list);
    list->type = type;
    list->capacity = capacity;
    size_t bytes;
    if (!size_multiply(&bytes, capacity, sizeof *list->items))
        jinja_fail_memory(w);
    list->items = jinja_allocate(w, bytes);
    return (struct value){.kind = VALUE_LIST, .list = list};
}

void list_append(struct workspace *w, struct list *list, struct value item)
{
    list->items = jinja_grow(w, list->items, list->count, &list->capacity, 8, sizeof *list->items);
    list->items[list->count++] = item;
}

void list_turn_round(struct list *list)
{
    for (size_t i = 0; i < list->count / 2; i++) {
        struct value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
}

struct list jinja_iterate(struct jinja *j, struct value value)
{
    switch (value.kind) {
    case VALUE_LIST: {
        struct list items = *value.list;
        if (items.type == LIST_GENERATOR)
            value.list->count = 0;
        jinja_step(j, items.count);
        return items;
    }
    case VALUE_STRING: {
        const struct string *s = value.string;
        struct value list = list_new(&j->w, LIST_PLAIN, string_length(s));
        for (size_t at = 0; at < s->size;) {
            size_t next = utf8_next(s->bytes, s->size, at, NULL);
            jinja_step(j, 1);
            list_append(&j->w, list.list, string_part(&j->w, s, at, next));
            at = next;
        }
        return *list.list;
    }
    case VALUE_DICT: {
        struct value list = list_new(&j->w, LIST_PLAIN, value.dict->count);
        jinja_step(j, value.dict->count);
        for (size_t i = 0; i < value.dict->count; i++)
            list_append(&j->w, list.list, value.dict->entries[i].key);
        return *list.list;
    }
    case VALUE_UNDEFINED:
        return (struct list){.type = LIST_PLAIN};
    case VALUE_LOOP: {
        /* A loop iterates over its remaining items, like a Python iterator. */
        struct loop *loop = value.loop;
        struct list rest = {.type = LIST_PLAIN, .items = loop->items + MIN(loop->index + 1, loop->count)};
        rest.count = loop->count - MIN(loop->index + 1, loop->count);
        return rest;
    }
    default:
        jinja_fail(&j->w, "'%s' object is not iterable", value_type_name(value));
    }
}
