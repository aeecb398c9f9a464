/* Private to synth*.c. */
#ifndef HYPURA_SYNTH_PRIVATE_H
#define HYPURA_SYNTH_PRIVATE_H

#include "format/format.h"
#include "tools/synth.h"

/* ---- random blocks ----------------------------------------------------------------------------------------------- */

/* Makes blocks whose decoded values have a mean of about 0 and this standard deviation. */
void synth_random_blocks(struct random *random, enum tensor_type type, unsigned char *out, uint64_t blocks,
                         float deviation);

/* The number of elements at the end of a row that are positive and nearly constant. */
#define SYNTH_TAIL 32

/* Whether synth_constant_tail supports this type. */
bool synth_tail_supported(enum tensor_type type);

/* Makes the last SYNTH_TAIL elements of a row of random blocks positive and nearly constant. Their mean is
 * synth_tail_ratio times the deviation of the blocks. */
void synth_constant_tail(enum tensor_type type, unsigned char *row, uint64_t columns, float deviation);
float synth_tail_ratio(enum tensor_type type);

/* Encodes floats as F32, F16, BF16 or Q8_0. */
void synth_encode(enum tensor_type type, unsigned char *out, const float *values, uint64_t count);

/* ---- vocabulary -------------------------------------------------------------------------------------------------- */

enum synth_tokenizer { SYNTH_SENTENCEPIECE, SYNTH_LLAMA3, SYNTH_QWEN, SYNTH_GPT_OSS };

struct synth_vocabulary;

/* Makes a tokenizer with exactly "size" distinct tokens: bytes, special tokens, English words and made-up words. */
hypura_status synth_vocabulary_make(struct synth_vocabulary **out, enum synth_tokenizer kind, uint32_t size,
                                    hypura_error *error);
void synth_vocabulary_free(struct synth_vocabulary *vocabulary);

/* Writes the tokenizer.* keys, including the chat template. */
hypura_status synth_vocabulary_write(const struct synth_vocabulary *vocabulary, struct gguf_writer *writer,
                                     hypura_error *error);

/* Gives the range [first, end) of the words. Generated text should contain none of the bytes and special tokens
 * outside. */
void synth_vocabulary_words(const struct synth_vocabulary *vocabulary, uint32_t *first, uint32_t *end);

/* ---- routers and the moving average ------------------------------------------------------------------------------ */

/* A range [first, first + count) of the hidden state's dimensions. */
struct synth_part {
    uint32_t first, count;
};

struct synth_router_plan {
    struct synth_part token, slow, context; /* context: written by the attention of later layers */
    struct synth_part fresh;                /* divided among the layers by synth_fresh_part; the tail follows */
    uint32_t fresh_parts;
    float *lengths;       /* [experts] by rank: length of a router row in units of the logit threshold */
    float slow_gain;      /* energy of the moving average in its dimensions; that of the embedding is 1 */
    float slow_effective; /* effective number of tokens in the moving average */
    float position_score; /* score of each rotary pair that is used */
    uint32_t first_pair, pairs;
    float tail_value; /* mean of the embedding's tail */
    float stickiness;
};

hypura_status synth_router_plan(struct synth_router_plan *plan, const struct synth_options *options, float tail_value,
                                hypura_error *error);
void synth_router_plan_free(struct synth_router_plan *plan);

/* Returns the dimensions that the feed-forward network of this layer writes for the next router. */
struct synth_part synth_fresh_part(const struct synth_router_plan *plan, uint32_t layer);

/* Energies (mean squares) that the layers add to the stream. An embedding has energy 1. */
#define SYNTH_FRESH_ENERGY 6.0f   /* feed forward into its own fresh part */
#define SYNTH_CONTEXT_ENERGY 0.5f /* attention into the context part */
#define SYNTH_NOISE_ENERGY 0.3f   /* over all layers, everywhere */

/* Makes a row of the router of a layer. row: [embedding]. */
void synth_router_row(const struct synth_router_plan *plan, const struct synth_options *options, uint32_t layer,
                      uint32_t expert, struct random *random, float *row);

