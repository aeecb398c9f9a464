/* Parts of hypura inspect. */
#ifndef HYPURA_CLI_INSPECT_H
#define HYPURA_CLI_INSPECT_H

#include "cli/engine_cli.h"

/* The plan of the hosts in a file for a model; parts: "HOST=FILE" to write, or NULL. Returns the exit status. */
int inspect_hosts(const char *path, const char *file, const char *parts, bool as_json);

#endif
