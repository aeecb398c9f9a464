/* Finds lost ranks. When a rank dies, mpirun ends all others: it sends SIGCONT at once, SIGTERM a second later, and
 * SIGKILL a second after that. Within the first second, each rank asks the others, and the one that does not answer has
 * died. So all ranks can end by themselves, with their own status. If SIGCONT brings no result, SIGTERM does the
 * same. */
#include "cluster/cluster_private.h"

#include <string.h>
#include <time.h>

#define SECOND UINT64_C(1000000000)
#define SAY_EVERY (SECOND / 2)
#define STALL (CLUSTER_STALL_SECONDS * SECOND)

/* A watch that runs this late was itself stopped, and could hear nothing. */
#define STOPPED (2 * SECOND)

#define ANSWER_WITHIN (SECOND * 4 / 10)
#define STAY_FOR (SECOND * 8 / 10)
#define PROBE_WITHIN (SECOND * 6 / 10)

/* After a stop this long, other ranks may still be stopped. */
#define ASLEEP (SECOND / 4)

#define LOOK_SELDOM (SECOND / 100)
#define LOOK_OFTEN (SECOND / 5000)

atomic_bool cluster_is_terminated;
static atomic_bool is_continued;

void cluster_terminate(void)
{
    atomic_store(&cluster_is_terminated, true);
}

void cluster_continue(void)
{
    atomic_store(&is_continued, true);
}

bool cluster_terminating(void)
{
    return atomic_load(&cluster_is_terminated);
}

/* Tests all transfers, because MPI moves large ones only inside its calls. Returns whether all frames have left. */
static bool push(struct cluster *cluster, struct peer *peer)
{
    bool all = true;
    for (uint32_t i = 0; i < FRAMES_OUT; i++)
        all &= transfer_done(cluster, peer, &peer->out[i]);
    for (uint32_t i = 0; i < WORDS_OUT; i++)
        transfer_done(cluster, peer, &peer->words_out[i]);
    return all;
}

static void ask(struct cluster *cluster)
{
    for (uint32_t r = 0; r < cluster->size; r++)
        if (cluster->peers[r].known) {
            cluster->peers[r].answered = false;
            peer_say(cluster, &cluster->peers[r], (struct word_message){.word = WORD_ASKS});
        }
}

/* Whether this rank was stopped just before: then it may be the one that the others have given up. */
static bool was_stopped(const struct cluster *cluster)
{
    return cluster->woken && MAX(cluster->terminating, cluster->probing) < cluster->woken + SECOND;
}

/* Gives up the ranks that did not answer. */
static void judge(struct cluster *cluster)
{
    for (uint32_t r = 0; r < cluster->size; r++)
        if (cluster->peers[r].known && !cluster->peers[r].answered)
            cluster_lose(cluster, r, false);
}

static bool look_at_peer(struct cluster *cluster, struct peer *peer, uint64_t now)
{
    const bool idle = push(cluster, peer);
    peer_receive_words(cluster, peer);
    if (now - peer->said >= SAY_EVERY && !cluster->terminating)
        peer_say(cluster, peer, (struct word_message){.word = WORD_LIVES});
    if (now > peer->heard && now - peer->heard >= STALL && !cluster->ended)
        cluster_lose(cluster, peer->rank, true);
    return idle;
}

/* After SIGCONT, asks the other ranks, unless this process was really stopped. */
static void probe(struct cluster *cluster, uint64_t now, uint64_t gap)
{
    if (atomic_exchange(&is_continued, false) && !cluster->probing && gap < ASLEEP) {
        cluster->probing = now;
        ask(cluster);
    }
    if (!cluster->probing || now - cluster->probing < PROBE_WITHIN)
        return;
    if (!was_stopped(cluster) && !cluster->ended)
        judge(cluster);
    cluster->probing = 0;
}

