/* Private to grammar/: the automaton of a matcher, and what it must tell apart besides. */
#ifndef HYPURA_MATCH_PRIVATE_H
#define HYPURA_MATCH_PRIVATE_H

#include "grammar/grammar_private.h"

/* ---- what must not come twice -------------------------------------------------------------------------------------
 *
 * No network can say that all items of an array differ, or all names of an object. So their texts, which are canonical
 * there, are kept as a tree of bytes while the array or object is open. */

#define MAX_OPEN 8 /* such arrays and objects inside one another */

struct open_list {
    uint32_t root, at; /* nodes: of the list; of the item that is being written */
    uint32_t depth;    /* brackets that are open within it */
    uint8_t mark;
    bool value; /* after a name's ":" */
};

struct text_node {
    uint32_t parent, first, next; /* 0: none */
    uint32_t count;               /* of the items that end here or further down */
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
    struct text_node *nodes; /* from 1 */
    uint32_t node_count, node_capacity;
    uint32_t *ended; /* the nodes where items ended, in their order */
    uint32_t ended_count, ended_capacity;
};

/* Where to go back to. */
struct distinct_mark {
    struct distinct_place now;
    uint32_t node_count, ended_count;
};

enum distinct_result { DISTINCT_FITS, DISTINCT_AGAIN, DISTINCT_FULL };

/* Goes past a byte, after which the automaton has the marks. DISTINCT_AGAIN: the item was there before. */
enum distinct_result distinct_step(struct distinct *d, unsigned byte, unsigned marks);
struct distinct_mark distinct_here(const struct distinct *d);
void distinct_go_back(struct distinct *d, const struct distinct_mark *mark);
void distinct_clear(struct distinct *d);
void distinct_free(struct distinct *d);
/* Whether what is being written cannot become an item that was there. */
bool distinct_is_free(const struct distinct *d);

/* ---- the automaton ------------------------------------------------------------------------------------------------
 */

#define MAX_FRAMES ((uint32_t)1 << 20)
#define MAX_STATES 40000
#define MAX_PLACES 2000 /* in one state: more is an ambiguity that no sensible grammar has */
#define MAX_STACK 5000  /* rules inside one another */
#define MAX_MASKS 256
#define DEAD 0u
#define UNKNOWN UINT32_MAX

struct frame {
    uint32_t state, below; /* below: a frame, or 0 at the bottom */
    uint32_t depth, stamp;
};

struct state {
    uint32_t first, count; /* of its places */
    bool complete;
    uint8_t marks;   /* of what begins here */
    uint32_t *steps; /* [256] the state after a byte, or UNKNOWN; NULL until needed */
    uint32_t *mask;  /* of the vocabulary, or NULL */
};

struct grammar_matcher {
    const struct grammar *grammar;
    const struct grammar_vocabulary *vocabulary;
    struct frame *frames; /* from 1 */
    uint32_t frame_count, frame_capacity;
    uint32_t *frame_index, frame_slots; /* open addressing */
    struct state *states;               /* 0 is DEAD */
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
    bool ended;      /* a token that ends the answer was accepted */
    uint32_t *trail; /* states along a token, for masks */
    struct distinct distinct;
};

/* The state after a byte, or DEAD. */
uint32_t matcher_step(struct grammar_matcher *m, uint32_t state, unsigned byte);
/* Begins the tables again with the current state, when they have grown large. */
void matcher_keep_small(struct grammar_matcher *m);
uint32_t matcher_fail(struct grammar_matcher *m, hypura_status status, const char *message);

/* match_distinct.c: whether bytes from a state on, the current one, write nothing twice and can still be completed.
 * With keep they become what was written. */
bool matcher_is_distinct(struct grammar_matcher *m, uint32_t state, const char *bytes, size_t size, bool keep);
/* Takes tokens out of a mask. */
void matcher_filter(struct grammar_matcher *m, uint32_t *mask);

#endif
