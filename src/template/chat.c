/* Renders chats: sets the variables that chat templates expect, and adapts messages to a template. */
#include "core/core.h"
#include "core/json_text.h"
#include "template/template.h"

#include <stdlib.h>
#include <string.h>

const char chat_template_default[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static hypura_status collect(const struct chat_input *input, json_t *variables, json_t *trusted, hypura_error *error)
{
    static const char *const own[] = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"};
    if (!json_is_array(input->messages))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the messages of a chat must be a JSON array");
    if (input->tools && !json_is_array(input->tools))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the tools of a chat must be a JSON array");
    if (input->variables && !json_is_object(input->variables))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the variables of a chat template must be a JSON object");
    for (size_t i = 0; i < COUNT_OF(own); i++)
        if (json_object_get(input->variables, own[i]))
            return error_set(error, HYPURA_ERROR_ARGUMENT, "\"%s\" cannot be passed as a variable of the chat template",
                             own[i]);
    /* The objects only borrow the caller's values: they are released first, so only reference counts change. */
    int failed = input->variables ? json_object_update(variables, (json_t *)input->variables) : 0;
    failed |= json_object_set(variables, "messages", (json_t *)input->messages);
    if (input->tools)
        failed |= json_object_set(variables, "tools", (json_t *)input->tools);
    failed |= json_object_set_new(trusted, "add_generation_prompt", json_boolean(input->add_generation_prompt));
    failed |= json_object_set_new(trusted, "bos_token", json_string_nocheck(input->bos_text ? input->bos_text : ""));
    failed |= json_object_set_new(trusted, "eos_token", json_string_nocheck(input->eos_text ? input->eos_text : ""));
    if (failed)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the variables of the chat template");
    return HYPURA_OK;
}

/* ---- the beginning of an answer -----------------------------------------------------------------------------------
 */

static hypura_status append(struct rendered_text *rendered, const char *text, size_t size, bool user,
                            hypura_error *error)
{
    if (size == 0)
        return HYPURA_OK;
    size_t old = rendered->size, room, ranges = rendered->user_count;
    if (!size_add(&room, old, size) || !size_add(&room, room, 1))
        return error_set(error, HYPURA_ERROR_MEMORY, "the prompt is too long");
    hypura_status status = memory_resize((void **)&rendered->text, old + 1, room, 1, "rendered prompt", error);
    bool joins = ranges && rendered->user[ranges - 1].end == old;
    if (status == HYPURA_OK && user && !joins)
        status = memory_resize((void **)&rendered->user, ranges, ranges + 1, sizeof *rendered->user, "rendered prompt",
                               error);
    if (status != HYPURA_OK)
        return status;
    memcpy(rendered->text + old, text, size);
    rendered->text[old + size] = 0;
    rendered->size = old + size;
    if (user && joins)
        rendered->user[ranges - 1].end = old + size;
    else if (user)
        rendered->user[rendered->user_count++] = (struct text_range){old, old + size};
    return HYPURA_OK;
}

/* Appends content: a string, or the "text" of each part in an array. */
static hypura_status append_content(struct rendered_text *rendered, const json_t *content, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    if (json_is_string(content))
        return append(rendered, json_string_value(content), json_string_length(content), true, error);
    for (size_t i = 0; status == HYPURA_OK && i < json_array_size(content); i++)
        status = append_content(rendered, json_object_get(json_array_get(content, i), "text"), error);
    return status;
}

static hypura_status append_text(struct rendered_text *rendered, const char *text, hypura_error *error)
{
    return append(rendered, text, strlen(text), false, error);
}

/* Appends the beginning of the answer after the generation prompt. In templates with channels (gpt-oss), the answer
 * itself chooses its channels, so those before the content are part of it. */
static hypura_status append_answer(struct rendered_text *rendered, const json_t *answer, bool channels,
                                   hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    if (channels) {
        const json_t *reasoning = json_object_get(answer, "reasoning_content");
        status = append_text(rendered, "<|channel|>analysis<|message|>", error);
        if (status == HYPURA_OK)
            status = append_content(rendered, reasoning, error);
        if (status == HYPURA_OK)
            status = append_text(rendered, "<|end|><|start|>assistant<|channel|>final<|message|>", error);
    }
    return status == HYPURA_OK ? append_content(rendered, json_object_get(answer, "content"), error) : status;
}

/* Returns the last message if it is an answer to continue, or NULL. */
static const json_t *begun_answer(const struct chat_input *input)
{
    size_t count = json_array_size(input->messages);
    const json_t *last = count ? json_array_get(input->messages, count - 1) : NULL;
    const char *role = json_string_value(json_object_get(last, "role"));
    const json_t *content = json_object_get(last, "content");
    if (input->close_last_answer || count < 2 || !role || strcmp(role, "assistant") != 0 ||
        json_array_size(json_object_get(last, "tool_calls")) || !(json_is_string(content) || json_is_array(content)))
        return NULL;
    return last;
}

/* ---- adapting messages to a template ------------------------------------------------------------------------------
 */

enum {
    ADAPT_OBJECTS = 1,
    ADAPT_STRINGS = 2,
    ADAPT_FLAT_CONTENT = 4,
    ADAPT_ONE_SYSTEM = 8,    /* join the system messages at the start */
    ADAPT_FIRST_SYSTEM = 16, /* no later system messages */
    ADAPT_NO_SYSTEM = 32     /* no system messages at all */
};

#define PROBE "a7f3probe"

static bool has_parts(const json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (json_is_array(json_object_get(json_array_get(messages, i), "content")))
            return true;
    return false;
}

static bool has_calls(const json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (json_array_size(json_object_get(json_array_get(messages, i), "tool_calls")))
            return true;
    return false;
}

/* Joins the text of all parts, one per line. */
static json_t *flat_content(const json_t *parts)
{
    struct buffer text = {0};
    bool first = true;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_object_get(json_array_get(parts, i), "text");
        if (!json_is_string(part))
            continue;
        if (!first)
            buffer_append_char(&text, '\n');
        first = false;
        buffer_append(&text, json_string_value(part), json_string_length(part));
    }
    json_t *content = text.failed ? NULL : json_stringn(text.data ? text.data : "", text.size);
    buffer_free(&text);
    return content;
}

