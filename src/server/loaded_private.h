/* The table of models in memory, as loaded.c and loaded_room.c share it. */
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

#endif
