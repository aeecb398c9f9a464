/* The layer in which unwanted rows leave the batch. */
#include "engine/cpu/execute.h"

#include <string.h>

static void leave_behind(struct batch *batch, uint32_t layer, const struct step *route, struct step_list rest)
{
    struct step_touch buffers[BUFFER_COUNT];
    const size_t count = narrow_buffers(batch, route, rest, layer, buffers);
    struct scratch *s = &batch->scratch;
    memcpy(s->left, s->wanted, batch->wanted * sizeof *s->left);
    for (size_t b = 0; b < count; b++) {
        float *rows = rows_of(batch, buffers[b].buffer);
        const size_t width = buffers[b].width;
        for (size_t i = 0; i < batch->wanted; i++)
            memmove(rows + i * width, rows + s->left[i] * width, width * sizeof *rows);
    }
    narrow_rows(batch, batch->wanted);
}

/* A router before attention runs after it here, and reads only the wanted rows. */
hypura_status execute_narrowing(struct batch *batch, uint32_t layer, hypura_error *error)
{
    const struct step_list list = steps_of_layer(batch->open->steps, layer);
    const struct step *route;
    const size_t split = steps_split(list, &route), before = route ? (size_t)(route - list.steps) : split;
    const struct step_list rest = {list.steps + split, list.count - split};
    TRY(execute(batch, (struct step_list){list.steps, before}, error));
    if (route)
        TRY(execute(batch, (struct step_list){route + 1, split - before - 1}, error));
    leave_behind(batch, layer, route, rest);
    if (batch->rows == 0)
        return HYPURA_OK;
    if (route)
        TRY(execute(batch, (struct step_list){route, 1}, error));
    return execute(batch, rest, error);
}
