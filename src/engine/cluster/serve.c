/* Ranks other than 0: open the models that rank 0 opens, hold their share of experts or layers, and compute with
 * them. */
#include "engine/cluster/part.h"
#include "engine/cpu/execute.h"
#include "engine/gpu/pass.h"

#include <string.h>

#define MOST_PARTS 16u

/* One opened model. */
struct part {
    uint32_t model;
    struct engine *engine; /* NULL: this entry is free */
    struct engine_options options;
    uint8_t *elsewhere; /* [unit_count] */
    struct parts parts; /* of a partial file; digests NULL: the file is whole */
    uint16_t *choices;  /* [MESSAGE_ROWS_MOST][used] */
    bool placed, passing;
    struct counted counted;
    hypura_error lost; /* status not 0: why its GPUs compute nothing any more */
};

struct server {
    struct cluster *cluster;
    const struct engine_options *options;
    struct part parts[MOST_PARTS];
};

static struct part *find(struct server *server, uint32_t model)
{
    for (uint32_t i = 0; i < MOST_PARTS; i++)
        if (server->parts[i].engine && server->parts[i].model == model)
            return &server->parts[i];
    return NULL;
}

static hypura_status refuse(struct server *server, const char *what, hypura_error *error)
{
    return cluster_refuse(server->cluster, 0, what, error);
}

static hypura_status fail(struct server *server, uint32_t model, const hypura_error *failure, hypura_error *error)
{
    return message_fail(server->cluster, 0, model, failure, error);
}

static void end_pass(struct part *part)
{
    hypura_error changed; /* if a file was written to, the next read says so */
    hypura_status status = part->passing ? store_advance(part->engine->open.store, &changed) : HYPURA_OK;
    if (status)
        store_abandon(part->engine->open.store);
    if (status == HYPURA_ERROR_DEVICE) /* it does not know which experts it has */
        part->lost = changed;
    part->passing = false;
}

static void close_part(struct part *part)
{
    if (part->engine && part->placed)
        end_pass(part);
    engine_close(part->engine);
    memory_free(part->elsewhere);
    memory_free(part->choices);
    parts_free(&part->parts);
    *part = (struct part){0};
}

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

static hypura_status open_part(struct server *server, struct part *part, const char *path, bool predicting,
                               struct measured *out, hypura_error *error)
{
    struct plan_host host;
    part->options = *server->options;
    part->options.remember_usage = false;
    part->options.begin_early = false;
    part->options.trace_path = NULL;
    part->options.progress = NULL;
    part->options.experts_only = true;
    TRY(engine_open_part(&part->engine, path, predicting, &part->options, error));
    struct opened *open = &part->engine->open;
    if (model_parameters(open->model)->experts == 0)
        part->options.gpu = "none"; /* layers of a dense model are computed on the CPU */
    if (gguf_is_partial(model_file(open->model)))
        TRY(parts_read(&part->parts, open->model, error));
    const struct parts *parts = part->parts.digests ? &part->parts : NULL;
    part_options(&part->options, &open->hardware);
    TRY(ALLOCATE(&part->elsewhere, model_unit_count(open->model), "experts of this host", error));
    TRY(ALLOCATE(&part->choices, (size_t)MESSAGE_ROWS_MOST * MAX(model_parameters(open->model)->experts_used, 1u),
                 "choices of experts", error));
    part_elsewhere(part->elsewhere, open->model, open->steps, NULL, 0);
    part->options.elsewhere = part->elsewhere;
    TRY(gpu_pass_open_devices(&open->devices, &open->hardware, &part->options, error));
    if (open->devices.count == 0)
        part->options.gpu = "none"; /* the log has said why; do not try again */
    gpu_pass_keep_budgets(&part->options, &open->devices, &open->hardware);
    struct plan *plan;
    double device_seconds = 0;
    struct plan_request request;
    const struct part_of of = {&open->geometry, open->model,     open->steps,
                               open->adapters,  &open->hardware, &open->devices};
    TRY(part_room(&host, &device_seconds, &plan, &request, &of, &part->options, error));
    plan_free(plan);
    *out = (struct measured){.memory = host.memory,
                             .expert_room = host.expert_room,
                             .compute_bytes_per_second = host.compute_bytes_per_second,
                             .multiply_adds_per_second = host.multiply_adds_per_second,
                             .drive_bytes_per_second = host.drive_bytes_per_second,
                             .device_seconds = device_seconds,
                             .instructions = (uint32_t)compute_best_instructions(),
                             .threads = (uint32_t)part->options.threads,
                             .listed = parts ? (uint64_t)parts->layers * parts->experts : 0};
    return digest_of_model(&out->digest, open, parts, error);
}

