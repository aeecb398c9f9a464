/* quantize_recipe: chooses the type of each tensor. The rules are those of llama.cpp's named mixtures, so "Q4_K_M"
 * means the same types in both programs. */
#ifndef HYPURA_QUANTIZE_RECIPE_H
#define HYPURA_QUANTIZE_RECIPE_H

#include "format/format.h"

struct recipe {
    const char *name;
    uint32_t file_type;      /* general.file_type */
    enum tensor_type base;   /* the type of matrices without a rule */
    const char *description; /* bits per weight, for lists */
};

size_t recipe_count(void);
const struct recipe *recipe_at(size_t index);

/* Finds a recipe by name, ignoring case: "Q4_K_M", or a short form such as "Q4_K". Returns NULL if there is none. */
const struct recipe *recipe_find(const char *name);

/* Compares two tensors by llama.cpp's order: tensors outside the layers first, then layer by layer. For qsort. */
int recipe_order(const struct gguf_tensor *a, const struct gguf_tensor *b);

/* Whether a tensor is quantised at all: matrices are, but not norms, routers and other small tensors. */
bool recipe_applies(const struct gguf_tensor *tensor);

/* Chooses types[i] for tensors[i], which must be in recipe_order, without regard to their present types. If a row does
 * not fill the blocks of a type, the tensor gets a type with smaller blocks. */
struct recipe_wish {
    bool pure;       /* every matrix gets the recipe's base */
    bool importance; /* an importance matrix is available */
    /* Sets *type if the user requested a type for this tensor; else returns false. */
    bool (*asked)(void *context, const char *name, enum tensor_type *type);
    void *context;
};
void recipe_types(const struct recipe *recipe, const struct gguf *file, const struct gguf_tensor *const *tensors,
                  size_t count, const struct recipe_wish *wish, enum tensor_type *types);

/* Returns the type itself if a row of so many columns fills its blocks, or else one with smaller blocks. */
enum tensor_type recipe_fitting(enum tensor_type type, uint64_t columns);

/* Whether this type makes the tensor useless without importance. */
bool recipe_needs_importance(const struct recipe *recipe, const struct gguf_tensor *tensor, enum tensor_type type);

#endif
