/* Searches for the shares with which a token takes the least time.
 *
 * If hosts differ in cores, memory, drive and link, no formula gives the best shares, but a forecast takes only a
 * millisecond. So the search tries host 0 alone, and host 0 with each number of other hosts: those with the most room,
 * with shares by room; the fastest ones, with shares by speed; and those with the most room, with host 0 as full as
 * possible. From the best of these, it moves shares between kinds of hosts as long as that helps. */
#include "plan/hosts_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_FORECASTS 1500u

/* Another choice is only taken if it saves at least this part of the time. */
#define WORTH 1e-4

enum weighing { BY_ROOM, BY_SPEED, BEYOND_FIRST, WEIGHINGS };

struct search {
    const struct host_problem *problem;
    struct host_share *best;
    double seconds;
    uint32_t left;
};

static void normalise(struct host_share *shares, uint32_t count)
{
    double all = 0;
    for (uint32_t k = 0; k < count; k++)
        all += shares[k].used * shares[k].each;
    for (uint32_t k = 0; k < count; k++)
        shares[k].each = shares[k].used ? shares[k].each / all : 0;
}

static hypura_status attempt(struct search *search, struct host_share *shares, bool *better, hypura_error *error)
{
    const struct host_ideal none = {0};
    struct host_forecast forecast;
    *better = false;
    double all = 0;
    for (uint32_t k = 0; k < search->problem->kind_count; k++)
        all += shares[k].used * shares[k].each;
    if (!(all > 0) || search->left == 0)
        return HYPURA_OK;
    search->left--;
    normalise(shares, search->problem->kind_count);
    TRY(hosts_predict(&forecast, search->problem, search->problem->request, shares, &none, error));
    if (search->seconds > 0 && forecast.seconds >= search->seconds * (1 - WORTH))
        return HYPURA_OK;
    search->seconds = forecast.seconds;
    memcpy(search->best, shares, search->problem->kind_count * sizeof *shares);
    *better = true;
    return HYPURA_OK;
}

/* Divides the experts by speed. A host without enough room gets what fits, and the others divide the rest. */
static void share_by_speed(struct host_share *shares, const struct host_problem *problem)
{
    bool full[PLAN_MOST_HOSTS] = {false}, more = true;
    while (more) {
        double rest = 1, speed = 0;
        more = false;
        for (uint32_t k = 0; k < problem->kind_count; k++) {
            rest -= full[k] ? shares[k].used * shares[k].each : 0;
            speed += full[k] ? 0 : shares[k].used / problem->kinds[k].slower;
        }
        for (uint32_t k = 0; k < problem->kind_count; k++) {
            const double room = (double)problem->kinds[k].host->expert_room / (double)problem->expert_bytes;
            if (full[k] || shares[k].used == 0)
                continue;
            shares[k].each = speed > 0 ? fmax(rest, 0) / problem->kinds[k].slower / speed : 0;
            if (shares[k].each > room) {
                shares[k].each = room;
                full[k] = more = true;
            }
        }
    }
}

static double merit(const struct host_problem *problem, uint32_t kind, enum weighing weighing)
{
    const struct host_kind *k = &problem->kinds[kind];
    return weighing == BY_SPEED ? 1 / k->slower : (double)k->host->expert_room;
}

