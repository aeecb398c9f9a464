/* Functions that the files of hosts share with each other.
 *
 *   hosts_predict.c  predicts the time for a token with given shares
 *   hosts_prompt.c   predicts the time for a prompt
 *   hosts_search.c   finds the shares for the shortest token
 *   hosts.c          distributes experts by these shares
 *   hosts_layers.c   distributes the layers of a dense model
 */
#ifndef HYPURA_PLAN_HOSTS_PRIVATE_H
#define HYPURA_PLAN_HOSTS_PRIVATE_H

#include "plan/hosts.h"
#include "plan/plan_private.h"

/* Hosts with equal figures. The first kind is host 0 alone. */
struct host_kind {
    const struct plan_host *host;
    uint32_t count;
    double slower; /* the time for an expert, relative to the cores of host 0 */
    double link_bytes_per_second, link_seconds;
    struct storage plain; /* storage points to it if only the drive's speed is known */
    const struct storage *storage;
};

/* How many hosts of a kind have experts, and the share of each. The sum of used * each over all kinds is 1. */
struct host_share {
    uint32_t used;
    double each;
};

struct host_problem {
    const struct plan *first;
    const struct model *model;
    const struct steps *steps;
    const struct plan_table *table;
    const struct hardware *hardware; /* of host 0 */
    const struct plan_request *request;
    struct plan_layer_cost *layers; /* [table->layers + 1] */
    double *row_bytes;              /* [table->layers + 1], of a row that travels */
    uint64_t expert_bytes;
    struct host_kind *kinds;
    uint32_t kind_count;
    uint8_t kind_of[PLAN_MOST_HOSTS];
    double *scratch;
    size_t scratch_count;
};

/* Parts that are assumed to take no time. */
struct host_ideal {
    bool takes_none[HOSTS_BOUND_LINKS + 1];
};

struct host_forecast {
    double seconds;
    double drive_bytes, link_bytes, messages;
    double hit_rates[PLAN_MOST_HOSTS]; /* by kind */
};

/* The number of doubles that hosts_predict needs in problem->scratch. */
size_t hosts_scratch(const struct plan_table *table, uint32_t kinds);

/* Predicts a token. shares: [kind_count]. request: problem->request, or one with another use of experts. */
hypura_status hosts_predict(struct host_forecast *out, const struct host_problem *problem,
                            const struct plan_request *request, const struct host_share *shares,
                            const struct host_ideal *ideal, hypura_error *error);

/* Finds the best shares: shares[kind_count]. */
hypura_status hosts_search(struct host_share *shares, const struct host_problem *problem, hypura_error *error);

/* plan_hosts_make and plan_hosts_owners for a model without experts. */
hypura_status hosts_place_layers(struct plan_hosts *out, const struct plan *first, const struct model *model,
                                 const struct steps *steps, const struct hardware *hardware,
                                 const struct plan_request *request, const struct plan_host *hosts, uint32_t count,
                                 hypura_error *error);
hypura_status plan_layer_owners(uint8_t *owners, const struct model *model, const struct steps *steps,
                                const struct plan_hosts *plan, hypura_error *error);

/* Predicts the tokens per second of a prompt of HOSTS_PROMPT tokens. hit_rates: by kind. */
hypura_status hosts_predict_prompt(double *out, const struct host_problem *problem, const struct host_share *shares,
                                   const double *hit_rates, hypura_error *error);

#endif
