/* draft: tokens that are likely to come next, so that one pass over the weights can give several.
 *
 * A few more tokens hardly lengthen a pass if weights come from a drive or through memory. So a generator passes
 * drafted tokens together with the known one, and keeps those that the sampler then chooses from the logits. A draft
 * changes no token: logits do not depend on how tokens are divided into batches (engine.h), and the sampler draws them
 * one after the other, as it would without drafts.
 *
 * Drafts come from an earlier occurrence of the last tokens in the same text ("prompt lookup", Saxena 2023), from a
 * smaller model with the same vocabulary (Leviathan et al. 2023), or from the model's own prediction block (DeepSeek
 * V3, 2024). The latter two take their likeliest token each time.
 *
 * draft_choice.h decides how many. The kind of a draft is the length of the match, or how sure the smaller model or the
 * block was.
 *
 * Threads: one at a time. */
#ifndef HYPURA_DRAFT_H
#define HYPURA_DRAFT_H

#include "engine/draft_choice.h"
#include "engine/engine.h"

struct drafter;

/* Creates a drafter for an engine, which is borrowed, with its smaller model or its prediction block if it has one.
 * DRAFTING_ON makes as many drafts as possible, whether they pay or not. */
hypura_status drafter_create(struct drafter **out, struct engine *engine, hypura_error *error);
void drafter_destroy(struct drafter *drafter);

/* Writes up to this many drafts that may follow tokens[count] to out, and returns how many. The sequence holds all
 * tokens but the last. */
uint32_t drafter_propose(struct drafter *drafter, uint32_t sequence, const int32_t *tokens, size_t count, uint32_t most,
                         int32_t out[DRAFT_MOST]);

/* Reports how long a pass over one known token and the last drafts took, and how many of them were accepted. */
void drafter_learn(struct drafter *drafter, uint32_t accepted, uint64_t nanoseconds);

#endif
