/* Python's string methods. */
#include "template/template_private.h"

#include <stdio.h>
#include <string.h>

typedef const struct arguments *args;

static bool given(struct value value)
{
    return value.kind != VALUE_MISSING && value.kind != VALUE_NONE;
}

/* ---- strings: edges -----------------------------------------------------------------------------------------------
 */

static bool in_set(const struct string *set, const char *bytes, size_t size)
{
    return memmem(set->bytes, set->size, bytes, size) != NULL;
}

/* Whether the character in start .. end - 1 is to be stripped; set NULL: white space is. */
static bool strippable(const struct string *s, const struct string *set, size_t start, size_t end)
{
    int32_t c;
    if (set)
        return in_set(set, s->bytes + start, end - start);
    utf8_next(s->bytes, end, start, &c);
    return character_is_space(c);
}

static size_t previous_character(const struct string *s, size_t end, size_t low)
{
    size_t at = end - 1;
    while (at > low && ((unsigned char)s->bytes[at] & 0xc0) == 0x80)
        at--;
    return utf8_next(s->bytes, end, at, NULL) == end ? at : end - 1;
}

static struct value strip(struct jinja *j, struct value self, args a, bool left, bool right)
{
    const struct string *s = self.string, *set = NULL;
    if (given(a->positional[0]))
        set = argument_string(j, a->positional[0], "strip arg");
    size_t start = 0, end = s->size;
    jinja_step(j, s->size / 64);
    size_t cost = set ? set->size / 64 : 0;
    while (left && start < end) {
        jinja_step(j, cost);
        size_t next = utf8_next(s->bytes, end, start, NULL);
        if (!strippable(s, set, start, next))
            break;
        start = next;
    }
    while (right && end > start) {
        jinja_step(j, cost);
        size_t previous = previous_character(s, end, start);
        if (!strippable(s, set, previous, end))
            break;
        end = previous;
    }
    return string_part(&j->w, s, start, end);
}

static struct value string_strip(struct jinja *j, struct value self, args a)
{
    return strip(j, self, a, true, true);
}

static struct value string_lstrip(struct jinja *j, struct value self, args a)
{
    return strip(j, self, a, true, false);
}

static struct value string_rstrip(struct jinja *j, struct value self, args a)
{
    return strip(j, self, a, false, true);
}

static bool has_edge(struct jinja *j, const struct string *s, const struct string *edge, bool end)
{
    jinja_step(j, 1 + edge->size / 64);
    return edge->size <= s->size && memcmp(s->bytes + (end ? s->size - edge->size : 0), edge->bytes, edge->size) == 0;
}

static struct value edge_test(struct jinja *j, struct value self, args a, bool end)
{
    const char *what = end ? "endswith first arg" : "startswith first arg";
    struct value edge = a->positional[0];
    const struct string *s = self.string;
    if (given(a->positional[1]) || given(a->positional[2]))
        s = jinja_slice(j, self, a->positional[1], a->positional[2], value_none()).string;
    if (edge.kind != VALUE_LIST || edge.list->type != LIST_TUPLE)
        return value_boolean(has_edge(j, s, argument_string(j, edge, what), end));
    for (size_t i = 0; i < edge.list->count; i++)
        if (has_edge(j, s, argument_string(j, edge.list->items[i], what), end))
            return value_boolean(true);
    return value_boolean(false);
}

static struct value string_startswith(struct jinja *j, struct value self, args a)
{
    return edge_test(j, self, a, false);
}

static struct value string_endswith(struct jinja *j, struct value self, args a)
{
    return edge_test(j, self, a, true);
}

static struct value string_removeprefix(struct jinja *j, struct value self, args a)
{
    const struct string *edge = argument_string(j, a->positional[0], "removeprefix() argument");
    bool has = has_edge(j, self.string, edge, false);
    return string_part(&j->w, self.string, has ? edge->size : 0, self.string->size);
}

static struct value string_removesuffix(struct jinja *j, struct value self, args a)
{
    const struct string *edge = argument_string(j, a->positional[0], "removesuffix() argument");
    bool has = has_edge(j, self.string, edge, true);
    return string_part(&j->w, self.string, 0, self.string->size - (has ? edge->size : 0));
}

/* ---- strings: splitting -------------------------------------------------------------------------------------------
 */

