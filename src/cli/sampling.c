/* The sampling options, and the grammar or schema that restricts an answer. */
#include "cli/sampling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static hypura_sampling options;
static const char *steps, *grammar_path, *format;
static uint32_t repeat_last_n, dry_last_n;
static struct texts biases, breakers;

const struct option_row sampling_rows[] = {
    {"temperature", "X", OPTION_NUMBER, &options.temperature,
     "randomness of the choice; 0: always the likeliest token (default: 0.8)"},
    {"temp", "X", OPTION_NUMBER, &options.temperature, "same as --temperature"},
    {"seed", "N", OPTION_SEED, &compute_options.seed,
     "seed for the random choices (default: 0); the same seed gives the same text"},
    {"dynamic-range", "X", OPTION_NUMBER, &options.dynamic_range,
     "vary the temperature with the entropy by up to X, up and down; 0: off (default: 0)"},
    {"dynamic-exponent", "X", OPTION_NUMBER, &options.dynamic_exponent,
     "how strongly the temperature varies (default: 1)"},
    {"top-k", "N", OPTION_LIMIT, &options.top_k, "keep only the N likeliest tokens; 0: off (default: 40)"},
    {"top-p", "X", OPTION_NUMBER, &options.top_p,
     "keep only the likeliest tokens that together reach probability X; 1: off (default: 0.95)"},
    {"min-p", "X", OPTION_NUMBER, &options.min_p,
     "keep only tokens at least X times as likely as the likeliest; 0: off (default: 0.05)"},
    {"typical", "X", OPTION_NUMBER, &options.typical_p, "keep only tokens of typical surprise; 1: off (default: 1)"},
    {"top-n-sigma", "X", OPTION_NUMBER, &options.top_n_sigma,
     "keep only logits within X standard deviations of the highest; 0: off (default: 0)"},
    {"xtc-probability", "X", OPTION_NUMBER, &options.xtc_probability,
     "chance to drop all tokens above --xtc-threshold but the least likely of them; 0: off (default: 0)"},
    {"xtc-threshold", "X", OPTION_NUMBER, &options.xtc_threshold,
     "probability from which --xtc-probability applies (default: 0.1)"},
    {"repeat-penalty", "X", OPTION_NUMBER, &options.repeat_penalty,
     "make recent tokens less likely; 1: off (default: 1)"},
    {"frequency-penalty", "X", OPTION_NUMBER, &options.frequency_penalty,
     "subtract X from a token's logit for each time it has appeared (default: 0)"},
    {"presence-penalty", "X", OPTION_NUMBER, &options.presence_penalty,
     "subtract X once from the logit of a token that has appeared (default: 0)"},
    {"repeat-last-n", "N", OPTION_COUNT, &repeat_last_n,
     "how many of the last tokens the penalties look at (default: 64)"},
    {"dry-multiplier", "X", OPTION_NUMBER, &options.dry_multiplier,
     "strength of the DRY penalty for repetitions; 0: off (default: 0)"},
    {"dry-base", "X", OPTION_NUMBER, &options.dry_base,
     "growth of the DRY penalty with each repeated token (default: 1.75)"},
    {"dry-allowed-length", "N", OPTION_COUNT, &options.dry_allowed_tokens,
     "length up to which repetitions are not penalized (default: 2)"},
    {"dry-last-n", "N", OPTION_COUNT, &dry_last_n, "how many of the last tokens DRY looks at (default: all)"},
    {"dry-breaker", "TEXT", OPTION_TEXTS, &breakers,
     "a text that ends a repetition; may be repeated (default: line feed, :, \", *)"},
    {"mirostat", "N", OPTION_COUNT, &options.mirostat,
     "2: Mirostat 2.0, which aims at constant surprise and replaces --top-k and the like; 0: off (default: 0)"},
    {"mirostat-tau", "X", OPTION_NUMBER, &options.mirostat_tau, "the surprise to aim at, in bits (default: 5)"},
    {"mirostat-eta", "X", OPTION_NUMBER, &options.mirostat_eta, "how fast Mirostat corrects deviations (default: 0.1)"},
    {"samplers", "NAMES", OPTION_TEXT, &steps,
     "the sampling steps in their order, separated by semicolons (default: penalties, dry, top_n_sigma, top_k, typ_p, "
     "top_p, min_p, xtc, temperature)"},
    {"logit-bias", "ID:X", OPTION_TEXTS, &biases, "add X to the logit of a token; -inf bans it; may be repeated"},
    {"grammar", "FILE", OPTION_TEXT, &grammar_path, "restrict the answer to the GBNF grammar in this file"},
    {"format", "json|FILE", OPTION_TEXT, &format,
     "restrict the answer to a JSON object, or to the JSON schema in this file"},
    {0},
};

#define GRAMMAR_LIMIT ((uint64_t)4 << 20)

void sampling_prepare(void)
{
    options = (hypura_sampling){.struct_size = sizeof options};
    hypura_default_sampling(&options);
    repeat_last_n = (uint32_t)options.repeat_last_tokens;
    dry_last_n = UINT32_MAX;
}

