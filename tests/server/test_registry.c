/* Changes of the model folder: at whatever step a process is killed, and whichever call fails, a name stands for either
 * the old model or the new one, never for parts of both. */
#include "folder.h"

#include "server/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_STEPS 200
#define MOST_OPEN 1024

/* ---- calls that change the folder -------------------------------------------------------------------------------- */

enum seam { SEAM_NONE, SEAM_KILL, SEAM_FAIL };

static enum seam seam;
static const char *failing; /* name of the calls that count; NULL: all */
static bool failing_on;     /* whether all later calls fail, too */
static unsigned step, step_that_matters;
static int64_t clock_offset;

/* Paths that were written but not synced, to check the order of calls. */
static char dirty_path[MOST_OPEN][PATH_MAX];
static bool dirty[MOST_OPEN];
static unsigned renamed_dirty;
static bool ordered; /* whether to check the order */

/* Counts a call, and kills the process if it is due. Returns whether the call fails. */
static bool come_by(const char *call)
{
    if (seam == SEAM_NONE || (failing && strcmp(call, failing) != 0))
        return false;
    step++;
    if (step != step_that_matters && !(failing_on && step > step_that_matters))
        return false;
    if (seam == SEAM_KILL)
        kill(getpid(), SIGKILL);
    errno = EIO;
    return true;
}

int __real_open(const char *path, int flags, ...);
int __real_close(int file);
ssize_t __real_write(int file, const void *data, size_t size);
ssize_t __real_pwrite(int file, const void *data, size_t size, off_t at);
int __real_ftruncate(int file, off_t size);
int __real_fsync(int file);
int __real_rename(const char *from, const char *to);
int __real_link(const char *from, const char *to);
int __real_unlink(const char *path);
int __real_mkdir(const char *path, mode_t mode);
int __real_rmdir(const char *path);
time_t __real_time(time_t *out);
size_t __real_fread(void *out, size_t size, size_t count, FILE *file);

int __wrap_open(const char *path, int flags, ...);
int __wrap_close(int file);
ssize_t __wrap_write(int file, const void *data, size_t size);
ssize_t __wrap_pwrite(int file, const void *data, size_t size, off_t at);
int __wrap_ftruncate(int file, off_t size);
int __wrap_fsync(int file);
int __wrap_rename(const char *from, const char *to);
int __wrap_link(const char *from, const char *to);
int __wrap_unlink(const char *path);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_rmdir(const char *path);
time_t __wrap_time(time_t *out);
size_t __wrap_fread(void *out, size_t size, size_t count, FILE *file);

static void mark(int file, bool value)
{
    if (file < 0 || file >= MOST_OPEN)
        return;
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t size = readlink(name, dirty_path[file], PATH_MAX - 1);
    dirty_path[file][size > 0 ? size : 0] = 0;
    dirty[file] = value;
}

int __wrap_open(const char *path, int flags, ...)
{
    if ((flags & O_CREAT) && come_by("open"))
        return -1;
    return __real_open(path, flags, 0644);
}

int __wrap_close(int file)
{
    return __real_close(file);
}

ssize_t __wrap_write(int file, const void *data, size_t size)
{
    if (come_by("write"))
        return -1;
    if (ordered)
        mark(file, true);
    return __real_write(file, data, size);
}

ssize_t __wrap_pwrite(int file, const void *data, size_t size, off_t at)
{
    if (come_by("write"))
        return -1;
    return __real_pwrite(file, data, size, at);
}

int __wrap_ftruncate(int file, off_t size)
{
    return come_by("ftruncate") ? -1 : __real_ftruncate(file, size);
}

int __wrap_fsync(int file)
{
    if (come_by("fsync"))
        return -1;
    if (ordered)
        mark(file, false);
    return __real_fsync(file);
}

int __wrap_rename(const char *from, const char *to)
{
    if (come_by("rename"))
        return -1;
    for (int i = 0; ordered && i < MOST_OPEN; i++)
        renamed_dirty += dirty[i] && strcmp(dirty_path[i], from) == 0;
    return __real_rename(from, to);
}

int __wrap_link(const char *from, const char *to)
{
    return come_by("link") ? -1 : __real_link(from, to);
}

