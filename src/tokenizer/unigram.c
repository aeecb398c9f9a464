/* Unigram, as in T5 and other SentencePiece models: normalises the text with the model's character map, then finds the
 * sequence of tokens with the highest sum of scores (Viterbi; Kudo 2018). */
#include "tokenizer/tokenizer_private.h"

#include <float.h>
#include <string.h>

/* An unknown character costs this much more than the least likely token. */
#define UNKNOWN_PENALTY 10.0

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static hypura_status index_tokens(struct vocabulary *v, uint32_t wanted, struct prefix_index *index,
                                  hypura_error *error)
{
    int32_t *ids;
    hypura_status status = ALLOCATE(&ids, v->count, "tokens by prefix", error);
    if (status != HYPURA_OK)
        return status;
    size_t count = 0;
    for (uint32_t i = 0; i < v->count; i++)
        if ((v->attributes[i] & wanted) && v->tokens[i].size)
            ids[count++] = (int32_t)i;
    prefix_index_build(index, v->tokens, ids, count);
    return HYPURA_OK;
}

/* precompiled_charsmap has three parts (SentencePiece, normalizer.cc): the size of a double-array trie in bytes, the
 * trie as 32-bit units, and the replacement texts, each ended by a NUL. */
static hypura_status read_character_map(struct vocabulary *v, const struct gguf *file, hypura_error *error)
{
    const char *key = "tokenizer.ggml.precompiled_charsmap";
    const struct gguf_value *value = gguf_find(file, key);
    if (!value)
        return HYPURA_OK;
    uint32_t bytes = 0;
    if (value->type != GGUF_ARRAY || (value->element_type != GGUF_UINT8 && value->element_type != GGUF_INT8) ||
        value->count < sizeof bytes)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s is not an array of at least 4 bytes", key);
    const char *data = value->data;
    memcpy(&bytes, data, sizeof bytes);
    if (bytes >= value->count - sizeof bytes)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s has %llu bytes, but its trie alone should have %u", key,
                         (unsigned long long)value->count, bytes);
    v->character_map_count = bytes / sizeof *v->character_map;
    hypura_status status = ALLOCATE(&v->character_map, v->character_map_count, "character map", error);
    if (status != HYPURA_OK)
        return status;
    if (v->character_map_count)
        memcpy(v->character_map, data + sizeof bytes, v->character_map_count * sizeof *v->character_map);
    v->replacements = data + sizeof bytes + bytes;
    v->replacement_bytes = (size_t)value->count - sizeof bytes - bytes;
    return HYPURA_OK;
}

hypura_status unigram_open(struct vocabulary *v, const struct gguf *file, hypura_error *error)
{
    hypura_status status = read_character_map(v, file, error);
    if (status == HYPURA_OK)
        status = index_tokens(v, TOKEN_NORMAL | TOKEN_USER_DEFINED | TOKEN_UNUSED, &v->unigram_index, error);
    if (status == HYPURA_OK)
        status = index_tokens(v, TOKEN_USER_DEFINED, &v->user_defined_index, error);
    float least = FLT_MAX;
    for (uint32_t i = 0; i < v->count; i++)
        if ((v->attributes[i] & TOKEN_NORMAL) && vocabulary_score(v, (int32_t)i) < least)
            least = vocabulary_score(v, (int32_t)i);
    v->unknown_score = (float)((double)least - UNKNOWN_PENALTY);
    return status;
}

/* ---- normalisation -------------------------------------------------------------------------------------------------
 */

/* Returns the length of the longest prefix of a text that begins some user-defined token. As in llama.cpp, the
 * beginning of a token is enough. */
static size_t user_defined_prefix(const struct vocabulary *v, const char *text, size_t size)
{
    struct prefix_range range = prefix_all(&v->user_defined_index);
    size_t length = 0;
    while (length < size && prefix_step(&v->user_defined_index, v->tokens, &range, (uint8_t)text[length]))
        length++;
    return length;
}

/* Returns the length of the longest prefix in the trie, and sets *replacement to the offset of its replacement. A unit
 * has its label in bits 0 to 7 (and bit 31 if it is a value), whether it has a value in bit 8, and the offset of its
 * children in bits 10 to 30, shifted by 8 more if bit 9 is set. An offset outside the table ends the walk. */
static size_t mapped_prefix(const struct vocabulary *v, const char *text, size_t size, size_t *replacement)
{
    size_t longest = 0;
    size_t count = v->character_map_count;
    if (!count)
        return 0;
    const uint32_t *units = v->character_map;
    size_t node = (size_t)(units[0] >> 10) << ((units[0] & 1u << 9) >> 6);
    for (size_t i = 0; i < size && text[i]; i++) {
        uint8_t byte = (uint8_t)text[i];
        node ^= byte;
        if (node >= count || (units[node] & (1u << 31 | 0xFF)) != byte)
            break;
        bool has_value = units[node] >> 8 & 1;
        node ^= (size_t)(units[node] >> 10) << ((units[node] & 1u << 9) >> 6);
        if (has_value && node < count) {
            longest = i + 1;
            *replacement = units[node] & ~(1u << 31);
        }
    }
    return longest;
}

struct normalizer {
    const struct vocabulary *vocabulary;
    struct buffer *out;
    const char *space;
    size_t space_size;
    bool started; /* the space at the start was written */
    bool in_word;
};

