/* model: what a file describes: its architecture as a row of a table, hyper-parameters, tensors by role, and the units
 * that move between tiers.
 *
 * A model holds no weights. It owns the open struct gguf. Everything is read-only after model_open and may be used from
 * any thread.
 */
#ifndef HYPURA_MODEL_H
#define HYPURA_MODEL_H

#include "core/core.h"
#include "format/format.h"

/* ---- mechanisms that a row of the architecture table chooses from -------------------------------------------------
 */

enum rope_style { ROPE_STYLE_NONE, ROPE_STYLE_NORMAL, ROPE_STYLE_NEOX };

enum rope_scaling { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_YARN, ROPE_SCALING_LONGROPE };

enum ffn_activation {
    FFN_SILU,
    FFN_GELU,
    FFN_OAI,
    FFN_RELU,
    FFN_RELU_SQUARED,
    FFN_SITU,
    FFN_SILU_CAPPED /* clamped after it */,
    FFN_TANH /* of classifiers */
};

/* Attention's output is multiplied by this function of a further projection of its input. */
enum attention_gate { ATTENTION_UNGATED, ATTENTION_GATE_SIGMOID, ATTENTION_GATE_SOFTPLUS };

/* The input of the router and the experts. */
enum mixture_input {
    MIXTURE_FEED_FORWARD, /* the rows of the feed forward */
    MIXTURE_ROUTER_FIRST, /* the router reads the layer's input, without a norm */
    MIXTURE_FIRST /* router and experts read the layer's input through their own norm, next to a dense feed forward */
};

enum router_gate {
    ROUTER_SOFTMAX,          /* softmax over all experts, then the best k */
    ROUTER_SOFTMAX_SELECTED, /* best k of the logits, softmax over those */
    ROUTER_SIGMOID,          /* sigmoid, selection bias added for choosing only */
    ROUTER_SQRT_SOFTPLUS     /* the same with the square root of softplus */
};

/* What an indexer chooses for attention. */
enum index_kind {
    INDEX_NONE,
    INDEX_POSITIONS,  /* the best positions, one set for all heads */
    INDEX_COMPRESSED, /* the best rows among those that represent blocks, in layers with short blocks */
    INDEX_BLOCKS,     /* the best blocks of positions, a set for each kv head; not in the leading dense layers */
    INDEX_POOLED      /* the best blocks, one set for all heads, by a key per block; always the unfinished block */
};

/* How YaRN scales sines and scores, with g(m) = 1 + 0.1 m ln(factor) and m the file's multiplier. */
enum yarn_style {
    YARN_USUAL,     /* sines g(1) / g(m); in MLA scores g(m)^2 instead */
    YARN_SHARP,     /* sines g(1) / g(m), and scores g(1)^2 */
    YARN_SHARP_ONE, /* the same with m = 0 */
    YARN_SINES      /* sines g(1) */
};

enum layer_kind {
    LAYER_ATTENTION,    /* full or sliding-window attention */
    LAYER_ONE_KEY,      /* one row is the key and value of all heads; windows, and compressed blocks of positions */
    LAYER_LATENT,       /* MLA: compressed keys and values */
    LAYER_RECURRENT,    /* gated delta net: a state instead of a cache */
    LAYER_SCAN,         /* Mamba 1 */
    LAYER_SCAN_HEADS,   /* Mamba 2 */
    LAYER_SCAN_BETWEEN, /* the projections of Mamba 1 with the heads of Mamba 2 (PLaMo 2) */
    LAYER_CONVOLUTION,  /* a short convolution between two gates (LFM 2) */
    LAYER_NO_MIXER      /* a feed forward only */
};

enum decay_style {
    DECAY_BY_HEAD,
    DECAY_BY_CHANNEL,            /* Kimi's delta nets */
    DECAY_BY_CHANNEL_OR_BOUNDED, /* bounded if the file has kda.gate_lower_bound */
    DECAY_BY_CHANNEL_ALWAYS_BOUNDED
};

/* How the rows of a text become one. */
enum pooling { POOLING_UNSAID, POOLING_MEAN, POOLING_FIRST, POOLING_LAST };

/* ---- tensors by role -----------------------------------------------------------------------------------------------
 */

