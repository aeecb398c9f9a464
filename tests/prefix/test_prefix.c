/* The prefix store, with rows and checkpoints that identify their tokens. */
#include "prefix/prefix.h"

#include "folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 8u
#define ROW 512u /* bytes per position */
#define CHECKPOINT 512u
#define LONG 1000u

/* A sequence. Its data at a position is a digest of all tokens before it. */
struct sequence {
    int32_t tokens[LONG];
    uint32_t count, reads, checkpoint;
    uint8_t rows[LONG * ROW]; /* as restored */
    uint32_t restored_first, restored_end, restored_position;
    bool wrong;
};

static void text(struct sequence *out, uint32_t count, uint32_t shared, int32_t seed)
{
    *out = (struct sequence){.count = count, .restored_first = UINT32_MAX};
    for (uint32_t i = 0; i < count; i++)
        out->tokens[i] = (int32_t)(i * 7 % 31) + (i < shared ? 0 : 100 * seed);
}

static void row_of(const struct sequence *sequence, uint32_t position, uint8_t row[ROW])
{
    uint64_t hash = fnv1a(FNV1A_START, sequence->tokens, (position + 1) * sizeof(int32_t));
    for (uint32_t i = 0; i < ROW; i++)
        row[i] = (uint8_t)((hash >> i % 8 * 8) + i);
}

static uint64_t rows_bytes(void *context, uint32_t first, uint32_t end)
{
    (void)context;
    return (end - first) * (uint64_t)ROW;
}

static hypura_status read_rows(void *context, uint32_t first, uint32_t end, void *out, hypura_error *error)
{
    struct sequence *sequence = context;
    (void)error;
    for (uint32_t i = first; i < end; i++)
        row_of(sequence, i, (uint8_t *)out + (i - first) * ROW);
    sequence->reads++;
    return HYPURA_OK;
}

static void checkpoint_of(const struct sequence *sequence, uint32_t position, uint8_t out[CHECKPOINT])
{
    uint64_t hash = fnv1a(1, sequence->tokens, position * sizeof(int32_t));
    for (uint32_t i = 0; i < CHECKPOINT; i++)
        out[i] = (uint8_t)((hash >> i % 8 * 8) * (i + 1));
}

static hypura_status read_checkpoint(void *context, void *out, hypura_error *error)
{
    const struct sequence *sequence = context;
    (void)error;
    checkpoint_of(sequence, sequence->checkpoint, out);
    return HYPURA_OK;
}

static struct prefix_source source_of(struct sequence *sequence)
{
    return (struct prefix_source){rows_bytes, read_rows, CHECKPOINT, read_checkpoint, sequence};
}

static hypura_status write_rows(void *context, uint32_t first, uint32_t end, const void *rows, uint64_t bytes,
                                hypura_error *error)
{
    struct sequence *sequence = context;
    (void)error;
    sequence->wrong |= bytes != (end - first) * (uint64_t)ROW;
    memcpy(sequence->rows + first * ROW, rows, bytes);
    sequence->restored_first = MIN(sequence->restored_first, first);
    sequence->restored_end = end;
    return HYPURA_OK;
}

static hypura_status write_checkpoint(void *context, uint32_t position, const void *checkpoint, uint64_t bytes,
                                      hypura_error *error)
{
    struct sequence *sequence = context;
    uint8_t expected[CHECKPOINT];
    (void)error;
    checkpoint_of(sequence, position, expected);
    sequence->wrong |= checkpoint && (bytes != CHECKPOINT || memcmp(expected, checkpoint, CHECKPOINT) != 0);
    sequence->restored_position = position;
    return HYPURA_OK;
}

