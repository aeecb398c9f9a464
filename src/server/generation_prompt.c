/* Makes the tokens of a request's prompt, at the desk. */
#include "engine/prompt.h"
#include "server/generation.h"

#include <string.h>

#define MOST_CONTEXTS 10u /* limit of an answer that shifts, in contexts */

static hypura_status append_ids(struct generation *generation, const json_t *ids, hypura_error *error)
{
    size_t i;
    json_t *id;
    json_array_foreach(ids, i, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "element %zu of the token ids is not a token id", i);
        hypura_status status = token_array_append(&generation->prompt, (int32_t)json_integer_value(id), error);
        if (status)
            return status;
    }
    return HYPURA_OK;
}

static hypura_status append_special(struct generation *generation, enum special_token which, hypura_error *error)
{
    int32_t id = vocabulary_special(generation->loaded->vocabulary, which);
    if (id == NO_TOKEN)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "model '%s' does not support insert",
                         generation->loaded->entry.name);
    return token_array_append(&generation->prompt, id, error);
}

static hypura_status append_text(struct generation *generation, const char *text, uint32_t flags, hypura_error *error)
{
    struct work_watch watch = {exchange_is_awaited, exchange_lend_until_end, generation->job.exchange};
    return vocabulary_tokenize_watched(generation->loaded->vocabulary, text, strlen(text), flags, &watch,
                                       &generation->prompt, error);
}

/* Fill in the middle: the texts before and after the gap, each after its special token. */
static hypura_status make_insert(struct generation *generation, hypura_error *error)
{
    hypura_status status = append_special(generation, SPECIAL_FIM_PREFIX, error);
    if (!status)
        status = append_text(generation, generation->text, 0, error);
    if (!status)
        status = append_special(generation, SPECIAL_FIM_SUFFIX, error);
    if (!status)
        status = append_text(generation, generation->suffix, 0, error);
    if (!status)
        status = append_special(generation, SPECIAL_FIM_MIDDLE, error);
    return status;
}

/* Renders messages and appends their tokens. asks: the text ends with the beginning of an answer. format: receives the
 * format of answers; or NULL. */
static hypura_status render(struct generation *generation, json_t *messages, bool asks, struct token_array *tokens,
                            struct chat_format *format, hypura_error *error)
{
    struct loaded_model *loaded = generation->loaded;
    struct rendered_text rendered = {0};
    struct chat_template *tools_template = NULL;
    const struct chat_template *template = loaded->template;
    hypura_status status = HYPURA_OK;
    if (generation->tools) {
        status = prompt_open_template(&tools_template, model_file(engine_model(loaded->engine)), "tool_use", error);
        template = tools_template;
    }
    struct work_watch watch = {exchange_is_awaited, exchange_lend_until_end, generation->job.exchange};
    struct chat_input input = {.messages = messages,
                               .tools = generation->tools,
                               .variables = generation->variables,
                               .add_generation_prompt = asks,
                               .now = prompt_now(),
                               .adapt = true,
                               .watch = &watch};
    if (!status)
        status = prompt_from_chat(template, loaded->vocabulary, &input, tokens, &rendered, error);
    /* The template itself was read without errors, so it rejects these messages. */
    if (status == HYPURA_ERROR_FORMAT || status == HYPURA_ERROR_UNSUPPORTED)
        status = error->status = HYPURA_ERROR_ARGUMENT;
    if (!status && format)
        chat_format_detect(format, template, &rendered);
    rendered_text_free(&rendered);
    chat_template_free(tools_template);
    return status;
}

/* Removes the BOS token of a text that continues other tokens. */
static void drop_beginning(struct generation *generation, size_t at)
{
    const struct vocabulary *vocabulary = generation->loaded->vocabulary;
    struct token_array *prompt = &generation->prompt;
    if (!vocabulary_adds_bos(vocabulary) || at >= prompt->count ||
        prompt->ids[at] != vocabulary_special(vocabulary, SPECIAL_BOS))
        return;
    prompt->count--;
    memmove(prompt->ids + at, prompt->ids + at + 1, (prompt->count - at) * sizeof *prompt->ids);
}

