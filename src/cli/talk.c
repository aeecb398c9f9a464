/* hypura run in a terminal: reads lines and multi-line texts, and runs the commands that begin with a slash. */
#include "cli/conversation.h"

#include <editline/readline.h>
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "  /clear                   forget the conversation\n"
    "  /system TEXT             change the system message; without TEXT, remove it\n"
    "  /set parameter NAME X    such as temperature 0.5, top_p 0.9, seed 7, max-tokens 200 (or num_predict)\n"
    "  /set format json         restrict answers to JSON; /set noformat lifts this\n"
    "  /set think, nothink      turn thinking on or off, for models that support it\n"
    "  /set verbose, quiet      show statistics after each answer, or do not\n"
    "  /save FILE, /load FILE   save the conversation to a file; continue the one in a file\n"
    "  /show                    show the model; /show system, /show map: where its weights are\n"
    "  /bye                     end (or Ctrl-D)\n"
    "  \"\"\"                      begin and end a text of several lines; pasted text does not need it\n"
    "Ctrl-C ends an answer, or discards the current line.\n";

/* ---- lines ---- */

/* Reads one character from the terminal for the line editor. An interrupt ends the line. */
static int read_key(FILE *file)
{
    unsigned char bytes[4];
    size_t have = 0, want = 1;
    while (have < want) {
        if (!interrupts_wait_for_input(fileno(file)))
            return '\n';
        ssize_t got = read(fileno(file), bytes + have, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return EOF;
        if (have++ == 0)
            want = bytes[0] >= 0xf0 ? 4 : bytes[0] >= 0xe0 ? 3 : bytes[0] >= 0xc0 ? 2 : 1;
    }
    static const unsigned char masks[] = {0, 0xff, 0x1f, 0x0f, 0x07};
    int character = bytes[0] & masks[want];
    for (size_t i = 1; i < want; i++)
        character = character << 6 | (bytes[i] & 0x3f);
    return character;
}

/* Whether the terminal has more input, such as pasted lines. */
static bool more_is_there(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    return isatty(STDIN_FILENO) && poll(&input, 1, 0) == 1 && (input.revents & POLLIN);
}

static char *read_line(const char *prompt)
{
    interrupts_wait_for_line(true);
    char *line = readline(prompt);
    interrupts_wait_for_line(false);
    return line;
}

/* The text after the """ that begins a text of several lines; NULL: there is none. */
static char *opened(char *line)
{
    static const char *const beginnings[] = {"", "/system ", "/set system "};
    for (size_t i = 0; i < COUNT_OF(beginnings); i++) {
        size_t length = strlen(beginnings[i]);
        if (strncmp(line, beginnings[i], length) == 0 && strncmp(line + length, "\"\"\"", 3) == 0)
            return line + length + 3;
    }
    return NULL;
}

static void append_line(struct text_buffer *text, const char *line)
{
    if (text->size)
        text_add_char(text, '\n');
    text_add(text, line, strlen(line));
}

/* Reads the user's message, without the """ around a text of several lines. False at the end of the input. */
static bool read_message(struct text_buffer *text)
{
    text_clear(text);
    char *line = read_line("> ");
    if (!line)
        return false;
    char *begun = opened(line);
    if (begun) {
        char *end;
        text_add(text, line, (size_t)(begun - 3 - line));
        while (line && !(end = strstr(begun, "\"\"\""))) {
            if (*begun || begun == line)
                append_line(text, begun);
            free(line);
            begun = line = interrupted() ? NULL : read_line("  ");
        }
        if (line) {
            *end = '\0';
            if (*begun)
                append_line(text, begun);
        }
    } else {
        append_line(text, line);
        while (line && !interrupted() && more_is_there()) {
            free(line);
            line = read_line("");
            if (line)
                append_line(text, line);
        }
    }
    free(line);
    return true;
}

/* ---- commands ---- */

/* The text after a word and blanks; NULL if the text does not begin with the word. */
static const char *after_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    if (strncmp(text, word, length) != 0 || (text[length] && text[length] != ' ' && text[length] != '\n'))
        return NULL;
    return text + length + strspn(text + length, " \n");
}

static void say(const char *text)
{
    fprintf(stderr, "%s\n", text);
}

static void set_thinking(struct conversation *chat, bool think)
{
    if (!chat->variables)
        chat->variables = json_object();
    json_object_set_new(chat->variables, "enable_thinking", json_boolean(think));
}

static void set_parameter(struct conversation *chat, const char *text)
{
    char name[32];
    hypura_error error;
    const char *value = text + strcspn(text, " ");
    if ((size_t)(value - text) >= sizeof name || !value[strspn(value, " ")]) {
        say("/set parameter NAME X, such as /set parameter temperature 0.5; \"hypura run --help\" lists the "
            "parameters");
        return;
    }
    snprintf(name, sizeof name, "%.*s", (int)(value - text), text);
    for (char *c = name; *c; c++)
        *c = *c == '_' ? '-' : *c;
    value += strspn(value, " ");
    hypura_status status;
    const struct option_row length = {.name = "max-tokens", .kind = OPTION_LIMIT, .target = &chat->max_tokens};
    if (strcmp(name, "num-predict") == 0 || strcmp(name, length.name) == 0)
        status = set_option(&length, value, &error) ? HYPURA_OK : error.status;
    else if (strcmp(name, "num-ctx") == 0 || strcmp(name, "context") == 0)
        status = set_error(&error, HYPURA_ERROR_ARGUMENT,
                           "the context can only be set at the start: hypura run --context N");
    else
        status = sampling_set(&chat->sampling, chat->model, name, value, &error);
    fprintf(stderr, status ? "%s\n" : "%s is set\n", status ? error.message : name);
}