static struct value split_space(struct jinja *j, const struct string *s, int64_t most)
{
    struct value list = list_new(&j->w, LIST_PLAIN, 0);
    size_t at = 0;
    while (at < s->size) {
        size_t next = utf8_next(s->bytes, s->size, at, NULL);
        if (strippable(s, NULL, at, next)) {
            at = next;
            continue;
        }
        size_t end = at;
        if (most >= 0 && (int64_t)list.list->count >= most) {
            end = s->size;
            while (end > at && strippable(s, NULL, previous_character(s, end, at), end))
                end = previous_character(s, end, at);
            list_append(&j->w, list.list, string_part(&j->w, s, at, end));
            break;
        }
        while (end < s->size && !strippable(s, NULL, end, utf8_next(s->bytes, s->size, end, NULL)))
            end = utf8_next(s->bytes, s->size, end, NULL);
        list_append(&j->w, list.list, string_part(&j->w, s, at, end));
        at = end;
    }
    return list;
}

static struct value rsplit_space(struct jinja *j, const struct string *s, int64_t most)
{
    struct value list = list_new(&j->w, LIST_PLAIN, 0);
    size_t end = s->size;
    while (end > 0) {
        size_t start = previous_character(s, end, 0);
        if (strippable(s, NULL, start, end)) {
            end = start;
            continue;
        }
        if (most >= 0 && (int64_t)list.list->count >= most) {
            start = 0;
            while (start < end && strippable(s, NULL, start, utf8_next(s->bytes, end, start, NULL)))
                start = utf8_next(s->bytes, end, start, NULL);
        } else {
            while (start > 0 && !strippable(s, NULL, previous_character(s, start, 0), start))
                start = previous_character(s, start, 0);
        }
        list_append(&j->w, list.list, string_part(&j->w, s, start, end));
        if (most >= 0 && (int64_t)list.list->count > most)
            break;
        end = start;
    }
    list_turn_round(list.list);
    return list;
}

static const struct string *separator(struct jinja *j, struct value value)
{
    const struct string *text = argument_string(j, value, "the separator");
    if (text->size == 0)
        jinja_fail(&j->w, "empty separator");
    return text;
}

static struct value string_split(struct jinja *j, struct value self, args a)
{
    const struct string *s = self.string;
    int64_t most = argument_integer(j, a->positional[1], -1, "maxsplit");
    jinja_step(j, s->size / 16);
    if (!given(a->positional[0]))
        return split_space(j, s, most);
    const struct string *mark = separator(j, a->positional[0]);
    struct value list = list_new(&j->w, LIST_PLAIN, 0);
    size_t start = 0;
    for (int64_t i = 0; most < 0 || i < most; i++) {
        size_t end = string_find(s, mark, start, s->size);
        if (end == SIZE_MAX)
            break;
        list_append(&j->w, list.list, string_part(&j->w, s, start, end));
        start = end + mark->size;
    }
    list_append(&j->w, list.list, string_part(&j->w, s, start, s->size));
    return list;
}

/* Finds the last occurrence that ends at or before `to`. */
static size_t find_last(struct jinja *j, const struct string *s, const struct string *needle, size_t from, size_t to)
{
    if (from > to || needle->size > to - from)
        return SIZE_MAX;
    size_t at = to - needle->size + 1;
    while (at-- > from) {
        if (at % 64 == 0)
            jinja_step(j, 1 + needle->size);
        if (memcmp(s->bytes + at, needle->bytes, needle->size) == 0)
            return at;
    }
    return SIZE_MAX;
}

static struct value string_rsplit(struct jinja *j, struct value self, args a)
{
    const struct string *s = self.string;
    int64_t most = argument_integer(j, a->positional[1], -1, "maxsplit");
    jinja_step(j, s->size / 16);
    if (!given(a->positional[0]))
        return rsplit_space(j, s, most);
    const struct string *mark = separator(j, a->positional[0]);
    struct value list = list_new(&j->w, LIST_PLAIN, 0);
    size_t end = s->size;
    for (int64_t i = 0; most < 0 || i < most; i++) {
        size_t at = find_last(j, s, mark, 0, end);
        if (at == SIZE_MAX)
            break;
        list_append(&j->w, list.list, string_part(&j->w, s, at + mark->size, end));
        end = at;
    }
    list_append(&j->w, list.list, string_part(&j->w, s, 0, end));
    list_turn_round(list.list);
    return list;
}

