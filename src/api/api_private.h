/* api: the public headers (include/hypura) on top of the engine. What its files share.
 *
 * A model has a thread (scheduler.c) that runs passes for the answers of all sessions. Answers go to sessions as events
 * (events.c), so that every callback comes on the session's own thread. What needs the engine for itself (logits,
 * embeddings, states) runs on the caller's thread while the model's thread waits.
 *
 * Locks: a model's mutex guards the queue of answers and whose turn it is, a session's mutex its events and its state.
 * Neither is taken while the other is held, and no callback of a program runs under one.
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

/* How long a cancel may go unnoticed. */
#define LOOK_MILLISECONDS 20

struct hypura_model {
    hypura_model_info info;
    hypura_plan plan;
    char *path;

    struct engine *engine; /* NULL: text only, and then these are the model's own */
    struct gguf *file;
    struct vocabulary *own_vocabulary;

    const struct vocabulary *vocabulary; /* NULL: the file has none that is understood; why, says the error */
    hypura_error no_vocabulary;
    struct chat_template *template, *tool_template; /* the second NULL: the same */
    hypura_error no_template;
    struct gguf_string template_source;

    pthread_mutex_t grammar_mutex;
    struct grammar_vocabulary *grammar; /* made when it is first needed */

    /* ---- scheduler.c ---- */
    struct generator *generator;
    pthread_t thread;
    bool threaded;
    pthread_mutex_t mutex;
    pthread_cond_t changed;              /* for the model's thread */
    pthread_cond_t calm;                 /* for those that want the engine for themselves */
    struct hypura_session *first, *last; /* answers that the generator has not yet got */
    uint32_t running;                    /* that the generator has */
    uint32_t alone_waiting;
    struct hypura_session *alone; /* that has the engine for itself */
    bool alone_stopped, stepping, yield, stop;
};

/* What the answer at hand was asked with: copies, since a request need not outlive hypura_start. */
struct asked {
    struct token_array prompt;
    struct sampler *sampler;
    struct grammar *grammar;
    struct grammar_matcher *matcher;
    struct chat_parser *parser; /* NULL: all is content */
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
    atomic_bool stopped;         /* hypura_stop: the answer at hand */

    /* the session's thread, and the model's while an answer runs */
    struct asked asked;
    struct token_array held; /* prompt and answer */
    hypura_result result;
    bool has_result, started;
    struct event_item *taken; /* that the program looks at */

    /* the model's thread */
    bool ended; /* a token that ends an answer was chosen */
    bool torn;  /* memory was wanting for a part of it */
    enum chat_delta_kind last_kind;
    uint32_t calls;

    pthread_mutex_t mutex; /* what follows */
    pthread_cond_t changed;
    bool running;    /* between hypura_start and the end */
    uint64_t number; /* of the generator; 0: it has not got it */
    struct event_item *first, *last;
    size_t queued_bytes;
    hypura_error error;
    int pipe[2]; /* [0] can be read while there is something to take; -1: not wanted */
    bool signalled;
};

/* ---- plan.c ---- */
void describe_plan(hypura_plan *out, const struct model *model, const struct plan *plan,
                   const struct hardware *hardware);

/* ---- text.c ---- */
hypura_status need_vocabulary(const hypura_model *model, hypura_error *error);
/* tools and format may be NULL; *tools is a new reference. */
hypura_status make_chat_prompt(const hypura_model *model, const hypura_chat *chat, struct token_array *tokens,
                               json_t **tools_out, struct chat_format *format, hypura_error *error);

/* ---- scheduler.c ---- */
hypura_status scheduler_start(hypura_model *model, hypura_error *error);
void scheduler_stop(hypura_model *model);
void scheduler_submit(struct hypura_session *session);
/* Between these the calling thread has the engine, whose sequences are empty unless it keeps them. */
enum alone { ALONE_EMPTY, ALONE_KEEPS };
hypura_status scheduler_begin_alone(struct hypura_session *session, enum alone how, hypura_error *error);
void scheduler_end_alone(struct hypura_session *session);
/* Between these nothing is computed, and the sequences stay as they are: for a moment, by no session. */
void scheduler_hold(hypura_model *model);
void scheduler_release(hypura_model *model);

/* ---- events.c: what an answer gives out ---- */
void events_text(struct hypura_session *session, hypura_event_kind kind, const char *text, size_t size);
void events_call(struct hypura_session *session, const char *name, const char *arguments, size_t size);
void events_token(struct hypura_session *session, int32_t token, float logprob, const struct token_logprob *top,
                  size_t count);
/* The last thing that the model's thread does with a session. error: NULL, or what the answer failed with. */
void events_end(struct hypura_session *session, const hypura_error *error);
/* Waits for the next one; NULL: none in time. */
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
