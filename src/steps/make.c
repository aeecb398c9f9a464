/* The frame: what comes before the layers, a layer, what comes after them. */
#include "steps/steps_private.h"

static void make_before(struct builder *b)
{
    b->part = PART_INPUT;
    add_step(b, STEP_EMBED)->embed = (struct step_embed){
        .unit = unit_of(b, ROLE_TOKEN_EMBEDDING), .copies = b->p->streams, .scale = b->p->embedding_scale};
    static const enum tensor_role roles[] = {ROLE_TOKEN_TYPES, ROLE_POSITION_EMBEDDING};
    for (size_t i = 0; i < COUNT_OF(roles); i++)
        if (unit_of(b, roles[i]) != NO_UNIT)
            add_step(b, STEP_ADD_ROWS)->add_rows = (struct step_add_rows){
                .unit = unit_of(b, roles[i]), .by_position = roles[i] == ROLE_POSITION_EMBEDDING};
    add_norm(b, BUFFER_HIDDEN, BUFFER_HIDDEN, unit_of(b, ROLE_EMBEDDING_NORM), unit_of(b, ROLE_EMBEDDING_NORM_BIAS));
    make_token_rows(b);
    make_sides(b);
}

/* The input of a branch: the residual stream, or a mix of several streams, through a norm if the layer has one here. */
static enum step_buffer make_input(struct builder *b, enum streams_of where, enum tensor_role norm)
{
    enum step_buffer in = BUFFER_HIDDEN;
    if (b->p->streams > 1) {
        add_gather(b, where, BUFFER_NORMED);
        in = BUFFER_NORMED;
    }
    if (unit_of(b, norm) == NO_UNIT)
        return in;
    add_norm(b, in, BUFFER_NORMED, unit_of(b, norm), unit_of(b, norm + 1));
    return BUFFER_NORMED;
}

static void make_mixer(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    b->part = PART_ATTENTION;
    switch (b->layer->kind) {
    case LAYER_ATTENTION:
        make_attention(b, in, out);
        break;
    case LAYER_LATENT:
        make_latent_attention(b, in, out);
        break;
    case LAYER_ONE_KEY:
        make_one_key_attention(b, in, out);
        break;
    case LAYER_RECURRENT:
        if (b->architecture->decay != DECAY_BY_HEAD)
            make_channel_delta_net(b, in, out);
        else
            make_delta_net(b, in, out);
        break;
    case LAYER_SCAN:
        make_scan(b, in, out);
        break;
    case LAYER_SCAN_HEADS:
        make_scan_of_heads(b, in, BUFFER_ATTENDED, out);
        break;
    case LAYER_SCAN_BETWEEN:
        make_scan_between(b, in, out);
        break;
    case LAYER_CONVOLUTION:
        make_short_convolution(b, in, out);
        break;
    case LAYER_NO_MIXER:
        break;
    }
}

/* A layer that is either a mixer or a feed forward; the norm has the same name. */
static void make_branch(struct builder *b)
{
    enum step_buffer in = make_input(b, STREAMS_OF_ATTENTION, ROLE_ATTENTION_NORM);
    if (b->layer->kind == LAYER_NO_MIXER) {
        b->part = PART_FEED_FORWARD;
        make_feed_forward(b, in, BUFFER_BRANCH);
    } else {
        make_mixer(b, in, BUFFER_BRANCH);
    }
    add_residual(b, BUFFER_BRANCH, 1.0f);
}

/* Attention and feed forward read the same rows, and both are added to the residual stream: together, or attention
 * first if shared experts need BUFFER_SIDE. */
static void make_parallel_layer(struct builder *b)
{
    const bool own = unit_of(b, ROLE_ATTENTION_OWN_NORM) != NO_UNIT; /* Falcon 40B */
    const enum step_buffer attended = b->layer->moe ? BUFFER_BRANCH : BUFFER_SIDE;
    enum step_buffer in = make_input(b, STREAMS_OF_ATTENTION, own ? ROLE_ATTENTION_OWN_NORM : ROLE_ATTENTION_NORM);
    make_mixer(b, in, attended);
    if (attended == BUFFER_BRANCH)
        add_residual(b, attended, b->p->attention_value_scale);
    b->part = PART_FEED_FORWARD;
    if (own)
        in = make_input(b, STREAMS_OF_ATTENTION, ROLE_ATTENTION_NORM);
    make_feed_forward(b, in, BUFFER_BRANCH);
    add_residual(b, BUFFER_BRANCH, 1.0f);
    if (attended != BUFFER_BRANCH)
        add_residual(b, attended, b->p->attention_value_scale);
}

