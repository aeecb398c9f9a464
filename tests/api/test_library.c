/* Opening, inspecting and reporting through the library. */
#include "library.h"

#include <sys/stat.h>
#include <sys/wait.h>

/* ---- opening ---- */

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

/* ---- plans and files ---- */

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

/* ---- versions, errors and the log ---- */

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
        cmocka_unit_test(a_model_opens_before_its_weights_are_read_and_completes_a_trace),
        cmocka_unit_test(loading_can_be_cancelled),
        cmocka_unit_test(plans_places_and_memory_can_be_inspected),
        cmocka_unit_test(expert_usage_is_remembered_unless_disabled),
        cmocka_unit_test(structs_of_other_versions_are_accepted),
        cmocka_unit_test(errors_have_messages),
        cmocka_unit_test(other_reports_go_to_the_log),
        cmocka_unit_test(a_program_may_end_without_closing),
        cmocka_unit_test(a_file_is_described_and_written_in_parts),
        cmocka_unit_test(the_version_is_reported),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
