/* Predicts the time for a prompt on several hosts: everything that all tokens use, on host 0 as on a single host; and
 * the experts, on all hosts at once, with what travels for them. In a batch of many tokens, each host gets its share of
 * the choices. For dense models, see hosts_layers.c. */
#include "plan/hosts_private.h"

#include <math.h>

/* Sums over all layers. */
struct expert_work {
    double elements, one_pass, bytes, rows; /* of one expert per layer; rows: bytes that travel per choice */
};

static struct expert_work sum_experts(const struct host_problem *problem)
{
    struct expert_work sum = {0};
    const struct plan_table *table = problem->table;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit->expert < 0 || unit->layer < 0 || (uint32_t)unit->layer >= table->layers)
            continue;
        sum.elements += (double)unit->elements / table->experts;
        sum.one_pass += unit->compute_seconds / table->experts;
        sum.bytes += (double)unit->footprint / table->experts;
    }
    for (uint32_t l = 1; l <= table->layers; l++)
        sum.rows += problem->layers[l].expert_bytes > 0 ? problem->row_bytes[l] : 0;
    return sum;
}

static double multiply_adds(const struct host_problem *problem, uint32_t kind)
{
    const struct plan_host *host = problem->kinds[kind].host;
    const double of_hardware =
        host->hardware ? host->hardware->multiply_adds_per_second : host->multiply_adds_per_second;
    return of_hardware > 0 ? of_hardware : problem->hardware->multiply_adds_per_second / problem->kinds[kind].slower;
}

/* The time for the experts of a batch, which chooses nearly all of them. */
static double experts_seconds(const struct host_problem *problem, const struct host_share *shares,
                              const double *hit_rates, double tokens)
{
    const struct plan_table *table = problem->table;
    const struct expert_work work = sum_experts(problem);
    const double choices = tokens * table->experts_used, touched = fmin(choices, table->experts);
    double longest = 0, link = 0;
    for (uint32_t k = 0; k < problem->kind_count; k++) {
        const struct host_kind *kind = &problem->kinds[k];
        const double share = shares[k].used ? shares[k].each : 0;
        const double compute = choices * share * work.elements / multiply_adds(problem, k) +
                               touched * share * work.one_pass * kind->slower;
        const double reading = touched * share * (1 - hit_rates[k]) * work.bytes / kind->storage->bytes_per_second;
        const double rows = (fmin(tokens, choices * share) + choices * share) * work.rows;
        const double own = k ? rows / kind->link_bytes_per_second : 0;
        longest = fmax(longest, fmax(compute, reading) + own);
        link += k ? rows * shares[k].used / problem->kinds[0].link_bytes_per_second : 0;
    }
    return fmax(longest, link);
}

hypura_status hosts_predict_prompt(double *out, const struct host_problem *problem, const struct host_share *shares,
                                   const double *hit_rates, hypura_error *error)
{
    struct plan_request request = *problem->request;
    struct plan *plan;
    uint8_t *elsewhere;
    const uint32_t tokens = HOSTS_PROMPT;
    hypura_status status = ALLOCATE(&elsewhere, problem->table->count, "plan over hosts", error);
    if (status)
        return status;
    for (uint32_t u = 0; u < problem->table->count; u++)
        elsewhere[u] = problem->table->units[u].expert >= 0;
    request.elsewhere = elsewhere;
    status = plan_make(&plan, problem->model, problem->steps, problem->hardware, &request, error);
    if (!status) {
        double seconds = 0;
        status = plan_prompt_seconds(&seconds, &tokens, 1, plan, problem->model, problem->steps, problem->hardware,
                                     &request, error);
        for (uint32_t done = 0; !status && done < tokens; done += MAX(plan->chunk, 1u))
            seconds += experts_seconds(problem, shares, hit_rates, MIN(tokens - done, MAX(plan->chunk, 1u)));
        if (!status)
            *out = tokens / seconds;
        plan_free(plan);
    }
    memory_free(elsewhere);
    return status;
}
