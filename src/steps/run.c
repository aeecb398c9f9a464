/* Runs of steps that do not depend on sequences: rows in, rows out. Any host that has their weights can compute them.
 */
#include "steps/steps_private.h"

/* Kinds of steps that read rows and weights only, and no position, token, state or cache. */
static bool is_plain(const struct step *step)
{
    switch (step->kind) {
    case STEP_NORM:
    case STEP_MULTIPLY:
    case STEP_GLU:
    case STEP_FUNCTION:
    case STEP_SCALE_ROWS:
    case STEP_SCALE:
    case STEP_ADD:
        return true;
    default:
        return false;
    }
}

size_t steps_run(struct step_list list, size_t from)
{
    size_t count = 0, multiplies = 0;
    while (from + count < list.count && is_plain(&list.steps[from + count]))
        multiplies += list.steps[from + count++].kind == STEP_MULTIPLY;
    return multiplies ? count : 0;
}

size_t steps_run_left(struct step_list layer, size_t at, size_t *first)
{
    for (size_t i = 0, run; i <= at && i < layer.count; i += MAX(run, (size_t)1)) {
        run = steps_run(layer, i);
        *first = i;
        if (at < i + run)
            return i + run - at;
    }
    return 0;
}

/* Whether a step changes a buffer. STEP_ADD with a scale also changes the buffer that it adds. */
static bool changes(const struct step *step, enum step_buffer buffer)
{
    return step_writes(step, buffer) || (step->kind == STEP_ADD && step->add.scale != 1.0f && step->add.from == buffer);
}

/* Whether a later step reads a buffer before another one overwrites it. */
static bool is_wanted(struct step_list layer, size_t from, enum step_buffer buffer)
{
    const uint32_t stay = 1u << BUFFER_HIDDEN | 1u << BUFFER_CHOSEN | 1u << BUFFER_BANK | 1u << BUFFER_TOKEN |
                          1u << BUFFER_SIDES | 1u << BUFFER_LAST | 1u << BUFFER_LOOKED_UP;
    for (size_t i = from; i < layer.count; i++) {
        if (step_reads(&layer.steps[i], buffer))
            return true;
        if (step_writes(&layer.steps[i], buffer))
            return false;
    }
    return stay >> buffer & 1;
}

void steps_run_rows(struct step_list layer, size_t first, size_t count, uint32_t embedding,
                    struct step_rows_of_run *out)
{
    uint32_t written = 0;
    size_t in[BUFFER_COUNT] = {0}, made[BUFFER_COUNT] = {0};
    *out = (struct step_rows_of_run){0};
    for (size_t i = first; i < first + count; i++) {
        struct step_touch touches[STEP_TOUCHES];
        const size_t touched = step_touches(&layer.steps[i], embedding, touches);
        for (size_t t = 0; t < touched; t++) {
            const enum step_buffer buffer = touches[t].buffer;
            if (!touches[t].writes && !(written >> buffer & 1))
                in[buffer] = MAX(in[buffer], touches[t].width);
            if (touches[t].writes || changes(&layer.steps[i], buffer))
                made[buffer] = MAX(made[buffer], touches[t].width);
        }
        written |= layer.steps[i].writes;
    }
    for (enum step_buffer b = BUFFER_NONE + 1; b < BUFFER_COUNT; b++) {
        out->in[b] = in[b];
        out->out[b] = made[b] && is_wanted(layer, first + count, b) ? made[b] : 0;
        out->in_width += out->in[b];
        out->out_width += out->out[b];
        out->changed |= (uint32_t)(made[b] != 0) << b;
    }
}
