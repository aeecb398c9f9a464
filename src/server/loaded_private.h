/* The table of models in memory. loaded_room.c, loaded.c and make_room.c share it; each calls only those named before
 * it. */
#ifndef HYPURA_SERVER_LOADED_PRIVATE_H
#define HYPURA_SERVER_LOADED_PRIVATE_H

#include "server/loaded.h"
#include "server/server_private.h"

struct loaded_models {
    struct server *server;
    pthread_mutex_t mutex; /* protects everything below; the worker's thread may read without it */
    struct loaded_model *items[SERVER_MOST_LOADED];
    uint32_t count;
    struct loaded_model *opening;
    uint64_t budget;  /* as requested; 0: chosen when the first model is loaded */
    uint64_t total;   /* the budget in force while models are loaded */
    uint64_t base;    /* resident bytes before the first model was loaded */
    uint64_t lent;    /* bytes lent to requests */
    int64_t aside;    /* bytes that plans reserve of the budget, minus those that come on top of it */
    uint64_t numbers; /* given to models so far */
    uint64_t looked;  /* time of the last look at the files; used by the worker only */
    bool gpu_fails;   /* it was lost before it computed anything, and is not used again */
};

/* Writes the path of the adapter that /api/create gave the model, or an empty string. */
void loaded_adapter_path(const struct loaded_models *models, const struct model_entry *entry, char *path, size_t room);

/* Fills in the server's options for the next model, with the memory that others leave. True: there are no others. */
bool loaded_options(struct loaded_models *models, uint32_t context, struct engine_options *options);

/* ---- loaded_room.c ---- */

/* Smaller differences are ignored, because resident memory fluctuates. */
#define LOADED_WOBBLE ((uint64_t)512 << 10)

/* Bytes of the budget: all, held by models, and held by models in use. */
struct loaded_share {
    uint64_t total, held, busy;
};
struct loaded_share loaded_look(struct loaded_models *models);

bool loaded_is_used(const struct loaded_model *model);
/* The least recently used model that was used after this time; idle: only among unused ones. NULL: none. */
struct loaded_model *loaded_oldest(const struct loaded_models *models, bool idle, uint64_t after);
/* Bytes that a model's pool can give: down to half of its first size or, to_the_least, to the smallest that works. */
uint64_t loaded_can_give(const struct loaded_model *model, bool to_the_least);
/* Takes bytes from pools, with the mutex held: first from unused models, then from the others, each time the least
 * recently used first. False: they could not give all of it. */
bool loaded_take_from_pools(struct loaded_models *models, uint64_t bytes, bool to_the_least);

#endif
