/* steps: what a transformer is, as a list.
 *
 * When a model is opened, what comes before its layers, each layer, what comes after them, and what is made of a whole
 * text's row become short lists of steps: plain data that says what is done, with which units, from which buffers into
 * which, and with which numbers. The list is made once, in one place (make.c, attention.c, feed_forward.c), from the
 * architecture's row, the parameters and the tensors that are there. Everything else reads it:
 *
 *   - engine/cpu carries it out with the functions of compute; engine/gpu records it, rewritten for a device by fuse.c,
 *     as commands;
 *   - the engine sizes its buffers by it (steps_widths) and finds the router of a later layer in it (steps_router);
 *   - the planner asks it what a unit is used for (step_units), an adapter which matrices it may change
 *     (steps_multiplies), and "hypura inspect --layers" prints it (step_describe).
 *
 * A step reads only what steps before it wrote. Rows of a batch never see each other but in STEP_INDEX, STEP_ATTEND,
 * STEP_ATTEND_LATENT and those that keep a state (step_state), through what the sequence keeps. No buffer but HIDDEN
 * and CHOSEN carries anything from one layer to the next.
 *
 * Adding a mechanism: a kind here with its struct, a function that makes it next to its kin, its row in describe.c and
 * in uses.c, one function in engine/cpu, and, for a GPU, one in engine/gpu and its row in steps_on_device.
 *
 * A list owns its memory and refers to units of its model by number. It is read-only once made; any thread may read it.
 */
#ifndef HYPURA_STEPS_H
#define HYPURA_STEPS_H

#include "compute/compute.h"
#include "model/model.h"

/* ---- buffers -------------------------------------------------------------------------------------------------------
 *
 * Each has a row of floats per token of the batch, adjacent, as wide as the widest step needs it (steps_widths). */

enum step_buffer {
    BUFFER_NONE,
    BUFFER_HIDDEN,   /* the residual stream, or several next to each other */
    BUFFER_NORMED,   /* what a mixer or a feed forward reads */
    BUFFER_BRANCH,   /* what it gives */
    BUFFER_SIDE,     /* what a second one gives: shared experts, or attention next to a feed forward */
    BUFFER_QUERY,    /* queries; of a delta net what the convolution gives */
    BUFFER_RAW,      /* projections yet to be taken apart */
    BUFFER_KEY,      /* keys, or latent rows for the cache */
    BUFFER_VALUE,    /* values; of a delta net the gate of its output */
    BUFFER_ATTENDED, /* what attention or a delta net gives; before it, queries of low rank */
    BUFFER_LATENTS,  /* latent rows that whole keys are made of */
    BUFFER_BETA,     /* of a delta net: how much of a value is written, per head */
    BUFFER_DECAY,    /* and how much of the state is kept; of a scan the steps */
    BUFFER_READING,  /* of a scan: what its states are read with */
    BUFFER_GATE,     /* the inner rows of a feed forward */
    BUFFER_UP,
    BUFFER_SHARE,        /* the weight of the shared experts, one float */
    BUFFER_COEFFICIENTS, /* how residual streams mix */
    BUFFER_LOOKED_UP,    /* rows of a table */
    BUFFER_INDEX_QUERY,  /* what looks for positions worth attention: queries */
    BUFFER_INDEX_KEY,    /* the key of a position */
    BUFFER_INDEX_WEIGHT, /* and how much each query counts */
    BUFFER_CHOSEN,       /* the positions found, as compute_attention reads them; later layers may read them too */
    BUFFER_BANK,         /* rows of the residual stream that later layers recall */
    BUFFER_TOKEN,        /* what each layer gets of the token by itself, from before the first layer on */
    BUFFER_SIDES,        /* residual streams next to the hidden one, one after another */
    BUFFER_LAST,         /* of a prediction block: the rows that it goes on from, there before its list begins */
    BUFFER_COUNT
};

const char *buffer_name(enum step_buffer buffer);

/* ---- kinds ---------------------------------------------------------------------------------------------------------
 */

