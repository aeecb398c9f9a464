/* Reads a vocabulary from the metadata of a file. */
#include "tokenizer/vocabulary_private.h"

#include <stdio.h>
#include <string.h>

struct kind_row {
    const char *model; /* tokenizer.ggml.model */
    enum vocabulary_kind kind;
    int32_t bos, eos, unknown, separator, padding, mask; /* defaults */
};

static const struct kind_row kinds[] = {
    {"llama", VOCABULARY_SENTENCEPIECE, 1, 2, 0, NO_TOKEN, NO_TOKEN, NO_TOKEN},
    {"gpt2", VOCABULARY_BPE, 11, 11, NO_TOKEN, NO_TOKEN, NO_TOKEN, NO_TOKEN},
    {"gemma4", VOCABULARY_BPE, NO_TOKEN, NO_TOKEN, NO_TOKEN, NO_TOKEN, NO_TOKEN, NO_TOKEN},
    {"bert", VOCABULARY_WORDPIECE, 101, NO_TOKEN, 100, 102, 0, 103},
    {"t5", VOCABULARY_UNIGRAM, NO_TOKEN, 1, 2, NO_TOKEN, 0, NO_TOKEN},
};

static bool same(struct gguf_string text, const char *wanted)
{
    return text.size == strlen(wanted) && memcmp(text.data, wanted, text.size) == 0;
}

static hypura_status find_kind(const struct gguf *file, const struct kind_row **out, hypura_error *error)
{
    struct gguf_string model;
    if (!gguf_get_string(file, "tokenizer.ggml.model", &model))
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s has no vocabulary: the key tokenizer.ggml.model is missing or is not a string",
                         gguf_file_path(file, 0));
    if (same(model, "none") || same(model, "no_vocab"))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s has no vocabulary: tokenizer.ggml.model is '%s'",
                         gguf_file_path(file, 0), model.data);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (same(model, kinds[i].model)) {
            *out = &kinds[i];
            return HYPURA_OK;
        }
    }
    return error_set(
        error, HYPURA_ERROR_UNSUPPORTED,
        "tokenizer.ggml.model is '%.64s', which is not supported; supported are llama (SentencePiece), gpt2 and "
        "gemma4 (BPE), bert (WordPiece) and t5 (Unigram)",
        model.data);
}

/* Finds the array of a key. *out is NULL if the key is absent. */
static hypura_status find_array(const struct gguf *file, const char *key, enum gguf_value_type type, uint64_t at_least,
                                const struct gguf_value **out, hypura_error *error)
{
    const struct gguf_value *value = gguf_find(file, key);
    *out = NULL;
    if (!value)
        return HYPURA_OK;
    if (value->type != GGUF_ARRAY || (value->count && value->element_type != type))
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s is not an array of the expected type (its type is %d, that of its elements %d)", key,
                         (int)value->type, (int)value->element_type);
    if (value->count < at_least)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s has %llu elements for %llu tokens", key,
                         (unsigned long long)value->count, (unsigned long long)at_least);
    *out = value;
    return HYPURA_OK;
}

static hypura_status read_tokens(struct vocabulary *v, const struct gguf *file, hypura_error *error)
{
    const struct gguf_value *value;
    hypura_status status = find_array(file, "tokenizer.ggml.tokens", GGUF_STRING, 0, &value, error);
    if (status != HYPURA_OK)
        return status;
    if (!value || value->count == 0 || value->count > INT32_MAX / 4)
        return error_set(error, HYPURA_ERROR_FORMAT, "tokenizer.ggml.tokens has %llu tokens, expected 1 to %d",
                         (unsigned long long)(value ? value->count : 0), INT32_MAX / 4);
    v->tokens = value->data;
    v->count = (uint32_t)value->count;
    for (uint32_t i = 0; i < v->count; i++)
        v->longest_token = MAX(v->longest_token, v->tokens[i].size);

    const struct gguf_value *scores = gguf_find(file, "tokenizer.ggml.scores");
    bool integers = scores && scores->type == GGUF_ARRAY && scores->element_type == GGUF_INT32;
    status = find_array(file, "tokenizer.ggml.scores", integers ? GGUF_INT32 : GGUF_FLOAT32, v->count, &value, error);
    if (status != HYPURA_OK)
        return status;
    if (value && integers)
        v->integer_scores = value->data;
    else if (value)
        v->scores = value->data;

    status = find_array(file, "tokenizer.ggml.token_type", GGUF_INT32, v->count, &value, error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&v->attributes, v->count, "token attributes", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&v->end_of_generation, v->count / 8 + 1, "token attributes", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&v->marked_control, v->count / 8 + 1, "token attributes", error);
    if (status != HYPURA_OK)
        return status;
    const int32_t *types = value ? value->data : NULL;
    static const uint8_t attributes[] = {
        0, TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE};
    for (uint32_t i = 0; i < v->count; i++) {
        if (!types)
            v->attributes[i] = TOKEN_NORMAL;
        else if (types[i] > 0 && types[i] < (int32_t)COUNT_OF(attributes))
            v->attributes[i] = attributes[types[i]];
        if (v->attributes[i] & (TOKEN_CONTROL | TOKEN_UNKNOWN))
            bit_set(v->marked_control, i);
    }
    return symbol_table_build(&v->symbols, v->tokens, v->count, error);
}

