/* SentencePiece and byte-pair encoding: merge neighbours, the best pair first. */
#include "tokenizer/tokenizer_private.h"

#include <string.h>

/* ---- byte-pair encoding ------------------------------------------------------------------------------------------ */

static hypura_status offer_pair(struct tokenizer *t, int32_t left)
{
    const struct part *parts = t->parts;
    int32_t right = left < 0 ? -1 : parts[left].next;
    hypura_status status = tokenizer_step(t);
    if (status != HYPURA_OK)
        return status;
    if (right < 0 || parts[left].symbol == NO_SYMBOL || parts[right].symbol == NO_SYMBOL)
        return HYPURA_OK;
    uint32_t rank = merge_find(&t->vocabulary->merges, parts[left].symbol, parts[right].symbol);
    if (rank == NO_MERGE)
        return HYPURA_OK;
    return merge_heap_push(t, (struct heap_entry){(uint64_t)rank << 32 | (uint32_t)left, 0});
}

static hypura_status merge_pairs(struct tokenizer *t, size_t count)
{
    struct part *parts = t->parts;
    hypura_status status = HYPURA_OK;
    t->heap.count = 0;
    for (size_t i = 0; i + 1 < count && status == HYPURA_OK; i++)
        status = offer_pair(t, (int32_t)i);
    while (t->heap.count && status == HYPURA_OK) {
        uint64_t key = merge_heap_pop(&t->heap).key;
        const struct merge *merge = &t->vocabulary->merges.merges[key >> 32];
        struct part *left = &parts[(uint32_t)key];
        if (!left->size || left->next < 0)
            continue;
        struct part *right = &parts[left->next];
        /* An entry is stale if either side has merged with another part since. */
        if (left->symbol != merge->left || right->symbol != merge->right)
            continue;
        left->symbol = merge->result;
        left->size += right->size;
        left->next = right->next;
        right->size = 0;
        if (left->next >= 0)
            parts[left->next].previous = (int32_t)(uint32_t)key;
        status = offer_pair(t, left->previous);
        if (status == HYPURA_OK)
            status = offer_pair(t, (int32_t)(uint32_t)key);
    }
    return status;
}

/* Appends a token for each byte that has one, for a part that is not a token. */
static hypura_status append_bytes(struct tokenizer *t, const char *text, size_t size, const int32_t *byte_tokens)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < size && status == HYPURA_OK; i++) {
        int32_t id = byte_tokens[(uint8_t)text[i]];
        if (id != NO_TOKEN)
            status = tokenizer_append(t, id);
    }
    return status;
}

/* Returns the token of a whole word, if the pre-tokenizer allows it without merging; else NO_TOKEN. */
static int32_t whole_word(struct tokenizer *t, const char *word, size_t size)
{
    uint32_t flags = t->vocabulary->pre->flags;
    if (!(flags & (PRE_WHOLE_WORDS | PRE_WHOLE_LINE_FEEDS)))
        return NO_TOKEN;
    if (!(flags & PRE_WHOLE_WORDS))
        for (size_t i = 0; i < size; i++)
            if (word[i] != '\n')
                return NO_TOKEN;
    if (size > t->vocabulary->longest_token)
        return NO_TOKEN;
    if (flags & PRE_CHARACTERS)
        return tokenizer_find(t, word, size);
    buffer_clear(&t->text);
    for (size_t i = 0; i < size; i++) {
        char character[4];
        buffer_append(&t->text, character, utf8_write(character, character_of_byte((uint8_t)word[i])));
    }
    return t->text.failed ? NO_TOKEN : tokenizer_find(t, t->text.data, t->text.size);
}

/* Cuts a word into its initial parts, bytes or characters, and returns their count. */
static size_t make_parts(struct tokenizer *t, const char *word, size_t size)
{
    const struct vocabulary *v = t->vocabulary;
    bool characters = v->pre->flags & PRE_CHARACTERS;
    size_t count = 0;
    for (size_t at = 0; at < size; count++) {
        size_t length = characters ? MIN(utf8_size((uint8_t)word[at]), size - at) : 1;
        struct part *part = &t->parts[count];
        part->start = (uint32_t)at;
        part->size = (uint32_t)length;
        part->previous = (int32_t)count - 1;
        part->next = (int32_t)count + 1;
        part->symbol = characters ? symbol_find(&v->symbols, word + at, length) : v->byte_symbols[(uint8_t)word[at]];
        at += length;
    }
    t->parts[count - 1].next = -1;
    return count;
}

