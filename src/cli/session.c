/* A conversation in a file, and what the model's cache holds of it, so that it goes on in another run without being
 * read again. The file has
 *
 *   "hypura session 1 BYTES DIGEST\n"   of the next line
 *   {"model", "messages", "tokens", "state"}, as JSON on one line: how many tokens are in the cache, and what their
 *                                       rows go with (engine_state_digest); both are 0 where the cache is left out
 *   the tokens, their rows in steps of ROWS_STEP positions, and the checkpoint at the last of them, each followed by a
 *   digest of it
 */
#include "cli/conversation.h"
#include "core/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION 1
#define MOST_TEXT ((uint64_t)256 << 20)
#define SMALL ((uint64_t)16 << 20)
#define ROWS_STEP PLAN_KV_BLOCK

static const char magic[] = "hypura session ";

static uint64_t digest(const void *data, size_t size)
{
    return fnv1a(FNV1A_START, data, size);
}

/* A step of the rows, or the checkpoint. */
static hypura_status make_piece(const struct engine *engine, uint32_t tokens, void **piece, hypura_error *error)
{
    uint64_t most =
        MAX(engine_rows_bytes(engine, 0, MIN(tokens, ROWS_STEP)), engine_checkpoint_bytes_at(engine, tokens));
    return memory_allocate(piece, (size_t)MAX(most, (uint64_t)1), 1, "part of a conversation", error);
}

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

static bool put(FILE *file, const void *data, size_t size)
{
    uint64_t sum = digest(data, size);
    return fwrite(data, 1, size, file) == size && fwrite(&sum, sizeof sum, 1, file) == 1;
}

/* False: it cannot be written, and errno says why; or the engine refuses, with the error. */
static bool put_state(const struct conversation *chat, FILE *file, const int32_t *tokens, uint32_t count,
                      hypura_error *error)
{
    struct engine *engine = chat->engine;
    void *piece = NULL;
    bool fine = !make_piece(engine, count, &piece, error) && put(file, tokens, count * sizeof *tokens);
    for (uint32_t at = 0, end; fine && at < count; at = end) {
        end = MIN(at + ROWS_STEP, count);
        fine = !engine_read_rows(engine, 0, at, end, piece, error) &&
               put(file, piece, (size_t)engine_rows_bytes(engine, at, end));
    }
    uint64_t bytes = engine_checkpoint_bytes_at(engine, count);
    if (fine && bytes)
        fine = !engine_read_checkpoint(engine, 0, piece, error) && put(file, piece, (size_t)bytes);
    memory_free(piece);
    return fine;
}

static bool put_all(const struct conversation *chat, FILE *file, enum conversation_state state, hypura_error *error)
{
    const int32_t *tokens = NULL;
    uint64_t sum = 0;
    uint32_t count = generator_held(chat->generator, 0, &tokens);
    if (state == SAVE_SMALL && engine_rows_bytes(chat->engine, 0, count) > SMALL)
        count = 0;
    if (count && engine_state_digest(&sum, chat->engine, error))
        return false;
    uint64_t failures = memory_failures(); /* a text that lacks a part looks like any other */
    json_t *json =
        json_pack("{s:s, s:O, s:I, s:o}", "model", model_name(engine_model(chat->engine)), "messages", chat->messages,
                  "tokens", (json_int_t)count, "state", json_sprintf("%016llx", (unsigned long long)sum));
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    size_t size = text ? strlen(text) : 0;
    bool fine =
        !memory_check(failures, "conversation", error) &&
        fprintf(file, "%s%d %zu %016llx\n%s\n", magic, VERSION, size, (unsigned long long)digest(text, size), text) > 0;
    free(text);
    json_decref(json);
    return fine && (!count || put_state(chat, file, tokens, count, error));
}

/* A link leads to what is replaced. */
static hypura_status find_place(const char *path, char target[PATH_MAX], char partial[PATH_MAX], hypura_error *error)
{
    if (!realpath(path, target) && snprintf(target, PATH_MAX, "%s", path) >= PATH_MAX)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path %.200s... is too long", path);
    if (snprintf(partial, PATH_MAX, "%s.%ld.partial", target, (long)getpid()) >= PATH_MAX)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path %.200s... is too long", path);
    return durable_may_replace(target, error);
}

hypura_status conversation_save(const struct conversation *chat, const char *path, enum conversation_state state,
                                hypura_error *error)
{
    char target[PATH_MAX], partial[PATH_MAX];
    *error = (hypura_error){0};
    if (find_place(path, target, partial, error))
        return error->status;
    /* What was said is nobody else's. */
    int descriptor = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    errno = file ? 0 : errno;
    bool fine = file && put_all(chat, file, state, error) && fflush(file) == 0 &&
                durable_file(descriptor, partial, error) == HYPURA_OK;
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
            error_set_errno(&why, number, "%s", path);
        return error_set(error, why.status, "the conversation could not be kept: %s", why.message);
    }
    return durable_folder_of(target, error);
}

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

static bool get(FILE *file, void *data, size_t size)
{
    uint64_t sum;
    return fread(data, 1, size, file) == size && fread(&sum, sizeof sum, 1, file) == 1 && sum == digest(data, size);
}

