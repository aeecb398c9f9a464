/* Parts of hypura inspect, which prints the JSON of hypura/inspect.h. */
#ifndef HYPURA_CLI_INSPECT_H
#define HYPURA_CLI_INSPECT_H

#include "cli/cli.h"

/* inspect_json.c. Members of an object; "?" and 0 if it has none of that name. */
const char *text_of(const json_t *json, const char *key);
double number_of(const json_t *json, const char *key);

void print_header(const json_t *json);

/* Prints a description, raw or with the function, and frees it (hypura_free). Returns the exit status. */
int show_description(char *text, bool raw, void (*print)(const json_t *json));

/* layers.c: prints "steps", those of identical layers once. */
void print_layers(const json_t *json);

/* inspect_hosts.c: prints the plan for the hosts that a file describes. parts: "HOST=FILE" to write, or NULL. Returns
 * the exit status. */
int inspect_hosts(const char *path, const char *file, const char *parts, hypura_options *options,
                  const hypura_inspection *what, bool as_json);

#endif
