/* gpu: the mathematics of a transformer on a Vulkan device, the mirror of compute.h.
 *
 * It works on tensors, not models. Vulkan's loader is opened on first use, so that the program starts on a machine
 * without one. A build without Vulkan's headers or a working glslc has HYPURA_VULKAN 0. It has only two functions of
 * this header: gpu_list finds nothing, and gpu_open says why. The same holds if glslc failed for a kernel.
 *
 * What a device must have: Vulkan 1.2 with buffer device addresses, timeline semaphores, 64-bit integers and storage of
 * 8 and 16 bits. Everything else (arithmetic in half precision, cooperative matrices, import of host memory) is used
 * where present. Kernels assume no subgroup size.
 *
 * Determinism: on one device and driver the same inputs give the same bits. Sums have a fixed order, without atomics on
 * floats. Batches of more than GPU_VECTOR_TOKENS tokens go through other kernels, with another order.
 *
 * Threads: one thread at a time uses a struct gpu. Meanwhile, any thread may call gpu_upload, gpu_upload_many,
 * gpu_upload_wait, gpu_signal_host, gpu_buffer_create and gpu_buffer_destroy.
 *
 * To add a kernel:
 *   1. shaders/NAME.comp: GLSL with shaders/common.glsl, which has the types of addresses and sums over a work group.
 * It finds its arguments in one block of push constants of at most GPU_PUSH_BYTES: addresses first, then numbers.
 *   2. A row in meson.build: 'NAME': ['NAME.comp', flags]. Several rows may build one file with different -D flags. The
 *      row makes enum gpu_kernel's KERNEL_NAME and embeds the SPIR-V.
 *   3. A function in a .c file of this folder, declared below: it fills a struct of the same layout, with gpu_address
 * for the addresses (0 for a range without a buffer), and calls gpu_launch (gpu_private.h) with specialisation
 * constants (constant_id 0, 1, ...) and the number of work groups, each below GPU_MAX_GROUPS.
 *   4. A test in tests/compute/test_gpu*.c that compares with plain C, under the validation layers.
 */
#ifndef HYPURA_GPU_H
#define HYPURA_GPU_H

#include "compute/compute.h"

/* ---- devices ----------------------------------------------------------------------------------------------------- */

enum gpu_kind { GPU_DISCRETE, GPU_INTEGRATED, GPU_VIRTUAL, GPU_CPU };

struct gpu_info {
    char name[256], driver[256];
    enum gpu_kind kind;
    uint32_t driver_version;
    uint8_t uuid[16];      /* of the card, whatever the driver; zeros: unknown */
    uint64_t memory_bytes; /* of the largest heap that is local to the device */
    uint64_t free_bytes;   /* of these, as the driver reports; else memory_bytes */
    bool unified;          /* device memory is host memory, so device buffers are mapped */
    bool visible;          /* the host can map all of the device's memory */
    uint64_t max_allocation;
    uint32_t shared_bytes, subgroup_min, subgroup_max;
    uint32_t max_group; /* invocations per work group */
    uint32_t cores;     /* multiprocessors or the like; 0: unknown */
    bool fp16, cooperative_matrix, host_import;
    bool khr_matrix; /* cooperative matrices by VK_KHR_cooperative_matrix, not NVIDIA's extension */
    bool int8_dot;   /* multiplies quantised weights as bytes */
    bool panels;     /* multiplies long batches from panels; only known once the device is open */
    bool chains;     /* kernels wait for each other themselves, instead of at barriers */
    bool watches;    /* a kernel may watch what the host writes (watch.c); only known once the device is open */
    bool events;     /* a batch that waits for the host is on the device already (watch.c) */
    uint64_t import_alignment; /* of addresses and sizes for gpu_buffer_import */
    char lacks[160];           /* what hypura needs and the device lacks; empty: nothing */
};

/* Lists devices in the loader's order. *count may exceed capacity; at most capacity entries are filled in. Without a
 * loader or a device, *count is 0, the status is OK, and why[512] (may be NULL) gets the reason. */
hypura_status gpu_list(struct gpu_info *out, size_t capacity, size_t *count, char *why, hypura_error *error);

struct gpu;

struct gpu_options {
    uint32_t index;             /* in gpu_list's order */
    const char *pipeline_cache; /* a file that keeps compiled kernels; NULL: none */
    bool validate;              /* run under the validation layers, as HYPURA_GPU_VALIDATE=1 in the environment does */
    bool floats;                /* multiply no weights as bytes: for tests */
    bool separate;              /* treat memory as not shared with the host, even if it is: for tests */
};

hypura_status gpu_open(struct gpu **out, const struct gpu_options *options, hypura_error *error);

/* A device of another machine, for planning: it reports its properties and abilities, but computes nothing. */
hypura_status gpu_imagine(struct gpu **out, const struct gpu_info *info, hypura_error *error);

