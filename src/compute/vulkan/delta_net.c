/* Gated delta nets: work groups, and the places of states. */
#include "compute/vulkan/gpu_private.h"

/* As in shaders/delta_inputs.comp, for prompts. */
#define INPUT_ROWS 8u

/* As in shaders/delta_net.comp. */
#define COLUMNS 32u

/* As in shaders/delta_chunks.glsl. */
#define CHUNK 32u

/* Work groups that keep a device busy while they make blocks of chunks: one for each head of each chunk. Scratch memory
 * has room for the blocks of twice as many, so that states are carried through some while others are made. */
#define GROUPS_AT_ONCE 512u

bool gpu_delta_net_supports(uint32_t key_size, uint32_t taps)
{
    return key_size > 0 && key_size % 4 == 0 && key_size <= GPU_DELTA_KEYS && taps >= 2 && taps <= DELTA_NET_MAX_TAPS;
}

static uint32_t channels_of(const struct gpu_delta_net *net)
{
    return 2 * net->heads_k * net->key_size + net->heads_v * net->value_size;
}

static uint32_t decay_kind(const struct gpu_delta_net *net)
{
    return net->by_channel ? 1 + (uint32_t)net->bounded : 0;
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

/* Rows of a sequence that a work group takes. */
static uint32_t input_rows(const struct gpu_delta_net *net)
{
    return net->rows / net->sequence_count < INPUT_ROWS || net->taps > INPUT_ROWS ? 1 : INPUT_ROWS;
}

/* The batch's sequences, and how many work groups prepare a head's inputs. */
static uint32_t find_entries(const struct gpu_delta_net *net, struct state_sequence *entries)
{
    uint32_t groups = 0;
    for (uint32_t i = 0; i < net->sequence_count; i++) {
        entries[i] = gpu_state_entry(net->states, &net->sequences[i]);
        entries[i].block = groups;
        groups += (entries[i].rows + input_rows(net) - 1) / input_rows(net);
    }
    return groups;
}

static void prepare_inputs(struct gpu *gpu, const struct gpu_delta_net *net, const struct state_sequence *entries,
                           uint32_t groups)
{
    const struct {
        uint64_t convolution[DELTA_PARTS], in[DELTA_PARTS], out, sequences;
        uint32_t strides[DELTA_PARTS], sequence_count, key_heads, key_size, value_size, channels, matrix_floats;
        float epsilon;
        uint32_t root_epsilon;
    } push = {{gpu_address(net->convolution[0]), gpu_address(net->convolution[1]), gpu_address(net->convolution[2])},
              {gpu_address(net->input[0]), gpu_address(net->input[1]), gpu_address(net->input[2])},
              gpu_address(net->convolved),
              gpu_table(gpu, entries, net->sequence_count * sizeof *entries),
              {net->input_stride[0], net->input_stride[1], net->input_stride[2]},
              net->sequence_count,
              net->heads_k,
              net->key_size,
              net->value_size,
              channels_of(net),
              net->heads_v * net->key_size * net->value_size,
              net->epsilon,
              net->root_epsilon};
    const uint32_t constants[] = {net->taps, input_rows(net)};
    gpu_launch(gpu, KERNEL_delta_inputs, constants, COUNT_OF(constants), &push, sizeof push, groups,
               2 * net->heads_k + net->heads_v, 1);
}

/* ---- row by row -------------------------------------------------------------------------------------------------- */

static void run_rows(struct gpu *gpu, const struct gpu_delta_net *net, const struct state_sequence *entries)
{
    struct state_sequence few[GPU_MAX_SEQUENCES];
    uint32_t count = 0;
    for (uint32_t i = 0; i < net->sequence_count; i++)
        if (entries[i].rows < GPU_DELTA_CHUNK_ROWS)
            few[count++] = entries[i];
    if (count == 0)
        return;
    const struct {
        uint64_t in, beta, alpha, step_bias, decay_rate, out, sequences;
        uint32_t key_heads, value_heads, value_size, channels, gate_stride, gate_group, tiled, decay;
        float bound;
    } push = {gpu_address(net->convolved),
              gpu_address(net->beta),
              gpu_address(net->alpha),
              gpu_address(net->step_bias),
              gpu_address(net->decay_rate),
              gpu_address(net->output),
              gpu_table(gpu, few, count * sizeof *few),
              net->heads_k,
              net->heads_v,
              net->value_size,
              channels_of(net),
              net->gate_stride,
              net->gate_group,
              net->tiled,
              decay_kind(net),
              net->bound};
    const uint32_t slices = (net->value_size + COLUMNS - 1) / COLUMNS;
    gpu_launch(gpu, KERNEL_delta_net, &net->key_size, 1, &push, sizeof push, net->heads_v * slices, count, 1);
}

/* ---- in chunks --------------------------------------------------------------------------------------------------- */

/* The size of a key in blocks. */
static uint32_t padded_keys(uint32_t key_size)
{
    return key_size <= 64 ? 64 : key_size <= 128 ? 128 : 256;
}

/* Bytes of a chunk's blocks. */
static uint64_t chunk_bytes(uint32_t heads_v, uint32_t key_size, uint32_t value_size)
{
    const uint64_t keys = padded_keys(key_size), values = align_up(value_size, 32);
    return heads_v * (CHUNK * (3 * keys + values) + keys) * sizeof(float);
}

static uint32_t chunks_at_once(uint32_t heads_v)
{
    return MAX(GROUPS_AT_ONCE / heads_v, 1u);
}

static uint32_t chunks_of(const struct state_sequence *sequence)
{
    return sequence->rows < GPU_DELTA_CHUNK_ROWS ? 0 : (sequence->rows + CHUNK - 1) / CHUNK;
}

uint64_t gpu_delta_net_scratch_bytes(uint32_t rows, uint32_t sequences, uint32_t heads_v, uint32_t key_size,
                                     uint32_t value_size)
{
    const uint32_t chunks = rows / CHUNK + MIN(sequences, rows / GPU_DELTA_CHUNK_ROWS);
    return MIN(chunks, 2 * chunks_at_once(heads_v)) * chunk_bytes(heads_v, key_size, value_size);
}

/* Some chunks of a batch, in order: those of sequences "parts", whose first may have begun earlier. */
struct segment {
    struct state_sequence parts[GPU_MAX_SEQUENCES];
    uint32_t part_count, chunks;
    uint64_t table, blocks; /* addresses */
};

/* Cuts the next segment, of at most this many chunks. *sequence and *done (its chunks in earlier segments) advance. */
static void cut_segment(const struct state_sequence *entries, uint32_t count, uint32_t most, uint32_t *sequence,
                        uint32_t *done, struct segment *out)
{
    out->part_count = out->chunks = 0;
    while (*sequence < count && out->chunks < most) {
        const struct state_sequence *s = &entries[*sequence];
        const uint32_t left = chunks_of(s) - *done, taken = MIN(left, most - out->chunks), before = *done * CHUNK;
        if (taken > 0) {
            struct state_sequence *part = &out->parts[out->part_count++];
            *part = *s;
            part->first_row += before;
            part->rows = MIN(s->rows - before, taken * CHUNK);
            part->block = out->chunks;
            if (*done > 0) {
                part->state = part->next;
                part->fresh = false;
            }
        }
        out->chunks += taken;
        *done = taken < left ? *done + taken : 0;
        *sequence += taken == left;
    }
}

/* Whether kernels may read and write four floats at a time. */
static bool is_wide(const struct gpu_delta_net *net)
{
    uint64_t all = gpu_address(net->convolved) | gpu_address(net->output) | gpu_address(net->states);
    if (net->by_channel)
        all |= gpu_address(net->alpha) | gpu_address(net->step_bias);
    for (uint32_t i = 0; i < net->sequence_count; i++)
        all |= net->sequences[i].state | net->sequences[i].next;
    return net->value_size % 4 == 0 && all % 16 == 0;
}

static void make_blocks(struct gpu *gpu, const struct gpu_delta_net *net, const struct segment *segment)
{
    const struct {
        uint64_t in, beta, alpha, step_bias, decay_rate, out, blocks, sequences;
        uint32_t sequence_count, key_heads, value_heads, key_size, value_size, channels, gate_stride, gate_group, tiled;
        uint32_t decay;
        float bound;
    } push = {gpu_address(net->convolved),
              gpu_address(net->beta),
              gpu_address(net->alpha),
              gpu_address(net->step_bias),
              gpu_address(net->decay_rate),
              gpu_address(net->output),
              segment->blocks,
              segment->table,
              segment->part_count,
              net->heads_k,
              net->heads_v,
              net->key_size,
              net->value_size,
              channels_of(net),
              net->gate_stride,
              net->gate_group,
              net->tiled,
              decay_kind(net),
              net->bound};
    const uint32_t constants[] = {padded_keys(net->key_size), is_wide(net), net->by_channel};
    gpu_launch(gpu, KERNEL_delta_chunks, constants, COUNT_OF(constants), &push, sizeof push, net->heads_v,
               segment->chunks, 1);
}

static void carry_states(struct gpu *gpu, const struct gpu_delta_net *net, const struct segment *segment)
{
    const struct {
        uint64_t blocks, sequences, out;
        uint32_t value_heads, key_size, value_size;
    } push = {segment->blocks, segment->table, gpu_address(net->output), net->heads_v, net->key_size, net->value_size};
    const uint32_t keys = padded_keys(net->key_size), columns = keys > 128 ? 16 : 32;
    const uint32_t constants[] = {keys, is_wide(net), 8 * columns};
    gpu_launch(gpu, KERNEL_delta_carry, constants, COUNT_OF(constants), &push, sizeof push,
               net->heads_v * ((net->value_size + columns - 1) / columns), segment->part_count, 1);
}

/* One segment after the other, in two halves of the scratch memory: the blocks of one are made while states are carried
 * through the one before. */
static void run_chunks(struct gpu *gpu, const struct gpu_delta_net *net, const struct state_sequence *entries)
{
    const uint64_t bytes = chunk_bytes(net->heads_v, net->key_size, net->value_size);
    const uint64_t room = net->scratch.buffer ? net->scratch_bytes / bytes : 0;
    uint32_t chunks = 0, sequence = 0, done = 0;
    for (uint32_t i = 0; i < net->sequence_count; i++)
        chunks += chunks_of(&entries[i]);
    if (chunks == 0)
        return;
    uint32_t most = MIN(chunks, chunks_at_once(net->heads_v));
    if (most < chunks || most > room)
        most = (uint32_t)MIN(most, room / 2);
    if (most == 0) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: %llu bytes of scratch memory for %u chunks of a delta net",
                         (unsigned long long)net->scratch_bytes, chunks);
        return;
    }
    struct segment segments[2];
    for (uint32_t i = 0;; i++) {
        struct segment *made = &segments[i % 2], *carried = &segments[(i + 1) % 2];
        if (i > 0) {
            gpu_barrier(gpu);
            carry_states(gpu, net, carried);
        }
        if (chunks == 0)
            return;
        cut_segment(entries, net->sequence_count, most, &sequence, &done, made);
        made->table = gpu_table(gpu, made->parts, made->part_count * sizeof *made->parts);
        made->blocks = gpu_address(net->scratch) + i % 2 * most * bytes;
        make_blocks(gpu, net, made);
        chunks -= made->chunks;
    }
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

void gpu_delta_net(struct gpu *gpu, const struct gpu_delta_net *net)
{
    const uint32_t heads = 2 * net->heads_k + net->heads_v;
    if (!gpu_delta_net_supports(net->key_size, net->taps) || net->heads_k == 0 || net->heads_v % net->heads_k ||
        net->sequence_count == 0 || net->sequence_count > GPU_MAX_SEQUENCES || net->rows > GPU_MAX_GROUPS ||
        heads > GPU_MAX_GROUPS || (uint64_t)net->heads_v * net->value_size / 16 >= GPU_MAX_GROUPS) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED,
                         "GPU: a delta net of %u and %u heads of %u and %u elements, of %u rows of %u sequences",
                         net->heads_k, net->heads_v, net->key_size, net->value_size, net->rows, net->sequence_count);
        return;
    }
    struct state_sequence entries[GPU_MAX_SEQUENCES];
    const uint32_t groups = find_entries(net, entries);
    prepare_inputs(gpu, net, entries, groups);
    gpu_barrier(gpu);
    run_rows(gpu, net, entries);
    run_chunks(gpu, net, entries);
}
