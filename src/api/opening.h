/* opening: converts a program's options to those of the engine, also for code that opens an engine directly. */
#ifndef HYPURA_OPENING_H
#define HYPURA_OPENING_H

#include "engine/engine.h"

#include <hypura/options.h>

struct opening {
    hypura_options given;
    struct engine_options engine;
    struct engine_adapter *adapters;
    char **texts; /* copies made by keep_options */
    size_t text_count;
};

/* *out points into what options point to. options may be NULL. Free it with close_options, even after an error. */
hypura_status read_options(struct opening *out, const hypura_options *options, hypura_error *error);

/* Copies what the engine's options point to, except on_load and its context. */
hypura_status keep_options(struct opening *opening, hypura_error *error);

void close_options(struct opening *opening);

/* plan.c: plans as opening would. If memory is short and the program did not set the number of sessions, it plans for
 * fewer. Changes the engine's options to the number of sequences and the use of a GPU that the plan has. */
hypura_status plan_opening(struct plan **out, const struct model *model, const struct hardware *hardware,
                           struct opening *opening, hypura_error *error);

/* structs.c: copies a struct given by the program, which may be shorter or longer; fields that it lacks become zero.
 * given may be NULL. name: for errors. */
hypura_status take_struct(void *own, size_t own_size, const void *given, const char *name, hypura_error *error);
/* structs.c: copies to a struct of the program, as far as its struct_size reaches. */
void give_struct(void *given, const void *own, size_t own_size);

#endif
