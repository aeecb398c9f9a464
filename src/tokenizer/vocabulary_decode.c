/* Turns tokens into text. */
#include "tokenizer/vocabulary_private.h"

#include <string.h>

/* ---- one token --------------------------------------------------------------------------------------------------- */

static int hexadecimal(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* Appends the byte of a token such as "<0x0A>". */
static void append_byte_token(struct gguf_string text, struct buffer *out)
{
    int high = text.size > 4 ? hexadecimal(text.data[3]) : -1;
    int low = text.size > 4 ? hexadecimal(text.data[4]) : -1;
    if (high >= 0 && low >= 0)
        buffer_append_char(out, (char)(high << 4 | low));
}

static void append_unescaped(struct gguf_string text, struct buffer *out)
{
    for (size_t at = 0; at < text.size;) {
        const char *space = memmem(text.data + at, text.size - at, SPACE_SYMBOL, SPACE_SYMBOL_SIZE);
        size_t length = space ? (size_t)(space - text.data) - at : text.size - at;
        buffer_append(out, text.data + at, length);
        at += length;
        if (space) {
            buffer_append_char(out, ' ');
            at += SPACE_SYMBOL_SIZE;
        }
    }
}

/* Turns characters back into the bytes that they represent. A character that represents none is shown as in llama.cpp,
 * together with the whole token. In absurdly long tokens it is copied unchanged, because these messages would grow with
 * the square of the length. */
static void append_bytes_of_characters(struct gguf_string text, struct buffer *out)
{
    const size_t longest = 2048;
    for (size_t at = 0; at < text.size;) {
        uint32_t character;
        size_t length;
        if (!utf8_read(text.data + at, text.size - at, &character, &length))
            character = 0xFFFD;
        at += length;
        int byte = byte_of_character(character);
        if (byte >= 0) {
            buffer_append_char(out, (char)byte);
            continue;
        }
        char bytes[4];
        size_t size = utf8_write(bytes, character);
        if (text.size > longest) {
            buffer_append(out, bytes, size);
            continue;
        }
        buffer_append_string(out, "[UNK_BYTE_0x");
        for (size_t i = 0; i < size; i++)
            buffer_append_format(out, "%02x", (uint8_t)bytes[i]);
        buffer_append(out, text.data, text.size);
        buffer_append_char(out, ']');
    }
}

void vocabulary_piece(const struct vocabulary *v, int32_t id, bool show_special, struct buffer *out)
{
    uint32_t attributes = vocabulary_attributes(v, id);
    struct gguf_string text = vocabulary_text(v, id);
    if (attributes & (TOKEN_CONTROL | TOKEN_UNKNOWN)) {
        if (show_special)
            buffer_append(out, text.data, text.size);
    } else if (attributes & TOKEN_USER_DEFINED) {
        buffer_append(out, text.data, text.size);
    } else if (attributes & TOKEN_NORMAL) {
        if (v->kind == VOCABULARY_BPE && !v->escape_spaces)
            append_bytes_of_characters(text, out);
        else
            append_unescaped(text, out);
    } else if (attributes & TOKEN_BYTE) {
        append_byte_token(text, out);
    }
}

/* ---- sequences -------------------------------------------------------------------------------------------------- */

/* The three passes of clean_up_tokenization_spaces. Each keeps or drops the space before a character, and decides by
 * the text as it was before the pass. */

static size_t drop_before_punctuation(char *text, size_t size)
{
    size_t kept = size ? 1 : 0;
    for (size_t i = 1; i < size; i++) {
        char c = text[i];
        if (text[i - 1] == ' ' && (c == '?' || c == '!' || c == '.' || c == ','))
            kept--;
        text[kept++] = c;
    }
    return kept;
}

/* Turns " ' " into "'". */
static size_t drop_around_apostrophe(char *text, size_t size)
{
    size_t kept = size ? 1 : 0;
    for (size_t i = 1; i < size; i++) {
        char c = text[i];
        if (c == '\'' && i + 1 < size && text[i - 1] == ' ' && text[i + 1] == ' ') {
            kept--;
            text[++i] = 0; /* so the next character does not see a space */
        }
        text[kept++] = c;
    }
    return kept;
}

/* Drops the space in " 's", " 'm", " 're" and " 've". */
static size_t drop_before_contraction(char *text, size_t size)
{
    size_t kept = size ? 1 : 0;
    for (size_t i = 1; i < size; i++) {
        char c = text[i];
        if (c == '\'' && text[i - 1] == ' ' && i + 1 < size) {
            char next = text[i + 1], after = i + 2 < size ? text[i + 2] : 0;
            if (next == 's' || next == 'm' || ((next == 'r' || next == 'v') && after == 'e'))
                kept--;
        }
        text[kept++] = c;
    }
    return kept;
}

void vocabulary_detokenize(const struct vocabulary *v, const int32_t *ids, size_t count, uint32_t flags,
                           struct buffer *out)
{
    bool strip = v->add_space_prefix;
    if ((flags & DETOKENIZE_REMOVE_SPECIAL) && v->add_bos && count && ids[0] == v->special[SPECIAL_BOS]) {
        strip = false;
        ids++;
        count--;
    }
    if ((flags & DETOKENIZE_REMOVE_SPECIAL) && v->add_eos && count && ids[count - 1] == v->special[SPECIAL_EOS])
        count--;
    size_t start = out->size;
    for (size_t i = 0; i < count; i++) {
        vocabulary_piece(v, ids[i], flags & DETOKENIZE_SHOW_SPECIAL, out);
        /* Strip only the first token's space, which SentencePiece adds. */
        if (i == 0 && strip && out->size > start && out->data[start] == ' ') {
            out->size--;
            memmove(out->data + start, out->data + start + 1, out->size - start);
        }
    }
    if (v->clean_spaces && out->size > start) {
        size_t size = drop_before_punctuation(out->data + start, out->size - start);
        size = drop_around_apostrophe(out->data + start, size);
        size = drop_before_contraction(out->data + start, size);
        out->size = start + size;
    }
    if (out->data)
        out->data[out->size] = 0;
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

void token_decoder_start(struct token_decoder *decoder, const struct vocabulary *v, bool show_special)
{
    *decoder = (struct token_decoder){.vocabulary = v, .show_special = show_special};
}

static void append_replacement(struct buffer *out)
{
    buffer_append(out, "\xEF\xBF\xBD", 3);
}

/* Whether a byte may follow the held bytes: overlong forms, surrogates and characters above U+10FFFF are excluded. */
static bool may_follow(const struct token_decoder *decoder, uint8_t byte)
{
    uint8_t first = (uint8_t)decoder->held[0];
    if (decoder->held_size == 1) {
        uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
        uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
        return byte >= low && byte <= high;
    }
    return byte >= 0x80 && byte <= 0xBF;
}

static void push_byte(struct token_decoder *decoder, uint8_t byte, struct buffer *out)
{
    if (decoder->held_size && !may_follow(decoder, byte)) {
        append_replacement(out);
        decoder->held_size = 0;
    }
    if (decoder->held_size == 0 && byte < 0x80) {
        buffer_append_char(out, (char)byte);
    } else if (decoder->held_size == 0 && (byte < 0xC2 || byte > 0xF4)) {
        append_replacement(out);
    } else {
        decoder->held[decoder->held_size++] = (char)byte;
        if (decoder->held_size == utf8_size((uint8_t)decoder->held[0])) {
            buffer_append(out, decoder->held, decoder->held_size);
            decoder->held_size = 0;
        }
    }
}

void token_decoder_push(struct token_decoder *decoder, int32_t id, struct buffer *out)
{
    struct buffer piece = {0};
    vocabulary_piece(decoder->vocabulary, id, decoder->show_special, &piece);
    if (piece.failed)
        out->failed = true;
    for (size_t i = 0; i < piece.size; i++)
        push_byte(decoder, (uint8_t)piece.data[i], out);
    buffer_free(&piece);
}

void token_decoder_finish(struct token_decoder *decoder, struct buffer *out)
{
    if (decoder->held_size)
        append_replacement(out);
    decoder->held_size = 0;
}
