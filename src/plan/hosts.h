/* hosts: plans one model on several hosts. Host 0 has attention, routers and everything else that all tokens use.
 * Experts are distributed over all hosts, and each host computes its own: rows travel, weights do not.
 *
 * plan_hosts_make gives each host as many experts as make the predicted token time shortest. A host with faster cores,
 * more memory or a faster drive gets more; one whose link costs more than it gains gets none. Experts without room in a
 * host's memory are read from its own drive. The same function plans runs over MPI (src/engine/cluster) and hosts that
 * are only described (hypura inspect --hosts).
 *
 * Of a model without experts, consecutive layers are distributed: their matrices, but not the caches and states of
 * sequences, which stay on host 0. Other hosts get layers if that saves host 0 reads from its drive, or if they are
 * faster. All results depend only on the arguments. */
#ifndef HYPURA_PLAN_HOSTS_H
#define HYPURA_PLAN_HOSTS_H

#include "plan/plan.h"

#define PLAN_MOST_HOSTS 64u

/* The length of the prompt whose speed is predicted, in tokens. */
#define HOSTS_PROMPT 512u

/* A link that was not measured: 10 Gbit/s Ethernet, and the time of a short message to another program and back. */
#define PLAN_LINK_BYTES_PER_SECOND 1.25e9
#define PLAN_LINK_SECONDS 100e-6

struct plan_host {
    char name[64];
    uint64_t memory;                 /* the process's budget there */
    uint64_t expert_room;            /* bytes of it for experts, or for layers of a model without experts */
    double compute_bytes_per_second; /* quantised weights of experts, all cores and GPUs together */
    double multiply_adds_per_second;
    double drive_bytes_per_second;
    double link_bytes_per_second;    /* each way; host 0's is shared by all others; 0: unknown */
    double link_seconds;             /* of a short message to host 0 and back, and to a GPU there; 0: unknown */
    const struct hardware *hardware; /* the caller's, with more detailed figures; NULL: unknown */
};

/* What binds a token: the part without which it would take the least time. */
enum plan_hosts_bound {
    HOSTS_BOUND_FIRST,   /* what all tokens use, on host 0 */
    HOSTS_BOUND_EXPERTS, /* computing experts, or other hosts' layers */
    HOSTS_BOUND_DRIVES,
    HOSTS_BOUND_LINKS
};
const char *plan_hosts_bound_name(enum plan_hosts_bound bound); /* "first host", "experts", "drives", "links" */

/* One host's part, with its average work per token. */
struct plan_hosts_part {
    uint32_t first_layer, layers; /* without experts: the layers whose matrices it has */
    double share;                 /* of all experts, or layers; 0: none */
    double hit_rate;              /* how many of the experts that it computes are in its memory */
    double experts;               /* computed per layer */
    uint64_t bytes;               /* of its experts, or of its layers' matrices */
    uint64_t held_bytes;          /* of these, in memory */
    double drive_bytes, link_bytes;
    double compute_seconds; /* on host 0, including what all tokens use */
};

struct plan_hosts {
    uint32_t count, used; /* used: host 0, and others with a share */
    struct plan_hosts_part parts[PLAN_MOST_HOSTS];
    enum plan_hosts_bound bound;
    double prompt_tokens_per_second;          /* for a prompt of HOSTS_PROMPT tokens */
    double tokens_per_second;                 /* of one sequence's answer, with typical use of experts */
    double even_tokens_per_second;            /* with even use; equal if the use is known or makes no difference */
    double alone_tokens_per_second;           /* of host 0 without the others */
    double without[HOSTS_BOUND_LINKS + 1];    /* tokens per second, if this part took no time */
    double drive_bytes, link_bytes, messages; /* per token, of all hosts together */
    char reason[300];
};

/* Fills *out, which owns no memory. first: the plan of host 0 alone, made from this request and hardware. hosts:
 * [count], with host 0 first. */
hypura_status plan_hosts_make(struct plan_hosts *out, const struct plan *first, const struct model *model,
                              const struct steps *steps, const struct hardware *hardware,
                              const struct plan_request *request, const struct plan_host *hosts, uint32_t count,
                              hypura_error *error);

/* Gives each host a share in proportion to its room, whatever that costs. */
void plan_hosts_spread(struct plan_hosts *out, const struct model *model, const struct plan_host *hosts,
                       uint32_t count);

/* Sets owners[model_unit_count] to the host that has each unit. Experts and the matrices of distributed layers may be
 * on any host; everything else is on host 0. Each layer's experts are distributed in the same proportions, so that no
 * host waits for another longer than necessary. has: for each host, which experts it can read: [layers][experts], not 0
 * if it can. NULL, or NULL for a host: all. Host 0 can read all of them. */
hypura_status plan_hosts_owners(uint8_t *owners, const struct model *model, const struct steps *steps,
                                const struct plan_hosts *plan, const uint8_t *const *has, hypura_error *error);

#endif
