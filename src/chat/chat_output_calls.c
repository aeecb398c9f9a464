/* Parsers of tool calls: JSON, and the marks of single model families. */
#include "chat/chat_output_private.h"
#include "core/json_text.h"

#include <string.h>

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
    json_t *inner =
        json_is_string(arguments) ? json_text_read_string(json_string_value(arguments), JSON_ALLOW_NUL, NULL) : NULL;
    bool added =
        chat_add_arguments(calls, json_string_value(name), json_string_length(name), inner ? inner : arguments);
    json_decref(inner);
    return added;
}

/* Reads objects and lists of objects, one after another, and skips the separators between them. */
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
        json_t *value = json_text_read(v.text, v.size, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error);
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

/* ---- marks of single families -------------------------------------------------------------------------------------
 */

/* Reads [{...}, ...], or one or more NAME[ARGS]{...} with [TOOL_CALLS] between them. The name may be followed by
 * [CALL_ID]ID. */
static bool read_mistral(struct chat_calls *calls, struct view v)
{
    struct view name, ignored;
    v = view_trim(v);
    if (view_begins(v, "[") || view_begins(v, "{"))
        return read_json_calls(calls, v);
    while (v.size) {
        if (!view_split(&v, "[ARGS]", &name))
            return false;
        struct view head = name;
        if (view_split(&head, "[CALL_ID]", &ignored))
            name = ignored;
        name = view_trim(name);
        /* A string in the arguments may contain the mark of the next call, so parse the JSON to find its end. */
        struct view rest = view_trim(v);
        json_error_t error;
        json_t *arguments = json_text_read(rest.text, rest.size, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error);
        const size_t end = arguments && error.position > 0 ? (size_t)error.position : 0;
        v = view_trim((struct view){rest.text + end, rest.size - end});
        const bool more = view_begins(v, "[TOOL_CALLS]");
        const bool fine = (arguments || rest.size == 0 || more) && (v.size == 0 || more) &&
                          chat_add_arguments(calls, name.text, name.size, arguments);
        json_decref(arguments);
        if (!fine)
            return false;
        if (more)
            view_split(&v, "[TOOL_CALLS]", &ignored);
    }
    return calls->count > 0;
}

/* Reads function<sep>NAME with fenced JSON, or NAME<sep>JSON; each call has marks around it. */
static bool read_deepseek(struct chat_calls *calls, struct view v)
{
    static const char begin[] = "<｜tool▁call▁begin｜>", separator[] = "<｜tool▁sep｜>", end[] = "<｜tool▁call▁end｜>";
    struct view before, call, head;
    bool some = false;
    while (view_split(&v, begin, &before)) {
        if (!view_split(&v, end, &call)) {
            call = v;
            v.size = 0;
        }
        if (!view_split(&call, separator, &head))
            return false;
        struct view name = view_trim(head), rest = call, fence;
        if (view_split(&rest, "```json", &fence)) {
            name = view_trim(fence);
            if (!view_split(&rest, "```", &call))
                call = rest;
        }
        some = chat_add_call(calls, name.text, name.size, call.text, call.size);
        if (!some)
            return false;
    }
    return some;
}

