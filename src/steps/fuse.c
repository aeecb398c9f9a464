/* Rewrites a list for a device, with one function per pattern. Each marks the steps that it removes, and leaves an
 * equivalent list. */
#include "steps/steps_private.h"

struct list {
    struct step *steps;
    size_t count;
};

#define GONE STEP_KINDS

static void take_away(struct step *step)
{
    *step = (struct step){.kind = GONE, .layer = step->layer};
}

static void close_gaps(struct list *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++)
        if (list->steps[i].kind != GONE)
            list->steps[kept++] = list->steps[i];
    list->count = kept;
    for (size_t i = 0; i < kept; i++)
        note_buffers(&list->steps[i]);
}

static struct step *at(const struct list *list, size_t index)
{
    return index < list->count ? &list->steps[index] : NULL;
}

static bool is(const struct step *step, enum step_kind kind)
{
    return step && step->kind == kind;
}

/* Whether it adds one row to another, as wide as the residual stream. */
static bool is_addition(const struct step *step)
{
    return is(step, STEP_ADD) && step->add.width == 0 && step->add.copies <= 1;
}

/* Whether its products are scaled before anything else may be done with them. */
static bool is_scaled(const struct step *step)
{
    for (uint32_t i = 0; i < step->multiply.count; i++)
        if (step->multiply.matrices[i].scale != NO_UNIT)
            return true;
    return false;
}

/* Whether another kernel can include this norm: of whole rows, without a mean, with weights. */
static bool is_plain_norm(const struct step *step, enum step_buffer in)
{
    return is(step, STEP_NORM) && step->norm.in == in && !step->norm.centred && step->norm.bias == NO_UNIT &&
           step->norm.groups == 1 && step->norm.scale == 1.0f && step->norm.weight != NO_UNIT;
}

/* ---- shared experts' weights ----------------------------------------------------------------------------------------
 *
 * sigmoid(share); side *= share; mix ... + side   ->   mix ... + sigmoid(share) * side */

static void fuse_shares(struct list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        struct step *sigmoid = NULL, *scale = NULL;
        struct step *mix = &list->steps[i];
        if (!is(mix, STEP_MIX) || mix->mix.side == BUFFER_NONE)
            continue;
        for (size_t j = i; j-- > 0 && list->steps[j].layer == mix->layer && !sigmoid;) {
            struct step *step = &list->steps[j];
            if (is(step, STEP_SCALE_ROWS) && step->scale_rows.buffer == mix->mix.side)
                scale = step;
            else if (scale && is(step, STEP_FUNCTION) && step->function.function == FUNCTION_SIGMOID &&
                     step->function.buffer == scale->scale_rows.by)
                sigmoid = step;
        }
        if (!scale || !sigmoid)
            continue;
        mix->mix.gates = scale->scale_rows.by;
        take_away(scale);
        take_away(sigmoid);
    }
    close_gaps(list);
}

/* ---- rope of MLA's queries
 * -------------------------------------------------------------------------------------------
 *
 * heads (rope of queries); heads (keys); attend latent   ->   heads (keys); attend latent with rope */

static void fuse_turns(struct list *list)
{
    for (size_t i = 0; i + 2 < list->count; i++) {
        const struct step_heads *h = &list->steps[i].heads;
        struct step *attend = &list->steps[i + 2];
        if (!is(&list->steps[i], STEP_HEADS) || !is(attend, STEP_ATTEND_LATENT) || h->key.buffer != BUFFER_NONE ||
            h->query.norm != NO_UNIT || h->sharpened || !h->turns || h->local)
            continue;
        attend->attend_latent.turns = true;
        attend->attend_latent.layout = h->layout;
        take_away(&list->steps[i]);
    }
    close_gaps(list);
}

/* ---- gates ----------------------------------------------------------------------------------------------------------
 *
 * gate, up = x * two matrices; gate = activation(gate) * up   ->   one step */

