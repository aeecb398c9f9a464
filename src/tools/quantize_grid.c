/* IQ1, IQ2 and IQ3: a group of eight or four values is a point of a grid, possibly with signs, times the scale of its
 * part.
 *
 * The weighted squared error of a group at scale s is s^2 A - 2 s B plus a constant, where A and B depend only on the
 * group and the point. So they are computed once, and then every point is tried at every scale. This finds the best
 * point, rather than one near the values.
 */
#include "compute/compute.h"
#include "compute/cpu/blocks.h"
#include "compute/cpu/grids.h"
#include "core/half.h"
#include "tools/quantize_encode.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define MOST_POINTS 4096             /* IQ1 with both deltas */
#define MOST_SUMS (32 * MOST_POINTS) /* groups of a block x points */

enum signs { SIGNS_NONE, SIGNS_ALL, SIGNS_EVEN };

struct layout {
    enum tensor_type type;
    int points, group; /* group: values per point */
    int parts, levels; /* a part's scale is (2 l + 1), l below levels */
    enum signs signs;
    float unit, most;  /* a block's scale is d * unit; most: the largest value of a point */
    float first, step; /* scales tried: the largest value of the part / (most * (first + i * step)) */
};

static const struct layout layouts[] = {
    {TENSOR_IQ2_XXS, 256, 8, 8, 16, SIGNS_EVEN, 0.125f, 43, 0.7f, 0.1f},
    {TENSOR_IQ2_XS, 512, 8, 16, 16, SIGNS_EVEN, 0.125f, 43, 0.7f, 0.1f},
    {TENSOR_IQ2_S, 1024, 8, 16, 16, SIGNS_ALL, 0.125f, 43, 0.7f, 0.1f},
    {TENSOR_IQ3_XXS, 256, 4, 8, 16, SIGNS_EVEN, 0.25f, 62, 0.75f, 0.1f},
    {TENSOR_IQ3_S, 512, 4, 8, 16, SIGNS_ALL, 1, 15, 0.75f, 0.1f},
    {TENSOR_IQ1_S, 4096, 8, 8, 8, SIGNS_NONE, 0.125f, 9, 0.9f, 0.3f},
    {TENSOR_IQ1_M, 4096, 8, 16, 8, SIGNS_NONE, 0.125f, 9, 0.9f, 0.3f},
};
#define SCALES_TRIED 6

struct grid_scratch {
    const struct layout *layout;   /* the layout of the points */
    float points[8 * MOST_POINTS]; /* [value][point] */
    float squares[8 * MOST_POINTS];
    float a[MOST_SUMS], b[MOST_SUMS]; /* [group of the block][point] */
    bool wide;
    float targets[256];
    uint8_t signs[32];
    /* the result */
    float base;
    int level[16], point[64];
};

hypura_status grid_scratch_create(struct grid_scratch **out, hypura_error *error)
{
    hypura_status status = ALLOCATE(out, 1, "encoder", error);
    if (!status)
        (*out)->wide = compute_has_instructions(INSTRUCTIONS_AVX2);
    return status;
}

void grid_scratch_destroy(struct grid_scratch *scratch)
{
    memory_free(scratch);
}

/* ---- points ----------------------------------------------------------------------------------------------------- */

static float value_of_point(enum tensor_type type, int point, int value)
{
    int shift = 8 * value;
    switch (type) {
    case TENSOR_IQ2_XXS:
        return (float)(grid_iq2_xxs[point] >> shift & 255);
    case TENSOR_IQ2_XS:
        return (float)(grid_iq2_xs[point] >> shift & 255);
    case TENSOR_IQ2_S:
        return (float)(grid_iq2_s[point] >> shift & 255);
    case TENSOR_IQ3_XXS:
        return (float)(grid_iq3_xxs[point] >> shift & 255);
    case TENSOR_IQ3_S:
        return (float)(grid_iq3_s[point] >> shift & 255);
    default: /* IQ1: in eighths; the first half of the points has delta up, the second delta down */
        return (float)((int)(grid_iq1[point & 2047] >> shift & 255) - 8 + (point < 2048 ? 1 : -1));
    }
}

