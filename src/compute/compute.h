/* compute: the mathematics of a transformer on the CPU, for any tensor type, on any instruction set.
 *
 * It works on tensors, not models: it gets pointers to weights in the layout of the file, wherever they came from. A
 * table of function pointers is chosen at run time for the instruction set. The plain C version of every kernel remains
 * as the reference for testing the others.
 *
 * Results have the same bits for every number of threads, every way to cut a prompt into batches, and in matrix-vector
 * and matrix-matrix kernels, because the order of float sums is fixed:
 *   - Quantised types. Inside a block (or a super-block of 256) everything is an exact integer. Each output starts at 0
 * and adds blocks in order: sum = fmaf(dw * dx, (float)integer, sum); if the type has minima, directly after it
 * sum = fmaf(-(mw * dx), (float)minimum_integer, sum). dw and mw are the block's float scales, dx is the scale of the
 * activation block; dw * dx is rounded to float first. For NVFP4, each 16 elements with their scale are a block.
 *   - F32, F16. Sixteen partial sums; number i adds elements i, i + 16, i + 32 ... in order by fmaf. They are then
 * folded in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
 *   - BF16. Activations are rounded to bfloat16. Sixteen partial sums; number i adds elements 2i + 1 and 2i of every
 * 32, in this order, by fmaf (as hardware dot products of pairs do). They are folded in the same way.
 *   - Attention processes positions in blocks that start at multiples of ATTENTION_BLOCK, whatever the batch; see
 * cpu/attention.h.
 * A kernel that cannot keep the order (because an instruction rounds differently) must be used for every shape of its
 * type on that machine, so that the rule holds within a machine.
 *
 * Threads: one thread at a time uses a struct compute, which spreads the work over its own pool.
 */
#ifndef HYPURA_COMPUTE_H
#define HYPURA_COMPUTE_H

#include "core/core.h"
#include "format/format.h"

/* ---- the machine ------------------------------------------------------------------------------------------------- */

enum instruction_set {
    INSTRUCTIONS_PLAIN,    /* plain C */
    INSTRUCTIONS_AVX2,     /* AVX2, FMA, F16C */
    INSTRUCTIONS_AVX_VNNI, /* AVX2, and dot products of bytes on 256 bits */
    INSTRUCTIONS_AVX512,   /* AVX-512 F, BW, DQ, VL, VNNI; BF16 used where present */
    INSTRUCTIONS_AMX,      /* AVX-512, and byte tiles, which the system must allow for the process */
    INSTRUCTIONS_NEON      /* Armv8.2 with dot product; i8mm used where present */
};

/* The best set that this machine runs. HYPURA_INSTRUCTIONS=plain|avx2|avx-vnni|avx512|amx|neon in the environment
 * selects another one that it runs. */
enum instruction_set compute_best_instructions(void);
bool compute_has_instructions(enum instruction_set set);
const char *compute_instructions_name(enum instruction_set set);

struct compute;

/* The largest sizes that will be requested; they determine the scratch. */
struct compute_limits {
    size_t tokens;                  /* of a matrix product; more tokens run as smaller tasks */
    size_t queries;                 /* that share a kv head in attention; more of them also run as smaller tasks */
    size_t key_size, value_size;    /* of attention; a hard limit */
    bool chooses;                   /* some attention sees only chosen positions */
    size_t index_heads, index_size; /* of their indexer */
};

/* threads includes the caller. Without limits, the scratch suits any number of tokens and heads of any size. It
 * allocates compute_scratch_bytes(threads, limits) of scratch. */
hypura_status compute_create(struct compute **out, size_t threads, enum instruction_set set, hypura_error *error);
hypura_status compute_create_limited(struct compute **out, size_t threads, enum instruction_set set,
                                     const struct compute_limits *limits, hypura_error *error);
void compute_destroy(struct compute *compute);
struct thread_pool *compute_pool(struct compute *compute);
enum instruction_set compute_instructions(const struct compute *compute);

