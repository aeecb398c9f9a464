#include "cli/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLOAT_DIGITS 9                        /* enough to read back the same float */
#define SYNC_NANOSECONDS UINT64_C(1000000000) /* a power failure loses at most the lines of this time */

/* A line of the output. */
struct answered {
    uint64_t number, offset, size;
    char digest[BATCH_DIGEST];
};

struct batch_output {
    char *path; /* without symbolic links */
    int file;
    bool standard; /* standard output */
    bool regular;  /* a regular file: can be read back and sorted */
    struct answered *lines;
    size_t count, room;
    size_t known; /* lines of earlier runs, by their numbers */
    uint64_t size;
    uint64_t synced; /* time of the last fsync */
};

static hypura_status add_line(struct batch_output *output, const struct answered *line, hypura_error *error)
{
    if (output->count == output->room) {
        size_t room = MAX(2 * output->room, (size_t)256);
        if (resize_array((void **)&output->lines, output->room, room, sizeof *line, "table of lines", error))
            return error->status;
        output->room = room;
    }
    output->lines[output->count++] = *line;
    return HYPURA_OK;
}

static int by_number(const void *a, const void *b)
{
    const struct answered *left = a, *right = b;
    return left->number < right->number ? -1 : left->number > right->number;
}

/* ---- what an earlier run left ---- */

/* Whether an incomplete last line may be one that hypura began. */
static bool may_be_cut(const char *text, size_t size)
{
    static const char beginning[] = "{\"line\":";
    return strncmp(text, beginning, MIN(size, sizeof beginning - 1)) == 0;
}

static hypura_status not_ours(const struct batch_output *output, hypura_error *error)
{
    return set_error(error, HYPURA_ERROR_ARGUMENT,
                     "%s already exists and was not written by hypura batch: name another file", output->path);
}

static hypura_status read_line(struct batch_output *output, const char *text, size_t size, hypura_error *error)
{
    uint64_t failures = lost_memory();
    json_t *json = read_json(text, size, JSON_ALLOW_NUL, NULL);
    const json_t *number = json_object_get(json, "line");
    const char *digest = json_string_value(json_object_get(json, "digest"));
    struct answered line = {.offset = output->size, .size = size};
    hypura_status status = check_memory(failures, "answered lines", error);
    if (status) {
        json_decref(json);
        return status;
    }
    if (json_is_integer(number) && json_integer_value(number) > 0 && digest && strlen(digest) < BATCH_DIGEST) {
        line.number = (uint64_t)json_integer_value(number);
        strcpy(line.digest, digest);
        status = add_line(output, &line, error);
    } else {
        status = not_ours(output, error);
    }
    json_decref(json);
    return status;
}

static hypura_status read_places(struct batch_output *output, hypura_error *error)
{
    FILE *file = fopen(output->path, "rbe");
    char *text = NULL;
    size_t room = 0;
    ssize_t size = 0;
    hypura_status status = file ? HYPURA_OK : set_error_errno(error, errno, "cannot read %s", output->path);
    while (!status && (size = getline(&text, &room, file)) > 0 && text[size - 1] == '\n') {
        status = read_line(output, text, (size_t)size, error);
        output->size += (uint64_t)size;
    }
    if (!status && size > 0 && feof(file) && !may_be_cut(text, (size_t)size))
        status = not_ours(output, error);
    if (!status && !feof(file)) /* or memory ran out: do not truncate what was not read */
        status = set_error_errno(error, errno, "cannot read %s", output->path);
    free(text);
    if (file)
        fclose(file);
    if (!status && ftruncate(output->file, (off_t)output->size))
        status = set_error_errno(error, errno, "cannot write %s", output->path);
    if (output->count)
        qsort(output->lines, output->count, sizeof *output->lines, by_number);
    output->known = output->count;
    return status;
}

/* Whether path is still the opened file: a run that has just ended may have replaced it with its sorted output. */
static bool is_still_there(const char *path, const struct stat *opened)
{
    struct stat now;
    return stat(path, &now) == 0 && now.st_dev == opened->st_dev && now.st_ino == opened->st_ino;
}

static hypura_status open_standard(struct batch_output *output, hypura_error *error)
{
    struct stat info;
    output->standard = true;
    output->file = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (output->file < 0 || fstat(output->file, &info))
        return set_error_errno(error, errno, "cannot write standard output");
    /* As with ">>", which suggests that the run should continue. */
    if (S_ISREG(info.st_mode) && info.st_size > 0 && (fcntl(output->file, F_GETFL) & O_APPEND))
        return set_error(error, HYPURA_ERROR_ARGUMENT,
                         "standard output appends to a file that is not empty, but cannot be read back: to continue "
                         "that file, name it with "
                         "--output instead of -");
    return copy_text(&output->path, "standard output", error);
}

static hypura_status open_file(struct batch_output *output, const char *path, hypura_error *error)
{
    struct stat info = {0};
    hypura_status status;
    output->file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    char *real = output->file >= 0 ? realpath(path, NULL) : NULL;
    if (output->file < 0 || fstat(output->file, &info))
        status = set_error_errno(error, errno, "cannot write %s", path);
    else
        status = copy_text(&output->path, real ? real : path, error);
    free(real);
    output->regular = S_ISREG(info.st_mode);
    if (!status && output->regular && (flock(output->file, LOCK_EX | LOCK_NB) || !is_still_there(output->path, &info)))
        status = set_error(error, HYPURA_ERROR_ARGUMENT, "another process writes to %s", path);
    if (!status && output->regular)
        status = read_places(output, error);
    return status;
}

