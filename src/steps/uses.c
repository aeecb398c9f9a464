/* The buffers and units of a step, for sizing memory, ordering reads and placing weights. */
#include "steps/steps_private.h"

/* ---- buffers -------------------------------------------------------------------------------------------------------
 */

struct toucher {
    struct step_touch *out;
    size_t count;
};

static void touch(struct toucher *t, enum step_buffer buffer, bool writes, size_t width)
{
    if (buffer != BUFFER_NONE)
        t->out[t->count++] = (struct step_touch){buffer, writes, width};
}

static size_t heads_width(const struct step_head *head)
{
    return (size_t)head->heads * head->size;
}

static void touch_heads(struct toucher *t, const struct step_heads *h)
{
    const bool values_change = h->value_norm || h->values_are_keys || h->clamp != 0.0f;
    touch(t, h->raw, false, 2 * heads_width(&h->query));
    if (h->raw == BUFFER_NONE)
        touch(t, h->query.buffer, false, heads_width(&h->query));
    touch(t, h->query.buffer, true, heads_width(&h->query));
    touch(t, h->key.buffer, false, heads_width(&h->key));
    touch(t, h->key.buffer, true, heads_width(&h->key));
    touch(t, h->value, false, (size_t)h->key.heads * h->value_size);
    if (values_change)
        touch(t, h->value, true, (size_t)h->key.heads * h->value_size);
}

static void touch_delta_net(struct toucher *t, const struct step_delta_net *d)
{
    const size_t inner = (size_t)d->heads_v * d->value_size, channels = inner + 2 * (size_t)d->heads_k * d->key_size;
    const bool together = d->gates != BUFFER_NONE;
    const size_t decays = (size_t)d->heads_v * (d->kind == DECAY_OF_HEAD ? 1 : d->key_size);
    for (size_t part = 0; part < DELTA_PARTS; part++)
        if (part == 0 || d->in[part].buffer != d->in[part - 1].buffer)
            touch(t, d->in[part].buffer, false, d->in[part].stride);
    touch(t, d->gates, false, 2 * (size_t)d->heads_v);
    if (!together) {
        touch(t, d->beta, false, d->heads_v);
        touch(t, d->decay, false, decays);
    }
    touch(t, d->beta, true, d->heads_v);
    touch(t, d->decay, true, decays);
    touch(t, d->convolved, true, channels);
    touch(t, d->out, true, inner);
}

static size_t coefficients_of(uint32_t count, bool returns, uint32_t sinkhorn)
{
    return stream_coefficients(&(struct stream_mixer){.streams = count, .returns = returns, .sinkhorn = sinkhorn});
}

size_t step_choice_words(const struct step_choice *chosen)
{
    return chosen->sets * ((size_t)chosen->most + 1);
}

static size_t add_width(const struct step_add *add, size_t embedding)
{
    return add->width ? add->width : embedding;
}