static hypura_status tokenize_word(struct tokenizer *t, const char *word, size_t size)
{
    const struct vocabulary *v = t->vocabulary;
    int32_t whole = whole_word(t, word, size);
    if (whole != NO_TOKEN)
        return tokenizer_append(t, whole);
    hypura_status status = tokenizer_reserve_parts(t, size);
    if (status == HYPURA_OK)
        status = merge_pairs(t, make_parts(t, word, size));
    for (int32_t i = 0; i >= 0 && status == HYPURA_OK; i = t->parts[i].next) {
        const struct part *part = &t->parts[i];
        if (tokenizer_allows(t, part->symbol))
            status = tokenizer_append(t, (int32_t)part->symbol);
        else if (v->pre->flags & PRE_CHARACTERS)
            status = append_bytes(t, word + part->start, part->size, v->byte_tokens);
        else {
            /* As in llama.cpp, look up each byte of the representing character: only ASCII is found. */
            struct gguf_string text = symbol_text(&v->symbols, part->symbol);
            status = append_bytes(t, text.data, text.size, v->single_byte_tokens);
        }
    }
    return status;
}

/* Appends a text with its spaces replaced by U+2581. */
static hypura_status escape_spaces(struct tokenizer *t, struct buffer *out, const char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        const char *space = memchr(text + at, ' ', size - at);
        size_t length = space ? (size_t)(space - text) - at : size - at;
        buffer_append(out, text + at, length);
        at += length;
        if (space) {
            buffer_append(out, SPACE_SYMBOL, SPACE_SYMBOL_SIZE);
            at++;
        }
    }
    return out->failed ? error_set(t->error, HYPURA_ERROR_MEMORY, "no memory for a text of %zu bytes", size)
                       : HYPURA_OK;
}

static bool begins_with_space(const char *text, size_t size)
{
    return text[0] == ' ' || (size >= SPACE_SYMBOL_SIZE && memcmp(text, SPACE_SYMBOL, SPACE_SYMBOL_SIZE) == 0);
}

/* Does the same, and inserts a space before every line that begins without one. */
static hypura_status escape_lines(struct tokenizer *t, struct buffer *out, const char *text, size_t size)
{
    hypura_status status = HYPURA_OK;
    for (size_t at = 0; at < size && status == HYPURA_OK;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t length = end ? (size_t)(end - text) - at : size - at;
        if (length && !begins_with_space(text + at, length))
            buffer_append(out, SPACE_SYMBOL, SPACE_SYMBOL_SIZE);
        status = escape_spaces(t, out, text + at, length);
        if (end)
            buffer_append_char(out, '\n');
        at += length + (end ? 1 : 0);
    }
    return status;
}

hypura_status tokenize_bpe(struct tokenizer *t, const char *text, size_t size)
{
    hypura_status status = HYPURA_OK;
    struct buffer escaped = {0};
    if (t->vocabulary->escape_spaces)
        status = tokenizer_borrow(t->watch, size * SPACE_SYMBOL_SIZE, t->error);
    if (t->vocabulary->escape_spaces && status == HYPURA_OK) {
        bool lines = t->vocabulary->pre->flags & PRE_SPACE_LINES;
        status = lines ? escape_lines(t, &escaped, text, size) : escape_spaces(t, &escaped, text, size);
        text = escaped.data;
        size = escaped.size;
    }
    if (status == HYPURA_OK)
        status = splitter_run(t->vocabulary->splitter, text, size, t->watch, &t->split, t->error);
    buffer_free(&escaped);
    size_t start = 0;
    for (size_t i = 0; i < t->split.count && status == HYPURA_OK; i++) {
        status = tokenize_word(t, t->split.text + start, t->split.ends[i] - start);
        start = t->split.ends[i];
    }
    return status;
}

/* ---- SentencePiece ----------------------------------------------------------------------------------------------- */

