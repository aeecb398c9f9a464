/* compute: the mathematics of a transformer on the CPU, for any tensor type, on any instruction set.
 *
 * It knows tensors, not models: it is handed pointers to weights in the layout of the file and never asks where they
 * came from. One table of function pointers is chosen at run time for the instruction set (plain C, AVX2, AVX-512 with
 * VNNI, NEON with dot product); the plain C of every kernel stays as the reference that the others are tested against.
 *
 * The order of float sums, which makes results equal to the last bit for every thread count, every way to cut a prompt
 * into batches, and between matrix-vector and matrix-matrix kernels:
 *   - Quantised types. Inside a block (a super-block of 256 where the type has them) everything is an exact integer.
 * Per output, starting at 0 and in block order:  sum = fmaf(dw * dx, (float)integer, sum),  and where the type has
 * minima directly after it  sum = fmaf(-(mw * dx), (float)minimum_integer, sum);  dw, mw: the block's float scales, dx:
 * the scale of the activation block; dw * dx is rounded to float first. Of NVFP4 a part of 16 with its scale is a
 * block.
 *   - F32, F16. Sixteen partial sums, number i taking elements i, i + 16, i + 32 ... in order by fmaf, then folded in
 * halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
 *   - BF16. Activations are rounded to bfloat16. Sixteen partial sums, number i taking elements 2i + 1 and 2i of every
 * 32 in this order by fmaf (what a hardware dot product of pairs does), then folded likewise.
 *   - Attention walks positions in blocks that start at multiples of ATTENTION_BLOCK, whatever the batch
 * (cpu/attention.h says the rest).
 * A kernel that cannot keep an order (a hardware instruction with its own rounding) must be used for every shape of its
 * type on that machine, so that the rule holds within a machine.
 *
 * Threads: a struct compute is used by one thread at a time; it spreads work over its own pool.
 */
#ifndef HYPURA_COMPUTE_H
#define HYPURA_COMPUTE_H

#include "core/core.h"
#include "format/format.h"

/* ---- the machine ------------------------------------------------------------------------------------------------- */

enum instruction_set {
    INSTRUCTIONS_PLAIN,    /* plain C */
    INSTRUCTIONS_AVX2,     /* AVX2, FMA, F16C */
    INSTRUCTIONS_AVX_VNNI, /* and dot products of bytes in 256 bits */
    INSTRUCTIONS_AVX512,   /* AVX-512 F, BW, DQ, VL, VNNI; BF16 used where present */
    INSTRUCTIONS_AMX,      /* and tiles of bytes, which the system must allow the process */
    INSTRUCTIONS_NEON      /* Armv8.2 with dot product; i8mm used where present */
};

/* The best that this machine runs; HYPURA_INSTRUCTIONS=plain|avx2|avx-vnni|avx512|amx|neon in the environment
 * asks for a lesser one. */
enum instruction_set compute_best_instructions(void);
bool compute_has_instructions(enum instruction_set set);
const char *compute_instructions_name(enum instruction_set set);

struct compute;

/* What it will be asked for at most, which sizes its scratch. */
struct compute_limits {
    size_t tokens;                  /* of a matrix product; more of them go in smaller tasks */
    size_t queries;                 /* that share a head of keys and values in attention; more of them likewise */
    size_t key_size, value_size;    /* of attention; greater ones cannot be */
    bool chooses;                   /* some attention sees chosen positions only */
    size_t index_heads, index_size; /* of the search for them */
};

/* threads includes the caller. limits may be NULL: what is best for any number of tokens and heads of any size. The
 * scratch that it allocates itself is compute_scratch_bytes(threads, limits). */
hypura_status compute_create(struct compute **out, size_t threads, enum instruction_set set, hypura_error *error);
hypura_status compute_create_limited(struct compute **out, size_t threads, enum instruction_set set,
                                     const struct compute_limits *limits, hypura_error *error);
void compute_destroy(struct compute *compute);
struct thread_pool *compute_pool(struct compute *compute);
enum instruction_set compute_instructions(const struct compute *compute);

/* Where memory has several nodes: threads first_thread[i] to first_thread[i + 1] - 1 are on node i. node_of tells the
 * node that some weights lie on whole; -1: of their rows each node has as large a part as of the threads
 * (compute_part_of_node). Sections whose weights are read once are then cut so that threads read what is near them.
 * The same bits. Called once, between sections. */