enum step_kind {
    STEP_EMBED,         /* rows of the token embedding */
    STEP_LOOK_UP,       /* rows of a table that stays on the drive, by tokens or by hashes of them */
    STEP_ADD_ROWS,      /* adds learnt rows, by position or the first one */
    STEP_NORM,          /* brings rows to length 1, times weights, plus biases */
    STEP_MULTIPLY,      /* products of one buffer with matrices */
    STEP_HEADS,         /* norms, turns and sharpens heads of queries and keys; keys and values go to the cache */
    STEP_POOL,          /* keys of the next kind for several positions at once */
    STEP_INDEX,         /* chooses the positions that attention sees */
    STEP_SPREAD,        /* whole keys and values of heads from their projection and the latent row */
    STEP_ATTEND,        /* attention over the cache */
    STEP_ATTEND_LATENT, /* the same in the latent space: queries and results pass a matrix per head */
    STEP_CONVOLVE,      /* a short causal convolution over the sequence's state */
    STEP_SCAN,          /* a scan of state spaces over the sequence's state: Mamba 1 and 2 */
    STEP_DELTA_NET,     /* a gated delta net: convolution and recurrence over the sequence's state */
    STEP_COMPRESS,      /* blocks of positions become a row of the cache each */
    STEP_GLU,           /* activation of a gate, times what it lets through */
    STEP_FUNCTION,      /* a function of each element */
    STEP_ROUTE,         /* which experts each row wants, and with which weights; their reads begin */
    STEP_EXPERTS,       /* the chosen experts, in the order in which they arrive */
    STEP_MIX,           /* the weighted sum of what they gave, in the router's order */
    STEP_CHUNK_EXPERTS, /* the experts that groups of the chosen ones share, on what these gave */
    STEP_SCALE_ROWS,    /* rows of one buffer times the float of another */
    STEP_SCALE,         /* a buffer times one number */
    STEP_ADD,           /* adds a buffer, scaled, to another */
    STEP_RECALL,        /* the row at work and those kept before, weighed by their scores */
    STEP_GATHER,        /* residual streams become one row, and it is kept how they take a branch back */
    STEP_GATHER_GATED,  /* the same of normed streams, each element by a gate of its own */
    STEP_AGREE,         /* a value enters streams by how well keys match queries */
    STEP_SCATTER,       /* the branch goes back into the streams */
    STEP_PREDICT,       /* residual streams foresee what a layer will make of them */
    STEP_CORRECT,       /* and learn what it made of the first one */
    STEP_MATCH,         /* rows get the length of others */
    STEP_SPARSE,        /* gates below the mean and some standard deviations close */
    STEP_JOIN,          /* the rows of two buffers, each normed, next to one another */
    STEP_OUTPUT,        /* logits of the rows that are wanted */
    STEP_RESIDUAL,      /* in fused lists only: what stands between a branch and the next norm, in one */
    STEP_KINDS
};

/* What a step belongs to: in which order units earn their place in memory. */
enum step_part { PART_INPUT, PART_ATTENTION, PART_FEED_FORWARD, PART_SHARED, PART_EXPERTS, PART_OUTPUT };

struct step_embed {
    unit_number unit;
    uint32_t copies; /* residual streams that all begin with the row */
    float scale;
};

/* The rows follow from the token ids alone, so that they are asked for when the pass begins; here they are waited for.
 */
struct step_look_up {
    unit_number table;
    enum step_buffer out;
    uint32_t rows, width;              /* of a token, one after another; floats of each */
    const struct model_ngrams *ngrams; /* NULL: the row of the token's id */
    float scale;
};

struct step_add_rows {
    unit_number unit;
    bool by_position; /* else the first row, for every token */
};

/* Each token's row is "groups" groups of width floats, which are normed one by one. */
struct step_norm {
    enum step_buffer in, out;
    unit_number weight, bias; /* NO_UNIT: none */
    uint32_t groups, width;
    bool each;    /* each group has weights of its own */
    bool centred; /* the mean is taken off first: a layer norm */
    float epsilon;
    float scale; /* the result is multiplied by it; 1: not */
};

