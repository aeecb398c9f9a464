/* What a model says of a text besides answers: logits, embeddings, scores, and how fast it is.
 *
 * These calls have the model for themselves: they wait until no answer runs, and answers that are started meanwhile
 * wait for them. They run on the calling thread and end with HYPURA_ERROR_CANCELLED after hypura_cancel. What the
 * session holds stays.
 */
#ifndef HYPURA_API_EVALUATE_H
#define HYPURA_API_EVALUATE_H

#include <hypura/session.h>

HYPURA_BEGIN

/* Logits after the tokens from index first on, each of which is given in order: logits[vocabulary_size], valid during
 * the call. false ends it with HYPURA_ERROR_CANCELLED. At most plan->context_tokens tokens. */
typedef bool (*hypura_on_logits)(void *context, size_t index, const float *logits);
HYPURA_API hypura_status hypura_logits(hypura_session *session, const int32_t *tokens, size_t count, size_t first,
                                       hypura_on_logits on_logits, void *context, hypura_error *error);

/* The embedding of a text: out[embedding_width], of length 1, pooled as the model's file says, else the mean of all
 * tokens. Without tokens: zeros. HYPURA_ERROR_ARGUMENT for more than plan->context_tokens. */
HYPURA_API hypura_status hypura_embed(hypura_session *session, const int32_t *tokens, size_t count, float *out,
                                      hypura_error *error);

/* How well a text answers a query, by a re-ranker (model_info.judges). Only the order of scores means something. */
HYPURA_API hypura_status hypura_judge(hypura_session *session, const char *query, size_t query_size, const char *text,
                                      size_t text_size, float *score, hypura_error *error);

/* How fast the model is here, with random tokens. */
typedef struct hypura_measure {
    size_t struct_size;
    uint32_t prompt_tokens; /* to read; 0: none */
    uint32_t answer_tokens; /* to write in each sequence; 0: none */
    uint32_t held_tokens;   /* in the context before */
    uint32_t sequences;     /* that write at once, at most plan->sessions; 0: 1 */
    uint32_t rounds;        /* of which the median counts; 0: 3 */
    uint64_t seed;          /* of the tokens */
    bool meter_memory;      /* measure what the memory gives meanwhile */
} hypura_measure;

/* Of all rounds. */
typedef struct hypura_rate {
    double median, least, most;
} hypura_rate;

/* Filled as far as struct_size reaches, which is set before. */
typedef struct hypura_speed {
    size_t struct_size;
    hypura_rate prompt_tokens_per_second;
    hypura_rate answer_tokens_per_second; /* of all sequences together */
    hypura_rate memory_bytes_per_second;  /* that plain reading got between the tokens; 0: not measured */
    hypura_rate share_of_memory;          /* of that, what the weights of these tokens took; 0: not measured */
} hypura_speed;

HYPURA_API hypura_status hypura_measure_speed(hypura_session *session, const hypura_measure *how, hypura_speed *out,
                                              hypura_error *error);

HYPURA_END
#endif
