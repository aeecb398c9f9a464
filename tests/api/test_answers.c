/* Answers through the library: of one session and of many, and what may happen during one. */
#include "library.h"

#include <poll.h>
#include <pthread.h>

/* ---- one session ---- */

static void a_chat_is_answered_whatever_the_memory(void **state)
{
    (void)state;
    struct text texts[2] = {0};
    hypura_statistics statistics[2] = {{.struct_size = sizeof *statistics}, {.struct_size = sizeof *statistics}};
    for (int small = 0; small < 2; small++) {
        hypura_model *model = open_model(small ? 12 << 20 : 0);
        hypura_session *session = open_session(model);
        hypura_request request = request_of(NULL);
        assert_string_equal(hypura_get_info(model)->name, "Manpage MoE 24M");
        assert_string_equal(hypura_get_plan(model)->mode, small ? "expert-streaming" : "full-resident");
        assert_done(hypura_answer(session, &request, collect, &texts[small], &problem));
        hypura_get_statistics(model, &statistics[small]);
        hypura_session_close(session);
        hypura_close(model);
    }
    assert_memory_equal(texts[0].bytes, "ls - list directory contents", 28);
    assert_string_equal(texts[0].bytes, texts[1].bytes);
    assert_true(statistics[0].storage_bytes == 0 && statistics[1].storage_bytes > 0);
    assert_true(statistics[1].expert_misses > 0 && statistics[1].memory_bytes == 12 << 20);
    assert_true(statistics[0].prompt_tokens > 0 && statistics[0].answer_tokens > 0);
}

static void an_answer_says_why_it_ended(void **state)
{
    (void)state;
    hypura_model *model = open_model(0);
    hypura_session *session = open_session(model);
    const char *stops[] = {" directory"};
    struct text text = {0};
    hypura_request request = request_of(NULL);
    assert_null(hypura_session_result(session));
    request.stops = stops;
    request.stop_count = 1;
    assert_done(hypura_answer(session, &request, collect, &text, &problem));
    assert_string_equal(text.bytes, "ls - list");
    assert_string_equal(hypura_finish_name(hypura_session_result(session)->finish), "stop");
    assert_string_equal(hypura_session_result(session)->stop, " directory");

    text = (struct text){0};
    request = request_of("The kernel");
    request.max_tokens = 3;
    assert_done(hypura_answer(session, &request, collect, &text, &problem));
    assert_int_equal(hypura_session_result(session)->finish, HYPURA_FINISH_MAX_TOKENS);
    assert_int_equal(hypura_session_result(session)->answer_tokens, 3);

    request.max_tokens = 0;
    request.ignore_end = true;
    request.context_tokens = 20;
    assert_done(hypura_answer(session, &request, NULL, NULL, &problem));
    assert_int_equal(hypura_session_result(session)->finish, HYPURA_FINISH_CONTEXT);

    text = (struct text){.most = 1};
    request = request_of("The kernel");
    assert_done(hypura_answer(session, &request, collect, &text, &problem));
    assert_int_equal(text.pieces, 1);
    assert_int_equal(hypura_session_result(session)->finish, HYPURA_FINISH_CANCELLED);

    text = (struct text){0};
    request = request_of(NULL);
    request.form = HYPURA_FORM_SCHEMA;
    request.form_text = "{\"enum\": [\"yes\", \"no\"]}";
    assert_done(hypura_answer(session, &request, collect, &text, &problem));
    assert_true(strcmp(text.bytes, "\"yes\"") == 0 || strcmp(text.bytes, "\"no\"") == 0);
    assert_int_equal(hypura_session_result(session)->finish, HYPURA_FINISH_END);

    text = (struct text){0};
    request.form = HYPURA_FORM_GRAMMAR;
    request.form_text = "root ::= \"a\" [0-9] \"z\"";
    assert_done(hypura_answer(session, &request, collect, &text, &problem));
    assert_true(text.size == 3 && text.bytes[0] == 'a' && text.bytes[2] == 'z');
    hypura_session_close(session);
    hypura_close(model);
}

