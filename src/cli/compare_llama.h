/* hypura bench --compare: rounds of hypura and llama.cpp in turn. */
#ifndef HYPURA_CLI_COMPARE_LLAMA_H
#define HYPURA_CLI_COMPARE_LLAMA_H

#include "cli/cli.h"

struct llama_comparison {
    const struct command *command; /* hypura bench; its options are passed to each round */
    const char *model;             /* as given, or NULL */
    uint32_t prompt_tokens, generated_tokens, context_fill, rounds;
    bool json;
};

/* Returns the exit status of the program. */
int compare_with_llama(const struct llama_comparison *comparison);

#endif
