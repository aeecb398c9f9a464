/* Checks all bytes of a model that came without a digest. */
#include "format/format.h"
#include "server/pull_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONGEST ((uint64_t)4096) /* a run of zeros is suspicious from here on; drives lose whole pages */
#define BLUR 16 /* bytes by which zeros may miss the edge of a row, as weights there may be zeros too */
#define PIECE ((size_t)1 << 20)

struct search {
    const struct gguf *file;
    const struct gguf_tensor **tensors; /* in the order of the files */
    size_t count;
    int opened;
    uint32_t index; /* of the open file */
    unsigned char *piece;
    uint64_t zeros;    /* length of the current run of zeros, in matrices */
    bool whole_rows;   /* it begins with a row: rows of unused tokens, for example, are all zeros */
    size_t begin;      /* tensor in which it begins */
    uint64_t begin_at; /* offset in that tensor */
};

static int by_place(const void *a, const void *b)
{
    const struct gguf_tensor *left = *(const struct gguf_tensor *const *)a;
    const struct gguf_tensor *right = *(const struct gguf_tensor *const *)b;
    if (left->file != right->file)
        return left->file < right->file ? -1 : 1;
    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

static uint64_t word_at(const unsigned char *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

static bool are_weights(const struct gguf_tensor *tensor)
{
    return tensor->dimension_count > 1 && tensor->dimensions[1] > 1;
}

static void begin_zeros(struct search *search, size_t tensor, uint64_t row, uint64_t at)
{
    search->zeros = 0;
    search->begin = tensor;
    search->begin_at = at;
    search->whole_rows = (row - at % row) % row <= BLUR;
}

/* Ends a run of zeros. False: it is damage. */
static bool end_zeros(struct search *search, bool whole_rows)
{
    if (search->zeros >= LONGEST && !(search->whole_rows && whole_rows))
        return false;
    search->zeros = 0;
    return true;
}

/* Searches bytes of a matrix, from offset at on. It steps by words, since a long run contains words of zeros. */
static bool search_piece(struct search *search, size_t tensor, uint64_t row, uint64_t at, size_t size)
{
    const unsigned char *data = search->piece;
    for (size_t i = 0; i < size;) {
        size_t from = i;
        if (search->zeros) {
            while (i + 8 <= size && word_at(data + i) == 0)
                i += 8;
            while (i < size && data[i] == 0)
                i++;
            search->zeros += i - from;
            if (i < size && !end_zeros(search, (at + i) % row <= BLUR))
                return false;
            continue;
        }
        while (i + 8 <= size && word_at(data + i) != 0)
            i += 8;
        if (i + 8 > size) /* zeros at the end of the piece */
            for (i = size; i > from && data[i - 1] == 0; i--)
                ;
        else
            while (i > from && data[i - 1] == 0)
                i--;
        if (i < size) {
            begin_zeros(search, tensor, row, at + i);
            search->zeros = 1;
            i++;
        }
    }
    return true;
}

static hypura_status open_file(struct search *search, uint32_t index, hypura_error *error)
{
    if (search->opened >= 0 && search->index == index)
        return HYPURA_OK;
    if (search->opened >= 0)
        close(search->opened);
    search->index = index;
    search->opened = open(gguf_file_path(search->file, index), O_RDONLY | O_CLOEXEC);
    return search->opened >= 0 ? HYPURA_OK
                               : error_set_errno(error, errno, "cannot read %s", gguf_file_path(search->file, index));
}

static hypura_status read_piece(struct search *search, uint64_t at, size_t size, hypura_error *error)
{
    for (size_t have = 0; have < size;) {
        ssize_t got = pread(search->opened, search->piece + have, size - have, (off_t)(at + have));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return error_set_errno(error, got ? errno : EIO, "cannot read %s",
                                   gguf_file_path(search->file, search->index));
        have += (size_t)got;
    }
    return HYPURA_OK;
}

static hypura_status damaged(const struct search *search, hypura_error *error)
{
    const struct gguf_tensor *tensor = search->tensors[search->begin];
    return error_set(
        error, HYPURA_ERROR_FORMAT,
        "%s is damaged: at byte %llu of \"%.100s\" there are %llu or more zeros instead of weights; download "
        "the file again",
        gguf_file_path(search->file, tensor->file), (unsigned long long)search->begin_at, tensor->name.data,
        (unsigned long long)search->zeros);
}

static hypura_status search_tensor(struct search *search, size_t number, bool (*go_on)(void *context), void *context,
                                   hypura_error *error)
{
    const struct gguf_tensor *tensor = search->tensors[number];
    uint64_t row = 0;
    bool weights = are_weights(tensor) && tensor_row_bytes(tensor->type, tensor->dimensions[0], &row) && row > 0;
    hypura_status status = open_file(search, tensor->file, error);
    for (uint64_t at = 0; !status && at < tensor->bytes; at += PIECE) {
        size_t size = (size_t)MIN((uint64_t)PIECE, tensor->bytes - at), zeros = 0;
        if (go_on && !go_on(context))
            return error_set(error, HYPURA_ERROR_CANCELLED, "the download was stopped");
        status = read_piece(search, tensor->offset + at, size, error);
        if (status)
            break;
        while (!weights && zeros < size && search->piece[zeros] == 0)
            zeros++;
        if (weights ? !search_piece(search, number, row, at, size) : zeros < size && !end_zeros(search, true))
            return damaged(search, error);
    }
    return status;
}

hypura_status pull_check_weights(const char *path, bool (*go_on)(void *context), void *context, hypura_error *error)
{
    struct gguf *file;
    hypura_status status = gguf_open(&file, path, error);
    if (status)
        return status;
    struct search search = {.file = file, .count = gguf_tensor_count(file), .opened = -1};
    status = ALLOCATE(&search.tensors, search.count, "list of tensors", error);
    if (!status)
        status = ALLOCATE(&search.piece, PIECE, "download", error);
    for (size_t i = 0; !status && i < search.count; i++)
        search.tensors[i] = gguf_tensor_at(file, i);
    if (!status && search.count)
        qsort(search.tensors, search.count, sizeof *search.tensors, by_place);
    for (size_t i = 0; !status && i < search.count; i++)
        status = search_tensor(&search, i, go_on, context, error);
    if (!status && !end_zeros(&search, true))
        status = damaged(&search, error);
    if (search.opened >= 0)
        close(search.opened);
    memory_free(search.piece);
    memory_free(search.tensors);
    gguf_close(file);
    return status;
}
