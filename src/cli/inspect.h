/* Parts of hypura inspect, which draw what hypura/inspect.h tells. */
#ifndef HYPURA_CLI_INSPECT_H
#define HYPURA_CLI_INSPECT_H

#include "cli/cli.h"

/* Members of an object: "?" and 0 where there is none. */
const char *text_of(const json_t *json, const char *key);
double number_of(const json_t *json, const char *key);

/* "1.20 to 1.50", or one number where both read the same. */
#define SPEED_TEXT 64
const char *speed_text(char text[SPEED_TEXT], double even, double speed);

void print_header(const json_t *json);

/* Prints a description (hypura_free) as it is or by a function; the exit status. */
int show_description(char *text, bool raw, void (*print)(const json_t *json));

/* layers.c: its "steps", those of equal layers once. */
void print_layers(const json_t *json);

/* inspect_hosts.c: the plan of the hosts in a file for a model; parts: "HOST=FILE" to write, or NULL. Returns the exit
 * status. */
int inspect_hosts(const char *path, const char *file, const char *parts, hypura_options *options,
                  const hypura_inspection *what, bool as_json);

#endif
