/* The steps that remove tokens, and the draw. */
#include "sampling/sampler_private.h"

#include <string.h>

/* ---- order --------------------------------------------------------------------------------------------------------
 */

static bool is_better(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

/* Sifts an item down in a heap whose root is the worst. */
static void sift_down(struct candidate *heap, size_t count, size_t at)
{
    struct candidate moved = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && is_better(&heap[child], &heap[child + 1]))
            child++;
        if (!is_better(&moved, &heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void heap_make(struct candidate *heap, size_t count)
{
    for (size_t i = count / 2; i-- > 0;)
        sift_down(heap, count, i);
}

/* Turns a heap into an array with the best first. */
static void heap_sort(struct candidate *heap, size_t count)
{
    while (count > 1) {
        struct candidate worst = heap[0];
        heap[0] = heap[--count];
        heap[count] = worst;
        sift_down(heap, count, 0);
    }
}

/* Returns a key whose ascending order is the descending order of the floats. */
static uint32_t descending_key(float value)
{
    uint32_t bits;
    value += 0.0f; /* -0 is 0 */
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

/* Radix-sorts items by key, the largest first. The sort is stable, so equal items stay in the order of their ids. */
static void radix_sort(struct candidates *c)
{
    struct candidate *from = c->items, *to = c->spare;
    for (int shift = 0; shift < 33; shift += 11) {
        size_t starts[2048] = {0};
        for (size_t i = 0; i < c->count; i++)
            starts[(descending_key(from[i].key) >> shift) & 2047]++;
        for (size_t i = 0, sum = 0; i < COUNT_OF(starts); i++) {
            size_t here = starts[i];
            starts[i] = sum;
            sum += here;
        }
        for (size_t i = 0; i < c->count; i++)
            to[starts[(descending_key(from[i].key) >> shift) & 2047]++] = from[i];
        struct candidate *swap = from;
        from = to;
        to = swap;
    }
    c->spare = to;
    c->items = from;
}

/* As long as all are left. */
static float logit_of(const struct candidates *c, size_t token)
{
    return number_or_least(c->logits[token]);
}

/* Lists the tokens with a logit of at least `least`. */
static void list_from(struct candidates *c, float least)
{
    c->count = 0;
    for (size_t i = 0; i < c->vocabulary; i++) {
        const float logit = logit_of(c, i);
        if (logit >= least && logit > -INFINITY)
            c->items[c->count++] = (struct candidate){.token = (int32_t)i, .logit = logit};
    }
    c->all = false;
    c->sorted = false;
}

void candidates_list(struct candidates *c)
{
    if (c->all)
        list_from(c, -INFINITY);
}

void candidates_sort(struct candidates *c, size_t count)
{
    candidates_list(c);
    if (c->sorted)
        return;
    if (count >= c->count || count > 4096) {
        for (size_t i = 0; i < c->count; i++)
            c->items[i].key = c->items[i].logit;
        radix_sort(c);
        c->sorted = true;
        return;
    }
    /* Moves the best `count` to the front; the others stay in the order of their ids. */
    struct candidate *best = c->spare;
    memcpy(best, c->items, count * sizeof *best);
    heap_make(best, count);
    for (size_t i = count; i < c->count; i++) {
        if (is_better(&c->items[i], &best[0])) {
            best[0] = c->items[i];
            sift_down(best, count, 0);
        }
    }
    struct candidate worst = best[0];
    heap_sort(best, count);
    size_t rest = c->count;
    for (size_t i = c->count; i-- > 0;)
        if (is_better(&worst, &c->items[i]))
            c->items[--rest] = c->items[i];
    memcpy(c->items, best, count * sizeof *best);
}

/* Computes e^x for x <= 0 to within two units in the last place. It uses only operations that every machine rounds
 * alike, so a seed gives the same text everywhere, and compilers can vectorise a loop over it. */
static float exp_portable(float x)
{
    x = MAX(x, -87.0f);
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds to the nearest whole number */
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;   /* x - n ln 2, in two parts */
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t scale = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &scale, sizeof power);
    return p * power;
}

void candidates_softmax(struct candidates *c)
{
    candidates_list(c);
    float most = -INFINITY;
    for (size_t i = 0; i < c->count; i++)
        most = MAX(most, c->items[i].logit);
    double sum = 0;
    for (size_t i = 0; i < c->count; i++) {
        c->items[i].p = exp_portable(c->items[i].logit - most);
        sum += (double)c->items[i].p;
    }
    float scale = (float)(1 / sum);
    for (size_t i = 0; i < c->count; i++)
        c->items[i].p *= scale;
}

/* ---- truncation ---------------------------------------------------------------------------------------------------
 */

static void truncate_to(struct candidates *c, size_t count)
{
    c->count = MIN(c->count, count);
}

/* Keeps candidates with a logit of at least `least`. */
static void keep_from(struct candidates *c, float least)
{
    if (c->all) {
        list_from(c, least);
        return;
    }
    size_t kept = 0;
    for (size_t i = 0; i < c->count; i++)
        if (c->items[i].logit >= least)
            c->items[kept++] = c->items[i];
    c->count = kept;
}

/* The greatest number among RUN logits. They are folded, since compilers make vectors of such a loop but not of one
 * that compares each logit with the greatest before it. */
#define RUN ((size_t)256)
#define FOLDED (RUN / 4)
static float greatest_of_run(const float *logits)
{
    float most[FOLDED];
    for (size_t i = 0; i < FOLDED; i++) {
        const float a = number_or_least(logits[i]), b = number_or_least(logits[i + FOLDED]);
        const float c = number_or_least(logits[i + 2 * FOLDED]), d = number_or_least(logits[i + 3 * FOLDED]);
        const float ab = MAX(a, b), cd = MAX(c, d);
        most[i] = MAX(ab, cd);
    }
    for (size_t count = FOLDED / 2; count > 0; count /= 2)
        for (size_t i = 0; i < count; i++)
            most[i] = MAX(most[i], most[count + i]);
    return most[0];
}

static float best_logit(const struct candidates *c)
{
    float best = -INFINITY;
    if (!c->all) {
        for (size_t i = 0; i < c->count; i++)
            best = MAX(best, c->items[i].logit);
        return best;
    }
    size_t i = 0;
    for (; i + RUN <= c->vocabulary; i += RUN)
        best = MAX(best, greatest_of_run(c->logits + i));
    for (; i < c->vocabulary; i++)
        best = MAX(best, logit_of(c, i));
    return best;
}

void candidates_top_k(struct candidates *c, size_t k)
{
    if (!c->all) {
        if (k < c->count) {
            candidates_sort(c, k);
            truncate_to(c, k);
        }
        candidates_sort(c, c->count);
        return;
    }
    /* Selects directly from the logits: most runs fail the first comparison. */
    k = MIN(k, c->vocabulary);
    size_t count = 0, i = 0;
    for (; i < c->vocabulary && count < k; i++)
        if (logit_of(c, i) > -INFINITY)
            c->items[count++] = (struct candidate){.token = (int32_t)i, .logit = logit_of(c, i)};
    heap_make(c->items, count);
    while (i < c->vocabulary) {
        const size_t end = MIN(i + RUN, c->vocabulary);
        if (end - i == RUN && greatest_of_run(c->logits + i) <= c->items[0].logit)
            i = end;
        for (; i < end; i++)
            if (logit_of(c, i) > c->items[0].logit) {
                c->items[0] = (struct candidate){.token = (int32_t)i, .logit = logit_of(c, i)};
                sift_down(c->items, count, 0);
            }
    }
    heap_sort(c->items, count);
    c->count = count;
    c->all = false;
    c->sorted = true;
}

enum { SHORT_LIST = 512 };

/* Applies top-p without listing all tokens. Returns true if a short list of the likeliest was enough. */
static bool top_p_short(struct candidates *c, float p)
{
    float most = best_logit(c), *shares = (float *)c->spare;
    double sums[4] = {0};
    if (c->vocabulary < SHORT_LIST)
        return false;
    for (size_t i = 0; i < c->vocabulary; i++)
        shares[i] = exp_portable(logit_of(c, i) - most);
    for (size_t i = 0; i < c->vocabulary; i++)
        sums[i % 4] += logit_of(c, i) > -INFINITY ? (double)shares[i] : 0;
    double wanted = (double)p * ((sums[0] + sums[1]) + (sums[2] + sums[3])), sum = 0;
    candidates_top_k(c, SHORT_LIST);
    for (size_t i = 0; i < c->count; i++) {
        sum += (double)shares[c->items[i].token];
        if (sum >= wanted) {
            truncate_to(c, i + 1);
            return true;
        }
    }
    c->all = true;
    return false;
}

void candidates_top_p(struct candidates *c, float p)
{
    if (p >= 1 || (c->all && top_p_short(c, p)))
        return;
    candidates_softmax(c);
    size_t ready = MIN(c->count, (size_t)SHORT_LIST);
    candidates_sort(c, ready);
    double sum = 0;
    for (size_t i = 0; i < c->count; i++) {
        if (i == ready) {
            ready = c->count;
            candidates_sort(c, ready);
        }
        sum += (double)c->items[i].p;
        if (sum >= (double)p) {
            truncate_to(c, i + 1);
            break;
        }
    }
    c->sorted = true;
}

void candidates_min_p(struct candidates *c, float p)
{
    if (p > 0)
        keep_from(c, best_logit(c) + logf(MIN(p, 1.0f)));
}

void candidates_top_n_sigma(struct candidates *c, float n)
{
    if (n <= 0)
        return;
    candidates_list(c);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < c->count; i++)
        sum += (double)c->items[i].logit;
    double mean = sum / (double)c->count;
    for (size_t i = 0; i < c->count; i++) {
        double off = (double)c->items[i].logit - mean;
        squares += off * off;
    }
    keep_from(c, best_logit(c) - n * (float)sqrt(squares / (double)c->count));
}

void candidates_typical(struct candidates *c, float p)
{
    if (p >= 1)
        return;
    candidates_softmax(c);
    double entropy = 0;
    for (size_t i = 0; i < c->count; i++)
        if (c->items[i].p > 0)
            entropy -= (double)c->items[i].p * log((double)c->items[i].p);
    for (size_t i = 0; i < c->count; i++)
        c->items[i].key = c->items[i].p > 0 ? -(float)fabs(-log((double)c->items[i].p) - entropy) : -INFINITY;
    radix_sort(c);
    double sum = 0;
    for (size_t i = 0; i < c->count; i++) {
        sum += (double)c->items[i].p;
        if (sum > (double)p) {
            truncate_to(c, i + 1);
            break;
        }
    }
    c->sorted = false;
    candidates_sort(c, c->count);
}

void candidates_xtc(struct candidates *c, float probability, float threshold, struct random *random)
{
    if (probability <= 0 || threshold > 0.5f)
        return;
    /* Always draws, so later random numbers do not depend on the candidates. */
    bool act = random_uniform(random) < (double)probability;
    candidates_softmax(c);
    if (!act || c->count < 2)
        return;
    /* At most 1 / threshold tokens can be above the threshold. */
    size_t most = threshold > 1e-3f ? MIN(c->count, (size_t)(1 / threshold) + 2) : c->count;
    candidates_sort(c, most);
    size_t above = 0;
    while (above < most && c->items[above].p >= threshold)
        above++;
    if (above > 1) {
        memmove(c->items, c->items + above - 1, (c->count - above + 1) * sizeof *c->items);
        c->count -= above - 1;
    }
}

/* ---- temperature and draw -----------------------------------------------------------------------------------------
 */

void candidates_temperature(struct candidates *c, float temperature, float range, float exponent)
{
    candidates_list(c);
    if (range > 0 && c->count > 1) {
        float low = MAX(temperature - range, 0.0f), high = temperature + range;
        candidates_softmax(c);
        double entropy = 0;
        for (size_t i = 0; i < c->count; i++)
            if (c->items[i].p > 0)
                entropy -= (double)c->items[i].p * log((double)c->items[i].p);
        double share = entropy / log((double)c->count);
        temperature = low + (high - low) * (float)pow(MAX(share, 0.0), (double)exponent);
    }
    if (temperature <= 0) {
        candidates_top_k(c, 1);
        return;
    }
    for (size_t i = 0; i < c->count; i++)
        c->items[i].logit /= temperature;
}

size_t candidates_draw(struct candidates *c, struct random *random)
{
    candidates_softmax(c);
    double sum = 0;
    for (size_t i = 0; i < c->count; i++)
        sum += (double)c->items[i].p;
    double left = random_uniform(random) * sum;
    for (size_t i = 0; i < c->count; i++) {
        left -= (double)c->items[i].p;
        if (left < 0)
            return i;
    }
    /* Rounding left a remainder: take the last possible token. */
    size_t last = c->count - 1;
    while (last > 0 && c->items[last].p == 0)
        last--;
    return last;
}
