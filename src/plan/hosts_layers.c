/* A dense model on several hosts. A layer's products are computed where its weights are: that is, the runs of steps
 * that do not depend on sequences (steps_run). Attention and the caches and states of sequences stay on host 0, and so
 * do the embedding and the output. Hosts work one after the other. So another host adds memory or faster cores, and
 * costs messages. */
#include "plan/hosts_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Layers may fill this part of a host's room, because what else it holds is not known exactly. */
#define FILLED 0.98

/* About this many forecasts of host 0 with fewer layers are made. Each makes a whole plan. */
#define MOST_PLANS 40u

/* The time that another host takes for a run, in addition to its products. */
#define RUN_SECONDS (LAYER_SECONDS / 2)

struct layer_cost {
    bool moves;
    uint64_t bytes;
    double compute, elements; /* per token: seconds on host 0, and multiply-adds */
    uint32_t messages;
    double rows; /* bytes that travel per token, in both directions */
};

struct layers_problem {
    const struct plan *first;
    const struct model *model;
    const struct steps *steps;
    const struct hardware *hardware;
    const struct plan_request *request;
    const struct plan_host *hosts;
    const struct plan_table *table;
    uint32_t host_count, layer_count;
    struct layer_cost *layers;
    uint32_t order[PLAN_MOST_HOSTS]; /* the other hosts, fastest first */
    int32_t *layer_of;               /* [unit_count] */
    uint8_t *elsewhere;              /* [unit_count] */
};

/* ---- layers that can move ---------------------------------------------------------------------------------------- */

/* Values of layer_of for units that cannot move: unused ones, and those used by several layers or outside of runs. */
#define NOBODYS (-1)
#define SEVERAL (-2)

static bool is_in_run(struct step_list list, size_t index, size_t *end)
{
    if (index >= *end)
        *end = index + steps_run(list, index);
    return index < *end;
}

static void find_users(int32_t *layer_of, const struct model *model, const struct steps *steps)
{
    for (unit_number u = 0; u < model_unit_count(model); u++)
        layer_of[u] = NOBODYS;
    const uint32_t layers = model_parameters(model)->layers;
    const struct step_list all = steps_all(steps);
    for (size_t i = 0, end = 0; i < all.count; i++) {
        struct step_unit units[STEP_UNITS];
        const int32_t layer = all.steps[i].layer;
        const bool inside = layer >= 0 && (uint32_t)layer < layers;
        const struct step_list list = inside ? steps_of_layer(steps, (uint32_t)layer) : all;
        size_t at = inside ? (size_t)(&all.steps[i] - list.steps) : 0;
        if (at == 0)
            end = 0;
        const bool run = inside && is_in_run(list, at, &end);
        const size_t count = step_units(&all.steps[i], units);
        for (size_t k = 0; k < count; k++) {
            int32_t *of = &layer_of[units[k].unit];
            *of = run && (*of == NOBODYS || *of == layer) ? layer : SEVERAL;
        }
    }
}

/* Whether the layer has runs, and only they use the units that they read. */
static bool moves(const struct step_list list, const int32_t *layer_of, int32_t layer)
{
    bool any = false;
    for (size_t i = 0, run; i < list.count; i += MAX(run, (size_t)1)) {
        run = steps_run(list, i);
        any = any || run;
        for (size_t k = i; k < i + run; k++) {
            struct step_unit units[STEP_UNITS];
            const size_t count = step_units(&list.steps[k], units);
            for (size_t u = 0; u < count; u++)
                if (layer_of[units[u].unit] != layer)
                    return false;
        }
    }
    return any;
}

/* Sets layer_of[unit_count] to the layer with which a unit can move to another host; negative: none. */
static void find_layers(int32_t *layer_of, const struct model *model, const struct steps *steps)
{
    find_users(layer_of, model, steps);
    for (uint32_t l = 0; l < model_parameters(model)->layers; l++)
        if (!moves(steps_of_layer(steps, l), layer_of, (int32_t)l))
            for (unit_number u = 0; u < model_unit_count(model); u++)
                layer_of[u] = layer_of[u] == (int32_t)l ? SEVERAL : layer_of[u];
}