/* Waits for batches in flight. Destroy its buffers first. If the device hangs, its memory is not freed. */
void gpu_close(struct gpu *gpu);
const struct gpu_info *gpu_get_info(const struct gpu *gpu);
bool gpu_is_lost(const struct gpu *gpu);              /* then every call fails */
uint64_t gpu_free_bytes(struct gpu *gpu);             /* the present value of free_bytes */
uint64_t gpu_busy_nanoseconds(const struct gpu *gpu); /* of batches, up to a recent one; 0: unknown */

/* The number of messages from the validation layers; they are also logged. */
uint64_t gpu_validation_messages(const struct gpu *gpu);

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* A buffer is one allocation. Kernels get ranges of it; for weights and tensors, offsets are multiples of
 * GPU_ALIGNMENT.
 */
#define GPU_ALIGNMENT 256u

enum gpu_memory {
    GPU_DEVICE,  /* fastest for the device; mapped if memory is unified */
    GPU_VISIBLE, /* with info.visible: the same, but mapped, to be written */
    GPU_UPLOAD,  /* written by the host, read by the device, small; near the device if possible */
    GPU_READBACK /* written by the device, read by the host; cached by the host */
};

struct gpu_buffer;

/* HYPURA_ERROR_MEMORY: it does not fit. */
hypura_status gpu_buffer_create(struct gpu *gpu, struct gpu_buffer **out, uint64_t bytes, enum gpu_memory memory,
                                hypura_error *error);

/* With host_import: makes host memory a buffer, which the device reads in place. The caller keeps the memory. */
hypura_status gpu_buffer_import(struct gpu *gpu, struct gpu_buffer **out, void *host, uint64_t bytes,
                                hypura_error *error);

/* No batch in flight may use it. */
void gpu_buffer_destroy(struct gpu *gpu, struct gpu_buffer *buffer);
void *gpu_buffer_mapped(const struct gpu_buffer *buffer); /* NULL: not mapped */
uint64_t gpu_buffer_bytes(const struct gpu_buffer *buffer);
uint64_t gpu_buffer_address(const struct gpu_buffer *buffer); /* as kernels see it */

struct gpu_range {
    struct gpu_buffer *buffer; /* NULL: none, where that is allowed */
    uint64_t offset;
};

/* Uploads and batches have separate series of tickets; 0 is always done. */
typedef uint64_t gpu_ticket;

/* Copies host bytes into a buffer: directly if it is mapped, else through a staging ring and, if the device has one, a
 * transfer queue. On return the host's bytes may be reused; the ticket is done once they have arrived. On a device with
 * one queue, uploads wait for earlier batches. So never wait for an upload before calling the gpu_signal_host that a
 * submitted batch waits for. After an error, the ticket covers the parts that were sent. */
hypura_status gpu_upload(struct gpu *gpu, struct gpu_range to, const void *host, uint64_t bytes, gpu_ticket *ticket,
                         hypura_error *error);

/* The same for several pieces of host memory, in fewer copies to the ring and fewer submissions: many small pieces
 * arrive as fast as a large one. */
struct gpu_piece {
    struct gpu_range to;
    const void *host;
    uint64_t bytes;
};
hypura_status gpu_upload_many(struct gpu *gpu, const struct gpu_piece *pieces, size_t count, gpu_ticket *ticket,
                              hypura_error *error);
hypura_status gpu_upload_wait(struct gpu *gpu, gpu_ticket ticket, hypura_error *error);

/* Copies bytes from a buffer to the host, and waits for them. One thread at a time may call it. */
hypura_status gpu_download(struct gpu *gpu, void *host, struct gpu_range from, uint64_t bytes, hypura_error *error);

/* ---- commands ---------------------------------------------------------------------------------------------------- */

/* gpu_begin opens a batch, for which it may wait until an old one is done; gpu_submit sends it. In between, kernels are
 * recorded in order. Those between two calls of gpu_barrier run in any order or at the same time. Several batches may
 * be in flight; they run in order, and each sees what earlier ones wrote.
 *
 * gpu_submit reports errors of recording, and then sends nothing. Even if the cause is memory, the device cannot go on,
 * and the status is HYPURA_ERROR_DEVICE. Once the device is lost, or hangs, every call fails with HYPURA_ERROR_DEVICE.
 */
void gpu_begin(struct gpu *gpu);
void gpu_barrier(struct gpu *gpu);

/* The batch starts once the upload wait_upload has arrived (0: at once). */
hypura_status gpu_submit(struct gpu *gpu, gpu_ticket *ticket, gpu_ticket wait_upload, hypura_error *error);

/* The error that gpu_submit would return for what was recorded since gpu_begin. */
hypura_status gpu_recorded(const struct gpu *gpu);