int __wrap_unlink(const char *path)
{
    return come_by("unlink") ? -1 : __real_unlink(path);
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    return come_by("mkdir") ? -1 : __real_mkdir(path, mode);
}

int __wrap_rmdir(const char *path)
{
    return come_by("rmdir") ? -1 : __real_rmdir(path);
}

time_t __wrap_time(time_t *out)
{
    (void)out;
    return __real_time(NULL) + (time_t)clock_offset;
}

/* A read that is to fail reads a folder. */
size_t __wrap_fread(void *out, size_t size, size_t count, FILE *file)
{
    if (failing && come_by("fread")) {
        int folder = __real_open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(folder >= 0 && dup2(folder, fileno(file)) >= 0);
        __real_close(folder);
        clearerr(file);
    }
    return __real_fread(out, size, count, file);
}

/* ---- a folder of models ------------------------------------------------------------------------------------------ */

static char models[512];
static struct registry *registry;

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fputs(text, file) >= 0 && fclose(file) == 0, 1);
}

static const char *in_models(const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", models, name);
    return path;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info, (void)kind, (void)where;
    return remove(path);
}

/* Makes a folder as of an earlier version: model files, some with a manifest next to them. "a" and "b" replace weights,
 * which nothing here reads. */
static void fresh_folder(void)
{
    snprintf(models, sizeof models, "%s/models", test_folder);
    nftw(models, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(mkdir(models, 0755), 0);
    write_text(in_models("a.gguf"), "a");
    write_text(in_models("b.gguf"), "b");
    write_text(in_models("b.json"), "{\"system\": \"b\"}");
    write_text(in_models("parts-00001-of-00002.gguf"), "p");
    write_text(in_models("parts-00002-of-00002.gguf"), "q");
    if (!registry)
        assert_ok(registry_open(&registry, models, NULL, 0, &test_error));
}

/* Returns "WEIGHTS/SYSTEM" of a model, where WEIGHTS are the bytes of all parts, or "-" if there is no such model. */
static const char *state_of(const char *name)
{
    static char text[8][64];
    static unsigned next;
    char *out = text[next++ % 8], part[PATH_MAX];
    struct model_entry entry;
    hypura_error error = {0};
    strcpy(out, "-");
    hypura_status status = registry_find(registry, name, &entry, &error);
    if (status) {
        if (status != HYPURA_ERROR_IO)
            snprintf(out, sizeof text[0], "error %d", status);
        return out;
    }
    const char *system = json_string_value(json_object_get(entry.manifest, "system"));
    const char *of = strstr(entry.path, "-00001-of-");
    char bytes[8] = "";
    for (int i = 1; i <= (of ? 2 : 1); i++) {
        snprintf(part, sizeof part, "%s", entry.path);
        if (of)
            snprintf(part, sizeof part, "%.*s-%05d%s", (int)(of - entry.path), entry.path, i, of + 6);
        FILE *file = fopen(part, "re");
        int c = file ? fgetc(file) : '?';
        bytes[i - 1] = (char)c;
        if (file)
            fclose(file);
    }
    snprintf(out, sizeof text[0], "%s/%s", bytes, system ? system : "");
    model_entry_free(&entry);
    return out;
}

static unsigned files_in(const char *name)
{
    unsigned count = 0;
    DIR *list = opendir(in_models(name));
    for (struct dirent *file; list && (file = readdir(list));)
        count += file->d_name[0] != '.';
    if (list)
        closedir(list);
    return count;
}

/* ---- changes ----------------------------------------------------------------------------------------------------- */

struct change {
    const char *what;
    void (*prepare)(void); /* NULL: the fresh folder is enough */
    hypura_status (*run)(hypura_error *error);
    const char *name, *before, *after;
};

static hypura_status create_as(const char *name, const char *from, const char *system, hypura_error *error)
{
    struct model_entry entry;
    hypura_status status = registry_find(registry, from, &entry, error);
    if (status)
        return status;
    json_t *manifest = json_pack("{s:s}", "system", system);
    status = registry_create(registry, name, &(struct new_model){.from = &entry, .manifest = manifest}, error);
    json_decref(manifest);
    model_entry_free(&entry);
    return status;
}

static hypura_status create_new(hypura_error *error)
{
    return create_as("new", "a", "n", error);
}

static hypura_status create_over_old(hypura_error *error)
{
    return create_as("b", "a", "x", error);
}

static hypura_status create_in_place(hypura_error *error)
{
    return create_as("b", "b", "x", error);
}

static hypura_status create_over_plain(hypura_error *error)
{
    return create_as("a", "b", "x", error);
}

static hypura_status create_over_parts(hypura_error *error)
{
    return create_as("parts", "b", "x", error);
}

static hypura_status create_of_parts(hypura_error *error)
{
    return create_as("b", "parts", "x", error);
}

static hypura_status copy_over(hypura_error *error)
{
    return registry_copy(registry, "a", "b", error);
}

static void make_made(void)
{
    assert_ok(create_as("made", "a", "m", &test_error));
}

static hypura_status replace_made(hypura_error *error)
{
    return create_as("made", "b", "x", error);
}

static hypura_status delete_made(hypura_error *error)
{
    return registry_delete(registry, "made", error);
}

static hypura_status delete_old(hypura_error *error)
{
    return registry_delete(registry, "b", error);
}

static hypura_status delete_plain(hypura_error *error)
{
    return registry_delete(registry, "a", error);
}

static void bring_file(void)
{
    write_text(in_models("c.partial"), "c");
}

static hypura_status install(const char *name, const json_t *manifest, hypura_error *error)
{
    const char *const files[] = {in_models("c.partial")};
    return registry_create(registry, name, &(struct new_model){.files = files, .file_count = 1, .manifest = manifest},
                           error);
}

static hypura_status pull_over_old(hypura_error *error)
{
    return install("b", NULL, error);
}

static hypura_status pull_over_plain(hypura_error *error)
{
    return install("a", NULL, error);
}

static hypura_status pull_with_manifest(hypura_error *error)
{
    json_t *manifest = json_pack("{s:s}", "system", "s");
    hypura_status status = install("a", manifest, error);
    json_decref(manifest);
    return status;
}

static void bring_parts(void)
{
    write_text(in_models("one.partial"), "x");
    write_text(in_models("two.partial"), "y");
}

static hypura_status pull_parts(hypura_error *error)
{
    const char *const files[] = {in_models("one.partial"), in_models("two.partial")};
    return registry_create(registry, "parts", &(struct new_model){.files = files, .file_count = 2}, error);
}

static const struct change changes[] = {
    {"create", NULL, create_new, "new", "-", "a/n"},
    {"create over a file with a manifest", NULL, create_over_old, "b", "b/b", "a/x"},
    {"another system message", NULL, create_in_place, "b", "b/b", "b/x"},
    {"create over a file", NULL, create_over_plain, "a", "a/", "b/x"},
    {"create over a split model", NULL, create_over_parts, "parts", "pq/", "b/x"},
    {"create of a split model", NULL, create_of_parts, "b", "b/b", "pq/x"},
    {"copy", NULL, copy_over, "b", "b/b", "a/"},
    {"replace", make_made, replace_made, "made", "a/m", "b/x"},
    {"delete", make_made, delete_made, "made", "a/m", "-"},
    {"delete a file with a manifest", NULL, delete_old, "b", "b/b", "-"},
    {"delete a file", NULL, delete_plain, "a", "a/", "-"},
    {"pull over a file with a manifest", bring_file, pull_over_old, "b", "b/b", "c/"},
    {"pull over a file", bring_file, pull_over_plain, "a", "a/", "c/"},
    {"pull with a manifest", bring_file, pull_with_manifest, "a", "a/", "c/s"},
    {"pull parts", bring_parts, pull_parts, "parts", "pq/", "xy/"},
};

static void begin(const struct change *change)
{
    seam = SEAM_NONE;
    fresh_folder();
    if (change->prepare)
        change->prepare();
    assert_string_equal(state_of(change->name), change->before);
    step = 0;
}

static void others_are_as_they_were(const struct change *change)
{
    static const char *const names[] = {"a", "b", "parts"}, *const states[] = {"a/", "b/b", "pq/"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(names[i], change->name) != 0)
            assert_string_equal(state_of(names[i]), states[i]);
    }
}

