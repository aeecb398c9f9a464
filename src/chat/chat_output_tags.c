/* Parsers of calls whose parameters are in tags. */
#include "chat/chat_output_private.h"

#include <stdio.h>
#include <string.h>

/* Whether values are on lines of their own, with a line break before and after them that is not part of the value. */
enum value_lines {
    LINES_OF_ITS_OWN, /* the template writes line breaks: remove each that is present */
    LINES_PERHAPS     /* the template writes none: remove them only if both are present */
};

static struct view without_outer_breaks(struct view v, enum value_lines lines)
{
    const bool both = v.size > 1 && v.text[0] == '\n' && v.text[v.size - 1] == '\n';
    if (lines == LINES_PERHAPS && !both)
        return v;
    if (v.size && v.text[0] == '\n') {
        v.text++;
        v.size--;
    }
    if (v.size && v.text[v.size - 1] == '\n')
        v.size--;
    return v;
}

/* Reads the parameters of a call. Each begins with start, the key and key_end, and stops at end. */
static bool read_parameters(struct chat_calls *calls, const json_t *tools, struct view tool, struct view body,
                            const char *start, const char *key_end, const char *end, enum value_lines lines)
{
    json_t *arguments = json_object();
    struct view before, key, value;
    bool fine = arguments != NULL;
    while (fine && view_split(&body, start, &before)) {
        fine = view_split(&body, key_end, &key) && view_split_value(&body, end, start, &value);
        if (fine)
            fine = chat_set_parameter(arguments, tools, tool, view_trim(key), without_outer_breaks(value, lines));
    }
    fine = fine && chat_add_arguments(calls, tool.text, tool.size, arguments);
    json_decref(arguments);
    return fine;
}

/* Reads one or more <function=NAME> <parameter=KEY> VALUE </parameter> </function>. */
bool chat_read_function_tags(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view before, name, body;
    bool some = false;
    while (view_split(&v, "<function=", &before)) {
        if (!view_split(&v, ">", &name))
            return false;
        if (!view_split_value(&v, "</function>", "<function=", &body)) {
            body = v; /* some models omit the closing tag */
            v.size = 0;
        }
        if (view_begins(view_trim(body), "{"))
            some = chat_add_call(calls, name.text, name.size, body.text, body.size);
        else
            some = read_parameters(calls, tools, view_trim(name), body, "<parameter=", ">", "</parameter>",
                                   LINES_OF_ITS_OWN);
        if (!some)
            return false;
    }
    return some;
}

/* Reads <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value> ... */
static bool read_key_pairs(struct chat_calls *calls, struct view name, struct view rest, const json_t *tools)
{
    struct view key, value, before;
    json_t *arguments = json_object();
    bool fine = arguments != NULL;
    while (fine && view_split(&rest, "<arg_key>", &before))
        fine = view_split(&rest, "</arg_key>", &key) && view_split(&rest, "<arg_value>", &before) &&
               view_split_value(&rest, "</arg_value>", "<arg_key>", &value) &&
               chat_set_parameter(arguments, tools, name, view_trim(key), value);
    fine = fine && chat_add_arguments(calls, name.text, name.size, arguments);
    json_decref(arguments);
    return fine;
}

/* Reads NAME, followed by such pairs. */
bool chat_read_key_tags(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view name, rest = v;
    const bool pairs = view_split(&rest, "<arg_key>", &name);
    name = view_trim(pairs ? name : v);
    for (size_t i = 0; i < name.size; i++)
        if (strchr(" \n<", name.text[i]))
            return false;
    return name.size &&
           (pairs ? read_key_pairs(calls, name, v, tools) : chat_add_arguments(calls, name.text, name.size, NULL));
}

/* Reads <invoke name="NAME"> <parameter name="KEY">VALUE</parameter> </invoke>. */
bool chat_read_invocations(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view before, name, body;
    bool some = false;
    while (view_split(&v, "<invoke name=\"", &before)) {
        some = view_split(&v, "\">", &name) && view_split_value(&v, "</invoke>", "<invoke name=\"", &body) &&
               read_parameters(calls, tools, name, body, "<parameter name=\"", "\">", "</parameter>", LINES_PERHAPS);
        if (!some)
            return false;
    }
    return some;
}

/* ---- tags of model families --------------------------------------------------------------------------------------
 */

