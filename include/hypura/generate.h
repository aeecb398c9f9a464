/* Answers.
 *
 * hypura_start submits a request and returns. hypura_next then returns the answer event by event, up to its end.
 * hypura_answer does both, and calls a function for each event:
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

/* ---- requests ---------------------------------------------------------------------------------------------------- */

/* What form an answer must have. */
typedef enum hypura_form {
    HYPURA_FORM_FREE = 0,
    HYPURA_FORM_JSON,   /* a JSON object */
    HYPURA_FORM_SCHEMA, /* JSON that matches the JSON schema in form_text */
    HYPURA_FORM_GRAMMAR /* text that matches the GBNF grammar in form_text */
} hypura_form;

/* hypura_start copies all of it. */
typedef struct hypura_request {
    size_t struct_size;

    /* ---- the prompt: exactly one of chat, text and tokens ---- */
    const hypura_chat *chat;
    const char *text; /* text_size bytes that the model continues */
    size_t text_size;
    const int32_t *tokens; /* [token_count] */
    size_t token_count;
    bool follows;    /* append text or tokens to those that the session holds */
    bool plain_text; /* do not parse control tokens in text */

    /* ---- how the answer is written ---- */
    const hypura_sampling *sampling; /* NULL: hypura_default_sampling */
    hypura_form form;
    const char *form_text;

    /* ---- when it ends ---- */
    uint32_t max_tokens;      /* 0: no limit except the context */
    const char *const *stops; /* [stop_count] texts that end the answer and are left out of it */
    size_t stop_count;
    bool ignore_end;         /* continue past the model's end token */
    uint32_t context_tokens; /* limit for the prompt and this answer; 0: the whole context */
    bool shift;              /* when the context is full, drop the older half of what follows the first
                              * shift_keep_tokens, and continue */
    uint32_t shift_keep_tokens;

    /* ---- what is reported ---- */
    bool as_written;       /* report all text as content: do not separate reasoning and tool calls */
    bool show_special;     /* with as_written: include the text of control tokens */
    bool want_tokens;      /* report a HYPURA_EVENT_TOKEN for each token */
    uint32_t top_logprobs; /* with want_tokens: how many of the likeliest tokens to report with each, at most 20 */
} hypura_request;

/* ---- events ------------------------------------------------------------------------------------------------------ */

typedef enum hypura_event_kind {
    HYPURA_EVENT_CONTENT,   /* text: the next part of the answer */
    HYPURA_EVENT_REASONING, /* text: the next part of its reasoning */
    HYPURA_EVENT_TOOL_CALL, /* a complete call: name, call_index, and its arguments as a JSON object in text */
    HYPURA_EVENT_TOKEN,     /* with request.want_tokens: token, logprob, top */
    HYPURA_EVENT_END        /* the last event; see hypura_session_result */
} hypura_event_kind;

typedef struct hypura_logprob {
    int32_t token;
    float logprob; /* natural logarithm of its probability, before sampling settings apply */
} hypura_logprob;

/* Belongs to the session, with what it points to; valid until the session's next call. */
typedef struct hypura_event {
    hypura_event_kind kind;
    const char *text; /* size bytes of complete UTF-8 characters, and a NUL */
    size_t size;
    const char *name;    /* of the tool */
    uint32_t call_index; /* 0 for the answer's first call */
    int32_t token;
    float logprob;
    const hypura_logprob *top; /* [top_count], likeliest first */
    size_t top_count;
} hypura_event;

/* Why an answer ended. */
typedef enum hypura_finish {
    HYPURA_FINISH_END,        /* the model ended it */
    HYPURA_FINISH_STOP,       /* a text of request.stops */
    HYPURA_FINISH_TOOL_CALLS, /* the model ended it after calling tools, and expects their results */
    HYPURA_FINISH_MAX_TOKENS, /* request.max_tokens */
    HYPURA_FINISH_CONTEXT,    /* the context is full */
    HYPURA_FINISH_CANCELLED   /* hypura_cancel, hypura_stop, or a callback that returned false */
} hypura_finish;

typedef struct hypura_result {
    hypura_finish finish;
    int32_t end_token;      /* the end token that the model wrote; HYPURA_NO_TOKEN: none */
    const char *stop;       /* the text of request.stops that ended the answer; NULL: none */
    uint32_t prompt_tokens; /* all of the prompt */
    uint32_t cached_tokens; /* prompt tokens that did not have to be computed */
    uint32_t answer_tokens;
    uint32_t reasoning_tokens; /* part of answer_tokens */
    double prompt_seconds;     /* from the start of computing to the first token */
    double answer_seconds;     /* from the first token to the end */
} hypura_result;

/* "end", "stop", "tool_calls", "max_tokens", "context", "cancelled"; "unknown" for a value that this library does not
 * have. A constant. */
HYPURA_API const char *hypura_finish_name(hypura_finish finish);

/* ---- functions --------------------------------------------------------------------------------------------------- */

/* Makes the prompt and submits it to the model. HYPURA_ERROR_ARGUMENT: the request is invalid or does not fit the
 * context, or the session's last answer has not been read to its end. */
HYPURA_API hypura_status hypura_start(hypura_session *session, const hypura_request *request, hypura_error *error);

/* Checks a request's sampling, form and stops as hypura_start would, but not its prompt. */
HYPURA_API hypura_status hypura_check_request(hypura_model *model, const hypura_request *request, hypura_error *error);

/* Sets *event to the answer's next event, or to NULL if none comes within timeout_milliseconds (0: do not wait; -1:
 * wait without a limit). An error is the one that the answer failed with, or HYPURA_ERROR_ARGUMENT if no answer was
 * started. After HYPURA_EVENT_END or an error, the session can start another answer. */
HYPURA_API hypura_status hypura_next(hypura_session *session, int timeout_milliseconds, const hypura_event **event,
                                     hypura_error *error);

/* Ends the running answer. hypura_next still returns what was written until then, and HYPURA_EVENT_END. */
HYPURA_API void hypura_stop(hypura_session *session);

/* Starts an answer and calls on_event (may be NULL) for each event; the answer ends when that returns false.
 * HYPURA_ERROR_CANCELLED: hypura_cancel ended the answer. Every other end is HYPURA_OK. */
HYPURA_API hypura_status hypura_answer(hypura_session *session, const hypura_request *request,
                                       bool (*on_event)(void *context, const hypura_event *event), void *context,
                                       hypura_error *error);

/* How the last answer ended. Belongs to the session; valid until its next hypura_start. NULL if no answer has ended. */
HYPURA_API const hypura_result *hypura_session_result(const hypura_session *session);

/* A descriptor for poll(), select() and event loops: it is readable while hypura_next would not wait. Do not read from
 * it or close it; the session does. */
HYPURA_API hypura_status hypura_session_file(hypura_session *session, int *descriptor, hypura_error *error);

HYPURA_END
#endif