/* What a tensor is for. A table in roles.c has the GGUF name of each ("blk.%d.attn_q.weight"). */
enum tensor_role {
    /* of the whole model, before the layers */
    ROLE_TOKEN_EMBEDDING,
    ROLE_TABLE,
    ROLE_TOKEN_TYPES,
    ROLE_POSITION_EMBEDDING,
    ROLE_EMBEDDING_NORM,
    ROLE_EMBEDDING_NORM_BIAS,
    ROLE_LAYERS_PROJECTION, /* of each layer's own row for a token */
    ROLE_LAYERS_NORM,
    ROLE_SIDES, /* the initial values of further residual streams */
    ROLE_ROPE_FACTORS,
    ROLE_ROPE_FACTORS_LONG,
    ROLE_ROPE_FACTORS_SHORT,
    /* of a layer, in the order of their use */
    ROLE_PREDICTION_EMBEDDING, /* of a prediction block, if it does not share the model's */
    ROLE_PREDICTION_TOKEN_NORM,
    ROLE_PREDICTION_HIDDEN_NORM,
    ROLE_PREDICTION_JOIN,
    ROLE_ATTENTION_RESIDUAL_SCORE,
    ROLE_NGRAM_KEY, /* how the table's rows enter the streams */
    ROLE_NGRAM_VALUE,
    ROLE_NGRAM_KEY_NORM,
    ROLE_NGRAM_QUERY_NORM,
    ROLE_NGRAM_CONVOLUTION_NORM,
    ROLE_NGRAM_CONVOLUTION,
    ROLE_ATTENTION_STREAMS_NORM, /* streams gathered by low-rank gates */
    ROLE_ATTENTION_STREAMS_DOWN,
    ROLE_ATTENTION_STREAMS_INJECT,
    ROLE_ATTENTION_STREAMS_UP,
    ROLE_ATTENTION_STREAMS, /* coefficients of residual streams, before attention */
    ROLE_ATTENTION_STREAMS_BASE,
    ROLE_ATTENTION_STREAMS_SCALE,
    ROLE_SIDES_NORM, /* coefficients of side streams */
    ROLE_SIDES_ROUTER,
    ROLE_SIDES_PREDICT,
    ROLE_ATTENTION_NORM,
    ROLE_ATTENTION_NORM_BIAS,
    ROLE_ATTENTION_OWN_NORM, /* if a parallel feed forward reads through the one above */
    ROLE_ATTENTION_OWN_NORM_BIAS,
    ROLE_LAUREL_DOWN, /* a low-rank product next to attention */
    ROLE_LAUREL_UP,
    ROLE_LAUREL_NORM,
    ROLE_ATTENTION_QKV,
    ROLE_ATTENTION_QKV_BIAS,
    ROLE_ATTENTION_Q,
    ROLE_ATTENTION_Q_BIAS,
    ROLE_ATTENTION_K,
    ROLE_ATTENTION_K_BIAS,
    ROLE_ATTENTION_V,
    ROLE_ATTENTION_V_BIAS,
    ROLE_ATTENTION_GATE,
    ROLE_ATTENTION_Q_A,
    ROLE_ATTENTION_KV_A,
    ROLE_ATTENTION_KV,
    ROLE_COMPRESS_KV,
    ROLE_COMPRESS_GATE,
    ROLE_COMPRESS_BIAS,
    ROLE_COMPRESS_NORM,
    ROLE_ATTENTION_Q_A_NORM,
    ROLE_ATTENTION_Q_B,
    ROLE_ATTENTION_KV_A_NORM,
    ROLE_ATTENTION_KV_B,
    ROLE_ATTENTION_K_B,
    ROLE_ATTENTION_Q_NORM,
    ROLE_ATTENTION_Q_NORM_BIAS,
    ROLE_ATTENTION_K_NORM,
    ROLE_ATTENTION_K_NORM_BIAS,
    ROLE_ATTENTION_SINKS,
    ROLE_ATTENTION_V_B,
    ROLE_INDEX_Q,
    ROLE_INDEX_Q_NORM,
    ROLE_INDEX_K,
    ROLE_INDEX_K_A,
    ROLE_INDEX_K_NORM,
    ROLE_INDEX_K_NORM_BIAS,
    ROLE_INDEX_COMPRESS_KV,
    ROLE_INDEX_COMPRESS_GATE,
    ROLE_INDEX_COMPRESS_BIAS,
    ROLE_INDEX_COMPRESS_NORM,
    ROLE_INDEX_WEIGHTS,
    ROLE_INDEX_Q_B,
    ROLE_RECURRENT_BETA_ALPHA,
    ROLE_RECURRENT_ALPHA,
    ROLE_RECURRENT_BETA,
    ROLE_RECURRENT_DECAY_A,
    ROLE_RECURRENT_DECAY_B,
    ROLE_RECURRENT_GATE,
    ROLE_RECURRENT_GATE_A,
    ROLE_RECURRENT_GATE_B,
    ROLE_RECURRENT_IN,
    ROLE_RECURRENT_CONV,
    ROLE_RECURRENT_CONV_BIAS,
    ROLE_RECURRENT_CONV_Q,
    ROLE_RECURRENT_CONV_K,
    ROLE_RECURRENT_CONV_V,
    ROLE_RECURRENT_X,
    ROLE_RECURRENT_DT_NORM,
    ROLE_RECURRENT_B_NORM,
    ROLE_RECURRENT_C_NORM,
    ROLE_RECURRENT_DT,
    ROLE_RECURRENT_DT_BIAS,
    ROLE_RECURRENT_A,
    ROLE_RECURRENT_D,
    ROLE_RECURRENT_NORM,
    ROLE_RECURRENT_OUT,
    ROLE_ATTENTION_OUTPUT_A,
    ROLE_ATTENTION_OUTPUT_B,
    ROLE_ATTENTION_OUTPUT,
    ROLE_ATTENTION_OUTPUT_BIAS,
    ROLE_ATTENTION_POST_NORM,
    ROLE_ATTENTION_SUM_NORM, /* of the residual stream after attention */
    ROLE_ATTENTION_SUM_NORM_BIAS,
    ROLE_ATTENTION_SECOND_NORM, /* a second one; the first norms only the branch */
    ROLE_ATTENTION_SECOND_NORM_BIAS,
    ROLE_FFN_RESIDUAL_SCORE,
    ROLE_FFN_STREAMS_NORM,
    ROLE_FFN_STREAMS_DOWN,
    ROLE_FFN_STREAMS_INJECT,
    ROLE_FFN_STREAMS_UP,
    ROLE_FFN_STREAMS,
    ROLE_FFN_STREAMS_BASE,
    ROLE_FFN_STREAMS_SCALE,
    ROLE_FFN_NORM,
    ROLE_FFN_NORM_BIAS,
    ROLE_ROUTER_SCALE,
    ROLE_ROUTER_TABLE,
    ROLE_ROUTER,
    ROLE_ROUTER_BIAS,
    ROLE_ROUTER_SELECTION_BIAS,
    ROLE_FFN_GATE,
    ROLE_FFN_GATE_BIAS,
    ROLE_FFN_UP,
    ROLE_FFN_UP_BIAS,
    ROLE_FFN_DOWN,
    ROLE_FFN_DOWN_BIAS,
    ROLE_FFN_DENSE_POST_NORM, /* of a dense feed forward next to experts */
    ROLE_LATENT_DOWN,         /* experts may use another row width */
    ROLE_SHARED_ROUTER,
    ROLE_SHARED_GATE,
    ROLE_SHARED_UP,
    ROLE_SHARED_DOWN,
    ROLE_EXPERT_NORM,
    ROLE_EXPERT_NORM_BIAS,
    ROLE_EXPERT_SCALE,
    ROLE_EXPERT_GATE_BIAS,
    ROLE_EXPERT_UP_BIAS,
    ROLE_EXPERT_DOWN_BIAS,
    ROLE_EXPERT_GATE_UP,
    ROLE_EXPERT_GATE,
    ROLE_EXPERT_UP,
    ROLE_EXPERT_DOWN,
    ROLE_LATENT_NORM,
    ROLE_LATENT_UP,
    ROLE_CHUNK_GATE, /* experts that groups of the others share */
    ROLE_CHUNK_UP,
    ROLE_CHUNK_DOWN,
    ROLE_EXPERT_POST_NORM,
    ROLE_FFN_POST_NORM,
    ROLE_FFN_SUM_NORM, /* of the residual stream after the feed forward */
    ROLE_FFN_SUM_NORM_BIAS,
    ROLE_SIDES_CORRECT,
    ROLE_SIDES_SCALE,
    ROLE_TOKEN_GATE, /* of the layer's own row for a token */
    ROLE_TOKEN_OUTPUT,
    ROLE_TOKEN_NORM,
    ROLE_LAYER_SCALE,
    ROLE_PREDICTION_OUTPUT_NORM,
    ROLE_PREDICTION_OUTPUT,
    /* of the whole model, after the layers */
    ROLE_OUTPUT_STREAMS_NORM,
    ROLE_OUTPUT_STREAMS_DOWN,
    ROLE_OUTPUT_STREAMS_UP,
    ROLE_SIDES_BACK,
    ROLE_OUTPUT_STREAMS,
    ROLE_OUTPUT_STREAMS_BASE,
    ROLE_OUTPUT_STREAMS_SCALE,
    ROLE_OUTPUT_NORM,
    ROLE_OUTPUT_NORM_BIAS,
    ROLE_OUTPUT_RESIDUAL_SCORE,
    ROLE_OUTPUT,
    ROLE_OUTPUT_BIAS,
    ROLE_POOLED_UP, /* of a text's pooled row */
    ROLE_POOLED_DOWN,
    ROLE_CLASSIFIER,
    ROLE_CLASSIFIER_BIAS,
    ROLE_CLASSIFIER_NORM,
    ROLE_CLASSIFIER_OUTPUT,
    ROLE_CLASSIFIER_OUTPUT_BIAS,
    ROLE_SCALE, /* of a matrix of any role: its products are multiplied by it */
    ROLE_COUNT
};