/* "13:-0.5" */
static hypura_status parse_bias(const char *text, uint32_t vocabulary, hypura_logit_bias *out, hypura_error *error)
{
    char *end;
    long token = strtol(text, &end, 10);
    if (end != text && *end == ':' && token >= 0 && token < (long)vocabulary) {
        const char *number = end + 1;
        float bias = strtof(number, &end);
        if (end != number && *end == '\0' && !isnan(bias)) {
            *out = (hypura_logit_bias){(int32_t)token, bias};
            return HYPURA_OK;
        }
    }
    return set_error(error, HYPURA_ERROR_ARGUMENT,
                     "--logit-bias %s: expected ID:X, with an id from 0 to %u and a number", text, vocabulary - 1);
}

/* The file that restricts the answer; NULL: none. */
static const char *form_path(void)
{
    return grammar_path ? grammar_path : format && strcmp(format, "json") != 0 ? format : NULL;
}

static hypura_status read_form(struct sampling *sampling, hypura_error *error)
{
    const char *path = form_path();
    size_t size;
    if (path && read_whole_file(path, GRAMMAR_LIMIT, &sampling->form_text, &size, error))
        return prefix_error(error, "%s", path);
    if (path && strlen(sampling->form_text) != size)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "%s is not text: it contains a zero byte", path);
    sampling->form = grammar_path ? HYPURA_FORM_GRAMMAR
                     : path       ? HYPURA_FORM_SCHEMA
                     : format     ? HYPURA_FORM_JSON
                                  : HYPURA_FORM_FREE;
    return HYPURA_OK;
}

/* Lets the library check the settings, then the grammar or schema, whose errors name its file. */
static hypura_status check(const struct sampling *sampling, hypura_model *model, hypura_error *error)
{
    hypura_request request = {.struct_size = sizeof request};
    struct sampling free = *sampling;
    free.form = HYPURA_FORM_FREE;
    sampling_fill(&free, &request);
    hypura_status status = hypura_check_request(model, &request, error);
    if (status || sampling->form == HYPURA_FORM_FREE)
        return status;
    sampling_fill(sampling, &request);
    status = hypura_check_request(model, &request, error);
    if (!status || !form_path())
        return status;
    if (status == HYPURA_ERROR_ARGUMENT)
        error->status = HYPURA_ERROR_FORMAT; /* the file is wrong, not the command line */
    return prefix_error(error, "%s", form_path());
}

hypura_status sampling_open(struct sampling *sampling, hypura_model *model, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    uint32_t size = hypura_get_info(model)->vocabulary_size;
    options.seed = compute_options.seed;
    options.repeat_last_tokens = (int32_t)MIN(repeat_last_n, (uint32_t)INT32_MAX);
    options.dry_last_tokens = dry_last_n == UINT32_MAX ? -1 : (int32_t)MIN(dry_last_n, (uint32_t)INT32_MAX);
    options.dry_breakers = breakers.items;
    options.dry_breaker_count = breakers.count;
    options.steps = steps;
    if (grammar_path && format)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "--grammar and --format exclude each other");
    if (biases.count)
        status = NEW_ARRAY(&sampling->biases, biases.count, "logit biases", error);
    for (size_t i = 0; !status && i < biases.count; i++)
        status = parse_bias(biases.items[i], size, &sampling->biases[i], error);
    sampling->settings = options;
    sampling->settings.biases = sampling->biases;
    sampling->settings.bias_count = biases.count;
    if (!status)
        status = read_form(sampling, error);
    return status ? status : check(sampling, model, error);
}

static hypura_status reopen(struct sampling *sampling, hypura_model *model, hypura_error *error)
{
    struct sampling next = {0};
    hypura_status status = sampling_open(&next, model, error);
    sampling_close(status ? &next : sampling);
    if (!status)
        *sampling = next;
    return status;
}

hypura_status sampling_set(struct sampling *sampling, hypura_model *model, const char *name, const char *value,
                           hypura_error *error)
{
    const struct option_row *row = sampling_rows;
    while (row->name && strcmp(row->name, name) != 0)
        row++;
    if (!row->name || (row->kind != OPTION_NUMBER && row->kind != OPTION_COUNT && row->kind != OPTION_LIMIT &&
                       row->kind != OPTION_SEED))
        return set_error(error, HYPURA_ERROR_ARGUMENT,
                         "there is no parameter \"%.40s\"; \"hypura run --help\" lists them", name);
    unsigned char before[sizeof(uint64_t)];
    size_t size = row->kind == OPTION_SEED ? sizeof(uint64_t) : sizeof(uint32_t); /* or a float */
    memcpy(before, row->target, size);
    hypura_status status = set_option(row, value, error) ? reopen(sampling, model, error) : error->status;
    if (status)
        memcpy(row->target, before, size);
    return status;
}

hypura_status sampling_set_format(struct sampling *sampling, hypura_model *model, const char *value,
                                  hypura_error *error)
{
    const char *before = format;
    format = value;
    hypura_status status = reopen(sampling, model, error);
    if (status)
        format = before;
    return status;
}

void sampling_fill(const struct sampling *sampling, hypura_request *request)
{
    request->sampling = &sampling->settings;
    request->form = sampling->form;
    request->form_text = sampling->form_text;
}

void sampling_close(struct sampling *sampling)
{
    free_memory(sampling->biases);
    free_memory(sampling->form_text);
}
