/* The sampler: options, history, and the order of steps. */
#include "sampling/sampler_private.h"

#include <stdio.h>
#include <string.h>

static const char *const step_names[] = {"penalties", "dry",   "top_n_sigma", "top_k",      "typ_p",
                                         "top_p",     "min_p", "xtc",         "temperature"};

static const char *const default_breakers[] = {"\n", ":", "\"", "*"};

void sampler_default_options(struct sampler_options *options)
{
    *options = (struct sampler_options){
        .temperature = 0.8f,
        .dynamic_exponent = 1,
        .top_k = 40,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .typical_p = 1,
        .xtc_threshold = 0.1f,
        .repeat_penalty = 1,
        .repeat_last_n = 64,
        .dry_base = 1.75f,
        .dry_allowed_length = 2,
        .dry_last_n = -1,
        .dry_breakers = default_breakers,
        .dry_breaker_count = COUNT_OF(default_breakers),
        .mirostat_tau = 5,
        .mirostat_eta = 0.1f,
        .step_count = SAMPLER_STEP_COUNT,
    };
    for (size_t i = 0; i < SAMPLER_STEP_COUNT; i++)
        options->steps[i] = (enum sampler_step)i;
}

hypura_status sampler_parse_steps(struct sampler_options *options, const char *names, hypura_error *error)
{
    enum sampler_step steps[SAMPLER_STEP_COUNT];
    size_t count = 0;
    for (const char *at = names; *at;) {
        size_t length = strcspn(at, ";"), step = 0;
        while (step < COUNT_OF(step_names) &&
               (strlen(step_names[step]) != length || memcmp(step_names[step], at, length) != 0))
            step++;
        if (step == COUNT_OF(step_names))
            return error_set(error, HYPURA_ERROR_ARGUMENT,
                             "\"%.*s\" is not a sampler step: expected penalties, dry, top_n_sigma, top_k, typ_p, "
                             "top_p, min_p, xtc or temperature",
                             (int)MIN(length, (size_t)40), at);
        for (size_t i = 0; i < count; i++)
            if (steps[i] == (enum sampler_step)step)
                return error_set(error, HYPURA_ERROR_ARGUMENT, "the sampler step %s is listed twice", step_names[step]);
        steps[count++] = (enum sampler_step)step;
        at += length + (at[length] == ';');
    }
    memcpy(options->steps, steps, count * sizeof *steps);
    options->step_count = count;
    return HYPURA_OK;
}

/* ---- creation -----------------------------------------------------------------------------------------------------
 */

static hypura_status check(const struct sampler_options *o, size_t vocabulary, hypura_error *error)
{
    const struct {
        const char *name;
        float value, low, high;
    } numbers[] = {
        {"temperature", o->temperature, -INFINITY, 1000},
        {"dynamic temperature range", o->dynamic_range, 0, 1000},
        {"dynamic temperature exponent", o->dynamic_exponent, 0, 1000},
        {"top_p", o->top_p, 0, 1},
        {"min_p", o->min_p, 0, 1},
        {"typical_p", o->typical_p, 0, 1},
        {"top_n_sigma", o->top_n_sigma, -INFINITY, INFINITY},
        {"xtc_probability", o->xtc_probability, 0, 1},
        {"xtc_threshold", o->xtc_threshold, 0, 1},
        {"repeat penalty", o->repeat_penalty, 1e-3f, 1000},
        {"frequency penalty", o->frequency_penalty, -1000, 1000},
        {"presence penalty", o->presence_penalty, -1000, 1000},
        {"dry_multiplier", o->dry_multiplier, 0, 1e6f},
        {"dry_base", o->dry_base, 0, 1e6f},
        {"mirostat_tau", o->mirostat_tau, 0, 1000},
        {"mirostat_eta", o->mirostat_eta, 0, 1000},
    };
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        if (!(numbers[i].value >= numbers[i].low && numbers[i].value <= numbers[i].high))
            return error_set(error, HYPURA_ERROR_ARGUMENT, "a %s of %g is out of range: expected %g to %g",
                             numbers[i].name, (double)numbers[i].value, (double)numbers[i].low,
                             (double)numbers[i].high);
    if (o->mirostat != 0 && o->mirostat != 2)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "mirostat %u is not supported: expected 0 (off) or 2",
                         (unsigned)o->mirostat);
    if (vocabulary == 0 || vocabulary > INT32_MAX)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a sampler cannot have a vocabulary of %zu tokens", vocabulary);
    for (size_t i = 0; i < o->bias_count; i++)
        if (o->biases[i].token < 0 || (size_t)o->biases[i].token >= vocabulary || isnan(o->biases[i].bias))
            return error_set(error, HYPURA_ERROR_ARGUMENT,
                             "there is no token %d to bias: the vocabulary has %zu tokens", (int)o->biases[i].token,
                             vocabulary);
    return HYPURA_OK;
}

