/* Converts a request to what an answer needs: prompt, sampler, form, stops. Copies all of it. */
#include "api/api_private.h"
#include "core/json_text.h"

#include <string.h>

#define MOST_LOGPROBS 20u

void hypura_default_sampling(hypura_sampling *out)
{
    struct sampler_options own;
    sampler_default_options(&own);
    hypura_sampling defaults = {.temperature = own.temperature,
                                .dynamic_range = own.dynamic_range,
                                .dynamic_exponent = own.dynamic_exponent,
                                .top_k = own.top_k,
                                .top_p = own.top_p,
                                .min_p = own.min_p,
                                .typical_p = own.typical_p,
                                .top_n_sigma = own.top_n_sigma,
                                .xtc_probability = own.xtc_probability,
                                .xtc_threshold = own.xtc_threshold,
                                .repeat_penalty = own.repeat_penalty,
                                .frequency_penalty = own.frequency_penalty,
                                .presence_penalty = own.presence_penalty,
                                .repeat_last_tokens = own.repeat_last_n,
                                .dry_multiplier = own.dry_multiplier,
                                .dry_base = own.dry_base,
                                .dry_allowed_tokens = own.dry_allowed_length,
                                .dry_last_tokens = own.dry_last_n,
                                .mirostat = own.mirostat,
                                .mirostat_tau = own.mirostat_tau,
                                .mirostat_eta = own.mirostat_eta};
    give_struct(out, &defaults, sizeof defaults);
}

static void free_texts(char **texts, size_t count)
{
    for (size_t i = 0; texts && i < count; i++)
        memory_free(texts[i]);
    memory_free(texts);
}

void forget_asked(struct asked *asked)
{
    sampler_destroy(asked->sampler);
    grammar_matcher_free(asked->matcher);
    grammar_free(asked->grammar);
    chat_parser_free(asked->parser);
    json_decref(asked->tools);
    token_array_free(&asked->prompt);
    free_texts(asked->stops, asked->stop_count);
    free_texts(asked->breakers, asked->breaker_count);
    memory_free(asked->biases);
    *asked = (struct asked){0};
}

static hypura_status copy_texts(char ***out, size_t *count_out, const char *const *texts, size_t count,
                                const char *what, hypura_error *error)
{
    hypura_status status = ALLOCATE(out, count, what, error);
    *count_out = status ? 0 : count;
    for (size_t i = 0; !status && i < count; i++) {
        status = texts[i] ? string_copy(&(*out)[i], texts[i], error)
                          : error_set(error, HYPURA_ERROR_ARGUMENT, "%s: element %zu is NULL", what, i);
    }
    return status;
}

/* ---- the prompt ---- */

static hypura_status append_tokens(struct token_array *out, const int32_t *tokens, size_t count, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < count; i++)
        status = token_array_append(out, tokens[i], error);
    return status;
}

/* A text that follows others gets no begin token. */
static hypura_status append_text(struct hypura_session *session, const hypura_request *request, hypura_error *error)
{
    uint32_t flags =
        (request->follows ? 0u : TOKENIZE_ADD_SPECIAL) | (request->plain_text ? 0u : TOKENIZE_PARSE_SPECIAL);
    return vocabulary_tokenize(session->model->vocabulary, request->text, request->text_size, flags,
                               &session->asked.prompt, error);
}

static hypura_status make_prompt(struct hypura_session *session, const hypura_request *request, hypura_error *error)
{
    struct asked *asked = &session->asked;
    const struct token_array *held = &session->held;
    uint32_t context = session->model->plan.context_tokens;
    hypura_status status = HYPURA_OK;
    if ((request->chat != NULL) + (request->text != NULL) + (request->tokens != NULL) != 1)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "the request needs exactly one prompt: set one of chat, text, tokens");
    if (request->follows && request->chat)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "request.follows needs text or tokens: a chat is always a whole prompt");
    if (request->follows)
        status = append_tokens(&asked->prompt, held->ids, held->count, error);
    if (!status && request->chat)
        status = make_chat_prompt(session->model, request->chat, &asked->prompt, &asked->tools, &asked->format, error);
    else if (!status && request->text)
        status = append_text(session, request, error);
    else if (!status)
        status = append_tokens(&asked->prompt, request->tokens, request->token_count, error);
    if (!status && asked->prompt.count == 0)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the prompt has no tokens");
    if (!status && asked->prompt.count >= context)
        status = error_set(error, HYPURA_ERROR_ARGUMENT,
                           "the prompt has %zu tokens, which leaves no room for an answer in a context of %u",
                           asked->prompt.count, context);
    return status;
}

