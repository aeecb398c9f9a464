/* hypura tokenize: converts lines of text to token ids, and back. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool decode, parse_special, add_special;

static const struct option_row tokenize_rows[] = {
    {"decode", NULL, OPTION_FLAG, &decode, "convert JSON arrays of ids to text"},
    {"special", NULL, OPTION_FLAG, &parse_special, "parse special tokens in the text; with --decode, show them"},
    {"add-special", NULL, OPTION_FLAG, &add_special, "add BOS and EOS as the model expects"},
    {0},
};

static hypura_status encode_line(const hypura_model *model, const char *line, size_t size, hypura_error *error)
{
    int32_t *tokens = NULL;
    size_t count = 0;
    uint32_t flags = (parse_special ? HYPURA_PARSE_SPECIAL : 0u) | (add_special ? HYPURA_ADD_SPECIAL : 0u);
    hypura_status status = hypura_tokenize(model, line, size, flags, &tokens, &count, error);
    if (!status) {
        putchar('[');
        for (size_t i = 0; i < count; i++)
            printf("%s%d", i ? ", " : "", tokens[i]);
        printf("]\n");
    }
    hypura_free(tokens);
    return status;
}

/* The ids of a JSON array. Elements that are not ids become HYPURA_NO_TOKEN, which detokenizing rejects. */
static hypura_status read_ids(const json_t *array, int32_t **ids, hypura_error *error)
{
    size_t index;
    json_t *item;
    hypura_status status = NEW_ARRAY(ids, json_array_size(array), "tokens", error);
    json_array_foreach(status ? NULL : array, index, item)
    {
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        (*ids)[index] = id < 0 || id > INT32_MAX ? HYPURA_NO_TOKEN : (int32_t)id;
    }
    return status;
}

static hypura_status decode_line(const hypura_model *model, const char *line, size_t size, hypura_error *error)
{
    json_error_t problem;
    json_t *array = read_json(line, size, 0, &problem);
    int32_t *ids = NULL;
    char *text = NULL;
    hypura_status status = HYPURA_OK;
    if (!json_is_array(array))
        status = set_error(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a JSON array of token ids", line);
    if (!status)
        status = read_ids(array, &ids, error);
    if (!status)
        status = hypura_detokenize(model, ids, json_array_size(array), parse_special, &text, &size, error);
    if (!status) {
        fwrite(text, 1, size, stdout);
        putchar('\n');
    }
    hypura_free(text);
    free_memory(ids);
    json_decref(array);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    hypura_model *model = NULL;
    hypura_status status = open_texts(&model, count ? arguments[0] : NULL, &error);
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    errno = 0;
    while (!status && (length = getline(&line, &room, stdin)) >= 0) {
        if (length > 0 && line[length - 1] == '\n')
            length--;
        status = (decode ? decode_line : encode_line)(model, line, (size_t)length, &error);
    }
    if (!status && !feof(stdin)) /* a read error, or no memory for a line */
        status = set_error_errno(&error, errno, "cannot read standard input");
    free(line);
    hypura_close(model);
    return status ? report_error(&error) : EXIT_OK;
}

const struct command command_tokenize = {
    .name = "tokenize",
    .arguments = "[MODEL]",
    .summary = "convert lines of text to token ids, or back",
    .details =
        "Reads standard input. Each line becomes a JSON array of ids; with --decode, each JSON array becomes a line.",
    .options = {tokenize_rows},
    .most = 1,
    .run = run,
};
