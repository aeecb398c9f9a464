/* hypura run: answers a prompt, or holds a conversation. */
#include "cli/conversation.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *prompt_text, *prompt_path, *system_text, *session_path;
static bool interactive, raw, draw_map, ignore_end;
static uint32_t max_tokens;
static struct texts stops, variables;

static const struct option_row run_rows[] = {
    {"prompt", "TEXT", OPTION_TEXT, &prompt_text, "the prompt"},
    {"file", "FILE", OPTION_TEXT, &prompt_path, "read the prompt from a file; -: standard input"},
    {"interactive", NULL, OPTION_FLAG, &interactive,
     "hold a conversation (the default in a terminal without a prompt)"},
    {"system", "TEXT", OPTION_TEXT, &system_text, "the system message of the conversation"},
    {"session", "FILE", OPTION_TEXT, &session_path,
     "continue the conversation in this file, and save it there with its computed data"},
    {"raw", NULL, OPTION_FLAG, &raw, "use no chat template: the model continues the plain text"},
    {"max-tokens", "N", OPTION_LIMIT, &max_tokens, "end the answer after N tokens (default: no limit)"},
    {"stop", "TEXT", OPTION_TEXTS, &stops, "end the answer before this text; may be repeated"},
    {"var", "NAME=VALUE", OPTION_TEXTS, &variables, TEMPLATE_VARIABLES_HELP},
    {"ignore-eos", NULL, OPTION_FLAG, &ignore_end, "continue after the model has ended its answer"},
    {"trace", "FILE", OPTION_TEXT, &compute_options.trace, "record which experts are chosen, for \"hypura replay\""},
    {"map", NULL, OPTION_FLAG, &draw_map, "at the end, show where the weights are, and statistics"},
    {0},
};

#define PROMPT_LIMIT ((uint64_t)256 << 20)

/* The speed of a shared machine varies a little without a new profile being needed. */
#define QUICKER_THAN_PROFILED 1.2

/* With several drives: what was read from each. */
static void print_drives(hypura_model *model)
{
    json_t *all = model_statistics_json(model), *drives = json_object_get(all, "drives"), *drive;
    size_t i;
    char a[32], b[32];
    json_array_foreach(json_array_size(drives) > 1 ? drives : NULL, i, drive)
    {
        const char *name = json_string_value(json_object_get(drive, "device"));
        fprintf(stderr, "  %-13s %s of that (%.0f %%) from %s, lately at %s/s%s\n", i ? "" : "drives",
                size_text(a, sizeof a, json_number_value(json_object_get(drive, "bytes_read"))),
                100 * json_number_value(json_object_get(drive, "share")), name ? name : "?",
                size_text(b, sizeof b, json_number_value(json_object_get(drive, "bytes_per_second"))),
                json_integer_value(json_object_get(drive, "files_left")) ? "; it failed, and is no longer read" : "");
    }
    json_decref(all);
}

static void print_limit(const hypura_statistics *s, bool measured)
{
    if (s->share_of_limit >= 0)
        fprintf(stderr,
                "  limit         %.0f %% of what this %s allows, %.0f %% of what disk and memory allow together\n",
                100 * s->share_of_limit, s->bound, 100 * s->share_of_both_limits);
    if (s->over_profile > QUICKER_THAN_PROFILED)
        fprintf(
            stderr,
            "                faster than its profile by a factor of %.1f: \"hypura profile --force\" measures again\n",
            s->over_profile);
    if (s->share_of_limit < 0 && !measured)
        fprintf(stderr, "  limit         unknown: \"hypura profile\" measures what this machine allows\n");
}

static void print_experts(const hypura_statistics *s)
{
    char text[32];
    uint64_t experts = s->expert_hits + s->expert_misses;
    double used = (double)s->prefetches_used, needed = used + (double)s->expert_misses;
    if (experts)
        fprintf(stderr, "  expert hits   %.1f %% of %llu uses\n", 100.0 * (double)s->expert_hits / (double)experts,
                (unsigned long long)experts);
    if (s->rows_wanted)
        fprintf(stderr, "  rows          %llu of tables and embeddings, %.1f %% of them found in memory\n",
                (unsigned long long)s->rows_wanted, 100.0 * (double)s->rows_cached / (double)s->rows_wanted);
    if (s->prefetches)
        fprintf(stderr,
                "  prefetches    %.0f %% of %llu were needed; they covered %.0f %% of the missing experts; %s wasted\n",
                100 * used / (double)s->prefetches, (unsigned long long)s->prefetches,
                needed > 0 ? 100 * used / needed : 0.0, size_text(text, sizeof text, (double)s->wasted_bytes));
}

