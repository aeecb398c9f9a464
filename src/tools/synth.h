/* synth: writes GGUF files of any geometry with random but sane weights, at the speed of the drive, for tests and
 * benchmarks.
 *
 * "Sane" means that the model has numbers of ordinary size in every layer, output that varies from token to token, and
 * experts that are used as unevenly, and with as much locality in time, as requested. Plain random weights do not have
 * these properties: after some layers, all tokens share one large direction, so a random router sends every token to
 * the same few experts and any cache looks perfect.
 *
 * In mixtures of experts, three mechanisms spread the use of experts:
 * - A router reads three parts of the hidden state: dimensions that carry the token's own embedding, dimensions that
 *   carry a moving average over the last dozen tokens, and dimensions that the previous layer has just written. The
 *   first differ from token to token, the second change slowly, and the third cannot be predicted before that layer has
 *   run. "stickiness" is the share of the slow part.
 * - The attention of layer 0 computes the moving average. Its queries and keys depend on a few dimensions that are
 *   nearly the same in every embedding row, so a score depends on the distance only. These four matrices are Q8_0 if
 *   the requested type is a quantised one.
 * - The length of an expert's router row determines its share of the tokens: a longer row makes larger logits, so it is
 *   more often among the best. "skew" is the exponent of the target: the expert of rank r is used in proportion to
 *   r^-skew, but in at most 48 % of the tokens, which is the limit of this mechanism.
 *
 * The same options give the same bytes, whatever the thread count. The files are ordinary: names, shapes and metadata
 * are those that llama.cpp's converter writes for these architectures.
 */
#ifndef HYPURA_SYNTH_H
#define HYPURA_SYNTH_H

#include "core/core.h"

struct synth_geometry {
    const char *architecture; /* "llama" (with experts: Mixtral), "qwen2", "qwen3", "qwen3moe", "gpt-oss" */
    uint32_t layers;
    uint32_t embedding;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_size;
    uint32_t feed_forward; /* size in a dense layer, or in one expert */
    uint32_t experts;      /* 0: dense */
    uint32_t experts_used;
    uint32_t vocabulary;
    uint32_t context;
    float rope_base;
    float norm_epsilon;
};

struct synth_preset {
    const char *name;        /* "mixtral-8x7b" */
    const char *description; /* one line for lists */
    const char *type;        /* the default, such as "Q4_K_M" */
    struct synth_geometry geometry;
    const char *recipe; /* further metadata and tensors (synth_recipe.c); NULL: the geometry is complete */
};

size_t synth_preset_count(void);
const struct synth_preset *synth_preset_at(size_t index);

/* Finds a preset by name, ignoring case. Returns NULL if there is none. */
const struct synth_preset *synth_preset(const char *name);

struct synth_options {
    const char *name; /* general.name; NULL: the architecture and size */
    struct synth_geometry geometry;
    const char *recipe; /* that of a preset; then only geometry.layers may be changed, and only reduced */
    const char *type;   /* a tensor type, or the mixture Q4_K_M or Q5_K_M as in llama-quantize */
    uint64_t seed;
    float skew;       /* 0: all experts are used equally; below 0: the default, 0.5 if the geometry allows it */
    float stickiness; /* 0 to 1; below 0: the default, 0.7 */
    size_t threads;   /* 0: the cores that this process may use */
};

/* Sets the options of a preset, which the caller may change. Members of the geometry are independent: changing heads
 * does not change head_size. */
void synth_default_options(struct synth_options *options, const struct synth_preset *preset);

/* Appends the names that synth_options.type accepts, for help texts: "F32, F16, ..." */
hypura_status synth_type_names(struct buffer *out, hypura_error *error);

/* Called in the calling thread from time to time while the file is written. Returns false to stop with
 * HYPURA_ERROR_CANCELLED. */
typedef bool (*synth_progress)(void *context, uint64_t bytes_done, uint64_t bytes_total);

/* Computes the bytes of tensor data that synth_write would write. */
hypura_status synth_bytes(uint64_t *bytes, const struct synth_options *options, hypura_error *error);

/* Makes the header of the file that synth_write would write, as a sparse file of the same length, in memory if
 * possible: for callers that need the model but not its weights. *path works with model_open while the descriptor is
 * open. The caller closes the descriptor. */
hypura_status synth_header(int *descriptor, char *path, size_t room, const struct synth_options *options,
                           hypura_error *error);

/* Writes the file, which appears under its name only when it is complete. Checks the geometry, the type and the free
 * space before writing anything. progress may be NULL. */
hypura_status synth_write(const char *path, const struct synth_options *options, synth_progress progress,
                          void *progress_context, hypura_error *error);

#endif
