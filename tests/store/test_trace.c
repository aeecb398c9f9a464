/* A routing trace returns what was written. The error for a damaged trace says where the damage is. */
#include "test.h"

#include "store/trace.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static char path[64];

static int set_up(void **state)
{
    (void)state;
    strcpy(path, "/tmp/hypura-test-trace-XXXXXX");
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static struct trace_layer layers[2] = {{1, 4096}, {3, 8192}};
static const struct trace_shape shape = {"a model", 2, 300, 2, layers};

static struct trace_writer *write_two_passes(void)
{
    struct trace_writer *writer;
    assert_ok(trace_writer_create(&writer, path, &shape, &test_error));
    const uint32_t three[2][6] = {{0, 1, 2, 3, 299, 4}, {5, 6, 7, 8, 9, 256}};
    assert_ok(trace_writer_begin(writer, 3, &test_error));
    assert_ok(trace_writer_layer(writer, 3, three[1], &test_error));
    assert_ok(trace_writer_layer(writer, 1, three[0], &test_error));
    assert_ok(trace_writer_end(writer, &test_error));
    const uint32_t one[2] = {11, 12};
    assert_ok(trace_writer_begin(writer, 1, &test_error));
    assert_ok(trace_writer_layer(writer, 1, one, &test_error));
    assert_ok(trace_writer_layer(writer, 3, one, &test_error));
    assert_ok(trace_writer_end(writer, &test_error));
    return writer;
}

static void a_trace_reads_back_as_written(void **state)
{
    (void)state;
    struct trace_writer *writer = write_two_passes();
    /* A pass without an end leaves nothing in the file. */
    assert_ok(trace_writer_begin(writer, 2, &test_error));
    assert_ok(trace_writer_close(writer, &test_error));
    struct trace *trace;
    assert_ok(trace_read(&trace, path, &test_error));
    assert_string_equal(trace->shape.name, "a model");
    assert_int_equal(trace->shape.layer_count, 2);
    assert_int_equal(trace->shape.experts, 300);
    assert_int_equal(trace->shape.used, 2);
    assert_int_equal(trace->shape.layers[1].layer, 3);
    assert_int_equal(trace->shape.layers[1].expert_bytes, 8192);
    assert_int_equal(trace->pass_count, 2);
    assert_int_equal(trace->tokens, 4);
    const uint16_t first[12] = {0, 1, 2, 3, 299, 4, 5, 6, 7, 8, 9, 256};
    const uint16_t second[4] = {11, 12, 11, 12};
    assert_int_equal(trace->passes[0].tokens, 3);
    assert_memory_equal(trace->passes[0].experts, first, sizeof first);
    assert_memory_equal(trace->passes[1].experts, second, sizeof second);
    trace_free(trace);
}

static void wrong_calls_are_refused(void **state)
{
    (void)state;
    struct trace_writer *writer;
    const uint32_t experts[2] = {0, 300};
    assert_ok(trace_writer_create(&writer, path, &shape, &test_error));
    assert_int_equal(trace_writer_end(writer, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(trace_writer_begin(writer, 0, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_ok(trace_writer_begin(writer, 1, &test_error));
    assert_int_equal(trace_writer_layer(writer, 2, experts, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(trace_writer_layer(writer, 1, experts, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(trace_writer_end(writer, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_ok(trace_writer_close(writer, &test_error));
    struct trace_shape wrong = shape;
    wrong.used = 301;
    assert_int_equal(trace_writer_create(&writer, path, &wrong, &test_error), HYPURA_ERROR_FORMAT);
    assert_int_equal(trace_writer_create(&writer, "/nowhere/at/all", &shape, &test_error), HYPURA_ERROR_IO);
}

static void every_cut_and_bit_flip_is_survived(void **state)
{
    (void)state;
    assert_ok(trace_writer_close(write_two_passes(), &test_error));
    uint8_t good[256];
    FILE *file = fopen(path, "rb");
    size_t size = fread(good, 1, sizeof good, file);
    fclose(file);
    size_t first_pass = 28 + 7 + 2 * 12, second_pass = first_pass + 4 + 24;
    assert_int_equal(size, second_pass + 4 + 8);
    for (size_t cut = 0; cut < size; cut++) {
        file = fopen(path, "wb");
        fwrite(good, 1, cut, file);
        fclose(file);
        struct trace *trace = NULL;
        hypura_status status = trace_read(&trace, path, &test_error);
        assert_int_equal(status == HYPURA_OK, cut == first_pass || cut == second_pass);
        trace_free(trace);
    }
    for (size_t at = 0; at < size; at++) {
        uint8_t damaged[256];
        memcpy(damaged, good, size);
        damaged[at] ^= 0xff;
        file = fopen(path, "wb");
        fwrite(damaged, 1, size, file);
        fclose(file);
        struct trace *trace = NULL;
        hypura_status status = trace_read(&trace, path, &test_error);
        assert_true(status == HYPURA_OK || status == HYPURA_ERROR_FORMAT);
        if (at < 12)
            assert_int_equal(status, HYPURA_ERROR_FORMAT);
        trace_free(trace);
    }
}

static void write_pass(struct trace_writer *writer)
{
    const uint32_t experts[2] = {11, 12};
    assert_ok(trace_writer_begin(writer, 1, &test_error));
    assert_ok(trace_writer_layer(writer, 1, experts, &test_error));
    assert_ok(trace_writer_layer(writer, 3, experts, &test_error));
    assert_ok(trace_writer_end(writer, &test_error));
}

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = MIN(bytes, limit.rlim_max);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* The engine continues, the file ends with the last complete pass, and closing reports the missing ones. */
static void a_full_disk_ends_only_the_trace(void **state)
{
    (void)state;
    const size_t header = 28 + 7 + 2 * 12, pass = 4 + 8;
    struct trace_writer *writer;
    signal(SIGXFSZ, SIG_IGN);
    assert_ok(trace_writer_create(&writer, path, &shape, &test_error));
    limit_files(header + 2 * pass + 5);
    for (int i = 0; i < 4; i++)
        write_pass(writer);
    limit_files(RLIM_INFINITY);
    write_pass(writer); /* there is room again, but the passes in between are lost */
    hypura_error error = {0};
    assert_int_equal(trace_writer_close(writer, &error), HYPURA_ERROR_IO);
    assert_non_null(strstr(error.message, path));
    struct trace *trace;
    assert_ok(trace_read(&trace, path, &test_error));
    assert_int_equal(trace->pass_count, 2);
    trace_free(trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_trace_reads_back_as_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrong_calls_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_cut_and_bit_flip_is_survived, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_disk_ends_only_the_trace, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
