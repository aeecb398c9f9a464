/* What commands share that use an engine, and not the library's headers alone. */
#ifndef HYPURA_ENGINE_CLI_H
#define HYPURA_ENGINE_CLI_H

#include "api/figures.h"
#include "cli/cli.h"
#include "engine/engine.h"

/* The engine options that the command line asked for. */
hypura_status engine_options_of(struct engine_options *out, hypura_error *error);

/* ranks.c: runs a command, under mpirun on rank 0 only: the other ranks compute for it. These say nothing before. */
int run_on_hosts(const struct command *command, size_t count, char **arguments);
void hosts_be_quiet(void);

/* A lost host is told of once. */
bool first_to_say_lost(void);

/* A handler of SIGTERM under mpirun. */
void on_termination(int number);

/* The models of a folder (NULL: the usual one) and the embedded one. */
struct registry;
hypura_status open_registry(struct registry **out, const char *folder, hypura_error *error);

/* From now on the first SIGINT cancels the engine and sets interrupted(); the second ends the program. NULL: before the
 * engine is closed. */
void interrupts_cancel(struct engine *engine);

/* A pieces_progress (tools/pieces.h) that shows a line until an interrupt; the context is the time of the start. */
struct pieces_moment;
bool show_pieces(void *context, const struct pieces_moment *moment);

#endif
