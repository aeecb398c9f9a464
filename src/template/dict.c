/* Dicts of the template language: entries in order of insertion, with an open-addressed index. */
#include "template/template_private.h"

#include <string.h>

struct value dict_new(struct workspace *w)
{
    return (struct value){.kind = VALUE_DICT, .dict = jinja_allocate(w, sizeof(struct dict))};
}

static uint64_t hash_bytes(const void *bytes, size_t size)
{
    uint64_t hash = fnv1a(FNV1A_START, bytes, size);
    return hash ^ (hash >> 29);
}

/* Equal numbers have equal hashes, whatever their type. */
static uint64_t hash_value(struct workspace *w, struct value key, size_t depth)
{
    switch (key.kind) {
    case VALUE_STRING:
        workspace_step(w, key.string->size / 16);
        return hash_bytes(key.string->bytes, key.string->size);
    case VALUE_BOOLEAN:
    case VALUE_INTEGER:
    case VALUE_FLOAT: {
        double number = value_as_number(key) + 0.0; /* turns -0 into 0 */
        return hash_bytes(&number, sizeof number);
    }
    case VALUE_LIST:
        if (key.list->type == LIST_TUPLE && depth < 50) {
            uint64_t hash = key.list->count;
            workspace_step(w, key.list->count);
            for (size_t i = 0; i < key.list->count; i++)
                hash = hash * 31 + hash_value(w, key.list->items[i], depth + 1);
            return hash;
        }
        jinja_fail(w, "unhashable type: '%s'", value_type_name(key));
    case VALUE_DICT:
        jinja_fail(w, "unhashable type: 'dict'");
    default:
        return (uint64_t)key.kind;
    }
}

static bool keys_equal(struct workspace *w, const struct value *a, const struct value *b)
{
    if (a->kind == VALUE_STRING && b->kind == VALUE_STRING) {
        if (a->string->size != b->string->size)
            return false;
        workspace_step(w, 1 + a->string->size / 64);
        return memcmp(a->string->bytes, b->string->bytes, a->string->size) == 0;
    }
    if (value_is_number(*a) && value_is_number(*b))
        return value_compare_numbers(*a, *b) == 0;
    if (a->kind == VALUE_LIST && b->kind == VALUE_LIST && a->list->count == b->list->count) {
        workspace_step(w, a->list->count);
        for (size_t i = 0; i < a->list->count; i++)
            if (!keys_equal(w, &a->list->items[i], &b->list->items[i]))
                return false;
        return true;
    }
    return a->kind == b->kind && (a->kind == VALUE_NONE || a->kind == VALUE_UNDEFINED);
}

static size_t find_entry(struct workspace *w, const struct dict *dict, const struct value *key, uint64_t hash)
{
    if (!dict->slots) {
        for (size_t i = 0; i < dict->count; i++)
            if (dict->entries[i].hash == hash && keys_equal(w, &dict->entries[i].key, key))
                return i;
        return SIZE_MAX;
    }
    size_t mask = dict->slot_count - 1, seen = 0;
    for (size_t slot = hash & mask; dict->slots[slot]; slot = (slot + 1) & mask) {
        size_t i = dict->slots[slot] - 1;
        if (++seen % 32 == 0) /* keys may be crafted to collide */
            workspace_step(w, 1);
        if (dict->entries[i].hash == hash && keys_equal(w, &dict->entries[i].key, key))
            return i;
    }
    return SIZE_MAX;
}

static void index_entry(struct dict *dict, size_t i)
{
    size_t slot = dict->entries[i].hash & (dict->slot_count - 1);
    while (dict->slots[slot])
        slot = (slot + 1) & (dict->slot_count - 1);
    dict->slots[slot] = (uint32_t)i + 1;
}

static void index_all(struct workspace *w, struct dict *dict)
{
    dict->slots = NULL;
    if (dict->capacity <= 8)
        return;
    dict->slot_count = dict->capacity * 2;
    dict->slots = jinja_allocate(w, dict->slot_count * sizeof *dict->slots);
    for (size_t i = 0; i < dict->count; i++)
        index_entry(dict, i);
}

struct value *dict_find(struct jinja *j, const struct dict *dict, struct value key)
{
    size_t i = find_entry(&j->w, dict, &key, hash_value(&j->w, key, 0));
    return i == SIZE_MAX ? NULL : &dict->entries[i].value;
}

struct value *dict_find_text(struct jinja *j, const struct dict *dict, const char *text, size_t size)
{
    struct string string = {.bytes = text, .size = size};
    struct value key = value_from_string(&string);
    size_t i = find_entry(&j->w, dict, &key, hash_bytes(text, size));
    return i == SIZE_MAX ? NULL : &dict->entries[i].value;
}

void dict_set(struct workspace *w, struct dict *dict, struct value key, struct value value)
{
    uint64_t hash = hash_value(w, key, 0);
    size_t i = find_entry(w, dict, &key, hash);
    if (i != SIZE_MAX) {
        dict->entries[i].value = value;
        return;
    }
    size_t before = dict->capacity;
    dict->entries = jinja_grow(w, dict->entries, dict->count, &dict->capacity, 8, sizeof *dict->entries);
    if (dict->capacity != before)
        index_all(w, dict);
    dict->entries[dict->count] = (struct dict_entry){key, value, hash};
    if (dict->slots)
        index_entry(dict, dict->count);
    dict->count++;
}

bool dict_remove(struct workspace *w, struct dict *dict, struct value key)
{
    size_t i = find_entry(w, dict, &key, hash_value(w, key, 0));
    if (i == SIZE_MAX)
        return false;
    memmove(&dict->entries[i], &dict->entries[i + 1], (dict->count - i - 1) * sizeof *dict->entries);
    dict->count--;
    index_all(w, dict);
    return true;
}
