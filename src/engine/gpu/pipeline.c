/* A prompt on several devices: while one has a part of the batch, the one before it has the next part.
 *
 * Parts go through all devices one after the other, each as a batch of its own: the batch is narrowed to the part's rows
 * (struct view), which nothing below it notices. All devices get their work of a turn, then all are waited for, and what
 * each left goes to the next one. Only a batch that the devices compute alone goes so, of one sequence, without states,
 * which a part would have to hand to the next, and whose rows' last states nobody wants but those of the last part. */
#include "engine/gpu/pass.h"

#include <string.h>

/* Fewer rows cost a device more than waiting for the one before saves. */
#define PART_ROWS 256u

/* Of so many parts the last device waits for one only. */
#define MOST_PARTS 4u

/* What is seen of the batch while a part passes, and what it was. */
struct view {
    size_t rows, wanted;
    struct span span;
    const struct engine_batch *asked;
    uint32_t *positions, *wanted_rows;
    float *rope[2], *hidden;
};

static void look(struct batch *batch, struct view *whole)
{
    const struct scratch *s = &batch->scratch;
    *whole = (struct view){.rows = batch->rows,
                           .wanted = batch->wanted,
                           .span = s->spans[0],
                           .asked = batch->asked,
                           .positions = s->positions,
                           .rope = {s->rope[0], s->rope[1]},
                           .hidden = s->buffers[BUFFER_HIDDEN]};
}

static void restore(struct batch *batch, const struct view *whole)
{
    struct scratch *s = &batch->scratch;
    batch->rows = whole->rows;
    batch->wanted = whole->wanted;
    batch->asked = whole->asked;
    s->spans[0] = whole->span;
    s->positions = whole->positions;
    s->rope[0] = whole->rope[0];
    s->rope[1] = whole->rope[1];
    s->buffers[BUFFER_HIDDEN] = whole->hidden;
}

struct part {
    size_t first, rows;
    bool last;
};

/* part: what is asked of it. */
static void show(struct batch *batch, const struct view *whole, const struct part *part, struct engine_batch *asked)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    *asked = *whole->asked;
    asked->count = part->rows;
    asked->tokens += part->first;
    batch->asked = asked;
    batch->rows = part->rows;
    batch->wanted = part->last ? whole->wanted : 0;
    s->spans[0].rows = (uint32_t)part->rows;
    s->positions = whole->positions + part->first;
    for (size_t i = 0; i < COUNT_OF(s->rope); i++)
        s->rope[i] = whole->rope[i] ? whole->rope[i] + part->first * (i ? p->rotary_local : p->rotary) : NULL;
    s->buffers[BUFFER_HIDDEN] = whole->hidden + part->first * batch->open->geometry.widths[BUFFER_HIDDEN];
}

/* ---- whether ------------------------------------------------------------------------------------------------------ */

static bool keeps_states(const struct batch *batch)
{
    uint32_t every[PASS_BLOCKS];
    for (uint32_t i = 0; i < batch->kv.layer_count; i++)
        if (batch->kv.layers[i].state_floats)
            return true;
    return pass_find_blocks(&batch->open->geometry, every) > 0;
}

static bool carries_more(const struct batch *batch)
{
    const size_t *widths = batch->open->geometry.widths;
    for (size_t i = 0; i < PASS_CARRIED; i++)
        if (pass_carried[i] != BUFFER_HIDDEN && widths[pass_carried[i]])
            return true;
    return widths[BUFFER_HIDDEN] != model_parameters(batch->open->model)->embedding;
}

/* Each device has a run of whole layers, the first one the first layer, and the last one the output. */
static bool devices_do_all(const struct batch *batch)
{
    const struct plan_gpu *plan = batch->open->plan->gpu;
    const struct model_parameters *p = model_parameters(batch->open->model);
    for (uint32_t i = 0; i < plan->layer_count; i++) {
        if (!plan->layers[i] || (i && plan->devices[i] < plan->devices[i - 1]))
            return false;
        if (steps_find(steps_of_layer(batch->open->steps, i), STEP_EXPERTS) &&
            batch->passes[plan->devices[i]]->slots[i].count < p->experts)
            return false;
    }
    return plan->output && plan->devices[0] != plan->devices[plan->layer_count - 1];
}

static size_t count_parts(const struct batch *batch)
{
    size_t parts = MIN(batch->rows / PART_ROWS, (size_t)MOST_PARTS);
    const uint32_t *wanted = batch->scratch.wanted;
    if (!batch->pass || parts < 2 || batch->span_count > 1 || batch->trace || batch->narrowing.layer == NO_LAYER ||
        batch->open->geometry.look_up || keeps_states(batch) || carries_more(batch) || !devices_do_all(batch))
        return 0;
    return batch->wanted && wanted[0] < (parts - 1) * (batch->rows / parts) ? 0 : parts;
}