hypura_status batch_output_open(struct batch_output **out, const char *path, hypura_error *error)
{
    struct batch_output *output;
    hypura_status status = NEW_ARRAY(&output, 1, "output", error);
    if (status)
        return status;
    status = strcmp(path, "-") == 0 ? open_standard(output, error) : open_file(output, path, error);
    if (status)
        batch_output_close(output);
    else
        *out = output;
    return status;
}

void batch_output_close(struct batch_output *output)
{
    if (!output)
        return;
    if (output->file >= 0) {
        if (output->regular)
            fsync(output->file);
        close(output->file);
    }
    free_memory(output->path);
    free_memory(output->lines);
    free_memory(output);
}

bool batch_output_is_standard(const struct batch_output *output)
{
    return output->standard;
}

size_t batch_output_count(const struct batch_output *output)
{
    return output->count;
}

hypura_status batch_output_has(struct batch_output *output, uint64_t number, const char *digest, bool *has,
                               hypura_error *error)
{
    struct answered key = {.number = number};
    const struct answered *line =
        output->known ? bsearch(&key, output->lines, output->known, sizeof key, by_number) : NULL;
    *has = line != NULL;
    if (line && strcmp(line->digest, digest) != 0)
        return set_error(error, HYPURA_ERROR_ARGUMENT,
                         "line %llu of the input has changed since %s answered it: name another output",
                         (unsigned long long)number, output->path);
    return HYPURA_OK;
}

/* ---- writing ---- */

static bool write_all(int file, const char *text, size_t size)
{
    while (size) {
        ssize_t written = write(file, text, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        text += written;
        size -= (size_t)written;
    }
    return true;
}

hypura_status batch_output_write(struct batch_output *output, uint64_t number, const json_t *json, hypura_error *error)
{
    uint64_t failures = lost_memory();
    char *text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(FLOAT_DIGITS));
    bool whole = text && lost_memory() == failures; /* if memory ran out, the text may be incomplete */
    if (!whole)
        free(text);
    if (!whole)
        return set_error(error, HYPURA_ERROR_MEMORY, "no memory for the answer of line %llu",
                         (unsigned long long)number);
    size_t size = strlen(text);
    text[size++] = '\n'; /* in place of the NUL */
    struct answered line = {.number = number, .offset = output->size, .size = size};
    hypura_status status = add_line(output, &line, error);
    if (!status && !write_all(output->file, text, size)) {
        status = set_error_errno(error, errno, "cannot write %s", output->path);
        output->count--;
        if (output->regular && ftruncate(output->file, (off_t)output->size))
            log_warning("the last line of %s is incomplete", output->path);
    }
    if (!status)
        output->size += size;
    free(text);
    if (!status && output->regular && now_nanoseconds() - output->synced > SYNC_NANOSECONDS) {
        fsync(output->file);
        output->synced = now_nanoseconds();
    }
    return status;
}

/* ---- order ---- */

static hypura_status copy_line(FILE *from, FILE *to, const struct answered *line, char **text, size_t *room)
{
    if (*room < line->size) {
        if (resize_array((void **)text, *room, line->size, 1, "line", NULL))
            return HYPURA_ERROR_MEMORY;
        *room = line->size;
    }
    bool fine = fseeko(from, (off_t)line->offset, SEEK_SET) == 0 && fread(*text, 1, line->size, from) == line->size &&
                fwrite(*text, 1, line->size, to) == line->size;
    return fine ? HYPURA_OK : HYPURA_ERROR_IO;
}

static hypura_status write_in_order(const struct batch_output *output, const char *path, hypura_error *error)
{
    FILE *from = fopen(output->path, "rbe"), *to = fopen(path, "wbe");
    char *text = NULL;
    size_t room = 0;
    hypura_status status = from && to ? HYPURA_OK : HYPURA_ERROR_IO;
    for (size_t i = 0; !status && i < output->count; i++)
        status = copy_line(from, to, &output->lines[i], &text, &room);
    if (!status && (fflush(to) || fsync(fileno(to))))
        status = HYPURA_ERROR_IO;
    if (status)
        set_error_errno(error, errno, "cannot write %s", path);
    free_memory(text);
    if (from)
        fclose(from);
    if (to)
        fclose(to);
    return status;
}

hypura_status batch_output_sort(struct batch_output *output, hypura_error *error)
{
    struct text_buffer path = {0};
    struct stat info;
    bool sorted = true;
    for (size_t i = 1; i < output->count; i++)
        sorted &= output->lines[i - 1].number < output->lines[i].number &&
                  output->lines[i - 1].offset < output->lines[i].offset;
    if (sorted || !output->regular)
        return HYPURA_OK;
    qsort(output->lines, output->count, sizeof *output->lines, by_number);
    text_add_format(&path, "%s.sorting", output->path);
    if (path.failed)
        return set_error(error, HYPURA_ERROR_MEMORY, "no memory for a path");
    hypura_status status = write_in_order(output, path.data, error);
    if (!status &&
        (fstat(output->file, &info) || chmod(path.data, info.st_mode & 07777) || rename(path.data, output->path)))
        status = set_error_errno(error, errno, "cannot replace %s", output->path);
    if (status)
        unlink(path.data);
    text_free(&path);
    return status;
}
