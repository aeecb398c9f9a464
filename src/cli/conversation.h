/* What hypura run holds while it answers: a model, how tokens are chosen, and what was said so far. */
#ifndef HYPURA_CLI_CONVERSATION_H
#define HYPURA_CLI_CONVERSATION_H

#include "cli/cli.h"
#include "cli/sampling.h"
#include "engine/generate.h"
#include "engine/prompt.h"

struct conversation {
    struct engine *engine;
    const struct vocabulary *vocabulary;
    struct chat_template *template; /* NULL: the model goes on with the text as it is */
    struct sampling sampling;
    struct generator *generator;
    json_t *messages, *variables; /* variables: NULL without any */
    uint32_t max_tokens;          /* 0: as many as there is room for */
    struct texts stops;
    bool ignore_end, verbose;
    struct buffer answer;
    struct generation_result result;
    bool done;
};

/* Asks and shows the answer. What could not be answered is not part of the conversation. */
hypura_status conversation_turn(struct conversation *chat, const char *text, size_t size, hypura_error *error);

/* NULL or an empty text: no system message any more. */
void conversation_set_system(struct conversation *chat, const char *text);

/* Reads what the user says until the end of the input or /bye. */
hypura_status conversation_hold(struct conversation *chat, hypura_error *error);

#endif
