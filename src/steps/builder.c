/* Building blocks of all mechanisms. */
#include "steps/steps_private.h"

#define FIRST_ROOM ((size_t)64)

struct step *add_step(struct builder *b, enum step_kind kind)
{
    static _Thread_local struct step dropped; /* callers still fill one in after a failure */
    if (!b->status && b->count == b->room) {
        size_t room = b->room ? 2 * b->room : FIRST_ROOM;
        b->status = memory_resize((void **)&b->steps, b->room, room, sizeof *b->steps, "list of steps", b->error);
        b->room = b->status ? b->room : room;
    }
    struct step *step = b->status ? &dropped : &b->steps[b->count++];
    *step = (struct step){.kind = kind, .part = b->part, .layer = b->number};
    return step;
}

unit_number unit_of(const struct builder *b, enum tensor_role role)
{
    return b->layer ? b->layer->tensors[role] : model_tensor(b->model, role);
}

unit_number scale_of(const struct builder *b, enum tensor_role role)
{
    return b->layer ? b->layer->scales[role] : model_scale(b->model, role);
}

struct step *add_groups_norm(struct builder *b, enum step_buffer in, enum step_buffer out, unit_number weight,
                             uint32_t groups, uint32_t width)
{
    struct step *step = add_step(b, STEP_NORM);
    step->norm = (struct step_norm){.in = in,
                                    .out = out,
                                    .weight = weight,
                                    .bias = NO_UNIT,
                                    .groups = groups,
                                    .width = width,
                                    .centred = b->p->norm_centred,
                                    .epsilon = b->p->norm_epsilon,
                                    .scale = 1.0f};
    return step;
}

void add_norm(struct builder *b, enum step_buffer in, enum step_buffer out, unit_number weight, unit_number bias)
{
    if (weight != NO_UNIT)
        add_groups_norm(b, in, out, weight, 1, b->p->embedding)->norm.bias = bias;
}

struct step *add_multiply(struct builder *b, enum step_buffer in, uint32_t columns)
{
    struct step *step = add_step(b, STEP_MULTIPLY);
    step->multiply =
        (struct step_multiply){.in = in, .columns = columns, .stride = columns, .groups = 1, .norm = {NO_UNIT, 0}};
    return step;
}

uint32_t unit_rows(const struct builder *b, unit_number unit)
{
    const struct gguf_tensor *tensor = model_unit(b->model, unit)->slices[0].tensor;
    return (uint32_t)(tensor->dimensions[1] * tensor->dimensions[2]);
}

/* The role of a bias follows that of its matrix. */
void add_matrix(struct builder *b, struct step *step, enum tensor_role role, enum step_buffer out)
{
    unit_number unit = unit_of(b, role), bias = unit_of(b, role + 1);
    bool biased = bias != NO_UNIT && tensor_role_is_bias(role + 1);
    step->multiply.matrices[step->multiply.count++] = (struct step_matrix){.unit = unit,
                                                                           .bias = biased ? bias : NO_UNIT,
                                                                           .scale = scale_of(b, role),
                                                                           .role = role,
                                                                           .out = out,
                                                                           .rows = unit_rows(b, unit)};
}