static void take_points(struct grid_scratch *scratch, enum tensor_type type)
{
    if (scratch->layout && scratch->layout->type == type)
        return;
    for (size_t i = 0; i < COUNT_OF(layouts); i++)
        if (layouts[i].type == type)
            scratch->layout = &layouts[i];
    const struct layout *layout = scratch->layout;
    for (int j = 0; j < layout->group; j++)
        for (int k = 0; k < layout->points; k++) {
            float value = value_of_point(type, k, j);
            scratch->points[j * layout->points + k] = value;
            scratch->squares[j * layout->points + k] = value * value;
        }
}

/* ---- the two hot loops, also for wider registers, with the same bits -------------------------------------------- */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE void make_sums_body(const float *points, const float *squares, int count, int group, const float *t,
                                  const float *w, float *restrict a, float *restrict b)
{
    for (int k = 0; k < count; k++) {
        float sa = 0, sb = 0;
        for (int j = 0; j < group; j++) {
            sa += w[j] * squares[j * count + k];
            sb += w[j] * t[j] * points[j * count + k];
        }
        a[k] = sa;
        b[k] = sb;
    }
}

/* The compiler keeps these in one register of eight numbers, or two of four. */
typedef float floats8 __attribute__((vector_size(32)));
typedef int32_t ints8 __attribute__((vector_size(32)));

