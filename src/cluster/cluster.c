#include "cluster/cluster_private.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)

/* The first message between ranks. It detects programs of another word size, byte order or version. */
#define GREETING_MAGIC 0x48595056u
struct greeting {
    uint32_t magic, size_of_pointers;
    char version[32];
    char host[CLUSTER_HOST_NAME];
};

static struct cluster *here;

struct cluster *cluster_here(void)
{
    return here;
}

static struct greeting my_greeting(void)
{
    struct greeting greeting = {.magic = GREETING_MAGIC, .size_of_pointers = sizeof(void *)};
    snprintf(greeting.version, sizeof greeting.version, "%s", HYPURA_VERSION);
    if (gethostname(greeting.host, sizeof greeting.host - 1))
        snprintf(greeting.host, sizeof greeting.host, "an unnamed host");
    return greeting;
}

static void name_peer(struct cluster *cluster, uint32_t rank, const char *host)
{
    struct peer *peer = &cluster->peers[rank];
    snprintf(peer->host, sizeof peer->host, "%s", host);
    text_clean(peer->host);
    snprintf(peer->name, sizeof peer->name, "host %s (rank %u of %u)", peer->host, rank, cluster->size);
}

static hypura_status check_greeting(struct cluster *cluster, uint32_t rank, struct greeting *greeting,
                                    const struct greeting *mine, hypura_error *error)
{
    if (greeting->magic != mine->magic || greeting->size_of_pointers != mine->size_of_pointers)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "rank %u runs another program: all ranks must run the same hypura", rank);
    greeting->version[sizeof greeting->version - 1] = greeting->host[sizeof greeting->host - 1] = 0;
    name_peer(cluster, rank, greeting->host);
    text_clean(greeting->version);
    if (strcmp(greeting->version, mine->version) != 0)
        return error_set(
            error, HYPURA_ERROR_UNSUPPORTED, "%s runs hypura %s, and %s runs %s: all ranks must run the same version",
            cluster_host(cluster, rank), greeting->version, cluster_host(cluster, cluster->rank), mine->version);
    return HYPURA_OK;
}

/* Exchanges greetings with all peers. Then rank 0 measures the links. */
static hypura_status greet(struct cluster *cluster, hypura_error *error)
{
    const struct greeting mine = my_greeting();
    name_peer(cluster, cluster->rank, mine.host);
    for (uint32_t r = 0; r < cluster->size; r++) {
        struct greeting other;
        if (!cluster->peers[r].known)
            continue;
        TRY(cluster_write(cluster, r, &mine, sizeof mine, error));
        TRY(cluster_flush(cluster, r, error));
        TRY(cluster_read(cluster, r, &other, sizeof other, error));
        TRY(check_greeting(cluster, r, &other, &mine, error));
    }
    for (uint32_t r = 1; cluster->rank == 0 && r < cluster->size; r++)
        TRY(link_measure(cluster, &cluster->peers[r], error));
    return cluster->rank ? link_answer(cluster, error) : HYPURA_OK;
}

static hypura_status open_library(struct cluster *cluster, hypura_error *error)
{
    int provided = MPI_THREAD_SINGLE, rank = 0, size = 0;
    TRY(mpi_load(&cluster->mpi, error));
    if (cluster->mpi.init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided))
        return error_set(error, HYPURA_ERROR_HOST, "MPI could not be started");
    if (provided < MPI_THREAD_SERIALIZED)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this host's MPI library was built without threads");
    if (cluster->mpi.comm_set_errhandler(cluster->mpi.world, cluster->mpi.errors_return) ||
        cluster->mpi.comm_rank(cluster->mpi.world, &rank) || cluster->mpi.comm_size(cluster->mpi.world, &size))
        return error_set(error, HYPURA_ERROR_HOST, "MPI does not report its ranks");
    if (size < 1 || (uint32_t)size > CLUSTER_MOST_RANKS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%d ranks; at most %u are possible", size, CLUSTER_MOST_RANKS);
    cluster->rank = (uint32_t)rank;
    cluster->size = (uint32_t)size;
    return HYPURA_OK;
}

static hypura_status open_peers(struct cluster *cluster, hypura_error *error)
{
    TRY(ALLOCATE(&cluster->peers, cluster->size, "ranks", error));
    for (uint32_t r = 0; r < cluster->size; r++) {
        cluster->peers[r].rank = r;
        snprintf(cluster->peers[r].name, sizeof cluster->peers[r].name, "rank %u of %u", r, cluster->size);
        if ((cluster->rank == 0) != (r == 0))
            TRY(peer_open(cluster, &cluster->peers[r], error));
    }
    return HYPURA_OK;
}

hypura_status cluster_start(cluster_events on_event, void *context, hypura_error *error)
{
    static struct cluster cluster;
    pthread_mutex_init(&cluster.mutex, NULL);
    pthread_cond_init(&cluster.wake, NULL);
    cluster.on_event = on_event;
    cluster.context = context;
    TRY(open_library(&cluster, error));
    TRY(open_peers(&cluster, error));
    here = &cluster;
    TRY(watch_start(&cluster, error));
    return greet(&cluster, error);
}

/* Tells all ranks to end, and waits up to two seconds until these words have left. */
static void say_end(struct cluster *cluster)
{
    const uint64_t start = clock_nanoseconds();
    bool sent = false;
    pthread_mutex_lock(&cluster->mutex);
    for (uint32_t r = 1; r < cluster->size; r++)
        peer_say(cluster, &cluster->peers[r], (struct word_message){.word = WORD_END});
    cluster->ended = true;
    while (!sent && !atomic_load(&cluster->lost) && clock_nanoseconds() - start < 2 * SECOND) {
        sent = true;
        for (uint32_t r = 1; r < cluster->size; r++)
            for (uint32_t i = 0; i < WORDS_OUT; i++)
                sent &= transfer_done(cluster, &cluster->peers[r], &cluster->peers[r].words_out[i]);
    }
    pthread_mutex_unlock(&cluster->mutex);
}

void cluster_end(void)
{
    struct cluster *cluster = here;
    if (!cluster)
        return;
    if (cluster->rank == 0 && !atomic_load(&cluster->lost))
        say_end(cluster);
    watch_stop(cluster);
    if (atomic_load(&cluster->lost))
        return;
    for (uint32_t r = 0; r < cluster->size; r++)
        if (cluster->peers[r].known)
            peer_close(cluster, &cluster->peers[r]);
    cluster->mpi.finalize();
    for (uint32_t r = 0; r < cluster->size; r++)
        memory_free(cluster->peers[r].memory);
    memory_free(cluster->peers);
    here = NULL;
}