/* Adds attention's branch to the residual stream, which may be normed afterwards. With a second norm, the first one's
 * result is read only by that (Jina). */
static void add_attention(struct builder *b)
{
    const unit_number norm = unit_of(b, ROLE_ATTENTION_SUM_NORM), bias = unit_of(b, ROLE_ATTENTION_SUM_NORM_BIAS);
    const unit_number second = unit_of(b, ROLE_ATTENTION_SECOND_NORM);
    if (second == NO_UNIT) {
        add_residual(b, BUFFER_BRANCH, b->p->attention_value_scale);
        add_norm(b, BUFFER_HIDDEN, BUFFER_HIDDEN, norm, bias);
        return;
    }
    add_step(b, STEP_ADD)->add = (struct step_add){.to = BUFFER_BRANCH, .from = BUFFER_HIDDEN, .scale = 1.0f};
    add_norm(b, BUFFER_BRANCH, BUFFER_BRANCH, norm, bias);
    add_residual(b, BUFFER_BRANCH, 1.0f);
    add_norm(b, BUFFER_HIDDEN, BUFFER_HIDDEN, second, unit_of(b, ROLE_ATTENTION_SECOND_NORM_BIAS));
}

static void make_layer(struct builder *b)
{
    if (b->layer->ngrams)
        make_ngrams(b);
    make_early_route(b);
    make_mixer(b, make_input(b, STREAMS_OF_ATTENTION, ROLE_ATTENTION_NORM), BUFFER_BRANCH);
    add_norm(b, BUFFER_BRANCH, BUFFER_BRANCH, unit_of(b, ROLE_ATTENTION_POST_NORM), NO_UNIT);
    add_attention(b);

    b->part = PART_FEED_FORWARD;
    make_feed_forward(b, make_input(b, STREAMS_OF_FFN, ROLE_FFN_NORM), BUFFER_BRANCH);
    add_norm(b, BUFFER_BRANCH, BUFFER_BRANCH, unit_of(b, ROLE_FFN_POST_NORM), NO_UNIT);
    add_residual(b, BUFFER_BRANCH, 1.0f);
    add_norm(b, BUFFER_HIDDEN, BUFFER_HIDDEN, unit_of(b, ROLE_FFN_SUM_NORM), unit_of(b, ROLE_FFN_SUM_NORM_BIAS));
    if (unit_of(b, ROLE_TOKEN_GATE) != NO_UNIT) {
        make_token_input(b, BUFFER_HIDDEN, BUFFER_BRANCH);
        add_residual(b, BUFFER_BRANCH, 1.0f);
    }
    if (unit_of(b, ROLE_LAYER_SCALE) != NO_UNIT)
        add_step(b, STEP_SCALE)->scale =
            (struct step_scale){.buffer = BUFFER_HIDDEN, .factor = unit_of(b, ROLE_LAYER_SCALE)};
}

/* Kimi K3: a branch reads a mean of the residual stream and of its rows before each block of layers. Each block keeps
 * the row that it begins with, and its first mixer starts a new stream. */
static void make_recalling_layer(struct builder *b)
{
    const uint32_t block = b->p->residual_block, number = (uint32_t)b->number, kept = (number + block - 1) / block;
    const bool first = number % block == 0;
    add_recall(b, ROLE_ATTENTION_RESIDUAL_SCORE, kept);
    add_norm(b, BUFFER_BRANCH, BUFFER_NORMED, unit_of(b, ROLE_ATTENTION_NORM), unit_of(b, ROLE_ATTENTION_NORM_BIAS));
    make_mixer(b, BUFFER_NORMED, first ? BUFFER_HIDDEN : BUFFER_BRANCH);
    if (!first)
        add_residual(b, BUFFER_BRANCH, 1.0f);
    b->part = PART_FEED_FORWARD;
    add_recall(b, ROLE_FFN_RESIDUAL_SCORE, kept + first);
    add_norm(b, BUFFER_BRANCH, BUFFER_NORMED, unit_of(b, ROLE_FFN_NORM), unit_of(b, ROLE_FFN_NORM_BIAS));
    make_feed_forward(b, BUFFER_NORMED, BUFFER_BRANCH);
    add_residual(b, BUFFER_BRANCH, 1.0f);
}

