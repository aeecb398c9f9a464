#include "tokenizer/tokenizer_private.h"

#include <string.h>

/* ---- special tokens in a text ------------------------------------------------------------------------------------ */

/* A stretch of text (token is NO_TOKEN), or a special token that was found. */
struct fragment {
    int32_t token;
    size_t start, size;
};

struct fragments {
    struct fragment *list;
    size_t count, capacity;
};

struct partition {
    const struct vocabulary *vocabulary;
    const char *text;
    size_t size;
    bool parse_special;
    const struct text_range *plain;
    size_t plain_count;
    struct fragments now, next;
    const struct work_watch *watch;
    hypura_error *error;
};

static hypura_status add_fragment(struct partition *p, struct fragments *to, struct fragment fragment)
{
    if (to->count == to->capacity) {
        size_t capacity = to->capacity ? to->capacity * 2 : 16;
        hypura_status status = tokenizer_look(p->watch, p->error);
        if (status == HYPURA_OK)
            status = tokenizer_borrow(p->watch, (capacity - to->capacity) * sizeof *to->list, p->error);
        if (status != HYPURA_OK)
            return status;
        status =
            memory_resize((void **)&to->list, to->capacity, capacity, sizeof *to->list, "parts of a text", p->error);
        if (status != HYPURA_OK)
            return status;
        to->capacity = capacity;
    }
    to->list[to->count++] = fragment;
    return HYPURA_OK;
}

