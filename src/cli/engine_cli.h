/* What commands share that use an engine, and not the library's headers alone. */
#ifndef HYPURA_ENGINE_CLI_H
#define HYPURA_ENGINE_CLI_H

#include "api/figures.h"
#include "cli/cli.h"
#include "engine/engine.h"

/* Opens a model (as model_path takes it) under these options, with a progress line while it loads. Without drafts for
 * who generates no text: a block that drafts is then left on the drive. */
hypura_status open_engine(struct engine **out, const char *model, bool drafts, hypura_error *error);

/* The line that tells how a model is being loaded, in a terminal. */
struct load_line {
    uint64_t start, last;
};
void load_line_start(struct load_line *line, struct engine_options *options); /* clear_line ends it */

/* The engine options that the command line asked for. */
hypura_status engine_options_of(struct engine_options *out, hypura_error *error);

/* Closes it again, and what --progress started; after an interrupt what need not wait for the drive. NULL is fine. */
void close_engine(struct engine *engine);

/* SIGUSR1 changes the memory budget. Prepare at the start of the program, and stop before the engine is closed. engine
 * NULL: that of the server. */
void live_memory_start(struct engine *engine);

/* Writes --stats, when asked for. Returns false after reporting that it could not. */
bool write_statistics(struct engine *engine);

/* The steps of a model's layers (steps/steps.h), those of equal ones once, or of one of them. */
hypura_status print_layers(const struct model *model, const struct plan *plan, const struct which *which,
                           hypura_error *error);
hypura_status layers_json(json_t **out, const struct model *model, const struct plan *plan, const struct which *which,
                          hypura_error *error);

/* The models of a folder (NULL: the usual one) and the embedded one. */
struct registry;
hypura_status open_registry(struct registry **out, const char *folder, hypura_error *error);

/* From now on the first SIGINT cancels the engine and sets interrupted(); the second ends the program. NULL: before the
 * engine is closed. */
void interrupts_cancel(struct engine *engine);

/* Some lines about a model. */
void print_summary(FILE *out, const struct model *model);

/* A bar a layer: what is pinned in memory, what is cached, what is on disk. */
void draw_tier_map(FILE *out, struct engine *engine);

/* As prompt_line_start, for an engine. */
void engine_prompt_line_start(struct engine *engine, uint32_t tokens);

#endif
