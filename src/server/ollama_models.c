/* Ollama's requests about models: lists, show, copy, delete, create. */
#include "server/server_private.h"

#include "engine/engine.h"
#include "model/template.h"
#include "server/loaded.h"
#include "server/worker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

void handle_root(struct exchange *exchange)
{
    static const char text[] = "Ollama is running";
    exchange_reply(exchange, 200, "text/plain; charset=utf-8", text, sizeof text - 1);
}

/* Clients compare this with the version of Ollama that they need. */
void handle_version(struct exchange *exchange)
{
    exchange_reply_json(exchange, 200, json_pack("{s:s, s:s}", "version", "0.13.0", "hypura", HYPURA_VERSION));
}

void handle_tags(struct exchange *exchange)
{
    exchange_reply_json(exchange, 200, registry_tags(exchange_server(exchange)->registry));
}

void handle_ps(struct exchange *exchange)
{
    exchange_reply_json(exchange, 200, loaded_ps(exchange_server(exchange)->models));
}

/* "model", or "name" as older clients say. NULL when the answer is given. */
static const char *model_field(struct exchange *exchange, const json_t *json)
{
    const char *name = json_string_value(json_object_get(json, "model"));
    if (!name)
        name = json_string_value(json_object_get(json, "name"));
    if (!name || !*name) {
        exchange_fail(exchange, 400, "model is required");
        return NULL;
    }
    return name;
}

static void fail_find(struct exchange *exchange, const hypura_error *error)
{
    exchange_fail(exchange, error->status == HYPURA_ERROR_IO ? 404 : status_of_error(error), error->message);
}

/* ---- show ----------------------------------------------------------------------------------------------------------
 */

static json_t *number_json(double value)
{
    return floor(value) == value && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
}

static json_t *value_json(const struct gguf_value *value, bool verbose)
{
    if (value->type == GGUF_STRING) {
        const struct gguf_string *string = value->data;
        json_t *text = json_stringn(string->data, string->size);
        return text ? text : json_null();
    }
    if (value->type != GGUF_ARRAY) {
        double number = 0;
        struct gguf_value one = *value;
        one.element_type = value->type;
        one.type = GGUF_ARRAY;
        one.count = 1;
        if (value->type == GGUF_BOOL)
            return json_boolean(*(const uint8_t *)value->data);
        return gguf_element_double(&one, 0, &number) && isfinite(number) ? number_json(number) : json_null();
    }
    if (!verbose)
        return json_null();
    json_t *array = json_array();
    for (uint64_t i = 0; i < value->count; i++) {
        double number = 0;
        if (value->element_type == GGUF_STRING) {
            const struct gguf_string *string = (const struct gguf_string *)value->data + i;
            json_t *text = json_stringn(string->data, string->size);
            json_array_append_new(array, text ? text : json_null());
        } else {
            json_array_append_new(
                array, gguf_element_double(value, i, &number) && isfinite(number) ? number_json(number) : json_null());
        }
    }
    return array;
}

static json_t *model_info(const struct gguf *file, bool verbose)
{
    json_t *info = json_object();
    double elements = 0;
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        if (strcmp(value->key.data, "tokenizer.chat_template") != 0)
            json_object_set_new(info, value->key.data, value_json(value, verbose));
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        double product = 1;
        for (int d = 0; d < GGUF_MAX_DIMENSIONS; d++)
            product *= (double)gguf_tensor_at(file, i)->dimensions[d];
        elements += product;
    }
    json_object_set_new(info, "general.parameter_count", number_json(elements));
    return info;
}

static json_t *tensor_list(const struct gguf *file)
{
    json_t *list = json_array();
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        const struct tensor_type_info *type = tensor_type_info(tensor->type);
        json_t *shape = json_array(), *name = json_stringn(tensor->name.data, tensor->name.size);
        for (uint32_t d = 0; d < tensor->dimension_count; d++)
            json_array_append_new(shape, json_integer((json_int_t)tensor->dimensions[d]));
        json_array_append_new(list, json_pack("{s:o, s:s, s:o}", "name", name ? name : json_string("?"), "type",
                                              type && type->name ? type->name : "?", "shape", shape));
    }
    return list;
}

