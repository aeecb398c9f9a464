/* draft: tokens that are likely to come next, so that one pass over the weights can give several.
 *
 * A few more tokens hardly make a pass longer where weights come from a drive or through memory. So a generator lets
 * tokens that are likely to come pass together with the one that is known, and keeps those that the sampler then
 * chooses from their logits. A draft changes no token: logits do not depend on how tokens were cut into batches
 * (engine.h), and the sampler draws from one after the other, as it would have anyway.
 *
 * Drafts come from where the last tokens stood before in the same text ("prompt lookup", Saxena 2023), and from a
 * smaller model with the same vocabulary (Leviathan et al. 2023) or the model's own block that predicts further tokens
 * (DeepSeek V3, 2024), which take their likeliest token each time.
 *
 * How many: draft_choice.h. Kinds are by how many tokens stood before in the same order, or by how sure the smaller
 * model or the block was.
 *
 * Threads: one at a time. */
#ifndef HYPURA_DRAFT_H
#define HYPURA_DRAFT_H

#include "engine/draft_choice.h"
#include "engine/engine.h"

struct drafter;

/* Drafts for an engine, which is borrowed, with its smaller model or its block where it has one. With DRAFTING_ON as
 * many as can be had, whatever they bring. */
hypura_status drafter_create(struct drafter **out, struct engine *engine, hypura_error *error);
void drafter_destroy(struct drafter *drafter);

/* What may follow tokens[count], of which the sequence holds all but the last, at most so many, into out; returns how
 * many. */
uint32_t drafter_propose(struct drafter *drafter, uint32_t sequence, const int32_t *tokens, size_t count, uint32_t most,
                         int32_t out[DRAFT_MOST]);

/* A pass over one known token and the last drafts took so long, and so many of them came true. */
void drafter_learn(struct drafter *drafter, uint32_t accepted, uint64_t nanoseconds);

#endif