static hypura_status fill_prompt(struct generation *generation, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    generation->prompt.count = 0;
    if (generation->tokens_before)
        status = append_ids(generation, generation->tokens_before, error);
    size_t before = generation->prompt.count;
    if (!status && generation->messages)
        status = render(generation, generation->messages, true, &generation->prompt, &generation->format, error);
    else if (!status && generation->tokens)
        status = append_ids(generation, generation->tokens, error);
    else if (!status && generation->suffix)
        status = make_insert(generation, error);
    else if (!status)
        status = append_text(generation, generation->text, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, error);
    if (!status && before)
        drop_beginning(generation, before);
    return status;
}

/* Counts the tokens up to the end of the last marked message. What precedes the messages counts with the first one. */
static hypura_status count_marked(struct generation *generation, hypura_error *error)
{
    size_t count = json_array_size(generation->messages), marked = count - MIN(count, generation->behind_mark), i;
    struct token_array tokens = {0};
    json_t *message, *in_front = json_array();
    generation->marked_tokens = marked == count ? (uint32_t)generation->prompt.count : 0;
    json_array_foreach(generation->messages, i, message)
    {
        if (i < MAX(marked, (size_t)1))
            json_array_append(in_front, message);
    }
    hypura_status status = HYPURA_OK;
    if (marked < count)
        status = render(generation, in_front, false, &tokens, NULL, error);
    if (status == HYPURA_ERROR_ARGUMENT) /* the template rejects a chat that ends here: count none */
        *error = (hypura_error){0};
    else if (status == HYPURA_OK && marked < count)
        while (generation->marked_tokens < MIN(tokens.count, generation->prompt.count) &&
               tokens.ids[generation->marked_tokens] == generation->prompt.ids[generation->marked_tokens])
            generation->marked_tokens++;
    json_decref(in_front);
    token_array_free(&tokens);
    return error->status;
}

/* ---- cutting -------------------------------------------------------------------------------------------------------
 */

static bool is_system(const json_t *message)
{
    return !json_object_get(message, "role") || has_role(message, "system");
}

/* The messages without this many of the oldest; system messages stay. A new reference; NULL: out of memory. */
static json_t *without_oldest(const json_t *messages, size_t going)
{
    json_t *left = json_array(), *message;
    size_t i;
    json_array_foreach(messages, i, message)
    {
        if (going && !is_system(message))
            going--;
        else if (json_array_append(left, message))
            break;
    }
    if (i < json_array_size(messages)) {
        json_decref(left);
        return NULL;
    }
    return left;
}

/* Drops them, and makes the prompt of the rest. */
static hypura_status drop_oldest(struct generation *generation, const json_t *messages, size_t going,
                                 hypura_error *error)
{
    json_decref(generation->messages);
    generation->messages = without_oldest(messages, going);
    if (!generation->messages)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the messages that are left");
    return fill_prompt(generation, error);
}

/* Drops as few of the oldest messages as needed, but leaves one to answer. Each try tokenizes the rest, so it searches:
 * it starts from the number for messages of equal size, goes in growing steps, and then bisects. */
static hypura_status drop_messages(struct generation *generation, uint32_t positions, hypura_error *error)
{
    json_t *all = json_incref(generation->messages);
    size_t most = 0, too_few = 0, enough = SIZE_MAX, count = json_array_size(all), tokens = generation->prompt.count;
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i + 1 < count; i++)
        most += !is_system(json_array_get(all, i));
    size_t going = (size_t)((double)most * (double)(tokens - positions) / (double)tokens);
    going = MIN(MAX(going, (size_t)1), most);
    for (size_t step = 1; !status && too_few < most; step *= 2) {
        status = drop_oldest(generation, all, going, error);
        *(generation->prompt.count < positions ? &enough : &too_few) = going;
        if (enough <= too_few + 1)
            break;
        if (enough == SIZE_MAX)
            going = MIN(too_few + step, most);
        else if (too_few == 0)
            going = enough > step ? enough - step : 1;
        else
            going = too_few + (enough - too_few) / 2;
    }
    if (!status && enough != SIZE_MAX && going != enough)
        status = drop_oldest(generation, all, enough, error);
    json_decref(all);
    return status;
}

