/* synth: GGUF files of any geometry with random but sane weights, written at disk speed, for tests and benchmarks.
 *
 * "Sane" means: an engine that runs such a model sees numbers of ordinary size in every layer, output that varies from
 * token to token, and experts that are used as unevenly, and as locally in time, as was asked for. Random weights alone
 * would not do: all tokens share one large direction after some layers, so a plain random router sends every token to
 * the same few experts and any cache looks perfect.
 *
 * What makes the experts spread (mixture-of-experts models only):
 * - A router reads three parts of the hidden state: dimensions that carry the token's own embedding, dimensions that
 *   carry a moving average over the last dozen tokens, and dimensions that the layer before has just written. The first
 *   differ from token to token, the second change slowly, the third cannot be guessed before that layer has run.
 *   "stickiness" is the share of the slow part.
 * - The moving average is made by the attention of layer 0, whose queries and keys are built from a few dimensions that
 *   are nearly the same in every embedding row, so that a score depends on the distance alone. These four matrices are
 *   Q8_0 when the type asked for is a quantised one.
 * - An expert's share of the tokens is set by the length of its router row: a longer row makes larger logits, so it is
 *   more often among the best. "skew" is the exponent of the target: the expert of rank r is used in proportion to
 *   r^-skew, but in no more than 48 % of the tokens, which is the most that this mechanism can give.
 *
 * The same options give the same bytes, whatever the thread count. Nothing here touches the public file format: names,
 * shapes and metadata are those that llama.cpp's converter writes for these architectures.
 */
#ifndef HYPURA_SYNTH_H
#define HYPURA_SYNTH_H

#include "core/core.h"

struct synth_geometry {
    const char *architecture; /* "llama" (also Mixtral, by experts), "qwen2", "qwen3", "qwen3moe", "gpt-oss" */
    uint32_t layers;
    uint32_t embedding;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_size;
    uint32_t feed_forward; /* of the dense layer, or of one expert */
    uint32_t experts;      /* 0: dense */
    uint32_t experts_used;
    uint32_t vocabulary;
    uint32_t context;
    float rope_base;
    float norm_epsilon;
};

struct synth_preset {
    const char *name;        /* "mixtral-8x7b" */
    const char *description; /* one line for a list */
    const char *type;        /* the usual one: "Q4_K_M" */
    struct synth_geometry geometry;
    const char *recipe; /* the rest of it, as synth_recipe.c reads it; NULL: the geometry says all */
};

size_t synth_preset_count(void);
const struct synth_preset *synth_preset_at(size_t index);

/* By name, case ignored; NULL when there is none. */
const struct synth_preset *synth_preset(const char *name);

struct synth_options {
    const char *name; /* general.name; NULL: the architecture and size */
    struct synth_geometry geometry;
    const char *recipe; /* of a preset; then of the geometry only layers may be changed, which may be fewer */
    const char *type; /* a tensor type, or the mixtures Q4_K_M and Q5_K_M as llama-quantize makes them */
    uint64_t seed;
    float skew;       /* 0: all experts alike; below 0: 0.5 where the geometry allows it */
    float stickiness; /* 0 to 1; below 0: 0.7 */
    size_t threads;   /* 0: the cores that this process may use */
};

/* The options of a preset; change what differs. The geometry given must stand by itself: changing heads does not change
 * head_size. */
void synth_default_options(struct synth_options *options, const struct synth_preset *preset);

/* Names that type accepts, for a help text: "F32, F16, ..." */
hypura_status synth_type_names(struct buffer *out, hypura_error *error);

/* Called now and then while the file is written, from the calling thread. False stops: HYPURA_ERROR_CANCELLED. */
typedef bool (*synth_progress)(void *context, uint64_t bytes_done, uint64_t bytes_total);

/* Bytes of tensor data that synth_write would write, for a check beforehand. */
hypura_status synth_bytes(uint64_t *bytes, const struct synth_options *options, hypura_error *error);

/* The header of the file that synth_write would write, in memory, and as long as that file would be: for whoever wants
 * to know the model, not its weights. model_open takes the path while the descriptor is open; the caller closes it. */
hypura_status synth_header(int *descriptor, char *path, size_t room, const struct synth_options *options,
                           hypura_error *error);

/* Writes the file; it appears under its name only when it is complete. A geometry that no engine could run, a type that
 * cannot be made, or a disk without the room gets a sentence before anything is written. progress may be NULL. */
hypura_status synth_write(const char *path, const struct synth_options *options, synth_progress progress,
                          void *progress_context, hypura_error *error);

#endif