static void expect(const struct change *change, const char *state, const char *one, const char *other, const char *how)
{
    if (strcmp(state, one) != 0 && strcmp(state, other) != 0)
        fail_msg("%s, %s at step %u: \"%s\" instead of \"%s\" or \"%s\"", change->what, how, step_that_matters, state,
                 one, other);
}

static void a_kill_at_any_step_leaves_the_old_or_the_new_model(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        unsigned number = 1;
        for (bool ended = false; !ended; number++) {
            assert_in_range(number, 1, MOST_STEPS);
            begin(&changes[i]);
            step_that_matters = number;
            pid_t child = fork();
            assert_true(child >= 0);
            if (child == 0) {
                hypura_error error = {0};
                seam = SEAM_KILL;
                _exit(changes[i].run(&error) != HYPURA_OK);
            }
            int how;
            assert_int_equal(waitpid(child, &how, 0), child);
            ended = WIFEXITED(how);
            assert_int_equal(ended ? WEXITSTATUS(how) : 0, 0);
            expect(&changes[i], state_of(changes[i].name), changes[i].before, changes[i].after, "killed");
            others_are_as_they_were(&changes[i]);
            /* The change can be repeated. A replaced model does not come back. */
            hypura_error error = {0};
            bool done = strcmp(state_of(changes[i].name), changes[i].after) == 0;
            if (!done)
                assert_ok(changes[i].run(&test_error));
            assert_string_equal(state_of(changes[i].name), changes[i].after);
            if (strcmp(changes[i].after, "-") != 0)
                assert_ok(registry_delete(registry, changes[i].name, &test_error));
            else
                registry_delete(registry, changes[i].name, &error);
            assert_string_equal(state_of(changes[i].name), "-");
            others_are_as_they_were(&changes[i]);
        }
        assert_true(number > 3); /* the change has several steps */
    }
}

