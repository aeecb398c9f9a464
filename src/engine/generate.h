/* generate: text from an engine, for one request or for many that share each pass over the weights.
 *
 * A generator runs requests on the engine's sequences. Each step is one batch: one token of every sequence that
 * decodes, and as many prompt tokens of the others as the chunk has room for. A sequence that is free keeps its tokens,
 * so that the next turn of a chat only computes what is new. While one sequence decodes alone, tokens that are drafted
 * pass with its last one (draft.h).
 *
 * Where sequences share room for their positions (engine_room), a request starts when its prompt and the next block of
 * its answer fit beside the others. When these need more than there is, the one that came last gives its room up, waits
 * at the head of the queue, and comes back as it was, or is fed again with what it had: nobody sees it but by the time.
 *
 * What a sequence knows is kept when it would be lost (engine_prefixes), and comes back for a prompt that begins with
 * the same tokens. Where layers have states or windows there are checkpoints: at the end of each turn, now and then
 * within a long prompt, and short of its end. A request whose beginning another one is about to compute waits for it.
 *
 * Ownership: the generator borrows the engine and the vocabulary; a request's prompt is copied, its sampler and its
 * strings are borrowed until its done callback has returned. Requests without a free sequence wait in a queue.
 *
 * Threads: generator_step on one thread; the others from any, also from inside callbacks. Callbacks run on the thread
 * of the step.
 */
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

/* One token, given out as soon as it is chosen. */
struct generated_token {
    int32_t id;
    const char *text; /* whole UTF-8 characters that are safe to show now: may be empty, may be of several tokens */
    size_t size;
    const float *logits; /* [vocabulary], as the model gave them; NULL for the last piece of text, which is no token */
    uint32_t cached_tokens; /* of the prompt, as in the result */
};

struct generation_result {
    enum finish_reason reason;
    int32_t stop_token;      /* that ended it, or NO_TOKEN */
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
    uint32_t positions;  /* of its own; 0: all of a sequence */
    bool shift;          /* a full context is no end: see generator_create */
    uint32_t shift_keep; /* tokens at the beginning that a shift keeps; of the context at most three quarters */
    struct sampler *sampler;
    const char *const *stops; /* strings that end the answer and are not part of it */
    size_t stop_count;
    bool ignore_end;   /* end-of-generation tokens are text like any other */
    bool show_special; /* control tokens have their text in the output, but for the one that ends it */

    /* Return false to end the generation. */
    bool (*on_token)(void *context, const struct generated_token *token);
    void (*on_done)(void *context, const struct generation_result *result);
    /* From any thread (generator_look): whether somebody waits for the answer. NULL: always. */
    bool (*is_awaited)(void *context);
    void *context;
};

struct generator;

/* Empties the engine's sequences: from here on they are the generator's.
 *
 * Where a request's context is full and it shifts, half of what follows the tokens that are kept is dropped, the oldest
 * ones, and the rest is computed again where it stands then: what follows is what an answer to these tokens would be,
 * whatever the architecture. */
hypura_status generator_create(struct generator **out, struct engine *engine, const struct vocabulary *vocabulary,
                               hypura_error *error);
/* Keeps what sequences know (engine_prefixes), before somebody else empties them. */
void generator_keep(struct generator *generator);

/* Ends running and waiting requests as cancelled. What sequences know is kept where that outlasts the engine. */
void generator_destroy(struct generator *generator);

/* A prompt that is empty, has ids out of range or does not fit the context is refused here. id may be NULL. */
hypura_status generator_submit(struct generator *generator, const struct generation_request *request, uint64_t *id,
                               hypura_error *error);
/* A request that runs gets no token after the one at hand, and ends in the next step. */
void generator_cancel(struct generator *generator, uint64_t id);

/* From any thread, now and then: ends the batch that runs when nobody waits for any of the requests in it, which then
 * end as cancelled. A pass over the chunk of a long prompt may take minutes. */
void generator_look(struct generator *generator);

/* ---- while no request runs: sequences that others read and write -------------------------------------------------- */

/* What a sequence holds, to be read with engine_read_rows and the like: how many tokens, and which, until the next
 * step. */
uint32_t generator_held(const struct generator *generator, uint32_t sequence, const int32_t **tokens);

/* The sequence that begins with most of these tokens; *same: with how many. */
uint32_t generator_find(const struct generator *generator, const int32_t *tokens, uint32_t count, uint32_t *same);

/* The same after what is kept of these tokens (engine_prefixes) came back, if that is more than a sequence has. While no
 * request runs. */
uint32_t generator_bring(struct generator *generator, const int32_t *tokens, uint32_t count, uint32_t *same);

/* Empties the sequence that was idle longest, to be written to; what it knows is kept (engine_prefixes). */
uint32_t generator_vacate(struct generator *generator);

/* The sequence was given these by engine_write_checkpoint; without tokens it is emptied. */
void generator_hold(struct generator *generator, uint32_t sequence, const int32_t *tokens, uint32_t count);

/* Empties all sequences, for somebody who uses them otherwise, and when that is done; what they know is kept. */
void generator_clear(struct generator *generator);

/* What keeps a prompt from going on with what a sequence holds: a few tokens that differ, such as a date. */
struct prompt_cut {
    uint32_t position;                /* of the first of them */
    uint32_t held_apart, asked_apart; /* how many, in the sequence and in the prompt */
    uint32_t same;                    /* tokens behind them that are the same again, up to where no more are */
    const int32_t *held;              /* [held_apart], until the next step */
};

/* On the thread of the step, before the prompt is submitted. False: there is none. */
bool generator_find_cut(const struct generator *generator, const int32_t *tokens, size_t count, struct prompt_cut *out);

/* Runs one batch. False when there was nothing to do. */
bool generator_step(struct generator *generator);

#endif
