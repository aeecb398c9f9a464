/* Ollama's requests about models: list, show, copy, delete. */
#include "server/modelfile.h"
#include "server/server_private.h"

#include "core/json_text.h"
#include "engine/engine.h"
#include "server/loaded.h"
#include "server/worker.h"
#include "template/template.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_TRIES 8 /* to describe a model that others are replacing */

void handle_root(struct exchange *exchange)
{
    static const char text[] = "Ollama is running";
    exchange_reply(exchange, 200, "text/plain; charset=utf-8", text, sizeof text - 1);
}

/* Clients compare "version" with the version of Ollama that they require. */
void handle_version(struct exchange *exchange)
{
    exchange_reply_json(exchange, 200, json_pack("{s:s, s:s}", "version", "0.13.0", "hypura", HYPURA_VERSION));
}

json_t *listed_models(struct exchange *exchange)
{
    hypura_error skipped = {0}, error = {0};
    json_t *tags = registry_tags(exchange_server(exchange)->registry, &skipped, &error);
    if (skipped.status)
        log_write(LOG_WARNING, "%s", skipped.message);
    if (!tags)
        exchange_fail_with(exchange, &error);
    return tags;
}

void handle_tags(struct exchange *exchange)
{
    json_t *tags = listed_models(exchange);
    if (tags)
        exchange_reply_json(exchange, 200, tags);
}

void handle_ps(struct exchange *exchange)
{
    hypura_error error = {0};
    json_t *list = loaded_ps(exchange_server(exchange)->models, &error);
    if (error.status)
        exchange_fail_with(exchange, &error);
    else
        exchange_reply_json(exchange, 200, list);
}

const char *model_field(struct exchange *exchange, const json_t *json)
{
    const char *name = json_string_value(json_object_get(json, "model"));
    if (!name || !*name)
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

/* Appends a line "NAME VALUE" per parameter, as in a Modelfile. */
static void parameter_lines(struct buffer *out, const json_t *parameters, const char *before, const char *between)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)parameters, key, value)
    {
        size_t count = json_is_array(value) ? json_array_size(value) : 1;
        for (size_t i = 0; i < count; i++) {
            char *text = json_text_write(json_is_array(value) ? json_array_get(value, i) : value, JSON_ENCODE_ANY);
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

/* A text, or the lines of several texts. */
static json_t *joined_lines(const json_t *texts)
{
    struct buffer all = {0};
    size_t i;
    json_t *text;
    if (!json_is_array(texts))
        return json_incref((json_t *)texts);
    json_array_foreach(texts, i, text) buffer_append_format(&all, "%s%s", i ? "\n" : "", json_string_value(text));
    json_t *joined = json_stringn(all.data ? all.data : "", all.size);
    buffer_free(&all);
    return joined;
}

static json_t *show(const struct model_entry *entry, const struct gguf *file, bool verbose, hypura_error *error)
{
    struct gguf_string template = {0};
    struct buffer parameters = {0};
    char modified[40];
    gguf_get_string(file, "tokenizer.chat_template", &template);
    parameter_lines(&parameters, json_object_get(entry->manifest, "parameters"), "", " ");
    time_text(modified, sizeof modified, entry->modified, 0);
    json_t *details = model_details(entry, error), *capabilities = model_capabilities(entry, error);
    json_t *reply = json_pack(
        "{s:o, s:s, s:o, s:o, s:o, s:o, s:s}", "modelfile", modelfile(entry), "parameters",
        parameters.data ? parameters.data : "", "template",
        template.data ? json_stringn(template.data, template.size) : json_string(chat_template_default), "details",
        details, "model_info", model_info(file, verbose), "capabilities", capabilities, "modified_at", modified);
    json_t *system = json_object_get(entry->manifest, "system"), *license = json_object_get(entry->manifest, "license");
    json_t *messages = json_object_get(entry->manifest, "messages");
    if (system)
        json_object_set(reply, "system", system);
    if (messages)
        json_object_set(reply, "messages", messages);
    struct gguf_string file_license;
    if (!license && gguf_get_string(file, "general.license", &file_license))
        json_object_set_new(reply, "license", json_stringn(file_license.data, file_license.size));
    else if (license)
        json_object_set_new(reply, "license", joined_lines(license));
    if (verbose)
        json_object_set_new(reply, "tensors", tensor_list(file));
    buffer_free(&parameters);
    return reply;
}

/* True: answered. False: the model was replaced meanwhile, so the answer might mix two models. */
static bool try_to_show(struct exchange *exchange, const char *name, bool verbose)
{
    struct model_entry entry;
    hypura_error error = {0};
    struct gguf *file;
    json_t *reply = NULL;
    if (registry_find(exchange_server(exchange)->registry, name, &entry, &error)) {
        fail_find(exchange, &error);
        return true;
    }
    if (gguf_open(&file, entry.path, &error) == HYPURA_OK) {
        reply = show(&entry, file, verbose, &error);
        gguf_close(file);
    }
    bool current = model_entry_is_current(&entry);
    model_entry_free(&entry);
    if (!current)
        json_decref(reply);
    else if (!error.status)
        exchange_reply_json(exchange, 200, reply);
    else
        exchange_fail(exchange, error.status == HYPURA_ERROR_MEMORY ? 503 : 500, error.message);
    if (current && error.status)
        json_decref(reply);
    return current;
}

void handle_show(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    const char *name = json ? model_field(exchange, json) : NULL;
    if (!name)
        return;
    bool verbose = json_is_true(json_object_get(json, "verbose"));
    for (int i = 0; i < MOST_TRIES; i++) {
        if (try_to_show(exchange, name, verbose))
            return;
    }
    exchange_fail(exchange, 503, "the model is being replaced: try again");
}

/* ---- copy, delete --------------------------------------------------------------------------------------------------
 */

static void reply_changed(struct exchange *exchange)
{
    worker_names_changed(exchange_server(exchange)->worker);
    exchange_reply(exchange, 200, TYPE_JSON, "", 0);
}

static void copy(struct exchange *exchange)
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

static void delete (struct exchange *exchange)
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

/* These wait for drives, and for other servers that lock the same folder. */
void handle_copy(struct exchange *exchange)
{
    exchange_aside(exchange, copy);
}

void handle_delete(struct exchange *exchange)
{
    exchange_aside(exchange, delete);
}

void handle_push(struct exchange *exchange)
{
    exchange_fail(exchange, 501, "this server does not publish models");
}