/* ---- the form ---- */

static hypura_status make_vocabulary(hypura_model *model, hypura_error *error)
{
    return model->grammar ? HYPURA_OK : grammar_vocabulary_read(&model->grammar, model->vocabulary, error);
}

hypura_status need_grammar_vocabulary(hypura_model *model, hypura_error *error)
{
    pthread_mutex_lock(&model->grammar_mutex);
    hypura_status status = make_vocabulary(model, error);
    pthread_mutex_unlock(&model->grammar_mutex);
    return status;
}

static hypura_status read_schema(struct grammar **out, const char *text, hypura_error *error)
{
    json_error_t problem;
    uint64_t failures = memory_failures();
    json_t *schema = json_text_read_string(text, JSON_DECODE_ANY, &problem);
    hypura_status status = memory_check(failures, "schema", error);
    if (!status && !schema)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the schema is not valid JSON: line %d, column %d: %s",
                           problem.line, problem.column, problem.text);
    if (!status)
        status = grammar_from_schema(out, schema, error);
    json_decref(schema);
    return status;
}

static hypura_status make_grammar(struct asked *asked, const hypura_request *request, hypura_error *error)
{
    if ((request->form == HYPURA_FORM_SCHEMA || request->form == HYPURA_FORM_GRAMMAR) && !request->form_text)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "request.form asks for a schema or a grammar, but form_text is NULL");
    switch (request->form) {
    case HYPURA_FORM_FREE:
        return HYPURA_OK;
    case HYPURA_FORM_JSON:
        return grammar_json(&asked->grammar, error);
    case HYPURA_FORM_SCHEMA:
        return read_schema(&asked->grammar, request->form_text, error);
    case HYPURA_FORM_GRAMMAR:
        return grammar_parse(&asked->grammar, request->form_text, strlen(request->form_text), error);
    }
    return error_set(error, HYPURA_ERROR_ARGUMENT, "request.form is %d, which is not a hypura_form",
                     (int)request->form);
}

static hypura_status make_form(struct hypura_session *session, const hypura_request *request, hypura_error *error)
{
    struct asked *asked = &session->asked;
    hypura_status status = make_grammar(asked, request, error);
    if (status == HYPURA_ERROR_FORMAT) { /* the program gave the text: this is an error in an argument */
        status = HYPURA_ERROR_ARGUMENT;
        if (error)
            error->status = status;
    }
    if (status || !asked->grammar)
        return status;
    status = need_grammar_vocabulary(session->model, error);
    if (!status)
        status = grammar_matcher_create(&asked->matcher, asked->grammar, session->model->grammar, error);
    return status;
}

/* ---- the sampler ---- */

static struct sampler_options own_sampling(const hypura_sampling *given)
{
    struct sampler_options own;
    sampler_default_options(&own); /* sets steps and dry_breakers */
    own.seed = given->seed;
    own.temperature = given->temperature;
    own.dynamic_range = given->dynamic_range;
    own.dynamic_exponent = given->dynamic_exponent;
    own.top_k = given->top_k;
    own.top_p = given->top_p;
    own.min_p = given->min_p;
    own.typical_p = given->typical_p;
    own.top_n_sigma = given->top_n_sigma;
    own.xtc_probability = given->xtc_probability;
    own.xtc_threshold = given->xtc_threshold;
    own.repeat_penalty = given->repeat_penalty;
    own.frequency_penalty = given->frequency_penalty;
    own.presence_penalty = given->presence_penalty;
    own.repeat_last_n = given->repeat_last_tokens;
    own.dry_multiplier = given->dry_multiplier;
    own.dry_base = given->dry_base;
    own.dry_allowed_length = given->dry_allowed_tokens;
    own.dry_last_n = given->dry_last_tokens;
    own.mirostat = given->mirostat;
    own.mirostat_tau = given->mirostat_tau;
    own.mirostat_eta = given->mirostat_eta;
    return own;
}

static hypura_status copy_biases(struct asked *asked, const hypura_sampling *given, hypura_error *error)
{
    hypura_status status = ALLOCATE(&asked->biases, given->bias_count, "logit biases", error);
    for (size_t i = 0; !status && i < given->bias_count; i++)
        asked->biases[i] = (struct logit_bias){given->biases[i].token, given->biases[i].bias};
    return status;
}

