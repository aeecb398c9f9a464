/* Queries about a finished list. */
#include "steps/steps_private.h"

void steps_free(struct steps *steps)
{
    if (!steps)
        return;
    memory_free(steps->steps);
    memory_free(steps->of_layer);
    memory_free(steps->routers);
    memory_free(steps);
}

static struct step_list part(const struct steps *steps, struct part_of_list part)
{
    return (struct step_list){steps->steps + part.first, part.count};
}

struct step_list steps_before(const struct steps *steps)
{
    return part(steps, steps->before);
}

struct step_list steps_of_layer(const struct steps *steps, uint32_t layer)
{
    return part(steps, steps->of_layer[layer]);
}

struct step_list steps_predicting(const struct steps *steps, enum step_buffer *left)
{
    *left = steps->left;
    return steps->predicting ? part(steps, steps->of_layer[steps->layers]) : (struct step_list){NULL, 0};
}

struct step_list steps_after(const struct steps *steps)
{
    return part(steps, steps->after);
}

struct step_list steps_pooled(const struct steps *steps)
{
    return part(steps, steps->pooled);
}

struct step_list steps_all(const struct steps *steps)
{
    return (struct step_list){steps->steps, steps->count};
}

const struct step *steps_find(struct step_list list, enum step_kind kind)
{
    for (size_t i = 0; i < list.count; i++)
        if (list.steps[i].kind == kind)
            return &list.steps[i];
    return NULL;
}

bool steps_router(const struct steps *steps, uint32_t layer, struct step_router *out)
{
    *out = layer < steps->layers ? steps->routers[layer] : (struct step_router){0};
    return out->known;
}