static hypura_status send_list(struct server *server, const struct part *part, hypura_error *error)
{
    const uint64_t count = (uint64_t)part->parts.layers * part->parts.experts;
    TRY(message_send(server->cluster, 0, MESSAGE_HAS, part->model, count, error));
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t has = part->parts.digests[i] != 0;
        TRY(cluster_write(server->cluster, 0, &has, sizeof has, error));
    }
    return HYPURA_OK;
}

/* Checks that the file has all experts of this rank: a missing one is a hole, which would be read as zeros. */
static hypura_status check_parts(const struct part *part, hypura_error *error)
{
    const struct model *model = part->engine->open.model;
    for (unit_number u = 0; part->parts.digests && u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        if (unit->kind == UNIT_EXPERT && !part->elsewhere[u] &&
            !part->parts.digests[(size_t)unit->layer * part->parts.experts + (size_t)unit->expert])
            return error_set(error, HYPURA_ERROR_FORMAT, "%s lacks expert %d of layer %d",
                             gguf_file_path(model_file(model), 0), unit->expert, unit->layer);
    }
    return HYPURA_OK;
}

static hypura_status on_ask(struct server *server, const struct message *message, hypura_error *error)
{
    struct ask ask;
    struct measured measured = {0};
    hypura_error failure;
    char path[MESSAGE_PATH_MOST + 1];
    struct part *part = NULL;
    if (message->bytes < sizeof ask || message->bytes > sizeof ask + MESSAGE_PATH_MOST)
        return refuse(server, "a model without a path", error);
    TRY(cluster_read(server->cluster, 0, &ask, sizeof ask, error));
    if (ask.path_bytes != message->bytes - sizeof ask)
        return refuse(server, "a model without a path", error);
    TRY(cluster_read(server->cluster, 0, path, ask.path_bytes, error));
    path[ask.path_bytes] = 0;
    for (uint32_t i = 0; i < MOST_PARTS && !part; i++)
        part = server->parts[i].engine ? NULL : &server->parts[i];
    if (!part) {
        error_set(&failure, HYPURA_ERROR_MEMORY, "%u models are open already; no more are possible", MOST_PARTS);
        return fail(server, message->model, &failure, error);
    }
    part->model = message->model;
    if (open_part(server, part, path, ask.predicting, &measured, &failure)) {
        close_part(part);
        return fail(server, message->model, &failure, error);
    }
    TRY(message_send(server->cluster, 0, MESSAGE_MEASURED, message->model, sizeof measured, error));
    TRY(cluster_write(server->cluster, 0, &measured, sizeof measured, error));
    if (measured.listed)
        TRY(send_list(server, part, error));
    return cluster_flush(server->cluster, 0, error);
}

static hypura_status on_place(struct server *server, struct part *part, const struct message *message,
                              hypura_error *error)
{
    hypura_error failure;
    struct opened *open = &part->engine->open;
    const uint32_t units = model_unit_count(open->model);
    if (message->bytes != units || part->placed)
        return refuse(server, "a plan for another model", error);
    uint8_t *owners;
    TRY(ALLOCATE(&owners, units, "experts of all hosts", error));
    hypura_status status = cluster_read(server->cluster, 0, owners, units, error);
    struct ready ready = {.digest = fnv1a(FNV1A_START, owners, units)};
    if (!status)
        part_elsewhere(part->elsewhere, open->model, open->steps, owners, cluster_rank(server->cluster));
    memory_free(owners);
    TRY(status);
    if (check_parts(part, &failure) || engine_open_places(part->engine, &part->options, &failure)) {
        close_part(part);
        return fail(server, message->model, &failure, error);
    }
    part->placed = true;
    ready.chunk = MIN(open->plan->chunk, MESSAGE_ROWS_MOST);
    ready.streams = !plan_holds_experts(open->plan) && open->plan->mode != PLAN_FULL_RESIDENT;
    TRY(message_send(server->cluster, 0, MESSAGE_READY, message->model, sizeof ready, error));
    TRY(cluster_write(server->cluster, 0, &ready, sizeof ready, error));
    return cluster_flush(server->cluster, 0, error);
}

/* ---- computing -----------------------------------------------------------------------------------------------------
 */

