/* Shared by the files of model/ that build a struct model; nobody else includes it. */
#ifndef HYPURA_MODEL_PRIVATE_H
#define HYPURA_MODEL_PRIVATE_H

#include "model/model.h"

struct model {
    struct gguf *file;
    char *name;
    const struct architecture *architecture;
    struct model_parameters parameters;
    struct model_layer *layers;
    const struct gguf_tensor *(*layer_tensors)[ROLE_COUNT]; /* while opening only */
    const struct gguf_tensor *tensors[ROLE_COUNT];
    unit_number tensor_units[ROLE_COUNT];
    struct unit *units;
    uint32_t unit_count;
    uint64_t bytes;
};

/* architecture.c */
const struct architecture *architecture_find(const struct gguf_string *name);

/* parameters.c: everything that the metadata says; tensors are known by then. Fills layers[] but for the units. */
hypura_status model_read_parameters(struct model *model, hypura_error *error);

/* tensors.c: finds every tensor's role, and afterwards checks shapes against the parameters. */
hypura_status model_find_tensors(struct model *model, hypura_error *error);
hypura_status model_check_tensors(const struct model *model, hypura_error *error);

/* units.c */
hypura_status model_make_units(struct model *model, hypura_error *error);

/* The layers that a forward pass runs, from the metadata alone. */
hypura_status model_read_layer_count(const struct gguf *file, const struct architecture *architecture, uint32_t *layers,
                                     hypura_error *error);

#endif
