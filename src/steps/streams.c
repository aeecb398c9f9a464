/* Several residual streams instead of one. */
#include "steps/steps_private.h"

static const struct stream_roles {
    enum tensor_role matrix, scale, base;
} roles_of[] = {
    [STREAMS_OF_ATTENTION] = {ROLE_ATTENTION_STREAMS, ROLE_ATTENTION_STREAMS_SCALE, ROLE_ATTENTION_STREAMS_BASE},
    [STREAMS_OF_FFN] = {ROLE_FFN_STREAMS, ROLE_FFN_STREAMS_SCALE, ROLE_FFN_STREAMS_BASE},
    [STREAMS_OF_OUTPUT] = {ROLE_OUTPUT_STREAMS, ROLE_OUTPUT_STREAMS_SCALE, ROLE_OUTPUT_STREAMS_BASE},
};

static const enum tensor_role low_rank_of[] = {[STREAMS_OF_ATTENTION] = ROLE_ATTENTION_STREAMS_NORM,
                                               [STREAMS_OF_FFN] = ROLE_FFN_STREAMS_NORM,
                                               [STREAMS_OF_OUTPUT] = ROLE_OUTPUT_STREAMS_NORM};

/* Norms of streams, each with its own weights. */
static void add_streams_norm(struct builder *b, enum step_buffer in, enum step_buffer out, enum tensor_role role)
{
    add_groups_norm(b, in, out, unit_of(b, role), b->p->streams, b->p->embedding)->norm.each = true;
}

/* Normed streams are projected to a low rank and back, to a gate per element. */
static void add_low_rank_gather(struct builder *b, enum streams_of where, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    const uint32_t flat = p->streams * p->embedding;
    const bool returns = where != STREAMS_OF_OUTPUT;
    static const enum tensor_role ups[] = {ROLE_ATTENTION_STREAMS_UP, ROLE_FFN_STREAMS_UP, ROLE_OUTPUT_STREAMS_UP};
    static const enum tensor_role injects[] = {ROLE_ATTENTION_STREAMS_INJECT, ROLE_FFN_STREAMS_INJECT};
    add_streams_norm(b, BUFFER_HIDDEN, BUFFER_RAW, low_rank_of[where]);
    struct step *down = add_multiply(b, BUFFER_RAW, flat);
    add_matrix(b, down, low_rank_of[where] + 1, BUFFER_LATENTS);
    if (returns)
        add_matrix(b, down, injects[where], BUFFER_BETA);
    add_step(b, STEP_FUNCTION)->function =
        (struct step_function){FUNCTION_SILU, BUFFER_LATENTS, p->streams_rank, 1.0f / (float)p->streams};
    add_matrix(b, add_multiply(b, BUFFER_LATENTS, p->streams_rank), ups[where], BUFFER_QUERY);
    add_step(b, STEP_GATHER_GATED)->gather_gated =
        (struct step_gather_gated){.streams = BUFFER_RAW,
                                   .gates = BUFFER_QUERY,
                                   .inject = returns ? BUFFER_BETA : BUFFER_NONE,
                                   .coefficients = BUFFER_COEFFICIENTS,
                                   .out = out,
                                   .count = p->streams,
                                   .width = p->embedding};
}

