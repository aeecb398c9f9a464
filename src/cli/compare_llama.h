/* hypura bench --compare: rounds of llama.cpp between rounds of hypura. */
#ifndef HYPURA_CLI_COMPARE_LLAMA_H
#define HYPURA_CLI_COMPARE_LLAMA_H

#include "cli/cli.h"

struct llama_comparison {
    const struct command *command; /* hypura bench, whose options go to each of its rounds */
    const char *model;             /* as given, or NULL */
    uint32_t prompt_tokens, generated_tokens, context_fill, rounds;
    bool json;
};

/* Returns the exit status of the program. */
int compare_with_llama(const struct llama_comparison *comparison);

#endif