const char *tensor_role_name(enum tensor_role role); /* "attention q", for reports */

/* Whether it is the bias of the preceding role. */
bool tensor_role_is_bias(enum tensor_role role);

/* ---- units ---------------------------------------------------------------------------------------------------------
 */

/* The smallest thing that moves between tiers: one tensor, or one expert of one layer (its slices of the gate, up and
 * down tensors together). Numbered from 0: first the tensors of the model and of the layers in the order of their use
 * in a forward pass, then the experts, layer by layer. */
typedef uint32_t unit_number;
#define NO_UNIT UINT32_MAX

enum unit_kind { UNIT_TENSOR, UNIT_EXPERT };

#define UNIT_MAX_SLICES 3

struct unit_slice {
    enum tensor_role role;
    const struct gguf_tensor *tensor;
    uint32_t file;   /* of model_path_at */
    uint64_t offset; /* in that file; no alignment beyond the block's */
    uint64_t bytes;
};

struct unit {
    enum unit_kind kind;
    int32_t layer;         /* -1: of the whole model */
    int32_t expert;        /* -1: not an expert */
    enum tensor_role role; /* of a tensor; of an expert ROLE_EXPERT_DOWN */
    uint32_t slice_count;
    struct unit_slice slices[UNIT_MAX_SLICES];
    uint64_t bytes; /* sum of the slices */
};

