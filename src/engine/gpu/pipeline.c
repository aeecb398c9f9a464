/* A prompt on several devices: while one computes a part of the batch, the one before it computes the next part.
 *
 * Each part passes the runs of layers one after the other, as a batch of its own. The batch is narrowed to the part's
 * rows (struct view), which the functions below do not notice. In memory that both sides see, each part has its own
 * rows (gpu_pass.first_row). A device gets its next part while it still computes one. When a run is done with a part,
 * the part's rows go on to the device of the next run. That one has its commands already, and waits for the rows, if it
 * can wait for the host by itself (gpu_info.events).
 *
 * Only batches that devices compute alone pass in parts: those of one sequence, without states, which a part would have
 * to hand to the next, and with wanted rows in the last part only. */
#include "engine/gpu/pass.h"

#include <stdlib.h>

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

/* The number of parts that the environment requests, for measurements; 0: no request. Each part still uses the kernels
 * for many rows, so its bits stay the same. */
static size_t asked_parts(const struct batch *batch)
{
    const char *asked = getenv("HYPURA_GPU_PARTS");
    return asked ? MIN((size_t)strtoul(asked, NULL, 10), batch->rows / (GPU_VECTOR_TOKENS + 1)) : 0;
}

static size_t count_parts(const struct batch *batch)
{
    const struct plan_gpu *plan = batch->pass ? batch->open->plan->gpu : NULL;
    if (!plan || plan_gpu_devices(plan) < 2 || batch->span_count > 1 || batch->trace ||
        batch->narrowing.layer == NO_LAYER || !pass_can_part(&batch->open->geometry) || !pass_devices_do_all(batch))
        return 0;
    const size_t asked = asked_parts(batch), parts = asked ? asked : plan_gpu_parts(plan, batch->rows);
    if (parts < 2)
        return 0;
    return batch->wanted && batch->scratch.wanted[0] < (parts - 1) * (batch->rows / parts) ? 0 : parts;
}

/* ---- carrying it out ----------------------------------------------------------------------------------------------
 */

/* Parts that a device may have at a time: the current one, and the next, so that it never waits for commands. */
#define PARTS_AHEAD 2u

#define MOST_STAGES (HARDWARE_MAX_GPUS * PLAN_MOST_GROUPS)

/* A run of layers on a device: how many parts it was sent, how many it was allowed to begin, and how many it has
 * finished. */
struct stage {
    struct gpu_pass *pass;
    uint32_t first, end; /* layers */
    size_t sent, begun, taken;
    gpu_ticket tickets[PARTS_AHEAD]; /* of its current parts */
    uint64_t values[PARTS_AHEAD];    /* of gpu_signal_host, for which they wait; 0: none */
    size_t orders[PARTS_AHEAD];      /* how many parts were sent before these, to any device */
};

struct pipeline {
    struct view whole;
    struct stage stages[MOST_STAGES];
    size_t count, parts, sent;
    uint64_t begun; /* 0: times are not logged */
};

static struct part part_of(const struct pipeline *pipeline, size_t number)
{
    const size_t rows = pipeline->whole.rows / pipeline->parts, first = number * rows;
    const bool last = number == pipeline->parts - 1;
    return (struct part){first, last ? pipeline->whole.rows - first : rows, last};
}

/* With HYPURA_GPU_PARTS, logs when a device got a part, and when it was seen to be done with it. */
static void tell(const struct pipeline *pipeline, const struct stage *stage, size_t part, const char *what)
{
    if (pipeline->begun)
        log_write(LOG_WARNING, "GPU: %10.3f ms: device %u %s part %zu of %zu in layers %u to %u",
                  clock_seconds_since(pipeline->begun) * 1e3, stage->pass->number, what, part + 1, pipeline->parts,
                  stage->first, stage->end - 1);
}

