/* Feed forwards: dense, or a mixture of experts. */
#include "steps/steps_private.h"

#include <math.h>

struct glu {
    enum glu_kind kind;
    float alpha, limit;
};

/* limit 0: none. */
static struct glu glu_of(const struct builder *b, float limit)
{
    switch (b->p->activation) {
    case FFN_GELU:
        return (struct glu){GLU_GELU, 0, 0};
    case FFN_OAI:
        return (struct glu){GLU_OAI, OAI_ALPHA, OAI_LIMIT};
    case FFN_RELU:
    case FFN_RELU_SQUARED: /* the row is its own gate */
        return (struct glu){GLU_RELU, 0, 0};
    case FFN_SITU:
        return (struct glu){GLU_SITU, b->p->situ_gate, b->p->situ_up};
    case FFN_SILU_CAPPED:
        return (struct glu){limit == 0.0f ? GLU_SILU : GLU_SILU_CAPPED, 0, limit};
    case FFN_SILU:
    case FFN_TANH:
        break;
    }
    return (struct glu){limit == 0.0f ? GLU_SILU : GLU_SILU_CLAMPED, 0, limit};
}

struct dense_roles {
    enum tensor_role gate, up, down;
    uint32_t width;
    float limit;
};

/* out = Wdown (activation(Wgate x) * Wup x). Gate and up are two matrices, or the halves of the up matrix (Phi 3). */
static void make_gated(struct builder *b, const struct dense_roles *roles, enum step_buffer in, enum step_buffer out)
{
    const uint32_t width = roles->width;
    const struct glu glu = glu_of(b, roles->limit);
    struct step *products = add_multiply(b, in, b->p->embedding);
    bool halves = unit_of(b, roles->gate) == NO_UNIT;
    add_matrix(b, products, halves ? roles->up : roles->gate, BUFFER_GATE);
    add_matrix(b, products, roles->up, BUFFER_UP);
    if (halves) {
        products->multiply.matrices[0].rows = products->multiply.matrices[1].rows = width;
        products->multiply.matrices[1].first = width;
    }
    if (b->layer->sparsity != 0.0f)
        add_step(b, STEP_SPARSE)->sparse = (struct step_sparse){BUFFER_GATE, width, b->layer->sparsity};
    add_step(b, STEP_GLU)->glu = (struct step_glu){.kind = glu.kind,
                                                   .alpha = glu.alpha,
                                                   .limit = glu.limit,
                                                   .gate = {BUFFER_GATE, 0, width},
                                                   .up = {BUFFER_UP, 0, width},
                                                   .out = BUFFER_GATE,
                                                   .groups = 1,
                                                   .width = width};
    add_matrix(b, add_multiply(b, BUFFER_GATE, width), roles->down, out);
}

/* out = Wdown function(Wup x). */
static void make_ungated(struct builder *b, const struct dense_roles *roles, enum step_buffer in, enum step_buffer out)
{
    add_matrix(b, add_multiply(b, in, b->p->embedding), roles->up, BUFFER_GATE);
    if (b->p->activation == FFN_RELU_SQUARED)
        add_step(b, STEP_GLU)->glu = (struct step_glu){.kind = GLU_RELU,
                                                       .gate = {BUFFER_GATE, 0, roles->width},
                                                       .up = {BUFFER_GATE, 0, roles->width},
                                                       .out = BUFFER_GATE,
                                                       .groups = 1,
                                                       .width = roles->width};
    else
        add_step(b, STEP_FUNCTION)->function = (struct step_function){FUNCTION_GELU, BUFFER_GATE, roles->width};
    add_matrix(b, add_multiply(b, BUFFER_GATE, roles->width), roles->down, out);
}

static void make_dense(struct builder *b, const struct dense_roles *roles, enum step_buffer in, enum step_buffer out)
{
    if (b->architecture->flags & ARCHITECTURE_FFN_UNGATED)
        make_ungated(b, roles, in, out);
    else
        make_gated(b, roles, in, out);
}

/* ---- mixtures ------------------------------------------------------------------------------------------------------
 */

/* Shared experts, which every token uses, while the chosen ones are being read. If they have their own router (Qwen),
 * its sigmoid weights them. */
static void make_shared(struct builder *b, enum step_buffer in)
{
    static const enum tensor_role router = ROLE_SHARED_ROUTER;
    const struct dense_roles roles = {ROLE_SHARED_GATE, ROLE_SHARED_UP, ROLE_SHARED_DOWN, b->p->shared_feed_forward,
                                      b->layer->shared_limit};
    bool weighed = unit_of(b, router) != NO_UNIT;
    b->part = PART_SHARED;
    if (weighed) {
        add_matrix(b, add_multiply(b, in, b->p->embedding), router, BUFFER_SHARE);
        add_step(b, STEP_FUNCTION)->function = (struct step_function){FUNCTION_SIGMOID, BUFFER_SHARE, 1};
    }
    make_dense(b, &roles, in, BUFFER_SIDE);
    if (weighed)
        add_step(b, STEP_SCALE_ROWS)->scale_rows = (struct step_scale_rows){BUFFER_SIDE, BUFFER_SHARE};
}

