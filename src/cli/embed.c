/* hypura embed: converts texts to embedding vectors. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool as_json;

static const struct option_row embed_rows[] = {
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON array of arrays instead of a line per text"},
    {0},
};

struct embedder {
    hypura_model *model;
    hypura_session *session;
    json_t *all; /* with --json */
};

static hypura_status embed_text(const struct embedder *embedder, const char *text, size_t size, float *vector,
                                hypura_error *error)
{
    int32_t *tokens = NULL;
    size_t count = 0;
    hypura_status status = hypura_tokenize(embedder->model, text, size, HYPURA_ADD_SPECIAL, &tokens, &count, error);
    if (!status)
        status = hypura_embed(embedder->session, tokens, count, vector, error);
    hypura_free(tokens);
    return status;
}

static hypura_status show_text(const struct embedder *embedder, const char *text, size_t size, hypura_error *error)
{
    size_t width = hypura_get_info(embedder->model)->embedding_width;
    float *vector;
    hypura_status status = NEW_ARRAY(&vector, width, "embedding", error);
    if (!status)
        status = embed_text(embedder, text, size, vector, error);
    json_t *row = as_json ? json_array() : NULL; /* lines are printed at once: there may be many */
    for (size_t d = 0; !status && d < width; d++) {
        if (as_json)
            json_array_append_new(row, json_real((double)vector[d]));
        else
            printf("%s%.9g", d ? " " : "", (double)vector[d]);
    }
    if (as_json)
        json_array_append_new(embedder->all, row);
    else if (!status)
        putchar('\n');
    free_memory(vector);
    return status;
}

static hypura_status show_lines(const struct embedder *embedder, hypura_error *error)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    hypura_status status = HYPURA_OK;
    errno = 0;
    while (!status && (length = getline(&line, &room, stdin)) >= 0)
        status = show_text(embedder, line, (size_t)length - (length > 0 && line[length - 1] == '\n'), error);
    if (!status && !feof(stdin)) /* a read error, or no memory for a line */
        status = set_error_errno(error, errno, "cannot read standard input");
    free(line);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct embedder embedder = {.all = json_array()};
    hypura_status status = open_model(&embedder.model, &embedder.session, arguments[0], OPEN_MEASURES, &error);
    for (size_t i = 1; !status && i < count; i++)
        status = show_text(&embedder, arguments[i], strlen(arguments[i]), &error);
    if (!status && count == 1)
        status = show_lines(&embedder, &error);
    if (!status && as_json)
        print_json(embedder.all);
    bool written = status || write_model_statistics(embedder.model);
    close_model(embedder.model, embedder.session);
    json_decref(embedder.all);
    return status ? report_error(&error) : written ? EXIT_OK : EXIT_FAILED;
}

const struct command command_embed = {
    .name = "embed",
    .arguments = "MODEL [TEXT]...",
    .summary = "convert texts to embedding vectors",
    .details =
        "Without TEXT, each line of standard input is one text. Vectors have length 1. They are pooled as the model's "
        "file says, by default as the mean of all tokens. If a model expects a prefix such as \"query: \" or "
        "\"search_document: \", write it as part of the text.",
    .options = {embed_rows, plan_option_rows, engine_option_rows, report_option_rows},
    .least = 1,
    .most = 1024,
    .run = run,
};
