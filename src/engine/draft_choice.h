/* draft_choice: how many drafts pass with the next known token, so that decoding is never slower than without drafts.
 *
 * It measures the time of a pass over one token, the time that each further token adds, and how often drafts of each
 * kind are accepted. It offers another draft as long as the expected tokens grow by more than the time does. Times
 * vary, so the expectation is not trusted alone: there is a credit of time. Each pass with drafts adds the time that
 * its tokens would have taken one by one, less the time that it took. Drafts are offered only as far as the credit
 * covers their possible cost; a spent credit grows again by a small part of the elapsed time. So trying costs only a
 * small part of the time, whatever the drafts, and only gains are risked. Now and then some passes go without
 * drafts, to keep their time known. The first of these may have to read what the drafts displaced, so it counts as
 * one with drafts. */
#ifndef HYPURA_DRAFT_CHOICE_H
#define HYPURA_DRAFT_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#define DRAFT_MOST 16u

/* Kinds of drafts: by the length of the match, then by the probability that the smaller model or the block gave. */
#define DRAFT_MATCH_KINDS 6u
#define DRAFT_MODEL_KINDS 4u

struct draft_kind {
    float drafted, accepted;
};

struct draft_choice {
    bool always; /* as many as can be had */
    struct draft_kind kinds[DRAFT_MATCH_KINDS + DRAFT_MODEL_KINDS],
        model; /* model: all of the model's kinds together */

    double pass, further; /* nanoseconds of a pass over one token, and of each further token */
    double passes, pairs; /* passes measured for either, capped at the number that counts; passes 0: nothing is known */
    double drafting;      /* nanoseconds of a draft by a model; 0: not measured yet, or there is no model */
    double credit, gain;  /* nanoseconds; the speed with drafts over that without */
    uint32_t since, alone; /* passes with drafts, and then without */

    /* The current drafts: the expected tokens and time, and the time that it took to make them. */
    double reached, tokens, time, spent;
    uint32_t count;
    uint8_t kind[DRAFT_MOST];
};

/* Begins a set of drafts; returns how many of "most" may be made. */
uint32_t draft_begin(struct draft_choice *choice, uint32_t most);

/* Whether one more draft pays, with this chance of acceptance and this cost in nanoseconds. */
bool draft_pays(const struct draft_choice *choice, double chance, double cost);
float draft_chance(const struct draft_kind *kind);

/* Counts a draft of this kind. */
void draft_add(struct draft_choice *choice, uint32_t kind);

/* Notes that a kind was skipped because it does not pay. After a while it is tried again. */
void draft_refuse(struct draft_choice *choice, struct draft_kind *kind);

/* Reports the time of asking a model for a draft. */
void draft_spent(struct draft_choice *choice, double nanoseconds);

/* Reports how long a pass over one known token and the drafts took, and how many of them were accepted. */
void draft_learn(struct draft_choice *choice, uint32_t accepted, uint64_t nanoseconds);

#endif
