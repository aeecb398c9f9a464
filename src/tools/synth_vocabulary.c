/* A tokenizer for a synthetic model: bytes, special tokens with the ids of real models, common English words and, up to
 * the requested size, made-up words of two syllables. Merges of shorter tokens form every word.
 */
#include "tokenizer/split.h"
#include "tools/synth_private.h"

#include <stdio.h>
#include <string.h>

enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 };

#define NO_TOKEN UINT32_MAX

struct synth_vocabulary {
    enum synth_tokenizer kind;
    uint32_t size, count;
    uint32_t first_word, end_word;
    uint32_t bos, eos; /* NO_TOKEN: none */
    struct buffer text;
    struct buffer merge_text;
    size_t *starts; /* [size + 1] into text */
    int32_t *types;
    float *scores;
    size_t *merge_starts; /* [size + 1] into merge_text */
    uint32_t merge_count;
    uint32_t *table; /* index of the tokens with open addressing, to avoid duplicates */
    uint32_t table_size;
};

static const char *const words[] = {
    "the",    "of",    "and",     "to",      "in",      "is",    "you",     "that",   "it",     "he",     "was",
    "for",    "on",    "are",     "as",      "with",    "his",   "they",    "at",     "be",     "this",   "have",
    "from",   "or",    "one",     "had",     "by",      "word",  "but",     "not",    "what",   "all",    "were",
    "we",     "when",  "your",    "can",     "said",    "there", "use",     "an",     "each",   "which",  "she",
    "do",     "how",   "their",   "if",      "will",    "up",    "other",   "about",  "out",    "many",   "then",
    "them",   "these", "so",      "some",    "her",     "would", "make",    "like",   "him",    "into",   "time",
    "has",    "look",  "two",     "more",    "write",   "go",    "see",     "number", "no",     "way",    "could",
    "people", "my",    "than",    "first",   "water",   "been",  "call",    "who",    "its",    "now",    "find",
    "long",   "down",  "day",     "did",     "get",     "come",  "made",    "may",    "part",   "over",   "new",
    "sound",  "take",  "only",    "little",  "work",    "know",  "place",   "year",   "live",   "me",     "back",
    "give",   "most",  "very",    "after",   "thing",   "our",   "just",    "name",   "good",   "man",    "think",
    "say",    "great", "where",   "help",    "through", "much",  "before",  "line",   "right",  "too",    "mean",
    "old",    "any",   "same",    "tell",    "follow",  "came",  "want",    "show",   "also",   "around", "form",
    "three",  "small", "set",     "put",     "end",     "does",  "another", "well",   "large",  "must",   "big",
    "even",   "such",  "because", "turn",    "here",    "why",   "ask",     "went",   "men",    "read",   "need",
    "land",   "move",  "try",     "kind",    "hand",    "again", "change",  "off",    "play",   "air",    "away",
    "house",  "point", "page",    "answer",  "found",   "study", "still",   "learn",  "should", "world",  "high",
    "every",  "near",  "add",     "food",    "between", "own",   "below",   "light",  "last",   "never",  "start",
    "city",   "earth", "eye",     "thought", "head",    "under", "story",   "left",   "while",  "along",  "might",
    "close",  "night", "real",    "life",    "few",     "north", "open",    "memory", "model",  "file",   "disk",
    "expert", "layer", "token",   "ing",     "tion",    "er",    "ed",      "ly",
};

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

/* Returns the slot of the token with this text, or the free slot where it would go. */
static uint32_t *find_slot(const struct synth_vocabulary *v, const char *text, size_t size)
{
    uint64_t hash = fnv1a(FNV1A_START, text, size);
    uint32_t place = (uint32_t)(hash ^ hash >> 32) & (v->table_size - 1);
    for (;; place = (place + 1) & (v->table_size - 1)) {
        uint32_t token = v->table[place];
        if (token == NO_TOKEN || (v->starts[token + 1] - v->starts[token] == size &&
                                  memcmp(v->text.data + v->starts[token], text, size) == 0))
            return &v->table[place];
    }
}

static bool has_token(const struct synth_vocabulary *v, const char *text, size_t size)
{
    return *find_slot(v, text, size) != NO_TOKEN;
}

