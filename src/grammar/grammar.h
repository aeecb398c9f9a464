/* grammar: restricts output to a given form.
 *
 * A grammar comes from GBNF (the notation of llama.cpp: grammars/README.md there), from a JSON schema, or accepts any
 * JSON object. It is compiled to a network of byte transitions, because a token may end within a character. A matcher
 * follows one answer through the network and computes which tokens can come next: exactly those after which the text
 * can still be completed, and, once the text is complete, the tokens that end an answer.
 *
 * A matcher builds a deterministic automaton lazily. It keeps the states and, for each state whose tokens were asked
 * for, the mask of the vocabulary, so a token usually costs a few table look-ups.
 *
 * Ownership: a matcher borrows its grammar and its vocabulary, which must outlive it. Threads: grammars and
 * vocabularies are immutable and may be shared; one thread at a time may use a matcher. Grammars and schemas are not
 * trusted: their size, nesting and ambiguity are bounded, and errors name the part that is refused.
 */
#ifndef HYPURA_GRAMMAR_H
#define HYPURA_GRAMMAR_H

#include "core/core.h"
#include "sampling/sampler.h"

#include <jansson.h>

/* ---- grammars -----------------------------------------------------------------------------------------------------
 */

struct grammar;

/* Compiles GBNF; output must match the rule "root". Supports rules, "literals" with escapes, [classes], [^classes],
 * ".", groups, "|", "*", "+", "?", "{m,n}" and comments. Refuses left recursion. Errors: HYPURA_ERROR_FORMAT, with the
 * line in the message. */
hypura_status grammar_parse(struct grammar **out, const char *text, size_t size, hypura_error *error);

/* Makes the grammar of any JSON object. */
hypura_status grammar_json(struct grammar **out, hypura_error *error);

/* Makes a grammar from a JSON schema (draft 2020-12 or draft 7).
 *
 * Every text of the grammar is valid against the schema. All keywords are enforced, except:
 * - an ambiguous $dynamicRef;
 * - uniqueItems, format, unevaluatedItems and unevaluatedProperties where they are negated (within not, oneOf or if);
 * - references to other documents;
 * - patterns with look-around, back-references, word boundaries or Unicode classes.
 * Schemas with these, with unknown keywords, or with more than can be enforced at once, are refused; the error names
 * the keyword. format constrains date, time, date-time, uuid and ipv4, and has no effect otherwise.
 *
 * The grammar does not produce every valid text:
 * - properties come in the order of the schema;
 * - an object with listed properties has others only if additionalProperties allows them or the object needs more;
 * - without "type", only the types that the schema's keywords apply to are produced;
 * - prefixItems are written completely;
 * - white space is short;
 * - numbers have at most 16 digits before and 16 after the point, and at most 15 in all if they are bounded;
 * - items that must be unique are written in a single canonical form and have listed properties only. */
hypura_status grammar_from_schema(struct grammar **out, const json_t *schema, hypura_error *error);

/* Removes the parts of a schema that grammar_from_schema would refuse, each as small as possible, and appends a line to
 * *left_out for each. grammar_from_schema accepts the result. */
hypura_status grammar_relax_schema(json_t *schema, struct buffer *left_out, hypura_error *error);

/* Appends the grammar of a schema as GBNF text. It may contain the marks !items and !names, which are not GBNF: the
 * items or names that follow must differ. */
hypura_status grammar_schema_text(struct buffer *text, const json_t *schema, hypura_error *error);

void grammar_free(struct grammar *grammar);

/* ---- vocabularies -------------------------------------------------------------------------------------------------
 */

struct grammar_vocabulary;

/* Sorts the tokens for matching. pieces: [count], borrowed; tokens without bytes (control tokens) are never allowed.
 * ends: [count], true for tokens that end an answer. Takes some tenths of a second for 250 000 tokens, so make it once
 * per model. */
hypura_status grammar_vocabulary_create(struct grammar_vocabulary **out, const struct token_piece *pieces,
                                        const bool *ends, size_t count, hypura_error *error);
void grammar_vocabulary_free(struct grammar_vocabulary *vocabulary);

/* Does the same for a model's vocabulary, which is not needed afterwards. */
struct vocabulary;
hypura_status grammar_vocabulary_read(struct grammar_vocabulary **out, const struct vocabulary *vocabulary,
                                      hypura_error *error);

/* Returns the bytes of all tokens, for sampler_options.pieces. They live as long as the vocabulary. */
const struct token_piece *grammar_vocabulary_pieces(const struct grammar_vocabulary *vocabulary);

/* ---- matching -----------------------------------------------------------------------------------------------------
 */

struct grammar_matcher;

hypura_status grammar_matcher_create(struct grammar_matcher **out, const struct grammar *grammar,
                                     const struct grammar_vocabulary *vocabulary, hypura_error *error);
void grammar_matcher_free(struct grammar_matcher *matcher);
void grammar_matcher_reset(struct grammar_matcher *matcher);

bool grammar_matcher_allows(struct grammar_matcher *matcher, int32_t token);

/* Sets the bit (token % 32 of word token / 32) of each allowed token and leaves all other bits unchanged. */
hypura_status grammar_matcher_mask(struct grammar_matcher *matcher, uint32_t *bits, hypura_error *error);

/* Advances past a token, or past bytes. If they are not allowed, returns HYPURA_ERROR_ARGUMENT and leaves the state
 * unchanged. */
hypura_status grammar_matcher_accept(struct grammar_matcher *matcher, int32_t token, hypura_error *error);
hypura_status grammar_matcher_accept_bytes(struct grammar_matcher *matcher, const char *bytes, size_t size,
                                           hypura_error *error);

/* Whether the text so far is complete. */
bool grammar_matcher_is_complete(const struct grammar_matcher *matcher);

/* Returns the matcher as a sampler's constraint, valid as long as the matcher. */
struct token_constraint grammar_matcher_constraint(struct grammar_matcher *matcher);

#endif
