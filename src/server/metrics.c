/* GET /metrics in Prometheus' text format, version 0.0.4, and POST /api/hypura/memory. */
#include "server/server_private.h"
#include "server/worker.h"

#include <string.h>

static void put(struct buffer *out, const char *name, const char *type, const char *help, double value)
{
    buffer_append_format(out, "# HELP hypura_%s %s\n# TYPE hypura_%s %s\nhypura_%s %.17g\n", name, help, name, type,
                         name, value);
}

/* ---- per model -----------------------------------------------------------------------------------------------------
 */

struct row {
    const char *name, *type, *help;
    double value;
};

struct model_figures {
    char *name; /* the value of the label */
    struct row rows[20];
};

struct figures {
    struct model_figures items[SERVER_MOST_LOADED];
    size_t count;
};

static void take_figures(void *context, struct loaded_model *loaded)
{
    struct figures *figures = context;
    struct model_figures *one = &figures->items[figures->count];
    struct engine_statistics s;
    /* Names contain no character that needs escaping in a label. */
    if (figures->count == SERVER_MOST_LOADED || string_copy(&one->name, loaded->entry.name, NULL))
        return;
    engine_statistics(loaded->engine, &s);
    uint64_t kv_bytes = 0, kv_used_bytes = 0;
    for (uint32_t d = 0; d < s.device_count; d++) {
        kv_bytes += s.devices[d].kv_bytes;
        kv_used_bytes += s.devices[d].kv_used_bytes;
    }
    const struct row rows[] = {
        {"model_bytes", "gauge", "The model's share of the memory budget.", (double)loaded->bytes},
        {"weights_ram_bytes", "gauge", "Weights in memory.", (double)s.bytes_ram},
        {"weights_gpu_bytes", "gauge", "Weights on the GPU.", (double)s.bytes_gpu},
        {"kv_gpu_bytes", "gauge", "Memory of the GPU for keys, values and states.", (double)kv_bytes},
        {"kv_gpu_used_bytes", "gauge", "Of these, those in use. What sequences share counts once.",
         (double)kv_used_bytes},
        {"weights_storage_bytes", "gauge", "Weights on storage only.", (double)s.bytes_storage},
        {"pool_bytes", "gauge", "Memory for streamed weights.", (double)s.store.pool_bytes},
        {"storage_read_bytes_total", "counter", "Bytes read from storage since the model was loaded.",
         (double)s.store.bytes_read},
        {"expert_hits_total", "counter", "Uses of experts that were in memory.", (double)s.store.expert_hits},
        {"expert_misses_total", "counter", "Uses of experts that had to be read.", (double)s.store.expert_misses},
        {"expert_moves_total", "counter", "Experts moved to the GPU while running.", (double)s.store.expert_moves},
        {"stall_seconds_total", "counter", "Time spent waiting for storage.", (double)s.store.stall_nanoseconds * 1e-9},
        {"drafted_tokens_total", "counter", "Drafted tokens.", (double)s.drafted_tokens},
        {"accepted_tokens_total", "counter", "Drafted tokens that were accepted.", (double)s.accepted_tokens},
        {"prefix_bytes", "gauge", "Memory that holds kept prefixes.", (double)s.prefix.bytes},
        {"prefix_tokens_total", "counter",
         "Tokens restored from kept prefixes, in memory or in the prefix cache's folder.",
         (double)s.prefix.restored_tokens},
        {"prefix_read_bytes_total", "counter", "Bytes read from the prefix cache's folder.",
         (double)s.prefix.read_bytes},
        {"prefix_written_bytes_total", "counter", "Bytes written to the prefix cache's folder.",
         (double)s.prefix.written_bytes},
        {"decode_seconds_total", "counter", "Time spent on batches that generate.", s.decode_seconds},
        {"prompt_seconds_total", "counter", "Time spent on batches of prompts.", s.prompt_seconds}};
    _Static_assert(sizeof rows == sizeof one->rows, "all rows fit");
    memcpy(one->rows, rows, sizeof rows);
    figures->count++;
}

/* The format requires that all samples of a metric follow each other. */
static void put_models(struct buffer *out, struct loaded_models *models)
{
    struct figures *figures;
    if (ALLOCATE(&figures, 1, "figures", NULL)) {
        out->failed = true;
        return;
    }
    loaded_each(models, take_figures, figures);
    put(out, "models_loaded", "gauge", "Models in memory.", (double)figures->count);
    put(out, "budget_bytes", "gauge", "Memory budget; 0: chosen when a model is loaded.",
        (double)loaded_budget(models));
    for (size_t r = 0; figures->count && r < COUNT_OF(figures->items[0].rows); r++) {
        const struct row *first = &figures->items[0].rows[r];
        buffer_append_format(out, "# HELP hypura_%s %s\n# TYPE hypura_%s %s\n", first->name, first->help, first->name,
                             first->type);
        for (size_t i = 0; i < figures->count; i++)
            buffer_append_format(out, "hypura_%s{model=\"%s\"} %.17g\n", first->name, figures->items[i].name,
                                 figures->items[i].rows[r].value);
    }
    for (size_t i = 0; i < figures->count; i++)
        memory_free(figures->items[i].name);
    memory_free(figures);
}

