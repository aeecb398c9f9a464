/* Shared by the files of the cluster only. */
#ifndef HYPURA_CLUSTER_PRIVATE_H
#define HYPURA_CLUSTER_PRIVATE_H

#include "cluster/cluster.h"

#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>

/* The functions and handles of the library that are used. */
struct mpi {
    int (*init_thread)(int *, char ***, int, int *);
    int (*finalize)(void);
    int (*comm_rank)(MPI_Comm, int *);
    int (*comm_size)(MPI_Comm, int *);
    int (*comm_set_errhandler)(MPI_Comm, MPI_Errhandler);
    int (*isend)(const void *, int, MPI_Datatype, int, int, MPI_Comm, MPI_Request *);
    int (*irecv)(void *, int, MPI_Datatype, int, int, MPI_Comm, MPI_Request *);
    int (*test)(MPI_Request *, int *, MPI_Status *);
    int (*cancel)(MPI_Request *);
    int (*request_free)(MPI_Request *);
    MPI_Comm world;
    MPI_Datatype byte;
    MPI_Errhandler errors_return;
};
hypura_status mpi_load(struct mpi *out, hypura_error *error);

#define FRAME_BYTES ((size_t)64 << 10)
#define FRAMES_OUT 8u
#define FRAMES_IN 4u
#define WORDS_OUT 8u
#define WORDS_IN 4u

#define TAG_FRAME 1
#define TAG_WORD 2

struct frame_head {
    uint32_t magic, bytes; /* including this header */
    uint64_t number;
};

/* Short messages between ranks, next to the streams. */
enum word { WORD_LIVES, WORD_ASKS, WORD_ANSWERS, WORD_LOST, WORD_END };
struct word_message {
    uint32_t magic, word, rank, stalled; /* rank and stalled: which rank is lost, and how */
};

struct transfer {
    MPI_Request request;
    bool active;
    uint8_t *bytes;
};

struct peer {
    uint32_t rank;
    bool known; /* this rank has a stream to it */
    char host[CLUSTER_HOST_NAME];
    char name[CLUSTER_HOST_NAME + 32];
    struct transfer out[FRAMES_OUT], in[FRAMES_IN];
    struct transfer words_out[WORDS_OUT], words_in[WORDS_IN];
    uint32_t out_next, in_next, word_out_next, word_in_next;
    size_t out_used, in_at, in_end; /* in_end 0: no frame is being read */
    uint64_t frames_out, frames_in;
    uint64_t heard, said; /* times of the last message from it and of the last word to it */
    bool answered;
    uint8_t *memory;
    struct cluster_link link;
};

struct cluster {
    struct mpi mpi;
    uint32_t rank, size;
    struct peer *peers; /* [size] */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t watch;
    bool watching, leaving; /* the latter under the mutex */
    bool ended;             /* rank 0 has ended as planned; under the mutex */
    atomic_bool lost;
    bool told, event_given; /* under the mutex; told: by rank 0 */
    hypura_error loss;
    uint32_t lost_rank;
    bool lost_stalled;
    cluster_events on_event;
    void *context;
    uint64_t looked;      /* when the watch last looked */
    uint64_t woken;       /* when this process was last found to have been stopped; 0: never */
    uint64_t terminating; /* when SIGTERM was noticed; 0: not yet */
    uint64_t probing;     /* when the question after SIGCONT was asked; 0: none is open */
};

extern atomic_bool cluster_is_terminated;

/* ---- under the mutex ---- */

/* Whether a transfer is done or was never begun. */
bool transfer_done(struct cluster *cluster, struct peer *peer, struct transfer *transfer);
hypura_status peer_open(struct cluster *cluster, struct peer *peer, hypura_error *error);
void peer_close(struct cluster *cluster, struct peer *peer);
void peer_receive_words(struct cluster *cluster, struct peer *peer);
void peer_say(struct cluster *cluster, struct peer *peer, struct word_message message);

/* Marks a rank as lost: from now on all calls fail, and the watch reports it. stalled: the rank is silent; else it has
 * ended. */
void cluster_lose(struct cluster *cluster, uint32_t rank, bool stalled);

/* After the greeting, rank 0 measures the link to one rank after the other, and each of these answers. */
hypura_status link_measure(struct cluster *cluster, struct peer *peer, hypura_error *error);
hypura_status link_answer(struct cluster *cluster, hypura_error *error);

hypura_status watch_start(struct cluster *cluster, hypura_error *error);
void watch_stop(struct cluster *cluster);

#endif