/* Adds a token unless it exists already. */
static void add_token(struct synth_vocabulary *v, const char *text, size_t size, enum token_type type)
{
    if (v->text.failed || v->count == v->size || has_token(v, text, size))
        return;
    buffer_append(&v->text, text, size);
    if (v->text.failed)
        return;
    v->starts[v->count + 1] = v->text.size;
    v->types[v->count] = type;
    v->scores[v->count] = type == TOKEN_NORMAL ? -(float)v->count : 0;
    *find_slot(v, text, size) = v->count;
    v->count++;
}

/* Adds the token that two existing ones merge into. */
static void add_merge(struct synth_vocabulary *v, const char *left, const char *right, uint32_t end)
{
    char text[64];
    int size = snprintf(text, sizeof text, "%s%s", left, right);
    if (v->count >= end || has_token(v, text, (size_t)size))
        return;
    add_token(v, text, (size_t)size, TOKEN_NORMAL);
    buffer_append_format(&v->merge_text, "%s %s", left, right);
    v->merge_starts[++v->merge_count] = v->merge_text.size;
}

static void add_bytes(struct synth_vocabulary *v)
{
    char text[16];
    for (unsigned byte = 0; byte < 256; byte++) {
        if (v->kind == SYNTH_SENTENCEPIECE) {
            snprintf(text, sizeof text, "<0x%02X>", byte);
            add_token(v, text, strlen(text), TOKEN_BYTE);
        } else {
            add_token(v, text, utf8_write(text, character_of_byte((uint8_t)byte)), TOKEN_NORMAL);
        }
    }
}

/* ---- special tokens ---------------------------------------------------------------------------------------------- */

struct special {
    uint32_t place; /* counted from the first special token */
    const char *text;
};

static const struct special llama3_specials[] = {{0, "<|begin_of_text|>"},
                                                 {1, "<|end_of_text|>"},
                                                 {6, "<|start_header_id|>"},
                                                 {7, "<|end_header_id|>"},
                                                 {9, "<|eot_id|>"}};
static const struct special qwen_specials[] = {{0, "<|endoftext|>"}, {1, "<|im_start|>"}, {2, "<|im_end|>"}};
static const struct special gpt_oss_specials[] = {{0, "<|startoftext|>"}, {1, "<|endoftext|>"}, {4, "<|return|>"},
                                                  {7, "<|channel|>"},     {8, "<|start|>"},     {9, "<|end|>"},
                                                  {10, "<|message|>"}};

/* Returns where real vocabularies of this size have their special tokens; small ones reserve 16 ids at their end. */
static uint32_t first_special(enum synth_tokenizer kind, uint32_t size)
{
    if (kind == SYNTH_LLAMA3 && size >= 4096)
        return size - 256;
    if (kind == SYNTH_QWEN && (size == 151936 || size == 152064))
        return 151643;
    if (kind == SYNTH_GPT_OSS && size == 201088)
        return 199998;
    return size - 16;
}

static void add_specials(struct synth_vocabulary *v, const struct special *list, size_t count)
{
    uint32_t first = v->count;
    for (size_t next = 0; v->count < v->size && !v->text.failed;) {
        if (next < count && v->count - first == list[next].place) {
            add_token(v, list[next].text, strlen(list[next].text), TOKEN_CONTROL);
            next++;
        } else {
            char text[40];
            snprintf(text, sizeof text, "<|reserved_%u|>", v->count - first);
            add_token(v, text, strlen(text), TOKEN_CONTROL);
        }
    }
}

/* ---- words ------------------------------------------------------------------------------------------------------- */

/* Makes the n-th syllable: open ones first, then those with a final consonant. */
#define SYLLABLES 500
static void syllable(uint32_t n, char open[4], char ending[2])
{
    static const char consonants[] = "bcdfghjklmnprstvwxyz", vowels[] = "aeiou", endings[] = "nrls";
    n %= SYLLABLES;
    open[0] = consonants[n % 20];
    open[1] = vowels[n / 20 % 5];
    open[2] = 0;
    ending[0] = n < 100 ? 0 : endings[n / 100 - 1];
    ending[1] = 0;
}

static void add_syllable(struct synth_vocabulary *v, uint32_t n, char text[8], uint32_t end)
{
    char open[4], ending[2], consonant[2];
    syllable(n, open, ending);
    consonant[0] = open[0];
    consonant[1] = 0;
    add_merge(v, consonant, open + 1, end);
    if (ending[0])
        add_merge(v, open, ending, end);
    snprintf(text, 8, "%s%s", open, ending);
}