/* Sets a parameter whose tag tells whether it is a string. */
static bool set_told(json_t *arguments, const json_t *tools, struct view tool, struct view key, struct view text,
                     bool is_string)
{
    if (is_string)
        return json_object_setn_new(arguments, key.text, key.size, json_stringn(text.text, text.size)) == 0;
    json_t *value = view_json(view_trim(text));
    if (!value)
        return chat_set_parameter(arguments, tools, tool, key, text);
    return json_object_setn_new(arguments, key.text, key.size, value) == 0;
}

/* DeepSeek V3.2 and V4: <｜DSML｜invoke name="NAME"> <｜DSML｜parameter name="KEY" string="true">VALUE... */
bool chat_read_dsml(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view before, name, body, key, attributes, value;
    bool some = false;
    while (view_split(&v, "<｜DSML｜invoke name=\"", &before)) {
        if (!view_split(&v, "\">", &name))
            return false;
        if (!view_split_value(&v, "</｜DSML｜invoke>", "<｜DSML｜invoke name=\"", &body)) {
            body = v;
            v.size = 0;
        }
        json_t *arguments = json_object();
        some = arguments != NULL;
        while (some && view_split(&body, "<｜DSML｜parameter name=\"", &before)) {
            some = view_split(&body, "\"", &key) && view_split(&body, ">", &attributes) &&
                   view_split_value(&body, "</｜DSML｜parameter>", "<｜DSML｜parameter name=\"", &value) &&
                   set_told(arguments, tools, name, key, value, view_split(&attributes, "string=\"true\"", &before));
        }
        some = some && chat_add_arguments(calls, name.text, name.size, arguments);
        json_decref(arguments);
        if (!some)
            return false;
    }
    return some;
}

/* Reads the value of an attribute and unescapes & and ". */
static bool read_attribute(struct view head, const char *start, struct buffer *out)
{
    struct view before, value, plain;
    buffer_clear(out);
    if (!view_split(&head, start, &before) || !view_split(&head, "\"", &value))
        return false;
    while (view_split(&value, "&", &plain)) {
        bool quote = view_begins(value, "quot;"), ampersand = view_begins(value, "amp;");
        size_t length = quote ? strlen("quot;") : ampersand ? strlen("amp;") : 0;
        buffer_append(out, plain.text, plain.size);
        buffer_append(out, quote ? "\"" : "&", 1);
        value.text += length;
        value.size -= length;
    }
    buffer_append(out, value.text, value.size);
    return out->size > 0 && !out->failed;
}

/* Reads a call of Kimi K3: its arguments, or one block of JSON. */
static bool read_xtml_call(struct chat_calls *calls, struct view head, struct view body, const json_t *tools)
{
    struct buffer name = {0}, key = {0}, type = {0};
    struct view before, value, rest = body;
    json_t *arguments = NULL;
    bool fine = read_attribute(head, " tool=\"", &name);
    if (fine && view_split(&rest, "<|open|>json ", &before)) {
        fine = view_split(&rest, "<|sep|>", &before) && view_split(&rest, "<|close|>json<|sep|>", &value) &&
               chat_add_call(calls, name.data, name.size, value.text, value.size);
    } else if (fine) {
        arguments = json_object();
        fine = arguments != NULL;
        while (fine && view_split(&body, "<|open|>argument", &before)) {
            fine = view_split(&body, "<|sep|>", &head) &&
                   view_split_value(&body, "<|close|>argument<|sep|>", "<|open|>argument", &value) &&
                   read_attribute(head, " key=\"", &key);
            bool is_string = read_attribute(head, " type=\"", &type) && strcmp(type.data, "string") == 0;
            fine = fine && set_told(arguments, tools, (struct view){name.data, name.size},
                                    (struct view){key.data, key.size}, value, is_string);
        }
        fine = fine && chat_add_arguments(calls, name.data, name.size, arguments);
    }
    json_decref(arguments);
    buffer_free(&name);
    buffer_free(&key);
    buffer_free(&type);
    return fine;
}

bool chat_read_xtml(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view before, head, body;
    bool some = false;
    while (view_split(&v, "<|open|>call", &before)) {
        if (!view_split(&v, "<|sep|>", &head))
            return false;
        if (!view_split_value(&v, "<|close|>call<|sep|>", "<|open|>call", &body)) {
            body = v;
            v.size = 0;
        }
        some = read_xtml_call(calls, head, body, tools);
        if (!some)
            return false;
    }
    return some;
}

/* ---- MiniMax M3 --------------------------------------------------------------------------------------------------
 *
 * A special token precedes each tag. A parameter's tag is its name. Members of objects are nested tags; items of lists
 * are in <item>. */