#define COMPUTE_MAX_NODES 8
struct compute_nodes {
    uint32_t count;
    size_t first_thread[COMPUTE_MAX_NODES + 1];
    int (*node_of)(const void *context, const void *weights); /* NULL: -1 */
    const void *context;
};
hypura_status compute_set_nodes(struct compute *compute, const struct compute_nodes *nodes, hypura_error *error);

/* The first of these rows that belongs to node number "node". */
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

/* Whether matmul takes weights of this type. */
bool compute_supports(enum tensor_type type);

/* Activations: float rows and, made on first need, the copies that the kernels of each kind of weight want (8-bit
 * blocks of 32 or 256, or bfloat16). Memory is taken once, at creation, for max_rows x max_columns. */
struct activation;

hypura_status activation_create(struct activation **out, size_t max_rows, size_t max_columns, hypura_error *error);
void activation_destroy(struct activation *activation);
uint64_t activation_bytes(size_t max_rows, size_t max_columns);

/* Points it at rows x columns floats (row r at values + r * stride), which must stay until the next call; forgets
 * copies. */
void activation_set(struct activation *activation, const float *values, size_t rows, size_t columns, size_t stride);

/* A row that it points at. */
const float *activation_values(const struct activation *activation, size_t row);

/* output[output_rows[t]][r] = sum over c of weights[r][c] * input[input_rows[t]][c], for t below tokens.
 * input_rows and output_rows may be NULL: t itself. Every output row belongs to one job. bias, when not NULL, has one
 * float a weight row and is added last. */
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

/* Runs all jobs as one parallel section (after one more that prepares activations, where there are many rows). Jobs
 * that share an activation share its copies. Jobs with no tokens are allowed. */
void compute_matmul(struct compute *compute, const struct matmul *jobs, size_t count);

/* elements values of a row, from blocks to floats; elements is a multiple of the type's block size, and the type one
 * that compute_supports. */
void compute_dequantize(enum tensor_type type, const void *blocks, float *out, size_t elements);

/* ---- rows of floats ---------------------------------------------------------------------------------------------- */

/* All of these work on [rows][columns] with rows adjacent, in parallel when there is enough to do. weight and bias may
 * be NULL. out may be the input. */
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
    GLU_SILU_CLAMPED, /* gate and up clamped likewise, silu(gate) * up */
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

/* values = those, at most limit and at least -limit, in place. */
void compute_clamp(struct compute *compute, float *values, size_t count, float limit);

/* Soft cap: cap * tanh(value / cap), in place. */
void compute_soft_cap(struct compute *compute, float *values, size_t count, float cap);

/* ---- residual streams -------------------------------------------------------------------------------------------- */

#define STREAMS_MAX 16

/* Several residual streams in the place of one (hyper-connections: Zhu et al., 2024; with a balanced matrix: Xie et
 * al., 2025). A product of all streams of a token, one after another, with a matrix gives it so many coefficients:
 * with f = 1 / sqrt(mean square of all streams + norm_epsilon)
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

/* Coefficients of a token. */
size_t stream_coefficients(const struct stream_mixer *mixer);

/* streams: [rows][streams][width]; coefficients: [rows][stream_coefficients], from the product, which become what
 * scatter reads; out: [rows][width]. Scatter reads neither scale nor base. */
void compute_gather_streams(struct compute *compute, const struct stream_mixer *mixer, const float *streams,
                            float *coefficients, float *out, size_t rows);
void compute_scatter_streams(struct compute *compute, const struct stream_mixer *mixer, float *streams,
                             const float *coefficients, const float *branch, size_t rows);

/* Rows of the residual stream that are kept next to the one at work (Kimi K3). row becomes number "kept" of the bank;
 * of it and those before it each has a score, the sum of its normed elements times weight, and out is the sum of all,
 * weighted by the softmax of the scores. bank: [rows][bank_stride] with so many rows of width floats each. */
#define RECALL_MAX 256

void compute_recall(struct compute *compute, float *bank, size_t bank_stride, size_t kept, const float *row,
                    const float *weight, float epsilon, float *out, size_t rows, size_t width);

/* Another way to gather (low rank): streams are normed ones, and each element of each has a gate of its own. The branch
 * reads the mean over s of sigmoid(gate) * stream s; gates: [rows][streams][width], overwritten. Where the branch
 * returns, back[s] = 2 sigmoid(inject[s] / streams), inject: [rows][streams], goes to the place in coefficients
 * ([rows][2 streams]) where scatter reads it. */
struct gated_gather {
    size_t streams, width;
    const float *values;
    float *gates;
    const float *inject; /* NULL: it does not return */
    float *coefficients, *out;
};
void compute_gather_gated(struct compute *compute, const struct gated_gather *gather, size_t rows);