/* For machines with several nodes of memory. Threads first_thread[i] to first_thread[i + 1] - 1 run on node i. node_of
 * returns the node that holds some weights; -1: their rows are spread over the nodes in proportion to the threads
 * (compute_part_of_node). Sections that read weights once are then cut so that threads read what is near them. The bits
 * stay the same. Call it once, between sections. */
#define COMPUTE_MAX_NODES 8
struct compute_nodes {
    uint32_t count;
    size_t first_thread[COMPUTE_MAX_NODES + 1];
    int (*node_of)(const void *context, const void *weights); /* NULL: -1 */
    const void *context;
};
hypura_status compute_set_nodes(struct compute *compute, const struct compute_nodes *nodes, hypura_error *error);

/* The first of these rows that belongs to this node. */
size_t compute_part_of_node(const struct compute_nodes *nodes, uint32_t node, size_t rows);
uint64_t compute_scratch_bytes(size_t threads, const struct compute_limits *limits);

/* ---- weights times activations ----------------------------------------------------------------------------------- */

/* rows x columns in the layout of the file: row r starts at data + r * row_bytes. data needs no alignment. */
struct matrix {
    const uint8_t *data;
    enum tensor_type type;
    size_t rows;
    size_t columns;
    size_t row_bytes;
};

/* Whether compute_matmul supports weights of this type. */
bool compute_supports(enum tensor_type type);

/* Activations: rows of floats and the converted copies that the kernels of each type of weights need (8-bit blocks of
 * 32 or 256, or bfloat16), which are made on first use. All memory, for max_rows x max_columns, is allocated at
 * creation. */
struct activation;

hypura_status activation_create(struct activation **out, size_t max_rows, size_t max_columns, hypura_error *error);
void activation_destroy(struct activation *activation);
uint64_t activation_bytes(size_t max_rows, size_t max_columns);

/* activation_release returns the memory of all rows but the first "rows" to the system: activation_spare_bytes, as far
 * as they were used. */
uint64_t activation_spare_bytes(size_t max_rows, size_t max_columns, size_t rows);
void activation_release(struct activation *activation, size_t rows);

/* Sets its rows x columns floats (row r at values + r * stride), which must stay until the next call, and discards
 * copies. */
void activation_set(struct activation *activation, const float *values, size_t rows, size_t columns, size_t stride);

/* One of its rows. */
const float *activation_values(const struct activation *activation, size_t row);

/* output[output_rows[t]][r] = sum over c of weights[r][c] * input[input_rows[t]][c], for t below tokens. input_rows and
 * output_rows may be NULL: t itself. Every output row belongs to one job. bias (may be NULL) has one float per weight
 * row and is added last. */
struct matmul {
    struct matrix weights;
    struct activation *input;
    const uint32_t *input_rows;
    size_t tokens;
    float *output;
    size_t output_stride; /* floats from one output row to the next */
    const uint32_t *output_rows;
    const float *bias;
};

/* Runs all jobs as one parallel section, after another one that converts activations if there are many rows. Jobs that
 * share an activation share its copies. A job may have no tokens. */
void compute_matmul(struct compute *compute, const struct matmul *jobs, size_t count);

/* Says which weights the section after the next one reads, for so many tokens: threads that have ended their part of
 * the next one then bring the beginning of their part of these to their core's caches, since memory would rest until
 * the last has ended. On 8 and 16 cores, small matrices gain up to 7 %. It changes no result. Only for few weights that
 * are read once; others are left out. The weights need not stay. */
void compute_expect(struct compute *compute, const struct matrix *weights, size_t count, size_t tokens);

/* Converts blocks of a supported type to floats; elements is a multiple of the type's block size. */
void compute_dequantize(enum tensor_type type, const void *blocks, float *out, size_t elements);

/* ---- rows of floats ---------------------------------------------------------------------------------------------- */

/* All of these work on [rows][columns], rows adjacent, in parallel if there is enough work. weight and bias may be
 * NULL. out may be the input. */
void compute_rms_norm(struct compute *compute, float *out, const float *in, const float *weight, size_t rows,
                      size_t columns, float epsilon);
