/* cluster: several processes of this program, started by mpirun, as one. It knows nothing of models.
 *
 * Each process is a rank, on one of several hosts or with others on one. Rank 0 runs the program; the others work for
 * it. There is a stream of bytes each way between rank 0 and each other rank. Bytes arrive in order, in numbered
 * frames that are checked, or not at all.
 *
 * Nothing waits for ever. Each rank has a thread that says some times a second that it lives, and hears the same of the
 * others. Of a rank that has said nothing for CLUSTER_STALL_SECONDS, or that is gone, all ranks learn: then every call
 * fails with HYPURA_ERROR_HOST and a sentence that names its host, and who asked for it (cluster_events) is told.
 *
 * The MPI library (Open MPI) is opened when a cluster starts, and not before. All of its calls are made under one lock,
 * and none of them blocks but the first and the last. What is sent is neither hidden nor signed: the network of MPI
 * must be trusted.
 *
 *   mpi.c      the library: its functions by name
 *   ranks.c    their names, and the one that is lost
 *   stream.c   frames
 *   link.c     how quick the way to each rank is
 *   watch.c    who lives
 *   cluster.c  start and end
 *   none.c     instead of all of these, in a build without MPI
 */
#ifndef HYPURA_CLUSTER_H
#define HYPURA_CLUSTER_H

#include "core/core.h"

#define CLUSTER_MOST_RANKS 64u
#define CLUSTER_STALL_SECONDS 10u
#define CLUSTER_HOST_NAME 64

struct cluster;

/* What mpirun said of this process, in its environment: ranks 0 or 1 when it said nothing. */
uint32_t cluster_ranks_started(void);
uint32_t cluster_rank_started(void);
uint32_t cluster_ranks_on_host(void);

enum cluster_event {
    CLUSTER_LOST,      /* this rank found out that another one is lost */
    CLUSTER_TOLD,      /* rank 0 said so */
    CLUSTER_TERMINATED /* cluster_terminate was called, and no rank is lost */
};

/* Told once, on a thread of the cluster's own, which may end the process. */
typedef void (*cluster_events)(void *context, enum cluster_event event, const char *sentence);

/* Joins the other ranks. Once a process. An error says what is missing, or who did not come. */
hypura_status cluster_start(cluster_events on_event, void *context, hypura_error *error);

/* The one of this process; NULL: it is alone. */
struct cluster *cluster_here(void);

/* On rank 0 the others are told that there is nothing left to do. With a lost rank the library is left as it is: the
 * process has to end. */
void cluster_end(void);

uint32_t cluster_rank(const struct cluster *cluster);
uint32_t cluster_size(const struct cluster *cluster);

/* "box7", or "box7 (rank 2)" where a host has several ranks. Valid as long as the cluster. */
const char *cluster_host(const struct cluster *cluster, uint32_t rank);

/* The way between rank 0 and another, as it was measured when the cluster started; of other pairs zeros. */
struct cluster_link {
    double seconds;          /* of a short message there and back */
    double bytes_per_second; /* of a long one */
    bool same_host;
};
struct cluster_link cluster_link(const struct cluster *cluster, uint32_t rank);

/* Bytes for another rank: they leave when a frame is full, or with cluster_flush. Of ranks other than 0 only rank 0 can
 * be the other one. One thread at a time writes to a rank, and one reads. */
hypura_status cluster_write(struct cluster *cluster, uint32_t rank, const void *bytes, size_t count,
                            hypura_error *error);
hypura_status cluster_flush(struct cluster *cluster, uint32_t rank, hypura_error *error);

/* Waits for so many. HYPURA_ERROR_CANCELLED: rank 0 has ended, as planned, and there are none. */
hypura_status cluster_read(struct cluster *cluster, uint32_t rank, void *bytes, size_t count, hypura_error *error);

/* HYPURA_OK while all ranks live. From any thread. */
hypura_status cluster_check(struct cluster *cluster, hypura_error *error);

/* For a handler of SIGTERM, with which mpirun ends the ranks that are left when one has died: finds out within some
 * tenths of a second whether that is why, and tells. */
void cluster_terminate(void);

/* For a handler of SIGCONT, which mpirun sends at once when a rank has died, a second before SIGTERM: asks whether all live. */
void cluster_continue(void);
bool cluster_terminating(void);

/* A message that could not be understood: the rank is given up. Returns the status. */
hypura_status cluster_refuse(struct cluster *cluster, uint32_t rank, const char *what, hypura_error *error);

#endif
