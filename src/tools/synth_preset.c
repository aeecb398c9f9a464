#include "tools/synth_private.h"

#include <strings.h>

/* Geometries as the published configurations of these models give them. */
static const struct synth_preset presets[] = {
    {"tiny-dense",
     "a few MB, Llama architecture, for tests",
     "Q4_K_M",
     {"llama", 4, 256, 4, 2, 64, 768, 0, 0, 2048, 4096, 10000.f, 1e-5f}},
    {"tiny-moe",
     "a few MB, Qwen3 MoE architecture, 16 experts of which 4 are used, for tests",
     "Q4_K_M",
     {"qwen3moe", 4, 256, 4, 2, 64, 256, 16, 4, 2048, 4096, 1000000.f, 1e-6f}},
    {"tiny-mixtral",
     "a few MB, Mixtral architecture, 8 experts of which 2 are used, for tests",
     "Q4_K_M",
     {"llama", 4, 256, 4, 2, 64, 256, 8, 2, 2048, 4096, 1000000.f, 1e-5f}},
    {"mistral-7b",
     "Mistral 7B",
     "Q4_K_M",
     {"llama", 32, 4096, 32, 8, 128, 14336, 0, 0, 32000, 32768, 1000000.f, 1e-5f}},
    {"llama-8b", "Llama 3 8B", "Q4_K_M", {"llama", 32, 4096, 32, 8, 128, 14336, 0, 0, 128256, 8192, 500000.f, 1e-5f}},
    {"llama-70b", "Llama 3 70B", "Q4_K_M", {"llama", 80, 8192, 64, 8, 128, 28672, 0, 0, 128256, 8192, 500000.f, 1e-5f}},
    {"qwen2.5-7b",
     "Qwen2.5 7B",
     "Q4_K_M",
     {"qwen2", 28, 3584, 28, 4, 128, 18944, 0, 0, 152064, 32768, 1000000.f, 1e-6f}},
    {"qwen3-8b", "Qwen3 8B", "Q4_K_M", {"qwen3", 36, 4096, 32, 8, 128, 12288, 0, 0, 151936, 40960, 1000000.f, 1e-6f}},
    {"qwen3-30b-a3b",
     "Qwen3 30B, 128 experts of which 8 are used",
     "Q4_K_M",
     {"qwen3moe", 48, 2048, 32, 4, 128, 768, 128, 8, 151936, 40960, 1000000.f, 1e-6f}},
    {"qwen3-235b-a22b",
     "Qwen3 235B, 128 experts of which 8 are used",
     "Q4_K_M",
     {"qwen3moe", 94, 4096, 64, 4, 128, 1536, 128, 8, 151936, 40960, 1000000.f, 1e-6f}},
    {"mixtral-8x7b",
     "Mixtral 8x7B, 8 experts of which 2 are used",
     "Q4_K_M",
     {"llama", 32, 4096, 32, 8, 128, 14336, 8, 2, 32000, 32768, 1000000.f, 1e-5f}},
    {"mixtral-8x22b",
     "Mixtral 8x22B, 8 experts of which 2 are used",
     "Q4_K_M",
     {"llama", 56, 6144, 48, 8, 128, 16384, 8, 2, 32768, 65536, 1000000.f, 1e-5f}},
    {"gpt-oss-20b",
     "gpt-oss 20B, 32 experts of which 4 are used",
     "MXFP4",
     {"gpt-oss", 24, 2880, 64, 8, 64, 2880, 32, 4, 201088, 131072, 150000.f, 1e-5f}},
    {"gpt-oss-120b",
     "gpt-oss 120B, 128 experts of which 4 are used",
     "MXFP4",
     {"gpt-oss", 36, 2880, 64, 8, 64, 2880, 128, 4, 201088, 131072, 150000.f, 1e-5f}},
    {.name = "deepseek-v4-flash",
     .description = "DeepSeek V4 Flash, 256 experts of which 6 are used",
     .type = "MXFP4",
     .geometry = {.architecture = "deepseek4",
                  .layers = 43,
                  .embedding = 4096,
                  .experts = 256,
                  .experts_used = 6,
                  .vocabulary = 129280,
                  .context = 1048576},
     .recipe = synth_recipe_deepseek_v4_flash},
    {.name = "glm-5",
     .description = "GLM 5, 256 experts of which 8 are used",
     .type = "Q4_K_M",
     .geometry = {.architecture = "glm-dsa",
                  .layers = 78,
                  .embedding = 6144,
                  .experts = 256,
                  .experts_used = 8,
                  .vocabulary = 154880,
                  .context = 202752},
     .recipe = synth_recipe_glm_5},
    {.name = "minimax-m3",
     .description = "MiniMax M3, 128 experts of which 4 are used",
     .type = "Q4_K_M",
     .geometry = {.architecture = "minimax-m3",
                  .layers = 60,
                  .embedding = 6144,
                  .experts = 128,
                  .experts_used = 4,
                  .vocabulary = 200064,
                  .context = 1048576},
     .recipe = synth_recipe_minimax_m3},
    {.name = "qwen3.8-flash-next",
     .description = "Qwen 3.8 Flash-Next, 512 experts of which 10 are used, and a table of n-grams",
     .type = "Q4_K_M",
     .geometry = {.architecture = "qwen4exp",
                  .layers = 48,
                  .embedding = 2560,
                  .experts = 512,
                  .experts_used = 10,
                  .vocabulary = 248320,
                  .context = 262144},
     .recipe = synth_recipe_qwen38_flash_next},
    {.name = "mistral4",
     .description = "Mistral Small 4 119B, 128 experts of which 4 are used",
     .type = "Q4_K_M",
     .geometry = {.architecture = "mistral4",
                  .layers = 36,
                  .embedding = 4096,
                  .experts = 128,
                  .experts_used = 4,
                  .vocabulary = 131072,
                  .context = 262144},
     .recipe = synth_recipe_mistral4},
    {.name = "step-3.5",
     .description = "Step 3.5 Flash, 288 experts of which 8 are used",
     .type = "Q4_K_M",
     .geometry = {.architecture = "step35",
                  .layers = 45,
                  .embedding = 4096,
                  .experts = 288,
                  .experts_used = 8,
                  .vocabulary = 128896,
                  .context = 262144},
     .recipe = synth_recipe_step_35},
};

size_t synth_preset_count(void)
{
    return COUNT_OF(presets);
}

const struct synth_preset *synth_preset_at(size_t index)
{
    return &presets[index];
}

const struct synth_preset *synth_preset(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(presets); i++)
        if (strcasecmp(presets[i].name, name) == 0)
            return &presets[i];
    return NULL;
}

void synth_default_options(struct synth_options *options, const struct synth_preset *preset)
{
    *options = (struct synth_options){.name = preset->name,
                                      .geometry = preset->geometry,
                                      .recipe = preset->recipe,
                                      .type = preset->type,
                                      .seed = 1,
                                      .skew = -1,
                                      .stickiness = -1};
}
