/* store/item_list: lists of a policy's items, the newest first. Owner: item_list.c.
 *
 * Lists share one pair of arrays: an item is in at most one of them. */
#ifndef HYPURA_STORE_ITEM_LIST_H
#define HYPURA_STORE_ITEM_LIST_H

#include "store/policy.h"

struct item_link {
    uint32_t newer, older;
};

struct item_list {
    uint32_t newest, oldest, count;
};

void list_clear(struct item_list *list);
void list_add(struct item_list *list, struct item_link *links, uint32_t item);
void list_drop(struct item_list *list, struct item_link *links, uint32_t item);

#endif
