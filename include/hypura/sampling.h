/* How the next token is chosen. The same model, settings, seed and prompt give the same text, whatever else runs.
 *
 *     hypura_sampling sampling = {.struct_size = sizeof sampling};
 *     hypura_default_sampling(&sampling);
 *     sampling.temperature = 0;
 */
#ifndef HYPURA_API_SAMPLING_H
#define HYPURA_API_SAMPLING_H

#include <hypura/export.h>

HYPURA_BEGIN

typedef struct hypura_logit_bias {
    int32_t token;
    float bias; /* added to its logit; -INFINITY bans it */
} hypura_logit_bias;

/* Each comment begins with the default. Tokens and texts are those of the answer's prompt and of the answer so far. */
typedef struct hypura_sampling {
    size_t struct_size;
    uint64_t seed;          /* 0 */
    float temperature;      /* 0.8; 0: the likeliest token */
    float dynamic_range;    /* 0: off. The temperature varies with the entropy by up to this much, up and down */
    float dynamic_exponent; /* 1. How strongly it varies */
    uint32_t top_k;         /* 40; 0: off. Keeps the k likeliest tokens */
    float top_p;            /* 0.95; 1: off. Keeps the likeliest tokens that together reach this probability */
    float min_p;            /* 0.05; 0: off. Keeps tokens at least min_p times as likely as the likeliest */
    float typical_p;        /* 1: off. Keeps tokens of typical surprise (locally typical sampling) */
    float top_n_sigma;      /* 0: off. Keeps logits within this many standard deviations of the highest */
    float xtc_probability;  /* 0: off. The chance to drop all tokens above xtc_threshold but the least likely of them */
    float xtc_threshold;    /* 0.1. A probability */

    float repeat_penalty;       /* 1: off. Makes tokens that have appeared less likely */
    float frequency_penalty;    /* 0. Subtracted from a logit for each time its token has appeared */
    float presence_penalty;     /* 0. Subtracted once from the logit of a token that has appeared */
    int32_t repeat_last_tokens; /* 64; 0: none; -1: all. How many of the last tokens these penalties look at */

    float dry_multiplier;        /* 0: off. Penalizes tokens that would lengthen a repetition */
    float dry_base;              /* 1.75. The penalty grows by this factor with each repeated token */
    uint32_t dry_allowed_tokens; /* 2. Repetitions up to this length are not penalized */
    int32_t dry_last_tokens;     /* -1: all. How many of the last tokens DRY looks at */
    const char *const
        *dry_breakers; /* [dry_breaker_count] texts that end a repetition; NULL: line feed, colon, quote, asterisk */
    size_t dry_breaker_count;

    uint32_t mirostat;  /* 0: off; 2: Mirostat 2.0, which aims at constant surprise and replaces top_k and the like */
    float mirostat_tau; /* 5. The surprise to aim at, in bits */
    float mirostat_eta; /* 0.1. How fast it is corrected */

    const hypura_logit_bias *biases; /* [bias_count] */
    size_t bias_count;
    const char *steps; /* NULL: "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature". The steps in the
                        * order in which they run; steps that are not named do not run */
} hypura_sampling;

/* Fills in the defaults. Set sampling->struct_size first. */
HYPURA_API void hypura_default_sampling(hypura_sampling *sampling);

HYPURA_END
#endif
