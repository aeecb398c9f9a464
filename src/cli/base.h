/* What commands need that are written with the library's public headers: errors, memory, growing texts, sizes, files.
 *
 * hypura's own libraries have the same in core, which other commands include. This is a header of its own so that
 * commands see of the library what every program sees.
 */
#ifndef HYPURA_CLI_BASE_H
#define HYPURA_CLI_BASE_H

#include <hypura/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINTF_LIKE(text, arguments) __attribute__((format(printf, text, arguments), nonnull(text)))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- errors ---- */

/* Fills the error (NULL is fine) and returns the status. A message that does not fit is cut. */
hypura_status set_error(hypura_error *error, hypura_status status, const char *format, ...) PRINTF_LIKE(3, 4);
/* HYPURA_ERROR_IO, with the text of an errno value at the end. */
hypura_status set_error_errno(hypura_error *error, int number, const char *format, ...) PRINTF_LIKE(3, 4);
/* "CONTEXT: message"; returns its status. */
hypura_status prefix_error(hypura_error *error, const char *format, ...) PRINTF_LIKE(2, 3);

/* A warning, as the library's go. */
void log_warning(const char *format, ...) PRINTF_LIKE(1, 2);

/* ---- memory ---- */

/* Zeroed memory for count elements, NULL for none; "what" is the noun in the error. */
hypura_status new_array(void **out, size_t count, size_t size, const char *what, hypura_error *error);
#define NEW_ARRAY(pointer, count, what, error)                                                                         \
    new_array((void **)(pointer), (count), sizeof(**(pointer)), (what), (error))
hypura_status resize_array(void **array, size_t old_count, size_t count, size_t size, const char *what,
                           hypura_error *error);
void free_memory(void *memory);
hypura_status copy_text(char **out, const char *text, hypura_error *error); /* NULL of NULL */

/* How often this thread found no memory without an error to say so: in texts here and in JSON. Code that makes
 * something of many parts compares before and after. */
uint64_t lost_memory(void);
hypura_status check_memory(uint64_t lost_before, const char *what, hypura_error *error);

/* ---- texts ---- */

/* One that grows; zeros at first. Where memory is short, or the limit reached, it has failed, and later additions do
 * nothing. data, unless NULL, ends with a NUL. */
struct text_buffer {
    char *data;
    size_t size, capacity;
    size_t limit; /* 0: none */
    bool failed;
};
void text_add(struct text_buffer *text, const void *bytes, size_t size);
void text_add_string(struct text_buffer *text, const char *string);
void text_add_char(struct text_buffer *text, char c);
void text_add_format(struct text_buffer *text, const char *format, ...) PRINTF_LIKE(2, 3);
void text_clear(struct text_buffer *text);
void text_free(struct text_buffer *text);

/* Control characters become spaces, and what is not UTF-8 question marks. */
void clean_text(char *text);

/* "12.3 GiB" into text, which has room for 32 bytes; and the number of "4G". */
char *size_text(char *text, size_t room, double bytes);
hypura_status read_size(const char *text, uint64_t *bytes, hypura_error *error);

/* FNV-1a of bytes behind those that gave hash; HASH_START at first. Files depend on it. */
#define HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size);

/* ---- clock ---- */

uint64_t now_nanoseconds(void); /* monotonic */
double seconds_since(uint64_t start);

/* ---- files that outlast a power cut ---- */

hypura_status flush_file(int file, const char *path, hypura_error *error);
hypura_status flush_folder_of(const char *path, hypura_error *error);
/* Whether a file may be renamed to this: never over a device or a pipe. */
hypura_status may_replace_file(const char *path, hypura_error *error);

#endif
