/* Helpers that all kinds of tokenizers share: limits on memory and time, and the list of tokens. */
#include "tokenizer/tokenizer_private.h"

hypura_status token_array_append(struct token_array *array, int32_t id, hypura_error *error)
{
    if (array->count == array->capacity) {
        size_t capacity = array->capacity ? array->capacity * 2 : 64;
        hypura_status status =
            memory_resize((void **)&array->ids, array->capacity, capacity, sizeof *array->ids, "tokens", error);
        if (status != HYPURA_OK)
            return status;
        array->capacity = capacity;
    }
    array->ids[array->count++] = id;
    return HYPURA_OK;
}

void token_array_free(struct token_array *array)
{
    memory_free(array->ids);
    *array = (struct token_array){0};
}

hypura_status tokenizer_look(const struct work_watch *watch, hypura_error *error)
{
    return work_goes_on(watch) ? HYPURA_OK : error_set(error, HYPURA_ERROR_CANCELLED, "tokenizing was stopped");
}

hypura_status tokenizer_borrow(const struct work_watch *watch, size_t bytes, hypura_error *error)
{
    return work_may_take(watch, bytes)
               ? HYPURA_OK
               : error_set(error, HYPURA_ERROR_MEMORY, "tokenizing the text needs more memory than is available to it");
}

hypura_status tokenizer_append(struct tokenizer *t, int32_t id)
{
    hypura_status status = tokenizer_step(t);
    const struct token_array *out = t->out;
    if (status == HYPURA_OK && out->count == out->capacity)
        status = tokenizer_borrow(t->watch, MAX(out->capacity, (size_t)64) * sizeof *out->ids, t->error);
    return status == HYPURA_OK ? token_array_append(t->out, id, t->error) : status;
}

hypura_status tokenizer_reserve_parts(struct tokenizer *t, size_t count)
{
    if (count <= t->part_capacity)
        return HYPURA_OK;
    size_t capacity = MAX(count, t->part_capacity * 2);
    hypura_status status = tokenizer_borrow(t->watch, (capacity - t->part_capacity) * sizeof *t->parts, t->error);
    if (status != HYPURA_OK)
        return status;
    memory_free(t->parts);
    t->part_capacity = 0;
    status = ALLOCATE(&t->parts, capacity, "parts of a text", t->error);
    if (status == HYPURA_OK)
        t->part_capacity = capacity;
    else
        t->parts = NULL;
    return status;
}

bool tokenizer_allows(const struct tokenizer *t, symbol_id symbol)
{
    const struct vocabulary *v = t->vocabulary;
    return symbol < v->count &&
           !(t->no_control && ((v->attributes[symbol] & TOKEN_CONTROL) || bit_is_set(v->marked_control, symbol)));
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t size)
{
    symbol_id found = symbol_find(&t->vocabulary->symbols, text, size);
    return tokenizer_allows(t, found) ? (int32_t)found : NO_TOKEN;
}
