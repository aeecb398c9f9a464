/* hypura logits: writes a model's raw output after each token. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>

static const char *token_text, *out_path;

static const struct option_row logits_rows[] = {
    {"tokens", "IDS", OPTION_TEXT, &token_text, "token ids, separated by commas, such as 1,306,4658"},
    {"out", "FILE", OPTION_TEXT, &out_path, "the output file: float32, little endian, [tokens][vocabulary]"},
    {0},
};

static hypura_status parse_tokens(const char *text, int32_t **tokens, size_t *count, hypura_error *error)
{
    size_t room = 1;
    for (const char *p = text; *p; p++)
        room += *p == ',';
    hypura_status status = NEW_ARRAY(tokens, room, "tokens", error);
    for (*count = 0; !status && *count < room;) {
        char *end;
        errno = 0;
        long value = strtol(text, &end, 10);
        if (end == text || errno || value < 0 || value > INT32_MAX || (*end && *end != ','))
            return set_error(error, HYPURA_ERROR_ARGUMENT, "--tokens: \"%.20s\" is not a list of token ids", text);
        (*tokens)[(*count)++] = (int32_t)value;
        text = end + (*end == ',');
        if (!*end)
            break;
    }
    return status;
}

struct logits_file {
    FILE *file;
    size_t vocabulary;
    int failed; /* errno */
};

static bool write_row(void *context, size_t index, const float *logits)
{
    (void)index;
    struct logits_file *out = context;
    if (fwrite(logits, sizeof *logits, out->vocabulary, out->file) == out->vocabulary)
        return true;
    out->failed = errno;
    return false;
}

static hypura_status write_logits(hypura_model *model, hypura_session *session, const int32_t *tokens, size_t count,
                                  hypura_error *error)
{
    struct logits_file out = {.file = fopen(out_path, "wbe"), .vocabulary = hypura_get_info(model)->vocabulary_size};
    if (!out.file)
        return set_error_errno(error, errno, "cannot create %s", out_path);
    hypura_status status = hypura_logits(session, tokens, count, 0, write_row, &out, error);
    if (out.failed)
        status = set_error_errno(error, out.failed, "cannot write %s", out_path);
    if (fclose(out.file) && !status)
        status = set_error_errno(error, errno, "cannot write %s", out_path);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    if (!token_text || !out_path)
        return report_usage(&command_logits, "--tokens and --out are needed");
    int32_t *tokens = NULL;
    size_t token_count = 0;
    hypura_model *model = NULL;
    hypura_session *session = NULL;
    hypura_status status = parse_tokens(token_text, &tokens, &token_count, &error);
    if (!status && compute_options.context == 0)
        compute_options.context = (uint32_t)MAX(token_count, (size_t)1);
    if (!status)
        status = open_model(&model, &session, count ? arguments[0] : NULL, OPEN_MEASURES, &error);
    if (!status)
        status = write_logits(model, session, tokens, token_count, &error);
    bool written = status || write_model_statistics(model);
    close_model(model, session);
    free_memory(tokens);
    return status ? report_error(&error) : written ? EXIT_OK : EXIT_FAILED;
}

const struct command command_logits = {
    .name = "logits",
    .arguments = "[MODEL] --tokens IDS --out FILE",
    .summary = "write the logits after each of the given tokens to a file",
    .options = {logits_rows, plan_option_rows, engine_option_rows, report_option_rows},
    .most = 1,
    .run = run,
};