static hypura_status read_pre_tokenizer(struct vocabulary *v, const struct gguf *file, bool gemma, hypura_error *error)
{
    struct gguf_string name = {"default", 7};
    if (gemma)
        name = (struct gguf_string){"gemma4", 6};
    else if ((!gguf_get_string(file, "tokenizer.ggml.pre", &name) || name.size == 0))
        log_write(LOG_WARNING,
                  "the file does not name its pre-tokenizer (tokenizer.ggml.pre); a default is used, which "
                  "may cut texts into other tokens than the model was trained with");
    if (name.size == 0)
        name = (struct gguf_string){"default", 7};
    v->pre = pre_tokenizer_find(name.data, name.size);
    if (!v->pre) {
        char known[380];
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the pre-tokenizer '%.40s' is not known; known are %s",
                         name.data, pre_tokenizer_list(known, sizeof known));
    }
    v->clean_spaces = !(v->pre->flags & PRE_KEEP_SPACES);
    v->escape_spaces = v->pre->flags & PRE_ESCAPE_SPACES;
    v->add_bos = v->pre->flags & PRE_ADD_BOS;
    if (v->pre->flags & PRE_NO_BOS)
        v->special[SPECIAL_BOS] = NO_TOKEN;
    return splitter_create(&v->splitter, v->pre, error);
}

static hypura_status read_merges(struct vocabulary *v, const struct gguf *file, hypura_error *error)
{
    const struct gguf_value *merges;
    hypura_status status = find_array(file, "tokenizer.ggml.merges", GGUF_STRING, 0, &merges, error);
    if (status != HYPURA_OK)
        return status;
    /* Kimi K2 needs no merges: its tokens are whole words. */
    if (!merges && strcmp(v->pre->name, "kimi-k2") != 0)
        return error_set(error, HYPURA_ERROR_FORMAT, "a BPE vocabulary needs tokenizer.ggml.merges, which is missing");
    if (merges && merges->count > INT32_MAX / 4)
        return error_set(error, HYPURA_ERROR_FORMAT, "tokenizer.ggml.merges has %llu merges, expected at most %d",
                         (unsigned long long)merges->count, INT32_MAX / 4);
    for (int byte = 0; byte < 256; byte++) {
        char text[4];
        size_t size = utf8_write(text, character_of_byte((uint8_t)byte));
        status = symbol_intern(&v->symbols, text, size, NULL, 0, &v->byte_symbols[byte], error);
        if (status != HYPURA_OK)
            return status;
        text[0] = (char)byte;
        v->single_byte_tokens[byte] = vocabulary_find(v, text, 1);
    }
    return merge_table_build(&v->merges, &v->symbols, merges, error);
}

static void find_byte_tokens(struct vocabulary *v)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        v->byte_tokens[byte] = vocabulary_find(v, text, 6);
        text[0] = (char)byte;
        if (v->byte_tokens[byte] == NO_TOKEN && v->kind == VOCABULARY_SENTENCEPIECE)
            v->byte_tokens[byte] = vocabulary_find(v, text, 1);
    }
}

static void find_inner_spaces(struct vocabulary *v)
{
    for (uint32_t i = 0; i < v->count; i++) {
        const char *text = v->tokens[i].data, *end = text + v->tokens[i].size;
        for (const char *at = text + 1; at < end; at++)
            if ((size_t)(end - at) >= SPACE_SYMBOL_SIZE && memcmp(at, SPACE_SYMBOL, SPACE_SYMBOL_SIZE) == 0)
                v->before_inner_space[(uint8_t)at[-1]] = true;
    }
}

