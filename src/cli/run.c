/* hypura run: answers from a model, once or in a conversation. */
#include "cli/cli.h"
#include "cli/sampling.h"
#include "engine/generate.h"
#include "engine/prompt.h"

#include <editline/readline.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *prompt_text, *prompt_path, *system_text;
static bool interactive, raw, draw_map, ignore_end;
static uint32_t max_tokens;
static struct texts stops, variables;

static const struct option_row run_rows[] = {
    {"prompt", "TEXT", OPTION_TEXT, &prompt_text, "what to say to the model"},
    {"file", "FILE", OPTION_TEXT, &prompt_path, "read the prompt from a file; - is standard input"},
    {"interactive", NULL, OPTION_FLAG, &interactive,
     "hold a conversation (the default in a terminal without a prompt)"},
    {"system", "TEXT", OPTION_TEXT, &system_text, "a system message before the conversation"},
    {"raw", NULL, OPTION_FLAG, &raw, "no chat template: the model goes on with the text as it is"},
    {"max-tokens", "N", OPTION_COUNT, &max_tokens, "end the answer after N tokens (default: when the model ends it)"},
    {"stop", "TEXT", OPTION_TEXTS, &stops, "end the answer before this text; may be given several times"},
    {"var", "NAME=VALUE", OPTION_TEXTS, &variables, TEMPLATE_VARIABLES_HELP},
    {"ignore-eos", NULL, OPTION_FLAG, &ignore_end, "go on after the model ended its answer"},
    {"trace", "FILE", OPTION_TEXT, &compute_options.trace, "record which experts were chosen, for hypura replay"},
    {"map", NULL, OPTION_FLAG, &draw_map, "afterwards show where the weights are, and the figures of the run"},
    {0},
};

#define PROMPT_LIMIT ((uint64_t)256 << 20)

struct conversation {
    struct engine *engine;
    const struct vocabulary *vocabulary;
    struct chat_template *template;
    struct sampling sampling;
    struct generator *generator;
    json_t *messages, *variables;
    struct buffer answer;
    struct generation_result result;
    bool done;
};

static bool show_token(void *context, const struct generated_token *token)
{
    struct conversation *chat = context;
    fwrite(token->text, 1, token->size, stdout);
    fflush(stdout);
    buffer_append(&chat->answer, token->text, token->size);
    return !interrupted();
}

static void note_done(void *context, const struct generation_result *result)
{
    struct conversation *chat = context;
    chat->result = *result;
    chat->done = true;
}

/* Tokens of the next turn: the whole conversation, of which the engine's cache holds most. */
static hypura_status turn_tokens(struct conversation *chat, const char *text, size_t size, struct token_array *tokens,
                                 hypura_error *error)
{
    if (raw)
        return vocabulary_tokenize(chat->vocabulary, text, size, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, tokens,
                                   error);
    json_t *content = json_stringn(text, size);
    if (!content)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the prompt is not UTF-8 text");
    json_array_append_new(chat->messages, json_pack("{s:s, s:o}", "role", "user", "content", content));
    struct chat_input input = {
        .messages = chat->messages, .variables = chat->variables, .add_generation_prompt = true, .now = prompt_now()};
    return prompt_from_chat(chat->template, chat->vocabulary, &input, tokens, NULL, error);
}

static hypura_status run_turn(struct conversation *chat, const char *text, size_t size, hypura_error *error)
{
    struct token_array tokens = {0};
    hypura_status status = turn_tokens(chat, text, size, &tokens, error);
    struct generation_request request = {.tokens = tokens.ids,
                                         .count = tokens.count,
                                         .max_tokens = max_tokens,
                                         .sampler = chat->sampling.sampler,
                                         .stops = stops.items,
                                         .stop_count = stops.count,
                                         .ignore_end = ignore_end,
                                         .on_token = show_token,
                                         .on_done = note_done,
                                         .context = chat};
    sampling_start(&chat->sampling);
    buffer_clear(&chat->answer);
    chat->done = false;
    if (!status)
        status = generator_submit(chat->generator, &request, NULL, error);
    while (!status && !chat->done)
        generator_step(chat->generator);
    token_array_free(&tokens);
    if (status)
        return status;
    if (chat->answer.size == 0 || chat->answer.data[chat->answer.size - 1] != '\n')
        putchar('\n');
    json_array_append_new(chat->messages,
                          json_pack("{s:s, s:o}", "role", "assistant", "content",
                                    json_stringn(chat->answer.data ? chat->answer.data : "", chat->answer.size)));
    if (chat->result.reason == FINISH_ERROR) {
        *error = chat->result.error;
        return error->status;
    }
    return HYPURA_OK;
}

static hypura_status converse(struct conversation *chat, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    setlocale(LC_CTYPE, ""); /* or the line editor drops every letter that is not ASCII */
    using_history();
    fprintf(stderr, "Talk to %s. Ctrl-D or /bye ends the conversation, Ctrl-C an answer.\n",
            model_name(engine_model(chat->engine)));
    char *line;
    while (!status && (line = readline("> "))) {
        if (strcmp(line, "/bye") == 0) {
            free(line);
            break;
        }
        if (*line) {
            add_history(line);
            status = run_turn(chat, line, strlen(line), error);
        }
        free(line);
        /* An interrupted answer is an answer; the conversation goes on. */
        if (interrupted()) {
            interrupts_cancel(chat->engine);
            engine_cancel(chat->engine, false);
        }
    }
    return status;
}

