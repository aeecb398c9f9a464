/* Answers.
 *
 * hypura_start hands a request over and returns; hypura_next gives out what the model writes, piece by piece, until the
 * end. hypura_answer does both, for a thread that has nothing else to do:
 *
 *     hypura_chat chat = {.struct_size = sizeof chat, .messages = "[{\"role\": \"user\", \"content\": \"Hello\"}]"};
 *     hypura_request request = {.struct_size = sizeof request, .chat = &chat};
 *     hypura_answer(session, &request, print, NULL, &error);
 */
#ifndef HYPURA_API_GENERATE_H
#define HYPURA_API_GENERATE_H

#include <hypura/sampling.h>
#include <hypura/session.h>
#include <hypura/text.h>

HYPURA_BEGIN

/* ---- asking ------------------------------------------------------------------------------------------------------ */

/* What an answer must be. */
typedef enum hypura_form {
    HYPURA_FORM_FREE = 0,
    HYPURA_FORM_JSON,   /* a JSON object */
    HYPURA_FORM_SCHEMA, /* JSON of a schema: form_text is a JSON schema */
    HYPURA_FORM_GRAMMAR /* form_text is a grammar in GBNF */
} hypura_form;

/* All of it is copied by hypura_start. */
typedef struct hypura_request {
    size_t struct_size;

    /* ---- the prompt: one of these ---- */
    const hypura_chat *chat;
    const char *text; /* text_size bytes, that the model goes on with */
    size_t text_size;
    const int32_t *tokens; /* [token_count] */
    size_t token_count;
    bool follows;    /* text or tokens follow what the session holds */
    bool plain_text; /* no control tokens are made from the text */

    /* ---- how it is written ---- */
    const hypura_sampling *sampling; /* NULL: hypura_default_sampling */
    hypura_form form;
    const char *form_text;

    /* ---- when it ends ---- */
    uint32_t max_tokens;      /* 0: when the model ends it, or the context is full */
    const char *const *stops; /* [stop_count]: texts that end it and are not part of it */
    size_t stop_count;
    bool ignore_end;         /* go on after the model ended it */
    uint32_t context_tokens; /* of this answer with its prompt; 0: as many as there are */
    bool shift;              /* a full context is no end: drop the older half behind the first shift_keep_tokens */
    uint32_t shift_keep_tokens;

    /* ---- what is told of it ---- */
    bool as_written;   /* all text is content, as the model wrote it: reasoning and tool calls are not taken apart */
    bool show_special; /* with the text of control tokens; only as_written */
    bool want_tokens;  /* HYPURA_EVENT_TOKEN for each token */
    uint32_t top_logprobs; /* with this many of the likeliest tokens, at most 20 */
} hypura_request;

/* ---- what happens ------------------------------------------------------------------------------------------------ */

typedef enum hypura_event_kind {
    HYPURA_EVENT_CONTENT,   /* text of the answer, to be appended */
    HYPURA_EVENT_REASONING, /* text of its reasoning, to be appended */
    HYPURA_EVENT_TOOL_CALL, /* a whole call: name, and text is the JSON object of its arguments */
    HYPURA_EVENT_TOKEN,     /* token, logprob, top: with request.want_tokens */
    HYPURA_EVENT_END        /* the last one: hypura_session_result */
} hypura_event_kind;

typedef struct hypura_logprob {
    int32_t token;
    float logprob; /* natural logarithm of its probability, before any setting */
} hypura_logprob;

/* The library owns it and what it points to, until the session's next call, and adds fields at its end. */
typedef struct hypura_event {
    hypura_event_kind kind;
    const char *text; /* size bytes of whole UTF-8 characters, and a NUL */
    size_t size;
    const char *name;    /* of the tool */
    uint32_t call_index; /* from 0 */
    int32_t token;
    float logprob;
    const hypura_logprob *top; /* [top_count], the likeliest first */
    size_t top_count;
} hypura_event;

/* Why an answer ended. */
typedef enum hypura_finish {
    HYPURA_FINISH_END,        /* the model ended it */
    HYPURA_FINISH_STOP,       /* a text of request.stops */
    HYPURA_FINISH_TOOL_CALLS, /* the model ended it with calls of tools, whose results it waits for */
    HYPURA_FINISH_MAX_TOKENS, /* request.max_tokens */
    HYPURA_FINISH_CONTEXT,    /* the context is full */
    HYPURA_FINISH_CANCELLED   /* hypura_cancel, hypura_stop, or a callback that returned false */
} hypura_finish;

/* The library owns it and adds fields at its end. */
typedef struct hypura_result {
    hypura_finish finish;
    int32_t end_token;      /* that the model ended it with; HYPURA_NO_TOKEN: none */
    const char *stop;       /* the text of request.stops that ended it; NULL: none */
    uint32_t prompt_tokens; /* all of them */
    uint32_t cached_tokens; /* of these, not computed again */
    uint32_t answer_tokens;
    uint32_t reasoning_tokens; /* of these */
    double prompt_seconds;     /* from when it began to its first token */
    double answer_seconds;     /* from there to its end */
} hypura_result;

/* "end", "stop", "tool_calls", "max_tokens", "context", "cancelled"; "unknown" for one of a newer library. */
HYPURA_API const char *hypura_finish_name(hypura_finish finish);

/* ---- the calls --------------------------------------------------------------------------------------------------- */

/* Makes the prompt and hands it to the model. HYPURA_ERROR_ARGUMENT where the request makes no sense, does not fit the
 * context, or the session's last answer still runs. */
HYPURA_API hypura_status hypura_start(hypura_session *session, const hypura_request *request, hypura_error *error);

/* What hypura_start would say of a request's settings, form and stops, whatever its prompt. From any thread. */
HYPURA_API hypura_status hypura_check_request(hypura_model *model, const hypura_request *request, hypura_error *error);

/* The next event of the answer, waiting for up to this many milliseconds: -1 without a limit, 0 not at all. *event is
 * NULL when none came in time. After HYPURA_EVENT_END, or an error, the session can start another answer. An error is
 * what the answer failed with; HYPURA_ERROR_ARGUMENT when none was started. */
HYPURA_API hypura_status hypura_next(hypura_session *session, int timeout_milliseconds, const hypura_event **event,
                                     hypura_error *error);

/* Ends the answer that runs; hypura_next gives out what was written until then, and the end. */
HYPURA_API void hypura_stop(hypura_session *session);

/* Starts an answer and calls on_event (NULL is fine) on this thread for each event; false ends the answer.
 * HYPURA_ERROR_CANCELLED after hypura_cancel, HYPURA_OK after all other ends. */
HYPURA_API hypura_status hypura_answer(hypura_session *session, const hypura_request *request,
                                       bool (*on_event)(void *context, const hypura_event *event), void *context,
                                       hypura_error *error);

/* How the last answer ended. Belongs to the session, until its next hypura_start; NULL before the first end. */
HYPURA_API const hypura_result *hypura_session_result(const hypura_session *session);

/* For poll(), select() and event loops: a descriptor that can be read from while hypura_next would not wait. Only wait
 * for it; the session reads and closes it. */
HYPURA_API hypura_status hypura_session_file(hypura_session *session, int *descriptor, hypura_error *error);

HYPURA_END
#endif
