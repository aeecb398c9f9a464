/* steps (private): making the list. A builder holds the current layer; each function adds the steps of one mechanism.
 */
#ifndef HYPURA_STEPS_PRIVATE_H
#define HYPURA_STEPS_PRIVATE_H

#include "steps/steps.h"

struct part_of_list {
    size_t first, count;
};

struct steps {
    struct step *steps;
    size_t count;
    uint32_t layers;
    bool predicting;       /* another list follows those of the layers */
    enum step_buffer left; /* the buffer with its rows afterwards */
    struct part_of_list before, after, pooled, *of_layer;
    struct step_router *routers; /* [layers] */
};

struct builder {
    const struct model *model;
    const struct model_parameters *p;
    const struct architecture *architecture;
    const struct model_layer *layer; /* NULL: before or after the layers */
    int32_t number;
    enum step_part part;
    struct step *steps;
    size_t count, room;
    hypura_status status; /* the first failure; later steps are dropped */
    hypura_error *error;
};

/* A zeroed step at the end of the list. Fill it in before adding another. */
struct step *add_step(struct builder *b, enum step_kind kind);

/* The unit of a role in the current layer. */
unit_number unit_of(const struct builder *b, enum tensor_role role);

/* The scale of that matrix. */
unit_number scale_of(const struct builder *b, enum tensor_role role);

/* Frequent steps: norms of parts of each row, and of whole rows of the residual stream (none without a weight);
 * products, to which matrices are added by role, with their biases. */
struct step *add_groups_norm(struct builder *b, enum step_buffer in, enum step_buffer out, unit_number weight,
                             uint32_t groups, uint32_t width);
void add_norm(struct builder *b, enum step_buffer in, enum step_buffer out, unit_number weight, unit_number bias);
struct step *add_multiply(struct builder *b, enum step_buffer in, uint32_t columns);
void add_matrix(struct builder *b, struct step *step, enum tensor_role role, enum step_buffer out);
uint32_t unit_rows(const struct builder *b, unit_number unit);

/* streams.c: before a branch, mixes the streams into one row. add_residual ends every branch and adds it to the
 * streams, or to the only one. */
enum streams_of { STREAMS_OF_ATTENTION, STREAMS_OF_FFN, STREAMS_OF_OUTPUT };
void add_gather(struct builder *b, enum streams_of where, enum step_buffer out);
/* Adds a recall: the mean of the residual stream and "kept" earlier rows of it, weighted by scores. */
void add_recall(struct builder *b, enum tensor_role weight, uint32_t kept);
void make_ngrams(struct builder *b);
void add_residual(struct builder *b, enum step_buffer from, float scale);

/* uses.c: fills in the buffers that the step reads and writes. */
void note_buffers(struct step *step);

/* attention.c: from "in" to "out". */
void make_attention(struct builder *b, enum step_buffer in, enum step_buffer out);
void make_latent_attention(struct builder *b, enum step_buffer in, enum step_buffer out);
void make_delta_net(struct builder *b, enum step_buffer in, enum step_buffer out);
void make_channel_delta_net(struct builder *b, enum step_buffer in, enum step_buffer out);

/* sides.c: a row per layer for each token, and further residual streams (each: before the layers, in a layer, after
 * them). Nothing if the model has none. */
void make_token_rows(struct builder *b);
void make_token_input(struct builder *b, enum step_buffer in, enum step_buffer out);
void make_sides(struct builder *b);
void make_side_layer(struct builder *b);
void make_sides_end(struct builder *b);

/* index.c: the layer's indexer, if any, from the layer's input and, in MLA, from its low-rank queries; and the choice
 * that its attention reads. */
#define INDEX_PLANE 1
void make_index(struct builder *b, enum step_buffer in, enum step_buffer low);
struct step_choice choice_of_layer(const struct builder *b);

/* scan.c: from "in" to "out"; a scan of heads has its own buffer in between. */
void make_scan(struct builder *b, enum step_buffer in, enum step_buffer out);
void make_scan_of_heads(struct builder *b, enum step_buffer in, enum step_buffer own, enum step_buffer out);
void make_scan_between(struct builder *b, enum step_buffer in, enum step_buffer out);
void make_short_convolution(struct builder *b, enum step_buffer in, enum step_buffer out);

/* one_key.c: from "in" to "out". */
void make_one_key_attention(struct builder *b, enum step_buffer in, enum step_buffer out);

/* feed_forward.c: from "in" to "out"; make_early_route adds the part of a mixture that precedes attention. */
void make_early_route(struct builder *b);
void make_feed_forward(struct builder *b, enum step_buffer in, enum step_buffer out);

#endif
