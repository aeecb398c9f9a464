/* How a command that generates chooses tokens: options of the command line, a sampler, and a grammar. */
#ifndef HYPURA_CLI_SAMPLING_H
#define HYPURA_CLI_SAMPLING_H

#include "cli/cli.h"
#include "grammar/grammar.h"
#include "sampling/sampler.h"
#include "tokenizer/vocabulary.h"

extern const struct option_row sampling_rows[];

/* Zero-initialised before sampling_open; closed after an error too. */
struct sampling {
    struct sampler *sampler;
    struct grammar *grammar;
    struct grammar_vocabulary *vocabulary;
    struct grammar_matcher *matcher; /* NULL: nothing constrains the answer */
    struct logit_bias *biases;
};

void sampling_prepare(void); /* defaults, before options are parsed */
hypura_status sampling_open(struct sampling *sampling, const struct vocabulary *vocabulary, hypura_error *error);
void sampling_close(struct sampling *sampling);

/* Changes one setting of sampling_rows that is a number, between answers; after an error all is as before. */
hypura_status sampling_set(struct sampling *sampling, const struct vocabulary *vocabulary, const char *name,
                           const char *value, hypura_error *error);
/* As --format, with a text that lives on; NULL: no longer. */
hypura_status sampling_set_format(struct sampling *sampling, const struct vocabulary *vocabulary, const char *value,
                                  hypura_error *error);

/* Before each answer. */
void sampling_start(struct sampling *sampling);

#endif
