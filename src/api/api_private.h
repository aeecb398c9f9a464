/* api: implements the public headers (include/hypura) on top of the engine. This header is what its files share.
 *
 * Each model has a thread (scheduler.c) that runs passes for the answers of all sessions. Answers reach sessions as
 * events (events.c), so every callback runs on the session's own thread. Functions that need the engine to themselves
 * (logits, embeddings, states) run on the calling thread while the model's thread waits.
 *
 * Locks: a model's mutex guards its queue of answers and the use of the engine. A session's mutex guards its events and
 * its state. No thread takes one while it holds the other, and no callback of a program runs under either.
 */
#ifndef HYPURA_API_PRIVATE_H
#define HYPURA_API_PRIVATE_H

#include "api/figures.h"
#include "api/opening.h"
#include "chat/chat_output.h"
#include "core/core.h"
#include "engine/engine.h"
#include "engine/generate.h"
#include "engine/prompt.h"
#include "grammar/grammar.h"
#include "sampling/sampler.h"

#include <hypura/hypura.h>

#include <pthread.h>
#include <stdatomic.h>

/* The longest time until a cancel is noticed. */
#define LOOK_MILLISECONDS 20

struct hypura_model {
    hypura_model_info info;
    hypura_plan plan;
    char *path;

    struct engine *engine; /* NULL: text only; then the model owns the next two */
    struct gguf *file;
    struct vocabulary *own_vocabulary;

    const struct vocabulary *vocabulary; /* NULL: the file has none that is supported; the error says why */
    hypura_error no_vocabulary;
    struct chat_template *template, *tool_template; /* tool_template NULL: use template */
    hypura_error no_template;
    struct gguf_string template_source;

    pthread_mutex_t grammar_mutex;
    struct grammar_vocabulary *grammar; /* guarded by grammar_mutex; made when first needed */

    /* ---- scheduler.c ---- */
    struct generator *generator;
    pthread_t thread;
    bool threaded;
    pthread_mutex_t mutex;
    pthread_cond_t changed;              /* wakes the model's thread */
    pthread_cond_t calm;                 /* wakes threads that wait to have the engine to themselves */
    struct hypura_session *first, *last; /* sessions whose answers the generator does not have yet */
    uint32_t running;                    /* answers that the generator has */
    uint32_t alone_waiting;              /* threads that wait for calm */
    struct hypura_session *alone;        /* has the engine to itself; NULL: none */
    bool alone_stopped;                  /* its forward was stopped by hypura_cancel */
    bool stepping;                       /* the model's thread uses the generator without the mutex */
    bool yield;                          /* queued answers go before alone_waiting */
    bool stop;
};

/* Copies of the current answer's request, which need not outlive hypura_start. */
struct asked {
    struct token_array prompt;
    struct sampler *sampler;
    struct grammar *grammar;
    struct grammar_matcher *matcher;
    struct chat_parser *parser; /* NULL: all text is content */
    struct chat_format format;
    json_t *tools;
    char **stops;
    size_t stop_count;
    struct logit_bias *biases;
    char **breakers;
    size_t breaker_count;
    uint32_t max_tokens, context, shift_keep;
    bool shift, ignore_end, show_special, want_tokens;
    uint32_t top;
};

struct event_item {
    struct event_item *next;
    hypura_event event;
    struct buffer text;
    char *name;
    hypura_logprob *top;
};

struct hypura_session {
    struct hypura_model *model;
    struct hypura_session *next; /* in the model's queue */
    atomic_bool cancelled;       /* hypura_cancel */
    atomic_bool stopped;         /* hypura_stop, for the current answer */

    /* used by the session's thread, and by the model's thread while an answer runs */
    struct asked asked;
    struct token_array held; /* prompt and answer */
    hypura_result result;
    bool has_result, started;
    struct event_item *taken; /* the event that hypura_next last returned */

    /* used by the model's thread */
    bool ended; /* an end token was chosen */
    bool torn;  /* a part of the answer was lost for lack of memory */
    enum chat_delta_kind last_kind;
    uint32_t calls;

    pthread_mutex_t mutex; /* guards the fields below */
    pthread_cond_t changed;
    bool running;    /* between hypura_start and the end */
    uint64_t number; /* of the answer in the generator; 0: the generator does not have it */
    struct event_item *first, *last;
    size_t queued_bytes;
    hypura_error error;
    int pipe[2];    /* [0] is readable while there are events to take; -1: hypura_session_file was not called */
    bool signalled; /* the pipe contains a byte */
};

/* ---- plan.c ---- */
void describe_plan(hypura_plan *out, const struct model *model, const struct plan *plan,
                   const struct hardware *hardware);

/* ---- text.c ---- */
hypura_status need_vocabulary(const hypura_model *model, hypura_error *error);
/* tools_out and format may be NULL; *tools_out is a new reference. */
hypura_status make_chat_prompt(const hypura_model *model, const hypura_chat *chat, struct token_array *tokens,
                               json_t **tools_out, struct chat_format *format, hypura_error *error);

/* ---- scheduler.c ---- */
hypura_status scheduler_start(hypura_model *model, hypura_error *error);
void scheduler_stop(hypura_model *model);
void scheduler_submit(struct hypura_session *session);
/* Between these calls, the calling thread has the engine to itself. ALONE_EMPTY clears its sequences first; ALONE_KEEPS
 * keeps them. */
enum alone { ALONE_EMPTY, ALONE_KEEPS };
hypura_status scheduler_begin_alone(struct hypura_session *session, enum alone how, hypura_error *error);
void scheduler_end_alone(struct hypura_session *session);
/* Between these calls, which need no session, nothing is computed and the sequences stay as they are. They hold the
 * model's mutex: be quick. */
void scheduler_hold(hypura_model *model);
void scheduler_release(hypura_model *model);

/* ---- events.c: the events of an answer ---- */
void events_text(struct hypura_session *session, hypura_event_kind kind, const char *text, size_t size);
void events_call(struct hypura_session *session, const char *name, const char *arguments, size_t size);
void events_token(struct hypura_session *session, int32_t token, float logprob, const struct token_logprob *top,
                  size_t count);
/* The last call by the model's thread for an answer. error: NULL, or the one that the answer failed with. */
void events_end(struct hypura_session *session, const hypura_error *error);
/* Waits for the next event. *out is NULL if none came in time, or after the last. */
hypura_status events_take(struct hypura_session *session, int milliseconds, struct event_item **out,
                          hypura_error *error);
void event_free(struct event_item *item);

/* ---- request.c ---- */
hypura_status ask(struct hypura_session *session, const hypura_request *request, hypura_error *error);
void forget_asked(struct asked *asked);
hypura_status need_grammar_vocabulary(hypura_model *model, hypura_error *error);

/* ---- answer.c: the model's thread ---- */
void answer_submit(struct hypura_session *session);

#endif
