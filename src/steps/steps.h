/* steps: what a transformer is, as a list.
 *
 * When a model is opened, each layer, what comes before and after the layers, and what is computed from a
 * text's pooled row become short lists of steps: plain data that names the operation, its units, its input and output
 * buffers, and its numbers. The list is made once, in one place (make.c, attention.c, feed_forward.c), from the
 * architecture's row, the parameters and the tensors that are there. Everything else reads it:
 *
 *   - engine/cpu executes it with the functions of compute; engine/gpu records it as commands, after fuse.c has
 *     rewritten it for a device;
 *   - the engine sizes its buffers by it (steps_widths) and finds the routers of later layers in it (steps_router);
 *   - the planner asks it how a unit is used (step_units), and an adapter which matrices it may change
 *     (steps_multiplies);
 *   - "hypura inspect --layers" prints it (step_describe).
 *
 * A step reads only what earlier steps wrote. The rows of a batch are independent of each other, except in STEP_INDEX,
 * STEP_ATTEND, STEP_ATTEND_LATENT and the steps with a state (step_state), which read what the sequence keeps. Only the
 * buffers HIDDEN and CHOSEN carry values from one layer to the next.
 *
 * A new mechanism needs a kind and a struct here, a function that makes the step, a row in describe.c and in uses.c,
 * one function in engine/cpu, and, for a GPU, one in engine/gpu with a row in steps_on_device.
 *
 * A list owns its memory, and refers to the units of its model by number. It never changes; any thread may read it.
 */
#ifndef HYPURA_STEPS_H
#define HYPURA_STEPS_H

#include "compute/compute.h"
#include "model/model.h"

/* ---- buffers -------------------------------------------------------------------------------------------------------
 *
 * Each holds one row of floats per token of the batch. Rows are adjacent, and as wide as the widest step needs
 * (steps_widths). */

enum step_buffer {
    BUFFER_NONE,
    BUFFER_HIDDEN,   /* the residual stream, or several of them, adjacent */
    BUFFER_NORMED,   /* the input of a mixer or a feed forward */
    BUFFER_BRANCH,   /* its output */
    BUFFER_SIDE,     /* the output of a parallel one: shared experts, or attention next to a feed forward */
    BUFFER_QUERY,    /* queries; in a delta net, the convolution's output */
    BUFFER_RAW,      /* projections that are not yet split */
    BUFFER_KEY,      /* keys, or latent rows for the cache */
    BUFFER_VALUE,    /* values; in a delta net, the gate of its output */
    BUFFER_ATTENDED, /* the output of attention or a delta net; before that, low-rank queries */
    BUFFER_LATENTS,  /* latent rows from which whole keys are computed */
    BUFFER_BETA,     /* in a delta net: how much of a value is written, per head */
    BUFFER_DECAY,    /* how much of the state is kept; in a scan, the time steps */
    BUFFER_READING,  /* in a scan: what its states are read with */
    BUFFER_GATE,     /* the inner rows of a feed forward */
    BUFFER_UP,
    BUFFER_SHARE,        /* the weight of the shared experts, one float */
    BUFFER_COEFFICIENTS, /* how residual streams mix */
    BUFFER_LOOKED_UP,    /* rows of a table */
    BUFFER_INDEX_QUERY,  /* the indexer's queries */
    BUFFER_INDEX_KEY,    /* its key for a position */
    BUFFER_INDEX_WEIGHT, /* the weight of each of its queries */
    BUFFER_CHOSEN,       /* the positions it chose, as compute_attention reads them; later layers may reuse them */
    BUFFER_BANK,         /* rows of the residual stream that later layers recall */
    BUFFER_TOKEN,        /* each layer's own row for the token, filled before the first layer */
    BUFFER_SIDES,        /* further residual streams, one after another */
    BUFFER_LAST,         /* in a prediction block: the rows that it continues from, filled before its list begins */
    BUFFER_COUNT
};

const char *buffer_name(enum step_buffer buffer);

/* ---- kinds ---------------------------------------------------------------------------------------------------------
 */

