/* Utilities for commands that use only the library's public headers: errors, memory, text buffers, sizes, files.
 *
 * They wrap functions of core, which other commands include directly. This separate header ensures that these commands
 * use nothing that other programs could not use.
 */
#ifndef HYPURA_CLI_BASE_H
#define HYPURA_CLI_BASE_H

#include <hypura/error.h>

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINTF_LIKE(text, arguments) __attribute__((format(printf, text, arguments), nonnull(text)))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- errors ---- */

/* Fills the error (may be NULL) and returns the status. A message that is too long is cut. */
hypura_status set_error(hypura_error *error, hypura_status status, const char *format, ...) PRINTF_LIKE(3, 4);
/* HYPURA_ERROR_IO, with the text of an errno value at the end. */
hypura_status set_error_errno(hypura_error *error, int number, const char *format, ...) PRINTF_LIKE(3, 4);
/* Changes the message to "CONTEXT: message"; returns its status. */
hypura_status prefix_error(hypura_error *error, const char *format, ...) PRINTF_LIKE(2, 3);

/* Reports a warning, as the library does. */
void log_warning(const char *format, ...) PRINTF_LIKE(1, 2);

/* ---- memory ---- */

/* Zeroed memory for count elements; NULL if count is 0. what: the noun in the error. */
hypura_status new_array(void **out, size_t count, size_t size, const char *what, hypura_error *error);
#define NEW_ARRAY(pointer, count, what, error)                                                                         \
    new_array((void **)(pointer), (count), sizeof(**(pointer)), (what), (error))
hypura_status resize_array(void **array, size_t old_count, size_t count, size_t size, const char *what,
                           hypura_error *error);
void free_memory(void *memory);
hypura_status copy_text(char **out, const char *text, hypura_error *error); /* *out is NULL if text is */

/* How many allocations of this thread failed without an error being reported, in text buffers and in JSON. Code that
 * builds a result from many parts compares this number before and after. */
uint64_t lost_memory(void);
hypura_status check_memory(uint64_t lost_before, const char *what, hypura_error *error);

/* ---- texts ---- */

/* A text that grows. Zero-initialise it. When memory runs out or the limit is reached, failed is set, and later
 * additions do nothing. data is NULL or NUL-terminated. */
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

/* Replaces control characters with spaces, and invalid UTF-8 with question marks. */
void clean_text(char *text);

/* Writes a size such as "12.3 GiB" to text, which should have room for 32 bytes; reads a size such as "4G". */
char *size_text(char *text, size_t room, double bytes);
hypura_status read_size(const char *text, uint64_t *bytes, hypura_error *error);

/* "1.20 to 1.50", or one number if both read the same. Returns text. */
#define RANGE_TEXT 64
char *range_text(char text[RANGE_TEXT], int decimals, double low, double high);

/* FNV-1a: continues a hash with more bytes; begin with HASH_START. File formats depend on it. */
#define HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size);

/* As json_loadb, but a lack of memory is always an error; then lost_memory counts it. */
json_t *read_json(const char *text, size_t size, size_t flags, json_error_t *error);

/* ---- clock ---- */

uint64_t now_nanoseconds(void); /* monotonic */
double seconds_since(uint64_t start);

/* ---- files that survive a power failure ---- */

hypura_status flush_file(int file, const char *path, hypura_error *error);
hypura_status flush_folder_of(const char *path, hypura_error *error);
/* Checks that a file may be renamed to this path: an error if it is a device, a pipe or a folder. */
hypura_status may_replace_file(const char *path, hypura_error *error);

#endif
