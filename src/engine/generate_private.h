/* Shared by the files of generate only. */
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
    int32_t *tokens; /* to feed: the prompt, plus the generated tokens if the sequence had to make room */
    uint32_t count;
    uint64_t started, first_token;
    bool cancelled; /* under the mutex */

    uint32_t fed;       /* tokens that are in the sequence */
    uint32_t known;     /* those of them that were there when it began */
    uint32_t shared;    /* tokens shared with a waiting request; 0: none */
    uint64_t fetched;   /* when it stops waiting for the drive; 0: not looked up yet */
    int32_t last_token; /* sampled, not yet fed */
    bool decoding;
    struct token_decoder decoder;
    struct stop_matcher stops;
    struct buffer text; /* of the current token */
    struct generation_result result;
};

/* Checkpoints within one prompt. */
#define MARKS 16u

/* A sequence of the engine and its contents. */
struct slot {
    struct task *task; /* NULL: free */
    int32_t *history;  /* [positions]: tokens in the engine's cache */
    uint32_t held;
    uint64_t last_used;
    uint32_t in_batch;                     /* tokens in the current batch */
    uint32_t marks[MARKS + 1], mark_count; /* checkpoints within the prompt, one more until another is dropped */
};

/* A sequence whose next token is due. */
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
    uint32_t drafted; /* in the current batch */

    pthread_mutex_t mutex; /* guards the queue, next_id, task->cancelled, and these two */
    bool passing, stopped; /* a batch runs, and is to end */
    struct task *first, *last;
    uint64_t next_id;
};

/* ---- kept prefixes: generate_prefix.c -----------------------------------------------------------------------------
 */

/* How many checkpoints a prompt may have. */
uint32_t prefix_marks(const struct generator *generator);

/* Keeps what would be lost when a sequence continues with another text that begins with the same tokens. */
void slot_keep(struct generator *generator, struct slot *slot, uint32_t same);

/* Extends a sequence, which holds at most "same" positions of its request, with rows of another one; returns how far
 * its rows then go. */
uint32_t slot_share(struct generator *generator, struct slot *slot, uint32_t same);

/* Then extends it with kept data. */
void slot_bring(struct generator *generator, struct slot *slot, uint32_t same);

/* Extends a slot that has the first "same" of these tokens with the data that is kept of them. */
void prefix_bring(struct generator *generator, struct slot *slot, const int32_t *tokens, uint32_t count, uint32_t same);

/* While others run: whether a request should wait because the drive is reading its kept data. */
bool prefix_is_far(struct generator *generator, struct task *task);

/* Positions of a request that need no room of their own, because a running one has them. */
uint32_t prefix_shared(const struct generator *generator, const struct task *task);

/* The token up to which a prompt is fed before the rest. */
uint32_t slot_prompt_end(const struct generator *generator, const struct task *task);

/* After a batch of a prompt: keeps a checkpoint now and then. */
void slot_mark(struct generator *generator, struct slot *slot);

/* Whether another request is about to compute much of this one's beginning, so that it should wait. */
bool prefix_is_coming(struct generator *generator, const struct task *task);

/* ---- requests and the sequences that they run on: generate_slots.c -------------------------------------------------
 */

void task_free(struct task *task);

/* Calls the done callback of a request that is in no slot, and frees the request. */
void task_end(struct task *task, enum finish_reason reason);

/* Ends a request and frees its slot. */
void slot_end(struct generator *generator, struct slot *slot, enum finish_reason reason);

/* Gives free sequences to waiting requests, as far as there is room. */
void slots_start_waiting(struct generator *generator);

/* Shifts requests whose context is full, and feeds them the remaining tokens. */
void slots_shift_full(struct generator *generator);

/* Positions that a request may take. */
uint32_t task_context(const struct generator *generator, const struct task *task);

/* Makes room for the next tokens of running requests: free sequences give up theirs, the longest idle first, then
 * the latest request has to wait. */
void slots_make_room(struct generator *generator);

/* Positions that this many tokens take of the shared room. */
uint64_t whole_blocks(uint32_t tokens);

#endif