static void set_format(struct conversation *chat, const char *format)
{
    hypura_error error;
    if (sampling_set_format(&chat->sampling, chat->model, format, &error))
        say(error.message);
}

static void set(struct conversation *chat, const char *what)
{
    const char *rest;
    if ((rest = after_word(what, "parameter")))
        set_parameter(chat, rest);
    else if ((rest = after_word(what, "system")))
        conversation_set_system(chat, rest);
    else if (strcmp(what, "format json") == 0)
        set_format(chat, "json");
    else if (strcmp(what, "noformat") == 0)
        set_format(chat, NULL);
    else if (strcmp(what, "think") == 0 || strcmp(what, "nothink") == 0)
        set_thinking(chat, *what == 't');
    else if (strcmp(what, "verbose") == 0 || strcmp(what, "quiet") == 0)
        chat->verbose = *what == 'v';
    else
        fputs(help, stderr);
}

static void show(struct conversation *chat, const char *what)
{
    const hypura_plan *plan = hypura_get_plan(chat->model);
    json_t *first = json_array_get(chat->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    char text[32];
    if (strcmp(what, "map") == 0) {
        draw_tier_map(stderr, chat->model);
    } else if (strcmp(what, "system") == 0) {
        say(role && strcmp(role, "system") == 0 ? json_string_value(json_object_get(first, "content"))
                                                : "There is no system message.");
    } else if (*what == '\0' || strcmp(what, "info") == 0) {
        print_summary(stderr, hypura_get_info(chat->model));
        fprintf(stderr, "  runs as %s in %s, with a context of %u tokens\n", plan->mode,
                size_text(text, sizeof text, (double)plan->memory_bytes), plan->context_tokens);
    } else {
        fputs(help, stderr);
    }
}

static void save(struct conversation *chat, const char *path)
{
    hypura_error error;
    path = *path || !chat->file ? path : chat->file;
    if (!*path)
        say("/save FILE saves the conversation; /load FILE continues it");
    else if (conversation_save(chat, path, SAVE_ALL, &error))
        say(error.message);
    else
        fprintf(stderr, "The conversation is saved in %s.\n", path);
}

static void load(struct conversation *chat, const char *path)
{
    hypura_error error;
    if (!*path)
        say("/load FILE continues a conversation that /save FILE saved");
    else if (conversation_load(chat, path, &error))
        say(error.message);
    else
        fprintf(stderr, "The conversation in %s continues: %zu messages.\n", path, json_array_size(chat->messages));
    chat->changed = true;
}

/* Not a command: a path such as "/bin/sh", or several pasted lines. */
static bool is_command(const char *text)
{
    size_t length = strcspn(text, " \n");
    if (text[0] != '/' || length < 2 || memchr(text + 1, '/', length - 1))
        return false;
    return !strchr(text, '\n') || after_word(text, "/system") || after_word(text, "/set system");
}

/* Runs a command. False: it ends the conversation. */
static bool obey(struct conversation *chat, const char *text)
{
    const char *rest;
    if (after_word(text, "/bye") || after_word(text, "/exit") || after_word(text, "/quit"))
        return false;
    if (after_word(text, "/clear")) {
        while (json_array_size(chat->messages) > 1)
            json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
        const char *role = json_string_value(json_object_get(json_array_get(chat->messages, 0), "role"));
        if (role && strcmp(role, "system") != 0)
            json_array_clear(chat->messages);
        chat->changed = true;
        say("The conversation is forgotten.");
    } else if ((rest = after_word(text, "/system"))) {
        conversation_set_system(chat, rest);
    } else if ((rest = after_word(text, "/set"))) {
        set(chat, rest);
    } else if ((rest = after_word(text, "/show"))) {
        show(chat, rest);
    } else if ((rest = after_word(text, "/save"))) {
        save(chat, rest);
    } else if ((rest = after_word(text, "/load"))) {
        load(chat, rest);
    } else {
        if (!after_word(text, "/?") && !after_word(text, "/help"))
            fprintf(stderr, "There is no command %.*s:\n", (int)strcspn(text, " \n"), text);
        fputs(help, stderr);
    }
    return true;
}

/* Lets the line editor handle characters beyond ASCII, even if no locale is set. */
static void prepare_locale(void)
{
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        if (use_blocks() && !setlocale(LC_CTYPE, "C.UTF-8"))
            setlocale(LC_CTYPE, "en_US.UTF-8");
}

hypura_status conversation_hold(struct conversation *chat, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    hypura_error unkept;
    struct text_buffer text = {0};
    progress_pause(true); /* until the first question */
    prepare_locale();
    rl_getc_function = read_key; /* before the editor is initialised */
    using_history();
    fprintf(stderr, "Talk to %s. /? lists the commands, /bye or Ctrl-D ends the conversation.\n",
            hypura_get_info(chat->model)->name);
    while (!status) {
        /* After an interrupted answer, the conversation continues. */
        interrupts_cancel_session(chat->session);
        hypura_cancel(chat->session, false);
        if (!read_message(&text) || text.failed)
            break;
        if (interrupted()) {
            if (text.size == 0)
                say("/bye or Ctrl-D ends the conversation.");
            continue;
        }
        if (text.size == 0)
            continue;
        add_history(text.data);
        if (is_command(text.data)) {
            if (!obey(chat, text.data))
                break;
            continue;
        }
        status = conversation_turn(chat, text.data, text.size, error);
        if (!status && chat->file && conversation_save(chat, chat->file, SAVE_SMALL, &unkept))
            say(unkept.message);
        /* A user can ask again; for a script, the error ends the program. */
        if (status && isatty(STDIN_FILENO) && !ferror(stdout)) {
            if (!interrupted())
                report_error(error);
            status = HYPURA_OK;
        }
    }
    interrupts_cancel_session(chat->session);
    text_free(&text);
    return status;
}
