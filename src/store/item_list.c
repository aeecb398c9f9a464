#include "store/item_list.h"

void list_clear(struct item_list *list)
{
    list->newest = list->oldest = NO_ITEM;
    list->count = 0;
}

void list_add(struct item_list *list, struct item_link *links, uint32_t item)
{
    links[item] = (struct item_link){NO_ITEM, list->newest};
    if (list->newest == NO_ITEM)
        list->oldest = item;
    else
        links[list->newest].newer = item;
    list->newest = item;
    list->count++;
}

void list_drop(struct item_list *list, struct item_link *links, uint32_t item)
{
    const struct item_link *link = &links[item];
    if (link->newer == NO_ITEM)
        list->newest = link->older;
    else
        links[link->newer].older = link->older;
    if (link->older == NO_ITEM)
        list->oldest = link->newer;
    else
        links[link->older].newer = link->newer;
    list->count--;
}
