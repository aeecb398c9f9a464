/* The models in memory. They share one memory budget and the cores; the worker runs them in turn.
 *
 * How the budget is divided: The first model takes as much as it can use. Another model takes what is left if it then
 * fits completely. If it does not fit and is small (at most a quarter of the budget), the pools of models that stream
 * shrink for it, none to less than half of its first size. Otherwise unused models are unloaded, the least recently
 * used first, until the new one fits or the others hold no more than a quarter. A model in use is never unloaded; the
 * request waits. Memory that becomes free goes to the pools.
 *
 * Threads: the list belongs to the worker. Other threads read it through loaded_each, and may set the budget.
 * loaded_open may run on any thread, one call at a time. */
#ifndef HYPURA_SERVER_LOADED_H
#define HYPURA_SERVER_LOADED_H

#include "engine/generate.h"
#include "grammar/grammar.h"
#include "server/registry.h"
#include "template/template.h"

#include <stdatomic.h>

struct loaded_model {
    struct model_entry entry;
    struct engine *engine;
    const struct vocabulary *vocabulary;
    struct chat_template *template;
    struct generator *generator;
    struct grammar_vocabulary *grammar; /* made on first use */
    char *piece_bytes;
    struct token_piece *pieces;
    bool *ends;

    /* owned by the worker */
    atomic_uint active; /* kept jobs */
    atomic_uint held;   /* jobs being prepared, or prepared and waiting for room: keep the model loaded */
    bool alone;         /* the kept job uses the engine without the generator */
    bool cut_noted;     /* prompt_notes.c has written its warning */
    atomic_bool gone;   /* its name stands for another file, or none: unloaded when unused */

    /* for the choice among models */
    uint64_t number;                       /* unique for each loading */
    uint64_t expires;                      /* when it is unloaded, on the monotonic clock; UINT64_MAX: never */
    uint64_t used;                         /* time of the last use */
    uint64_t bytes;                        /* share of the budget: what it holds, and what it may come to hold */
    uint64_t gpu_bytes[HARDWARE_MAX_GPUS]; /* share of each device's memory */
    uint64_t all_gpu_bytes;
    uint64_t streamed;      /* bytes of the largest useful pool */
    uint64_t opened_pool;   /* bytes of the pool when it was opened */
    uint64_t engine_budget; /* given to its engine */
};

struct server;
struct loaded_models;

hypura_status loaded_create(struct loaded_models **out, struct server *server, hypura_error *error);
void loaded_destroy(struct loaded_models *models); /* none may be loaded */

/* ---- the worker's thread ---- */

/* Finds a model that can answer for an entry, with at least this much context (0: any). NULL: none. */
struct loaded_model *loaded_find(struct loaded_models *models, const struct model_entry *entry, uint32_t context);

/* Finds the model with an entry's file and adapter, whatever its context or version. NULL: none. */
struct loaded_model *loaded_find_file(struct loaded_models *models, const struct model_entry *entry);

uint32_t loaded_count(const struct loaded_models *models);
struct loaded_model *loaded_at(struct loaded_models *models, uint32_t index);

/* Whether a model can be opened now. */
enum loaded_room {
    ROOM_NOW,   /* unused models may have been unloaded for it */
    ROOM_LATER, /* once models in use become unused */
    ROOM_NEVER  /* too large to load on its own, as the error says; no other model was unloaded */
};
enum loaded_room loaded_make_room(struct loaded_models *models, const struct model_entry *entry, uint32_t context,
                                  hypura_error *error);

/* Unloads the least recently used model that is not in use. False: all are in use. */
bool loaded_drop_oldest(struct loaded_models *models);

/* Begins to load a model. Takes the contents of the entry. */
hypura_status loaded_prepare(struct loaded_models *models, struct loaded_model **out, struct model_entry *entry,
                             hypura_error *error);
/* Opens the model; on any thread, between loaded_prepare and loaded_add or loaded_discard. */
hypura_status loaded_open(struct loaded_models *models, struct loaded_model *fresh, uint32_t context,
                          store_progress progress, void *progress_context, hypura_error *error);
void loaded_add(struct loaded_models *models, struct loaded_model *fresh);
void loaded_discard(struct loaded_models *models, struct loaded_model *fresh);

void loaded_unload(struct loaded_models *models, struct loaded_model *model);
/* Gives free memory to the pools, unless a model is being opened. */
void loaded_spread(struct loaded_models *models);
/* Marks the model as used now. keep: nanoseconds that it stays, negative: forever; NULL: the server's default. */
void loaded_keep(struct loaded_models *models, struct loaded_model *model, const int64_t *keep);
/* Unloads unused models whose time is over, or whose file was replaced or removed. Returns when the next one is due;
 * UINT64_MAX: never. */
uint64_t loaded_expire(struct loaded_models *models);

/* Changes the budget. If that needs a reload (*reloaded), unloads all models and opens the last used one again. If that
 * fails, opens it with the old budget and returns the error. */
hypura_status loaded_reload(struct loaded_models *models, uint64_t budget, bool *reloaded, hypura_error *error);

/* Empties all sequences, for work that uses the engine without the generator. */
hypura_status loaded_clear_sequences(struct loaded_models *models, struct loaded_model *loaded, hypura_error *error);
/* Makes loaded->grammar unless it exists. */
hypura_status loaded_grammar_vocabulary(struct loaded_model *loaded, hypura_error *error);

/* ---- any thread ---- */

/* Calls look with each model, the most recently used first. None is unloaded meanwhile. */
void loaded_each(struct loaded_models *models, void (*look)(void *context, struct loaded_model *loaded), void *context);
/* The answer of GET /api/ps, a new reference; NULL with an error. */
json_t *loaded_ps(struct loaded_models *models, hypura_error *error);

/* Changes the budget in place. HYPURA_ERROR_MEMORY: that is impossible without a reload. */
hypura_status loaded_set_budget(struct loaded_models *models, uint64_t bytes, hypura_error *error);
uint64_t loaded_budget(struct loaded_models *models); /* 0: chosen when the first model is loaded */

/* The memory of requests (bodies, their JSON, the making of prompts) is part of the budget. A small part is reserved
 * for them; more is taken from free memory, then from pools. own: what the request has borrowed already. ROOM_NEVER:
 * there is not so much even without other requests. loaded_lendable returns how much one request could borrow without
 * others; UINT64_MAX: not known yet. */
enum loaded_room loaded_lend(struct loaded_models *models, uint64_t bytes, uint64_t own);
void loaded_return(struct loaded_models *models, uint64_t bytes);
uint64_t loaded_lendable(struct loaded_models *models);

/* Bytes of the process's memory that unloading all models would free. */
uint64_t loaded_resident(struct loaded_models *models);

/* A name was created, deleted, or given to another file: marks the models that had it, to be unloaded when unused. */
void loaded_names_changed(struct loaded_models *models);

#endif
