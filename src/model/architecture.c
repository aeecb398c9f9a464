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
    {.name = "qwen2moe", .title = "Qwen 1.5 and 2 MoE", .rope = ROPE_STYLE_NEOX, .activation = FFN_SILU},
    {.name = "olmoe", .title = "OLMoE", .rope = ROPE_STYLE_NEOX, .activation = FFN_SILU},
    {.name = "smollm3", .title = "SmolLM 3", .rope = ROPE_STYLE_NORMAL, .activation = FFN_SILU, .no_rope_interval = 4},
    {.name = "phi3", .title = "Phi 3, 3.5 and 4", .rope = ROPE_STYLE_NEOX, .activation = FFN_SILU},
    {.name = "phimoe",
     .title = "Phi 3.5 MoE",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_SILU,
     .router_normalise = true},
    {.name = "granitemoe",
     .title = "Granite 3 MoE",
     .rope = ROPE_STYLE_NORMAL,
     .activation = FFN_SILU,
     .router_normalise = true},
    {.name = "gemma2",
     .title = "Gemma 2",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_GELU,
     .window_pattern = 2,
     .wide_scale_layers = 46,
     .flags = ARCHITECTURE_EMBEDDING_SCALED},
    {.name = "gemma3",
     .title = "Gemma 3",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_GELU,
     .window_pattern = 6,
     .wide_scale_layers = 62,
     .flags = ARCHITECTURE_EMBEDDING_SCALED | ARCHITECTURE_LOCAL_ROPE},
    {.name = "gpt-oss",
     .title = "gpt-oss",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_OAI,
     .router_gate = ROUTER_SOFTMAX_SELECTED,
     .window_pattern = 2,
     .flags = ARCHITECTURE_FFN_NORM_NAMED_POST},
    {.name = "glm4moe",
     .title = "GLM 4.5 and later",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_SILU,
     .router_gate = ROUTER_SIGMOID,
     .flags = ARCHITECTURE_FFN_NORM_NAMED_POST},
    {.name = "deepseek2",
     .title = "DeepSeek V2, V3, R1, Kimi K2",
     .rope = ROPE_STYLE_NORMAL,
     .activation = FFN_SILU,
     .flags = ARCHITECTURE_LATENT},
    {.name = "qwen3next",
     .title = "Qwen 3 Next, Qwen 3 Coder Next",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_SILU,
     .router_normalise = true,
     .flags = ARCHITECTURE_RECURRENT | ARCHITECTURE_QUERY_GATED | ARCHITECTURE_FFN_NORM_NAMED_POST},
    {.name = "qwen35",
     .title = "Qwen 3.5",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_SILU,
     .flags = ARCHITECTURE_RECURRENT | ARCHITECTURE_QUERY_GATED | ARCHITECTURE_FFN_NORM_NAMED_POST |
              ARCHITECTURE_RECURRENT_HEADS_TILED},
    {.name = "qwen35moe",
     .title = "Qwen 3.5 MoE",
     .rope = ROPE_STYLE_NEOX,
     .activation = FFN_SILU,
     .router_normalise = true,
     .flags = ARCHITECTURE_RECURRENT | ARCHITECTURE_QUERY_GATED | ARCHITECTURE_FFN_NORM_NAMED_POST |
              ARCHITECTURE_RECURRENT_HEADS_TILED},
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
