/* A generation: one request for text from any of the APIs, and its answers while they are written. The file of the API
 * fills it in at the desk and submits it. Once the model is loaded, its prompt is made at the desk too. Everything
 * after that happens on the worker's thread. */
#ifndef HYPURA_SERVER_GENERATION_H
#define HYPURA_SERVER_GENERATION_H

#include "chat/chat_output.h"
#include "sampling/sampler.h"
#include "server/server_private.h"
#include "server/worker.h"

struct generation;

/* One answer; a request may have several. */
struct choice {
    struct generation *generation;
    size_t index;
    struct sampler *sampler;
    struct grammar_matcher *matcher;
    struct chat_parser *parser; /* NULL: all text is content */
    struct buffer content, reasoning;
    json_t *calls;    /* array of {"name", "arguments": object} */
    json_t *logprobs; /* array of {"token", "logprob", "bytes", "top_logprobs"}, or NULL */
    size_t logprobs_given;
    json_t *ids;     /* of the tokens, for Ollama's "context"; or NULL */
    uint64_t number; /* the generator's id of it */
    struct generation_result result;
    uint32_t reasoning_tokens;
    enum chat_delta_kind last; /* kind of the last delta */
    size_t text_offset;        /* used by the dialect: offset of the next token in the text */
    bool begun;                /* used by the dialect: its first chunk was written */
    bool ended;                /* by an end-of-generation token */
    bool torn;                 /* memory ran short for a part of it */
    bool done;
};

/* How an API writes answers. In a stream, delta and end_choice write each piece as it comes; otherwise end writes
 * everything. */
struct dialect {
    void (*delta)(struct generation *generation, struct choice *choice, const struct chat_delta *delta);
    void (*end_choice)(struct generation *generation, struct choice *choice);
    void (*end)(struct generation *generation);
    /* Ends a stream that has begun with an error. NULL: exchange_fail_with does. */
    void (*fail)(struct generation *generation, const char *message);
};

struct generation {
    struct job job; /* first */
    const struct dialect *dialect;
    const char *model_name; /* as requested; owned by the exchange */

    /* the request; strings and JSON belong to the exchange's JSON unless a comment says "owned" */
    bool stream;
    json_t *messages;            /* owned; NULL: the prompt is a text or tokens */
    json_t *tools;               /* owned, or NULL */
    json_t *variables;           /* owned: variables of the template */
    const char *text;            /* the prompt, if messages is NULL; no template is applied */
    const char *suffix;          /* the text after the gap to fill in, or NULL */
    const json_t *tokens_before; /* Ollama's "context", or NULL */
    const json_t *tokens;        /* a prompt of token ids, or NULL */
    struct sampler_options sampling;
    struct logit_bias *biases; /* owned */
    const char **stops;        /* owned array */
    size_t stop_count;
    uint32_t max_tokens;
    size_t count;           /* number of answers */
    uint32_t positions;     /* num_ctx; 0: the whole context */
    uint32_t keep_first;    /* tokens kept at the beginning of a prompt that is cut; UINT32_MAX: never cut, refuse */
    bool shift;             /* an answer continues when the context is full, */
    uint32_t shift_keep;    /* keeping this many tokens at the beginning, at most those of the prompt */
    const json_t *schema;   /* that the answer follows; or NULL */
    bool any_json;          /* the answer is any JSON */
    int32_t top_logprobs;   /* -1: none */
    bool want_ids;          /* the answer has token ids */
    bool echo;              /* the answer begins with the prompt */
    bool too_long;          /* the prompt does not fit the context */
    bool marked;            /* a cache mark (Anthropic's cache_control) says which part of the prompt to keep, */
    bool marked_for_hour;   /* for an hour instead of five minutes */
    size_t behind_mark;     /* messages after the one with the last mark */
    uint32_t marked_tokens; /* of the prompt, up to the end of that message */
    bool include_usage;     /* in the last chunk of a stream */
    json_t *forced;         /* owned: schema of the call that the answer must be, or NULL */
    const char *counted_as; /* if tokens are only counted: "object" of the answer, or NULL */

    /* while it runs */
    struct loaded_model *loaded;
    hypura_status prepared;
    hypura_error error; /* of preparing it */
    struct token_array prompt;
    struct grammar *grammar;
    struct chat_format format;
    struct choice *choices;
    size_t remaining;
    uint64_t start, load_nanoseconds;
    uint32_t cut_position, cut_apart; /* where the prompt differs from a sequence, and in how many tokens; */
    uint32_t cut_tokens;              /* tokens after those that are the same again; 0: no note (prompt_notes.c) */
    int64_t created;                  /* seconds since 1970 */
    char id[40];
    /* used by the dialect */
    json_t *state; /* owned */
    bool begun;
    int block; /* enum chat_delta_kind of the open block; -1: none is open */
    size_t block_index;
    uint64_t sequence;
};