static void cut_prompt(struct generation *generation, uint32_t positions)
{
    struct token_array *prompt = &generation->prompt;
    size_t most = positions - 1, first = MIN((size_t)generation->keep_first, most / 2);
    /* Keeps the beginning and the end, and leaves a quarter of the context for the answer. */
    size_t last = most - first > positions / 4 ? most - first - positions / 4 : 1;
    memmove(prompt->ids + first, prompt->ids + prompt->count - last, last * sizeof *prompt->ids);
    prompt->count = first + last;
}

hypura_status generation_make_prompt(struct generation *generation, hypura_error *error)
{
    uint32_t positions = engine_plan(generation->loaded->engine)->positions;
    if (generation->positions)
        positions = MAX(MIN(positions, generation->positions), 2u);
    hypura_status status = fill_prompt(generation, error);
    if (status)
        return status;
    generation->too_long = generation->prompt.count >= positions && generation->keep_first == UINT32_MAX;
    /* Clients recognise these texts and shorten the chat. */
    if (generation->too_long && exchange_api(generation->job.exchange) == API_ANTHROPIC)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "prompt is too long: %zu tokens > %u maximum",
                         generation->prompt.count, positions - 1);
    if (generation->too_long)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "This model's maximum context length is %u tokens. However, your messages resulted in "
                         "%zu tokens. Please reduce the length of the messages.",
                         positions, generation->prompt.count);
    if (generation->prompt.count >= positions && generation->messages)
        status = drop_messages(generation, positions, error);
    if (status)
        return status;
    if (generation->prompt.count >= positions)
        cut_prompt(generation, positions);
    if (generation->marked && generation->messages && count_marked(generation, error))
        return error->status;
    /* Some models never stop; Ollama has the same limit. */
    if (generation->shift && (!generation->max_tokens || generation->max_tokens / MOST_CONTEXTS >= positions))
        generation->max_tokens = positions * MOST_CONTEXTS;
    return HYPURA_OK;
}

hypura_status keep_tokens(struct exchange *exchange, struct token_array *tokens, hypura_error *error)
{
    size_t count = tokens->count, size = sizeof *tokens->ids;
    if (count && !memory_resize((void **)&tokens->ids, count, count, size, "tokens", error))
        tokens->capacity = count;
    exchange_lend(exchange, tokens->capacity * size);
    return exchange_lacks_room(exchange) ? error_set(error, HYPURA_ERROR_MEMORY, "no memory for the tokens")
                                         : HYPURA_OK;
}

/* ---- counting -------------------------------------------------------------------------------------------------------
 */

static void prepare_count(struct job *job, struct loaded_model *loaded)
{
    struct generation *generation = (struct generation *)job;
    generation->loaded = loaded;
    generation->error = (hypura_error){0};
    generation->prepared = fill_prompt(generation, &generation->error);
    if (exchange_check_work(&generation->error))
        generation->prepared = generation->error.status;
}

static void count_tokens(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    struct generation *generation = (struct generation *)job;
    (void)loaded, (void)load_nanoseconds;
    if (generation->prepared) {
        generation_fail(generation, &generation->error);
    } else {
        json_t *answer = json_pack("{s:I}", "input_tokens", (json_int_t)generation->prompt.count);
        if (generation->counted_as)
            json_object_set_new(answer, "object", json_string(generation->counted_as));
        exchange_reply_json(job->exchange, 200, answer);
    }
    generation_free(generation);
}

void generation_submit_count(struct generation *generation, const char *object)
{
    if (!generation_is_whole(generation))
        return;
    generation->counted_as = object;
    generation->job.prepare = prepare_count;
    generation->job.start = count_tokens;
    generation->job.brief = true;
    worker_submit(exchange_server(generation->job.exchange)->worker, &generation->job);
}
