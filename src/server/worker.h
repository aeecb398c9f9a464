/* The thread that computes. It takes jobs in the order of their arrival, has the models loaded that they need, and runs
 * the generators of all loaded models in turn: two at once would only take the cores from each other.
 *
 * What comes before computing (rendering and tokenizing the prompt) happens at the desk, with the model held, while
 * others continue.
 *
 * A job waits until its model has room for it; jobs for other models overtake it meanwhile. A model is loaded on a
 * thread of its own, while answers of others continue. But if a model waits for others to make room, no job overtakes:
 * its turn would never come. */
#ifndef HYPURA_SERVER_WORKER_H
#define HYPURA_SERVER_WORKER_H

#include "server/desk.h"
#include "server/exchange.h"
#include "server/loaded.h"

struct worker;

struct job {
    struct job *next;
    struct exchange *exchange; /* held; NULL: nobody waits for an answer */
    struct model_entry model;
    uint32_t context;      /* positions wanted; 0: any */
    int64_t keep_alive;    /* nanoseconds; negative: for good */
    bool keep_alive_given; /* else the server's */
    bool needs_model;
    bool alone; /* not while its model answers or, if it names none, any model */
    bool brief; /* done when start returns, without the engine: it may run next to any number of answers */

    /* On a thread of the desk, with the model that start gets: all that takes long and need not wait for others. It
     * ends soon once nobody waits for it; start says what came of it. It may come again, after the model went. Or NULL.
     */
    void (*prepare)(struct job *job, struct loaded_model *loaded);
    /* On the worker's thread. A job is over, and its memory the worker's no more, when start returns, unless it called
     * worker_keep; then when it calls worker_done. loaded is NULL where no model is needed. */
    void (*start)(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds);
    /* Of a job that was kept and does not use the generator, again and again; such a job is alone. Or NULL. */
    void (*step)(struct job *job, struct loaded_model *loaded);
    /* Of a job that was kept and uses the generator: its client has gone. */
    void (*cancel)(struct job *job, struct loaded_model *loaded);
    /* The job cannot start, or continue: say so, and free it. */
    void (*refuse)(struct job *job, unsigned status, const char *message);

    /* the worker's */
    struct loaded_model *loaded; /* while it is prepared, or kept */
    struct desk_task task;
    uint64_t number; /* of its arrival */
    uint64_t load_nanoseconds;
    bool prepared;
};

hypura_status worker_create(struct worker **out, struct server *server, hypura_error *error);
void worker_stop(struct worker *worker); /* ends all jobs, unloads the models and waits for the thread */
void worker_destroy(struct worker *worker);
bool worker_is_idle(struct worker *worker);

/* Some times per second: ends passes whose clients have all gone. Not at the same time as worker_stop. */
void worker_look(struct worker *worker);

/* Hands a job over, or refuses it (with Ollama's words) when the queue is full. */
void worker_submit(struct worker *worker, struct job *job);

/* Loads the model that the options name, for the next request. */
void worker_preload(struct worker *worker);

/* ---- the worker's thread ---- */
void worker_keep(struct worker *worker, struct job *job, struct loaded_model *loaded);
void worker_done(struct worker *worker, struct job *job);

/* ---- any thread ---- */

/* Unloads models whose names mean something else now, as soon as they are unused. */
void worker_names_changed(struct worker *worker);
uint32_t worker_waiting(struct worker *worker);
uint32_t worker_running(struct worker *worker);

#endif
