#include "model/model_private.h"

#include <string.h>

/* The rows. What stands here are facts of the published models, as GGUF files of them are read everywhere; see
 * docs/models.md for how to add one. */
static const struct architecture architectures[] = {
    {.name = "llama",
     .title = "Llama 2 and 3, Mistral, Mixtral",
     .rope = ROPE_STYLE_NORMAL,
     .activation = FFN_SILU,
     .router_normalise = true},
    {.name = "mistral3",
     .title = "Mistral 3, Ministral 3",
     .rope = ROPE_STYLE_NORMAL,
     .activation = FFN_SILU,
     .router_normalise = true},
    {.name = "qwen2", .title = "Qwen 2 and 2.5", .rope = ROPE_STYLE_NEOX, .activation = FFN_SILU},
    {.name = "qwen3", .title = "Qwen 3", .rope = ROPE_STYLE_NEOX, .activation = FFN_SILU},
    {.name = "qwen3moe",
     .title = "Qwen 3 MoE",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_SILU,
     .router_normalise = true},
};

size_t architecture_count(void)
{
    return COUNT_OF(architectures);
}

const struct architecture *architecture_at(size_t index)
{
    return index < COUNT_OF(architectures) ? &architectures[index] : NULL;
}

const struct architecture *architecture_find(const struct gguf_string *name)
{
    for (size_t i = 0; i < COUNT_OF(architectures); i++)
        if (strlen(architectures[i].name) == name->size && memcmp(architectures[i].name, name->data, name->size) == 0)
            return &architectures[i];
    return NULL;
}