/* One product: rows of a matrix (all of them, or a part) with the input, into a buffer of its own. */
struct step_matrix {
    unit_number unit, bias; /* bias NO_UNIT: none */
    enum tensor_role role;  /* adapters know it by this */
    enum step_buffer out;
    uint32_t first, rows; /* of the unit's rows, and of the bias likewise */
};

#define STEP_MATRICES 4
#define STEP_GROUPS 32

struct step_multiply {
    enum step_buffer in;
    uint32_t columns, stride; /* of the input's rows */
    uint32_t offset;          /* of the first column */
    /* 1, or a number of groups: then there is one matrix, and each group of its rows meets its own group of the input's
     * columns only. */
    uint32_t groups; /* at most STEP_GROUPS */
    uint32_t count;
    struct step_matrix matrices[STEP_MATRICES];
    /* In fused lists only: */
    unit_number norm; /* the input is normed by it first; NO_UNIT: not */
    float epsilon;
    bool adds;  /* the product is added to what is there */
    bool gates; /* of the first two the gated activation is left in the first one's place */
    enum glu_kind glu;
    float alpha, limit;
};

/* Heads of one buffer. Of a head the first "normed" elements are normed, those from "turned" on turn. */
struct step_head {
    enum step_buffer buffer; /* BUFFER_NONE: there are none */
    uint32_t heads, size;
    uint32_t normed, turned;
    unit_number norm;    /* NO_UNIT: not normed */
    uint32_t norm_width; /* of one norm: normed, or all heads as one row */
    bool norm_each;      /* with weights of its own for each head */
};

struct step_heads {
    struct step_head query, key;
    enum step_buffer raw;    /* queries stand there, each with its gate behind it; BUFFER_NONE: in query */
    enum step_buffer value;  /* BUFFER_NONE: none, or a prefix of the keys */
    uint32_t value_size;     /* of a head */
    bool values_are_keys;    /* before these are normed and turned */
    bool value_norm;         /* values are normed, without weights */
    bool centred;            /* norms of heads take the mean off */
    float clamp;             /* most of an element, before all else; 0: none */
    bool turns, turns_first; /* heads turn by their position; before the norms */
    bool back;               /* they turn the other way round */
    bool plain_norm;         /* queries and keys are normed at the end, without weights */
    bool sharpened;          /* queries grow with the logarithm of their position */
    bool stores;             /* keys, and values, go to the layer's cache */
    uint32_t plane;          /* 0; else keys go to this further plane of it */
    bool local;              /* which of the two rope tables */
    enum rope_layout layout;
    uint32_t rotary;
    float epsilon;
};

/* The undivided projection of latent attention: of each head plain + value_size floats in "in". */
struct step_spread {
    enum step_buffer in, latents, key, value;
    uint32_t heads, plain, rotary, value_size, rank;
};

/* Of each block of "every" positions the mean of their rows becomes a key: normed, turned as its first position, stored
 * in a plane of the layer's cache. The sum of an unfinished block is the state. */
struct step_pool {
    enum step_buffer in, out; /* out: where one key is made, size + rotary floats */
    uint32_t plane, every, size, rotary;
    unit_number norm;
    enum rope_layout layout;
    float epsilon;
};

/* What compute_index does with the keys in a plane of the layer's cache. */
struct step_index {
    enum step_buffer query, weights, out; /* weights BUFFER_NONE: all 1 */
    uint32_t plane;
    uint32_t heads, size;
    bool by_head;
    uint32_t every, block, local, most;
    bool tail;
};

/* What of a row of chosen positions there is: sets, ids of a set at most, and positions of an id. */
struct step_choice {
    enum step_buffer buffer; /* BUFFER_NONE: attention sees everything */
    uint32_t sets, most, block;
    uint32_t all; /* tokens at positions below this chose all that they could */
};