static const struct step *experts_of(const struct part *part, uint32_t layer)
{
    const struct opened *open = &part->engine->open;
    return layer < model_parameters(open->model)->layers ? steps_find(steps_of_layer(open->steps, layer), STEP_EXPERTS)
                                                         : NULL;
}

/* Reads choices, weights and rows to where the executor expects them. */
static hypura_status read_task(struct server *server, struct part *part, const struct step *step,
                               const struct task *task, hypura_error *error)
{
    struct batch *batch = &part->engine->batch;
    struct scratch *s = &batch->scratch;
    const struct step_experts *x = &step->experts;
    const size_t choices = (size_t)task->rows * task->used;
    const uint32_t experts = model_parameters(part->engine->open.model)->experts;
    uint32_t own = 0;
    TRY(cluster_read(server->cluster, 0, part->choices, choices * sizeof *part->choices, error));
    if (task->weighed)
        TRY(cluster_read(server->cluster, 0, s->chosen_weights, choices * sizeof *s->chosen_weights, error));
    TRY(cluster_read(server->cluster, 0, rows_of(batch, x->in), (size_t)task->rows * x->columns * sizeof(float),
                     error));
    for (size_t i = 0; i < choices; i++) {
        if (part->choices[i] >= experts)
            return refuse(server, "experts that do not exist", error);
        s->chosen[i] = part->choices[i];
        own += !part->elsewhere[x->first + s->chosen[i]];
    }
    return own == task->choices ? HYPURA_OK : refuse(server, "experts that this host does not have", error);
}

static hypura_status send_rows(struct server *server, const struct part *part, const struct step *step,
                               const struct task *task, hypura_error *error)
{
    struct counted counted = part->counted;
    struct store_statistics store;
    const struct scratch *s = &part->engine->batch.scratch;
    const struct step_experts *x = &step->experts;
    const uint64_t row_bytes = x->columns * sizeof(float);
    store_statistics(part->engine->open.store, &store);
    counted.bytes_read = store.bytes_read;
    counted.expert_hits = store.expert_hits;
    counted.expert_misses = store.expert_misses;
    TRY(message_send(server->cluster, 0, MESSAGE_ROWS, part->model, sizeof counted + task->choices * row_bytes, error));
    TRY(cluster_write(server->cluster, 0, &counted, sizeof counted, error));
    for (size_t i = 0; i < (size_t)task->rows * task->used; i++)
        if (!part->elsewhere[x->first + s->chosen[i]])
            TRY(cluster_write(server->cluster, 0, s->expert_out + i * x->columns, row_bytes, error));
    return cluster_flush(server->cluster, 0, error);
}

/* Inputs of matrices, on their way to the watcher on rank 0. */
struct watched {
    struct cluster *cluster;
    const struct part *part;
    hypura_status status;
    hypura_error error;
};

static hypura_status send_input(struct watched *watched, const struct seen_input *input, const float *row,
                                hypura_error *error)
{
    const size_t bytes = (size_t)input->columns * sizeof *row;
    TRY(message_send(watched->cluster, 0, MESSAGE_INPUT, watched->part->model, sizeof *input + bytes, error));
    TRY(cluster_write(watched->cluster, 0, input, sizeof *input, error));
    return cluster_write(watched->cluster, 0, row, bytes, error);
}

static void see(void *context, const struct gguf_tensor *tensor, uint32_t matrix, const float *row, size_t columns)
{
    struct watched *watched = context;
    const struct gguf *file = model_file(watched->part->engine->open.model);
    const struct seen_input input = {(uint32_t)(tensor - gguf_tensor_at(file, 0)), matrix, columns};
    if (!watched->status)
        watched->status = send_input(watched, &input, row, &watched->error);
}

/* Computes the chosen experts of a step, on GPUs those that they hold. */
static hypura_status run_experts_here(struct part *part, const struct step *step, hypura_error *error)
{
    struct batch *batch = &part->engine->batch;
    uint64_t there = 0;
    if (!gpu_pass_has(batch, (uint32_t)step->layer))
        return run_chosen_experts(batch, step, NULL, error);
    if (batch->watch)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "inputs of experts on a GPU cannot be watched: start all ranks with --gpu none");
    TRY(gpu_pass_experts(batch, step, &there, error));
    part->counted.device_experts += there;
    return HYPURA_OK;
}

