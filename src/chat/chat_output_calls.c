/* The many ways in which models write calls of tools. */
#include "chat/chat_output_private.h"

#include <stdlib.h>
#include <string.h>

struct view {
    const char *text;
    size_t size;
};

static struct view trim(struct view v)
{
    while (v.size && strchr(" \t\r\n", v.text[0]) && v.text[0]) {
        v.text++;
        v.size--;
    }
    while (v.size && strchr(" \t\r\n", v.text[v.size - 1]) && v.text[v.size - 1])
        v.size--;
    return v;
}

static bool begins_with(struct view v, const char *text)
{
    size_t length = strlen(text);
    return v.size >= length && memcmp(v.text, text, length) == 0;
}

/* Splits at the first mark: what is before goes to *head, what is after stays in *rest. */
static bool split(struct view *rest, const char *mark, struct view *head)
{
    size_t length = strlen(mark);
    const char *found = rest->size ? memmem(rest->text, rest->size, mark, length) : NULL;
    if (!found)
        return false;
    *head = (struct view){rest->text, (size_t)(found - rest->text)};
    rest->size -= head->size + length;
    rest->text = found + length;
    return true;
}

/* ---- calls --------------------------------------------------------------------------------------------------------
 */

void chat_calls_free(struct chat_calls *calls)
{
    for (size_t i = 0; i < calls->count; i++) {
        memory_free(calls->items[i].name);
        free(calls->items[i].arguments);
    }
    memory_free(calls->items);
    *calls = (struct chat_calls){0};
}

/* Compact JSON whose numbers read back as the same. */
static char *write_json(const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    json_t *again = text ? json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
    if (text && !json_equal(again, value)) {
        free(text);
        text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    }
    json_decref(again);
    return text;
}

static bool add_call(struct chat_calls *calls, const char *name, size_t name_size, const json_t *arguments)
{
    char *copy = NULL, *text = NULL;
    if (name_size == 0 || name_size > 256 || memchr(name, 0, name_size))
        return false;
    if (calls->count == calls->capacity) {
        size_t capacity = MAX(calls->capacity * 2, (size_t)4);
        if (memory_resize((void **)&calls->items, calls->capacity, capacity, sizeof *calls->items, "tool calls",
                          NULL) != HYPURA_OK)
            return false;
        calls->capacity = capacity;
    }
    text = arguments ? write_json(arguments) : strdup("{}");
    if (!text || ALLOCATE(&copy, name_size + 1, "tool call", NULL) != HYPURA_OK) {
        free(text);
        return false;
    }
    memcpy(copy, name, name_size);
    calls->items[calls->count++] = (struct chat_call){copy, text};
    return true;
}

static json_t *read_json(struct view v)
{
    return v.size ? json_loadb(v.text, v.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
}

bool chat_add_call(struct chat_calls *calls, const char *name, size_t name_size, const char *arguments, size_t size)
{
    struct view text = trim((struct view){arguments, size});
    json_t *value = read_json(text);
    bool added = (value || text.size == 0) && add_call(calls, name, name_size, value);
    json_decref(value);
    return added;
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------
 */

static const json_t *first_of(const json_t *object, const char *const *names)
{
    for (; *names; names++)
        if (json_object_get(object, *names))
            return json_object_get(object, *names);
    return NULL;
}

static bool add_object(struct chat_calls *calls, const json_t *object)
{
    static const char *const names[] = {"name", "tool_name", "function", NULL};
    static const char *const arguments_names[] = {"arguments", "parameters", "args", NULL};
    const json_t *function = json_object_get(object, "function");
    if (json_is_object(function))
        object = function;
    const json_t *name = first_of(object, names), *arguments = first_of(object, arguments_names);
    if (!json_is_string(name))
        return false;
    json_t *inner = json_is_string(arguments) ? json_loads(json_string_value(arguments), JSON_ALLOW_NUL, NULL) : NULL;
    bool added = add_call(calls, json_string_value(name), json_string_length(name), inner ? inner : arguments);
    json_decref(inner);
    return added;
}

/* Objects and lists of objects, one after another; what may stand between them is skipped. */
static bool read_json_calls(struct chat_calls *calls, struct view v)
{
    bool some = false;
    for (;;) {
        json_error_t error;
        while (v.size && strchr(" \t\r\n;,", v.text[0]) && v.text[0]) {
            v.text++;
            v.size--;
        }
        if (v.size == 0)
            return some;
        json_t *value = json_loadb(v.text, v.size, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error);
        bool fine = value != NULL;
        if (json_is_array(value)) {
            for (size_t i = 0; i < json_array_size(value) && fine; i++)
                fine = add_object(calls, json_array_get(value, i));
        } else if (fine) {
            fine = add_object(calls, value);
        }
        json_decref(value);
        if (!fine || error.position <= 0)
            return false;
        some = true;
        v.text += error.position;
        v.size -= (size_t)error.position;
    }
}

/* ---- parameters as text -------------------------------------------------------------------------------------------
 */

/* The type that the tool's description gives a parameter, or NULL. */
static const json_t *parameter_type(const json_t *tools, struct view tool, struct view parameter)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *entry = json_array_get(tools, i), *function = json_object_get(entry, "function");
        const json_t *description = function ? function : entry, *name = json_object_get(description, "name");
        if (!json_is_string(name) || json_string_length(name) != tool.size ||
            memcmp(json_string_value(name), tool.text, tool.size) != 0)
            continue;
        const json_t *properties = json_object_get(json_object_get(description, "parameters"), "properties");
        return json_object_get(json_object_getn(properties, parameter.text, parameter.size), "type");
    }
    return NULL;
}