/* ---- the model -----------------------------------------------------------------------------------------------------
 */

/* Blocks of this many positions overlap, and an indexer chooses among them; longer blocks are all seen. */
#define COMPRESS_OVERLAPPING 4u

struct model_layer {
    enum layer_kind kind;
    bool recurrent; /* a sequence has a state here, which cannot go back */
    bool no_feed_forward;
    bool scans; /* a LAYER_SCAN_HEADS runs in parallel to attention, and both are added */
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t key_size, value_size; /* per head of LAYER_ATTENTION */
    uint32_t kv_source;            /* the layer whose keys and values it reads; usually itself */
    uint32_t compress;             /* besides the window, one row per this many positions; 0: none */
    uint32_t window;               /* sliding window; 0: full attention */
    uint32_t around;               /* in encoders: it sees positions nearer than this; 0: all */
    uint32_t chunk;                /* attention stays within chunks of this many positions; 0: no chunks */
    bool sharpened;                /* queries are scaled by attention_temperature_scale */
    bool rope;                     /* false: a layer without positions */
    bool rope_local;               /* uses the unscaled rope base of sliding layers (Gemma 3, OLMo 3) */
    bool indexed;                  /* has an indexer, for itself and for the following layers without one */
    bool chosen;                   /* attention sees only the chosen positions */
    uint32_t index_every;          /* positions of a pooled key */
    bool moe;
    bool ngrams;           /* reads the table */
    uint32_t feed_forward; /* of a dense layer */
    float sparsity;        /* gates close below the mean plus this many standard deviations; 0: they never do */
    float expert_limit, shared_limit, dense_limit; /* clamps of gate and up; 0: none */
    unit_number tensors[ROLE_COUNT];               /* NO_UNIT where absent; expert tensors are in experts */
    unit_number scales[ROLE_COUNT]; /* of the products of each matrix, or of each expert's; NO_UNIT: none */
    unit_number first_expert;       /* unit of expert 0; experts are consecutive. NO_UNIT: not a MoE layer */
};

