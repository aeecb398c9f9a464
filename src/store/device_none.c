/* Replaces device.c in a build without a GPU, where the plan puts nothing there. */
#include "store/store_private.h"

#include "store/device_private.h"
#include "store/in_place.h"

hypura_status devices_prepare(struct store *store, struct gpu *const *gpus, uint32_t count,
                              const struct store_source *source, hypura_error *error)
{
    (void)store, (void)gpus, (void)count, (void)source;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}

void devices_free(struct store *store)
{
    (void)store;
}

hypura_status devices_load(struct store *store, uint64_t total, store_progress progress, void *context,
                           hypura_error *error)
{
    (void)store, (void)total, (void)progress, (void)context, (void)error;
    return HYPURA_OK;
}

uint64_t device_import_alignment(const struct gpu *gpu)
{
    (void)gpu;
    return 1;
}

uint64_t devices_bytes(const struct store *store)
{
    (void)store;
    return 0;
}

void device_finished(struct store *store, struct transfer *transfer)
{
    (void)store, (void)transfer;
}

hypura_status in_place_prepare(struct store *store, struct gpu *gpu, hypura_error *error)
{
    (void)store, (void)gpu, (void)error;
    return HYPURA_OK;
}

void in_place_free(struct store *store)
{
    (void)store;
}

bool in_place_settle(struct store *store)
{
    (void)store;
    return false;
}

hypura_status moves_prepare(struct store *store, const struct store_source *source, hypura_error *error)
{
    (void)store, (void)source, (void)error;
    return HYPURA_OK;
}

void moves_note(struct store *store, unit_number unit)
{
    (void)store, (void)unit;
}

void moves_expect(struct store *store, unit_number unit, float uses_a_pass)
{
    (void)store, (void)unit, (void)uses_a_pass;
}

hypura_status moves_pass_done(struct store *store, hypura_error *error)
{
    (void)store, (void)error;
    return HYPURA_OK;
}

void moves_stop(struct store *store)
{
    (void)store;
}

void moves_free(struct store *store)
{
    (void)store;
}
