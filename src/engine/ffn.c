#include "engine/engine_private.h"

enum glu_kind feed_forward_glu(const struct model *model)
{
    switch (model_architecture(model)->activation) {
    case FFN_GELU:
        return GLU_GELU;
    case FFN_OAI:
        return GLU_OAI;
    case FFN_SILU:
        break;
    }
    return GLU_SILU;
}

/* Gate and up as two matrices, or as the halves of the up matrix (Phi 3). */
static hypura_status describe_gate(struct engine *engine, const struct model_layer *layer, enum tensor_role gate,
                                   enum tensor_role up, size_t width, struct product products[2], struct held *held,
                                   hypura_error *error)
{
    const float *up_bias = NULL;
    bool dense = up == ROLE_FFN_UP; /* only dense layers have biases here */
    products[0].role = gate;
    products[1].role = up;
    if (layer->tensors[gate] != NO_UNIT) {
        if (dense) {
            TRY(hold_vector(engine, held, layer->tensors[ROLE_FFN_GATE_BIAS], &products[0].job.bias, error));
            TRY(hold_vector(engine, held, layer->tensors[ROLE_FFN_UP_BIAS], &products[1].job.bias, error));
        }
        return HYPURA_OK;
    }
    if (dense)
        TRY(hold_vector(engine, held, layer->tensors[ROLE_FFN_UP_BIAS], &up_bias, error));
    for (size_t i = 0; i < 2; i++) {
        products[i].role = up;
        products[i].first = i * width;
        products[i].rows = width;
        products[i].job.bias = up_bias ? up_bias + i * width : NULL;
    }
    return HYPURA_OK;
}

/* scratch.gate: what the down matrix reads. */
static hypura_status dense_inner(struct engine *engine, const struct model_layer *layer, enum tensor_role gate,
                                 enum tensor_role up, size_t width, struct held *held, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    struct product products[2] = {0};
    TRY(describe_gate(engine, layer, gate, up, width, products, held, error));
    for (int i = 0; i < 2; i++) {
        products[i].unit = layer->tensors[products[i].role];
        products[i].job.input = s->input;
        products[i].job.tokens = engine->rows;
        products[i].job.output = i == 0 ? s->gate : s->up;
        products[i].job.output_stride = width;
    }
    TRY(multiply(engine, layer, products, 2, error));
    compute_glu(engine->compute, feed_forward_glu(engine->model), s->gate, width, s->gate, width, s->up, width,
                engine->rows, width, OAI_ALPHA, OAI_LIMIT);
    return HYPURA_OK;
}

/* The same where there is no gate: one matrix, and a function of each element. */
static hypura_status ungated_inner(struct engine *engine, const struct model_layer *layer, size_t width,
                                   struct held *held, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    struct product product = {
        .unit = layer->tensors[ROLE_FFN_UP],
        .role = ROLE_FFN_UP,
        .job = {.input = s->input, .tokens = engine->rows, .output = s->gate, .output_stride = width}};
    TRY(hold_vector(engine, held, layer->tensors[ROLE_FFN_UP_BIAS], &product.job.bias, error));
    TRY(multiply(engine, layer, &product, 1, error));
    compute_function(engine->compute, FUNCTION_GELU, s->gate, engine->rows * width);
    return HYPURA_OK;
}

static hypura_status dense_steps(struct engine *engine, const struct model_layer *layer, enum tensor_role gate,
                                 enum tensor_role up, enum tensor_role down, size_t width, float *out,
                                 struct held *held, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    if (model_architecture(engine->model)->flags & ARCHITECTURE_FFN_UNGATED)
        TRY(ungated_inner(engine, layer, width, held, error));
    else
        TRY(dense_inner(engine, layer, gate, up, width, held, error));
    release(engine, held);

    struct product product = {
        .unit = layer->tensors[down], .role = down, .job = {.input = s->inner, .tokens = engine->rows, .output = out}};
    if (down == ROLE_FFN_DOWN)
        TRY(hold_vector(engine, held, layer->tensors[ROLE_FFN_DOWN_BIAS], &product.job.bias, error));
    activation_set(s->inner, s->gate, engine->rows, width, width);
    return multiply(engine, layer, &product, 1, error);
}

hypura_status dense_feed_forward(struct engine *engine, const struct model_layer *layer, enum tensor_role gate,
                                 enum tensor_role up, enum tensor_role down, size_t width, float *out,
                                 hypura_error *error)
{
    struct held held = {0};
    hypura_status status = dense_steps(engine, layer, gate, up, down, width, out, &held, error);
    release(engine, &held);
    return status;
}

/* Some models multiply the whole residual stream by one learnt number (Gemma 4). */
static hypura_status scale_layer(struct engine *engine, const struct model_layer *layer, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    struct held held = {0};
    const float *factor;
    hypura_status status = hold_vector(engine, &held, layer->tensors[ROLE_LAYER_SCALE], &factor, error);
    if (!status && factor)
        compute_scale(engine->compute, s->hidden, s->hidden, *factor,
                      engine->rows * model_parameters(engine->model)->embedding);
    release(engine, &held);
    return status;
}

hypura_status feed_forward_layer(struct engine *engine, uint32_t number, hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    struct scratch *s = &engine->scratch;
    TRY(set_input(engine, layer, ROLE_FFN_NORM, error));
    if (layer->moe)
        TRY(moe_feed_forward(engine, number, error));
    else
        TRY(dense_feed_forward(engine, layer, ROLE_FFN_GATE, ROLE_FFN_UP, ROLE_FFN_DOWN, layer->feed_forward, s->branch,
                               error));
    TRY(add_branch(engine, layer->tensors[ROLE_FFN_POST_NORM], error));
    TRY(norm_sum(engine, layer->tensors[ROLE_FFN_SUM_NORM], layer->tensors[ROLE_FFN_SUM_NORM_BIAS], error));
    TRY(scale_layer(engine, layer, error));
    return guess_ahead(engine, number, error);
}
