/* gemm: matrix times matrix for quantised weights, by panels.
 *
 * A panel holds sixteen rows of weights over 256 columns in one form for every type: bytes, four columns of a row side
 * by side, the sixteen rows next to each other, as the dot product instructions take them; with integer scales for
 * parts of a super-block and float scales. Making a panel costs about as much as using it for two or three tokens, and
 * all tokens of a task use it. Per type there is only the function that makes a panel. Activations are read where they
 * are.
 *
 * Sums follow compute.h: everything inside a block is an exact integer, then one float operation a block, in order, on
 * a tile of outputs that stays in scratch until all columns are done. Being exact, an integer may be summed in any way:
 * where the sums of parts of a super-block are sure to fit 16 bits ("narrow"), two are scaled by one instruction. */
#ifndef HYPURA_COMPUTE_GEMM_H
#define HYPURA_COMPUTE_GEMM_H

#include "compute/cpu/kernels.h"

#define PANEL_ROWS 16
#define PANEL_COLUMNS 256

/* Rows that the tokens of a task pass together, in panels. These come from the second-level cache, half of which the
 * sums take; fewer would fit the first, but what a tile of tokens costs by itself is then shared by fewer. */
#define GROUP_PANELS 16
#define GROUP_ROWS (GROUP_PANELS * PANEL_ROWS)

/* Tokens that pass one or a few panels together, while these and what the tokens bring stay in the first-level cache.
 */
#define TILE_TOKENS 24

struct panel {
    _Alignas(64) uint8_t quants[PANEL_COLUMNS / 4][PANEL_ROWS][4]; /* signed, or 128 more: struct panel_multiplier */
    int16_t scales[8][PANEL_ROWS][2];                              /* of parts of a super-block, two side by side */
    int16_t minima[8][PANEL_ROWS][2];
    float d[8][PANEL_ROWS]; /* index 0 for a super-block, else a block of 32 */
    float m[8][PANEL_ROWS]; /* of halves of blocks: the scale of the second, d that of the first */
};

/* What multiplying needs of the sums of a token's activations. */
union panel_side {
    int32_t starts[16]; /* what the sum of a part, block or half starts from */
    int16_t sums[16];   /* of parts, for minima */
    float block_sums[8];
};

/* The activations of a token over the columns of a panel. */
struct panel_token {
    const int8_t *quants;
    const float *scales; /* one for a super-block, else one a block of 32 */
    const int16_t *sums; /* of 16 columns of a super-block, else of a block of 32 */
    const float *from;   /* where the sums of outputs are, [rows of the group], and where they go on */
    float *to;
    union panel_side side;
};

struct panel_tile {
    size_t count;
    bool narrow;
    struct panel_token tokens[TILE_TOKENS];
};

/* The shapes of types. */
enum panel_kind {
    PANEL_NONE,           /* not a quantised type */
    PANEL_BLOCKS,         /* eight blocks of 32 */
    PANEL_BLOCKS_MINIMA,  /* and a minimum each */
    PANEL_BLOCKS_POWERS,  /* scales are powers of two */
    PANEL_HALVES,         /* eight blocks of 32, each half with a scale of its own */
    PANEL_WHOLE,          /* a super-block without scales of parts */
    PANEL_PARTS_8,        /* eight parts of 32 */
    PANEL_PARTS_8_MINIMA, /* and a minimum each */
    PANEL_PARTS_16,       /* sixteen parts of 16 */
    PANEL_PARTS_16_MINIMA
};

enum panel_kind panel_kind(enum tensor_type type);

/* The greatest peaks (struct activation_peaks) with which no sum of a part leaves 16 bits. */
void panel_narrow(enum tensor_type type, unsigned *of_16, unsigned *of_32);

/* blocks: what is there of the eight blocks of 32; 8 for a super-block. rows[i]: the first block of row i. */
typedef void panel_maker(struct panel *out, const uint8_t *const rows[PANEL_ROWS], size_t blocks);

/* The same for any type, in plain C; raise: what is added to the quants of types without minima. */
void panel_make(enum tensor_type type, struct panel *out, const uint8_t *const rows[PANEL_ROWS], size_t blocks,
                uint8_t raise);

/* The tokens of a tile times panel_count * 16 rows. */
struct panel_product {
    const struct panel *panels;
    size_t panel_count;
    size_t blocks;
    const struct panel_tile *tile;
    const struct panel_tile *next; /* whose quants are asked for meanwhile; may be the tile itself */
    bool last;                     /* sums leave scratch: where they go is asked for meanwhile */
};

/* The part that an instruction set brings. */
struct panel_multiplier {
    /* Makes the sides of a tile from the sums. Best called a tile ahead: what was just stored is slow to read in other
     * pieces. */
    void (*make_sides)(enum tensor_type type, struct panel_tile *tile);
    void (*multiply)(enum tensor_type type, const struct panel_product *product);
    /* Where products want weights without a sign, quants of types without minima have so much added: 128 for a dot
     * product; or [TENSOR_TYPE_COUNT] what takes the sign off and leaves them as small as they can be. */
    uint8_t raise;
    const uint8_t *raises;
    /* NULL, or what else the products want of a panel once it is made. */
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

/* makers: [TENSOR_TYPE_COUNT], which add what the multiplier wants added; NULL where the instruction set has none and
 * plain C stands in; or NULL itself. */
void gemm_by_panels(const struct panel_multiplier *multiplier, panel_maker *const *makers, const struct matmul *job,
                    size_t first_row, size_t rows, size_t first_token, size_t tokens, void *scratch);

/* The greatest task, with GEMM_TASK_TOKENS. */
#define GEMM_TASK_ROWS 256

/* Each fills in the gemm entries of quantised types. */
void gemm_panels_avx2(struct kernel_table *table);
void gemm_panels_avx_vnni(struct kernel_table *table);
void gemm_panels_avx512(struct kernel_table *table);
void gemm_panels_neon(struct kernel_table *table);
void gemm_panels_i8mm(struct kernel_table *table);

#endif