/* Restores as much of a sequence as the store has, and checks every row. Returns the position. */
static uint32_t restore(struct prefix_store *store, struct sequence *sequence, uint32_t have)
{
    struct prefix_target target = {write_rows, write_checkpoint, sequence};
    struct prefix_match match;
    hypura_error error;
    sequence->restored_first = UINT32_MAX;
    sequence->wrong = false;
    do {
        match = prefix_find(store, sequence->tokens, sequence->count, have);
        if (match.position <= have)
            return match.position;
    } while (prefix_restore(store, sequence->tokens, &match, &target, &error));
    assert_false(sequence->wrong);
    assert_int_equal(sequence->restored_position, match.position);
    assert_true(match.first <= have && match.first % BLOCK == 0);
    assert_int_equal(sequence->restored_first, match.first);
    assert_true(sequence->restored_end >= match.position);
    for (uint32_t i = match.first; i < match.position; i++) {
        uint8_t row[ROW];
        row_of(sequence, i, row);
        assert_memory_equal(row, sequence->rows + i * ROW, ROW);
    }
    return match.position;
}

static struct prefix_store *open_with(const struct prefix_options *options)
{
    struct prefix_store *store;
    assert_ok(prefix_open(&store, options, &test_error));
    return store;
}

static struct prefix_options in_memory(void)
{
    return (struct prefix_options){.digest = 1, .block = BLOCK, .bytes = 4 << 20};
}

static struct prefix_options on_drive(const char *name)
{
    struct prefix_options options = in_memory();
    options.folder = path_in_folder(name);
    options.folder_bytes = 4 << 20;
    return options;
}

static void save(struct prefix_store *store, struct sequence *sequence, uint32_t first)
{
    struct prefix_source source = source_of(sequence);
    prefix_save(store, sequence->tokens, first, sequence->count, &source);
}

static bool mark(struct prefix_store *store, struct sequence *sequence, uint32_t position)
{
    struct prefix_source source = source_of(sequence);
    sequence->checkpoint = position;
    return prefix_checkpoint(store, sequence->tokens, position, &source);
}

static struct sequence a, b, c;

static void finds_the_longest_beginning_to_the_token(void **state)
{
    (void)state;
    struct prefix_options options = in_memory();
    struct prefix_store *store = open_with(&options);
    text(&a, 100, 100, 0);
    assert_int_equal(restore(store, &a, 0), 0);
    save(store, &a, 0);
    assert_int_equal(a.reads, 13);
    assert_int_equal(restore(store, &a, 0), 100);
    for (uint32_t shared = 0; shared < 100; shared++) {
        text(&b, 120, shared, 1);
        assert_int_equal(restore(store, &b, 0), shared);
        assert_int_equal(restore(store, &b, shared), shared);
    }
    /* A longer text replaces the incomplete last block by a complete one. The other blocks are not read again. */
    text(&b, 130, 130, 0);
    assert_int_equal(restore(store, &b, 50), 100);
    assert_int_equal(b.restored_first, 48);
    save(store, &b, 0);
    assert_int_equal(b.reads, 17 - 12);
    assert_int_equal(restore(store, &b, 0), 130);
    /* A branch shares the common blocks. */
    text(&c, 90, 60, 2);
    save(store, &c, 0);
    assert_int_equal(c.reads, 12 - 7);
    assert_int_equal(restore(store, &c, 0), 90);
    assert_int_equal(restore(store, &b, 0), 130);
    prefix_close(store, false);
}

static void uses_checkpoints_only_where_needed(void **state)
{
    (void)state;
    struct prefix_options options = in_memory();
    options.needs_checkpoint = true;
    struct prefix_store *store = open_with(&options);
    text(&a, 100, 100, 0);
    assert_true(mark(store, &a, 37));
    assert_true(mark(store, &a, 80));
    assert_int_equal(prefix_find(store, a.tokens, 100, 0).position, 0); /* the store has no rows yet */
    assert_int_equal(restore(store, &a, 85), 80);                       /* the sequence has them */
    assert_int_equal(prefix_find(store, a.tokens, 79, 85).position, 37);
    save(store, &a, 0);
    assert_int_equal(restore(store, &a, 0), 80);
    assert_true(mark(store, &a, 100));
    assert_int_equal(restore(store, &a, 0), 100);
    text(&b, 120, 98, 1);
    assert_int_equal(restore(store, &b, 10), 80);
    assert_int_equal(b.restored_first, 8);
    text(&b, 120, 36, 1);
    assert_int_equal(restore(store, &b, 0), 0);
    prefix_forget_checkpoint(store, a.tokens, 80);
    assert_int_equal(prefix_find(store, a.tokens, 99, 0).position, 37);
    options.bytes = CHECKPOINT;
    struct prefix_store *small = open_with(&options);
    assert_false(mark(small, &a, 37));
    prefix_close(small, false);
    prefix_close(store, false);
}

