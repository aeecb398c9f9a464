/* The library as other programs use it: only its public headers and the shared object. */
#include <hypura/hypura.h>

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
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
static char folder[64];

static const char *embedded_model(void)
{
    static char path[4096];
    const char *models = getenv("HYPURA_MODELS");
    snprintf(path, sizeof path, "%s/manpage-moe-24m-Q4_K_M.gguf", models ? models : "models");
    return path;
}

static hypura_model *open_model(uint64_t memory)
{
    hypura_options options = {
        .struct_size = sizeof options, .memory_bytes = memory, .context_tokens = 256, .gpu = "none"};
    hypura_model *model = NULL;
    assert_done(hypura_open(&model, embedded_model(), &options, &problem));
    return model;
}

static hypura_session *open_session(hypura_model *model)
{
    hypura_session *session = NULL;
    assert_done(hypura_session_open(&session, model, &problem));
    return session;
}

static hypura_sampling greedy(void)
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

static bool collect(void *context, const hypura_event *event)
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

static hypura_request request_of(const char *text)
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

/* ---- answers ---- */

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

/* ---- other functions ---- */

static void texts_become_tokens_and_back(void **state)
{
    (void)state;
    hypura_options options = {.struct_size = sizeof options, .text_only = true};
    hypura_model *model = NULL;
    hypura_session *session = NULL;
    assert_done(hypura_open(&model, embedded_model(), &options, &problem));
    const char text[] = "ls lists files.";
    int32_t *tokens = NULL;
    char *back = NULL;
    size_t count = 0, counted = 0, size = 0;
    assert_done(hypura_tokenize(model, text, strlen(text), 0, &tokens, &count, &problem));
    assert_done(hypura_count_tokens(model, text, strlen(text), 0, &counted, &problem));
    assert_true(count > 0 && count == counted);
    assert_done(hypura_detokenize(model, tokens, count, false, &back, &size, &problem));
    assert_string_equal(back, text);
    assert_int_equal(size, strlen(text));
    hypura_free(back);
    hypura_free(tokens);
    assert_done(hypura_detokenize(model, NULL, 0, false, &back, &size, &problem));
    assert_string_equal(back, "");
    hypura_free(back);
    int32_t wrong = 1 << 30;
    assert_refused(hypura_detokenize(model, &wrong, 1, false, &back, &size, &problem), HYPURA_ERROR_ARGUMENT,
                   "token id");

    assert_done(hypura_render_chat(model, &chat, &back, &size, &problem));
    assert_non_null(strstr(back, "What does the ls command do?"));
    assert_int_equal(size, strlen(back));
    hypura_free(back);
    hypura_chat bad = chat;
    bad.variables = "[]";
    assert_refused(hypura_tokenize_chat(model, &bad, &tokens, &count, &problem), HYPURA_ERROR_ARGUMENT, "variables");
    assert_refused(hypura_session_open(&session, model, &problem), HYPURA_ERROR_ARGUMENT, "text only");
    assert_true(strlen(hypura_template_source(model)) > 0 && !hypura_get_plan(model));
    hypura_close(model);
}

struct rows {
    size_t count, width;
    float last[8192], first[8192];
};

static bool keep_row(void *context, size_t index, const float *logits)
{
    struct rows *rows = context;
    memcpy(rows->count++ ? rows->last : rows->first, logits, rows->width * sizeof *logits);
    return index < 100;
}