static void make_after(struct builder *b)
{
    b->part = PART_OUTPUT;
    make_sides_end(b);
    enum step_buffer in = BUFFER_NORMED;
    if (b->p->residual_block) {
        add_recall(b, ROLE_OUTPUT_RESIDUAL_SCORE, (b->p->layers + b->p->residual_block - 1) / b->p->residual_block);
        add_norm(b, BUFFER_BRANCH, BUFFER_NORMED, unit_of(b, ROLE_OUTPUT_NORM), unit_of(b, ROLE_OUTPUT_NORM_BIAS));
    } else {
        in = make_input(b, STREAMS_OF_OUTPUT, ROLE_OUTPUT_NORM);
    }
    unit_number unit = unit_of(b, ROLE_OUTPUT);
    if (b->architecture->flags & ARCHITECTURE_ENCODER)
        return;
    add_step(b, STEP_OUTPUT)->output =
        (struct step_output){.in = in,
                             .unit = unit != NO_UNIT ? unit : unit_of(b, ROLE_TOKEN_EMBEDDING),
                             .bias = unit_of(b, ROLE_OUTPUT_BIAS),
                             .matrix_scale = scale_of(b, ROLE_OUTPUT),
                             .scale = b->p->output_scale,
                             .soft_cap = b->p->output_soft_cap};
}

/* The steps for a text's pooled row: two more matrices (Embedding Gemma), or a classifier: a matrix followed by a
 * function, and perhaps a norm and another matrix. */
static void make_pooled(struct builder *b)
{
    const uint32_t width = b->p->embedding;
    const unit_number classifier = unit_of(b, ROLE_CLASSIFIER), output = unit_of(b, ROLE_CLASSIFIER_OUTPUT);
    enum step_buffer in = BUFFER_HIDDEN;
    b->part = PART_OUTPUT;
    if (unit_of(b, ROLE_POOLED_UP) != NO_UNIT && unit_of(b, ROLE_POOLED_DOWN) != NO_UNIT) {
        add_matrix(b, add_multiply(b, BUFFER_HIDDEN, width), ROLE_POOLED_UP, BUFFER_GATE);
        add_matrix(b, add_multiply(b, BUFFER_GATE, b->p->pooled_width), ROLE_POOLED_DOWN, BUFFER_BRANCH);
    }
    if (!b->p->judges)
        return;
    if (classifier != NO_UNIT) {
        in = output == NO_UNIT ? BUFFER_BRANCH : BUFFER_SIDE;
        add_matrix(b, add_multiply(b, BUFFER_HIDDEN, width), ROLE_CLASSIFIER, in);
        add_step(b, STEP_FUNCTION)->function = (struct step_function){
            b->p->classifier_activation == FFN_GELU ? FUNCTION_GELU : FUNCTION_TANH, in, unit_rows(b, classifier)};
        add_norm(b, in, in, unit_of(b, ROLE_CLASSIFIER_NORM), NO_UNIT);
    }
    if (output != NO_UNIT)
        add_matrix(b, add_multiply(b, in, width), ROLE_CLASSIFIER_OUTPUT, BUFFER_BRANCH);
}

/* A prediction block's own unit, or the model's if they share it. */
static unit_number own_or(const struct builder *b, enum tensor_role own, enum tensor_role shared)
{
    return unit_of(b, own) != NO_UNIT ? unit_of(b, own) : model_tensor(b->model, shared);
}

/* A block that predicts a further token (DeepSeek V3, 2024): the next token's embedding and the last row before it,
 * both normed, become the residual stream of one more layer, which has a norm before the output. */