static uint64_t lent;
static bool lend(void *context, uint64_t bytes)
{
    if (bytes > *(const uint64_t *)context)
        return false;
    lent = MAX(lent, bytes);
    return true;
}

static void keeps_the_most_recently_used_texts_within_its_memory(void **state)
{
    (void)state;
    uint64_t free = 192 << 10;
    struct prefix_options options = in_memory();
    options.lend = lend;
    options.lend_context = &free;
    struct prefix_store *store = open_with(&options);
    struct prefix_statistics statistics;
    for (int32_t i = 1; i <= 20; i++) { /* 50 KiB per text */
        text(&a, 100, 0, i);
        save(store, &a, 0);
        text(&b, 100, 0, 1); /* this text is used in every round */
        assert_int_equal(restore(store, &b, 0), 100);
        prefix_statistics(store, &statistics);
        assert_true(statistics.bytes <= free && lent <= free);
    }
    assert_true(statistics.evicted_bytes > 0);
    text(&b, 100, 0, 20);
    assert_int_equal(restore(store, &b, 0), 100);
    text(&b, 100, 0, 5);
    assert_int_equal(restore(store, &b, 0), 0);
    /* If a text is too long, its beginning is kept. */
    text(&b, LONG, 0, 30);
    save(store, &b, 0);
    uint32_t kept = restore(store, &b, 0);
    assert_true(kept > 200 && kept < 400 && kept % BLOCK == 0);
    prefix_close(store, false);
}

static uint32_t files_in(const char *name, const char *ending, uint64_t *bytes)
{
    DIR *folder = opendir(path_in_folder(name));
    const struct dirent *entry;
    uint32_t count = 0;
    *bytes = 0;
    while (folder && (entry = readdir(folder))) {
        struct stat info;
        char path[1024];
        size_t size = strlen(entry->d_name), part = strlen(ending);
        snprintf(path, sizeof path, "%s/%s", path_in_folder(name), entry->d_name);
        if (size < part || strcmp(entry->d_name + size - part, ending) != 0 || stat(path, &info))
            continue;
        count++;
        *bytes += (uint64_t)info.st_size;
    }
    if (folder)
        closedir(folder);
    return count;
}

/* Overwrites a byte of each file. A negative place counts from the end. */
static void damage(const char *name, long place)
{
    DIR *folder = opendir(path_in_folder(name));
    const struct dirent *entry;
    while ((entry = readdir(folder))) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", path_in_folder(name), entry->d_name);
        if (!strstr(entry->d_name, ".prefix"))
            continue;
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        fseek(file, place, place < 0 ? SEEK_END : SEEK_SET);
        int byte = fgetc(file);
        fseek(file, place, place < 0 ? SEEK_END : SEEK_SET);
        fputc(byte ^ 1, file);
        fclose(file);
    }
    closedir(folder);
}

