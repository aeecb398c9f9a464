/* Private to format/. */
#ifndef HYPURA_FORMAT_PRIVATE_H
#define HYPURA_FORMAT_PRIVATE_H

#include "format/format.h"

#define GGUF_DEFAULT_ALIGNMENT 32
#define GGUF_MAX_KEY_BYTES 65535

/* ---- arena: many small pieces, freed together ------------------------------------------------------------------ */

struct arena_chunk;

/* Zero-initialise it. It allocates chunks that grow with its use, so small files take little memory. */
struct arena {
    struct arena_chunk *chunks;
    size_t next_chunk;
};

/* Allocates memory, aligned to 8 bytes and not cleared. 0 bytes yield a valid address. what: for the error message. */
hypura_status arena_take(struct arena *arena, void **out, size_t bytes, const char *what, hypura_error *error);
void arena_free(struct arena *arena);

/* ---- names: look-up and duplicates ----------------------------------------------------------------------------- */

/* Names are sorted instead of hashed: a hostile file can make names collide in any fixed hash, but cannot make a sort
 * quadratic. */
struct name_entry {
    const char *data;
    size_t size;
    size_t position;
};

void name_index_sort(struct name_entry *entries, size_t count);

/* Returns the first of the sorted entries that equals its successor, or NULL if all names differ. */
const struct name_entry *name_index_duplicate(const struct name_entry *entries, size_t count);

/* Returns the position of the entry with that name among sorted entries, or SIZE_MAX. */
size_t name_index_find(const struct name_entry *entries, size_t count, const char *name, size_t size);

/* Writes a name for an error message: replaces unprintable bytes by '?' and truncates it. Returns text. */
#define NAME_TEXT_ROOM 72
char *name_text(char text[NAME_TEXT_ROOM], const char *data, size_t size);

/* ---- one file ---------------------------------------------------------------------------------------------------- */

/* The header of one file. Strings and arrays live in the arena passed to gguf_header_read. */
struct gguf_header {
    uint32_t version;
    uint64_t alignment;
    uint64_t file_bytes;
    uint64_t data_offset;
    bool partial;              /* see gguf_open_partial */
    struct gguf_value *values; /* heap */
    size_t value_count;
    struct name_entry *value_index; /* heap, sorted */
    struct gguf_tensor *tensors;    /* heap; .file is 0 */
    size_t tensor_count;
};

/* Reads and checks the header of a file. On failure, the caller frees only the arena. */
hypura_status gguf_header_read(struct gguf_header *out, struct arena *arena, const char *path, hypura_error *error);
void gguf_header_free(struct gguf_header *header);

/* Returns the bytes of one scalar of a type; 0 for strings, arrays and unknown types. */
size_t gguf_scalar_bytes(uint32_t type);

/* Gets the integer in a scalar or array element of an integer type or bool. Returns false for other types, negative
 * values, or an index out of range. */
bool gguf_value_uint64(const struct gguf_value *value, uint64_t index, uint64_t *out);

/* Writes a path for an error message; keeps only the end of a long one. Returns text. */
#define PATH_TEXT_ROOM 208
char *path_text(char text[PATH_TEXT_ROOM], const char *path);

#endif
