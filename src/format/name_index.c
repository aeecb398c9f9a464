#include "format/format_private.h"

#include <stdlib.h>
#include <string.h>

static int compare_bytes(const char *a, size_t a_size, const char *b, size_t b_size)
{
    if (a_size != b_size)
        return a_size < b_size ? -1 : 1;
    return a_size ? memcmp(a, b, a_size) : 0;
}

static int compare_entries(const void *a, const void *b)
{
    const struct name_entry *x = a, *y = b;
    int order = compare_bytes(x->data, x->size, y->data, y->size);
    return order ? order : (x->position > y->position) - (x->position < y->position);
}

void name_index_sort(struct name_entry *entries, size_t count)
{
    if (count > 1)
        qsort(entries, count, sizeof *entries, compare_entries);
}

const struct name_entry *name_index_duplicate(const struct name_entry *entries, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (compare_bytes(entries[i - 1].data, entries[i - 1].size, entries[i].data, entries[i].size) == 0)
            return &entries[i - 1];
    return NULL;
}

size_t name_index_find(const struct name_entry *entries, size_t count, const char *name, size_t size)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_bytes(entries[middle].data, entries[middle].size, name, size);
        if (order == 0)
            return entries[middle].position;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return SIZE_MAX;
}

char *name_text(char text[NAME_TEXT_ROOM], const char *data, size_t size)
{
    size_t shown = MIN(size, (size_t)NAME_TEXT_ROOM - 4);
    for (size_t i = 0; i < shown; i++)
        text[i] = data[i] >= 32 && data[i] < 127 ? data[i] : '?';
    strcpy(text + shown, shown < size ? "..." : "");
    return text;
}

char *path_text(char text[PATH_TEXT_ROOM], const char *path)
{
    size_t size = strlen(path);
    if (size < PATH_TEXT_ROOM) {
        memcpy(text, path, size + 1);
        return text;
    }
    const char *end = path + size - (PATH_TEXT_ROOM - 4);
    while (((unsigned char)*end & 0xc0) == 0x80)
        end++;
    memcpy(text, "...", 3);
    strcpy(text + 3, end);
    return text;
}
