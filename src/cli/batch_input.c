#include "cli/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGE ((size_t)1 << 20) /* the memory of longer lines is freed after use */

/* The byte order mark of UTF-8, with which some editors begin a file. It is skipped. */
static const char MARK[] = "\xEF\xBB\xBF";
#define MARK_BYTES (sizeof MARK - 1)

struct batch_input {
    const char *path;
    int file;
    char bytes[1 << 16]; /* read ahead */
    size_t at, end;
    bool ended;
    size_t mark; /* bytes of MARK found so far; MARK_BYTES once the file is known to have none */
    uint64_t lines;

    /* The line that is being read, or the last line if whole. */
    bool whole;
    uint64_t number, size, hash; /* the hash detects lines that were edited after they were answered */
    bool blank;
    struct text_buffer text;
};

static void begin_line(struct batch_input *input)
{
    input->number++;
    input->size = 0;
    input->hash = HASH_START;
    input->blank = true;
    input->whole = false;
    if (input->text.capacity > LARGE) /* the model needs that memory */
        text_free(&input->text);
    else
        text_clear(&input->text);
}

static void take(struct batch_input *input, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        input->blank &= bytes[i] == ' ' || bytes[i] == '\t' || bytes[i] == '\r';
    input->hash = hash_bytes(input->hash, bytes, size);
    input->size += size;
    text_add(&input->text, bytes, size);
}

static void skip_mark(struct batch_input *input)
{
    while (input->mark < MARK_BYTES && input->at < input->end) {
        if (input->bytes[input->at] != MARK[input->mark]) {
            take(input, MARK, input->mark);
            input->mark = MARK_BYTES;
            return;
        }
        input->at++;
        input->mark++;
    }
}

/* Reads more bytes. May return without any, even if poll reported some. */
static hypura_status fill(struct batch_input *input, int milliseconds, hypura_error *error)
{
    struct pollfd ready = {.fd = input->file, .events = POLLIN};
    if (poll(&ready, 1, milliseconds) <= 0)
        return HYPURA_OK;
    ssize_t size = read(input->file, input->bytes, sizeof input->bytes);
    if (size < 0 && errno != EINTR && errno != EAGAIN)
        return set_error_errno(error, errno, "cannot read %s", input->path);
    input->ended = size == 0;
    input->at = 0;
    input->end = (size_t)MAX(size, 0);
    return HYPURA_OK;
}

static hypura_status give(struct batch_input *input, struct batch_text *out, hypura_error *error)
{
    bool too_long = input->size > BATCH_LINE_LIMIT;
    if (input->text.failed && !too_long)
        return set_error(error, HYPURA_ERROR_MEMORY, "no memory for line %" PRIu64 " of %s", input->number,
                         input->path);
    *out =
        (struct batch_text){.number = input->number, .size = input->size, .text = too_long ? NULL : input->text.data};
    snprintf(out->digest, BATCH_DIGEST, "%016" PRIx64, input->hash);
    return HYPURA_OK;
}

hypura_status batch_input_next(struct batch_input *input, int milliseconds, enum batch_reading *reading,
                               struct batch_text *out, hypura_error *error)
{
    for (;;) {
        if (input->whole)
            begin_line(input);
        if (input->at == input->end && !input->ended && fill(input, milliseconds, error))
            return error->status;
        skip_mark(input);
        *reading = BATCH_LATER;
        if (input->at == input->end && !input->ended)
            return HYPURA_OK;
        const char *from = input->bytes + input->at;
        size_t left = input->end - input->at;
        const char *newline = memchr(from, '\n', left);
        size_t size = newline ? (size_t)(newline - from) : left;
        take(input, from, size);
        input->at += size + (newline != NULL);
        input->whole = newline || input->ended;
        *reading = input->blank ? BATCH_ENDED : BATCH_LINE;
        if (input->whole && !input->blank)
            return give(input, out, error);
        if (input->whole && !newline)
            return HYPURA_OK;
    }
}

static hypura_status count_lines(struct batch_input *input, hypura_error *error)
{
    struct batch_text text;
    enum batch_reading reading;
    hypura_status status;
    while (!(status = batch_input_next(input, -1, &reading, &text, error)) && reading != BATCH_ENDED && !interrupted())
        input->lines += reading == BATCH_LINE;
    if (!status && lseek(input->file, 0, SEEK_SET) < 0)
        status = set_error_errno(error, errno, "cannot read %s", input->path);
    input->number = 0;
    input->mark = 0;
    input->at = input->end = 0;
    input->ended = false;
    input->whole = true;
    return status;
}

hypura_status batch_input_open(struct batch_input **out, const char *path, hypura_error *error)
{
    struct batch_input *input;
    struct stat info;
    hypura_status status = NEW_ARRAY(&input, 1, "input", error);
    if (status)
        return status;
    bool standard_input = strcmp(path, "-") == 0;
    input->path = standard_input ? "standard input" : path;
    input->text.limit = BATCH_LINE_LIMIT;
    input->whole = true;
    input->file = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (input->file < 0)
        status = set_error_errno(error, errno, "cannot open %s", path);
    else if (!standard_input && !fstat(input->file, &info) && S_ISREG(info.st_mode))
        status = count_lines(input, error);
    if (status)
        batch_input_close(input);
    else
        *out = input;
    return status;
}

void batch_input_close(struct batch_input *input)
{
    if (!input)
        return;
    if (input->file > STDIN_FILENO)
        close(input->file);
    text_free(&input->text);
    free_memory(input);
}

uint64_t batch_input_lines(const struct batch_input *input)
{
    return input->lines;
}