/* Whether a run cannot begin its next part at once: rows of that one or of an earlier one are still to come. */
static bool must_wait(const struct stage *stage)
{
    return stage->first > 0 && (stage[-1].taken <= stage->sent || stage->begun < stage->sent);
}

/* Records and sends the commands of a run for its next part. */
static hypura_status send_part(struct batch *batch, struct pipeline *pipeline, size_t number, hypura_error *error)
{
    struct stage *stage = &pipeline->stages[number];
    struct gpu_pass *pass = stage->pass;
    const struct part part = part_of(pipeline, stage->sent);
    struct engine_batch asked;
    bool done;
    const uint64_t value = must_wait(stage) ? ++pass->signals : 0;
    show(batch, &pipeline->whole, &part, &asked);
    batch->pass = pass;
    pass_begin_rows(pass, (uint32_t)part.first);
    pass->handed_on = number > 0;
    if (value) {
        pass_record(pass);
        gpu_await_host(pass->gpu, value);
    } else if (number > 0) {
        pass_hand_on(batch, stage[-1].pass);
    }
    if (stage->first == 0) /* if this does nothing, the CPU has embedded all rows */
        TRY(gpu_pass_embed(batch, batch->asked->tokens, &done, error));
    for (uint32_t i = stage->first; i < stage->end; i++)
        TRY(pass_run_layer(batch, i, error));
    if (number + 1 < pipeline->count)
        pass_record_leaving(batch);
    TRY(pass_send(pass, error));
    pass->parts++;
    tell(pipeline, stage, stage->sent, "got");
    stage->tickets[stage->sent % PARTS_AHEAD] = pass->last;
    stage->values[stage->sent % PARTS_AHEAD] = value;
    stage->orders[stage->sent++ % PARTS_AHEAD] = pipeline->sent++;
    stage->begun += !value;
    return HYPURA_OK;
}

/* The run of a device that waits for the oldest part of which it was sent the commands. NULL: none waits. */
static struct stage *next_waiting(struct pipeline *pipeline, const struct gpu_pass *pass)
{
    struct stage *next = NULL;
    for (size_t i = 0; i < pipeline->count; i++) {
        struct stage *stage = &pipeline->stages[i];
        if (stage->pass == pass && stage->begun < stage->sent &&
            (!next || stage->orders[stage->begun % PARTS_AHEAD] < next->orders[next->begun % PARTS_AHEAD]))
            next = stage;
    }
    return next;
}

/* Lets a device begin the parts whose rows have arrived, in the order in which it got the commands. */
static hypura_status let_begin(struct batch *batch, struct pipeline *pipeline, struct gpu_pass *pass,
                               hypura_error *error)
{
    struct stage *stage;
    while ((stage = next_waiting(pipeline, pass)) && stage[-1].taken > stage->begun) {
        const struct part part = part_of(pipeline, stage->begun);
        batch->pass = pass;
        batch->rows = part.rows;
        pass->first_row = (uint32_t)part.first;
        pass_hand_on(batch, stage[-1].pass);
        TRY(gpu_signal_host(pass->gpu, stage->values[stage->begun++ % PARTS_AHEAD], error));
    }
    return HYPURA_OK;
}

/* The number of parts that a device has, in all of its runs. */
static size_t parts_there(const struct pipeline *pipeline, const struct gpu_pass *pass)
{
    size_t count = 0;
    for (size_t i = 0; i < pipeline->count; i++)
        count += pipeline->stages[i].pass == pass ? pipeline->stages[i].sent - pipeline->stages[i].taken : 0;
    return count;
}

/* Whether a run that is not the first may get its next part: once its rows are there, or once what makes them was sent,
 * if the device can wait for them. */
static bool may_send(const struct stage *stage)
{
    const bool waits = gpu_get_info(stage->pass->gpu)->events;
    return (waits ? stage[-1].sent : stage[-1].taken) > stage->sent;
}

/* The run whose next part to send: on the device that has least to do, an early run first, so that no part falls
 * behind. pipeline->count: there is none. */