void compute_layer_norm(struct compute *compute, float *out, const float *in, const float *weight, const float *bias,
                        size_t rows, size_t columns, float epsilon);
void compute_add(struct compute *compute, float *out, const float *a, const float *b, size_t count);
void compute_scale(struct compute *compute, float *out, const float *in, float factor, size_t count);

enum glu_kind {
    GLU_SILU,     /* silu(gate) * up */
    GLU_GELU,     /* gelu by tanh, as Gemma */
    GLU_GELU_ERF, /* exact gelu */
    GLU_RELU,
    GLU_OAI,     /* gpt-oss: gate clamped to at most limit, up to +-limit, gate * sigmoid(alpha * gate) * (up + 1) */
    GLU_SIGMOID, /* sigmoid(gate) * up */
    GLU_SILU_CLAMPED, /* gate and up clamped in the same way, silu(gate) * up */
    GLU_SILU_CAPPED,  /* silu(gate) clamped to at most limit, up to +-limit */
    GLU_SOFTPLUS,     /* ln(1 + exp(gate)) * up */
    GLU_SITU, /* alpha tanh(gate / alpha) sigmoid(gate) * up, where up becomes limit tanh(up / limit) unless that is 0
               */
    GLU_PRODUCT, /* gate * up */
    GLU_KINDS
};

/* out[r][c] = activation(gate[r][c]) * up[r][c]; strides in floats. alpha is for GLU_OAI and GLU_SITU, limit
 * for kinds that clamp. */
void compute_glu(struct compute *compute, enum glu_kind kind, float *out, size_t out_stride, const float *gate,
                 size_t gate_stride, const float *up, size_t up_stride, size_t rows, size_t columns, float alpha,
                 float limit);

/* The same with one gate for all of a row: out[r][c] = activation(gates[r]) * up[r][c]; rows adjacent. */
void compute_glu_rows(struct compute *compute, enum glu_kind kind, float *out, const float *gates, const float *up,
                      size_t rows, size_t columns);

/* Elementwise activations without a gate, in place. */
enum activation_function {
    FUNCTION_SILU,
    FUNCTION_GELU,
    FUNCTION_GELU_ERF,
    FUNCTION_RELU,
    FUNCTION_RELU_SQUARED,
    FUNCTION_SIGMOID,
    FUNCTION_SOFTPLUS,
    FUNCTION_TANH
};
void compute_function(struct compute *compute, enum activation_function function, float *values, size_t count);

/* Clamps values to between -limit and limit, in place. */
void compute_clamp(struct compute *compute, float *values, size_t count, float limit);

/* Soft cap: cap * tanh(value / cap), in place. */
void compute_soft_cap(struct compute *compute, float *values, size_t count, float cap);

/* ---- residual streams -------------------------------------------------------------------------------------------- */

#define STREAMS_MAX 16

/* Several residual streams instead of one (hyper-connections: Zhu et al., 2024; with a balanced matrix: Xie et al.,
 * 2025). The product of a matrix with all streams of a token, concatenated, gives the token's coefficients c. With
 * f = 1 / sqrt(mean square of all streams + norm_epsilon)
 *   in[s]       = sigmoid(c f scale[0] + base) + epsilon
 *   back[s]     = magnitude sigmoid(c f scale[1] + base) + back_epsilon                 if the branch returns
 *   matrix[s,t] = c f scale[2] + base, softmax over t, balanced                         if sinkhorn > 0
 * The branch reads the sum of in[s] * stream s. Afterwards stream t becomes
 *   back[t] * branch + (sum over s of matrix[s,t] * stream s; stream t itself if sinkhorn is 0). */
struct stream_mixer {
    size_t streams, width; /* at most STREAMS_MAX */
    bool returns;
    uint32_t sinkhorn; /* rounds; 0: no matrix */
    float norm_epsilon, epsilon, back_epsilon, magnitude;
    const float *scale, *base;
};

/* The number of coefficients per token. */
size_t stream_coefficients(const struct stream_mixer *mixer);

/* streams: [rows][streams][width]; coefficients: [rows][stream_coefficients], the product, overwritten with what
 * scatter reads; out: [rows][width]. Scatter reads neither scale nor base. */
