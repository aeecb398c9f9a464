/* A model: opened once, shared by all threads.
 *
 * Every function that takes a hypura_model may be called from any thread at any time between hypura_open and
 * hypura_close. A model has a thread of its own, which runs one pass over the weights for all sessions that need a
 * token. Several answers at once cost little more than one, and each has the bits that it would have alone.
 */
#ifndef HYPURA_API_MODEL_H
#define HYPURA_API_MODEL_H

#include <hypura/error.h>
#include <hypura/options.h>
#include <hypura/plan.h>

HYPURA_BEGIN

typedef struct hypura_model hypura_model;

/* Opens a GGUF file (the first one of a split model), plans, and reads what the plan keeps in memory. options may
 * be NULL. *out is the caller's: hypura_close. HYPURA_ERROR_MEMORY names the smallest budget that works. */
HYPURA_API hypura_status hypura_open(hypura_model **out, const char *path, const hypura_options *options,
                                     hypura_error *error);

/* Close all of its sessions first. Saves what outlasts it (options.prefix_folder, usage). NULL is fine. */
HYPURA_API void hypura_close(hypura_model *model);

/* Instead of hypura_close, for a program that ends at once: keeps what is to outlast it, waits for no read, and frees
 * nothing. No function may be called with the model after it. */
HYPURA_API void hypura_leave(hypura_model *model);

/* Facts about a model. The library owns it, as long as the model is open, and adds fields at its end. */
typedef struct hypura_model_info {
    const char *path;         /* as it was opened */
    const char *name;         /* "Llama 3 8B Instruct" */
    const char *architecture; /* "llama", as the file has it */
    const char *title;        /* "Llama", as people say it */
    uint64_t weight_bytes;    /* of all weights */
    uint32_t layers;
    uint32_t embedding_width; /* numbers in an embedding */
    uint32_t vocabulary_size; /* tokens, and logits */
    uint32_t trained_tokens;  /* the context that it was trained for; 0: not said */
    uint32_t experts;         /* of a layer; 0: not a mixture of experts */
    uint32_t experts_used;    /* for a token */
    bool generates;           /* text; else it embeds or judges only */
    bool judges;              /* is a re-ranker: hypura_judge */
    bool has_template;        /* a chat template of its own; else ChatML stands in */
    uint32_t threads;         /* that compute */
    const char *gpu;          /* the device that computes a part; NULL: none */
    uint32_t files;           /* that the model is split into */
} hypura_model_info;

HYPURA_API const hypura_model_info *hypura_get_info(const hypura_model *model);

/* The plan that it follows. Belongs to the model; NULL with options.text_only. */
HYPURA_API const hypura_plan *hypura_get_plan(const hypura_model *model);

/* Another memory budget while it runs, also in the middle of an answer; what was computed stays. 0: what this process
 * holds and what is free, less a head-room, as a start would choose now. HYPURA_ERROR_MEMORY says what is missing, and
 * the budget stays as it was. */
HYPURA_API hypura_status hypura_set_memory(hypura_model *model, uint64_t bytes, hypura_error *error);

/* Completes the file of options.trace_path, which closing the model does too, but without saying what was lost.
 * Waits until no answer runs. */
HYPURA_API hypura_status hypura_end_trace(hypura_model *model, hypura_error *error);

/* Whether its GPU was lost. Then every answer fails with HYPURA_ERROR_DEVICE until the model is opened again. */
HYPURA_API bool hypura_is_lost(const hypura_model *model);

/* Frees what a function of the library handed over as the caller's own memory (tokens, texts). NULL is fine. */
HYPURA_API void hypura_free(void *memory);

HYPURA_END
#endif
