/* Copies of a model's files on other drives: which files are accepted as copies, which drive serves a read, and what
 * happens if a copy fails. */
#include "fixture.h"

#include "store/mirrors.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/stat.h>

static const struct fixture_shape mixed = {
    .tensors = 16, .layers = 2, .experts = 16, .tensor_bytes = 700000, .slice_bytes = 200000};

static atomic_uint warnings;
static char last_warning[1024];

static void keep_warning(void *context, enum log_level level, const char *message)
{
    (void)context;
    if (level != LOG_WARNING || strstr(message, "no direct I/O"))
        return;
    atomic_fetch_add(&warnings, 1);
    snprintf(last_warning, sizeof last_warning, "%s", message);
}

static int expect_no_warnings(void **state)
{
    (void)state;
    warnings = 0;
    last_warning[0] = '\0';
    log_set_sink(keep_warning, NULL);
    return 0;
}

/* ---- which drive ------------------------------------------------------------------------------------------------- */

/* Simulates drives that serve their reads in order, at constant speeds. Returns the seconds until everything is read.
 */
static double simulate(const double *speeds, const double *believed, uint32_t count, uint64_t bytes, uint64_t shares[])
{
    struct storage storages[HARDWARE_MAX_DRIVES];
    struct spread spread;
    uint8_t drives[HARDWARE_MAX_DRIVES];
    struct flight {
        double done;
        uint64_t bytes, ahead, sent;
        uint8_t drive;
        bool flies;
    } flights[256] = {0};
    double now = 1, free_at[HARDWARE_MAX_DRIVES] = {0};
    memset(storages, 0, sizeof storages);
    for (uint32_t i = 0; i < count; i++) {
        storages[i] = (struct storage){
            .bytes_per_second = believed[i], .block_bytes = 1 << 20, .depth = 8, .latency_seconds = 100e-6};
        drives[i] = (uint8_t)i;
        shares[i] = 0;
    }
    spread_prepare(&spread, storages, count, 0, 0);
    assert_int_equal(spread_depth(&spread), 8 * count);
    for (uint64_t left = bytes, flying = 0; left || flying;) {
        struct spread_wish wish = {.drives = drives, .drive_count = count, .bytes = MIN(left, (uint64_t)8 << 20)};
        wish.behind = left - wish.bytes;
        uint8_t drive;
        uint64_t part;
        while (left && spread_choose(&spread, &wish, &drive, &part)) {
            assert_true(part > 0 && part <= wish.bytes && part <= 1 << 20);
            size_t at = 0;
            while (flights[at].flies)
                at++;
            free_at[drive] = MAX(free_at[drive], now) + (double)part / speeds[drive];
            flights[at] = (struct flight){.done = free_at[drive] + 100e-6,
                                          .bytes = part,
                                          .ahead = spread_sent(&spread, drive, part),
                                          .sent = (uint64_t)(now * 1e9),
                                          .drive = drive,
                                          .flies = true};
            flying++;
            shares[drive] += part;
            left -= part;
            wish.bytes = MIN(left, (uint64_t)8 << 20);
            wish.behind = left - wish.bytes;
        }
        assert_true(flying > 0); /* a read is always in flight */
        struct flight *next = NULL;
        for (size_t i = 0; i < COUNT_OF(flights); i++)
            if (flights[i].flies && (!next || flights[i].done < next->done))
                next = &flights[i];
        now = next->done;
        next->flies = false;
        flying--;
        spread_came(&spread, next->drive, next->bytes, next->ahead, next->sent, (uint64_t)(now * 1e9));
    }
    return now - 1;
}

static void drives_share_by_speed(void **state)
{
    (void)state;
    const double fast = 1e9;
    const struct {
        double speeds[3], believed[3];
        uint32_t count;
        double least; /* smallest speed, as a multiple of the first drive's alone */
    } cases[] = {{{fast, fast}, {fast, fast}, 2, 1.95},
                 {{fast, fast / 2}, {fast, fast / 2}, 2, 1.45},
                 {{fast, fast / 10}, {fast, fast / 10}, 2, 1.05},
                 {{fast, fast, fast}, {fast, fast, fast}, 3, 2.9},
                 /* Measurements correct a wrong profile. */
                 {{fast, fast / 2}, {fast / 8, fast}, 2, 1.4},
                 {{fast, fast}, {fast, fast / 20}, 2, 1.8}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint64_t shares[3], bytes = (uint64_t)2000 << 20;
        double alone = (double)bytes / cases[i].speeds[0];
        double both = simulate(cases[i].speeds, cases[i].believed, cases[i].count, bytes, shares);
        if (alone / both < cases[i].least)
            fail_msg("case %zu: %.2f times one drive, expected %.2f", i, alone / both, cases[i].least);
    }
}

