/* json_text: parses and writes JSON so that a lack of memory is an error. The only place that calls jansson's json_load
 * functions and, in the library, json_dumps.
 *
 * jansson (2.14; its issue 362) ignores that it cannot extend the text of the token that it reads. It goes on without a
 * part of it, then fails an assertion at the end of a number, and reads and writes beyond a string. Here, memory for
 * the longer text is taken before jansson gets the byte that needs it, and if there is none, the parse ends.
 */
#ifndef HYPURA_JSON_TEXT_H
#define HYPURA_JSON_TEXT_H

#include <jansson.h>
#include <stdio.h>

/* As json_loadb, json_loads and json_loadf; error may be NULL. Without memory, the result is NULL, json_error_code is
 * json_error_out_of_memory, and memory_failures counts it. If the file cannot be read up to its end, the result is NULL
 * and error's text says why. */
json_t *json_text_read(const char *text, size_t size, size_t flags, json_error_t *error);
json_t *json_text_read_string(const char *text, size_t flags, json_error_t *error);
json_t *json_text_read_file(FILE *file, size_t flags, json_error_t *error);

/* As json_load_callback: read writes at most this many bytes and returns their number; 0 at the end of the text, -1 to
 * end the parse. */
json_t *json_text_read_from(json_load_callback_t read, void *context, size_t flags, json_error_t *error);

/* As json_dumps, which leaves out an object's name for which there is no memory. Here, the result is then NULL, and
 * memory_failures counts it. free() frees the text. */
char *json_text_write(const json_t *json, size_t flags);

#endif
