/* Compresses each block of positions into a row. */
#include "compute/vulkan/gpu_private.h"

/* As in shaders/compress.comp. */
#define COMPRESS_GROUP 64u

/* As struct Sequence of shaders/compress.comp. */
struct block_sequence {
    uint64_t state, next;
    uint32_t first_row, rows, position, first_block;
};

void gpu_compress(struct gpu *gpu, const struct gpu_compression *c)
{
    struct block_sequence entries[GPU_MAX_SEQUENCES];
    const uint64_t start = gpu_address(c->states);
    uint32_t block = 0;
    if (c->every == 0 || c->sequence_count == 0 || c->sequence_count > GPU_MAX_SEQUENCES) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: blocks of %u positions of %u sequences", c->every,
                         c->sequence_count);
        return;
    }
    for (uint32_t i = 0; i < c->sequence_count; i++) {
        const struct gpu_state_sequence *s = &c->sequences[i];
        entries[i] =
            (struct block_sequence){start + s->state, start + s->next, s->first_row, s->rows, c->positions[i], block};
        block += (uint32_t)compressed_rows(c->positions[i], s->rows, c->every);
    }
    /* Absent inputs are not used, but get an address that the shader may read. */
    const struct {
        uint64_t values, gates, bias, out, sequences;
        uint32_t size, every;
    } push = {gpu_address(c->values),
              gpu_address(c->gates.buffer ? c->gates : c->values),
              gpu_address(c->bias.buffer ? c->bias : c->values),
              gpu_address(c->out),
              gpu_table(gpu, entries, c->sequence_count * sizeof *entries),
              c->size,
              c->every};
    const uint32_t constants[] = {c->pools, c->overlaps, c->gates.buffer != NULL, c->bias.buffer != NULL};
    gpu_launch(gpu, KERNEL_compress, constants, COUNT_OF(constants), &push, sizeof push,
               (c->size + COMPRESS_GROUP - 1) / COMPRESS_GROUP, c->sequence_count, 1);
}