size_t step_touches(const struct step *step, uint32_t embedding, struct step_touch out[STEP_TOUCHES])
{
    struct toucher t = {.out = out};
    size_t e = embedding;
    switch (step->kind) {
    case STEP_EMBED:
        touch(&t, BUFFER_HIDDEN, true, e * step->embed.copies);
        break;
    case STEP_LOOK_UP:
        touch(&t, step->look_up.out, true, (size_t)step->look_up.rows * step->look_up.width);
        break;
    case STEP_ADD_ROWS:
        touch(&t, BUFFER_HIDDEN, false, e);
        touch(&t, BUFFER_HIDDEN, true, e);
        touch(&t, BUFFER_BRANCH, true, e);
        break;
    case STEP_NORM:
        touch(&t, step->norm.in, false, (size_t)step->norm.groups * step->norm.width);
        touch(&t, step->norm.out, true, (size_t)step->norm.groups * step->norm.width);
        break;
    case STEP_MULTIPLY:
        touch(&t, step->multiply.in, false, step->multiply.stride);
        for (uint32_t i = 0; i < step->multiply.count; i++) {
            if (step->multiply.adds)
                touch(&t, step->multiply.matrices[i].out, false, step->multiply.matrices[i].rows);
            touch(&t, step->multiply.matrices[i].out, true, step->multiply.matrices[i].rows);
        }
        break;
    case STEP_HEADS:
        touch_heads(&t, &step->heads);
        break;
    case STEP_POOL:
        touch(&t, step->pool.in, false, step->pool.size);
        touch(&t, step->pool.out, true, (size_t)step->pool.size + step->pool.rotary);
        break;
    case STEP_INDEX: {
        const struct step_index *x = &step->index;
        touch(&t, x->query, false, (size_t)x->heads * x->size);
        touch(&t, x->weights, false, x->heads);
        touch(&t, x->out, true,
              step_choice_words(&(struct step_choice){.sets = x->by_head ? x->heads : 1, .most = x->most + x->tail}));
        break;
    }
    case STEP_SPREAD: {
        const struct step_spread *s = &step->spread;
        touch(&t, s->in, false, (size_t)s->heads * (s->plain + s->value_size));
        touch(&t, s->latents, false, (size_t)s->rank + s->rotary);
        touch(&t, s->key, true, (size_t)s->heads * (s->plain + s->rotary));
        touch(&t, s->value, true, (size_t)s->heads * s->value_size);
        break;
    }
    case STEP_ATTEND:
        touch(&t, step->attend.query, false, (size_t)step->attend.heads * step->attend.key_size);
        touch(&t, step->attend.chosen.buffer, false, step_choice_words(&step->attend.chosen));
        touch(&t, step->attend.out, true, (size_t)step->attend.heads * step->attend.value_size);
        break;
    case STEP_ATTEND_LATENT: {
        const struct step_attend_latent *a = &step->attend_latent;
        touch(&t, a->query, false, (size_t)a->heads * (a->plain + a->rotary));
        touch(&t, a->chosen.buffer, false, step_choice_words(&a->chosen));
        touch(&t, a->out, true, (size_t)a->heads * a->value_size);
        break;
    }
    case STEP_CONVOLVE:
        touch(&t, step->convolve.in.buffer, false, (size_t)step->convolve.groups * step->convolve.in.stride);
        touch(&t, step->convolve.out, true, (size_t)step->convolve.groups * step->convolve.width);
        break;
    case STEP_SCAN:
        touch(&t, step->scan.in.buffer, false, step->scan.in.stride);
        touch(&t, step->scan.write.buffer, false, step->scan.write.stride);
        touch(&t, step->scan.read.buffer, false, step->scan.read.stride);
        touch(&t, step->scan.steps, false, step->scan.heads);
        touch(&t, step->scan.steps, true, step->scan.heads);
        touch(&t, step->scan.out, true, (size_t)step->scan.heads * step->scan.width);
        break;
    case STEP_COMPRESS: {
        const struct step_compress *c = &step->compress;
        const size_t width = (size_t)c->size * (c->overlaps ? 2 : 1);
        touch(&t, c->values, false, width);
        touch(&t, c->gates, false, width);
        touch(&t, c->out, true, (size_t)c->size + c->rotary);
        break;
    }
    case STEP_DELTA_NET:
        touch_delta_net(&t, &step->delta_net);
        break;
    case STEP_GLU:
        touch(&t, step->glu.gate.buffer, false, (size_t)step->glu.groups * step->glu.gate.stride);
        touch(&t, step->glu.up.buffer, false, (size_t)step->glu.groups * step->glu.up.stride);
        touch(&t, step->glu.out, true, (size_t)step->glu.groups * step->glu.width);
        break;
    case STEP_FUNCTION:
        touch(&t, step->function.buffer, false, step->function.width);
        touch(&t, step->function.buffer, true, step->function.width);
        break;
    case STEP_ROUTE:
        touch(&t, step->route.in, false, e);
        break;
    case STEP_EXPERTS:
        touch(&t, step->experts.in, false, step->experts.columns);
        break;
    case STEP_MIX:
        touch(&t, step->mix.side, false, step->mix.width);
        touch(&t, step->mix.out, true, step->mix.width);
        break;
    case STEP_CHUNK_EXPERTS:
        touch(&t, step->chunk_experts.buffer, false, e);
        touch(&t, step->chunk_experts.buffer, true, e);
        touch(&t, step->chunk_experts.sum, true, e);
        touch(&t, BUFFER_GATE, true, step->chunk_experts.width);
        touch(&t, BUFFER_UP, true, step->chunk_experts.width);
        break;
    case STEP_SCALE_ROWS:
        touch(&t, step->scale_rows.by, false, 1);
        touch(&t, step->scale_rows.buffer, false, e);
        touch(&t, step->scale_rows.buffer, true, e);
        break;
    case STEP_SCALE:
        touch(&t, step->scale.buffer, false, e);
        touch(&t, step->scale.buffer, true, e);
        break;
    case STEP_ADD:
        touch(&t, step->add.from, false, add_width(&step->add, e));
        touch(&t, step->add.to, false, add_width(&step->add, e) * MAX(step->add.copies, 1u));
        touch(&t, step->add.to, true, add_width(&step->add, e) * MAX(step->add.copies, 1u));
        break;
    case STEP_PREDICT:
    case STEP_CORRECT:
        touch(&t, BUFFER_HIDDEN, false, e);
        touch(&t, step->sides.sides, false, (size_t)step->sides.count * step->sides.width);
        touch(&t, step->sides.from, false, e);
        touch(&t, BUFFER_HIDDEN, true, e);
        touch(&t, step->sides.sides, true, (size_t)step->sides.count * step->sides.width);
        touch(&t, step->sides.out, true, e);
        break;
    case STEP_MATCH:
        touch(&t, step->match.by, false, step->match.width);
        touch(&t, step->match.rows, false, (size_t)step->match.parts * step->match.width);
        touch(&t, step->match.rows, true, (size_t)step->match.parts * step->match.width);
        break;
    case STEP_SPARSE:
        touch(&t, step->sparse.buffer, false, step->sparse.width);
        touch(&t, step->sparse.buffer, true, step->sparse.width);
        break;
    case STEP_RECALL:
        touch(&t, step->recall.row, false, step->recall.width);
        touch(&t, step->recall.bank, false, (size_t)step->recall.room * step->recall.width);
        touch(&t, step->recall.bank, true, (size_t)step->recall.room * step->recall.width);
        touch(&t, step->recall.out, true, step->recall.width);
        break;
    case STEP_GATHER_GATED: {
        const struct step_gather_gated *g = &step->gather_gated;
        const size_t flat = (size_t)g->count * g->width;
        touch(&t, g->streams, false, flat);
        touch(&t, g->gates, false, flat);
        touch(&t, g->gates, true, flat);
        touch(&t, g->inject, false, g->count);
        touch(&t, g->inject == BUFFER_NONE ? BUFFER_NONE : g->coefficients, true, 2 * (size_t)g->count);
        touch(&t, g->out, true, g->width);
        break;
    }
    case STEP_AGREE: {
        const struct step_agree *m = &step->agree;
        const size_t flat = (size_t)m->count * m->width;
        touch(&t, m->keys, false, flat);
        touch(&t, m->queries, false, flat);
        touch(&t, m->values, false, m->width);
        touch(&t, m->out, true, flat);
        break;
    }
    case STEP_GATHER: {
        const struct step_gather *g = &step->gather;
        const size_t flat = (size_t)g->count * g->width;
        const size_t coefficients = coefficients_of(g->count, g->returns, g->sinkhorn);
        touch(&t, g->streams, false, flat);
        touch(&t, g->coefficients, false, coefficients);
        touch(&t, g->coefficients, true, coefficients);
        touch(&t, g->out, true, g->width);
        break;
    }
    case STEP_SCATTER: {
        const struct step_scatter *s = &step->scatter;
        const size_t flat = (size_t)s->count * s->width;
        touch(&t, s->from, false, s->width);
        touch(&t, s->coefficients, false, coefficients_of(s->count, true, s->sinkhorn));
        touch(&t, s->streams, false, flat);
        touch(&t, s->streams, true, flat);
        break;
    }
    case STEP_JOIN:
        touch(&t, step->join.first, false, step->join.width);
        touch(&t, step->join.second, false, step->join.width);
        touch(&t, step->join.normed, true, step->join.width);
        touch(&t, step->join.out, true, 2 * (size_t)step->join.width);
        break;
    case STEP_OUTPUT:
        touch(&t, step->output.in, false, e);
        break;
    case STEP_RESIDUAL: {
        const struct step_residual *r = &step->residual;
        touch(&t, r->to, false, e);
        touch(&t, r->mixes ? r->mix.side : r->from, false, e);
        touch(&t, r->mixes ? r->mix.gates : BUFFER_NONE, false, 1);
        touch(&t, r->to, true, e);
        touch(&t, r->out, true, e);
        break;
    }
    case STEP_KINDS:
        break;
    }
    return t.count;
}

