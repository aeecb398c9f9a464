/* gemm: matrix times matrix for quantised weights, by panels.
 *
 * A panel holds sixteen rows of weights over 256 columns in one form for every type: signed bytes, four columns of a
 * row side by side, the sixteen rows next to each other, as the dot product instructions take them; with integer scales
 * for parts of a super-block and float scales. Making a panel costs about as much as using it for two or three tokens,
 * and all tokens of a task use it. Per type there is only the function that makes a panel.
 *
 * Sums follow compute.h: everything inside a block is an exact integer, then one float operation a block, in order, on
 * a tile of outputs that stays in scratch until all columns are done. */
#ifndef HYPURA_COMPUTE_GEMM_H
#define HYPURA_COMPUTE_GEMM_H

#include "compute/cpu/kernels.h"

#define PANEL_ROWS 16
#define PANEL_COLUMNS 256

/* Rows that the tokens of a task pass together, in panels: the panels fit the first-level cache. */
#define GROUP_PANELS 4
#define GROUP_ROWS (GROUP_PANELS * PANEL_ROWS)

/* Tokens whose sums fit in registers, for two panels at a time. */
#define TILE_TOKENS 6

struct panel {
    _Alignas(64) int8_t quants[PANEL_COLUMNS / 4][PANEL_ROWS][4];
    int32_t scales[16][PANEL_ROWS]; /* of parts of a super-block */
    /* What integer sums start from: takes back the bias of activations where the kernel wants them unsigned; types with
     * minima have unsigned quants and no need of it. Index 0 for a super-block, else a block of 32; d and m likewise.
     */
    int32_t start[8][PANEL_ROWS];
    float d[8][PANEL_ROWS];
    float m[8][PANEL_ROWS];
    int16_t minima[8][PANEL_ROWS][2]; /* of two parts side by side */
};

/* The activations of a tile of up to TILE_TOKENS tokens over 256 columns: all quants, token by token, then all sides.
 */
struct tile_side {
    float scales[8]; /* one for a super-block, else one a block of 32 */
    union {
        int16_t sums[16]; /* of parts of 16 or 32 */
        float block_sums[8];
    };
};

#define TILE_TOKEN_BYTES (PANEL_COLUMNS + sizeof(struct tile_side))

/* The shapes of types. */
enum panel_kind {
    PANEL_NONE,           /* not a quantised type */
    PANEL_BLOCKS,         /* eight blocks of 32 */
    PANEL_BLOCKS_MINIMA,  /* and a minimum each */
    PANEL_WHOLE,          /* a super-block without scales of parts */
    PANEL_PARTS_8,        /* eight parts of 32 */
    PANEL_PARTS_8_MINIMA, /* and a minimum each */
    PANEL_PARTS_16,       /* sixteen parts of 16 */
    PANEL_PARTS_16_MINIMA
};

enum panel_kind panel_kind(enum tensor_type type);

/* blocks: what is there of the eight blocks of 32; 8 for a super-block. rows[i]: the first block of row i. */
typedef void panel_maker(struct panel *out, const uint8_t *const rows[PANEL_ROWS], size_t blocks);

/* The same for any type, in plain C. */
void panel_make(enum tensor_type type, struct panel *out, const uint8_t *const rows[PANEL_ROWS], size_t blocks);

/* The part that an instruction set brings. */
struct panel_multiplier {
    /* Quants of 256 columns into a tile. */
    void (*pack)(enum panel_kind kind, uint8_t *out, const int8_t *quants);
    /* out[t * GROUP_ROWS + r] goes on, for tokens of a tile and panels * 16 rows. */
    void (*multiply)(enum panel_kind kind, const struct panel *panels, size_t panel_count, const uint8_t *tile,
                     size_t tokens, size_t blocks, float *out);
};

extern const struct panel_multiplier panel_multiplier_avx2;
extern const struct panel_multiplier panel_multiplier_avx_vnni;
extern const struct panel_multiplier panel_multiplier_avx512;
extern const struct panel_multiplier panel_multiplier_neon;
extern const struct panel_multiplier panel_multiplier_i8mm;

extern panel_maker *const panel_makers_avx512[TENSOR_TYPE_COUNT];

/* makers: [TENSOR_TYPE_COUNT], NULL where the instruction set has none and plain C stands in; or NULL itself. */
void gemm_by_panels(const struct panel_multiplier *multiplier, panel_maker *const *makers, const struct matmul *job,
                    size_t first_row, size_t rows, size_t first_token, size_t tokens, void *scratch);

/* The greatest task. */
#define GEMM_TASK_ROWS 256
#define GEMM_TASK_TOKENS 256

/* Each fills in the gemm entries of quantised types. */
void gemm_panels_avx2(struct kernel_table *table);
void gemm_panels_avx_vnni(struct kernel_table *table);
void gemm_panels_avx512(struct kernel_table *table);
void gemm_panels_neon(struct kernel_table *table);
void gemm_panels_i8mm(struct kernel_table *table);

#endif
