/* hypura: run GGUF language models that do not fit in memory.
 *
 * The whole library in one page:
 *
 *     hypura_options options;
 *     hypura_default_options(&options);
 *     options.memory = (uint64_t)8 << 30;
 *     hypura_model *model;
 *     hypura_error error;
 *     if (hypura_open(&model, "model.gguf", &options, &error))
 *         return complain(error.message);
 *     hypura_generation how;
 *     hypura_default_generation(&how);
 *     how.on_text = print;
 *     hypura_chat(model, "[{\"role\": \"user\", \"content\": \"Hello\"}]", &how, &error);
 *     hypura_close(model);
 *
 * A model is used by one thread at a time; hypura_cancel and hypura_get_statistics may be called from any. Nothing here
 * prints, exits or aborts. Strings are UTF-8. Link with -lhypura (pkg-config hypura).
 */
#ifndef HYPURA_H
#define HYPURA_H

#include <hypura/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HYPURA_API __attribute__((visibility("default")))
#else
#define HYPURA_API
#endif

HYPURA_API const char *hypura_version(void);

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

typedef struct hypura_model hypura_model;

/* A LoRA adapter in a GGUF file, made for this model; scale 1 is as it was trained. */
typedef struct hypura_adapter {
    const char *path;
    float scale;
} hypura_adapter;

typedef struct hypura_options {
    uint64_t memory;                /* bound for what the process holds; 0: what is free, less a head-room */
    const char *gpu;                /* "auto", "none" or a device's number; NULL: $HYPURA_GPU, else auto */
    uint64_t gpu_memory;            /* bound for what is held in the GPU's memory; 0: what is free there, less a part */
    bool gpu_fixed;                 /* experts stay on the side where they are when the model is opened */
    uint32_t threads;               /* 0: the cores that this process may use */
    uint32_t context;               /* tokens that the model can look back on; 0: chosen */
    const hypura_adapter *adapters; /* adapter_count of them; needed while the model is opened only */
    size_t adapter_count;
    const char *draft; /* a smaller model of the same family that drafts tokens: the same text, sooner; or NULL */
    /* Called while weights are loaded, with bytes done and of how many; false stops. May be NULL. */
    bool (*on_load)(void *context, uint64_t done, uint64_t total);
    void *on_load_context;
} hypura_options;

HYPURA_API void hypura_default_options(hypura_options *options);

/* Plans, and loads what the plan keeps in memory. When the budget is too small the error says the smallest that works.
 */
HYPURA_API hypura_status hypura_open(hypura_model **out, const char *path, const hypura_options *options,
                                     hypura_error *error);
HYPURA_API void hypura_close(hypura_model *model);

HYPURA_API const char *hypura_model_name(const hypura_model *model);

/* The plan in words: the mode, its reason, the speed that is expected. Belongs to the model. */
HYPURA_API const char *hypura_plan(const hypura_model *model);

/* ---- generating ----------------------------------------------------------------------------------------------------
 */

typedef struct hypura_generation {
    float temperature; /* 0 takes the likeliest token */
    uint32_t top_k;    /* 0: all */
    float top_p;
    float min_p;
    float repeat_penalty; /* 1: off */
    uint64_t seed;
    uint32_t max_tokens;      /* 0: until the model ends */
    const char *const *stops; /* strings that end the answer, stop_count of them */
    size_t stop_count;
    /* Receives the answer piece by piece, whole UTF-8 characters; false ends it. */
    bool (*on_text)(void *context, const char *text, size_t size);
    void *context;
} hypura_generation;

HYPURA_API void hypura_default_generation(hypura_generation *generation);

/* Answers a chat: a JSON array of messages with role and content. Turns that were computed before are not computed
 * again. */
HYPURA_API hypura_status hypura_chat(hypura_model *model, const char *messages_json,
                                     const hypura_generation *generation, hypura_error *error);

/* Goes on with a text, without a chat template. */
HYPURA_API hypura_status hypura_complete(hypura_model *model, const char *text, const hypura_generation *generation,
                                         hypura_error *error);

/* Makes a running call return HYPURA_ERROR_CANCELLED soon. Async-signal-safe. The next call starts afresh. */
HYPURA_API void hypura_cancel(hypura_model *model);

/* ---- statistics ----------------------------------------------------------------------------------------------------
 */

typedef struct hypura_statistics {
    double load_seconds, prompt_seconds, decode_seconds;
    uint64_t prompt_tokens, generated_tokens;
    uint64_t bytes_read, bytes_demanded, bytes_guessed, bytes_wasted;
    uint64_t expert_hits, expert_misses;
    uint64_t peak_rss_bytes, budget_bytes;
    uint64_t bytes_gpu, bytes_ram, bytes_storage;
} hypura_statistics;

HYPURA_API void hypura_get_statistics(hypura_model *model, hypura_statistics *out);

#ifdef __cplusplus
}
#endif
#endif