void handle_metrics(struct exchange *exchange)
{
    struct server *server = exchange_server(exchange);
    struct server_counters *c = &server->counters;
    struct buffer out = {0};
    put(&out, "uptime_seconds", "gauge", "Time since the server started.", clock_seconds_since(server->start));
    put(&out, "requests_total", "counter", "HTTP requests.", (double)atomic_load(&c->requests));
    put(&out, "requests_refused_total", "counter", "Requests refused before they were served.",
        (double)atomic_load(&c->refused));
    put(&out, "requests_failed_total", "counter", "Requests that ended in a server error.",
        (double)atomic_load(&c->failed));
    put(&out, "answers_total", "counter", "Answers completed.", (double)atomic_load(&c->answers));
    put(&out, "answers_cancelled_total", "counter", "Answers whose client left before the end.",
        (double)atomic_load(&c->cancelled));
    put(&out, "prompt_tokens_total", "counter", "Tokens of prompts.", (double)atomic_load(&c->prompt_tokens));
    put(&out, "prompt_tokens_cached_total", "counter", "Prompt tokens that were already in a cache.",
        (double)atomic_load(&c->cached_tokens));
    put(&out, "generated_tokens_total", "counter", "Tokens of answers.", (double)atomic_load(&c->generated_tokens));
    put(&out, "answers_running", "gauge", "Running requests.", worker_running(server->worker));
    put(&out, "requests_waiting", "gauge",
        "Requests that wait in the queue, for a model, or for their prompt to be made.",
        worker_waiting(server->worker));
    put(&out, "resident_bytes", "gauge", "Resident memory of the process.", (double)memory_resident_bytes());
    put_models(&out, server->models);
    exchange_reply(exchange, out.failed ? 500 : 200, "text/plain; version=0.0.4; charset=utf-8",
                   out.data ? out.data : "", out.size);
    buffer_free(&out);
}

/* ---- the memory budget ---------------------------------------------------------------------------------------------
 */

struct budget_job {
    struct job job; /* first; its exchange may be NULL */
    struct server *server;
    uint64_t bytes;
};

static void free_budget_job(struct job *job)
{
    if (job->exchange)
        exchange_release(job->exchange);
    memory_free(job);
}

static void fail_budget(struct exchange *exchange, unsigned status, const char *message)
{
    if (exchange)
        exchange_fail(exchange, status, message);
    else
        server_log("warning", "memory budget not changed", "reason=\"%s\"", message);
}

static void refuse_budget(struct job *job, unsigned status, const char *message)
{
    fail_budget(job->exchange, status, message);
    free_budget_job(job);
}

static void reply_budget(struct exchange *exchange, uint64_t bytes, bool reloaded)
{
    server_log("info", "memory budget changed", "id=%s bytes=%llu reloaded=%s", exchange ? exchange_id(exchange) : "-",
               (unsigned long long)bytes, reloaded ? "true" : "false");
    if (exchange)
        exchange_reply_json(exchange, 200,
                            json_pack("{s:I, s:b}", "budget_bytes", (json_int_t)bytes, "reloaded", (int)reloaded));
}

static void start_reload(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    hypura_error error = {0};
    const struct budget_job *budget = (struct budget_job *)job;
    uint64_t bytes = budget->bytes;
    (void)loaded;
    (void)load_nanoseconds;
    bool reloaded;
    if (loaded_reload(budget->server->models, bytes, &reloaded, &error))
        fail_budget(job->exchange, 400, error.message);
    else
        reply_budget(job->exchange, bytes, reloaded);
    free_budget_job(job);
}

/* If the budget cannot change in place, queues a job that reloads the model after the running answers. */
void change_budget(struct server *server, struct exchange *exchange, uint64_t bytes)
{
    hypura_error error = {0};
    if (loaded_set_budget(server->models, bytes, &error) == HYPURA_OK) {
        reply_budget(exchange, bytes, false);
        return;
    }
    struct budget_job *job;
    if (ALLOCATE(&job, 1, "request", &error)) {
        fail_budget(exchange, 500, error.message);
        return;
    }
    *job = (struct budget_job){
        .job = {.exchange = exchange, .alone = true, .start = start_reload, .refuse = refuse_budget},
        .server = server,
        .bytes = bytes};
    if (exchange)
        exchange_hold(exchange);
    worker_submit(server->worker, &job->job);
}

/* POST /api/hypura/memory: {"memory": "8G"}, or a number of bytes. */
void handle_memory(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    const json_t *memory = json_object_get(json, "memory");
    hypura_error error = {0};
    uint64_t bytes = 0;
    struct server *server = exchange_server(exchange);
    if (!json)
        return;
    if (json_is_integer(memory) && json_integer_value(memory) > 0)
        bytes = (uint64_t)json_integer_value(memory);
    else if (!json_is_string(memory) || parse_bytes(json_string_value(memory), &bytes, &error) || bytes == 0) {
        exchange_fail(exchange, 400, "\"memory\" is required: a size such as \"8G\", or a number of bytes");
        return;
    }
    change_budget(server, exchange, bytes);
}