static void texts_survive_a_restart(void **state)
{
    (void)state;
    struct prefix_options options = on_drive("restart");
    options.needs_checkpoint = true;
    struct prefix_store *store = open_with(&options);
    uint64_t bytes;
    text(&a, 100, 100, 0);
    mark(store, &a, 64);
    mark(store, &a, 100);
    save(store, &a, 0);
    assert_int_equal(files_in("restart", ".prefix", &bytes), 0); /* nothing is written yet */
    prefix_close(store, false);
    assert_int_equal(files_in("restart", ".prefix", &bytes), 1); /* one file for the whole text */
    store = open_with(&options);
    assert_int_equal(restore(store, &a, 0), 100);
    text(&b, 200, 90, 1);
    assert_int_equal(restore(store, &b, 0), 64);
    mark(store, &b, 200);
    save(store, &b, 0);
    assert_int_equal(b.reads, 25 - 11);
    prefix_close(store, false);
    assert_int_equal(files_in("restart", ".prefix", &bytes), 2);
    store = open_with(&options);
    assert_int_equal(restore(store, &b, 0), 200);
    assert_int_equal(restore(store, &a, 0), 100);
    prefix_close(store, false);
    assert_int_equal(files_in("restart", ".prefix", &bytes), 2); /* nothing is written twice */
    /* Closing at once writes nothing. */
    store = open_with(&options);
    text(&c, 50, 0, 3);
    save(store, &c, 0);
    prefix_close(store, true);
    assert_int_equal(files_in("restart", ".prefix", &bytes), 2);
    /* With another model or other sizes of blocks, nothing is found and no file is changed. */
    options.digest = 2;
    store = open_with(&options);
    assert_int_equal(restore(store, &a, 0), 0);
    prefix_close(store, false);
    options.digest = 1;
    options.block = 16;
    store = open_with(&options);
    assert_int_equal(prefix_find(store, a.tokens, 100, 0).position, 0);
    prefix_close(store, false);
    struct stat info;
    assert_int_equal(stat(options.folder, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
}

static void texts_beyond_the_memory_go_to_the_drive(void **state)
{
    (void)state;
    struct prefix_options options = on_drive("through");
    options.bytes = 192 << 10;
    struct prefix_store *store = open_with(&options);
    struct prefix_statistics statistics;
    uint64_t bytes;
    text(&a, LONG, LONG, 0); /* 500 KiB */
    save(store, &a, 0);
    assert_int_equal(restore(store, &a, 0), LONG);
    prefix_statistics(store, &statistics);
    assert_true(statistics.bytes <= options.bytes && statistics.read_bytes > 0);
    uint32_t files = files_in("through", ".prefix", &bytes);
    assert_in_range(files, 1, 8); /* not one per block */
    prefix_close(store, false);
    store = open_with(&options);
    assert_int_equal(restore(store, &a, 0), LONG);
    prefix_close(store, false);
}

static void the_folder_is_bounded(void **state)
{
    (void)state;
    struct prefix_options options = on_drive("bounded");
    options.folder_bytes = 256 << 10;
    uint64_t bytes;
    for (int32_t i = 1; i <= 12; i++) { /* about 52 KiB per file */
        struct prefix_store *store = open_with(&options);
        text(&a, 100, 0, i);
        save(store, &a, 0);
        text(&b, 100, 0, 1);
        assert_int_equal(restore(store, &b, 0), 100);     /* makes its file the most recently used */
        nanosleep(&(struct timespec){0, 12000000}, NULL); /* file times are coarse */
        prefix_close(store, false);
        files_in("bounded", ".prefix", &bytes);
        assert_true(bytes <= options.folder_bytes);
    }
    struct prefix_store *store = open_with(&options);
    text(&a, 100, 0, 12);
    assert_int_equal(restore(store, &a, 0), 100);
    text(&a, 100, 0, 3);
    assert_int_equal(restore(store, &a, 0), 0);
    /* If a text exceeds the folder's limit, its beginning is kept. */
    text(&c, LONG, 0, 40);
    save(store, &c, 0);
    prefix_close(store, false);
    files_in("bounded", ".prefix", &bytes);
    assert_true(bytes <= options.folder_bytes);
    store = open_with(&options);
    uint32_t kept = restore(store, &c, 0);
    assert_true(kept > 200 && kept < LONG);
    prefix_close(store, false);
}

static void damaged_files_are_never_used(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "damaged %d", i);
        struct prefix_options options = on_drive(name);
        struct prefix_store *store = open_with(&options);
        text(&a, 100, 100, 0);
        save(store, &a, 0);
        prefix_close(store, false);
        uint64_t bytes;
        files_in(name, ".prefix", &bytes);
        const long places[] = {8, 20, 100, 500, -1}; /* version, digest, tokens, table, the last rows */
        damage(name, places[i]);
        store = open_with(&options);
        uint32_t kept = restore(store, &a, 0); /* also checks each row */
        assert_int_equal(kept, 0);
        save(store, &a, 0); /* writes the file again */
        prefix_close(store, false);
        store = open_with(&options);
        assert_int_equal(restore(store, &a, 0), 100);
        prefix_close(store, false);
        /* Truncate the files. */
        DIR *folder = opendir(options.folder);
        const struct dirent *entry;
        while ((entry = readdir(folder))) {
            char path[1024];
            snprintf(path, sizeof path, "%s/%s", options.folder, entry->d_name);
            if (strstr(entry->d_name, ".prefix"))
                assert_int_equal(truncate(path, (off_t)bytes / 2), 0);
        }
        closedir(folder);
        store = open_with(&options);
        assert_int_equal(restore(store, &a, 0), 0);
        prefix_close(store, false);
    }
}

