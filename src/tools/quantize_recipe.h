/* Which tensor gets which type: the rules that llama.cpp publishes for its named mixtures, so that "Q4_K_M" means the same
 * file there and here. */
#ifndef HYPURA_QUANTIZE_RECIPE_H
#define HYPURA_QUANTIZE_RECIPE_H

#include "format/format.h"

struct recipe {
    const char *name;
    uint32_t file_type;      /* general.file_type */
    enum tensor_type base;   /* what a matrix gets that no rule is about */
    const char *description; /* bits per weight, for a list */
};

size_t recipe_count(void);
const struct recipe *recipe_at(size_t index);

/* By name, case ignored: "Q4_K_M", also "Q4_K" for it and the like; NULL when there is none. */
const struct recipe *recipe_find(const char *name);

/* Whether two tensors stand in the order in which llama.cpp writes them: what belongs to no layer, then the layers. */
int recipe_order(const struct gguf_tensor *a, const struct gguf_tensor *b);

/* Whether a tensor is of those that are quantised at all: matrices, without norms, routers and other small ones. */
bool recipe_applies(const struct gguf_tensor *tensor);

/* types[i] for tensors[i], in that order, without regard to what they are now. A row that does not fill the blocks of
 * what it should get gets a type with smaller ones. */
struct recipe_wish {
    bool pure;       /* every matrix gets the recipe's base */
    bool importance; /* there is some */
    /* What somebody asked for instead, by name; false: nothing. */
    bool (*asked)(void *context, const char *name, enum tensor_type *type);
    void *context;
};
void recipe_types(const struct recipe *recipe, const struct gguf *file, const struct gguf_tensor *const *tensors,
                  size_t count, const struct recipe_wish *wish, enum tensor_type *types);

/* That type, or one with smaller blocks that such a row fills. */
enum tensor_type recipe_fitting(enum tensor_type type, uint64_t columns);

/* Whether such a tensor in such a mixture makes no sense without importance. */
bool recipe_needs_importance(const struct recipe *recipe, const struct gguf_tensor *tensor, enum tensor_type type);

#endif
