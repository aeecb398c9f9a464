/* Keeps the inputs of steps with a state, in batches with drafts. */
#include "engine/engine_private.h"

size_t state_inputs(const struct step *step, uint32_t embedding, struct state_input out[STEP_TOUCHES], size_t *count)
{
    struct step_touch touches[STEP_TOUCHES];
    size_t touched = step_touches(step, embedding, touches), sum = 0;
    *count = 0;
    for (size_t t = 0; step_state(step) && t < touched; t++) {
        size_t i = 0;
        if (touches[t].writes || touches[t].buffer == BUFFER_NONE)
            continue;
        while (i < *count && out[i].buffer != touches[t].buffer)
            i++;
        if (i == *count)
            out[(*count)++] = (struct state_input){.buffer = touches[t].buffer};
        sum += MAX(touches[t].width, out[i].width) - out[i].width;
        out[i].width = MAX(touches[t].width, out[i].width);
    }
    return sum;
}

size_t state_inputs_before(const struct batch *batch, const struct step *step)
{
    const uint32_t embedding = model_parameters(batch->open->model)->embedding;
    struct state_input inputs[STEP_TOUCHES];
    size_t count, sum = batch->scratch.state_inputs_of[step->layer];
    const struct step_list list = steps_of_layer(batch->open->steps, (uint32_t)step->layer);
    /* A device has a list of its own, with the same order of states. */
    for (size_t i = 0; i < list.count; i++)
        if (list.steps[i].state < step->state)
            sum += state_inputs(&list.steps[i], embedding, inputs, &count);
    return sum;
}

bool keeps_state_inputs(const struct batch *batch)
{
    return batch->scratch.state_inputs && batch->asked && batch->asked->drafted;
}