#define SPACE_MARK "]<]minimax[>["
#define MAX_DEPTH 50

/* Takes the next element: its name and the text between its tags. Returns false if there is none or it is unclosed. */
static bool take_element(struct view *v, struct view *name, struct view *inside)
{
    struct view before, rest;
    char open[160], close[160];
    if (!view_split(v, SPACE_MARK "<", &before) || !view_split(v, ">", name) || name->size == 0 || name->size > 100 ||
        name->text[0] == '/')
        return false;
    snprintf(open, sizeof open, SPACE_MARK "<%.*s>", (int)name->size, name->text);
    snprintf(close, sizeof close, SPACE_MARK "</%.*s>", (int)name->size, name->text);
    rest = *v;
    *inside = (struct view){v->text, 0};
    for (int depth = 1; depth > 0; depth--) {
        struct view part, opened;
        if (!view_split(&rest, close, &part))
            return false;
        while (view_split(&part, open, &opened))
            depth++;
        inside->size = (size_t)(rest.text - v->text) - strlen(close);
    }
    *v = rest;
    return true;
}

static json_t *read_element(struct view text, int depth)
{
    struct view v = text, name, inside;
    if (!view_begins(view_trim(text), SPACE_MARK "<")) {
        json_t *value = view_json(view_trim(text));
        return value ? value : json_stringn(text.text, text.size);
    }
    json_t *object = json_object(), *list = json_array();
    bool fine = object && list && depth < MAX_DEPTH, items = true;
    while (fine && view_trim(v).size) {
        fine = take_element(&v, &name, &inside);
        json_t *value = fine ? read_element(inside, depth + 1) : NULL;
        items = items && fine && name.size == 4 && memcmp(name.text, "item", 4) == 0;
        fine =
            value && json_object_setn(object, name.text, name.size, value) == 0 && json_array_append(list, value) == 0;
        json_decref(value);
    }
    json_decref(items ? object : list);
    if (!fine)
        json_decref(items ? list : object);
    return !fine ? NULL : items ? list : object;
}

bool chat_read_spaced(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view before, tool, body, name, inside;
    bool some = false;
    while (view_split(&v, SPACE_MARK "<invoke name=\"", &before)) {
        if (!view_split(&v, "\">", &tool) || !view_split(&v, SPACE_MARK "</invoke>", &body))
            return false;
        json_t *arguments = json_object();
        some = arguments != NULL;
        while (some && view_trim(body).size) {
            some = take_element(&body, &name, &inside);
            if (some && view_begins(view_trim(inside), SPACE_MARK "<"))
                some = json_object_setn_new(arguments, name.text, name.size, read_element(inside, 0)) == 0;
            else
                some = some && chat_set_parameter(arguments, tools, tool, name, inside);
        }
        some = some && chat_add_arguments(calls, tool.text, tool.size, arguments);
        json_decref(arguments);
        if (!some)
            return false;
    }
    return some;
}

/* ---- Hunyuan -----------------------------------------------------------------------------------------------------
 */

/* Reads <tool_call>NAME<tool_sep> <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value> </tool_call>. The separator is
 * optional. */
static bool read_separated(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct view before, body, name;
    bool some = false;
    while (view_split(&v, "<tool_call>", &before)) {
        if (!view_split_value(&v, "</tool_call>", "<tool_call>", &body)) {
            body = v;
            v.size = 0;
        }
        struct view rest = body;
        if (!view_split(&rest, "<tool_sep>", &name))
            some = chat_read_key_tags(calls, body, tools);
        else if (view_begins(view_trim(rest), "{"))
            some = chat_add_call(calls, view_trim(name).text, view_trim(name).size, rest.text, rest.size);
        else
            some = read_key_pairs(calls, view_trim(name), rest, tools);
        if (!some)
            return false;
    }
    return some;
}

/* Removes a suffix that some releases append to tags. */
bool chat_read_hunyuan_tags(struct chat_calls *calls, struct view v, const json_t *tools)
{
    struct buffer plain = {0};
    struct view before;
    while (view_split(&v, ":opensource>", &before)) {
        buffer_append(&plain, before.text, before.size);
        buffer_append_string(&plain, ">");
    }
    buffer_append(&plain, v.text, v.size);
    bool fine = !plain.failed && plain.size && read_separated(calls, (struct view){plain.data, plain.size}, tools);
    buffer_free(&plain);
    return fine;
}
