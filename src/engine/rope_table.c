#include "engine/engine_private.h"

#include <math.h>

#define TWO_PI 6.283185307179586

/* YaRN (Peng et al., 2023): the pair whose angle makes this many turns within the original context. */
static double turning_pair(const struct model_parameters *p, uint32_t rotary, double base, double turns)
{
    return rotary * log(p->rope_original_context / (turns * TWO_PI)) / (2.0 * log(base));
}

/* The share of a pair's frequency that is not scaled: 1 for fast pairs, 0 for slow ones, a ramp in between. */
static double yarn_unscaled(const struct model_parameters *p, uint32_t rotary, double base, uint32_t pair)
{
    double low = fmax(0.0, floor(turning_pair(p, rotary, base, p->yarn_beta_fast)));
    double high = fmin(rotary - 1.0, ceil(turning_pair(p, rotary, base, p->yarn_beta_slow)));
    double ramp = (pair - low) / fmax(0.001, high - low);
    return (1.0 - fmin(1.0, fmax(0.0, ramp))) * p->yarn_extrapolation;
}

hypura_status rope_table_create(struct rope_table *out, const struct model_parameters *p, bool local,
                                const float *factors, hypura_error *error)
{
    uint32_t rotary = local ? p->rotary_local : p->rotary;
    bool as_usual = !local || p->rope_local_scaled;
    *out = (struct rope_table){.half = rotary / 2, .magnitude = as_usual ? p->rope_attention_factor : 1.0};
    TRY(ALLOCATE(&out->frequency, out->half, "rope frequencies", error));
    double base = local ? p->rope_base_local : p->rope_base;
    for (uint32_t pair = 0; pair < out->half; pair++) {
        double frequency = pow(base, -2.0 * pair / rotary);
        if (as_usual) {
            if (factors)
                frequency /= factors[pair];
            double scaled = frequency / p->rope_factor;
            double unscaled = p->rope_scaling == ROPE_SCALING_YARN ? yarn_unscaled(p, rotary, base, pair) : 0.0;
            frequency = scaled * (1.0 - unscaled) + frequency * unscaled;
        }
        out->frequency[pair] = frequency;
    }
    return HYPURA_OK;
}

void rope_table_destroy(struct rope_table *table)
{
    memory_free(table->frequency);
    *table = (struct rope_table){0};
}

/* Rows per task. */
#define FILL_ROWS 16u

struct fill {
    const struct rope_table *table;
    float *out;
    const uint32_t *positions;
    size_t rows;
};

static void fill_rows(void *context, size_t task, size_t worker)
{
    const struct fill *fill = context;
    const struct rope_table *table = fill->table;
    (void)worker;
    for (size_t r = task * FILL_ROWS; r < MIN((task + 1) * FILL_ROWS, fill->rows); r++) {
        float *out = fill->out + r * table->half * 2;
        for (uint32_t pair = 0; pair < table->half; pair++) {
            double angle = fill->positions[r] * table->frequency[pair];
            *out++ = (float)(cos(angle) * table->magnitude);
            *out++ = (float)(sin(angle) * table->magnitude);
        }
    }
}

void rope_table_fill(const struct rope_table *table, struct thread_pool *pool, float *out, const uint32_t *positions,
                     size_t rows)
{
    struct fill fill = {table, out, positions, rows};
    thread_pool_run(pool, fill_rows, &fill, (rows + FILL_ROWS - 1) / FILL_ROWS);
}

float query_sharpness(const struct model_parameters *p, uint32_t position)
{
    double from = position + (double)p->attention_temperature_offset;
    double steps = floor(from / (double)p->attention_temperature_floor);
    return (float)(log(steps + 1.0) * p->attention_temperature_scale + 1.0);
}