/* Drops what was recorded since gpu_begin, and its errors. */
void gpu_drop(struct gpu *gpu);

/* What is recorded after gpu_await_host waits until gpu_signal_host has been called with this value or more. It sees
 * what the host wrote to mapped buffers before that call. Values grow from batch to batch. Call gpu_await_host at most
 * once per batch, as its first command: a device without info.events waits with the whole batch. */
void gpu_await_host(struct gpu *gpu, uint64_t value);
hypura_status gpu_signal_host(struct gpu *gpu, uint64_t value, hypura_error *error);

/* Lets all batches go that wait for the host. */
void gpu_release(struct gpu *gpu);

/* With info.watches: keeps the device busy for some 50 ms, or until the next batch is sent, so that its clock stays up
 * while others compute. Does nothing while a batch is open. */
void gpu_stay_awake(struct gpu *gpu);

/* Fails with an error that says that the device hangs if nothing that was sent ends for 10 seconds (5 minutes for a
 * device that is a CPU). Time in which the device waits for gpu_signal_host does not count. */
hypura_status gpu_wait(struct gpu *gpu, gpu_ticket ticket, hypura_error *error);
bool gpu_done(struct gpu *gpu, gpu_ticket ticket);

/* Waits for at most this time, without noticing that the device hangs. false: gpu_wait would fail. */
bool gpu_wait_shortly(struct gpu *gpu, gpu_ticket ticket, double seconds);

/* How long a finished batch took on the device; 0: unknown, or too long ago. */
double gpu_batch_seconds(struct gpu *gpu, gpu_ticket ticket);

/* Uses a kernel if addresses and bytes are multiples of 4, because devices' own copies may be slow. */
void gpu_copy(struct gpu *gpu, struct gpu_range to, struct gpu_range from, uint64_t bytes);

/* ---- weights times activations ----------------------------------------------------------------------------------- */

/* Whether the two functions below take weights of this type. */
bool gpu_supports(const struct gpu *gpu, enum tensor_type type);

/* Whether, with int8_dot, few tokens are multiplied as bytes by weights of this type. */
bool gpu_multiplies_bytes(enum tensor_type type);

/* rows x columns in the layout of the file: row r starts at data + r * row_bytes. */
struct gpu_matrix {
    struct gpu_range data;
    enum tensor_type type;
    uint32_t rows, columns;
    uint64_t row_bytes;
};

/* Up to this many tokens, each weight is read once and multiplied by all of them. Their number changes no bit. */
#define GPU_VECTOR_TOKENS 8u

/* More tokens go through tiles. With cooperative matrices, tiles round weights other than F32 and all inputs to half
 * precision, clamp inputs to 65504, and sum in floats. */

/* Whether a product of this many tokens reads its inputs as halves. Then in_halves may be given, and "in" left out.
 * slot_stride: for experts, else 0. */
bool gpu_takes_halves(const struct gpu *gpu, const struct gpu_matrix *weights, uint64_t slot_stride, uint32_t tokens);

/* Converts floats to halves; and out = activation(gate) * up as halves. count is a multiple of 8, ranges start at
 * multiples of 16 bytes. */
void gpu_halves(struct gpu *gpu, struct gpu_range out, struct gpu_range in, uint64_t count);
void gpu_glu_halves(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gate,
                    struct gpu_range up, uint64_t count, float alpha, float limit);

/* Converts weights to halves, rows adjacent, exactly as tiles do. gpu_unpacks: whether this type can be, and needs to
 * be, converted. */
bool gpu_unpacks(enum tensor_type type);
void gpu_unpack(struct gpu *gpu, const struct gpu_matrix *weights, struct gpu_range out);

/* Memory for a matrix in panels, which stay there: a long batch that finds them need not unpack the weights. */
struct gpu_panels {
    struct gpu_buffer *buffer;
    bool filled; /* gpu_matmul sets it */
};

/* out[t][r] = sum over c of weights[r][c] * in[t][c], plus bias[r] if bias has a buffer, plus out itself with
 * accumulate. Strides in elements. If norm has a buffer, which saves a launch for up to GPU_VECTOR_TOKENS tokens, the
 * input is rms_norm(in) * norm. */
struct gpu_matmul {
    struct gpu_matrix weights;
    struct gpu_range in, out, bias, norm;
    struct gpu_range in_halves; /* the same as halves; or none */
    struct gpu_range unpacked; /* room for unpacked weights and, in panels, inputs, which nothing else may use up to the
                                * next barrier; or none */
    uint64_t unpacked_bytes;
    struct gpu_panels *kept; /* NULL: none */
    uint32_t tokens, in_stride, out_stride;
    float epsilon;
    bool accumulate;
};

