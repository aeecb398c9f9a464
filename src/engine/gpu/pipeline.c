/* A prompt on several devices: while one computes a part of the batch, the one before it computes the next part.
 *
 * Each part passes the devices one after the other, as a batch of its own. The batch is narrowed to the part's rows
 * (struct view), which the functions below do not notice. In memory that both sides see, each part has its own rows
 * (gpu_pass.first_row). A device gets its next part while it still computes one. When a part is done, its rows go on to
 * the next device.
 *
 * Only batches that devices compute alone pass in parts: those of one sequence, without states, which a part would have
 * to hand to the next, and with wanted rows in the last part only. */
#include "engine/gpu/pass.h"

#include <stdlib.h>
#include <string.h>

/* The least rows per part. With fewer, devices lose more time than the overlap saves. */
#define PART_ROWS 256u

/* The most parts: the last device then waits for only one of this many. */
#define MOST_PARTS 4u

/* What a part replaces in the batch, as it is for the whole batch. */
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

/* Narrows the batch to a part. asked: gets the request for the part. */
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

/* ---- whether ------------------------------------------------------------------------------------------------------
 */

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

/* The number of parts that the environment requests, for measurements; 0: no request. Each part still uses the kernels
 * for many rows, so its bits stay the same. */
static size_t asked_parts(const struct batch *batch)
{
    const char *asked = getenv("HYPURA_GPU_PARTS");
    return asked ? MIN((size_t)strtoul(asked, NULL, 10), batch->rows / (GPU_VECTOR_TOKENS + 1)) : 0;
}

static size_t count_parts(const struct batch *batch)
{
    const size_t asked = asked_parts(batch);
    const size_t parts = asked ? asked : MIN(batch->rows / PART_ROWS, (size_t)MOST_PARTS);
    const uint32_t *wanted = batch->scratch.wanted;
    const uint8_t *devices = batch->pass ? batch->open->plan->gpu->devices : NULL;
    if (!devices || parts < 2 || batch->span_count > 1 || batch->trace || batch->narrowing.layer == NO_LAYER ||
        batch->open->geometry.look_up || keeps_states(batch) || carries_more(batch) || !pass_devices_do_all(batch) ||
        devices[0] == devices[model_parameters(batch->open->model)->layers - 1])
        return 0;
    return batch->wanted && wanted[0] < (parts - 1) * (batch->rows / parts) ? 0 : parts;
}

/* ---- carrying it out ----------------------------------------------------------------------------------------------
 */

/* Parts that a device may have at a time: the current one, and the next, so that it never waits for commands. */
#define PARTS_AHEAD 2u

/* A device, and how many parts it was sent and has finished. */
struct stage {
    struct gpu_pass *pass;
    size_t sent, taken;
    gpu_ticket tickets[PARTS_AHEAD]; /* of its current parts */
};

struct pipeline {
    struct view whole;
    struct stage stages[HARDWARE_MAX_GPUS];
    size_t count, parts;
    uint64_t begun; /* 0: times are not logged */
};

static struct part part_of(const struct pipeline *pipeline, size_t number)
{
    const size_t rows = pipeline->whole.rows / pipeline->parts, first = number * rows;
    const bool last = number == pipeline->parts - 1;
    return (struct part){first, last ? pipeline->whole.rows - first : rows, last};
}

static void begin(struct gpu_pass *pass, const struct part *part)
{
    pass->sent = 0;
    pass->first_row = (uint32_t)part->first;
    pass->latent.grouped = 0;
    memset(pass->state, 0, sizeof pass->state); /* ROWS_FLOATS */
    pass->on_device = pass->inputs_sent = pass->hidden_on_device = false;
}

/* With HYPURA_GPU_PARTS, logs when a device got a part, and when it was seen to be done with it. */
static void tell(const struct pipeline *pipeline, const struct stage *stage, size_t part, const char *what)
{
    if (pipeline->begun)
        log_write(LOG_WARNING, "GPU: %10.3f ms: device %u %s part %zu of %zu",
                  clock_seconds_since(pipeline->begun) * 1e3, stage->pass->number, what, part + 1, pipeline->parts);
}