/* A router may read the residual stream through its own norm and scales (Gemma 4). */
static enum step_buffer make_router_input(struct builder *b, enum step_buffer in)
{
    unit_number scales = unit_of(b, ROLE_ROUTER_SCALE);
    if (scales == NO_UNIT)
        return in;
    add_groups_norm(b, BUFFER_HIDDEN, BUFFER_BRANCH, scales, 1, b->p->embedding)->norm.scale =
        1.0f / sqrtf((float)b->p->embedding);
    return BUFFER_BRANCH;
}

/* Gemma 4 counts the factors of its experts' outputs among the router's; else they are scales of matrices. */
static bool router_scales_experts(const struct builder *b)
{
    return unit_of(b, ROLE_ROUTER_SCALE) != NO_UNIT;
}

static void make_route(struct builder *b, enum step_buffer in)
{
    const struct model_parameters *p = b->p;
    const unit_number scales = router_scales_experts(b) ? unit_of(b, ROLE_EXPERT_SCALE) : NO_UNIT;
    add_step(b, STEP_ROUTE)->route = (struct step_route){.in = in,
                                                         .router = unit_of(b, ROLE_ROUTER),
                                                         .bias = unit_of(b, ROLE_ROUTER_BIAS),
                                                         .selection_bias = unit_of(b, ROLE_ROUTER_SELECTION_BIAS),
                                                         .table = unit_of(b, ROLE_ROUTER_TABLE),
                                                         .expert_scales = scales,
                                                         .first = b->layer->first_expert,
                                                         .rule = {.experts = p->experts,
                                                                  .used = p->experts_used,
                                                                  .groups = p->expert_groups,
                                                                  .groups_used = p->expert_groups_used,
                                                                  .chunk_group = p->chunk_group,
                                                                  .gate = p->router_gate,
                                                                  .normalise = p->router_normalise,
                                                                  .scale = p->router_scale},
                                                         .norm = {NO_UNIT, 0}};
}

static void make_experts(struct builder *b, enum step_buffer in)
{
    const struct unit *expert = model_unit(b->model, b->layer->first_expert);
    const struct glu glu = glu_of(b, b->layer->expert_limit);
    bool fused = expert->slices[0].role == ROLE_EXPERT_GATE_UP;
    bool ungated = b->architecture->flags & ARCHITECTURE_FFN_UNGATED;
    const unit_number together = scale_of(b, ROLE_EXPERT_GATE_UP);
    add_step(b, STEP_EXPERTS)->experts =
        (struct step_experts){.in = in,
                              .first = b->layer->first_expert,
                              .gate_bias = unit_of(b, ROLE_EXPERT_GATE_BIAS),
                              .up_bias = unit_of(b, ROLE_EXPERT_UP_BIAS),
                              .down_bias = unit_of(b, ROLE_EXPERT_DOWN_BIAS),
                              .gate_scale = fused ? together : scale_of(b, ROLE_EXPERT_GATE),
                              .up_scale = fused ? together : scale_of(b, ROLE_EXPERT_UP),
                              .down_scale = router_scales_experts(b) ? NO_UNIT : unit_of(b, ROLE_EXPERT_SCALE),
                              .columns = b->p->expert_columns,
                              .width = b->p->expert_feed_forward,
                              .gate_up_rows = fused ? 2 * b->p->expert_feed_forward : 0,
                              .glu = glu.kind,
                              .alpha = glu.alpha,
                              .limit = glu.limit,
                              .ungated = ungated,
                              .alone = ungated && b->p->activation == FFN_GELU,
                              .weighs_input = b->architecture->flags & ARCHITECTURE_EXPERT_INPUT_WEIGHED,
                              .used = b->p->experts_used,
                              .norm = {NO_UNIT, 0}};
}

/* If experts are chosen before attention, they are read while attention runs. Their own input rows are kept aside. */
void make_early_route(struct builder *b)
{
    const enum mixture_input reads = b->layer->moe ? b->architecture->mixture_input : MIXTURE_FEED_FORWARD;
    if (reads == MIXTURE_FEED_FORWARD)
        return;
    if (reads == MIXTURE_FIRST)
        add_norm(b, BUFFER_HIDDEN, BUFFER_SIDE, unit_of(b, ROLE_EXPERT_NORM), NO_UNIT);
    make_route(b, reads == MIXTURE_FIRST ? BUFFER_SIDE : BUFFER_HIDDEN);
}

static void add_mix(struct builder *b, enum step_buffer out, enum step_buffer side, float scale)
{
    b->part = PART_EXPERTS;
    add_step(b, STEP_MIX)->mix =
        (struct step_mix){.out = out,
                          .side = side,
                          .width = b->p->expert_columns,
                          .used = b->p->experts_used,
                          .weighed = b->architecture->flags & ARCHITECTURE_EXPERT_INPUT_WEIGHED,
                          .scale = scale};
}

