/* Gemma 3n: further residual streams, which predict and correct what a layer does (alternating updates, Baykal et al.,
 * 2023), a low-rank product parallel to attention, and a row per layer for each token. */
#include "steps/steps_private.h"

#include <math.h>

#define HALF_ROOT 0.70710678118654752f

static void add_rows_of(struct builder *b, enum step_buffer to, enum step_buffer from)
{
    add_step(b, STEP_ADD)->add = (struct step_add){.to = to, .from = from, .scale = 1.0f};
}

static void add_scale(struct builder *b, enum step_buffer buffer, float by)
{
    add_step(b, STEP_SCALE)->scale = (struct step_scale){.buffer = buffer, .factor = NO_UNIT, .by = by};
}

/* ---- a row per layer for each token --------------------------------------------------------------------------------
 *
 * A row of a table for the token's id, plus a normed product of its embedding; token_width floats per layer. */

void make_token_rows(struct builder *b)
{
    const struct model_parameters *p = b->p;
    const uint32_t all = p->layers * p->token_width;
    if (unit_of(b, ROLE_LAYERS_PROJECTION) == NO_UNIT)
        return;
    add_step(b, STEP_LOOK_UP)->look_up = (struct step_look_up){.table = unit_of(b, ROLE_TABLE),
                                                               .out = BUFFER_LOOKED_UP,
                                                               .rows = 1,
                                                               .width = all,
                                                               .scale = sqrtf((float)p->token_width) * HALF_ROOT};
    add_matrix(b, add_multiply(b, BUFFER_HIDDEN, p->embedding), ROLE_LAYERS_PROJECTION, BUFFER_TOKEN);
    struct step_norm *norm =
        &add_groups_norm(b, BUFFER_TOKEN, BUFFER_TOKEN, unit_of(b, ROLE_LAYERS_NORM), p->layers, p->token_width)->norm;
    norm->epsilon *= (float)p->embedding; /* because the product is divided by the root of the embedding's width */
    norm->scale = HALF_ROOT;
    add_step(b, STEP_ADD)->add =
        (struct step_add){.to = BUFFER_TOKEN, .from = BUFFER_LOOKED_UP, .scale = 1.0f, .width = all};
}

void make_token_input(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const uint32_t width = b->p->token_width;
    add_matrix(b, add_multiply(b, in, b->p->embedding), ROLE_TOKEN_GATE, BUFFER_GATE);
    add_step(b, STEP_GLU)->glu =
        (struct step_glu){.kind = GLU_GELU,
                          .gate = {BUFFER_GATE, 0, width},
                          .up = {BUFFER_TOKEN, (uint32_t)b->number * width, b->p->layers * width},
                          .out = BUFFER_GATE,
                          .groups = 1,
                          .width = width};
    add_matrix(b, add_multiply(b, BUFFER_GATE, width), ROLE_TOKEN_OUTPUT, out);
    add_norm(b, out, out, unit_of(b, ROLE_TOKEN_NORM), NO_UNIT);
}

/* ---- side streams --------------------------------------------------------------------------------------------------
 */

static struct step_sides sides_of(const struct builder *b, enum tensor_role coefficients)
{
    return (struct step_sides){.sides = BUFFER_SIDES,
                               .norm = unit_of(b, ROLE_SIDES_NORM),
                               .router = unit_of(b, ROLE_SIDES_ROUTER),
                               .coefficients = unit_of(b, coefficients),
                               .scale = NO_UNIT,
                               .count = b->p->sides,
                               .width = b->p->embedding,
                               .epsilon = b->p->norm_epsilon};
}

/* Each begins as a product of the embedding, scaled to its length. */
void make_sides(struct builder *b)
{
    if (!b->p->sides)
        return;
    add_matrix(b, add_multiply(b, BUFFER_HIDDEN, b->p->embedding), ROLE_SIDES, BUFFER_SIDES);
    add_step(b, STEP_MATCH)->match = (struct step_match){BUFFER_SIDES, BUFFER_HIDDEN, b->p->sides, b->p->embedding};
}

