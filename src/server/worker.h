/* The worker: the thread that computes. It takes jobs in the order of their arrival, has the models that they need
 * loaded, and steps the generators of all loaded models in turn; two at once would only compete for the cores.
 *
 * Prompts are rendered and tokenized at the desk, with the model held, while other answers continue.
 *
 * A job waits until its model has room for it; jobs for other models overtake it meanwhile. A model is loaded on a
 * thread of its own while other answers continue. But while a job waits for memory to load its model, no job overtakes
 * it: the models that it waits for might never become unused. */
#ifndef HYPURA_SERVER_WORKER_H
#define HYPURA_SERVER_WORKER_H

#include "server/desk.h"
#include "server/exchange.h"
#include "server/loaded.h"

struct worker;

struct job {
    struct job *next;
    struct exchange *exchange; /* held; NULL: no client waits for an answer */
    struct model_entry model;
    uint32_t context;      /* positions that the model must have; 0: any number */
    int64_t keep_alive;    /* nanoseconds; negative: forever */
    bool keep_alive_given; /* else the server's default applies */
    bool needs_model;
    bool alone; /* runs only while its model is unused or, without a model, while all models are */
    bool brief; /* done when start returns and computes nothing, so it may start even if its model has no room */

    /* On a thread of the desk, with the model that start gets: all slow work that does not compute. It ends early once
     * no client waits for the answer. Errors are kept for start to report. It is called again if the model was unloaded
     * in between. May be NULL. */
    void (*prepare)(struct job *job, struct loaded_model *loaded);
    /* On the worker's thread. The job is done when start returns, and start may free it; if start called worker_keep,
     * it is done at worker_done. loaded is NULL for a job without needs_model. */
    void (*start)(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds);
    /* Called repeatedly for a kept job that does not use the generator; such a job is alone. May be NULL. */
    void (*step)(struct job *job, struct loaded_model *loaded);
    /* For a kept job that uses the generator: its client has left. */
    void (*cancel)(struct job *job, struct loaded_model *loaded);
    /* The job cannot start or continue: answers with the message and frees the job. */
    void (*refuse)(struct job *job, unsigned status, const char *message);

    /* private to the worker */
    struct loaded_model *loaded; /* while the job is prepared or kept */
    struct desk_task task;
    uint64_t number; /* in the order of arrival */
    uint64_t load_nanoseconds;
    bool prepared;
};

hypura_status worker_create(struct worker **out, struct server *server, hypura_error *error);
void worker_stop(struct worker *worker); /* ends all jobs, unloads the models and joins the thread */
void worker_destroy(struct worker *worker);
bool worker_is_idle(struct worker *worker);

/* Called several times per second: ends passes that no client waits for. Never concurrent with worker_stop. */
void worker_look(struct worker *worker);

/* Queues a job, or refuses it: in Ollama's words if the queue is full, or because the request lacks memory. */
void worker_submit(struct worker *worker, struct job *job);

/* Loads the model that options.preload names, before the first request. */
void worker_preload(struct worker *worker);

/* ---- the worker's thread ---- */
void worker_keep(struct worker *worker, struct job *job, struct loaded_model *loaded);
void worker_done(struct worker *worker, struct job *job);

/* ---- any thread ---- */

/* Has models unloaded, once they are unused, whose names now stand for other files. */
void worker_names_changed(struct worker *worker);
uint32_t worker_waiting(struct worker *worker);
uint32_t worker_running(struct worker *worker);

#endif
