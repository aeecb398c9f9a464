/* Reading of requests that the files of OpenAI's and Anthropic's APIs share. */
#ifndef HYPURA_SERVER_OPENAI_H
#define HYPURA_SERVER_OPENAI_H

#include "server/generation.h"

/* Reads temperature, top_p, penalties, seed, stop, logit_bias and n. Defaults are those that /api/create gave the
 * model, then OpenAI's. Also sets max_tokens from /api/create. */
bool read_openai_sampling(struct generation *generation, const json_t *json, hypura_error *error);

/* Appends a message in OpenAI's format to generation->messages, as chat templates expect it: "developer" becomes
 * "system", parts become text, and arguments of calls become objects. */
bool add_openai_message(struct generation *generation, const json_t *given, hypura_error *error);
bool add_message(struct generation *generation, const char *role, json_t *content); /* takes the content */
bool add_call(struct generation *generation, json_t *call); /* to the last message, of the assistant; takes the call */

/* Adds a function in the format of templates; description, parameters and strict may be NULL. Takes no reference. */
void add_tool(struct generation *generation, json_t *name, const json_t *description, const json_t *parameters,
              const json_t *strict);

/* Removes the tools that are not among these names. */
void allow_tools(struct generation *generation, const json_t *allowed);

/* False with an error if tool_choice is an object that requires a tool of a type that this server does not run. */
bool check_choice(const json_t *choice, hypura_error *error);

/* Applies tool_choice: "none", "auto", "required", "any", or a tool's name. A grammar enforces required calls. */
bool choose_tools(struct generation *generation, const char *choice, const char *name, hypura_error *error);

/* Reads the reasoning effort; "none" turns thinking off. */
bool read_effort(struct generation *generation, const json_t *effort, hypura_error *error);

/* Turns thinking on or off: true, false, or {"type": "disabled"} and other types. Ignores anything else. */
void read_thinking(struct generation *generation, const json_t *thinking);

/* {"prompt_tokens", ...}; a new reference. */
json_t *openai_usage(const struct generation *generation);

/* Ends a stream of chunks. If the request wants the usage, writes it in a last chunk. Takes the reference. */
void openai_end_stream(struct generation *generation, json_t *last);

#endif