static void walk_failures(const char *call, bool on)
{
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        bool reached = true;
        for (unsigned number = 1; reached; number++) {
            hypura_error error = {0};
            assert_in_range(number, 1, MOST_STEPS);
            begin(&changes[i]);
            seam = SEAM_FAIL;
            failing = call;
            failing_on = on;
            step_that_matters = number;
            hypura_status status = changes[i].run(&error);
            reached = step >= number;
            seam = SEAM_NONE;
            failing = NULL;
            failing_on = false;
            const char *now = state_of(changes[i].name);
            if (!status)
                expect(&changes[i], now, changes[i].after, changes[i].after, call ? call : "a failed call");
            else
                assert_true(error.message[0]);
            expect(&changes[i], now, changes[i].before, changes[i].after, call ? call : "a failed call");
            others_are_as_they_were(&changes[i]);
        }
    }
}

static void a_call_that_fails_loses_nothing(void **state)
{
    (void)state;
    walk_failures(NULL, false);
    walk_failures(NULL, true);
}

static void failed_unlinks_lose_nothing(void **state)
{
    (void)state;
    walk_failures("unlink", true);
    /* A model that could not be deleted is unchanged and has its manifest. */
    begin(&changes[0]);
    seam = SEAM_FAIL;
    failing = "unlink";
    failing_on = true;
    step_that_matters = 1;
    hypura_error error = {0};
    assert_int_not_equal(registry_delete(registry, "b", &error), HYPURA_OK);
    seam = SEAM_NONE;
    failing = NULL;
    failing_on = false;
    assert_string_equal(state_of("b"), "b/b");
}

static void drives_without_hard_links_work(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        begin(&changes[i]);
        seam = SEAM_FAIL;
        failing = "link";
        failing_on = true;
        step_that_matters = 1;
        hypura_error error = {0};
        hypura_status status = changes[i].run(&error);
        seam = SEAM_NONE;
        failing = NULL;
        failing_on = false;
        expect(&changes[i], state_of(changes[i].name), status ? changes[i].before : changes[i].after,
               status ? changes[i].before : changes[i].after, "without links");
        others_are_as_they_were(&changes[i]);
    }
}

static void files_are_synced_before_they_get_their_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        begin(&changes[i]);
        memset(dirty, 0, sizeof dirty);
        renamed_dirty = 0;
        ordered = true;
        assert_ok(changes[i].run(&test_error));
        ordered = false;
        assert_int_equal(renamed_dirty, 0);
    }
}

/* ---- manifests --------------------------------------------------------------------------------------------------- */

