/* store/trace: a record of which experts the routers chose, written by the engine, replayed against cache policies.
 * Owners: trace.c, trace_model.c.
 *
 * File format, little endian:
 *   8 bytes   "HYPTRACE"
 *   u32       version, 1
 *   u32       layers: the mixture-of-experts layers of the model
 *   u32       experts: in each of these layers
 *   u32       used: experts that a token uses in a layer
 *   u32       bytes of the name, at most 4096; then the model's name, not terminated
 *   layers x  u32 number of the layer, u64 bytes of one of its experts in memory
 *   then passes until the end of the file, each
 *     u32     tokens: that went through the layers together, at least 1
 *     layers x tokens x used x u16   expert numbers, in the router's order
 *
 * A pass is written whole or not at all, so that the file of a run that was cancelled, or that filled the disk, is
 * readable.
 */
#ifndef HYPURA_STORE_TRACE_H
#define HYPURA_STORE_TRACE_H

#include "core/core.h"
#include "model/model.h"

#define TRACE_MAX_TOKENS 65536u

struct trace_layer {
    uint32_t layer; /* of the model */
    uint64_t expert_bytes;
};

struct trace_shape {
    const char *name;
    uint32_t layer_count;
    uint32_t experts;
    uint32_t used;
    struct trace_layer *layers; /* [layer_count], in the order of use */
};

/* The shape of a model's traces; freed with trace_shape_free. A model without experts is an error. */
hypura_status trace_shape_of_model(struct trace_shape *out, const struct model *model, hypura_error *error);
void trace_shape_free(struct trace_shape *shape);

/* ---- writing ----------------------------------------------------------------------------------------------------- */

struct trace_writer;

/* The shape is copied. An existing file is replaced. */
hypura_status trace_writer_create(struct trace_writer **out, const char *path, const struct trace_shape *shape,
                                  hypura_error *error);

/* Begins a pass, and drops one that was not ended. */
hypura_status trace_writer_begin(struct trace_writer *writer, uint32_t tokens, hypura_error *error);

/* The choice of one layer: experts[token][used]. layer is the model's number. Layers may come in any order. */
hypura_status trace_writer_layer(struct trace_writer *writer, uint32_t layer, const uint32_t *experts,
                                 hypura_error *error);

/* Writes the pass. A missing layer is an error. A failed write is not, so that the run continues: the file then ends
 * with the previous pass, and trace_writer_close says why. */
hypura_status trace_writer_end(struct trace_writer *writer, hypura_error *error);

/* Closes the file and frees the writer. The error says what was lost. writer may be NULL. */
hypura_status trace_writer_close(struct trace_writer *writer, hypura_error *error);

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct trace_pass {
    uint32_t tokens;
    const uint16_t *experts; /* [layer_count][tokens][used] */
};

/* A whole trace in memory. */
struct trace {
    struct trace_shape shape;
    size_t pass_count;
    struct trace_pass *passes;
    uint64_t tokens;  /* sum over the passes */
    uint16_t *choice; /* backing of the passes */
    char *name;       /* backing of shape.name */
};

/* A file that ends within a pass, or names an expert that does not exist, gets a sentence with the offset. */
hypura_status trace_read(struct trace **out, const char *path, hypura_error *error);
void trace_free(struct trace *trace);

#endif
