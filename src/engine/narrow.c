/* Drops the rows of a prompt whose logits are not wanted: finds the layer in which they leave, and moves what belongs
 * to the rows that stay, except buffers. The executors (cpu/narrow.c, gpu/narrow.c) move those. */
#include "engine/gpu/pass.h"

#include <string.h>

/* ---- where --------------------------------------------------------------------------------------------------------
 */

static uint32_t find_layer(const struct batch *batch)
{
    const uint32_t layers = model_parameters(batch->open->model)->layers;
    if (gpu_pass_has(batch, layers - 1))
        return gpu_pass_can_narrow(batch, layers - 1) ? layers - 1 : NO_LAYER;
    const uint32_t layer = plan_late_layer(batch->open->plan, batch->open->steps, layers);
    return layer < layers ? layer : NO_LAYER;
}

void narrow_begin(struct batch *batch)
{
    const bool encoder = model_architecture(batch->open->model)->flags & ARCHITECTURE_ENCODER;
    batch->narrowing = (struct narrowing){.layer = NO_LAYER};
    if (batch->whole || batch->trace || encoder || batch->asked->drafted || batch->wanted >= batch->rows)
        return;
    batch->narrowing.layer = find_layer(batch);
}

size_t narrow_rows_in(const struct batch *batch, uint32_t layer)
{
    return !batch->narrowing.done && layer >= batch->narrowing.layer ? batch->wanted : batch->rows;
}

/* ---- the rows -----------------------------------------------------------------------------------------------------
 */

struct seen {
    uint32_t written, read;
    size_t count;
};

static void see(struct seen *seen, struct step_list list, uint32_t embedding, struct step_touch *out)
{
    struct step_touch touches[STEP_TOUCHES];
    for (size_t i = 0; i < list.count; i++) {
        const size_t count = step_touches(&list.steps[i], embedding, touches);
        for (size_t t = 0; t < count; t++)
            if (!touches[t].writes && !((seen->written | seen->read) >> touches[t].buffer & 1)) {
                seen->read |= 1u << touches[t].buffer;
                out[seen->count++] = touches[t];
            }
        seen->written |= list.steps[i].writes;
    }
}

size_t narrow_buffers(const struct batch *batch, const struct step *route, struct step_list rest, uint32_t layer,
                      struct step_touch out[BUFFER_COUNT])
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct seen seen = {0};
    if (route)
        see(&seen, (struct step_list){route, 1}, p->embedding, out);
    see(&seen, rest, p->embedding, out);
    for (uint32_t i = layer + 1; i < p->layers; i++)
        see(&seen, steps_of_layer(batch->open->steps, i), p->embedding, out);
    see(&seen, steps_after(batch->open->steps), p->embedding, out);
    return seen.count;
}

static void move_spans(struct batch *batch, size_t count)
{
    struct scratch *s = &batch->scratch;
    const uint32_t *left = s->left;
    size_t done = 0;
    memcpy(s->all_spans, s->spans, batch->span_count * sizeof *s->spans);
    const uint32_t spans = batch->span_count;
    batch->span_count = 0;
    for (uint32_t i = 0; i < spans; i++) {
        const struct span *all = &s->all_spans[i];
        struct span span = {.sequence = all->sequence, .first_row = (uint32_t)done};
        while (done < count && left[done] < all->first_row + all->rows) {
            done++;
            span.rows++;
        }
        if (span.rows)
            s->spans[batch->span_count++] = span;
    }
}

void narrow_rows(struct batch *batch, size_t count)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    struct narrowing *n = &batch->narrowing;
    const size_t widths[] = {p->rotary, batch->open->rope_local.half ? p->rotary_local : 0};
    n->done = true;
    n->rows = batch->rows;
    n->span_count = batch->span_count;
    n->asked = batch->asked;
    n->fewer = *batch->asked;
    n->fewer.count = count;
    n->fewer.tokens = s->left_tokens;
    move_spans(batch, count);
    for (size_t i = 0; i < count; i++) {
        const uint32_t from = s->left[i];
        s->left_tokens[i] = n->asked->tokens[from];
        s->positions[i] = s->positions[from];
        for (size_t table = 0; table < COUNT_OF(widths); table++)
            if (widths[table])
                memmove(s->rope[table] + i * widths[table], s->rope[table] + from * widths[table],
                        widths[table] * sizeof(float));
    }
    for (uint32_t i = 0; i < batch->wanted; i++)
        s->wanted[i] = i;
    batch->rows = count;
    batch->asked = &n->fewer;
    forget_inputs(batch, UINT32_MAX);
}

void narrow_end(struct batch *batch)
{
    struct narrowing *n = &batch->narrowing;
    struct scratch *s = &batch->scratch;
    n->layer = NO_LAYER;
    if (!n->done)
        return;
    n->done = false;
    batch->rows = n->rows;
    batch->span_count = n->span_count;
    batch->asked = n->asked;
    memcpy(s->spans, s->all_spans, batch->span_count * sizeof *s->spans);
}