static struct value string_splitlines(struct jinja *j, struct value self, args a)
{
    const struct string *s = self.string;
    bool keep = given(a->positional[0]) && value_is_true(j, a->positional[0]);
    struct value list = list_new(&j->w, LIST_PLAIN, 0);
    jinja_step(j, s->size / 16);
    for (size_t start = 0; start < s->size;) {
        size_t end = start, next = start;
        int32_t c = 0;
        while (next < s->size) {
            end = next;
            next = utf8_next(s->bytes, s->size, end, &c);
            if ((c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029)
                break;
            end = next;
        }
        if (next > end && c == '\r' && next < s->size && s->bytes[next] == '\n')
            next++;
        list_append(&j->w, list.list, string_part(&j->w, s, start, keep ? next : end));
        start = next;
    }
    return list;
}

static struct value partition(struct jinja *j, struct value self, args a, bool last)
{
    const struct string *s = self.string, *mark = separator(j, a->positional[0]);
    size_t at = last ? find_last(j, s, mark, 0, s->size) : string_find(s, mark, 0, s->size);
    struct value list = list_new(&j->w, LIST_TUPLE, 3), empty = value_from_text(&j->w, "");
    bool found = at != SIZE_MAX;
    list_append(&j->w, list.list, found ? string_part(&j->w, s, 0, at) : last ? empty : self);
    list_append(&j->w, list.list, found ? string_part(&j->w, s, at, at + mark->size) : empty);
    list_append(&j->w, list.list, found ? string_part(&j->w, s, at + mark->size, s->size) : last ? self : empty);
    return list;
}

static struct value string_partition(struct jinja *j, struct value self, args a)
{
    return partition(j, self, a, false);
}

static struct value string_rpartition(struct jinja *j, struct value self, args a)
{
    return partition(j, self, a, true);
}

/* ---- strings: searching -------------------------------------------------------------------------------------------
 */

/* Returns the number of characters before a byte offset; -1 for SIZE_MAX. */
static int64_t character_index(struct jinja *j, const struct string *s, size_t at)
{
    return at == SIZE_MAX ? -1 : (int64_t)string_length(string_part(&j->w, s, 0, at).string);
}

static int64_t find(struct jinja *j, struct value self, args a, bool last)
{
    const struct string *s = self.string, *needle = argument_string(j, a->positional[0], "the text to find");
    jinja_step(j, s->size / 16);
    int64_t count = (int64_t)string_length(s), from = argument_integer(j, a->positional[1], 0, "start");
    int64_t to = argument_integer(j, a->positional[2], count, "end");
    from = MAX(from < 0 ? from + count : from, (int64_t)0);
    to = MIN(to < 0 ? MAX(to + count, (int64_t)0) : to, count);
    if (from > to)
        return -1;
    size_t low = string_offset(s, (size_t)from), high = string_offset(s, (size_t)to);
    return character_index(j, s, last ? find_last(j, s, needle, low, high) : string_find(s, needle, low, high));
}

static struct value string_find_method(struct jinja *j, struct value self, args a)
{
    return value_integer(find(j, self, a, false));
}

static struct value string_rfind(struct jinja *j, struct value self, args a)
{
    return value_integer(find(j, self, a, true));
}

static struct value found(struct jinja *j, int64_t at)
{
    if (at < 0)
        jinja_fail(&j->w, "substring not found");
    return value_integer(at);
}

static struct value string_index(struct jinja *j, struct value self, args a)
{
    return found(j, find(j, self, a, false));
}

static struct value string_rindex(struct jinja *j, struct value self, args a)
{
    return found(j, find(j, self, a, true));
}

static struct value string_count(struct jinja *j, struct value self, args a)
{
    const struct string *s = self.string, *needle = argument_string(j, a->positional[0], "the text to count");
    jinja_step(j, s->size / 64);
    if (needle->size == 0)
        return value_integer((int64_t)string_length(s) + 1);
    int64_t count = 0;
    for (size_t at = 0; (at = string_find(s, needle, at, s->size)) != SIZE_MAX; at += needle->size)
        count++;
    return value_integer(count);
}

static struct value string_replace(struct jinja *j, struct value self, args a)
{
    const struct string *s = self.string, *old = argument_string(j, a->positional[0], "replace() argument 1");
    const struct string *new = argument_string(j, a->positional[1], "replace() argument 2");
    int64_t most = argument_integer(j, a->positional[2], -1, "replace() argument 3");
    jinja_step(j, s->size / 64);
    struct builder b;
    builder_begin(&b, &j->w);
    size_t start = 0;
    for (int64_t i = 0; (most < 0 || i < most) && start <= s->size; i++) {
        size_t at = string_find(s, old, start, s->size);
        if (at == SIZE_MAX)
            break;
        jinja_step(j, 1);
        builder_part(&b, s, start, at);
        builder_string(&b, new);
        start = at + old->size;
        if (old->size == 0) {
            size_t next = at < s->size ? utf8_next(s->bytes, s->size, at, NULL) : s->size + 1;
            builder_part(&b, s, at, MIN(next, s->size));
            start = next;
        }
    }
    builder_part(&b, s, MIN(start, s->size), s->size);
    return builder_end(&b);
}

static struct value string_join(struct jinja *j, struct value self, args a)
{
    struct list items = jinja_iterate(j, a->positional[0]);
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t i = 0; i < items.count; i++) {
        if (i)
            builder_string(&b, self.string);
        if (items.items[i].kind != VALUE_STRING)
            jinja_fail(&j->w, "sequence item %zu: expected str instance, %s found", i, value_type_name(items.items[i]));
        builder_string(&b, items.items[i].string);
    }
    return builder_end(&b);
}

