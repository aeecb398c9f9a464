/* hypura batch: answers many requests from a file. Requests that run together share each read of streamed weights.
 * Answers are written as soon as they are complete, and the same command continues where an earlier run ended. */
#include "cli/batch.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TERMINAL_NANOSECONDS UINT64_C(250000000) /* between updates of the status line in a terminal */
#define LOG_NANOSECONDS UINT64_C(60000000000)    /* between status lines in a log */
#define LATER_MILLISECONDS 100                   /* how long to wait for answers, or for a line from a pipe */
#define AHEAD 2                                  /* requests submitted per answer that can run */

static const char *input_path, *output_path, *system_text;
static uint32_t parallel, max_tokens;
static struct texts fields;

static const struct option_row batch_rows[] = {
    {"input", "FILE", OPTION_TEXT, &input_path, "the requests, one JSON object per line; - is standard input"},
    {"output", "FILE", OPTION_TEXT, &output_path,
     "the answers; requests already answered in this file are skipped. - is standard output: answers come in the order "
     "in which they are completed, and a later run cannot continue"},
    {"parallel", "N", OPTION_COUNT, &parallel, "answers computed at the same time (default: 8)"},
    {"max-tokens", "N", OPTION_LIMIT, &max_tokens, "end each answer after N tokens (default: no limit)"},
    {"seed", "N", OPTION_SEED, &compute_options.seed,
     "seed for each answer (default: 0); the same seed gives the same text"},
    {"system", "TEXT", OPTION_TEXT, &system_text, "a system message before each prompt"},
    {"set", "NAME=VALUE", OPTION_TEXTS, &fields,
     "default for a field of each request, such as temperature=0; may be repeated"},
    {0},
};

/* A request, from its submission until its answer is written. */
struct request {
    struct request *next;
    struct batch *batch;
    struct batch_line line;
    unsigned status;
    char *text;
    size_t size;
};

struct batch {
    hypura_options options;
    hypura_adapter *adapters;
    hypura_endpoint *endpoint;
    struct batch_output *output;
    struct batch_defaults defaults;

    struct batch_input *input;
    enum batch_reading reading;
    struct batch_text text; /* the next request to submit, if reading is BATCH_LINE */

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct request *answered; /* guarded by the mutex; newest first */

    uint64_t in_work, before, done, refused; /* counts of lines. before: done by earlier runs; refused: part of done */
    uint64_t written_tokens, budget;
    uint64_t start;

    uint64_t looked, shown, shown_tokens, shown_bytes;
};

/* ---- progress ---- */

/* ", about 2 h 10 min left, until 06:40"; empty until it can be estimated. */
static void say_rest(const struct batch *batch, char *out, size_t room, uint64_t now)
{
    uint64_t finished = batch->before + batch->done, total = batch_input_lines(batch->input);
    *out = 0;
    if (total <= finished || !batch->done)
        return;
    double all = (double)(now - batch->start) * 1e-9;
    double left = all / (double)batch->done * (double)(total - finished);
    time_t then = time(NULL) + (time_t)left;
    struct tm parts;
    char text[32], clock[16] = "?";
    if (localtime_r(&then, &parts))
        strftime(clock, sizeof clock, left < 12 * 3600 ? "%H:%M" : "%a %H:%M", &parts);
    snprintf(out, room, ", about %s left, until %s", format_time(text, sizeof text, left), clock);
}

static void show(struct batch *batch, const hypura_endpoint_state *state, uint64_t now)
{
    double seconds = (double)(now - batch->shown) * 1e-9;
    uint64_t tokens = MAX(state->tokens, batch->shown_tokens), bytes = MAX(state->read_bytes, batch->shown_bytes);
    char of[32] = "", refused[40] = "", rest[80], text[256];
    if (batch_input_lines(batch->input))
        snprintf(of, sizeof of, " of %llu", (unsigned long long)batch_input_lines(batch->input));
    if (batch->refused)
        snprintf(refused, sizeof refused, ", %llu refused", (unsigned long long)batch->refused);
    say_rest(batch, rest, sizeof rest, now);
    snprintf(text, sizeof text, "%llu%s lines done%s%s; %.1f tokens/s, disk %.0f MB/s",
             (unsigned long long)(batch->before + batch->done), of, refused, rest,
             (double)(tokens - batch->shown_tokens) / seconds, (double)(bytes - batch->shown_bytes) / seconds / 1e6);
    if (is_terminal(stderr))
        show_line("%s", text);
    else
        fprintf(stderr, "%s\n", text);
    batch->shown = now;
    batch->shown_tokens = tokens;
    batch->shown_bytes = bytes;
}

