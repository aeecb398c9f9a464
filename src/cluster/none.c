/* Replaces the other files in a build without MPI. */
#include "cluster/cluster.h"

hypura_status cluster_start(cluster_events on_event, void *context, hypura_error *error)
{
    (void)on_event, (void)context;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                     "this hypura was built without MPI (mpi.h was missing), so it computes on one host only: start it "
                     "without mpirun, or build it where libopenmpi-dev is installed");
}

struct cluster *cluster_here(void)
{
    return NULL;
}

void cluster_end(void)
{
}

uint32_t cluster_rank(const struct cluster *cluster)
{
    (void)cluster;
    return 0;
}

uint32_t cluster_size(const struct cluster *cluster)
{
    (void)cluster;
    return 1;
}

const char *cluster_host(const struct cluster *cluster, uint32_t rank)
{
    (void)cluster, (void)rank;
    return "this host";
}

struct cluster_link cluster_link(const struct cluster *cluster, uint32_t rank)
{
    (void)cluster, (void)rank;
    return (struct cluster_link){0};
}

static hypura_status nobody(hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this build has no MPI");
}

hypura_status cluster_write(struct cluster *cluster, uint32_t rank, const void *bytes, size_t count,
                            hypura_error *error)
{
    (void)cluster, (void)rank, (void)bytes, (void)count;
    return nobody(error);
}

hypura_status cluster_flush(struct cluster *cluster, uint32_t rank, hypura_error *error)
{
    (void)cluster, (void)rank;
    return nobody(error);
}

hypura_status cluster_read(struct cluster *cluster, uint32_t rank, void *bytes, size_t count, hypura_error *error)
{
    (void)cluster, (void)rank, (void)bytes, (void)count;
    return nobody(error);
}

hypura_status cluster_check(struct cluster *cluster, hypura_error *error)
{
    (void)cluster, (void)error;
    return HYPURA_OK;
}

hypura_status cluster_refuse(struct cluster *cluster, uint32_t rank, const char *what, hypura_error *error)
{
    (void)cluster, (void)rank, (void)what;
    return nobody(error);
}

void cluster_terminate(void)
{
}

void cluster_continue(void)
{
}

bool cluster_terminating(void)
{
    return false;
}
