/* What tests of the library share. They include only the public headers, as other programs do. */
#ifndef HYPURA_TEST_LIBRARY_H
#define HYPURA_TEST_LIBRARY_H

#include <hypura/hypura.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static hypura_error problem;

#define assert_done(call)                                                                                              \
    do {                                                                                                               \
        if ((call) != HYPURA_OK)                                                                                       \
            fail_msg("%s: %s", #call, problem.message);                                                                \
    } while (0)

#define assert_refused(call, expected, words)                                                                          \
    do {                                                                                                               \
        problem.message[0] = '\0';                                                                                     \
        assert_int_equal(call, expected);                                                                              \
        if (!strstr(problem.message, words))                                                                           \
            fail_msg("the error \"%s\" does not contain \"%s\"", problem.message, words);                              \
    } while (0)

static const char question[] = "[{\"role\": \"user\", \"content\": \"What does the ls command do?\"}]";
static const hypura_chat chat = {.struct_size = sizeof chat, .messages = question};
static char folder[64]; /* for the files of a test */

__attribute__((unused)) static const char *embedded_model(void)
{
    static char path[4096];
    const char *models = getenv("HYPURA_MODELS");
    snprintf(path, sizeof path, "%s/manpage-moe-24m-Q4_K_M.gguf", models ? models : "models");
    return path;
}

__attribute__((unused)) static hypura_model *open_model(uint64_t memory)
{
    hypura_options options = {
        .struct_size = sizeof options, .memory_bytes = memory, .context_tokens = 256, .gpu = "none"};
    hypura_model *model = NULL;
    assert_done(hypura_open(&model, embedded_model(), &options, &problem));
    return model;
}

__attribute__((unused)) static hypura_session *open_session(hypura_model *model)
{
    hypura_session *session = NULL;
    assert_done(hypura_session_open(&session, model, &problem));
    return session;
}

__attribute__((unused)) static hypura_sampling greedy(void)
{
    hypura_sampling sampling = {.struct_size = sizeof sampling};
    hypura_default_sampling(&sampling);
    sampling.temperature = 0;
    return sampling;
}

struct text {
    char bytes[4096];
    size_t size, pieces, most; /* most: pieces after which the answer is ended; 0: never */
    hypura_session *cancel;    /* end it by hypura_cancel on this session */
    int32_t tokens[256];
    float logprobs[256];
    size_t token_count;
};

__attribute__((unused)) static bool collect(void *context, const hypura_event *event)
{
    struct text *text = context;
    if (event->kind == HYPURA_EVENT_TOKEN) {
        text->tokens[text->token_count] = event->token;
        text->logprobs[text->token_count++] = event->logprob;
        return true;
    }
    if (event->kind != HYPURA_EVENT_CONTENT)
        return true;
    assert_true(text->size + event->size < sizeof text->bytes);
    memcpy(text->bytes + text->size, event->text, event->size);
    text->size += event->size;
    text->bytes[text->size] = '\0';
    text->pieces++;
    if (text->cancel && text->pieces == text->most)
        hypura_cancel(text->cancel, true);
    return text->cancel || text->most == 0 || text->pieces < text->most;
}

__attribute__((unused)) static hypura_request request_of(const char *text)
{
    static hypura_sampling sampling;
    sampling = greedy();
    hypura_request request = {.struct_size = sizeof request, .sampling = &sampling, .max_tokens = 24};
    if (text) {
        request.text = text;
        request.text_size = strlen(text);
    } else {
        request.chat = &chat;
    }
    return request;
}

/* Set-up and tear-down of a group of tests. */
static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/hypura-library-XXXXXX");
    return mkdtemp(folder) ? setenv("XDG_STATE_HOME", folder, 1) : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

#endif