/* Returns the smallest error of all points, divided by s, which is positive. */
ALWAYS_INLINE float least_body(const float *a, const float *b, int count, float s)
{
    floats8 found[2];
    for (int h = 0; h < 2; h++)
        for (int l = 0; l < 8; l++)
            found[h][l] = FLT_MAX;
    for (int k = 0; k < count; k += 16)
        for (int h = 0; h < 2; h++) {
            floats8 x, y;
            memcpy(&x, a + k + 8 * h, sizeof x);
            memcpy(&y, b + k + 8 * h, sizeof y);
            floats8 error = x * s - (y + y);
            ints8 less = error < found[h];
            found[h] = (floats8)((less & (ints8)error) | (~less & (ints8)found[h]));
        }
    float least = found[0][0];
    for (int h = 0; h < 2; h++)
        for (int l = 0; l < 8; l++)
            least = found[h][l] < least ? found[h][l] : least;
    return least;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void make_sums_wide(const float *points, const float *squares, int count,
                                                           int group, const float *t, const float *w, float *a,
                                                           float *b)
{
    if (group == 8)
        make_sums_body(points, squares, count, 8, t, w, a, b);
    else
        make_sums_body(points, squares, count, 4, t, w, a, b);
}

__attribute__((target("avx2"))) static float least_wide(const float *a, const float *b, int count, float s)
{
    return least_body(a, b, count, s);
}
#endif

static void make_sums(const struct grid_scratch *scratch, const float *t, const float *w, float *a, float *b)
{
    const struct layout *layout = scratch->layout;
#if defined(__x86_64__)
    if (scratch->wide) {
        make_sums_wide(scratch->points, scratch->squares, layout->points, layout->group, t, w, a, b);
        return;
    }
#endif
    if (layout->group == 8)
        make_sums_body(scratch->points, scratch->squares, layout->points, 8, t, w, a, b);
    else
        make_sums_body(scratch->points, scratch->squares, layout->points, 4, t, w, a, b);
}

static float least(const struct grid_scratch *scratch, const float *a, const float *b, int count, float s)
{
#if defined(__x86_64__)
    if (scratch->wide)
        return least_wide(a, b, count, s);
#endif
    return least_body(a, b, count, s);
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

static int groups_of_part(const struct layout *layout)
{
    return 256 / layout->parts / layout->group;
}

/* A range of points: those with delta up, those with delta down, or all. */
struct choice {
    int first, count;
};

static float part_error(const struct grid_scratch *scratch, int part, struct choice from, float s)
{
    int groups = groups_of_part(scratch->layout), points = scratch->layout->points;
    float sum = 0;
    for (int g = part * groups; g < (part + 1) * groups; g++)
        sum +=
            least(scratch, scratch->a + g * points + from.first, scratch->b + g * points + from.first, from.count, s);
    return sum * s;
}

/* Returns the error of a part at a scale. IQ1_S has one delta per part, so both are tried; *from is the better one. */
static float best_part_error(const struct grid_scratch *scratch, int part, float s, struct choice *from)
{
    *from = (struct choice){0, scratch->layout->points};
    if (scratch->layout->type != TENSOR_IQ1_S)
        return part_error(scratch, part, *from, s);
    struct choice up = {0, 2048}, down = {2048, 2048};
    float error_up = part_error(scratch, part, up, s), error_down = part_error(scratch, part, down, s);
    *from = error_down < error_up ? down : up;
    return error_down < error_up ? error_down : error_up;
}

/* Chooses the best points of a part at a scale, and adds up their A and B. */
static void take_part(struct grid_scratch *scratch, int part, float s, float *sum_a, float *sum_b)
{
    int groups = groups_of_part(scratch->layout), points = scratch->layout->points;
    struct choice from = {0, points};
    if (scratch->layout->type == TENSOR_IQ1_S)
        best_part_error(scratch, part, s, &from);
    *sum_a = *sum_b = 0;
    for (int g = part * groups; g < (part + 1) * groups; g++) {
        const float *a = scratch->a + g * points, *b = scratch->b + g * points;
        float found = least(scratch, a + from.first, b + from.first, from.count, s);
        int k = from.first;
        while (k + 1 < from.first + from.count && !(a[k] * s - (b[k] + b[k]) <= found))
            k++;
        scratch->point[g] = k;
        *sum_a += a[k];
        *sum_b += b[k];
    }
}

/* Finds the best scale of a part by itself. */
static float fit_part(struct grid_scratch *scratch, int part)
{
    const struct layout *layout = scratch->layout;
    int size = 256 / layout->parts;
    float far = 0, best = 0, error = 0;
    struct choice from;
    for (int i = part * size; i < (part + 1) * size; i++)
        far = fabsf(scratch->targets[i]) > far ? fabsf(scratch->targets[i]) : far;
    if (far == 0)
        return 0;
    for (int i = 0; i < SCALES_TRIED; i++) {
        float s = far / (layout->most * (layout->first + layout->step * (float)i));
        float now = best_part_error(scratch, part, s, &from);
        if (best == 0 || now < error) {
            error = now;
            best = s;
        }
    }
    float a, b;
    take_part(scratch, part, best, &a, &b);
    if (a > 0 && b > 0)
        best = b / a;
    return best;
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

static float scale_of(const struct grid_scratch *scratch, int part)
{
    return scratch->base * (float)(2 * scratch->level[part] + 1);
}

static void set_base(struct grid_scratch *scratch, float base)
{
    scratch->base = half_to_float(float_to_half(base / scratch->layout->unit)) * scratch->layout->unit;
}

static void choose_levels(struct grid_scratch *scratch, const float *wanted)
{
    const struct layout *layout = scratch->layout;
    struct choice from;
    for (int part = 0; part < layout->parts; part++) {
        float error = 0;
        int near = (int)clamp(nearest((wanted[part] / scratch->base - 1) / 2), 0, (float)(layout->levels - 1)),
            best = -1;
        for (int level = near - 1; level <= near + 1; level++) {
            if (level < 0 || level >= layout->levels)
                continue;
            float now = best_part_error(scratch, part, scratch->base * (float)(2 * level + 1), &from);
            if (best < 0 || now < error) {
                error = now;
                best = level;
            }
        }
        scratch->level[part] = best;
    }
}

/* Chooses the points for the current levels and base. Returns the error; *better is a better base by least squares. */
static float take_all(struct grid_scratch *scratch, float *better)
{
    double aa = 0, bb = 0, error = 0;
    for (int part = 0; part < scratch->layout->parts; part++) {
        float a, b, s = scale_of(scratch, part), level = (float)(2 * scratch->level[part] + 1);
        take_part(scratch, part, s, &a, &b);
        aa += (double)level * level * a;
        bb += (double)level * b;
        error += (double)s * ((double)s * a - 2 * (double)b);
    }
    *better = aa > 0 && bb > 0 ? (float)(bb / aa) : scratch->base;
    return (float)error;
}

static void find_block(struct grid_scratch *scratch, const float *w)
{
    const struct layout *layout = scratch->layout;
    int groups = 256 / layout->group;
    float wanted[16], most = 0, better, ignored;
    for (int g = 0; g < groups; g++)
        make_sums(scratch, scratch->targets + g * layout->group, w + g * layout->group, scratch->a + g * layout->points,
                  scratch->b + g * layout->points);
    for (int part = 0; part < layout->parts; part++) {
        wanted[part] = fit_part(scratch, part);
        most = wanted[part] > most ? wanted[part] : most;
    }
    memset(scratch->level, 0, sizeof scratch->level);
    memset(scratch->point, 0, sizeof scratch->point);
    set_base(scratch, most / (float)(2 * layout->levels - 1));
    if (scratch->base == 0)
        return;
    choose_levels(scratch, wanted);
    float error = take_all(scratch, &better), before = scratch->base;
    set_base(scratch, better);
    if (scratch->base != before && (scratch->base == 0 || take_all(scratch, &ignored) >= error)) {
        scratch->base = before;
        take_all(scratch, &ignored);
    }
}

/* Removes the signs from the values if the type stores them separately. Types with seven bits for eight signs need an
 * even number of negative ones: if it is odd, the value that matters least gets the wrong sign. */
static void take_signs(struct grid_scratch *scratch, const float *x, const float *w)
{
    enum signs kind = scratch->layout->signs;
    for (int octet = 0; octet < 32; octet++) {
        unsigned bits = 0;
        int weakest = 8 * octet;
        for (int i = 8 * octet; i < 8 * octet + 8; i++) {
            scratch->targets[i] = kind == SIGNS_NONE ? x[i] : fabsf(x[i]);
            bits |= (unsigned)(x[i] < 0) << (i % 8);
            if (w[i] * x[i] * x[i] < w[weakest] * x[weakest] * x[weakest])
                weakest = i;
        }
        if (kind == SIGNS_EVEN && __builtin_parity(bits)) {
            bits ^= 1u << (weakest % 8);
            scratch->targets[weakest] = -scratch->targets[weakest];
        }
        scratch->signs[octet] = (uint8_t)bits;
    }
}

/* ---- layouts ---------------------------------------------------------------------------------------------------- */

static uint16_t block_d(const struct grid_scratch *scratch)
{
    return float_to_half(scratch->base / scratch->layout->unit);
}

static void put_32(uint8_t *out, uint32_t value)
{
    memcpy(out, &value, sizeof value);
}

/* Packs four times seven bits of signs, and a scale. */
static uint32_t signs_and_level(const struct grid_scratch *scratch, int part)
{
    uint32_t word = (uint32_t)scratch->level[part] << 28;
    for (int k = 0; k < 4; k++)
        word |= (uint32_t)(scratch->signs[4 * part + k] & 127) << (7 * k);
    return word;
}

static void put_levels(const struct grid_scratch *scratch, uint8_t *scales, int count)
{
    for (int i = 0; i < count; i++)
        scales[i] = (uint8_t)(scratch->level[2 * i] | scratch->level[2 * i + 1] << 4);
}

static void put_iq2_xxs(const struct grid_scratch *scratch, uint8_t *out)
{
    struct block_iq2_xxs block = {.d = block_d(scratch)};
    for (int part = 0; part < 8; part++) {
        for (int k = 0; k < 4; k++)
            block.qs[8 * part + k] = (uint8_t)scratch->point[4 * part + k];
        put_32(block.qs + 8 * part + 4, signs_and_level(scratch, part));
    }
    memcpy(out, &block, sizeof block);
}

static void put_iq2_xs(const struct grid_scratch *scratch, uint8_t *out)
{
    struct block_iq2_xs block = {.d = block_d(scratch)};
    for (int k = 0; k < 32; k++) {
        unsigned word = (unsigned)scratch->point[k] | (scratch->signs[k] & 127u) << 9;
        block.qs[2 * k] = (uint8_t)word;
        block.qs[2 * k + 1] = (uint8_t)(word >> 8);
    }
    put_levels(scratch, block.scales, (int)sizeof block.scales);
    memcpy(out, &block, sizeof block);
}

static void put_iq2_s(const struct grid_scratch *scratch, uint8_t *out)
{
    struct block_iq2_s block = {.d = block_d(scratch)};
    for (int k = 0; k < 32; k++) {
        block.qs[k] = (uint8_t)scratch->point[k];
        block.qh[k / 4] = (uint8_t)(block.qh[k / 4] | scratch->point[k] >> 8 << (k % 4 * 2));
        block.signs[k] = scratch->signs[k];
    }
    put_levels(scratch, block.scales, (int)sizeof block.scales);
    memcpy(out, &block, sizeof block);
}

static void put_iq3_xxs(const struct grid_scratch *scratch, uint8_t *out)
{
    struct block_iq3_xxs block = {.d = block_d(scratch)};
    for (int k = 0; k < 64; k++)
        block.qs[k] = (uint8_t)scratch->point[k];
    for (int part = 0; part < 8; part++)
        put_32(block.signs + 4 * part, signs_and_level(scratch, part));
    memcpy(out, &block, sizeof block);
}

static void put_iq3_s(const struct grid_scratch *scratch, uint8_t *out)
{
    struct block_iq3_s block = {.d = block_d(scratch)};
    for (int k = 0; k < 64; k++) {
        block.qs[k] = (uint8_t)scratch->point[k];
        block.qh[k / 8] = (uint8_t)(block.qh[k / 8] | scratch->point[k] >> 8 << (k % 8));
    }
    memcpy(block.signs, scratch->signs, sizeof block.signs);
    put_levels(scratch, block.scales, (int)sizeof block.scales);
    memcpy(out, &block, sizeof block);
}

static void put_iq1_s(const struct grid_scratch *scratch, uint8_t *out)
{
    struct block_iq1_s block = {.d = block_d(scratch)};
    for (int part = 0; part < 8; part++) {
        unsigned high = (unsigned)scratch->level[part] << 12 | (scratch->point[4 * part] >= 2048 ? 1u << 15 : 0);
        for (int k = 0; k < 4; k++) {
            unsigned point = (unsigned)scratch->point[4 * part + k] & 2047;
            block.qs[4 * part + k] = (uint8_t)point;
            high |= point >> 8 << (3 * k);
        }
        block.qh[2 * part] = (uint8_t)high;
        block.qh[2 * part + 1] = (uint8_t)(high >> 8);
    }
    memcpy(out, &block, sizeof block);
}

static void put_iq1_m(const struct grid_scratch *scratch, uint8_t *out)
{
    struct block_iq1_m block = {0};
    unsigned d = block_d(scratch), words[4];
    for (int k = 0; k < 32; k++) {
        unsigned point = (unsigned)scratch->point[k] & 2047, down = scratch->point[k] >= 2048;
        block.qs[k] = (uint8_t)point;
        block.qh[k / 2] = (uint8_t)(block.qh[k / 2] | (point >> 8 | down << 3) << (k % 2 * 4));
    }
    for (int i = 0; i < 4; i++) {
        words[i] = (d >> (4 * i) & 15) << 12;
        for (int j = 0; j < 4; j++)
            words[i] |= (unsigned)scratch->level[4 * i + j] << (3 * j);
        block.scales[2 * i] = (uint8_t)words[i];
        block.scales[2 * i + 1] = (uint8_t)(words[i] >> 8);
    }
    memcpy(out, &block, sizeof block);
}

void encode_grid(struct grid_scratch *scratch, enum tensor_type type, const float *values, const float *weights,
                 uint8_t *out)
{
    take_points(scratch, type);
    take_signs(scratch, values, weights);
    find_block(scratch, weights);
    switch (type) {
    case TENSOR_IQ2_XXS:
        put_iq2_xxs(scratch, out);
        break;
    case TENSOR_IQ2_XS:
        put_iq2_xs(scratch, out);
        break;
    case TENSOR_IQ2_S:
        put_iq2_s(scratch, out);
        break;
    case TENSOR_IQ3_XXS:
        put_iq3_xxs(scratch, out);
        break;
    case TENSOR_IQ3_S:
        put_iq3_s(scratch, out);
        break;
    case TENSOR_IQ1_S:
        put_iq1_s(scratch, out);
        break;
    default:
        put_iq1_m(scratch, out);
        break;
    }
}