/* A value enters streams by how well keys match queries: with m = key s * query s / sqrt(width),
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

/* A hidden row and so many side rows of the same width (alternating updates: Baykal et al., 2023). A row x gives each
 * of these streams a number, m = tanh(router (x / rms(x) * norm / width)). */
struct side_streams {
    size_t sides, width; /* at most SIDES_MAX */
    const float *norm;
    const float *router;       /* [sides + 1][width] */
    const float *coefficients; /* of a prediction [(sides + 1)^2][sides + 1], of a correction [sides + 1][sides + 1] */
    const float *scale;        /* [width], of a correction */
    float epsilon;
};

/* Stream a becomes itself and the sum over b of (coefficients m)[a, b] * stream b; m is of the hidden row. */
void compute_predict_sides(struct compute *compute, const struct side_streams *streams, float *hidden, float *sides,
                           size_t rows);

/* Stream a gets (1 + (coefficients m)[a]) * (branch - hidden row); m is of the branch. out: the hidden row * scale. */
void compute_correct_sides(struct compute *compute, const struct side_streams *streams, float *hidden, float *sides,
                           const float *branch, float *out, size_t rows);

/* Each part of [rows][parts][width] gets the length of its row of by, [rows][width]. */
void compute_match_lengths(struct compute *compute, float *values, const float *by, size_t rows, size_t parts,
                           size_t width);

/* max(0, value - mean - deviations * standard deviation) of each row, of all but one element's squares. */
void compute_sparse(struct compute *compute, float *values, size_t rows, size_t width, float deviations);

/* ---- rotary positions -------------------------------------------------------------------------------------------- */

enum rope_layout {
    ROPE_NORMAL, /* pairs (0, 1), (2, 3) ... : llama */
    ROPE_NEOX    /* pairs (i, i + size / 2) : qwen, most others */
};

/* Turns the first rotary elements of each head in place. values: [rows], each with heads heads of head_size floats,
 * rows row_stride floats apart. table: [rows][rotary / 2][2], cosine then sine, with any scaling multiplied in. */
void compute_rope(struct compute *compute, enum rope_layout layout, float *values, size_t rows, size_t row_stride,
                  size_t heads, size_t head_size, size_t rotary, const float *table);

/* The same the other way round. */
void compute_rope_back(struct compute *compute, enum rope_layout layout, float *values, size_t rows, size_t row_stride,
                       size_t heads, size_t head_size, size_t rotary, const float *table);

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* Positions a block of the online softmax. KV capacities are multiples of it, so that a block never wraps. */
#define ATTENTION_BLOCK 64

/* The greatest key_size and value_size. */
#define ATTENTION_MAX_SIZE 640

/* Bytes of one head's row of size values in a KV cache of this type: F32, F16, BF16, Q8_0 or Q4_0; 0 when it cannot be.
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
    /* Blocks of ATTENTION_BLOCK indices may lie apart: block b is places[b] times so many bytes behind where it would
     * be; NULL: they do not. Not where positions are chosen. */
    const uint16_t *places;
    size_t place_key_bytes, place_value_bytes;
};

/* What rows see where they do not see everything: sets of positions, chosen before. A row has "stride" words, of which
 * each set takes most + 1: how many ids it has, then these in rising order. An id stands for the positions from id *
 * block on, block of them, of which the row sees those up to its own. */
struct attention_choice {
    const uint32_t *words; /* of row 0 of the batch */
    size_t stride;
    size_t sets; /* 1, or one a kv head */
    size_t most;
    uint32_t block;
    /* ring > 0: a row sees the last "window" positions, which are at position % ring, and behind the ring those that it
     * chose of the rows for "every" positions each (words NULL: all that are whole). block and sets are 1. */
    uint32_t ring, window, every;
};