static void cost_of_layer(struct layer_cost *out, const struct layers_problem *problem, uint32_t layer)
{
    const struct step_list list = steps_of_layer(problem->steps, layer);
    *out = (struct layer_cost){0};
    for (unit_number u = 0; u < problem->table->count; u++)
        if (problem->layer_of[u] == (int32_t)layer) {
            out->moves = true;
            out->bytes += plan_unit_footprint(model_unit(problem->model, u));
            out->compute += problem->table->units[u].compute_seconds;
            out->elements += (double)problem->table->units[u].elements;
        }
    for (size_t i = 0, run; out->moves && i < list.count; i += MAX(run, (size_t)1)) {
        struct step_rows_of_run rows;
        run = steps_run(list, i);
        if (run == 0)
            continue;
        steps_run_rows(list, i, run, model_parameters(problem->model)->embedding, &rows);
        out->rows += (double)(rows.in_width + rows.out_width) * sizeof(float);
        out->messages++;
    }
}

/* ---- which host gets which layers -------------------------------------------------------------------------------- */

static double slower(const struct layers_problem *problem, uint32_t host)
{
    const struct plan_host *h = &problem->hosts[host];
    const double own = problem->hardware->compute_bytes_per_second;
    const double other = h->hardware ? h->hardware->compute_bytes_per_second : h->compute_bytes_per_second;
    return host && other > 0 ? own / other : 1;
}

static double multiply_adds(const struct layers_problem *problem, uint32_t host)
{
    const struct plan_host *h = &problem->hosts[host];
    const double there = h->hardware ? h->hardware->multiply_adds_per_second : h->multiply_adds_per_second;
    return there > 0 ? there : problem->hardware->multiply_adds_per_second;
}

static double link_speed(const struct layers_problem *problem, uint32_t host)
{
    const double own = problem->hosts[host].link_bytes_per_second, first = problem->hosts[0].link_bytes_per_second;
    const double speed = own > 0 ? own : PLAN_LINK_BYTES_PER_SECOND;
    return first > 0 ? fmin(speed, first) : speed;
}

static double link_seconds(const struct layers_problem *problem, uint32_t host, const struct layer_cost *layer)
{
    const struct plan_host *h = &problem->hosts[host];
    const double each = h->link_seconds > 0 ? h->link_seconds : PLAN_LINK_SECONDS;
    return host ? layer->messages * each + layer->rows / link_speed(problem, host) : 0;
}

/* The time for a layer on a host other than the first. */
static double seconds_there(const struct layers_problem *problem, uint32_t host, const struct layer_cost *layer)
{
    return layer->compute * slower(problem, host) + layer->messages * RUN_SECONDS + link_seconds(problem, host, layer);
}

static void order_hosts(struct layers_problem *problem)
{
    const struct layer_cost *usual = &problem->layers[problem->layer_count / 2];
    for (uint32_t h = 1; h < problem->host_count; h++) {
        uint32_t at = h - 1;
        while (at && seconds_there(problem, problem->order[at - 1], usual) > seconds_there(problem, h, usual)) {
            problem->order[at] = problem->order[at - 1];
            at--;
        }
        problem->order[at] = h;
    }
}

/* Distributes the last "moved" layers, one host after the other, as far as each has room. Returns how many found none.
 */
static uint32_t deal_out(struct plan_hosts *out, const struct layers_problem *problem, uint32_t moved)
{
    uint32_t next = problem->layer_count - moved;
    for (uint32_t h = 0; h < problem->host_count; h++)
        out->parts[h].first_layer = out->parts[h].layers = 0;
    out->parts[0].layers = next;
    for (uint32_t i = 0; i + 1 < problem->host_count && next < problem->layer_count; i++) {
        struct plan_hosts_part *part = &out->parts[problem->order[i]];
        uint64_t room = (uint64_t)(FILLED * (double)problem->hosts[problem->order[i]].expert_room);
        part->first_layer = next;
        for (; next < problem->layer_count && problem->layers[next].bytes <= room; next++, part->layers++)
            room -= problem->layers[next].bytes;
    }
    return problem->layer_count - next;
}

static void fill_owners(uint8_t *owners, const struct plan_hosts *plan, const int32_t *layer_of, unit_number count)
{
    for (unit_number u = 0; u < count; u++) {
        owners[u] = 0;
        for (uint32_t h = 1; h < plan->count && layer_of[u] >= 0; h++) {
            const uint32_t layer = (uint32_t)layer_of[u], from = plan->parts[h].first_layer;
            if (layer >= from && layer - from < plan->parts[h].layers)
                owners[u] = (uint8_t)h;
        }
    }
}

