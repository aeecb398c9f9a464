/* Saves and restores a session's tokens and what the model computed for them:
 *
 *   "hypura state 1 TOKENS COMPUTED DIGEST\n"   text: the number of tokens, how many of them were computed, and the
 *                                               engine_state_digest with which the rows can be used
 *   the tokens, the rows of the computed tokens in blocks of STEP positions, and the checkpoint of the last of them,
 *   each followed by its own digest
 */
#include "api/api_private.h"
#include "core/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP PLAN_KV_BLOCK
#define MOST_TOKENS (1u << 24)
#define HEAD_BYTES 64 /* padded with spaces */

struct stream {
    hypura_writer write;
    hypura_reader read;
    void *context;
};

static hypura_status make_piece(const struct engine *engine, uint32_t tokens, void **piece, hypura_error *error)
{
    uint64_t most = MAX(engine_rows_bytes(engine, 0, MIN(tokens, STEP)), engine_checkpoint_bytes_at(engine, tokens));
    return memory_allocate(piece, (size_t)MAX(most, (uint64_t)1), 1, "part of a session", error);
}

/* ---- writing ---- */

static hypura_status put(struct stream *to, const void *bytes, size_t size, hypura_error *error)
{
    uint64_t sum = fnv1a(FNV1A_START, bytes, size);
    bool written = to->write(to->context, bytes, size) && to->write(to->context, &sum, sizeof sum);
    return written ? HYPURA_OK : error_set(error, HYPURA_ERROR_IO, "the session could not be written");
}

/* Finds the sequence that has computed most of the session's tokens, and returns how many can be read from it. If
 * another text has taken that sequence, the tokens are restored from the kept prefixes. */
static uint32_t computed_of(struct hypura_session *session, uint32_t *sequence)
{
    struct engine *engine = session->model->engine;
    uint32_t same, count = (uint32_t)MIN(session->held.count, (size_t)MOST_TOKENS);
    *sequence = generator_bring(session->model->generator, session->held.ids, count, &same);
    /* A checkpoint can only be read at the end of the sequence. */
    return engine_positions(engine, *sequence) != same && engine_checkpoint_bytes(engine) ? 0 : same;
}

static hypura_status put_rows(struct hypura_session *session, struct stream *to, uint32_t sequence, uint32_t computed,
                              hypura_error *error)
{
    struct engine *engine = session->model->engine;
    void *piece = NULL;
    hypura_status status = make_piece(engine, computed, &piece, error);
    for (uint32_t at = 0, end; !status && at < computed; at = end) {
        end = MIN(at + STEP, computed);
        status = engine_read_rows(engine, sequence, at, end, piece, error);
        if (!status)
            status = put(to, piece, (size_t)engine_rows_bytes(engine, at, end), error);
    }
    uint64_t bytes = computed ? engine_checkpoint_bytes_at(engine, computed) : 0;
    if (!status && bytes)
        status = engine_read_checkpoint(engine, sequence, piece, error);
    if (!status && bytes)
        status = put(to, piece, (size_t)bytes, error);
    memory_free(piece);
    return status;
}

static hypura_status put_all(struct hypura_session *session, struct stream *to, hypura_error *error)
{
    char head[HEAD_BYTES + 1];
    uint32_t sequence, computed = computed_of(session, &sequence);
    uint64_t digest = 0;
    hypura_status status = computed ? engine_state_digest(&digest, session->model->engine, error) : HYPURA_OK;
    if (status)
        return status;
    int length = snprintf(head, sizeof head, "hypura state 1 %zu %u %016llx", session->held.count, computed,
                          (unsigned long long)digest);
    memset(head + length, ' ', (size_t)(HEAD_BYTES - length));
    head[HEAD_BYTES - 1] = '\n';
    if (!to->write(to->context, head, HEAD_BYTES))
        return error_set(error, HYPURA_ERROR_IO, "the session could not be written");
    if (session->held.count)
        status = put(to, session->held.ids, session->held.count * sizeof *session->held.ids, error);
    return status ? status : put_rows(session, to, sequence, computed, error);
}

hypura_status hypura_session_write(hypura_session *session, hypura_writer write, void *context, hypura_error *error)
{
    struct stream to = {.write = write, .context = context};
    if (session->started)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "an answer of the session still runs");
    hypura_status status = scheduler_begin_alone(session, ALONE_KEEPS, error);
    if (status)
        return status;
    status = put_all(session, &to, error);
    scheduler_end_alone(session);
    return status;
}

/* ---- reading ---- */

static hypura_status get(struct stream *from, void *bytes, size_t size, hypura_error *error)
{
    uint64_t sum;
    bool whole = from->read(from->context, bytes, size) && from->read(from->context, &sum, sizeof sum) &&
                 sum == fnv1a(FNV1A_START, bytes, size);
    return whole ? HYPURA_OK : error_set(error, HYPURA_ERROR_FORMAT, "the saved session is damaged or incomplete");
}

/* Reads the rows into an idle sequence. */
static hypura_status get_rows(struct hypura_session *session, struct stream *from, const struct token_array *tokens,
                              uint32_t computed, hypura_error *error)
{
    struct engine *engine = session->model->engine;
    struct generator *generator = session->model->generator;
    uint32_t sequence = generator_vacate(generator);
    void *piece = NULL;
    hypura_status status = make_piece(engine, computed, &piece, error);
    for (uint32_t at = 0, end; !status && at < computed; at = end) {
        end = MIN(at + STEP, computed);
        status = get(from, piece, (size_t)engine_rows_bytes(engine, at, end), error);
        if (!status)
            status = engine_write_rows(engine, sequence, at, end, piece, error);
    }
    uint64_t bytes = engine_checkpoint_bytes_at(engine, computed);
    if (!status && bytes)
        status = get(from, piece, (size_t)bytes, error);
    if (!status)
        status = engine_write_checkpoint(engine, sequence, computed, tokens->ids, bytes ? piece : NULL, error);
    generator_hold(generator, sequence, tokens->ids, status ? 0 : computed);
    memory_free(piece);
    return status;
}

