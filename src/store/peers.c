/* The stores of one process share its drive: while a pass runs over one of them, none fills free slots. */
#include "store/store_private.h"

static struct {
    pthread_mutex_t mutex; /* locked before a store's */
    struct store *first;
    uint32_t passes; /* running */
} peers = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void set_resting(struct store *store, bool resting)
{
    pthread_mutex_lock(store->mutex);
    store->resting = resting;
    io_fill(store->io, !resting);
    prefetch_pump(store);
    pthread_mutex_unlock(store->mutex);
}

static void set_all_resting(bool resting)
{
    for (struct store *store = peers.first; store; store = store->next_peer)
        set_resting(store, resting);
}

void peers_join(struct store *store)
{
    pthread_mutex_lock(&peers.mutex);
    store->next_peer = peers.first;
    peers.first = store;
    set_resting(store, peers.passes > 0);
    pthread_mutex_unlock(&peers.mutex);
}

void peers_begin(void)
{
    pthread_mutex_lock(&peers.mutex);
    if (peers.passes++ == 0)
        set_all_resting(true);
    pthread_mutex_unlock(&peers.mutex);
}

void peers_end(void)
{
    pthread_mutex_lock(&peers.mutex);
    if (--peers.passes == 0)
        set_all_resting(false);
    pthread_mutex_unlock(&peers.mutex);
}

void peers_leave(struct store *store)
{
    pthread_mutex_lock(&peers.mutex);
    struct store **link = &peers.first;
    while (*link && *link != store)
        link = &(*link)->next_peer;
    if (*link)
        *link = store->next_peer;
    pthread_mutex_unlock(&peers.mutex);
    if (store->passing)
        peers_end();
}
