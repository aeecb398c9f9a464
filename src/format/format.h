/* format: GGUF files, read and written, and the table of tensor types.
 *
 * The format is that of the GGUF specification (ggml, docs/gguf.md), versions 2 and 3, little endian. The reader loads
 * the metadata only; tensor data is never touched here: it is described by (file, offset, bytes) and read by the store.
 * The text of strings and the values of arrays live as long as the struct gguf they belong to.
 *
 * A file is not trusted. Every count is checked against the bytes that are left before anything is allocated for it,
 * and against limits that no model comes near: 256 MiB of metadata, 65536 metadata keys, 2^20 tensors per file. Names are
 * not empty. A name that is there twice, a tensor that does not lie in its file, and anything else that contradicts the
 * specification is refused with a sentence; tensors that share bytes are allowed.
 */
#ifndef HYPURA_FORMAT_H
#define HYPURA_FORMAT_H

#include "core/core.h"

/* ---- tensor types ------------------------------------------------------------------------------------------------ */

/* Numbers as files carry them (ggml_type). Gaps are types that were withdrawn. */
enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,
    TENSOR_Q4_1 = 3,
    TENSOR_Q5_0 = 6,
    TENSOR_Q5_1 = 7,
    TENSOR_Q8_0 = 8,
    TENSOR_Q8_1 = 9,
    TENSOR_Q2_K = 10,
    TENSOR_Q3_K = 11,
    TENSOR_Q4_K = 12,
    TENSOR_Q5_K = 13,
    TENSOR_Q6_K = 14,
    TENSOR_Q8_K = 15,
    TENSOR_IQ2_XXS = 16,
    TENSOR_IQ2_XS = 17,
    TENSOR_IQ3_XXS = 18,
    TENSOR_IQ1_S = 19,
    TENSOR_IQ4_NL = 20,
    TENSOR_IQ3_S = 21,
    TENSOR_IQ2_S = 22,
    TENSOR_IQ4_XS = 23,
    TENSOR_I8 = 24,
    TENSOR_I16 = 25,
    TENSOR_I32 = 26,
    TENSOR_I64 = 27,
    TENSOR_F64 = 28,
    TENSOR_IQ1_M = 29,
    TENSOR_BF16 = 30,
    TENSOR_TQ1_0 = 34,
    TENSOR_TQ2_0 = 35,
    TENSOR_MXFP4 = 39,
    TENSOR_NVFP4 = 40,
    TENSOR_Q1_0 = 41,
    TENSOR_Q2_0 = 42,
    TENSOR_TYPE_COUNT = 43
};

struct tensor_type_info {
    const char *name;     /* "Q4_K"; NULL for a gap */
    uint32_t block_size;  /* elements in a block, 1 for plain types */
    uint32_t block_bytes; /* bytes of a block */
};

/* NULL when the type is not known. */
const struct tensor_type_info *tensor_type_info(uint32_t type);

/* By name, case ignored ("q4_k"); false when no such type. */
bool tensor_type_by_name(const char *name, enum tensor_type *type);

/* Bytes of one row; false when the elements do not fill whole blocks or the result overflows. */
bool tensor_row_bytes(enum tensor_type type, uint64_t elements, uint64_t *bytes);

/* ---- values ------------------------------------------------------------------------------------------------------ */

enum gguf_value_type {
    GGUF_UINT8 = 0,
    GGUF_INT8 = 1,
    GGUF_UINT16 = 2,
    GGUF_INT16 = 3,
    GGUF_UINT32 = 4,
    GGUF_INT32 = 5,
    GGUF_FLOAT32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_UINT64 = 10,
    GGUF_INT64 = 11,
    GGUF_FLOAT64 = 12
};

struct gguf_string {
    const char *data; /* NUL-terminated for convenience; may contain NULs and invalid UTF-8 */
    size_t size;
};

struct gguf_value {
    struct gguf_string key;
    enum gguf_value_type type;
    enum gguf_value_type element_type; /* of an array; arrays of arrays are refused by the reader with a sentence */
    uint64_t count;                    /* elements of an array, else 1 */
    const void *data;                  /* plain types: count values, aligned; strings: struct gguf_string[count] */
};

/* ---- reading ----------------------------------------------------------------------------------------------------- */

#define GGUF_MAX_DIMENSIONS 4

struct gguf_tensor {
    struct gguf_string name;
    enum tensor_type type;
    uint32_t dimension_count;
    uint64_t dimensions[GGUF_MAX_DIMENSIONS]; /* dimensions[0] is the one contiguous in memory; unused ones are 1 */
    uint32_t file;                            /* index of the split file that holds the data */
    uint64_t offset;                          /* of the data, from the start of that file */
    uint64_t bytes;
};

struct gguf;

/* Opens a file, or all the files of a split model when path names any of them (NAME-00001-of-0000N.gguf) or is a link
 * to one. A path that is a directory, a pipe or not a GGUF file gets a sentence. All ranges of all tensors are checked
 * to lie in their files. */
