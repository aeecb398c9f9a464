#include "cluster/cluster_private.h"

uint32_t cluster_rank(const struct cluster *cluster)
{
    return cluster->rank;
}

uint32_t cluster_size(const struct cluster *cluster)
{
    return cluster->size;
}

const char *cluster_host(const struct cluster *cluster, uint32_t rank)
{
    return rank < cluster->size ? cluster->peers[rank].name : "a rank that does not exist";
}

void cluster_lose(struct cluster *cluster, uint32_t rank, bool stalled)
{
    if (atomic_load(&cluster->lost))
        return;
    if (stalled)
        error_set(&cluster->loss, HYPURA_ERROR_HOST, "%s has said nothing for %u seconds: the request ends",
                  cluster_host(cluster, rank), CLUSTER_STALL_SECONDS);
    else
        error_set(&cluster->loss, HYPURA_ERROR_HOST, "%s has ended, and with it the request",
                  cluster_host(cluster, rank));
    cluster->lost_rank = rank;
    cluster->lost_stalled = stalled;
    atomic_store(&cluster->lost, true);
}

hypura_status cluster_check(struct cluster *cluster, hypura_error *error)
{
    if (!atomic_load(&cluster->lost))
        return HYPURA_OK;
    pthread_mutex_lock(&cluster->mutex);
    hypura_error loss = cluster->loss;
    pthread_mutex_unlock(&cluster->mutex);
    return error_set(error, loss.status, "%s", loss.message);
}

hypura_status cluster_refuse(struct cluster *cluster, uint32_t rank, const char *what, hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_HOST, "%s sent %s", cluster_host(cluster, rank), what);
}