hypura_status plan_layer_owners(uint8_t *owners, const struct model *model, const struct steps *steps,
                                const struct plan_hosts *plan, hypura_error *error)
{
    int32_t *layer_of;
    hypura_status status = ALLOCATE(&layer_of, model_unit_count(model), "layers of hosts", error);
    if (status)
        return status;
    find_layers(layer_of, model, steps);
    fill_owners(owners, plan, layer_of, model_unit_count(model));
    memory_free(layer_of);
    return HYPURA_OK;
}

void plan_hosts_spread(struct plan_hosts *out, const struct model *model, const struct plan_host *hosts, uint32_t count)
{
    const uint32_t layers = model_parameters(model)->experts ? 0 : model_parameters(model)->layers;
    double all = 0, before = 0;
    *out = (struct plan_hosts){.count = count, .used = count};
    for (uint32_t h = 0; h < count; h++)
        all += (double)hosts[h].expert_room;
    for (uint32_t h = 0; h < count; h++) {
        struct plan_hosts_part *part = &out->parts[h];
        part->share = all > 0 ? (double)hosts[h].expert_room / all : 1.0 / count;
        part->first_layer = (uint32_t)(before * layers + 0.5);
        before += part->share;
        part->layers = (h + 1 == count ? layers : (uint32_t)(before * layers + 0.5)) - part->first_layer;
    }
}

/* ---- how long a token takes -------------------------------------------------------------------------------------- */

struct forecast {
    /* Seconds: host 0; of these, waiting for its drive; other hosts; links. */
    double first, drives, others, links;
    double drive_bytes, link_bytes, messages;
    double prompt; /* seconds of HOSTS_PROMPT tokens */
};

static double total(const struct forecast *forecast)
{
    return forecast->first + forecast->others + forecast->links;
}

