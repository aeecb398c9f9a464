/* Queries of a vocabulary. */
#include "tokenizer/vocabulary_private.h"

enum vocabulary_kind vocabulary_kind(const struct vocabulary *v)
{
    return v->kind;
}

const char *vocabulary_pre_tokenizer(const struct vocabulary *v)
{
    return v->pre ? v->pre->name : "";
}

uint32_t vocabulary_size(const struct vocabulary *v)
{
    return v->count;
}

static bool in_range(const struct vocabulary *v, int32_t id)
{
    return id >= 0 && (uint32_t)id < v->count;
}

struct gguf_string vocabulary_text(const struct vocabulary *v, int32_t id)
{
    return in_range(v, id) ? v->tokens[id] : (struct gguf_string){"", 0};
}

float vocabulary_score(const struct vocabulary *v, int32_t id)
{
    if (!in_range(v, id))
        return 0;
    return v->scores ? v->scores[id] : v->integer_scores ? (float)v->integer_scores[id] : 0;
}

uint32_t vocabulary_attributes(const struct vocabulary *v, int32_t id)
{
    return in_range(v, id) ? v->attributes[id] : 0;
}

int32_t vocabulary_find(const struct vocabulary *v, const char *text, size_t size)
{
    symbol_id found = symbol_find(&v->symbols, text, size);
    return found < v->count ? (int32_t)found : NO_TOKEN;
}

int32_t vocabulary_special(const struct vocabulary *v, enum special_token which)
{
    return (unsigned)which < SPECIAL_COUNT ? v->special[which] : NO_TOKEN;
}

bool vocabulary_is_end_of_generation(const struct vocabulary *v, int32_t id)
{
    return in_range(v, id) && bit_is_set(v->end_of_generation, (size_t)id);
}

bool vocabulary_adds_bos(const struct vocabulary *v)
{
    return v->add_bos;
}

bool vocabulary_adds_eos(const struct vocabulary *v)
{
    return v->add_eos;
}

bool vocabulary_adds_separator(const struct vocabulary *v)
{
    return v->add_separator;
}
