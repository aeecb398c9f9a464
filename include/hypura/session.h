/* A session: one conversation, used by one thread.
 *
 * Calls on one session must not overlap, except hypura_cancel, which any thread may call at any time. Different threads
 * may use different sessions of a model, or one thread may use them all (hypura_next with a timeout of 0, and
 * hypura_session_file). An idle session costs little: open one per conversation.
 *
 * A session holds the tokens of its last prompt and answer. The model keeps what it computed for them, for all
 * sessions: a prompt that begins with the same tokens, such as the next turn of a chat, computes only the rest.
 */
#ifndef HYPURA_API_SESSION_H
#define HYPURA_API_SESSION_H

#include <hypura/model.h>

HYPURA_BEGIN

typedef struct hypura_session hypura_session;

/* Opens a session. The caller closes *out with hypura_session_close, before closing the model. */
HYPURA_API hypura_status hypura_session_open(hypura_session **out, hypura_model *model, hypura_error *error);

/* Ends the session's answer, if one is running, and frees the session, which may be NULL. */
HYPURA_API void hypura_session_close(hypura_session *session);

/* With true, the session's current call ends as cancelled within milliseconds, and so does every later call until this
 * is called with false. So no cancel is lost, whenever it comes. An answer whose thread is not in hypura_next ends when
 * that is called. Any thread may call this, and with true a signal handler too. */
HYPURA_API void hypura_cancel(hypura_session *session, bool cancel);

/* The tokens that the session holds. Belong to the session; valid until its next call. */
HYPURA_API const int32_t *hypura_session_tokens(const hypura_session *session, size_t *count);

/* ---- copying and saving ------------------------------------------------------------------------------------------ */

/* Opens another session that holds the same tokens. Both continue without computing them again. The caller closes
 * *out. */
HYPURA_API hypura_status hypura_session_fork(hypura_session **out, hypura_session *session, hypura_error *error);

/* Saves the session's tokens and what the model computed for them, for hypura_session_load in this process or a later
 * one. Waits until no answer of the model is running. The file appears complete or not at all; only its owner can read
 * it. */
HYPURA_API hypura_status hypura_session_save(hypura_session *session, const char *path, hypura_error *error);

/* Restores a saved session. *computed_tokens (may be NULL): how many of its tokens need not be computed again. It is 0
 * if the file was saved with another model, adapter or kv_type; then only the tokens are restored. A damaged file is
 * HYPURA_ERROR_FORMAT and leaves the session unchanged. */
HYPURA_API hypura_status hypura_session_load(hypura_session *session, const char *path, size_t *computed_tokens,
                                             hypura_error *error);

/* The same through callbacks, which return false if they cannot write or read all of the bytes. */
typedef bool (*hypura_writer)(void *context, const void *bytes, size_t size);
typedef bool (*hypura_reader)(void *context, void *bytes, size_t size);
HYPURA_API hypura_status hypura_session_write(hypura_session *session, hypura_writer write, void *context,
                                              hypura_error *error);
HYPURA_API hypura_status hypura_session_read(hypura_session *session, hypura_reader read, void *context,
                                             size_t *computed_tokens, hypura_error *error);

HYPURA_END
#endif
