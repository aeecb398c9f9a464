/* Experts, or layers of a dense model, on other hosts. Only files of the engine include this.
 *
 *   message.c  messages between ranks: a header, and what follows it
 *   place.c    rank 0: which rank has which experts, agreed on while a model is opened
 *   part.c     what one rank can hold
 *   answer.c   rank 0: takes answers, and passes inputs of other ranks' matrices to a watcher
 *   share.c    rank 0: sends a layer's rows to the ranks of the chosen experts, and takes the results
 *   run.c      rank 0: sends rows of a dense layer to the rank of its matrices, and takes the results
 *   serve.c    all other ranks: open models, compute rows
 *
 * Rank 0 runs the forward pass. After a router, it sends each rank the rows that chose any of its experts, with their
 * choices. Meanwhile it computes its own experts. Then it takes the others' results, each to its place in the router's
 * order. Rank 0 alone makes the sum, as on one host, so without GPUs the bits are the same. A rank with GPUs has some
 * of its experts there, and these compute next to its cores (gpu/serve.c). For a dense model, it sends all rows to the
 * rank that has a layer's matrices, and continues with the results; attention and caches stay on rank 0.
 *
 * Before the first token, both sides compare digests: of the model's header, samples of its weights and its adapters,
 * and of the distribution of units. */
#ifndef HYPURA_ENGINE_CLUSTER_SHARE_H
#define HYPURA_ENGINE_CLUSTER_SHARE_H

#include "cluster/cluster.h"
#include "engine/engine_private.h"
#include "model/parts.h"
#include "plan/hosts.h"

/* ---- messages ------------------------------------------------------------------------------------------------------
 */

enum message_kind {
    MESSAGE_ASK,      /* open this model: struct ask, its path */
    MESSAGE_PLACE,    /* [unit_count] the rank of each unit */
    MESSAGE_EXPERTS,  /* struct task; 16-bit choices [rows][used]; their weights, if weighed; rows */
    MESSAGE_PREFETCH, /* the layer; struct likely [] of experts that it may choose */
    MESSAGE_RUN,      /* struct run_task; rows of each buffer that the run reads */
    MESSAGE_PASSED,   /* the pass is over */
    MESSAGE_CLOSE,
    /* answers */
    MESSAGE_MEASURED, /* struct measured */
    MESSAGE_HAS,      /* [layers][experts] 1: the rank's file holds it */
    MESSAGE_READY,    /* struct ready */
    MESSAGE_INPUT,    /* of a watched task, before its rows: struct seen_input; a row that a matrix was multiplied by */
    MESSAGE_ROWS,  /* struct counted; the result of each choice that the rank has, in the order of rows and choices; for
                      a run, the rows of each buffer that it writes */
    MESSAGE_FAILED /* an error message */
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
    double device_seconds; /* to hand work to a GPU and to notice its end; 0: none computes experts */
    uint32_t instructions, threads;
    uint64_t listed; /* bytes of the list of its experts, which follows (MESSAGE_HAS); 0: it has all */
};

struct ready {
    uint64_t digest; /* of the data of MESSAGE_PLACE */
    uint64_t chunk;
    uint64_t streams; /* 1: some of its experts stream */
};

struct task {
    uint32_t layer, rows, used, choices; /* choices: of this rank's experts */
    uint32_t columns, weighed;
    uint32_t watched; /* rank 0 wants the inputs of the experts' matrices, too */
};

struct seen_input {
    uint32_t tensor, matrix; /* as in struct engine_watch; the number of the tensor in the file */
    uint64_t columns;
};

/* A run of a layer's steps, and the floats per row that go there and come back. */
struct run_task {
    uint32_t layer, first, count, rows;
    uint64_t in_width, out_width, watched;
};

/* What a rank has done since it opened the model. */
struct counted {
    uint64_t experts, device_experts, bytes_read, expert_hits, expert_misses, busy_nanoseconds;
};

#define MESSAGE_ROWS_MOST 512u /* of a task */
#define MESSAGE_PATH_MOST 4096u
#define MESSAGE_LIST_MOST ((uint64_t)16 << 20)

hypura_status message_send(struct cluster *cluster, uint32_t rank, enum message_kind kind, uint32_t model,
                           uint64_t bytes, hypura_error *error);