static void files_that_vanish_are_only_missed(void **state)
{
    (void)state;
    struct prefix_options options = on_drive("gone");
    struct prefix_store *store = open_with(&options);
    text(&a, 100, 100, 0);
    save(store, &a, 0);
    prefix_close(store, false);
    store = open_with(&options);
    struct prefix_match match = prefix_find(store, a.tokens, 100, 0);
    assert_int_equal(match.position, 100);
    DIR *folder = opendir(options.folder);
    const struct dirent *entry;
    while ((entry = readdir(folder)))
        if (strstr(entry->d_name, ".prefix"))
            unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    struct prefix_target target = {write_rows, write_checkpoint, &a};
    assert_int_not_equal(prefix_restore(store, a.tokens, &match, &target, &test_error), HYPURA_OK);
    assert_int_equal(restore(store, &a, 0), 0);
    save(store, &a, 0);
    assert_int_equal(restore(store, &a, 0), 100);
    prefix_close(store, false);
}

static void two_processes_share_a_folder(void **state)
{
    (void)state;
    struct prefix_options options = on_drive("shared");
    struct prefix_store *one = open_with(&options), *two = open_with(&options);
    text(&a, 100, 100, 0);
    save(one, &a, 0);
    prefix_close(one, false);
    assert_int_equal(restore(two, &a, 0), 100);
    prefix_close(two, false);
    /* Six processes write and read at the same time, within a common limit. */
    options.folder_bytes = 400 << 10;
    options.bytes = 160 << 10;
    pid_t children[6];
    for (int i = 0; i < 6; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            for (int32_t round = 0; round < 8; round++) {
                struct prefix_store *store;
                hypura_error error;
                if (prefix_open(&store, &options, &error))
                    _exit(2);
                text(&b, 300, 0, 1 + (i + round) % 5);
                restore(store, &b, 0);
                save(store, &b, 0);
                restore(store, &b, 0);
                prefix_close(store, false);
            }
            _exit(0);
        }
    }
    for (int i = 0; i < 6; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    uint64_t bytes;
    assert_true(files_in("shared", ".prefix", &bytes) > 0);
    assert_true(bytes <= options.folder_bytes);
}

/* A process that is killed while it writes leaves complete files and at most one partial one, which disturbs nothing.
 */
static void a_killed_process_leaves_nothing_misleading(void **state)
{
    (void)state;
    struct prefix_options options = on_drive("killed");
    options.bytes = 800 << 10;
    uint64_t bytes;
    uint32_t partial = 0;
    for (int kill_after = 0; kill_after < 24; kill_after++) {
        pid_t child = fork();
        if (child == 0) {
            struct prefix_store *store;
            hypura_error error;
            for (int32_t i = 0;; i++) {
                if (prefix_open(&store, &options, &error))
                    _exit(2);
                text(&b, 600, 0, i % 9);
                save(store, &b, 0);
                prefix_close(store, false);
            }
        }
        nanosleep(&(struct timespec){0, 2000000 + kill_after * 1500000}, NULL);
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        partial += files_in("killed", ".partial", &bytes);
        struct prefix_store *store = open_with(&options);
        for (int32_t i = 0; i < 9; i++) {
            text(&a, 600, 0, i);
            restore(store, &a, 0); /* checks each row */
        }
        text(&a, 600, 0, 3);
        save(store, &a, 0);
        prefix_close(store, false);
        store = open_with(&options);
        assert_int_equal(restore(store, &a, 0), 600);
        prefix_close(store, false);
        files_in("killed", ".prefix", &bytes);
        assert_true(bytes <= options.folder_bytes);
    }
    printf("# kills in the middle of a file: %u of 24\n", partial);
}