static void add_words(struct synth_vocabulary *v, const char *space, uint32_t end)
{
    v->first_word = v->count;
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        char prefix[16], letter[2] = {0};
        snprintf(prefix, sizeof prefix, "%c", words[i][0]);
        for (size_t j = 1; words[i][j]; j++) {
            letter[0] = words[i][j];
            add_merge(v, prefix, letter, end);
            prefix[j] = letter[0];
            prefix[j + 1] = 0;
        }
        add_merge(v, space, words[i], end);
    }
    /* All pairs of syllables, shuffled: the step has no common factor with the number of pairs. */
    uint64_t pairs = (uint64_t)SYLLABLES * SYLLABLES;
    for (uint64_t i = 0; i < pairs && v->count < end && !v->text.failed; i++) {
        uint32_t pair = (uint32_t)(i * 77773 % pairs);
        char first[8], second[8], spaced[16];
        add_syllable(v, pair % SYLLABLES, first, end);
        add_syllable(v, pair / SYLLABLES, second, end);
        add_merge(v, space, first, end);
        add_merge(v, first, second, end);
        snprintf(spaced, sizeof spaced, "%s%s", space, first);
        add_merge(v, spaced, second, end);
    }
    v->end_word = v->count;
}

/* ---- the vocabulary ---------------------------------------------------------------------------------------------- */

static void fill(struct synth_vocabulary *v)
{
    if (v->kind == SYNTH_SENTENCEPIECE) {
        add_token(v, "<unk>", 5, TOKEN_UNKNOWN);
        add_token(v, "<s>", 3, TOKEN_CONTROL);
        add_token(v, "</s>", 4, TOKEN_CONTROL);
        v->bos = 1;
        v->eos = 2;
        add_bytes(v);
        for (char letter = 33; letter < 127; letter++)
            add_token(v, &letter, 1, TOKEN_NORMAL);
        add_token(v, "\xe2\x96\x81", 3, TOKEN_NORMAL);
        add_words(v, "\xe2\x96\x81", v->size);
        return;
    }
    add_bytes(v);
    uint32_t end = first_special(v->kind, v->size);
    add_words(v, "\xc4\xa0", end);
    if (v->count < end)
        return;
    if (v->kind == SYNTH_LLAMA3) {
        v->bos = end;
        v->eos = end + 9;
        add_specials(v, llama3_specials, COUNT_OF(llama3_specials));
    } else if (v->kind == SYNTH_QWEN) {
        v->bos = end;
        v->eos = end + 2;
        add_specials(v, qwen_specials, COUNT_OF(qwen_specials));
    } else {
        v->bos = end;
        v->eos = end + 4;
        add_specials(v, gpt_oss_specials, COUNT_OF(gpt_oss_specials));
    }
}

hypura_status synth_vocabulary_make(struct synth_vocabulary **out, enum synth_tokenizer kind, uint32_t size,
                                    hypura_error *error)
{
    if (size < 512 || size > 400000)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a vocabulary of %u tokens; expected 512 to 400000", size);
    struct synth_vocabulary *v;
    hypura_status status = ALLOCATE(&v, 1, "vocabulary", error);
    if (status)
        return status;
    v->kind = kind;
    v->size = size;
    v->bos = v->eos = NO_TOKEN;
    v->table_size = 1;
    while (v->table_size < size * 2)
        v->table_size *= 2;
    if ((status = ALLOCATE(&v->starts, (size_t)size + 1, "vocabulary", error)) ||
        (status = ALLOCATE(&v->types, size, "vocabulary", error)) ||
        (status = ALLOCATE(&v->scores, size, "vocabulary", error)) ||
        (status = ALLOCATE(&v->merge_starts, (size_t)size + 1, "vocabulary", error)) ||
        (status = ALLOCATE(&v->table, v->table_size, "vocabulary", error))) {
        synth_vocabulary_free(v);
        return status;
    }
    memset(v->table, 0xff, v->table_size * sizeof *v->table);
    fill(v);
    if (v->text.failed || v->merge_text.failed)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for a vocabulary of %u tokens", size);
    else if (v->count < size)
        status = error_set(error, HYPURA_ERROR_ARGUMENT,
                           "a vocabulary of %u tokens is more than the %u that can be generated", size, v->count);
    if (status)
        synth_vocabulary_free(v);
    else
        *out = v;
    return status;
}

