/* store/moves: experts that change sides between memory and a GPU. Owner: moves.c. */
#ifndef HYPURA_STORE_MOVES_H
#define HYPURA_STORE_MOVES_H

#include "model/model.h"
#include "plan/plan.h"

#include <pthread.h>

struct store;
struct store_source;

/* A slot of an expert's layer. */
struct device_slot {
    uint32_t device, number;
};

struct move {
    unit_number in,
        out; /* of one layer: "in" comes to the GPU, into the slot that "out" leaves; NO_UNIT: an empty one */
    struct device_slot slot;
    bool fetches; /* "out" is copied to the cache */
    enum { MOVE_WAITS, MOVE_SENDS, MOVE_SENT, MOVE_DROPPED } state;
};

enum move_phase { MOVES_NONE, MOVES_LEAVING, MOVES_COMING };

struct moves {
    uint32_t *heat;     /* [layers][experts] uses; older ones count less; NULL: nothing moves */
    unit_number *first; /* [layers] the first expert; NO_UNIT: none can move */
    uint32_t experts, passes, limit, count, of_a_layer, uses_a_token;
    uint64_t uses; /* in this pass */
    bool reading;  /* the cache has no room for all experts that are not on the GPU */
    enum move_phase phase;
    struct move *list;       /* [capacity] */
    uint32_t capacity, lent; /* lent: slots in lent memory */
    pthread_t thread;
    pthread_cond_t work;
    bool running, stop, failed;
};

hypura_status moves_prepare(struct store *store, const struct store_source *source,
                            hypura_error *error);       /* after device_prepare */
void moves_note(struct store *store, unit_number unit); /* one use */
void moves_expect(struct store *store, unit_number unit, float uses_a_pass);
hypura_status moves_pass_done(struct store *store, hypura_error *error); /* not locked */
void moves_stop(struct store *store);                                    /* not locked */
void moves_free(struct store *store);

#endif
