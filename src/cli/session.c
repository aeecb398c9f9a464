/* The file of a conversation and its computed data, so that another run can continue it without computing it again.
 * It contains
 *
 *   "hypura session 2 BYTES DIGEST\n"   of the next line
 *   {"model", "messages", "tokens"}, as JSON on one line; tokens is 0 if the computed data are left out
 *   the output of hypura_session_write
 *
 * Version 1 had the computed data in another format: from such files, only the messages are used.
 */
#include "cli/conversation.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION 2u
#define OLDEST 1u
#define MOST_TEXT ((uint64_t)256 << 20)
#define SMALL ((uint64_t)16 << 20)

static const char magic[] = "hypura session ";

static uint64_t digest(const void *data, size_t size)
{
    return hash_bytes(HASH_START, data, size);
}

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

/* Counts the bytes that would be written; false: more than SMALL. */
static bool count_bytes(void *context, const void *bytes, size_t size)
{
    uint64_t *counted = context;
    (void)bytes;
    *counted += size;
    return *counted <= SMALL;
}

static bool put_bytes(void *context, const void *bytes, size_t size)
{
    return fwrite(bytes, 1, size, context) == size;
}

/* False: errno has the error in writing, or *error that of the library. */
static bool put_all(const struct conversation *chat, FILE *file, enum conversation_state state, hypura_error *error)
{
    uint64_t counted = 0;
    size_t tokens = 0;
    hypura_session_tokens(chat->session, &tokens);
    if (state == SAVE_SMALL && hypura_session_write(chat->session, count_bytes, &counted, NULL))
        tokens = 0;
    uint64_t failures = lost_memory(); /* an incomplete text cannot be recognised as such */
    json_t *json = json_pack("{s:s, s:O, s:I}", "model", hypura_get_info(chat->model)->name, "messages", chat->messages,
                             "tokens", (json_int_t)tokens);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    size_t size = text ? strlen(text) : 0;
    bool fine =
        !check_memory(failures, "conversation", error) &&
        fprintf(file, "%s%u %zu %016llx\n%s\n", magic, VERSION, size, (unsigned long long)digest(text, size), text) > 0;
    free(text);
    json_decref(json);
    errno = 0;
    if (!fine || !tokens || !hypura_session_write(chat->session, put_bytes, file, error))
        return fine;
    if (errno && error->status == HYPURA_ERROR_IO)
        *error = (hypura_error){0}; /* errno is more precise */
    return false;
}

/* Resolves symbolic links, so that the file itself is replaced, not the link. */
static hypura_status find_place(const char *path, char target[PATH_MAX], char partial[PATH_MAX], hypura_error *error)
{
    if (!realpath(path, target) && snprintf(target, PATH_MAX, "%s", path) >= PATH_MAX)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "the path %.200s... is too long", path);
    if (snprintf(partial, PATH_MAX, "%s.%ld.partial", target, (long)getpid()) >= PATH_MAX)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "the path %.200s... is too long", path);
    return may_replace_file(target, error);
}

hypura_status conversation_save(const struct conversation *chat, const char *path, enum conversation_state state,
                                hypura_error *error)
{
    char target[PATH_MAX], partial[PATH_MAX];
    *error = (hypura_error){0};
    hypura_cancel(chat->session, false); /* save what was said before an interrupt */
    if (find_place(path, target, partial, error))
        return error->status;
    /* Only the owner may read a conversation. */
    int descriptor = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    errno = file ? 0 : errno;
    bool fine = file && put_all(chat, file, state, error) && fflush(file) == 0 &&
                flush_file(descriptor, partial, error) == HYPURA_OK;
    int number = errno;
    if (file ? fclose(file) : descriptor >= 0 && close(descriptor)) {
        number = fine ? errno : number;
        fine = false;
    }
    if (fine && rename(partial, target)) {
        number = errno;
        fine = false;
    }
    if (!fine) {
        if (descriptor >= 0)
            unlink(partial);
        hypura_error why = *error;
        if (!why.status)
            set_error_errno(&why, number, "%s", path);
        return set_error(error, why.status, "the conversation could not be saved: %s", why.message);
    }
    return flush_folder_of(target, error);
}

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

