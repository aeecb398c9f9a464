/* Runs other programs and reads their output. */
#ifndef HYPURA_CLI_CHILD_H
#define HYPURA_CLI_CHILD_H

#include "cli/cli.h"

/* The arguments of a program. The list owns them. */
struct arguments {
    char **items; /* NULL after the last */
    size_t count;
};
hypura_status arguments_add(struct arguments *arguments, const char *text, hypura_error *error);

/* Adds the options of a table with the values given to this program, except those named in without (NULL after the
 * last). */
hypura_status arguments_add_options(struct arguments *arguments, const struct option_row *rows,
                                    const char *const *without, hypura_error *error);
void arguments_free(struct arguments *arguments);

/* Runs a program, found on the PATH if its name has no slash, and parses its output as JSON. The caller releases *out.
 * The program's standard error is shown. With quiet, it is hidden, and its last line becomes part of the error if the
 * program fails. */
hypura_status child_json(json_t **out, const struct arguments *arguments, bool quiet, hypura_error *error);

/* Whether a program exists, on the PATH if its name has no slash. */
bool child_exists(const char *name);

/* The path of this program itself; false if the system does not tell it. */
bool program_path(char *path, size_t room);

#endif
