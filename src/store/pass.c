/* The begin and end of a pass, and the notes about its tokens. */
#include "store/store_private.h"

#include "store/in_place.h"

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
    tables_forget(store);
    ring_give_back(store);
    prefetch_pump(store);
    pthread_mutex_unlock(store->mutex);
    pinned_passed(store);
    if (ends)
        peers_end();
}

void store_abandon(struct store *store)
{
    pthread_mutex_lock(store->mutex);
    end_pass(store);
}

hypura_status store_check_files(struct store *store, hypura_error *error)
{
    struct io_counters counters;
    io_counters(store->io, &counters);
    uint64_t bytes = store->rows_read;
    for (int priority = 0; priority < PRIORITY_COUNT; priority++)
        bytes += counters.bytes[priority];
    for (uint32_t i = 0; bytes != store->bytes_checked && i < store->file_count; i++) {
        if (store_file_changed(&store->files[i]))
            return error_set(error, HYPURA_ERROR_IO,
                             "%s was written to, or touched, while it was in use: data in memory may no longer match "
                             "the file, so the model must be opened again",
                             store->files[i].path);
    }
    store->bytes_checked = bytes;
    return HYPURA_OK;
}

hypura_status store_advance(struct store *store, hypura_error *error)
{
    pthread_mutex_lock(store->mutex);
    hypura_status status = store_check_files(store, error);
    if (status) {
        pthread_mutex_unlock(store->mutex);
        return status;
    }
    usage_note_pass(store);
    prefetch_pass_done(store);
    cache_advance(store);
    if (in_place_settle(store))
        fill_again(store);
    end_pass(store);
    return moves_pass_done(store, error);
}