static hypura_status predict(struct forecast *out, const struct layers_problem *problem, const struct plan_hosts *dealt,
                             hypura_error *error)
{
    struct plan_request request = *problem->request;
    struct plan *plan;
    fill_owners(problem->elsewhere, dealt, problem->layer_of, problem->table->count);
    request.elsewhere = problem->elsewhere;
    hypura_status status = plan_make(&plan, problem->model, problem->steps, problem->hardware, &request, error);
    if (status)
        return status;
    *out = (struct forecast){.first = 1 / plan->predicted_tokens_per_second,
                             .drive_bytes = (double)plan->predicted_bytes_per_token};
    out->drives = fmax(out->first - plan->predicted_compute_seconds, 0);
    const uint32_t tokens = HOSTS_PROMPT, chunk = MAX(plan->chunk, 1u), batches = (tokens + chunk - 1) / chunk;
    status = plan_prompt_seconds(&out->prompt, &tokens, 1, plan, problem->model, problem->steps, problem->hardware,
                                 &request, error);
    plan_free(plan);
    if (status)
        return status;
    for (uint32_t h = 1; h < problem->host_count; h++)
        for (uint32_t i = 0; i < dealt->parts[h].layers; i++) {
            const struct layer_cost *layer = &problem->layers[dealt->parts[h].first_layer + i];
            if (!layer->moves)
                continue;
            out->links += link_seconds(problem, h, layer);
            out->others += seconds_there(problem, h, layer) - link_seconds(problem, h, layer);
            out->prompt += tokens * layer->elements / multiply_adds(problem, h) +
                           batches * seconds_there(problem, h, layer) +
                           (tokens - batches) * layer->rows / link_speed(problem, h);
            out->link_bytes += layer->rows;
            out->messages += 2 * layer->messages;
        }
    return HYPURA_OK;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

static hypura_status attempt(struct plan_hosts *best, double *seconds, uint32_t *moved, uint32_t count,
                             const struct layers_problem *problem, hypura_error *error)
{
    struct plan_hosts dealt = {.count = problem->host_count};
    struct forecast forecast;
    if (count > problem->layer_count || deal_out(&dealt, problem, count) > 0)
        return HYPURA_OK;
    hypura_status status = predict(&forecast, problem, &dealt, error);
    if (status || (*seconds > 0 && total(&forecast) >= *seconds))
        return status;
    *seconds = total(&forecast);
    *moved = count;
    memcpy(best->parts, dealt.parts, sizeof best->parts);
    return HYPURA_OK;
}

static hypura_status search(struct plan_hosts *best, const struct layers_problem *problem, hypura_error *error)
{
    double seconds = 0;
    uint32_t moved = 0, step = problem->layer_count / MOST_PLANS + 1;
    hypura_status status = HYPURA_OK;
    for (uint32_t m = 0; !status && m <= problem->layer_count; m += step)
        status = attempt(best, &seconds, &moved, m, problem, error);
    const uint32_t from = moved - MIN(moved, step - 1), to = moved + step;
    for (uint32_t m = from; !status && step > 1 && m < to; m++)
        status = attempt(best, &seconds, &moved, m, problem, error);
    return status;
}

static void describe(struct plan_hosts *out, const struct layers_problem *problem)
{
    uint32_t away = 0;
    for (uint32_t h = 1; h < out->count; h++)
        away += out->parts[h].layers;
    if (away)
        snprintf(out->reason, sizeof out->reason,
                 "The first host has attention, the embedding and the matrices of %u of %u layers; those of %u are on "
                 "%u %s%s.",
                 out->parts[0].layers, problem->layer_count, away, out->used - 1,
                 out->used == 2 ? "other host" : "other hosts",
                 out->used < out->count ? ": the rest would cost more than they gain" : "");
    else
        snprintf(out->reason, sizeof out->reason, "The first host has all layers%s.",
                 out->count > 1 ? ": the others would cost more than they gain, or have no room" : "");
}

static void fill(struct plan_hosts *out, const struct layers_problem *problem, const struct forecast *forecast)
{
    for (uint32_t h = 0; h < out->count; h++) {
        struct plan_hosts_part *part = &out->parts[h];
        part->share = problem->layer_count ? (double)part->layers / problem->layer_count : 0;
        part->hit_rate = 1;
        out->used += h == 0 || part->layers > 0;
        for (uint32_t i = 0; i < part->layers; i++) {
            const struct layer_cost *layer = &problem->layers[part->first_layer + i];
            part->bytes += layer->bytes;
            part->compute_seconds += layer->compute * slower(problem, h);
            part->link_bytes += h ? layer->rows : 0;
        }
        part->held_bytes = part->bytes;
    }
    out->prompt_tokens_per_second = HOSTS_PROMPT / forecast->prompt;
    const double seconds = total(forecast);
    const double saved[] = {forecast->first - forecast->drives, forecast->others, forecast->drives, forecast->links};
    out->tokens_per_second = out->even_tokens_per_second = 1 / seconds;
    out->alone_tokens_per_second = problem->first->predicted_tokens_per_second;
    for (enum plan_hosts_bound b = HOSTS_BOUND_FIRST; b <= HOSTS_BOUND_LINKS; b++) {
        out->without[b] = seconds > saved[b] ? 1 / (seconds - saved[b]) : out->tokens_per_second;
        if (out->without[b] > out->without[out->bound])
            out->bound = b;
    }
    out->drive_bytes = out->parts[0].drive_bytes = forecast->drive_bytes;
    out->link_bytes = forecast->link_bytes;
    out->messages = forecast->messages;
    describe(out, problem);
}

static hypura_status solve(struct plan_hosts *out, struct layers_problem *problem, hypura_error *error)
{
    struct forecast forecast;
    find_layers(problem->layer_of, problem->model, problem->steps);
    for (uint32_t l = 0; l < problem->layer_count; l++)
        cost_of_layer(&problem->layers[l], problem, l);
    order_hosts(problem);
    hypura_status status = search(out, problem, error);
    if (!status)
        status = predict(&forecast, problem, out, error);
    if (!status)
        fill(out, problem, &forecast);
    return status;
}

hypura_status hosts_place_layers(struct plan_hosts *out, const struct plan *first, const struct model *model,
                                 const struct steps *steps, const struct hardware *hardware,
                                 const struct plan_request *request, const struct plan_host *hosts, uint32_t count,
                                 hypura_error *error)
{
    struct plan_table table;
    hypura_status status = plan_table_make(&table, model, steps, hardware, error);
    if (status)
        return status;
    struct layers_problem problem = {.first = first,
                                     .model = model,
                                     .steps = steps,
                                     .hardware = hardware,
                                     .request = request,
                                     .hosts = hosts,
                                     .table = &table,
                                     .host_count = count,
                                     .layer_count = table.layers};
    *out = (struct plan_hosts){.count = count};
    status = ALLOCATE(&problem.layers, (size_t)table.layers + 1, "plan over hosts", error);
    if (!status)
        status = ALLOCATE(&problem.layer_of, table.count, "plan over hosts", error);
    if (!status)
        status = ALLOCATE(&problem.elsewhere, table.count, "plan over hosts", error);
    if (!status)
        status = solve(out, &problem, error);
    memory_free(problem.layers);
    memory_free(problem.layer_of);
    memory_free(problem.elsewhere);
    plan_table_free(&table);
    return status;
}