/* Into the first sequence; false where it is damaged, or the engine has no room for it. */
static bool get_state(struct conversation *chat, FILE *file, uint32_t count)
{
    struct engine *engine = chat->engine;
    hypura_error error = {0};
    int32_t *tokens = NULL;
    void *piece = NULL;
    bool fine = !make_piece(engine, count, &piece, &error) && !ALLOCATE(&tokens, count, "tokens", &error) &&
                get(file, tokens, count * sizeof *tokens);
    for (uint32_t at = 0, end; fine && at < count; at = end) {
        end = MIN(at + ROWS_STEP, count);
        fine = get(file, piece, (size_t)engine_rows_bytes(engine, at, end)) &&
               !engine_write_rows(engine, 0, at, end, piece, &error);
    }
    uint64_t bytes = engine_checkpoint_bytes_at(engine, count);
    if (fine && bytes)
        fine = get(file, piece, (size_t)bytes);
    fine = fine && !engine_write_checkpoint(engine, 0, count, tokens, bytes ? piece : NULL, &error);
    if (fine)
        generator_hold(chat->generator, 0, tokens, count);
    else
        engine_truncate(engine, 0, 0);
    memory_free(piece);
    memory_free(tokens);
    return fine;
}

static bool is_message(const json_t *message)
{
    return json_is_string(json_object_get(message, "role")) && json_is_string(json_object_get(message, "content"));
}

/* The line of JSON; NULL with an error. */
static json_t *read_head(FILE *file, const char *path, hypura_error *error)
{
    char line[128], *text = NULL;
    unsigned version = 0;
    unsigned long long size = 0, sum = 0;
    json_t *json = NULL;
    uint64_t failures = memory_failures();
    bool begun = fgets(line, sizeof line, file) && strncmp(line, magic, sizeof magic - 1) == 0;
    if (ferror(file)) {
        error_set_errno(error, errno, "cannot read %s", path);
        return NULL;
    }
    if (!begun || sscanf(line + sizeof magic - 1, "%u %llu %16llx", &version, &size, &sum) < 1) {
        error_set(error, HYPURA_ERROR_FORMAT,
                  "%s is not a conversation of hypura, and was left as it is; give another name", path);
        return NULL;
    }
    if (version != VERSION) {
        error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s was written by another version of hypura (form %u, not %d)",
                  path, version, VERSION);
        return NULL;
    }
    if (size > 0 && size <= MOST_TEXT && memory_allocate((void **)&text, (size_t)size, 1, "conversation", error))
        return NULL;
    if (text && fread(text, 1, (size_t)size, file) == size && fgetc(file) == '\n' && digest(text, (size_t)size) == sum)
        json = json_loadb(text, (size_t)size, JSON_ALLOW_NUL, NULL);
    memory_free(text);
    const json_t *messages = json_object_get(json, "messages"), *message;
    size_t i;
    bool fine = json_is_array(messages) && json_is_string(json_object_get(json, "model"));
    json_array_foreach(messages, i, message) fine = fine && is_message(message);
    if (ferror(file))
        error_set_errno(error, errno, "cannot read %s", path);
    if (error->status || memory_check(failures, "conversation", error)) {
        json_decref(json);
        return NULL;
    }
    if (!fine) {
        json_decref(json);
        error_set(error, HYPURA_ERROR_FORMAT, "%s is damaged: the conversation in it cannot be read", path);
        return NULL;
    }
    return json;
}

/* What the file has of the cache. A conversation without it is whole, and is read again. */
static void take_state(struct conversation *chat, FILE *file, const char *path, const json_t *head)
{
    json_int_t count = json_integer_value(json_object_get(head, "tokens"));
    const char *text = json_string_value(json_object_get(head, "state"));
    uint64_t own = 0;
    hypura_error error = {0};
    if (count <= 0 || count >= engine_plan(chat->engine)->positions)
        return;
    if (engine_state_digest(&own, chat->engine, &error) || !text || strtoull(text, NULL, 16) != own)
        fprintf(stderr, "hypura: %s is of another file of the model or of other options: it is read again\n", path);
    else if (!get_state(chat, file, (uint32_t)count))
        fprintf(stderr, "hypura: what %s has of the cache cannot be used: the conversation is read again\n", path);
}

hypura_status conversation_load(struct conversation *chat, const char *path, hypura_error *error)
{
    *error = (hypura_error){0};
    FILE *file = fopen(path, "rbe");
    if (!file)
        return error_set_errno(error, errno, "cannot open %s", path);
    json_t *head = read_head(file, path, error);
    const char *own = model_name(engine_model(chat->engine)), *said = json_string_value(json_object_get(head, "model"));
    if (head && strcmp(own, said) != 0)
        error_set(error, HYPURA_ERROR_ARGUMENT,
                  "the conversation in %s was held with %s, and this is %s: name that model, or another file", path,
                  said, own);
    if (!error->status) {
        json_decref(chat->messages);
        chat->messages = json_incref(json_object_get(head, "messages"));
        generator_hold(chat->generator, 0, NULL, 0);
        take_state(chat, file, path, head);
    }
    json_decref(head);
    fclose(file);
    return error->status;
}