static void print_memory(const hypura_statistics *s)
{
    char a[32], b[32];
    uint64_t code = s->code_bytes_on_top, held = s->peak_bytes - code;
    fprintf(stderr, "  memory        %s at its peak, budget %s", size_text(a, sizeof a, (double)held),
            size_text(b, sizeof b, (double)s->memory_bytes));
    if (code)
        fprintf(stderr, "; code and libraries, on top: %s", size_text(a, sizeof a, (double)code));
    if (s->largest_memory_bytes > s->memory_bytes)
        fprintf(stderr, "; the budget was up to %s", size_text(a, sizeof a, (double)s->largest_memory_bytes));
    fprintf(stderr, ": %s\n", held <= s->largest_memory_bytes ? "held" : "EXCEEDED");
}

static void print_figures(hypura_model *model)
{
    hypura_statistics s = {.struct_size = sizeof s};
    char a[32], b[32];
    hypura_get_statistics(model, &s);
    const hypura_plan *plan = hypura_get_plan(model);
    fprintf(stderr, "\n  mode          %s\n", plan->mode);
    if (s.prompt_seconds > 0)
        fprintf(stderr, "  prompt        %llu tokens, %.1f tokens/s\n", (unsigned long long)s.prompt_tokens,
                (double)s.prompt_tokens / s.prompt_seconds);
    if (s.answer_seconds > 0)
        fprintf(stderr, "  answer        %llu tokens, %.1f tokens/s\n", (unsigned long long)s.answer_tokens,
                (double)s.answer_tokens / s.answer_seconds);
    if (s.drafted_tokens)
        fprintf(stderr, "  drafted       %llu tokens, %llu of them accepted: %.2f tokens per pass\n",
                (unsigned long long)s.drafted_tokens, (unsigned long long)s.accepted_tokens,
                (double)s.answer_tokens / (double)s.answer_passes);
    print_limit(&s, plan->measured);
    print_experts(&s);
    fprintf(stderr, "  disk          %s read while running, %s while loading\n",
            size_text(a, sizeof a, (double)s.read_bytes), size_text(b, sizeof b, (double)s.loaded_bytes));
    print_drives(model);
    print_memory(&s);
}

/* In a terminal, the expected speed of a model that streams. */
static void say_expectation(const hypura_plan *plan)
{
    char bytes[32], budget[32], text[200], expected[RANGE_TEXT];
    double speed = plan->tokens_per_second;
    if (strcmp(plan->mode, "full-resident") == 0 || !is_terminal(stderr))
        return;
    range_text(expected, speed < 1 ? 2 : speed < 10, plan->even_tokens_per_second, speed);
    snprintf(text, sizeof text, "%s in %s: about %s tokens/s%s, bound by %s; %s read per token.", plan->mode,
             size_text(budget, sizeof budget, (double)plan->memory_bytes), expected,
             plan->measured ? "" : " (\"hypura profile\" makes this more precise)", plan->bound,
             size_text(bytes, sizeof bytes, plan->bytes_read_per_token));
    print_paragraph(stderr, text, 0);
}

static hypura_status open_conversation(struct conversation *chat, const char *model, hypura_error *error)
{
    uint64_t failures = lost_memory();
    hypura_status status = named_values("--var", &variables, &chat->variables, error);
    if (!status)
        status = open_model(&chat->model, &chat->session, model, OPEN_ANSWERS, error);
    if (status)
        return status;
    say_expectation(hypura_get_plan(chat->model));
    status = sampling_open(&chat->sampling, chat->model, error);
    chat->raw = raw;
    chat->messages = json_array();
    chat->max_tokens = max_tokens;
    chat->stops = stops;
    chat->ignore_end = ignore_end;
    if (!status && session_path && access(session_path, F_OK) == 0)
        status = conversation_load(chat, session_path, error);
    if (system_text)
        conversation_set_system(chat, system_text);
    chat->file = session_path;
    chat->changed = false;
    return status ? status : check_memory(failures, "conversation", error);
}

/* Also saves after an error: the conversation up to there. */
static hypura_status keep_session(struct conversation *chat, hypura_status status, hypura_error *error)
{
    hypura_error unkept;
    if (!chat->file || !chat->changed || !conversation_save(chat, chat->file, SAVE_ALL, &unkept))
        return status;
    if (!status)
        *error = unkept;
    else
        fprintf(stderr, "hypura: %s\n", unkept.message);
    return error->status;
}

