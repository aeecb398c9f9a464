/* Ollama's POST /api/create. */
#include "server/create.h"
#include "server/generation.h"
#include "server/modelfile.h"
#include "server/server_private.h"
#include "server/worker.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* Accepts only the name of an existing file in the subfolder "adapters" of the model folder. */
static bool check_adapter(const struct registry *registry, const char *name, hypura_error *error)
{
    char path[4096];
    size_t length = strlen(name);
    bool plain = *name != '.' && length < 256 &&
                 strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == length;
    if (plain && registry_adapter(registry, name, path, sizeof path) && access(path, R_OK) == 0)
        return true;
    error_set(
        error, HYPURA_ERROR_ARGUMENT,
        "ADAPTER must be the name, without a path, of a GGUF file in the subfolder \"adapters\" of the model folder");
    return false;
}

static bool is_absent(const json_t *value)
{
    return !value || json_is_null(value);
}

static bool are_messages(const json_t *messages)
{
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        if (!json_is_string(json_object_get(message, "role")) || !json_is_string(json_object_get(message, "content")))
            return false;
    }
    return is_absent(messages) || json_is_array(messages);
}

/* Checks types here, because the fields are stored with the model and every request to it reads them. */
static bool check_types(const json_t *fields, hypura_error *error)
{
    static const char *const texts[] = {"from", "system", "template", "adapter", "modelfile", "quantize"};
    static const char *const objects[] = {"files", "adapters", "parameters"};
    const json_t *license = json_object_get(fields, "license");
    const char *wrong = NULL;
    size_t i;
    json_t *each;
    for (i = 0; i < COUNT_OF(texts); i++) {
        const json_t *value = json_object_get(fields, texts[i]);
        wrong = is_absent(value) || json_is_string(value) ? wrong : texts[i];
    }
    if (!is_absent(license) && !json_is_string(license) && !json_is_array(license))
        wrong = "license";
    json_array_foreach(license, i, each) wrong = json_is_string(each) ? wrong : "license";
    for (i = 0; i < COUNT_OF(objects); i++) {
        const json_t *value = json_object_get(fields, objects[i]);
        wrong = is_absent(value) || json_is_object(value) ? wrong : objects[i];
    }
    if (!are_messages(json_object_get(fields, "messages")))
        wrong = "messages";
    if (wrong)
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"%s\" has the wrong type", wrong);
    return !wrong && check_model_options(json_object_get(fields, "parameters"), error);
}

static bool check_fields(const struct registry *registry, const json_t *fields, hypura_error *error)
{
    const json_t *adapters = json_object_get(fields, "adapters"), *adapter = json_object_get(fields, "adapter");
    const char *template = json_string_value(json_object_get(fields, "template"));
    if (json_string_length(adapter) && !check_adapter(registry, json_string_value(adapter), error))
        return false;
    if (json_object_size(adapters) > 1 || json_object_size(json_object_get(fields, "files")) > 1) {
        error_set(error, HYPURA_ERROR_UNSUPPORTED,
                  "\"files\" and \"adapters\" take one GGUF file each: to use a split model, put its parts into the "
                  "model folder");
        return false;
    }
    if (template && *template && !template_is_plain(template)) {
        error_set(error, HYPURA_ERROR_UNSUPPORTED,
                  "TEMPLATE is a Go template, which this server cannot run, except \"{{ .Prompt }}\": leave it out to "
                  "use the model's own chat template");
        return false;
    }
    return true;
}

/* The new manifest: fields of the request and its Modelfile override those of the base model. */
static json_t *make_manifest(const json_t *base, const json_t *fields)
{
    static const char *const keys[] = {"system", "template", "license", "messages", "adapter"};
    json_t *manifest = base ? json_deep_copy(base) : json_object();
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        json_t *value = json_object_get(fields, keys[i]);
        if (value && !json_is_null(value))
            json_object_set(manifest, keys[i], value);
    }
    json_t *parameters = json_object_get(manifest, "parameters");
    if (!parameters) {
        json_object_set_new(manifest, "parameters", json_object());
        parameters = json_object_get(manifest, "parameters");
    }
    json_t *given = json_object_get(fields, "parameters");
    if (json_is_object(given))
        json_object_update(parameters, given);
    json_t *from = json_object_get(fields, "from");
    json_object_set(manifest, "from", from && !json_object_size(json_object_get(fields, "files")) ? from : json_null());
    return manifest;
}

/* ---- uploaded files ------------------------------------------------------------------------------------------------
 */

/* Finds the blob of {"NAME": "sha256:DIGEST"} under the key kind, and checks that it is a GGUF file of that kind: an
 * adapter or a model. */