/* Executes steps, or the chosen experts of one, and sends rank 0 the inputs of matrices if it wants them. */
static hypura_status compute(struct server *server, struct part *part, struct step_list steps, bool are_watched,
                             hypura_error *error)
{
    struct batch *batch = &part->engine->batch;
    struct watched watched = {server->cluster, part, HYPURA_OK, {0}};
    const struct engine_watch watch = {see, &watched};
    const uint64_t start = clock_nanoseconds();
    if (part->lost.status)
        return error_set(error, part->lost.status, "%s", part->lost.message);
    forget_inputs(batch, UINT32_MAX);
    if (!part->passing)
        store_begin(part->engine->open.store);
    part->passing = true;
    batch->watch = are_watched ? &watch : NULL;
    hypura_status status =
        steps.steps->kind == STEP_EXPERTS ? run_experts_here(part, steps.steps, error) : execute(batch, steps, error);
    batch->watch = NULL;
    if (!status && watched.status) {
        status = watched.status;
        *error = watched.error;
    }
    part->counted.busy_nanoseconds += clock_nanoseconds() - start;
    return status;
}

static hypura_status on_experts(struct server *server, struct part *part, const struct message *message,
                                hypura_error *error)
{
    struct task task;
    hypura_error failure;
    if (message->bytes < sizeof task || !part->placed)
        return refuse(server, "rows that were not expected", error);
    TRY(cluster_read(server->cluster, 0, &task, sizeof task, error));
    const struct step *step = experts_of(part, task.layer);
    const uint32_t chunk = MIN(part->engine->batch.scratch.chunk, MESSAGE_ROWS_MOST);
    if (!step || task.rows == 0 || task.rows > chunk || task.used != step->experts.used ||
        task.columns != step->experts.columns || task.weighed != step->experts.weighs_input)
        return refuse(server, "rows of another model", error);
    const uint64_t each =
        task.used * (sizeof *part->choices + (task.weighed ? sizeof(float) : 0)) + task.columns * sizeof(float);
    if (message->bytes != sizeof task + task.rows * each)
        return refuse(server, "more or fewer rows than announced", error);
    budget_lend_buffers(&part->engine->batch, task.rows);
    TRY(read_task(server, part, step, &task, error));
    part->engine->batch.rows = task.rows;
    part->counted.experts += task.choices;
    if (compute(server, part, (struct step_list){step, 1}, task.watched, &failure))
        return fail(server, message->model, &failure, error);
    return send_rows(server, part, step, &task, error);
}

/* Reads or writes rows of buffers, in the same order as run.c on rank 0. */
static hypura_status move_rows(struct server *server, struct batch *batch, const size_t *widths, bool out,
                               hypura_error *error)
{
    for (enum step_buffer b = BUFFER_NONE + 1; b < BUFFER_COUNT; b++) {
        const size_t bytes = batch->rows * widths[b] * sizeof(float);
        if (widths[b])
            TRY(out ? cluster_write(server->cluster, 0, rows_of(batch, b), bytes, error)
                    : cluster_read(server->cluster, 0, rows_of(batch, b), bytes, error));
    }
    return HYPURA_OK;
}

/* Whether these steps are a run, or a part of one, and this rank holds all their units. */
static bool has_run(const struct part *part, struct step_list list, size_t first, size_t count)
{
    size_t begin;
    if (first >= list.count || count == 0 || steps_run_left(list, first, &begin) < count)
        return false;
    for (size_t i = first; i < first + count; i++) {
        struct step_unit units[STEP_UNITS];
        const size_t used = step_units(&list.steps[i], units);
        for (size_t u = 0; u < used; u++)
            if (part->elsewhere[units[u].unit])
                return false;
    }
    return true;
}