enum step_kind {
    STEP_EMBED,         /* rows of the token embedding */
    STEP_LOOK_UP,       /* rows of a table that stays on the drive, by tokens or by hashes of them */
    STEP_ADD_ROWS,      /* adds learnt rows, by position or the first one */
    STEP_NORM,          /* normalises rows, times weights, plus biases */
    STEP_MULTIPLY,      /* products of one buffer with matrices */
    STEP_HEADS,         /* norms, rotates and sharpens query and key heads; keys and values go to the cache */
    STEP_POOL,          /* keys for STEP_INDEX, each of several positions */
    STEP_INDEX,         /* chooses the positions that attention sees */
    STEP_SPREAD,        /* computes whole keys and values from their projection and the latent row */
    STEP_ATTEND,        /* attention over the cache */
    STEP_ATTEND_LATENT, /* the same on latent rows: queries and results are multiplied by a matrix per head */
    STEP_CONVOLVE,      /* a short causal convolution over the sequence's state */
    STEP_SCAN,          /* a scan of state spaces over the sequence's state: Mamba 1 and 2 */
    STEP_DELTA_NET,     /* a gated delta net: convolution and recurrence over the sequence's state */
    STEP_COMPRESS,      /* turns each block of positions into one row of the cache */
    STEP_GLU,           /* the activation of a gate, times the up projection */
    STEP_FUNCTION,      /* a function of each element */
    STEP_ROUTE,         /* chooses experts and weights for each row; starts their reads */
    STEP_EXPERTS,       /* computes the chosen experts, in the order in which they arrive */
    STEP_MIX,           /* the weighted sum of their outputs, in the router's order */
    STEP_CHUNK_EXPERTS, /* experts that groups of the chosen ones share, applied to their outputs */
    STEP_SCALE_ROWS,    /* multiplies the rows of one buffer by the floats of another */
    STEP_SCALE,         /* multiplies a buffer by one number */
    STEP_ADD,           /* adds a buffer, scaled, to another */
    STEP_RECALL,        /* the mean of the current row and earlier ones, weighted by scores */
    STEP_GATHER,        /* mixes residual streams into one row, and keeps the coefficients for STEP_SCATTER */
    STEP_GATHER_GATED,  /* the same for normed streams, with a gate per element */
    STEP_AGREE,         /* adds a value to streams, scaled by how well keys match queries */
    STEP_SCATTER,       /* adds the branch to the streams */
    STEP_PREDICT,       /* predicts what a layer will make of residual streams */
    STEP_CORRECT,       /* corrects them by what it made of the first one */
    STEP_MATCH,         /* scales rows to the length of others */
    STEP_SPARSE,        /* closes gates that are less than some deviations above the mean */
    STEP_JOIN,          /* the rows of two buffers, each normed, concatenated */
    STEP_OUTPUT,        /* logits of the rows that are wanted */
    STEP_RESIDUAL,      /* in fused lists only: all that happens between a branch and the next norm */
    STEP_KINDS
};

/* The part of a layer that a step belongs to: units earn their place in memory in this order. */
enum step_part { PART_INPUT, PART_ATTENTION, PART_FEED_FORWARD, PART_SHARED, PART_EXPERTS, PART_OUTPUT };

struct step_embed {
    unit_number unit;
    uint32_t copies; /* residual streams, which all begin with this row */
    float scale;
};

/* The rows follow from the token ids alone. Their reads start when the pass begins; this step waits for them. */
struct step_look_up {
    unit_number table;
    enum step_buffer out;
    uint32_t rows, width;              /* rows per token, adjacent; floats per row */
    const struct model_ngrams *ngrams; /* NULL: the row with the token's id */
    float scale;
};

struct step_add_rows {
    unit_number unit;
    bool by_position; /* else the first row, for every token */
};

/* Each token's row consists of groups of width floats, which are normed one by one. */
struct step_norm {
    enum step_buffer in, out;
    unit_number weight, bias; /* NO_UNIT: none */
    uint32_t groups, width;
    bool each;    /* each group has its own weights */
    bool centred; /* subtracts the mean first: a layer norm */
    float epsilon;
    float scale; /* multiplies the result */
};

/* One product: some or all rows of a matrix, times the input, into a buffer. */
struct step_matrix {
    unit_number unit, bias; /* bias NO_UNIT: none */
    unit_number scale;      /* multiplies the product, before adapters and the bias add to it; NO_UNIT: none */
    enum tensor_role role;  /* adapters know it by this */
    enum step_buffer out;
    uint32_t first, rows; /* rows of the unit, and elements of the bias */
};

#define STEP_MATRICES 4
#define STEP_GROUPS 32