static bool touches_plain(const struct partition *p, size_t start, size_t size)
{
    size_t low = 0, high = p->plain_count;
    while (low < high) { /* the first range that ends after start */
        size_t middle = low + (high - low) / 2;
        if (p->plain[middle].end <= start)
            low = middle + 1;
        else
            high = middle;
    }
    while (low < p->plain_count && p->plain[low].start < start + size) {
        if (p->plain[low].end > p->plain[low].start)
            return true;
        low++;
    }
    return false;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Cuts each stretch of text at the occurrences of one token. */
static hypura_status cut_at_token(struct partition *p, int32_t id)
{
    const struct vocabulary *v = p->vocabulary;
    struct gguf_string wanted = v->tokens[id];
    uint32_t attributes = v->attributes[id];
    bool guarded =
        p->plain_count && ((attributes & (TOKEN_CONTROL | TOKEN_UNKNOWN)) || bit_is_set(v->marked_control, (size_t)id));
    hypura_status status = tokenizer_look(p->watch, p->error);
    p->next.count = 0;
    for (size_t i = 0; i < p->now.count && status == HYPURA_OK; i++) {
        struct fragment rest = p->now.list[i];
        size_t from = rest.start; /* where to search next */
        while (status == HYPURA_OK && rest.token == NO_TOKEN && rest.size) {
            size_t end = rest.start + rest.size;
            const char *found = memmem(p->text + from, end - from, wanted.data, wanted.size);
            if (!found)
                break;
            size_t at = (size_t)(found - p->text);
            if (guarded && touches_plain(p, at, wanted.size)) {
                from = at + 1;
                continue;
            }
            size_t left = at - rest.start;
            if (attributes & TOKEN_STRIP_LEFT)
                while (left && is_space(p->text[rest.start + left - 1]))
                    left--;
            if (left)
                status = add_fragment(p, &p->next, (struct fragment){NO_TOKEN, rest.start, left});
            if (status == HYPURA_OK)
                status = add_fragment(p, &p->next, (struct fragment){id, at, wanted.size});
            rest.start = at + wanted.size;
            rest.size = end - rest.start;
            if (attributes & TOKEN_STRIP_RIGHT) {
                while (rest.size && is_space(p->text[rest.start])) {
                    rest.start++;
                    rest.size--;
                }
            }
            from = rest.start;
        }
        if (status == HYPURA_OK && (rest.token != NO_TOKEN || rest.size))
            status = add_fragment(p, &p->next, rest);
    }
    struct fragments swap = p->now;
    p->now = p->next;
    p->next = swap;
    return status;
}

/* Finds the tokens that occur in the text; most do not. */
static hypura_status find_present(const struct partition *p, uint8_t *present, int32_t *found, size_t *found_count)
{
    const struct vocabulary *v = p->vocabulary;
    const struct prefix_index *index = &v->partition_index;
    hypura_status status = HYPURA_OK;
    size_t count = 0;
    for (size_t start = 0; start < p->size && status == HYPURA_OK; start++) {
        if (start % TOKENIZER_WATCHED_STEPS == 0)
            status = tokenizer_look(p->watch, p->error);
        struct prefix_range range = prefix_all(index);
        for (size_t at = start; at < p->size; at++) {
            if (!prefix_step(index, v->tokens, &range, (uint8_t)p->text[at]))
                break;
            int32_t id = prefix_exact(index, v->tokens, &range);
            if (id == NO_TOKEN || bit_is_set(present, range.low))
                continue;
            bit_set(present, range.low);
            if (p->parse_special || !(v->attributes[id] & (TOKEN_CONTROL | TOKEN_UNKNOWN)))
                found[count++] = id;
        }
    }
    *found_count = count;
    return status;
}

/* Sorts tokens in llama.cpp's order of search: longer ones first, then by id. */
static void sort_by_length(const struct vocabulary *v, int32_t *ids, size_t count)
{
    for (size_t gap = count / 2; gap > 0; gap /= 2) {
        for (size_t i = gap; i < count; i++) {
            int32_t id = ids[i];
            size_t size = v->tokens[id].size, j = i;
            for (; j >= gap; j -= gap) {
                size_t other = v->tokens[ids[j - gap]].size;
                if (other > size || (other == size && ids[j - gap] < id))
                    break;
                ids[j] = ids[j - gap];
            }
            ids[j] = id;
        }
    }
}

static hypura_status cut_at_special(struct partition *p)
{
    size_t count = p->vocabulary->partition_index.count;
    if (!p->size)
        return HYPURA_OK;
    hypura_status status = add_fragment(p, &p->now, (struct fragment){NO_TOKEN, 0, p->size});
    if (status != HYPURA_OK || !count)
        return status;
    uint8_t *present = NULL;
    int32_t *found = NULL;
    status = ALLOCATE(&present, count / 8 + 1, "special tokens", p->error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&found, count, "special tokens", p->error);
    size_t found_count = 0;
    if (status == HYPURA_OK)
        status = find_present(p, present, found, &found_count);
    if (status == HYPURA_OK) {
        sort_by_length(p->vocabulary, found, found_count);
        for (size_t i = 0; i < found_count && status == HYPURA_OK; i++)
            status = cut_at_token(p, found[i]);
    }
    memory_free(present);
    memory_free(found);
    return status;
}

/* ---- whole texts ---------------------------------------------------------------------------------------------------
 */

static hypura_status tokenize_text(struct tokenizer *t, const char *text, size_t size, bool first)
{
    const struct vocabulary *v = t->vocabulary;
    switch (v->kind) {
    case VOCABULARY_SENTENCEPIECE:
        return tokenize_sentencepiece(t, text, size, v->add_space_prefix && first);
    case VOCABULARY_BPE:
        return tokenize_bpe(t, text, size);
    case VOCABULARY_WORDPIECE:
        return tokenize_wordpiece(t, text, size);
    case VOCABULARY_UNIGRAM:
        return tokenize_unigram(t, text, size);
    }
    return HYPURA_OK;
}

static hypura_status tokenize_fragments(struct tokenizer *t, const struct partition *p, bool add_special)
{
    const struct vocabulary *v = t->vocabulary;
    hypura_status status = HYPURA_OK;
    bool wordpiece = v->kind == VOCABULARY_WORDPIECE;
    if (add_special && (v->add_bos || wordpiece) && v->special[SPECIAL_BOS] != NO_TOKEN)
        status = tokenizer_append(t, v->special[SPECIAL_BOS]);
    bool first = true; /* at the start or after a special token */
    for (size_t i = 0; i < p->now.count && status == HYPURA_OK; i++) {
        const struct fragment *fragment = &p->now.list[i];
        first = first || (i > 0 && p->now.list[i - 1].token != NO_TOKEN);
        if (fragment->token != NO_TOKEN) {
            status = tokenizer_append(t, fragment->token);
        } else {
            status = tokenize_text(t, p->text + fragment->start, fragment->size, first);
            first = false;
        }
    }
    if (status == HYPURA_OK && add_special && wordpiece && v->special[SPECIAL_SEPARATOR] != NO_TOKEN)
        status = tokenizer_append(t, v->special[SPECIAL_SEPARATOR]);
    else if (status == HYPURA_OK && add_special && !wordpiece && v->add_eos)
        status = tokenizer_append(t, v->special[SPECIAL_EOS]);
    return status;
}

static hypura_status tokenize(struct partition *p, uint32_t flags, bool no_control, struct token_array *tokens)
{
    size_t count = tokens->count;
    struct tokenizer t = {
        .vocabulary = p->vocabulary, .out = tokens, .no_control = no_control, .watch = p->watch, .error = p->error};
    hypura_status status = HYPURA_OK;
    if (p->size > SPLIT_MAX_TEXT / 4)
        status =
            error_set(p->error, HYPURA_ERROR_ARGUMENT,
                      "a text of %zu bytes cannot be tokenized at once; the limit is %zu", p->size, SPLIT_MAX_TEXT / 4);
    if (status == HYPURA_OK)
        status = cut_at_special(p);
    if (status == HYPURA_OK)
        status = tokenize_fragments(&t, p, flags & TOKENIZE_ADD_SPECIAL);
    if (status != HYPURA_OK)
        tokens->count = count;
    memory_free(p->now.list);
    memory_free(p->next.list);
    split_text_free(&t.split);
    memory_free(t.parts);
    memory_free(t.heap.entries);
    buffer_free(&t.text);
    return status;
}

hypura_status vocabulary_tokenize(const struct vocabulary *v, const char *text, size_t size, uint32_t flags,
                                  struct token_array *tokens, hypura_error *error)
{
    return vocabulary_tokenize_watched(v, text, size, flags, NULL, tokens, error);
}

hypura_status vocabulary_tokenize_watched(const struct vocabulary *v, const char *text, size_t size, uint32_t flags,
                                          const struct work_watch *watch, struct token_array *tokens,
                                          hypura_error *error)
{
    struct partition p = {.vocabulary = v,
                          .text = text,
                          .size = size,
                          .parse_special = flags & TOKENIZE_PARSE_SPECIAL,
                          .watch = watch,
                          .error = error};
    return tokenize(&p, flags, false, tokens);
}

hypura_status vocabulary_tokenize_ranges(const struct vocabulary *v, const char *text, size_t size, uint32_t flags,
                                         const struct text_range *plain, size_t plain_count,
                                         const struct work_watch *watch, struct token_array *tokens,
                                         hypura_error *error)
{
    size_t end = 0;
    for (size_t i = 0; i < plain_count; i++) {
        if (plain[i].start < end || plain[i].end < plain[i].start || plain[i].end > size)
            return error_set(
                error, HYPURA_ERROR_ARGUMENT,
                "range %zu of plain text (bytes %zu to %zu) overlaps the previous one or exceeds the text of %zu bytes",
                i, plain[i].start, plain[i].end, size);
        end = plain[i].end;
    }
    struct partition p = {.vocabulary = v,
                          .text = text,
                          .size = size,
                          .parse_special = true,
                          .plain = plain,
                          .plain_count = plain_count,
                          .watch = watch,
                          .error = error};
    return tokenize(&p, flags, true, tokens);
}