struct step_attend {
    enum step_buffer query, out;
    struct step_choice chosen;
    uint32_t source; /* the layer whose cache is read */
    uint32_t heads, kv_heads, key_size, value_size;
    float scale, soft_cap; /* soft_cap 0: none */
    uint32_t window, chunk;
    uint32_t around;     /* of what it sees both ways: positions nearer than this; 0: all of them */
    float alibi;         /* as in struct attention; 0: none */
    uint32_t compressed; /* it also sees rows of the cache that stand for this many positions each; 0: there are none */
    bool bidirectional;
    unit_number sinks; /* NO_UNIT: none */
};

/* Queries of plain + rotary elements pass their head's key matrix (plain x rank) and meet the cache's rows, rank +
 * rotary wide; what comes back, rank wide, passes its head's value matrix (rank x value_size). */
struct step_attend_latent {
    enum step_buffer query, out;
    struct step_choice chosen;
    unit_number key_matrix, value_matrix;
    uint32_t heads, plain, rotary, rank, value_size;
    float scale;
    unit_number sinks; /* NO_UNIT: none */
    /* In fused lists only: queries are not turned yet. */
    bool turns;
    enum rope_layout layout;
};

/* compute.h (struct compression) says what it does; what comes of a block is normed, turned to the block's first
 * position and stored behind the layer's keys, or in a further plane of its cache. */
struct step_compress {
    enum step_buffer values, gates, out; /* gates BUFFER_NONE: the plain mean */
    unit_number bias, norm;              /* bias NO_UNIT: none */
    uint32_t size, every;
    bool overlaps;
    uint32_t plane; /* 0: behind the keys */
    uint32_t turned, rotary;
    enum rope_layout layout;
    float epsilon;
};

/* A part of each of a buffer's rows: groups of width floats, stride floats apart, the first at offset. */
struct step_rows {
    enum step_buffer buffer;
    uint32_t offset, stride;
};

/* Each channel of the input by itself; the output's channels are adjacent. */
struct step_convolve {
    struct step_rows in;
    enum step_buffer out;
    unit_number weights, bias; /* bias NO_UNIT: none */
    uint32_t groups, width, taps;
    uint32_t dilation; /* rows from tap to tap; 0 is 1 */
    bool silu;
};

/* compute.h says what a scan is. Rows of the input, and of what states are written and read with, are parts of rows
 * that are stride floats wide. */
struct step_scan {
    struct step_rows in, write, read;
    enum step_buffer steps, out; /* steps come without softplus, and get it there */
    unit_number step_bias;       /* NO_UNIT: none */
    unit_number rates, skip;
    uint32_t heads, groups, width, size;
    bool each; /* each element of a state has its rate; heads are 1 wide */
};

/* How a state's decay follows from what its projection gives: f, that and the bias. */
enum decay_kind {
    DECAY_OF_HEAD,    /* exp(rate softplus(f)), of a whole matrix */
    DECAY_OF_CHANNEL, /* the same of each row of a matrix */
    DECAY_BOUNDED     /* exp(bound sigmoid(|rate| f)), of each row */
};

struct step_delta_net {
    struct step_rows in[DELTA_PARTS];                    /* queries, keys, values */
    enum step_buffer convolved, gates, beta, decay, out; /* gates: beta and alpha together, or BUFFER_NONE */
    unit_number convolution[DELTA_PARTS];                /* NO_UNIT: it goes on in the one before */
    unit_number step_bias, decay_rate;
    uint32_t heads_k, heads_v, key_size, value_size, taps;
    bool tiled; /* value head h reads key head h % heads_k, else h / (heads_v / heads_k) */
    enum decay_kind kind;
    float bound;
    bool root_epsilon; /* epsilon is added to squares of lengths, else it is the least length */
    float epsilon;
};

struct step_glu {
    enum glu_kind kind;
    float alpha, limit; /* of kinds that have them */
    struct step_rows gate, up;
    enum step_buffer out; /* groups are adjacent there */
    uint32_t groups, width;
    bool gate_per_group; /* one float gates all of a group */
};