static hypura_status on_run(struct server *server, struct part *part, const struct message *message,
                            hypura_error *error)
{
    struct run_task task;
    struct step_rows_of_run rows;
    struct store_statistics store;
    hypura_error failure;
    if (message->bytes < sizeof task || !part->placed)
        return refuse(server, "rows that were not expected", error);
    TRY(cluster_read(server->cluster, 0, &task, sizeof task, error));
    const struct opened *open = &part->engine->open;
    struct batch *batch = &part->engine->batch;
    const struct model_parameters *p = model_parameters(open->model);
    const uint32_t chunk = MIN(batch->scratch.chunk, MESSAGE_ROWS_MOST);
    if (task.layer >= p->layers || task.rows == 0 || task.rows > chunk ||
        !has_run(part, steps_of_layer(open->steps, task.layer), task.first, task.count))
        return refuse(server, "a run of another model", error);
    const struct step_list layer = steps_of_layer(open->steps, task.layer);
    steps_run_rows(layer, task.first, task.count, p->embedding, &rows);
    if (rows.in_width != task.in_width || rows.out_width != task.out_width ||
        message->bytes != sizeof task + task.rows * rows.in_width * sizeof(float))
        return refuse(server, "more or fewer rows than announced", error);
    batch->rows = task.rows;
    TRY(move_rows(server, batch, rows.in, false, error));
    if (compute(server, part, (struct step_list){layer.steps + task.first, task.count}, task.watched, &failure))
        return fail(server, message->model, &failure, error);
    store_statistics(part->engine->open.store, &store);
    struct counted counted = part->counted;
    counted.bytes_read = store.bytes_read;
    TRY(message_send(server->cluster, 0, MESSAGE_ROWS, part->model,
                     sizeof counted + task.rows * rows.out_width * sizeof(float), error));
    TRY(cluster_write(server->cluster, 0, &counted, sizeof counted, error));
    TRY(move_rows(server, batch, rows.out, true, error));
    return cluster_flush(server->cluster, 0, error);
}

static hypura_status on_prefetch(struct server *server, struct part *part, const struct message *message,
                                 hypura_error *error)
{
    uint32_t layer;
    const uint32_t experts = model_parameters(part->engine->open.model)->experts;
    struct scratch *s = &part->engine->batch.scratch;
    const uint64_t count = (message->bytes - MIN(message->bytes, (uint64_t)sizeof layer)) / sizeof *s->likely;
    if (!part->placed || count == 0 || count > experts || message->bytes != sizeof layer + count * sizeof *s->likely)
        return refuse(server, "a list of experts of another model", error);
    TRY(cluster_read(server->cluster, 0, &layer, sizeof layer, error));
    TRY(cluster_read(server->cluster, 0, s->likely, count * sizeof *s->likely, error));
    const struct step *step = experts_of(part, layer);
    uint32_t own = 0;
    for (uint64_t i = 0; step && i < count; i++) {
        if (s->likely[i].expert >= experts || part->elsewhere[step->experts.first + s->likely[i].expert])
            return refuse(server, "experts that this host does not have", error);
        s->prefetch_units[own] = step->experts.first + s->likely[i].expert;
        s->prefetch_probabilities[own++] = s->likely[i].probability;
    }
    if (!part->passing)
        store_begin(part->engine->open.store);
    part->passing = true;
    if (own)
        store_prefetch(part->engine->open.store, s->prefetch_units, s->prefetch_probabilities, own);
    return HYPURA_OK;
}

/* ---- the loop ------------------------------------------------------------------------------------------------------
 */

static hypura_status serve(struct server *server, hypura_error *error)
{
    for (;;) {
        struct message message;
        TRY(message_receive(server->cluster, 0, &message, error));
        struct part *part = find(server, message.model);
        if (message.kind == MESSAGE_ASK) {
            if (part)
                return refuse(server, "a model that is open already", error);
            TRY(on_ask(server, &message, error));
            continue;
        }
        if (!part) { /* after a failure to open, only these may follow */
            if (message.kind != MESSAGE_CLOSE && message.kind != MESSAGE_PASSED)
                return refuse(server, "a request for a model that is not open", error);
            continue;
        }
        if (message.kind == MESSAGE_PLACE)
            TRY(on_place(server, part, &message, error));
        else if (message.kind == MESSAGE_EXPERTS)
            TRY(on_experts(server, part, &message, error));
        else if (message.kind == MESSAGE_RUN)
            TRY(on_run(server, part, &message, error));
        else if (message.kind == MESSAGE_PREFETCH)
            TRY(on_prefetch(server, part, &message, error));
        else if (message.kind == MESSAGE_PASSED)
            end_pass(part);
        else if (message.kind == MESSAGE_CLOSE)
            close_part(part);
        else
            return refuse(server, "an answer instead of a request", error);
    }
}

hypura_status engine_serve(const struct engine_options *options, hypura_error *error)
{
    struct server *server;
    TRY(ALLOCATE(&server, 1, "models of other hosts", error));
    server->cluster = cluster_here();
    server->options = options;
    hypura_status status = serve(server, error);
    for (uint32_t i = 0; i < MOST_PARTS; i++)
        close_part(&server->parts[i]);
    memory_free(server);
    return status == HYPURA_ERROR_CANCELLED ? HYPURA_OK : status;
}