#define MODEL_NGRAM_TOKENS 8u
#define MODEL_NGRAM_ROWS 64u

/* Rows of a table by hashes of the last tokens: the last two, three, up to "size" of them, with "heads" hashes each.
 * From the token "end" backwards, and before the text, every token counts as "end". A hash is the exclusive or, in 64
 * bits, of each token times its multiplier, the latest token first. Each row has its own modulus and offset. */
struct model_ngrams {
    uint32_t size, heads, rows, taps; /* rows: for all lengths together; taps: of the convolution after them */
    int32_t end;
    uint64_t multipliers[MODEL_NGRAM_TOKENS], offsets[MODEL_NGRAM_ROWS], moduli[MODEL_NGRAM_ROWS];
};

/* The rows for a token; "before" earlier tokens of its text precede it in memory. */
void model_ngram_rows(const struct model_ngrams *ngrams, const int32_t *tokens, size_t before, uint32_t *rows);

/* Plain numbers, as read from the metadata and completed with the architecture's defaults. */
struct model_parameters {
    uint32_t layers;            /* that a forward pass runs, without prediction blocks */
    uint32_t prediction_blocks; /* that follow them in the file, by its metadata */
    uint32_t predicting;        /* prediction blocks, numbered after the layers: 0 or 1 */
    uint32_t context;
    uint32_t embedding;
    uint32_t vocabulary;
    enum ffn_activation activation;
    uint32_t pooled_width;                     /* of the inner rows that a pooled one passes; 0: it passes none */
    bool judges;                               /* a text gets scores, by a classifier on its row, and no embedding */
    uint32_t labels;                           /* how many */
    enum ffn_activation classifier_activation; /* FFN_TANH, FFN_GELU */
    enum pooling pooling;                      /* not unsaid */
    uint32_t key_size;                         /* of a head */
    uint32_t value_size;
    float norm_epsilon;
    bool norm_centred;         /* norms take the mean off */
    uint32_t residual_block;   /* layers whose first one's input is kept for those after it; 0: none is */
    uint32_t streams;          /* of the residual; 1: the usual one */
    uint32_t streams_sinkhorn; /* rounds in which the matrix that mixes them is balanced; 0: each keeps itself */
    uint32_t streams_rank;     /* of the gates that gather them; 0: they are gathered otherwise */
    float streams_epsilon, streams_back_epsilon, streams_magnitude;
    /* experts */
    uint32_t experts, experts_used, expert_feed_forward;
    uint32_t expert_columns;                    /* that an expert reads and gives */
    uint32_t shared_feed_forward;               /* of all shared experts together; 0: none */
    uint32_t expert_groups, expert_groups_used; /* 0: not grouped */
    uint32_t chunk_group, chunk_feed_forward;   /* experts that share one; its width; 0: there are none */
    float chunk_scale;                          /* of what those add */
    enum router_gate router_gate;
    bool router_normalise;    /* chosen weights are divided by their sum */
    float router_scale;       /* then multiplied by this */
    float mixture_scale;      /* of the sum of experts and what runs next to them; 1: none */
    float situ_gate, situ_up; /* caps of GLU_SITU */
    /* rope */
    uint32_t rotary, rotary_local; /* elements of a head that get rope */
    float rope_base, rope_base_local;
    bool rope_local_scaled; /* the local base is scaled like the other */
    enum rope_scaling rope_scaling;
    float rope_factor; /* positions are divided by it; 1: not scaled */
    uint32_t rope_original_context;
    float rope_attention_factor; /* factor of cosine and sine, including YaRN's */
    float yarn_extrapolation, yarn_beta_fast, yarn_beta_slow;
    /* attention */
    float attention_scale;                               /* of query times key */
    float alibi;                                         /* the greatest exponent of ALiBi's slopes; 0: no ALiBi */
    float attention_clamp;                               /* bound of each element of q, k and v; 0: none */
    float attention_value_scale;                         /* of attention's output; 1: none */
    float attention_soft_cap, output_soft_cap;           /* 0: none */
    float embedding_scale, residual_scale, output_scale; /* factors; 1: none */
    float attention_temperature_scale;                   /* 0: none. Queries at position p are multiplied by */
    float attention_temperature_floor;                   /* 1 + scale * ln(1 + floor((p + offset) / floor)) */
    float attention_temperature_offset;
    /* MLA: the sizes of a head; the last rotary elements of a key get rope */
    uint32_t q_rank, kv_rank, latent_key_size, latent_value_size;
    /* the indexer: its heads, their size, and how many positions, or blocks of index_block positions, it chooses; it
     * always chooses the last index_local blocks */
    uint32_t index_heads, index_size, index_most, index_block, index_local;
    float index_epsilon;
    uint32_t output_groups, output_rank; /* of LAYER_ONE_KEY: the output's first matrix, per group */
    /* gated delta net; a decay per channel may be bounded below by exp(recurrent_bound) per token */
    bool recurrent_bounded;
    float recurrent_bound;
    uint32_t recurrent_conv; /* taps of the convolution */
    uint32_t recurrent_heads_k, recurrent_heads_v;
    uint32_t recurrent_key_size,
        recurrent_value_size; /* per head; the state is a matrix of these sizes per value head */
    /* a table that is read by rows: floats per row, and the number of rows (table_rows) */
    uint32_t table_width;
    uint32_t token_width; /* of each layer's own row for a token; 0: there is none */
    uint32_t laurel;      /* rank of a product next to attention */
    uint32_t sides;       /* residual streams next to the first one */
    uint64_t table_rows;
    struct model_ngrams ngrams;
    /* scans: the sizes above are value heads and their states; groups replace key heads; Mamba 1 has a head per channel
     */
    uint32_t recurrent_rank; /* of the time steps' projection */
    bool recurrent_rms;      /* norms steps, and what states are written and read with, without weights */
};

