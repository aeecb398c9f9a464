/* gemm: matrix times matrix for quantised weights, by panels.
 *
 * A panel holds sixteen rows of weights over 256 columns, in one form for all types: bytes, in the order of the dot
 * product instructions (four columns of a row, then the same columns of the next row, for all sixteen), with integer
 * scales for the parts of a super-block, and float scales. Making a panel takes about as long as multiplying it by two
 * or three tokens, and all tokens of a task share it. Each type only needs a function that makes a panel. Activations
 * are not copied.
 *
 * Sums follow compute.h: inside a block they are exact integers; then each block takes one float operation, in order,
 * on a tile of outputs that stays in scratch until all columns are done. Exact integers may be summed in any order. If
 * the sums of a super-block's parts are sure to fit 16 bits ("narrow"), one instruction scales two of them. */
#ifndef HYPURA_COMPUTE_GEMM_H
#define HYPURA_COMPUTE_GEMM_H

#include "compute/cpu/kernels.h"

#define PANEL_ROWS 16
#define PANEL_COLUMNS 256

/* Panels that the tokens of a task pass together. They stay in the second-level cache, half of which holds the sums.
 * Fewer would fit the first level, but would share the fixed cost of a tile of tokens. */
#define GROUP_PANELS 16
#define GROUP_ROWS (GROUP_PANELS * PANEL_ROWS)

/* Tokens that pass one or a few panels together. Both, panels and tokens' data, fit the first-level cache. */
#define TILE_TOKENS 24

struct panel {
    _Alignas(64) uint8_t quants[PANEL_COLUMNS / 4][PANEL_ROWS][4]; /* signed, or raised: struct panel_multiplier */
    int16_t scales[8][PANEL_ROWS][2];                              /* of parts of a super-block, in pairs */
    int16_t minima[8][PANEL_ROWS][2];
    float d[8][PANEL_ROWS]; /* index 0 for a super-block, else a block of 32 */
    union {
        float m[8][PANEL_ROWS];          /* for minima; in halves of blocks the second half's scale, d the first's */
        int16_t twice[8][PANEL_ROWS][2]; /* scales of eight parts, each twice (gemm_raised_avx2.c) */
    };
};

/* A token's activations as the sum of two (gemm_raised_avx2.c). */
struct panel_split {
    _Alignas(32) int8_t most[PANEL_COLUMNS], rest[PANEL_COLUMNS];
    /* The groups of four columns that have a rest. What follows them is a group that has none. */
    uint8_t quads[PANEL_COLUMNS / 4];
    unsigned count;
};

/* Sums of a token's activations, in the form that multiplying needs. */
union panel_side {
    int32_t starts[16]; /* the start value for the sum of a part, block or half */
    struct {
        int16_t sums[16]; /* of parts, for minima */
        const struct panel_split *split;
    };
    float block_sums[8];
};

/* The activations of a token over the columns of a panel. */
struct panel_token {
    const int8_t *quants;
    const float *scales; /* one for a super-block, else one per block of 32 */
    const int16_t *sums; /* per 16 columns of a super-block, else per block of 32 */
    const float *from;   /* the sums so far, [rows of the group]; "to" gets the new ones */
    float *to;
    union panel_side side;
};

struct panel_tile {
    size_t count;
    bool narrow;
    struct panel_token tokens[TILE_TOKENS];
    struct panel_split splits[TILE_TOKENS]; /* for types that need it */
};

/* The shapes of types. */
enum panel_kind {
    PANEL_NONE,           /* not a quantised type */
    PANEL_BLOCKS,         /* eight blocks of 32 */
    PANEL_BLOCKS_MINIMA,  /* the same, each with a minimum */
    PANEL_BLOCKS_POWERS,  /* scales are powers of two */
    PANEL_HALVES,         /* eight blocks of 32, each half with a scale of its own */
    PANEL_WHOLE,          /* a super-block without scales of parts */
    PANEL_PARTS_8,        /* eight parts of 32 */
    PANEL_PARTS_8_MINIMA, /* the same, each with a minimum */
    PANEL_PARTS_16,       /* sixteen parts of 16 */
    PANEL_PARTS_16_MINIMA
};

enum panel_kind panel_kind(enum tensor_type type);

/* The largest peaks (struct activation_peaks) for which the sum of every part fits 16 bits. */
void panel_narrow(enum tensor_type type, unsigned *of_16, unsigned *of_32);

/* blocks: how many of the eight blocks of 32 exist; 8 for a super-block. rows[i]: the first block of row i. */
typedef void panel_maker(struct panel *out, const uint8_t *const rows[PANEL_ROWS], size_t blocks);

/* The same for any type, in plain C. Adds raise to the quants of types without minima. */
void panel_make(enum tensor_type type, struct panel *out, const uint8_t *const rows[PANEL_ROWS], size_t blocks,
                uint8_t raise);

/* The tokens of a tile times panel_count * 16 rows. */
struct panel_product {
    const struct panel *panels;
    size_t panel_count;
    size_t blocks;
    const struct panel_tile *tile;
    const struct panel_tile *next; /* its quants are prefetched meanwhile; may be the tile itself */
    bool last;                     /* sums leave scratch: prefetches their destination */
};

/* The part of an instruction set. */
struct panel_multiplier {
    /* Makes the sides of a tile from the sums. Best called a tile ahead: data just stored is slow to read with another
     * width. */
    void (*make_sides)(enum tensor_type type, struct panel_tile *tile);
    void (*multiply)(enum tensor_type type, const struct panel_product *product);
    /* If products need unsigned weights, this is added to the quants of types without minima: raise (128 for dot
     * products), or raises[TENSOR_TYPE_COUNT], the least values that leave no quant negative. */
    uint8_t raise;
    const uint8_t *raises;
    /* Completes a panel as products need it; may be NULL. */
    void (*finish)(enum tensor_type type, struct panel *panel);
};

extern const struct panel_multiplier panel_multiplier_avx2;
extern const struct panel_multiplier panel_multiplier_avx_vnni;
extern const struct panel_multiplier panel_multiplier_avx512;
extern const struct panel_multiplier panel_multiplier_neon;
extern const struct panel_multiplier panel_multiplier_i8mm;

extern panel_maker *const panel_makers_avx2[TENSOR_TYPE_COUNT];
extern panel_maker *const panel_makers_avx_vnni[TENSOR_TYPE_COUNT];
extern panel_maker *const panel_makers_avx512[TENSOR_TYPE_COUNT];

/* makers: [TENSOR_TYPE_COUNT], or NULL. They raise quants as the multiplier says. Plain C replaces makers that are
 * NULL.
 */
void gemm_by_panels(const struct panel_multiplier *multiplier, panel_maker *const *makers, const struct matmul *job,
                    size_t first_row, size_t rows, size_t first_token, size_t tokens, void *scratch);

/* The most rows of a task, with GEMM_TASK_TOKENS. */
#define GEMM_TASK_ROWS 256

/* Each fills in the gemm entries for quantised types. */
void gemm_panels_avx2(struct kernel_table *table);
void gemm_panels_avx_vnni(struct kernel_table *table);
void gemm_panels_avx512(struct kernel_table *table);
void gemm_panels_neon(struct kernel_table *table);
void gemm_panels_i8mm(struct kernel_table *table);

#endif
