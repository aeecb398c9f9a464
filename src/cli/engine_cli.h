/* What commands that use an engine directly share, beyond cli.h. */
#ifndef HYPURA_ENGINE_CLI_H
#define HYPURA_ENGINE_CLI_H

#include "api/figures.h"
#include "cli/cli.h"
#include "engine/engine.h"

/* The options of the command line as options of an engine. */
hypura_status engine_options_of(struct engine_options *out, hypura_error *error);

/* ranks.c: runs a command. Under mpirun, it runs on rank 0, and the other ranks compute for it. hosts_be_quiet silences
 * these ranks while they parse the command line, since rank 0 reports errors in it. */
int run_on_hosts(const struct command *command, size_t count, char **arguments);
void hosts_be_quiet(void);

/* report.c. True at its first call: a lost host is reported only once. */
bool first_to_say_lost(void);

/* The handler of SIGTERM under mpirun. */
void on_termination(int number);

/* Opens the registry of a model folder (NULL: the default one) and the embedded model. */
struct registry;
hypura_status open_registry(struct registry **out, const char *folder, hypura_error *error);

/* From now on, the first SIGINT cancels the engine and sets interrupted(); the second ends the program. Call it with
 * NULL before closing the engine. */
void interrupts_cancel(struct engine *engine);

/* A pieces_progress (tools/pieces.h) that shows a progress line; an interrupt ends the work. context: a uint64_t with
 * the start time in nanoseconds. */
struct pieces_moment;
bool show_pieces(void *context, const struct pieces_moment *moment);

#endif
