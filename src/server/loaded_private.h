/* The table of models in memory, as loaded_room.c, loaded.c and make_room.c share it: each calls those before it. */
#ifndef HYPURA_SERVER_LOADED_PRIVATE_H
#define HYPURA_SERVER_LOADED_PRIVATE_H

#include "server/loaded.h"
#include "server/server_private.h"

struct loaded_models {
    struct server *server;
    pthread_mutex_t mutex; /* all below; the worker's thread may read without it */
    struct loaded_model *items[SERVER_MOST_LOADED];
    uint32_t count;
    struct loaded_model *opening;
    uint64_t budget;  /* asked for; 0: chosen when the first is loaded */
    uint64_t total;   /* that is in force while models are loaded */
    uint64_t base;    /* resident before the first of them */
    uint64_t lent;    /* to requests */
    int64_t aside;    /* what plans set aside of the budget, less what comes on top of it */
    uint64_t numbers; /* given so far */
    uint64_t looked;  /* at the files; the worker's */
    bool gpu_fails;   /* it was lost before it computed anything: it is not asked again */
};

/* The file of the adapter that /api/create gave the model, or an empty text. */
void loaded_adapter_path(const struct loaded_models *models, const struct model_entry *entry, char *path, size_t room);

/* Options of the server for the next model, with what the others leave. True: there are no others. */
bool loaded_options(struct loaded_models *models, uint32_t context, struct engine_options *options);

/* ---- loaded_room.c ---- */

/* Memory comes and goes a little next to the models. */
#define LOADED_WOBBLE ((uint64_t)512 << 10)

/* Bytes: of the budget, held by models, and held by models in use. */
struct loaded_share {
    uint64_t total, held, busy;
};
struct loaded_share loaded_look(struct loaded_models *models);

bool loaded_is_used(const struct loaded_model *model);
/* The model (idle: among unused ones) that was used longest ago, but after that time; NULL: there is none. */
struct loaded_model *loaded_oldest(const struct loaded_models *models, bool idle, uint64_t after);
/* The bytes that the pool of a model can give. */
uint64_t loaded_can_give(const struct loaded_model *model, bool to_the_least);
/* Takes bytes from pools, with the mutex: first of unused models, and of those first from the one that was used longest
 * ago. False: they could not give all of it. */
bool loaded_take_from_pools(struct loaded_models *models, uint64_t bytes, bool to_the_least);

#endif
