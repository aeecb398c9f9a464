/* One request for text, from any of the APIs: what was asked, and its answers while they are written. The API's file
 * fills it in at the desk and hands it over. Its prompt is made there too, once the model is loaded. Everything after
 * that happens on the worker's thread. */
#ifndef HYPURA_SERVER_GENERATION_H
#define HYPURA_SERVER_GENERATION_H

#include "chat/chat_output.h"
#include "sampling/sampler.h"
#include "server/server_private.h"
#include "server/worker.h"

struct generation;

/* One answer; a request may ask for several. */
struct choice {
    struct generation *generation;
    size_t index;
    struct sampler *sampler;
    struct grammar_matcher *matcher;
    struct chat_parser *parser; /* NULL: all is content */
    struct buffer content, reasoning;
    json_t *calls;    /* array of {"name", "arguments": object} */
    json_t *logprobs; /* array of {"token", "logprob", "bytes", "top_logprobs"}, or NULL */
    size_t logprobs_given;
    json_t *ids; /* of the tokens, for context; or NULL */
    uint64_t number;
    struct generation_result result;
    uint32_t reasoning_tokens;
    enum chat_delta_kind last; /* of what was written */
    size_t text_offset;        /* the dialect's: of the next token in the text */
    bool begun;                /* the dialect's: its first chunk was written */
    bool ended;                /* by a token that ends an answer */
    bool torn;                 /* memory was short for a part of it */
    bool done;
};

/* How an API writes what happens. In a stream every delta is written as it comes, else end writes all. */
struct dialect {
    void (*delta)(struct generation *generation, struct choice *choice, const struct chat_delta *delta);
    void (*end_choice)(struct generation *generation, struct choice *choice);
    void (*end)(struct generation *generation);
    /* Ends a stream that has begun with an error; NULL: as the API ends all of them. */
    void (*fail)(struct generation *generation, const char *message);
};

struct generation {
    struct job job; /* first */
    const struct dialect *dialect;
    const char *model_name; /* as it was asked for; the exchange's */

    /* what was asked; strings and JSON without a word about it belong to the exchange's JSON */
    bool stream;
    json_t *messages;            /* owned; NULL: a text */
    json_t *tools;               /* owned, or NULL */
    json_t *variables;           /* owned: of the template */
    const char *text;            /* without messages: as it is */
    const char *suffix;          /* fill in the middle, or NULL */
    const json_t *tokens_before; /* "context" of Ollama, or NULL */
    const json_t *tokens;        /* a prompt of token ids, or NULL */
    struct sampler_options sampling;
    struct logit_bias *biases; /* owned */
    const char **stops;        /* owned array */
    size_t stop_count;
    uint32_t max_tokens;
    size_t count;         /* of answers */
    uint32_t positions;   /* num_ctx; 0: all there are */
    uint32_t keep_first;  /* tokens that stay when a text is cut to fit; UINT32_MAX: refuse instead */
    bool shift;           /* an answer goes on where its context is full, */
    uint32_t shift_keep;  /* without the tokens behind these first ones; no more of them than the prompt has */
    const json_t *schema; /* owned by the request, or NULL */
    bool any_json;
    int32_t top_logprobs; /* -1: none */
    bool want_ids;
    bool echo;
    bool too_long;          /* the prompt, for the context */
    bool marked;            /* a mark of Anthropic's says up to where the prompt is worth keeping: */
    bool marked_for_hour;   /* for an hour instead of five minutes */
    size_t behind_mark;     /* messages behind the one that has the last mark */
    uint32_t marked_tokens; /* of the prompt, up to the end of that message */
    bool include_usage;     /* in the last chunk of a stream */
    json_t *forced;         /* owned: the schema of a call that must be made, or NULL */
    const char *counted_as; /* of one whose tokens are only counted: "object" of the answer, or NULL */

    /* while it runs */
    struct loaded_model *loaded;
    hypura_status prepared;
    hypura_error error; /* of that */
    struct token_array prompt;
    struct grammar *grammar;
    struct chat_format format;
    struct choice *choices;
    size_t remaining;
    uint64_t start, load_nanoseconds;
    uint32_t cut_position, cut_apart; /* tokens early in the prompt that differ from what a sequence holds, */
    uint32_t cut_tokens;              /* and those behind them that do not; 0: none */
    int64_t created;                  /* seconds since 1970 */
    char id[40];
    /* the dialect's own */
    json_t *state; /* owned */
    bool begun;
    int block; /* enum chat_delta_kind of what is being written; -1: nothing */
    size_t block_index;
    uint64_t sequence;
};

