#include "tokenizer/vocabulary_private.h"

#include <stdlib.h>
#include <string.h>

static uint32_t hash_bytes(uint64_t hash, const char *text, size_t size)
{
    const uint64_t multiplier = 0x9E3779B97F4A7C15u;
    for (; size >= 8; text += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = (hash ^ word) * multiplier;
        hash ^= hash >> 29;
    }
    uint64_t rest = 0;
    for (size_t i = 0; i < size; i++)
        rest |= (uint64_t)(uint8_t)text[i] << (8 * i);
    hash = (hash ^ rest ^ ((uint64_t)size << 56)) * multiplier;
    hash ^= hash >> 32;
    hash *= multiplier;
    return (uint32_t)(hash >> 32);
}

struct gguf_string symbol_text(const struct symbol_table *table, symbol_id symbol)
{
    return symbol < table->token_count ? table->tokens[symbol] : table->extra[symbol - table->token_count];
}

/* Refuses files whose texts or pairs are crafted to collide in a hash table, which would make look-ups linear. In
 * normal files, a look-up passes one or two slots. */
static hypura_status check_walk(size_t walked, size_t placed, hypura_error *error)
{
    if (walked / 64 <= placed + 4096)
        return HYPURA_OK;
    return error_set(error, HYPURA_ERROR_FORMAT,
                     "the tokens or merges of the vocabulary collide in hash tables, thousands at a time; the file is "
                     "not trustworthy");
}

static void place(struct symbol_table *table, uint32_t hash, symbol_id symbol)
{
    size_t mask = table->slot_count - 1;
    size_t at = hash & mask;
    for (; table->slots[at].symbol != NO_SYMBOL; at = (at + 1) & mask)
        table->walked++;
    table->slots[at] = (struct symbol_slot){hash, symbol};
}

static symbol_id find(const struct symbol_table *table, uint32_t hash, const char *text, size_t size, size_t *walked)
{
    size_t mask = table->slot_count - 1;
    for (size_t at = hash & mask; table->slots[at].symbol != NO_SYMBOL; at = (at + 1) & mask, ++*walked) {
        if (table->slots[at].hash != hash)
            continue;
        struct gguf_string found = symbol_text(table, table->slots[at].symbol);
        if (found.size == size && memcmp(found.data, text, size) == 0)
            return table->slots[at].symbol;
    }
    return NO_SYMBOL;
}

static hypura_status make_slots(struct symbol_table *table, size_t symbols, hypura_error *error)
{
    size_t count = 16;
    while (count < symbols * 2)
        count *= 2;
    struct symbol_slot *slots;
    hypura_status status = ALLOCATE(&slots, count, "token table", error);
    if (status != HYPURA_OK)
        return status;
    for (size_t i = 0; i < count; i++)
        slots[i].symbol = NO_SYMBOL;
    struct symbol_slot *old = table->slots;
    size_t old_count = old ? table->slot_count : 0;
    table->slots = slots;
    table->slot_count = count;
    for (size_t i = 0; i < old_count; i++)
        if (old[i].symbol != NO_SYMBOL)
            place(table, old[i].hash, old[i].symbol);
    memory_free(old);
    return HYPURA_OK;
}

hypura_status symbol_table_build(struct symbol_table *table, const struct gguf_string *tokens, size_t count,
                                 hypura_error *error)
{
    table->tokens = tokens;
    table->token_count = count;
    hypura_status status = make_slots(table, count + 256, error);
    for (size_t i = 0; status == HYPURA_OK && i < count; i++) {
        uint32_t hash = hash_bytes(0, tokens[i].data, tokens[i].size);
        /* Empty tokens never match. Of two tokens with the same text, the first one does. */
        if (tokens[i].size && find(table, hash, tokens[i].data, tokens[i].size, &table->walked) == NO_SYMBOL)
            place(table, hash, (symbol_id)i);
        status = check_walk(table->walked, i, error);
    }
    return status;
}

void symbol_table_free(struct symbol_table *table)
{
    for (size_t i = 0; i < table->extra_count; i++)
        memory_free((void *)(uintptr_t)table->extra[i].data);
    memory_free(table->extra);
    memory_free(table->slots);
}

