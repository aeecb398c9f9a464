/* grammar: output that cannot break a given form.
 *
 * A grammar is written in GBNF (the notation of llama.cpp: grammars/README.md there), made from a JSON schema, or is
 * that of any JSON. It is compiled to a network of byte transitions, so that a token may end within a character. A
 * matcher walks one answer through it and says which tokens can come next: exactly those after which the text can still
 * be completed by some bytes to a text of the grammar, and the tokens that end an answer where the text is complete.
 *
 * A matcher makes the states of a deterministic automaton as it needs them and remembers them, with the mask of the
 * vocabulary for each state that it was asked for, so that a token costs a few table look-ups.
 *
 * Ownership: a matcher borrows its grammar and its vocabulary. Threads: grammars and vocabularies are immutable; one
 * matcher on one thread at a time. Grammars and schemas are not trusted: their size, nesting and ambiguity are bounded,
 * and an error names what is refused.
 */
#ifndef HYPURA_GRAMMAR_H
#define HYPURA_GRAMMAR_H

#include "core/core.h"
#include "sampling/sampler.h"

#include <jansson.h>

/* ---- grammars -----------------------------------------------------------------------------------------------------
 */

struct grammar;

/* Compiles GBNF; the text must match the rule "root". Known: rules, "literals" with escapes, [classes], [^classes],
 * ".", groups, "|", "*", "+", "?", "{m,n}", comments. HYPURA_ERROR_FORMAT with the line; left recursion is refused. */
hypura_status grammar_parse(struct grammar **out, const char *text, size_t size, hypura_error *error);

/* Any JSON object. */
hypura_status grammar_json(struct grammar **out, hypura_error *error);

/* The JSON that a schema (draft 2020-12, or what draft 7 has) describes.
 *
 * Every text is valid for the schema. All keywords are enforced, except $dynamicRef with several meanings, the
 * opposites (within not, oneOf, if) of uniqueItems, format and the unevaluated ones, references to other documents, and
 * patterns with look-around, references to groups, word boundaries or classes of Unicode; anything unknown, or too much
 * to enforce at once, is refused by name too. format: date, time, date-time, uuid and ipv4; others do not constrain.
 *
 * Not every valid text is produced: properties come in the order of the schema; an object that lists properties has no
 * others unless additionalProperties says so, or it needs more; a schema that does not name types has those that its
 * keywords are about; a list of items (prefixItems) is whole; white space is short; numbers have at most 16 digits
 * before and after the point, with limits at most 15 together; items that must be unique have no properties that are
 * not listed, and one way to be written. */
hypura_status grammar_from_schema(struct grammar **out, const json_t *schema, hypura_error *error);

/* Removes from a schema what grammar_from_schema would refuse, in the smallest separable parts, and appends a line to
 * *left_out for each. The rest is not refused. */
hypura_status grammar_relax_schema(json_t *schema, struct buffer *left_out, hypura_error *error);

/* The same as GBNF text, appended. !items and !names in it are no GBNF: those must differ. */
hypura_status grammar_schema_text(struct buffer *text, const json_t *schema, hypura_error *error);

void grammar_free(struct grammar *grammar);

/* ---- vocabularies -------------------------------------------------------------------------------------------------
 */

struct grammar_vocabulary;

/* The tokens, sorted for matching. pieces: [count], borrowed; those without bytes (control tokens) are never allowed.
 * ends: [count], the tokens that end an answer. Some tenths of a second for 250 000 tokens: keep it with the model. */
hypura_status grammar_vocabulary_create(struct grammar_vocabulary **out, const struct token_piece *pieces,
                                        const bool *ends, size_t count, hypura_error *error);
void grammar_vocabulary_free(struct grammar_vocabulary *vocabulary);

/* The same from a model's vocabulary, which is not needed afterwards. */
struct vocabulary;
hypura_status grammar_vocabulary_read(struct grammar_vocabulary **out, const struct vocabulary *vocabulary,
                                      hypura_error *error);

/* The bytes of all tokens, as sampler_options.pieces wants them; they live as long as the vocabulary. */
const struct token_piece *grammar_vocabulary_pieces(const struct grammar_vocabulary *vocabulary);

/* ---- matching -----------------------------------------------------------------------------------------------------
 */

struct grammar_matcher;

hypura_status grammar_matcher_create(struct grammar_matcher **out, const struct grammar *grammar,
                                     const struct grammar_vocabulary *vocabulary, hypura_error *error);
void grammar_matcher_free(struct grammar_matcher *matcher);
void grammar_matcher_reset(struct grammar_matcher *matcher);

bool grammar_matcher_allows(struct grammar_matcher *matcher, int32_t token);

/* Sets the bits (token % 32 of word token / 32) of all allowed tokens; the others are left. */
hypura_status grammar_matcher_mask(struct grammar_matcher *matcher, uint32_t *bits, hypura_error *error);

/* Advances past a token, or bytes. HYPURA_ERROR_ARGUMENT, with the state as it was, when they are not allowed. */
hypura_status grammar_matcher_accept(struct grammar_matcher *matcher, int32_t token, hypura_error *error);
hypura_status grammar_matcher_accept_bytes(struct grammar_matcher *matcher, const char *bytes, size_t size,
                                           hypura_error *error);

/* Whether the text so far is a whole text of the grammar. */
bool grammar_matcher_is_complete(const struct grammar_matcher *matcher);

/* What a sampler needs; valid as long as the matcher. */
struct token_constraint grammar_matcher_constraint(struct grammar_matcher *matcher);

#endif
