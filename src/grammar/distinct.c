/* Keeps the items of an array, or the names of an object, that must all differ, as a tree of their texts. The current
 * item is added byte by byte, and can be taken back, so that tokens can be tried. */
#include "grammar/match_private.h"

#include <string.h>

#define MAX_TEXT_NODES ((uint32_t)1 << 20)

static bool new_node(struct distinct *d, uint32_t parent, unsigned byte, uint32_t *out)
{
    if (d->node_count == 0)
        d->node_count = 1;
    if (grammar_grow((void **)&d->nodes, d->node_count, &d->node_capacity, sizeof *d->nodes, MAX_TEXT_NODES, NULL) !=
        HYPURA_OK)
        return false;
    uint32_t node = d->node_count++;
    d->nodes[node] = (struct text_node){.parent = parent, .byte = (uint8_t)byte};
    if (parent) {
        d->nodes[node].next = d->nodes[parent].first;
        d->nodes[parent].first = node;
    }
    *out = node;
    return true;
}

static bool add_byte(struct distinct *d, struct open_list *list, unsigned byte)
{
    if (list->value)
        return true;
    uint32_t node = d->nodes[list->at].first;
    while (node && d->nodes[node].byte != byte)
        node = d->nodes[node].next;
    if (!node && !new_node(d, list->at, byte, &node))
        return false;
    list->at = node;
    return true;
}

static void count_item(struct distinct *d, uint32_t node, uint32_t change)
{
    for (; node; node = d->nodes[node].parent)
        d->nodes[node].count += change;
}

static enum distinct_result end_item(struct distinct *d, struct open_list *list)
{
    uint32_t node = list->at;
    if (node == list->root || list->value)
        return DISTINCT_FITS;
    if (d->nodes[node].ends)
        return DISTINCT_AGAIN;
    if (grammar_grow((void **)&d->ended, d->ended_count, &d->ended_capacity, sizeof *d->ended, MAX_TEXT_NODES, NULL) !=
        HYPURA_OK)
        return DISTINCT_FULL;
    d->ended[d->ended_count++] = node;
    d->nodes[node].ends = true;
    count_item(d, node, 1);
    return DISTINCT_FITS;
}

static bool add_to_all(struct distinct *d, uint32_t count, unsigned byte)
{
    for (uint32_t i = 0; i < count; i++)
        if (!add_byte(d, &d->now.lists[i], byte))
            return false;
    return true;
}

static enum distinct_result open_bracket(struct distinct *d, unsigned byte, unsigned marks)
{
    struct distinct_place *now = &d->now;
    if (!add_to_all(d, now->count, byte))
        return DISTINCT_FULL;
    for (uint32_t i = 0; i < now->count; i++)
        now->lists[i].depth++;
    if (!marks)
        return DISTINCT_FITS;
    uint32_t root;
    if (now->count == MAX_OPEN || !new_node(d, 0, 0, &root))
        return DISTINCT_FULL;
    now->lists[now->count++] = (struct open_list){.root = root, .at = root, .mark = (uint8_t)marks};
    return DISTINCT_FITS;
}

static enum distinct_result close_bracket(struct distinct *d, unsigned byte)
{
    struct distinct_place *now = &d->now;
    if (now->lists[now->count - 1].depth == 0) {
        struct open_list *list = &now->lists[now->count - 1];
        enum distinct_result result = list->mark & MARK_ITEMS ? end_item(d, list) : DISTINCT_FITS;
        if (result != DISTINCT_FITS)
            return result;
        now->count--;
    }
    if (!add_to_all(d, now->count, byte))
        return DISTINCT_FULL;
    for (uint32_t i = 0; i < now->count; i++)
        now->lists[i].depth--;
    return DISTINCT_FITS;
}

enum distinct_result distinct_step(struct distinct *d, unsigned byte, unsigned marks)
{
    struct distinct_place *now = &d->now;
    struct open_list *top = now->count ? &now->lists[now->count - 1] : NULL;
    enum distinct_result result = DISTINCT_FITS;
    if (!top && !marks)
        return DISTINCT_FITS;
    if (now->in_string) {
        now->in_string = now->escaped || byte != '"';
        now->escaped = !now->escaped && byte == '\\';
        return add_to_all(d, now->count, byte) ? DISTINCT_FITS : DISTINCT_FULL;
    }
    switch (byte) {
    case ' ':
    case '\t':
    case '\n':
    case '\r':
        return DISTINCT_FITS;
    case '[':
    case '{':
        return open_bracket(d, byte, marks);
    case ']':
    case '}':
        return close_bracket(d, byte);
    case ',':
    case ':':
        if (top->depth)
            break;
        if (byte == ':' || top->mark & MARK_ITEMS)
            result = end_item(d, top);
        top->value = byte == ':';
        if (byte == ',')
            top->at = top->root;
        if (result != DISTINCT_FITS)
            return result;
        return add_to_all(d, now->count - 1, byte) ? DISTINCT_FITS : DISTINCT_FULL;
    default:
        now->in_string = byte == '"';
    }
    return add_to_all(d, now->count, byte) ? DISTINCT_FITS : DISTINCT_FULL;
}

bool distinct_is_free(const struct distinct *d)
{
    for (uint32_t i = 0; i < d->now.count; i++)
        if (!d->now.lists[i].value && d->nodes[d->now.lists[i].at].count)
            return false;
    return true;
}

struct distinct_mark distinct_here(const struct distinct *d)
{
    return (struct distinct_mark){d->now, d->node_count, d->ended_count};
}

void distinct_go_back(struct distinct *d, const struct distinct_mark *mark)
{
    while (d->ended_count > mark->ended_count) {
        uint32_t node = d->ended[--d->ended_count];
        d->nodes[node].ends = false;
        count_item(d, node, UINT32_MAX);
    }
    /* Nodes go in reverse order of their creation, so each is the first child of its parent. */
    while (d->node_count > mark->node_count && d->node_count > 1) {
        const struct text_node *node = &d->nodes[--d->node_count];
        if (node->parent)
            d->nodes[node->parent].first = node->next;
    }
    d->now = mark->now;
}

void distinct_clear(struct distinct *d)
{
    d->now = (struct distinct_place){0};
    d->node_count = 0;
    d->ended_count = 0;
}

void distinct_free(struct distinct *d)
{
    memory_free(d->nodes);
    memory_free(d->ended);
    *d = (struct distinct){0};
}