/* A norm of the input that a step applies itself. */
struct step_input_norm {
    unit_number weight; /* NO_UNIT: no norm */
    float epsilon;
};

struct step_multiply {
    enum step_buffer in;
    uint32_t columns, stride; /* of the input's rows */
    uint32_t offset;          /* of the first column */
    /* 1, or a number of groups. With groups there is one matrix, and each group of its rows is multiplied by its own
     * group of the input's columns. */
    uint32_t groups; /* at most STEP_GROUPS */
    uint32_t count;
    struct step_matrix matrices[STEP_MATRICES];
    /* In fused lists only: */
    struct step_input_norm norm;
    bool adds;  /* adds the product to the output buffer */
    bool gates; /* the gated activation of the first two products replaces the first */
    enum glu_kind glu;
    float alpha, limit;
};

/* Heads in one buffer. The first "normed" elements of a head are normed; those from "turned" on get rope. */
struct step_head {
    enum step_buffer buffer; /* BUFFER_NONE: there are none */
    uint32_t heads, size;
    uint32_t normed, turned;
    unit_number norm;    /* NO_UNIT: no norm */
    uint32_t norm_width; /* normed, or the width of all heads, which are normed as one row */
    bool norm_each;      /* each head has its own weights */
};

struct step_heads {
    struct step_head query, key;
    enum step_buffer raw;    /* holds each query followed by its gate; BUFFER_NONE: queries are in query */
    enum step_buffer value;  /* BUFFER_NONE: no values, or they are a prefix of the keys */
    uint32_t value_size;     /* per head */
    bool values_are_keys;    /* as they are before norm and rope */
    bool value_norm;         /* norms values, without weights */
    bool centred;            /* norms of heads subtract the mean */
    float clamp;             /* bounds each element, before all else; 0: no bound */
    bool turns, turns_first; /* applies rope; before the norms */
    bool back;               /* rotates backwards */
    bool plain_norm;         /* norms queries and keys at the end, without weights */
    bool sharpened;          /* scales queries with the logarithm of their position */
    bool stores;             /* stores keys and values in the layer's cache */
    uint32_t plane;          /* 0, or the plane of the cache that gets the keys */
    bool local;              /* uses the rope table of layers with a window */
    enum rope_layout layout;
    uint32_t rotary;
    float epsilon;
};

/* MLA with an undivided projection: "in" has plain + value_size floats per head. */
struct step_spread {
    enum step_buffer in, latents, key, value;
    uint32_t heads, plain, rotary, value_size, rank;
};

/* The mean of each block of "every" rows becomes a key: it is normed, gets the rope of the block's first position, and
 * is stored in a plane of the layer's cache. The sum of an unfinished block is the state. */
struct step_pool {
    enum step_buffer in, out; /* out: scratch for one key, size + rotary floats */
    uint32_t plane, every, size, rotary;
    unit_number norm;
    enum rope_layout layout;
    float epsilon;
};

/* compute_index on the keys in a plane of the layer's cache. */
struct step_index {
    enum step_buffer query, weights, out; /* weights BUFFER_NONE: all 1 */
    uint32_t plane;
    uint32_t heads, size;
    bool by_head;
    uint32_t every, block, local, most;
    bool tail;
};

/* The layout of a row of chosen positions: sets, most ids per set, and positions per id. */
struct step_choice {
    enum step_buffer buffer; /* BUFFER_NONE: attention sees everything */
    uint32_t sets, most, block;
    uint32_t all; /* tokens at positions below this chose every position */
};

struct step_attend {
    enum step_buffer query, out;
    struct step_choice chosen;
    uint32_t source; /* the layer whose cache it reads */
    uint32_t heads, kv_heads, key_size, value_size;
    float scale, soft_cap; /* soft_cap 0: none */
    uint32_t window, chunk;
    uint32_t around;     /* with bidirectional: only positions nearer than this; 0: all */
    float alibi;         /* as in struct attention; 0: none */
    uint32_t compressed; /* also reads rows of the cache that represent this many positions each; 0: no such rows */
    bool bidirectional;
    unit_number sinks; /* NO_UNIT: none */
};

/* A query has plain + rotary elements. Its plain part is multiplied by its head's key matrix (plain x rank), which
 * makes it as wide as a row of the cache, rank + rotary. The result, rank wide, is multiplied by its head's value
 * matrix (rank x value_size). */