#define OAI_ALPHA 1.702f /* gpt-oss */
#define OAI_LIMIT 7.0f   /* likewise */

struct step_function {
    enum activation_function function;
    enum step_buffer buffer;
    uint32_t width;
    float scale; /* of what it is a function of; 0 is 1 */
};

/* How a router chooses. */
struct router_rule {
    uint32_t experts, used;
    uint32_t groups, groups_used; /* 0: experts are not grouped */
    uint32_t chunk_group;         /* experts that share one more; 0: none do */
    enum router_gate gate;
    bool normalise; /* chosen weights are divided by their sum */
    float scale;    /* then multiplied by this */
};

struct step_route {
    enum step_buffer in;
    unit_number router, bias;   /* bias NO_UNIT: none; likewise the next two */
    unit_number selection_bias; /* added for choosing only */
    unit_number table;          /* experts by token id; NO_UNIT: the router chooses, else it weighs only */
    unit_number expert_scales;  /* of what each expert gives */
    unit_number first;          /* unit of expert 0 */
    struct router_rule rule;
};

struct step_experts {
    enum step_buffer in;
    unit_number first; /* unit of expert 0 */
    unit_number gate_bias, up_bias, down_bias;
    uint32_t columns;      /* of what they read and give */
    uint32_t width;        /* inner */
    uint32_t gate_up_rows; /* gate and up are rows of one slice: twice width; 0: two slices */
    enum glu_kind glu;
    float alpha, limit; /* of kinds that have them */
    bool ungated;       /* one matrix gives the gate and what it lets through */
    bool alone;         /* there is no gate: the function of what that matrix gives, by itself */
    bool weighs_input;  /* an expert's weight multiplies what it reads, not what it gives */
    uint32_t used;
};

struct step_mix {
    enum step_buffer out;
    enum step_buffer side;  /* added last; BUFFER_NONE: nothing */
    enum step_buffer gates; /* in fused lists only: its rows' weights, before the sigmoid; BUFFER_NONE: none */
    uint32_t width;         /* of what experts give */
    uint32_t used;
    bool weighed; /* already, at the input */
    float scale;  /* of the whole sum; 1: not */
};

/* buffer += scale * the weighted sum of shared experts that read it; each choice's group names one, so that one may be
 * summed twice. Weights are the router's for the number of the group, divided by their sum. */
struct step_chunk_experts {
    enum step_buffer buffer, sum;
    unit_number gate, up, down; /* matrices of all of them */
    uint32_t experts, group;    /* how many there are; experts that share one */
    uint32_t used, width;
    enum glu_kind glu;
    float scale;
};

struct step_scale_rows {
    enum step_buffer buffer, by;
};

struct step_scale {
    enum step_buffer buffer;
    unit_number factor; /* NO_UNIT: by */
    float by;
};

struct step_add {
    enum step_buffer to, from;
    float scale;
    uint32_t width;  /* 0: that of the residual stream */
    uint32_t copies; /* rows of "to" next to each other that all get it; 0: one */
};

/* Alternating updates (Baykal et al., 2023): compute.h (struct side_streams) says it. */
struct step_sides {
    enum step_buffer sides;
    enum step_buffer from, out;                    /* of a correction: what the layer made; the first stream, scaled */
    unit_number norm, router, coefficients, scale; /* scale NO_UNIT: of a prediction */
    uint32_t count, width;
    float epsilon;
};

/* Each row has this many parts; each gets the length of the row "by". */
struct step_match {
    enum step_buffer rows, by;
    uint32_t parts, width;
};

struct step_sparse {
    enum step_buffer buffer;
    uint32_t width;
    float deviations;
};

/* The residual stream's row becomes number "kept" of the bank, which has room for so many; out is the mean of it and of
 * those before it, weighed by the softmax of their scores. */
struct step_recall {
    enum step_buffer row, bank, out;
    unit_number weight;
    uint32_t kept, room, width;
    float epsilon;
};

