/* hypura ps and stop: talk to a running server. */
#include "cli/engine_cli.h"
#include "server/server.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool as_json;

static const struct option_row ps_rows[] = {
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object, like GET /api/ps"},
    {0},
};

static const char details[] = "The server is the one at $HYPURA_HOST (default: 127.0.0.1:11434), with the key "
                              "$HYPURA_API_KEY if it needs one.";

/* "4 min" for a time in RFC 3339, UTC. For models that stay forever, servers give a time in the far future. */
static const char *time_left(char *out, size_t room, const char *until)
{
    struct tm parts = {0};
    int year, month;
    if (!until || sscanf(until, "%d-%d-%dT%d:%d:%d", &year, &month, &parts.tm_mday, &parts.tm_hour, &parts.tm_min,
                         &parts.tm_sec) != 6)
        return "?";
    parts.tm_year = year - 1900;
    parts.tm_mon = month - 1;
    double left = MAX(difftime(timegm(&parts), time(NULL)), 0.0);
    if (left > 10 * 365 * 86400.0)
        return "forever";
    return format_time(out, room, left);
}

static int run_ps(size_t count, char **arguments)
{
    hypura_error error = {0};
    json_t *answer, *model;
    size_t i;
    (void)count, (void)arguments;
    if (server_ask("/api/ps", NULL, &answer, &error))
        return report_error(&error);
    if (as_json)
        print_json(answer);
    else
        printf("%-48s %10s %10s  %s\n", "NAME", "SIZE", "CONTEXT", "STAYS");
    json_array_foreach(as_json ? NULL : json_object_get(answer, "models"), i, model)
    {
        char size[32], left[32];
        const char *name = json_string_value(json_object_get(model, "name"));
        const char *until = json_string_value(json_object_get(model, "expires_at"));
        printf("%-48s %10s %10.0f  %s\n", name ? name : "?",
               format_bytes(size, sizeof size, json_number_value(json_object_get(model, "size"))),
               json_number_value(json_object_get(model, "context_length")), time_left(left, sizeof left, until));
    }
    json_decref(answer);
    return EXIT_OK;
}

static int run_stop(size_t count, char **arguments)
{
    hypura_error error = {0};
    json_t *answer, *request = json_pack("{s:s, s:i, s:b}", "model", arguments[0], "keep_alive", 0, "stream", 0);
    (void)count;
    char *body = request ? json_dumps(request, 0) : NULL;
    json_decref(request);
    if (!body) {
        error_set(&error, HYPURA_ERROR_ARGUMENT, "the name is not UTF-8 text");
        return report_error(&error);
    }
    hypura_status status = server_ask("/api/generate", body, &answer, &error);
    free(body);
    if (status)
        return report_error(&error);
    json_decref(answer);
    return EXIT_OK;
}

const struct command command_ps = {
    .name = "ps",
    .arguments = "",
    .summary = "show which models a running server has loaded",
    .details = details,
    .options = {ps_rows},
    .run = run_ps,
};

const struct command command_stop = {
    .name = "stop",
    .arguments = "MODEL",
    .summary = "tell a running server to unload a model",
    .details = details,
    .least = 1,
    .most = 1,
    .run = run_stop,
};