/* Indexes the tokens that are searched for in a text before it is cut: control, user-defined and unknown tokens. */
static hypura_status index_partition(struct vocabulary *v, hypura_error *error)
{
    const uint32_t wanted = TOKEN_CONTROL | TOKEN_USER_DEFINED | TOKEN_UNKNOWN;
    size_t count = 0;
    for (uint32_t i = 0; i < v->count; i++)
        count += (v->attributes[i] & wanted) && v->tokens[i].size;
    int32_t *sorted;
    hypura_status status = ALLOCATE(&sorted, count, "special tokens", error);
    if (status != HYPURA_OK)
        return status;
    count = 0;
    for (uint32_t i = 0; i < v->count; i++)
        if ((v->attributes[i] & wanted) && v->tokens[i].size)
            sorted[count++] = (int32_t)i;
    prefix_index_build(&v->partition_index, v->tokens, sorted, count);
    return HYPURA_OK;
}

static hypura_status read_kind(struct vocabulary *v, const struct gguf *file, const struct kind_row *row,
                               hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    switch (v->kind) {
    case VOCABULARY_SENTENCEPIECE:
        v->add_bos = v->add_space_prefix = v->escape_spaces = true;
        find_inner_spaces(v);
        break;
    case VOCABULARY_BPE:
        status = read_pre_tokenizer(v, file, strcmp(row->model, "gemma4") == 0, error);
        if (status == HYPURA_OK)
            status = read_merges(v, file, error);
        break;
    case VOCABULARY_WORDPIECE:
        v->add_bos = v->add_separator = v->clean_spaces = v->lowercase = true;
        gguf_get_bool(file, "tokenizer.ggml.normalizer.lowercase", &v->lowercase);
        v->strip_accents = v->lowercase;
        gguf_get_bool(file, "tokenizer.ggml.normalizer.strip_accents", &v->strip_accents);
        break;
    case VOCABULARY_UNIGRAM:
        v->add_eos = v->escape_spaces = true;
        status = unigram_open(v, file, error);
        break;
    }
    gguf_get_bool(file, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix);
    gguf_get_bool(file, "tokenizer.ggml.remove_extra_whitespaces", &v->remove_extra_spaces);
    return status;
}

static hypura_status find_line_feed(struct vocabulary *v, hypura_error *error)
{
    v->special[SPECIAL_LINE_FEED] = v->special[SPECIAL_PADDING];
    if (v->kind == VOCABULARY_WORDPIECE)
        return HYPURA_OK;
    if (v->kind == VOCABULARY_SENTENCEPIECE) {
        if (v->byte_tokens['\n'] != NO_TOKEN)
            v->special[SPECIAL_LINE_FEED] = v->byte_tokens['\n'];
        return HYPURA_OK;
    }
    struct token_array tokens = {0};
    hypura_status status = vocabulary_tokenize(v, "\n", 1, 0, &tokens, error);
    if (tokens.count)
        v->special[SPECIAL_LINE_FEED] = tokens.ids[0];
    token_array_free(&tokens);
    return status;
}

hypura_status vocabulary_open(struct vocabulary **out, const struct gguf *file, hypura_error *error)
{
    const struct kind_row *row = NULL;
    hypura_status status = find_kind(file, &row, error);
    if (status != HYPURA_OK)
        return status;
    struct vocabulary *v;
    status = ALLOCATE(&v, 1, "vocabulary", error);
    if (status != HYPURA_OK)
        return status;
    v->kind = row->kind;
    for (int i = 0; i < SPECIAL_COUNT; i++)
        v->special[i] = NO_TOKEN;
    v->special[SPECIAL_BOS] = row->bos;
    v->special[SPECIAL_EOS] = row->eos;
    v->special[SPECIAL_UNKNOWN] = row->unknown;
    v->special[SPECIAL_SEPARATOR] = row->separator;
    v->special[SPECIAL_PADDING] = row->padding;
    v->special[SPECIAL_MASK] = row->mask;
    status = read_tokens(v, file, error);
    if (status == HYPURA_OK)
        status = read_kind(v, file, row, error);
    if (status == HYPURA_OK) {
        find_byte_tokens(v);
        vocabulary_find_special(v, file);
        status = index_partition(v, error);
    }
    if (status == HYPURA_OK) {
        vocabulary_find_strips(v, file);
        status = find_line_feed(v, error);
    }
    if (status != HYPURA_OK) {
        vocabulary_close(v);
        return status;
    }
    *out = v;
    return HYPURA_OK;
}

void vocabulary_close(struct vocabulary *v)
{
    if (!v)
        return;
    memory_free(v->attributes);
    memory_free(v->end_of_generation);
    memory_free(v->marked_control);
    symbol_table_free(&v->symbols);
    merge_table_free(&v->merges);
    splitter_destroy(v->splitter);
    prefix_index_free(&v->partition_index);
    prefix_index_free(&v->unigram_index);
    prefix_index_free(&v->user_defined_index);
    memory_free(v->character_map);
    memory_free(v);
}