/* ---- strings: width -----------------------------------------------------------------------------------------------
 */

static struct value justify(struct jinja *j, struct value self, args a, bool left)
{
    int64_t width = argument_integer(j, a->positional[0], 0, "the width"), length = (int64_t)string_length(self.string);
    struct value fill = given(a->positional[1]) ? a->positional[1] : value_from_text(&j->w, " ");
    if (string_length(argument_string(j, fill, "the fill character")) != 1)
        jinja_fail(&j->w, "The fill character must be exactly one character long");
    struct value pad = jinja_binary(j, OPERATION_MULTIPLY, fill, value_integer(width > length ? width - length : 0));
    return left ? jinja_binary(j, OPERATION_ADD, self, pad) : jinja_binary(j, OPERATION_ADD, pad, self);
}

static struct value string_ljust(struct jinja *j, struct value self, args a)
{
    return justify(j, self, a, true);
}

static struct value string_rjust(struct jinja *j, struct value self, args a)
{
    return justify(j, self, a, false);
}

static struct value string_zfill(struct jinja *j, struct value self, args a)
{
    const struct string *s = self.string;
    size_t sign = s->size && (s->bytes[0] == '-' || s->bytes[0] == '+');
    int64_t width = argument_integer(j, a->positional[0], 0, "the width"), length = (int64_t)string_length(s);
    struct value zeros = jinja_binary(j, OPERATION_MULTIPLY, value_from_text(&j->w, "0"),
                                      value_integer(width > length ? width - length : 0));
    struct builder b;
    builder_begin(&b, &j->w);
    builder_part(&b, s, 0, sign);
    builder_string(&b, zeros.string);
    builder_part(&b, s, sign, s->size);
    return builder_end(&b);
}

static struct value string_format_method(struct jinja *j, struct value self, args a)
{
    return string_format_braces(j, self.string, a);
}

static const struct builtin string_methods[] = {
    {"count", "sub ", string_count},
    {"endswith", "suffix start end ", string_endswith},
    {"find", "sub start end ", string_find_method},
    {"format", NULL, string_format_method},
    {"index", "sub start end ", string_index},
    {"join", "iterable ", string_join},
    {"ljust", "width fillchar ", string_ljust},
    {"lstrip", "chars ", string_lstrip},
    {"partition", "sep ", string_partition},
    {"removeprefix", "prefix ", string_removeprefix},
    {"removesuffix", "suffix ", string_removesuffix},
    {"replace", "old new count ", string_replace},
    {"rfind", "sub start end ", string_rfind},
    {"rindex", "sub start end ", string_rindex},
    {"rjust", "width fillchar ", string_rjust},
    {"rpartition", "sep ", string_rpartition},
    {"rsplit", "sep maxsplit ", string_rsplit},
    {"rstrip", "chars ", string_rstrip},
    {"split", "sep maxsplit ", string_split},
    {"splitlines", "keepends ", string_splitlines},
    {"startswith", "prefix start end ", string_startswith},
    {"strip", "chars ", string_strip},
    {"zfill", "width ", string_zfill},
};

const struct builtin *jinja_find_string_method(const struct string *name)
{
    const struct builtin *method = builtin_find(string_methods, COUNT_OF(string_methods), name);
    return method ? method : jinja_find_letter_method(name);
}