static void say_budget(struct batch *batch, uint64_t budget)
{
    char text[32];
    clear_line();
    fprintf(stderr, "hypura: the memory budget is now %s\n", size_text(text, sizeof text, (double)budget));
    batch->budget = budget;
}

/* Looks at the endpoint's state, and shows a status line when it is due. */
static void look(struct batch *batch)
{
    uint64_t now = now_nanoseconds();
    uint64_t pause = is_terminal(stderr) ? TERMINAL_NANOSECONDS : LOG_NANOSECONDS;
    hypura_endpoint_state state = {.struct_size = sizeof state};
    if (now - batch->looked < TERMINAL_NANOSECONDS)
        return;
    hypura_endpoint_get_state(batch->endpoint, &state);
    batch->looked = now;
    if (state.memory_bytes && state.memory_bytes != batch->budget)
        say_budget(batch, state.memory_bytes);
    if (now - batch->shown >= pause)
        show(batch, &state, now);
}

static void say_beginning(const struct batch *batch, const hypura_endpoint_state *state)
{
    char budget[32];
    fprintf(stderr, "%s: %s in %s, %u %s at once, each of up to %u tokens with its prompt\n", state->name, state->mode,
            size_text(budget, sizeof budget, (double)state->memory_bytes), state->sessions,
            state->sessions == 1 ? "answer" : "answers", state->context_tokens);
    if (batch->before)
        fprintf(stderr, "%llu lines are already answered\n", (unsigned long long)batch->before);
}

static void say_end(const struct batch *batch)
{
    char took[32];
    double seconds = seconds_since(batch->start);
    fprintf(stderr, "%llu lines done in %s, %llu refused; %llu tokens written, %.1f per second\n",
            (unsigned long long)batch->done, format_time(took, sizeof took, seconds),
            (unsigned long long)batch->refused, (unsigned long long)batch->written_tokens,
            (double)batch->written_tokens / seconds);
}

/* ---- the input ---- */

/* Reads the next line that has no answer yet, if it comes within this many milliseconds. */
static hypura_status next_line(struct batch *batch, int milliseconds, hypura_error *error)
{
    bool has = true;
    while (has) {
        if (batch_input_next(batch->input, milliseconds, &batch->reading, &batch->text, error))
            return error->status;
        if (batch->reading != BATCH_LINE)
            return HYPURA_OK;
        if (batch_output_has(batch->output, batch->text.number, batch->text.digest, &has, error))
            return error->status;
    }
    return HYPURA_OK;
}

/* ---- submitting and writing ---- */

static void take_answer(void *asker, unsigned status, const char *text, size_t size)
{
    struct request *request = asker;
    struct batch *batch = request->batch;
    request->status = status;
    if (!resize_array((void **)&request->text, 0, size + 1, 1, "answer", NULL)) {
        memcpy(request->text, text, size);
        request->size = size;
    } else {
        request->status = 500;
    }
    pthread_mutex_lock(&batch->mutex);
    request->next = batch->answered;
    batch->answered = request;
    pthread_cond_signal(&batch->changed);
    pthread_mutex_unlock(&batch->mutex);
}

static void request_free(struct request *request)
{
    json_decref(request->line.id);
    free_memory(request->text);
    free_memory(request);
}

static hypura_status write_line(struct batch *batch, const struct batch_line *line, json_t *json, bool refused,
                                hypura_error *error)
{
    if (!json)
        return set_error(error, HYPURA_ERROR_MEMORY, "no memory for the answer of line %llu",
                         (unsigned long long)line->number);
    if (batch_output_is_standard(batch->output))
        clear_line(); /* the status line may be on the same terminal */
    hypura_status status = batch_output_write(batch->output, line->number, json, error);
    json_decref(json);
    if (!status) {
        batch->done++;
        batch->refused += refused;
    }
    return status;
}

static hypura_status hand_over(struct batch *batch, struct request *request, const json_t *body, hypura_error *error)
{
    uint64_t failures = lost_memory();
    char *text = json_dumps(body, JSON_COMPACT);
    hypura_status status = check_memory(failures, "request", error);
    if (!status && !text)
        status = set_error(error, HYPURA_ERROR_MEMORY, "no memory for the request");
    if (!status)
        status =
            hypura_endpoint_ask(batch->endpoint, request->line.path, text, strlen(text), take_answer, request, error);
    free(text);
    return status;
}

