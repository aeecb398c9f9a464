/* The benchmarks of a profile read the right bytes, choose sensible settings, and leave no files behind. */
#include "test.h"

#include "hw/hw_private.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define FILE_BYTES (8 * MIB + 5000)

static char path[300];

static int make_file(void **state)
{
    (void)state;
    const char *temporary = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/hypura-bench-XXXXXX", temporary ? temporary : "/tmp");
    int file = mkstemp(path);
    if (file < 0 || ftruncate(file, (off_t)FILE_BYTES))
        return -1;
    static char piece[MIB];
    for (size_t i = 0; i < FILE_BYTES / MIB; i++) {
        memset(piece, (int)i + 1, sizeof piece);
        if (pwrite(file, piece, sizeof piece, (off_t)(i * MIB)) != (ssize_t)sizeof piece)
            return -1;
    }
    return close(file);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void every_block_is_read_once_before_any_twice(void **state)
{
    (void)state;
    static uint8_t seen[4096];
    for (uint64_t blocks = 1; blocks < 300; blocks += blocks < 20 ? 1 : 37) {
        for (int sequential = 0; sequential < 2; sequential++) {
            struct read_run run = {
                .file_bytes = blocks * 4096 + 7, .block_bytes = 4096, .sequential = sequential, .seed = 12345};
            memset(seen, 0, sizeof seen);
            for (uint64_t i = 0; i < blocks; i++) {
                uint64_t block = hw_read_block(&run, i);
                assert_true(block < blocks);
                assert_int_equal(seen[block]++, 0);
            }
        }
    }
}

static struct read_run make_run(int file, char *memory, bool threads)
{
    return (struct read_run){.file = file,
                             .file_bytes = FILE_BYTES,
                             .block_bytes = MIB,
                             .depth = 3,
                             .once = true,
                             .threads = threads,
                             .seconds = 100, /* more than enough to reach the end of the file */
                             .memory = memory,
                             .memory_bytes = 16 * MIB};
}

static void reads_return_the_files_bytes(void **state)
{
    (void)state;
    int file = open(path, O_RDONLY);
    assert_true(file >= 0);
    for (int threads = 0; threads < 2; threads++) {
        void *memory;
        assert_ok(memory_map(&memory, 16 * MIB, false, "test", &test_error));
        struct read_run run = make_run(file, memory, threads);
        double speed = 0;
        assert_ok(hw_run_reads(&run, &speed, &test_error));
        assert_true(speed > 0);
        /* Each of the file's eight blocks is complete, in a slot of its own. */
        const uint8_t *bytes = memory;
        unsigned found = 0;
        for (size_t slot = 0; slot < 8; slot++) {
            found |= 1u << bytes[slot * MIB];
            for (size_t i = 0; i < MIB; i++)
                assert_int_equal(bytes[slot * MIB + i], bytes[slot * MIB]);
        }
        assert_int_equal(found, 0x1fe);
        memory_unmap(memory, 16 * MIB);
    }
    close(file);
}

static void a_file_that_shrank_is_an_error(void **state)
{
    (void)state;
    int file = open(path, O_RDONLY);
    assert_true(file >= 0);
    static char memory[16 * MIB];
    for (int threads = 0; threads < 2; threads++) {
        struct read_run run = make_run(file, memory, threads);
        run.file_bytes = 100 * MIB;
        double speed = 42;
        assert_int_equal(hw_run_reads(&run, &speed, &test_error), HYPURA_ERROR_IO);
        assert_non_null(strstr(test_error.message, "offset"));
        assert_true(speed > 41 && speed < 43);
    }
    close(file);
    struct read_run nonsense = make_run(-1, memory, false);
    nonsense.depth = 0;
    assert_int_equal(hw_run_reads(&nonsense, &(double){0}, &test_error), HYPURA_ERROR_ARGUMENT);
}

static bool count_samples(void *context, const struct storage_sample *sample, size_t done, size_t total)
{
    size_t *count = context;
    assert_true(sample->bytes_per_second > 0);
    assert_true(done == ++*count && done <= total);
    return true;
}

static bool stop_at_third(void *context, const struct storage_sample *sample, size_t done, size_t total)
{
    (void)context;
    (void)sample;
    (void)total;
    return done < 3;
}

static void the_bench_covers_the_grid_and_chooses(void **state)
{
    (void)state;
    struct storage storage;
    size_t count = 0;
    assert_ok(hardware_iobench(&storage, path, 1e-6, count_samples, &count, &test_error));
    assert_int_equal(storage.sample_count, count);
    size_t smallest = 0, largest = 0, deepest[4] = {0};
    for (size_t i = 0; i < count; i++) {
        smallest += storage.samples[i].block_bytes == 4096;
        largest += storage.samples[i].block_bytes == 4 * MIB;
        deepest[2 * storage.samples[i].direct + storage.samples[i].sequential] += storage.samples[i].depth == 64;
        assert_true(storage.direct_supported || !storage.samples[i].direct);
    }
    assert_true(smallest > 0 && largest == smallest);
    for (size_t kind = 0; kind < 4; kind++)
        assert_int_equal(deepest[kind], kind >= 2 && !storage.direct_supported ? 0 : 8);
    assert_true(storage.bytes_per_second > 0 && storage.latency_seconds > 0);

    storage.block_bytes = 1;
    assert_int_equal(hardware_iobench(&storage, path, 1e-6, stop_at_third, NULL, &test_error), HYPURA_ERROR_CANCELLED);
    assert_int_equal(storage.block_bytes, 1);
    assert_int_equal(hardware_iobench(&storage, "/", 1e-6, NULL, NULL, &test_error), HYPURA_ERROR_ARGUMENT);
    double speed = 0;
    assert_ok(hardware_iobench_point(&speed, path, 12288, 4, 1e-6, &test_error));
    assert_true(speed > 1e5);
    assert_int_equal(hardware_iobench_point(&speed, path, 5000, 4, 1e-6, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(hardware_iobench_point(&speed, path, 8192, 0, 1e-6, &test_error), HYPURA_ERROR_ARGUMENT);
}

static void add_sample(struct storage *storage, uint32_t block, uint32_t depth, bool direct, bool sequential,
                       double speed)
{
    storage->samples[storage->sample_count++] = (struct storage_sample){block, depth, direct, sequential, speed};
}

static void the_smallest_depth_near_the_best_speed_is_chosen(void **state)
{
    (void)state;
    struct storage storage = {.direct_supported = true};
    add_sample(&storage, 4096, 1, true, false, 40.96e6);
    add_sample(&storage, 262144, 4, true, false, 1.5e9);
    add_sample(&storage, 262144, 16, true, false, 1.98e9);
    add_sample(&storage, 1 << 20, 4, true, false, 1.99e9);
    add_sample(&storage, 4 << 20, 64, true, false, 2.0e9);
    add_sample(&storage, 1 << 20, 1, true, true, 5e9);
    add_sample(&storage, 1 << 20, 1, false, false, 1.2e9);
    hw_choose_reads(&storage);
    assert_int_equal(storage.block_bytes, 262144);
    assert_int_equal(storage.depth, 32);
    assert_true(storage.latency_seconds > 99e-6 && storage.latency_seconds < 101e-6);
    assert_true(storage.direct_pays);
    /* The fastest sample has more bytes in flight than any drive needs: the depth is reduced. */
    storage.samples[4].bytes_per_second = 4e9;
    hw_choose_reads(&storage);
    assert_int_equal(storage.block_bytes, 4 << 20);
    assert_int_equal(storage.depth, 8);
    /* A drive that is faster through the page cache. */
    add_sample(&storage, 1 << 20, 16, false, true, 6e9);
    hw_choose_reads(&storage);
    assert_false(storage.direct_pays);
}

/* A drive that two reads keep busy gets no more prefetches in flight, which a demand would wait for. */
static void prefetches_are_as_deep_as_the_drive_needs(void **state)
{
    (void)state;
    struct storage flat = {.direct_supported = true, .bytes_per_second = 2.6e9}, rising = flat, unknown = {0};
    static const uint32_t depths[] = {1, 4, 16, 64};
    static const double flat_speeds[] = {2.2e9, 2.3e9, 2.6e9, 2.5e9}, rising_speeds[] = {0.5e9, 1.6e9, 2.5e9, 2.6e9};
    for (size_t d = 0; d < COUNT_OF(depths); d++) {
        add_sample(&flat, 1 << 20, depths[d], true, false, flat_speeds[d]);
        add_sample(&rising, 1 << 20, depths[d], true, false, rising_speeds[d]);
    }
    assert_int_equal(hardware_prefetch_depth(&flat, 1 << 20, 32), 2);
    uint32_t depth = hardware_prefetch_depth(&rising, 1 << 20, 32);
    assert_true(depth > 4 && depth < 8);
    assert_int_equal(hardware_prefetch_depth(&rising, 1 << 20, 16), 4);
    assert_int_equal(hardware_prefetch_depth(&rising, 1 << 20, 4), 2);
    assert_int_equal(hardware_prefetch_depth(&unknown, 1 << 20, 32), 8);
}

static void assert_speed(const struct storage *storage, uint64_t block, uint32_t depth, double expected)
{
    double speed = hardware_read_speed(storage, block, depth);
    assert_true(speed > expected * 0.999 && speed < expected * 1.001);
}

static void speeds_between_samples_are_interpolated(void **state)
{
    (void)state;
    struct storage storage = {.direct_supported = true, .bytes_per_second = 2e9, .latency_seconds = 100e-6};
    /* Without samples, the speed follows from latency and bandwidth. */
    assert_speed(&storage, 4096, 1, 4096 / (100e-6 + 4096 / 2e9));
    assert_speed(&storage, 1 << 20, 64, 2e9);
    static const uint32_t sizes[] = {4096, 65536, 1 << 20}, depths[] = {1, 16};
    for (size_t d = 0; d < COUNT_OF(depths); d++)
        for (size_t s = 0; s < COUNT_OF(sizes); s++)
            add_sample(&storage, sizes[s], depths[d], true, false, 1e8 * (double)(1 << 2 * s) * (double)(1 + 3 * d));
    add_sample(&storage, 65536, 4, true, true, 9e12); /* a different kind of reads */
    add_sample(&storage, 65536, 4, false, false, 9e12);
    assert_speed(&storage, 4096, 1, 1e8);
    assert_speed(&storage, 65536, 16, 16e8);
    assert_speed(&storage, 16384, 1, 2e8);       /* half way to 65536 */
    assert_speed(&storage, 4096, 4, 2e8);        /* half way to 16 */
    assert_speed(&storage, 16384, 4, 4e8);       /* both */
    assert_speed(&storage, 1, 1, 1e8);           /* below the smallest sample */
    assert_speed(&storage, 64 << 20, 256, 64e8); /* above the largest */
}

/* The drive is twice as fast in one round as in another, but gives three quarters of its speed while computing in both.
 */
static void shares_compare_speeds_of_the_same_round(void **state)
{
    (void)state;
    struct storage storage = {.bytes_per_second = 9e9};
    hw_choose_beside(&storage, NULL, 0);
    assert_true(storage.bytes_per_second > 8e9);
    static const struct beside_round rounds[] = {
        {2e9, 1.5e9, 40e9, 30e9}, {4e9, 3e9, 20e9, 16e9}, {3e9, 2.25e9, 30e9, 12e9}};
    hw_choose_beside(&storage, rounds, COUNT_OF(rounds));
    assert_true(fabs(storage.bytes_per_second - 3e9) < 1);
    assert_true(fabs(storage.reading_beside - 0.75) < 1e-9);
    assert_true(fabs(storage.computing_beside - 0.75) < 1e-9);
    /* Noise must not make anything faster than it is alone. */
    static const struct beside_round lucky[] = {{2e9, 2.5e9, 40e9, 41e9}};
    hw_choose_beside(&storage, lucky, COUNT_OF(lucky));
    assert_true(storage.reading_beside <= 1 && storage.computing_beside <= 1);
}

static void side_by_side_both_are_slower_until_one_is_done(void **state)
{
    (void)state;
    struct storage storage = {.reading_beside = 0.5, .computing_beside = 0.8};
    /* Computing takes 5 s and covers 2.5 of the 6 s of reading. The rest is read alone. */
    assert_true(fabs(hardware_side_by_side(&storage, 4, 6) - (5 + 3.5)) < 1e-9);
    /* Reading takes 2 s and covers 1.6 of the 4 s of computing. */
    assert_true(fabs(hardware_side_by_side(&storage, 4, 1) - (2 + 2.4)) < 1e-9);
    assert_true(fabs(hardware_side_by_side(&storage, 4, 0) - 4) < 1e-9);
    assert_true(fabs(hardware_side_by_side(&storage, 0, 6) - 6) < 1e-9);
    /* Without measurements, neither slows the other down. */
    storage = (struct storage){0};
    assert_true(fabs(hardware_side_by_side(&storage, 4, 6) - 6) < 1e-9);
}

static void decoding_computes_between_start_and_stop(void **state)
{
    (void)state;
    struct hardware hardware;
    struct hw_decoding *decoding;
    assert_ok(hardware_detect(&hardware, ".", &test_error));
    hardware.cores = 2;
    assert_ok(hw_decoding_open(&decoding, &hardware, &test_error));
    for (int i = 0; i < 3; i++) {
        hw_decoding_start(decoding);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        double speed = hw_decoding_stop(decoding);
        assert_true(speed > 1e6 && speed < 1e13);
    }
    hw_decoding_close(decoding);
    hw_decoding_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_is_read_once_before_any_twice),
        cmocka_unit_test(reads_return_the_files_bytes),
        cmocka_unit_test(a_file_that_shrank_is_an_error),
        cmocka_unit_test(the_bench_covers_the_grid_and_chooses),
        cmocka_unit_test(prefetches_are_as_deep_as_the_drive_needs),
        cmocka_unit_test(speeds_between_samples_are_interpolated),
        cmocka_unit_test(the_smallest_depth_near_the_best_speed_is_chosen),
        cmocka_unit_test(shares_compare_speeds_of_the_same_round),
        cmocka_unit_test(side_by_side_both_are_slower_until_one_is_done),
        cmocka_unit_test(decoding_computes_between_start_and_stop),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