hypura_status gguf_open(struct gguf **out, const char *path, hypura_error *error);

/* The same, or a file that holds some tensors' bytes only and begins with GGUF_PARTIAL_MAGIC, so that nobody takes its
 * holes for weights. Who opens it knows what it may read (model/parts.h). */
#define GGUF_PARTIAL_MAGIC "GGUP"
hypura_status gguf_open_partial(struct gguf **out, const char *path, hypura_error *error);
bool gguf_is_partial(const struct gguf *file);
void gguf_close(struct gguf *file);

uint32_t gguf_version(const struct gguf *file);
uint64_t gguf_alignment(const struct gguf *file);

size_t gguf_file_count(const struct gguf *file);
const char *gguf_file_path(const struct gguf *file, size_t index);
uint64_t gguf_file_bytes(const struct gguf *file, size_t index);

/* Metadata, in file order. gguf_find is NULL when there is no such key. */
size_t gguf_value_count(const struct gguf *file);
const struct gguf_value *gguf_value_at(const struct gguf *file, size_t index);
const struct gguf_value *gguf_find(const struct gguf *file, const char *key);

/* A scalar, converted when it fits (any integer width, float from double). False, with *out untouched, when the key is
 * absent or of a type that does not convert; so a default is set before the call. */
bool gguf_get_uint64(const struct gguf *file, const char *key, uint64_t *out);
bool gguf_get_uint32(const struct gguf *file, const char *key, uint32_t *out);
bool gguf_get_int64(const struct gguf *file, const char *key, int64_t *out);
bool gguf_get_float(const struct gguf *file, const char *key, float *out);
bool gguf_get_bool(const struct gguf *file, const char *key, bool *out);
bool gguf_get_string(const struct gguf *file, const char *key, struct gguf_string *out);

/* One element of an array, converted likewise (a bool counts as 0 or 1); false when index is past the end. A scalar is
 * an array of one. */
bool gguf_element_int64(const struct gguf_value *value, uint64_t index, int64_t *out);
bool gguf_element_uint64(const struct gguf_value *value, uint64_t index, uint64_t *out);
bool gguf_element_double(const struct gguf_value *value, uint64_t index, double *out);

size_t gguf_tensor_count(const struct gguf *file);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, size_t index);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *file, const char *name);

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Collects metadata and tensor descriptions, writes the header, then takes the tensor data in order. The file appears
 * under its name only when gguf_writer_finish succeeds; until then it is PATH.partial, which is removed on failure. */
struct gguf_writer;

/* alignment: a power of two of at least 8, 0 for the usual 32. */
hypura_status gguf_writer_create(struct gguf_writer **out, const char *path, uint32_t alignment, hypura_error *error);

/* One metadata value; for strings data is a struct gguf_string[count]. array: write it as an array, of any count;
 * without it count is 1. A name that was added before is refused by the first write or finish. general.alignment is
 * written by the writer when it is not 32; adding the same value again is harmless. */
hypura_status gguf_writer_add(struct gguf_writer *writer, const char *key, enum gguf_value_type type, const void *data,
                              uint64_t count, bool array, hypura_error *error);
hypura_status gguf_writer_add_uint32(struct gguf_writer *writer, const char *key, uint32_t value, hypura_error *error);
hypura_status gguf_writer_add_float(struct gguf_writer *writer, const char *key, float value, hypura_error *error);
hypura_status gguf_writer_add_bool(struct gguf_writer *writer, const char *key, bool value, hypura_error *error);
hypura_status gguf_writer_add_string(struct gguf_writer *writer, const char *key, const char *value,
                                     hypura_error *error);

hypura_status gguf_writer_add_tensor(struct gguf_writer *writer, const char *name, enum tensor_type type,
                                     uint32_t dimension_count, const uint64_t *dimensions, hypura_error *error);

/* The bytes of the tensors, in the order in which they were added; padding is written by the writer. Any piece size. */
hypura_status gguf_writer_write(struct gguf_writer *writer, const void *data, uint64_t bytes, hypura_error *error);
hypura_status gguf_writer_finish(struct gguf_writer *writer, hypura_error *error);

/* How long the header is of a file whose first bytes are these: *bytes, 0 while more of them are needed to tell. What is
 * no GGUF file is an error; the header itself is not checked. */
hypura_status gguf_header_extent(const void *data, size_t have, uint64_t *bytes, hypura_error *error);

/* Instead of a writer that makes a file: only the header, into a file that is open and empty, which becomes as long as it
 * would be with the tensors' data. The file stays the caller's. alignment: as above. */
hypura_status gguf_writer_create_header(struct gguf_writer **out, int descriptor, uint32_t alignment, hypura_error *error);
hypura_status gguf_writer_finish_header(struct gguf_writer *writer, hypura_error *error);

/* Frees the writer; without a successful finish before, removes the partial file. */
void gguf_writer_destroy(struct gguf_writer *writer);

#endif