enum architecture_flag {
    ARCHITECTURE_EMBEDDING_SCALED = 1 << 0, /* embeddings are multiplied by the square root of their width */
    ARCHITECTURE_WINDOW_FIXED = 1 << 1,     /* attention.sliding_window says that layers slide, not how far */
    ARCHITECTURE_QUERY_GATED = 1 << 2,      /* attn_q holds a query and an output gate for each head */
    ARCHITECTURE_LATENT = 1 << 3,           /* MLA in every layer */
    ARCHITECTURE_RECURRENT = 1 << 4,        /* all layers but every full_attention_interval-th are recurrent */
    ARCHITECTURE_RECURRENT_HEADS_TILED = 1
                                         << 5, /* value head v reads key head v % key heads, else v / (values / keys) */
    ARCHITECTURE_LOCAL_ROPE = 1 << 6,          /* sliding layers have a rope base of their own and no scaling */
    ARCHITECTURE_QK_NORM_AFTER_ROPE = 1 << 7,
    ARCHITECTURE_VALUE_NORM = 1 << 9,          /* values are normed; without a matrix of their own they are the keys */
    ARCHITECTURE_ATTENTION_UNSCALED = 1 << 10, /* unless attention.scale says */
    ARCHITECTURE_ENCODER = 1 << 11,            /* every token sees all of its text; there is no output matrix */
    ARCHITECTURE_LAYER_NORM = 1 << 12, /* norms subtract the mean, unless the file has the epsilon of the other kind */
    ARCHITECTURE_NORMS_OF_SUMS = 1 << 13, /* norms of the residual stream after each addition, none before */
    ARCHITECTURE_FFN_UNGATED = 1 << 14,   /* dense feed forward of two matrices */
    ARCHITECTURE_CHUNKED = 1 << 15,       /* layers with positions see only their chunk; the others sharpen queries */
    ARCHITECTURE_QK_NORM_PLAIN = 1 << 16, /* queries and keys with positions are normed after rope, no weights */
    ARCHITECTURE_EXPERT_INPUT_WEIGHED = 1 << 17, /* an expert's weight multiplies its input, not its output */
    ARCHITECTURE_PARALLEL = 1 << 18, /* attention and feed forward read the same rows, unless a norm separates them */
    ARCHITECTURE_LOGITS_SCALED = 1 << 19,     /* logit_scale multiplies logits, where others divide by it */
    ARCHITECTURE_WINDOWS_TURN = 1 << 20,      /* layers without a window have no positions */
    ARCHITECTURE_SHARED_CLAMPED = 1 << 21,    /* shared experts too, where the routed ones are */
    ARCHITECTURE_LEADING_TURN = 1 << 22,      /* but leading dense layers have positions */
    ARCHITECTURE_LOCAL_ROPE_SCALED = 1 << 23, /* sliding layers may have their own rope base, scaled like the other */
    ARCHITECTURE_ROTARY_HALF = 1 << 24,       /* in layers without a window, half of rope.dimension_count gets rope */
    ARCHITECTURE_SCALE_STRETCHED = 1 << 25,   /* YaRN's factor is in the scale of MLA as a whole */
    ARCHITECTURE_DENSE_SQUARE = 1 << 26,      /* the dense feed forward is as wide as the embedding */
    ARCHITECTURE_PREDICTS_UNNORMED =
        1 << 27,                        /* a prediction block continues from its residual stream, not from its norm */
    ARCHITECTURE_SCAN_BESIDE = 1 << 28, /* a scan in parallel to attention in every layer */
    ARCHITECTURE_ROPE_FINETUNED = 1 << 29, /* no positions where rope.scaling.finetuned is false */
    ARCHITECTURE_ONE_BRANCH =
        1 << 30, /* a layer is either a mixer or, if it has a feed_forward_length, a feed forward */
    ARCHITECTURE_NORMS_BEHIND = 1 << 8 /* norms follow attention and feed forward; none precede them */
};