static void *cancel_soon(void *session)
{
    usleep(30000);
    hypura_cancel(session, true);
    return NULL;
}

static void no_cancel_is_lost(void **state)
{
    (void)state;
    hypura_model *model = open_model(0);
    hypura_session *session = open_session(model), *other = open_session(model);
    struct text text = {0};
    float vector[4096];
    int32_t tokens[] = {1, 2, 3};
    hypura_request request = request_of("The kernel");

    /* A cancel before a call lasts until it is taken back. */
    hypura_cancel(session, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(hypura_answer(session, &request, collect, &text, &problem), HYPURA_ERROR_CANCELLED);
    assert_int_equal(hypura_embed(session, tokens, 3, vector, &problem), HYPURA_ERROR_CANCELLED);
    assert_int_equal(text.pieces, 0);
    assert_done(hypura_answer(other, &request, NULL, NULL, &problem)); /* other sessions are not affected */
    hypura_cancel(session, false);

    /* Cancel in the middle of an answer. */
    text = (struct text){.most = 1, .cancel = session};
    request.max_tokens = 200;
    request.ignore_end = true;
    assert_int_equal(hypura_answer(session, &request, collect, &text, &problem), HYPURA_ERROR_CANCELLED);
    assert_int_equal(hypura_session_result(session)->finish, HYPURA_FINISH_CANCELLED);
    hypura_cancel(session, false);

    /* Another thread cancels an answer that would never end. */
    pthread_t thread;
    request.max_tokens = 0;
    request.shift = true;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, session), 0);
    assert_int_equal(hypura_answer(session, &request, NULL, NULL, &problem), HYPURA_ERROR_CANCELLED);
    pthread_join(thread, NULL);
    hypura_cancel(session, false);

    /* Afterwards, the session works as before. */
    text = (struct text){0};
    request = request_of(NULL);
    assert_done(hypura_answer(session, &request, collect, &text, &problem));
    assert_memory_equal(text.bytes, "ls - list directory contents", 28);

    /* Closing a session ends its answer. */
    request = request_of("The kernel");
    request.max_tokens = 0;
    request.ignore_end = request.shift = true;
    assert_done(hypura_start(session, &request, &problem));
    hypura_session_close(session);
    hypura_session_close(other);
    hypura_close(model);
}

static void a_request_is_checked_without_its_prompt(void **state)
{
    (void)state;
    hypura_model *model = open_model(0);
    hypura_sampling sampling = greedy();
    hypura_request request = {.struct_size = sizeof request, .sampling = &sampling};
    assert_done(hypura_check_request(model, &request, &problem));
    request.form = HYPURA_FORM_GRAMMAR;
    request.form_text = "root ::= (";
    assert_refused(hypura_check_request(model, &request, &problem), HYPURA_ERROR_ARGUMENT, "grammar");
    request.form_text = "root ::= \"a\"";
    assert_done(hypura_check_request(model, &request, &problem));
    sampling.mirostat = 1;
    assert_refused(hypura_check_request(model, &request, &problem), HYPURA_ERROR_ARGUMENT, "mirostat");
    hypura_close(model);
}

/* ---- many sessions ---- */

#define SESSIONS 4

static const char *const beginnings[SESSIONS] = {"The kernel", "A file is", "To list the processes", "grep -r"};

struct writer {
    hypura_session *session;
    const char *beginning;
    hypura_sampling sampling;
    struct text text;
    hypura_status status;
    hypura_error error;
};

static void *write_one(void *context)
{
    struct writer *writer = context;
    hypura_request request = {.struct_size = sizeof request,
                              .text = writer->beginning,
                              .text_size = strlen(writer->beginning),
                              .sampling = &writer->sampling,
                              .max_tokens = 40,
                              .ignore_end = true,
                              .want_tokens = true};
    writer->status = hypura_answer(writer->session, &request, collect, &writer->text, &writer->error);
    return NULL;
}