/* Converts the arguments of calls to objects, or to text. */
static void adapt_arguments(json_t *message, int how)
{
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    size_t i;
    json_array_foreach(calls, i, call)
    {
        json_t *function = json_object_get(call, "function"), *owner = function ? function : call;
        json_t *arguments = json_object_get(owner, "arguments");
        if ((how & ADAPT_OBJECTS) && json_is_string(arguments)) {
            json_t *object =
                json_text_read(json_string_value(arguments), json_string_length(arguments), JSON_ALLOW_NUL, NULL);
            if (object)
                json_object_set_new(owner, "arguments", object);
        } else if ((how & ADAPT_STRINGS) && json_is_object(arguments)) {
            char *text = json_text_write(arguments, JSON_REAL_PRECISION(15));
            json_object_set_new(owner, "arguments", json_string(text ? text : ""));
            free(text);
        }
    }
}

static bool has_role(const json_t *message, const char *role)
{
    const char *own = json_string_value(json_object_get(message, "role"));
    return own && strcmp(own, role) == 0;
}

/* Returns how many system messages the chat begins with. */
static size_t leading_system(const json_t *messages)
{
    size_t count = 0;
    while (has_role(json_array_get(messages, count), "system"))
        count++;
    return count;
}

static bool has_later_system(const json_t *messages)
{
    for (size_t i = leading_system(messages); i < json_array_size(messages); i++)
        if (has_role(json_array_get(messages, i), "system"))
            return true;
    return false;
}

/* Returns content as a list of parts: a new reference. */
static json_t *content_parts(json_t *content)
{
    return json_is_array(content) ? json_incref(content) : json_pack("[{s:s, s:O}]", "type", "text", "text", content);
}

