/* Several residual streams in the place of one. */
#include "steps/steps_private.h"

static const struct stream_roles {
    enum tensor_role matrix, scale, base;
} roles_of[] = {
    [STREAMS_OF_ATTENTION] = {ROLE_ATTENTION_STREAMS, ROLE_ATTENTION_STREAMS_SCALE, ROLE_ATTENTION_STREAMS_BASE},
    [STREAMS_OF_FFN] = {ROLE_FFN_STREAMS, ROLE_FFN_STREAMS_SCALE, ROLE_FFN_STREAMS_BASE},
    [STREAMS_OF_OUTPUT] = {ROLE_OUTPUT_STREAMS, ROLE_OUTPUT_STREAMS_SCALE, ROLE_OUTPUT_STREAMS_BASE},
};

void add_gather(struct builder *b, enum streams_of where, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    const struct stream_roles *roles = &roles_of[where];
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

void add_scatter(struct builder *b, enum step_buffer from)
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