/* One "NAME VALUE" a line, as a Modelfile has them. */
static void parameter_lines(struct buffer *out, const json_t *parameters, const char *before, const char *between)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)parameters, key, value)
    {
        size_t count = json_is_array(value) ? json_array_size(value) : 1;
        for (size_t i = 0; i < count; i++) {
            char *text = json_dumps(json_is_array(value) ? json_array_get(value, i) : value, JSON_ENCODE_ANY);
            buffer_append_format(out, "%s%s%s%s\n", before, key, between, text ? text : "");
            free(text);
        }
    }
}

static json_t *modelfile(const struct model_entry *entry)
{
    struct buffer text = {0};
    const char *system = json_string_value(json_object_get(entry->manifest, "system"));
    const char *adapter = json_string_value(json_object_get(entry->manifest, "adapter"));
    const char *slash = strrchr(entry->path, '/');
    buffer_append_format(&text, "# Modelfile of %s\nFROM %s\n", entry->name, slash ? slash + 1 : entry->path);
    if (adapter)
        buffer_append_format(&text, "ADAPTER %s\n", adapter);
    if (system)
        buffer_append_format(&text, "SYSTEM \"\"\"%s\"\"\"\n", system);
    parameter_lines(&text, json_object_get(entry->manifest, "parameters"), "PARAMETER ", " ");
    json_t *json = json_stringn(text.data, text.size);
    buffer_free(&text);
    return json;
}

void handle_show(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    struct model_entry entry;
    hypura_error error = {0};
    struct gguf *file;
    const char *name = json ? model_field(exchange, json) : NULL;
    if (!name)
        return;
    if (registry_find(exchange_server(exchange)->registry, name, &entry, &error)) {
        fail_find(exchange, &error);
        return;
    }
    if (gguf_open(&file, entry.path, &error)) {
        model_entry_free(&entry);
        exchange_fail(exchange, 500, error.message);
        return;
    }
    struct gguf_string template = {0};
    struct buffer parameters = {0};
    char modified[40];
    bool verbose = json_is_true(json_object_get(json, "verbose"));
    gguf_get_string(file, "tokenizer.chat_template", &template);
    parameter_lines(&parameters, json_object_get(entry.manifest, "parameters"), "", " ");
    time_text(modified, sizeof modified, entry.modified, 0);
    json_t *reply =
        json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:s}", "modelfile", modelfile(&entry), "parameters",
                  parameters.data ? parameters.data : "", "template",
                  template.data ? json_stringn(template.data, template.size) : json_string(chat_template_default),
                  "details", model_details(&entry), "model_info", model_info(file, verbose), "capabilities",
                  model_capabilities(&entry), "modified_at", modified);
    json_t *system = json_object_get(entry.manifest, "system"), *license = json_object_get(entry.manifest, "license");
    json_t *messages = json_object_get(entry.manifest, "messages");
    if (system)
        json_object_set(reply, "system", system);
    if (messages)
        json_object_set(reply, "messages", messages);
    struct gguf_string file_license;
    if (!license && gguf_get_string(file, "general.license", &file_license))
        json_object_set_new(reply, "license", json_stringn(file_license.data, file_license.size));
    else if (license)
        json_object_set(reply, "license", license);
    if (verbose)
        json_object_set_new(reply, "tensors", tensor_list(file));
    buffer_free(&parameters);
    gguf_close(file);
    model_entry_free(&entry);
    exchange_reply_json(exchange, 200, reply);
}

/* ---- copy, delete --------------------------------------------------------------------------------------------------
 */

static void reply_changed(struct exchange *exchange)
{
    worker_names_changed(exchange_server(exchange)->worker);
    exchange_reply(exchange, 200, TYPE_JSON, "", 0);
}

void handle_copy(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    hypura_error error = {0};
    const char *from = json_string_value(json_object_get(json, "source"));
    const char *to = json_string_value(json_object_get(json, "destination"));
    if (!json)
        return;
    if (!from || !to || !*from || !*to)
        exchange_fail(exchange, 400, "source and destination are required");
    else if (registry_copy(exchange_server(exchange)->registry, from, to, &error))
        exchange_fail(exchange, strstr(error.message, "not found") ? 404 : status_of_error(&error), error.message);
    else
        reply_changed(exchange);
}