/* A generation for this request, or NULL when the answer is given already: the body is no object, the model is unknown,
 * "stream" is no boolean. */
struct generation *generation_create(struct exchange *exchange, const struct dialect *dialect, bool stream_default);

/* Fills in what was asked. False with an error, which is then the answer. */
typedef bool (*request_reader)(struct generation *generation, json_t *json, hypura_error *error);

/* Makes one under an id of its own, has it read the request, and submits it. */
void generation_handle(struct exchange *exchange, const struct dialect *dialect, const char *id_prefix,
                       request_reader read);

/* Answers with the tokens of the request, {"input_tokens": N}, and with an "object" of that name unless it is NULL. */
void generation_handle_count(struct exchange *exchange, const char *object, request_reader read);

void generation_submit(struct generation *generation);

/* ---- generation_end.c ---- */
void generation_free(struct generation *generation);

/* Answers with this status (400, or what the error is), and frees it. */
void generation_refuse_job(struct job *job, unsigned status, const char *message);
void generation_refuse(struct generation *generation, const char *message);
void generation_refuse_with(struct generation *generation, const hypura_error *error);

/* False if memory was short for a part of the request: then it is answered and freed. */
bool generation_is_whole(struct generation *generation);

/* Answers a request that got no prompt, or no answer. */
void generation_fail(struct generation *generation, const hypura_error *error);

/* ---- generation_prompt.c ---- */
/* The tokens, once it has its model: cut to fit, or too_long. */
hypura_status generation_make_prompt(struct generation *generation, hypura_error *error);
/* Has the room that they take lent to the exchange, and gives back the rest. */
hypura_status keep_tokens(struct exchange *exchange, struct token_array *tokens, hypura_error *error);
void generation_submit_count(struct generation *generation, const char *object);

/* ---- prompt_notes.c: the worker's thread ---- */
void prompt_note_find(struct generation *generation); /* before it is submitted */
void prompt_note_say(struct generation *generation);  /* when it is done */

/* A JSON string. */
json_t *buffer_json(const struct buffer *buffer);

/* ---- reading JSON: false after having filled message with what is wrong ---- */
bool read_float(const json_t *object, const char *key, float *out, hypura_error *error);
bool read_count(const json_t *object, const char *key, uint32_t *out, hypura_error *error);
/* Of what may be without a limit: a negative number is 0. */
bool read_limit(const json_t *object, const char *key, uint32_t *out, hypura_error *error);
bool read_stops(struct generation *generation, const json_t *value, hypura_error *error);
/* "json", a schema, {"type": "json_object"}, {"type": "json_schema", ...} */
bool read_format(struct generation *generation, const json_t *value, hypura_error *error);
bool read_seed(struct generation *generation, const json_t *value, hypura_error *error);
/* Ollama's options, which a model that was made by /api/create has for all APIs; what is not there stays as it is. */
bool read_model_options(struct generation *generation, const json_t *options, hypura_error *error);
/* Whether they could be read. */
bool check_model_options(const json_t *options, hypura_error *error);
/* Text of a content that is a string or an array of parts; a new reference. What is not text of a user's or the
 * system's message, such as an image, is an error (NULL): the answer would be one to something else. Of an assistant's
 * message it is left out, and a tool's says that it was. */
json_t *content_text(struct generation *generation, const char *role, const json_t *content, hypura_error *error);
bool append_part(struct generation *generation, struct buffer *text, const char *role, const json_t *part,
                 hypura_error *error);
/* Bytes that a text of this role begins with and that no model is to see, unless the server keeps them. */
size_t volatile_head(const struct generation *generation, const char *role, const char *text);
/* "system", "user", "assistant" or "tool", whatever an API calls it ("developer", "User"); or NULL. */
const char *known_role(const char *said);
/* Notes in the log that something ("a tool") of this type has no effect. */
void leave_out(const struct generation *generation, const char *what, const char *type);
/* Of a message; false when it has no role. */
bool has_role(const json_t *message, const char *role);
/* What /api/create gave the model to begin with: its messages, and its system message unless the request has one. */
void add_own_messages(struct generation *generation, bool system);

/* ---- for dialects ---- */
const char *finish_name(const struct choice *choice); /* "stop", "length" */
json_t *fresh_logprobs(struct choice *choice);        /* since the last call; NULL: not asked for */
uint32_t prompt_tokens(const struct generation *generation);
uint32_t generated_tokens(const struct generation *generation);
uint32_t reasoning_tokens(const struct generation *generation); /* of these */

#endif
