/* A session: one text at a time, for one thread.
 *
 * A session belongs to the thread that uses it: two calls on one session must not overlap. Only hypura_cancel may be
 * called from anywhere. Different sessions of a model may be used by different threads, or all by one (hypura_next with
 * a timeout of 0, and hypura_session_file). A session costs little while it has nothing to do: open as many as there
 * are conversations.
 *
 * A session holds the tokens of its last prompt and answer. What the model computed of them is found again by any
 * session whose prompt begins with the same tokens, so the next turn of a chat computes only what is new.
 */
#ifndef HYPURA_API_SESSION_H
#define HYPURA_API_SESSION_H

#include <hypura/model.h>

HYPURA_BEGIN

typedef struct hypura_session hypura_session;

/* *out is the caller's: hypura_session_close, before the model is closed. */
HYPURA_API hypura_status hypura_session_open(hypura_session **out, hypura_model *model, hypura_error *error);

/* Ends an answer that runs. NULL is fine. */
HYPURA_API void hypura_session_close(hypura_session *session);

/* true: the call of this session that runs ends as cancelled within some milliseconds, and so does every later one,
 * until it is called with false. So no cancel is lost, whenever it comes. From any thread; with true also from a signal
 * handler. If an answer runs and its thread is not in hypura_next, it ends when hypura_next is called. */
HYPURA_API void hypura_cancel(hypura_session *session, bool cancel);

/* What it holds. Belongs to the session, until its next call. */
HYPURA_API const int32_t *hypura_session_tokens(const hypura_session *session, size_t *count);

/* ---- prefixes: what was computed, as data ------------------------------------------------------------------------ */

/* Another session that holds the same. Both go on from there without computing it again. *out is the caller's. */
HYPURA_API hypura_status hypura_session_fork(hypura_session **out, hypura_session *session, hypura_error *error);

/* Writes what a session holds and what the model computed of it, for hypura_session_load in this run or a later one.
 * Waits until no answer of the model runs. The file appears whole or not at all; only its owner can read it. */
HYPURA_API hypura_status hypura_session_save(hypura_session *session, const char *path, hypura_error *error);

/* Brings back what was saved. *computed_tokens (NULL is fine): how many of the tokens need not be computed again; 0
 * where the file comes from another model, adapter or type of keys and values, since its tokens still hold.
 * HYPURA_ERROR_FORMAT for a damaged file; then the session is as it was. */
HYPURA_API hypura_status hypura_session_load(hypura_session *session, const char *path, size_t *computed_tokens,
                                             hypura_error *error);

/* The same through functions of the caller, which return false when they cannot write or read all of it. Called on the
 * calling thread. */
typedef bool (*hypura_writer)(void *context, const void *bytes, size_t size);
typedef bool (*hypura_reader)(void *context, void *bytes, size_t size);
HYPURA_API hypura_status hypura_session_write(hypura_session *session, hypura_writer write, void *context,
                                              hypura_error *error);
HYPURA_API hypura_status hypura_session_read(hypura_session *session, hypura_reader read, void *context,
                                             size_t *computed_tokens, hypura_error *error);

HYPURA_END
#endif