static void logits_and_embeddings_match_the_text(void **state)
{
    (void)state;
    static struct rows all, end;
    hypura_model *model = open_model(0);
    hypura_session *session = open_session(model);
    size_t width = hypura_get_info(model)->vocabulary_size, length = hypura_get_info(model)->embedding_width;
    const int32_t tokens[] = {10, 20, 30, 40};
    float one[2048], two[2048];
    double sum = 0;
    assert_true(width <= 8192 && length <= 2048);
    all.width = end.width = width;
    assert_done(hypura_logits(session, tokens, 4, 0, keep_row, &all, &problem));
    assert_done(hypura_logits(session, tokens, 4, 3, keep_row, &end, &problem));
    assert_true(all.count == 4 && end.count == 1);
    assert_memory_equal(all.last, end.first, width * sizeof(float));
    assert_done(hypura_embed(session, tokens, 4, one, &problem));
    assert_done(hypura_embed(session, tokens, 4, two, &problem));
    assert_memory_equal(one, two, length * sizeof(float));
    for (size_t i = 0; i < length; i++)
        sum += (double)one[i] * (double)one[i];
    assert_true(fabs(sum - 1) < 1e-4);
    assert_refused(hypura_judge(session, "a", 1, "b", 1, one, &problem), HYPURA_ERROR_UNSUPPORTED, "re-ranker");

    hypura_measure how = {.struct_size = sizeof how, .prompt_tokens = 16, .answer_tokens = 4, .rounds = 1};
    hypura_speed speed = {.struct_size = sizeof speed};
    assert_done(hypura_measure_speed(session, &how, &speed, &problem));
    assert_true(speed.prompt_tokens_per_second.median > 0 && speed.answer_tokens_per_second.median > 0);
    hypura_session_close(session);
    hypura_close(model);
}

static void a_session_is_forked_saved_and_loaded(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/session", folder);
    struct text whole = {0}, first = {0}, forked = {0}, loaded = {0};
    size_t count = 0, computed = 0;
    hypura_model *model = open_model(0);
    hypura_session *session = open_session(model), *fork = NULL, *other = NULL;
    hypura_request request = request_of(NULL);
    assert_done(hypura_answer(session, &request, collect, &whole, &problem));

    request.max_tokens = 6;
    assert_done(hypura_answer(session, &request, collect, &first, &problem));
    hypura_session_tokens(session, &count);
    assert_int_equal(count, hypura_session_result(session)->prompt_tokens + 6);
    assert_done(hypura_session_save(session, path, &problem));
    char pipe[128];
    struct stat there;
    snprintf(pipe, sizeof pipe, "%s/pipe", folder);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_int_equal(hypura_session_save(session, pipe, &problem), HYPURA_ERROR_ARGUMENT);
    assert_true(stat(pipe, &there) == 0 && S_ISFIFO(there.st_mode));
    unlink(pipe);
    assert_done(hypura_session_fork(&fork, session, &problem));
    hypura_request more = request_of(".");
    more.follows = true;
    assert_done(hypura_answer(fork, &more, collect, &forked, &problem));
    assert_true(hypura_session_result(fork)->cached_tokens >= count - 1);
    hypura_session_close(fork);
    hypura_session_close(session);
    hypura_close(model);

    model = open_model(0); /* as if in a later run */
    other = open_session(model);
    assert_done(hypura_session_load(other, path, &computed, &problem));
    assert_true(computed >= count - 1);
    assert_done(hypura_answer(other, &more, collect, &loaded, &problem));
    assert_true(hypura_session_result(other)->cached_tokens >= count - 1);
    assert_string_equal(loaded.bytes, forked.bytes);

    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, 100, SEEK_SET);
    fputc('x', file);
    fclose(file);
    assert_refused(hypura_session_load(other, path, &computed, &problem), HYPURA_ERROR_FORMAT, "damaged");
    assert_refused(hypura_session_load(other, embedded_model(), &computed, &problem), HYPURA_ERROR_FORMAT,
                   "not a saved");
    assert_int_equal(unlink(path), 0);
    hypura_session_close(other);
    hypura_close(model);
}