static void add_chunk_experts(struct builder *b, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    if (unit_of(b, ROLE_CHUNK_DOWN) == NO_UNIT)
        return;
    const uint32_t experts = p->experts / p->chunk_group;
    add_step(b, STEP_CHUNK_EXPERTS)->chunk_experts = (struct step_chunk_experts){.buffer = out,
                                                                                 .sum = BUFFER_SIDE,
                                                                                 .gate = unit_of(b, ROLE_CHUNK_GATE),
                                                                                 .up = unit_of(b, ROLE_CHUNK_UP),
                                                                                 .down = unit_of(b, ROLE_CHUNK_DOWN),
                                                                                 .experts = experts,
                                                                                 .group = p->chunk_group,
                                                                                 .used = MIN(experts, p->experts_used),
                                                                                 .width = p->chunk_feed_forward,
                                                                                 .glu = GLU_SILU,
                                                                                 .scale = p->chunk_scale};
}

/* The dense feed forward, while experts are being read; then the experts, on the rows that were kept aside (Arctic). */
static void make_mixture_next_to_dense(struct builder *b, const struct dense_roles *dense, enum step_buffer in,
                                       enum step_buffer out)
{
    make_dense(b, dense, in, out);
    b->part = PART_EXPERTS;
    make_experts(b, BUFFER_SIDE);
    add_mix(b, BUFFER_SIDE, BUFFER_NONE, 1.0f);
    add_step(b, STEP_ADD)->add = (struct step_add){.to = out, .from = BUFFER_SIDE, .scale = 1.0f};
}

/* Projects the experts' rows from their own width back to that of the residual stream. */
static void make_wide(struct builder *b, enum step_buffer out)
{
    const uint32_t width = b->p->expert_columns;
    b->part = PART_SHARED;
    if (unit_of(b, ROLE_LATENT_NORM) != NO_UNIT)
        add_groups_norm(b, BUFFER_LATENTS, BUFFER_LATENTS, unit_of(b, ROLE_LATENT_NORM), 1, width);
    add_matrix(b, add_multiply(b, BUFFER_LATENTS, width), ROLE_LATENT_UP, out);
}

/* The router chooses. The shared experts, or a dense feed forward followed by its own norm (Gemma 4), run while the
 * chosen ones are being read. Then come these, and the sum of all. */
static void make_mixture(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const struct dense_roles dense = {ROLE_FFN_GATE, ROLE_FFN_UP, ROLE_FFN_DOWN, b->layer->feed_forward,
                                      b->layer->dense_limit};
    const unit_number dense_norm = unit_of(b, ROLE_FFN_DENSE_POST_NORM), norm = unit_of(b, ROLE_EXPERT_NORM);
    const unit_number post_norm = unit_of(b, ROLE_EXPERT_POST_NORM);
    const bool latent = unit_of(b, ROLE_LATENT_DOWN) != NO_UNIT;
    const bool beside = unit_of(b, ROLE_FFN_UP) != NO_UNIT, side = beside || b->p->shared_feed_forward;
    if (b->architecture->mixture_input == MIXTURE_FIRST) {
        make_mixture_next_to_dense(b, &dense, in, out);
        return;
    }
    if (b->architecture->mixture_input == MIXTURE_FEED_FORWARD)
        make_route(b, make_router_input(b, in));
    if (latent)
        add_matrix(b, add_multiply(b, in, b->p->embedding), ROLE_LATENT_DOWN, BUFFER_LATENTS);
    if (beside) {
        make_dense(b, &dense, in, BUFFER_SIDE);
        add_norm(b, BUFFER_SIDE, BUFFER_SIDE, dense_norm, NO_UNIT);
    } else if (side) {
        make_shared(b, in);
    }
    b->part = PART_EXPERTS;
    add_norm(b, BUFFER_HIDDEN, BUFFER_NORMED, norm, unit_of(b, ROLE_EXPERT_NORM_BIAS));
    make_experts(b, latent ? BUFFER_LATENTS : norm == NO_UNIT ? in : BUFFER_NORMED);
    add_mix(b, latent ? BUFFER_LATENTS : out, side && post_norm == NO_UNIT && !latent ? BUFFER_SIDE : BUFFER_NONE,
            side && !latent ? b->p->mixture_scale : 1.0f);
    if (latent)
        make_wide(b, out);
    add_chunk_experts(b, out);
    add_norm(b, out, out, post_norm, NO_UNIT);
    if (side && (post_norm != NO_UNIT || latent))
        add_step(b, STEP_ADD)->add = (struct step_add){.to = out, .from = BUFFER_SIDE, .scale = 1.0f};
}

void make_feed_forward(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const struct dense_roles dense = {ROLE_FFN_GATE, ROLE_FFN_UP, ROLE_FFN_DOWN, b->layer->feed_forward,
                                      b->layer->dense_limit};
    if (b->layer->moe)
        make_mixture(b, in, out);
    else
        make_dense(b, &dense, in, out);
}
