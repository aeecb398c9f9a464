/* What the files of format share and nobody else sees. */
#ifndef HYPURA_FORMAT_PRIVATE_H
#define HYPURA_FORMAT_PRIVATE_H

#include "format/format.h"

#define GGUF_DEFAULT_ALIGNMENT 32
#define GGUF_MAX_KEY_BYTES 65535

/* ---- arena: many small pieces that live and die together --------------------------------------------------------- */

struct arena_chunk;

/* Zero-initialise. Takes memory in chunks that grow with what is used, so a small file stays small. */
struct arena {
    struct arena_chunk *chunks;
    size_t next_chunk;
};

/* bytes of memory, aligned to 8, not cleared. 0 bytes give a valid address. */
hypura_status arena_take(struct arena *arena, void **out, size_t bytes, const char *what, hypura_error *error);
void arena_free(struct arena *arena);

/* ---- names: find by name, and see duplicates --------------------------------------------------------------------- */

/* Sorted, not hashed: a hostile file can choose names that collide in any fixed hash, but not make a sort quadratic. */
struct name_entry {
    const char *data;
    size_t size;
    size_t position;
};

void name_index_sort(struct name_entry *entries, size_t count);

/* After sorting: the first entry that equals its successor; NULL when all names differ. */
const struct name_entry *name_index_duplicate(const struct name_entry *entries, size_t count);

/* After sorting: the position of the entry with that name; SIZE_MAX when there is none. */
size_t name_index_find(const struct name_entry *entries, size_t count, const char *name, size_t size);

/* A name for an error message: unprintable bytes become '?', a long one is cut. Returns text. */
#define NAME_TEXT_ROOM 72
char *name_text(char text[NAME_TEXT_ROOM], const char *data, size_t size);

/* ---- one file ---------------------------------------------------------------------------------------------------- */

/* The header of one file, as read. Strings and values are in the arena that was passed. */
struct gguf_header {
    uint32_t version;
    uint64_t alignment;
    uint64_t file_bytes;
    uint64_t data_offset;
    bool partial; /* see gguf_open_partial */
    struct gguf_value *values; /* heap */
    size_t value_count;
    struct name_entry *value_index; /* heap, sorted */
    struct gguf_tensor *tensors;    /* heap; .file is left 0 */
    size_t tensor_count;
};

/* Reads and checks the header of the file. On failure nothing is left to free but the arena. */
hypura_status gguf_header_read(struct gguf_header *out, struct arena *arena, const char *path, hypura_error *error);
void gguf_header_free(struct gguf_header *header);

/* Bytes of one scalar of a type; 0 for strings, arrays and unknown types. */
size_t gguf_scalar_bytes(uint32_t type);

/* The integer in a scalar or array element of an integer type (or bool); false for other types, or out of range. */
bool gguf_value_uint64(const struct gguf_value *value, uint64_t index, uint64_t *out);

/* A path for an error message: the end of a long one. */
#define PATH_TEXT_ROOM 208
char *path_text(char text[PATH_TEXT_ROOM], const char *path);

#endif
