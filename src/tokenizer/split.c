#include "tokenizer/split.h"
#include "tokenizer/tokenizer_private.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>
#include <utf8proc.h>

#define READ_CHARACTERS ((size_t)65536) /* characters between two calls of watch */

struct splitter {
    pcre2_code *codes[SPLIT_MAX_RULES];
    bool utf8[SPLIT_MAX_RULES];
    bool compiled[SPLIT_MAX_RULES]; /* by the JIT compiler */
    size_t count;
    bool han, joiners;
};

/* ---- characters -------------------------------------------------------------------------------------------------- */

size_t utf8_size(uint8_t first)
{
    return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

bool utf8_read(const char *text, size_t size, uint32_t *character, size_t *length)
{
    uint8_t first = (uint8_t)text[0];
    *length = 1;
    *character = first;
    if (first < 0x80)
        return true;
    size_t wanted = utf8_size(first);
    if (wanted == 1 || first >= 0xF8 || wanted > size)
        return false;
    uint32_t value = first & (0x7Fu >> wanted);
    for (size_t i = 1; i < wanted; i++) {
        if (((uint8_t)text[i] & 0xC0) != 0x80)
            return false;
        value = value << 6 | ((uint8_t)text[i] & 0x3F);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value > 0x10FFFF || value < least[wanted])
        return false;
    *character = value;
    *length = wanted;
    return true;
}

size_t utf8_write(char *text, uint32_t character)
{
    if (character < 0x80) {
        text[0] = (char)character;
        return 1;
    }
    size_t size = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--, character >>= 6)
        text[i] = (char)(0x80 | (character & 0x3F));
    text[0] = (char)((0xFF00u >> size & 0xFF) | character);
    return size;
}

