/* Requests as clients send them to "hypura serve", answered in this process: the JSON of OpenAI's, Ollama's and
 * Anthropic's APIs, without a network.
 *
 * For programs that have such requests already. Others open a model and its sessions, which give out an answer while it
 * is written. Requests that are asked together are computed together.
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

/* The most that options.sessions may be here. */
#define HYPURA_ENDPOINT_SESSIONS 256

/* Opens a model for requests, which need not name it. options may be NULL; sessions is how many answers are written at
 * once, fewer where the memory is short, and on_load is not called after this returns. *out is the caller's:
 * hypura_endpoint_close. */
HYPURA_API hypura_status hypura_endpoint_open(hypura_endpoint **out, const char *path, const hypura_options *options,
                                              hypura_error *error);

/* Requests in work are answered at once, with status 503. NULL is fine. */
HYPURA_API void hypura_endpoint_close(hypura_endpoint *endpoint);

/* What a client would get: status is that of HTTP, 200 where all went well, and json [size] the body, followed by a NUL
 * and valid during the call. It may call hypura_endpoint_ask, and nothing else of the endpoint. */
typedef void (*hypura_on_reply)(void *context, unsigned status, const char *json, size_t size);

/* Asks what POST of this JSON object to this path asks a server: "/v1/chat/completions", "/v1/completions",
 * "/v1/responses", "/v1/embeddings", "/v1/rerank", "/v1/messages", "/api/chat", "/api/generate", "/api/embed". The
 * answer comes whole, so "stream" is an error. on_reply is called once, on another thread, or on this one before this
 * returns; after an error it is not called. The body has at most 32 MiB and is not kept. From any thread. */
HYPURA_API hypura_status hypura_endpoint_ask(hypura_endpoint *endpoint, const char *path, const char *body, size_t size,
                                             hypura_on_reply on_reply, void *context, hypura_error *error);

/* Filled as far as struct_size reaches, which is set before. */
typedef struct hypura_endpoint_state {
    size_t struct_size;
    const char *name;        /* of the model, as answers tell it. The endpoint's, as long as it is open */
    const char *mode;        /* as in hypura_plan; "" while the model is loaded again, and what follows is 0 then, but
                              * for the budget. A constant */
    uint64_t memory_bytes;   /* the budget */
    uint32_t sessions;       /* answers at once */
    uint32_t context_tokens; /* of each, with its prompt */
    uint64_t tokens;         /* of prompts and answers, computed since it was loaded */
    uint64_t read_bytes;     /* from storage since then */
} hypura_endpoint_state;

/* Looks in, and gives memory back that requests no longer need: worth a call per second. From any thread. */
HYPURA_API void hypura_endpoint_get_state(hypura_endpoint *endpoint, hypura_endpoint_state *out);

/* Another memory budget while it runs; 0: what a start would choose now. What cannot be followed in place is done by
 * loading the model again, after the answers in work: then the log says why where it fails, and memory_bytes of the
 * state stays. From any thread. */
HYPURA_API hypura_status hypura_endpoint_set_memory(hypura_endpoint *endpoint, uint64_t bytes, hypura_error *error);

HYPURA_END
#endif