static hypura_status find_blob(const struct registry *registry, const json_t *fields, const char *kind, char *path,
                               size_t room, const char **digest, hypura_error *error)
{
    const char *name;
    json_t *value;
    struct gguf *file;
    *digest = NULL;
    json_object_foreach(json_object_get(fields, kind), name, value) *digest = json_string_value(value);
    if (!registry_blob(registry, *digest, path, room))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "invalid digest format");
    if (access(path, F_OK))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "blob \"%s\" not found: upload it with POST /api/blobs/%s",
                         *digest, *digest);
    hypura_status status = gguf_open(&file, path, error);
    if (status) /* the client's mistake, unless the file could not be read */
        return error->status =
                   status == HYPURA_ERROR_IO || status == HYPURA_ERROR_MEMORY ? status : HYPURA_ERROR_ARGUMENT;
    struct gguf_string type = {"", 0};
    gguf_get_string(file, "general.type", &type);
    bool adapter = strcmp(type.data, "adapter") == 0;
    gguf_close(file);
    if (adapter != (strcmp(kind, "adapters") == 0))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "blob \"%s\" is %s: it does not belong in \"%s\"", *digest,
                         adapter ? "an adapter" : "not an adapter", kind);
    return HYPURA_OK;
}

/* Names the uploaded adapter after its digest. */
static hypura_status name_adapter(const struct registry *registry, json_t *fields, char *blob, size_t room,
                                  hypura_error *error)
{
    char name[128];
    const char *digest;
    hypura_status status = find_blob(registry, fields, "adapters", blob, room, &digest, error);
    if (status)
        return status;
    snprintf(name, sizeof name, "sha256-%s.gguf", digest + 7);
    return json_object_set_new(fields, "adapter", json_string(name))
               ? error_set(error, HYPURA_ERROR_MEMORY, "no memory for the name of the adapter")
               : HYPURA_OK;
}

/* Finds what the model is made from: an existing model (*out) or an uploaded file (blob). */
static hypura_status find_source(struct registry *registry, json_t *fields, struct model_entry *out, char *blob,
                                 size_t room, hypura_error *error)
{
    const char *from = json_string_value(json_object_get(fields, "from")), *digest;
    *blob = 0;
    if (json_object_size(json_object_get(fields, "files")) == 0) {
        if (from && *from)
            return registry_find(registry, from, out, error);
        return error_set(error, HYPURA_ERROR_ARGUMENT, "FROM is missing: give the name of an existing model");
    }
    return find_blob(registry, fields, "files", blob, room, &digest, error);
}

static void create(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    hypura_error error = {0};
    struct model_entry entry = {0};
    const char *name = json ? model_field(exchange, json) : NULL;
    if (!name)
        return;
    struct registry *registry = exchange_server(exchange)->registry;
    const char *text = json_string_value(json_object_get(json, "modelfile"));
    json_t *fields = json_object();
    if (text && !modelfile_read(text, fields, &error)) {
        json_decref(fields);
        exchange_fail_with(exchange, &error);
        return;
    }
    const char *key;
    json_t *value;
    json_object_foreach(json, key, value)
    {
        if (!json_is_null(value))
            json_object_set(fields, key, value);
    }
    char blob[PATH_MAX] = "", adapter[PATH_MAX] = "";
    hypura_status status = HYPURA_OK;
    if (!(check_types(fields, &error) && check_fields(registry, fields, &error)))
        status = error.status;
    if (!status)
        status = find_source(registry, fields, &entry, blob, sizeof blob, &error);
    if (!status && json_object_size(json_object_get(fields, "adapters")))
        status = name_adapter(registry, fields, adapter, sizeof adapter, &error);
    if (status) {
        model_entry_free(&entry);
        json_decref(fields);
        bool missing = status == HYPURA_ERROR_IO && !*blob && !*adapter;
        exchange_fail(exchange, missing ? 404 : status_of_error(&error), error.message);
        return;
    }
    bool stream = !json_is_false(json_object_get(json, "stream"));
    char made[PATH_MAX] = "";
    const struct new_quantized wish = {.name = name,
                                       .source = *blob ? blob : entry.path,
                                       .type = json_string_value(json_object_get(fields, "quantize")),
                                       .stream = stream};
    if (wish.type && *wish.type) {
        if ((status = create_quantized(exchange, &wish, made, sizeof made, &error))) {
            model_entry_free(&entry);
            json_decref(fields);
            exchange_fail_with(exchange, &error);
            return;
        }
        strcpy(blob, made);
    }
    json_t *manifest = make_manifest(entry.manifest, fields);
    const char *const files[] = {blob};
    struct new_model model = {.from = *blob ? NULL : &entry,
                              .files = files,
                              .file_count = *blob ? 1 : 0,
                              .manifest = manifest,
                              .adapter_blob = *adapter ? adapter : NULL};
    /* An incomplete manifest must not be stored. */
    if (!(status = exchange_check_work(&error)))
        status = registry_create(registry, name, &model, &error);
    model_entry_free(&entry);
    json_decref(manifest);
    json_decref(fields);
    if (status) {
        if (*made)
            unlink(made);
        exchange_fail_with(exchange, &error);
        return;
    }
    worker_names_changed(exchange_server(exchange)->worker);
    if (!stream) {
        exchange_reply_json(exchange, 200, json_pack("{s:s}", "status", "success"));
        return;
    }
    exchange_write_line(exchange, json_pack("{s:s}", "status", "writing manifest"));
    exchange_write_line(exchange, json_pack("{s:s}", "status", "success"));
    exchange_end(exchange);
}

/* Waits for drives, and for other servers that lock the same folder. */
void handle_create(struct exchange *exchange)
{
    exchange_aside(exchange, create);
}