bool utf8_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static bool is_printable(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

/* Printable bytes represent themselves. The other 68 (0 to 0x20, 0x7F to 0xA0, 0xAD) map to U+0100 and following. */
uint32_t character_of_byte(uint8_t byte)
{
    if (is_printable(byte))
        return byte;
    return byte <= 0x20 ? 0x100u + byte : byte == 0xAD ? 0x143u : 0x121u + (byte - 0x7Fu);
}

int byte_of_character(uint32_t c)
{
    if (c < 0x100)
        return is_printable(c) ? (int)c : -1;
    if (c <= 0x120)
        return (int)(c - 0x100);
    if (c <= 0x142)
        return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

static bool is_han(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2EBEF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

/* Returns the byte that class rules see for a character. */
static uint8_t classify(const struct splitter *splitter, uint32_t c)
{
    if (c < 0x80)
        return (uint8_t)c;
    if (utf8_is_space(c))
        return '\v';
    if (splitter->joiners && (c == 0x200C || c == 0x200D))
        return 0xD8;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    /* Characters of Unicode 15.1, which llama.cpp's tables have and those of utf8proc 2.8 lack. */
    if (c >= 0x2EBF0 && c <= 0x2EE5D)
        category = UTF8PROC_CATEGORY_LO;
    else if ((c >= 0x2FFC && c <= 0x2FFF) || c == 0x31EF)
        category = UTF8PROC_CATEGORY_SO;
    bool letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
    if (splitter->han && is_han(c))
        return letter ? 0xD6 : 0xD7;
    if (letter)
        return 0xD2;
    if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO)
        return 0xD1;
    if (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO)
        return 0xD3;
    if (category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME)
        return 0xD4;
    if (category >= UTF8PROC_CATEGORY_SM && category <= UTF8PROC_CATEGORY_SO)
        return 0xD5;
    return 0xD0;
}

/* ---- rules ------------------------------------------------------------------------------------------------------- */

hypura_status splitter_create(struct splitter **out, const struct pre_tokenizer *pre, hypura_error *error)
{
    struct splitter *splitter;
    hypura_status status = ALLOCATE(&splitter, 1, "pre-tokenizer", error);
    if (status != HYPURA_OK)
        return status;
    splitter->han = pre->flags & PRE_HAN;
    splitter->joiners = pre->flags & PRE_JOINERS;
    for (const struct split_rule *rule = pre->rules; rule->pattern; rule++) {
        size_t i = splitter->count++;
        int number;
        PCRE2_SIZE offset;
        uint32_t options = PCRE2_DOLLAR_ENDONLY | PCRE2_NO_AUTO_CAPTURE | (rule->utf8 ? PCRE2_UTF : 0);
        splitter->utf8[i] = rule->utf8;
        splitter->codes[i] =
            pcre2_compile((PCRE2_SPTR)rule->pattern, PCRE2_ZERO_TERMINATED, options, &number, &offset, NULL);
        if (!splitter->codes[i]) {
            char reason[128] = "";
            pcre2_get_error_message(number, (PCRE2_UCHAR *)reason, sizeof reason);
            status = error_set(error, HYPURA_ERROR_UNSUPPORTED,
                               "rule %zu of the pre-tokenizer '%s' does not compile with this PCRE2 (at %zu: %s)", i,
                               pre->name, (size_t)offset, reason);
            splitter_destroy(splitter);
            return status;
        }
        /* If the system forbids JIT code, PCRE2's interpreter gives the same matches, only slower. */
        splitter->compiled[i] = pcre2_jit_compile(splitter->codes[i], PCRE2_JIT_COMPLETE) == 0;
    }
    *out = splitter;
    return HYPURA_OK;
}

void splitter_destroy(struct splitter *splitter)
{
    if (!splitter)
        return;
    for (size_t i = 0; i < splitter->count; i++)
        pcre2_code_free(splitter->codes[i]);
    memory_free(splitter);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static hypura_status reserve(void *array, size_t *capacity, size_t wanted, size_t size, const struct work_watch *watch,
                             hypura_error *error)
{
    if (wanted <= *capacity)
        return HYPURA_OK;
    size_t grown = MAX(wanted, *capacity * 2);
    hypura_status status = tokenizer_borrow(watch, (grown - *capacity) * size, error);
    if (status == HYPURA_OK)
        status = memory_resize((void **)array, *capacity, grown, size, "text to tokenize", error);
    if (status == HYPURA_OK)
        *capacity = grown;
    return status;
}

/* Fills text, classes and offsets, and sets *count to the number of characters. */
static hypura_status read_text(const struct splitter *splitter, const char *text, size_t size, struct split_text *out,
                               size_t *count, bool *surrogates, const struct work_watch *watch, hypura_error *error)
{
    /* An invalid byte grows to the three bytes of U+FFFD. */
    hypura_status status = reserve(&out->text, &out->text_capacity, size * 3 + 4, 1, watch, error);
    if (status == HYPURA_OK && size + 1 > out->class_capacity) {
        size_t capacity = out->class_capacity;
        status = reserve(&out->classes, &capacity, size + 1, 1, watch, error);
        if (status == HYPURA_OK)
            status = reserve(&out->offsets, &out->class_capacity, size + 1, sizeof *out->offsets, watch, error);
    }
    if (status != HYPURA_OK)
        return status;
    size_t characters = 0, bytes = 0;
    for (size_t at = 0; at < size;) {
        if (characters % READ_CHARACTERS == 0 && (status = tokenizer_look(watch, error)) != HYPURA_OK)
            return status;
        uint32_t character;
        size_t length;
        out->offsets[characters] = (uint32_t)bytes;
        if ((uint8_t)text[at] < 0x80) {
            out->classes[characters++] = (uint8_t)text[at];
            out->text[bytes++] = text[at++];
            continue;
        }
        if (!utf8_read(text + at, size - at, &character, &length))
            character = 0xFFFD;
        if (character >= 0xD800 && character <= 0xDFFF)
            *surrogates = true;
        out->classes[characters++] = classify(splitter, character);
        bytes += utf8_write(out->text + bytes, character);
        at += length;
    }
    out->offsets[characters] = (uint32_t)bytes;
    out->size = bytes;
    *count = characters;
    return HYPURA_OK;
}

/* Copies the text and replaces surrogates by U+FFFD, because PCRE2 must get valid UTF-8. No rule names either. */
static hypura_status make_plain(struct split_text *out, const struct work_watch *watch, hypura_error *error)
{
    hypura_status status = reserve(&out->plain, &out->plain_capacity, out->size + 1, 1, watch, error);
    if (status != HYPURA_OK)
        return status;
    memcpy(out->plain, out->text, out->size);
    for (size_t i = 0; i + 2 < out->size; i++)
        if ((uint8_t)out->plain[i] == 0xED && (uint8_t)out->plain[i + 1] >= 0xA0)
            memcpy(out->plain + i, "\xEF\xBF\xBD", 3);
    return HYPURA_OK;
}

struct run {
    const struct splitter *splitter;
    size_t rule;
    struct split_text *text;
    const char *utf8;
    pcre2_match_data *match;
    size_t count; /* number of next_pieces */
    const struct work_watch *watch;
    uint32_t matches; /* so far, to pace the calls of watch */
    bool stopped;
};

/* Finds the first match at or after start. Returns 1 if found, 0 if not, or a negative error of PCRE2. */
static int match_once(const struct run *run, const char *subject, size_t size, size_t start)
{
    pcre2_code *code = run->splitter->codes[run->rule];
    int result = PCRE2_ERROR_JIT_STACKLIMIT;
    if (run->splitter->compiled[run->rule])
        result = pcre2_jit_match(code, (PCRE2_SPTR)subject, size, start, PCRE2_NO_UTF_CHECK, run->match, NULL);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
        result =
            pcre2_match(code, (PCRE2_SPTR)subject, size, start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, run->match, NULL);
    return result == PCRE2_ERROR_NOMATCH ? 0 : result < 0 ? result : 1;
}

static void add_piece(struct run *run, size_t end)
{
    run->text->next_pieces[run->count++] = (uint32_t)end;
}

/* Cuts the piece of characters [start, end). Returns 1, or an error as match_once. */
static int cut_piece(struct run *run, size_t start, size_t end)
{
    struct split_text *text = run->text;
    bool utf8 = run->splitter->utf8[run->rule];
    const uint32_t *offsets = text->offsets;
    const char *subject = utf8 ? run->utf8 + offsets[start] : (const char *)text->classes + start;
    size_t size = utf8 ? offsets[end] - offsets[start] : end - start;
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(run->match);
    size_t last = start;   /* end of the last piece */
    size_t walked = start; /* the character at the last byte offset looked up */
    for (size_t at = 0; at < size;) {
        run->stopped = ++run->matches % TOKENIZER_WATCHED_STEPS == 0 && !work_goes_on(run->watch);
        if (run->stopped)
            return -1;
        int result = match_once(run, subject, size, at);
        if (result < 0)
            return result;
        if (result == 0)
            break;
        size_t from = found[0], to = found[1];
        if (to <= from) { /* no rule matches the empty text; this guards against an endless loop */
            at = to + 1;
            continue;
        }
        at = to;
        if (utf8) {
            while (offsets[walked] - offsets[start] < from)
                walked++;
            from = walked;
            while (offsets[walked] - offsets[start] < to)
                walked++;
            to = walked;
        } else {
            from += start;
            to += start;
        }
        if (from > last)
            add_piece(run, from);
        add_piece(run, to);
        last = to;
    }
    if (last < end)
        add_piece(run, end);
    return 1;
}

hypura_status splitter_run(const struct splitter *splitter, const char *text, size_t size,
                           const struct work_watch *watch, struct split_text *out, hypura_error *error)
{
    out->count = 0;
    out->size = 0;
    if (size == 0)
        return HYPURA_OK;
    if (size > SPLIT_MAX_TEXT)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "a text of %zu bytes cannot be tokenized at once; the limit is %zu", size, SPLIT_MAX_TEXT);
    size_t characters;
    bool surrogates = false;
    hypura_status status = read_text(splitter, text, size, out, &characters, &surrogates, watch, error);
    if (status == HYPURA_OK && surrogates)
        status = make_plain(out, watch, error);
    if (status == HYPURA_OK && characters > out->piece_capacity) {
        size_t capacity = out->piece_capacity;
        status = reserve(&out->pieces, &capacity, characters, sizeof *out->pieces, watch, error);
        if (status == HYPURA_OK)
            status =
                reserve(&out->next_pieces, &out->piece_capacity, characters, sizeof *out->next_pieces, watch, error);
    }
    if (status != HYPURA_OK)
        return status;
    struct run run = {.splitter = splitter, .text = out, .utf8 = surrogates ? out->plain : out->text, .watch = watch};
    run.match = pcre2_match_data_create(1, NULL);
    if (!run.match)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for a match of the pre-tokenizer");
    size_t count = 1;
    out->pieces[0] = (uint32_t)characters;
    int result = 1;
    for (run.rule = 0; run.rule < splitter->count && result > 0; run.rule++) {
        run.count = 0;
        size_t start = 0;
        for (size_t i = 0; i < count && result > 0; i++) {
            result = cut_piece(&run, start, out->pieces[i]);
            start = out->pieces[i];
        }
        uint32_t *pieces = out->next_pieces;
        out->next_pieces = out->pieces;
        out->pieces = pieces;
        count = run.count;
    }
    pcre2_match_data_free(run.match);
    if (run.stopped)
        return error_set(error, HYPURA_ERROR_CANCELLED, "tokenizing was stopped");
    if (result < 0)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "the pre-tokenizer cannot split the text of %zu bytes (PCRE2 error %d)", size, result);
    status = reserve(&out->ends, &out->end_capacity, count, sizeof *out->ends, watch, error);
    for (size_t i = 0; status == HYPURA_OK && i < count; i++)
        out->ends[i] = out->offsets[out->pieces[i]];
    if (status == HYPURA_OK)
        out->count = count;
    return status;
}

void split_text_free(struct split_text *text)
{
    memory_free(text->text);
    memory_free(text->ends);
    memory_free(text->classes);
    memory_free(text->offsets);
    memory_free(text->pieces);
    memory_free(text->next_pieces);
    memory_free(text->plain);
    *text = (struct split_text){0};
}
