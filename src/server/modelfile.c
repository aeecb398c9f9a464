#include "server/modelfile.h"
#include "core/json_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

json_t *number_json(double value)
{
    return floor(value) == value && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
}

static const char blanks[] = " \t";

/* The closing quote of a text: one that only blanks follow on its line. NULL: none. */
static const char *closing_quote(const char *at)
{
    while ((at = strchr(at, '"'))) {
        size_t after = 1 + strspn(at + 1, " \t\r");
        if (at[after] == '\n' || !at[after])
            return at;
        at++;
    }
    return NULL;
}

/* Appends the rest of the line, or a text between single or triple quotes, which may have several lines. Returns where
 * it ends; NULL: it is not closed. */
static const char *take_value(const char *at, struct buffer *out)
{
    at += strspn(at, blanks);
    size_t quotes = strncmp(at, "\"\"\"", 3) == 0 ? 3 : *at == '"' ? 1 : 0;
    const char *end = quotes == 3 ? strstr(at + 3, "\"\"\"") : quotes ? closing_quote(at + 1) : NULL;
    if (quotes == 3 && !end)
        return NULL;
    if (end) {
        buffer_append(out, at + quotes, (size_t)(end - at) - quotes);
        end += quotes;
        return end + strcspn(end, "\n");
    }
    end = at + strcspn(at, "\r\n");
    size_t size = (size_t)(end - at);
    while (size && strchr(blanks, at[size - 1]))
        size--;
    buffer_append(out, at, size);
    return end;
}

/* Writes the next word and returns where the rest begins. */
static const char *take_word(const char *at, char *out, size_t room)
{
    at += strspn(at, blanks);
    size_t length = strcspn(at, " \t\r\n");
    snprintf(out, room, "%.*s", (int)MIN(length, room - 1), at);
    return at + length;
}

static void add_parameter(json_t *parameters, const char *key, const char *at, const struct buffer *value)
{
    const char *text = value->data ? value->data : "";
    const bool stop = strcmp(key, "stop") == 0;
    char *end;
    double number = strtod(text, &end);
    at += strspn(at, blanks);
    json_t *parsed = NULL;
    if (!stop && *text && !*end)
        parsed = number_json(number);
    else if (*at == '"') /* JSON, because of escapes such as "\n" */
        parsed = json_text_read(at, strcspn(at, "\r\n"), JSON_DECODE_ANY, NULL);
    if (!parsed)
        parsed = json_string(text);
    if (!stop) {
        json_object_set_new(parameters, key, parsed);
        return;
    }
    if (!json_object_get(parameters, "stop"))
        json_object_set_new(parameters, "stop", json_array());
    json_array_append_new(json_object_get(parameters, "stop"), parsed);
}

/* There may be several. */
static void add_license(json_t *fields, const char *text)
{
    if (!json_is_array(json_object_get(fields, "license")))
        json_object_set_new(fields, "license", json_array());
    json_array_append_new(json_object_get(fields, "license"), json_string(text));
}

/* Parses one instruction. Returns where the next begins, or NULL with an error. */
static const char *take_instruction(const char *at, json_t *fields, json_t *parameters, json_t *messages,
                                    hypura_error *error)
{
    static const char *const texts[] = {"from", "system", "template", "adapter"};
    /* These choose how Ollama makes and parses prompts; here the model's own template does. */
    static const char *const ignored[] = {"renderer", "parser", "requires"};
    char word[32], which[64];
    at = take_word(at, word, sizeof word);
    bool parameter = strcasecmp(word, "parameter") == 0, message = strcasecmp(word, "message") == 0;
    bool known = parameter || message || strcasecmp(word, "license") == 0;
    if (parameter || message)
        at = take_word(at, which, sizeof which);
    struct buffer value = {0};
    const char *end = take_value(at, &value), *text = value.data ? value.data : "";
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        if (strcasecmp(word, texts[i]) == 0) {
            json_object_set_new(fields, texts[i], json_string(text));
            known = true;
        }
    }
    for (size_t i = 0; i < COUNT_OF(ignored); i++)
        known |= strcasecmp(word, ignored[i]) == 0;
    if (end && parameter)
        add_parameter(parameters, which, at, &value);
    else if (end && message)
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", which, "content", text));
    else if (end && strcasecmp(word, "license") == 0)
        add_license(fields, text);
    if (!known || !end)
        error_set(error, HYPURA_ERROR_ARGUMENT,
                  known ? "the quotes after %s are not closed" : "the Modelfile has an unknown instruction \"%s\"",
                  word);
    buffer_free(&value);
    return known ? end : NULL;
}

bool modelfile_read(const char *text, json_t *fields, hypura_error *error)
{
    json_t *parameters = json_object(), *messages = json_array();
    const char *at = text;
    while (at) {
        at += strspn(at, " \t\r\n");
        if (!*at)
            break;
        at = *at == '#' ? at + strcspn(at, "\n") : take_instruction(at, fields, parameters, messages, error);
    }
    if (json_object_size(parameters))
        json_object_set(fields, "parameters", parameters);
    if (json_array_size(messages))
        json_object_set(fields, "messages", messages);
    json_decref(parameters);
    json_decref(messages);
    return at != NULL;
}