/* Sets arguments[key] to what the text of a parameter means: a string when the tool wants one, otherwise the JSON that
 * it is, or a string when it is none. */
static bool set_parameter(json_t *arguments, const json_t *tools, struct view tool, struct view key, struct view text)
{
    const json_t *type = parameter_type(tools, tool, key);
    const char *name = json_string_value(type);
    json_t *value = NULL;
    if (!name || strcmp(name, "string") != 0)
        value = read_json(trim(text));
    if (!value && name && strcmp(name, "boolean") == 0)
        value = begins_with(trim(text), "True") ? json_true() : begins_with(trim(text), "False") ? json_false() : NULL;
    if (!value || (json_is_string(value) && !name)) {
        json_decref(value);
        value = json_stringn(text.text, text.size);
    }
    return json_object_setn_new(arguments, key.text, key.size, value) == 0;
}

/* A value on lines of its own has a line break before and after it that is not part of it. */
static struct view without_outer_breaks(struct view v)
{
    if (v.size && v.text[0] == '\n') {
        v.text++;
        v.size--;
    }
    if (v.size && v.text[v.size - 1] == '\n')
        v.size--;
    return v;
}

/* The parameters of a call, each between start (up to the end of the key), and end. */
static bool read_parameters(struct chat_calls *calls, const json_t *tools, struct view tool, struct view body,
                            const char *start, const char *key_end, const char *end, bool lines)
{
    json_t *arguments = json_object();
    struct view before, key, value;
    bool fine = arguments != NULL;
    while (fine && split(&body, start, &before)) {
        fine = split(&body, key_end, &key) && split(&body, end, &value);
        if (fine)
            fine = set_parameter(arguments, tools, tool, trim(key), lines ? without_outer_breaks(value) : value);
    }
    fine = fine && add_call(calls, tool.text, tool.size, arguments);
    json_decref(arguments);
    return fine;
}

/* <function=NAME> <parameter=KEY> VALUE </parameter> </function>, perhaps several. */
static bool read_function_tags(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view before, name, body;
    bool some = false;
    while (split(&v, "<function=", &before)) {
        if (!split(&v, ">", &name))
            return false;
        if (!split(&v, "</function>", &body)) {
            body = v; /* some forget to close it */
            v.size = 0;
        }
        if (begins_with(trim(body), "{"))
            some = chat_add_call(calls, name.text, name.size, body.text, body.size);
        else
            some = read_parameters(calls, tools, trim(name), body, "<parameter=", ">", "</parameter>", true);
        if (!some)
            return false;
    }
    return some;
}

/* NAME <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value> ... */
static bool read_key_tags(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view name, rest = v, key, value, before;
    json_t *arguments;
    if (!split(&rest, "<arg_key>", &name)) {
        name = trim(v);
        return name.size && !memchr(name.text, ' ', name.size) && add_call(calls, name.text, name.size, NULL);
    }
    rest = v;
    name = trim(name);
    arguments = json_object();
    bool fine = arguments != NULL;
    while (fine && split(&rest, "<arg_key>", &before))
        fine = split(&rest, "</arg_key>", &key) && split(&rest, "<arg_value>", &before) &&
               split(&rest, "</arg_value>", &value) && set_parameter(arguments, tools, name, trim(key), value);
    fine = fine && add_call(calls, name.text, name.size, arguments);
    json_decref(arguments);
    return fine;
}

