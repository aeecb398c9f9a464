/* format: reads and writes GGUF files; the table of tensor types.
 *
 * The format is that of the GGUF specification (ggml, docs/gguf.md), versions 2 and 3, little endian. The reader loads
 * metadata only. It describes tensor data by file, offset and size; the store reads it.
 *
 * Ownership: strings, arrays and tensor descriptions belong to the struct gguf and live as long as it. Threads: an open
 * struct gguf is read-only and may be shared; one thread at a time may use a writer.
 *
 * Files are not trusted. Every count is checked against the remaining bytes before memory is allocated for it, and
 * against generous limits: 256 MiB of metadata, 65536 metadata keys and 2^20 tensors per file. The reader refuses
 * duplicate or empty names, tensors outside their file, and everything else that contradicts the specification. Tensors
 * may share bytes.
 */
#ifndef HYPURA_FORMAT_H
#define HYPURA_FORMAT_H

#include "core/core.h"

/* ---- tensor types ------------------------------------------------------------------------------------------------ */

/* The numbers that files contain (ggml_type). Gaps are withdrawn types. */
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
    uint32_t block_size;  /* elements per block; 1 for plain types */
    uint32_t block_bytes; /* bytes per block */
};

/* Returns NULL for an unknown type. */
const struct tensor_type_info *tensor_type_info(uint32_t type);

/* Finds a type by name, ignoring case ("q4_k"). Returns false if there is none. */
bool tensor_type_by_name(const char *name, enum tensor_type *type);

/* Computes the bytes of one row. Returns false if the elements do not fill whole blocks, or on overflow. */
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
    enum gguf_value_type element_type; /* for arrays; the reader refuses arrays of arrays */
    uint64_t count;                    /* the elements of an array, or 1 */
    const void *data;                  /* plain types: count aligned values; strings: struct gguf_string[count] */
};

/* ---- reading ----------------------------------------------------------------------------------------------------- */

#define GGUF_MAX_DIMENSIONS 4

struct gguf_tensor {
    struct gguf_string name;
    enum tensor_type type;
    uint32_t dimension_count;
    uint64_t dimensions[GGUF_MAX_DIMENSIONS]; /* dimensions[0] is contiguous in memory; unused ones are 1 */
    uint32_t file;                            /* index of the file that holds the data, for split models */
    uint64_t offset;                          /* of the data in that file */
    uint64_t bytes;
};

struct gguf;

/* Opens a file. If path names, or links to, any part of a split model (NAME-00001-of-0000N.gguf), opens all parts.
 * Refuses directories, pipes and other files with a message that says what was found. All tensors of an open file lie
 * within it. */
hypura_status gguf_open(struct gguf **out, const char *path, hypura_error *error);

/* Like gguf_open, but also accepts a partial file, which contains the bytes of some tensors only. It begins with
 * GGUF_PARTIAL_MAGIC, so other programs do not take its holes for weights. The caller must know which tensors it may
 * read (model/parts.h). */
#define GGUF_PARTIAL_MAGIC "GGUP"
hypura_status gguf_open_partial(struct gguf **out, const char *path, hypura_error *error);
bool gguf_is_partial(const struct gguf *file);
void gguf_close(struct gguf *file);

uint32_t gguf_version(const struct gguf *file);
uint64_t gguf_alignment(const struct gguf *file);

size_t gguf_file_count(const struct gguf *file);
const char *gguf_file_path(const struct gguf *file, size_t index);
uint64_t gguf_file_bytes(const struct gguf *file, size_t index);

/* Metadata, in file order. gguf_find returns NULL if there is no such key. */
size_t gguf_value_count(const struct gguf *file);
const struct gguf_value *gguf_value_at(const struct gguf *file, size_t index);
const struct gguf_value *gguf_find(const struct gguf *file, const char *key);

/* Get a scalar, converted if it fits (any integer width, float from double). Return false and leave *out unchanged if
 * the key is absent or its value does not convert, so callers can set a default before the call. */
bool gguf_get_uint64(const struct gguf *file, const char *key, uint64_t *out);
bool gguf_get_uint32(const struct gguf *file, const char *key, uint32_t *out);
bool gguf_get_int64(const struct gguf *file, const char *key, int64_t *out);
bool gguf_get_float(const struct gguf *file, const char *key, float *out);
bool gguf_get_bool(const struct gguf *file, const char *key, bool *out);
bool gguf_get_string(const struct gguf *file, const char *key, struct gguf_string *out);

/* Get an element of an array, converted in the same way (a bool counts as 0 or 1). Return false if index is past the
 * end. A scalar counts as an array of one element. */
bool gguf_element_int64(const struct gguf_value *value, uint64_t index, int64_t *out);
bool gguf_element_uint64(const struct gguf_value *value, uint64_t index, uint64_t *out);
bool gguf_element_double(const struct gguf_value *value, uint64_t index, double *out);

size_t gguf_tensor_count(const struct gguf *file);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, size_t index);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *file, const char *name);

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* A writer collects metadata and tensor descriptions, writes the header, and then takes the tensor data in order. It
 * writes to PATH.partial. gguf_writer_finish renames this file to PATH; without it, the file is removed. */
struct gguf_writer;

/* alignment: a power of two of at least 8, or 0 for the default of 32. */
hypura_status gguf_writer_create(struct gguf_writer **out, const char *path, uint32_t alignment, hypura_error *error);

/* Adds a metadata value. For strings, data is a struct gguf_string[count]. array: write it as an array of any count;
 * otherwise count is 1. The first write or finish refuses duplicate names. The writer itself adds general.alignment if
 * it is not 32; adding the same value again is harmless. */
hypura_status gguf_writer_add(struct gguf_writer *writer, const char *key, enum gguf_value_type type, const void *data,
                              uint64_t count, bool array, hypura_error *error);
hypura_status gguf_writer_add_uint32(struct gguf_writer *writer, const char *key, uint32_t value, hypura_error *error);
hypura_status gguf_writer_add_float(struct gguf_writer *writer, const char *key, float value, hypura_error *error);
hypura_status gguf_writer_add_bool(struct gguf_writer *writer, const char *key, bool value, hypura_error *error);
hypura_status gguf_writer_add_string(struct gguf_writer *writer, const char *key, const char *value,
                                     hypura_error *error);

hypura_status gguf_writer_add_tensor(struct gguf_writer *writer, const char *name, enum tensor_type type,
                                     uint32_t dimension_count, const uint64_t *dimensions, hypura_error *error);

/* Writes the next bytes of tensor data, in pieces of any size. The data of all tensors follows in the order in which
 * they were added; the writer adds the padding. */
hypura_status gguf_writer_write(struct gguf_writer *writer, const void *data, uint64_t bytes, hypura_error *error);
hypura_status gguf_writer_finish(struct gguf_writer *writer, hypura_error *error);

/* Finds how long the header of a file is from its first bytes. *bytes is 0 if more of them are needed. Fails if this is
 * not a GGUF file; does not check the header otherwise. */
hypura_status gguf_header_extent(const void *data, size_t have, uint64_t *bytes, hypura_error *error);

/* Makes a writer that writes only the header, to an open, empty file of the caller. gguf_writer_finish_header extends
 * the file to the length that it would have with the tensor data. alignment: as above. */
hypura_status gguf_writer_create_header(struct gguf_writer **out, int descriptor, uint32_t alignment,
                                        hypura_error *error);
hypura_status gguf_writer_finish_header(struct gguf_writer *writer, hypura_error *error);

/* Frees the writer, and removes the partial file unless gguf_writer_finish succeeded. */
void gguf_writer_destroy(struct gguf_writer *writer);

#endif