static char logged[512];
static void sink(void *context, enum log_level level, const char *message)
{
    (void)context;
    if (level >= LOG_WARNING)
        snprintf(logged, sizeof logged, "%s", message);
}

static void a_failing_drive_causes_only_a_warning(void **state)
{
    (void)state;
    struct prefix_options options = on_drive("full");
    options.bytes = 120 << 10;
    struct prefix_store *store = open_with(&options);
    struct rlimit limit, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 5000; /* writes beyond this fail, as on a full drive */
    signal(SIGXFSZ, SIG_IGN);
    log_set_sink(sink, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    text(&a, LONG, LONG, 0);
    save(store, &a, 0);
    uint32_t kept = restore(store, &a, 0);
    prefix_close(store, false);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    log_set_sink(NULL, NULL);
    if (!strstr(logged, "cannot write"))
        fail_msg("no warning about a failed write, but '%s'", logged);
    assert_true(kept > 80 && kept < 400); /* only the part in memory */
    uint64_t bytes;
    assert_int_equal(files_in("full", ".prefix", &bytes), 0);
    assert_int_equal(files_in("full", ".partial", &bytes), 0);
    /* The drive has room again. */
    store = open_with(&options);
    save(store, &a, 0);
    prefix_close(store, false);
    store = open_with(&options);
    assert_int_equal(restore(store, &a, 0), LONG);
    prefix_close(store, false);
    /* A folder that cannot be made is an error at once. */
    options.folder = "/dev/null/folder";
    assert_int_equal(prefix_open(&store, &options, &test_error), HYPURA_ERROR_IO);
}

/* Random texts with common beginnings, compared with the data saved for them. */
static void random_texts_are_restored_exactly(void **state)
{
    (void)state;
    struct prefix_options options = on_drive("random");
    options.bytes = 400 << 10;
    options.folder_bytes = 400 << 10;
    struct prefix_store *store = open_with(&options);
    struct random random;
    random_seed(&random, 7);
    uint64_t restored = 0;
    for (int i = 0; i < 400; i++) {
        options.needs_checkpoint = i / 100 % 2;
        if (i % 25 == 0) {
            prefix_close(store, random_next(&random) % 4 == 0);
            store = open_with(&options);
        }
        uint32_t count = 1 + (uint32_t)(random_next(&random) % 300);
        text(&a, count, (uint32_t)(random_next(&random) % (count + 1)), 1 + (int32_t)(random_next(&random) % 3));
        uint32_t have = (uint32_t)(random_next(&random) % (count + 1));
        restored += restore(store, &a, random_next(&random) % 2 ? have : 0);
        mark(store, &a, 1 + (uint32_t)(random_next(&random) % count));
        if (random_next(&random) % 2)
            save(store, &a, random_next(&random) % 3 ? 0 : have);
    }
    assert_true(restored > 10000);
    prefix_close(store, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_longest_beginning_to_the_token),
        cmocka_unit_test(uses_checkpoints_only_where_needed),
        cmocka_unit_test(keeps_the_most_recently_used_texts_within_its_memory),
        cmocka_unit_test(texts_survive_a_restart),
        cmocka_unit_test(texts_beyond_the_memory_go_to_the_drive),
        cmocka_unit_test(the_folder_is_bounded),
        cmocka_unit_test(damaged_files_are_never_used),
        cmocka_unit_test(files_that_vanish_are_only_missed),
        cmocka_unit_test(two_processes_share_a_folder),
        cmocka_unit_test(a_killed_process_leaves_nothing_misleading),
        cmocka_unit_test(a_failing_drive_causes_only_a_warning),
        cmocka_unit_test(random_texts_are_restored_exactly),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
