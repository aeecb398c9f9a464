/* Shared by the files of model/ that build a struct model. */
#ifndef HYPURA_MODEL_PRIVATE_H
#define HYPURA_MODEL_PRIVATE_H

#include "model/model.h"

struct model {
    struct gguf *file;
    char *expert_path; /* the file of experts that was opened, or is used */
    bool expert_path_used;
    char *name;
    hypura_error prediction_error; /* the problem of the prediction block; status 0: none */
    const struct architecture *architecture;
    struct model_parameters parameters;
    struct model_layer *layers;
    const struct gguf_tensor *(*layer_tensors)[ROLE_COUNT]; /* only while opening, and the next one */
    const struct gguf_tensor *(*layer_scales)[ROLE_COUNT];
    const struct gguf_tensor *tensors[ROLE_COUNT], *scales[ROLE_COUNT];
    unit_number tensor_units[ROLE_COUNT], scale_units[ROLE_COUNT];
    struct unit *units;
    uint32_t unit_count;
    uint64_t bytes;
};

/* ---- expert_file.c -------------------------------------------------------------------------------------------------
 */

/* If a file of experts was opened, opens the model that it was made from instead. */
hypura_status model_find_behind_experts(struct model *model, hypura_error *error);

/* ---- roles.c -------------------------------------------------------------------------------------------------------
 */

/* The required size of a tensor's dimension. */
enum extent {
    NOTHING, /* the tensor has no such dimension */
    ONE,
    EMBEDDING,
    EMBEDDING_TWICE,
    STREAM_COUNT,
    STREAMS, /* all streams, one after another */
    STREAM_COEFFICIENTS,
    STREAM_SCALES,
    VOCABULARY,
    POOLED_WIDTH,
    CLASSIFIER_WIDTH,
    LABELS,
    POSITIONS,
    ANY,
    HEADS,
    QUERIES, /* heads x key size, twice that with an output gate */
    KEYS,
    VALUES,
    QKV,
    ATTENDED,     /* heads x value size */
    OUTPUT_GROUP, /* the input of the output's first matrix per group, and its output for all groups */
    OUTPUT_RANKS,
    COMPRESS_WIDTH,
    INDEX_COMPRESS_WIDTH,
    COMPRESS_EVERY,
    EXPERTS_USED,
    QUERY_NORM, /* one head, or all of them */
    KEY_NORM,
    FEED_FORWARD,
    FEED_FORWARD_UP, /* twice the width if it includes the gate */
    EXPERTS,
    EXPERT_COLUMNS,
    EXPERT_WIDTH,
    EXPERT_WIDTH_TWICE,
    SHARED_WIDTH,
    CHUNK_WIDTH,
    CHUNK_EXPERTS,
    ROPE_PAIRS,
    Q_RANK,
    KV_RANK,
    LATENT_QUERIES,
    LATENT_KV,
    LATENT_KV_B,
    LATENT_NOPE,
    LATENT_VALUE,
    INDEX_HEADS,
    INDEX_SIZE,
    INDEX_QUERIES,
    RECURRENT_CONV,
    RECURRENT_CHANNELS,
    RECURRENT_VALUE_HEADS,
    RECURRENT_VALUE_HEADS_TWICE,
    RECURRENT_IN,
    RECURRENT_X,
    RECURRENT_RANK,
    RECURRENT_STATE,
    RECURRENT_RATES,      /* per head: one, or one per element of its state */
    RECURRENT_NORM_WIDTH, /* per head, or per group */
    RECURRENT_NORM_GROUPS,
    RECURRENT_INNER,
    GATES, /* in attention: heads x value size, or one per head; in a delta net its inner width */
    TOKEN_WIDTH,
    SIDES,
    STREAMS_OF_SIDES, /* including the first one */
    STREAMS_SQUARED,
    LAUREL,
    TABLE_WIDTH,
    TABLE_ROWS,  /* or more */
    NGRAM_WIDTH, /* all rows of a token */
    NGRAM_STREAMS,
    NGRAM_TAPS,
    RECURRENT_DECAYS,     /* heads, or the channels of their keys */
    RECURRENT_DECAY_RANK, /* of the first of two matrices; a single one has all rows */
    RECURRENT_GATE_RANK,
    RECURRENT_KEY_SIZE,
    STREAMS_LOW, /* if they are gathered by low-rank gates */
    STREAM_RANK
};