static hypura_status copy_breakers(struct sampler *s, const struct sampler_options *o, hypura_error *error)
{
    hypura_status status = ALLOCATE(&s->breakers, o->dry_breaker_count, "sampler", error);
    for (size_t i = 0; status == HYPURA_OK && i < o->dry_breaker_count; i++) {
        status = string_copy(&s->breakers[i], o->dry_breakers[i], error);
        s->breaker_longest = MAX(s->breaker_longest, strlen(o->dry_breakers[i]));
    }
    return status;
}

static bool penalizes(const struct sampler_options *o)
{
    return o->repeat_penalty != 1 || o->frequency_penalty != 0 || o->presence_penalty != 0 || o->dry_multiplier != 0;
}

static bool is_greedy(const struct sampler_options *o)
{
    return o->temperature <= 0 && o->dynamic_range == 0;
}

/* Returns the largest number of candidates: top-k as the first step takes a short list from the logits, but any other
 * step that removes tokens starts with all of them. */
static size_t most_candidates(const struct sampler_options *o, size_t vocabulary)
{
    if (is_greedy(o))
        return 1;
    for (size_t i = 0; i < o->step_count && !o->mirostat; i++) {
        switch (o->steps[i]) {
        case SAMPLER_TOP_K:
            if (o->top_k)
                return MIN((size_t)o->top_k, vocabulary);
            break;
        case SAMPLER_PENALTIES:
        case SAMPLER_DRY:
            break;
        case SAMPLER_TOP_N_SIGMA:
            if (o->top_n_sigma > 0)
                return vocabulary;
            break;
        case SAMPLER_TYPICAL:
            if (o->typical_p < 1)
                return vocabulary;
            break;
        default:
            return vocabulary;
        }
    }
    return vocabulary;
}

hypura_status sampler_create(struct sampler **out, const struct sampler_options *options, size_t vocabulary,
                             hypura_error *error)
{
    struct sampler *s;
    hypura_status status = check(options, vocabulary, error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&s, 1, "sampler", error);
    if (status != HYPURA_OK)
        return status;
    size_t room = most_candidates(options, vocabulary);
    s->options = *options;
    s->candidates.vocabulary = vocabulary;
    bool keeps_all = options->repeat_last_n < 0 || options->dry_last_n < 0;
    s->history_most = keeps_all ? (size_t)1 << 20 : (size_t)MAX(options->repeat_last_n, options->dry_last_n);
    if (options->bias_count)
        status = ALLOCATE(&s->biases, options->bias_count, "sampler", error);
    if (status == HYPURA_OK && options->bias_count)
        memcpy(s->biases, options->biases, options->bias_count * sizeof *s->biases);
    if (status == HYPURA_OK)
        status = copy_breakers(s, options, error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&s->candidates.changed, vocabulary, "sampler", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&s->candidates.items, room, "sampler", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&s->candidates.spare, room, "sampler", error);
    if (status == HYPURA_OK && penalizes(options))
        status = ALLOCATE(&s->counts, vocabulary, "sampler", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&s->mask, (vocabulary + 31) / 32, "sampler", error);
    if (status != HYPURA_OK) {
        sampler_destroy(s);
        return status;
    }
    sampler_reset(s);
    *out = s;
    return HYPURA_OK;
}

void sampler_destroy(struct sampler *s)
{
    if (!s)
        return;
    for (size_t i = 0; s->breakers && i < s->options.dry_breaker_count; i++)
        memory_free(s->breakers[i]);
    memory_free(s->breakers);
    memory_free(s->biases);
    memory_free(s->history);
    memory_free(s->broken);
    buffer_free(&s->tail);
    memory_free(s->candidates.changed);
    memory_free(s->candidates.items);
    memory_free(s->candidates.spare);
    memory_free(s->counts);
    memory_free(s->mask);
    memory_free(s->matches);
    memory_free(s);
}

void sampler_reset(struct sampler *s)
{
    random_seed(&s->random, s->options.seed);
    s->mu = 2 * s->options.mirostat_tau;
    s->history_count = 0;
    s->constrained = false;
    s->forgot = false;
    buffer_clear(&s->tail);
}

