/* The filters of sequences and mappings: select, map, sort, sum and so on. */
#include "template/template_private.h"

#include <string.h>

typedef const struct arguments *args;

static bool given(struct value value)
{
    return value.kind != VALUE_MISSING;
}

static bool argument_true(struct jinja *j, struct value value, bool otherwise)
{
    return given(value) ? value_is_true(j, value) : otherwise;
}

static struct value generator(struct jinja *j, size_t capacity)
{
    return list_new(&j->w, LIST_GENERATOR, capacity);
}

/* ---- sequences ----------------------------------------------------------------------------------------------------
 */

static struct value filter_length(struct jinja *j, struct value self, args a)
{
    (void)a;
    if (self.kind == VALUE_STRING) {
        jinja_step_characters(j, self.string);
        return value_integer((int64_t)string_length(self.string));
    }
    if (self.kind == VALUE_DICT)
        return value_integer((int64_t)self.dict->count);
    if (self.kind == VALUE_LIST && self.list->type != LIST_GENERATOR)
        return value_integer((int64_t)self.list->count);
    if (self.kind == VALUE_LOOP)
        return value_integer((int64_t)self.loop->count);
    if (self.kind == VALUE_UNDEFINED)
        return value_integer(0);
    jinja_fail(&j->w, "object of type '%s' has no len()", value_type_name(self));
}

static struct value filter_list(struct jinja *j, struct value self, args a)
{
    (void)a;
    struct list items = jinja_iterate(j, self);
    struct value list = list_new(&j->w, LIST_PLAIN, items.count);
    for (size_t i = 0; i < items.count; i++)
        list_append(&j->w, list.list, items.items[i]);
    return list;
}

static struct value filter_first(struct jinja *j, struct value self, args a)
{
    (void)a;
    struct list items = jinja_iterate(j, self);
    return items.count ? items.items[0] : value_undefined(&j->w, "No first item, sequence was empty.");
}

static struct value filter_last(struct jinja *j, struct value self, args a)
{
    (void)a;
    if (self.kind == VALUE_LIST && self.list->type == LIST_GENERATOR)
        jinja_fail(&j->w, "'generator' object is not reversible");
    struct list items = jinja_iterate(j, self);
    return items.count ? items.items[items.count - 1] : value_undefined(&j->w, "No last item, sequence was empty.");
}

static struct value filter_reverse(struct jinja *j, struct value self, args a)
{
    (void)a;
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, items.count);
    for (size_t i = items.count; i-- > 0;)
        list_append(&j->w, list.list, items.items[i]);
    if (self.kind != VALUE_STRING)
        return list;
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t i = 0; i < list.list->count; i++)
        builder_string(&b, list.list->items[i].string);
    return builder_end(&b);
}

/* Returns item["a"]["b"] for the attribute "a.b"; a part of digits is an index. `otherwise` replaces undefined values.
 */
static struct value attribute_path(struct jinja *j, struct value item, struct value attribute, struct value otherwise)
{
    if (!given(attribute) || attribute.kind == VALUE_NONE)
        return item;
    if (attribute.kind != VALUE_STRING)
        return jinja_item(j, item, attribute);
    const struct string *path = attribute.string;
    for (size_t start = 0; start <= path->size;) {
        const char *dot = memchr(path->bytes + start, '.', path->size - start);
        size_t end = dot ? (size_t)(dot - path->bytes) : path->size;
        struct value part = string_part(&j->w, path, start, end);
        bool digits = end > start && end - start < 10;
        int64_t index = 0;
        for (size_t i = start; i < end && digits; i++) {
            digits = path->bytes[i] >= '0' && path->bytes[i] <= '9';
            index = index * 10 + (path->bytes[i] - '0');
        }
        if (digits)
            part = value_integer(index);
        item = jinja_item(j, item, part);
        if (item.kind == VALUE_UNDEFINED && given(otherwise))
            item = otherwise;
        start = end + 1;
    }
    return item;
}

/* Returns the arguments from `from` on, for a filter or test that an earlier argument names. */
static struct arguments rest_of(args a, size_t from)
{
    size_t skip = MIN(from, a->count);
    struct arguments rest = {.count = a->count - skip, .named = a->named};
    if (rest.count)
        rest.positional = a->positional + skip;
    return rest;
}