/* The room for a matrix that a batch of this many tokens unpacks: at most GPU_UNPACKED_BYTES or, with panels, twice as
 * much and the inputs. 0: it unpacks none. */
#define GPU_UNPACKED_BYTES ((uint64_t)256 << 20)
uint64_t gpu_unpacked_bytes(enum tensor_type type, uint32_t rows, uint32_t columns, uint32_t tokens, bool panels);

/* The bytes that gpu_panels needs for a job; 0: it is not multiplied from panels. */
uint64_t gpu_kept_bytes(const struct gpu *gpu, const struct gpu_matmul *job);

/* Jobs must be independent of each other. Adjacent ones with the same inputs, type and columns become one dispatch. */
void gpu_matmul(struct gpu *gpu, const struct gpu_matmul *jobs, size_t count);

/* Two jobs, gate and up; writes the gated activation to the first job's out, and nothing to the second's. false:
 * nothing was done, because one launch cannot do it (many tokens, or matrices of two kinds). */
struct gpu_glu_kind {
    enum glu_kind kind;
    float alpha, limit; /* of kinds that have them */
};
bool gpu_matmul_glu(struct gpu *gpu, const struct gpu_matmul *jobs, const struct gpu_glu_kind *glu);

/* Experts of one layer by id, for tokens that chose "used" experts each. */
#define GPU_NO_SLOT 0xffffffffu

struct gpu_expert_matmul {
    struct gpu_matrix weights; /* of slot 0; slot s starts s * slot_stride bytes on */
    uint64_t slot_stride;
    struct gpu_range
        slots;            /* uint32 [experts]: the slot of an expert, GPU_NO_SLOT: not here, its rows are left alone */
    struct gpu_range ids; /* uint32 [tokens][used] */
    struct gpu_range in;  /* [tokens][columns], or [tokens][used][columns] where per_choice is true */
    struct gpu_range in_halves;     /* the same as halves, adjacent; or none */
    struct gpu_range norm;          /* as of gpu_matmul, for up to GPU_VECTOR_TOKENS tokens */
    struct gpu_range out;           /* [tokens][used][rows] */
    uint32_t in_stride, out_stride; /* elements from one of those rows to the next; 0: they are adjacent */
    struct gpu_range bias;          /* [experts][rows], or without a buffer */
    struct gpu_range groups;        /* what gpu_expert_group made of ids; only for more than GPU_VECTOR_TOKENS tokens */
    struct gpu_range unpacked;      /* as of gpu_matmul */
    uint64_t unpacked_bytes;
    uint32_t slot_count;     /* with unpacked: how many slots there are */
    struct gpu_panels *kept; /* of all slots, whose weights do not change; NULL: none, or not yet */
    bool keeps;              /* kept is there, or will be for a later batch: fewer tokens are enough for panels */
    uint32_t experts, used, tokens;
    float epsilon;
    bool per_choice;
    bool routed; /* ids are those of the last router: in a chain of kernels (gpu_private.h), they and slots may be
                  * read before the last gpu_barrier */
};
void gpu_expert_matmul(struct gpu *gpu, const struct gpu_expert_matmul *jobs, size_t count);

/* Whether experts with this average number of tokens go through panels, if there is room. keeps: their panels are kept,
 * now or later. */
static inline bool gpu_expert_panels(double average, bool keeps)
{
    return average >= (keeps ? 64 : 128);
}

/* The room for experts' panels: at most twice GPU_UNPACKED_BYTES (or one expert), and the inputs; 0: they have too few
 * tokens. gpu_expert_kept_bytes: the bytes that gpu_panels needs for a job; 0: it is not multiplied from panels. */
uint64_t gpu_expert_unpacked_bytes(enum tensor_type type, uint32_t rows, uint32_t columns, uint32_t experts,
                                   uint32_t used, uint32_t tokens);
uint64_t gpu_expert_kept_bytes(const struct gpu *gpu, const struct gpu_expert_matmul *job);

/* As gpu_matmul_glu. */
bool gpu_expert_matmul_glu(struct gpu *gpu, const struct gpu_expert_matmul *jobs, const struct gpu_glu_kind *glu);

/* Tokens per tile of experts' products in a prompt, by an expert's average number of tokens. */
#define GPU_LEAST_TILE 32u
static inline uint32_t gpu_expert_tile(bool cooperative_matrix, double average)
{
    return !cooperative_matrix ? GPU_LEAST_TILE : average >= 60 ? 128 : average >= 40 ? 64 : GPU_LEAST_TILE;
}

/* Sorts choices by expert, so that tokens with the same expert share its weights. groups: for these numbers of experts
 * and used, and at most this many tokens. */
uint64_t gpu_expert_group_bytes(uint32_t experts, uint32_t used, uint32_t tokens);
void gpu_expert_group(struct gpu *gpu, struct gpu_range ids, struct gpu_range groups, uint32_t experts, uint32_t used,
                      uint32_t tokens);