static void normalize_bytes(struct normalizer *n, const char *bytes, size_t size)
{
    bool merge = n->vocabulary->remove_extra_spaces;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] == ' ') {
            n->in_word = false;
            if (!merge)
                buffer_append(n->out, n->space, n->space_size);
            continue;
        }
        if (!n->in_word) {
            n->in_word = true;
            if ((n->vocabulary->add_space_prefix && !n->started) || merge) {
                buffer_append(n->out, n->space, n->space_size);
                n->started = true;
            }
        }
        buffer_append_char(n->out, bytes[i]);
    }
}

static hypura_status normalize(struct tokenizer *t, const char *text, size_t size, struct buffer *out)
{
    const struct vocabulary *v = t->vocabulary;
    struct normalizer n = {v, out, SPACE_SYMBOL, SPACE_SYMBOL_SIZE, false, false};
    hypura_status status = HYPURA_OK;
    for (size_t at = 0; at < size && status == HYPURA_OK;) {
        status = tokenizer_step(t);
        size_t length = user_defined_prefix(v, text + at, size - at);
        size_t replacement = 0;
        if (length) {
            normalize_bytes(&n, text + at, length);
        } else if ((length = mapped_prefix(v, text + at, size - at, &replacement)) != 0) {
            if (replacement < v->replacement_bytes)
                normalize_bytes(&n, v->replacements + replacement,
                                strnlen(v->replacements + replacement, v->replacement_bytes - replacement));
        } else {
            uint32_t character;
            if (utf8_read(text + at, size - at, &character, &length))
                normalize_bytes(&n, text + at, length);
            else
                normalize_bytes(&n, "\xEF\xBF\xBD", 3);
        }
        at += length;
    }
    return status;
}

/* ---- Viterbi --------------------------------------------------------------------------------------------------- */

/* The best sequence that ends at a byte: the sum of its scores, and its last token with the start of that. */
struct best {
    double score;
    uint32_t start;
    int32_t token;
};

/* Updates the best sequences with all tokens that start at a byte. */
static void extend(const struct vocabulary *v, struct best *best, const char *text, size_t size, size_t start)
{
    size_t character = MIN(utf8_size((uint8_t)text[start]), size - start);
    double score = best[start].score;
    bool covered = false; /* a token is exactly this character */
    struct prefix_range range = prefix_all(&v->unigram_index);
    for (size_t at = start; at < size; at++) {
        if (!prefix_step(&v->unigram_index, v->tokens, &range, (uint8_t)text[at]))
            break;
        int32_t id = prefix_exact(&v->unigram_index, v->tokens, &range);
        if (id == NO_TOKEN)
            continue;
        covered = covered || range.depth == character;
        double sum = score + ((v->attributes[id] & TOKEN_USER_DEFINED) ? 0.0 : (double)vocabulary_score(v, id));
        if (sum > best[at + 1].score)
            best[at + 1] = (struct best){sum, (uint32_t)start, id};
    }
    if (!covered && score + v->unknown_score > best[start + character].score)
        best[start + character] = (struct best){score + v->unknown_score, (uint32_t)start, v->special[SPECIAL_UNKNOWN]};
}

hypura_status tokenize_unigram(struct tokenizer *t, const char *text, size_t size)
{
    const struct vocabulary *v = t->vocabulary;
    buffer_clear(&t->text);
    t->text.limit = MIN(16 * size + 4096, SPLIT_MAX_TEXT);
    hypura_status status = normalize(t, text, size, &t->text);
    if (status != HYPURA_OK)
        return status;
    if (t->text.failed)
        return error_set(t->error, HYPURA_ERROR_ARGUMENT,
                         "a text of %zu bytes, once normalised, exceeds the limit of %zu bytes or the available memory",
                         size, t->text.limit);
    text = t->text.data;
    size = t->text.size;
    if (!size)
        return HYPURA_OK;
    struct best *best;
    status = tokenizer_borrow(t->watch, (size + 1) * sizeof *best, t->error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&best, size + 1, "best tokens", t->error);
    if (status != HYPURA_OK)
        return status;
    for (size_t i = 0; i <= size; i++)
        best[i] = (struct best){i ? -DBL_MAX : 0, 0, v->special[SPECIAL_UNKNOWN]};
    for (size_t at = 0; at < size && status == HYPURA_OK; at += MIN(utf8_size((uint8_t)text[at]), size - at)) {
        extend(v, best, text, size, at);
        status = tokenizer_step(t);
    }

    /* Follow the best sequence backwards, which yields the tokens in reverse. Adjacent unknown tokens become one. */
    size_t before = t->out->count;
    bool unknown_before = false;
    for (size_t at = size; at > 0 && status == HYPURA_OK; at = best[at].start) {
        bool unknown = best[at].token == v->special[SPECIAL_UNKNOWN];
        if (!(unknown && unknown_before) && best[at].token != NO_TOKEN)
            status = tokenizer_append(t, best[at].token);
        unknown_before = unknown;
    }
    memory_free(best);
    for (size_t low = before, high = t->out->count; status == HYPURA_OK && low + 1 < high; low++, high--) {
        int32_t swap = t->out->ids[low];
        t->out->ids[low] = t->out->ids[high - 1];
        t->out->ids[high - 1] = swap;
    }
    return status;
}