static void close_conversation(struct conversation *chat)
{
    close_model(chat->model, chat->session);
    sampling_close(&chat->sampling);
    json_decref(chat->messages);
    json_decref(chat->variables);
    text_free(&chat->answer);
}

/* Standard input is a pipe or a file, as in "cat FILE | hypura run MODEL ...". */
static bool input_is_sent(void)
{
    struct stat info;
    return !fstat(STDIN_FILENO, &info) && (S_ISFIFO(info.st_mode) || S_ISREG(info.st_mode));
}

/* Makes the prompt as Ollama does: the text of standard input, if any, then the arguments after the model. */
static hypura_status read_arguments(struct text_buffer *prompt, size_t count, char **arguments, hypura_error *error)
{
    char *text;
    size_t size;
    if (input_is_sent()) {
        if (read_whole_file("-", PROMPT_LIMIT, &text, &size, error))
            return error->status;
        text_add(prompt, text, size);
        free_memory(text);
        if (prompt->size && prompt->data[prompt->size - 1] != '\n')
            text_add_char(prompt, '\n');
    }
    for (size_t i = 0; i < count; i++) {
        if (i)
            text_add_char(prompt, ' ');
        text_add(prompt, arguments[i], strlen(arguments[i]));
    }
    return prompt->failed ? set_error(error, HYPURA_ERROR_MEMORY, "no memory for the prompt") : HYPURA_OK;
}

static hypura_status read_prompt(struct text_buffer *prompt, size_t count, char **arguments, hypura_error *error)
{
    char *text;
    size_t size;
    if (count > 1)
        return read_arguments(prompt, count - 1, arguments + 1, error);
    if (prompt_text) {
        text_add(prompt, prompt_text, strlen(prompt_text));
        return prompt->failed ? set_error(error, HYPURA_ERROR_MEMORY, "no memory for the prompt") : HYPURA_OK;
    }
    if (read_whole_file(prompt_path, PROMPT_LIMIT, &text, &size, error))
        return error->status;
    *prompt = (struct text_buffer){.data = text, .size = size};
    return HYPURA_OK;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct conversation chat = {0};
    struct text_buffer prompt = {0};
    hypura_status status = HYPURA_OK;
    if (count > 1 && (prompt_text || prompt_path))
        return report_usage(&command_run, "\"%s\" is a prompt, but --prompt or --file already gives one", arguments[1]);
    if (raw && session_path)
        return report_usage(&command_run, "--session and --raw exclude each other: --raw holds no conversation");
    if (prompt_text && prompt_path)
        return report_usage(&command_run, "--prompt and --file exclude each other");
    if (count < 2 && !prompt_text && !prompt_path && !interactive) {
        interactive = isatty(STDIN_FILENO);
        prompt_path = interactive ? NULL : "-";
    }
    bool asked = count > 1 || prompt_text || prompt_path;
    if (asked)
        status = read_prompt(&prompt, count, arguments, &error);
    if (!status && asked && prompt.size == 0)
        status = set_error(&error, HYPURA_ERROR_ARGUMENT, "the prompt is empty");
    if (!status)
        status = open_conversation(&chat, count ? arguments[0] : NULL, &error);
    if (!status) {
        if (asked)
            status = conversation_turn(&chat, prompt.data, prompt.size, &error);
        if (!status && interactive)
            status = conversation_hold(&chat, &error);
        status = keep_session(&chat, status, &error);
    }
    bool written = true;
    progress_stop();
    if (chat.model) {
        if (!status)
            status = hypura_end_trace(chat.model, &error);
        if (draw_map) {
            draw_tier_map(stderr, chat.model);
            print_figures(chat.model);
        }
        written = write_model_statistics(chat.model);
    }
    int result = status ? report_error(&error) : interrupted() ? EXIT_INTERRUPTED : written ? EXIT_OK : EXIT_FAILED;
    close_conversation(&chat);
    text_free(&prompt);
    return result;
}

const struct command command_run = {
    .name = "run",
    .arguments = "[MODEL [PROMPT]...]",
    .summary = "answer a prompt or hold a conversation",
    .details = MODEL_HELP
    "Without a prompt, hypura reads one from a pipe or, in a terminal, holds a conversation, where /? lists the "
    "commands. The text of a pipe comes before PROMPT, as in: cat FILE | hypura run MODEL \"Summarize this.\" Only "
    "the answer goes to standard output. Ctrl-C ends an answer; a second Ctrl-C ends the program.",
    .options = {run_rows, sampling_rows, plan_option_rows, engine_option_rows, draft_option_rows, prefix_option_rows,
                report_option_rows},
    .most = 1024,
    .prepare = sampling_prepare,
    .run = run,
};
