/* template: a chat template is a small Jinja program that comes with a model and turns messages into prompt text.
 *
 * A template is parsed once and rendered many times; it owns its program and nothing else. Rendering reads it only, so
 * any number of threads may render one template at the same time. A template comes from a file that nobody vouches
 * for. So it can reach no file and no network; its steps, memory, output and depth of calls are bounded; and every
 * refusal is an error that names the line.
 *
 * The language is Jinja 3.1 as Hugging Face's transformers configure it: trim_blocks and lstrip_blocks on, autoescape
 * off, loop controls, {% generation %} blocks, raise_exception, strftime_now, and a tojson that escapes neither HTML
 * nor non-ASCII text. Values behave as in Python (integers have 64 bits). Not supported: import, include, extends,
 * translations, async. Source: https://jinja.palletsprojects.com/en/3.1.x/templates/.
 *
 * Text that came from a user must not turn into control tokens. So each byte of a rendered text knows whether it
 * came from the variables (user) or from the template and the trusted variables. The origin follows the bytes
 * through every operation. The one exception: the value of a key "role" that is a word of at most 64 letters, digits,
 * "_", "-" and "." counts as template text, since templates build tokens such as <|user|> from it.
 */
#ifndef HYPURA_MODEL_TEMPLATE_H
#define HYPURA_MODEL_TEMPLATE_H

#include "core/core.h"

#include <jansson.h>

/* The result of rendering. text is UTF-8 if its inputs were, NUL-terminated (it may hold NUL bytes before). user: the
 * ranges that came from the variables, sorted, apart from each other, none empty. They mean only that no special token
 * may be parsed from these bytes. They are not boundaries: a tokenizer must see the text as a whole. */
struct rendered_text {
    char *text;
    size_t size;
    struct text_range *user;
    size_t user_count;
};

void rendered_text_free(struct rendered_text *rendered);

struct chat_template;

/* Parses a template of size bytes (at most 1 MiB). HYPURA_ERROR_FORMAT with the line where it is not well formed. */
hypura_status chat_template_parse(struct chat_template **out, const char *source, size_t size, hypura_error *error);
void chat_template_free(struct chat_template *template);

/* Whether the template's source contains a text. */
bool chat_template_mentions(const struct chat_template *template, const char *text);

/* Renders with the members of two JSON objects as variables: those of `variables` are user text, those of `trusted`
 * (may be NULL; it wins where both have a name) are as good as the template's own. now: what strftime_now formats, in
 * seconds since 1970-01-01 00:00 of the local wall clock. watch may be NULL; it is asked some thousand times per
 * second. HYPURA_ERROR_FORMAT where the template fails or refuses (raise_exception); *out is untouched then. */
hypura_status chat_template_render(const struct chat_template *template, const json_t *variables, const json_t *trusted,
                                   int64_t now, const struct work_watch *watch, struct rendered_text *out,
                                   hypura_error *error);

/* ---- chats ------------------------------------------------------------------------------------------------------- */

/* The template for a model whose file has none: ChatML, "<|im_start|>ROLE\nCONTENT<|im_end|>\n" per message and
 * "<|im_start|>assistant\n" to prompt for an answer. */
extern const char chat_template_default[];

struct chat_input {
    const json_t *messages;         /* array of objects with role, content, and what else the template reads */
    const json_t *tools;            /* array of function descriptions as in OpenAI's API, or NULL: then not defined */
    const json_t *variables;        /* object with further variables such as enable_thinking, or NULL */
    bool add_generation_prompt;     /* end with what starts an answer */
    const char *bos_text;           /* the text of the token that begins a text, or NULL: "" */
    const char *eos_text;           /* the text of the token that ends a text, or NULL: "" */
    int64_t now;                    /* as for chat_template_render */
    bool close_last_answer;         /* see chat_render */
    bool adapt;                     /* see chat_render */
    const struct work_watch *watch; /* as for chat_template_render */
};

/* Renders a chat. messages, tools, add_generation_prompt, bos_token and eos_token are the template's variables of those
 * names; input->variables must not bring these.
 *
 * When the last message is the assistant's and has no tool calls, it is taken as the beginning of the answer, as
 * llama.cpp's server does: the messages before it are rendered with a generation prompt and its content follows, for
 * the model to go on. With close_last_answer it is a message like any other.
 *
 * With adapt, messages may come as any client sends them: arguments of calls as text or as objects, content as text, as
 * a list of parts or null, messages of the system anywhere. They are given to the template in the
 * form that it expects, which rendering a small chat shows. Without adapt, they are left alone.
 *
 * Many templates write the BOS text at their start, and many tokenizers add BOS themselves; only one may. A caller
 * whose tokenizer adds it passes the text through chat_strip_bos, as llama.cpp does. */
hypura_status chat_render(const struct chat_template *template, const struct chat_input *input,
                          struct rendered_text *out, hypura_error *error);

/* Removes bos_text from the start of a rendered text and eos_text from its end where the tokenizer will add them (pass
 * NULL for one that it does not add), and only where they are template text. */
void chat_strip_bos(struct rendered_text *rendered, const char *bos_text, const char *eos_text);

#endif