void synth_vocabulary_free(struct synth_vocabulary *v)
{
    if (!v)
        return;
    buffer_free(&v->text);
    buffer_free(&v->merge_text);
    memory_free(v->starts);
    memory_free(v->types);
    memory_free(v->scores);
    memory_free(v->merge_starts);
    memory_free(v->table);
    memory_free(v);
}

void synth_vocabulary_words(const struct synth_vocabulary *v, uint32_t *first, uint32_t *end)
{
    *first = v->first_word;
    *end = v->end_word;
}

static const char *const templates[] = {
    [SYNTH_SENTENCEPIECE] = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
                            "{{ ' ' + message['content'] + eos_token }}{% else %}"
                            "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}",
    [SYNTH_LLAMA3] = "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
                     "'<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}{% endfor %}"
                     "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
                     "{% endif %}",
    [SYNTH_QWEN] = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
                   "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
                   "{% endif %}",
    [SYNTH_GPT_OSS] = "{% for message in messages %}{{ '<|start|>' + message['role'] + '<|message|>' + "
                      "message['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}"
                      "{{ '<|start|>assistant' }}{% endif %}"};

static const char *const pre_tokenizers[] = {[SYNTH_SENTENCEPIECE] = "default",
                                             [SYNTH_LLAMA3] = "llama-bpe",
                                             [SYNTH_QWEN] = "qwen2",
                                             [SYNTH_GPT_OSS] = "gpt-4o"};

static hypura_status add_strings(struct gguf_writer *writer, const char *key, const struct buffer *text,
                                 const size_t *starts, uint32_t count, hypura_error *error)
{
    struct gguf_string *list;
    hypura_status status = ALLOCATE(&list, count, "vocabulary", error);
    if (status)
        return status;
    for (uint32_t i = 0; i < count; i++)
        list[i] = (struct gguf_string){text->data + starts[i], starts[i + 1] - starts[i]};
    status = gguf_writer_add(writer, key, GGUF_STRING, list, count, true, error);
    memory_free(list);
    return status;
}

hypura_status synth_vocabulary_write(const struct synth_vocabulary *v, struct gguf_writer *writer, hypura_error *error)
{
    bool pieces = v->kind == SYNTH_SENTENCEPIECE;
    hypura_status status;
    if ((status = gguf_writer_add_string(writer, "tokenizer.ggml.model", pieces ? "llama" : "gpt2", error)) ||
        (status = gguf_writer_add_string(writer, "tokenizer.ggml.pre", pre_tokenizers[v->kind], error)) ||
        (status = add_strings(writer, "tokenizer.ggml.tokens", &v->text, v->starts, v->size, error)) ||
        (status = gguf_writer_add(writer, "tokenizer.ggml.token_type", GGUF_INT32, v->types, v->size, true, error)))
        return status;
    if (pieces)
        status = gguf_writer_add(writer, "tokenizer.ggml.scores", GGUF_FLOAT32, v->scores, v->size, true, error);
    else
        status = add_strings(writer, "tokenizer.ggml.merges", &v->merge_text, v->merge_starts, v->merge_count, error);
    if (status || (status = gguf_writer_add_uint32(writer, "tokenizer.ggml.bos_token_id", v->bos, error)) ||
        (status = gguf_writer_add_uint32(writer, "tokenizer.ggml.eos_token_id", v->eos, error)))
        return status;
    if (pieces && ((status = gguf_writer_add_uint32(writer, "tokenizer.ggml.unknown_token_id", 0, error)) ||
                   (status = gguf_writer_add_bool(writer, "tokenizer.ggml.add_space_prefix", true, error))))
        return status;
    bool bos = pieces || v->kind == SYNTH_LLAMA3;
    if ((status = gguf_writer_add_bool(writer, "tokenizer.ggml.add_bos_token", bos, error)) ||
        (status = gguf_writer_add_bool(writer, "tokenizer.ggml.add_eos_token", false, error)))
        return status;
    return gguf_writer_add_string(writer, "tokenizer.chat_template", templates[v->kind], error);
}