/* out[t] = row tokens[t] (int32) of the embedding, times scale. supports: with rows of this many bytes. */
bool gpu_embed_supports(enum tensor_type type, uint64_t row_bytes);
void gpu_embed(struct gpu *gpu, const struct gpu_matrix *embedding, struct gpu_range tokens, struct gpu_range out,
               uint32_t rows, float scale);

/* ---- rows of floats ---------------------------------------------------------------------------------------------- */

/* As in compute.h, plus bias: rows adjacent, weight and bias may have no buffer, out may be in. */
void gpu_rms_norm(struct gpu *gpu, struct gpu_range out, struct gpu_range in, struct gpu_range weight,
                  struct gpu_range bias, uint32_t rows, uint32_t columns, float epsilon);

void gpu_layer_norm(struct gpu *gpu, struct gpu_range out, struct gpu_range in, struct gpu_range weight,
                    struct gpu_range bias, uint32_t rows, uint32_t columns, float epsilon);

void gpu_scale(struct gpu *gpu, struct gpu_range out, struct gpu_range in, float factor, uint64_t count);
void gpu_soft_cap(struct gpu *gpu, struct gpu_range values, uint64_t count, float cap);
void gpu_clamp(struct gpu *gpu, struct gpu_range values, uint64_t count, float limit);
void gpu_gelu(struct gpu *gpu, struct gpu_range values, uint64_t count);               /* by tanh */
void gpu_silu(struct gpu *gpu, struct gpu_range values, uint64_t count, float factor); /* of values times factor */

/* Multiplies each row by its scale and adds its bias. With ids (uint32 [count]), a row uses the scale and bias of its
 * id; rows whose id has no slot do not change. bias, ids and slots may have no buffer. stride: floats from row to row.
 */
struct gpu_rescale {
    struct gpu_range rows, scales, bias, ids, slots;
    uint32_t count, columns, stride;
};
void gpu_rescale(struct gpu *gpu, const struct gpu_rescale *rescale);

/* to [rows][copies][width]: adds factor times the row of from [rows][width] to each copy. */
void gpu_add(struct gpu *gpu, struct gpu_range to, struct gpu_range from, uint32_t rows, uint32_t width,
             uint32_t copies, float factor);

/* out, rows adjacent, may be gate or up where their strides are columns. Strides in floats. */
void gpu_glu(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gate, struct gpu_range up,
             uint32_t rows, uint32_t columns, uint32_t gate_stride, uint32_t up_stride, float alpha, float limit);

/* The same, but gates and ups are multiplied by weights[row] first. */
void gpu_glu_weighed(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gate,
                     struct gpu_range up, struct gpu_range weights, uint32_t rows, uint32_t columns,
                     uint32_t gate_stride, uint32_t up_stride, float alpha, float limit);

/* The same with one gate for all of a row; rows adjacent. */
void gpu_glu_rows(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gates,
                  struct gpu_range up, uint32_t rows, uint32_t columns);

/* ---- attention ---------------------------------------------------------------------------------------------------
 *
 * A head of a sequence has a region of capacity * position_bytes in the cache, where position_bytes is
 * attention_row_bytes of the type and size; its heads follow one another; position p is at index p % capacity. Regions
 * start at multiples of 16 bytes and capacity is a multiple of ATTENTION_BLOCK. What is inside a region is the device's
 * own layout: of Q8_0 and Q4_0 first the quants of all positions, then the scales of all. */

/* Whether attention supports a cache type and sizes of heads: multiples of 8 (Q8_0, Q4_0: 32) up to ATTENTION_MAX_SIZE.
 */
bool gpu_attention_supports(enum tensor_type type, uint32_t key_size, uint32_t value_size);

/* In one batch. */
#define GPU_MAX_SEQUENCES 256u

/* The rows of a batch that belong to one sequence, from first_row on, at positions from first_position on. */
struct gpu_sequence {
    uint32_t first_row, rows, first_position, capacity;
    uint64_t keys, values; /* bytes from the start of the range "cache" to the first heads */
    /* uint32 for each ATTENTION_BLOCK positions: which block of the cache's rows they are. Or none: position p is row
     * p % capacity. */
    struct gpu_range blocks;
};

/* Everything between the projections and attention in one launch: norms and rope of query and key heads, scales of
 * queries, and storing keys and values in the cache. Head h of row r of the query starts at r * query_stride + h *
 * query_head_stride floats (twice the size if gates are in between); heads of keys and values are adjacent. */