/* Each drive's prefetches are limited by what keeps it busy: two reads on the first, more on the second. */
static void prefetches_are_limited_on_each_drive(void **state)
{
    (void)state;
    struct storage storages[2] = {
        {.bytes_per_second = 1e9, .block_bytes = 1 << 20, .depth = 32, .latency_seconds = 1e-4},
        {.bytes_per_second = 1e9, .block_bytes = 1 << 20, .depth = 32, .latency_seconds = 4e-3}};
    struct spread spread;
    spread_prepare(&spread, storages, 2, 0, 0);
    const uint64_t first = spread.drives[0].prefetch_bytes, second = spread.drives[1].prefetch_bytes;
    assert_int_equal(first, 2 << 20);
    assert_true(second > first && second <= 8 << 20);
    assert_int_equal(spread_prefetch_bytes(&spread), first + second);
}

static void a_read_is_split_if_that_is_faster(void **state)
{
    (void)state;
    struct storage storages[2] = {
        {.bytes_per_second = 1e9, .block_bytes = 4 << 20, .depth = 8, .latency_seconds = 1e-4},
        {.bytes_per_second = 1e9, .block_bytes = 4 << 20, .depth = 8, .latency_seconds = 1e-4}};
    struct spread spread;
    const uint8_t both[2] = {0, 1};
    struct spread_wish wish = {.drives = both, .drive_count = 2, .bytes = 2 << 20};
    uint8_t drive;
    uint64_t bytes;
    spread_prepare(&spread, storages, 2, 0, 0);
    assert_true(spread_choose(&spread, &wish, &drive, &bytes));
    assert_int_equal(bytes, 1 << 20);
    spread_sent(&spread, drive, bytes);
    uint8_t first = drive;
    wish.bytes -= bytes;
    assert_true(spread_choose(&spread, &wish, &drive, &bytes));
    assert_int_equal(bytes, 1 << 20);
    assert_int_not_equal(drive, first);
    /* A small read is not split. Neither is one with other reads behind it, since these keep both drives busy. */
    spread_prepare(&spread, storages, 2, 0, 0);
    wish.bytes = 128 << 10;
    assert_true(spread_choose(&spread, &wish, &drive, &bytes));
    assert_int_equal(bytes, wish.bytes);
    wish.bytes = 2 << 20;
    wish.behind = 64 << 20;
    assert_true(spread_choose(&spread, &wish, &drive, &bytes));
    assert_int_equal(bytes, wish.bytes);
    /* A drive gets nothing if the other one is done sooner with all of its reads. */
    storages[1].bytes_per_second = 1e7;
    spread_prepare(&spread, storages, 2, 0, 0);
    wish.bytes = 1 << 20;
    wish.behind = 0;
    for (int i = 0; i < 8; i++) {
        assert_true(spread_choose(&spread, &wish, &drive, &bytes));
        assert_int_equal(drive, 0);
        assert_int_equal(bytes, wish.bytes);
        spread_sent(&spread, drive, bytes);
    }
    assert_false(spread_choose(&spread, &wish, &drive, &bytes));
}

/* ---- which files are copies -------------------------------------------------------------------------------------- */

struct copies {
    char folder[64], paths[FIXTURE_FILES][160];
};

static void write_copy(const struct fixture *fixture, uint32_t file, const char *path)
{
    int descriptor = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, fixture->bytes[file], fixture->sizes[file]), fixture->sizes[file]);
    close(descriptor);
}

static void copy_files(struct copies *copies, const struct fixture *fixture)
{
    snprintf(copies->folder, sizeof copies->folder, "/tmp/hypura-test-mirror-XXXXXX");
    assert_non_null(mkdtemp(copies->folder));
    for (uint32_t i = 0; i < FIXTURE_FILES; i++) {
        snprintf(copies->paths[i], sizeof copies->paths[i], "%s/%s", copies->folder,
                 strrchr(fixture->paths[i], '/') + 1);
        write_copy(fixture, i, copies->paths[i]);
    }
}

static void remove_copies(struct copies *copies)
{
    for (uint32_t i = 0; i < FIXTURE_FILES; i++)
        unlink(copies->paths[i]);
    rmdir(copies->folder);
}

static struct drives *find(const struct fixture *fixture, const char *mirror)
{
    struct hardware hardware;
    struct drives *drives;
    assert_ok(hardware_detect(&hardware, "/tmp", &test_error));
    assert_ok(
        mirrors_find(&drives, &hardware, fixture->path_table, FIXTURE_FILES, FIXTURE_FILES, &mirror, 1, &test_error));
    assert_int_equal(drives->copy_count, 2);
    return drives;
}

