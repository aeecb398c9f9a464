/* kernels: the private contract of the compute folder, between matmul.c, which splits work, and the kernels, which do
 * it. All kernels keep the order of float sums that compute.h states.
 *
 * A kernel table holds, for every tensor type, the best kernels of one instruction set. It starts as plain C;
 * each instruction set in turn then replaces the entries that it has kernels for.
 */
#ifndef HYPURA_COMPUTE_KERNELS_H
#define HYPURA_COMPUTE_KERNELS_H

#include "compute/compute.h"
#include "compute/cpu/blocks.h"

/* ---- activations ------------------------------------------------------------------------------------------------- */

/* The form in which a kernel reads an activation row. */
enum activation_kind {
    ACTIVATION_FLOAT,  /* F32 and F16 weights: the caller's floats */
    ACTIVATION_BFLOAT, /* BF16 weights */
    ACTIVATION_Q8_32,  /* types with blocks of 32 (and NVFP4) */
    ACTIVATION_Q8_256, /* types with super-blocks of 256 */
    ACTIVATION_KINDS
};

/* Copies are padded with zeros to a multiple of this many columns, so that kernels may read whole vectors. Weights and
 * the caller's floats are not padded. */
#define ACTIVATION_PADDING 256

/* One prepared row.
 * Q8_32:  value = scales[c / 32] * quants[c], scale = (greatest magnitude of the block) / 127, quant = nearest to even
 *         of value * (127 / greatest magnitude); sums[c / 32] = sum of the quants of a block.
 * Q8_256: the same with blocks of 256; sums[c / 16] = sum of 16 quants; peaks[c / 256]: the
 *         greatest sums of quants over any part of the block, for weights of any sign (of_16) or of one sign (of_32).
 * Quants are in -127..127, in the order of the columns, and aligned to 64 bytes. */
struct activation_peaks {
    uint16_t of_16; /* the greatest sum of magnitudes of 16 quants */
    uint16_t of_32; /* the greatest sum of magnitudes of the positive, or of the negative, quants among 32 */
};

/* What a gemv kernel needs to know to prefetch weights into the processor's caches. */
struct gemv_surroundings {
    const uint8_t *then; /* weights that the same worker reads next; NULL: those that follow in memory */
    bool cold;           /* the first rows were not prefetched */
};

struct activation_row {
    struct gemv_surroundings around;
    const float *floats;
    const uint16_t *bfloats;
    const int8_t *quants;
    const float *scales;
    const int16_t *sums;
};

struct activation {
    size_t max_rows, max_columns;
    const float *values;
    size_t rows, columns, stride;
    bool ready[ACTIVATION_KINDS];

    /* Strides are elements from one row to the next, for the present columns. Q8 arrays are indexed by
     * kind - ACTIVATION_Q8_32. */
    uint16_t *bfloats;
    int8_t *quants[2];
    float *scales[2];
    int16_t *sums[2];
    struct activation_peaks *peaks;
    size_t bfloat_stride, quant_stride, scale_stride[2], sum_stride[2], peak_stride;

    void *memory;
    size_t memory_bytes;
};

/* A row of a kind that is ready. */
static inline struct activation_row activation_row(const struct activation *activation, enum activation_kind kind,
                                                   size_t row)
{
    struct activation_row out = {0};
    if (kind == ACTIVATION_FLOAT) {
        out.floats = activation->values + row * activation->stride;
    } else if (kind == ACTIVATION_BFLOAT) {
        out.bfloats = activation->bfloats + row * activation->bfloat_stride;
    } else {
        size_t i = kind - ACTIVATION_Q8_32;
        out.quants = activation->quants[i] + row * activation->quant_stride;
        out.scales = activation->scales[i] + row * activation->scale_stride[i];
        out.sums = activation->sums[i] + row * activation->sum_stride[i];
    }
    return out;
}

struct kernel_table;

/* Writes rows [first, first + count) of a copy. The caller sets ready. */
void activation_prepare_rows(struct activation *activation, const struct kernel_table *kernels,
                             enum activation_kind kind, size_t first, size_t count);

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

/* out[r] = weights row r times x. Row r starts at weights + r * row_bytes. */
typedef void gemv_kernel(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                         const struct activation_row *x);

/* Computes the part [first_row, first_row + rows) x [first_token, first_token + tokens) of a job, without the bias,
 * into job->output. The job's copies must be ready. scratch: the worker's own, at least gemm_scratch_bytes(tokens),
 * aligned to 64. Every output has the same bits as from the gemv kernel of the same table. */
typedef void gemm_kernel(const struct matmul *job, size_t first_row, size_t rows, size_t first_token, size_t tokens,
                         void *scratch);

/* The most tokens of a task. */
#define GEMM_TASK_TOKENS ((size_t)512)

/* The scratch that any kernel needs for this many tokens; at most that for GEMM_TASK_TOKENS. */
size_t gemm_scratch_bytes(size_t tokens);
size_t gemm_panels_scratch_bytes(size_t tokens);
size_t gemm_floats_scratch_bytes(size_t tokens);

