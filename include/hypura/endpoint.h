/* An endpoint answers the requests that "hypura serve" answers, in this process and without a network: the JSON of
 * OpenAI's, Ollama's and Anthropic's APIs.
 *
 * It is meant for programs that already have such requests. Other programs use sessions, which return an answer piece
 * by piece. Requests submitted at the same time are computed together.
 *
 *     hypura_endpoint *endpoint;
 *     if (!hypura_endpoint_open(&endpoint, "model.gguf", NULL, &error))
 *         hypura_endpoint_ask(endpoint, "/v1/chat/completions", body, strlen(body), take_reply, NULL, &error);
 */
#ifndef HYPURA_API_ENDPOINT_H
#define HYPURA_API_ENDPOINT_H

#include <hypura/error.h>
#include <hypura/options.h>

HYPURA_BEGIN

typedef struct hypura_endpoint hypura_endpoint;

/* The most options.sessions of an endpoint. */
#define HYPURA_ENDPOINT_SESSIONS 256

/* Opens a model and an endpoint for it. Requests need not name the model. options may be NULL. options->sessions is how
 * many answers are computed at the same time, fewer if memory is short. on_load is not called after this returns. The
 * caller closes *out with hypura_endpoint_close. */
HYPURA_API hypura_status hypura_endpoint_open(hypura_endpoint **out, const char *path, const hypura_options *options,
                                              hypura_error *error);

/* Answers all pending requests at once, with status 503, and closes the endpoint, which may be NULL. */
HYPURA_API void hypura_endpoint_close(hypura_endpoint *endpoint);

/* Receives the reply to a request: the HTTP status, 200 if all went well, and the body json[size], followed by a NUL.
 * The body is valid during the call. The callback may call no function of the endpoint but hypura_endpoint_ask. */
typedef void (*hypura_on_reply)(void *context, unsigned status, const char *json, size_t size);

/* Submits the JSON object that a client would POST to this path of a server: "/v1/chat/completions", "/v1/completions",
 * "/v1/responses", "/v1/embeddings", "/v1/rerank", "/v1/messages", "/api/chat", "/api/generate", "/api/embed". body: at
 * most 32 MiB; it is not kept. Replies are complete, so "stream": true is an error. on_reply is called exactly once, on
 * another thread or on this one before the call returns; after an error, never. Any thread may call this. */
HYPURA_API hypura_status hypura_endpoint_ask(hypura_endpoint *endpoint, const char *path, const char *body, size_t size,
                                             hypura_on_reply on_reply, void *context, hypura_error *error);

typedef struct hypura_endpoint_state {
    size_t struct_size;
    const char *name;        /* of the model, as in replies; valid until the endpoint is closed */
    const char *mode;        /* as in hypura_plan. A constant. While the model is being loaded again it is "", and the
                              * fields below are 0, except memory_bytes */
    uint64_t memory_bytes;   /* the budget */
    uint32_t sessions;       /* answers at the same time */
    uint32_t context_tokens; /* per answer, with its prompt */
    uint64_t tokens;         /* prompt and answer tokens computed since the model was loaded */
    uint64_t read_bytes;     /* bytes read from storage since then */
} hypura_endpoint_state;

/* Returns the endpoint's state. Also releases memory that requests no longer need: call it about once per second. Set
 * out->struct_size first. Any thread may call it. */
HYPURA_API void hypura_endpoint_get_state(hypura_endpoint *endpoint, hypura_endpoint_state *out);

/* Changes the memory budget; 0: chosen as at opening. If the open model cannot follow, it is loaded again once its
 * running answers have ended. If that fails, the log says why, and memory_bytes of the state stays as it was. Any
 * thread may call it. */
HYPURA_API hypura_status hypura_endpoint_set_memory(hypura_endpoint *endpoint, uint64_t bytes, hypura_error *error);

HYPURA_END
#endif