static bool get_bytes(void *context, void *bytes, size_t size)
{
    return fread(bytes, 1, size, context) == size;
}

static bool is_message(const json_t *message)
{
    return json_is_string(json_object_get(message, "role")) && json_is_string(json_object_get(message, "content"));
}

/* Reads the line of JSON, and the file's version. NULL with an error. */
static json_t *read_head(FILE *file, unsigned *form, const char *path, hypura_error *error)
{
    char line[128], *text = NULL;
    unsigned version = 0;
    unsigned long long size = 0, sum = 0;
    json_t *json = NULL;
    uint64_t failures = lost_memory();
    bool begun = fgets(line, sizeof line, file) && strncmp(line, magic, sizeof magic - 1) == 0;
    if (ferror(file)) {
        set_error_errno(error, errno, "cannot read %s", path);
        return NULL;
    }
    if (!begun || sscanf(line + sizeof magic - 1, "%u %llu %16llx", &version, &size, &sum) < 1) {
        set_error(error, HYPURA_ERROR_FORMAT,
                  "%s is not a conversation of hypura, and was not changed; name another file", path);
        return NULL;
    }
    if (version < OLDEST || version > VERSION) {
        set_error(error, HYPURA_ERROR_UNSUPPORTED, "%s was written by another version of hypura (format %u, not %u)",
                  path, version, VERSION);
        return NULL;
    }
    if (size > 0 && size <= MOST_TEXT && new_array((void **)&text, (size_t)size, 1, "conversation", error))
        return NULL;
    if (text && fread(text, 1, (size_t)size, file) == size && fgetc(file) == '\n' && digest(text, (size_t)size) == sum)
        json = read_json(text, (size_t)size, JSON_ALLOW_NUL, NULL);
    free_memory(text);
    const json_t *messages = json_object_get(json, "messages"), *message;
    size_t i;
    bool fine = json_is_array(messages) && json_is_string(json_object_get(json, "model"));
    json_array_foreach(messages, i, message) fine = fine && is_message(message);
    if (ferror(file))
        set_error_errno(error, errno, "cannot read %s", path);
    if (error->status || check_memory(failures, "conversation", error)) {
        json_decref(json);
        return NULL;
    }
    if (!fine) {
        json_decref(json);
        set_error(error, HYPURA_ERROR_FORMAT, "%s is damaged: its conversation cannot be read", path);
        return NULL;
    }
    *form = version;
    return json;
}

/* Restores the computed data. Without them, the conversation is complete, but is computed again. */
static void take_state(struct conversation *chat, FILE *file, const char *path, const json_t *head, unsigned form)
{
    size_t computed = 0;
    json_int_t tokens = json_integer_value(json_object_get(head, "tokens"));
    if (tokens <= 0 || tokens >= hypura_get_plan(chat->model)->context_tokens)
        return;
    if (form != VERSION)
        fprintf(stderr, "hypura: %s is from an older version of hypura: the conversation is read again\n", path);
    else if (hypura_session_read(chat->session, get_bytes, file, &computed, NULL))
        fprintf(stderr, "hypura: the computed data in %s cannot be used: the conversation is read again\n", path);
    else if (!computed)
        fprintf(stderr,
                "hypura: %s was saved with another model file or other options: the conversation is read again\n",
                path);
}

hypura_status conversation_load(struct conversation *chat, const char *path, hypura_error *error)
{
    *error = (hypura_error){0};
    FILE *file = fopen(path, "rbe");
    if (!file)
        return set_error_errno(error, errno, "cannot open %s", path);
    unsigned form = 0;
    json_t *head = read_head(file, &form, path, error);
    const char *own = hypura_get_info(chat->model)->name, *said = json_string_value(json_object_get(head, "model"));
    if (head && strcmp(own, said) != 0)
        set_error(error, HYPURA_ERROR_ARGUMENT,
                  "the conversation in %s was held with %s, but this model is %s: name that model, or another file",
                  path, said, own);
    if (!error->status) {
        json_decref(chat->messages);
        chat->messages = json_incref(json_object_get(head, "messages"));
        take_state(chat, file, path, head, form);
    }
    json_decref(head);
    fclose(file);
    return error->status;
}