struct attention {
    const float *query;        /* [rows][heads][key_size] */
    float *output;             /* [rows][heads][value_size] */
    const uint32_t *positions; /* [rows]; row r sees positions up to its own */
    size_t heads, kv_heads;    /* head h reads kv head h / (heads / kv_heads) */
    size_t key_size, value_size;
    enum tensor_type key_type, value_type;
    size_t key_position_bytes, key_head_bytes;     /* from one position, one kv head, to the next */
    size_t value_position_bytes, value_head_bytes; /* MLA: values are a prefix of the keys */
    float scale;
    float soft_cap;  /* 0: none */
    uint32_t window; /* 0: none; else row at p sees positions above p - window */
    uint32_t around; /* 0: none; else of a bidirectional row, it sees those nearer than this */
    float alibi; /* 0: none; else scores fall with the distance: ALiBi's greatest slope exponent (Press et al., 2021) */
    uint32_t chunk;                        /* 0: none; else row at p sees positions of its own chunk, p / chunk, only */
    const struct attention_choice *choice; /* NULL: none; else neither window nor chunk, and limits.chooses was set */
    const float *sinks; /* [heads] logits that take part in the softmax and bring no value; or NULL */
    bool bidirectional; /* encoders: a row sees every position up to its sequence's last row */
    const struct attention_sequence *sequences;
    size_t sequence_count;
};

/* Flash attention: scores are never materialised for more than a block of positions. Keys and values of the batch's own
 * positions must be in the cache already. Works in the scratch of the struct compute. */
void compute_attention(struct compute *compute, const struct attention *attention);

/* ---- the search for positions worth attention --------------------------------------------------------------------
 *
 * Some models look at a short key of each position first, with a few heads of their own, and let attention see the best
 * ones only (DeepSeek V3.2, 2025: the lightning indexer). The score of a key is the sum over the heads of weight *
 * max(0, query * key), or a head's product by itself where each head chooses for its own kv head.
 *
 * A key stands for "every" positions, and counts from the last of them on. Blocks of "block" keys are chosen together,
 * by their best one. Of a row's blocks the "most" best are chosen, of equal ones the earlier; "local" says how many of
 * the last are chosen whatever their score. What is chosen is written as compute_attention reads it. */
struct index_search {
    const float *query;        /* [rows][heads][size] */
    const float *weights;      /* [rows][heads]; NULL: all 1 */
    const uint32_t *positions; /* [rows] of the batch */
    size_t first_row, rows;    /* of one sequence */
    const uint8_t *keys;       /* of position 0 of the sequence */
    size_t key_bytes;          /* from one key to the next */
    enum tensor_type type;
    size_t heads, size;
    bool by_head;   /* a set for each head, of the products as they are */
    uint32_t every; /* positions of a key */
    uint32_t block, local, most;
    bool tail;       /* the positions behind the last whole key are chosen too, as one id more */
    uint32_t *words; /* of row 0 of the batch: [rows][stride] */
    size_t stride;
    float *scores; /* scratch of index_score_floats for one row at least */
    size_t score_floats;
};

/* Scores of this many rows, the last of which is at a position below "positions". */
size_t index_score_floats(size_t rows, size_t sets, size_t positions);
void compute_index(struct compute *compute, const struct index_search *search);

/* ---- short convolutions ------------------------------------------------------------------------------------------ */

#define CONVOLUTION_MAX_TAPS 64

/* A causal convolution of each channel by itself over rows of one sequence:
 * output[r][c] = sum over taps of weights[c][tap] * input[r - (taps - 1 - tap) * dilation][c], plus bias, then a SiLU
 * if wanted. Rows before the first are what was kept of earlier calls: how rows are cut into calls changes no bit. */
struct convolution {
    size_t rows;
    size_t channels, taps; /* taps 2 to CONVOLUTION_MAX_TAPS */
    size_t dilation;       /* rows from one tap to the next; 0 is 1 */
    const float *weights;  /* [channels][taps] */
    const float *bias;     /* [channels], or NULL */
    bool silu;
    const float *input; /* rows stride floats apart; of each, channels in groups of width, group_stride apart */
    size_t stride, width, group_stride;
    const float *before; /* [(taps - 1) * dilation][channels] inputs before the first row */
    float *after;        /* the same before the row that comes next; not the same memory */
    float *output;       /* [rows][channels] */
};

void compute_convolution(struct compute *compute, const struct convolution *convolution);

/* ---- scans of state spaces --------------------------------------------------------------------------------------- */

/* Mamba (Gu and Dao, 2023) and Mamba 2 (Dao and Gu, 2024) over rows of one sequence. A head of width channels x keeps a
 * state S of size x width. With its step d, its rate a, and vectors b and c of its group, with which a state is written
 * and read:
 *
 * S[n] = exp(d a) S[n] + b[n] (d x);  output = sum over n of c[n] S[n] + skip x
 *
 * Of Mamba 1 a head is a single channel, and each of its size elements has a rate of its own.
 *
 * Rows go in blocks, a few elements of the state at a time, which stay in registers meanwhile. Every element sees the
 * same operations in the order of the rows, and sums run over n from the first: how rows are cut changes no bit. */
