/* S3-FIFO: a new item enters a small queue. If it is used again there, it moves to the main queue; otherwise it is
 * evicted and remembered for a while. A remembered item that returns enters the main queue. */
#include "store/item_list.h"
#include "store/policy_private.h"

#define MOST_USES 3

enum where { NOWHERE, SMALL, MAIN };

struct s3fifo {
    struct cache_policy policy;
    struct item_link *links, *ghost_links;
    uint8_t *where, *uses;
    bool *is_ghost;
    struct item_list small, main, ghosts;
};

static void s3fifo_access(struct cache_policy *policy, uint32_t item)
{
    struct s3fifo *fifo = (struct s3fifo *)policy;
    if (fifo->where[item] != NOWHERE && fifo->uses[item] < MOST_USES)
        fifo->uses[item]++;
}

static void forget_ghost(struct s3fifo *fifo, uint32_t item)
{
    list_drop(&fifo->ghosts, fifo->ghost_links, item);
    fifo->is_ghost[item] = false;
}

static void s3fifo_insert(struct cache_policy *policy, uint32_t item)
{
    struct s3fifo *fifo = (struct s3fifo *)policy;
    bool back = fifo->is_ghost[item];
    if (back)
        forget_ghost(fifo, item);
    fifo->uses[item] = 0;
    fifo->where[item] = back ? MAIN : SMALL;
    list_add(back ? &fifo->main : &fifo->small, fifo->links, item);
}

static void s3fifo_remove(struct cache_policy *policy, uint32_t item)
{
    struct s3fifo *fifo = (struct s3fifo *)policy;
    bool small = fifo->where[item] == SMALL;
    list_drop(small ? &fifo->small : &fifo->main, fifo->links, item);
    fifo->where[item] = NOWHERE;
    if (!small)
        return;
    fifo->is_ghost[item] = true;
    list_add(&fifo->ghosts, fifo->ghost_links, item);
    if (fifo->ghosts.count > fifo->small.count + fifo->main.count)
        forget_ghost(fifo, fifo->ghosts.oldest);
}

static void move_to_main(struct s3fifo *fifo, struct item_list *from, uint32_t item)
{
    list_drop(from, fifo->links, item);
    list_add(&fifo->main, fifo->links, item);
    fifo->where[item] = MAIN;
}

/* The oldest item of the small queue that was not used again; those that were used move to the main queue. */
static uint32_t small_victim(struct s3fifo *fifo, policy_may_go may_go, void *context)
{
    for (uint32_t item = fifo->small.oldest; item != NO_ITEM;) {
        uint32_t newer = fifo->links[item].newer;
        if (fifo->uses[item] > 0) {
            fifo->uses[item] = 0;
            move_to_main(fifo, &fifo->small, item);
        } else if (may_go(context, item)) {
            return item;
        }
        item = newer;
    }
    return NO_ITEM;
}

static uint32_t main_victim(struct s3fifo *fifo, policy_may_go may_go, void *context)
{
    uint32_t rounds = fifo->main.count * (MOST_USES + 1);
    for (uint32_t i = 0; i < rounds; i++) {
        uint32_t item = fifo->main.oldest;
        if (fifo->uses[item] == 0 && may_go(context, item))
            return item;
        if (fifo->uses[item] > 0)
            fifo->uses[item]--;
        move_to_main(fifo, &fifo->main, item);
    }
    return NO_ITEM;
}

static uint32_t s3fifo_victim(struct cache_policy *policy, policy_may_go may_go, void *context)
{
    struct s3fifo *fifo = (struct s3fifo *)policy;
    bool small_first = fifo->small.count * 10 >= fifo->small.count + fifo->main.count;
    uint32_t item = small_first ? small_victim(fifo, may_go, context) : main_victim(fifo, may_go, context);
    if (item == NO_ITEM)
        item = small_first ? main_victim(fifo, may_go, context) : small_victim(fifo, may_go, context);
    return item;
}

static void s3fifo_destroy(struct cache_policy *policy)
{
    struct s3fifo *fifo = (struct s3fifo *)policy;
    memory_free(fifo->links);
    memory_free(fifo->ghost_links);
    memory_free(fifo->where);
    memory_free(fifo->uses);
    memory_free(fifo->is_ghost);
    memory_free(fifo);
}

static const struct cache_policy_operations s3fifo_operations = {.name = "s3fifo",
                                                                 .access = s3fifo_access,
                                                                 .insert = s3fifo_insert,
                                                                 .remove = s3fifo_remove,
                                                                 .victim = s3fifo_victim,
                                                                 .destroy = s3fifo_destroy};

hypura_status policy_s3fifo_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error)
{
    struct s3fifo *fifo;
    hypura_status status = ALLOCATE(&fifo, 1, "cache policy", error);
    if (status)
        return status;
    fifo->policy.operations = &s3fifo_operations;
    list_clear(&fifo->small);
    list_clear(&fifo->main);
    list_clear(&fifo->ghosts);
    if ((status = ALLOCATE(&fifo->links, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&fifo->ghost_links, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&fifo->where, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&fifo->uses, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&fifo->is_ghost, shape->count, "cache policy", error))) {
        s3fifo_destroy(&fifo->policy);
        return status;
    }
    *out = &fifo->policy;
    return HYPURA_OK;
}