/* Like Jinja's, map and the selections ignore their arguments if the input is false, and return nothing. */
static struct value filter_map(struct jinja *j, struct value self, args a)
{
    if (!value_is_true(j, self))
        return generator(j, 0);
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, items.count);
    const struct value *attribute = dict_find_text(j, &a->named, "attribute", 9);
    const struct value *otherwise = dict_find_text(j, &a->named, "default", 7);
    if (a->count == 0 && attribute) {
        for (size_t i = 0; i < items.count; i++)
            list_append(&j->w, list.list,
                        attribute_path(j, items.items[i], *attribute, otherwise ? *otherwise : (struct value){0}));
        return list;
    }
    if (a->count == 0)
        jinja_fail(&j->w, "map requires a filter argument");
    const struct string *name = argument_string(j, a->positional[0], "the filter of map");
    const struct builtin *filter = jinja_find_filter(name);
    if (!filter)
        jinja_fail(&j->w, "no filter named '%.*s'", (int)MIN(name->size, (size_t)60), name->bytes);
    struct arguments rest = rest_of(a, 1);
    for (size_t i = 0; i < items.count; i++)
        list_append(&j->w, list.list, jinja_call_builtin(j, filter, items.items[i], &rest));
    return list;
}

static struct value select_items(struct jinja *j, struct value self, args a, bool by_attribute, bool wanted)
{
    if (!value_is_true(j, self))
        return generator(j, 0);
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, items.count);
    size_t at = by_attribute ? 1 : 0;
    if (a->count < at)
        jinja_fail(&j->w, "missing parameter for attribute name");
    const struct builtin *test = NULL;
    if (a->count > at) {
        const struct string *name = argument_string(j, a->positional[at], "the test of a selection");
        test = jinja_find_test(name);
        if (!test)
            jinja_fail(&j->w, "no test named '%.*s'", (int)MIN(name->size, (size_t)60), name->bytes);
    }
    struct arguments rest = rest_of(a, at + 1);
    for (size_t i = 0; i < items.count; i++) {
        struct value item = items.items[i];
        if (by_attribute)
            item = attribute_path(j, item, a->positional[0], (struct value){0});
        if (test)
            item = jinja_call_builtin(j, test, item, &rest);
        if (value_is_true(j, item) == wanted)
            list_append(&j->w, list.list, items.items[i]);
    }
    return list;
}

static struct value filter_select(struct jinja *j, struct value self, args a)
{
    return select_items(j, self, a, false, true);
}

static struct value filter_reject(struct jinja *j, struct value self, args a)
{
    return select_items(j, self, a, false, false);
}

static struct value filter_selectattr(struct jinja *j, struct value self, args a)
{
    return select_items(j, self, a, true, true);
}

static struct value filter_rejectattr(struct jinja *j, struct value self, args a)
{
    return select_items(j, self, a, true, false);
}

static struct value filter_join(struct jinja *j, struct value self, args a)
{
    const struct string *separator = given(a->positional[0]) ? value_string(j, a->positional[0]) : NULL;
    struct list items = jinja_iterate(j, self);
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t i = 0; i < items.count; i++) {
        if (i && separator)
            builder_string(&b, separator);
        value_write(j, &b, attribute_path(j, items.items[i], a->positional[1], (struct value){0}));
    }
    return builder_end(&b);
}

static struct value filter_sum(struct jinja *j, struct value self, args a)
{
    struct value sum = given(a->positional[1]) ? a->positional[1] : value_integer(0);
    struct list items = jinja_iterate(j, self);
    for (size_t i = 0; i < items.count; i++)
        sum =
            jinja_binary(j, OPERATION_ADD, sum, attribute_path(j, items.items[i], a->positional[0], (struct value){0}));
    return sum;
}

/* ---- sorting ------------------------------------------------------------------------------------------------------
 */

static struct value fold_case(struct jinja *j, struct value value, bool case_sensitive)
{
    return value.kind == VALUE_STRING && !case_sensitive ? jinja_call_method(j, value, "lower", &(struct arguments){0})
                                                         : value;
}

/* Sorts items by keys. The sort is stable. */
static void merge_sort(struct jinja *j, struct value *items, struct value *keys, size_t count, bool reverse)
{
    struct value *from_items = items, *from_keys = keys;
    struct value *to_items = jinja_allocate(&j->w, count * sizeof *items);
    struct value *to_keys = jinja_allocate(&j->w, count * sizeof *keys);
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t a = start, middle = MIN(start + width, count), b = middle, end = MIN(start + 2 * width, count);
            for (size_t to = start; to < end; to++) {
                bool first = b >= end;
                if (!first && a < middle) {
                    int order = value_compare(j, from_keys[b], from_keys[a], "<");
                    first = reverse ? order <= 0 : order >= 0;
                }
                size_t from = first ? a++ : b++;
                to_items[to] = from_items[from];
                to_keys[to] = from_keys[from];
            }
        }
        struct value *swap = from_items;
        from_items = to_items;
        to_items = swap;
        swap = from_keys;
        from_keys = to_keys;
        to_keys = swap;
    }
    if (from_items != items && count) {
        memcpy(items, from_items, count * sizeof *items);
        memcpy(keys, from_keys, count * sizeof *keys);
    }
}