static void fuse_gates(struct list *list)
{
    for (size_t i = 0; i + 1 < list->count; i++) {
        struct step *products = &list->steps[i], *glu = &list->steps[i + 1];
        struct step_multiply *m = &products->multiply;
        if (!is(products, STEP_MULTIPLY) || is_scaled(products) || !is(glu, STEP_GLU) || m->count != 2 ||
            glu->glu.groups != 1 || glu->glu.gate.buffer != m->matrices[0].out ||
            glu->glu.up.buffer != m->matrices[1].out || glu->glu.out != m->matrices[0].out || glu->glu.gate.offset ||
            glu->glu.up.offset)
            continue;
        m->gates = true;
        m->glu = glu->glu.kind;
        m->alpha = glu->glu.alpha;
        m->limit = glu->glu.limit;
        take_away(glu);
    }
    close_gaps(list);
}

/* ---- norms that products, routers and experts apply themselves ------------------------------------------------------
 *
 * y = norm(x); ... = y * matrices   ->   ... = norm(x) * matrices
 * and, if a single product and its addition precede the norm:
 * branch = ...; x += branch; y = norm(x); ...   ->   x += ...; ... = norm(x) * matrices */

/* The norm of a step that can norm its input, rows as wide as that; else NULL. *in: its input. */
static struct step_input_norm *own_norm(struct step *step, uint32_t width, enum step_buffer **in)
{
    switch (step->kind) {
    case STEP_MULTIPLY:
        *in = &step->multiply.in;
        return step->multiply.columns == width ? &step->multiply.norm : NULL;
    case STEP_ROUTE:
        *in = &step->route.in;
        return &step->route.norm;
    case STEP_EXPERTS:
        *in = &step->experts.in;
        return step->experts.columns == width ? &step->experts.norm : NULL;
    default:
        return NULL;
    }
}

/* Whether only steps that can norm their input read the norm's output, and x does not change before them. */
static bool readers_can_norm(const struct list *list, size_t norm)
{
    const struct step_norm *n = &list->steps[norm].norm;
    bool any = false, changed = false;
    for (size_t i = norm + 1; i < list->count; i++) {
        struct step *step = &list->steps[i];
        if (step_reads(step, n->out)) {
            enum step_buffer *in;
            const struct step_input_norm *own = own_norm(step, n->width, &in);
            if (!own || own->weight != NO_UNIT || changed)
                return false;
            any = true;
        }
        if (step_writes(step, n->out))
            return any;
        changed = changed || step_writes(step, n->in);
    }
    return any;
}

static void give_norm(struct list *list, size_t norm)
{
    const struct step_norm n = list->steps[norm].norm;
    take_away(&list->steps[norm]);
    for (size_t i = norm + 1; i < list->count; i++) {
        struct step *step = &list->steps[i];
        bool again = step_writes(step, n.out);
        if (step_reads(step, n.out)) {
            enum step_buffer *in = NULL;
            struct step_input_norm *own = own_norm(step, n.width, &in);
            if (own) { /* always: readers_can_norm */
                *own = (struct step_input_norm){n.weight, n.epsilon};
                *in = n.in;
            }
        }
        if (again)
            return;
    }
}

static bool is_single_product(const struct step *step, enum step_buffer out)
{
    return is(step, STEP_MULTIPLY) && step->multiply.count == 1 && step->multiply.matrices[0].out == out &&
           !is_scaled(step);
}

static void fuse_norms(struct list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        struct step *norm = &list->steps[i], *before = i ? &list->steps[i - 1] : NULL;
        struct step *product = i > 1 ? &list->steps[i - 2] : NULL;
        if (!is(norm, STEP_NORM) || !is_plain_norm(norm, norm->norm.in) || is(before, STEP_SCALE) ||
            !readers_can_norm(list, i))
            continue;
        bool sum = is_addition(before) && before->add.to == norm->norm.in;
        if (sum && (before->add.scale != 1.0f || !product || !is_single_product(product, before->add.from)))
            continue;
        if (sum) {
            product->multiply.matrices[0].out = before->add.to;
            product->multiply.adds = true;
            take_away(before);
        }
        give_norm(list, i);
    }
    close_gaps(list);
}

/* The same without a following norm. */
static void fuse_additions(struct list *list)
{
    for (size_t i = 0; i + 1 < list->count; i++) {
        struct step *product = &list->steps[i], *add = &list->steps[i + 1], *next = at(list, i + 2);
        if (!is_addition(add) || add->add.scale != 1.0f || !is_single_product(product, add->add.from) || next)
            continue;
        product->multiply.matrices[0].out = add->add.to;
        product->multiply.adds = true;
        take_away(add);
    }
    close_gaps(list);
}

