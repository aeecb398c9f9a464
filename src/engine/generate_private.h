/* What the files of generate share. */
#ifndef HYPURA_GENERATE_PRIVATE_H
#define HYPURA_GENERATE_PRIVATE_H

#include "engine/draft.h"
#include "engine/generate.h"
#include "sampling/stop_strings.h"

#include <pthread.h>

/* A request from submission to its done callback. */
struct task {
    struct task *next; /* in the queue */
    uint64_t id;
    struct generation_request request;
    int32_t *tokens; /* to feed: the prompt, and what was generated when the sequence had to make room */
    uint32_t count;
    uint64_t started, first_token;
    bool cancelled; /* under the mutex */

    uint32_t fed;       /* of tokens, in the sequence */
    uint32_t known;     /* of these, there when it began */
    uint32_t shared;    /* with a request that waits for them; 0: none does */
    uint64_t fetched;   /* until then it waits for what the drive has of it; 0: nobody looked yet */
    int32_t last_token; /* sampled, not yet fed */
    bool decoding;
    struct token_decoder decoder;
    struct stop_matcher stops;
    struct buffer text; /* of the token at hand */
    struct generation_result result;
};

/* Checkpoints within one prompt. */
#define MARKS 16u

/* What a sequence of the engine holds. */
struct slot {
    struct task *task; /* NULL: free */
    int32_t *history;  /* [positions]: tokens in the engine's cache */
    uint32_t held;
    uint64_t last_used;
    uint32_t in_batch;                     /* tokens of the batch at hand */
    uint32_t marks[MARKS + 1], mark_count; /* checkpoints within the prompt, with one before another goes */
};

/* A sequence that waits for its next token. */
struct due {
    struct slot *slot;
    const float *logits;
    hypura_status status;
};

struct generator {
    struct engine *engine;
    const struct vocabulary *vocabulary;
    uint32_t positions, chunk;
    uint64_t room; /* engine_room */

    struct slot *slots;
    uint32_t slot_count;
    uint32_t *wanted; /* [slot_count] positions, to ask engine_room_of */
    uint64_t clock;

    int32_t *batch_tokens;
    uint32_t *batch_positions, *batch_sequences;
    bool *batch_want;
    struct due *due; /* [slot_count] */

    struct prefix_store *prefixes; /* NULL: nothing is kept beyond the sequences */
    uint32_t marks_most;           /* checkpoints within a prompt; 0: none are needed, or there is no room for one */

    struct drafter *drafter; /* NULL: nothing is drafted */
    int32_t drafts[DRAFT_MOST];
    uint32_t drafted; /* of the batch at hand */

    pthread_mutex_t mutex; /* guards the queue, next_id, task->cancelled, and these two */
    bool passing, stopped; /* a batch runs, and is to end */
    struct task *first, *last;
    uint64_t next_id;
};

/* ---- what is kept of texts: generate_prefix.c -----------------------------------------------------------------------
 */

/* As many checkpoints as a prompt may have. */
uint32_t prefix_marks(const struct generator *generator);

/* Before a sequence goes on with another text that begins with the same tokens: keeps what would be lost. */
void slot_keep(struct generator *generator, struct slot *slot, uint32_t same);

/* The sequence holds at most "same" positions of its request. Brings it further, by what another one has; returns how
 * far its rows go then. */
uint32_t slot_share(struct generator *generator, struct slot *slot, uint32_t same);

/* And then by what is kept. */
void slot_bring(struct generator *generator, struct slot *slot, uint32_t same);

/* As far as these tokens are kept, of which the slot has the first "same". */
void prefix_bring(struct generator *generator, struct slot *slot, const int32_t *tokens, uint32_t count, uint32_t same);

/* While others run: whether a request does well to wait, since the drive reads what is kept of it. */
bool prefix_is_far(struct generator *generator, struct task *task);

/* Positions of a request that take no room of their own, since one that runs has them. */
uint32_t prefix_shared(const struct generator *generator, const struct task *task);

/* Up to which token a prompt is fed before the rest. */
uint32_t slot_prompt_end(const struct generator *generator, const struct task *task);

/* After a batch of a prompt: keeps a checkpoint now and then. */
void slot_mark(struct generator *generator, struct slot *slot);

/* Whether much of what a request begins with is about to be computed for another one: then it does well to wait. */
bool prefix_is_coming(struct generator *generator, const struct task *task);

/* ---- requests and the sequences that they run on: generate_slots.c -------------------------------------------------
 */

void task_free(struct task *task);

/* Calls a request that is in no slot any more done, and frees it. */
void task_end(struct task *task, enum finish_reason reason);

/* Ends a request in its slot, which is free then. */
void slot_end(struct generator *generator, struct slot *slot, enum finish_reason reason);

/* Gives free sequences to who waits, as far as there is room. */
void slots_start_waiting(struct generator *generator);

/* Feeds requests whose context is full with what a shift leaves. */
void slots_shift_full(struct generator *generator);

/* Positions that a request may take. */
uint32_t task_context(const struct generator *generator, const struct task *task);

/* Makes sure that what runs has room for its next tokens: sequences that are free give up theirs, the longest idle
 * first, then who came last waits. */
void slots_make_room(struct generator *generator);

/* Positions that this many tokens take of the shared room. */
uint64_t whole_blocks(uint32_t tokens);

#endif
