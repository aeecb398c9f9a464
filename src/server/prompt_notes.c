/* Warns once per model if a template or client puts a changing date, id or the like early in the prompt: all that
 * follows is then computed again for each request. */
#include "server/generation.h"

#include <ctype.h>
#include <string.h>

#define WORTH_A_NOTE 64u /* least number of tokens computed again */
#define SHOWN_BEFORE 12u /* tokens shown before the difference, to locate it */

static void append_pieces(const struct vocabulary *vocabulary, const int32_t *tokens, uint32_t count,
                          struct buffer *text)
{
    for (uint32_t i = 0; i < count; i++)
        vocabulary_piece(vocabulary, tokens[i], true, text);
}

static bool has_digit(const struct buffer *text)
{
    for (size_t i = 0; i < text->size; i++) {
        if (isdigit((unsigned char)text->data[i]))
            return true;
    }
    return false;
}

/* Equal texts were only split into different tokens. */
static bool is_date_or_id(const struct buffer *a, const struct buffer *b)
{
    bool equal = a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
    return !equal && (has_digit(a) || has_digit(b)) && !a->failed && !b->failed;
}

void prompt_note_find(struct generation *generation)
{
    const struct loaded_model *loaded = generation->loaded;
    const struct token_array *prompt = &generation->prompt;
    struct prompt_cut cut;
    if (loaded->cut_noted || !generator_find_cut(loaded->generator, prompt->ids, prompt->count, &cut) ||
        cut.same < WORTH_A_NOTE || cut.position > prompt->count / 2)
        return;
    struct buffer held = {0}, asked = {0};
    append_pieces(loaded->vocabulary, cut.held, cut.held_apart, &held);
    append_pieces(loaded->vocabulary, prompt->ids + cut.position, cut.asked_apart, &asked);
    if (is_date_or_id(&held, &asked)) {
        generation->cut_position = cut.position;
        generation->cut_tokens = cut.same;
        generation->cut_apart = cut.asked_apart;
    }
    buffer_free(&held);
    buffer_free(&asked);
}

void prompt_note_say(struct generation *generation)
{
    struct loaded_model *loaded = generation->loaded;
    static const char message[] =
        "a date, id or the like early in the prompt differs from the previous request: what follows is "
        "computed again";
    if (!generation->cut_tokens || loaded->cut_noted ||
        generation->choices[0].result.cached_tokens > generation->cut_position)
        return; /* another sequence or kept data had the rest */
    loaded->cut_noted = true;
    server_log("warning", message, "id=%s model=%s position=%u tokens=%u", exchange_id(generation->job.exchange),
               loaded->entry.name, generation->cut_position, generation->cut_tokens);
    if (!exchange_server(generation->job.exchange)->options.log_prompts)
        return;
    struct buffer text = {0};
    uint32_t before = MIN(generation->cut_position, SHOWN_BEFORE);
    append_pieces(loaded->vocabulary, generation->prompt.ids + generation->cut_position - before,
                  before + generation->cut_apart, &text);
    if (buffer_append_char(&text, '\0'), !text.failed)
        server_log("info", text.data, "id=%s changes=true", exchange_id(generation->job.exchange));
    buffer_free(&text);
}
