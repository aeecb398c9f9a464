/* generate: text from an engine, for one request or for many that share each pass over the weights.
 *
 * A generator runs requests on the engine's sequences. Each step is one batch: one token of every sequence that
 * decodes, and as many prompt tokens of the others as the chunk has room for. A free sequence keeps its tokens, so that
 * the next turn of a chat computes only what is new. While one sequence decodes alone, drafts pass with its last token
 * (draft.h).
 *
 * If sequences share room for their positions (engine_room), a request starts when its prompt and the next block of its
 * answer fit next to the others. When these need more than there is, the latest request gives up its room, waits at the
 * head of the queue, and continues later, with its data restored or computed again: only the time shows.
 *
 * The data of a sequence is kept when it would be lost (engine_prefixes), and restored for a prompt that begins with
 * the same tokens. For layers with states or windows there are checkpoints: at the end of each turn, now and then
 * within a long prompt, and shortly before its end. A request waits for another one that is about to compute its
 * beginning.
 *
 * Ownership: the generator borrows the engine and the vocabulary. It copies a request's prompt, and borrows its sampler
 * and its strings until its done callback has returned. Requests without a free sequence wait in a queue.
 *
 * Threads: generator_step on one thread; the others from any, also from inside callbacks. Callbacks run on the
 * thread of the step. */
#ifndef HYPURA_GENERATE_H
#define HYPURA_GENERATE_H

#include "engine/engine.h"
#include "sampling/sampler.h"
#include "tokenizer/vocabulary.h"

enum finish_reason {
    FINISH_STOP,      /* an end-of-generation token or a stop string */
    FINISH_LENGTH,    /* max_tokens, or the context is full */
    FINISH_CANCELLED, /* by a callback, generator_cancel or engine_cancel */
    FINISH_ERROR      /* the error says why */
};

/* One token, delivered as soon as it is chosen. */
struct generated_token {
    int32_t id;
    const char *text; /* whole UTF-8 characters that are safe to show now: may be empty, or belong to several tokens */
    size_t size;
    const float *logits;    /* [vocabulary], unmodified; NULL for the last piece of text, which is no token */
    uint32_t cached_tokens; /* of the prompt, as in the result */
};

struct generation_result {
    enum finish_reason reason;
    int32_t stop_token;      /* the one that ended it, or NO_TOKEN */
    const char *stop_string; /* of the request, or NULL */
    uint32_t prompt_tokens;  /* all of them */
    uint32_t cached_tokens;  /* of these, already in the sequence's cache */
    uint32_t generated_tokens;
    uint64_t prompt_nanoseconds; /* from the first batch to the first token */
    uint64_t decode_nanoseconds; /* from there to the end */
    hypura_error error;
};

struct generation_request {
    const int32_t *tokens;
    size_t count;
    uint32_t max_tokens; /* 0: until the model ends it or the context is full */
    uint32_t positions;  /* limit for this request; 0: all of a sequence */
    bool shift;          /* a full context does not end it: see generator_create */
    uint32_t shift_keep; /* tokens at the beginning that a shift keeps; at most three quarters of the context */
    struct sampler *sampler;
    const char *const *stops; /* strings that end the answer and are not part of it */
    size_t stop_count;
    bool ignore_end;   /* end-of-generation tokens are ordinary text */
    bool show_special; /* the output shows control tokens, except the one that ends it */

    /* Return false to end the generation. */
    bool (*on_token)(void *context, const struct generated_token *token);
    void (*on_done)(void *context, const struct generation_result *result);
    /* From any thread (generator_look): whether the client still waits for the answer. NULL: always. */
    bool (*is_awaited)(void *context);
    void *context;
};

struct generator;

/* Empties the engine's sequences, which then belong to the generator.
 *
 * When the context of a request that shifts is full, the older half of the tokens after the kept ones is dropped,
 * and the rest is computed again at its new positions. So the continuation is that of an answer to these tokens,
 * whatever the architecture. */
hypura_status generator_create(struct generator **out, struct engine *engine, const struct vocabulary *vocabulary,
                               hypura_error *error);
/* Keeps the data of sequences (engine_prefixes) before another user empties them. */
void generator_keep(struct generator *generator);

/* Ends running and waiting requests as cancelled. Keeps the data of sequences if the store outlasts the engine. */
void generator_destroy(struct generator *generator);

/* Refuses a prompt that is empty, has ids out of range or does not fit the context. id may be NULL. */
hypura_status generator_submit(struct generator *generator, const struct generation_request *request, uint64_t *id,
                               hypura_error *error);
/* A running request gets no token after the current one, and ends in the next step. */
void generator_cancel(struct generator *generator, uint64_t id);

/* From any thread, now and then: ends the running batch when no client waits for any request in it; these then end
 * as cancelled. A pass over the chunk of a long prompt may take minutes. */
void generator_look(struct generator *generator);

/* ---- while no request runs: sequences that others read and write ---- */

/* How many and which tokens a sequence holds, valid until the next step. Its data is read with engine_read_rows and
 * the like. */
uint32_t generator_held(const struct generator *generator, uint32_t sequence, const int32_t **tokens);

/* Finds the sequence that begins with most of these tokens; *same: with how many. */
uint32_t generator_find(const struct generator *generator, const int32_t *tokens, uint32_t count, uint32_t *same);

/* The same, but first restores kept data of these tokens (engine_prefixes), if that is more than a sequence has.
 * While no request runs. */
uint32_t generator_bring(struct generator *generator, const int32_t *tokens, uint32_t count, uint32_t *same);

/* Empties the sequence that was idle longest, for writing; its data is kept (engine_prefixes). */
uint32_t generator_vacate(struct generator *generator);

/* Declares that engine_write_checkpoint gave the sequence these tokens; without tokens, empties it. */
void generator_hold(struct generator *generator, uint32_t sequence, const int32_t *tokens, uint32_t count);

/* Empties all sequences, before and after another use of them; their data is kept. */
void generator_clear(struct generator *generator);

/* A few tokens, such as a date, that prevent a prompt from continuing a sequence. */
struct prompt_cut {
    uint32_t position;                /* of the first that differs */
    uint32_t held_apart, asked_apart; /* how many differ, in the sequence and in the prompt */
    uint32_t same;                    /* tokens after them that are the same again, up to the next difference */
    const int32_t *held;              /* [held_apart], until the next step */
};

/* On the thread of the step, before the prompt is submitted. Returns false if there is no cut. */
bool generator_find_cut(const struct generator *generator, const int32_t *tokens, size_t count, struct prompt_cut *out);

/* Runs one batch. Returns false if there was nothing to do. */
bool generator_step(struct generator *generator);

#endif