/* How residual streams mix: compute.h (struct stream_mixer) says it. Coefficients come from a product of all streams
 * of a token, and stay for the scatter of the same branch. */
struct step_gather {
    enum step_buffer streams, coefficients, out;
    unit_number scale, base;
    uint32_t count, width;
    bool returns; /* a scatter follows */
    uint32_t sinkhorn;
    float norm_epsilon, epsilon, back_epsilon, magnitude;
};

/* compute.h: struct gated_gather, struct stream_match. */
struct step_gather_gated {
    enum step_buffer streams, gates, inject, coefficients, out; /* inject BUFFER_NONE: no scatter follows */
    uint32_t count, width;
};

struct step_agree {
    enum step_buffer keys, queries, values, out;
    uint32_t count, width;
};

struct step_scatter {
    enum step_buffer streams, coefficients, from;
    uint32_t count, width;
    uint32_t sinkhorn;
};

/* out: the normed row of first, then that of second; each is width floats. */
struct step_join {
    enum step_buffer first, second, normed, out; /* normed: where one of them is made */
    unit_number first_norm, second_norm;
    uint32_t width;
    float epsilon;
};

struct step_output {
    enum step_buffer in;
    unit_number unit, bias;
    float scale, soft_cap; /* 1: none; 0: none */
};

/* The branch, or the sum of the experts, is normed by post_norm; to = (to + scale * branch) * layer_scale; out = norm
 * of that. Of the units any may be NO_UNIT, and then that part is left out. */
struct step_residual {
    enum step_buffer to, from, out; /* out BUFFER_NONE: no norm */
    bool mixes;                     /* the branch is the mix, else what is in from */
    struct step_mix mix;
    unit_number post_norm, layer_scale, norm;
    float scale, epsilon;
};

struct step {
    enum step_kind kind;
    enum step_part part;
    int32_t layer;          /* -1: before or after the layers */
    uint32_t reads, writes; /* bits by enum step_buffer */
    size_t state;           /* where its part of the layer's state begins, in floats */
    union {
        struct step_embed embed;
        struct step_look_up look_up;
        struct step_add_rows add_rows;
        struct step_norm norm;
        struct step_multiply multiply;
        struct step_heads heads;
        struct step_pool pool;
        struct step_index index;
        struct step_spread spread;
        struct step_attend attend;
        struct step_attend_latent attend_latent;
        struct step_convolve convolve;
        struct step_scan scan;
        struct step_compress compress;
        struct step_delta_net delta_net;
        struct step_glu glu;
        struct step_function function;
        struct step_route route;
        struct step_experts experts;
        struct step_mix mix;
        struct step_chunk_experts chunk_experts;
        struct step_scale_rows scale_rows;
        struct step_scale scale;
        struct step_add add;
        struct step_recall recall;
        struct step_gather gather;
        struct step_gather_gated gather_gated;
        struct step_agree agree;
        struct step_scatter scatter;
        struct step_sides sides;
        struct step_match match;
        struct step_sparse sparse;
        struct step_join join;
        struct step_output output;
        struct step_residual residual;
    };
};

/* ---- lists ---------------------------------------------------------------------------------------------------------
 */

struct step_list {
    const struct step *steps;
    size_t count;
};

struct steps;

/* The model must stay open. HYPURA_ERROR_UNSUPPORTED names a tensor that no step reads. */
hypura_status steps_make(struct steps **out, const struct model *model, hypura_error *error);
void steps_free(struct steps *steps);

struct step_list steps_before(const struct steps *steps);
struct step_list steps_of_layer(const struct steps *steps, uint32_t layer);

/* The block that predicts a further token, of a model that was opened with it (its layer number "layers"): from the
 * embeddings of tokens and the last rows before them to logits. No steps: there is none. It goes on from its own rows
 * in the buffer that it leaves them in. */
