/* Python's methods of lists, dicts and loops, and the look-up of all methods. */
#include "template/template_private.h"

#include <string.h>

typedef const struct arguments *args;

/* ---- lists --------------------------------------------------------------------------------------------------------
 */

static struct value list_append_method(struct jinja *j, struct value self, args a)
{
    list_append(&j->w, self.list, a->positional[0]);
    return value_none();
}

static struct value list_extend(struct jinja *j, struct value self, args a)
{
    struct list items = jinja_iterate(j, a->positional[0]);
    for (size_t i = 0; i < items.count; i++)
        list_append(&j->w, self.list, items.items[i]);
    return value_none();
}

static struct value list_insert(struct jinja *j, struct value self, args a)
{
    struct list *list = self.list;
    int64_t at = argument_integer(j, a->positional[0], 0, "the index"), count = (int64_t)list->count;
    at = at < 0 ? MAX(at + count, (int64_t)0) : MIN(at, count);
    jinja_step(j, list->count);
    list_append(&j->w, list, a->positional[1]);
    memmove(&list->items[at + 1], &list->items[at], (size_t)(count - at) * sizeof *list->items);
    list->items[at] = a->positional[1];
    return value_none();
}

static struct value list_pop(struct jinja *j, struct value self, args a)
{
    struct list *list = self.list;
    int64_t count = (int64_t)list->count, at = argument_integer(j, a->positional[0], -1, "the index");
    at += at < 0 ? count : 0;
    if (at < 0 || at >= count)
        jinja_fail(&j->w, count ? "pop index out of range" : "pop from empty list");
    struct value item = list->items[at];
    memmove(&list->items[at], &list->items[at + 1], (size_t)(count - at - 1) * sizeof *list->items);
    list->count--;
    jinja_step(j, list->count);
    return item;
}

static struct value list_index(struct jinja *j, struct value self, args a)
{
    for (size_t i = 0; i < self.list->count; i++)
        if (value_equal(j, self.list->items[i], a->positional[0]))
            return value_integer((int64_t)i);
    jinja_fail(&j->w, "the value is not in the list");
}

static struct value list_count(struct jinja *j, struct value self, args a)
{
    int64_t count = 0;
    for (size_t i = 0; i < self.list->count; i++)
        count += value_equal(j, self.list->items[i], a->positional[0]);
    return value_integer(count);
}

static struct value list_remove(struct jinja *j, struct value self, args a)
{
    struct value at = list_index(j, self, a);
    return list_pop(j, self, &(struct arguments){.positional = &at, .count = 1}), value_none();
}

static struct value list_reverse(struct jinja *j, struct value self, args a)
{
    (void)a;
    jinja_step(j, self.list->count);
    list_turn_round(self.list);
    return value_none();
}

static struct value list_clear(struct jinja *j, struct value self, args a)
{
    (void)j;
    (void)a;
    self.list->count = 0;
    return value_none();
}

static struct value list_copy(struct jinja *j, struct value self, args a)
{
    (void)a;
    return jinja_slice(j, self, value_none(), value_none(), value_none());
}

/* ---- dicts --------------------------------------------------------------------------------------------------------
 */

static struct value dict_view(struct jinja *j, struct value self, bool keys, bool values)
{
    struct value list = list_new(&j->w, LIST_VIEW, self.dict->count);
    list.list->view = keys && values ? "dict_items" : keys ? "dict_keys" : "dict_values";
    jinja_step(j, self.dict->count);
    for (size_t i = 0; i < self.dict->count; i++) {
        const struct dict_entry *entry = &self.dict->entries[i];
        struct value item = keys ? entry->key : entry->value;
        if (keys && values) {
            item = list_new(&j->w, LIST_TUPLE, 2);
            list_append(&j->w, item.list, entry->key);
            list_append(&j->w, item.list, entry->value);
        }
        list_append(&j->w, list.list, item);
    }
    return list;
}

static struct value dict_items(struct jinja *j, struct value self, args a)
{
    (void)a;
    return dict_view(j, self, true, true);
}

static struct value dict_keys(struct jinja *j, struct value self, args a)
{
    (void)a;
    return dict_view(j, self, true, false);
}

static struct value dict_values(struct jinja *j, struct value self, args a)
{
    (void)a;
    return dict_view(j, self, false, true);
}

static struct value dict_get(struct jinja *j, struct value self, args a)
{
    const struct value *there = dict_find(j, self.dict, a->positional[0]);
    if (there)
        return *there;
    return a->positional[1].kind == VALUE_MISSING ? value_none() : a->positional[1];
}

static struct value dict_pop(struct jinja *j, struct value self, args a)
{
    const struct value *there = dict_find(j, self.dict, a->positional[0]);
    if (!there && a->positional[1].kind == VALUE_MISSING)
        jinja_fail(&j->w, "pop() of a key that is not in the dict");
    struct value value = there ? *there : a->positional[1];
    jinja_step(j, self.dict->count);
    dict_remove(&j->w, self.dict, a->positional[0]);
    return value;
}