/* <invoke name="NAME"> <parameter name="KEY">VALUE</parameter> </invoke> */
static bool read_invocations(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view before, name, body;
    bool some = false;
    while (split(&v, "<invoke name=\"", &before)) {
        some = split(&v, "\">", &name) && split(&v, "</invoke>", &body) &&
               read_parameters(calls, tools, name, body, "<parameter name=\"", "\">", "</parameter>", true);
        if (!some)
            return false;
    }
    return some;
}

/* ---- marks of single families -------------------------------------------------------------------------------------
 */

/* [{...}, ...], or NAME[ARGS]{...}, perhaps with [CALL_ID]ID between, perhaps several with [TOOL_CALLS] between. */
static bool read_mistral(struct chat_calls *calls, struct view v)
{
    struct view name, ignored, one;
    v = trim(v);
    if (begins_with(v, "[") || begins_with(v, "{"))
        return read_json_calls(calls, v);
    while (v.size) {
        bool more = split(&v, "[TOOL_CALLS]", &one);
        if (!more) {
            one = v;
            v.size = 0;
        }
        if (!split(&one, "[ARGS]", &name))
            return false;
        struct view head = name;
        if (split(&head, "[CALL_ID]", &ignored))
            name = ignored;
        name = trim(name);
        if (!chat_add_call(calls, name.text, name.size, one.text, one.size))
            return false;
    }
    return calls->count > 0;
}

/* function<sep>NAME and JSON in a fence, or NAME<sep>JSON; each between its own marks. */
static bool read_deepseek(struct chat_calls *calls, struct view v)
{
    static const char begin[] = "<｜tool▁call▁begin｜>", separator[] = "<｜tool▁sep｜>", end[] = "<｜tool▁call▁end｜>";
    struct view before, call, head;
    bool some = false;
    while (split(&v, begin, &before)) {
        if (!split(&v, end, &call)) {
            call = v;
            v.size = 0;
        }
        if (!split(&call, separator, &head))
            return false;
        struct view name = trim(head), rest = call, fence;
        if (split(&rest, "```json", &fence)) {
            name = trim(fence);
            if (!split(&rest, "```", &call))
                call = rest;
        }
        some = chat_add_call(calls, name.text, name.size, call.text, call.size);
        if (!some)
            return false;
    }
    return some;
}

/* functions.NAME:INDEX, a mark, JSON; each between its own marks. */
static bool read_kimi(struct chat_calls *calls, struct view v)
{
    struct view before, call, name;
    bool some = false;
    while (split(&v, "<|tool_call_begin|>", &before)) {
        if (!split(&v, "<|tool_call_end|>", &call)) {
            call = v;
            v.size = 0;
        }
        if (!split(&call, "<|tool_call_argument_begin|>", &name))
            return false;
        name = trim(name);
        if (begins_with(name, "functions.")) {
            name.text += strlen("functions.");
            name.size -= strlen("functions.");
        }
        size_t colon = name.size;
        while (colon > 0 && name.text[colon - 1] != ':')
            colon--;
        if (colon > 0)
            name.size = colon - 1;
        some = chat_add_call(calls, name.text, name.size, call.text, call.size);
        if (!some)
            return false;
    }
    return some;
}

