/* vocabulary: the tokens of a GGUF file, text into tokens and tokens into text.
 *
 * Four kinds are known, by tokenizer.ggml.model: SentencePiece ("llama"), byte-level BPE ("gpt2", and "gemma4", whose
 * symbols are characters), WordPiece ("bert") and Unigram ("t5"). Ids are those of llama.cpp for every text; where a
 * rule exists only because llama.cpp has it, the code says so.
 *
 * The texts of the tokens are not copied: they live in the struct gguf, which must stay open as long as the vocabulary.
 * A vocabulary is read-only after vocabulary_open; every function may be called from any thread at the same time.
 * A file is not trusted: ids out of range, merges of unknown tokens, empty tokens or tokens that are not UTF-8 end in
 * an error or in tokens that never match, never in a read outside the tables.
 */
#ifndef HYPURA_MODEL_VOCABULARY_H
#define HYPURA_MODEL_VOCABULARY_H

#include "core/core.h"
#include "format/format.h"

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

#define NO_TOKEN (-1)

enum vocabulary_kind { VOCABULARY_SENTENCEPIECE, VOCABULARY_BPE, VOCABULARY_WORDPIECE, VOCABULARY_UNIGRAM };

/* What a token is; several may be set. From tokenizer.ggml.token_type, corrected by what is known of the text. */
enum token_attribute {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 4,      /* made by templates; hidden in output, never made from plain text */
    TOKEN_USER_DEFINED = 8, /* found in text before everything else; shown in output */
    TOKEN_BYTE = 16,
    TOKEN_UNUSED = 32,
    TOKEN_STRIP_LEFT = 64,  /* swallows the white space before it */
    TOKEN_STRIP_RIGHT = 128 /* and after it */
};

enum special_token {
    SPECIAL_BOS,
    SPECIAL_EOS,
    SPECIAL_EOT, /* end of a turn */
    SPECIAL_EOM, /* end of a message that is not the end of a turn */
    SPECIAL_UNKNOWN,
    SPECIAL_SEPARATOR,
    SPECIAL_PADDING,
    SPECIAL_MASK,
    SPECIAL_FIM_PREFIX, /* fill in the middle */
    SPECIAL_FIM_SUFFIX,
    SPECIAL_FIM_MIDDLE,
    SPECIAL_FIM_PADDING,
    SPECIAL_FIM_REPOSITORY,
    SPECIAL_FIM_SEPARATOR,
    SPECIAL_LINE_FEED, /* the first token of "\n" */
    SPECIAL_COUNT
};

struct vocabulary;

/* Reads the vocabulary of a file. A file without one, of an unknown kind or with an unknown pre-tokenizer gets a
 * sentence that names what was found and lists what is known. */
hypura_status vocabulary_open(struct vocabulary **out, const struct gguf *file, hypura_error *error);
void vocabulary_close(struct vocabulary *vocabulary);

enum vocabulary_kind vocabulary_kind(const struct vocabulary *vocabulary);
const char *vocabulary_pre_tokenizer(const struct vocabulary *vocabulary); /* "qwen2"; "" for kinds without one */
uint32_t vocabulary_size(const struct vocabulary *vocabulary);

/* Of one token; id out of range gives an empty text, 0 and no attributes. */
struct gguf_string vocabulary_text(const struct vocabulary *vocabulary, int32_t id); /* as the file has it */
float vocabulary_score(const struct vocabulary *vocabulary, int32_t id);
uint32_t vocabulary_attributes(const struct vocabulary *vocabulary, int32_t id);

/* The token whose text in the file is exactly this, or NO_TOKEN. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t size);

/* NO_TOKEN when the model has none. */
int32_t vocabulary_special(const struct vocabulary *vocabulary, enum special_token which);

/* Whether generation stops after this token: EOS, EOT, EOM and the tokens that are known by their text. */
bool vocabulary_is_end_of_generation(const struct vocabulary *vocabulary, int32_t id);