void compute_gather_streams(struct compute *compute, const struct stream_mixer *mixer, const float *streams,
                            float *coefficients, float *out, size_t rows);
void compute_scatter_streams(struct compute *compute, const struct stream_mixer *mixer, float *streams,
                             const float *coefficients, const float *branch, size_t rows);

/* A bank of earlier rows of the residual stream (Kimi K3). Stores row as number "kept" of the bank. This row and the
 * earlier ones each have a score, the sum of its normed elements times weight; out is their sum, weighted by the
 * softmax of the scores. bank: [rows][bank_stride], each with several rows of width floats. */
#define RECALL_MAX 256

void compute_recall(struct compute *compute, float *bank, size_t bank_stride, size_t kept, const float *row,
                    const float *weight, float epsilon, float *out, size_t rows, size_t width);

/* Another way to gather, with a gate per element of the normed streams. The branch reads the mean over s of
 * sigmoid(gate) * stream s; gates: [rows][streams][width], overwritten. If the branch returns, back[s] =
 * 2 sigmoid(inject[s] / streams), with inject: [rows][streams], is written to the place in coefficients
 * ([rows][2 streams]) where scatter reads it. */
struct gated_gather {
    size_t streams, width;
    const float *values;
    float *gates;
    const float *inject; /* NULL: the branch does not return */
    float *coefficients, *out;
};
void compute_gather_gated(struct compute *compute, const struct gated_gather *gather, size_t rows);

/* Adds a value to streams by how well keys match queries: with m = key s * query s / sqrt(width),
 *   stream s of out = sigmoid(sign(m) sqrt(max(|m|, 1e-6))) * value
 * keys, queries, out: [rows][streams][width]; values: [rows][width]. */
struct stream_match {
    size_t streams, width;
    const float *keys, *queries, *values;
    float *out;
};
void compute_match_streams(struct compute *compute, const struct stream_match *match, size_t rows);

/* ---- side streams ------------------------------------------------------------------------------------------------ */

#define SIDES_MAX 7

/* A hidden row and some side rows of the same width (alternating updates: Baykal et al., 2023). A row x gives a number
 * for each of these streams, m = tanh(router (x / rms(x) * norm / width)). */
struct side_streams {
    size_t sides, width; /* at most SIDES_MAX */
    const float *norm;
    const float *router;       /* [sides + 1][width] */
    const float *coefficients; /* prediction: [(sides + 1)^2][sides + 1], correction: [sides + 1][sides + 1] */
    const float *scale;        /* [width], for a correction */
    float epsilon;
};

/* Adds to stream a the sum over b of (coefficients m)[a, b] * stream b; m comes from the hidden row. */
void compute_predict_sides(struct compute *compute, const struct side_streams *streams, float *hidden, float *sides,
                           size_t rows);

/* Adds to stream a (1 + (coefficients m)[a]) * (branch - hidden row); m comes from the branch. out: hidden row * scale.
 */
void compute_correct_sides(struct compute *compute, const struct side_streams *streams, float *hidden, float *sides,
                           const float *branch, float *out, size_t rows);

/* Scales each part of [rows][parts][width] to the length of its row of by, [rows][width]. */
void compute_match_lengths(struct compute *compute, float *values, const float *by, size_t rows, size_t parts,
                           size_t width);

/* max(0, value - mean - deviations * standard deviation) for each row, with the sample's standard deviation (n - 1). */
void compute_sparse(struct compute *compute, float *values, size_t rows, size_t width, float deviations);

/* ---- rotary positions -------------------------------------------------------------------------------------------- */

enum rope_layout {
    ROPE_NORMAL, /* pairs (0, 1), (2, 3) ... : llama */
    ROPE_NEOX    /* pairs (i, i + size / 2) : qwen, most others */
};

/* Rotates the first rotary elements of each head in place. values: [rows], each with "heads" heads of head_size floats,
 * rows row_stride floats apart. table: [rows][rotary / 2][2], cosine then sine, including any scaling. */