void note_buffers(struct step *step)
{
    struct step_touch all[STEP_TOUCHES];
    size_t count = step_touches(step, 0, all);
    step->reads = step->writes = 0;
    for (size_t i = 0; i < count; i++)
        *(all[i].writes ? &step->writes : &step->reads) |= 1u << all[i].buffer;
}

bool step_reads(const struct step *step, enum step_buffer buffer)
{
    return step->reads >> buffer & 1;
}

bool step_writes(const struct step *step, enum step_buffer buffer)
{
    return step->writes >> buffer & 1;
}

void steps_widths(struct step_list list, uint32_t embedding, size_t *widths)
{
    struct step_touch all[STEP_TOUCHES];
    for (size_t i = 0; i < list.count; i++) {
        size_t count = step_touches(&list.steps[i], embedding, all);
        for (size_t t = 0; t < count; t++)
            widths[all[t].buffer] = MAX(widths[all[t].buffer], all[t].width);
    }
}

/* ---- states --------------------------------------------------------------------------------------------------------
 */

size_t step_state(const struct step *step)
{
    const struct step_delta_net *d = &step->delta_net;
    const struct step_convolve *c = &step->convolve;
    switch (step->kind) {
    case STEP_COMPRESS:
        return compression_state_floats(step->compress.size, step->compress.overlaps);
    case STEP_CONVOLVE:
        return (size_t)(c->taps - 1) * MAX(c->dilation, 1u) * c->groups * c->width;
    case STEP_POOL:
        return step->pool.size;
    case STEP_SCAN:
        return scan_state_floats(step->scan.heads, step->scan.width, step->scan.size);
    case STEP_DELTA_NET:
        return delta_net_state_floats(d->heads_k, d->heads_v, d->key_size, d->value_size, d->taps);
    default:
        return 0;
    }
}