void handle_delete(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    hypura_error error = {0};
    const char *name = json ? model_field(exchange, json) : NULL;
    if (!name)
        return;
    if (registry_delete(exchange_server(exchange)->registry, name, &error))
        exchange_fail(exchange, strstr(error.message, "not found") ? 404 : status_of_error(&error), error.message);
    else
        reply_changed(exchange);
}

void handle_push(struct exchange *exchange)
{
    exchange_fail(exchange, 501, "this server does not publish models");
}

/* ---- create --------------------------------------------------------------------------------------------------------
 */

/* The value of a Modelfile's instruction: the rest of the line, or what stands between two """. */
static const char *instruction_value(const char *at, struct buffer *out)
{
    at += strspn(at, " \t");
    const char *end;
    if (strncmp(at, "\"\"\"", 3) == 0) {
        at += 3;
        end = strstr(at, "\"\"\"");
        if (!end)
            return NULL;
        buffer_append(out, at, (size_t)(end - at));
        end += 3;
        return end + strcspn(end, "\n");
    }
    end = at + strcspn(at, "\r\n");
    size_t size = (size_t)(end - at);
    while (size && (at[size - 1] == ' ' || at[size - 1] == '\t'))
        size--;
    if (size >= 2 && at[0] == '"' && at[size - 1] == '"') {
        at++;
        size -= 2;
    }
    buffer_append(out, at, size);
    return end;
}

static void add_parameter(json_t *parameters, const char *text)
{
    size_t length = strcspn(text, " \t");
    char key[64];
    snprintf(key, sizeof key, "%.*s", (int)MIN(length, sizeof key - 1), text);
    const char *value = text + length + strspn(text + length, " \t");
    char *end;
    double number = strtod(value, &end);
    json_t *parsed = *value && !*end ? number_json(number) : NULL;
    size_t size = strlen(value);
    if (!parsed && size >= 2 && value[0] == '"' && value[size - 1] == '"')
        parsed = json_loadb(value, size, JSON_DECODE_ANY, NULL);
    if (!parsed)
        parsed = json_string(value);
    if (strcmp(key, "stop") == 0) {
        if (!json_object_get(parameters, "stop"))
            json_object_set_new(parameters, "stop", json_array());
        json_array_append_new(json_object_get(parameters, "stop"), parsed);
    } else {
        json_object_set_new(parameters, key, parsed);
    }
}

/* A Modelfile as the fields that /api/create takes. */
static bool read_modelfile(const char *text, json_t *fields, hypura_error *error)
{
    json_t *parameters = json_object(), *messages = json_array();
    bool fine = true;
    for (const char *at = text; fine && *at;) {
        at += strspn(at, " \t\r\n");
        if (!*at)
            break;
        if (*at == '#') {
            at += strcspn(at, "\n");
            continue;
        }
        char word[32];
        size_t length = strcspn(at, " \t\r\n");
        snprintf(word, sizeof word, "%.*s", (int)MIN(length, sizeof word - 1), at);
        struct buffer value = {0};
        buffer_append(&value, "", 0);
        const char *end = instruction_value(at + length, &value);
        const char *content = value.data ? value.data : "";
        static const char *const texts[] = {"from", "system", "template", "license", "adapter"};
        bool known = false;
        for (size_t i = 0; i < COUNT_OF(texts); i++) {
            if (strcasecmp(word, texts[i]) == 0) {
                json_object_set_new(fields, texts[i], json_string(content));
                known = true;
            }
        }
        if (strcasecmp(word, "parameter") == 0) {
            add_parameter(parameters, content);
            known = true;
        }
        if (strcasecmp(word, "message") == 0) {
            size_t role = strcspn(content, " \t");
            json_array_append_new(messages, json_pack("{s:s%, s:s}", "role", content, role, "content",
                                                      content + role + strspn(content + role, " \t")));
            known = true;
        }
        if (!end || !known) {
            error_set(error, HYPURA_ERROR_ARGUMENT,
                      end ? "the Modelfile has an unknown instruction \"%s\"" : "the text after %s is not closed",
                      word);
            fine = false;
        }
        buffer_free(&value);
        at = end ? end : "";
    }
    if (json_object_size(parameters))
        json_object_set(fields, "parameters", parameters);
    if (json_array_size(messages))
        json_object_set(fields, "messages", messages);
    json_decref(parameters);
    json_decref(messages);
    return fine;
}

