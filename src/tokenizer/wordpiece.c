/* WordPiece, as in BERT: normalises the text, splits it at white space and punctuation, then repeatedly takes the
 * longest token from the left of each word. */
#include "tokenizer/tokenizer_private.h"

#include <string.h>
#include <utf8proc.h>

/* Longer tokens are not searched for: no real vocabulary has them, and a hostile one would cost a look-up for every
 * length at every byte. */
#define LONGEST_PIECE ((size_t)1024)

static bool is_chinese(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
           (c >= 0x2F800 && c <= 0x2FA1F);
}

/* Removes accents: returns the first character of the canonical decomposition. */
static uint32_t without_accents(uint32_t c)
{
    utf8proc_int32_t decomposed[32];
    int boundary = 0;
    utf8proc_ssize_t count =
        utf8proc_decompose_char((utf8proc_int32_t)c, decomposed, 32, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
    return count > 0 && count <= 32 ? (uint32_t)decomposed[0] : c;
}

/* Appends the tokens of a word, which begins with the space symbol as in token texts. */
static hypura_status append_word(struct tokenizer *t, const struct buffer *word)
{
    const struct vocabulary *v = t->vocabulary;
    if (word->failed)
        return error_set(t->error, HYPURA_ERROR_MEMORY, "no memory for a word of %zu bytes", word->size);
    if (word->size == SPACE_SYMBOL_SIZE)
        return HYPURA_OK;
    size_t before = t->out->count;
    size_t longest = MIN(v->longest_token + 1, LONGEST_PIECE);
    for (size_t at = 0; at < word->size;) {
        int32_t id = NO_TOKEN;
        size_t length = MIN(longest, word->size - at);
        for (; length > 0; length--) {
            id = tokenizer_find(t, word->data + at, length);
            if (id != NO_TOKEN)
                break;
        }
        if (id == NO_TOKEN) { /* a word with an unknown part is unknown as a whole */
            t->out->count = before;
            break;
        }
        hypura_status status = tokenizer_append(t, id);
        if (status != HYPURA_OK)
            return status;
        at += length;
    }
    if (t->out->count == before && v->special[SPECIAL_UNKNOWN] != NO_TOKEN)
        return tokenizer_append(t, v->special[SPECIAL_UNKNOWN]);
    return HYPURA_OK;
}

static void begin_word(struct buffer *word)
{
    buffer_clear(word);
    buffer_append(word, SPACE_SYMBOL, SPACE_SYMBOL_SIZE);
}

static hypura_status end_word(struct tokenizer *t)
{
    hypura_status status = append_word(t, &t->text);
    begin_word(&t->text);
    return status;
}

hypura_status tokenize_wordpiece(struct tokenizer *t, const char *text, size_t size)
{
    const struct vocabulary *v = t->vocabulary;
    hypura_status status = HYPURA_OK;
    begin_word(&t->text);
    for (size_t at = 0; at < size && status == HYPURA_OK;) {
        uint32_t c;
        size_t length;
        if (!utf8_read(text + at, size - at, &c, &length))
            c = 0xFFFD;
        at += length;
        status = tokenizer_step(t);
        if (status != HYPURA_OK)
            break;
        if (v->strip_accents)
            c = without_accents(c);
        if (utf8_is_space(c)) {
            status = end_word(t);
            continue;
        }
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
        bool control = category >= UTF8PROC_CATEGORY_CC;
        bool mark = category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
        if (c == 0 || c == 0xFFFD || control || (v->strip_accents && mark))
            continue;
        bool alone = (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO) || is_chinese(c) ||
                     (c < 0x7F && category >= UTF8PROC_CATEGORY_SM && category <= UTF8PROC_CATEGORY_SO);
        char bytes[4];
        size_t bytes_size = utf8_write(bytes, v->lowercase ? (uint32_t)utf8proc_tolower((utf8proc_int32_t)c) : c);
        if (alone)
            status = end_word(t);
        buffer_append(&t->text, bytes, bytes_size);
        if (alone && status == HYPURA_OK)
            status = end_word(t);
    }
    return status == HYPURA_OK ? end_word(t) : status;
}
