/* opening: the options that a program gives, as the engine takes them; also for what opens models without a model of
 * the API. */
#ifndef HYPURA_OPENING_H
#define HYPURA_OPENING_H

#include "engine/engine.h"

#include <hypura/options.h>

struct opening {
    hypura_options given;
    struct engine_options engine;
    struct engine_adapter *adapters;
    char **texts; /* that keep_options copied */
    size_t text_count;
};

/* What the options point to is needed as long as this. options may be NULL. */
hypura_status read_options(struct opening *out, const hypura_options *options, hypura_error *error);

/* Copies what they point to, but for on_load and its context. */
hypura_status keep_options(struct opening *opening, hypura_error *error);

void close_options(struct opening *opening);

/* plan.c: what opening would do, for fewer answers at once where the memory is short and the program did not say how
 * many. Settles options for it: their number, and whether there is a GPU. */
hypura_status plan_opening(struct plan **out, const struct model *model, const struct hardware *hardware,
                           struct opening *opening, hypura_error *error);

/* A struct of the program's (NULL: none) as the library knows it: what it lacks is zero. */
hypura_status take_struct(void *own, size_t own_size, const void *given, const char *name, hypura_error *error);
/* The other way, as far as the program's reaches. */
void give_struct(void *given, const void *own, size_t own_size);

#endif