struct step_attend_latent {
    enum step_buffer query, out;
    struct step_choice chosen;
    unit_number key_matrix, value_matrix;
    uint32_t heads, plain, rotary, rank, value_size;
    float scale;
    unit_number sinks; /* NO_UNIT: none */
    /* In fused lists only: queries have no rope yet. */
    bool turns;
    enum rope_layout layout;
};

/* See struct compression in compute.h. The row of a block is normed, gets the rope of the block's first position, and
 * is stored after the layer's keys, or in another plane of its cache. */
struct step_compress {
    enum step_buffer values, gates, out; /* gates BUFFER_NONE: the plain mean */
    unit_number bias, norm;              /* bias NO_UNIT: none */
    uint32_t size, every;
    bool overlaps;
    uint32_t plane; /* 0: after the keys */
    uint32_t turned, rotary;
    enum rope_layout layout;
    float epsilon;
};

/* A part of each of a buffer's rows: groups of width floats, stride floats apart, the first at offset. */
struct step_rows {
    enum step_buffer buffer;
    uint32_t offset, stride;
};

/* Channels are independent of each other; in the output they are adjacent. */
struct step_convolve {
    struct step_rows in;
    enum step_buffer out;
    unit_number weights, bias; /* bias NO_UNIT: none */
    uint32_t groups, width, taps;
    uint32_t dilation; /* rows from tap to tap; 0 is 1 */
    bool silu;
};

/* See compute.h for the scan. The input, and what states are written and read with, are parts of rows that are stride
 * floats wide. */
struct step_scan {
    struct step_rows in, write, read;
    enum step_buffer steps, out; /* this step applies softplus to steps */
    unit_number step_bias;       /* NO_UNIT: none */
    unit_number rates, skip;
    uint32_t heads, groups, width, size;
    bool each; /* each element of a state has its own rate; heads are 1 wide */
};

/* How a state decays; f is the projection's output plus the bias. */
enum decay_kind {
    DECAY_OF_HEAD,    /* exp(rate softplus(f)), for a whole matrix */
    DECAY_OF_CHANNEL, /* the same for each row of a matrix */
    DECAY_BOUNDED     /* exp(bound sigmoid(|rate| f)), for each row */
};

struct step_delta_net {
    struct step_rows in[DELTA_PARTS];                    /* queries, keys, values */
    enum step_buffer convolved, gates, beta, decay, out; /* gates: beta and alpha together, or BUFFER_NONE */
    unit_number convolution[DELTA_PARTS];                /* NO_UNIT: part of the one before */
    unit_number step_bias, decay_rate;
    uint32_t heads_k, heads_v, key_size, value_size, taps;
    bool tiled; /* value head h reads key head h % heads_k, else h / (heads_v / heads_k) */
    enum decay_kind kind;
    float bound;
    bool root_epsilon; /* epsilon is added to squared lengths; else it is the least length */
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
    float scale; /* multiplies the argument; 0 means 1 */
};

/* How a router chooses. */
struct router_rule {
    uint32_t experts, used;
    uint32_t groups, groups_used; /* 0: experts are not grouped */
    uint32_t chunk_group;         /* experts per shared one; 0: there is none */
    enum router_gate gate;
    bool normalise; /* chosen weights are divided by their sum */
    float scale;    /* then multiplied by this */
};

struct step_route {
    enum step_buffer in;
    unit_number router, bias;   /* bias, and the next two: NO_UNIT if absent */
    unit_number selection_bias; /* added for choosing only */
    unit_number table;          /* experts by token id, and the router only weights them; NO_UNIT: the router chooses */
    unit_number expert_scales;  /* factors of the experts' outputs */
    unit_number first;          /* unit of expert 0 */
    struct router_rule rule;
    struct step_input_norm norm; /* in fused lists only */
};

struct step_experts {
    enum step_buffer in;
    unit_number first; /* unit of expert 0 */
    unit_number gate_bias, up_bias, down_bias;
    unit_number gate_scale, up_scale, down_scale; /* as in struct step_matrix, one per expert */
    uint32_t columns;                             /* width of input and output */
    uint32_t width;                               /* inner width */
    uint32_t gate_up_rows;                        /* gate and up are rows of one slice: twice width; 0: two slices */
    enum glu_kind glu;
    float alpha, limit; /* of kinds that have them */
    bool ungated;       /* one matrix computes gate and up */
    bool alone;         /* no gate: only the activation of that matrix's output */
    bool weighs_input;  /* an expert's weight multiplies its input, not its output */
    uint32_t used;
    struct step_input_norm norm; /* in fused lists only */
};