symbol_id symbol_find(const struct symbol_table *table, const char *text, size_t size)
{
    size_t walked = 0;
    return size ? find(table, hash_bytes(0, text, size), text, size, &walked) : NO_SYMBOL;
}

static hypura_status add_extra(struct symbol_table *table, const char *text, size_t size, uint32_t hash, symbol_id *out,
                               hypura_error *error)
{
    hypura_status status;
    size_t total = table->token_count + table->extra_count;
    if ((total + 1) * 2 > table->slot_count) {
        status = make_slots(table, (total + 1) * 2, error);
        if (status != HYPURA_OK)
            return status;
    }
    if (table->extra_count == table->extra_capacity) {
        size_t capacity = table->extra_capacity ? table->extra_capacity * 2 : 64;
        status = memory_resize((void **)&table->extra, table->extra_capacity, capacity, sizeof *table->extra,
                               "merge texts", error);
        if (status != HYPURA_OK)
            return status;
        table->extra_capacity = capacity;
    }
    char *copy;
    status = ALLOCATE(&copy, size, "merge text", error);
    if (status != HYPURA_OK)
        return status;
    memcpy(copy, text, size);
    table->extra[table->extra_count++] = (struct gguf_string){copy, size};
    *out = (symbol_id)total;
    place(table, hash, *out);
    return HYPURA_OK;
}

hypura_status symbol_intern(struct symbol_table *table, const char *text, size_t size, const char *tail,
                            size_t tail_size, symbol_id *out, hypura_error *error)
{
    char small[256];
    char *joined = NULL;
    if (tail_size) {
        joined = small;
        if (size + tail_size > sizeof small) {
            hypura_status status = ALLOCATE(&joined, size + tail_size, "merge text", error);
            if (status != HYPURA_OK)
                return status;
        }
        memcpy(joined, text, size);
        memcpy(joined + size, tail, tail_size);
        text = joined;
        size += tail_size;
    }
    hypura_status status = HYPURA_OK;
    uint32_t hash = hash_bytes(0, text, size);
    *out = find(table, hash, text, size, &table->walked);
    if (*out == NO_SYMBOL)
        status = add_extra(table, text, size, hash, out, error);
    table->interned++;
    if (status == HYPURA_OK)
        status = check_walk(table->walked, table->token_count + table->interned, error);
    if (joined != small)
        memory_free(joined);
    return status;
}

/* ---- merges ------------------------------------------------------------------------------------------------------ */

static size_t hash_pair(symbol_id left, symbol_id right)
{
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(hash >> 32 ^ hash >> 15);
}

uint32_t merge_find(const struct merge_table *table, symbol_id left, symbol_id right)
{
    size_t mask = table->slot_count - 1;
    for (size_t at = hash_pair(left, right) & mask; table->slots[at] != NO_MERGE; at = (at + 1) & mask) {
        const struct merge *merge = &table->merges[table->slots[at]];
        if (merge->left == left && merge->right == right)
            return table->slots[at];
    }
    return NO_MERGE;
}

static hypura_status add_merge(struct merge_table *table, struct symbol_table *symbols, uint32_t rank,
                               struct gguf_string text, hypura_error *error)
{
    struct merge *merge = &table->merges[rank];
    *merge = (struct merge){NO_SYMBOL, NO_SYMBOL, NO_SYMBOL};
    /* The separating space is never the first byte, which may belong to the left text. */
    const char *space = text.size > 1 ? memchr(text.data + 1, ' ', text.size - 1) : NULL;
    if (!space)
        return HYPURA_OK;
    size_t left = (size_t)(space - text.data), right = text.size - left - 1;
    if (!right)
        return HYPURA_OK;
    symbol_id both[3];
    hypura_status status = symbol_intern(symbols, text.data, left, NULL, 0, &both[0], error);
    if (status == HYPURA_OK)
        status = symbol_intern(symbols, space + 1, right, NULL, 0, &both[1], error);
    if (status != HYPURA_OK || merge_find(table, both[0], both[1]) != NO_MERGE)
        return status;
    status = symbol_intern(symbols, text.data, left, space + 1, right, &both[2], error);
    if (status != HYPURA_OK)
        return status;
    *merge = (struct merge){both[0], both[1], both[2]};
    size_t mask = table->slot_count - 1;
    size_t at = hash_pair(both[0], both[1]) & mask;
    for (; table->slots[at] != NO_MERGE; at = (at + 1) & mask)
        table->walked++;
    table->slots[at] = rank;
    return check_walk(table->walked, rank, error);
}