void compute_rope(struct compute *compute, enum rope_layout layout, float *values, size_t rows, size_t row_stride,
                  size_t heads, size_t head_size, size_t rotary, const float *table);

/* The inverse rotation. */
void compute_rope_back(struct compute *compute, enum rope_layout layout, float *values, size_t rows, size_t row_stride,
                       size_t heads, size_t head_size, size_t rotary, const float *table);

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* Positions per block of the online softmax. KV capacities are multiples of it, so that a block never wraps. */
#define ATTENTION_BLOCK 64

/* The greatest key_size and value_size. */
#define ATTENTION_MAX_SIZE 640

/* The bytes of one head's row of size values in a KV cache of this type (F32, F16, BF16, Q8_0 or Q4_0); 0: impossible.
 */
size_t attention_row_bytes(enum tensor_type type, size_t size);

/* Converts rows x columns floats (rows stride floats apart) to cache rows of the type, out_stride bytes apart. */
void attention_store(enum tensor_type type, const float *values, size_t rows, size_t columns, size_t stride, void *out,
                     size_t out_stride);

/* The rows of a batch that belong to one sequence, and its cache in this layer. */
struct attention_sequence {
    size_t first_row; /* of query and output */
    size_t rows;
    const uint8_t *keys;
    const uint8_t *values;
    size_t capacity; /* position p is at index p % capacity; a multiple of ATTENTION_BLOCK */
    /* If not NULL, blocks of ATTENTION_BLOCK indices are not adjacent: block b is places[b] times this many bytes after
     * its usual address. Not with chosen positions. */
    const uint16_t *places;
    size_t place_key_bytes, place_value_bytes;
};

/* Sets of chosen positions that rows see. A row has "stride" words; each set takes most + 1 of them: the number of its
 * ids, then the ids in rising order. An id means the "block" positions from id * block on, of which the row sees those
 * up to its own. */
struct attention_choice {
    const uint32_t *words; /* of row 0 of the batch */
    size_t stride;
    size_t sets; /* 1, or one per kv head */
    size_t most;
    uint32_t block;
    /* ring > 0: a row sees the last "window" positions, at position % ring, and the chosen ones of the rows after the
     * ring, each of which represents "every" positions (words NULL: all complete ones). block and sets are 1. */
    uint32_t ring, window, every;
};

struct attention {
    const float *query;        /* [rows][heads][key_size] */
    float *output;             /* [rows][heads][value_size] */
    const uint32_t *positions; /* [rows]; row r sees positions up to its own */
    size_t heads, kv_heads;    /* head h reads kv head h / (heads / kv_heads) */
    size_t key_size, value_size;
    enum tensor_type key_type, value_type;
    size_t key_position_bytes, key_head_bytes;     /* from one position, or one kv head, to the next */
    size_t value_position_bytes, value_head_bytes; /* MLA: values are a prefix of the keys */
    float scale;
    float soft_cap;  /* 0: none */
    uint32_t window; /* 0: none; else the row at p sees positions above p - window */
    uint32_t around; /* 0: none; else a bidirectional row sees positions nearer than this */
    float alibi;     /* 0: none; else ALiBi's greatest slope exponent (Press et al., 2021) */
    uint32_t chunk;  /* 0: none; else the row at p sees only positions of its own chunk, p / chunk */
    const struct attention_choice *choice; /* NULL: none; excludes window and chunk, and needs limits.chooses */
    const float *sinks;                    /* [heads] logits that take part in the softmax without a value; or NULL */
    bool bidirectional;                    /* encoders: a row sees every position up to its sequence's last row */
    const struct attention_sequence *sequences;
    size_t sequence_count;
};

/* Flash attention: scores exist only for a block of positions at a time. Keys and values of the batch's own positions
 * must already be in the cache. Uses the scratch of the struct compute. */
void compute_attention(struct compute *compute, const struct attention *attention);