struct gpu_heads {
    struct gpu_range query, key, value;    /* key without a buffer: the layer reads another layer's cache */
    struct gpu_range query_norm, key_norm; /* [key_size], with norm_each [heads][key_size]; or none */
    struct gpu_range query_scales;         /* [rows]; or none */
    struct gpu_range table;                /* as of compute_rope; or none */
    struct gpu_range out;                  /* queries, [rows][heads]; may be query, if its strides agree */
    struct gpu_range cache;
    uint32_t query_stride, query_head_stride, key_stride, value_stride;
    uint32_t out_head_stride; /* 0: key_size */
    bool norm_after_rope, value_norm;
    bool centred; /* norms with weights subtract the mean */
    bool norm_each;
    bool back;           /* rotates backwards */
    bool plain_norm;     /* norms queries and keys after rope, without weights, before queries are scaled */
    bool values_in_keys; /* stores no values: they are a prefix of the keys */
    float epsilon;
    enum rope_layout layout;
    uint32_t rotary;
    uint32_t normed;      /* the first elements of a query or key, which are normed; 0: all */
    uint32_t turned_from; /* the first element that gets rope */
    uint32_t ring;        /* position p is at index p % ring of the cache; 0: its capacity */
    uint32_t rows, heads, kv_heads, key_size, value_size;
    enum tensor_type type;
    uint32_t key_position_bytes, value_position_bytes;
    const struct gpu_sequence *sequences;
    uint32_t sequence_count;
};
void gpu_heads(struct gpu *gpu, const struct gpu_heads *heads);

/* Whole keys and values for MLA with an undivided projection [rows][heads][key_size - rotary + value_size]: each head's
 * key is its part of the projection, followed by the last rotary elements of the row's latents [rows][latent_size]. */
struct gpu_spread {
    struct gpu_range projected, latents, key, value;
    uint32_t rows, heads, key_size, value_size, rotary, latent_size;
};
void gpu_spread(struct gpu *gpu, const struct gpu_spread *spread);

/* As struct attention. Row r of a sequence is at first_position + r. If values are a prefix of the keys,
 * value_position_bytes is that of the keys. A row's result does not depend on the other rows of its batch, but a
 * sequence with up to GPU_VECTOR_TOKENS rows uses another kernel, with other rounding, than one with more. In a chain
 * of kernels (gpu_private.h), positions before first_position may be read before the last gpu_barrier. So earlier
 * batches must have written them, or a kernel outside the chain must be in between (as in engine/gpu/attend.c, where
 * the parts of a sequence read each other's). There is a gpu_barrier between two calls, even with scratch of their own:
 * their work groups count in the same words. */
struct gpu_attention {
    struct gpu_range query, out, cache;
    struct gpu_range sinks;   /* [heads]; or none */
    struct gpu_range scratch; /* gpu_attention_scratch_bytes */
    uint64_t scratch_bytes;   /* its size; 0: up to the end of the buffer */
    uint32_t rows, heads, kv_heads, key_size, value_size;
    enum tensor_type type;
    uint32_t key_position_bytes, value_position_bytes;
    float scale, soft_cap;
    uint32_t window, chunk;
    bool bidirectional;
    bool halves;                   /* writes halves to out; requires gpu_attention_makes_halves */
    const struct gpu_heads *makes; /* does this first, except that it leaves "query" as it is; requires
                                    * gpu_attention_makes_heads. NULL: nothing */
    const struct gpu_sequence *sequences;
    uint32_t sequence_count;
};

bool gpu_attention_makes_halves(const struct gpu *gpu, const struct gpu_attention *attention);

/* Whether attention can norm, turn and store its heads itself, with the bits of gpu_heads, which saves a launch: if
 * each sequence has one row, and the heads need nothing rare. */
bool gpu_attention_makes_heads(const struct gpu *gpu, const struct gpu_heads *heads,
                               const struct gpu_attention *attention);

/* The scratch for sequences of at most this many positions, with this many rows (at least GPU_VECTOR_TOKENS) of short
 * sequences at a time. With less scratch than for all rows, they take turns. */
uint64_t gpu_attention_scratch_bytes(uint32_t rows, uint32_t heads, uint32_t value_size, uint32_t positions);
void gpu_attention(struct gpu *gpu, const struct gpu_attention *attention);

/* ---- indexers ------------------------------------------------------------------------------------------------------
 *
 * As struct index_search of compute.h, for several sequences at once. Their keys are in a plane of the cache, stored
 * like those of one kv head. scores: gpu_index_score_bytes for each of at least a few rows. */
bool gpu_index_supports(enum tensor_type type, uint32_t size);
uint64_t gpu_index_score_bytes(uint32_t sets, uint32_t positions);

struct gpu_index {
    struct gpu_range query, weights /* or none */, cache, words, scores;
    uint64_t score_bytes; /* the size of scores */
    uint32_t rows, heads, size;
    bool by_head, tail;
    uint32_t every, block, local, most;
    uint32_t row_words; /* of a row of words */
    enum tensor_type type;
    uint32_t key_position_bytes;
    const struct gpu_sequence *sequences;
    uint32_t sequence_count;
};
void gpu_index(struct gpu *gpu, const struct gpu_index *index);

