/* split: cuts a text into words before byte pairs are merged, with the pre-tokenizers that tokenizer.ggml.pre names.
 *
 * A pre-tokenizer is a list of rules. The first rule cuts the text, and each further one cuts the pieces that the
 * previous one left. Each match is a piece, and so is the text between two matches. Most rules see one byte per
 * character: ASCII unchanged, any other character as its class (white space, number, letter, ...). llama.cpp matches
 * against the same bytes, so its peculiarities are reproduced ([^a-z] matches every letter outside ASCII); this is also
 * the fastest form. Rules that name characters outside ASCII see UTF-8.
 */
#ifndef HYPURA_MODEL_TOKENIZER_SPLIT_H
#define HYPURA_MODEL_TOKENIZER_SPLIT_H

#include "core/core.h"

enum pre_tokenizer_flag {
    PRE_WHOLE_WORDS = 1,       /* a word that is a token becomes that token without merging */
    PRE_ADD_BOS = 2,           /* add BOS, unless the file says otherwise */
    PRE_KEEP_SPACES = 4,       /* keep spaces before punctuation in decoded text */
    PRE_CHARACTERS = 8,        /* symbols are UTF-8 characters rather than bytes, with <0xXX> as the fallback */
    PRE_ESCAPE_SPACES = 16,    /* spaces are U+2581, as in SentencePiece */
    PRE_NO_BOS = 32,           /* there is no BOS unless the file names one */
    PRE_FORCE_BOS = 64,        /* add BOS, whatever the file says */
    PRE_HAN = 128,             /* the rules distinguish Chinese characters from other letters */
    PRE_JOINERS = 256,         /* the rules distinguish zero width joiners from other characters */
    PRE_SPACE_LINES = 1024,    /* insert a space before lines that begin without one */
    PRE_WHOLE_LINE_FEEDS = 512 /* as PRE_WHOLE_WORDS, but only for words of line feeds */
};

struct split_rule {
    const char *pattern;
    bool utf8; /* match UTF-8 instead of classes */
};

#define SPLIT_MAX_RULES 8

struct pre_tokenizer {
    const char *name;
    const struct split_rule *rules; /* ended by a rule whose pattern is NULL */
    uint32_t flags;
};

/* Returns NULL for an unknown name. Use the name "default" for files that name none. */
const struct pre_tokenizer *pre_tokenizer_find(const char *name, size_t size);

/* Writes the known names, separated by ", ", as far as they fit. Returns text. */
char *pre_tokenizer_list(char *text, size_t room);

/* The compiled rules of a pre-tokenizer. Read-only once created. */
struct splitter;

hypura_status splitter_create(struct splitter **out, const struct pre_tokenizer *pre, hypura_error *error);
void splitter_destroy(struct splitter *splitter);

/* A text cut into words. Zero-initialise it; it may be reused; release it with split_text_free. */
struct split_text {
    char *text; /* UTF-8; each byte that was not part of a character is replaced by U+FFFD */
    size_t size;
    size_t *ends; /* [count] where each word ends in text */
    size_t count;
    size_t text_capacity, end_capacity;
    uint8_t *classes;  /* one per character */
    uint32_t *offsets; /* of each character in text, and of the end */
    size_t class_capacity;
    uint32_t *pieces, *next_pieces; /* where pieces end, in characters */
    size_t piece_capacity;
    char *plain; /* a copy of text without surrogates, for UTF-8 rules */
    size_t plain_capacity;
};

/* Splits a text of at most SPLIT_MAX_TEXT bytes. watch may be NULL. */
#define SPLIT_MAX_TEXT ((size_t)1 << 30)
hypura_status splitter_run(const struct splitter *splitter, const char *text, size_t size,
                           const struct work_watch *watch, struct split_text *out, hypura_error *error);
void split_text_free(struct split_text *text);

/* ---- characters -------------------------------------------------------------------------------------------------- */

/* Reads one character of a text that need not be UTF-8. Surrogates count as characters, as in llama.cpp. Returns false,
 * with *length 1, if there is no valid character. size is at least 1. */
bool utf8_read(const char *text, size_t size, uint32_t *character, size_t *length);

/* Writes up to 4 bytes and returns their number. */
size_t utf8_write(char *text, uint32_t character);

/* Returns the length of a character from its first byte; 1 if the byte cannot start one. */
size_t utf8_size(uint8_t first);

bool utf8_is_space(uint32_t character);

/* Byte-level BPE represents every byte as one printable character, as in GPT-2. */
uint32_t character_of_byte(uint8_t byte);
int byte_of_character(uint32_t character); /* -1: represents no byte */

#endif