/* Appends the content of the second message to that of the first. */
static void join_content(json_t *first, const json_t *second)
{
    json_t *head = json_object_get(first, "content"), *tail = json_object_get(second, "content"), *joined = NULL;
    if (json_is_string(head) && json_is_string(tail)) {
        joined = json_sprintf("%s\n%s", json_string_value(head), json_string_value(tail));
    } else {
        json_t *parts = content_parts(head), *more = content_parts(tail);
        joined = json_copy(parts);
        json_array_extend(joined, more);
        json_decref(parts);
        json_decref(more);
    }
    json_object_set_new(first, "content", joined);
}

/* Joins the system messages at the start of a chat into one. Turns later ones, or all if the template has no system
 * role, into user messages, and joins these with adjacent user messages. */
static void adapt_system(json_t *messages, int how)
{
    size_t leading = how & ADAPT_NO_SYSTEM ? 0 : leading_system(messages), i;
    for (; (how & ADAPT_ONE_SYSTEM) && leading > 1; leading--) {
        join_content(json_array_get(messages, 0), json_array_get(messages, 1));
        json_array_remove(messages, 1);
    }
    bool before = false; /* the previous message is, or contains, a system message */
    for (i = leading; (how & (ADAPT_FIRST_SYSTEM | ADAPT_NO_SYSTEM)) && i < json_array_size(messages); i++) {
        json_t *message = json_array_get(messages, i), *last = i ? json_array_get(messages, i - 1) : NULL;
        bool system = has_role(message, "system");
        if (system)
            json_object_set_new(message, "role", json_string("user"));
        bool joins = has_role(message, "user") && has_role(last, "user") && (system || before);
        before = system || (before && joins);
        if (joins) {
            join_content(last, message);
            json_array_remove(messages, i--);
        }
    }
}

static json_t *adapt_messages(const json_t *messages, int how)
{
    json_t *copy = json_deep_copy(messages), *message;
    size_t i;
    json_array_foreach(copy, i, message)
    {
        json_t *content = json_object_get(message, "content");
        if (!content || json_is_null(content))
            json_object_set_new(message, "content", json_string(""));
        else if ((how & ADAPT_FLAT_CONTENT) && json_is_array(content))
            json_object_set_new(message, "content", flat_content(content));
        adapt_arguments(message, how);
    }
    adapt_system(copy, how);
    return copy;
}

static hypura_status render_messages(const struct chat_template *template, const struct chat_input *input,
                                     struct rendered_text *out, hypura_error *error)
{
    json_t *variables = json_object(), *trusted = json_object();
    hypura_status status = collect(input, variables, trusted, error);
    if (status == HYPURA_OK)
        status = chat_template_render(template, variables, trusted, input->now, input->watch, out, error);
    json_decref(variables);
    json_decref(trusted);
    return status;
}

/* Whether a template renders messages with the text of the probe and without the unwanted text. Releases messages. */
static bool writes_probe(const struct chat_template *template, const struct chat_input *input, json_t *messages,
                         const char *unwanted)
{
    struct chat_input question = *input;
    struct rendered_text text = {0};
    question.messages = messages;
    bool writes = render_messages(template, &question, &text, NULL) == HYPURA_OK && strstr(text.text, PROBE) &&
                  !(unwanted && strstr(text.text, unwanted));
    rendered_text_free(&text);
    json_decref(messages);
    return writes;
}

/* Whether a template writes the text of a list of parts, rather than the list as Python prints it. */
static bool takes_parts(const struct chat_template *template, const struct chat_input *input)
{
    return writes_probe(template, input,
                        json_pack("[{s:s, s:[{s:s, s:s}]}]", "role", "user", "content", "type", "text", "text", PROBE),
                        "'text'");
}

static bool takes_system(const struct chat_template *template, const struct chat_input *input)
{
    return writes_probe(
        template, input,
        json_pack("[{s:s, s:s}, {s:s, s:s}]", "role", "system", "content", PROBE, "role", "user", "content", "a"),
        NULL);
}

static bool takes_several_systems(const struct chat_template *template, const struct chat_input *input)
{
    return writes_probe(template, input,
                        json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "role", "system", "content", "a", "role",
                                  "system", "content", PROBE, "role", "user", "content", "b"),
                        NULL);
}

