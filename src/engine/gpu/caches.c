/* Copies parts of caches on a device to the host and back, between batches. */
#include "engine/gpu/pass.h"

#include <string.h>

static hypura_status take_read(struct gpu_pass *pass, hypura_error *error)
{
    if (pass->reading.bytes == 0)
        return HYPURA_OK;
    uint64_t bytes = pass->reading.bytes;
    pass->reading.bytes = 0;
    TRY(pass_send(pass, error));
    TRY(gpu_wait(pass->gpu, pass->last, error));
    memcpy(pass->reading.out, gpu_buffer_mapped(pass->readback), bytes);
    return HYPURA_OK;
}

/* Collects pieces that are adjacent on the host, as many as the buffer for reading back holds. */
hypura_status gpu_pass_read_cache(struct batch *batch, uint32_t layer, uint64_t offset, uint64_t bytes, uint8_t *out,
                                  hypura_error *error)
{
    pass_choose(batch, layer);
    struct gpu_pass *pass = batch->pass;
    const uint64_t room = gpu_buffer_bytes(pass->readback);
    pass_drop_ahead(pass); /* commands recorded ahead use the states and positions from before */
    while (bytes) {
        if (pass->reading.bytes == room || out != pass->reading.out + pass->reading.bytes)
            TRY(take_read(pass, error));
        if (pass->reading.bytes == 0)
            pass->reading.out = out;
        uint64_t part = MIN(bytes, room - pass->reading.bytes);
        pass_record(pass);
        gpu_copy(pass->gpu, (struct gpu_range){pass->readback, pass->reading.bytes},
                 (struct gpu_range){pass->caches[layer], offset}, part);
        pass->reading.bytes += part;
        offset += part;
        out += part;
        bytes -= part;
    }
    return HYPURA_OK;
}

hypura_status gpu_pass_write_cache(struct batch *batch, uint32_t layer, uint64_t offset, uint64_t bytes,
                                   const uint8_t *in, hypura_error *error)
{
    pass_choose(batch, layer);
    struct gpu_pass *pass = batch->pass;
    gpu_ticket ticket = 0;
    pass_drop_ahead(pass);
    hypura_status status =
        gpu_upload(pass->gpu, (struct gpu_range){pass->caches[layer], offset}, in, bytes, &ticket, error);
    pass->wait_upload = MAX(pass->wait_upload, ticket);
    return status;
}

void gpu_pass_copy_cache(struct batch *batch, uint32_t layer, uint64_t from, uint64_t to, uint64_t bytes)
{
    pass_choose(batch, layer);
    struct gpu_pass *pass = batch->pass;
    pass_drop_ahead(pass);
    pass_record(pass);
    gpu_copy(pass->gpu, (struct gpu_range){pass->caches[layer], to}, (struct gpu_range){pass->caches[layer], from},
             bytes);
    pass->copying = true;
}

static hypura_status settle(struct gpu_pass *pass, hypura_error *error)
{
    const bool copying = pass->copying;
    pass->copying = false;
    hypura_status status = take_read(pass, error);
    if (!status && copying)
        status = pass_send(pass, error);
    if (!status && copying) /* uploads to what was read are not ordered after it */
        status = gpu_wait(pass->gpu, pass->last, error);
    gpu_ticket arrived = pass->wait_upload;
    pass->wait_upload = 0;
    hypura_status written = gpu_upload_wait(pass->gpu, arrived, status ? NULL : error);
    return status ? status : written;
}

hypura_status gpu_pass_settle_caches(struct batch *batch, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++) {
        hypura_status other = batch->passes[d] ? settle(batch->passes[d], status ? NULL : error) : HYPURA_OK;
        status = status ? status : other;
    }
    return status;
}

/* Sends the entries of a sequence between the first and the last that changed. */
static hypura_status place_blocks(struct gpu_pass *pass, const struct kv_cache *kv, uint32_t sequence,
                                  hypura_error *error)
{
    const size_t row = (size_t)sequence * kv->blocks;
    uint32_t *known = pass->known_blocks + row, first = kv->blocks, end = 0;
    gpu_ticket ticket = 0;
    for (uint32_t b = 0; b < kv->blocks; b++) {
        const uint32_t now = kv_cache_block(kv, sequence, b);
        if (known[b] == now)
            continue;
        known[b] = now;
        first = MIN(first, b);
        end = b + 1;
    }
    if (first >= end)
        return HYPURA_OK;
    hypura_status status = gpu_upload(pass->gpu, range_at(pass->blocks, row + first), known + first,
                                      (end - first) * sizeof *known, &ticket, error);
    pass->wait_upload = MAX(pass->wait_upload, ticket);
    if (status)
        memset(known, 0xff, kv->blocks * sizeof *known); /* to be sent again */
    return status;
}

hypura_status gpu_pass_place_blocks(struct batch *batch, hypura_error *error)
{
    const struct kv_cache *kv = &batch->kv;
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++) {
        struct gpu_pass *pass = batch->passes[d];
        if (!pass || !pass->known_blocks || pass->block_changes == kv->pool.changes)
            continue;
        for (uint32_t s = 0; s < kv->sequences; s++)
            TRY(place_blocks(pass, kv, s, error));
        pass->block_changes = kv->pool.changes;
    }
    atomic_store(&batch->counters->pool_blocks, kv->pool.blocks - kv->pool.free_count);
    return HYPURA_OK;
}