static hypura_status get_head(struct stream *from, size_t *count, uint32_t *computed, uint64_t *digest,
                              hypura_error *error)
{
    char head[HEAD_BYTES + 1] = "";
    unsigned version = 0;
    unsigned long long sum = 0;
    if (!from->read(from->context, head, HEAD_BYTES) || sscanf(head, "hypura state %u", &version) != 1)
        return error_set(error, HYPURA_ERROR_FORMAT, "this is not a saved session of hypura");
    if (version != 1)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "the session was saved by another version of hypura (format %u, not 1)", version);
    if (sscanf(head, "hypura state 1 %zu %u %16llx", count, computed, &sum) != 3 || *count > MOST_TOKENS ||
        *computed > *count)
        return error_set(error, HYPURA_ERROR_FORMAT, "the saved session is damaged or incomplete");
    *digest = sum;
    return HYPURA_OK;
}

static hypura_status check_tokens(const struct hypura_session *session, const struct token_array *tokens,
                                  hypura_error *error)
{
    for (size_t i = 0; i < tokens->count; i++) {
        if (tokens->ids[i] < 0 || (uint32_t)tokens->ids[i] >= session->model->info.vocabulary_size)
            return error_set(error, HYPURA_ERROR_ARGUMENT,
                             "the session was saved with another model: token %d is not in this one's vocabulary",
                             tokens->ids[i]);
    }
    return HYPURA_OK;
}

static hypura_status get_all(struct hypura_session *session, struct stream *from, struct token_array *tokens,
                             size_t *computed_out, hypura_error *error)
{
    uint32_t computed = 0;
    uint64_t digest = 0, own = 0;
    size_t count = 0;
    hypura_status status = get_head(from, &count, &computed, &digest, error);
    if (!status)
        status = ALLOCATE(&tokens->ids, count, "tokens", error);
    tokens->count = tokens->capacity = status ? 0 : count;
    if (!status && count)
        status = get(from, tokens->ids, count * sizeof *tokens->ids, error);
    if (!status)
        status = check_tokens(session, tokens, error);
    if (!status && computed)
        status = engine_state_digest(&own, session->model->engine, error);
    bool usable = !status && computed && own == digest && computed < session->model->plan.context_tokens;
    if (usable)
        status = get_rows(session, from, tokens, computed, error);
    *computed_out = usable && !status ? computed : 0;
    return status;
}

hypura_status hypura_session_read(hypura_session *session, hypura_reader read, void *context, size_t *computed_tokens,
                                  hypura_error *error)
{
    struct stream from = {.read = read, .context = context};
    struct token_array tokens = {0};
    size_t computed = 0;
    if (session->started)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "an answer of the session still runs");
    hypura_status status = scheduler_begin_alone(session, ALONE_KEEPS, error);
    if (status)
        return status;
    status = get_all(session, &from, &tokens, &computed, error);
    scheduler_end_alone(session);
    if (status) {
        token_array_free(&tokens);
        return status;
    }
    token_array_free(&session->held);
    session->held = tokens;
    if (computed_tokens)
        *computed_tokens = computed;
    return HYPURA_OK;
}

/* ---- files ---- */

static bool write_file(void *context, const void *bytes, size_t size)
{
    return fwrite(bytes, 1, size, context) == size;
}

static bool read_file(void *context, void *bytes, size_t size)
{
    return fread(bytes, 1, size, context) == size;
}

/* Writes the file and flushes it to the drive. The errno of a failure goes into the error. */
static hypura_status save_to(hypura_session *session, const char *partial, hypura_error *error)
{
    int descriptor = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (!file) {
        int number = errno;
        if (descriptor >= 0)
            close(descriptor);
        return error_set_errno(error, number, "cannot create %s", partial);
    }
    errno = 0;
    hypura_status status = hypura_session_write(session, write_file, file, error);
    if (status == HYPURA_ERROR_IO && errno)
        status = error_set_errno(error, errno, "cannot write %s", partial);
    if (!status && fflush(file))
        status = error_set_errno(error, errno, "cannot write %s", partial);
    if (!status)
        status = durable_file(descriptor, partial, error);
    if (fclose(file) && !status)
        status = error_set_errno(error, errno, "cannot write %s", partial);
    return status;
}

hypura_status hypura_session_save(hypura_session *session, const char *path, hypura_error *error)
{
    char partial[PATH_MAX];
    if (snprintf(partial, sizeof partial, "%s.%ld.partial", path, (long)getpid()) >= (int)sizeof partial)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path %.200s... is too long", path);
    hypura_status status = durable_may_replace(path, error);
    if (status)
        return status;
    status = save_to(session, partial, error);
    if (!status && rename(partial, path))
        status = error_set_errno(error, errno, "cannot create %s", path);
    if (status) {
        unlink(partial);
        return status;
    }
    return durable_folder_of(path, error);
}

hypura_status hypura_session_load(hypura_session *session, const char *path, size_t *computed_tokens,
                                  hypura_error *error)
{
    FILE *file = fopen(path, "rbe");
    if (!file)
        return error_set_errno(error, errno, "cannot open %s", path);
    hypura_status status = hypura_session_read(session, read_file, file, computed_tokens, error);
    fclose(file);
    return status ? error_prefix(error, "%s", path) : HYPURA_OK;
}