/* Another text has replaced the session's data in the only sequence. */
static void a_session_is_saved_with_data_computed_earlier(void **state)
{
    (void)state;
    char path[128];
    hypura_options options = {.struct_size = sizeof options, .context_tokens = 256, .gpu = "none", .sessions = 1};
    hypura_model *model = NULL;
    struct text text = {0}, others = {0}, more = {0}, loaded = {0};
    size_t count, computed = 0;
    snprintf(path, sizeof path, "%s/long-ago", folder);
    assert_done(hypura_open(&model, embedded_model(), &options, &problem));
    hypura_session *session = open_session(model), *other = open_session(model);
    hypura_request request = request_of(NULL), another = request_of("The kernel");
    assert_done(hypura_answer(session, &request, collect, &text, &problem));
    assert_done(hypura_answer(other, &another, collect, &others, &problem));
    hypura_session_tokens(session, &count);
    assert_done(hypura_session_save(session, path, &problem));
    hypura_session_close(session);
    hypura_session_close(other);
    hypura_close(model);

    model = NULL;
    assert_done(hypura_open(&model, embedded_model(), &options, &problem));
    session = open_session(model);
    assert_done(hypura_session_load(session, path, &computed, &problem));
    assert_true(count > 30 && computed >= count - 1);
    request = request_of(" and");
    request.follows = true;
    assert_done(hypura_answer(session, &request, collect, &loaded, &problem));
    assert_true(hypura_session_result(session)->cached_tokens >= computed);
    hypura_session_close(session);
    hypura_close(model);

    model = open_model(0); /* compare with a session that was not saved */
    session = open_session(model);
    hypura_request first = request_of(NULL);
    assert_done(hypura_answer(session, &first, NULL, NULL, &problem));
    request = request_of(" and");
    request.follows = true;
    assert_done(hypura_answer(session, &request, collect, &more, &problem));
    assert_string_equal(loaded.bytes, more.bytes);
    hypura_session_close(session);
    hypura_close(model);
    assert_int_equal(unlink(path), 0);
}

static bool note_load(void *context, uint64_t done, uint64_t all)
{
    *(uint64_t *)context = all;
    return done <= all;
}