struct scan {
    size_t rows, heads, groups, width, size; /* head h is of group h / (heads / groups) */
    bool each;                               /* rates of each element; heads are 1 wide, and there is one group */
    const float *input;                      /* [rows][heads][width], rows input_stride floats apart; likewise: */
    const float *write, *read;               /* [rows][groups][size] */
    size_t input_stride, write_stride, read_stride;
    const float *steps; /* [rows][heads] */
    const float *rates; /* [heads], or [heads][size] */
    const float *skip;  /* [heads] */
    float *output;      /* [rows][heads][width] */
    const float *state; /* scan_state_floats: [heads][size][width], with rates of each [size][heads] */
    float *next;        /* the state after the rows; not the same memory */
};

size_t scan_state_floats(size_t heads, size_t width, size_t size);
void compute_scan(struct compute *compute, const struct scan *scan);

/* ---- compressed positions ------------------------------------------------------------------------------------------
 *
 * Blocks of "every" positions become a row each (DeepSeek V4, 2026): in every channel by itself the mean of the block's
 * values, weighted by the softmax of its gates, which have a bias by their place in the block. Where blocks overlap,
 * values and gates have two halves: a block takes the second halves of its own positions, and the first halves of the
 * positions of the block before it. What an unfinished block has come to is the state. Positions run one after another,
 * channels in parallel: how rows are cut into calls changes no bit. */
struct compression {
    size_t rows, position; /* of the first row; at 0 there is no state before */
    size_t size, every;
    bool overlaps;
    const float *values; /* [rows][size], twice that where blocks overlap */
    const float *gates;  /* the same; NULL: all are alike */
    const float *bias;   /* [every] rows likewise; NULL: none */
    const float *state;  /* compression_state_floats */
    float *next;         /* the state after the rows; not the same memory */
    float *out;          /* [compressed_rows][size] */
};

size_t compression_state_floats(size_t size, bool overlaps);

/* Blocks that end within this many rows from a position on. */
size_t compressed_rows(size_t position, size_t rows, size_t every);
void compute_compression(struct compute *compute, const struct compression *compression);

/* ---- gated delta nets -------------------------------------------------------------------------------------------- */

#define DELTA_NET_MAX_TAPS CONVOLUTION_MAX_TAPS

#define DELTA_PARTS 3 /* queries, keys, values */

/* A recurrent layer (Yang et al., 2024; Kimi, 2025) over rows of one sequence. Instead of a cache each value head keeps
 * one matrix S of key_size x value_size. A token with key k, value v and query q changes it and is answered by it:
 *   S = decay S;  S += k (beta (v - k S));  output = q S
 * where the decay is one number, or one of each row of S. Queries, keys and values pass a causal convolution over the
 * last taps inputs and a SiLU first; queries and keys are then brought to length 1, queries divided by the root of
 * key_size besides.
 *
 * Tokens run one after another, columns of the matrices in parallel: how rows are cut into calls changes no bit. */
struct delta_net {
    size_t rows;
    size_t heads_k, heads_v, key_size, value_size;
    size_t taps;       /* 2 to DELTA_NET_MAX_TAPS */
    bool tiled;        /* value head h reads key head h % heads_k, else h / (heads_v / heads_k) */
    bool by_channel;   /* decay of each row of a matrix, else of each matrix */
    bool root_epsilon; /* epsilon is added to squares of lengths, else it is the least length of a query or key */
    float epsilon;
    const float *convolution[DELTA_PARTS]; /* of queries, keys and values of all heads: [channels][taps] each */
    const float *input[DELTA_PARTS];       /* likewise, [rows][channels] each, rows input_stride floats apart */
    size_t input_stride[DELTA_PARTS];
    float *convolved;   /* [rows][channels of all three], for use inside */
    const float *beta;  /* [rows][heads_v] */
    const float *decay; /* [rows][heads_v], or [rows][heads_v][key_size] */
    float *output;      /* [rows][heads_v][value_size] */
    const float *state; /* delta_net_state_floats: the matrices, then the last taps - 1 inputs */
    float *next;        /* the state after the rows; not the same memory */
};

size_t delta_net_state_floats(size_t heads_k, size_t heads_v, size_t key_size, size_t value_size, size_t taps);
void compute_delta_net(struct compute *compute, const struct delta_net *net);

/* The decay by channel of what its projection gives, in place: with f = value + bias
 *   exp(rate softplus(f)), rate below 0, or, bounded, exp(bound sigmoid(|rate| f)), bound not above 0. */
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