/* Records and sends a device's commands for its next part. */
static hypura_status send_part(struct batch *batch, struct pipeline *pipeline, size_t number, hypura_error *error)
{
    struct stage *stage = &pipeline->stages[number];
    struct gpu_pass *pass = stage->pass;
    const struct part part = part_of(pipeline, stage->sent);
    struct engine_batch asked;
    bool done;
    show(batch, &pipeline->whole, &part, &asked);
    if (number > 0) {
        batch->pass = stage[-1].pass;
        batch->pass->first_row = pass->first_row = (uint32_t)part.first;
        batch->scratch.buffers[BUFFER_HIDDEN] = (float *)pass_left(batch, 0);
    }
    batch->pass = pass;
    begin(pass, &part);
    if (pass->plan->layers[0]) /* else the CPU has embedded all rows */
        TRY(gpu_pass_embed(batch, batch->asked->tokens, &done, error));
    for (uint32_t i = 0; i < pass->plan->layer_count; i++)
        if (pass->plan->layers[i])
            TRY(pass_run_layer(batch, i, error));
    if (number + 1 < pipeline->count)
        pass_record_leaving(batch);
    TRY(pass_send(pass, error));
    pass->parts++;
    tell(pipeline, stage, stage->sent, "got");
    stage->tickets[stage->sent++ % PARTS_AHEAD] = pass->last;
    return HYPURA_OK;
}

/* Whether a device can get its next part. */
static bool is_ready(const struct pipeline *pipeline, size_t number)
{
    const struct stage *stage = &pipeline->stages[number];
    return stage->sent < pipeline->parts && stage->sent - stage->taken < PARTS_AHEAD &&
           (number == 0 || stage[-1].taken > stage->sent);
}

/* The device to wait for: one whose part is done, else the one that is farthest behind. */
static struct stage *next_done(struct pipeline *pipeline)
{
    struct stage *next = NULL;
    for (size_t d = 0; d < pipeline->count; d++) {
        struct stage *stage = &pipeline->stages[d];
        if (stage->taken == stage->sent)
            continue;
        if (gpu_done(stage->pass->gpu, stage->tickets[stage->taken % PARTS_AHEAD]))
            return stage;
        if (!next || stage->taken + d < next->taken + (size_t)(next - pipeline->stages))
            next = stage;
    }
    return next;
}

static hypura_status run(struct batch *batch, struct pipeline *pipeline, hypura_error *error)
{
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++) {
        struct gpu_pass *pass = batch->passes[d];
        if (!pass || !pass->plan->taken)
            continue;
        pass->parts = 0;
        pipeline->stages[pipeline->count++].pass = pass;
    }
    struct stage *const last = &pipeline->stages[pipeline->count - 1];
    while (last->sent < pipeline->parts) {
        bool any = false;
        for (size_t d = pipeline->count; d-- > 0;)
            for (; is_ready(pipeline, d); any = true)
                TRY(send_part(batch, pipeline, d, error));
        struct stage *stage = any && last->sent == pipeline->parts ? NULL : next_done(pipeline);
        if (!stage)
            continue;
        TRY(gpu_wait(stage->pass->gpu, stage->tickets[stage->taken % PARTS_AHEAD], error));
        tell(pipeline, stage, stage->taken++, "is done with");
        if (batch_is_to_end(batch))
            return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    }
    /* The rows of the last part are still on the last device. */
    batch->asked = pipeline->whole.asked;
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
    struct pipeline pipeline = {.parts = count_parts(batch), .begun = asked_parts(batch) ? clock_nanoseconds() : 0};
    struct view *whole = &pipeline.whole;
    bool done;
    look(batch, whole);
    const size_t first = part_of(&pipeline, pipeline.parts - 1).first;
    batch->narrowing.layer = NO_LAYER; /* a part does not narrow further */
    for (size_t i = 0; i < whole->wanted; i++)
        batch->scratch.wanted[i] -= (uint32_t)first;
    hypura_status status = run(batch, &pipeline, error);
    if (!status)
        status = whole->wanted ? gpu_pass_output(batch, whole->asked, &done, error) : gpu_pass_end(batch, error);
    restore(batch, whole);
    for (size_t i = 0; i < whole->wanted; i++)
        batch->scratch.wanted[i] += (uint32_t)first;
    return status;
}
