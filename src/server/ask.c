/* Sends requests to a running server, for commands such as "hypura ps". */
#include "core/json_text.h"
#include "server/fetch.h"
#include "server/server.h"

#include <stdlib.h>
#include <string.h>

/* out may be NULL: then the answer need not be JSON. */
static hypura_status ask(const char *method, const char *path, const char *body, json_t **out, hypura_error *error)
{
    char url[512];
    const char *host = getenv("HYPURA_HOST"), *key = getenv("HYPURA_API_KEY");
    struct buffer text = {0};
    long status;
    if (!host || !*host)
        host = "127.0.0.1:11434";
    snprintf(url, sizeof url, "%s%s%s", strstr(host, "://") ? "" : "http://", host, path);
    hypura_status result = fetch_text(url, method, NULL, key && *key ? key : NULL, body, &text, &status, error);
    if (result) {
        buffer_free(&text);
        return error_prefix(error, "no server answers at %s (\"hypura serve\" starts one)", host);
    }
    json_t *json = json_text_read(text.data ? text.data : "", text.size, 0, NULL);
    const char *reason = json_string_value(json_object_get(json, "error"));
    if (status != 200 || (out && !json)) {
        result = error_set(error, HYPURA_ERROR_IO, "the server at %s answered with status %ld: %.300s", host, status,
                           reason ? reason : "something that is not JSON");
        json_decref(json);
    } else if (out) {
        *out = json;
    } else {
        json_decref(json);
    }
    buffer_free(&text);
    return result;
}

hypura_status server_ask(const char *path, const char *body, json_t **out, hypura_error *error)
{
    return ask(NULL, path, body, out, error);
}

/* Ollama uses the same default address, and its models must not be deleted. */
static hypura_status expect_own_kind(hypura_error *error)
{
    json_t *version;
    hypura_status status = ask(NULL, "/api/version", NULL, &version, error);
    if (status)
        return status;
    if (!json_object_get(version, "hypura"))
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED,
                           "the program that answers there is not hypura serve, so it was not asked to delete the "
                           "model: check HYPURA_HOST");
    json_decref(version);
    return status;
}

hypura_status server_delete(const char *name, hypura_error *error)
{
    hypura_status known = expect_own_kind(error);
    if (known)
        return known;
    json_t *request = json_pack("{s:s}", "model", name);
    char *body = request ? json_text_write(request, 0) : NULL;
    json_decref(request);
    if (!body)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the model's name is not UTF-8 text");
    hypura_status status = ask("DELETE", "/api/delete", body, NULL, error);
    free(body);
    return status;
}