/* Adds rows of a table of n-grams to each stream as far as they match it, and again after a short convolution. */
void make_ngrams(struct builder *b)
{
    const struct model_parameters *p = b->p;
    const struct model_ngrams *n = &p->ngrams;
    const uint32_t flat = p->streams * p->embedding, width = n->rows * p->table_width;
    b->part = PART_ATTENTION;
    add_step(b, STEP_LOOK_UP)->look_up = (struct step_look_up){.table = model_tensor(b->model, ROLE_TABLE),
                                                               .out = BUFFER_LOOKED_UP,
                                                               .rows = n->rows,
                                                               .width = p->table_width,
                                                               .ngrams = n,
                                                               .scale = 1.0f};
    struct step *products = add_multiply(b, BUFFER_LOOKED_UP, width);
    add_matrix(b, products, ROLE_NGRAM_KEY, BUFFER_KEY);
    add_matrix(b, products, ROLE_NGRAM_VALUE, BUFFER_VALUE);
    add_streams_norm(b, BUFFER_KEY, BUFFER_KEY, ROLE_NGRAM_KEY_NORM);
    add_streams_norm(b, BUFFER_HIDDEN, BUFFER_QUERY, ROLE_NGRAM_QUERY_NORM);
    add_step(b, STEP_AGREE)->agree = (struct step_agree){.keys = BUFFER_KEY,
                                                         .queries = BUFFER_QUERY,
                                                         .values = BUFFER_VALUE,
                                                         .out = BUFFER_ATTENDED,
                                                         .count = p->streams,
                                                         .width = p->embedding};
    add_streams_norm(b, BUFFER_ATTENDED, BUFFER_RAW, ROLE_NGRAM_CONVOLUTION_NORM);
    add_step(b, STEP_CONVOLVE)->convolve = (struct step_convolve){.in = {BUFFER_RAW, 0, flat},
                                                                  .out = BUFFER_QUERY,
                                                                  .weights = unit_of(b, ROLE_NGRAM_CONVOLUTION),
                                                                  .bias = NO_UNIT,
                                                                  .groups = 1,
                                                                  .width = flat,
                                                                  .taps = n->taps,
                                                                  .dilation = n->size,
                                                                  .silu = true};
    for (int i = 0; i < 2; i++)
        add_step(b, STEP_ADD)->add = (struct step_add){
            .to = BUFFER_HIDDEN, .from = i ? BUFFER_QUERY : BUFFER_ATTENDED, .width = flat, .scale = 1.0f};
}

void add_gather(struct builder *b, enum streams_of where, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    const struct stream_roles *roles = &roles_of[where];
    if (p->streams_rank) {
        add_low_rank_gather(b, where, out);
        return;
    }
    add_matrix(b, add_multiply(b, BUFFER_HIDDEN, p->streams * p->embedding), roles->matrix, BUFFER_COEFFICIENTS);
    add_step(b, STEP_GATHER)->gather = (struct step_gather){.streams = BUFFER_HIDDEN,
                                                            .coefficients = BUFFER_COEFFICIENTS,
                                                            .out = out,
                                                            .scale = unit_of(b, roles->scale),
                                                            .base = unit_of(b, roles->base),
                                                            .count = p->streams,
                                                            .width = p->embedding,
                                                            .returns = where != STREAMS_OF_OUTPUT,
                                                            .sinkhorn = p->streams_sinkhorn,
                                                            .norm_epsilon = p->norm_epsilon,
                                                            .epsilon = p->streams_epsilon,
                                                            .back_epsilon = p->streams_back_epsilon,
                                                            .magnitude = p->streams_magnitude};
}

static void add_scatter(struct builder *b, enum step_buffer from)
{
    add_step(b, STEP_SCATTER)->scatter = (struct step_scatter){.streams = BUFFER_HIDDEN,
                                                               .coefficients = BUFFER_COEFFICIENTS,
                                                               .from = from,
                                                               .count = b->p->streams,
                                                               .width = b->p->embedding,
                                                               .sinkhorn = b->p->streams_sinkhorn};
}

void add_recall(struct builder *b, enum tensor_role weight, uint32_t kept)
{
    const uint32_t room = (b->p->layers + b->p->residual_block - 1) / b->p->residual_block + 1;
    add_step(b, STEP_RECALL)->recall = (struct step_recall){.row = BUFFER_HIDDEN,
                                                            .bank = BUFFER_BANK,
                                                            .out = BUFFER_BRANCH,
                                                            .weight = unit_of(b, weight),
                                                            .kept = kept,
                                                            .room = room,
                                                            .width = b->p->embedding,
                                                            .epsilon = b->p->norm_epsilon};
}

void add_residual(struct builder *b, enum step_buffer from, float scale)
{
    if (b->p->streams > 1) {
        add_scatter(b, from);
        return;
    }
    add_step(b, STEP_ADD)->add =
        (struct step_add){.to = BUFFER_HIDDEN, .from = from, .scale = scale * b->p->residual_scale};
}
