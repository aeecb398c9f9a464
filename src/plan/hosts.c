#include "plan/hosts_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Among the hosts that can read the expert, the one that is farthest below its share. */
static uint32_t next_host(const struct plan_hosts *plan, const uint64_t *dealt, uint64_t all, const uint8_t *const *has,
                          size_t expert)
{
    uint32_t best = 0;
    double most = -1;
    for (uint32_t h = 0; h < plan->count; h++) {
        const double share = plan->parts[h].share, behind = share * (double)(all + 1) - (double)dealt[h];
        const bool can = !has || !has[h] || has[h][expert];
        if (can && share > 0 && behind > most) {
            most = behind;
            best = h;
        }
    }
    return best;
}

hypura_status plan_hosts_owners(uint8_t *owners, const struct model *model, const struct steps *steps,
                                const struct plan_hosts *plan, const uint8_t *const *has, hypura_error *error)
{
    const uint32_t experts = model_parameters(model)->experts, layers = model_parameters(model)->layers;
    if (experts == 0)
        return plan_layer_owners(owners, model, steps, plan, error);
    uint64_t dealt[PLAN_MOST_HOSTS] = {0}, all = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        owners[u] = 0;
        if (unit->kind != UNIT_EXPERT || unit->layer < 0 || (uint32_t)unit->layer >= layers)
            continue;
        const uint32_t host = next_host(plan, dealt, all++, has, (size_t)unit->layer * experts + (size_t)unit->expert);
        owners[u] = (uint8_t)host;
        dealt[host]++;
    }
    return HYPURA_OK;
}

const char *plan_hosts_bound_name(enum plan_hosts_bound bound)
{
    static const char *const names[] = {"first host", "experts", "drives", "links"};
    return names[bound];
}

/* ---- the problem ------------------------------------------------------------------------------------------------- */

static double expert_seconds(const struct model *model, unit_number expert, const struct hardware *hardware)
{
    const struct unit *unit = model_unit(model, expert);
    double seconds = 0;
    for (uint32_t s = 0; s < unit->slice_count; s++)
        seconds += (double)unit->slices[s].bytes / hardware_kernel_speed(hardware, unit->slices[s].tensor->type);
    return seconds;
}

static bool is_same(const struct plan_host *a, const struct plan_host *b)
{
    const double left[] = {a->compute_bytes_per_second, a->drive_bytes_per_second, a->link_bytes_per_second,
                           a->link_seconds};
    const double right[] = {b->compute_bytes_per_second, b->drive_bytes_per_second, b->link_bytes_per_second,
                            b->link_seconds};
    return a->expert_room == b->expert_room && a->hardware == b->hardware && memcmp(left, right, sizeof left) == 0;
}

static double known(double figure, double usual)
{
    return figure > 0 ? figure : usual;
}

static void describe_kind(struct host_kind *out, const struct plan_host *host, const struct plan_host *first,
                          const struct host_problem *problem, const struct model *model, unit_number expert)
{
    const struct hardware *own = problem->hardware;
    const double here = expert_seconds(model, expert, own);
    *out = (struct host_kind){.host = host, .count = 1, .slower = 1, .storage = &own->storage};
    out->link_bytes_per_second = fmin(known(host->link_bytes_per_second, PLAN_LINK_BYTES_PER_SECOND),
                                      known(first->link_bytes_per_second, INFINITY));
    out->link_seconds = known(host->link_seconds, PLAN_LINK_SECONDS);
    if (host == first) {
        if (host->compute_bytes_per_second > 0)
            out->slower = known(own->compute_bytes_per_second / host->compute_bytes_per_second, 1);
        out->link_bytes_per_second = known(first->link_bytes_per_second, PLAN_LINK_BYTES_PER_SECOND);
        return;
    }
    if (host->hardware) {
        out->slower = expert_seconds(model, expert, host->hardware) / here;
        out->storage = &host->hardware->storage;
        return;
    }
    out->slower = known(own->compute_bytes_per_second / host->compute_bytes_per_second, 1);
    out->plain = own->storage; /* host 0's block size and slowdown next to computing: this drive's are unknown */
    out->plain.sample_count = 0;
    out->plain.bytes_per_second = known(host->drive_bytes_per_second, own->storage.bytes_per_second);
    out->storage = &out->plain;
}