static struct value dict_setdefault(struct jinja *j, struct value self, args a)
{
    const struct value *there = dict_find(j, self.dict, a->positional[0]);
    if (there)
        return *there;
    struct value value = a->positional[1].kind == VALUE_MISSING ? value_none() : a->positional[1];
    dict_set(&j->w, self.dict, a->positional[0], value);
    return value;
}

static struct value dict_update(struct jinja *j, struct value self, args a)
{
    struct value global = value_from_text(&j->w, "dict");
    struct value from = jinja_call_builtin(j, jinja_find_global(global.string), value_none(), a);
    for (size_t i = 0; i < from.dict->count; i++)
        dict_set(&j->w, self.dict, from.dict->entries[i].key, from.dict->entries[i].value);
    return value_none();
}

static struct value dict_copy(struct jinja *j, struct value self, args a)
{
    (void)a;
    struct value copy = dict_new(&j->w);
    jinja_step(j, self.dict->count);
    for (size_t i = 0; i < self.dict->count; i++)
        dict_set(&j->w, copy.dict, self.dict->entries[i].key, self.dict->entries[i].value);
    return copy;
}

static struct value dict_clear(struct jinja *j, struct value self, args a)
{
    (void)j;
    (void)a;
    *self.dict = (struct dict){0};
    return value_none();
}

/* ---- loops --------------------------------------------------------------------------------------------------------
 */

static struct value loop_cycle(struct jinja *j, struct value self, args a)
{
    if (a->count == 0)
        jinja_fail(&j->w, "no items for cycling given");
    return a->positional[self.loop->index % a->count];
}

static struct value loop_changed(struct jinja *j, struct value self, args a)
{
    struct value now = list_new(&j->w, LIST_TUPLE, a->count);
    for (size_t i = 0; i < a->count; i++)
        list_append(&j->w, now.list, a->positional[i]);
    bool changed = !self.loop->has_changed || !value_equal(j, self.loop->last_changed, now);
    self.loop->last_changed = now;
    self.loop->has_changed = true;
    return value_boolean(changed);
}

static struct value cycler_next(struct jinja *j, struct value self, args a)
{
    (void)j;
    (void)a;
    struct value item = self.cycler->items[self.cycler->index];
    self.cycler->index = (self.cycler->index + 1) % self.cycler->count;
    return item;
}

static struct value cycler_reset(struct jinja *j, struct value self, args a)
{
    (void)j;
    (void)a;
    self.cycler->index = 0;
    return value_none();
}

/* ---- tables -------------------------------------------------------------------------------------------------------
 */

static const struct builtin list_methods[] = {
    {"append", "object ", list_append_method},
    {"clear", "", list_clear},
    {"copy", "", list_copy},
    {"count", "value ", list_count},
    {"extend", "iterable ", list_extend},
    {"index", "value ", list_index},
    {"insert", "index object ", list_insert},
    {"pop", "index ", list_pop},
    {"remove", "value ", list_remove},
    {"reverse", "", list_reverse},
};

static const struct builtin tuple_methods[] = {
    {"count", "value ", list_count},
    {"index", "value ", list_index},
};

static const struct builtin dict_methods[] = {
    {"clear", "", dict_clear},
    {"copy", "", dict_copy},
    {"get", "key default ", dict_get},
    {"items", "", dict_items},
    {"keys", "", dict_keys},
    {"pop", "key default ", dict_pop},
    {"setdefault", "key default ", dict_setdefault},
    {"update", NULL, dict_update},
    {"values", "", dict_values},
};

static const struct builtin loop_methods[] = {{"changed", NULL, loop_changed}, {"cycle", NULL, loop_cycle}};

static const struct builtin cycler_methods[] = {{"next", "", cycler_next}, {"reset", "", cycler_reset}};

const struct builtin *jinja_find_method(struct value self, const struct string *name)
{
    switch (self.kind) {
    case VALUE_STRING:
        return jinja_find_string_method(name);
    case VALUE_LIST:
        if (self.list->type == LIST_PLAIN)
            return builtin_find(list_methods, COUNT_OF(list_methods), name);
        if (self.list->type <= LIST_RANGE)
            return builtin_find(tuple_methods, COUNT_OF(tuple_methods), name);
        return NULL;
    case VALUE_DICT:
        return builtin_find(dict_methods, COUNT_OF(dict_methods), name);
    case VALUE_LOOP:
        return builtin_find(loop_methods, COUNT_OF(loop_methods), name);
    case VALUE_CYCLER:
        return self.cycler->joiner ? NULL : builtin_find(cycler_methods, COUNT_OF(cycler_methods), name);
    default:
        return NULL;
    }
}
