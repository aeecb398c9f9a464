/* Texts, logits and saved sessions through the library. */
#include "library.h"

#include <math.h>
#include <sys/stat.h>

/* ---- texts and rows ---- */

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

/* ---- saved sessions ---- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_become_tokens_and_back),
        cmocka_unit_test(logits_and_embeddings_match_the_text),
        cmocka_unit_test(a_session_is_forked_saved_and_loaded),
        cmocka_unit_test(a_session_is_saved_with_data_computed_earlier),
        cmocka_unit_test(sessions_are_saved_by_the_programs_functions),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