/* ---- indexers ------------------------------------------------------------------------------------------------------
 *
 * Some models compare a short key of each position with a few small queries first, and let attention see only the best
 * positions (DeepSeek V3.2, 2025: the lightning indexer). The score of a key is the sum over the heads of weight *
 * max(0, query * key). If each head chooses for its own kv head, it is that head's product alone.
 *
 * A key represents "every" positions, and is seen from the last of them on. Blocks of "block" keys are chosen together,
 * by their best key. A row chooses the "most" best blocks, of equal ones the earlier, and always the last "local" ones.
 * The result has the form that compute_attention reads. */
struct index_search {
    const float *query;        /* [rows][heads][size] */
    const float *weights;      /* [rows][heads]; NULL: all 1 */
    const uint32_t *positions; /* [rows] of the batch */
    size_t first_row, rows;    /* of one sequence */
    const uint8_t *keys;       /* of position 0 of the sequence */
    size_t key_bytes;          /* from one key to the next */
    enum tensor_type type;
    size_t heads, size;
    bool by_head;   /* a set per head, by the plain products */
    uint32_t every; /* positions per key */
    uint32_t block, local, most;
    bool tail;       /* also choose the positions after the last complete key, as one more id */
    uint32_t *words; /* of row 0 of the batch: [rows][stride] */
    size_t stride;
    float *scores; /* scratch, index_score_floats for at least one row */
    size_t score_floats;
};

/* The floats of scratch for this many rows, at positions below "positions". */
size_t index_score_floats(size_t rows, size_t sets, size_t positions);
void compute_index(struct compute *compute, const struct index_search *search);

/* ---- short convolutions ------------------------------------------------------------------------------------------ */

#define CONVOLUTION_MAX_TAPS 64

/* A causal convolution over the rows of one sequence, each channel separately:
 * output[r][c] = sum over taps of weights[c][tap] * input[r - (taps - 1 - tap) * dilation][c], plus bias, then a SiLU
 * if requested. Each call gets the inputs before its first row from the previous call, so results do not depend on how
 * rows are divided into calls. */
struct convolution {
    size_t rows;
    size_t channels, taps; /* taps 2 to CONVOLUTION_MAX_TAPS */
    size_t dilation;       /* rows from one tap to the next; 0 is 1 */
    const float *weights;  /* [channels][taps] */
    const float *bias;     /* [channels], or NULL */
    bool silu;
    const float *input; /* rows stride floats apart, channels in groups of width, group_stride apart */
    size_t stride, width, group_stride;
    const float *before; /* [(taps - 1) * dilation][channels] inputs before the first row */
    float *after;        /* the same for the row that comes next; other memory */
    float *output;       /* [rows][channels] */
};

void compute_convolution(struct compute *compute, const struct convolution *convolution);

/* ---- scans of state spaces --------------------------------------------------------------------------------------- */

/* Mamba (Gu and Dao, 2023) and Mamba 2 (Dao and Gu, 2024) over the rows of one sequence. A head of width channels x
 * keeps a state S of size x width. d is its time step, a its rate; the vectors b and c of its group write and read
 * states:
 *
 * S[n] = exp(d a) S[n] + b[n] (d x);  output = sum over n of c[n] S[n] + skip x
 *
 * In Mamba 1 a head is a single channel, and each of its size elements has its own rate.
 *
 * Rows are processed in blocks, with a few elements of the state at a time in registers. Every element sees the same
 * operations in the order of the rows, and sums start at the first n, so cutting rows elsewhere changes no bit. */
struct scan {
    size_t rows, heads, groups, width, size; /* head h belongs to group h / (heads / groups) */
    bool each;                               /* a rate per element; heads are 1 wide, and there is one group */
    const float *input;                      /* [rows][heads][width], rows input_stride floats apart */
    const float *write, *read;               /* [rows][groups][size], with their own strides */
    size_t input_stride, write_stride, read_stride;
    const float *steps; /* [rows][heads] */
    const float *rates; /* [heads], or [heads][size] */
    const float *skip;  /* [heads] */
    float *output;      /* [rows][heads][width] */
    const float *state; /* scan_state_floats: [heads][size][width]; with "each" [size][heads] */
    float *next;        /* the state after the rows; other memory */
};