static struct value filter_sort(struct jinja *j, struct value self, args a)
{
    bool reverse = argument_true(j, a->positional[0], false), sensitive = argument_true(j, a->positional[1], false);
    struct value attribute = a->positional[2];
    struct value list = filter_list(j, self, NULL);
    size_t count = list.list->count;
    struct value *keys = jinja_allocate(&j->w, count * sizeof *keys);
    /* Keys are lists: comparing equal ones never orders None or undefined values, which would fail. */
    struct value comma = value_from_text(&j->w, ","), names = list_new(&j->w, LIST_PLAIN, 1);
    if (attribute.kind == VALUE_STRING)
        names = jinja_call_method(j, attribute, "split", &(struct arguments){.positional = &comma, .count = 1});
    else
        list_append(&j->w, names.list, attribute);
    for (size_t i = 0; i < count; i++) {
        keys[i] = list_new(&j->w, LIST_PLAIN, names.list->count);
        for (size_t k = 0; k < names.list->count; k++) {
            struct value part = attribute_path(j, list.list->items[i], names.list->items[k], (struct value){0});
            list_append(&j->w, keys[i].list, fold_case(j, part, sensitive));
        }
    }
    merge_sort(j, list.list->items, keys, count, reverse);
    return list;
}

static struct value filter_dictsort(struct jinja *j, struct value self, args a)
{
    if (self.kind != VALUE_DICT)
        jinja_fail(&j->w, "dictsort needs a dict, got '%s'", value_type_name(self));
    bool sensitive = argument_true(j, a->positional[0], false), by_value = false;
    if (given(a->positional[1])) {
        const struct string *by = argument_string(j, a->positional[1], "the 'by' of dictsort");
        by_value = string_is(by, "value");
        if (!by_value && !string_is(by, "key"))
            jinja_fail(&j->w, "You can only sort by either \"key\" or \"value\"");
    }
    struct value list = list_new(&j->w, LIST_PLAIN, self.dict->count);
    struct value *keys = jinja_allocate(&j->w, self.dict->count * sizeof *keys);
    for (size_t i = 0; i < self.dict->count; i++) {
        struct value pair = list_new(&j->w, LIST_TUPLE, 2);
        list_append(&j->w, pair.list, self.dict->entries[i].key);
        list_append(&j->w, pair.list, self.dict->entries[i].value);
        list_append(&j->w, list.list, pair);
        keys[i] = fold_case(j, pair.list->items[by_value], sensitive);
    }
    merge_sort(j, list.list->items, keys, list.list->count, argument_true(j, a->positional[2], false));
    return list;
}

static struct value extreme(struct jinja *j, struct value self, args a, int sign)
{
    bool sensitive = argument_true(j, a->positional[0], false);
    struct list items = jinja_iterate(j, self);
    if (items.count == 0)
        return value_undefined(&j->w, "No aggregated item, sequence was empty.");
    size_t best = 0;
    struct value best_key = {0};
    for (size_t i = 0; i < items.count; i++) {
        struct value key =
            fold_case(j, attribute_path(j, items.items[i], a->positional[1], (struct value){0}), sensitive);
        if (i == 0 || value_compare(j, key, best_key, "<") * sign > 0) {
            best = i;
            best_key = key;
        }
    }
    return items.items[best];
}

static struct value filter_min(struct jinja *j, struct value self, args a)
{
    return extreme(j, self, a, -1);
}

static struct value filter_max(struct jinja *j, struct value self, args a)
{
    return extreme(j, self, a, 1);
}

static struct value filter_unique(struct jinja *j, struct value self, args a)
{
    bool sensitive = argument_true(j, a->positional[0], false);
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, 0), seen = dict_new(&j->w);
    for (size_t i = 0; i < items.count; i++) {
        struct value key =
            fold_case(j, attribute_path(j, items.items[i], a->positional[1], (struct value){0}), sensitive);
        if (dict_find(j, seen.dict, key))
            continue;
        dict_set(&j->w, seen.dict, key, value_none());
        list_append(&j->w, list.list, items.items[i]);
    }
    return list;
}