static void differing_copies_are_rejected(void **state)
{
    (void)state;
    struct fixture fixture;
    struct copies copies;
    fixture_make(&fixture, &mixed);
    copy_files(&copies, &fixture);
    struct drives *drives = find(&fixture, copies.folder);
    assert_string_equal(drives->copies[2].path, copies.paths[0]);
    assert_string_equal(drives->copies[3].path, copies.paths[1]);
    assert_int_equal(warnings, 0);
    drives_free(drives);

    const struct {
        const char *says;
        off_t size;
        off_t from; /* the copy is overwritten from here to its end */
        bool remove, itself;
    } cases[] = {{.says = "another size", .size = (off_t)fixture.sizes[1] - 1},
                 {.says = "other bytes", .size = (off_t)fixture.sizes[1], .from = (off_t)fixture.sizes[1] - 1},
                 {.says = "other bytes", .size = (off_t)fixture.sizes[1], .from = (off_t)fixture.sizes[1] / 2},
                 {.says = "cannot be opened", .remove = true},
                 {.says = "the model itself", .itself = true}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        unlink(copies.paths[1]);
        if (cases[i].itself)
            assert_int_equal(symlink(fixture.paths[1], copies.paths[1]), 0);
        else if (!cases[i].remove)
            write_copy(&fixture, 1, copies.paths[1]);
        if (cases[i].size) {
            assert_int_equal(truncate(copies.paths[1], cases[i].from ? cases[i].from : cases[i].size), 0);
            assert_int_equal(truncate(copies.paths[1], cases[i].size), 0);
        }
        uint32_t before = warnings;
        drives = find(&fixture, copies.folder);
        assert_int_equal(warnings, before + 1);
        if (!strstr(last_warning, cases[i].says) || !strstr(last_warning, copies.paths[1]))
            fail_msg("case %zu: %s", i, last_warning);
        assert_null(drives->copies[3].path);
        assert_non_null(drives->copies[2].path); /* the copy of the other part is good */
        drives_free(drives);
    }
    remove_copies(&copies);
    fixture_free(&fixture);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct mischief {
    atomic_uint sick; /* bit mask of files whose reads fail with "number" */
    int number;
    atomic_uint asked[2 * FIXTURE_FILES];
    uint32_t least_bytes;
};

static int play(void *context, uint32_t file, uint64_t offset, uint32_t *bytes)
{
    struct mischief *mischief = context;
    (void)offset;
    (void)bytes;
    atomic_fetch_add(&mischief->asked[file], 1);
    return atomic_load(&mischief->sick) >> file & 1 ? mischief->number : 0;
}

struct world {
    struct fixture fixture;
    struct copies copies;
    struct drives *drives;
    struct mischief mischief;
    struct io_fault fault;
    struct store *store;
};

/* The store takes the copies' folder for a separate drive. */
static void make_world(struct world *world, enum store_reader reader)
{
    memset(world, 0, sizeof *world);
    fixture_make(&world->fixture, &mixed);
    copy_files(&world->copies, &world->fixture);
    world->drives = find(&world->fixture, world->copies.folder);
    world->drives->count = 2;
    world->drives->storages[1] = world->drives->storages[0];
    world->drives->copies[2].drive = world->drives->copies[3].drive = 1;
    world->mischief.number = EIO;
    world->fault = (struct io_fault){play, &world->mischief};
    const struct store_options options = {
        .reader = reader, .block_bytes = 131072, .depth = 4, .allow_buffered = true, .drives = world->drives};
    world->store = open_store(&world->fixture, 3 * world->fixture.largest_tensor, 4 * world->fixture.largest_expert,
                              &options, &world->fault);
}

static void end_world(struct world *world)
{
    store_close(world->store);
    drives_free(world->drives);
    remove_copies(&world->copies);
    fixture_free(&world->fixture);
}

static void use_everything(struct world *world)
{
    unit_number experts[32];
    for (unit_number i = 0; i < world->fixture.tensors; i++)
        get_and_check(world->store, &world->fixture, i);
    for (uint32_t i = 0; i < 32; i++)
        experts[i] = world->fixture.tensors + i;
    assert_ok(store_want(world->store, experts, 32, &test_error));
    for (uint32_t i = 0; i < 32; i++)
        get_and_check(world->store, &world->fixture, experts[i]);
    assert_ok(store_advance(world->store, &test_error));
}

static void both_drives_read(void **state)
{
    (void)state;
    for (int reader = STORE_READER_AUTO; reader <= STORE_READER_THREADS; reader += 2) {
        struct world world;
        make_world(&world, (enum store_reader)reader);
        for (int i = 0; i < 3; i++)
            use_everything(&world);
        struct store_statistics statistics;
        store_statistics(world.store, &statistics);
        assert_int_equal(statistics.drive_count, 2);
        assert_true(statistics.drives[0].bytes_read > 0 && statistics.drives[1].bytes_read > 0);
        assert_int_equal(statistics.drives[0].bytes_read + statistics.drives[1].bytes_read, statistics.bytes_read);
        for (uint32_t i = 0; i < 2 * FIXTURE_FILES; i++)
            assert_true(world.mischief.asked[i] > 0);
        assert_int_equal(warnings, 0);
        end_world(&world);
    }
}

static void a_failing_drive_is_abandoned(void **state)
{
    (void)state;
    const struct {
        uint32_t sick;
        int number;
        uint32_t left[2];
    } cases[] = {{0xc, EIO, {0, 2}}, {0x8, ENODEV, {0, 1}}, {0x3, EIO, {2, 0}}, {0x9, ESTALE, {1, 1}}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct world world;
        make_world(&world, i % 2 ? STORE_READER_THREADS : STORE_READER_AUTO);
        use_everything(&world);
        uint32_t before = warnings;
        world.mischief.number = cases[i].number;
        atomic_store(&world.mischief.sick, cases[i].sick);
        for (int again = 0; again < 3; again++)
            use_everything(&world);
        struct store_statistics statistics;
        store_statistics(world.store, &statistics);
        assert_int_equal(statistics.drives[0].copies_left, cases[i].left[0]);
        assert_int_equal(statistics.drives[1].copies_left, cases[i].left[1]);
        assert_int_equal(warnings, before + cases[i].left[0] + cases[i].left[1]); /* one warning per copy */
        assert_non_null(strstr(last_warning, "is read instead"));
        end_world(&world);
    }
}

static void without_a_good_copy_reads_fail_until_one_recovers(void **state)
{
    (void)state;
    struct world world;
    struct store_view view;
    make_world(&world, STORE_READER_AUTO);
    use_everything(&world);
    wait_until_idle(world.store);
    atomic_store(&world.mischief.sick, 0xf);
    assert_int_equal(store_get(world.store, 20, &view, &test_error), HYPURA_ERROR_IO);
    atomic_store(&world.mischief.sick, 0);
    use_everything(&world);
    end_world(&world);
}

static void a_modified_copy_is_abandoned(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, STORE_READER_AUTO);
    use_everything(&world);
    usleep(20000); /* file times are coarse */
    /* Overwrite bytes throughout, so that any read from the copy would be wrong. */
    for (uint32_t f = 0; f < FIXTURE_FILES; f++) {
        int file = open(world.copies.paths[f], O_WRONLY);
        for (uint64_t at = 0; at < world.fixture.sizes[f]; at += 100)
            assert_int_equal(pwrite(file, "?", 1, (off_t)at), 1);
        close(file);
    }
    for (int again = 0; again < 3; again++)
        use_everything(&world);
    struct store_statistics statistics;
    store_statistics(world.store, &statistics);
    assert_int_equal(statistics.drives[1].copies_left, 2);
    assert_non_null(strstr(last_warning, "was written to"));
    end_world(&world);
}