/* The name of a file in the model folder's "adapters", and nothing else. */
static bool check_adapter(const struct registry *registry, const char *name, hypura_error *error)
{
    char path[4096];
    size_t length = strlen(name);
    bool plain = *name != '.' && length < 256 &&
                 strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == length;
    if (plain && registry_adapter(registry, name, path, sizeof path) && access(path, R_OK) == 0)
        return true;
    error_set(error, HYPURA_ERROR_ARGUMENT,
              "ADAPTER names a GGUF file in the folder \"adapters\" of the model folder, by its name alone");
    return false;
}

static bool check_fields(const struct registry *registry, const json_t *fields, hypura_error *error)
{
    const json_t *adapters = json_object_get(fields, "adapters"), *adapter = json_object_get(fields, "adapter");
    const char *template = json_string_value(json_object_get(fields, "template"));
    if (json_string_length(adapter) && !check_adapter(registry, json_string_value(adapter), error))
        return false;
    if (json_object_size(adapters)) {
        error_set(error, HYPURA_ERROR_UNSUPPORTED,
                  "\"adapters\" is not supported: put the file into the folder \"adapters\" of the model folder, and "
                  "name it as \"adapter\", or by ADAPTER in a Modelfile");
        return false;
    }
    if (json_object_size(json_object_get(fields, "files"))) {
        error_set(error, HYPURA_ERROR_UNSUPPORTED,
                  "\"files\" is not supported: put the GGUF file into the model folder, it is a model there");
        return false;
    }
    if (json_string_length(json_object_get(fields, "quantize"))) {
        error_set(error, HYPURA_ERROR_UNSUPPORTED, "this server does not quantize models");
        return false;
    }
    if (template && *template && !template_is_plain(template)) {
        error_set(error, HYPURA_ERROR_UNSUPPORTED,
                  "TEMPLATE is a Go template, which cannot be run here: the model's own chat template is used; only "
                  "\"{{ .Prompt }}\" is understood");
        return false;
    }
    return true;
}

/* Fields of the request over those of the Modelfile over those of the model that it comes from. */
static json_t *make_manifest(const json_t *base, const json_t *fields, const char *from)
{
    static const char *const keys[] = {"system", "template", "license", "messages", "adapter"};
    json_t *manifest = base ? json_deep_copy(base) : json_object();
    json_object_del(manifest, "file");
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
    json_object_set_new(manifest, "from", json_string(from));
    return manifest;
}

void handle_create(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    hypura_error error = {0};
    struct model_entry entry;
    const char *name = json ? model_field(exchange, json) : NULL;
    if (!name)
        return;
    struct registry *registry = exchange_server(exchange)->registry;
    const char *text = json_string_value(json_object_get(json, "modelfile"));
    json_t *fields = json_object();
    if (text && !read_modelfile(text, fields, &error)) {
        json_decref(fields);
        exchange_fail_with(exchange, &error);
        return;
    }
    json_object_update(fields, json);
    const char *from = json_string_value(json_object_get(fields, "from"));
    hypura_status status = HYPURA_OK;
    if (!from || !*from)
        status = error_set(&error, HYPURA_ERROR_ARGUMENT, "FROM is missing: the name of a model that is there");
    if (!status && !check_fields(registry, fields, &error))
        status = error.status;
    if (!status)
        status = registry_find(registry, from, &entry, &error);
    if (status) {
        json_decref(fields);
        exchange_fail(exchange, status == HYPURA_ERROR_IO ? 404 : status_of_error(&error), error.message);
        return;
    }
    json_t *manifest = make_manifest(entry.manifest, fields, from);
    status = registry_create(registry, name, &entry, manifest, &error);
    model_entry_free(&entry);
    json_decref(manifest);
    bool stream = !json_is_false(json_object_get(json, "stream"));
    json_decref(fields);
    if (status) {
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