static void make_prediction(struct builder *b)
{
    const uint32_t e = b->p->embedding;
    b->part = PART_INPUT;
    add_step(b, STEP_EMBED)->embed =
        (struct step_embed){.unit = own_or(b, ROLE_PREDICTION_EMBEDDING, ROLE_TOKEN_EMBEDDING),
                            .copies = 1,
                            .scale = b->p->embedding_scale};
    b->part = PART_ATTENTION;
    add_step(b, STEP_JOIN)->join = (struct step_join){.first = BUFFER_HIDDEN,
                                                      .second = BUFFER_LAST,
                                                      .normed = BUFFER_NORMED,
                                                      .out = BUFFER_RAW,
                                                      .first_norm = unit_of(b, ROLE_PREDICTION_TOKEN_NORM),
                                                      .second_norm = unit_of(b, ROLE_PREDICTION_HIDDEN_NORM),
                                                      .width = e,
                                                      .epsilon = b->p->norm_epsilon};
    add_matrix(b, add_multiply(b, BUFFER_RAW, 2 * e), ROLE_PREDICTION_JOIN, BUFFER_HIDDEN);
    if ((b->architecture->flags & ARCHITECTURE_PARALLEL) && unit_of(b, ROLE_FFN_NORM) == NO_UNIT)
        make_parallel_layer(b);
    else
        make_layer(b);
    b->part = PART_OUTPUT;
    unit_number output = own_or(b, ROLE_PREDICTION_OUTPUT, ROLE_OUTPUT);
    add_norm(b, BUFFER_HIDDEN, BUFFER_NORMED, own_or(b, ROLE_PREDICTION_OUTPUT_NORM, ROLE_OUTPUT_NORM), NO_UNIT);
    add_step(b, STEP_OUTPUT)->output = (struct step_output){
        .in = BUFFER_NORMED,
        .unit = output != NO_UNIT ? output : model_tensor(b->model, ROLE_TOKEN_EMBEDDING),
        .bias = NO_UNIT,
        .matrix_scale = unit_of(b, ROLE_PREDICTION_OUTPUT) != NO_UNIT ? scale_of(b, ROLE_PREDICTION_OUTPUT)
                                                                      : model_scale(b->model, ROLE_OUTPUT),
        .scale = b->p->output_scale,
        .soft_cap = b->p->output_soft_cap};
}

/* Places the states of a layer's steps one after another. */
static void lay_states(struct step *steps, size_t count)
{
    size_t floats = 0;
    for (size_t i = 0; i < count; i++) {
        steps[i].state = floats;
        floats += step_state(&steps[i]);
    }
}

static void make_all(struct builder *b, struct steps *out)
{
    make_before(b);
    out->before = (struct part_of_list){0, b->count};
    for (uint32_t i = 0; i < out->layers; i++) {
        size_t first = b->count;
        b->number = (int32_t)i;
        b->layer = model_layer(b->model, i);
        b->part = PART_ATTENTION;
        if (b->p->sides)
            make_side_layer(b);
        else if ((b->architecture->flags & ARCHITECTURE_PARALLEL) && unit_of(b, ROLE_FFN_NORM) == NO_UNIT)
            make_parallel_layer(b);
        else if (b->p->residual_block)
            make_recalling_layer(b);
        else if (b->architecture->flags & ARCHITECTURE_ONE_BRANCH)
            make_branch(b);
        else
            make_layer(b);
        out->of_layer[i] = (struct part_of_list){first, b->count - first};
        lay_states(b->steps + first, b->count - first);
    }
    size_t first = b->count;
    b->number = -1;
    b->layer = NULL;
    make_after(b);
    out->after = (struct part_of_list){first, b->count - first};
    first = b->count;
    make_pooled(b);
    out->pooled = (struct part_of_list){first, b->count - first};
    if (b->p->predicting) {
        first = b->count;
        b->number = (int32_t)out->layers;
        b->layer = model_layer(b->model, out->layers);
        make_prediction(b);
        out->of_layer[out->layers] = (struct part_of_list){first, b->count - first};
        out->left = b->architecture->flags & ARCHITECTURE_PREDICTS_UNNORMED ? BUFFER_HIDDEN : BUFFER_NORMED;
    }
    for (size_t i = 0; i < b->count; i++)
        note_buffers(&b->steps[i]);
}