/* ---- sums -----------------------------------------------------------------------------------------------------------
 *
 * branch = mix, or present already; branch = norm(branch); x += branch; x *= number; y = norm(x)   ->   residual */

static void rename_reads(struct list *list, size_t from, enum step_buffer old, enum step_buffer new)
{
    for (size_t i = from; i < list->count; i++) {
        struct step *step = &list->steps[i];
        if (is(step, STEP_NORM) && step->norm.in == old) {
            step->norm.in = new;
            if (step->norm.out != old)
                continue;
            step->norm.out = new;
        } else if (is(step, STEP_ADD) && step->add.from == old) {
            step->add.from = new;
        } else if (step_writes(step, old)) {
            return;
        }
    }
}

static void fuse_sums(struct list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        size_t next = i;
        const bool mixes = is(at(list, next), STEP_MIX);
        const struct step *first = &list->steps[i], *post = NULL;
        const enum step_buffer branch = mixes                                                       ? first->mix.out
                                        : is_addition(first)                                        ? first->add.from
                                        : is(first, STEP_NORM) && first->norm.in == first->norm.out ? first->norm.in
                                                                                                    : BUFFER_NONE;
        if (branch == BUFFER_NONE)
            continue;
        next += mixes;
        if (is_plain_norm(at(list, next), branch) && list->steps[next].norm.out == branch)
            post = &list->steps[next++];
        const struct step *add = at(list, next++);
        if (!is_addition(add))
            continue;
        struct step_residual residual = {.from = branch,
                                         .out = BUFFER_NONE,
                                         .mixes = mixes,
                                         .post_norm = post ? post->norm.weight : NO_UNIT,
                                         .layer_scale = NO_UNIT,
                                         .norm = NO_UNIT,
                                         .scale = add->add.scale,
                                         .epsilon = post ? post->norm.epsilon : 0.0f};
        if (mixes)
            residual.mix = first->mix;
        if (mixes && post)
            residual.epsilon /=
                first->mix.scale * first->mix.scale; /* the norm of a scaled sum equals that of the sum */
        else if (mixes)
            residual.scale *= first->mix.scale;
        residual.mix.scale = 1.0f;
        if (add->add.from == branch) {
            residual.to = add->add.to;
        } else if (add->add.to == branch && mixes) {
            /* Addition commutes: the experts' sum may be added to the other operand. */
            residual.to = add->add.from;
            rename_reads(list, next, branch, residual.to);
        } else {
            continue;
        }
        if (is(at(list, next), STEP_SCALE) && list->steps[next].scale.buffer == residual.to &&
            list->steps[next].scale.factor != NO_UNIT)
            residual.layer_scale = list->steps[next++].scale.factor;
        if (is_plain_norm(at(list, next), residual.to) && list->steps[next].norm.out != residual.to &&
            (!post || list->steps[next].norm.epsilon == residual.epsilon)) {
            const struct step *norm = &list->steps[next++];
            residual.norm = norm->norm.weight;
            residual.out = norm->norm.out;
            residual.epsilon = norm->norm.epsilon;
        }
        struct step made = {.kind = STEP_RESIDUAL, .part = first->part, .layer = first->layer, .residual = residual};
        for (size_t j = i; j < next; j++)
            take_away(&list->steps[j]);
        list->steps[i] = made;
        i = next - 1;
    }
    close_gaps(list);
}

/* ---- all of them ----------------------------------------------------------------------------------------------------
 */

hypura_status steps_fuse(struct step_list list, bool few_rows, struct step **out, size_t *count, hypura_error *error)
{
    struct list own = {.count = list.count};
    hypura_status status = ALLOCATE(&own.steps, list.count + 1, "list of steps", error);
    if (status)
        return status;
    for (size_t i = 0; i < list.count; i++)
        own.steps[i] = list.steps[i];
    fuse_shares(&own);
    fuse_turns(&own);
    fuse_gates(&own);
    if (few_rows) {
        fuse_norms(&own);
        fuse_additions(&own);
    }
    fuse_sums(&own);
    own.steps[own.count] = (struct step){.kind = STEP_KINDS, .layer = -1};
    *out = own.steps;
    *count = own.count;
    return HYPURA_OK;
}