static void a_model_opens_before_its_weights_are_read_and_completes_a_trace(void **state)
{
    (void)state;
    char path[128];
    static uint64_t all; /* must live as long as the model */
    snprintf(path, sizeof path, "%s/trace", folder);
    hypura_options options = {.struct_size = sizeof options,
                              .context_tokens = 256,
                              .gpu = "none",
                              .trace_path = path,
                              .load_behind = true,
                              .on_load = note_load,
                              .on_load_context = &all};
    hypura_model *model = NULL;
    struct text text = {0};
    struct stat info;
    assert_done(hypura_open(&model, embedded_model(), &options, &problem));
    hypura_session *session = open_session(model);
    hypura_request request = request_of(NULL);
    assert_done(hypura_answer(session, &request, collect, &text, &problem));
    assert_memory_equal(text.bytes, "ls - list directory contents", 28);
    assert_true(all > 0);
    assert_done(hypura_end_trace(model, &problem));
    assert_true(stat(path, &info) == 0 && info.st_size > 0);
    hypura_session_close(session);
    hypura_close(model);
    assert_int_equal(unlink(path), 0);
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

static void plans_places_and_memory_can_be_inspected(void **state)
{
    (void)state;
    hypura_options options = {
        .struct_size = sizeof options, .memory_bytes = 12 << 20, .context_tokens = 256, .gpu = "none"};
    hypura_plan *plan = NULL;
    assert_done(hypura_plan_file(&plan, embedded_model(), &options, &problem));
    assert_string_equal(plan->mode, "expert-streaming");
    assert_true(plan->storage_bytes > 0 && plan->context_tokens == 256 && plan->memory_bytes == 12 << 20);
    hypura_plan_free(plan);
    hypura_plan_free(NULL);

    hypura_model *model = open_model(16 << 20);
    hypura_places rows[64];
    uint64_t sum = 0;
    size_t count = hypura_get_places(model, rows, 64);
    assert_int_equal(count, hypura_get_info(model)->layers + 1);
    for (size_t i = 0; i < count; i++)
        sum += rows[i].gpu_bytes + rows[i].ram_bytes + rows[i].cached_bytes + rows[i].storage_bytes;
    assert_int_equal(sum, hypura_get_info(model)->weight_bytes);
    hypura_statistics statistics = {.struct_size = sizeof statistics};
    assert_done(hypura_set_memory(model, 14 << 20, &problem));
    hypura_get_statistics(model, &statistics);
    assert_int_equal(statistics.memory_bytes, 14 << 20);
    assert_refused(hypura_set_memory(model, 1, &problem), HYPURA_ERROR_MEMORY, "budget");
    hypura_close(model);
}

static void expert_usage_is_remembered_unless_disabled(void **state)
{
    (void)state;
    char command[256], usage[128];
    snprintf(usage, sizeof usage, "%s/usage", folder);
    setenv("XDG_STATE_HOME", usage, 1);
    for (int forget = 1; forget >= 0; forget--) {
        hypura_options options = {.struct_size = sizeof options,
                                  .memory_bytes = 12 << 20,
                                  .context_tokens = 256,
                                  .gpu = "none",
                                  .forget_usage = forget};
        hypura_model *model = NULL;
        assert_done(hypura_open(&model, embedded_model(), &options, &problem));
        hypura_session *session = open_session(model);
        hypura_request request = request_of(NULL);
        assert_done(hypura_answer(session, &request, NULL, NULL, &problem));
        hypura_session_close(session);
        hypura_close(model);
        snprintf(command, sizeof command, "test -n \"$(find '%s' -type f 2>/dev/null)\"", usage);
        assert_int_equal(system(command) == 0, !forget);
    }
    setenv("XDG_STATE_HOME", folder, 1);
}

static void structs_of_other_versions_are_accepted(void **state)
{
    (void)state;
    hypura_model *model = NULL;
    hypura_options none = {.context_tokens = 256};
    assert_refused(hypura_open(&model, embedded_model(), &none, &problem), HYPURA_ERROR_ARGUMENT, "struct_size");

    hypura_options older = {.struct_size = offsetof(hypura_options, adapters), .text_only = true};
    older.draft_path = "/nowhere"; /* beyond struct_size, so ignored */
    assert_done(hypura_open(&model, embedded_model(), &older, &problem));
    hypura_close(model);

    struct {
        hypura_options options;
        uint64_t more;
    } newer = {.options = {.struct_size = sizeof newer, .text_only = true}};
    assert_done(hypura_open(&model, embedded_model(), &newer.options, &problem));
    hypura_close(model);
    newer.more = 1;
    assert_refused(hypura_open(&model, embedded_model(), &newer.options, &problem), HYPURA_ERROR_UNSUPPORTED,
                   "version");

    struct {
        hypura_sampling sampling;
        uint64_t more;
    } sampling = {.sampling = {.struct_size = offsetof(hypura_sampling, top_p), .top_p = 7}, .more = 7};
    hypura_default_sampling(&sampling.sampling);
    assert_true(sampling.sampling.top_k == 40 && sampling.sampling.top_p == 7.0f);
    sampling.sampling.struct_size = sizeof sampling;
    hypura_default_sampling(&sampling.sampling);
    assert_true(sampling.sampling.top_p == 0.95f && sampling.more == 0);
}

static void errors_have_messages(void **state)
{
    (void)state;
    hypura_options options = {.struct_size = sizeof options};
    hypura_model *model = NULL;
    assert_refused(hypura_open(&model, "/nowhere/model.gguf", &options, &problem), HYPURA_ERROR_IO,
                   "/nowhere/model.gguf");
    assert_int_equal(hypura_open(&model, "/nowhere/model.gguf", &options, NULL), HYPURA_ERROR_IO);
    options.memory_bytes = 1 << 20;
    assert_refused(hypura_open(&model, embedded_model(), &options, &problem), HYPURA_ERROR_MEMORY, "works is");
    options.kv_type = "q2_k";
    assert_refused(hypura_open(&model, embedded_model(), &options, &problem), HYPURA_ERROR_ARGUMENT, "q2_k");
    assert_null(model);
    hypura_close(NULL);
    hypura_session_close(NULL);
    hypura_free(NULL);

    model = open_model(0);
    hypura_session *session = open_session(model);
    const hypura_event *event;
    struct text text = {0};
    assert_refused(hypura_next(session, 0, &event, &problem), HYPURA_ERROR_ARGUMENT, "hypura_start");
    const char *const wrong[] = {"", "{}", "[1]", "[{\"role\": 3}]", "nonsense"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        hypura_chat bad = {.struct_size = sizeof bad, .messages = wrong[i]};
        hypura_request request = request_of(NULL);
        request.chat = &bad;
        problem.message[0] = '\0';
        assert_int_not_equal(hypura_answer(session, &request, collect, &text, &problem), HYPURA_OK);
        assert_true(problem.message[0] != '\0');
    }
    hypura_request request = {.struct_size = sizeof request};
    assert_refused(hypura_start(session, &request, &problem), HYPURA_ERROR_ARGUMENT, "one prompt");
    request = request_of("a");
    request.form = HYPURA_FORM_GRAMMAR;
    request.form_text = "root ::= nothing";
    assert_int_equal(hypura_start(session, &request, &problem), HYPURA_ERROR_ARGUMENT);
    int32_t tokens[300] = {0};
    request = (hypura_request){.struct_size = sizeof request, .tokens = tokens, .token_count = 300};
    assert_refused(hypura_start(session, &request, &problem), HYPURA_ERROR_ARGUMENT, "context of 256");
    tokens[0] = -5;
    request.token_count = 3;
    assert_refused(hypura_answer(session, &request, NULL, NULL, &problem), HYPURA_ERROR_ARGUMENT, "-5");
    assert_int_equal(text.size, 0);
    hypura_session_close(session);
    hypura_close(model);
}

static bool end_load(void *context, uint64_t done, uint64_t all)
{
    *(uint64_t *)context = all;
    return done > all;
}

static void loading_can_be_cancelled(void **state)
{
    (void)state;
    uint64_t all = 0;
    hypura_options options = {.struct_size = sizeof options, .on_load = end_load, .on_load_context = &all};
    hypura_model *model = NULL;
    assert_int_equal(hypura_open(&model, embedded_model(), &options, &problem), HYPURA_ERROR_CANCELLED);
    assert_true(all > 0 && !model);
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

struct bytes {
    unsigned char *data;
    size_t size, at, most; /* most: bytes that may be written; 0: all */
};

static bool put(void *context, const void *data, size_t size)
{
    struct bytes *bytes = context;
    if (bytes->most && bytes->size + size > bytes->most)
        return false;
    unsigned char *more = realloc(bytes->data, bytes->size + size + 1);
    if (!more)
        return false;
    bytes->data = more;
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    return true;
}

static bool take(void *context, void *data, size_t size)
{
    struct bytes *bytes = context;
    if (size > bytes->size - bytes->at)
        return false;
    memcpy(data, bytes->data + bytes->at, size);
    bytes->at += size;
    return true;
}

static void sessions_are_saved_by_the_programs_functions(void **state)
{
    (void)state;
    struct bytes bytes = {0}, short_of = {.most = 64};
    size_t computed = 0;
    hypura_model *model = open_model(0);
    hypura_session *session = open_session(model), *other = open_session(model);
    hypura_request request = request_of(NULL);
    assert_done(hypura_answer(session, &request, NULL, NULL, &problem));
    assert_done(hypura_session_write(session, put, &bytes, &problem));
    assert_true(hypura_session_write(session, put, &short_of, &problem) != HYPURA_OK);
    assert_done(hypura_session_read(other, take, &bytes, &computed, &problem));
    size_t held = 0, expected = 0;
    hypura_session_tokens(session, &expected);
    hypura_session_tokens(other, &held);
    assert_true(held == expected && computed + 1 >= held && bytes.at == bytes.size);
    bytes.at = 0;
    bytes.size /= 2;
    assert_true(hypura_session_read(other, take, &bytes, &computed, &problem) != HYPURA_OK);
    hypura_session_tokens(other, &held);
    assert_int_equal(held, expected); /* unchanged */
    free(bytes.data);
    free(short_of.data);
    hypura_session_close(session);
    hypura_session_close(other);
    hypura_close(model);
}

struct heard {
    int count;
    hypura_log_level level;
    char message[512];
};

static void hear(void *context, hypura_log_level level, const char *message)
{
    struct heard *heard = context;
    heard->count++;
    heard->level = level;
    snprintf(heard->message, sizeof heard->message, "%s", message);
}

static void other_reports_go_to_the_log(void **state)
{
    (void)state;
    struct heard heard = {0};
    const hypura_options options = {.struct_size = sizeof options, .context_tokens = 256, .gpu = "999"};
    hypura_plan *plan = NULL;
    hypura_set_log(hear, &heard, HYPURA_LOG_WARNING);
    assert_done(hypura_plan_file(&plan, embedded_model(), &options, &problem));
    hypura_plan_free(plan);
    assert_true(heard.count > 0 && heard.level == HYPURA_LOG_WARNING && strstr(heard.message, "999"));
    assert_null(strchr(heard.message, '\n'));
    heard = (struct heard){0};
    hypura_set_log(hear, &heard, HYPURA_LOG_ERROR);
    assert_done(hypura_plan_file(&plan, embedded_model(), &options, &problem));
    hypura_plan_free(plan);
    assert_int_equal(heard.count, 0);
    hypura_set_log(NULL, NULL, HYPURA_LOG_ERROR);
}

/* Runs in a separate process, since the memory is never freed. */
static void a_program_may_end_without_closing(void **state)
{
    (void)state;
    pid_t child = fork();
    int status = -1;
    assert_true(child >= 0);
    if (child == 0) {
        hypura_model *model = NULL;
        hypura_session *session = NULL;
        const hypura_options options = {.struct_size = sizeof options, .context_tokens = 256, .gpu = "none"};
        hypura_request request = request_of(NULL);
        int failed = hypura_open(&model, embedded_model(), &options, &problem) ||
                     hypura_session_open(&session, model, &problem) ||
                     hypura_answer(session, &request, NULL, NULL, &problem);
        if (!failed) {
            hypura_session_close(session);
            hypura_leave(model);
        }
        _exit(failed);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
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

/* ---- inspecting and writing files ---- */

static bool stop_soon(void *context, bool checking, uint64_t done, uint64_t all)
{
    (void)checking;
    *(int *)context += done <= all;
    return false;
}

static void a_file_is_described_and_written_in_parts(void **state)
{
    (void)state;
    const hypura_options options = {.struct_size = sizeof options, .context_tokens = 256, .gpu = "none"};
    hypura_inspection what = {.struct_size = sizeof what, .layers = true};
    char *text = NULL, hosts[128], part[128];
    int called = 0;
    assert_done(hypura_inspect(embedded_model(), &options, &what, &text, &problem));
    assert_true(strstr(text, "\"architecture\": \"qwen3moe\"") && strstr(text, "\"steps\"") &&
                !strstr(text, "\"tensors\": [{\"layer"));
    hypura_free(text);
    assert_done(hypura_inspect(embedded_model(), NULL, NULL, &text, &problem));
    assert_null(strstr(text, "\"steps\""));
    hypura_free(text);
    what = (hypura_inspection){.struct_size = sizeof what, .preset = "glm-5"};
    assert_refused(hypura_inspect(embedded_model(), NULL, &what, &text, &problem), HYPURA_ERROR_ARGUMENT,
                   "name either a preset or a file");

    snprintf(hosts, sizeof hosts, "%s/hosts.json", folder);
    snprintf(part, sizeof part, "%s/part.gguf", folder);
    FILE *file = fopen(hosts, "w");
    assert_non_null(file);
    fputs("{\"memory\": \"300M\", \"memory_bytes_per_second\": 5e10, \"drive_bytes_per_second\": 1e8, "
          "\"link_bits_per_second\": 1e12, "
          "\"hosts\": [{\"name\": \"desk\", \"memory_bytes_per_second\": 1e9}, {\"name\": \"box\"}]}",
          file);
    assert_int_equal(fclose(file), 0);
    assert_done(hypura_inspect_hosts(embedded_model(), hosts, &options, NULL, &text, &problem));
    assert_non_null(strstr(text, "\"name\": \"box\""));
    hypura_free(text);
    assert_refused(hypura_write_part(embedded_model(), hosts, &options, "none", part, NULL, NULL, &problem),
                   HYPURA_ERROR_ARGUMENT, "no host");
    assert_refused(hypura_write_part(embedded_model(), hosts, &options, "desk", part, NULL, NULL, &problem),
                   HYPURA_ERROR_ARGUMENT, "the whole model");
    assert_int_equal(hypura_write_part(embedded_model(), hosts, &options, "box", part, stop_soon, &called, &problem),
                     HYPURA_ERROR_CANCELLED);
    assert_true(called == 1 && access(part, F_OK) != 0);
    assert_done(hypura_write_part(embedded_model(), hosts, &options, "box", part, NULL, NULL, &problem));
    assert_int_equal(access(part, R_OK), 0);
}

static void the_version_is_reported(void **state)
{
    (void)state;
    unsigned major, minor, patch;
    assert_int_equal(sscanf(hypura_version(), "%u.%u.%u", &major, &minor, &patch), 3);
    assert_true(major == HYPURA_VERSION_MAJOR && minor == HYPURA_VERSION_MINOR && patch == HYPURA_VERSION_PATCH);
    assert_int_equal(hypura_version_number(), HYPURA_VERSION_NUMBER);
    assert_string_equal(HYPURA_PROJECT_VERSION, hypura_version());
    assert_string_equal(hypura_status_name(HYPURA_ERROR_IO), "io");
    assert_string_equal(hypura_status_name(HYPURA_ERROR_HOST), "host");
    assert_string_equal(hypura_status_name((hypura_status)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_is_answered_whatever_the_memory),
        cmocka_unit_test(an_answer_says_why_it_ended),
        cmocka_unit_test(no_cancel_is_lost),
        cmocka_unit_test(threads_share_passes_and_get_the_bits_of_single_runs),
        cmocka_unit_test(an_event_loop_waits_for_descriptors),
        cmocka_unit_test(texts_become_tokens_and_back),
        cmocka_unit_test(logits_and_embeddings_match_the_text),
        cmocka_unit_test(a_session_is_forked_saved_and_loaded),
        cmocka_unit_test(a_session_is_saved_with_data_computed_earlier),
        cmocka_unit_test(a_model_opens_before_its_weights_are_read_and_completes_a_trace),
        cmocka_unit_test(a_request_is_checked_without_its_prompt),
        cmocka_unit_test(plans_places_and_memory_can_be_inspected),
        cmocka_unit_test(expert_usage_is_remembered_unless_disabled),
        cmocka_unit_test(structs_of_other_versions_are_accepted),
        cmocka_unit_test(errors_have_messages),
        cmocka_unit_test(loading_can_be_cancelled),
        cmocka_unit_test(the_budget_changes_in_the_middle_of_an_answer),
        cmocka_unit_test(an_answer_is_stopped_and_the_session_continues),
        cmocka_unit_test(sessions_are_saved_by_the_programs_functions),
        cmocka_unit_test(other_reports_go_to_the_log),
        cmocka_unit_test(a_program_may_end_without_closing),
        cmocka_unit_test(requests_are_answered_as_by_a_server),
        cmocka_unit_test(a_file_is_described_and_written_in_parts),
        cmocka_unit_test(the_version_is_reported),
    };
    snprintf(folder, sizeof folder, "/tmp/hypura-library-XXXXXX");
    if (!mkdtemp(folder) || setenv("XDG_STATE_HOME", folder, 1))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command) ? 1 : failed;
}
