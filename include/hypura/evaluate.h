/* Results other than answers: logits, embeddings, scores, and speed.
 *
 * Each call has the model to itself. It waits until no answer is running, and answers started meanwhile wait for it. It
 * runs on the calling thread and ends with HYPURA_ERROR_CANCELLED after hypura_cancel. The session's tokens are kept.
 */
#ifndef HYPURA_API_EVALUATE_H
#define HYPURA_API_EVALUATE_H

#include <hypura/session.h>

HYPURA_BEGIN

/* Computes the logits after each token from index first on and passes them to on_logits in order:
 * logits[vocabulary_size], valid during the call. If on_logits returns false, hypura_logits ends with
 * HYPURA_ERROR_CANCELLED. count is at most plan->context_tokens. */
typedef bool (*hypura_on_logits)(void *context, size_t index, const float *logits);
HYPURA_API hypura_status hypura_logits(hypura_session *session, const int32_t *tokens, size_t count, size_t first,
                                       hypura_on_logits on_logits, void *context, hypura_error *error);

/* Computes the embedding of a text: out[embedding_width], a vector of length 1. It is pooled as the model's file says,
 * by default as the mean of all tokens. Without tokens it is zero. count is at most plan->context_tokens. */
HYPURA_API hypura_status hypura_embed(hypura_session *session, const int32_t *tokens, size_t count, float *out,
                                      hypura_error *error);

/* Scores how well a text answers a query, with a re-ranker (hypura_model_info.judges). Scores are only comparable with
 * one another. */
HYPURA_API hypura_status hypura_judge(hypura_session *session, const char *query, size_t query_size, const char *text,
                                      size_t text_size, float *score, hypura_error *error);

/* How to measure a model's speed. The tokens are random. */
typedef struct hypura_measure {
    size_t struct_size;
    uint32_t prompt_tokens; /* prompt tokens to read; 0: none */
    uint32_t answer_tokens; /* tokens to decode in each sequence; 0: none */
    uint32_t held_tokens;   /* tokens already in the context */
    uint32_t sequences;     /* that decode at the same time, at most plan->sessions; 0: 1 */
    uint32_t rounds;        /* 0: 3 */
    uint64_t seed;          /* for the random tokens */
    bool meter_memory;      /* also measure the memory's bandwidth, between tokens */
} hypura_measure;

/* Over all rounds. */
typedef struct hypura_rate {
    double median, least, most;
} hypura_rate;

typedef struct hypura_speed {
    size_t struct_size;
    hypura_rate prompt_tokens_per_second;
    hypura_rate answer_tokens_per_second; /* of all sequences together */
    hypura_rate memory_bytes_per_second;  /* measured bandwidth; 0: not measured */
    hypura_rate share_of_memory;          /* the share of it that decoding used to read weights; 0: not measured */
    hypura_rate answer_bytes_per_token;   /* read from drives, without wasted prefetches */
} hypura_speed;

/* Measures. Set out->struct_size first. */
HYPURA_API hypura_status hypura_measure_speed(hypura_session *session, const hypura_measure *how, hypura_speed *out,
                                              hypura_error *error);

HYPURA_END
#endif
