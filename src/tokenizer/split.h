/* How a text is cut into words before byte pairs are merged: the pre-tokenizers that tokenizer.ggml.pre names.
 *
 * A pre-tokenizer is a list of rules. The first cuts the text, each further one the pieces that the one before left; a
 * match is a piece, and so is what lies between two matches. Most rules see one byte a character: ASCII as it is, any
 * other character as its class (white space, number, letter, ...). That is what llama.cpp matches against, so its
 * particularities come out the same ([^a-z] holds for every letter outside ASCII), and it is also the fastest form. A
 * rule that names characters outside ASCII sees UTF-8.
 */
#ifndef HYPURA_MODEL_TOKENIZER_SPLIT_H
#define HYPURA_MODEL_TOKENIZER_SPLIT_H

#include "core/core.h"

enum pre_tokenizer_flag {
    PRE_WHOLE_WORDS = 1,       /* a word that is a token is not merged up from bytes */
    PRE_ADD_BOS = 2,           /* unless the file says otherwise */
    PRE_KEEP_SPACES = 4,       /* spaces before punctuation stay when tokens become text */
    PRE_CHARACTERS = 8,        /* symbols are UTF-8 characters, not bytes; bytes fall back to <0xXX> */
    PRE_ESCAPE_SPACES = 16,    /* spaces are U+2581, as in SentencePiece */
    PRE_NO_BOS = 32,           /* no BOS unless the file names one */
    PRE_FORCE_BOS = 64,        /* whatever the file says */
    PRE_HAN = 128,             /* the rule tells Chinese characters from other letters */
    PRE_JOINERS = 256,         /* the rule tells zero width joiners from other characters */
    PRE_SPACE_LINES = 1024,    /* a line that begins without a space gets one */
    PRE_WHOLE_LINE_FEEDS = 512 /* a word of line feeds only is one token if there is one */
};

struct split_rule {
    const char *pattern;
    bool utf8; /* sees UTF-8 instead of classes */
};

#define SPLIT_MAX_RULES 8

struct pre_tokenizer {
    const char *name;
    const struct split_rule *rules; /* the pattern behind the last is NULL */
    uint32_t flags;
};

/* NULL when the name is not known. The name "default" is for files that name none. */
const struct pre_tokenizer *pre_tokenizer_find(const char *name, size_t size);

/* The names, separated by ", ", as far as they fit; returns text. */
char *pre_tokenizer_list(char *text, size_t room);

/* The compiled rules. Read-only once created. */
struct splitter;

hypura_status splitter_create(struct splitter **out, const struct pre_tokenizer *pre, hypura_error *error);
void splitter_destroy(struct splitter *splitter);

/* A text cut into words. Zero-initialise; free when done; may be used again. */
struct split_text {
    char *text; /* UTF-8: every byte that is not part of a character has become U+FFFD */
    size_t size;
    size_t *ends; /* of each word, in text */
    size_t count;
    size_t text_capacity, end_capacity;
    uint8_t *classes;  /* one a character */
    uint32_t *offsets; /* of each character in text, and the end */
    size_t class_capacity;
    uint32_t *pieces, *next_pieces; /* ends in characters */
    size_t piece_capacity;
    char *plain; /* text for UTF-8 rules when text holds surrogates */
    size_t plain_capacity;
};

/* size is at most SPLIT_MAX_TEXT. watch may be NULL. */
#define SPLIT_MAX_TEXT ((size_t)1 << 30)
hypura_status splitter_run(const struct splitter *splitter, const char *text, size_t size,
                           const struct work_watch *watch, struct split_text *out, hypura_error *error);
void split_text_free(struct split_text *text);

/* ---- characters -------------------------------------------------------------------------------------------------- */

/* One character of a text that need not be UTF-8. Surrogates are taken for characters, as llama.cpp takes them. False,
 * and one byte, when it is none. size is at least 1. */
bool utf8_read(const char *text, size_t size, uint32_t *character, size_t *length);

/* Writes up to 4 bytes, returns how many. */
size_t utf8_write(char *text, uint32_t character);

/* Bytes that a character takes by its first byte; a byte that starts none counts as one. */
size_t utf8_size(uint8_t first);

bool utf8_is_space(uint32_t character);

/* Byte-level BPE writes every byte as one printable character (as GPT-2 does). */
uint32_t character_of_byte(uint8_t byte);
int byte_of_character(uint32_t character); /* -1: stands for no byte */

#endif
