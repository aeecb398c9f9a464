/* vocabulary: the tokens of a GGUF file; converts text to tokens and tokens to text.
 *
 * tokenizer.ggml.model selects one of four kinds: SentencePiece ("llama"), byte-level BPE ("gpt2", and "gemma4", whose
 * symbols are characters), WordPiece ("bert") and Unigram ("t5"). Every text gets the same ids as in llama.cpp;
 * comments point out rules that exist only for this reason.
 *
 * Ownership: a vocabulary borrows the texts of its tokens from the struct gguf, which must stay open as long as the
 * vocabulary. Threads: a vocabulary is read-only after vocabulary_open; any thread may call any function at any time.
 * Files are not trusted: ids out of range, merges of unknown tokens, empty tokens and tokens that are not UTF-8 cause
 * errors or tokens that never match, but never a read outside the tables.
 */
#ifndef HYPURA_MODEL_VOCABULARY_H
#define HYPURA_MODEL_VOCABULARY_H

#include "core/core.h"
#include "format/format.h"

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

#define NO_TOKEN (-1)

enum vocabulary_kind { VOCABULARY_SENTENCEPIECE, VOCABULARY_BPE, VOCABULARY_WORDPIECE, VOCABULARY_UNIGRAM };

/* Attributes of a token; several may be set. They come from tokenizer.ggml.token_type, with corrections for tokens
 * whose text is known. */
enum token_attribute {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 4,      /* written by templates; hidden in output, never parsed from plain text */
    TOKEN_USER_DEFINED = 8, /* found in text before all other tokens; shown in output */
    TOKEN_BYTE = 16,
    TOKEN_UNUSED = 32,
    TOKEN_STRIP_LEFT = 64,  /* removes the white space before it */
    TOKEN_STRIP_RIGHT = 128 /* removes the white space after it */
};

enum special_token {
    SPECIAL_BOS,
    SPECIAL_EOS,
    SPECIAL_EOT, /* end of a turn */
    SPECIAL_EOM, /* end of a message within a turn */
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

/* Reads the vocabulary of a file. Fails if there is none, or if its kind or pre-tokenizer is unknown; the message then
 * names it and lists the known ones. */
hypura_status vocabulary_open(struct vocabulary **out, const struct gguf *file, hypura_error *error);
void vocabulary_close(struct vocabulary *vocabulary);

enum vocabulary_kind vocabulary_kind(const struct vocabulary *vocabulary);
const char *vocabulary_pre_tokenizer(const struct vocabulary *vocabulary); /* "qwen2"; "" for kinds without one */
uint32_t vocabulary_size(const struct vocabulary *vocabulary);

/* The text, score and attributes of a token. For an id out of range: an empty text, 0 and no attributes. */
struct gguf_string vocabulary_text(const struct vocabulary *vocabulary, int32_t id); /* as in the file */
float vocabulary_score(const struct vocabulary *vocabulary, int32_t id);
uint32_t vocabulary_attributes(const struct vocabulary *vocabulary, int32_t id);

/* Returns the token whose text in the file is exactly this, or NO_TOKEN. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t size);

/* Returns NO_TOKEN if the model has none. */
int32_t vocabulary_special(const struct vocabulary *vocabulary, enum special_token which);

/* Whether generation stops after this token: EOS, EOT, EOM and others that are known by their text. */
bool vocabulary_is_end_of_generation(const struct vocabulary *vocabulary, int32_t id);

/* Whether the model expects BOS before a text and EOS after it. */
bool vocabulary_adds_bos(const struct vocabulary *vocabulary);
bool vocabulary_adds_eos(const struct vocabulary *vocabulary);
/* Whether the model expects a separator: between two texts, or after a single one. */
bool vocabulary_adds_separator(const struct vocabulary *vocabulary);

/* ---- text to tokens ---------------------------------------------------------------------------------------------- */

/* Zero-initialise it; functions append to it. */
struct token_array {
    int32_t *ids;
    size_t count;
    size_t capacity;
};

hypura_status token_array_append(struct token_array *array, int32_t id, hypura_error *error);
void token_array_free(struct token_array *array);

enum tokenize_flag {
    TOKENIZE_ADD_SPECIAL = 1,  /* add BOS, EOS and separator as the model expects */
    TOKENIZE_PARSE_SPECIAL = 2 /* turn the text of control tokens into these tokens; otherwise it is plain text */
};

/* Appends the tokens of a text of at most 256 MiB, which may contain NULs and need not be UTF-8. Leaves the array
 * unchanged on failure. User-defined tokens are found in any text: to the model they are words. */
hypura_status vocabulary_tokenize(const struct vocabulary *vocabulary, const char *text, size_t size, uint32_t flags,
                                  struct token_array *tokens, hypura_error *error);

/* Like vocabulary_tokenize, but watch (or NULL) is called some hundred times per second and can stop the call. watch is
 * also asked for memory: about 20 bytes per byte of the text, and about 60 per byte of its longest word. */
hypura_status vocabulary_tokenize_watched(const struct vocabulary *vocabulary, const char *text, size_t size,
                                          uint32_t flags, const struct work_watch *watch, struct token_array *tokens,
                                          hypura_error *error);

/* Like vocabulary_tokenize_watched with TOKENIZE_PARSE_SPECIAL, for a rendered chat prompt. plain: the ranges of user
 * content, ascending, not overlapping and inside the text. Bytes in these ranges never become special tokens, not even
 * those that plain text can otherwise produce although the file marks them as control tokens (<|start|> of gpt-oss). So
 * user content can neither end its turn nor begin another. */
hypura_status vocabulary_tokenize_ranges(const struct vocabulary *vocabulary, const char *text, size_t size,
                                         uint32_t flags, const struct text_range *plain, size_t plain_count,
                                         const struct work_watch *watch, struct token_array *tokens,
                                         hypura_error *error);

/* ---- tokens to text ---------------------------------------------------------------------------------------------- */

enum detokenize_flag {
    DETOKENIZE_SHOW_SPECIAL = 1,  /* include the text of control tokens */
    DETOKENIZE_REMOVE_SPECIAL = 2 /* leave out the BOS and EOS that the model expects */
};

/* Appends the bytes of one token, which may be only a part of a UTF-8 character. */
void vocabulary_piece(const struct vocabulary *vocabulary, int32_t id, bool show_special, struct buffer *out);

/* Appends the text of a whole sequence: its pieces without the space that SentencePiece puts before a text, and, for
 * some tokenizers, without spaces before punctuation. Ids out of range have no text. */
void vocabulary_detokenize(const struct vocabulary *vocabulary, const int32_t *ids, size_t count, uint32_t flags,
                           struct buffer *out);

/* Turns tokens into whole UTF-8 characters one by one. Bytes that may be the start of a character wait for the next
 * token; bytes that cannot become a character are replaced by U+FFFD. It owns no memory, so it may be copied and need
 * not be freed. */
struct token_decoder {
    const struct vocabulary *vocabulary;
    bool show_special;
    uint8_t held_size;
    char held[4];
};

void token_decoder_start(struct token_decoder *decoder, const struct vocabulary *vocabulary, bool show_special);
void token_decoder_push(struct token_decoder *decoder, int32_t id, struct buffer *out);
void token_decoder_finish(struct token_decoder *decoder, struct buffer *out); /* held bytes become U+FFFD */

#endif
