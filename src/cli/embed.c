/* hypura embed: texts to vectors. */
#include "cli/cli.h"
#include "tokenizer/vocabulary.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool as_json;

static const struct option_row embed_rows[] = {
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON array of arrays instead of a line per text"},
    {0},
};

static hypura_status embed_text(struct engine *engine, const struct vocabulary *vocabulary, const char *text,
                                size_t size, float *vector, hypura_error *error)
{
    struct token_array tokens = {0};
    uint32_t positions = engine_plan(engine)->positions;
    hypura_status status = vocabulary_tokenize(vocabulary, text, size, TOKENIZE_ADD_SPECIAL, &tokens, error);
    if (!status && tokens.count > positions)
        status = error_set(error, HYPURA_ERROR_ARGUMENT,
                           "a text of %zu tokens; %u fit: --context N makes room for more, where the model has it",
                           tokens.count, positions);
    if (!status)
        status = engine_embed(engine, tokens.ids, tokens.count, vector, error);
    token_array_free(&tokens);
    return status;
}

static hypura_status show_text(struct engine *engine, const struct vocabulary *vocabulary, const char *text,
                               size_t size, json_t *all, hypura_error *error)
{
    size_t width = model_parameters(engine_model(engine))->embedding;
    float *vector;
    hypura_status status = ALLOCATE(&vector, width, "embedding", error);
    if (!status)
        status = embed_text(engine, vocabulary, text, size, vector, error);
    json_t *row = as_json ? json_array() : NULL; /* lines are not kept: there may be many */
    for (size_t d = 0; !status && d < width; d++) {
        if (as_json)
            json_array_append_new(row, json_real((double)vector[d]));
        else
            printf("%s%.9g", d ? " " : "", (double)vector[d]);
    }
    if (as_json)
        json_array_append_new(all, row);
    else if (!status)
        putchar('\n');
    memory_free(vector);
    return status;
}

static hypura_status show_lines(struct engine *engine, const struct vocabulary *vocabulary, json_t *all,
                                hypura_error *error)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    hypura_status status = HYPURA_OK;
    errno = 0;
    while (!status && (length = getline(&line, &room, stdin)) >= 0)
        status =
            show_text(engine, vocabulary, line, (size_t)length - (length > 0 && line[length - 1] == '\n'), all, error);
    if (!status && !feof(stdin)) /* or no memory for a line */
        status = error_set_errno(error, errno, "cannot read standard input");
    free(line);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct engine *engine = NULL;
    const struct vocabulary *vocabulary = NULL;
    json_t *all = json_array();
    hypura_status status = open_engine(&engine, arguments[0], false, &error);
    if (!status) {
        interrupts_cancel(engine);
        status = engine_vocabulary(&vocabulary, engine, &error);
    }
    for (size_t i = 1; !status && i < count; i++)
        status = show_text(engine, vocabulary, arguments[i], strlen(arguments[i]), all, &error);
    if (!status && count == 1)
        status = show_lines(engine, vocabulary, all, &error);
    if (!status && as_json)
        print_json(all);
    bool written = status || write_statistics(engine);
    interrupts_cancel(NULL);
    close_engine(engine);
    json_decref(all);
    return status ? report_error(&error) : written ? EXIT_OK : EXIT_FAILED;
}

const struct command command_embed = {
    .name = "embed",
    .arguments = "MODEL [TEXT]...",
    .summary = "turn texts into vectors",
    .details =
        "Without a TEXT, each line of standard input is one. Vectors have length 1 and are pooled as the model's "
        "file says, or by the mean of all tokens. If a model wants an instruction before a text (\"query: \", "
        "\"search_document: \"), write it as part of the text.",
    .options = {embed_rows, plan_option_rows, engine_option_rows, report_option_rows},
    .least = 1,
    .most = 1024,
    .run = run,
};
