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
    bool begins = !store->passing;
    store->passing = true;
    pthread_mutex_unlock(store->mutex);
    if (begins)
        peers_begin();
}

/* Locked, and unlocked afterwards. */
static void end_pass(struct store *store)
{
    bool ends = store->passing;
    store->passing = false;
    ring_give_back(store);
    guess_pump(store);
    pthread_mutex_unlock(store->mutex);
    if (ends)
        peers_end();
}

void store_abandon(struct store *store)
{
    pthread_mutex_lock(store->mutex);
    end_pass(store);
}

hypura_status store_advance(struct store *store, hypura_error *error)
{
    pthread_mutex_lock(store->mutex);
    usage_note_pass(store);
    guess_pass_done(store);
    cache_advance(store);
    in_place_settle(store);
    end_pass(store);
    return moves_pass_done(store, error);
}