/* The calling thread reads rows, not the reader. */
static void rows_come_from_a_copy_too(void **state)
{
    (void)state;
    struct world world;
    uint8_t bytes[100];
    make_world(&world, STORE_READER_AUTO);
    use_everything(&world);
    const struct unit_slice *slice = &world.fixture.units[3].slices[0];
    pthread_mutex_lock(world.store->mutex);
    close(world.store->files[slice->file].descriptor);
    world.store->files[slice->file].descriptor = open("/dev/null", O_WRONLY);
    pthread_mutex_unlock(world.store->mutex);
    assert_ok(store_read(world.store, 3, 11, sizeof bytes, bytes, &test_error));
    assert_memory_equal(bytes, world.fixture.bytes[slice->file] + slice->offset + 11, sizeof bytes);
    end_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(drives_share_by_speed, expect_no_warnings),
        cmocka_unit_test_setup(prefetches_are_limited_on_each_drive, expect_no_warnings),
        cmocka_unit_test_setup(a_read_is_split_if_that_is_faster, expect_no_warnings),
        cmocka_unit_test_setup(differing_copies_are_rejected, expect_no_warnings),
        cmocka_unit_test_setup(both_drives_read, expect_no_warnings),
        cmocka_unit_test_setup(a_failing_drive_is_abandoned, expect_no_warnings),
        cmocka_unit_test_setup(without_a_good_copy_reads_fail_until_one_recovers, expect_no_warnings),
        cmocka_unit_test_setup(a_modified_copy_is_abandoned, expect_no_warnings),
        cmocka_unit_test_setup(rows_come_from_a_copy_too, expect_no_warnings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
