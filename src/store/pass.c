/* Where a pass begins and ends, and what it tells of its tokens. */
#include "store/internal.h"

void store_note_tokens(struct store *store, unit_number first, const uint32_t *experts, size_t tokens, size_t used)
{
    pthread_mutex_lock(store->mutex);
    cache_note_tokens(store, first, experts, tokens, used);
    pthread_mutex_unlock(store->mutex);
}

void store_begin(struct store *store)
{
    pthread_mutex_lock(store->mutex);
    store->passing = true;
    io_fill(store->io, false);
    pthread_mutex_unlock(store->mutex);
}

static void pass_ended(struct store *store)
{
    store->passing = false;
    io_fill(store->io, true);
}

void store_abandon(struct store *store)
{
    pthread_mutex_lock(store->mutex);
    pass_ended(store);
    ring_give_back(store);
    guess_pump(store);
    pthread_mutex_unlock(store->mutex);
}

hypura_status store_advance(struct store *store, hypura_error *error)
{
    pthread_mutex_lock(store->mutex);
    pass_ended(store);
    usage_note_pass(store);
    guess_pass_done(store);
    cache_advance(store);
    in_place_settle(store);
    ring_give_back(store);
    guess_pump(store);
    pthread_mutex_unlock(store->mutex);
    return moves_pass_done(store, error);
}
