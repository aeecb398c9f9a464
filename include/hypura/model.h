/* A model: opened once, shared by all threads.
 *
 * Any thread may call the functions that take a hypura_model, at any time between hypura_open and hypura_close. Each
 * model has its own thread, which runs one pass over the weights for all sessions that need a token. So several answers
 * at once cost little more than one. Each is bit for bit the answer that its session would get alone.
 */
#ifndef HYPURA_API_MODEL_H
#define HYPURA_API_MODEL_H

#include <hypura/error.h>
#include <hypura/options.h>
#include <hypura/plan.h>

HYPURA_BEGIN

typedef struct hypura_model hypura_model;

/* Opens a GGUF file (the first file of a split model), plans, and reads the weights that the plan keeps in memory.
 * options may be NULL. The caller closes *out with hypura_close. If the budget is too small, the error is
 * HYPURA_ERROR_MEMORY, and its message names the smallest budget that works. */
HYPURA_API hypura_status hypura_open(hypura_model **out, const char *path, const hypura_options *options,
                                     hypura_error *error);

/* Saves prefixes (options.prefix_folder) and the record of used experts, and frees the model. Close all of its sessions
 * first. model may be NULL. */
HYPURA_API void hypura_close(hypura_model *model);

/* Replaces hypura_close in a program that is about to exit: saves the same data, but does not wait for reads in flight
 * and frees nothing. The model must not be used afterwards. */
HYPURA_API void hypura_leave(hypura_model *model);

/* Facts about a model. Belongs to the model. */
typedef struct hypura_model_info {
    const char *path;         /* as given to hypura_open */
    const char *name;         /* "Llama 3 8B Instruct" */
    const char *architecture; /* "llama", as in the file */
    const char *title;        /* "Llama", for display */
    uint64_t weight_bytes;    /* of all weights */
    uint32_t layers;
    uint32_t embedding_width; /* numbers per embedding */
    uint32_t vocabulary_size; /* number of tokens, and of logits */
    uint32_t trained_tokens;  /* the context that the model was trained for; 0: unknown */
    uint32_t experts;         /* per layer; 0: not a mixture of experts */
    uint32_t experts_used;    /* per layer and token */
    bool generates;           /* writes text; otherwise it can only embed or judge */
    bool judges;              /* is a re-ranker: hypura_judge works */
    bool has_template;        /* the file has a chat template; otherwise ChatML is used */
    uint32_t threads;         /* compute threads */
    const char *gpu;          /* the first GPU that computes a part of the model; NULL: none */
    uint32_t files;           /* that the model is split into */
} hypura_model_info;

HYPURA_API const hypura_model_info *hypura_get_info(const hypura_model *model);

/* The plan made at opening. Belongs to the model. NULL with options.text_only. */
HYPURA_API const hypura_plan *hypura_get_plan(const hypura_model *model);

/* Changes the memory budget, even in the middle of an answer; computed data is kept. bytes: for the whole process; 0:
 * chosen as at opening, from the memory that is free now and what the process holds already. If the budget is too
 * small, it stays as it was, and the message of HYPURA_ERROR_MEMORY says what is missing. */
HYPURA_API hypura_status hypura_set_memory(hypura_model *model, uint64_t bytes, hypura_error *error);

/* Completes the file of options.trace_path and reports any error in writing it. hypura_close completes it too, but
 * reports nothing. Waits until no answer is running. */
HYPURA_API hypura_status hypura_end_trace(hypura_model *model, hypura_error *error);

/* Whether the model's GPU was lost. If so, every answer fails with HYPURA_ERROR_DEVICE until the model is opened
 * again. */
HYPURA_API bool hypura_is_lost(const hypura_model *model);

/* Frees tokens or text that a function of the library returned to the caller. memory may be NULL. */
HYPURA_API void hypura_free(void *memory);

HYPURA_END
#endif
