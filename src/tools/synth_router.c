/* Routers that spread the use of experts: see the beginning of synth.h. */
#include "tools/synth_private.h"

#include <math.h>
#include <string.h>

/* The share of a router logit's variance that comes from dimensions that the previous layer has just written. It limits
 * how well the next router can be predicted from this layer's state. */
#define FRESH_SHARE 0.12f

/* Energy of the moving average in its dimensions. The embedding is there as well, with energy 1. */
#define SLOW_ENERGY 9.0f

/* The weights of the moving average decrease beyond WINDOW tokens, with the power FALL_OFF of the distance. */
#define WINDOW 8.0
#define FALL_OFF 2.5
/* Rotary pairs are used if their angle per token, in radians, is between these. */
#define FASTEST_ANGLE (1.0 / WINDOW)
#define SLOWEST_ANGLE (1.0 / (64 * WINDOW))

/* The deviation of the logit of an expert that is just chosen. It makes gate weights uneven, but none dominates. */
#define LOGIT_SCALE 2.0f

#define LARGEST_SHARE 0.48

static bool turns_halves(const char *architecture)
{
    return strcmp(architecture, "llama") != 0;
}

bool synth_query_key_norm(const char *architecture)
{
    return strncmp(architecture, "qwen3", 5) == 0;
}

/* ---- popularity -------------------------------------------------------------------------------------------------- */