struct step_mix {
    enum step_buffer out;
    enum step_buffer side;  /* added last; BUFFER_NONE: nothing */
    enum step_buffer gates; /* in fused lists only: weights of side's rows, before the sigmoid; BUFFER_NONE: none */
    uint32_t width;         /* of an expert's output */
    uint32_t used;
    bool weighed; /* the input was weighted already */
    float scale;  /* of the whole sum */
};

/* buffer += scale * the weighted sum of the shared experts' outputs, whose input is the same buffer. Each choice's
 * group names one, so an expert may be added twice. Its weight is the router's for the group's number, divided by their
 * sum. */
struct step_chunk_experts {
    enum step_buffer buffer, sum;
    unit_number gate, up, down; /* all experts' matrices */
    uint32_t experts, group;    /* how many there are; routed experts that share one */
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
    uint32_t width;  /* 0: the width of the residual stream */
    uint32_t copies; /* adjacent rows of "to", each of which gets it; 0 means 1 */
};

/* Alternating updates (Baykal et al., 2023): see struct side_streams in compute.h. */
struct step_sides {
    enum step_buffer sides;
    enum step_buffer from, out;                    /* in a correction: the layer's output; the first stream, scaled */
    unit_number norm, router, coefficients, scale; /* scale NO_UNIT: a prediction */
    uint32_t count, width;
    float epsilon;
};

/* A row has this many parts; each is scaled to the length of the row "by". */
struct step_match {
    enum step_buffer rows, by;
    uint32_t parts, width;
};

struct step_sparse {
    enum step_buffer buffer;
    uint32_t width;
    float deviations;
};

/* Stores the residual stream's row as number "kept" of the bank, which has room for "room" rows. out is the mean of
 * this row and the earlier ones, weighted by the softmax of their scores. */
struct step_recall {
    enum step_buffer row, bank, out;
    unit_number weight;
    uint32_t kept, room, width;
    float epsilon;
};

/* How residual streams mix: see struct stream_mixer in compute.h. A product of all streams of a token gives the
 * coefficients, which stay for the scatter of the same branch. */
struct step_gather {
    enum step_buffer streams, coefficients, out;
    unit_number scale, base;
    uint32_t count, width;
    bool returns; /* a scatter follows */
    uint32_t sinkhorn;
    float norm_epsilon, epsilon, back_epsilon, magnitude;
};

/* See struct gated_gather and struct stream_match in compute.h. */
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

/* out: the normed row of first, then the normed row of second, width floats each. */
struct step_join {
    enum step_buffer first, second, normed, out; /* normed: scratch for one of them */
    unit_number first_norm, second_norm;
    uint32_t width;
    float epsilon;
};

struct step_output {
    enum step_buffer in;
    unit_number unit, bias, matrix_scale;
    float scale, soft_cap; /* 1: none; 0: none */
};

/* post_norm norms the branch, or the sum of the experts; to = (to + scale * branch) * layer_scale; out = norm(to). A
 * unit that is NO_UNIT leaves its part out. */
struct step_residual {
    enum step_buffer to, from, out; /* out BUFFER_NONE: no norm */
    bool mixes;                     /* the branch is the mix; else it is in from */
    struct step_mix mix;
    unit_number post_norm, layer_scale, norm;
    float scale, epsilon;
};