/* Whether the model wants a BOS before a text, an EOS behind it. */
bool vocabulary_adds_bos(const struct vocabulary *vocabulary);
bool vocabulary_adds_eos(const struct vocabulary *vocabulary);
/* And a separator: in front of it of two texts one ends, behind a single text. */
bool vocabulary_adds_separator(const struct vocabulary *vocabulary);

/* ---- text to tokens ---------------------------------------------------------------------------------------------- */

/* Zero-initialise; functions append to it. */
struct token_array {
    int32_t *ids;
    size_t count;
    size_t capacity;
};

hypura_status token_array_append(struct token_array *array, int32_t id, hypura_error *error);
void token_array_free(struct token_array *array);

enum tokenize_flag {
    TOKENIZE_ADD_SPECIAL = 1,  /* BOS, EOS, separator, as the model asks */
    TOKENIZE_PARSE_SPECIAL = 2 /* the text of a control token becomes that token; else it is plain text */
};

/* Appends the tokens of a text of at most 256 MiB; it may hold NULs and need not be UTF-8. On failure the array is as
 * it was. User-defined tokens of the file are found in any text: to the model they are words. */
hypura_status vocabulary_tokenize(const struct vocabulary *vocabulary, const char *text, size_t size, uint32_t flags,
                                  struct token_array *tokens, hypura_error *error);

/* For somebody who may stop waiting: watch (or NULL) is asked some hundred times per second. It lends some 20 bytes per
 * byte of the text, and some 60 per byte of its longest word. */
hypura_status vocabulary_tokenize_watched(const struct vocabulary *vocabulary, const char *text, size_t size,
                                          uint32_t flags, const struct work_watch *watch, struct token_array *tokens,
                                          hypura_error *error);

/* As vocabulary_tokenize_watched with TOKENIZE_PARSE_SPECIAL of a rendered chat prompt, but no special token is made
 * from bytes of which any lies in one of the plain ranges (user content; ascending, not overlapping, inside the text).
 * In them also those tokens are text that the file marks as control tokens and that plain text otherwise may make
 * (<|start|> of gpt-oss), so that no user content can end its turn or begin another. */
hypura_status vocabulary_tokenize_ranges(const struct vocabulary *vocabulary, const char *text, size_t size,
                                         uint32_t flags, const struct text_range *plain, size_t plain_count,
                                         const struct work_watch *watch, struct token_array *tokens,
                                         hypura_error *error);

/* ---- tokens to text ---------------------------------------------------------------------------------------------- */

enum detokenize_flag {
    DETOKENIZE_SHOW_SPECIAL = 1,  /* the text of control tokens too */
    DETOKENIZE_REMOVE_SPECIAL = 2 /* leave out the BOS and EOS that the model asks for */
};

/* Appends the bytes of one token. They may be part of a UTF-8 character. */
void vocabulary_piece(const struct vocabulary *vocabulary, int32_t id, bool show_special, struct buffer *out);

/* Appends the text of a whole sequence: the pieces, less the space that SentencePiece puts before a text, and with the
 * spaces before punctuation removed where the tokenizer asks for it. Ids out of range have no text. */
void vocabulary_detokenize(const struct vocabulary *vocabulary, const int32_t *ids, size_t count, uint32_t flags,
                           struct buffer *out);

/* Pieces one by one as whole UTF-8 characters. Bytes that may be the start of a character wait for the next token;
 * bytes that cannot become one are given out as U+FFFD. No memory of its own: copy it, drop it. */
struct token_decoder {
    const struct vocabulary *vocabulary;
    bool show_special;
    uint8_t held_size;
    char held[4];
};

void token_decoder_start(struct token_decoder *decoder, const struct vocabulary *vocabulary, bool show_special);
void token_decoder_push(struct token_decoder *decoder, int32_t id, struct buffer *out);
void token_decoder_finish(struct token_decoder *decoder, struct buffer *out); /* what is held becomes U+FFFD */

#endif