static void find_kinds(struct host_problem *problem, const struct plan_host *hosts, uint32_t count,
                       const struct model *model, unit_number expert)
{
    for (uint32_t h = 0; h < count; h++) {
        uint32_t k = 1;
        while (k < problem->kind_count && !is_same(problem->kinds[k].host, &hosts[h]))
            k++;
        k = h ? k : 0;
        problem->kind_of[h] = (uint8_t)k;
        if (k < problem->kind_count) {
            problem->kinds[k].count++;
            continue;
        }
        describe_kind(&problem->kinds[k], &hosts[h], &hosts[0], problem, model, expert);
        problem->kind_count++;
    }
}

static void find_rows(struct host_problem *problem, const struct steps *steps)
{
    for (uint32_t l = 0; l < problem->table->layers; l++) {
        const struct step *experts = steps_find(steps_of_layer(steps, l), STEP_EXPERTS);
        problem->row_bytes[l + 1] = experts ? experts->experts.columns * sizeof(float) : 0;
    }
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

static void describe(struct plan_hosts *out, const struct host_problem *problem)
{
    uint64_t held = 0, all = 0;
    char has[32], of[32];
    for (uint32_t h = 0; h < out->count; h++) {
        held += out->parts[h].held_bytes;
        all += out->parts[h].bytes;
    }
    format_bytes(has, sizeof has, (double)held);
    format_bytes(of, sizeof of, (double)all);
    const bool fits = problem->first->mode < PLAN_DENSE_STREAMING;
    snprintf(out->reason, sizeof out->reason,
             "%s holds what every token uses%s; %s of the experts (%s) are in memory%s, on %u of %u %s%s.",
             "The first host", fits ? "" : ", as far as it has room", held >= all ? "all" : has, of,
             held >= all ? "" : " and the rest is read from drives", out->used, out->count,
             out->count == 1 ? "host" : "hosts",
             out->used < out->count ? ": the others would cost more than they gain" : "");
}

static void fill_parts(struct plan_hosts *out, const struct host_problem *problem, const struct host_share *shares,
                       const struct host_forecast *forecast, const struct plan_host *hosts)
{
    uint32_t dealt[PLAN_MOST_HOSTS] = {0};
    double expert_compute = 0, tensors = 0, rows = 0;
    uint32_t layers = 0;
    for (uint32_t i = 0; i <= problem->table->layers; i++) {
        expert_compute += problem->layers[i].expert_compute;
        tensors += problem->layers[i].compute + (i ? LAYER_SECONDS : 0);
        layers += problem->layers[i].expert_bytes > 0;
        rows += problem->layers[i].expert_bytes > 0 ? problem->row_bytes[i] : 0;
    }
    const double used = problem->table->experts_used, part = used / problem->table->experts;
    for (uint32_t h = 0; h < out->count; h++) {
        const uint32_t k = problem->kind_of[h];
        struct plan_hosts_part *p = &out->parts[h];
        if (dealt[k]++ < shares[k].used)
            p->share = shares[k].each;
        out->used += p->share > 0 || h == 0;
        p->hit_rate = p->share > 0 ? forecast->hit_rates[k] : 1;
        p->experts = used * p->share;
        p->bytes = (uint64_t)(p->share * (double)problem->expert_bytes);
        p->held_bytes = MIN(p->bytes, hosts[h].expert_room);
        p->compute_seconds = expert_compute * part * p->share * problem->kinds[k].slower + (h ? 0 : tensors);
        p->drive_bytes = (double)problem->expert_bytes * part * p->share * (1 - p->hit_rate);
        const double asked = layers * (1 - pow(1 - p->share, used));
        p->link_bytes = h && layers ? (asked + layers * p->experts) * rows / layers : 0;
    }
}

static hypura_status fill(struct plan_hosts *out, const struct host_problem *problem, const struct host_share *shares,
                          const struct plan_host *hosts, hypura_error *error)
{
    struct host_ideal ideal = {0};
    struct host_forecast forecast, other;
    const struct host_share alone[PLAN_MOST_HOSTS] = {{1, 1}};
    struct plan_request evenly = *problem->request;
    TRY(hosts_predict(&forecast, problem, problem->request, shares, &ideal, error));
    fill_parts(out, problem, shares, &forecast, hosts);
    TRY(hosts_predict_prompt(&out->prompt_tokens_per_second, problem, shares, forecast.hit_rates, error));
    out->tokens_per_second = out->even_tokens_per_second = 1 / forecast.seconds;
    out->drive_bytes = forecast.drive_bytes;
    out->link_bytes = forecast.link_bytes;
    out->messages = forecast.messages;
    TRY(hosts_predict(&other, problem, problem->request, alone, &ideal, error));
    out->alone_tokens_per_second = 1 / other.seconds;
    if (!plan_knows_routing(problem->table, problem->request)) {
        plan_ask_evenly(&evenly);
        TRY(hosts_predict(&other, problem, &evenly, shares, &ideal, error));
        out->even_tokens_per_second = MIN(1 / other.seconds, out->tokens_per_second);
    }
    for (enum plan_hosts_bound bound = HOSTS_BOUND_FIRST; bound <= HOSTS_BOUND_LINKS; bound++) {
        ideal = (struct host_ideal){0};
        ideal.takes_none[bound] = true;
        TRY(hosts_predict(&other, problem, problem->request, shares, &ideal, error));
        out->without[bound] = other.seconds > 0 ? 1 / other.seconds : 0;
        if (out->without[bound] > out->without[out->bound])
            out->bound = bound;
    }
    describe(out, problem);
    return HYPURA_OK;
}

static hypura_status solve(struct plan_hosts *out, struct host_problem *problem, const struct plan_host *hosts,
                           hypura_error *error)
{
    struct host_share shares[PLAN_MOST_HOSTS] = {{0, 0}};
    problem->scratch_count = hosts_scratch(problem->table, problem->kind_count);
    TRY(ALLOCATE(&problem->scratch, problem->scratch_count, "plan over hosts", error));
    TRY(hosts_search(shares, problem, error));
    return fill(out, problem, shares, hosts, error);
}

hypura_status plan_hosts_make(struct plan_hosts *out, const struct plan *first, const struct model *model,
                              const struct steps *steps, const struct hardware *hardware,
                              const struct plan_request *request, const struct plan_host *hosts, uint32_t count,
                              hypura_error *error)
{
    struct plan_table table;
    unit_number expert = NO_UNIT;
    if (count == 0 || count > PLAN_MOST_HOSTS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "cannot plan for %u hosts: expected 1 to %u", count,
                         PLAN_MOST_HOSTS);
    if (model_parameters(model)->experts == 0)
        return hosts_place_layers(out, first, model, steps, hardware, request, hosts, count, error);
    for (uint32_t l = 0; l < model_parameters(model)->layers && expert == NO_UNIT; l++)
        expert = plan_first_expert(steps, l);
    if (expert == NO_UNIT)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s has no experts to distribute over hosts",
                         model_name(model));
    TRY(plan_table_make(&table, model, steps, hardware, error));
    struct host_problem problem = {
        .first = first, .model = model, .steps = steps, .table = &table, .hardware = hardware, .request = request};
    hypura_status status = ALLOCATE(&problem.layers, (size_t)table.layers + 1, "plan over hosts", error);
    if (!status)
        status = ALLOCATE(&problem.row_bytes, (size_t)table.layers + 1, "plan over hosts", error);
    if (!status)
        status = ALLOCATE(&problem.kinds, count, "plan over hosts", error);
    if (!status) {
        *out = (struct plan_hosts){.count = count};
        plan_layer_costs(problem.layers, &table);
        for (uint32_t i = 0; i <= table.layers; i++)
            problem.expert_bytes += (uint64_t)problem.layers[i].expert_bytes;
        find_rows(&problem, steps);
        find_kinds(&problem, hosts, count, model, expert);
        status = solve(out, &problem, hosts, error);
    }
    memory_free(problem.layers);
    memory_free(problem.row_bytes);
    memory_free(problem.kinds);
    memory_free(problem.scratch);
    plan_table_free(&table);
    return status;
}