static size_t next_ready(const struct pipeline *pipeline)
{
    size_t best = pipeline->count, least = PARTS_AHEAD;
    for (size_t i = 0; i < pipeline->count; i++) {
        const struct stage *stage = &pipeline->stages[i];
        if (stage->sent == pipeline->parts || (i > 0 && !may_send(stage)))
            continue;
        const size_t there = parts_there(pipeline, stage->pass);
        if (there < least) {
            least = there;
            best = i;
        }
    }
    return best;
}

static bool is_done(const struct stage *stage)
{
    return stage->taken < stage->sent && gpu_done(stage->pass->gpu, stage->tickets[stage->taken % PARTS_AHEAD]);
}

/* A run that is done with a part, or else the one whose part was sent first. NULL: nothing was sent. */
static struct stage *next_done(struct pipeline *pipeline)
{
    struct stage *next = NULL;
    for (size_t i = 0; i < pipeline->count; i++) {
        struct stage *stage = &pipeline->stages[i];
        if (is_done(stage))
            return stage;
        if (stage->taken < stage->sent &&
            (!next || stage->orders[stage->taken % PARTS_AHEAD] < next->orders[next->taken % PARTS_AHEAD]))
            next = stage;
    }
    return next;
}

/* Any device may be done first, but one can wait for only one at a time, so each wait is short. After some seconds,
 * gpu_wait finds out whether the device hangs. */
#define SHORT_SECONDS 50e-6
#define LONG_SECONDS 5.0

static hypura_status take_done(struct batch *batch, struct pipeline *pipeline, hypura_error *error)
{
    const uint64_t start = clock_nanoseconds();
    struct stage *stage = next_done(pipeline);
    while (!is_done(stage) && clock_seconds_since(start) < LONG_SECONDS &&
           gpu_wait_shortly(stage->pass->gpu, stage->tickets[stage->taken % PARTS_AHEAD], SHORT_SECONDS))
        stage = next_done(pipeline);
    TRY(gpu_wait(stage->pass->gpu, stage->tickets[stage->taken % PARTS_AHEAD], error));
    tell(pipeline, stage, stage->taken++, "is done with");
    if (stage + 1 < pipeline->stages + pipeline->count)
        TRY(let_begin(batch, pipeline, stage[1].pass, error));
    return batch_is_to_end(batch) ? error_set(error, HYPURA_ERROR_CANCELLED, "cancelled") : HYPURA_OK;
}

static void find_stages(struct batch *batch, struct pipeline *pipeline)
{
    const struct plan_gpu *plan = batch->open->plan->gpu;
    for (uint32_t first = 0, end; first < plan->layer_count; first = end) {
        struct gpu_pass *pass = batch->passes[plan->devices[first]];
        end = plan_gpu_run_end(plan, first);
        pass->parts = 0;
        pipeline->stages[pipeline->count++] = (struct stage){.pass = pass, .first = first, .end = end};
    }
}

static hypura_status run(struct batch *batch, struct pipeline *pipeline, hypura_error *error)
{
    find_stages(batch, pipeline);
    const struct stage *const last = &pipeline->stages[pipeline->count - 1];
    while (last->begun < pipeline->parts) {
        const size_t ready = next_ready(pipeline);
        if (ready < pipeline->count)
            TRY(send_part(batch, pipeline, ready, error));
        else
            TRY(take_done(batch, pipeline, error));
    }
    /* The rows of the last part are still on the last device. */
    batch->asked = pipeline->whole.asked;
    return HYPURA_OK;
}

bool gpu_pass_pipelines(const struct batch *batch, bool *embeds)
{
    const bool pipelines = count_parts(batch) > 0;
    const struct step_list before = steps_before(batch->open->steps);
    *embeds = pipelines && before.count == 1 &&
              batch->open->plan->gpu->units[before.steps->embed.unit] == 1 + batch->open->plan->gpu->devices[0];
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