bool step_keeps(const struct step *step)
{
    return (step->kind == STEP_HEADS && step->heads.stores) || step_state(step);
}

size_t steps_split(struct step_list list, const struct step **late_route)
{
    size_t split = 0;
    *late_route = NULL;
    for (size_t i = 0; i < list.count; i++) {
        const struct step *step = &list.steps[i];
        const bool sees_all = step->kind == STEP_ATTEND && step->attend.bidirectional;
        if (step_keeps(step) || sees_all || step->kind == STEP_INDEX || step->kind == STEP_LOOK_UP)
            split = i + 1;
    }
    for (size_t i = 0; i < split; i++) {
        const struct step *step = &list.steps[i];
        if (*late_route && step_writes(step, (*late_route)->route.in))
            return list.count;
        if (step->kind == STEP_EXPERTS || step->kind == STEP_MIX || step->kind == STEP_CHUNK_EXPERTS)
            return list.count;
        if (step->kind == STEP_ROUTE)
            *late_route = step;
    }
    return split;
}

/* ---- units ---------------------------------------------------------------------------------------------------------
 */

struct lister {
    struct step_unit *out;
    size_t count;
};

static void use(struct lister *l, unit_number unit, enum unit_use how, enum tensor_role role)
{
    if (unit != NO_UNIT)
        l->out[l->count++] = (struct step_unit){unit, how, role};
}

