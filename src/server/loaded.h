/* The models in memory. They share one budget, and the cores: the worker runs them in turn.
 *
 * How much memory a model gets: the first takes what it can use of the budget. Another one takes what is left, if all
 * of it fits there. If not, pools of models that stream shrink for a small one (at most a quarter of the budget), none
 * to less than half. Otherwise unused models are unloaded, the one used longest ago first, until it fits or the others
 * hold no more than a quarter. A model in use is never unloaded: the request waits. Memory that becomes free goes to
 * pools.
 *
 * Threads: the list belongs to the worker. Others look at it through loaded_each, and set the budget. loaded_open may
 * run on a thread of its own, one at a time. */
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
    struct grammar_vocabulary *grammar; /* made when first needed */
    char *piece_bytes;
    struct token_piece *pieces;
    bool *ends;

    /* the worker's */
    atomic_uint active; /* running requests */
    atomic_uint held;   /* requests that are being prepared, or wait with their prompt for room: it is not unloaded */
    bool alone;         /* no other model fits next to it */
    bool cut_noted;     /* the log has what cuts its prompts */
    atomic_bool gone;   /* its name means something else, or nothing: it is unloaded when unused */

    /* its place among the others */
    uint64_t number;                       /* of its loading: another one each time */
    uint64_t expires;                      /* monotonic; UINT64_MAX: never */
    uint64_t used;                         /* when last */
    uint64_t bytes;                        /* of the budget: what it holds, and what it may come to hold */
    uint64_t gpu_bytes[HARDWARE_MAX_GPUS]; /* of each device's memory */
    uint64_t all_gpu_bytes;
    uint64_t streamed; /* bytes that a pool could hold at most */
    uint64_t opened_pool;
    uint64_t engine_budget; /* as its engine sees it */
};

struct server;
struct loaded_models;

hypura_status loaded_create(struct loaded_models **out, struct server *server, hypura_error *error);
void loaded_destroy(struct loaded_models *models); /* none may be loaded */

/* ---- the worker's thread ---- */

/* The one that answers for an entry with so much context (0: any); NULL: none. */
struct loaded_model *loaded_find(struct loaded_models *models, const struct model_entry *entry, uint32_t context);

/* The one of an entry's file, whatever its context; NULL: none. */
struct loaded_model *loaded_find_file(struct loaded_models *models, const struct model_entry *entry);

uint32_t loaded_count(const struct loaded_models *models);
struct loaded_model *loaded_at(struct loaded_models *models, uint32_t index);

/* Whether a model can be opened now. */
enum loaded_room {
    ROOM_NOW,   /* unused models may have been unloaded for it */
    ROOM_LATER, /* once others are done */
    ROOM_NEVER  /* too large to load on its own, as the error says; no other model was unloaded */
};
enum loaded_room loaded_make_room(struct loaded_models *models, const struct model_entry *entry, uint32_t context,
                                  hypura_error *error);

/* Unloads the unused model that was used longest ago; false: there is none. */
bool loaded_drop_oldest(struct loaded_models *models);

/* A model to be opened; takes the entry over. */
hypura_status loaded_prepare(struct loaded_models *models, struct loaded_model **out, struct model_entry *entry,
                             hypura_error *error);
/* On any thread, between loaded_prepare and loaded_add or loaded_discard. */
hypura_status loaded_open(struct loaded_models *models, struct loaded_model *fresh, uint32_t context,
                          store_progress progress, void *progress_context, hypura_error *error);
void loaded_add(struct loaded_models *models, struct loaded_model *fresh);
void loaded_discard(struct loaded_models *models, struct loaded_model *fresh);

void loaded_unload(struct loaded_models *models, struct loaded_model *model);
/* What is free goes to the pools, unless a model is being opened. */
void loaded_spread(struct loaded_models *models);
/* It was used now. keep: nanoseconds that it stays, negative: for good; NULL: as the server was told. */
void loaded_keep(struct loaded_models *models, struct loaded_model *model, const int64_t *keep);
/* Unloads models whose time is over, or whose file was replaced or removed. Returns the time of the next one to unload,
 * UINT64_MAX: never. */
uint64_t loaded_expire(struct loaded_models *models);

/* Changes the budget. If it must (reloaded), it unloads all models and opens the one used last, under the old budget if
 * the new one does not work. */
hypura_status loaded_reload(struct loaded_models *models, uint64_t budget, bool *reloaded, hypura_error *error);

/* Sequences hold nothing afterwards: for what runs the engine without the generator. */
hypura_status loaded_clear_sequences(struct loaded_models *models, struct loaded_model *loaded, hypura_error *error);
hypura_status loaded_grammar_vocabulary(struct loaded_model *loaded, hypura_error *error);

/* ---- any thread ---- */

/* Calls look with each model, the one used last first. None is unloaded meanwhile. */
void loaded_each(struct loaded_models *models, void (*look)(void *context, struct loaded_model *loaded), void *context);
json_t *loaded_ps(struct loaded_models *models, hypura_error *error);

/* At once if possible. HYPURA_ERROR_MEMORY: only by loading again. */
hypura_status loaded_set_budget(struct loaded_models *models, uint64_t bytes, hypura_error *error);
uint64_t loaded_budget(struct loaded_models *models); /* 0: chosen when the first model is loaded */

/* What requests take (bodies, their JSON, what makes prompts) is a part of the budget, too: a little is theirs, more
 * comes out of what is free and out of pools. own: what the request has already; ROOM_NEVER: it cannot have so much
 * more even without the others. loaded_lendable: what one could have without others; UINT64_MAX: nobody knows yet. */
enum loaded_room loaded_lend(struct loaded_models *models, uint64_t bytes, uint64_t own);
void loaded_return(struct loaded_models *models, uint64_t bytes);
uint64_t loaded_lendable(struct loaded_models *models);

/* How much of what the process holds now would be free if no model were loaded. */
uint64_t loaded_resident(struct loaded_models *models);

/* A name was created, deleted, or given to another file: the model that had it is unloaded when unused. */
void loaded_names_changed(struct loaded_models *models);

#endif