static uint64_t passes_of(hypura_model *model)
{
    hypura_statistics statistics = {.struct_size = sizeof statistics};
    hypura_get_statistics(model, &statistics);
    return statistics.answer_passes;
}

static void threads_share_passes_and_get_the_bits_of_single_runs(void **state)
{
    (void)state;
    static struct writer alone[SESSIONS], together[SESSIONS];
    pthread_t threads[SESSIONS];
    hypura_model *model = open_model(0);
    for (int i = 0; i < SESSIONS; i++) {
        alone[i] = (struct writer){.session = open_session(model), .beginning = beginnings[i], .sampling = greedy()};
        alone[i].sampling.temperature = 1;
        alone[i].sampling.seed = (uint64_t)i;
        together[i] = alone[i];
    }
    uint64_t before = passes_of(model);
    for (int i = 0; i < SESSIONS; i++)
        write_one(&alone[i]);
    uint64_t one_by_one = passes_of(model) - before;
    for (int i = 0; i < SESSIONS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_one, &together[i]), 0);
    for (int i = 0; i < SESSIONS; i++)
        pthread_join(threads[i], NULL);
    assert_true(passes_of(model) - before - one_by_one < one_by_one);
    for (int i = 0; i < SESSIONS; i++) {
        if (alone[i].status || together[i].status)
            fail_msg("%s %s", alone[i].error.message, together[i].error.message);
        assert_int_equal(alone[i].text.token_count, 40);
        assert_string_equal(alone[i].text.bytes, together[i].text.bytes);
        assert_memory_equal(alone[i].text.tokens, together[i].text.tokens, sizeof alone[i].text.tokens);
        assert_memory_equal(alone[i].text.logprobs, together[i].text.logprobs, sizeof alone[i].text.logprobs);
        hypura_session_close(alone[i].session);
    }
    hypura_close(model);
}

/* One thread serves many sessions. */

static void an_event_loop_waits_for_descriptors(void **state)
{
    (void)state;
    hypura_model *model = open_model(0);
    hypura_session *sessions[2 * SESSIONS];
    struct pollfd files[2 * SESSIONS];
    struct text texts[2 * SESSIONS] = {0}, alone = {0};
    hypura_request request = request_of(NULL);
    size_t open = 2 * SESSIONS;
    for (size_t i = 0; i < open; i++) {
        sessions[i] = open_session(model);
        files[i] = (struct pollfd){.events = POLLIN};
        assert_done(hypura_session_file(sessions[i], &files[i].fd, &problem));
        assert_int_equal(poll(&files[i], 1, 0), 0);
        assert_done(hypura_start(sessions[i], &request, &problem));
        assert_int_equal(hypura_start(sessions[i], &request, &problem), HYPURA_ERROR_ARGUMENT);
    }
    for (size_t left = open; left;) {
        assert_true(poll(files, open, 60000) > 0);
        for (size_t i = 0; i < open; i++) {
            const hypura_event *event = NULL;
            if (files[i].revents & POLLIN) {
                assert_done(hypura_next(sessions[i], 0, &event, &problem));
                assert_non_null(event);
                collect(&texts[i], event);
                if (event->kind == HYPURA_EVENT_END) {
                    left--;
                    assert_int_equal(poll(&files[i], 1, 0), 0);
                }
            }
        }
    }
    assert_done(hypura_answer(sessions[0], &request, collect, &alone, &problem));
    for (size_t i = 0; i < open; i++) {
        assert_string_equal(texts[i].bytes, alone.bytes);
        hypura_session_close(sessions[i]);
    }
    hypura_close(model);
}

/* ---- changes during an answer ---- */

