/* Shared by the files of model/ that build a struct model; nobody else includes it. */
#ifndef HYPURA_MODEL_PRIVATE_H
#define HYPURA_MODEL_PRIVATE_H

#include "model/model.h"

struct model {
    struct gguf *file;
    char *expert_path; /* that was opened, or is used */
    bool expert_path_used;
    char *name;
    hypura_error prediction_error; /* what is wrong with the block that predicts; status 0: nothing */
    const struct architecture *architecture;
    struct model_parameters parameters;
    struct model_layer *layers;
    const struct gguf_tensor *(*layer_tensors)[ROLE_COUNT]; /* while opening only */
    const struct gguf_tensor *tensors[ROLE_COUNT];
    unit_number tensor_units[ROLE_COUNT];
    struct unit *units;
    uint32_t unit_count;
    uint64_t bytes;
};

/* ---- expert_file.c -------------------------------------------------------------------------------------------------
 */

/* Where a file of experts was opened: opens the model that it was made of instead. */
hypura_status model_find_behind_experts(struct model *model, hypura_error *error);

/* ---- roles.c -------------------------------------------------------------------------------------------------------
 */

/* What a dimension of a tensor must be. */
enum extent {
    NOTHING, /* the tensor has no such dimension */
    ONE,
    EMBEDDING,
    EMBEDDING_TWICE,
    STREAM_COUNT,
    STREAMS, /* all of them, one after another */
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
    OUTPUT_GROUP, /* what the output's first matrix reads of a group, and what it gives of all */
    OUTPUT_RANKS,
    COMPRESS_WIDTH,
    INDEX_COMPRESS_WIDTH,
    COMPRESS_EVERY,
    EXPERTS_USED,
    QUERY_NORM, /* one head, or all of them */
    KEY_NORM,
    FEED_FORWARD,
    FEED_FORWARD_UP, /* twice the width where the gate is in front */
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
    RECURRENT_RATES,      /* of a head: one, or one of each element of its state */
    RECURRENT_NORM_WIDTH, /* of a head, or of a group */
    RECURRENT_NORM_GROUPS,
    RECURRENT_INNER,
    GATES, /* of attention: heads x value size, or one for each head; of a delta net its inner width */
    TOKEN_WIDTH,
    SIDES,
    STREAMS_OF_SIDES, /* with the first one */
    STREAMS_SQUARED,
    LAUREL,
    TABLE_WIDTH,
    TABLE_ROWS,  /* or more */
    NGRAM_WIDTH, /* of a token's rows together */
    NGRAM_STREAMS,
    NGRAM_TAPS,
    RECURRENT_DECAYS,     /* heads, or the channels of their keys */
    RECURRENT_DECAY_RANK, /* of the first of two matrices; alone it gives all of them */
    RECURRENT_GATE_RANK,
    RECURRENT_KEY_SIZE,
    STREAMS_LOW, /* where they are gathered by gates of low rank */
    STREAM_RANK
};

struct role_row {
    const char *title;
    const char *name; /* without "blk.N." for tensors of a layer */
    bool layer;
    enum extent extents[3];
};

extern const struct role_row tensor_roles[ROLE_COUNT];

/* What a dimension must be; layer NULL: of a tensor of the whole model. */
uint64_t extent_value(enum extent extent, const struct model *model, const struct model_layer *layer);

/* ---- metadata.c ----------------------------------------------------------------------------------------------------
 */

/* Far above every published model; a number beyond is a broken file, and sizes computed from these never overflow 64
 * bits. */
#define MAX_LAYERS 4096u
#define RECALLED_MAX 256u /* rows that a token recalls */
#define MAX_WIDTH (1u << 20)
#define MAX_TOKEN_ROW (1u << 20) /* of all layers together */
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
    char wrong[160]; /* the first key that should be a finite number and is not */
};

const char *key(struct reader *reader, const char *name);
bool has_float(struct reader *reader, const char *name, float *out);

/* A number that may be absent, at most most where it is there; one that must not be; and one of each layer: one for
 * all, or an array with one a layer. */
hypura_status optional_number(struct reader *reader, const char *name, uint32_t most, uint32_t *out,
                              hypura_error *error);
hypura_status needed_number(struct reader *reader, const char *name, uint32_t most, uint32_t *out, hypura_error *error);
hypura_status layer_number(struct reader *reader, const char *name, uint32_t layer, uint32_t most, uint32_t *out,
                           hypura_error *error);
hypura_status layer_float(struct reader *reader, const char *name, uint32_t layer, float *out, hypura_error *error);

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        hypura_status try_status = (call);                                                                             \
        if (try_status)                                                                                                \
            return try_status;                                                                                         \
    } while (0)

/* layers.c: what each layer is. Parameters of the whole model are known by then. */
hypura_status model_read_layers(struct model *model, struct reader *reader, hypura_error *error);

/* ngrams.c: what the hashes of a table of n-grams are made with; and whether a layer reads it. */
hypura_status model_read_ngrams(struct reader *reader, struct model_parameters *p, hypura_error *error);
bool model_has_ngrams(struct reader *reader, uint32_t layer);

/* indexer.c: the search for positions that attention sees, of the whole model, and whether a layer has one of its own
 * or reads another's choice. */
hypura_status model_read_index(struct reader *reader, struct model_parameters *p, hypura_error *error);
hypura_status model_read_layer_index(struct model *model, struct reader *reader, uint32_t number, hypura_error *error);

#define CHUNK_OF_ATTENTION 8192u /* Llama 4 */

/* ---- the others ----------------------------------------------------------------------------------------------------
 */

/* architecture.c */
const struct architecture *architecture_find(const struct gguf_string *name);

/* parameters.c: everything that the metadata says; tensors are known by then. Fills layers[] but for the units. */
hypura_status model_read_parameters(struct model *model, hypura_error *error);

/* tensors.c: finds every tensor's role, and afterwards checks shapes against the parameters. */
hypura_status model_find_tensors(struct model *model, hypura_error *error);
hypura_status model_check_tensors(const struct model *model, hypura_error *error);

/* units.c */
hypura_status model_make_units(struct model *model, hypura_error *error);

/* The layers that a forward pass runs, and the prediction blocks behind them, from the metadata alone. */
hypura_status model_read_layer_count(const struct gguf *file, const struct architecture *architecture,
                                     struct model_parameters *out, hypura_error *error);

/* The layers that have rows in the tables: those, and prediction blocks that are used. */
static inline uint32_t all_layers(const struct model *model)
{
    return model->parameters.layers + model->parameters.predicting;
}

#endif
