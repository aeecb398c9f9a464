/* Predicts the time for a token on several hosts.
 *
 * Layer by layer, host 0 computes everything but experts. Then each host that has chosen experts gets the row, computes
 * them, and sends back a row for each. Meanwhile host 0 computes its own experts; the sum waits for the last host. The
 * numbers of a token's experts on each host are multinomial, by the hosts' shares. So the mean time of the slowest host
 * follows from the probability that no host takes longer than t. For k experts, it is k! times the coefficient of x^k
 * in the product, over all hosts, of the sum of (s x)^n / n! over those n that take no longer than t (s: the host's
 * share). A host's misses are read by its own drive, by the rules for one host (predict.c). So with all experts on host
 * 0, the result is that of plan_predict. All rows pass through host 0's link. */
#include "plan/hosts_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The time per message of host 0's cores and the system, in addition to its transfer. */
#define MESSAGE_SECONDS 5e-6

/* The bytes of a message's header, and of the numbers that go with each choice. */
#define HEAD_BYTES 64.0
#define CHOICE_BYTES 6.0

/* If there are more different times than this, they are rounded up to fewer. */
#define MOST_TIMES 96u

/* Layers whose costs differ by less than this share count as equal. */
#define ALIKE 1e-3

#define MEMORIES 8u

struct layer_memory {
    struct plan_layer_cost cost;
    double tensors, row_bytes, seconds, link_bytes, messages;
};

static bool near(double a, double b)
{
    return fabs(a - b) <= ALIKE * fmax(fabs(a), fabs(b));
}

static bool is_alike(const struct layer_memory *memory, const struct plan_layer_cost *cost, double tensors,
                     double row_bytes)
{
    return near(memory->cost.expert_compute, cost->expert_compute) &&
           near(memory->cost.expert_bytes, cost->expert_bytes) && memory->cost.slices == cost->slices &&
           near(memory->tensors, tensors) && near(memory->row_bytes, row_bytes);
}

size_t hosts_scratch(const struct plan_table *table, uint32_t kinds)
{
    const size_t row = (size_t)table->experts_used + 1;
    return 2 * kinds * row + 4 * row;
}