size_t scan_state_floats(size_t heads, size_t width, size_t size);
void compute_scan(struct compute *compute, const struct scan *scan);

/* ---- compressed positions ------------------------------------------------------------------------------------------
 *
 * Each block of "every" positions becomes one row (DeepSeek V4, 2026): in each channel, the mean of the block's values,
 * weighted by the softmax of its gates, which have a bias per place in the block. If blocks overlap, values and gates
 * have two halves: a block uses the second halves of its own positions and the first halves of the previous block's.
 * The state is an unfinished block. Positions are processed one after another, channels in parallel, so cutting rows
 * into calls elsewhere changes no bit. */
struct compression {
    size_t rows, position; /* of the first row; at 0 no state is read */
    size_t size, every;
    bool overlaps;
    const float *values; /* [rows][size], twice that if blocks overlap */
    const float *gates;  /* the same; NULL: all equal */
    const float *bias;   /* [every] rows of that width; NULL: none */
    const float *state;  /* compression_state_floats */
    float *next;         /* the state after the rows; not the same memory */
    float *out;          /* [compressed_rows][size] */
};

size_t compression_state_floats(size_t size, bool overlaps);

/* The number of blocks that end within this many rows from a position on. */
size_t compressed_rows(size_t position, size_t rows, size_t every);
void compute_compression(struct compute *compute, const struct compression *compression);

/* ---- gated delta nets -------------------------------------------------------------------------------------------- */

#define DELTA_NET_MAX_TAPS CONVOLUTION_MAX_TAPS

#define DELTA_PARTS 3 /* queries, keys, values */

/* A recurrent layer (Yang et al., 2024; Kimi, 2025) over the rows of one sequence. Instead of a cache, each value head
 * keeps a matrix S of key_size x value_size. A token with key k, value v and query q updates and reads it:
 *   S = decay S;  S += k (beta (v - k S));  output = q S
 * The decay is one number, or one per row of S. Queries, keys and values first pass a causal convolution over the last
 * taps inputs and a SiLU. Queries and keys are then scaled to length 1, and queries divided by the square root of
 * key_size.
 *
 * Tokens are processed one after another, columns of the matrices in parallel, so cutting rows into calls elsewhere
 * changes no bit. */
struct delta_net {
    size_t rows;
    size_t heads_k, heads_v, key_size, value_size;
    size_t taps;       /* 2 to DELTA_NET_MAX_TAPS */
    bool tiled;        /* value head h reads key head h % heads_k, else h / (heads_v / heads_k) */
    bool by_channel;   /* a decay per row of a matrix; else per matrix */
    bool root_epsilon; /* epsilon is added to squared lengths; else it is the least length of a query or key */
    float epsilon;
    const float *convolution[DELTA_PARTS]; /* of queries, keys and values of all heads: [channels][taps] each */
    const float *input[DELTA_PARTS];       /* the same order, [rows][channels], rows input_stride floats apart */
    size_t input_stride[DELTA_PARTS];
    float *convolved;   /* [rows][channels of all three], scratch */
    const float *beta;  /* [rows][heads_v] */
    const float *decay; /* [rows][heads_v], or [rows][heads_v][key_size] */
    float *output;      /* [rows][heads_v][value_size] */
    const float *state; /* delta_net_state_floats: the matrices, then the last taps - 1 inputs */
    float *next;        /* the state after the rows; not the same memory */
};

size_t delta_net_state_floats(size_t heads_k, size_t heads_v, size_t key_size, size_t value_size, size_t taps);
void compute_delta_net(struct compute *compute, const struct delta_net *net);

/* Turns a projection into decays per channel, in place. With f = value + bias:
 *   exp(rate softplus(f)), rate below 0; if bounded, exp(bound sigmoid(|rate| f)), bound at most 0. */
struct delta_decay {
    size_t rows, heads, size;
    float *values;     /* [rows][heads][size] */
    const float *bias; /* [heads][size] */
    const float *rate; /* [heads] */
    bool bounded;
    float bound;
};

void compute_delta_decay(struct compute *compute, const struct delta_decay *decay);

#endif