/* Submits the line that was read. */
static hypura_status ask(struct batch *batch, hypura_error *error)
{
    struct request *request;
    hypura_error wrong = {0};
    hypura_status status = NEW_ARRAY(&request, 1, "request", error);
    if (status)
        return status;
    request->batch = batch;
    request->line.number = batch->text.number;
    memcpy(request->line.digest, batch->text.digest, BATCH_DIGEST);
    uint64_t failures = lost_memory();
    json_t *body = batch_read_line(&request->line, batch->text.text, batch->text.size, &batch->defaults, &wrong);
    status = check_memory(failures, "request", error);
    if (body && !status)
        status = hand_over(batch, request, body, &wrong);
    json_decref(body);
    if (body && !status) {
        batch->in_work++;
        return HYPURA_OK;
    }
    if (status == HYPURA_ERROR_MEMORY) { /* the line is valid: the next run submits it again */
        request_free(request);
        return set_error(error, HYPURA_ERROR_MEMORY, "line %llu: no memory for the request",
                         (unsigned long long)batch->text.number);
    }
    json_t *json = batch_error(&request->line, wrong.message);
    status = check_memory(failures, "answer", error);
    if (status)
        json_decref(json);
    else
        status = write_line(batch, &request->line, json, true, error);
    request_free(request);
    return status;
}

static void count_tokens(struct batch *batch, const json_t *json)
{
    const json_t *usage = json_object_get(json_object_get(json_object_get(json, "response"), "body"), "usage");
    static const char *const names[] = {"completion_tokens", "output_tokens"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const json_t *count = json_object_get(usage ? usage : json, names[i]);
        batch->written_tokens += (uint64_t)json_integer_value(count);
    }
}

/* An error in the request is written as its answer. Any other error ends the run, and the next run submits the request
 * again. */
static hypura_status write_answer(struct batch *batch, struct request *request, hypura_error *error)
{
    hypura_status status;
    if (request->status >= 499) {
        json_t *json = read_json(request->text, request->size, 0, NULL);
        const char *message = json_string_value(json_object_get(json_object_get(json, "error"), "message"));
        status = set_error(error, HYPURA_ERROR_IO, "line %llu: %s", (unsigned long long)request->line.number,
                           message ? message : "no memory for the answer");
        json_decref(json);
    } else {
        uint64_t failures = lost_memory();
        json_t *json = batch_answer(&request->line, request->status, request->text, request->size);
        count_tokens(batch, json);
        status = check_memory(failures, "answer", error);
        if (status)
            json_decref(json);
        else
            status = write_line(batch, &request->line, json, request->status != 200, error);
    }
    request_free(request);
    batch->in_work--;
    return status;
}

/* Writes the answers that have come. wait: if there are none, wait a moment for one. */
static hypura_status write_answers(struct batch *batch, bool wait, hypura_error *error)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LATER_MILLISECONDS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&batch->mutex);
    if (wait && !batch->answered)
        pthread_cond_timedwait(&batch->changed, &batch->mutex, &until);
    struct request *newest = batch->answered, *oldest = NULL;
    batch->answered = NULL;
    pthread_mutex_unlock(&batch->mutex);
    while (newest) {
        struct request *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    hypura_status status = HYPURA_OK;
    while (oldest) {
        struct request *next = oldest->next;
        if (!status)
            status = write_answer(batch, oldest, error);
        else
            request_free(oldest);
        oldest = next;
    }
    return status;
}

static hypura_status answer_all(struct batch *batch, hypura_error *error)
{
    hypura_endpoint_state state = {.struct_size = sizeof state};
    hypura_endpoint_get_state(batch->endpoint, &state);
    const uint64_t most = (uint64_t)AHEAD * state.sessions;
    batch->start = batch->shown = now_nanoseconds();
    batch->budget = state.memory_bytes;
    say_beginning(batch, &state);
    while (!error->status && !interrupted() && (batch->reading != BATCH_ENDED || batch->in_work)) {
        if (batch->reading == BATCH_LATER && next_line(batch, 0, error))
            break;
        if (batch->reading != BATCH_LINE || batch->in_work >= most)
            write_answers(batch, true, error);
        else if (!ask(batch, error))
            next_line(batch, 0, error);
        look(batch);
    }
    if (!error->status)
        write_answers(batch, false, error); /* answers that came together with an interrupt */
    clear_line();
    say_end(batch);
    return error->status;
}

/* ---- the command ---- */

static hypura_status find_file(const char **path, const char *model, hypura_error *error)
{
    hypura_status status = model_path(path, model, NULL, error);
    if (!status && access(*path, R_OK))
        status = set_error_errno(error, errno, "cannot open %s", *path);
    return status;
}

