/* What OpenAI's and Anthropic's requests have in common when they are read. */
#ifndef HYPURA_SERVER_OPENAI_H
#define HYPURA_SERVER_OPENAI_H

#include "server/generation.h"

/* temperature, top_p, penalties, seed, stop, logit_bias, n; with the defaults of OpenAI, not Ollama, where /api/create
 * gave the model none. max_tokens is what /api/create gave, too. */
bool read_openai_sampling(struct generation *generation, const json_t *json, hypura_error *error);

/* Appends a message of OpenAI's kind to generation->messages: "developer" is "system", parts become text, arguments of
 * calls become objects, which is what chat templates expect. */
bool add_openai_message(struct generation *generation, const json_t *given, hypura_error *error);
bool add_message(struct generation *generation, const char *role, json_t *content); /* takes the content */
bool add_call(struct generation *generation, json_t *call); /* to the assistant's turn at hand; takes the call */

/* The function that a tool of any API describes, for the template: takes no reference. */
void add_tool(struct generation *generation, json_t *name, const json_t *description, const json_t *parameters,
              const json_t *strict);

/* Only these, given by name, of the tools. */
void allow_tools(struct generation *generation, const json_t *allowed);

/* Refuses a tool_choice that is an object and wants a tool that was left out. */
bool check_choice(const json_t *choice, hypura_error *error);

/* tool_choice: "none", "auto", "required", or one tool's name. Forced calls are written under a grammar. */
bool choose_tools(struct generation *generation, const char *choice, const char *name, hypura_error *error);

bool read_effort(struct generation *generation, const json_t *effort, hypura_error *error);

/* true, false, or {"type": "enabled", "adaptive" ... "disabled"}; anything else says nothing. */
void read_thinking(struct generation *generation, const json_t *thinking);

/* {"prompt_tokens", ...}; a new reference. */
json_t *openai_usage(const struct generation *generation);

/* Ends a stream of chunks: with the usage where it was asked for, in a last chunk, which is taken over. */
void openai_end_stream(struct generation *generation, json_t *last);

#endif
