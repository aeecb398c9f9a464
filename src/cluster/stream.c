#include "cluster/cluster_private.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

#define FRAME_MAGIC 0x48504652u
#define WORD_MAGIC 0x48505744u

/* ---- transfers: under the mutex ------------------------------------------------------------------------------------
 */

bool transfer_done(struct cluster *cluster, struct peer *peer, struct transfer *transfer)
{
    int done = 0;
    if (!transfer->active)
        return true;
    if (cluster->mpi.test(&transfer->request, &done, MPI_STATUS_IGNORE)) {
        cluster_lose(cluster, peer->rank, false);
        return false;
    }
    transfer->active = !done;
    return done;
}

static void send(struct cluster *cluster, struct peer *peer, struct transfer *transfer, size_t bytes, int tag)
{
    transfer->active = true;
    if (cluster->mpi.isend(transfer->bytes, (int)bytes, cluster->mpi.byte, (int)peer->rank, tag, cluster->mpi.world,
                           &transfer->request))
        cluster_lose(cluster, peer->rank, false);
}

static void receive(struct cluster *cluster, struct peer *peer, struct transfer *transfer, size_t bytes, int tag)
{
    transfer->active = true;
    if (cluster->mpi.irecv(transfer->bytes, (int)bytes, cluster->mpi.byte, (int)peer->rank, tag, cluster->mpi.world,
                           &transfer->request))
        cluster_lose(cluster, peer->rank, false);
}

hypura_status peer_open(struct cluster *cluster, struct peer *peer, hypura_error *error)
{
    const size_t word = sizeof(struct word_message);
    TRY(ALLOCATE(&peer->memory, (FRAMES_OUT + FRAMES_IN) * FRAME_BYTES + (WORDS_OUT + WORDS_IN) * word,
                 "messages of another rank", error));
    uint8_t *at = peer->memory;
    for (uint32_t i = 0; i < FRAMES_OUT; i++, at += FRAME_BYTES)
        peer->out[i].bytes = at;
    for (uint32_t i = 0; i < FRAMES_IN; i++, at += FRAME_BYTES)
        peer->in[i].bytes = at;
    for (uint32_t i = 0; i < WORDS_OUT; i++, at += word)
        peer->words_out[i].bytes = at;
    for (uint32_t i = 0; i < WORDS_IN; i++, at += word)
        peer->words_in[i].bytes = at;
    for (uint32_t i = 0; i < FRAMES_IN; i++)
        receive(cluster, peer, &peer->in[i], FRAME_BYTES, TAG_FRAME);
    for (uint32_t i = 0; i < WORDS_IN; i++)
        receive(cluster, peer, &peer->words_in[i], word, TAG_WORD);
    peer->heard = clock_nanoseconds();
    peer->known = true;
    return HYPURA_OK;
}

void peer_close(struct cluster *cluster, struct peer *peer)
{
    struct transfer *all[] = {peer->out, peer->in, peer->words_out, peer->words_in};
    const uint32_t counts[] = {FRAMES_OUT, FRAMES_IN, WORDS_OUT, WORDS_IN};
    for (size_t kind = 0; kind < COUNT_OF(all); kind++)
        for (uint32_t i = 0; i < counts[kind]; i++)
            if (all[kind][i].active) {
                cluster->mpi.cancel(&all[kind][i].request);
                cluster->mpi.request_free(&all[kind][i].request);
            }
}

/* ---- words ---------------------------------------------------------------------------------------------------------
 */

void peer_say(struct cluster *cluster, struct peer *peer, struct word_message message)
{
    struct transfer *transfer = &peer->words_out[peer->word_out_next];
    if (!transfer_done(cluster, peer, transfer))
        return; /* a rank that takes none of so many would not hear this one either */
    message.magic = WORD_MAGIC;
    memcpy(transfer->bytes, &message, sizeof message);
    send(cluster, peer, transfer, sizeof message, TAG_WORD);
    peer->word_out_next = (peer->word_out_next + 1) % WORDS_OUT;
    peer->said = clock_nanoseconds();
}

static void hear(struct cluster *cluster, struct peer *peer, const struct word_message *message)
{
    peer->heard = clock_nanoseconds();
    if (message->magic != WORD_MAGIC)
        cluster_lose(cluster, peer->rank, false);
    else if (message->word == WORD_ASKS)
        peer_say(cluster, peer, (struct word_message){.word = WORD_ANSWERS});
    else if (message->word == WORD_ANSWERS)
        peer->answered = true;
    else if (message->word == WORD_END)
        cluster->ended = true;
    else if (message->word == WORD_LOST && message->rank < cluster->size && !atomic_load(&cluster->lost)) {
        cluster->told = true;
        cluster_lose(cluster, message->rank, message->stalled);
    }
}

void peer_receive_words(struct cluster *cluster, struct peer *peer)
{
    struct transfer *transfer = &peer->words_in[peer->word_in_next];
    while (!atomic_load(&cluster->lost) && transfer_done(cluster, peer, transfer)) {
        struct word_message message;
        memcpy(&message, transfer->bytes, sizeof message);
        receive(cluster, peer, transfer, sizeof message, TAG_WORD);
        peer->word_in_next = (peer->word_in_next + 1) % WORDS_IN;
        transfer = &peer->words_in[peer->word_in_next];
        hear(cluster, peer, &message);
    }
}

/* ---- waiting -------------------------------------------------------------------------------------------------------
 */

