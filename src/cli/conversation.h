/* What hypura run holds while it answers: a model, how tokens are chosen, and what was said so far. */
#ifndef HYPURA_CLI_CONVERSATION_H
#define HYPURA_CLI_CONVERSATION_H

#include "cli/cli.h"
#include "cli/sampling.h"

struct conversation {
    hypura_model *model;
    hypura_session *session;
    bool raw; /* no template: the model goes on with the text as it is */
    struct sampling sampling;
    json_t *messages, *variables; /* variables: NULL without any */
    uint32_t max_tokens;          /* 0: as many as there is room for */
    struct texts stops;
    bool ignore_end, verbose;
    const char *file; /* that keeps the conversation, or NULL */
    bool changed;     /* since it was kept there */
    struct text_buffer answer;
};

/* Asks and shows the answer. What could not be answered is not part of the conversation. */
hypura_status conversation_turn(struct conversation *chat, const char *text, size_t size, hypura_error *error);

/* NULL or an empty text: no system message any more. */
void conversation_set_system(struct conversation *chat, const char *text);

/* ---- session.c ---- */
/* Into a file, as a whole or not at all; state: with what the model computed of it, if not too large for a copy after
 * each answer (SAVE_SMALL). */
enum conversation_state { SAVE_ALL, SAVE_SMALL };
hypura_status conversation_save(const struct conversation *chat, const char *path, enum conversation_state state,
                                hypura_error *error);

/* The conversation of a file in place of this one; after an error this one is as it was. */
hypura_status conversation_load(struct conversation *chat, const char *path, hypura_error *error);

/* Reads what the user says until the end of the input or /bye. */
hypura_status conversation_hold(struct conversation *chat, hypura_error *error);

#endif