void sampler_set_constraint(struct sampler *s, const struct token_constraint *constraint)
{
    s->constrained = constraint != NULL;
    if (constraint)
        s->constraint = *constraint;
}

/* ---- history ------------------------------------------------------------------------------------------------------
 */

/* Whether a breaker ends in the given token, which is next in the history. */
static bool ends_breaker(struct sampler *s, int32_t token)
{
    if (!s->options.pieces || s->options.dry_multiplier == 0)
        return false;
    const struct token_piece *piece = &s->options.pieces[token];
    buffer_append(&s->tail, piece->bytes, piece->size);
    size_t old = s->tail.size - MIN(piece->size, s->tail.size);
    bool found = false;
    for (size_t i = 0; !found && !s->tail.failed && i < s->options.dry_breaker_count; i++) {
        size_t length = strlen(s->breakers[i]), from = old >= length ? old - length + 1 : 0;
        found =
            length && s->tail.size > from && memmem(s->tail.data + from, s->tail.size - from, s->breakers[i], length);
    }
    if (s->tail.size > s->breaker_longest) {
        memmove(s->tail.data, s->tail.data + s->tail.size - s->breaker_longest, s->breaker_longest);
        s->tail.size = s->breaker_longest;
    }
    return found;
}

void sampler_accept(struct sampler *s, int32_t token)
{
    if (token < 0 || (size_t)token >= s->candidates.vocabulary || s->history_most == 0)
        return;
    if (s->history_count == s->history_capacity) {
        size_t keep = s->history_most, capacity = MIN(MAX(s->history_capacity * 2, (size_t)256), 2 * keep);
        if (s->history_capacity >= 2 * keep) {
            size_t drop = s->history_count - keep;
            memmove(s->history, s->history + drop, keep * sizeof *s->history);
            memmove(s->broken, s->broken + drop, keep * sizeof *s->broken);
            s->history_count = keep;
        } else if (memory_resize((void **)&s->history, s->history_capacity, capacity, sizeof *s->history, "tokens",
                                 NULL) == HYPURA_OK &&
                   memory_resize((void **)&s->broken, s->history_capacity, capacity, sizeof *s->broken, "tokens",
                                 NULL) == HYPURA_OK) {
            s->history_capacity = capacity;
        } else {
            s->forgot = true;
            return;
        }
    }
    s->history[s->history_count] = token;
    s->broken[s->history_count++] = ends_breaker(s, token);
}

/* ---- choosing -----------------------------------------------------------------------------------------------------
 */

/* Takes the logits of all tokens, with bias, mask and penalties. */
static hypura_status take_logits(struct sampler *s, const float *logits, bool masked, hypura_error *error)
{
    struct candidates *c = &s->candidates;
    const struct sampler_options *o = &s->options;
    c->logits = logits;
    c->all = true;
    c->sorted = false;
    if (!masked && o->bias_count == 0 && !penalizes(o))
        return HYPURA_OK;
    c->logits = c->changed;
    for (size_t i = 0; i < c->vocabulary; i++)
        c->changed[i] = number_or_least(logits[i]);
    for (size_t i = 0; i < o->bias_count; i++) {
        float *logit = &c->changed[s->biases[i].token];
        *logit = number_or_least(*logit + s->biases[i].bias);
    }
    for (size_t i = 0; masked && i < c->vocabulary; i++)
        if (!(s->mask[i / 32] >> (i % 32) & 1))
            c->changed[i] = -INFINITY;
    for (size_t i = 0; i < o->step_count; i++) {
        if (o->steps[i] == SAMPLER_PENALTIES)
            penalize_repeats(s, c->changed);
        if (o->steps[i] == SAMPLER_DRY && penalize_dry(s, c->changed, error) != HYPURA_OK)
            return HYPURA_ERROR_MEMORY;
    }
    return HYPURA_OK;
}

