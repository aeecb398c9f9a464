/* Queues of units that wait for room. They are short: what one layer wants. */
#include "store/store_private.h"

void waiting_append(struct store *store, struct waiting_list *list, unit_number unit)
{
    store->units[unit].next_waiting = NO_UNIT;
    if (list->first == NO_UNIT)
        list->first = unit;
    else
        store->units[list->last].next_waiting = unit;
    list->last = unit;
}

void waiting_prepend(struct store *store, struct waiting_list *list, unit_number unit)
{
    store->units[unit].next_waiting = list->first;
    if (list->first == NO_UNIT)
        list->last = unit;
    list->first = unit;
}

void waiting_remove(struct store *store, struct waiting_list *list, unit_number unit)
{
    unit_number before = NO_UNIT;
    for (unit_number at = list->first; at != unit; at = store->units[at].next_waiting)
        before = at;
    unit_number next = store->units[unit].next_waiting;
    if (before == NO_UNIT)
        list->first = next;
    else
        store->units[before].next_waiting = next;
    if (list->last == unit)
        list->last = before;
}