static bool takes_later_systems(const struct chat_template *template, const struct chat_input *input)
{
    return writes_probe(template, input,
                        json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "role", "user", "content", "a",
                                  "role", "system", "content", PROBE, "role", "assistant", "content", "b", "role",
                                  "user", "content", "c"),
                        NULL);
}

/* Renders the messages as they are or, with adapt, in the form that the template supports. */
static hypura_status render_adapted(const struct chat_template *template, const struct chat_input *input,
                                    struct rendered_text *out, hypura_error *error)
{
    if (!input->adapt || !json_is_array(input->messages))
        return render_messages(template, input, out, error);
    int how = 0;
    if (has_parts(input->messages) && !takes_parts(template, input))
        how |= ADAPT_FLAT_CONTENT;
    if (leading_system(input->messages) && !takes_system(template, input))
        how |= ADAPT_NO_SYSTEM;
    if (leading_system(input->messages) > 1 && !takes_several_systems(template, input))
        how |= ADAPT_ONE_SYSTEM;
    if (has_later_system(input->messages) && !takes_later_systems(template, input))
        how |= ADAPT_FIRST_SYSTEM;
    struct chat_input adapted = *input;
    json_t *messages = adapt_messages(input->messages, how | ADAPT_OBJECTS);
    adapted.messages = messages;
    hypura_status status = render_messages(template, &adapted, out, error);
    json_decref(messages);
    if (status != HYPURA_ERROR_FORMAT || !has_calls(input->messages))
        return status;
    /* A template that concatenates the arguments with text fails for objects: try again with text. */
    messages = adapt_messages(input->messages, how | ADAPT_STRINGS);
    adapted.messages = messages;
    if (render_messages(template, &adapted, out, NULL) == HYPURA_OK)
        status = HYPURA_OK;
    json_decref(messages);
    return status;
}

hypura_status chat_render(const struct chat_template *template, const struct chat_input *input,
                          struct rendered_text *out, hypura_error *error)
{
    json_t *earlier = NULL;
    struct chat_input complete = *input;
    struct rendered_text rendered = {0};
    uint64_t failures = memory_failures();
    const json_t *answer = begun_answer(input);
    if (answer) {
        earlier = json_copy((json_t *)input->messages);
        json_array_remove(earlier, json_array_size(earlier) - 1);
        complete.messages = earlier;
        complete.add_generation_prompt = true;
    }
    hypura_status status = render_adapted(template, &complete, &rendered, error);
    if (status == HYPURA_OK && answer)
        status = append_answer(&rendered, answer, chat_template_mentions(template, "<|channel|>"), error);
    /* If memory ran out while adapting or probing, a message may be incomplete or a probe wrong: refuse the prompt. */
    if (status != HYPURA_ERROR_MEMORY && memory_check(failures, "chat", error))
        status = HYPURA_ERROR_MEMORY;
    if (status == HYPURA_OK)
        *out = rendered;
    else
        rendered_text_free(&rendered);
    json_decref(earlier);
    return status;
}

static void cut(struct rendered_text *rendered, size_t start, size_t end)
{
    memmove(rendered->text, rendered->text + start, end - start);
    rendered->text[end - start] = 0;
    rendered->size = end - start;
    for (size_t i = 0; i < rendered->user_count; i++) {
        rendered->user[i].start -= start;
        rendered->user[i].end -= start;
    }
}

void chat_strip_bos(struct rendered_text *rendered, const char *bos_text, const char *eos_text)
{
    size_t bos = bos_text ? strlen(bos_text) : 0, eos = eos_text ? strlen(eos_text) : 0;
    bool from_template = rendered->user_count == 0 || rendered->user[0].start >= bos;
    if (bos && bos <= rendered->size && from_template && memcmp(rendered->text, bos_text, bos) == 0)
        cut(rendered, bos, rendered->size);
    from_template = rendered->user_count == 0 || rendered->user[rendered->user_count - 1].end + eos <= rendered->size;
    if (eos && eos <= rendered->size && from_template &&
        memcmp(rendered->text + rendered->size - eos, eos_text, eos) == 0)
        cut(rendered, 0, rendered->size - eos);
}
