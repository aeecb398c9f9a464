#include "prefix/prefix_private.h"

#include <string.h>

uint32_t common_tokens(const int32_t *a, const int32_t *b, uint32_t most)
{
    uint32_t same = 0;
    while (same < most && a[same] == b[same])
        same++;
    return same;
}

struct node *tree_child(const struct node *node, const int32_t *tokens, uint32_t count, uint32_t have, uint32_t *same)
{
    struct node *best = NULL;
    *same = 0;
    for (struct node *child = node->children; child; child = child->next) {
        uint32_t shared = common_tokens(child->tokens, tokens, MIN(child->count, count));
        if (!item_there(&child->rows))
            shared = MIN(shared, have);
        if (shared > *same) {
            best = child;
            *same = shared;
        }
    }
    return best;
}

static uint64_t node_bytes(uint32_t count)
{
    return sizeof(struct node) + count * sizeof(int32_t);
}

static bool extend(struct tree *tree, struct node *node, const int32_t *tokens, uint32_t count)
{
    if (memory_resize((void **)&node->tokens, node->count, count, sizeof *node->tokens, "tokens of a prefix", UNTOLD))
        return false;
    memcpy(node->tokens, tokens, count * sizeof *node->tokens);
    tree->bytes += (count - node->count) * sizeof *node->tokens;
    node->count = count;
    return true;
}

struct node *tree_grow(struct tree *tree, struct node *node, const int32_t *tokens, uint32_t count,
                       void (*drop)(void *context, struct item *item), void *context)
{
    struct node *part = NULL;
    for (struct node *child = node->children; child; child = child->next) {
        uint32_t shared = common_tokens(child->tokens, tokens, MIN(child->count, count));
        if (shared == count && (!part || part->count < child->count || item_there(&child->rows)))
            part = child; /* it has all of these tokens */
        else if (shared == child->count && (!part || (part->count < count && part->count < child->count)))
            part = child; /* these tokens extend it */
    }
    if (part && part->count >= count)
        return part;
    if (part) {
        if (item_there(&part->rows))
            drop(context, &part->rows);
        return extend(tree, part, tokens, count) ? part : NULL;
    }
    struct node *made;
    if (ALLOCATE(&made, 1, "block of a prefix", UNTOLD))
        return NULL;
    made->first = node->first + node->count;
    if (!extend(tree, made, tokens, count)) {
        memory_free(made);
        return NULL;
    }
    tree->bytes += sizeof *made;
    made->rows.node = made;
    made->parent = node;
    made->next = node->children;
    node->children = made;
    return made;
}

struct checkpoint *tree_checkpoint(const struct node *node, uint32_t position)
{
    struct checkpoint *checkpoint = node->checkpoints;
    while (checkpoint && checkpoint->item.part.end != position)
        checkpoint = checkpoint->next;
    return checkpoint;
}

static void free_node(struct tree *tree, struct node *node)
{
    struct node **link = &node->parent->children;
    while (*link != node)
        link = &(*link)->next;
    *link = node->next;
    tree->bytes -= node_bytes(node->count);
    memory_free(node->tokens);
    memory_free(node);
}

static void drop_empty_checkpoints(struct node *node)
{
    for (struct checkpoint **link = &node->checkpoints; *link;) {
        struct checkpoint *checkpoint = *link;
        if (item_there(&checkpoint->item)) {
            link = &checkpoint->next;
            continue;
        }
        *link = checkpoint->next;
        memory_free(checkpoint);
    }
}

void tree_prune(struct tree *tree, struct node *node)
{
    drop_empty_checkpoints(node);
    while (node->parent && !node->children && !node->checkpoints && !item_there(&node->rows) &&
           node->round != tree->round) {
        struct node *parent = node->parent;
        free_node(tree, node);
        node = parent;
    }
}

struct node *tree_next(struct node *node)
{
    if (node->children)
        return node->children;
    while (node && !node->next)
        node = node->parent;
    return node ? node->next : NULL;
}

static struct node *first_leaf(struct node *node)
{
    while (node->children)
        node = node->children;
    return node;
}

void tree_sweep(struct tree *tree)
{
    for (struct node *next, *node = first_leaf(&tree->root); node->parent; node = next) {
        next = node->next ? first_leaf(node->next) : node->parent;
        drop_empty_checkpoints(node);
        if (!node->children && !node->checkpoints && !item_there(&node->rows) && node->round != tree->round)
            free_node(tree, node);
    }
}

void tree_tokens(const struct node *node, int32_t *out)
{
    for (; node->parent; node = node->parent)
        memcpy(out + node->first, node->tokens, node->count * sizeof *out);
}

void tree_free(struct tree *tree)
{
    struct node *node = &tree->root;
    while (node) {
        if (node->children) {
            node = node->children;
            continue;
        }
        while (node->checkpoints) {
            struct checkpoint *checkpoint = node->checkpoints;
            node->checkpoints = checkpoint->next;
            memory_free(checkpoint);
        }
        struct node *parent = node->parent;
        if (parent)
            free_node(tree, node);
        node = parent;
    }
}