/* A tensor with another name than in other architectures. */
struct tensor_alias {
    const char *name;
    enum tensor_role role;
};
#define ARCHITECTURE_ALIASES 4

/* The file says for each layer whether it slides, and must do so. */
#define WINDOWS_LISTED UINT32_MAX
/* All layers slide, as far as the file says. */
#define WINDOWS_EVERYWHERE (UINT32_MAX - 1)

/* Values for files that do not say; 0: none. */
struct architecture_factors {
    float logits;                        /* logit_scale */
    float attention, attention_soft_cap; /* attention.output_scale, attn_logit_softcapping */
};

/* A row of the architecture table: what cannot be read from the metadata. Where a tensor is optional (biases, norms of
 * queries and keys, shared experts) its presence in the file decides, not the row. */
struct architecture {
    const char *name; /* general.architecture */
    const char *title;
    enum rope_style rope;
    enum ffn_activation activation;
    enum router_gate router_gate; /* unless expert_gating_func says */
    bool router_normalise;        /* unless expert_weights_norm says */
    struct tensor_alias aliases[ARCHITECTURE_ALIASES];
    enum attention_gate attention_gate;
    enum mixture_input mixture_input;
    float mixture_scale;             /* of the sum of experts and what is computed in parallel; 0: none */
    uint32_t window_pattern;         /* of n layers the last sees everything, the others a window; 0: no windows */
    bool window_first;               /* the first of them sees everything, not the last */
    uint32_t window;                 /* its width, unless attention.sliding_window says; 0: no window then */
    uint32_t window_layers;          /* only a model of this many layers has windows; 0: any */
    float alibi;                     /* the greatest exponent of ALiBi's slopes; 0: no ALiBi */
    bool classifier_gelu;            /* a classifier uses GELU instead of tanh, unless the file says */
    enum pooling classifier_pooling; /* its pooling, unless the file says; POOLING_UNSAID: the first or last row */
    float rope_base_local;           /* of layers with a window, unless rope.freq_base_swa says; 0: the same base */
    float yarn_beta_fast;            /* unless rope.scaling.yarn_beta_fast says; 0: 32 */
    uint32_t no_rope_interval;       /* every n-th layer has no positions; 0: all have */
    /* Constants of the model's original program, which its files do not hold; 0: none. */
    float embedding_scale;   /* embeddings are multiplied by it */
    float residual_depth;    /* branches are multiplied by it and divided by the square root of the number of layers */
    float output_soft_cap;   /* of logits, unless final_logit_softcapping says */
    uint32_t own_key_layers; /* later layers read the keys of those before, unless attention.shared_kv_layers says */
    uint32_t sides;          /* residual streams next to the first one (Gemma 3n) */
    float logits_width;      /* logits are multiplied by it and divided by the embedding's width */
    enum decay_style decay;  /* of delta nets */
    enum layer_kind
        keyless; /* the kind of layers whose attention.head_count_kv is 0; LAYER_ATTENTION: there are none */
    uint32_t wide_scale_layers; /* a model of this many layers scales attention by embedding / heads, not key size */
    struct architecture_factors factors;
    enum yarn_style yarn;
    bool one_key; /* LAYER_ONE_KEY everywhere, by attention.compress_ratios */
    enum index_kind index;
    enum rope_style index_rope; /* of its queries and keys */
    bool index_turns_last;      /* rope applies to their last elements, not the first */
    bool index_shared;          /* attention.indexer.types says which layers have one */
    float index_epsilon;        /* of the norm of its keys; negative: as for other norms */
    bool delta_gate_sigmoid; /* a delta net's output gate is a sigmoid, not SiLU; epsilon is inside the root of lengths
                              */
    uint32_t flags;
};

