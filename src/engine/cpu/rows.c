/* The buffers that steps read and write. */
#include "engine/cpu/execute.h"

#include <string.h>

float *rows_of(struct batch *batch, enum step_buffer buffer)
{
    return batch->scratch.buffers[buffer];
}

/* Inner rows of a feed forward have their own activation, because experts read its input again. */
static struct input *place_of(struct batch *batch, enum step_buffer buffer)
{
    return &batch->scratch.inputs[buffer == BUFFER_GATE];
}

struct activation *input_of(struct batch *batch, enum step_buffer buffer, size_t columns, size_t stride, size_t offset)
{
    struct input *input = place_of(batch, buffer);
    if (input->buffer != buffer || input->columns != columns || input->stride != stride || input->offset != offset) {
        activation_set(input->activation, rows_of(batch, buffer) + offset, batch->rows, columns, stride);
        input->buffer = buffer;
        input->columns = columns;
        input->stride = stride;
        input->offset = offset;
    }
    return input->activation;
}

void forget_inputs(struct batch *batch, uint32_t written)
{
    for (size_t i = 0; i < COUNT_OF(batch->scratch.inputs); i++)
        if (written >> batch->scratch.inputs[i].buffer & 1)
            batch->scratch.inputs[i].buffer = BUFFER_NONE;
}

static void move_inputs(struct batch *batch, const struct step *step, bool back)
{
    struct state_input inputs[STEP_TOUCHES];
    size_t count;
    float *kept =
        batch->scratch.state_inputs + MIN(DRAFT_ROWS, batch->scratch.chunk) * state_inputs_before(batch, step);
    state_inputs(step, model_parameters(batch->open->model)->embedding, inputs, &count);
    for (size_t i = 0; i < count; i++) {
        float *rows = rows_of(batch, inputs[i].buffer);
        size_t floats = batch->rows * inputs[i].width;
        memcpy(back ? rows : kept, back ? kept : rows, floats * sizeof *rows);
        kept += MIN(DRAFT_ROWS, batch->scratch.chunk) * inputs[i].width;
    }
}

void keep_inputs(struct batch *batch, const struct step *step)
{
    move_inputs(batch, step, false);
}

void bring_inputs(struct batch *batch, const struct step *step)
{
    move_inputs(batch, step, true);
}
