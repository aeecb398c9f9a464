/* template: renders chat templates, the small Jinja programs that come with models and turn messages into prompt text.
 *
 * A template is parsed once and rendered many times. It owns its program and nothing else. Rendering only reads it, so
 * any number of threads may render one template at the same time. A template comes from an untrusted file. So it has no
 * access to files or the network; its steps, memory, output and call depth are bounded; and every error names the line.
 *
 * The language is Jinja 3.1 as Hugging Face's transformers configure it: trim_blocks and lstrip_blocks on, autoescape
 * off, loop controls, {% generation %} blocks, raise_exception, strftime_now, and a tojson that escapes neither HTML
 * nor non-ASCII text. Values behave as in Python (integers have 64 bits). Not supported: import, include, extends,
 * translations, async. Source: https://jinja.palletsprojects.com/en/3.1.x/templates/.
 *
 * Text from a user must not turn into control tokens. So each byte of a rendered text is marked as coming from the
 * variables (user text) or from the template and the trusted variables (template text). The mark follows the bytes
 * through every operation. The one exception: the value of a key "role" counts as template text if it is a word of at
 * most 64 letters, digits, "_", "-" and ".", because templates build tokens such as <|user|> from it.
 */
#ifndef HYPURA_MODEL_TEMPLATE_H
#define HYPURA_MODEL_TEMPLATE_H

#include "core/core.h"

#include <jansson.h>

/* The result of rendering. text is UTF-8 if its inputs were; it is NUL-terminated and may contain other NUL bytes.
 * user: the ranges that came from the variables, sorted, not adjacent and not empty. They mean only that no special
 * token may be parsed from these bytes. They are not boundaries: the tokenizer must get the text as a whole. */
struct rendered_text {
    char *text;
    size_t size;
    struct text_range *user;
    size_t user_count;
};

void rendered_text_free(struct rendered_text *rendered);

struct chat_template;

/* Parses a template of size bytes (at most 1 MiB). Errors: HYPURA_ERROR_FORMAT, with the line in the message. */
hypura_status chat_template_parse(struct chat_template **out, const char *source, size_t size, hypura_error *error);
void chat_template_free(struct chat_template *template);

/* Whether the template's source contains a text. */
bool chat_template_mentions(const struct chat_template *template, const char *text);

/* Renders a template. Its variables are the members of two JSON objects: those of `variables` are user text, those of
 * `trusted` are template text. trusted may be NULL; if both have a name, trusted wins. now: the time that strftime_now
 * formats, in seconds since 1970-01-01 00:00 of the local wall clock. watch may be NULL; it is called some thousand
 * times per second. Returns HYPURA_ERROR_FORMAT if the template fails or calls raise_exception, HYPURA_ERROR_CANCELLED
 * if watch stops it. *out is unchanged after an error. */
hypura_status chat_template_render(const struct chat_template *template, const json_t *variables, const json_t *trusted,
                                   int64_t now, const struct work_watch *watch, struct rendered_text *out,
                                   hypura_error *error);

/* ---- chats ------------------------------------------------------------------------------------------------------- */

/* The template for models whose file has none: ChatML, with "<|im_start|>ROLE\nCONTENT<|im_end|>\n" per message and
 * "<|im_start|>assistant\n" to prompt for an answer. */
extern const char chat_template_default[];

struct chat_input {
    const json_t *messages;         /* array of objects with role, content, and other members that the template reads */
    const json_t *tools;            /* array of function descriptions as in OpenAI's API; NULL: undefined */
    const json_t *variables;        /* object with more variables, such as enable_thinking; or NULL */
    bool add_generation_prompt;     /* end with the text that starts an answer */
    const char *bos_text;           /* the text of the BOS token; NULL: "" */
    const char *eos_text;           /* the text of the EOS token; NULL: "" */
    int64_t now;                    /* as for chat_template_render */
    bool close_last_answer;         /* see chat_render */
    bool adapt;                     /* see chat_render */
    const struct work_watch *watch; /* as for chat_template_render */
};

/* Renders a chat. The template's variables messages, tools, add_generation_prompt, bos_token and eos_token come from
 * the members of input; input->variables must not contain these names.
 *
 * If the last message is the assistant's and has no tool calls, it is the beginning of the answer, as in llama.cpp's
 * server: the messages before it are rendered with a generation prompt, and its content follows for the model to
 * continue. With close_last_answer, it is rendered like any other message.
 *
 * With adapt, messages may have any of the forms that clients send: call arguments as text or as an object; content as
 * text, as a list of parts or null; system messages anywhere. They are converted to the form that the template
 * supports, which chat_render finds out by rendering small chats. Without adapt, messages are passed on unchanged.
 *
 * Many templates write the BOS text at their start, and many tokenizers add BOS themselves; only one of them may. If
 * the tokenizer adds it, pass the text through chat_strip_bos, as llama.cpp does. */
hypura_status chat_render(const struct chat_template *template, const struct chat_input *input,
                          struct rendered_text *out, hypura_error *error);

/* Removes bos_text from the start of a rendered text and eos_text from its end, but only if they are template text.
 * Pass NULL for a token that the tokenizer does not add. */
void chat_strip_bos(struct rendered_text *rendered, const char *bos_text, const char *eos_text);

#endif
