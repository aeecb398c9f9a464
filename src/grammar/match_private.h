/* Private to grammar/: a matcher's automaton, and the check that items or names differ. */
#ifndef HYPURA_MATCH_PRIVATE_H
#define HYPURA_MATCH_PRIVATE_H

#include "grammar/grammar_private.h"

/* ---- distinct items and names -------------------------------------------------------------------------------------
 *
 * A network cannot express that all items of an array, or all names of an object, differ. So while the array or object
 * is open, the matcher keeps their texts in a tree of bytes. The grammar makes these texts canonical: equal values have
 * equal texts. */

#define MAX_OPEN 8 /* nesting of arrays and objects whose items or names must differ */

struct open_list {
    uint32_t root, at; /* nodes: the list's root; the end of the current item so far */
    uint32_t depth;    /* open brackets within the list */
    uint8_t mark;
    bool value; /* past the ":" of a name */
};

struct text_node {
    uint32_t parent, first, next; /* 0: none */
    uint32_t count;               /* items that end here or further down */
    bool ends;
    uint8_t byte;
};

struct distinct_place {
    struct open_list lists[MAX_OPEN];
    uint32_t count;
    bool in_string, escaped;
};

struct distinct {
    struct distinct_place now;
    struct text_node *nodes; /* [node_count], used from 1 on */
    uint32_t node_count, node_capacity;
    uint32_t *ended; /* the nodes where items ended, oldest first */
    uint32_t ended_count, ended_capacity;
};

/* A state of struct distinct that distinct_go_back can restore. */
struct distinct_mark {
    struct distinct_place now;
    uint32_t node_count, ended_count;
};

enum distinct_result { DISTINCT_FITS, DISTINCT_AGAIN, DISTINCT_FULL };

/* Advances past a byte; marks are those of the automaton's state after it. DISTINCT_AGAIN: the item repeats an earlier
 * one. DISTINCT_FULL: too many items, too much nesting, or no memory. */
enum distinct_result distinct_step(struct distinct *d, unsigned byte, unsigned marks);
struct distinct_mark distinct_here(const struct distinct *d);
void distinct_go_back(struct distinct *d, const struct distinct_mark *mark);
void distinct_clear(struct distinct *d);
void distinct_free(struct distinct *d);
/* Whether no open item can still become equal to an earlier one. */
bool distinct_is_free(const struct distinct *d);

/* ---- the automaton ------------------------------------------------------------------------------------------------
 */

#define MAX_FRAMES ((uint32_t)1 << 20)
#define MAX_STATES 40000
#define MAX_PLACES 2000 /* per state; a grammar that needs more is too ambiguous */
#define MAX_STACK 5000  /* nesting of rules */
#define MAX_MASKS 256
#define DEAD 0u
#define UNKNOWN UINT32_MAX

struct frame {
    uint32_t state, below; /* below: a frame, or 0 at the bottom */
    uint32_t depth, stamp;
};

struct state {
    uint32_t first, count; /* its places */
    bool complete;
    uint8_t marks;   /* the marks that were passed on the way here */
    uint32_t *steps; /* [256] the state after a byte, or UNKNOWN; NULL until needed */
    uint32_t *mask;  /* of the vocabulary, or NULL */
};

struct grammar_matcher {
    const struct grammar *grammar;
    const struct grammar_vocabulary *vocabulary;
    struct frame *frames; /* [frame_count], used from 1 on */
    uint32_t frame_count, frame_capacity;
    uint32_t *frame_index, frame_slots; /* open addressing */
    struct state *states;               /* [state_count]; 0 is DEAD */
    uint32_t state_count, state_capacity;
    uint32_t *state_index, state_slots;
    uint32_t *places;
    uint32_t place_count, place_capacity;
    uint32_t mask_count;
    uint32_t *work, *found; /* [MAX_PLACES * 4], [MAX_PLACES] */
    uint32_t stamp;
    bool failed; /* too ambiguous, too deep or no memory: reason says which */
    hypura_error reason;
    uint32_t current;
    bool ended;      /* the matcher accepted a token that ends the answer */
    uint32_t *trail; /* the states after each byte of a token, while a mask is made */
    struct distinct distinct;
};

/* Returns the state after a byte, or DEAD. */
uint32_t matcher_step(struct grammar_matcher *m, uint32_t state, unsigned byte);
/* Once the tables have grown large, clears them and keeps only the current state. */
void matcher_keep_small(struct grammar_matcher *m);
uint32_t matcher_fail(struct grammar_matcher *m, hypura_status status, const char *message);

/* match_distinct.c: whether bytes, written from the current state on, repeat no item or name and can still be completed
 * without repeating one. keep: add them to what was written. */
bool matcher_is_distinct(struct grammar_matcher *m, uint32_t state, const char *bytes, size_t size, bool keep);
/* Clears the bits of tokens that would repeat an item or a name, or could only lead to a repetition. */
void matcher_filter(struct grammar_matcher *m, uint32_t *mask);

#endif
