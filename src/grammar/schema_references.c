/* Resolves references within a JSON schema: to schemas with a name of their own ($id, $anchor) and to those reached by
 * a path. */
#include "grammar/schema_private.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PLACES 1000000
#define MAX_URI 1000

/* ---- addresses ----------------------------------------------------------------------------------------------------
 */

static size_t scheme_length(const char *uri)
{
    size_t length = strspn(uri, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");
    return length && uri[length] == ':' ? length + 1 : 0;
}

/* Joins a reference, without its fragment, to the URI that it is relative to. */
static void join_uri(const char *base, const char *reference, size_t size, char out[MAX_URI])
{
    size_t kept = 0, scheme = scheme_length(base);
    if (size == 0) {
        kept = strlen(base);
    } else if (!scheme_length(reference)) {
        const char *path = base + scheme;
        if (strncmp(path, "//", 2) == 0)
            path += 2 + strcspn(path + 2, "/");
        const char *slash = strrchr(path, '/');
        kept = reference[0] == '/' ? (size_t)(path - base) : slash ? (size_t)(slash - base) + 1 : (size_t)(path - base);
        if (size > 1 && strncmp(reference, "./", 2) == 0) {
            reference += 2;
            size -= 2;
        }
    }
    kept = MIN(kept, (size_t)MAX_URI - 1);
    size = MIN(size, (size_t)MAX_URI - 1 - kept);
    memcpy(out, base, kept);
    memcpy(out + kept, reference, size);
    out[kept + size] = 0;
}

/* ---- the index ----------------------------------------------------------------------------------------------------
 */

static uint32_t *find_place(const struct schema_writer *w, const json_t *schema, struct place **out)
{
    uint32_t slot = (uint32_t)(((uintptr_t)schema >> 4) * 0x9e3779b97f4a7c15u >> 32) & (w->place_slots - 1);
    while (w->places[slot].schema && w->places[slot].schema != schema)
        slot = (slot + 1) & (w->place_slots - 1);
    *out = &w->places[slot];
    return w->places[slot].schema ? &w->places[slot].resource : NULL;
}

static bool add_place(struct schema_writer *w, const json_t *schema, uint32_t resource)
{
    struct place *place;
    if (w->place_count * 2 >= w->place_slots) {
        struct place *old = w->places;
        uint32_t old_slots = w->place_slots;
        if (w->place_count >= MAX_PLACES)
            return schema_refuse(w, "the JSON schema is %s", "too large");
        w->place_slots = MAX(old_slots * 2, 256u);
        if (ALLOCATE(&w->places, w->place_slots, "JSON schema", w->error) != HYPURA_OK) {
            w->places = old;
            w->place_slots = old_slots;
            return false;
        }
        for (uint32_t i = 0; i < old_slots; i++)
            if (old[i].schema) {
                find_place(w, old[i].schema, &place);
                *place = old[i];
            }
        memory_free(old);
    }
    if (!find_place(w, schema, &place)) {
        *place = (struct place){schema, resource};
        w->place_count++;
    }
    return true;
}

static bool add_anchor(struct schema_writer *w, const char *name, const json_t *schema, uint32_t resource, bool dynamic)
{
    if (grammar_grow((void **)&w->anchors, w->anchor_count, &w->anchor_capacity, sizeof *w->anchors, 5000, w->error) !=
        HYPURA_OK)
        return false;
    w->anchors[w->anchor_count++] = (struct anchor){name, schema, resource, dynamic};
    return true;
}

static bool add_resource(struct schema_writer *w, const char *uri, const json_t *root, uint32_t *out)
{
    if (grammar_grow((void **)&w->resources, w->resource_count, &w->resource_capacity, sizeof *w->resources, 5000,
                     w->error) != HYPURA_OK)
        return false;
    const char *copy = schema_copy_text(w, uri, strlen(uri));
    if (!copy)
        return false;
    w->resources[w->resource_count] = (struct resource){copy, root};
    *out = w->resource_count++;
    return true;
}

/* Indexes everything that may be a schema. Constants contain none. */
static bool index_from(struct schema_writer *w, const json_t *value, uint32_t resource, int depth)
{
    const char *key;
    json_t *child;
    size_t i;
    if (depth > 2 * SCHEMA_MAX_NESTING)
        return schema_refuse(w, "the JSON schema is nested %s", "more than 100 levels deep");
    json_array_foreach(value, i, child) if (!index_from(w, child, resource, depth + 1)) return false;
    if (!json_is_object(value))
        return true;
    const char *id = json_string_value(json_object_get(value, "$id"));
    const char *anchor = json_string_value(json_object_get(value, "$anchor"));
    const char *dynamic = json_string_value(json_object_get(value, "$dynamicAnchor"));
    bool overridden = w->old_draft && json_object_get(value, "$ref");
    if (id && id[0] == '#' && !overridden) { /* the anchor of draft 7 */
        if (!add_anchor(w, id + 1, value, resource, false))
            return false;
    } else if (id && !overridden) {
        char uri[MAX_URI];
        join_uri(w->resources[resource].uri, id, strcspn(id, "#"), uri);
        if (value == w->root)
            w->resources[resource].uri = schema_copy_text(w, uri, strlen(uri));
        else if (!add_resource(w, uri, value, &resource))
            return false;
        if (!w->resources[resource].uri)
            return false;
    }
    if (!add_place(w, value, resource) || (anchor && !add_anchor(w, anchor, value, resource, false)) ||
        (dynamic && !add_anchor(w, dynamic, value, resource, true)))
        return false;
    json_object_foreach((json_t *)value, key, child)
    {
        bool constant = strcmp(key, "const") == 0 || strcmp(key, "enum") == 0 || strcmp(key, "default") == 0 ||
                        strcmp(key, "examples") == 0;
        if (!constant && !index_from(w, child, resource, depth + 1))
            return false;
    }
    return true;
}

bool schema_index(struct schema_writer *w)
{
    const char *draft = json_string_value(json_object_get(w->root, "$schema"));
    uint32_t root;
    w->old_draft = draft && strstr(draft, "draft-0");
    return add_resource(w, "", w->root, &root) && index_from(w, w->root, root, 0);
}

void schema_forget_index(struct schema_writer *w)
{
    memory_free(w->places);
    memory_free(w->resources);
    memory_free(w->anchors);
}

/* ---- resolving ----------------------------------------------------------------------------------------------------
 */

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Reads the part of a path up to the next slash and resolves its escapes. */
static const char *read_part(const char *path, char name[256])
{
    size_t length = 0;
    for (; *path && *path != '/' && length < 255; path++) {
        char c = *path;
        if (c == '%' && hex_digit(path[1]) >= 0 && hex_digit(path[2]) >= 0) {
            c = (char)(hex_digit(path[1]) * 16 + hex_digit(path[2]));
            path += 2;
        }
        if (c == '~' && (path[1] == '0' || path[1] == '1')) {
            path++;
            c = *path == '0' ? '~' : '/';
        }
        name[length++] = c;
    }
    name[length] = 0;
    return path;
}

static const json_t *follow_path(struct schema_writer *w, const json_t *at, const char *path)
{
    while (*path == '/' && at) {
        char name[256];
        path = read_part(path + 1, name);
        at = json_is_array(at) ? json_array_get(at, (size_t)strtoul(name, NULL, 10)) : json_object_get(at, name);
    }
    (void)w;
    return *path ? NULL : at;
}

bool schema_resolve(struct schema_writer *w, const json_t *from, const char *reference, bool dynamic,
                    const json_t **out)
{
    char uri[MAX_URI];
    struct place *place;
    const uint32_t *known = find_place(w, from, &place);
    uint32_t resource = known ? *known : 0, found = UINT32_MAX;
    size_t size = strcspn(reference, "#");
    const char *fragment = reference[size] ? reference + size + 1 : "";
    join_uri(w->resources[resource].uri, reference, size, uri);
    for (uint32_t i = 0; i < w->resource_count && found == UINT32_MAX; i++)
        if (size == 0 ? i == resource : strcmp(w->resources[i].uri, uri) == 0)
            found = i;
    if (found == UINT32_MAX)
        return schema_refuse(w, "the JSON schema refers to \"%.200s\": only references within it (#/...) are supported",
                             reference);
    *out = NULL;
    if (!*fragment || *fragment == '/')
        *out = follow_path(w, w->resources[found].root, fragment);
    bool movable = false;
    uint32_t others = 0;
    for (uint32_t i = 0; i < w->anchor_count && *fragment != '/'; i++) {
        bool same = strcmp(w->anchors[i].name, fragment) == 0;
        if (same && w->anchors[i].resource == found && !*out) {
            *out = w->anchors[i].schema;
            movable = w->anchors[i].dynamic;
        }
        others += same && w->anchors[i].dynamic;
    }
    if (!*out)
        return schema_refuse(w, "the JSON schema refers to \"%.200s\", which it does not contain", reference);
    if (dynamic && movable && others > 1)
        return schema_refuse(w, "the keyword \"%s\" of the JSON schema is not supported where it is ambiguous",
                             "$dynamicRef");
    return true;
}