/* Creates a generation for a request. If the body is not an object, the model is unknown or "stream" is not a boolean,
 * answers with the error and returns NULL. */
struct generation *generation_create(struct exchange *exchange, const struct dialect *dialect, bool stream_default);

/* Reads the request into the generation. False with an error, which becomes the answer. */
typedef bool (*request_reader)(struct generation *generation, json_t *json, hypura_error *error);

/* Creates a generation with a new id of this prefix, reads the request, and submits it. */
void generation_handle(struct exchange *exchange, const struct dialect *dialect, const char *id_prefix,
                       request_reader read);

/* Answers with the number of the prompt's tokens, {"input_tokens": N}, and with "object" unless it is NULL. */
void generation_handle_count(struct exchange *exchange, const char *object, request_reader read);

/* Hands the generation to the worker, which owns it from then on. */
void generation_submit(struct generation *generation);

/* ---- generation_end.c ---- */
void generation_free(struct generation *generation);

/* Answer with an error and free the generation. The status is the given one, 400, or that of the error. */
void generation_refuse_job(struct job *job, unsigned status, const char *message);
void generation_refuse(struct generation *generation, const char *message);
void generation_refuse_with(struct generation *generation, const hypura_error *error);

/* False: memory ran short for a part of the request, which was answered and freed. */
bool generation_is_whole(struct generation *generation);

/* Answers with an error of making the prompt or starting the answers. Does not free the generation. */
void generation_fail(struct generation *generation, const hypura_error *error);

/* ---- generation_prompt.c ---- */
/* Makes the prompt's tokens, once the model is loaded, and cuts them to fit; or sets too_long and fails. */
hypura_status generation_make_prompt(struct generation *generation, hypura_error *error);
/* Trims the array to its size and borrows its memory for the exchange. */
hypura_status keep_tokens(struct exchange *exchange, struct token_array *tokens, hypura_error *error);
void generation_submit_count(struct generation *generation, const char *object);

/* ---- prompt_notes.c: the worker's thread ---- */
void prompt_note_find(struct generation *generation); /* before the generator gets it */
void prompt_note_say(struct generation *generation);  /* when it is done */

/* The text as a JSON string; one that is not UTF-8 becomes U+FFFD. */
json_t *buffer_json(const struct buffer *buffer);

/* ---- reading JSON: false with an error if a value is invalid ---- */
bool read_float(const json_t *object, const char *key, float *out, hypura_error *error);
bool read_count(const json_t *object, const char *key, uint32_t *out, hypura_error *error);
/* The same, but a negative number means "no limit" and becomes 0. */
bool read_limit(const json_t *object, const char *key, uint32_t *out, hypura_error *error);
bool read_stops(struct generation *generation, const json_t *value, hypura_error *error);
/* "json", a schema, {"type": "json_object"}, {"type": "json_schema", ...} */
bool read_format(struct generation *generation, const json_t *value, hypura_error *error);
bool read_seed(struct generation *generation, const json_t *value, hypura_error *error);
/* Reads Ollama's options, which /api/create may also give a model for all APIs. Absent sampling options keep their
 * values. */
bool read_model_options(struct generation *generation, const json_t *options, hypura_error *error);
/* Whether read_model_options would accept them. */
bool check_model_options(const json_t *options, hypura_error *error);
/* The text of a content that is a string or an array of parts; a new reference, or NULL with an error. Other parts of a
 * user's or the system's message, such as images, are an error, because the answer would ignore them. In an assistant's
 * message they are left out; in a tool's message, a note takes their place. */
json_t *content_text(struct generation *generation, const char *role, const json_t *content, hypura_error *error);
/* Appends the text of one part, by the same rules. */
bool append_part(struct generation *generation, struct buffer *text, const char *role, const json_t *part,
                 hypura_error *error);
/* volatile_heads.c. Bytes at the beginning of a text that are dropped unless the server keeps them. */
size_t volatile_head(const struct generation *generation, const char *role, const char *text);
/* Maps an API's name of a role ("developer", "User") to "system", "user", "assistant" or "tool"; NULL: unknown. */
const char *known_role(const char *said);
/* Logs that something ("a tool") is ignored because of its type. */
void leave_out(const struct generation *generation, const char *what, const char *type);
/* Whether a message has this role. */
bool has_role(const json_t *message, const char *role);
/* Inserts what /api/create gave the model: its messages and, unless the request has one (system), a system message. */
void add_own_messages(struct generation *generation, bool system);

/* ---- for dialects ---- */
const char *finish_name(const struct choice *choice); /* "stop" or "length" */
json_t *fresh_logprobs(struct choice *choice);        /* those since the last call; NULL: not requested */
uint32_t prompt_tokens(const struct generation *generation);
uint32_t generated_tokens(const struct generation *generation);
uint32_t reasoning_tokens(const struct generation *generation); /* of these */

#endif