/* The same for all tokens of a job, at most FEW_MOST_TOKENS, with rows a multiple of FEW_ROWS. Unpacks weights once for
 * all tokens, in registers. */
typedef void few_kernel(const struct matmul *job, size_t first_row, size_t rows);

#define FEW_MOST_TOKENS ((size_t)16)
#define FEW_ROWS ((size_t)16)

/* elements is a multiple of the block size. */
typedef void dequantize_kernel(float *out, const uint8_t *blocks, size_t elements);

struct kernel {
    enum activation_kind activation;
    dequantize_kernel *dequantize; /* NULL: the type is not supported */
    gemv_kernel *gemv;
    few_kernel *few;          /* NULL: gemv for each token */
    size_t few_least_tokens;  /* fewer go through gemv */
    gemm_kernel *gemm;        /* NULL: none */
    size_t gemm_least_tokens; /* fewer go through few, or gemv */
    size_t gemm_task_rows;    /* rows per task, except the last */
};

struct kernel_table {
    enum instruction_set instructions;
    struct kernel types[TENSOR_TYPE_COUNT];

    /* Converts a row of "columns" floats into its copy, including padding. */
    void (*prepare_bfloat)(uint16_t *out, const float *values, size_t columns);
    void (*prepare_q8_32)(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns);
    void (*prepare_q8_256)(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns);
    /* Finds the peaks of a prepared block of Q8_256. */
    void (*find_peaks)(struct activation_peaks *out, const int8_t *quants, const int16_t *sums);

    /* Converts floats to half precision, rounded to nearest even. */
    void (*store_half)(uint16_t *out, const float *values, size_t count);

    /* The processor's peak, for the benchmark: each multiplies bytes, floats or bfloats for some microseconds, and
     * returns the number of multiplications and additions. NULL: no special instructions. */
    uint64_t (*peak_bytes)(void);
    uint64_t (*peak_floats)(void);
    uint64_t (*peak_bfloats)(void);
};

/* The table of an instruction set that the machine has; never freed. */
const struct kernel_table *kernel_table_get(enum instruction_set set);
/* The table of compute_best_instructions(), as of the first call. */
const struct kernel_table *kernel_table_best(void);

/* The tables of files that are compiled for an instruction set. They are constant data, not filled in by a function,
 * because any function in such a file may use instructions that the machine lacks. So no code of these files runs
 * before the processor's abilities are known (tests/test_structure.py). An entry without a kernel is NULL. Tables are
 * applied in this order, later ones over earlier ones. */
extern const struct kernel_table kernels_plain;
extern const struct kernel_table kernels_avx2_floats;
extern const struct kernel_table kernels_avx2_quantized;
extern const struct kernel_table kernels_avx_vnni_quantized;
extern const struct kernel_table kernels_few_blocks_avx_vnni;
extern const struct kernel_table kernels_few_super_avx_vnni;
extern const struct kernel_table kernels_avx512_floats;
extern const struct kernel_table kernels_avx512_bf16;
extern const struct kernel_table kernels_avx512_blocks;
extern const struct kernel_table kernels_avx512_super;
extern const struct kernel_table kernels_avx512_grids;
extern const struct kernel_table kernels_amx;
extern const struct kernel_table kernels_few_blocks_avx2;
extern const struct kernel_table kernels_few_super_avx2;
extern const struct kernel_table kernels_few_blocks_avx512;
extern const struct kernel_table kernels_few_super_avx512;
extern const struct kernel_table kernels_neon_floats;
extern const struct kernel_table kernels_neon_quantized;
extern const struct kernel_table kernels_few_blocks_neon;
extern const struct kernel_table kernels_few_super_neon;
extern const struct kernel_table kernels_peak_avx2;
extern const struct kernel_table kernels_peak_avx_vnni;
extern const struct kernel_table kernels_peak_avx512;
extern const struct kernel_table kernels_peak_bf16;
extern const struct kernel_table kernels_peak_neon;

/* ---- compute ----------------------------------------------------------------------------------------------------- */

struct compute {
    struct thread_pool *pool;
    size_t threads;
    enum instruction_set instructions;
    const struct kernel_table *kernels;
    const uint8_t **asked; /* [threads] the address from which each worker last prefetched weights */
    size_t task_tokens;    /* GEMM_TASK_TOKENS, or fewer by the limits */
    uint8_t *scratch;
    size_t scratch_bytes;       /* per worker; attention.h says how attention divides it */
    struct compute_nodes nodes; /* count 0: one node */
    struct matmul *node_jobs;   /* room for a section's jobs, if there are several nodes */
    struct expectation *expectation;
};

/* Makes room for compute_expect. */
hypura_status expectation_create(struct compute *compute, hypura_error *error);

/* Whether the processor has 8-bit matrix products (Arm i8mm). */
bool cpu_has_i8mm(void);

#endif