/* Returns the x that a normal number exceeds with probability p. */
static double upper_quantile(double p)
{
    double low = -8, high = 8;
    for (int i = 0; i < 60; i++) {
        double middle = 0.5 * (low + high);
        if (0.5 * erfc(middle * 0.70710678118654752) > p)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Computes the share of tokens that should use the expert of each rank: scale * (rank + 1)^-skew, bounded. The shares
 * add up to `used`. */
static void target_shares(double *shares, uint32_t experts, uint32_t used, double skew)
{
    double low = 0, high = 1e6;
    for (int i = 0; i < 80; i++) {
        double scale = 0.5 * (low + high), sum = 0;
        for (uint32_t rank = 0; rank < experts; rank++)
            sum += shares[rank] = fmin(LARGEST_SHARE, scale * pow(rank + 1, -skew));
        if (sum < used)
            low = scale;
        else
            high = scale;
    }
}

/* Counts how often each expert is among the best, for normal numbers times lengths. */
static void count_choices(uint32_t *counts, const float *normals, size_t tokens, const float *lengths, uint32_t experts,
                          uint32_t used)
{
    memset(counts, 0, experts * sizeof *counts);
    for (size_t token = 0; token < tokens; token++, normals += experts) {
        float bound = INFINITY;
        for (uint32_t taken = 0; taken < used; taken++) {
            uint32_t best = 0;
            float value = -INFINITY;
            for (uint32_t i = 0; i < experts; i++) {
                float logit = normals[i] * lengths[i];
                if (logit > value && logit < bound) {
                    value = logit;
                    best = i;
                }
            }
            bound = value;
            counts[best]++;
        }
    }
}

/* An expert whose logit has deviation s exceeds a threshold of 1 with the probability that a normal number exceeds 1 /
 * s. The threshold is not quite constant (it is the k-th best logit), so some trial rounds correct the lengths. */
static hypura_status find_lengths(struct synth_router_plan *plan, const struct synth_options *options,
                                  hypura_error *error)
{
    enum { TOKENS = 4096, ROUNDS = 8 };
    uint32_t experts = options->geometry.experts, used = options->geometry.experts_used;
    double *shares = NULL;
    float *normals = NULL;
    uint32_t *counts = NULL;
    hypura_status status = ALLOCATE(&plan->lengths, experts, "router lengths", error);
    if (!status)
        status = ALLOCATE(&shares, experts, "expert shares", error);
    if (!status)
        status = ALLOCATE(&normals, (size_t)experts * TOKENS, "trial tokens", error);
    if (!status)
        status = ALLOCATE(&counts, experts, "expert counts", error);
    if (!status && options->skew == 0) {
        for (uint32_t i = 0; i < experts; i++)
            plan->lengths[i] = 1;
    } else if (!status) {
        struct random random;
        random_seed(&random, 1);
        for (size_t i = 0; i < (size_t)experts * TOKENS; i++)
            normals[i] = (float)random_normal(&random);
        target_shares(shares, experts, used, options->skew);
        for (uint32_t i = 0; i < experts; i++)
            plan->lengths[i] = (float)(1 / upper_quantile(shares[i]));
        for (int round = 0; round < ROUNDS; round++) {
            count_choices(counts, normals, TOKENS, plan->lengths, experts, used);
            for (uint32_t i = 0; i < experts; i++) {
                double seen = fmin(0.49, fmax(0.5 / TOKENS, (double)counts[i] / TOKENS));
                double ratio = upper_quantile(seen) / upper_quantile(shares[i]);
                plan->lengths[i] *= (float)fmin(1.5, fmax(1 / 1.5, sqrt(ratio)));
            }
        }
    }
    memory_free(shares);
    memory_free(normals);
    memory_free(counts);
    return status;
}

/* ---- the moving average ------------------------------------------------------------------------------------------ */

static double pair_angle(const struct synth_geometry *geometry, uint32_t pair)
{
    return pow(geometry->rope_base, -2.0 * pair / geometry->head_size);
}

/* If the logarithms of the angles are evenly spaced, a sum of cosines of equal size falls with the logarithm of the
 * distance, and its softmax with a power of the distance: that power is size times pairs per e-fold. */
static void plan_window(struct synth_router_plan *plan, const struct synth_geometry *geometry)
{
    uint32_t pairs = geometry->head_size / 2;
    plan->first_pair = 0;
    while (plan->first_pair + 1 < pairs && pair_angle(geometry, plan->first_pair) > FASTEST_ANGLE)
        plan->first_pair++;
    plan->pairs = 1;
    while (plan->first_pair + plan->pairs < pairs &&
           pair_angle(geometry, plan->first_pair + plan->pairs) >= SLOWEST_ANGLE)
        plan->pairs++;
    plan->position_score = (float)(FALL_OFF * log(geometry->rope_base) / pairs);
    double sum = 0, squares = 0;
    for (int distance = 0; distance < 1024; distance++) {
        double score = 0;
        for (uint32_t i = 0; i < plan->pairs; i++)
            score += plan->position_score * (cos(distance * pair_angle(geometry, plan->first_pair + i)) - 1);
        double weight = exp(score);
        sum += weight;
        squares += weight * weight;
    }
    plan->slow_effective = (float)(sum * sum / squares);
    plan->slow_gain = SLOW_ENERGY;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

hypura_status synth_router_plan(struct synth_router_plan *plan, const struct synth_options *options, float tail_value,
                                hypura_error *error)
{
    const struct synth_geometry *geometry = &options->geometry;
    uint32_t size = geometry->embedding;
    *plan = (struct synth_router_plan){.tail_value = tail_value, .stickiness = options->stickiness};
    plan->token = (struct synth_part){0, size / 4};
    plan->slow = (struct synth_part){size / 4, size / 8};
    plan->context = (struct synth_part){size / 4 + size / 8, size / 8};
    uint32_t first = size / 4 + size / 8 + size / 8;
    plan->fresh = (struct synth_part){first, size - SYNTH_TAIL - first};
    /* One part per layer, but none narrower than 16 dimensions. */
    plan->fresh_parts = MAX(1, MIN(geometry->layers, plan->fresh.count / 16));
    plan_window(plan, geometry);
    return find_lengths(plan, options, error);
}

void synth_router_plan_free(struct synth_router_plan *plan)
{
    memory_free(plan->lengths);
    plan->lengths = NULL;
}

struct synth_part synth_fresh_part(const struct synth_router_plan *plan, uint32_t layer)
{
    uint32_t width = plan->fresh.count / plan->fresh_parts;
    return (struct synth_part){plan->fresh.first + layer % plan->fresh_parts * width, width};
}

/* Returns the root mean square of the stream at the router of a layer. */
static double stream_size(const struct synth_router_plan *plan, const struct synth_options *options, uint32_t layer)
{
    const struct synth_geometry *geometry = &options->geometry;
    double size = geometry->embedding;
    double energy = (size - SYNTH_TAIL) * (1 + SYNTH_NOISE_ENERGY * layer / geometry->layers);
    energy += SYNTH_TAIL * (double)plan->tail_value * (double)plan->tail_value;
    energy += plan->slow.count * (double)plan->slow_gain;
    energy += plan->context.count * (double)SYNTH_CONTEXT_ENERGY * layer;
    energy += plan->fresh.count * (double)SYNTH_FRESH_ENERGY * layer / plan->fresh_parts;
    return sqrt(energy / size);
}

static void random_part(struct random *random, float *row, struct synth_part part, double deviation)
{
    for (uint32_t i = 0; i < part.count; i++)
        row[part.first + i] = (float)(deviation * random_normal(random));
}

void synth_router_row(const struct synth_router_plan *plan, const struct synth_options *options, uint32_t layer,
                      uint32_t expert, struct random *random, float *row)
{
    const struct synth_geometry *geometry = &options->geometry;
    /* Each layer assigns ranks anew, so no expert is the favourite of all layers. */
    struct random deal;
    random_seed(&deal, options->seed * 0x9e3779b97f4a7c15u + layer + 1);
    uint32_t step = 1 + 2 * (uint32_t)(random_next(&deal) % geometry->experts), start = (uint32_t)random_next(&deal);
    while (true) {
        uint32_t a = step, b = geometry->experts; /* a step without a common factor reaches every rank */
        while (b) {
            uint32_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            break;
        step++;
    }
    uint32_t rank = (uint32_t)(((uint64_t)step * expert + start) % geometry->experts);

    double slow = plan->stickiness * (1 - FRESH_SHARE), token = (1 - plan->stickiness) * (1 - FRESH_SHARE);
    /* The slow dimensions also carry the token's embedding: subtract it from the token's share. */
    token = fmax(0, token - slow / (double)plan->slow_gain);
    double unit = (double)LOGIT_SCALE * (double)plan->lengths[rank] * stream_size(plan, options, layer);
    struct synth_part fresh = synth_fresh_part(plan, layer + plan->fresh_parts - 1);
    memset(row, 0, geometry->embedding * sizeof *row);
    random_part(random, row, plan->token, unit * sqrt(token / plan->token.count));
    random_part(random, row, plan->slow, unit * sqrt(slow / (plan->slow.count * (double)plan->slow_gain)));
    random_part(random, row, fresh,
                unit * sqrt((double)FRESH_SHARE / (fresh.count * (1 + (double)SYNTH_FRESH_ENERGY))));
}

/* ---- layer 0's attention ----------------------------------------------------------------------------------------- */

/* Whether a row is the first of a rotary pair that is used. The second row stays 0. */
static bool is_used_pair(const struct synth_router_plan *plan, const struct synth_options *options, uint32_t head_row)
{
    bool neox = turns_halves(options->geometry.architecture);
    if (!neox && head_row % 2)
        return false;
    uint32_t pair = neox ? head_row : head_row / 2;
    return pair >= plan->first_pair && pair < plan->first_pair + plan->pairs;
}

/* Returns the query and key value of a pair. Their product, over the root of the head size, is position_score. */
static double pair_value(const struct synth_router_plan *plan, const struct synth_options *options)
{
    double score = (double)plan->position_score * sqrt(options->geometry.head_size);
    /* gpt-oss uses YaRN with factor 32, which scales queries and keys. */
    if (strcmp(options->geometry.architecture, "gpt-oss") == 0)
        score /= pow(0.1 * log(32) + 1, 2);
    return sqrt(score);
}

void synth_position_row(const struct synth_router_plan *plan, const struct synth_options *options, uint32_t head_row,
                        float *row)
{
    uint32_t size = options->geometry.embedding;
    memset(row, 0, size * sizeof *row);
    if (!is_used_pair(plan, options, head_row))
        return;
    double tail_sum = SYNTH_TAIL * (double)plan->tail_value /
                      sqrt((size - SYNTH_TAIL + SYNTH_TAIL * pow((double)plan->tail_value, 2)) / size);
    for (uint32_t i = size - SYNTH_TAIL; i < size; i++)
        row[i] = (float)(pair_value(plan, options) / tail_sum);
}

void synth_position_norm(const struct synth_router_plan *plan, const struct synth_options *options, float *row)
{
    /* After the norm, each used value is sqrt(head size / pairs). */
    uint32_t head = options->geometry.head_size;
    for (uint32_t i = 0; i < head; i++)
        row[i] = (float)(pair_value(plan, options) / sqrt((double)head / plan->pairs));
}

void synth_slow_value_row(const struct synth_options *options, struct random *random, float *row)
{
    uint32_t size = options->geometry.embedding;
    memset(row, 0, size * sizeof *row);
    random_part(random, row, (struct synth_part){0, size - SYNTH_TAIL}, 1 / sqrt(size));
}

void synth_slow_output_row(const struct synth_router_plan *plan, const struct synth_options *options,
                           uint32_t dimension, struct random *random, float *row)
{
    const struct synth_geometry *geometry = &options->geometry;
    uint32_t columns = geometry->heads * geometry->head_size;
    bool slow = dimension - plan->slow.first < plan->slow.count;
    double energy = slow ? (double)plan->slow_gain : (double)SYNTH_NOISE_ENERGY / geometry->layers;
    /* All heads compute the same average, so the heads of a group have the same values; their weights add randomly. */
    double deviation = sqrt(energy * (double)plan->slow_effective / columns);
    random_part(random, row, (struct synth_part){0, columns}, deviation);
}