static void a_manifest_that_cannot_be_read_is_an_error(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "{\"system\": ",
                                        "[]",
                                        "5",
                                        "{\"weights\": 5}",
                                        "{\"weights\": \"../a.gguf\"}",
                                        "{\"weights\": \"\"}",
                                        "{\"file\": []}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        hypura_error error = {0};
        struct model_entry entry;
        fresh_folder();
        write_text(in_models("b.json"), texts[i]);
        assert_int_equal(registry_find(registry, "b", &entry, &error), HYPURA_ERROR_FORMAT);
        assert_non_null(strstr(error.message, "b.json"));
        assert_string_equal(state_of("a"), "a/");
        /* The model is not replaced silently, and files that its manifest may name stay. */
        assert_int_equal(create_as("b", "a", "x", &error), HYPURA_ERROR_FORMAT);
        hypura_error skipped = {0};
        json_t *tags = registry_tags(registry, &skipped, &error);
        assert_non_null(strstr(skipped.message, "b.json"));
        assert_int_equal(json_array_size(json_object_get(tags, "models")), 2);
        json_decref(tags);
        assert_ok(registry_delete(registry, "b", &test_error));
        assert_int_equal(access(in_models("b.json"), F_OK), -1);
    }
    fresh_folder();
    assert_int_equal(unlink(in_models("b.json")), 0);
    assert_int_equal(mkdir(in_models("b.json"), 0755), 0);
    assert_string_equal(state_of("b"), "error 3");
}

static void a_shortage_of_files_is_not_an_error_of_the_folder(void **state)
{
    (void)state;
    struct rlimit limit, none;
    struct model_entry entry;
    hypura_error error = {0};
    fresh_folder();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    hypura_status status = registry_find(registry, "a", &entry, &error);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(status, HYPURA_ERROR_MEMORY);
    assert_string_equal(state_of("a"), "a/");
}

static void fail_read(unsigned number)
{
    seam = number ? SEAM_FAIL : SEAM_NONE;
    failing = number ? "fread" : NULL;
    step = 0;
    step_that_matters = number;
}

/* "b" has the only manifest, so all reads are of it. The text is complete when the last read fails. */
static void a_read_of_a_manifest_that_fails_is_an_error(void **state)
{
    (void)state;
    fresh_folder();
    unsigned reads = 0;
    for (unsigned number = 1; number <= reads + 1; number++) {
        struct model_entry entry = {0};
        hypura_error error = {0};
        fail_read(number);
        hypura_status status = registry_find(registry, "b", &entry, &error);
        fail_read(0);
        if (status == HYPURA_OK) {
            model_entry_free(&entry);
            break;
        }
        reads = number;
        assert_int_equal(status, HYPURA_ERROR_FORMAT);
        assert_non_null(strstr(error.message, "b.json cannot be read (Is a directory)"));
    }
    assert_true(reads >= 2);
}

/* A manifest may refer to a file elsewhere, which is not the model's own and must not be taken for it. */
static void deleting_without_reading_the_manifest_keeps_files_elsewhere(void **state)
{
    (void)state;
    char elsewhere[PATH_MAX], text[PATH_MAX + 20];
    unsigned failed = 0;
    fresh_folder();
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere.gguf", test_folder);
    snprintf(text, sizeof text, "{\"file\": \"%s\"}", elsewhere);
    write_text(elsewhere, "e");
    for (unsigned number = 1; number == 1 || step >= step_that_matters; number++) {
        hypura_error error = {0};
        write_text(in_models("c.json"), text);
        fail_read(number);
        hypura_status status = registry_delete(registry, "c", &error);
        seam = SEAM_NONE;
        failed += status != HYPURA_OK;
        assert_int_equal(access(elsewhere, F_OK), 0);
        assert_int_equal(access(in_models("c.json"), F_OK), status ? 0 : -1);
    }
    assert_true(failed > 0);
}

