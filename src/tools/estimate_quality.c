/* Quantisations of a model: how much quality each costs, as published, and the header of the quantised model. */
#include "tools/estimate.h"
#include "tools/nameless.h"
#include "tools/quantize_recipe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char quality_source[] =
    "llama.cpp, tools/perplexity/README.md: Llama 3 8B on Wikitext, against F16; larger models lose less";

static const struct quality qualities[] = {
    {"Q8_0", 0.001355, 0.00265, false},   {"Q6_K", 0.005452, 0.02175, false},   {"Q5_K_M", 0.010762, 0.05697, false},
    {"Q5_K_S", 0.016595, 0.10496, false}, {"Q4_K_M", 0.031273, 0.17548, false}, {"IQ4_XS", 0.036334, 0.22807, true},
    {"Q4_K_S", 0.043136, 0.26890, false}, {"Q3_K_L", 0.087176, 0.55624, false}, {"Q3_K_M", 0.101913, 0.65686, false},
    {"IQ3_M", 0.102534, 0.66669, true},   {"IQ3_XXS", 0.183625, 1.22680, true}, {"IQ2_M", 0.325989, 2.36917, true},
    {"Q2_K", 0.445132, 3.51993, false},   {"IQ2_XXS", 0.812022, 7.86015, true}, {"IQ1_M", 1.393084, 19.26209, true},
};

size_t quality_count(void)
{
    return COUNT_OF(qualities);
}

const struct quality *quality_at(size_t index)
{
    return &qualities[index];
}

static int compare_tensors(const void *a, const void *b)
{
    return recipe_order(*(const struct gguf_tensor *const *)a, *(const struct gguf_tensor *const *)b);
}

static bool stays(const char *key)
{
    static const char *const others[] = {"general.file_type", "general.alignment", "split.no", "split.count",
                                         "split.tensors.count"};
    for (size_t i = 0; i < COUNT_OF(others); i++)
        if (strcmp(key, others[i]) == 0)
            return false;
    return true;
}

static bool nothing_asked(void *context, const char *name, enum tensor_type *type)
{
    (void)context, (void)name, (void)type;
    return false;
}

static hypura_status write_header(struct gguf_writer *writer, const struct gguf *file, const struct recipe *recipe,
                                  const struct gguf_tensor **tensors, enum tensor_type *types, size_t count,
                                  hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    const struct recipe_wish wish = {.importance = true, .asked = nothing_asked};
    for (size_t i = 0; !status && i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        bool array = value->type == GGUF_ARRAY;
        if (stays(value->key.data))
            status = gguf_writer_add(writer, value->key.data, array ? value->element_type : value->type, value->data,
                                     value->count, array, error);
    }
    recipe_types(recipe, file, tensors, count, &wish, types);
    for (size_t i = 0; !status && i < count; i++) {
        uint32_t dimensions = MAX(tensors[i]->dimension_count, 1u);
        enum tensor_type type = recipe_applies(tensors[i]) ? types[i] : tensors[i]->type;
        status = gguf_writer_add_tensor(writer, tensors[i]->name.data, type, dimensions, tensors[i]->dimensions, error);
    }
    return status ? status : gguf_writer_finish_header(writer, error);
}

hypura_status estimate_header(int *descriptor, char *path, size_t room, const struct model *model,
                              const char *quantisation, hypura_error *error)
{
    const struct gguf *file = model_file(model);
    const struct recipe *recipe = recipe_find(quantisation);
    size_t count = gguf_tensor_count(file);
    const struct gguf_tensor **tensors = NULL;
    enum tensor_type *types = NULL;
    struct gguf_writer *writer = NULL;
    *descriptor = -1;
    if (!recipe)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "there is no quantisation \"%.40s\"", quantisation);
    hypura_status status = ALLOCATE(&tensors, count, "table of tensors", error);
    if (!status)
        status = ALLOCATE(&types, count, "table of tensors", error);
    if (!status && (*descriptor = file_nameless()) < 0)
        status = error_set_errno(error, errno, "cannot create the header of a model");
    if (!status)
        status = gguf_writer_create_header(&writer, *descriptor, 0, error);
    if (!status) {
        for (size_t i = 0; i < count; i++)
            tensors[i] = gguf_tensor_at(file, i);
        qsort(tensors, count, sizeof *tensors, compare_tensors);
        status = write_header(writer, file, recipe, tensors, types, count, error);
    }
    if (writer)
        gguf_writer_destroy(writer);
    if (status && *descriptor >= 0)
        close(*descriptor);
    snprintf(path, room, "/dev/fd/%d", *descriptor);
    memory_free(tensors);
    memory_free(types);
    return status;
}
