/* hypura tokenize: lines of text to token ids, and back. */
#include "cli/cli.h"
#include "tokenizer/vocabulary.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool decode, parse_special, add_special;

static const struct option_row tokenize_rows[] = {
    {"decode", NULL, OPTION_FLAG, &decode, "the other way: from JSON arrays of ids to text"},
    {"special", NULL, OPTION_FLAG, &parse_special, "parse special tokens in the text; with --decode, show them"},
    {"add-special", NULL, OPTION_FLAG, &add_special, "add BOS and EOS as the model asks"},
    {0},
};

static hypura_status encode_line(const struct vocabulary *vocabulary, const char *line, size_t size,
                                 hypura_error *error)
{
    struct token_array tokens = {0};
    uint32_t flags = (parse_special ? TOKENIZE_PARSE_SPECIAL : 0u) | (add_special ? TOKENIZE_ADD_SPECIAL : 0u);
    hypura_status status = vocabulary_tokenize(vocabulary, line, size, flags, &tokens, error);
    if (!status) {
        putchar('[');
        for (size_t i = 0; i < tokens.count; i++)
            printf("%s%d", i ? ", " : "", tokens.ids[i]);
        printf("]\n");
    }
    token_array_free(&tokens);
    return status;
}

static hypura_status decode_line(const struct vocabulary *vocabulary, const char *line, size_t size,
                                 hypura_error *error)
{
    json_error_t problem;
    json_t *array = json_loadb(line, size, 0, &problem);
    struct token_array tokens = {0};
    hypura_status status = HYPURA_OK;
    if (!json_is_array(array))
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a JSON array of token ids", line);
    size_t index;
    json_t *item;
    json_array_foreach(array, index, item)
    {
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (!status && (id < 0 || id >= (json_int_t)vocabulary_size(vocabulary)))
            status = error_set(error, HYPURA_ERROR_ARGUMENT, "element %zu is not a token id below %u", index,
                               vocabulary_size(vocabulary));
        if (!status)
            status = token_array_append(&tokens, (int32_t)id, error);
    }
    struct buffer text = {0};
    if (!status) {
        vocabulary_detokenize(vocabulary, tokens.ids, tokens.count, parse_special ? DETOKENIZE_SHOW_SPECIAL : 0, &text);
        buffer_append_char(&text, '\n');
        if (text.failed)
            status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for the text of %zu tokens", tokens.count);
        else
            fwrite(text.data, 1, text.size, stdout);
    }
    buffer_free(&text);
    token_array_free(&tokens);
    json_decref(array);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct gguf *file = NULL;
    struct vocabulary *vocabulary = NULL;
    hypura_status status = open_vocabulary(&file, &vocabulary, count ? arguments[0] : NULL, &error);
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    errno = 0;
    while (!status && (length = getline(&line, &room, stdin)) >= 0) {
        if (length > 0 && line[length - 1] == '\n')
            length--;
        status = (decode ? decode_line : encode_line)(vocabulary, line, (size_t)length, &error);
    }
    if (!status && !feof(stdin)) /* or no memory for a line */
        status = error_set_errno(&error, errno, "cannot read standard input");
    free(line);
    vocabulary_close(vocabulary);
    gguf_close(file);
    return status ? report_error(&error) : EXIT_OK;
}

const struct command command_tokenize = {
    .name = "tokenize",
    .arguments = "[MODEL]",
    .summary = "turn lines of text into token ids, or back",
    .details =
        "Reads standard input. Each line becomes a JSON array of ids; with --decode each JSON array becomes a line.",
    .options = {tokenize_rows},
    .most = 1,
    .run = run,
};