hypura_status merge_table_build(struct merge_table *table, struct symbol_table *symbols,
                                const struct gguf_value *merges, hypura_error *error)
{
    size_t count = merges ? (size_t)merges->count : 0;
    size_t slots = 16;
    while (slots < count * 2)
        slots *= 2;
    hypura_status status = ALLOCATE(&table->merges, count, "merges", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&table->slots, slots, "merge table", error);
    if (status != HYPURA_OK)
        return status;
    table->count = count;
    table->slot_count = slots;
    memset(table->slots, 0xFF, slots * sizeof *table->slots);
    const struct gguf_string *texts = merges ? merges->data : NULL;
    for (size_t i = 0; status == HYPURA_OK && i < count; i++)
        status = add_merge(table, symbols, (uint32_t)i, texts[i], error);
    return status;
}

void merge_table_free(struct merge_table *table)
{
    memory_free(table->merges);
    memory_free(table->slots);
}

/* ---- tokens by prefix -------------------------------------------------------------------------------------------- */

static int compare_texts(const struct gguf_string *tokens, int32_t a, int32_t b)
{
    const struct gguf_string *x = &tokens[a], *y = &tokens[b];
    int order = memcmp(x->data, y->data, MIN(x->size, y->size));
    if (order)
        return order;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* Heap sort needs neither recursion nor memory, and no order of the file makes it slow. */
static void sort_ids(const struct gguf_string *tokens, int32_t *ids, size_t count)
{
    size_t start = count / 2, end = count;
    while (end > 1) {
        int32_t moved;
        if (start > 0) {
            moved = ids[--start];
        } else {
            moved = ids[--end];
            ids[end] = ids[0];
        }
        size_t root = start;
        for (size_t child = 2 * root + 1; child < end; child = 2 * root + 1) {
            if (child + 1 < end && compare_texts(tokens, ids[child], ids[child + 1]) < 0)
                child++;
            if (compare_texts(tokens, moved, ids[child]) >= 0)
                break;
            ids[root] = ids[child];
            root = child;
        }
        ids[root] = moved;
    }
}

void prefix_index_build(struct prefix_index *index, const struct gguf_string *tokens, int32_t *ids, size_t count)
{
    index->ids = ids;
    index->count = count;
    sort_ids(tokens, ids, count);
    size_t at = 0;
    for (unsigned byte = 0; byte <= 256; byte++) {
        while (at < count && (uint8_t)tokens[ids[at]].data[0] < byte)
            at++;
        index->first[byte] = (uint32_t)at;
    }
}

void prefix_index_free(struct prefix_index *index)
{
    memory_free(index->ids);
}

/* Returns the first position in [low, high) whose text has, at index depth, a byte of at least limit. Texts that end at
 * depth sort first. */
static size_t lower_bound(const struct prefix_index *index, const struct gguf_string *tokens, size_t low, size_t high,
                          size_t depth, unsigned limit)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_string *text = &tokens[index->ids[middle]];
        if (text->size <= depth || (uint8_t)text->data[depth] < limit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool prefix_step(const struct prefix_index *index, const struct gguf_string *tokens, struct prefix_range *range,
                 uint8_t byte)
{
    if (range->depth == 0) {
        range->low = index->first[byte];
        range->high = index->first[byte + 1];
    } else {
        range->low = lower_bound(index, tokens, range->low, range->high, range->depth, byte);
        range->high = lower_bound(index, tokens, range->low, range->high, range->depth, byte + 1u);
    }
    range->depth++;
    return range->low < range->high;
}

int32_t prefix_exact(const struct prefix_index *index, const struct gguf_string *tokens,
                     const struct prefix_range *range)
{
    if (range->low >= range->high || tokens[index->ids[range->low]].size != range->depth)
        return NO_TOKEN;
    return index->ids[range->low];
}