/* gpu_attention for rows that see chosen positions, or a window and compressed rows: as struct attention_choice of
 * compute.h. Ignores scratch, window, chunk, bidirectional and halves of "attention". */
struct gpu_choice {
    struct gpu_range words; /* of row 0; or none */
    uint32_t sets, most, block, ring, window, every;
};
void gpu_attend_chosen(struct gpu *gpu, const struct gpu_attention *attention, const struct gpu_choice *choice);

/* ---- states of sequences -------------------------------------------------------------------------------------------
 *
 * The rows of a batch that belong to one sequence, and the offsets in bytes, in a range "states", of its present state
 * (unused if fresh) and of the next one. */
struct gpu_state_sequence {
    uint32_t first_row, rows;
    bool fresh;
    uint64_t state, next;
};

/* As struct convolution of compute.h, for several sequences at once. */
struct gpu_convolution {
    struct gpu_range weights, bias; /* bias: or none */
    struct gpu_range input, output;
    struct gpu_range states;
    uint32_t rows, channels, taps, width, group_stride, stride;
    uint32_t dilation; /* rows from tap to tap; 0 is 1 */
    bool silu;
    const struct gpu_state_sequence *sequences;
    uint32_t sequence_count;
};
void gpu_convolution(struct gpu *gpu, const struct gpu_convolution *convolution);

/* As struct scan of compute.h, for several sequences at once; steps become softplus(steps + step_bias, if any). */
#define GPU_SCAN_SIZE 256u

bool gpu_scan_supports(uint32_t size);

struct gpu_scan {
    struct gpu_range input, write, read, steps, step_bias, rates, skip, output;
    struct gpu_range states;
    uint32_t rows, heads, groups, width, size, input_stride, write_stride, read_stride;
    bool each;
    const struct gpu_state_sequence *sequences;
    uint32_t sequence_count;
};
void gpu_scan(struct gpu *gpu, const struct gpu_scan *scan);

/* As struct compression of compute.h, for several sequences at once; with pools, plain means of blocks, whose state is
 * a block's sum. out: the rows of finished blocks, one sequence after another. */
struct gpu_compression {
    struct gpu_range values, gates, bias, out; /* gates, bias: or none */
    struct gpu_range states;
    uint32_t rows, size, every;
    bool overlaps, pools;
    const struct gpu_state_sequence *sequences;
    const uint32_t *positions; /* of the first row of each sequence */
    uint32_t sequence_count;
};
void gpu_compress(struct gpu *gpu, const struct gpu_compression *compression);

/* ---- gated delta nets --------------------------------------------------------------------------------------------
 *
 * As struct delta_net of compute.h, for several sequences at once. beta and decay are computed from the projections:
 * beta = sigmoid(beta), and with f = alpha + step_bias the decay is exp(decay_rate * softplus(f)) per head or channel,
 * or exp(bound * sigmoid(|decay_rate| * f)) per channel. */

#define GPU_DELTA_KEYS 256u

bool gpu_delta_net_supports(uint32_t key_size, uint32_t taps);

/* A sequence with at least this many rows in a batch is computed in chunks of rows, with other sums than row by row.
 * That takes scratch memory, up to some amount for any number of rows. */
#define GPU_DELTA_CHUNK_ROWS (2 * GPU_VECTOR_TOKENS)
uint64_t gpu_delta_net_scratch_bytes(uint32_t rows, uint32_t sequences, uint32_t heads_v, uint32_t key_size,
                                     uint32_t value_size);

struct gpu_delta_net {
    struct gpu_range convolution[DELTA_PARTS]; /* [channels of the part][taps] */
    struct gpu_range input[DELTA_PARTS];       /* [rows][channels of the part], input_stride floats apart */
    uint32_t input_stride[DELTA_PARTS];
    struct gpu_range convolved;       /* [rows][channels], scratch */
    struct gpu_range beta, alpha;     /* [rows], gate_stride floats apart, of each value head h element h, or */
    uint32_t gate_stride, gate_group; /* h / gate_group * 2 * gate_group + h % gate_group where that is not 0 */
    bool by_channel, bounded; /* alpha and step_bias are then [rows][heads_v][key_size] and [heads_v][key_size] */
    float bound;
    struct gpu_range step_bias, decay_rate; /* [heads_v] */
    struct gpu_range output;                /* [rows][heads_v][value_size] */
    struct gpu_range states;
    struct gpu_range scratch;
    uint64_t scratch_bytes; /* at least gpu_delta_net_scratch_bytes */
    uint32_t rows, heads_k, heads_v, key_size, value_size, taps;
    bool tiled, root_epsilon;
    float epsilon;
    const struct gpu_state_sequence *sequences;
    uint32_t sequence_count;
};
void gpu_delta_net(struct gpu *gpu, const struct gpu_delta_net *net);