static void make_laurel(struct builder *b)
{
    add_matrix(b, add_multiply(b, BUFFER_NORMED, b->p->embedding), ROLE_LAUREL_DOWN, BUFFER_RAW);
    add_matrix(b, add_multiply(b, BUFFER_RAW, b->p->laurel), ROLE_LAUREL_UP, BUFFER_SIDE);
    add_norm(b, BUFFER_SIDE, BUFFER_SIDE, unit_of(b, ROLE_LAUREL_NORM), NO_UNIT);
    add_rows_of(b, BUFFER_SIDE, BUFFER_NORMED);
}

/* The layer computes on the first stream; its result corrects all of them. */
void make_side_layer(struct builder *b)
{
    add_step(b, STEP_PREDICT)->sides = sides_of(b, ROLE_SIDES_PREDICT);
    add_norm(b, BUFFER_HIDDEN, BUFFER_NORMED, unit_of(b, ROLE_ATTENTION_NORM), NO_UNIT);
    make_laurel(b);
    make_attention(b, BUFFER_NORMED, BUFFER_BRANCH);
    add_norm(b, BUFFER_BRANCH, BUFFER_BRANCH, unit_of(b, ROLE_ATTENTION_POST_NORM), NO_UNIT);
    add_rows_of(b, BUFFER_SIDE, BUFFER_BRANCH);
    add_rows_of(b, BUFFER_SIDE, BUFFER_HIDDEN);
    add_scale(b, BUFFER_SIDE, HALF_ROOT);
    b->part = PART_FEED_FORWARD;
    add_norm(b, BUFFER_SIDE, BUFFER_NORMED, unit_of(b, ROLE_FFN_NORM), NO_UNIT);
    make_feed_forward(b, BUFFER_NORMED, BUFFER_BRANCH);
    add_norm(b, BUFFER_BRANCH, BUFFER_BRANCH, unit_of(b, ROLE_FFN_POST_NORM), NO_UNIT);
    add_rows_of(b, BUFFER_BRANCH, BUFFER_SIDE);

    struct step_sides correct = sides_of(b, ROLE_SIDES_CORRECT);
    correct.from = BUFFER_BRANCH;
    correct.out = BUFFER_NORMED;
    correct.scale = unit_of(b, ROLE_SIDES_SCALE);
    add_step(b, STEP_CORRECT)->sides = correct;
    make_token_input(b, BUFFER_NORMED, BUFFER_BRANCH);
    add_step(b, STEP_ADD)->add =
        (struct step_add){.to = BUFFER_SIDES, .from = BUFFER_BRANCH, .scale = 1.0f, .copies = b->p->sides};
}

/* Products of the side streams, scaled to the length of the first stream, and the mean of all. */
void make_sides_end(struct builder *b)
{
    static const enum step_buffer places[] = {BUFFER_BRANCH, BUFFER_SIDE, BUFFER_RAW};
    const uint32_t e = b->p->embedding;
    const uint32_t sides = MIN(b->p->sides, (uint32_t)COUNT_OF(places));
    if (!sides)
        return;
    for (uint32_t i = 0; i < sides; i++) {
        struct step *product = add_multiply(b, BUFFER_SIDES, e);
        product->multiply.offset = i * e;
        product->multiply.stride = sides * e;
        add_matrix(b, product, ROLE_SIDES_BACK, places[i]);
        product->multiply.matrices[0].first = i * e;
        product->multiply.matrices[0].rows = e;
        add_step(b, STEP_MATCH)->match = (struct step_match){places[i], BUFFER_HIDDEN, 1, e};
    }
    for (uint32_t i = 0; i < sides; i++)
        add_rows_of(b, BUFFER_HIDDEN, places[i]);
    add_scale(b, BUFFER_HIDDEN, 1.0f / (float)(sides + 1));
}