static void print_figures(struct engine *engine)
{
    struct engine_statistics s;
    char a[32], b[32];
    engine_statistics(engine, &s);
    uint64_t experts = s.store.expert_hits + s.store.expert_misses;
    enum plan_bound bound = BOUND_MEMORY;
    double share = share_of_limit(engine, &s, &bound);
    fprintf(stderr, "\n  mode          %s\n", plan_mode_name(engine_plan(engine)->mode));
    if (s.prompt_seconds > 0)
        fprintf(stderr, "  prompt        %llu tokens, %.1f tokens/s\n", (unsigned long long)s.prompt_tokens,
                (double)s.prompt_tokens / s.prompt_seconds);
    if (s.decode_seconds > 0)
        fprintf(stderr, "  answer        %llu tokens, %.1f tokens/s\n", (unsigned long long)s.generated_tokens,
                (double)s.generated_tokens / s.decode_seconds);
    if (share >= 0)
        fprintf(stderr, "  limit         %.0f %% of what this %s allows\n", 100 * share, plan_bound_name(bound));
    if (experts)
        fprintf(stderr, "  expert hits   %.1f %% of %llu uses\n", 100.0 * (double)s.store.expert_hits / (double)experts,
                (unsigned long long)experts);
    fprintf(stderr, "  disk          %s read while it ran, %s while it loaded\n",
            format_bytes(a, sizeof a, (double)s.store.bytes_read),
            format_bytes(b, sizeof b, (double)s.store.bytes_loaded));
    const struct plan *plan = engine_plan(engine);
    uint64_t code = plan->code_on_top ? hardware_code_bytes() : 0;
    fprintf(stderr, "  memory        %s at its peak, budget %s",
            format_bytes(a, sizeof a, (double)(s.peak_rss_bytes - code)),
            format_bytes(b, sizeof b, (double)s.budget_bytes));
    if (code)
        fprintf(stderr, "; code and libraries, on top: %s", format_bytes(a, sizeof a, (double)code));
    fprintf(stderr, ": %s\n", s.peak_rss_bytes - code <= s.budget_bytes ? "held" : "EXCEEDED");
}

static hypura_status open_conversation(struct conversation *chat, const char *model, hypura_error *error)
{
    hypura_status status = template_variables(&variables, &chat->variables, error);
    if (!status)
        status = open_engine(&chat->engine, model, error);
    if (status)
        return status;
    const struct gguf *file = model_file(engine_model(chat->engine));
    status = engine_vocabulary(&chat->vocabulary, chat->engine, error);
    if (!status && !raw)
        status = prompt_open_template(&chat->template, file, NULL, error);
    if (!status)
        status = sampling_open(&chat->sampling, chat->vocabulary, error);
    if (!status)
        status = generator_create(&chat->generator, chat->engine, chat->vocabulary, error);
    chat->messages = json_array();
    if (system_text)
        json_array_append_new(chat->messages, json_pack("{s:s, s:s}", "role", "system", "content", system_text));
    return status;
}

static void close_conversation(struct conversation *chat)
{
    interrupts_cancel(NULL);
    generator_destroy(chat->generator);
    sampling_close(&chat->sampling);
    chat_template_free(chat->template);
    close_engine(chat->engine);
    json_decref(chat->messages);
    json_decref(chat->variables);
    buffer_free(&chat->answer);
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct conversation chat = {0};
    char *text = NULL;
    size_t size = 0;
    hypura_status status = HYPURA_OK;
    if (count > 1 && (prompt_text || prompt_path))
        return report_usage(&command_run, "\"%s\" is a prompt, and --prompt or --file gives another", arguments[1]);
    if (count > 1)
        prompt_text = arguments[1];
    if (!prompt_text && !prompt_path && !interactive) {
        interactive = isatty(STDIN_FILENO);
        prompt_path = interactive ? NULL : "-";
    }
    if (prompt_text && prompt_path)
        return report_usage(&command_run, "--prompt and --file exclude each other");
    if (prompt_path)
        status = read_whole_file(prompt_path, PROMPT_LIMIT, &text, &size, &error);
    if (!status)
        status = open_conversation(&chat, count ? arguments[0] : NULL, &error);
    if (!status) {
        interrupts_cancel(chat.engine);
        if (prompt_text)
            status = run_turn(&chat, prompt_text, strlen(prompt_text), &error);
        else if (text)
            status = run_turn(&chat, text, size, &error);
        if (!status && interactive)
            status = converse(&chat, &error);
    }
    bool written = true;
    progress_stop();
    if (chat.engine) {
        if (draw_map) {
            draw_tier_map(stderr, chat.engine);
            print_figures(chat.engine);
        }
        written = write_statistics(chat.engine);
    }
    int result = status ? report_error(&error) : interrupted() ? EXIT_INTERRUPTED : written ? EXIT_OK : EXIT_FAILED;
    close_conversation(&chat);
    memory_free(text);
    return result;
}

const struct command command_run = {
    .name = "run",
    .arguments = "[MODEL [PROMPT]]",
    .summary = "answer a prompt or hold a conversation",
    .details = MODEL_HELP
    "Without a prompt it reads one from a pipe, or talks in a terminal. Only the answer goes to standard output. "
    "Ctrl-C ends an answer, twice the program.",
    .options = {run_rows, sampling_rows, plan_option_rows, engine_option_rows, report_option_rows},
    .most = 2,
    .prepare = sampling_prepare,
    .run = run,
};
