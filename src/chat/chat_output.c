/* Finds the marks in an answer while it streams in. */
#include "chat/chat_output_private.h"

#include <stdlib.h>
#include <string.h>

struct mark {
    const char *family;
    const char *start, *end; /* end NULL: the end of the answer */
    enum call_style style;
    const char *seen; /* a template that contains this text uses the mark; NULL: look for start */
};

/* The marks around calls, the most specific first. */
static const struct mark all_marks[CHAT_MARKS] = {
    {"kimi-k3", "<|open|>tools<|sep|>", "<|close|>tools<|sep|>", CALL_XTML, "<|open|>"},
    {"dsml", "<｜DSML｜function_calls>", "</｜DSML｜function_calls>", CALL_DSML, "｜DSML｜"},
    {"dsml", "<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>", CALL_DSML, "｜DSML｜"},
    {"minimax-m3", "]<]minimax[>[<tool_call>", "]<]minimax[>[</tool_call>", CALL_SPACED, "]<]minimax[>["},
    {"hunyuan", "<tool_calls:opensource>", "</tool_calls:opensource>", CALL_HUNYUAN, ":opensource"},
    {"hunyuan", "<tool_calls>", "</tool_calls>", CALL_HUNYUAN, NULL},
    {"minimax", "<minimax:tool_call>", "</minimax:tool_call>", CALL_MINIMAX, NULL},
    {"hermes", "<tool_call>", "</tool_call>", CALL_TAGGED, NULL},
    {"deepseek", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", CALL_DEEPSEEK, NULL},
    {"kimi", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", CALL_KIMI, NULL},
    {"mistral", "[TOOL_CALLS]", NULL, CALL_MISTRAL, NULL},
    {"command-r", "<|START_ACTION|>", "<|END_ACTION|>", CALL_JSON, NULL},
    {"llama3", "<|python_tag|>", NULL, CALL_PYTHON, NULL},
    {"granite", "<|tool_call|>", NULL, CALL_JSON, NULL},
    {"gemma", "<|tool_call>", "<tool_call|>", CALL_GEMMA, NULL},
    {"functionary", "<function=", "</function>", CALL_FUNCTION, NULL},
    {"nemotron", "<TOOLCALL>", "</TOOLCALL>", CALL_JSON, NULL},
};

static const struct {
    const char *start, *end, *seen; /* seen NULL: look for end */
} think_marks[] = {
    {"<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|open|>"},
    {"<think:opensource>", "</think:opensource>", ":opensource"},
    {"<think>", "</think>", NULL},
    {"<mm:think>", "</mm:think>", NULL},
    {"[THINK]", "[/THINK]", NULL},
    {"<thinking>", "</thinking>", NULL},
    {"<seed:think>", "</seed:think>", NULL},
    {"<|START_THINKING|>", "<|END_THINKING|>", NULL},
    {"<|channel>thought", "<channel|>", NULL},
};

/* Marks around an answer that are not part of it. The format has them if the template contains seen. */
static const struct {
    const char *seen, *text;
} frames[] = {
    {"<|open|>", "<|open|>response<|sep|>"},
    {"<|open|>", "<|close|>response<|sep|>"},
    {"<|open|>", "<|close|>message<|sep|>"},
    {"<|open|>", "<|end_of_msg|>"},
    {"<|START_RESPONSE|>", "<|START_RESPONSE|>"},
    {"<|END_RESPONSE|>", "<|END_RESPONSE|>"},
    {"<|START_TEXT|>", "<|START_TEXT|>"},
    {"<|END_TEXT|>", "<|END_TEXT|>"},
    {"</answer>", "<answer>"},
    {"</answer>", "</answer>"},
};

_Static_assert(COUNT_OF(frames) <= CHAT_FRAMES, "a format has room for all of them");

/* ---- formats ------------------------------------------------------------------------------------------------------
 */

/* White space after the ending does not count. */
static bool ends_with(const char *text, size_t size, const char *end)
{
    size_t length = strlen(end);
    while (size && strchr(" \t\r\n", text[size - 1]) && text[size - 1])
        size--;
    return size >= length && memcmp(text + size - length, end, length) == 0;
}

void chat_format_detect(struct chat_format *format, const struct chat_template *template,
                        const struct rendered_text *prompt)
{
    *format = (struct chat_format){.think_start = "<think>", .think_end = "</think>"};
    format->channels = chat_template_mentions(template, "<|channel|>");
    for (size_t i = 0; i < COUNT_OF(think_marks); i++) {
        const char *seen = think_marks[i].seen ? think_marks[i].seen : think_marks[i].end;
        if (chat_template_mentions(template, seen)) {
            format->think_start = think_marks[i].start;
            format->think_end = think_marks[i].end;
            break;
        }
    }
    if (prompt && !format->channels)
        format->thinking = ends_with(prompt->text, prompt->size, format->think_start);
    for (size_t i = 0; i < CHAT_MARKS && !format->channels; i++) {
        const struct mark *mark = &all_marks[i];
        /* In other formats, tags of functions are part of <tool_call>. */
        bool inner = mark->family && mark->style == CALL_FUNCTION && chat_template_mentions(template, "<tool_call>");
        const char *seen = mark->seen ? mark->seen : mark->start;
        if (mark->family && !inner && chat_template_mentions(template, seen))
            format->marks[format->mark_count++] = (uint8_t)i;
    }
    for (size_t i = 0; i < COUNT_OF(frames) && !format->channels; i++)
        if (chat_template_mentions(template, frames[i].seen))
            format->frames[format->frame_count++] = (uint8_t)i;
    format->bare_json = !format->channels && chat_template_mentions(template, "<|start_header_id|>") &&
                        chat_template_mentions(template, "parameters");
}

const char *chat_format_name(const struct chat_format *format)
{
    if (format->channels)
        return "harmony";
    if (format->mark_count)
        return all_marks[format->marks[0]].family;
    return format->bare_json ? "llama3" : "plain";
}

/* ---- parser -------------------------------------------------------------------------------------------------------
 */

enum parser_state {
    STATE_CONTENT,
    STATE_REASONING,
    STATE_CALL,   /* after the mark that starts calls */
    STATE_JSON,   /* in an answer that may be a call */
    STATE_HEADER, /* gpt-oss: before <|message|> */
    STATE_BODY,   /* gpt-oss: after it */
};

struct chat_parser {
    struct chat_format format;
    const json_t *tools;
    chat_sink sink;
    void *context;
    enum parser_state state;
    const struct mark *mark;
    struct buffer pending; /* text whose kind is not decided yet */
    struct buffer space;   /* trailing white space, emitted only if more text of the same kind follows */
    bool any_content, any_reasoning;
    bool strip_start; /* drop white space before the next content */
    size_t calls;
    size_t looked, ends; /* bytes of the current call searched for end marks; end marks tried */
    /* The current message of gpt-oss: */
    bool is_reasoning, is_call;
    char recipient[128];
};

hypura_status chat_parser_create(struct chat_parser **out, const struct chat_format *format, const json_t *tools,
                                 chat_sink sink, void *context, hypura_error *error)
{
    struct chat_parser *p;
    hypura_status status = ALLOCATE(&p, 1, "chat parser", error);
    if (status != HYPURA_OK)
        return status;
    p->format = *format;
    p->tools = json_array_size(tools) ? tools : NULL;
    p->sink = sink;
    p->context = context;
    if (format->channels)
        p->state = STATE_HEADER;
    else if (format->thinking)
        p->state = STATE_REASONING;
    *out = p;
    return HYPURA_OK;
}

void chat_parser_free(struct chat_parser *p)
{
    if (!p)
        return;
    buffer_free(&p->pending);
    buffer_free(&p->space);
    memory_free(p);
}

static size_t leading_space(const char *text, size_t size)
{
    size_t count = 0;
    while (count < size && text[count] && strchr(" \t\r\n", text[count]))
        count++;
    return count;
}

static void give(struct chat_parser *p, enum chat_delta_kind kind, const char *text, size_t size)
{
    if (size)
        p->sink(p->context, &(struct chat_delta){.kind = kind, .text = text, .size = size});
}

/* Emits content or reasoning. White space at its end waits, because it is dropped before a mark. */
static void give_text(struct chat_parser *p, bool reasoning, const char *text, size_t size)
{
    bool *any = reasoning ? &p->any_reasoning : &p->any_content;
    if ((reasoning && !*any) || (!reasoning && p->strip_start)) {
        size_t skip = leading_space(text, size);
        text += skip;
        size -= skip;
    }
    size_t end = size;
    while (end && text[end - 1] && strchr(" \t\r\n", text[end - 1]))
        end--;
    if (end) {
        enum chat_delta_kind kind = reasoning ? CHAT_REASONING : CHAT_CONTENT;
        give(p, kind, p->space.data, p->space.size);
        buffer_clear(&p->space);
        give(p, kind, text, end);
        *any = true;
        if (!reasoning)
            p->strip_start = false;
    }
    if (size > end)
        buffer_append(&p->space, text + end, size - end);
}

static void drop(struct chat_parser *p, size_t size)
{
    if (size == 0)
        return;
    memmove(p->pending.data, p->pending.data + size, p->pending.size - size);
    p->pending.size -= size;
    p->pending.data[p->pending.size] = 0;
}

static bool give_calls(struct chat_parser *p, enum call_style style, const char *text, size_t size)
{
    struct chat_calls calls = {0};
    if (!chat_read_calls(&calls, style, text, size, p->tools))
        return false;
    buffer_clear(&p->space);
    for (size_t i = 0; i < calls.count; i++) {
        const struct chat_call *call = &calls.items[i];
        p->sink(p->context, &(struct chat_delta){.kind = CHAT_TOOL_CALL,
                                                 .text = call->arguments,
                                                 .size = strlen(call->arguments),
                                                 .name = call->name,
                                                 .index = p->calls++});
    }
    chat_calls_free(&calls);
    p->strip_start = true;
    return true;
}

/* ---- marks in a stream --------------------------------------------------------------------------------------------
 */

static size_t find(const struct buffer *text, const char *mark)
{
    const char *found = text->size ? memmem(text->data, text->size, mark, strlen(mark)) : NULL;
    return found ? (size_t)(found - text->data) : SIZE_MAX;
}

/* Returns how many bytes at the end of the text may be the beginning of a mark. */
static size_t undecided(const struct buffer *text, const char *mark)
{
    size_t length = strlen(mark), most = MIN(length - 1, text->size);
    for (size_t size = most; size > 0; size--)
        if (memcmp(text->data + text->size - size, mark, size) == 0)
            return size;
    return 0;
}

/* ---- content ------------------------------------------------------------------------------------------------------
 */

/* Whether the text begins like a call in bare JSON: 1 yes, 0 no, -1 not decided yet. */
static int looks_like_call(const struct buffer *text)
{
    static const char *const beginnings[] = {"{\"name\":", "{\"type\":\"function\"", "{\"function\":", "[{\"name\":"};
    int result = 0;
    for (size_t i = 0; i < COUNT_OF(beginnings); i++) {
        const char *expected = beginnings[i];
        size_t at = 0;
        while (at < text->size && *expected) {
            bool space = strchr(" \t\r\n", text->data[at]) != NULL;
            if (!space && text->data[at] != *expected)
                break;
            expected += !space;
            at++;
        }
        if (!*expected)
            return 1;
        if (at == text->size)
            result = -1;
    }
    return result;
}

static bool thinking_may_begin(const struct chat_parser *p)
{
    return !p->any_content && !p->any_reasoning;
}

/* Returns true if the state changed, so the rest of the text must be parsed in the new state. */
static bool parse_content(struct chat_parser *p)
{
    struct buffer *text = &p->pending;
    if (p->tools && p->format.bare_json && !p->any_content) {
        int call = looks_like_call(text);
        if (call < 0)
            return false;
        if (call) {
            p->state = STATE_JSON;
            return true;
        }
    }
    size_t first = SIZE_MAX, held = 0;
    bool think = false;
    if (thinking_may_begin(p)) {
        first = find(text, p->format.think_start);
        think = first != SIZE_MAX && leading_space(text->data, first) == first;
        if (!think)
            first = SIZE_MAX;
        held = undecided(text, p->format.think_start);
    }
    const struct mark *mark = NULL;
    for (size_t i = 0; p->tools && i < p->format.mark_count; i++) {
        const struct mark *other = &all_marks[p->format.marks[i]];
        size_t at = find(text, other->start);
        if (at < first) {
            first = at;
            mark = other;
            think = false;
        }
        held = MAX(held, undecided(text, other->start));
    }
    const char *frame = NULL;
    for (size_t i = 0; i < p->format.frame_count; i++) {
        const char *other = frames[p->format.frames[i]].text;
        size_t at = find(text, other);
        if (at < first) {
            first = at;
            frame = other;
        }
        held = MAX(held, undecided(text, other));
    }
    if (frame) {
        give_text(p, false, text->data, first);
        buffer_clear(&p->space);
        p->strip_start = true;
        drop(p, first + strlen(frame));
        return true;
    }
    if (first == SIZE_MAX) {
        give_text(p, false, text->data, text->size - held);
        drop(p, text->size - held);
        return false;
    }
    if (think) {
        buffer_clear(&p->space);
        drop(p, first + strlen(p->format.think_start));
        p->state = STATE_REASONING;
        return true;
    }
    give_text(p, false, text->data, first);
    drop(p, first + strlen(mark->start));
    p->mark = mark;
    p->looked = p->ends = 0;
    p->state = STATE_CALL;
    return true;
}

static bool parse_reasoning(struct chat_parser *p)
{
    struct buffer *text = &p->pending;
    /* If the prompt already begins the reasoning, a model may still repeat the mark. */
    if (!p->any_reasoning) {
        size_t skip = leading_space(text->data, text->size), length = strlen(p->format.think_start);
        size_t there = MIN(text->size - skip, length);
        if (memcmp(text->data + skip, p->format.think_start, there) == 0) {
            if (there < length)
                return false;
            drop(p, skip + length);
        }
    }
    size_t end = find(text, p->format.think_end);
    if (end == SIZE_MAX) {
        size_t sure = text->size - undecided(text, p->format.think_end);
        give_text(p, true, text->data, sure);
        drop(p, sure);
        return false;
    }
    give_text(p, true, text->data, end);
    drop(p, end + strlen(p->format.think_end));
    buffer_clear(&p->space);
    p->any_reasoning = true;
    p->strip_start = true;
    p->state = STATE_CONTENT;
    return true;
}

/* The parser tries each end mark in a call. A text with more than this many is not a call, which limits the work. */
#define ENDS_MOST 64

/* Finds the end mark that completes the current call: arguments may contain end marks too. */
static bool find_whole_call(struct chat_parser *p, size_t *end)
{
    struct buffer *text = &p->pending;
    const size_t length = strlen(p->mark->end);
    while (p->ends < ENDS_MOST && p->looked + length <= text->size) {
        const char *found = memmem(text->data + p->looked, text->size - p->looked, p->mark->end, length);
        if (!found) {
            p->looked = text->size - (length - 1);
            return false;
        }
        *end = (size_t)(found - text->data);
        p->looked = *end + length;
        p->ends++;
        if (give_calls(p, p->mark->style, text->data, *end))
            return true;
    }
    return false;
}

/* ended: no more text follows. A call that stays incomplete becomes content, up to its first end mark. */
static bool parse_call(struct chat_parser *p, bool ended)
{
    struct buffer *text = &p->pending;
    const struct mark *mark = p->mark;
    size_t end = 0;
    bool closed = mark->end && find_whole_call(p, &end), given = closed;
    if (!closed && !ended && p->ends < ENDS_MOST)
        return false;
    if (!given) {
        end = mark->end ? find(text, mark->end) : SIZE_MAX;
        closed = end != SIZE_MAX;
        given = !closed && give_calls(p, mark->style, text->data ? text->data : "", text->size);
    }
    const size_t size = closed ? end : text->size;
    if (!given) {
        give_text(p, false, mark->start, strlen(mark->start));
        give_text(p, false, text->data, size);
        if (closed)
            give_text(p, false, mark->end, strlen(mark->end));
    }
    drop(p, closed ? end + strlen(mark->end) : size);
    p->state = STATE_CONTENT;
    return true;
}

static bool parse_json(struct chat_parser *p, bool ended)
{
    if (!ended)
        return false;
    if (!give_calls(p, CALL_JSON, p->pending.data, p->pending.size))
        give_text(p, false, p->pending.data, p->pending.size);
    drop(p, p->pending.size);
    return false;
}

/* ---- channels (gpt-oss) -------------------------------------------------------------------------------------------
 */

static const char *const body_ends[] = {"<|end|>", "<|call|>", "<|return|>", "<|start|>"};

/* Parses the header of a message, such as "assistant<|channel|>commentary to=functions.NAME <|constrain|>json". */
static bool parse_header(struct chat_parser *p)
{
    struct buffer *text = &p->pending;
    size_t end = find(text, "<|message|>");
    if (end == SIZE_MAX)
        return false;
    text->data[end] = 0;
    const char *channel = strstr(text->data, "<|channel|>"), *to = strstr(text->data, "to=");
    p->is_reasoning = channel && strncmp(channel + strlen("<|channel|>"), "analysis", 8) == 0;
    p->recipient[0] = 0;
    if (to) {
        to += strncmp(to, "to=functions.", 13) == 0 ? 13 : 3;
        size_t length = strcspn(to, " \t\n<");
        memcpy(p->recipient, to, MIN(length, sizeof p->recipient - 1));
        p->recipient[MIN(length, sizeof p->recipient - 1)] = 0;
    }
    p->is_call = p->tools && p->recipient[0];
    if (!p->is_reasoning && !p->is_call && p->any_content) /* a second message of content begins on a new line */
        buffer_append_string(&p->space, "\n");
    drop(p, end + strlen("<|message|>"));
    p->state = STATE_BODY;
    return true;
}

static bool parse_body(struct chat_parser *p, bool ended)
{
    struct buffer *text = &p->pending;
    size_t end = SIZE_MAX, held = 0, length = 0;
    for (size_t i = 0; i < COUNT_OF(body_ends); i++) {
        size_t at = find(text, body_ends[i]);
        if (at < end) {
            end = at;
            length = strlen(body_ends[i]);
        }
        held = MAX(held, undecided(text, body_ends[i]));
    }
    bool closed = end != SIZE_MAX;
    size_t size = closed ? end : ended ? text->size : text->size - held;
    if (p->is_call) {
        if (!closed && !ended)
            return false;
        struct chat_calls calls = {0};
        bool fine = chat_add_call(&calls, p->recipient, strlen(p->recipient), text->data, size);
        if (fine)
            p->sink(p->context, &(struct chat_delta){.kind = CHAT_TOOL_CALL,
                                                     .text = calls.items[0].arguments,
                                                     .size = strlen(calls.items[0].arguments),
                                                     .name = calls.items[0].name,
                                                     .index = p->calls++});
        else
            give_text(p, false, text->data, size);
        chat_calls_free(&calls);
    } else {
        give_text(p, p->is_reasoning, text->data, size);
    }
    drop(p, closed ? end + length : size);
    if (!closed)
        return false;
    buffer_clear(&p->space);
    p->state = STATE_HEADER;
    return true;
}

/* ---- parser interface ------------------------------------------------------------------------------------------- */

static void run(struct chat_parser *p, bool ended)
{
    bool more = true;
    while (more && (p->pending.size || (ended && p->state == STATE_CALL))) {
        switch (p->state) {
        case STATE_CONTENT:
            more = parse_content(p);
            break;
        case STATE_REASONING:
            more = parse_reasoning(p);
            break;
        case STATE_CALL:
            more = parse_call(p, ended);
            break;
        case STATE_JSON:
            more = parse_json(p, ended);
            break;
        case STATE_HEADER:
            more = parse_header(p);
            break;
        case STATE_BODY:
            more = parse_body(p, ended);
            break;
        }
    }
}

hypura_status chat_parser_push(struct chat_parser *p, const char *text, size_t size, hypura_error *error)
{
    uint64_t failures = memory_failures();
    if (size == 0)
        return HYPURA_OK;
    buffer_append(&p->pending, text, size);
    if (p->pending.failed)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the answer");
    run(p, false);
    return memory_check(failures, "answer", error);
}

hypura_status chat_parser_finish(struct chat_parser *p, hypura_error *error)
{
    uint64_t failures = memory_failures();
    run(p, true);
    /* The rest was held back for a mark that did not follow, or is a header without a message. */
    if (p->pending.size && p->state != STATE_HEADER)
        give_text(p, p->state == STATE_REASONING || (p->state == STATE_BODY && p->is_reasoning), p->pending.data,
                  p->pending.size);
    if (p->space.size && p->calls == 0 && p->any_content && p->state == STATE_CONTENT)
        give(p, CHAT_CONTENT, p->space.data, p->space.size);
    buffer_clear(&p->pending);
    buffer_clear(&p->space);
    return memory_check(failures, "answer", error);
}