static hypura_status open_endpoint(struct batch *batch, const char *path, hypura_error *error)
{
    struct load_line line;
    batch->options.sessions = parallel;
    load_line_start(&line, &batch->options);
    live_memory_prepare();
    hypura_status status = hypura_endpoint_open(&batch->endpoint, path, &batch->options, error);
    clear_line();
    if (!status)
        live_memory_start_endpoint(batch->endpoint, compute_options.memory_file);
    return status;
}

static hypura_status prepare_defaults(struct batch *batch, hypura_error *error)
{
    json_t *given = NULL;
    uint64_t failures = lost_memory();
    hypura_status status = named_values("--set", &fields, &given, error);
    if (!status && !given)
        given = json_object();
    if (given && !json_object_get(given, "seed"))
        json_object_set_new(given, "seed", json_integer((json_int_t)MIN(compute_options.seed, (uint64_t)INT64_MAX)));
    batch->defaults = (struct batch_defaults){given, system_text, max_tokens};
    return status ? status : check_memory(failures, "values of --set", error);
}

static void close_batch(struct batch *batch)
{
    live_memory_stop();
    hypura_endpoint_close(batch->endpoint);
    free_memory(batch->adapters);
    while (batch->answered) { /* requests that were still running */
        struct request *next = batch->answered->next;
        request_free(batch->answered);
        batch->answered = next;
    }
    batch_output_close(batch->output);
    batch_input_close(batch->input);
    json_decref((json_t *)batch->defaults.fields);
    pthread_mutex_destroy(&batch->mutex);
    pthread_cond_destroy(&batch->changed);
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct batch batch = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    if (!input_path || !output_path)
        return report_usage(&command_batch, "--input and --output are needed");
    if (parallel < 1 || parallel > HYPURA_ENDPOINT_SESSIONS)
        return report_usage(&command_batch, "--parallel: expected 1 to %d", HYPURA_ENDPOINT_SESSIONS);
    interrupts_cancel_session(NULL);
    bool begun = false;
    const char *path = NULL;
    hypura_status status = find_file(&path, count ? arguments[0] : NULL, &error);
    if (!status)
        status = given_options(&batch.options, &batch.adapters, &error);
    if (!status)
        status = prepare_defaults(&batch, &error);
    if (!status)
        status = batch_input_open(&batch.input, input_path, &error);
    if (!status)
        status = batch_output_open(&batch.output, output_path, &error);
    if (!status) {
        batch.before = batch_output_count(batch.output);
        while (!status && batch.reading == BATCH_LATER && !interrupted())
            status = next_line(&batch, LATER_MILLISECONDS, &error);
    }
    if (!status && batch.reading == BATCH_LINE) {
        status = open_endpoint(&batch, path, &error);
        begun = !status;
        if (!status)
            status = answer_all(&batch, &error);
    } else if (!status && batch.reading == BATCH_ENDED) {
        fprintf(stderr, "all %llu lines are already answered\n", (unsigned long long)batch.before);
    }
    if (!status && !interrupted())
        status = batch_output_sort(batch.output, &error);
    int result = status ? report_error(&error) : interrupted() ? EXIT_INTERRUPTED : EXIT_OK;
    if (begun && result != EXIT_OK && !batch_output_is_standard(batch.output))
        fprintf(stderr, "Answers so far are in %s; the same command continues from there.\n", output_path);
    close_batch(&batch);
    return result;
}

static void prepare(void)
{
    parallel = 8;
}

const struct command command_batch = {
    .name = "batch",
    .arguments = "[MODEL] --input FILE --output FILE",
    .summary = "answer many requests from a file",
    .details = MODEL_HELP
    "The model answers every request, whatever model the request names.\n\n"
    "Each input line is a JSON object: {\"prompt\": \"...\"}, optionally with \"system\", or {\"messages\": [...]}. "
    "Both may have any fields of OpenAI's chat requests, such as temperature, max_tokens or response_format. Lines "
    "of OpenAI's batches, with custom_id, url and body, work too. Answers that are computed at the same time share "
    "each read of streamed weights, so a larger --parallel gives more tokens per second, as far as memory allows.\n\n"
    "Each output line has \"line\", the number of the input line, and \"answer\", or \"error\" if the request was "
    "invalid; for OpenAI's lines, \"response\". hypura writes a line as soon as it is complete. At the end, it puts "
    "the lines in the order of the input. After Ctrl-C, a full disk or a power failure, the same command continues "
    "with the requests that have no answer yet. To run it overnight:\n\n"
    "  nohup hypura batch MODEL --input in.jsonl --output out.jsonl 2>log &",
    .options = {batch_rows, plan_option_rows, engine_option_rows, prefix_option_rows},
    .most = 1,
    .prepare = prepare,
    .run = run,
};