/* name.call(key="value", ...): the built-in tools of Llama 3. */
static bool read_builtin(struct chat_calls *calls, struct view v)
{
    struct view name, key;
    if (!split(&v, ".call(", &name) || v.size == 0 || v.text[v.size - 1] != ')')
        return false;
    v.size--;
    for (size_t i = 0; i < name.size; i++)
        if (strchr(" \n(=\"'", name.text[i]))
            return false;
    json_t *arguments = json_object();
    bool fine = arguments != NULL;
    while (fine && trim(v).size) {
        json_error_t error;
        json_t *value = NULL;
        fine = split(&v, "=", &key);
        if (fine)
            value = json_loadb(v.text, v.size, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
        fine = value && error.position > 0;
        if (fine) {
            v.text += error.position;
            v.size -= (size_t)error.position;
            key = trim(key);
            fine = json_object_setn(arguments, key.text, key.size, value) == 0;
            v = trim(v);
            if (v.size && v.text[0] == ',') {
                v.text++;
                v.size--;
            }
        }
        json_decref(value);
    }
    fine = fine && add_call(calls, name.text, name.size, arguments);
    json_decref(arguments);
    return fine;
}

static bool read_python(struct chat_calls *calls, struct view v)
{
    v = trim(v);
    if (begins_with(v, "{") || begins_with(v, "["))
        return read_json_calls(calls, v);
    if (read_builtin(calls, v))
        return true;
    json_t *arguments = v.size ? json_pack("{s:s%}", "code", v.text, v.size) : NULL;
    bool added = arguments && add_call(calls, "python", 6, arguments);
    json_decref(arguments);
    return added;
}

/* ---- Gemma 4 ------------------------------------------------------------------------------------------------------
 */

static const char gemma_quote[] = "<|\"|>";

static void skip(struct view *v, size_t size)
{
    v->text += size;
    v->size -= size;
}

static bool accept(struct view *v, const char *text)
{
    *v = trim(*v);
    if (!begins_with(*v, text))
        return false;
    skip(v, strlen(text));
    return true;
}

/* A value as JSON has it, but for keys without quotes and a token of its own as the quote; NULL for anything else. */
static json_t *read_gemma_value(struct view *v, int depth)
{
    struct view head;
    if (depth > 50)
        return NULL;
    if (accept(v, gemma_quote))
        return split(v, gemma_quote, &head) ? json_stringn(head.text, head.size) : NULL;
    if (accept(v, "[")) {
        json_t *list = json_array();
        bool fine = true;
        while (fine && !accept(v, "]")) {
            fine = json_array_append_new(list, read_gemma_value(v, depth + 1)) == 0;
            fine = fine && (accept(v, ",") || begins_with(trim(*v), "]"));
        }
        if (!fine)
            json_decref(list);
        return fine ? list : NULL;
    }
    if (accept(v, "{")) {
        json_t *object = json_object();
        bool fine = true;
        while (fine && !accept(v, "}")) {
            bool quoted = accept(v, gemma_quote);
            fine = split(v, quoted ? gemma_quote : ":", &head) && (!quoted || accept(v, ":"));
            head = quoted ? head : trim(head);
            json_t *value = fine ? read_gemma_value(v, depth + 1) : NULL;
            fine = fine && json_object_setn_new(object, head.text, head.size, value) == 0;
            fine = fine && (accept(v, ",") || begins_with(trim(*v), "}"));
        }
        if (!fine)
            json_decref(object);
        return fine ? object : NULL;
    }
    size_t size = 0;
    while (size < v->size && v->text[size] && !strchr(",]}", v->text[size]))
        size++;
    json_t *value = read_json(trim((struct view){v->text, size}));
    if (value)
        skip(v, size);
    return value;
}

/* call:NAME{KEY:VALUE,...} */
static bool read_gemma(struct chat_calls *calls, struct view v)
{
    struct view name, body;
    if (!accept(&v, "call:"))
        return false;
    body = v;
    if (!split(&body, "{", &name))
        return false;
    skip(&v, name.size);
    name = trim(name);
    json_t *arguments = read_gemma_value(&v, 0);
    bool fine = arguments && trim(v).size == 0 && add_call(calls, name.text, name.size, arguments);
    json_decref(arguments);
    return fine;
}

static bool read_function(struct chat_calls *calls, struct view v)
{
    struct view name;
    if (!split(&v, ">", &name))
        return false;
    name = trim(name);
    return chat_add_call(calls, name.text, name.size, v.text, v.size);
}

bool chat_read_calls(struct chat_calls *calls, enum call_style style, const char *text, size_t size,
                     const json_t *tools)
{
    struct view v = trim((struct view){text, size});
    struct chat_calls found = {0};
    bool fine = false;
    switch (style) {
    case CALL_TAGGED:
        if (begins_with(v, "{") || begins_with(v, "["))
            fine = read_json_calls(&found, v);
        else if (begins_with(v, "<function="))
            fine = read_function_tags(&found, v, tools);
        else
            fine = read_key_tags(&found, v, tools);
        break;
    case CALL_JSON:
        fine = read_json_calls(&found, v);
        break;
    case CALL_MISTRAL:
        fine = read_mistral(&found, v);
        break;
    case CALL_DEEPSEEK:
        fine = read_deepseek(&found, v);
        break;
    case CALL_KIMI:
        fine = read_kimi(&found, v);
        break;
    case CALL_PYTHON:
        fine = read_python(&found, v);
        break;
    case CALL_MINIMAX:
        fine = read_invocations(&found, v, tools);
        break;
    case CALL_GEMMA:
        fine = read_gemma(&found, v);
        break;
    case CALL_FUNCTION:
        fine = read_function(&found, v);
        break;
    }
    if (fine) {
        chat_calls_free(calls);
        *calls = found;
    } else {
        chat_calls_free(&found);
    }
    return fine;
}