hypura_status message_fail(struct cluster *cluster, uint32_t rank, uint32_t model, const hypura_error *failure,
                           hypura_error *error);

/* Receives the header of the next message. */
hypura_status message_receive(struct cluster *cluster, uint32_t rank, struct message *out, hypura_error *error);

/* Checks that a header is that of an answer of this kind and size. If it is that of an error, returns that error. */
hypura_status message_check(struct cluster *cluster, uint32_t rank, const struct message *message,
                            enum message_kind kind, uint32_t model, uint64_t bytes, hypura_error *error);

/* Receives and checks a header. */
hypura_status message_expect(struct cluster *cluster, uint32_t rank, enum message_kind kind, uint32_t model,
                             uint64_t bytes, hypura_error *error);

/* ---- rank 0 --------------------------------------------------------------------------------------------------------
 */

struct share {
    struct cluster *cluster;
    uint32_t ranks, model;
    uint32_t units;
    uint8_t *owners;                     /* [units] */
    uint8_t *elsewhere;                  /* [units] another rank has it */
    uint32_t layers[CLUSTER_MOST_RANKS]; /* of a dense model, per rank */
    double expected;                     /* tokens per second; 0: unknown */
    uint32_t rows;                       /* per task: every rank has room for as many */
    bool streams;                        /* some rank reads experts while it computes */
    bool placed;                         /* MESSAGE_PLACE was sent, and not yet answered */
    bool passing;                        /* some rank was sent work in this pass */
    /* The current layer: */
    const struct step *experts; /* NULL: no results are due */
    size_t first;               /* row of the last tasks */
    size_t count;
    uint16_t *choices; /* of a task: [rows][used] */
    float *weights;
    uint32_t wanted[CLUSTER_MOST_RANKS]; /* choices in the last tasks; 0: received */
    float *input;                        /* of a matrix of another rank, for batch->watch */
    size_t input_columns;                /* room */
    /* Statistics, for any thread. */
    pthread_mutex_t mutex;
    struct traffic {
        uint64_t bytes_sent, bytes_received, wait_nanoseconds;
        struct counted counted;
    } traffic[CLUSTER_MOST_RANKS];
};

/* Distributes the model's experts over the ranks, before the engine is planned. Sets options->elsewhere. */
hypura_status share_open(struct engine *engine, struct engine_options *options, hypura_error *error);

/* Waits until the other ranks have loaded their experts. */
hypura_status share_wait(struct share *share, hypura_error *error);
void share_close(struct share *share);

/* After a router: sends the rows for the experts of other ranks, if these rows are ready. */
hypura_status share_begin(struct batch *batch, const struct step *route, hypura_error *error);

/* The same if the experts' input is known to be ready. */
hypura_status share_send(struct batch *batch, const struct step *experts, hypura_error *error);

/* Sends rows that were not sent yet, and waits for all results. */
hypura_status share_collect(struct batch *batch, const struct step *experts, hypura_error *error);

/* share_run: how many of the list's steps, from one on, another rank computes, and which rank; 0: none. share_compute
 * has it compute these steps for the batch. */
size_t share_run(const struct batch *batch, struct step_list list, size_t from, uint32_t *rank);
hypura_status share_compute(struct batch *batch, struct step_list list, size_t from, size_t count, uint32_t rank,
                            hypura_error *error);

/* Receives the header of a rank's results, and passes the inputs that come before them to the batch's watcher. */
hypura_status share_answer(struct batch *batch, uint32_t rank, uint64_t bytes, hypura_error *error);

/* After an error: receives and drops the results that are still due. */
void share_drop(struct batch *batch);

/* Tells the ranks which of their experts a later layer may choose. */
void share_prefetch(struct batch *batch, uint32_t layer, unit_number first, const struct likely *likely,
                    uint32_t count);

/* Tells the ranks that the pass is over. */
void share_passed(struct batch *batch);

/* A digest of the model and its adapters: ranks with the same one compute with the same weights. parts: of a partial
 * file; NULL: the file is whole. */
hypura_status digest_of_model(uint64_t *out, const struct opened *open, const struct parts *parts, hypura_error *error);

#endif
