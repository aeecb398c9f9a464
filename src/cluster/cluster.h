/* cluster: makes several processes of this program, started by mpirun, work as one. It is independent of models.
 *
 * Each process is a rank. A host has one or several ranks. Rank 0 runs the program; the others work for it. Between
 * rank 0 and each other rank, a stream of bytes runs in each direction. Its bytes travel in numbered, checked frames
 * and arrive in order or not at all.
 *
 * No call waits forever. In each rank, a thread says twice a second that the rank lives, and listens for the others. If
 * a rank ends, or says nothing for CLUSTER_STALL_SECONDS, all ranks learn of it. From then on, every call fails with
 * HYPURA_ERROR_HOST and a message that names the host, and the caller's cluster_events function is called.
 *
 * The MPI library (Open MPI) is loaded when a cluster starts, not before. All calls to it are made under one lock, and
 * only the first and the last may block. Messages are neither encrypted nor signed, so the network of MPI must be
 * trusted.
 *
 *   environment.c  mpirun's environment variables
 *   mpi.c          loads the library and finds its functions
 *   ranks.c        names of the ranks, and the one that is lost
 *   stream.c       frames
 *   link.c         measures the link to each rank
 *   watch.c        finds lost ranks
 *   cluster.c      start and end
 *   none.c         replaces all but environment.c in a build without MPI */
#ifndef HYPURA_CLUSTER_H
#define HYPURA_CLUSTER_H

#include "core/core.h"

#define CLUSTER_MOST_RANKS 64u
#define CLUSTER_STALL_SECONDS 10u
#define CLUSTER_HOST_NAME 64

struct cluster;

/* What mpirun's environment variables say: the number of ranks, this process's rank, and the number of ranks on this
 * host. Without mpirun: 1, 0 and 1. */
uint32_t cluster_ranks_started(void);
uint32_t cluster_rank_started(void);
uint32_t cluster_ranks_on_host(void);

enum cluster_event {
    CLUSTER_LOST,      /* this rank found out that another one is lost */
    CLUSTER_TOLD,      /* rank 0 reported a lost rank */
    CLUSTER_TERMINATED /* cluster_terminate was called, and no rank is lost */
};

/* Called once, on a thread of the cluster; may end the process. */
typedef void (*cluster_events)(void *context, enum cluster_event event, const char *sentence);

/* Joins the other ranks; once per process. The error names what is missing, or the rank that did not answer. */
hypura_status cluster_start(cluster_events on_event, void *context, hypura_error *error);

/* The cluster of this process; NULL: the process is alone. */
struct cluster *cluster_here(void);

/* Leaves the cluster. Rank 0 first tells the others to end. If a rank is lost, the library is not shut down, and the
 * process must end. */
void cluster_end(void);

uint32_t cluster_rank(const struct cluster *cluster);
uint32_t cluster_size(const struct cluster *cluster);

/* A rank's name for messages, such as "host box7 (rank 2 of 4)". Valid until cluster_end. */
const char *cluster_host(const struct cluster *cluster, uint32_t rank);

/* The link between rank 0 and another rank, as rank 0 measured it at the start; zeros on other ranks. */
struct cluster_link {
    double seconds;          /* round trip of a short message */
    double bytes_per_second; /* of a long message */
    bool same_host;
};
struct cluster_link cluster_link(const struct cluster *cluster, uint32_t rank);

/* Writes bytes to another rank. They leave when a frame is full, or with cluster_flush. Ranks other than 0 can write
 * only to rank 0. Per rank, one thread at a time may write, and one may read. */
hypura_status cluster_write(struct cluster *cluster, uint32_t rank, const void *bytes, size_t count,
                            hypura_error *error);
hypura_status cluster_flush(struct cluster *cluster, uint32_t rank, hypura_error *error);

/* Waits for count bytes. HYPURA_ERROR_CANCELLED: rank 0 has ended as planned, so none will come. */
hypura_status cluster_read(struct cluster *cluster, uint32_t rank, void *bytes, size_t count, hypura_error *error);

/* HYPURA_OK while all ranks live. Any thread may call it. */
hypura_status cluster_check(struct cluster *cluster, hypura_error *error);

/* For a SIGTERM handler, since mpirun sends SIGTERM to the remaining ranks when one has died. Finds out within a few
 * tenths of a second whether that is the reason, and calls the cluster_events function. */
void cluster_terminate(void);

/* For a SIGCONT handler, since mpirun sends SIGCONT as soon as a rank has died, a second before SIGTERM. Asks all ranks
 * whether they live. */
void cluster_continue(void);
bool cluster_terminating(void);

/* Sets the error for a message that makes no sense ("... sent WHAT"), and returns its status. */
hypura_status cluster_refuse(struct cluster *cluster, uint32_t rank, const char *what, hypura_error *error);

#endif
