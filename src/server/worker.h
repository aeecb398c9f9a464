/* The thread that owns the engine. It takes jobs in the order of their arrival, loads the model that the next one asks
 * for once the answers of another are done, and runs the generator. */
#ifndef HYPURA_SERVER_WORKER_H
#define HYPURA_SERVER_WORKER_H

#include "engine/generate.h"
#include "engine/grammar.h"
#include "model/template.h"
#include "server/exchange.h"
#include "server/registry.h"

struct worker;

/* The model in memory; the worker's thread only, except that engine and entry may be read inside worker_look. */
struct loaded_model {
    struct model_entry entry;
    struct engine *engine;
    const struct vocabulary *vocabulary;
    struct chat_template *template;
    struct generator *generator;
    struct grammar_vocabulary *grammar; /* made when first needed */
    char *piece_bytes;
    struct token_piece *pieces;
    bool *ends;
};

struct job {
    struct job *next;
    struct exchange *exchange; /* held; NULL: nobody waits for an answer */
    struct model_entry model;
    uint32_t context;      /* positions wanted; 0: any */
    int64_t keep_alive;    /* nanoseconds; negative: for good */
    bool keep_alive_given; /* else the server's */
    bool needs_model;
    bool alone; /* not while answers are in work */

    /* On the worker's thread. A job is over, and its memory the worker's no more, when start returns, unless it called
     * worker_keep; then when it calls worker_done. loaded is NULL where no model is needed. */
    void (*start)(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds);
    /* Of a job that was kept: its client has gone. */
    void (*cancel)(struct job *job, struct loaded_model *loaded);
    /* The job cannot start: say so, and free it. */
    void (*refuse)(struct job *job, unsigned status, const char *message);
};

hypura_status worker_create(struct worker **out, struct server *server, hypura_error *error);
void worker_stop(struct worker *worker); /* ends all jobs, unloads the model and waits for the thread */
void worker_destroy(struct worker *worker);
bool worker_is_idle(struct worker *worker);

/* Hands a job over, or refuses it (with Ollama's words) when the queue is full. */
void worker_submit(struct worker *worker, struct job *job);

/* Loads the first model of the command line, for whoever asks next. */
void worker_preload(struct worker *worker);

/* ---- the worker's thread ---- */
void worker_keep(struct worker *worker, struct job *job);
void worker_done(struct worker *worker, struct job *job);
/* Sequences hold nothing afterwards: for what runs the engine without the generator. */
hypura_status worker_clear_sequences(struct loaded_model *loaded, hypura_error *error);
hypura_status worker_grammar_vocabulary(struct loaded_model *loaded, hypura_error *error);
void worker_unload(struct worker *worker);
hypura_status worker_reload(struct worker *worker, uint64_t budget, hypura_error *error);

/* ---- any thread ---- */

/* Calls look with the model, which stays while it does; NULL when none is loaded. */
void worker_look(struct worker *worker, void (*look)(void *context, struct loaded_model *loaded), void *context);
json_t *worker_ps(struct worker *worker);
uint32_t worker_waiting(struct worker *worker);
uint32_t worker_running(struct worker *worker);

/* At once where the plan allows it. HYPURA_ERROR_MEMORY: only by loading the model anew. */
hypura_status worker_set_budget(struct worker *worker, uint64_t bytes, hypura_error *error);
uint64_t worker_budget(struct worker *worker); /* 0: chosen when a model is loaded */

#endif