struct model;

/* Opens a GGUF file and interprets it. The error for an unsupported architecture names it and lists the supported ones;
 * for a missing tensor or a wrong shape it names the tensor, what was found and what was expected. */
hypura_status model_open(struct model **out, const char *path, hypura_error *error);

/* The same, with the file's first prediction block as layer number "layers", if there is one that is supported.
 * Otherwise the model is as model_open opens it, and model_prediction_problem says what is wrong with the block; NULL:
 * nothing is, or there is none. */
hypura_status model_open_predicting(struct model **out, const char *path, hypura_error *error);

/* The same for a file that may be incomplete (gguf_open_partial). */
hypura_status model_open_partial(struct model **out, const char *path, bool predicting, hypura_error *error);
const char *model_prediction_problem(const struct model *model);
void model_close(struct model *model);

const struct gguf *model_file(const struct model *model);

/* general.name, or the file's name without folder and ending; cleaned (text_clean). */
const char *model_name(const struct model *model);
const struct architecture *model_architecture(const struct model *model);
const struct model_parameters *model_parameters(const struct model *model);
const struct model_layer *model_layer(const struct model *model, uint32_t layer); /* NULL: there is none */
unit_number model_tensor(const struct model *model,
                         enum tensor_role role); /* of the whole model; NO_UNIT where absent */
unit_number model_scale(const struct model *model, enum tensor_role role); /* the scale of such a matrix; likewise */

/* The role that a tensor of this name ("blk.3.attn_q.weight") has in this model; layer -1: of the whole model. */
bool model_tensor_role(const struct model *model, const char *name, int32_t *layer, enum tensor_role *role);

uint32_t model_unit_count(const struct model *model);
const struct unit *model_unit(const struct model *model, unit_number unit);
uint64_t model_bytes(const struct model *model); /* of all units */

/* Whether the output matrix is the token embedding. */
bool model_tied_output(const struct model *model);

/* ---- experts in their own file -------------------------------------------------------------------------------------
 *
 * tools/optimize.h writes a GGUF file of the type "experts". It has a tensor "blk.N.experts" per layer, with one record
 * per expert: its slices, one after another. Records begin at pages. Its metadata names its source: the model's files
 * with their sizes and times, and for each layer the place of the slices and the expert of each record. */

#define EXPERT_FILE_TYPE "experts"
#define EXPERT_FILE_ENDING ".experts" /* appended to the name of the model's first file, next to which it is found */
#define EXPERT_FILE_VERSION 1u
#define EXPERT_FILE_ALIGNMENT 4096u
#define EXPERT_FILE_TENSOR "blk.%u.experts"    /* I8, a record times experts */
#define EXPERT_FILE_ORDER "experts.order.%u"   /* uint32[experts]: the expert of each record */
#define EXPERT_FILE_SLICES "experts.slices.%u" /* uint64[3 * slices]: file, offset, bytes for all experts together */
#define EXPERT_FILE_VERSION_KEY "experts.version"
#define EXPERT_FILE_MODEL "experts.model"       /* the path of the model's first file, absolute */
#define EXPERT_FILE_SIZES "experts.model.sizes" /* uint64[files] */
#define EXPERT_FILE_TIMES "experts.model.times" /* uint64[files]: nanoseconds of the last change */

/* The offset of a slice in its expert's record; for slice_count, the size of the record. */
uint64_t expert_record_at(const struct unit *unit, uint32_t slice);

/* When a file was last changed, in the form that such a file stores. */
bool expert_file_time(const char *path, uint64_t *nanoseconds);

/* Reads experts from such a file, if there is one next to the model, or if model_open was given its path instead of the
 * model's. A file that was made from another model, or from an earlier version of this one, is ignored with a warning.
 */
void model_use_expert_file(struct model *model);
const char *model_expert_file(const struct model *model); /* NULL: none is used */

/* The files that hold the slices of units: the model's, then the one with experts. */
uint32_t model_path_count(const struct model *model);
const char *model_path_at(const struct model *model, uint32_t file);

/* Architectures in the table, for lists in error messages and reports. */
size_t architecture_count(void);
const struct architecture *architecture_at(size_t index);

#endif
