/* hosts: several hosts as places for one model. Host 0 has attention, routers and everything else that all tokens use;
 * experts are dealt out over all of them, and whoever has an expert computes with it: rows travel, weights do not.
 *
 * How many experts each host gets is what the shortest token follows from, as plan_hosts_make expects it: a host with
 * quicker cores, more memory or a quicker drive gets more, and one whose link costs more than it brings gets none. What
 * has no room in a host's memory is read from its own drive. The same function plans runs over MPI (src/engine/cluster)
 * and hosts that are only described (hypura inspect --hosts).
 *
 * Of a model without experts neighbouring layers are dealt out: what they multiply with, not what they keep of sequences,
 * which stays on host 0. Others get layers where that spares host 0 its drive, or where they are quicker. Every result follows from the arguments alone.
 */
#ifndef HYPURA_PLAN_HOSTS_H
#define HYPURA_PLAN_HOSTS_H

#include "plan/plan.h"

#define PLAN_MOST_HOSTS 64u

/* Tokens of the prompt that is predicted. */
#define HOSTS_PROMPT 512u

/* Of a link that nobody measured: 10 Gbit/s Ethernet, and what a short message there and back takes between programs. */
#define PLAN_LINK_BYTES_PER_SECOND 1.25e9
#define PLAN_LINK_SECONDS 100e-6

struct plan_host {
    char name[64];
    uint64_t memory;                 /* that the process there may hold */
    uint64_t expert_room;            /* bytes of it that experts can have */
    double compute_bytes_per_second; /* quantised weights, all cores */
    double multiply_adds_per_second;
    double drive_bytes_per_second;
    double link_bytes_per_second; /* each way; of host 0 what all others share; 0: not known */
    double link_seconds;          /* of a short message to host 0 and back; 0: not known */
    const struct hardware *hardware; /* more of the same; NULL: not known */
};

/* What binds a token: if it took no time at all, the token would be the shortest. */
enum plan_hosts_bound {
    HOSTS_BOUND_FIRST,   /* what all tokens use, on host 0 */
    HOSTS_BOUND_EXPERTS, /* computing experts, or layers that others have */
    HOSTS_BOUND_DRIVES,
    HOSTS_BOUND_LINKS
};
const char *plan_hosts_bound_name(enum plan_hosts_bound bound); /* "first host", "experts", "drives", "links" */

/* What one of them does for a token, on the average. */
struct plan_hosts_part {
    uint32_t first_layer, layers; /* of a model without experts: whose matrices it has */
    double share;        /* of all experts, or layers; 0: it has none */
    double hit_rate;     /* of those that it computes, in its memory */
    double experts;      /* a layer */
    uint64_t bytes;      /* of experts, or of layers' matrices, that are its own */
    uint64_t held_bytes; /* of these, in memory */
    double drive_bytes, link_bytes;
    double compute_seconds; /* of host 0 also what all tokens use */
};

struct plan_hosts {
    uint32_t count, used; /* used: hosts with a share, and host 0 */
    struct plan_hosts_part parts[PLAN_MOST_HOSTS];
    enum plan_hosts_bound bound;
    double prompt_tokens_per_second; /* of a prompt of HOSTS_PROMPT */
    double tokens_per_second;       /* of an answer, one sequence, experts used as is usual */
    double even_tokens_per_second;  /* with all of them used alike; the same where it is known, or nothing follows */
    double alone_tokens_per_second; /* of host 0 without the others */
    double without[HOSTS_BOUND_LINKS + 1]; /* tokens a second, if what could bind took no time */
    double drive_bytes, link_bytes, messages; /* of a token, all hosts together */
    char reason[300];
};

/* first: what host 0 would do alone, with this request and hardware. */
hypura_status plan_hosts_make(struct plan_hosts *out, const struct plan *first, const struct model *model,
                              const struct steps *steps, const struct hardware *hardware,
                              const struct plan_request *request, const struct plan_host *hosts, uint32_t count,
                              hypura_error *error);

/* Everybody has a share, by room, whatever that costs. */
void plan_hosts_spread(struct plan_hosts *out, const struct model *model, const struct plan_host *hosts, uint32_t count);

/* Which host has a unit, [model_unit_count]: of experts, or of layers that are dealt out, any, of all else host 0. Each layer is dealt out alike, so that
 * no host waits for another longer than it must. has: of each host which experts it can read at all, [layers][experts],
 * not 0 for those; NULL, or NULL of a host: all. Host 0 has all of them. */
hypura_status plan_hosts_owners(uint8_t *owners, const struct model *model, const struct steps *steps,
                                const struct plan_hosts *plan, const uint8_t *const *has, hypura_error *error);

#endif