static void use_vectors(struct lister *l, const unit_number *units, size_t count)
{
    for (size_t i = 0; i < count; i++)
        use(l, units[i], USE_VECTOR, ROLE_COUNT);
}

/* A product may use several parts of one matrix. */
static void use_matrices(struct lister *l, const struct step_multiply *multiply)
{
    for (uint32_t i = 0; i < multiply->count; i++) {
        const struct step_matrix *matrix = &multiply->matrices[i];
        bool again = i > 0 && multiply->matrices[i - 1].unit == matrix->unit;
        /* A single row that weights all shared experts is their router. */
        enum unit_use how = matrix->out == BUFFER_SHARE ? USE_ROUTER : USE_MATRIX;
        use(l, again ? NO_UNIT : matrix->unit, how, matrix->role);
        use(l, again ? NO_UNIT : matrix->bias, USE_VECTOR, ROLE_COUNT);
        use(l, again ? NO_UNIT : matrix->scale, USE_VECTOR, ROLE_COUNT);
    }
}

size_t step_units(const struct step *step, struct step_unit out[STEP_UNITS])
{
    struct lister l = {.out = out};
    switch (step->kind) {
    case STEP_EMBED:
        use(&l, step->embed.unit, USE_ROWS, ROLE_TOKEN_EMBEDDING);
        break;
    case STEP_LOOK_UP:
        use(&l, step->look_up.table, USE_TABLE, ROLE_COUNT);
        break;
    case STEP_ADD_ROWS:
        use(&l, step->add_rows.unit, USE_WHOLE, ROLE_COUNT);
        break;
    case STEP_NORM:
        use_vectors(&l, (const unit_number[]){step->norm.weight, step->norm.bias}, 2);
        break;
    case STEP_MULTIPLY:
        use_vectors(&l, &step->multiply.norm.weight, 1);
        use_matrices(&l, &step->multiply);
        break;
    case STEP_HEADS:
        use_vectors(&l, (const unit_number[]){step->heads.query.norm, step->heads.key.norm}, 2);
        break;
    case STEP_POOL:
        use_vectors(&l, &step->pool.norm, 1);
        break;
    case STEP_ATTEND:
        use_vectors(&l, &step->attend.sinks, 1);
        break;
    case STEP_ATTEND_LATENT:
        use(&l, step->attend_latent.key_matrix, USE_HEADS, ROLE_COUNT);
        use(&l, step->attend_latent.value_matrix, USE_HEADS, ROLE_COUNT);
        use_vectors(&l, &step->attend_latent.sinks, 1);
        break;
    case STEP_CONVOLVE:
        use(&l, step->convolve.weights, USE_SEQUENCE, ROLE_COUNT);
        use_vectors(&l, &step->convolve.bias, 1);
        break;
    case STEP_SCAN:
        use_vectors(&l, (const unit_number[]){step->scan.step_bias, step->scan.skip}, 2);
        use(&l, step->scan.rates, USE_SEQUENCE, ROLE_COUNT);
        break;
    case STEP_DELTA_NET:
        use_vectors(&l, (const unit_number[]){step->delta_net.step_bias, step->delta_net.decay_rate}, 2);
        for (size_t part = 0; part < DELTA_PARTS; part++)
            use(&l, step->delta_net.convolution[part], USE_SEQUENCE, ROLE_COUNT);
        break;
    case STEP_COMPRESS:
        use_vectors(&l, (const unit_number[]){step->compress.bias, step->compress.norm}, 2);
        break;
    case STEP_ROUTE:
        use_vectors(&l, &step->route.norm.weight, 1);
        use(&l, step->route.table, USE_ROUTER, ROLE_COUNT);
        use(&l, step->route.router, USE_ROUTER, ROLE_ROUTER);
        use_vectors(&l, (const unit_number[]){step->route.bias, step->route.selection_bias, step->route.expert_scales},
                    3);
        break;
    case STEP_EXPERTS:
        use_vectors(&l, &step->experts.norm.weight, 1);
        use(&l, step->experts.gate_bias, USE_BIASES, ROLE_COUNT);
        use(&l, step->experts.up_bias, USE_BIASES, ROLE_COUNT);
        use(&l, step->experts.down_bias, USE_BIASES, ROLE_COUNT);
        use(&l, step->experts.gate_scale, USE_BIASES, ROLE_COUNT);
        if (step->experts.up_scale != step->experts.gate_scale)
            use(&l, step->experts.up_scale, USE_BIASES, ROLE_COUNT);
        use(&l, step->experts.down_scale, USE_BIASES, ROLE_COUNT);
        break;
    case STEP_CHUNK_EXPERTS:
        use(&l, step->chunk_experts.gate, USE_TRIPLE, ROLE_COUNT);
        use(&l, step->chunk_experts.up, USE_TRIPLE, ROLE_COUNT);
        use(&l, step->chunk_experts.down, USE_TRIPLE, ROLE_COUNT);
        break;
    case STEP_SCALE:
        use_vectors(&l, &step->scale.factor, 1);
        break;
    case STEP_RECALL:
        use_vectors(&l, &step->recall.weight, 1);
        break;
    case STEP_GATHER:
        use_vectors(&l, (const unit_number[]){step->gather.scale, step->gather.base}, 2);
        break;
    case STEP_PREDICT:
    case STEP_CORRECT:
        use_vectors(
            &l,
            (const unit_number[]){step->sides.norm, step->sides.router, step->sides.coefficients, step->sides.scale},
            4);
        break;
    case STEP_JOIN:
        use_vectors(&l, (const unit_number[]){step->join.first_norm, step->join.second_norm}, 2);
        break;
    case STEP_OUTPUT:
        use(&l, step->output.unit, USE_MATRIX, ROLE_OUTPUT);
        use_vectors(&l, (const unit_number[]){step->output.bias, step->output.matrix_scale}, 2);
        break;
    case STEP_RESIDUAL:
        use_vectors(
            &l, (const unit_number[]){step->residual.post_norm, step->residual.layer_scale, step->residual.norm}, 3);
        break;
    case STEP_INDEX:
    case STEP_SPREAD:
    case STEP_GLU:
    case STEP_FUNCTION:
    case STEP_MIX:
    case STEP_SCALE_ROWS:
    case STEP_ADD:
    case STEP_GATHER_GATED:
    case STEP_AGREE:
    case STEP_SCATTER:
    case STEP_MATCH:
    case STEP_SPARSE:
    case STEP_KINDS:
        break;
    }
    return l.count;
}

static bool expert_has(const struct model *model, unit_number expert, enum tensor_role role)
{
    const struct unit *unit = model_unit(model, expert);
    for (uint32_t i = 0; i < unit->slice_count; i++)
        if (unit->slices[i].role == role)
            return true;
    return false;
}

bool steps_multiplies(const struct steps *steps, const struct model *model, int32_t layer, enum tensor_role role)
{
    struct step_list list = layer < 0 ? steps_after(steps) : steps_of_layer(steps, (uint32_t)layer);
    for (size_t i = 0; i < list.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(&list.steps[i], units);
        for (size_t u = 0; u < count; u++)
            if (units[u].role == role && (units[u].use == USE_MATRIX || units[u].use == USE_ROUTER))
                return true;
        if (list.steps[i].kind == STEP_EXPERTS && expert_has(model, list.steps[i].experts.first, role))
            return true;
    }
    return false;
}