struct step {
    enum step_kind kind;
    enum step_part part;
    int32_t layer;          /* -1: before or after the layers */
    uint32_t reads, writes; /* bits by enum step_buffer */
    size_t state;           /* offset of its part of the layer's state, in floats */
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

/* The block that predicts a further token, layer number "layers" of a model that was opened with it: from the
 * embeddings of tokens and the rows before them to logits. Empty if there is none. "left" is the buffer that holds its
 * rows afterwards, from which it continues. */
struct step_list steps_predicting(const struct steps *steps, enum step_buffer *left);
struct step_list steps_after(const struct steps *steps);
/* What an embedding model or a re-ranker computes from a text's pooled row: from BUFFER_HIDDEN to BUFFER_BRANCH. Empty
 * if nothing. */
struct step_list steps_pooled(const struct steps *steps);
struct step_list steps_all(const struct steps *steps);

/* Raises widths[BUFFER_COUNT] to the floats per token that the list needs in each buffer. */
void steps_widths(struct step_list list, uint32_t embedding, size_t *widths);

/* The step of a kind in a list, or NULL. */
const struct step *steps_find(struct step_list list, enum step_kind kind);

/* A layer's router, and the steps that compute its input from the residual stream. false: the layer has no router that
 * can be evaluated ahead. */
#define STEP_ROUTER_STEPS 8
struct step_router {
    bool known;
    const struct step *steps[STEP_ROUTER_STEPS]; /* none if it reads the residual stream itself */
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

/* Floats of a sequence's state that a step keeps from token to token; 0: none. The states of a layer's steps are
 * adjacent. */
size_t step_state(const struct step *step);

/* Whether a step writes what the sequence keeps, so that later tokens depend on every row. */
bool step_keeps(const struct step *step);

/* The number of steps in a layer's list after which its rows are independent of each other; all steps if they never
 * are. late_route: an earlier router that can be evaluated after them; NULL: none. */
size_t steps_split(struct step_list list, const struct step **late_route);

/* The number of steps, from this one on, that form a run: their results depend on rows and weights only, not on
 * sequences, positions or experts, and at least one of them is a product. 0: there is no run. */
size_t steps_run(struct step_list list, size_t from);

/* The number of steps that are left in the run that contains step "at". 0: it is in no run. *first: where the run
 * begins. */
size_t steps_run_left(struct step_list layer, size_t at, size_t *first);

/* The floats per row that a run, or a part of one, reads from before it and leaves for later steps, by buffer. layer:
 * the list of the whole layer. */
struct step_rows_of_run {
    size_t in[BUFFER_COUNT], out[BUFFER_COUNT];
    size_t in_width, out_width; /* of all together */
    uint32_t changed;           /* a bit per enum step_buffer: whether the run writes to it at all */
};
void steps_run_rows(struct step_list layer, size_t first, size_t count, uint32_t embedding,
                    struct step_rows_of_run *out);

/* ---- fusing --------------------------------------------------------------------------------------------------------
 *
 * Each launch costs a device time. So fuse.c rewrites a list for it, pattern by pattern, into an equivalent one with
 * fewer steps: all that happens between two mixers becomes STEP_RESIDUAL, a gate's activation joins its product, rope
 * joins MLA. For batches of few rows, where launches dominate, products, routers and experts also norm their input, and
 * products add to their output.
 */

/* The rewritten list, ended by a step of kind STEP_KINDS. Free it with memory_free. */
hypura_status steps_fuse(struct step_list list, bool few_rows, struct step **out, size_t *count, hypura_error *error);

/* ---- units ---------------------------------------------------------------------------------------------------------
 */

enum unit_use {
    USE_ROWS,    /* only single rows are read */
    USE_TABLE,   /* the same, and it is never loaded whole, because it is far too large */
    USE_VECTOR,  /* norms, biases and other small tensors */
    USE_MATRIX,  /* a product reads its rows piece by piece */
    USE_WHOLE,   /* a product needs it whole */
    USE_ROUTER,  /* the same, and every token waits for it */
    USE_TRIPLE,  /* a product needs it whole, together with two more */
    USE_HEADS,   /* matrices of heads: two are needed together */
    USE_BIASES,  /* biases of all experts of a layer: three are needed together */
    USE_SEQUENCE /* read by a recurrence */
};

/* The units that a step reads, in that order, except experts, which the router chooses. */
#define STEP_UNITS 13
struct step_unit {
    unit_number unit;
    enum unit_use use;
    enum tensor_role role;
};
size_t step_units(const struct step *step, struct step_unit out[STEP_UNITS]);

/* Whether a layer multiplies by the matrix of this role, so that an adapter may change it; layer -1: after the layers.
 */
bool steps_multiplies(const struct steps *steps, const struct model *model, int32_t layer, enum tensor_role role);

/* ---- for people ----------------------------------------------------------------------------------------------------
 */

const char *step_name(enum step_kind kind);

/* A step as one line: "normed x q, k, v -> query, key, value". */
void step_describe(const struct step *step, char *text, size_t room);

#endif