static int smaller_first(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* Multiplies polynomials: out = a * b, without the powers from row on. out must not be a or b. */
static void multiply(double *out, const double *a, const double *b, size_t row)
{
    memset(out, 0, row * sizeof *out);
    for (size_t i = 0; i < row; i++)
        for (size_t j = 0; a[i] > 0 && i + j < row; j++)
            out[i + j] += a[i] * b[j];
}

/* The probability that no host takes longer than "time". times: [kinds][row], for n experts each. */
static double chance(const struct host_problem *problem, const struct host_share *shares, const double *times,
                     double time, double *work)
{
    const size_t row = (size_t)problem->table->experts_used + 1;
    double *all = work, *one = work + row, *power = work + 2 * row, *other = work + 3 * row;
    memset(all, 0, row * sizeof *all);
    all[0] = 1;
    for (uint32_t k = 0; k < problem->kind_count; k++) {
        if (shares[k].used == 0)
            continue;
        double term = 1;
        for (size_t n = 0; n < row; n++) {
            one[n] = times[k * row + n] <= time ? term : 0;
            term *= shares[k].each / (double)(n + 1);
        }
        for (uint32_t left = shares[k].used; left; left /= 2) {
            if (left % 2) {
                multiply(other, all, one, row);
                memcpy(all, other, row * sizeof *all);
            }
            if (left > 1) {
                multiply(power, one, one, row);
                memcpy(one, power, row * sizeof *one);
            }
        }
    }
    double factorial = 1;
    for (size_t n = 2; n < row; n++)
        factorial *= (double)n;
    return fmin(all[row - 1] * factorial, 1);
}

static double mean_longest(const struct host_problem *problem, const struct host_share *shares, const double *times,
                           double *sorted, double *work)
{
    const size_t row = (size_t)problem->table->experts_used + 1;
    size_t count = 0, kept = 0;
    for (uint32_t k = 0; k < problem->kind_count; k++)
        for (size_t n = 0; shares[k].used && n < row; n++)
            sorted[count++] = times[k * row + n];
    qsort(sorted, count, sizeof *sorted, smaller_first);
    /* Among nearly equal times, keep the last. */
    const double from = sorted[0], step = count > MOST_TIMES ? (sorted[count - 1] - from) / MOST_TIMES : 0;
    for (size_t i = 0; i < count; i++)
        if (i + 1 == count || sorted[i + 1] > sorted[i]) {
            if (kept && step > 0 && floor((sorted[kept - 1] - from) / step) >= floor((sorted[i] - from) / step))
                kept--;
            sorted[kept++] = sorted[i];
        }
    double mean = 0, before = 0;
    for (size_t i = 0; i < kept && before < 1; i++) {
        const double now = i + 1 == kept ? 1 : chance(problem, shares, times, sorted[i], work);
        mean += sorted[i] * fmax(now - before, 0);
        before = fmax(now, before);
    }
    return mean;
}

static double travels(double row_bytes, double experts, double messages)
{
    return messages * (row_bytes + 2 * HEAD_BYTES) + experts * (row_bytes + CHOICE_BYTES);
}

/* Predicts a layer with experts. */
static void predict_layer(struct layer_memory *out, const struct host_problem *problem, const struct host_share *shares,
                          const double *misses, const struct host_ideal *ideal)
{
    const uint32_t used = problem->table->experts_used;
    const size_t row = (size_t)used + 1;
    double *times = problem->scratch, *sorted = times + problem->kind_count * row;
    double *work = sorted + problem->kind_count * row;
    const bool link = !ideal->takes_none[HOSTS_BOUND_LINKS];
    out->link_bytes = out->messages = 0;
    for (uint32_t k = 1; k < problem->kind_count; k++) {
        const double asked = shares[k].used * (1 - pow(1 - shares[k].each, used));
        out->messages += 2 * asked;
        out->link_bytes += travels(out->row_bytes, used * shares[k].used * shares[k].each, asked);
    }
    for (uint32_t k = 0; k < problem->kind_count; k++) {
        const struct host_kind *kind = &problem->kinds[k];
        struct plan_layer_cost cost = out->cost;
        cost.expert_compute *= ideal->takes_none[HOSTS_BOUND_EXPERTS] ? 0 : kind->slower;
        /* The time that other hosts' messages take meanwhile. */
        const double asked = 1 - pow(1 - shares[k].each, used);
        const double own = travels(out->row_bytes, used * shares[k].each, asked);
        const double others = (out->link_bytes - own) / problem->kinds[0].link_bytes_per_second +
                              (out->messages - 2 * asked) * MESSAGE_SECONDS;
        times[k * row] = out->tensors;
        for (uint32_t n = 1; shares[k].used && n < row; n++) {
            const double way = kind->link_seconds + fmax(others, 0) + 2 * MESSAGE_SECONDS +
                               travels(out->row_bytes, n, 1) / kind->link_bytes_per_second;
            times[k * row + n] = plan_layer_seconds(&cost, out->tensors + (k && link ? way : 0), problem->table, n,
                                                    kind->storage, misses[k]);
        }
    }
    out->seconds = mean_longest(problem, shares, times, sorted, work);
}

static hypura_status find_hit_rates(struct host_forecast *out, const struct host_problem *problem,
                                    const struct plan_request *request, const struct host_share *shares,
                                    hypura_error *error)
{
    const uint64_t cache = problem->first->expert_cache_bytes + problem->first->spare_scratch_bytes;
    for (uint32_t k = 0; k < problem->kind_count; k++) {
        const double share = shares[k].used ? shares[k].each : 0;
        const double room = (double)problem->kinds[k].host->expert_room;
        /* If host 0 has all experts, its own plan gives the exact size of its cache. */
        const bool alone = k == 0 && share >= 1, all = room >= share * (double)problem->expert_bytes;
        out->hit_rates[k] = 1;
        if (alone && (problem->first->expert_cache_bytes == 0 || plan_holds_experts(problem->first)))
            continue;
        if (alone || !all)
            TRY(plan_hit_rate(&out->hit_rates[k], problem->table, alone ? cache : (uint64_t)(room / share), request,
                              error));
    }
    return HYPURA_OK;
}

/* The time for, and the bytes of, tensors that host 0 reads for every token. */
static double ring_seconds(const struct host_problem *problem, double *bytes)
{
    *bytes = 0;
    for (uint32_t i = 0; i < problem->table->count; i++)
        *bytes += (double)plan_streamed_footprint(&problem->table->units[i], problem->first->streams);
    return *bytes > 0 ? *bytes / plan_ring_speed(problem->table, problem->first, &problem->hardware->storage) : 0;
}

hypura_status hosts_predict(struct host_forecast *out, const struct host_problem *problem,
                            const struct plan_request *request, const struct host_share *shares,
                            const struct host_ideal *ideal, hypura_error *error)
{
    const struct plan_table *table = problem->table;
    const struct plan *first = problem->first;
    const bool drives = !ideal->takes_none[HOSTS_BOUND_DRIVES], dense = !ideal->takes_none[HOSTS_BOUND_FIRST];
    const double used = (double)table->experts_used / table->experts, slower = problem->kinds[0].slower;
    struct layer_memory memories[MEMORIES];
    double misses[PLAN_MOST_HOSTS], reads[PLAN_MOST_HOSTS] = {0}, ring_bytes, compute = 0, with_experts = 0;
    size_t known = 0;
    *out = (struct host_forecast){0};
    TRY(find_hit_rates(out, problem, request, shares, error));
    for (uint32_t k = 0; k < problem->kind_count; k++)
        misses[k] = drives ? 1 - out->hit_rates[k] : 0;
    reads[0] = ring_seconds(problem, &ring_bytes);
    reads[0] = drives ? reads[0] : 0;
    for (uint32_t i = 0; i <= table->layers; i++) {
        const struct plan_layer_cost *cost = &problem->layers[i];
        const double tensors = dense ? cost->compute + (i ? LAYER_SECONDS : 0) : 0;
        const double own = shares[0].used ? shares[0].each : 0;
        compute += tensors + (ideal->takes_none[HOSTS_BOUND_EXPERTS] ? 0 : cost->expert_compute * used * own * slower);
        if (cost->expert_bytes <= 0) {
            with_experts += tensors;
            continue;
        }
        size_t m = 0;
        while (m < known && !is_alike(&memories[m], cost, tensors, problem->row_bytes[i]))
            m++;
        if (m == known) {
            m = MIN(m, (size_t)MEMORIES - 1);
            known = m + 1;
            memories[m] = (struct layer_memory){.cost = *cost, .tensors = tensors, .row_bytes = problem->row_bytes[i]};
            predict_layer(&memories[m], problem, shares, misses, ideal);
        }
        with_experts += memories[m].seconds + tensors - memories[m].tensors;
        out->link_bytes += memories[m].link_bytes;
        out->messages += memories[m].messages;
        for (uint32_t k = 0; k < problem->kind_count; k++) {
            const double bytes = cost->expert_bytes * used * (shares[k].used ? shares[k].each : 0) * misses[k];
            reads[k] += bytes / problem->kinds[k].storage->bytes_per_second;
            out->drive_bytes += bytes * shares[k].used;
        }
    }
    const double looked_back = first->positions / 2.0 / (double)MAX(first->kv_positions, (uint64_t)1);
    const double cache_reads =
        dense ? (double)first->kv_bytes * looked_back / problem->hardware->memory_bytes_per_second : 0;
    out->seconds = MAX(hardware_side_by_side(&problem->hardware->storage, compute + cache_reads, reads[0]),
                       with_experts + cache_reads);
    for (uint32_t k = 1; k < problem->kind_count; k++)
        out->seconds = MAX(out->seconds, reads[k]);
    out->drive_bytes += ring_bytes + (double)table->table_bytes_per_token;
    if (first->embedding_rows) {
        out->seconds += drives ? problem->hardware->storage.latency_seconds : 0;
        out->drive_bytes += (double)table->embedding_row_bytes;
    }
    return HYPURA_OK;
}