/* Make rows of layer 0's attention. head_row: the row's index in its head. */
void synth_position_row(const struct synth_router_plan *plan, const struct synth_options *options, uint32_t head_row,
                        float *row);
/* Makes the vector of a query or key norm of layer 0. row: [head_size]. */
void synth_position_norm(const struct synth_router_plan *plan, const struct synth_options *options, float *row);
void synth_slow_value_row(const struct synth_options *options, struct random *random, float *row);
void synth_slow_output_row(const struct synth_router_plan *plan, const struct synth_options *options,
                           uint32_t dimension, struct random *random, float *row);

bool synth_query_key_norm(const char *architecture);

/* ---- the list of tensors ----------------------------------------------------------------------------------------- */

enum synth_fill {
    SYNTH_FILL_RANDOM, /* random blocks, with a band of rows with another deviation */
    SYNTH_FILL_NORM,   /* near 1 */
    SYNTH_FILL_ONE,
    SYNTH_FILL_QUERY_NORM, /* near "deviation" */
    SYNTH_FILL_BIAS,       /* near 0 */
    SYNTH_FILL_ROUTER,
    SYNTH_FILL_POSITION, /* this and the next three: layer 0's attention, see synth.h */
    SYNTH_FILL_POSITION_NORM,
    SYNTH_FILL_SLOW_VALUE,
    SYNTH_FILL_SLOW_OUTPUT,
    SYNTH_FILL_MEAN,      /* near "mean" */
    SYNTH_FILL_UNEVEN,    /* rows with different lengths */
    SYNTH_FILL_EXPERT_IDS /* distinct expert numbers per row */
};

struct synth_tensor {
    char name[48];
    enum synth_fill fill;
    enum tensor_type type;
    uint32_t layer;
    uint32_t dimensions;
    uint64_t shape[GGUF_MAX_DIMENSIONS];
    uint64_t rows, row_bytes;
    uint64_t period; /* rows per expert; the band repeats for each */
    double mean, deviation;
    uint64_t band_first, band_count;
    double band_deviation;
    bool constant_tail;
};

struct synth_type {
    enum tensor_type base;
    bool mixture;
    uint32_t file_type; /* general.file_type */
};

struct synth_list {
    struct synth_options options;
    struct synth_type type;
    struct synth_router_plan router; /* only for mixtures of experts */
    struct synth_tensor *tensors;
    size_t count;
};

/* ---- types of matrices: synth_types.c ---- */

/* The purpose of a matrix. */
enum synth_role {
    MATRIX_EMBEDDING,
    MATRIX_OUTPUT,
    MATRIX_Q,
    MATRIX_K,
    MATRIX_V,
    MATRIX_O,
    MATRIX_GATE_UP,
    MATRIX_DOWN
};

hypura_status synth_type_parse(struct synth_type *out, const char *name, hypura_error *error);
/* Return the type of a matrix with this many columns, by its purpose or by its name. */
enum tensor_type synth_role_type(const struct synth_list *list, enum synth_role role, uint32_t layer, uint64_t columns);
enum tensor_type synth_matrix_type(const struct synth_list *list, const char *name, uint64_t columns);

/* ---- the list ---- */

/* Makes the list of tensors. options must be checked and complete. */
hypura_status synth_list_make(struct synth_list *list, const struct synth_options *options,
                              const struct synth_vocabulary *vocabulary, hypura_error *error);

/* synth_recipe.c: makes the list from a recipe, and writes the recipe's metadata. */
hypura_status synth_recipe_list(struct synth_list *list, const struct synth_vocabulary *vocabulary,
                                hypura_error *error);
hypura_status synth_recipe_metadata(struct gguf_writer *writer, const struct synth_list *list, hypura_error *error);

/* synth_recipes.c */
extern const char synth_recipe_deepseek_v4_flash[], synth_recipe_glm_5[], synth_recipe_minimax_m3[],
    synth_recipe_qwen35_9b[], synth_recipe_qwen38_flash_next[], synth_recipe_mistral4[], synth_recipe_step_35[],
    synth_recipe_kimi_k3[], synth_recipe_nemotron_3_super[];

void synth_list_free(struct synth_list *list);
uint64_t synth_list_bytes(const struct synth_list *list);

#endif
