/* Other programs, run for what they print. */
#ifndef HYPURA_CLI_CHILD_H
#define HYPURA_CLI_CHILD_H

#include "cli/cli.h"

/* The arguments of a program, which belong to the list. */
struct arguments {
    char **items; /* NULL after the last */
    size_t count;
};
hypura_status arguments_add(struct arguments *arguments, const char *text, hypura_error *error);

/* The options of a table as they were given to this program, but for those that are named (NULL after the last). */
hypura_status arguments_add_options(struct arguments *arguments, const struct option_row *rows,
                                    const char *const *without, hypura_error *error);
void arguments_free(struct arguments *arguments);

/* Runs a program (found on the PATH when it has no slash) and parses what it prints as JSON; the caller releases it.
 * What it writes to standard error is shown here, or where quiet only its last line, in the error, when it fails. */
hypura_status child_json(json_t **out, const struct arguments *arguments, bool quiet, hypura_error *error);

/* Whether there is such a program, on the PATH when it has no slash. */
bool child_exists(const char *name);

/* The file of this program itself; false when the system does not say. */
bool program_path(char *path, size_t room);

#endif