/* Returns an integer whose ascending order is the descending order of the floats. */
static uint32_t descending(float score)
{
    uint32_t bits;
    if (score != score)
        return UINT32_MAX;
    score += 0.0f; /* -0 and 0 are equal */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static hypura_status offer_neighbours(struct tokenizer *t, const char *text, int32_t left)
{
    const struct part *parts = t->parts;
    int32_t right = left < 0 ? -1 : parts[left].next;
    hypura_status status = tokenizer_step(t);
    if (status != HYPURA_OK)
        return status;
    if (right < 0)
        return HYPURA_OK;
    uint32_t size = parts[left].size + parts[right].size;
    if (size > t->vocabulary->longest_token)
        return HYPURA_OK;
    int32_t id = tokenizer_find(t, text + parts[left].start, size);
    if (id == NO_TOKEN)
        return HYPURA_OK;
    uint64_t key = (uint64_t)descending(vocabulary_score(t->vocabulary, id)) << 32 | (uint32_t)left;
    return merge_heap_push(t, (struct heap_entry){key, size});
}

static hypura_status merge_neighbours(struct tokenizer *t, const char *text, size_t count)
{
    struct part *parts = t->parts;
    hypura_status status = HYPURA_OK;
    t->heap.count = 0;
    for (size_t i = 0; i + 1 < count && status == HYPURA_OK; i++)
        status = offer_neighbours(t, text, (int32_t)i);
    while (t->heap.count && status == HYPURA_OK) {
        struct heap_entry best = merge_heap_pop(&t->heap);
        int32_t index = (int32_t)(uint32_t)best.key;
        struct part *left = &parts[index];
        if (!left->size || left->next < 0 || left->size + parts[left->next].size != best.size)
            continue;
        struct part *right = &parts[left->next];
        left->size += right->size;
        left->next = right->next;
        right->size = 0;
        if (left->next >= 0)
            parts[left->next].previous = index;
        status = offer_neighbours(t, text, left->previous);
        if (status == HYPURA_OK)
            status = offer_neighbours(t, text, index);
    }
    return status;
}

static hypura_status append_part(struct tokenizer *t, const char *text, size_t size)
{
    const struct vocabulary *v = t->vocabulary;
    int32_t id = tokenizer_find(t, text, size);
    if (id != NO_TOKEN)
        return tokenizer_append(t, id);
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < size && status == HYPURA_OK; i++) {
        id = v->byte_tokens[(uint8_t)text[i]];
        if (id == NO_TOKEN)
            id = v->special[SPECIAL_UNKNOWN];
        if (id != NO_TOKEN)
            status = tokenizer_append(t, id);
    }
    return status;
}

/* Whether a broken character before a position takes up bytes from there on. The position is at least 3. */
static bool is_swallowed(const char *text, size_t at)
{
    return utf8_size((uint8_t)text[at - 1]) > 1 || utf8_size((uint8_t)text[at - 2]) > 2 ||
           utf8_size((uint8_t)text[at - 3]) > 3;
}

/* Returns the end of the stretch at start that cannot merge with the text after it. This cuts long texts into words,
 * and a heap per word is faster than one for the text. */
static size_t independent_end(const struct vocabulary *v, const char *text, size_t size, size_t start)
{
    for (size_t at = start + SPACE_SYMBOL_SIZE; at + SPACE_SYMBOL_SIZE <= size; at++) {
        const char *space = memmem(text + at, size - at, SPACE_SYMBOL, SPACE_SYMBOL_SIZE);
        if (!space)
            break;
        at = (size_t)(space - text);
        if (!v->before_inner_space[(uint8_t)text[at - 1]] && !is_swallowed(text, at))
            return at;
    }
    return size;
}

static hypura_status tokenize_stretch(struct tokenizer *t, const char *text, size_t size)
{
    hypura_status status = tokenizer_reserve_parts(t, size);
    if (status != HYPURA_OK)
        return status;
    size_t count = 0;
    for (size_t at = 0; at < size; count++) {
        size_t length = MIN(utf8_size((uint8_t)text[at]), size - at);
        t->parts[count] =
            (struct part){(uint32_t)at, (uint32_t)length, (int32_t)count - 1, (int32_t)count + 1, NO_SYMBOL};
        at += length;
    }
    t->parts[count - 1].next = -1;
    status = merge_neighbours(t, text, count);
    for (int32_t i = 0; i >= 0 && status == HYPURA_OK; i = t->parts[i].next)
        status = append_part(t, text + t->parts[i].start, t->parts[i].size);
    return status;
}

hypura_status tokenize_sentencepiece(struct tokenizer *t, const char *text, size_t size, bool space_before)
{
    size_t most = size * SPACE_SYMBOL_SIZE;
    hypura_status status =
        most > t->text.capacity ? tokenizer_borrow(t->watch, most - t->text.capacity, t->error) : HYPURA_OK;
    if (status != HYPURA_OK)
        return status;
    buffer_clear(&t->text);
    if (space_before)
        buffer_append(&t->text, SPACE_SYMBOL, SPACE_SYMBOL_SIZE);
    status = escape_spaces(t, &t->text, text, size);
    for (size_t start = 0; start < t->text.size && status == HYPURA_OK;) {
        size_t end = independent_end(t->vocabulary, t->text.data, t->text.size, start);
        status = tokenize_stretch(t, t->text.data + start, end - start);
        start = end;
    }
    return status;
}
