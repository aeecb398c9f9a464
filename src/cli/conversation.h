/* The conversation of hypura run: its model, its sampling, and its messages so far. */
#ifndef HYPURA_CLI_CONVERSATION_H
#define HYPURA_CLI_CONVERSATION_H

#include "cli/cli.h"
#include "cli/sampling.h"

struct conversation {
    hypura_model *model;
    hypura_session *session;
    bool raw; /* no template: the model continues the plain text */
    struct sampling sampling;
    json_t *messages, *variables; /* variables: may be NULL */
    uint32_t max_tokens;          /* 0: no limit */
    struct texts stops;
    bool ignore_end, verbose;
    const char *file; /* of --session, or NULL */
    bool changed;     /* since it was saved there */
    struct text_buffer answer;
};

/* Asks, and shows the answer. After an error, neither the question nor the answer is part of the conversation. */
hypura_status conversation_turn(struct conversation *chat, const char *text, size_t size, hypura_error *error);

/* NULL or an empty text removes the system message. */
void conversation_set_system(struct conversation *chat, const char *text);

/* ---- session.c ---- */
/* Writes the conversation to a file, completely or not at all. SAVE_ALL includes its computed data; SAVE_SMALL leaves
 * them out if they are too large to be written after each answer. */
enum conversation_state { SAVE_ALL, SAVE_SMALL };
hypura_status conversation_save(const struct conversation *chat, const char *path, enum conversation_state state,
                                hypura_error *error);

/* Replaces the conversation with that of a file. An error changes nothing. */
hypura_status conversation_load(struct conversation *chat, const char *path, hypura_error *error);

/* Reads and answers the user's input until it ends, or until /bye. */
hypura_status conversation_hold(struct conversation *chat, hypura_error *error);

#endif