static void truncate_candidates(struct sampler *s)
{
    struct candidates *c = &s->candidates;
    const struct sampler_options *o = &s->options;
    for (size_t i = 0; i < o->step_count; i++) {
        switch (o->steps[i]) {
        case SAMPLER_TOP_K:
            if (o->top_k)
                candidates_top_k(c, o->top_k);
            break;
        case SAMPLER_TOP_P:
            candidates_top_p(c, o->top_p);
            break;
        case SAMPLER_MIN_P:
            candidates_min_p(c, o->min_p);
            break;
        case SAMPLER_TYPICAL:
            candidates_typical(c, o->typical_p);
            break;
        case SAMPLER_TOP_N_SIGMA:
            candidates_top_n_sigma(c, o->top_n_sigma);
            break;
        case SAMPLER_XTC:
            candidates_xtc(c, o->xtc_probability, o->xtc_threshold, &s->random);
            break;
        case SAMPLER_TEMPERATURE:
            candidates_temperature(c, o->temperature, o->dynamic_range, o->dynamic_exponent);
            break;
        default:
            break; /* penalties were applied before */
        }
    }
}

/* Keeps the tokens whose surprise, in bits, is less than mu, and at least one. */
static void truncate_surprising(struct sampler *s)
{
    struct candidates *c = &s->candidates;
    const struct sampler_options *o = &s->options;
    candidates_temperature(c, o->temperature, o->dynamic_range, o->dynamic_exponent);
    candidates_softmax(c);
    candidates_sort(c, c->count);
    size_t kept = 1;
    while (kept < c->count && -log2f(c->items[kept].p) <= s->mu)
        kept++;
    c->count = MIN(c->count, kept);
}

/* Draws a token. *surprise: its own in bits, for mirostat. */
static hypura_status draw(struct sampler *s, const float *logits, bool masked, int32_t *token, float *surprise,
                          hypura_error *error)
{
    struct candidates *c = &s->candidates;
    const struct sampler_options *o = &s->options;
    *surprise = 0;
    TRY(take_logits(s, logits, masked, error));
    if (is_greedy(o))
        candidates_top_k(c, 1);
    else if (o->mirostat)
        truncate_surprising(s);
    else
        truncate_candidates(s);
    candidates_list(c);
    if (c->count == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "no token can come next: none of the %zu logits is a number, or "
                         "all tokens are banned",
                         c->vocabulary);
    const struct candidate *chosen = &c->items[is_greedy(o) ? 0 : candidates_draw(c, &s->random)];
    *token = chosen->token;
    if (!is_greedy(o))
        *surprise = -log2f(chosen->p);
    return HYPURA_OK;
}

hypura_status sampler_sample(struct sampler *s, const float *logits, int32_t *token, hypura_error *error)
{
    float surprise;
    int32_t chosen;
    if (s->forgot || s->tail.failed)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the token history of the penalties");
    hypura_status status = draw(s, logits, false, &chosen, &surprise, error);
    if (status == HYPURA_OK && s->constrained && !s->constraint.allows(s->constraint.context, chosen)) {
        memset(s->mask, 0, (s->candidates.vocabulary + 31) / 32 * sizeof *s->mask);
        status = s->constraint.mask(s->constraint.context, s->mask, error);
        if (status == HYPURA_OK)
            status = draw(s, logits, true, &chosen, &surprise, error);
    }
    if (status == HYPURA_OK && s->constrained)
        status = s->constraint.accept(s->constraint.context, chosen, error);
    if (status != HYPURA_OK)
        return status;
    if (s->options.mirostat)
        s->mu -= s->options.mirostat_eta * (surprise - s->options.mirostat_tau);
    sampler_accept(s, chosen);
    *token = chosen;
    return HYPURA_OK;
}

float logits_logprobs(const float *logits, size_t vocabulary, int32_t token, struct token_logprob *top, size_t count)
{
    float most = -INFINITY;
    for (size_t i = 0; i < vocabulary; i++)
        most = MAX(most, logits[i]);
    double sum = 0;
    for (size_t i = 0; i < vocabulary; i++)
        if (logits[i] > -INFINITY)
            sum += (double)expf(logits[i] - most);
    double total = (double)most + log(sum);
    size_t filled = 0;
    for (size_t i = 0; count && i < vocabulary; i++) {
        if (!(logits[i] > -INFINITY) || (filled == count && !(logits[i] > top[count - 1].logprob)))
            continue;
        size_t at = filled < count ? filled++ : count - 1;
        for (; at > 0 && top[at - 1].logprob < logits[i]; at--)
            top[at] = top[at - 1];
        top[at] = (struct token_logprob){(int32_t)i, logits[i]};
    }
    for (size_t i = 0; i < count; i++) {
        if (i < filled)
            top[i].logprob = (float)((double)top[i].logprob - total);
        else
            top[i] = (struct token_logprob){-1, -INFINITY};
    }
    return (float)((double)logits[token] - total);
}
