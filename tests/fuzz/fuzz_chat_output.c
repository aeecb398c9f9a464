/* libFuzzer target: the bytes up to the first NUL are a chat template, the rest is a model's output. The result must
 * not depend on the pieces into which the output is cut. */
#include "fuzz.h"

#include "chat/chat_output.h"

static void note(void *context, const struct chat_delta *delta)
{
    struct buffer *found = context; /* [content], [reasoning], [calls] */
    if (delta->kind == CHAT_TOOL_CALL) {
        json_t *arguments = json_loadb(delta->text, delta->size, JSON_ALLOW_NUL, NULL);
        must(json_is_object(arguments) && delta->name);
        json_decref(arguments);
        buffer_append_format(&found[2], "%zu %s ", delta->index, delta->name);
    }
    buffer_append(&found[delta->kind == CHAT_CONTENT     ? 0
                         : delta->kind == CHAT_REASONING ? 1
                                                         : 2],
                  delta->text, delta->size);
}

static size_t character(const char *text, size_t size)
{
    size_t length = 1;
    while (length < size && ((unsigned char)text[length] & 0xc0) == 0x80)
        length++;
    return length;
}

static void parse(const struct chat_format *format, const json_t *tools, const char *text, size_t size, bool whole,
                  struct buffer found[3])
{
    struct chat_parser *parser;
    if (chat_parser_create(&parser, format, tools, note, found, NULL) != HYPURA_OK)
        return;
    hypura_status status = HYPURA_OK;
    for (size_t at = 0, next; at < size && status == HYPURA_OK; at = next) {
        next = whole ? size : at + character(text + at, size - at);
        status = chat_parser_push(parser, text + at, next - at, NULL);
    }
    if (status == HYPURA_OK)
        chat_parser_finish(parser, NULL);
    chat_parser_free(parser);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *tools;
    if (!tools)
        tools = json_loads(
            "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\","
            "\"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"string\"}}}}}]",
            0, NULL);
    const uint8_t *end = memchr(data, 0, size);
    struct chat_template *template;
    if (!end || chat_template_parse(&template, (const char *)data, (size_t)(end - data), NULL) != HYPURA_OK)
        return 0;
    const char *text = (const char *)end + 1;
    size_t length = size - (size_t)(end + 1 - data);
    struct chat_format format;
    chat_format_detect(&format, template, NULL);
    for (int with = 0; with < 2; with++) {
        struct buffer found[2][3] = {0};
        for (int whole = 0; whole < 2; whole++)
            parse(&format, with ? tools : NULL, text, length, whole, found[whole]);
        for (int kind = 0; kind < 3; kind++) {
            must(found[0][kind].size == found[1][kind].size);
            must(!found[0][kind].size || !memcmp(found[0][kind].data, found[1][kind].data, found[0][kind].size));
            buffer_free(&found[0][kind]);
            buffer_free(&found[1][kind]);
        }
    }
    chat_template_free(template);
    return 0;
}