struct step_list steps_predicting(const struct steps *steps, enum step_buffer *left);
struct step_list steps_after(const struct steps *steps);
/* What an embedding model or a judge makes of the one row that a text was pooled to, which is in BUFFER_HIDDEN: a row
 * in BUFFER_BRANCH. Empty: nothing. */
struct step_list steps_pooled(const struct steps *steps);
struct step_list steps_all(const struct steps *steps);

/* [BUFFER_COUNT] floats per token that each buffer needs for a list; grows what is there. */
void steps_widths(struct step_list list, uint32_t embedding, size_t *widths);

/* The step of a kind in a list, or NULL. */
const struct step *steps_find(struct step_list list, enum step_kind kind);

/* The router of a layer and the steps that make what it reads from the residual stream; false: it has none that can be
 * asked before its layer is at work. */
#define STEP_ROUTER_STEPS 8
struct step_router {
    bool known;
    const struct step *steps[STEP_ROUTER_STEPS]; /* none where it reads the residual stream itself */
    uint32_t count;
    const struct step *route;
};
bool steps_router(const struct steps *steps, uint32_t layer, struct step_router *out);

/* The buffers that a step reads and writes, each with the width of its rows. */
#define STEP_TOUCHES 12
struct step_touch {
    enum step_buffer buffer;
    bool writes;
    size_t width;
};
size_t step_touches(const struct step *step, uint32_t embedding, struct step_touch out[STEP_TOUCHES]);
/* Words of a row of chosen positions. */
size_t step_choice_words(const struct step_choice *chosen);
bool step_reads(const struct step *step, enum step_buffer buffer);
bool step_writes(const struct step *step, enum step_buffer buffer);

/* Floats of a sequence's state that a step keeps from token to token; 0: none. Those of a layer's steps are adjacent.
 */
size_t step_state(const struct step *step);

/* Whether later tokens need what a step does with each row, for it writes what the sequence keeps. */
bool step_keeps(const struct step *step);

/* ---- fusing --------------------------------------------------------------------------------------------------------
 *
 * A device pays for each launch. So a list is rewritten for it, pattern by pattern (fuse.c), into one that says the
 * same in fewer steps: what stands between two mixers becomes STEP_RESIDUAL, a gate's activation joins its product, a
 * turn joins latent attention. For batches of few rows, where launches are all that counts, products also norm what
 * they read and add to what is there. */

/* The rewritten list, to be given back with memory_free; behind its last step stands one of kind STEP_KINDS. */
hypura_status steps_fuse(struct step_list list, bool few_rows, struct step **out, size_t *count, hypura_error *error);

/* ---- units ---------------------------------------------------------------------------------------------------------
 */

enum unit_use {
    USE_ROWS,    /* single rows of it are read */
    USE_TABLE,   /* likewise, and never more of it: it is far too large to be held */
    USE_VECTOR,  /* norms, biases and the like: small */
    USE_MATRIX,  /* a product takes its rows piece by piece */
    USE_WHOLE,   /* a product takes it whole */
    USE_ROUTER,  /* likewise, and every token waits for it */
    USE_TRIPLE,  /* a product takes it whole, and two more are held with it */
    USE_HEADS,   /* matrices of heads: two are held together */
    USE_BIASES,  /* biases of all experts of a layer: three are held together */
    USE_SEQUENCE /* read by a recurrence */
};

/* Each unit that a step reads, in the order of reading; not the experts, which the router chooses. */
#define STEP_UNITS 9
struct step_unit {
    unit_number unit;
    enum unit_use use;
    enum tensor_role role;
};
size_t step_units(const struct step *step, struct step_unit out[STEP_UNITS]);

/* Whether a product that adapters may change is made with the matrix of a role; layer -1: after the layers. */
bool steps_multiplies(const struct steps *steps, const struct model *model, int32_t layer, enum tensor_role role);

/* ---- for people ----------------------------------------------------------------------------------------------------
 */

const char *step_name(enum step_kind kind);

/* What a step does, as one line: "normed x q, k, v -> query, key, value". */
void step_describe(const struct step *step, char *text, size_t room);

#endif
