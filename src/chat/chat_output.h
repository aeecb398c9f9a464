/* chat_output: splits a model's output into content, reasoning and tool calls.
 *
 * Each model family has its own marks around these, most of them control tokens, and its chat template shows which
 * ones. So the text to parse must include the text of control tokens. Supported formats: reasoning in <think> and
 * similar marks; tool calls as JSON in <tool_call> (Hermes, Qwen), as parameters (Qwen3-Coder, GLM, MiniMax), as JSON
 * alone or after <|python_tag|> (Llama 3), after [TOOL_CALLS] (Mistral), in the sections of DeepSeek and Kimi K2, in
 * DSML (DeepSeek V3.2 and V4), in XTML (Kimi K3), in the tags of MiniMax M3 and Hunyuan, as actions (Command R and A),
 * as <function=NAME> (Functionary), <TOOLCALL> (Nemotron) or call:NAME{} (Gemma 4), and in the channels of gpt-oss.
 *
 * A parser takes the text in pieces and emits each part as soon as its kind is certain. It holds back the end of a
 * piece that may begin a mark. It emits a call when the call is complete. Text that looks like a call but cannot be
 * parsed becomes content, so no text is lost.
 *
 * Threads: one thread at a time may use a parser. A format is read-only once it is filled.
 */
#ifndef HYPURA_MODEL_CHAT_OUTPUT_H
#define HYPURA_MODEL_CHAT_OUTPUT_H

#include "core/core.h"
#include "template/template.h"

#include <jansson.h>

enum { CHAT_MARKS = 20, CHAT_FRAMES = 12 };

/* The output format of a model. */
struct chat_format {
    const char *think_start, *think_end;
    bool thinking;             /* the prompt already begins the reasoning */
    bool channels;             /* the format of gpt-oss */
    bool bare_json;            /* an answer that is a JSON object with a name may be a call */
    uint8_t marks[CHAT_MARKS]; /* the kinds of calls: indices into the list in chat_output.c */
    size_t mark_count;
    uint8_t frames[CHAT_FRAMES]; /* marks around an answer: indices into the other list there */
    size_t frame_count;
};

/* Detects the format from a template. prompt: the rendered prompt of this answer, or NULL if not known yet. If it ends
 * with the start of reasoning, the answer begins within the reasoning. */
void chat_format_detect(struct chat_format *format, const struct chat_template *template,
                        const struct rendered_text *prompt);

/* Returns a name for the format: "hermes", "llama3", "mistral", "harmony", "deepseek", ..., or "plain". */
const char *chat_format_name(const struct chat_format *format);

enum chat_delta_kind {
    CHAT_CONTENT,   /* text to append to the content */
    CHAT_REASONING, /* text to append to the reasoning */
    CHAT_TOOL_CALL, /* a whole call */
};

struct chat_delta {
    enum chat_delta_kind kind;
    const char *text; /* content or reasoning; for a call its arguments, a JSON object */
    size_t size;
    const char *name; /* the tool's name */
    size_t index;     /* the call's number, from 0 */
};

struct chat_parser;

typedef void (*chat_sink)(void *context, const struct chat_delta *delta);

/* tools: the descriptions of the tools that the model was given, borrowed; NULL: do not look for calls. The parser
 * calls sink, with context, for each delta; a delta is valid during that call only. */
hypura_status chat_parser_create(struct chat_parser **out, const struct chat_format *format, const json_t *tools,
                                 chat_sink sink, void *context, hypura_error *error);
void chat_parser_free(struct chat_parser *parser);

/* Takes a piece of text that consists of whole UTF-8 characters. Fails with HYPURA_ERROR_MEMORY only. */
hypura_status chat_parser_push(struct chat_parser *parser, const char *text, size_t size, hypura_error *error);

/* Ends the answer: emits the text that was held back. */
hypura_status chat_parser_finish(struct chat_parser *parser, hypura_error *error);

#endif
