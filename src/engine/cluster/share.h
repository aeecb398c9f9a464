/* Experts, or layers of a dense model, on other hosts. Only files of the engine include it.
 *
 *   message.c  what ranks tell each other: a head, and what follows it
 *   place.c    rank 0: who has which experts, agreed on while a model is opened
 *   part.c     what one rank can have
 *   share.c    rank 0: a layer's rows for those who have experts that they chose, and what comes back
 *   run.c      rank 0: rows of a dense layer to who has its matrices, and what comes of them
 *   serve.c    all other ranks: models opened, rows computed
 *
 * Rank 0 runs the forward pass. Behind a router it sends each rank that has chosen experts the rows that chose them
 * with their choices, computes its own experts meanwhile, and then takes the others' results, each to the place that it
 * has in the router's order. The sum is made here, as ever: the bits are those of one host. Of a dense model it sends
 * all rows to whoever has a layer's matrices, and goes on with what comes back; attention and caches stay here.
 *
 * Before the first token both sides have compared digests: of the model's header, samples of its weights and adapters,
 * and of who has what. */
#ifndef HYPURA_ENGINE_CLUSTER_SHARE_H
#define HYPURA_ENGINE_CLUSTER_SHARE_H

#include "cluster/cluster.h"
#include "engine/engine_private.h"
#include "model/parts.h"
#include "plan/hosts.h"

/* ---- messages ------------------------------------------------------------------------------------------------------
 */

enum message_kind {
    MESSAGE_ASK,     /* open this model: struct ask, its path */
    MESSAGE_PLACE,   /* hold these units: [unit_count] of 1 for elsewhere */
    MESSAGE_EXPERTS, /* struct task; choices of 16 bits [rows][used]; weights where they are wanted; rows */
    MESSAGE_PREFETCH, /* experts that a later layer may choose: struct likely [], experts counted in it */
    MESSAGE_RUN,     /* struct run_task; rows of each buffer that the run reads */
    MESSAGE_PASSED,  /* a pass is over */
    MESSAGE_CLOSE,
    /* answers */
    MESSAGE_MEASURED, /* struct measured */
    MESSAGE_HAS,      /* [layers][experts] of 1 for each that its file holds */
    MESSAGE_READY,    /* struct ready */
    MESSAGE_ROWS,     /* struct counted; of each choice that the rank has, in the order of rows and choices; of a run
                         the rows of each buffer that it leaves something in */
    MESSAGE_FAILED    /* a sentence */
};

struct message {
    uint32_t magic, kind, model, status;
    uint64_t bytes; /* that follow */
};

struct ask {
    uint32_t predicting, path_bytes;
};

struct measured {
    uint64_t digest; /* of the model and its adapters */
    uint64_t memory, expert_room;
    double compute_bytes_per_second, multiply_adds_per_second, drive_bytes_per_second;
    uint32_t instructions, threads;
    uint64_t listed; /* bytes of the list of its experts, which follows (MESSAGE_HAS); 0: it has all */
};

struct ready {
    uint64_t digest; /* of what MESSAGE_PLACE said */
    uint64_t chunk;
    uint64_t streams; /* 1: not all of its experts have room */
};

struct task {
    uint32_t layer, rows, used, choices; /* the last: that this rank has */
    uint32_t columns, weighed;
};

/* Steps of a layer, and floats per row that go there and come back. */
struct run_task {
    uint32_t layer, first, count, rows;
    uint64_t in_width, out_width;
};

/* What a rank did since it opened the model. */
struct counted {
    uint64_t experts, bytes_read, expert_hits, expert_misses, busy_nanoseconds;
};

#define MESSAGE_ROWS_MOST 512u /* of a task */
#define MESSAGE_PATH_MOST 4096u
#define MESSAGE_LIST_MOST ((uint64_t)16 << 20)

hypura_status message_send(struct cluster *cluster, uint32_t rank, enum message_kind kind, uint32_t model,
                           uint64_t bytes, hypura_error *error);
hypura_status message_fail(struct cluster *cluster, uint32_t rank, uint32_t model, const hypura_error *failure,
                           hypura_error *error);

/* The next one's head. */
hypura_status message_receive(struct cluster *cluster, uint32_t rank, struct message *out, hypura_error *error);

/* An answer of this kind and so many bytes, or the error that came instead of it. */
hypura_status message_expect(struct cluster *cluster, uint32_t rank, enum message_kind kind, uint32_t model,
                             uint64_t bytes, hypura_error *error);

/* ---- rank 0 --------------------------------------------------------------------------------------------------------
 */

struct share {
    struct cluster *cluster;
    uint32_t ranks, model;
    uint32_t units;
    uint8_t *owners;    /* [units] */
    uint8_t *elsewhere; /* [units] others have it */
    uint32_t layers[CLUSTER_MOST_RANKS]; /* of a dense model, that each has */
    double expected;    /* tokens a second; 0: nobody knows */
    uint32_t rows;      /* of a task: what every rank has room for */
    bool streams;       /* some rank reads experts while it computes */
    bool placed;        /* MESSAGE_PLACE was sent, and not yet answered */
    bool passing;       /* some rank was asked for rows in this pass */
    /* Of the layer at work: */
    const struct step *experts; /* NULL: nothing is to come */
    size_t first;               /* row of the tasks that were sent last */
    size_t count;
    uint16_t *choices; /* of a task: [rows][used] */
    float *weights;
    uint32_t wanted[CLUSTER_MOST_RANKS]; /* choices of the tasks that were sent last */
    /* For who asks, from any thread. */
    pthread_mutex_t mutex;
    struct traffic {
        uint64_t bytes_sent, bytes_received, wait_nanoseconds;
        struct counted counted;
    } traffic[CLUSTER_MOST_RANKS];
};

/* Before the engine is planned: shares the model's experts out. *options get what is elsewhere. */
hypura_status share_open(struct engine *engine, struct engine_options *options, hypura_error *error);

/* Waits until the others have loaded theirs. */
hypura_status share_wait(struct share *share, hypura_error *error);
void share_close(struct share *share);

/* For the experts that a list's next step computes: sends the rows, where these are ready. */
hypura_status share_begin(struct batch *batch, const struct step *route, hypura_error *error);

/* Sends what was not sent, waits for all results. */
hypura_status share_collect(struct batch *batch, const struct step *experts, hypura_error *error);

/* How many steps from one of a list on another rank computes, and which; 0: none. Then: they are, for the batch. */
size_t share_run(const struct batch *batch, struct step_list list, size_t from, uint32_t *rank);
hypura_status share_compute(struct batch *batch, struct step_list list, size_t from, size_t count, uint32_t rank,
                            hypura_error *error);

/* After an error: takes what is still to come, and drops it. */
void share_drop(struct batch *batch);

/* What a later layer may choose. */
void share_prefetch(struct batch *batch, uint32_t layer, unit_number first, const struct likely *likely, uint32_t count);

void share_passed(struct batch *batch);

/* What makes results those of one model. */
hypura_status digest_of_model(uint64_t *out, const struct opened *open, const struct parts *parts, hypura_error *error);

#endif
