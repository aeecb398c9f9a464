/* draft_choice: how many drafts pass with the next known token, so that it is never slower than without.
 *
 * Measured is what a pass over one token takes, what each further token adds, and how often drafts of a kind came true.
 * A draft is offered as long as the tokens that it lets expect grow by more than the time does. Since times vary, what
 * is expected is not trusted alone: there is a credit of time. Each pass with drafts adds what its tokens would have
 * taken one by one, less what it took. Drafts are offered only as far as the credit covers what they may cost; when it
 * is spent, it grows again by a small part of the time that passes. So what is lost by trying stays a small part,
 * whatever the drafts, and what was won may be risked. Now and then some passes go without drafts, so that what they
 * take stays known; the first of them may have to read what the drafts displaced, so it counts for these. */
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
    bool always;                                                           /* as many as can be had */
    struct draft_kind kinds[DRAFT_MATCH_KINDS + DRAFT_MODEL_KINDS], model; /* model: however sure it was */

    double pass, further;  /* nanoseconds of a pass over one token, and of each more */
    double passes, pairs;  /* that these are known from, at most so many as count; passes 0: nothing is known */
    double drafting;       /* of a draft by a model; 0: not measured yet, or there is none */
    double credit, gain;   /* nanoseconds; the speed with drafts over that without */
    uint32_t since, alone; /* passes with drafts, and then without */

    /* The drafts at hand: what is expected of them, and what it took to make them. */
    double reached, tokens, time, spent;
    uint32_t count;
    uint8_t kind[DRAFT_MOST];
};

/* Before drafts are made: of "most", so many may pass. */
uint32_t draft_begin(struct draft_choice *choice, uint32_t most);

/* Whether one more pays, which comes true so often and costs so many nanoseconds. */
bool draft_pays(const struct draft_choice *choice, double chance, double cost);
float draft_chance(const struct draft_kind *kind);

/* It is among the drafts. */
void draft_add(struct draft_choice *choice, uint32_t kind);

/* A kind was not tried, since it does not pay. After a while it is tried again. */
void draft_refuse(struct draft_choice *choice, struct draft_kind *kind);

/* To ask a model for one took so long. */
void draft_spent(struct draft_choice *choice, double nanoseconds);

/* A pass over one known token and the drafts took so long, and so many of them came true. */
void draft_learn(struct draft_choice *choice, uint32_t accepted, uint64_t nanoseconds);

#endif