/* Reads functions.NAME:INDEX, a mark, and JSON; each call has marks around it. */
static bool read_kimi(struct chat_calls *calls, struct view v)
{
    struct view before, call, name;
    bool some = false;
    while (view_split(&v, "<|tool_call_begin|>", &before)) {
        if (!view_split(&v, "<|tool_call_end|>", &call)) {
            call = v;
            v.size = 0;
        }
        if (!view_split(&call, "<|tool_call_argument_begin|>", &name))
            return false;
        name = view_trim(name);
        if (view_begins(name, "functions.")) {
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

/* Reads name.call(key="value", ...), the notation of Llama 3's built-in tools. */
static bool read_builtin(struct chat_calls *calls, struct view v)
{
    struct view name, key;
    if (!view_split(&v, ".call(", &name) || v.size == 0 || v.text[v.size - 1] != ')')
        return false;
    v.size--;
    for (size_t i = 0; i < name.size; i++)
        if (strchr(" \n(=\"'", name.text[i]))
            return false;
    json_t *arguments = json_object();
    bool fine = arguments != NULL;
    while (fine && view_trim(v).size) {
        json_error_t error;
        json_t *value = NULL;
        fine = view_split(&v, "=", &key);
        if (fine)
            value = json_text_read(v.text, v.size, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
        fine = value && error.position > 0;
        if (fine) {
            v.text += error.position;
            v.size -= (size_t)error.position;
            key = view_trim(key);
            fine = json_object_setn(arguments, key.text, key.size, value) == 0;
            v = view_trim(v);
            if (v.size && v.text[0] == ',') {
                v.text++;
                v.size--;
            }
        }
        json_decref(value);
    }
    fine = fine && chat_add_arguments(calls, name.text, name.size, arguments);
    json_decref(arguments);
    return fine;
}

static bool read_python(struct chat_calls *calls, struct view v)
{
    v = view_trim(v);
    if (view_begins(v, "{") || view_begins(v, "["))
        return read_json_calls(calls, v);
    if (read_builtin(calls, v))
        return true;
    json_t *arguments = v.size ? json_pack("{s:s%}", "code", v.text, v.size) : NULL;
    bool added = arguments && chat_add_arguments(calls, "python", 6, arguments);
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
    *v = view_trim(*v);
    if (!view_begins(*v, text))
        return false;
    skip(v, strlen(text));
    return true;
}

/* Reads a value that differs from JSON in two ways: keys have no quotes, and a special token quotes strings. Returns
 * NULL for anything else. */
static json_t *read_gemma_value(struct view *v, int depth)
{
    struct view head;
    if (depth > 50)
        return NULL;
    if (accept(v, gemma_quote))
        return view_split(v, gemma_quote, &head) ? json_stringn(head.text, head.size) : NULL;
    if (accept(v, "[")) {
        json_t *list = json_array();
        bool fine = true;
        while (fine && !accept(v, "]")) {
            fine = json_array_append_new(list, read_gemma_value(v, depth + 1)) == 0;
            fine = fine && (accept(v, ",") || view_begins(view_trim(*v), "]"));
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
            fine = view_split(v, quoted ? gemma_quote : ":", &head) && (!quoted || accept(v, ":"));
            head = quoted ? head : view_trim(head);
            json_t *value = fine ? read_gemma_value(v, depth + 1) : NULL;
            fine = fine && json_object_setn_new(object, head.text, head.size, value) == 0;
            fine = fine && (accept(v, ",") || view_begins(view_trim(*v), "}"));
        }
        if (!fine)
            json_decref(object);
        return fine ? object : NULL;
    }
    size_t size = 0;
    while (size < v->size && v->text[size] && !strchr(",]}", v->text[size]))
        size++;
    json_t *value = view_json(view_trim((struct view){v->text, size}));
    if (value)
        skip(v, size);
    return value;
}

/* Reads call:NAME{KEY:VALUE,...}. */
static bool read_gemma(struct chat_calls *calls, struct view v)
{
    struct view name, body;
    if (!accept(&v, "call:"))
        return false;
    body = v;
    if (!view_split(&body, "{", &name))
        return false;
    skip(&v, name.size);
    name = view_trim(name);
    json_t *arguments = read_gemma_value(&v, 0);
    bool fine = arguments && view_trim(v).size == 0 && chat_add_arguments(calls, name.text, name.size, arguments);
    json_decref(arguments);
    return fine;
}

static bool read_function(struct chat_calls *calls, struct view v)
{
    struct view name;
    if (!view_split(&v, ">", &name))
        return false;
    name = view_trim(name);
    return chat_add_call(calls, name.text, name.size, v.text, v.size);
}

bool chat_read_calls(struct chat_calls *calls, enum call_style style, const char *text, size_t size,
                     const json_t *tools)
{
    struct view v = view_trim((struct view){text, size});
    struct chat_calls found = {0};
    bool fine = false;
    switch (style) {
    case CALL_TAGGED:
        if (view_begins(v, "{") || view_begins(v, "["))
            fine = read_json_calls(&found, v);
        else if (view_begins(v, "<function="))
            fine = chat_read_function_tags(&found, v, tools);
        else
            fine = chat_read_key_tags(&found, v, tools);
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
        fine = chat_read_invocations(&found, v, tools);
        break;
    case CALL_DSML:
        fine = chat_read_dsml(&found, v, tools);
        break;
    case CALL_XTML:
        fine = chat_read_xtml(&found, v, tools);
        break;
    case CALL_SPACED:
        fine = chat_read_spaced(&found, v, tools);
        break;
    case CALL_HUNYUAN:
        if (view_begins(v, "{") || view_begins(v, "["))
            fine = read_json_calls(&found, v);
        else
            fine = chat_read_hunyuan_tags(&found, v, tools);
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