static struct value filter_groupby(struct jinja *j, struct value self, args a)
{
    bool sensitive = argument_true(j, a->positional[2], false);
    struct value sorted = filter_list(j, self, NULL), list = list_new(&j->w, LIST_PLAIN, 0), last = {0};
    size_t count = sorted.list->count;
    struct value *keys = jinja_allocate(&j->w, count * sizeof *keys);
    for (size_t i = 0; i < count; i++)
        keys[i] = fold_case(j, attribute_path(j, sorted.list->items[i], a->positional[0], a->positional[1]), sensitive);
    merge_sort(j, sorted.list->items, keys, count, false);
    struct list *group = NULL;
    for (size_t i = 0; i < count; i++) {
        struct value item = sorted.list->items[i];
        if (!group || !value_equal(j, keys[i], last)) {
            struct value pair = list_new(&j->w, LIST_TUPLE, 2), members = list_new(&j->w, LIST_PLAIN, 0);
            list_append(&j->w, pair.list, attribute_path(j, item, a->positional[0], a->positional[1]));
            list_append(&j->w, pair.list, members);
            list_append(&j->w, list.list, pair);
            group = members.list;
            last = keys[i];
        }
        list_append(&j->w, group, item);
    }
    return list;
}

static struct value filter_batch(struct jinja *j, struct value self, args a)
{
    int64_t width = argument_integer(j, a->positional[0], 0, "the width of batch");
    if (width < 1)
        jinja_fail(&j->w, "batch needs a width of at least 1");
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, 0);
    for (size_t i = 0; i < items.count;) {
        struct value row = list_new(&j->w, LIST_PLAIN, 0);
        for (int64_t k = 0; k < width && i < items.count; k++, i++)
            list_append(&j->w, row.list, items.items[i]);
        while (i == items.count && given(a->positional[1]) && a->positional[1].kind != VALUE_NONE &&
               (int64_t)row.list->count < width) {
            jinja_step(j, 1);
            list_append(&j->w, row.list, a->positional[1]);
        }
        list_append(&j->w, list.list, row);
    }
    return list;
}

static struct value filter_slice(struct jinja *j, struct value self, args a)
{
    int64_t slices = argument_integer(j, a->positional[0], 0, "the count of slice");
    if (slices < 1 || slices > 100000)
        jinja_fail(&j->w, "slice needs a count from 1 to 100000");
    struct list items = jinja_iterate(j, self);
    size_t each = items.count / (size_t)slices, more = items.count % (size_t)slices, at = 0;
    struct value list = generator(j, 0);
    for (size_t i = 0; i < (size_t)slices; i++) {
        struct value row = list_new(&j->w, LIST_PLAIN, 0);
        for (size_t k = 0; k < each + (i < more); k++)
            list_append(&j->w, row.list, items.items[at++]);
        if (given(a->positional[1]) && a->positional[1].kind != VALUE_NONE && i >= more)
            list_append(&j->w, row.list, a->positional[1]);
        list_append(&j->w, list.list, row);
    }
    return list;
}

static struct value filter_items(struct jinja *j, struct value self, args a)
{
    (void)a;
    if (self.kind == VALUE_UNDEFINED)
        return generator(j, 0);
    if (self.kind != VALUE_DICT)
        jinja_fail(&j->w, "Can only get item pairs from a mapping.");
    struct value list = generator(j, self.dict->count);
    for (size_t i = 0; i < self.dict->count; i++) {
        struct value pair = list_new(&j->w, LIST_TUPLE, 2);
        list_append(&j->w, pair.list, self.dict->entries[i].key);
        list_append(&j->w, pair.list, self.dict->entries[i].value);
        list_append(&j->w, list.list, pair);
    }
    return list;
}

static const struct builtin filters[] = {
    {"batch", "linecount fill_with ", filter_batch},
    {"count", "", filter_length},
    {"dictsort", "case_sensitive by reverse ", filter_dictsort},
    {"first", "", filter_first},
    {"groupby", "attribute default case_sensitive ", filter_groupby},
    {"items", "", filter_items},
    {"join", "d attribute ", filter_join},
    {"last", "", filter_last},
    {"length", "", filter_length},
    {"list", "", filter_list},
    {"map", NULL, filter_map},
    {"max", "case_sensitive attribute ", filter_max},
    {"min", "case_sensitive attribute ", filter_min},
    {"reject", NULL, filter_reject},
    {"rejectattr", NULL, filter_rejectattr},
    {"reverse", "", filter_reverse},
    {"select", NULL, filter_select},
    {"selectattr", NULL, filter_selectattr},
    {"slice", "slices fill_with ", filter_slice},
    {"sort", "reverse case_sensitive attribute ", filter_sort},
    {"sum", "attribute start ", filter_sum},
    {"unique", "case_sensitive attribute ", filter_unique},
};

const struct builtin *jinja_find_sequence_filter(const struct string *name)
{
    return builtin_find(filters, COUNT_OF(filters), name);
}