/* ---- carrying it out ---------------------------------------------------------------------------------------------- */

static void begin(struct gpu_pass *pass)
{
    pass->sent = 0;
    pass->latent.grouped = 0;
    memset(pass->state, 0, sizeof pass->state); /* ROWS_FLOATS */
    pass->on_device = pass->inputs_sent = pass->hidden_on_device = false;
}

/* Sends what a device does with a part; of all but the last device what the rows are then comes back. */
static hypura_status send_stage(struct batch *batch, struct gpu_pass *pass, bool leaves, hypura_error *error)
{
    const struct plan_gpu *plan = batch->open->plan->gpu;
    bool done;
    batch->pass = pass;
    begin(pass);
    if (pass->plan->layers[0]) /* or the CPU did for all rows */
        TRY(gpu_pass_embed(batch, batch->asked->tokens, &done, error));
    batch->pass = pass;
    for (uint32_t i = 0; i < plan->layer_count; i++)
        if (pass->plan->layers[i])
            TRY(gpu_pass_layer(batch, i, error));
    if (leaves) {
        pass_record(pass);
        pass_settle(pass);
        gpu_copy(pass->gpu, pass->back_parts.hidden.range, pass->rows[BUFFER_HIDDEN],
                 batch->rows * batch->open->geometry.widths[BUFFER_HIDDEN] * sizeof(float));
    }
    pass->parts++;
    return pass_send(pass, error);
}

static hypura_status take_stage(struct batch *batch, struct gpu_pass *pass, bool leaves, hypura_error *error)
{
    TRY(gpu_wait(pass->gpu, pass->last, error));
    pass->on_device = false;
    if (leaves)
        memcpy(batch->scratch.buffers[BUFFER_HIDDEN], pass->back_parts.hidden.host,
               batch->rows * batch->open->geometry.widths[BUFFER_HIDDEN] * sizeof(float));
    return HYPURA_OK;
}

static hypura_status run(struct batch *batch, const struct view *whole, size_t parts, hypura_error *error)
{
    struct gpu_pass *passes[HARDWARE_MAX_GPUS];
    struct engine_batch asked;
    size_t devices = 0;
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++)
        if (batch->passes[d] && batch->passes[d]->plan->taken)
            passes[devices++] = batch->passes[d];
    for (size_t d = 0; d < devices; d++)
        passes[d]->parts = 0;
    const size_t rows = whole->rows / parts;
    for (size_t turn = 0; turn < parts + devices - 1; turn++) {
        for (int take = 0; take < 2; take++) {
            for (size_t d = devices; d-- > 0;) {
                if (d > turn || turn - d >= parts)
                    continue;
                const size_t first = (turn - d) * rows;
                const bool last = turn - d == parts - 1, leaves = d + 1 < devices;
                show(batch, whole, &(struct part){first, last ? whole->rows - first : rows, last}, &asked);
                TRY((take ? take_stage : send_stage)(batch, passes[d], leaves, error));
            }
        }
        if (batch_is_to_end(batch))
            return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    }
    /* The last part's rows are on the last device still. */
    batch->asked = whole->asked;
    batch->pass = passes[devices - 1];
    batch->pass->on_device = true;
    return HYPURA_OK;
}

bool gpu_pass_pipelines(const struct batch *batch, bool *embeds)
{
    const bool pipelines = count_parts(batch) > 0;
    const struct step_list before = steps_before(batch->open->steps);
    *embeds = pipelines && before.count == 1 && batch->open->plan->gpu->units[before.steps->embed.unit] == 1 &&
              batch->passes[0] && batch->passes[0]->plan->layers[0];
    return pipelines;
}

hypura_status gpu_pass_pipeline(struct batch *batch, hypura_error *error)
{
    struct view whole;
    const size_t parts = count_parts(batch), first = (parts - 1) * (batch->rows / parts);
    bool done;
    look(batch, &whole);
    batch->narrowing.layer = NO_LAYER; /* a part is narrow */
    for (size_t i = 0; i < whole.wanted; i++)
        batch->scratch.wanted[i] -= (uint32_t)first;
    hypura_status status = run(batch, &whole, parts, error);
    if (!status && whole.wanted)
        status = gpu_pass_output(batch, whole.asked, &done, error);
    restore(batch, &whole);
    for (size_t i = 0; i < whole.wanted; i++)
        batch->scratch.wanted[i] += (uint32_t)first;
    return status;
}
