/* Measures the link to a rank with the frames that will also carry rows. */
#include "cluster/cluster_private.h"

#include <string.h>

/* The numbers of tries. The fastest counts, because the system may have delayed the others. */
#define SHORT_TRIES 12u
#define LONG_TRIES 3u
#define SHORT_BYTES ((size_t)64)
#define LONG_BYTES ((size_t)512 << 10)

/* The least time that counts, because clocks are coarse. */
#define LEAST_SECONDS 1e-7

static hypura_status send_long(struct cluster *cluster, uint32_t rank, size_t bytes, hypura_error *error)
{
    static const uint8_t zeros[4096];
    for (size_t done = 0; done < bytes; done += MIN(bytes - done, sizeof zeros))
        TRY(cluster_write(cluster, rank, zeros, MIN(bytes - done, sizeof zeros), error));
    return cluster_flush(cluster, rank, error);
}

static hypura_status take_long(struct cluster *cluster, uint32_t rank, size_t bytes, hypura_error *error)
{
    uint8_t taken[4096];
    for (size_t done = 0; done < bytes; done += MIN(bytes - done, sizeof taken))
        TRY(cluster_read(cluster, rank, taken, MIN(bytes - done, sizeof taken), error));
    return HYPURA_OK;
}

/* The fastest of some tries to send this many bytes and get a short message back. */
static hypura_status time_one(struct cluster *cluster, uint32_t rank, size_t bytes, uint32_t tries, double *seconds,
                              hypura_error *error)
{
    for (uint32_t i = 0; i < tries; i++) {
        const uint64_t start = clock_nanoseconds();
        TRY(send_long(cluster, rank, bytes, error));
        TRY(take_long(cluster, rank, SHORT_BYTES, error));
        const double taken = clock_seconds_since(start);
        *seconds = i == 0 ? taken : MIN(*seconds, taken);
    }
    *seconds = MAX(*seconds, LEAST_SECONDS);
    return HYPURA_OK;
}

hypura_status link_measure(struct cluster *cluster, struct peer *peer, hypura_error *error)
{
    double with_bytes;
    TRY(time_one(cluster, peer->rank, SHORT_BYTES, SHORT_TRIES, &peer->link.seconds, error));
    TRY(time_one(cluster, peer->rank, LONG_BYTES, LONG_TRIES, &with_bytes, error));
    peer->link.bytes_per_second = (double)LONG_BYTES / MAX(with_bytes - peer->link.seconds, LEAST_SECONDS);
    peer->link.same_host = strcmp(peer->host, cluster->peers[0].host) == 0;
    return HYPURA_OK;
}

hypura_status link_answer(struct cluster *cluster, hypura_error *error)
{
    for (uint32_t i = 0; i < SHORT_TRIES + LONG_TRIES; i++) {
        TRY(take_long(cluster, 0, i < SHORT_TRIES ? SHORT_BYTES : LONG_BYTES, error));
        TRY(send_long(cluster, 0, SHORT_BYTES, error));
    }
    return HYPURA_OK;
}

struct cluster_link cluster_link(const struct cluster *cluster, uint32_t rank)
{
    return rank < cluster->size ? cluster->peers[rank].link : (struct cluster_link){0};
}