struct role_row {
    const char *title;
    const char *name; /* without "blk.N." for tensors of a layer */
    bool layer;
    enum extent extents[3];
};

extern const struct role_row tensor_roles[ROLE_COUNT];

/* The required size of a dimension; layer NULL: for a tensor of the whole model. */
uint64_t extent_value(enum extent extent, const struct model *model, const struct model_layer *layer);

/* ---- metadata.c ----------------------------------------------------------------------------------------------------
 */

/* Far above every published model. A larger number means a broken file; sizes computed from these fit in 64 bits. */
#define MAX_LAYERS 4096u
#define RECALLED_MAX 256u /* rows of a bank */
#define MAX_WIDTH (1u << 20)
#define MAX_TOKEN_ROW (1u << 20) /* all layers together */
#define MAX_HEADS 65536u
#define MAX_EXPERTS 65536u
#define MAX_STREAMS 16u
#define MAX_TAPS 64u /* of a short convolution */
#define MAX_OUTPUT_GROUPS 32u
#define MAX_VOCABULARY (1u << 24)

struct reader {
    const struct gguf *file;
    const struct architecture *architecture;
    char key[160];
    char wrong[160]; /* the first key that is not a finite number but should be */
};

const char *key(struct reader *reader, const char *name);
bool has_float(struct reader *reader, const char *name, float *out);

/* Reads a number, at most "most": optional, required, or per layer (one for all, or an array with one per layer). */
hypura_status optional_number(struct reader *reader, const char *name, uint32_t most, uint32_t *out,
                              hypura_error *error);
hypura_status needed_number(struct reader *reader, const char *name, uint32_t most, uint32_t *out, hypura_error *error);
hypura_status layer_number(struct reader *reader, const char *name, uint32_t layer, uint32_t most, uint32_t *out,
                           hypura_error *error);
hypura_status layer_float(struct reader *reader, const char *name, uint32_t layer, float *out, hypura_error *error);

/* layers.c: reads the layers, after the parameters of the whole model. */
hypura_status model_read_layers(struct model *model, struct reader *reader, hypura_error *error);

/* ngrams.c: the parameters of hashes of n-grams; and whether a layer reads their table. */
hypura_status model_read_ngrams(struct reader *reader, struct model_parameters *p, hypura_error *error);
bool model_has_ngrams(struct reader *reader, uint32_t layer);

/* indexer.c: the parameters of indexers, and whether a layer has one or uses another layer's choice. */
hypura_status model_read_index(struct reader *reader, struct model_parameters *p, hypura_error *error);
hypura_status model_read_layer_index(struct model *model, struct reader *reader, uint32_t number, hypura_error *error);

#define CHUNK_OF_ATTENTION 8192u /* Llama 4 */

/* ---- the others ----------------------------------------------------------------------------------------------------
 */

/* architecture.c */
const struct architecture *architecture_find(const struct gguf_string *name);

/* parameters.c: reads all metadata, after the tensors. Fills layers[] except for units. */
hypura_status model_read_parameters(struct model *model, hypura_error *error);

/* tensors.c: finds every tensor's role; later checks shapes against the parameters. */
hypura_status model_find_tensors(struct model *model, hypura_error *error);
hypura_status model_check_tensors(const struct model *model, hypura_error *error);

/* Whether it is of the experts that a router chooses: they are units of their own. */
bool model_is_expert_role(enum tensor_role role);

/* units.c */
hypura_status model_make_units(struct model *model, hypura_error *error);

/* The numbers of layers and of the prediction blocks after them, from the metadata alone. */
hypura_status model_read_layer_count(const struct gguf *file, const struct architecture *architecture,
                                     struct model_parameters *out, hypura_error *error);

/* The layers that are in the tables, including a prediction block that is used. */
static inline uint32_t all_layers(const struct model *model)
{
    return model->parameters.layers + model->parameters.predicting;
}

#endif
