#include "engine/draft_choice.h"

#include "core/core.h"

/* How much of the acceptance counts of a kind remains after each draft (half after some fifty), and the drafts that
 * are assumed beforehand. */
#define REMEMBERED 0.986f
#define ASSUMED 4.0f
#define ASSUMED_TRUE 0.4f
/* A kind that does not pay is forgotten by this factor whenever it is skipped, and so is tried again later. */
#define FORGOTTEN 0.995f

/* A further token takes this share of a pass until it is measured. */
#define ASSUMED_SHARE 0.3
/* The number of passes that a mean covers, the last ones weighing most. */
#define COUNTED 24.0
/* This many passes are measured alone before any draft, and with one draft before there are more. */
#define LEAST_PASSES 4.0
#define LEAST_PAIRS 3.0

/* The expected gain must exceed the cost by this factor, because the best of several estimates is too optimistic. */
#define MARGIN 1.1

/* The first credit and the largest, in passes. */
#define FIRST_CREDIT 1.0
#define MOST_CREDIT 8.0
/* Credit grows by this part of the time. */
#define ALLOWED 0.006
/* When compared with the credit, a draft is assumed to cost at least this part of a pass. */
#define LEAST_RISK 0.5

/* Passes without drafts after each run of passes with them. If drafts hardly pay, looking often costs nothing. */
#define ALONE 3u
#define OFTEN 24u
#define SELDOM 96u
#define CLEAR_GAIN 1.3

float draft_chance(const struct draft_kind *kind)
{
    return (kind->accepted + ASSUMED * ASSUMED_TRUE) / (kind->drafted + ASSUMED);
}

uint32_t draft_begin(struct draft_choice *choice, uint32_t most)
{
    choice->count = 0;
    choice->spent = 0;
    choice->reached = choice->tokens = 1;
    choice->time = choice->pass;
    most = MIN(most, DRAFT_MOST);
    if (choice->always)
        return most;
    if (choice->passes < LEAST_PASSES || choice->since >= (choice->gain > CLEAR_GAIN ? SELDOM : OFTEN))
        return 0;
    double risk = MAX(choice->further + choice->drafting, LEAST_RISK * choice->pass);
    if (choice->pairs < LEAST_PAIRS)
        most = MIN(most, 1u);
    return choice->credit < most * risk ? (uint32_t)MAX(choice->credit / risk, 0.0) : most;
}

bool draft_pays(const struct draft_choice *choice, double chance, double cost)
{
    return choice->always || choice->reached * chance * choice->time > choice->tokens * cost * MARGIN;
}

void draft_add(struct draft_choice *choice, uint32_t kind)
{
    choice->reached *= (double)draft_chance(&choice->kinds[kind]);
    choice->tokens += choice->reached;
    choice->time += choice->further;
    choice->kind[choice->count++] = (uint8_t)kind;
}

void draft_refuse(struct draft_choice *choice, struct draft_kind *kind)
{
    kind->drafted *= FORGOTTEN;
    kind->accepted *= FORGOTTEN;
    choice->further += (1 - (double)FORGOTTEN) * (ASSUMED_SHARE * choice->pass - choice->further);
}

void draft_spent(struct draft_choice *choice, double nanoseconds)
{
    choice->time += choice->drafting;
    choice->spent += nanoseconds;
}

static void count_draft(struct draft_kind *kind, bool accepted)
{
    kind->drafted = kind->drafted * REMEMBERED + 1;
    kind->accepted = kind->accepted * REMEMBERED + accepted;
}

static void learn_with(struct draft_choice *choice, uint32_t accepted, double time)
{
    const double drafted = choice->count, won = (1 + accepted) * choice->pass, all = time + choice->spent;
    choice->pairs = MIN(choice->pairs + 1, COUNTED);
    choice->further += ((time - choice->pass) / drafted - choice->further) / (choice->pairs + 1);
    choice->further = MAX(choice->further, 0.0);
    choice->credit = MIN(choice->credit + won - all, MOST_CREDIT * choice->pass);
    choice->gain += (won / all - choice->gain) / 16;
    choice->since++;
    choice->alone = 0;
}

static void learn_alone(struct draft_choice *choice, double time)
{
    if (choice->alone || !choice->since) {
        choice->passes = MIN(choice->passes + 1, COUNTED);
        choice->pass += (time - choice->pass) / choice->passes;
    } else {
        choice->credit -= time - choice->pass;
    }
    choice->credit -= choice->spent;
    if (++choice->alone >= ALONE)
        choice->since = 0;
}

void draft_learn(struct draft_choice *choice, uint32_t accepted, uint64_t nanoseconds)
{
    const uint32_t drafted = choice->count;
    for (uint32_t i = 0; i < drafted && i <= accepted; i++) {
        count_draft(&choice->kinds[choice->kind[i]], i < accepted);
        if (choice->kind[i] >= DRAFT_MATCH_KINDS)
            count_draft(&choice->model, i < accepted);
    }
    if (choice->passes < 1) {
        choice->pass = (double)nanoseconds / (1 + ASSUMED_SHARE * drafted);
        choice->further = ASSUMED_SHARE * choice->pass;
        choice->credit = FIRST_CREDIT * choice->pass;
        choice->passes = choice->gain = 1;
        choice->count = 0;
        return;
    }
    /* A pass that something else delayed counts at most three times its expected time. */
    const double time = MIN((double)nanoseconds, 3 * (choice->pass + drafted * choice->further));
    if (drafted)
        learn_with(choice, accepted, time);
    else
        learn_alone(choice, time);
    if (choice->credit < FIRST_CREDIT * choice->pass)
        choice->credit = MIN(choice->credit + ALLOWED * time, FIRST_CREDIT * choice->pass);
    choice->count = 0;
}