static hypura_status make_sampler(struct hypura_session *session, const hypura_request *request, hypura_error *error)
{
    struct asked *asked = &session->asked;
    hypura_model *model = session->model;
    hypura_sampling given = {.struct_size = sizeof given};
    hypura_default_sampling(&given);
    hypura_status status = HYPURA_OK;
    if (request->sampling)
        status = take_struct(&given, sizeof given, request->sampling, "hypura_sampling", error);
    if (status)
        return status;
    struct sampler_options own = own_sampling(&given);
    if (given.steps)
        status = sampler_parse_steps(&own, given.steps, error);
    if (!status)
        status = copy_biases(asked, &given, error);
    own.biases = asked->biases;
    own.bias_count = given.bias_count;
    if (!status && given.dry_breakers) {
        status = copy_texts(&asked->breakers, &asked->breaker_count, given.dry_breakers, given.dry_breaker_count,
                            "sampling.dry_breakers", error);
        own.dry_breakers = (const char *const *)asked->breakers;
        own.dry_breaker_count = asked->breaker_count;
    }
    if (!status && own.dry_multiplier != 0.0f)
        status = need_grammar_vocabulary(model, error);
    if (!status && model->grammar && own.dry_multiplier != 0.0f)
        own.pieces = grammar_vocabulary_pieces(model->grammar);
    if (!status)
        status = sampler_create(&asked->sampler, &own, vocabulary_size(model->vocabulary), error);
    if (!status && asked->matcher) {
        struct token_constraint constraint = grammar_matcher_constraint(asked->matcher);
        sampler_set_constraint(asked->sampler, &constraint);
    }
    return status;
}

/* ---- the whole request ---- */

static void take_delta(void *context, const struct chat_delta *delta)
{
    struct hypura_session *session = context;
    session->last_kind = delta->kind;
    if (delta->kind == CHAT_TOOL_CALL)
        events_call(session, delta->name, delta->text, delta->size);
    else
        events_text(session, delta->kind == CHAT_CONTENT ? HYPURA_EVENT_CONTENT : HYPURA_EVENT_REASONING, delta->text,
                    delta->size);
}

static hypura_status make_parser(struct hypura_session *session, const hypura_request *request, hypura_error *error)
{
    struct asked *asked = &session->asked;
    /* An answer with a form is never parsed: all of it is content, whatever it looks like. */
    bool marks = request->chat && !asked->grammar && !request->as_written &&
                 (asked->format.think_start || asked->format.channels || asked->tools);
    asked->show_special = marks || (request->as_written && request->show_special);
    return marks ? chat_parser_create(&asked->parser, &asked->format, asked->tools, take_delta, session, error)
                 : HYPURA_OK;
}

static void take_settings(struct asked *asked, const hypura_request *request)
{
    asked->max_tokens = request->max_tokens;
    asked->context = request->context_tokens;
    asked->shift = request->shift;
    asked->shift_keep = request->shift_keep_tokens;
    asked->ignore_end = request->ignore_end;
    asked->want_tokens = request->want_tokens;
    asked->top = MIN(request->top_logprobs, MOST_LOGPROBS);
}

/* All except the prompt and the parser. */
static hypura_status make_rules(struct hypura_session *session, const hypura_request *request, hypura_error *error)
{
    struct asked *asked = &session->asked;
    hypura_status status =
        copy_texts(&asked->stops, &asked->stop_count, request->stops, request->stop_count, "request.stops", error);
    if (!status)
        status = make_form(session, request, error);
    return status ? status : make_sampler(session, request, error);
}

hypura_status ask(struct hypura_session *session, const hypura_request *given, hypura_error *error)
{
    hypura_request request;
    hypura_status status = take_struct(&request, sizeof request, given, "hypura_request", error);
    if (!status)
        status = need_vocabulary(session->model, error);
    if (status)
        return status;
    forget_asked(&session->asked);
    take_settings(&session->asked, &request);
    status = make_prompt(session, &request, error);
    if (!status)
        status = make_rules(session, &request, error);
    return status ? status : make_parser(session, &request, error);
}

hypura_status hypura_check_request(hypura_model *model, const hypura_request *given, hypura_error *error)
{
    hypura_request request;
    struct hypura_session session = {.model = model};
    hypura_status status = take_struct(&request, sizeof request, given, "hypura_request", error);
    if (!status)
        status = need_vocabulary(model, error);
    if (!status)
        status = make_rules(&session, &request, error);
    forget_asked(&session.asked);
    return status;
}