/* Returns whether no transfer is under way. */
static bool look(struct cluster *cluster)
{
    const uint64_t now = clock_nanoseconds(), gap = now - cluster->looked;
    bool idle = true;
    cluster->looked = now;
    for (uint32_t r = 0; r < cluster->size && !atomic_load(&cluster->lost); r++) {
        struct peer *peer = &cluster->peers[r];
        if (!peer->known)
            continue;
        if (gap >= STOPPED)
            peer->heard = cluster->woken = now;
        idle &= look_at_peer(cluster, peer, now);
    }
    probe(cluster, now, gap);
    if (atomic_load(&cluster_is_terminated) && !cluster->terminating) {
        cluster->terminating = now;
        ask(cluster);
    }
    if (cluster->terminating && now - cluster->terminating >= ANSWER_WITHIN && !was_stopped(cluster))
        judge(cluster);
    return idle;
}

/* Takes the event to report; false: none, or it was reported. */
static bool take_event(struct cluster *cluster, enum cluster_event *event)
{
    const bool lost = atomic_load(&cluster->lost);
    const bool over = cluster->terminating && clock_nanoseconds() - cluster->terminating >=
                                                  (cluster->rank ? STAY_FOR : ANSWER_WITHIN + LOOK_SELDOM);
    if (cluster->event_given || (!lost && !over))
        return false;
    *event = !lost ? CLUSTER_TERMINATED : cluster->told ? CLUSTER_TOLD : CLUSTER_LOST;
    cluster->event_given = true;
    return true;
}

/* Tells the others which rank is lost, and waits until the words have left, because this process may end next. */
static void tell_others(struct cluster *cluster)
{
    const uint64_t start = clock_nanoseconds();
    for (uint32_t r = 1; atomic_load(&cluster->lost) && cluster->rank == 0 && r < cluster->size; r++)
        if (r != cluster->lost_rank && cluster->peers[r].known)
            peer_say(
                cluster, &cluster->peers[r],
                (struct word_message){.word = WORD_LOST, .rank = cluster->lost_rank, .stalled = cluster->lost_stalled});
    bool done = false;
    while (!done && clock_nanoseconds() - start < SECOND / 5) {
        done = true;
        for (uint32_t r = 0; r < cluster->size; r++)
            for (uint32_t i = 0; cluster->peers[r].known && i < WORDS_OUT; i++) {
                struct transfer *transfer = &cluster->peers[r].words_out[i];
                int sent = 1;
                if (transfer->active && !cluster->mpi.test(&transfer->request, &sent, MPI_STATUS_IGNORE))
                    transfer->active = !sent;
                done &= sent;
            }
    }
}

static void sleep_for(struct cluster *cluster, uint64_t nanoseconds)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    nanoseconds += (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(nanoseconds / SECOND);
    until.tv_nsec = (long)(nanoseconds % SECOND);
    pthread_cond_timedwait(&cluster->wake, &cluster->mutex, &until);
}

static void *watch(void *context)
{
    struct cluster *cluster = context;
    enum cluster_event event = CLUSTER_LOST;
    pthread_mutex_lock(&cluster->mutex);
    cluster->looked = clock_nanoseconds();
    while (!cluster->leaving) {
        const bool idle = look(cluster);
        if (take_event(cluster, &event)) {
            const hypura_error loss = cluster->loss;
            tell_others(cluster);
            pthread_mutex_unlock(&cluster->mutex);
            if (cluster->on_event)
                cluster->on_event(cluster->context, event, loss.message);
            pthread_mutex_lock(&cluster->mutex);
        }
        if (!cluster->leaving)
            sleep_for(cluster, idle ? LOOK_SELDOM : LOOK_OFTEN);
    }
    pthread_mutex_unlock(&cluster->mutex);
    return NULL;
}

hypura_status watch_start(struct cluster *cluster, hypura_error *error)
{
    int problem = pthread_create(&cluster->watch, NULL, watch, cluster);
    if (problem)
        return error_set_errno(error, problem, "cannot start the thread that watches other ranks");
    cluster->watching = true;
    return HYPURA_OK;
}

void watch_stop(struct cluster *cluster)
{
    if (!cluster->watching)
        return;
    pthread_mutex_lock(&cluster->mutex);
    cluster->leaving = true;
    pthread_cond_signal(&cluster->wake);
    pthread_mutex_unlock(&cluster->mutex);
    pthread_join(cluster->watch, NULL);
    cluster->watching = false;
}