static void weights_go_with_the_last_model_that_names_them(void **state)
{
    (void)state;
    fresh_folder();
    assert_ok(create_as("one", "a", "1", &test_error));
    assert_int_equal(files_in("weights"), 1);
    assert_ok(registry_copy(registry, "one", "two", &test_error));
    assert_int_equal(files_in("weights"), 1); /* both names share the weights */
    assert_ok(registry_delete(registry, "a", &test_error));
    assert_ok(registry_delete(registry, "one", &test_error));
    assert_string_equal(state_of("two"), "a/1");
    /* An unreadable manifest may name the weights, so they stay. */
    write_text(in_models("odd.json"), "{");
    assert_ok(registry_delete(registry, "two", &test_error));
    assert_int_equal(files_in("weights"), 1);
    assert_int_equal(unlink(in_models("odd.json")), 0);
    /* After a day, no process can still be about to name unused weights. */
    assert_ok(create_as("one", "b", "1", &test_error));
    assert_int_equal(files_in("weights"), 2);
    clock_offset = 25 * 3600;
    assert_ok(create_as("three", "one", "3", &test_error));
    clock_offset = 0;
    assert_int_equal(files_in("weights"), 1);
    assert_ok(registry_delete(registry, "one", &test_error));
    assert_string_equal(state_of("three"), "b/3");
    assert_ok(registry_delete(registry, "three", &test_error));
    assert_int_equal(files_in("weights"), 0);
}

static void experts_in_one_place_go_with_their_model(void **state)
{
    (void)state;
    const char *const plain[] = {"a.gguf.experts", "a.gguf.experts.partial", "a.gguf.experts.partial.pieces"};
    fresh_folder();
    for (size_t i = 0; i < COUNT_OF(plain); i++)
        write_text(in_models(plain[i]), "experts");
    write_text(in_models("another.gguf.experts"), "of another");
    /* A second name for the same file shares the experts, which stay while either name exists. */
    assert_ok(create_as("one", "a", "1", &test_error));
    assert_int_equal(files_in("weights"), 2);
    assert_ok(registry_delete(registry, "a", &test_error));
    for (size_t i = 0; i < COUNT_OF(plain); i++)
        assert_int_equal(access(in_models(plain[i]), F_OK), -1);
    assert_int_equal(access(in_models("another.gguf.experts"), F_OK), 0);
    assert_int_equal(files_in("weights"), 2);
    /* They stay even when unused weights are removed. */
    clock_offset = 25 * 3600;
    assert_ok(create_as("two", "b", "2", &test_error));
    clock_offset = 0;
    assert_int_equal(files_in("weights"), 3);
    assert_ok(registry_delete(registry, "one", &test_error));
    assert_int_equal(files_in("weights"), 1);
}

/* ---- two processes ----------------------------------------------------------------------------------------------- */

static void two_processes_do_not_mix_models(void **state)
{
    (void)state;
    fresh_folder();
    assert_ok(create_as("m", "a", "a", &test_error));
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            hypura_error error = {0};
            int wrong = 0;
            for (int turn = 0; turn < 100; turn++)
                wrong += create_as("m", i ? "b" : "a", i ? "b" : "a", &error) != HYPURA_OK;
            _exit(wrong != 0);
        }
    }
    int running = 2, looks = 0;
    while (running) {
        int how;
        const char *now = state_of("m");
        /* A file may vanish between finding and opening it. */
        if (strcmp(now, "a/a") != 0 && strcmp(now, "b/b") != 0 && now[0] != '?')
            fail_msg("the model is \"%s\" after %d looks", now, looks);
        looks++;
        if (waitpid(-1, &how, WNOHANG) > 0) {
            running--;
            assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
        }
    }
    assert_int_equal(files_in("weights"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kill_at_any_step_leaves_the_old_or_the_new_model),
        cmocka_unit_test(a_call_that_fails_loses_nothing),
        cmocka_unit_test(failed_unlinks_lose_nothing),
        cmocka_unit_test(drives_without_hard_links_work),
        cmocka_unit_test(files_are_synced_before_they_get_their_names),
        cmocka_unit_test(a_manifest_that_cannot_be_read_is_an_error),
        cmocka_unit_test(a_shortage_of_files_is_not_an_error_of_the_folder),
        cmocka_unit_test(a_read_of_a_manifest_that_fails_is_an_error),
        cmocka_unit_test(deleting_without_reading_the_manifest_keeps_files_elsewhere),
        cmocka_unit_test(weights_go_with_the_last_model_that_names_them),
        cmocka_unit_test(experts_in_one_place_go_with_their_model),
        cmocka_unit_test(two_processes_do_not_mix_models),
    };
    return cmocka_run_group_tests_name("registry", tests, make_folder, remove_folder);
}