/* ---- mixtures of experts ----------------------------------------------------------------------------------------- */

/* The most experts of a router, and the most that it chooses; as in router.comp. */
#define GPU_ROUTER_EXPERTS 1024u
#define GPU_ROUTER_USED 128u

/* From logits [rows][experts] to ids and weights [rows][used], as engine/cpu/router.c; gate is enum router_gate. */
struct gpu_router {
    struct gpu_range logits, selection_bias, expert_scales /* of an expert's output; or none */, ids, weights;
    struct gpu_range table, tokens; /* int32 [tokens][used] and [rows]: the choice, which is only weighted; or none */
    struct gpu_range chunk_ids, chunk_weights; /* [rows][used], of experts that groups share; or none */
    uint32_t rows, experts, used, groups, groups_used;
    uint32_t chunk; /* experts per group */
    int gate;
    bool normalise;
    float scale;
};
void gpu_router(struct gpu *gpu, const struct gpu_router *router);

/* gpu_matmul with the router's matrix, which writes router->logits, adjacent rows; then gpu_router. In a chain of
 * kernels, one launch does both for few tokens. The bits are the same. */
void gpu_route(struct gpu *gpu, const struct gpu_matmul *matrix, const struct gpu_router *router);

/* For row t, the sum over i, in order, of the row of choice (t, i), times weights[t][i] if there are weights. The row
 * is that of device_rows if slots[ids[t][i]] is a slot or there are no slots, which is quicker, else that of host_rows;
 * both are [rows][used][columns]. Then adds shared[t], if any, times sigmoid(shared_gates[t]), if any. */
struct gpu_mix {
    struct gpu_range device_rows, host_rows, ids, weights, slots, shared, shared_gates;
    uint32_t used;
};

/* Everything between two layers, in one launch. The branch is the mix if mix.used is not 0, else the floats at branch;
 * post_norm, if any, norms it. hidden = (hidden + scale * branch) * layer_scale[0], if any. With norm, out =
 * rms_norm(hidden) * norm, and the same as halves if out_halves has a buffer. */
struct gpu_residual {
    struct gpu_range hidden, branch, post_norm, layer_scale, norm, out, out_halves;
    float scale, epsilon;
    uint32_t rows, columns;
    bool fresh; /* treats hidden as 0 */
    struct gpu_mix mix;
};
void gpu_residual(struct gpu *gpu, const struct gpu_residual *residual);

/* As compute_gather_streams and compute_scatter_streams; width is that of one stream. */
struct gpu_streams {
    struct gpu_range streams, coefficients, row; /* row: what is gathered, or the branch */
    struct gpu_range scale, base;                /* of a gather */
    uint32_t rows, count, width, sinkhorn;
    bool returns; /* of a gather */
    float norm_epsilon, epsilon, back_epsilon, magnitude;
};
void gpu_gather(struct gpu *gpu, const struct gpu_streams *streams);
void gpu_scatter(struct gpu *gpu, const struct gpu_streams *streams);

/* As compute_gather_gated, which leaves the gates as they are, and compute_match_streams. */
struct gpu_gated_gather {
    struct gpu_range streams, gates, inject, coefficients, out; /* inject: or none */
    uint32_t rows, count, width;
};
void gpu_gather_gated(struct gpu *gpu, const struct gpu_gated_gather *gather);

struct gpu_agreement {
    struct gpu_range keys, queries, values, out;
    uint32_t rows, count, width;
};
void gpu_agree(struct gpu *gpu, const struct gpu_agreement *agreement);

/* As compute_predict_sides, or, with a branch, compute_correct_sides. */
struct gpu_sides {
    struct gpu_range hidden, side_rows, branch, out, norm, router, coefficients, scale;
    uint32_t rows, sides, width;
    float epsilon;
};
void gpu_sides(struct gpu *gpu, const struct gpu_sides *sides);

/* As compute_match_lengths. */
void gpu_match_lengths(struct gpu *gpu, struct gpu_range values, struct gpu_range by, uint32_t rows, uint32_t parts,
                       uint32_t width);

/* As compute_sparse. */
void gpu_sparse(struct gpu *gpu, struct gpu_range values, uint32_t rows, uint32_t width, float deviations);

/* As compute_recall; bank: [rows][room][width]. */
struct gpu_recall {
    struct gpu_range bank, in, weight, out;
    uint32_t rows, kept, room, width;
    float epsilon;
};
void gpu_recall(struct gpu *gpu, const struct gpu_recall *recall);

#endif