/* Ignoring a tensor of the file would silently change the answer. */
static hypura_status check_all_read(const struct steps *steps, const struct model *model, hypura_error *error)
{
    uint32_t units = model_unit_count(model);
    bool *read;
    hypura_status status = ALLOCATE(&read, units, "table of units", error);
    if (status)
        return status;
    for (size_t i = 0; i < steps->count; i++) {
        struct step_unit used[STEP_UNITS];
        size_t count = step_units(&steps->steps[i], used);
        for (size_t u = 0; u < count; u++)
            read[used[u].unit] = true;
    }
    for (unit_number u = 0; u < units && !status; u++) {
        const struct unit *unit = model_unit(model, u);
        bool factors = unit->role >= ROLE_ROPE_FACTORS && unit->role <= ROLE_ROPE_FACTORS_SHORT;
        if (!read[u] && !factors && unit->kind == UNIT_TENSOR)
            status = error_set(error, HYPURA_ERROR_UNSUPPORTED,
                               "%s: tensor '%s' is not used by this kind of layer of '%s' in hypura",
                               gguf_file_path(model_file(model), unit->slices[0].file),
                               unit->slices[0].tensor->name.data, model_architecture(model)->name);
    }
    memory_free(read);
    return status;
}

/* Kinds that may run ahead of their layer, because they depend only on their rows. A recall writes its own row of the
 * bank, which no step reads before that layer. */
static bool is_of_rows(enum step_kind kind)
{
    switch (kind) {
    case STEP_NORM:
    case STEP_MULTIPLY:
    case STEP_FUNCTION:
    case STEP_GATHER:
    case STEP_GATHER_GATED:
    case STEP_RECALL:
        return true;
    default:
        return false;
    }
}

/* From the route back to the residual stream: the steps that write what is read. */
static struct step_router find_router(struct step_list list)
{
    struct step_router router = {.route = steps_find(list, STEP_ROUTE)};
    if (!router.route || router.route->route.table != NO_UNIT)
        return router;
    const struct step *found[STEP_ROUTER_STEPS];
    const uint32_t there = 1u << BUFFER_HIDDEN | 1u << BUFFER_BANK;
    uint32_t count = 0, wanted = 1u << router.route->route.in & ~there;
    for (const struct step *step = router.route; wanted && step > list.steps;) {
        step--;
        if (!(step->writes & wanted))
            continue;
        if (!is_of_rows(step->kind) || count == STEP_ROUTER_STEPS || step_writes(step, BUFFER_HIDDEN))
            return router;
        found[count++] = step;
        wanted = ((wanted & ~step->writes) | step->reads) & ~there;
    }
    if (wanted)
        return router;
    router.known = true;
    for (router.count = 0; router.count < count; router.count++)
        router.steps[router.count] = found[count - 1 - router.count];
    return router;
}

hypura_status steps_make(struct steps **out, const struct model *model, hypura_error *error)
{
    struct steps *steps;
    *out = NULL;
    hypura_status status = ALLOCATE(&steps, 1, "list of steps", error);
    if (status)
        return status;
    struct builder b = {.model = model,
                        .p = model_parameters(model),
                        .architecture = model_architecture(model),
                        .number = -1,
                        .error = error};
    steps->layers = b.p->layers;
    steps->predicting = b.p->predicting;
    b.status = ALLOCATE(&steps->of_layer, steps->layers + b.p->predicting, "list of steps", error);
    if (!b.status)
        b.status = ALLOCATE(&steps->routers, steps->layers, "list of steps", error);
    if (!b.status)
        make_all(&b, steps);
    steps->steps = b.steps;
    steps->count = b.count;
    if (!b.status)
        b.status = check_all_read(steps, model, error);
    for (uint32_t i = 0; i < steps->layers && !b.status; i++)
        steps->routers[i] = find_router(steps_of_layer(steps, i));
    if (b.status)
        steps_free(steps);
    else
        *out = steps;
    return b.status;
}