/* Chooses host 0 and this many others, the best first. */
static void choose_hosts(struct host_share *shares, const struct host_problem *problem, uint32_t others,
                         enum weighing weighing)
{
    bool taken[PLAN_MOST_HOSTS] = {true};
    memset(shares, 0, problem->kind_count * sizeof *shares);
    shares[0].used = 1;
    while (others) {
        uint32_t best = 0;
        for (uint32_t k = 1; k < problem->kind_count; k++)
            if (!taken[k] && (best == 0 || merit(problem, k, weighing) > merit(problem, best, weighing)))
                best = k;
        if (best == 0)
            break;
        taken[best] = true;
        shares[best].used = MIN(others, problem->kinds[best].count);
        others -= shares[best].used;
    }
    if (weighing == BY_SPEED)
        share_by_speed(shares, problem);
    double rooms = 0;
    for (uint32_t k = 0; weighing != BY_SPEED && k < problem->kind_count; k++) {
        shares[k].each = shares[k].used ? (double)problem->kinds[k].host->expert_room : 0;
        rooms += k ? shares[k].used * shares[k].each : 0;
    }
    /* The others get what host 0 has no room for. */
    const double all = (double)problem->expert_bytes;
    if (weighing == BEYOND_FIRST && rooms > 0 && shares[0].each < all)
        for (uint32_t k = 1; k < problem->kind_count; k++)
            shares[k].each *= (all - shares[0].each) / rooms;
}

static uint32_t host_count(const struct host_problem *problem)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < problem->kind_count; k++)
        count += problem->kinds[k].count;
    return count;
}

/* Tries more and fewer hosts of a kind; if it had none, also with smaller and smaller shares. */
static hypura_status bring_in(struct search *search, uint32_t kind, bool *changed, hypura_error *error)
{
    const struct host_problem *problem = search->problem;
    const uint32_t count = problem->kinds[kind].count, used = search->best[kind].used;
    const uint32_t counts[] = {used + 1, used ? used - 1 : 0, count, used / 2};
    struct host_share shares[PLAN_MOST_HOSTS];
    bool better = false;
    for (size_t c = 0; c < COUNT_OF(counts) && !better; c++) {
        if (counts[c] > count || counts[c] == used)
            continue;
        for (double all = 0.5; all > 0.005 && !better; all = used ? 0 : all / 3) {
            memcpy(shares, search->best, problem->kind_count * sizeof *shares);
            shares[kind].each = used ? shares[kind].each * used / MAX(counts[c], 1u) : all / counts[c];
            shares[kind].used = counts[c];
            TRY(attempt(search, shares, &better, error));
        }
    }
    *changed |= better;
    return HYPURA_OK;
}

/* Tries all changes of one kind. Sets *changed if one of them was better. */
static hypura_status move_kind(struct search *search, uint32_t kind, double step, bool *changed, hypura_error *error)
{
    const struct host_problem *problem = search->problem;
    struct host_share shares[PLAN_MOST_HOSTS];
    bool better;
    const double factors[] = {1 + step, 1 / (1 + step), 0};
    for (size_t f = 0; f < COUNT_OF(factors); f++) {
        memcpy(shares, search->best, problem->kind_count * sizeof *shares);
        if (shares[kind].used == 0)
            break;
        shares[kind].each *= factors[f];
        shares[kind].used = factors[f] > 0 ? shares[kind].used : 0;
        TRY(attempt(search, shares, &better, error));
        *changed |= better;
    }
    return bring_in(search, kind, changed, error);
}

hypura_status hosts_search(struct host_share *best, const struct host_problem *problem, hypura_error *error)
{
    struct search search = {.problem = problem, .best = best, .left = MOST_FORECASTS};
    struct host_share shares[PLAN_MOST_HOSTS];
    const uint32_t hosts = host_count(problem);
    bool better;
    memset(shares, 0, sizeof shares);
    shares[0] = (struct host_share){1, 1};
    TRY(attempt(&search, shares, &better, error));
    for (uint32_t others = 1; others < hosts; others++)
        for (enum weighing weighing = BY_ROOM; weighing < WEIGHINGS; weighing++) {
            choose_hosts(shares, problem, others, weighing);
            TRY(attempt(&search, shares, &better, error));
        }
    for (double step = 0.5; step > 0.01 && problem->kind_count > 1; step /= 2) {
        bool changed = true;
        while (changed && search.left) {
            changed = false;
            for (uint32_t k = 0; k < problem->kind_count; k++)
                TRY(move_kind(&search, k, step, &changed, error));
        }
    }
    return HYPURA_OK;
}
