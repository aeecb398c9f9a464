/* chat_output: splits what a model wrote into content, reasoning and tool calls.
 *
 * Models mark these with texts of their own, most of them control tokens; the chat template shows which ones,
 * since it writes them. So the parsed text must contain the text of control tokens. Known: <think> and its
 * kin; tool calls as JSON in <tool_call> (Hermes, Qwen), as parameters (Qwen3-Coder, GLM, MiniMax), as JSON alone or
 * after <|python_tag|> (Llama 3), after [TOOL_CALLS] (Mistral), in the sections of DeepSeek and Kimi K2, in DSML
 * (DeepSeek V3.2 and V4), XTML (Kimi K3) and the tags of MiniMax M3 and Hunyuan, actions of Command R and A,
 * <function=NAME> (Functionary), <TOOLCALL> (Nemotron), call:NAME{} (Gemma 4), and the channels of gpt-oss.
 *
 * A parser takes the text in pieces and gives out what is certain so far; a piece that may begin a mark is held back
 * until that is decided. A call is given out when it is complete. Text that looks like a call and cannot be parsed is
 * content, so that no text is lost.
 *
 * Threads: one parser on one thread at a time; a format is read-only once filled.
 */
#ifndef HYPURA_MODEL_CHAT_OUTPUT_H
#define HYPURA_MODEL_CHAT_OUTPUT_H

#include "core/core.h"
#include "template/template.h"

#include <jansson.h>

enum { CHAT_MARKS = 20, CHAT_FRAMES = 12 };

/* How a model writes. */
struct chat_format {
    const char *think_start, *think_end;
    bool thinking;             /* the prompt began the reasoning already */
    bool channels;             /* gpt-oss */
    bool bare_json;            /* an answer that is a JSON object with a name may be a call */
    uint8_t marks[CHAT_MARKS]; /* the kinds of calls, as chat_output.c lists them */
    size_t mark_count;
    uint8_t frames[CHAT_FRAMES]; /* marks around an answer, likewise */
    size_t frame_count;
};

/* Sees the format from a template. prompt: what was rendered for this answer (NULL: not yet known); when it ends in the
 * start of reasoning, the answer begins inside of it. */
void chat_format_detect(struct chat_format *format, const struct chat_template *template,
                        const struct rendered_text *prompt);

/* A name for what was found: "hermes", "llama3", "mistral", "harmony", "deepseek", ..., or "plain". */
const char *chat_format_name(const struct chat_format *format);

enum chat_delta_kind {
    CHAT_CONTENT,   /* text, to be appended */
    CHAT_REASONING, /* text, to be appended */
    CHAT_TOOL_CALL, /* a whole call */
};

struct chat_delta {
    enum chat_delta_kind kind;
    const char *text; /* content or reasoning; the arguments of a call: a JSON object */
    size_t size;
    const char *name; /* of the tool */
    size_t index;     /* of the call, from 0 */
};

struct chat_parser;

typedef void (*chat_sink)(void *context, const struct chat_delta *delta);

/* tools: the descriptions that the model was given (borrowed), or NULL: then calls are not looked for. */
hypura_status chat_parser_create(struct chat_parser **out, const struct chat_format *format, const json_t *tools,
                                 chat_sink sink, void *context, hypura_error *error);
void chat_parser_free(struct chat_parser *parser);

/* Takes a piece of whole UTF-8 characters. HYPURA_ERROR_MEMORY when it cannot be kept. */
hypura_status chat_parser_push(struct chat_parser *parser, const char *text, size_t size, hypura_error *error);

/* The answer is over: gives out what was held back. */
hypura_status chat_parser_finish(struct chat_parser *parser, hypura_error *error);

#endif