static void the_budget_changes_in_the_middle_of_an_answer(void **state)
{
    (void)state;
    struct text alone = {0}, changed = {0};
    hypura_model *model = open_model(16 << 20);
    hypura_session *session = open_session(model);
    hypura_request request = request_of(NULL);
    request.ignore_end = true;
    request.max_tokens = 48;
    assert_done(hypura_answer(session, &request, collect, &alone, &problem));
    assert_done(hypura_start(session, &request, &problem));
    hypura_statistics now = {.struct_size = sizeof now};
    const hypura_event *event;
    for (int i = 0;; i++) {
        assert_done(hypura_next(session, -1, &event, &problem));
        if (event->kind == HYPURA_EVENT_END)
            break;
        collect(&changed, event);
        if (i % 8 == 0)
            assert_done(hypura_set_memory(model, (uint64_t)(i % 16 ? 16 : 13) << 20, &problem));
    }
    hypura_get_statistics(model, &now);
    assert_true(now.memory_bytes <= 16 << 20 && now.largest_memory_bytes == 16 << 20);
    assert_string_equal(alone.bytes, changed.bytes);
    hypura_session_close(session);
    hypura_close(model);
}

static void an_answer_is_stopped_and_the_session_continues(void **state)
{
    (void)state;
    hypura_model *model = open_model(0);
    hypura_session *session = open_session(model);
    hypura_request request = request_of(NULL);
    const hypura_event *event;
    request.ignore_end = request.shift = true;
    request.max_tokens = 0;
    assert_done(hypura_start(session, &request, &problem));
    assert_done(hypura_next(session, -1, &event, &problem));
    assert_int_equal(event->kind, HYPURA_EVENT_CONTENT);
    hypura_stop(session);
    while (event->kind != HYPURA_EVENT_END)
        assert_done(hypura_next(session, -1, &event, &problem));
    assert_int_equal(hypura_session_result(session)->finish, HYPURA_FINISH_CANCELLED);
    assert_true(hypura_session_result(session)->answer_tokens > 0);
    request = request_of(NULL);
    assert_done(hypura_answer(session, &request, NULL, NULL, &problem));
    const int32_t end = hypura_session_result(session)->end_token;
    assert_true(end == HYPURA_NO_TOKEN || hypura_is_end(model, end));
    assert_false(hypura_is_end(model, HYPURA_NO_TOKEN));
    assert_true(hypura_begin_token(model) < (int32_t)hypura_get_info(model)->vocabulary_size);
    assert_false(hypura_is_lost(model));
    char *json = NULL;
    assert_done(hypura_statistics_json(model, &json, &problem));
    assert_non_null(strstr(json, "\"budget_bytes\": "));
    hypura_free(json);
    hypura_session_close(session);
    hypura_close(model);
}

/* ---- requests in a server's format ---- */

struct reply {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned status; /* 0: no reply yet */
    char text[4096];
};

static void take_reply(void *context, unsigned status, const char *json, size_t size)
{
    struct reply *reply = context;
    pthread_mutex_lock(&reply->mutex);
    reply->status = status;
    snprintf(reply->text, sizeof reply->text, "%.*s", (int)size, json);
    if (json[size])
        reply->status = 1; /* the text must end with a NUL */
    pthread_cond_signal(&reply->changed);
    pthread_mutex_unlock(&reply->mutex);
}

static unsigned wait_for_reply(struct reply *reply)
{
    pthread_mutex_lock(&reply->mutex);
    while (!reply->status)
        pthread_cond_wait(&reply->changed, &reply->mutex);
    pthread_mutex_unlock(&reply->mutex);
    return reply->status;
}