/* While a rank waits for the next layer's message, it only yields: a sleep would cost it more than the message. */
#define YIELD_NANOSECONDS 1000000u

/* Pauses between two looks, the longer the wait lasts. */
static void rest(uint64_t since)
{
    static _Thread_local bool prepared;
    const uint64_t waited = clock_nanoseconds() - since;
    if (waited < YIELD_NANOSECONDS) {
        sched_yield();
        return;
    }
#ifdef __linux__
    if (!prepared)
        prctl(PR_SET_TIMERSLACK, 1000);
#endif
    prepared = true;
    const long nanoseconds = waited < 50000000 ? 20000 : waited < 1000000000 ? 200000 : 2000000;
    nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

/* ---- frames --------------------------------------------------------------------------------------------------------
 */

static void send_frame(struct cluster *cluster, struct peer *peer)
{
    struct transfer *transfer = &peer->out[peer->out_next];
    const struct frame_head head = {FRAME_MAGIC, (uint32_t)peer->out_used, peer->frames_out++};
    memcpy(transfer->bytes, &head, sizeof head);
    send(cluster, peer, transfer, peer->out_used, TAG_FRAME);
    peer->out_next = (peer->out_next + 1) % FRAMES_OUT;
    peer->out_used = 0;
    pthread_cond_signal(&cluster->wake); /* the watch keeps large frames going */
}

/* Copies as much as the next frame takes, and returns how much; 0: no frame is free yet. */
static size_t write_some(struct cluster *cluster, struct peer *peer, const uint8_t *bytes, size_t count)
{
    if (!transfer_done(cluster, peer, &peer->out[peer->out_next]))
        return 0;
    if (peer->out_used == 0)
        peer->out_used = sizeof(struct frame_head);
    const size_t now = MIN(count, FRAME_BYTES - peer->out_used);
    memcpy(peer->out[peer->out_next].bytes + peer->out_used, bytes, now);
    peer->out_used += now;
    if (peer->out_used == FRAME_BYTES)
        send_frame(cluster, peer);
    return now;
}

hypura_status cluster_write(struct cluster *cluster, uint32_t rank, const void *bytes, size_t count,
                            hypura_error *error)
{
    struct peer *peer = &cluster->peers[rank];
    uint64_t since = clock_nanoseconds();
    for (size_t done = 0; done < count;) {
        TRY(cluster_check(cluster, error));
        pthread_mutex_lock(&cluster->mutex);
        const size_t now = write_some(cluster, peer, (const uint8_t *)bytes + done, count - done);
        pthread_mutex_unlock(&cluster->mutex);
        done += now;
        if (now)
            since = clock_nanoseconds();
        else
            rest(since);
    }
    return HYPURA_OK;
}

hypura_status cluster_flush(struct cluster *cluster, uint32_t rank, hypura_error *error)
{
    struct peer *peer = &cluster->peers[rank];
    pthread_mutex_lock(&cluster->mutex);
    if (peer->out_used)
        send_frame(cluster, peer);
    pthread_mutex_unlock(&cluster->mutex);
    return cluster_check(cluster, error);
}

/* Opens the next frame if none is being read. false: it has not arrived, or is invalid. */
static bool open_frame(struct cluster *cluster, struct peer *peer)
{
    struct frame_head head;
    if (peer->in_end)
        return true;
    if (!transfer_done(cluster, peer, &peer->in[peer->in_next]))
        return false;
    memcpy(&head, peer->in[peer->in_next].bytes, sizeof head);
    if (head.magic != FRAME_MAGIC || head.number != peer->frames_in || head.bytes <= sizeof head ||
        head.bytes > FRAME_BYTES) {
        cluster_lose(cluster, peer->rank, false);
        return false;
    }
    peer->frames_in++;
    peer->heard = clock_nanoseconds();
    peer->in_at = sizeof head;
    peer->in_end = head.bytes;
    return true;
}

static size_t read_some(struct cluster *cluster, struct peer *peer, uint8_t *bytes, size_t count)
{
    if (!open_frame(cluster, peer))
        return 0;
    struct transfer *transfer = &peer->in[peer->in_next];
    const size_t now = MIN(count, peer->in_end - peer->in_at);
    memcpy(bytes, transfer->bytes + peer->in_at, now);
    peer->in_at += now;
    if (peer->in_at == peer->in_end) {
        receive(cluster, peer, transfer, FRAME_BYTES, TAG_FRAME);
        peer->in_next = (peer->in_next + 1) % FRAMES_IN;
        peer->in_end = 0;
    }
    return now;
}

hypura_status cluster_read(struct cluster *cluster, uint32_t rank, void *bytes, size_t count, hypura_error *error)
{
    struct peer *peer = &cluster->peers[rank];
    uint64_t since = clock_nanoseconds();
    for (size_t done = 0; done < count;) {
        TRY(cluster_check(cluster, error));
        pthread_mutex_lock(&cluster->mutex);
        const size_t now = read_some(cluster, peer, (uint8_t *)bytes + done, count - done);
        const bool ended = cluster->ended;
        pthread_mutex_unlock(&cluster->mutex);
        done += now;
        if (now)
            since = clock_nanoseconds();
        else if (ended)
            return error_set(error, HYPURA_ERROR_CANCELLED, "rank 0 has ended");
        else
            rest(since);
    }
    return HYPURA_OK;
}