static unsigned ask(hypura_endpoint *endpoint, struct reply *reply, const char *path, const char *body)
{
    *reply = (struct reply){.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    assert_done(hypura_endpoint_ask(endpoint, path, body, strlen(body), take_reply, reply, &problem));
    return wait_for_reply(reply);
}

static void requests_are_answered_as_by_a_server(void **state)
{
    (void)state;
    static const char wanted[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"What does the ls command do?\"}], "
        "\"model\": \"any\", \"temperature\": 0, \"max_tokens\": 8}";
    struct reply replies[3];
    hypura_endpoint *endpoint = NULL;
    char *gpu = strdup("none"), *kind = strdup("lru");
    hypura_options options = {
        .struct_size = sizeof options, .context_tokens = 256, .sessions = 2, .gpu = gpu, .cache_policy = kind};
    assert_non_null(gpu);
    assert_non_null(kind);
    assert_done(hypura_endpoint_open(&endpoint, embedded_model(), &options, &problem));
    memset(gpu, 'x', 4);
    memset(kind, 'x', 3);
    free(gpu); /* the endpoint must not keep pointers to options */
    free(kind);
    for (size_t i = 0; i < 3; i++) {
        replies[i] = (struct reply){.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
        assert_done(hypura_endpoint_ask(endpoint, "/v1/chat/completions", wanted, strlen(wanted), take_reply,
                                        &replies[i], &problem));
    }
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(wait_for_reply(&replies[i]), 200);
        assert_non_null(strstr(replies[i].text, "ls - list directory"));
    }
    hypura_endpoint_state now = {.struct_size = sizeof now};
    hypura_endpoint_get_state(endpoint, &now);
    assert_true(strstr(now.name, "manpage") && now.sessions == 2 && now.context_tokens == 256 && now.tokens >= 24);
    assert_string_equal(now.mode, "full-resident");
    const uint64_t budget = now.memory_bytes / 2; /* half of the free memory is enough */
    assert_done(hypura_endpoint_set_memory(endpoint, budget, &problem));
    assert_int_equal(ask(endpoint, &replies[0], "/v1/completions", "{\"prompt\": \"ls\", \"max_tokens\": 2}"), 200);
    hypura_endpoint_get_state(endpoint, &now);
    assert_int_equal(now.memory_bytes, budget);

    assert_int_equal(ask(endpoint, &replies[0], "/v1/chat/completions", "{\"messages\": 7}"), 400);
    assert_non_null(strstr(replies[0].text, "messages"));
    const char *const refused[][3] = {{"/v1/chat/completions", "{\"messages\"", "not valid JSON"},
                                      {"/v1/chat/completions", "[1]", "not an object"},
                                      {"/v1/chat/completions", "{\"stream\": true}", "stream"},
                                      {"/api/pull", "{}", "unknown path"},
                                      {"/nowhere", "{}", "unknown path"}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        assert_refused(hypura_endpoint_ask(endpoint, refused[i][0], refused[i][1], strlen(refused[i][1]), take_reply,
                                           &replies[0], &problem),
                       HYPURA_ERROR_ARGUMENT, refused[i][2]);
    hypura_endpoint_close(endpoint);
    options = (hypura_options){.struct_size = sizeof options, .sessions = HYPURA_ENDPOINT_SESSIONS + 1};
    assert_refused(hypura_endpoint_open(&endpoint, embedded_model(), &options, &problem), HYPURA_ERROR_ARGUMENT,
                   "options.sessions is 257");
    assert_true(hypura_endpoint_open(&endpoint, "/nowhere.gguf", NULL, &problem) != HYPURA_OK);
    assert_non_null(strstr(problem.message, "nowhere"));
    hypura_endpoint_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_is_answered_whatever_the_memory),
        cmocka_unit_test(an_answer_says_why_it_ended),
        cmocka_unit_test(no_cancel_is_lost),
        cmocka_unit_test(a_request_is_checked_without_its_prompt),
        cmocka_unit_test(threads_share_passes_and_get_the_bits_of_single_runs),
        cmocka_unit_test(an_event_loop_waits_for_descriptors),
        cmocka_unit_test(the_budget_changes_in_the_middle_of_an_answer),
        cmocka_unit_test(an_answer_is_stopped_and_the_session_continues),
        cmocka_unit_test(requests_are_answered_as_by_a_server),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
