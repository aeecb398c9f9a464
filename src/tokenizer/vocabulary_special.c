/* Finds the special tokens: by key and, because files often lack the keys, by text, as llama.cpp does. */
#include "tokenizer/vocabulary_private.h"

#include <string.h>
#include <strings.h>

struct special_row {
    const char *key;
    enum special_token which;
};

/* The last three are older names of keys. */
static const struct special_row keys[] = {
    {"tokenizer.ggml.bos_token_id", SPECIAL_BOS},
    {"tokenizer.ggml.eos_token_id", SPECIAL_EOS},
    {"tokenizer.ggml.eot_token_id", SPECIAL_EOT},
    {"tokenizer.ggml.eom_token_id", SPECIAL_EOM},
    {"tokenizer.ggml.unknown_token_id", SPECIAL_UNKNOWN},
    {"tokenizer.ggml.seperator_token_id", SPECIAL_SEPARATOR},
    {"tokenizer.ggml.padding_token_id", SPECIAL_PADDING},
    {"tokenizer.ggml.mask_token_id", SPECIAL_MASK},
    {"tokenizer.ggml.fim_pre_token_id", SPECIAL_FIM_PREFIX},
    {"tokenizer.ggml.fim_suf_token_id", SPECIAL_FIM_SUFFIX},
    {"tokenizer.ggml.fim_mid_token_id", SPECIAL_FIM_MIDDLE},
    {"tokenizer.ggml.fim_pad_token_id", SPECIAL_FIM_PADDING},
    {"tokenizer.ggml.fim_rep_token_id", SPECIAL_FIM_REPOSITORY},
    {"tokenizer.ggml.fim_sep_token_id", SPECIAL_FIM_SEPARATOR},
    {"tokenizer.ggml.prefix_token_id", SPECIAL_FIM_PREFIX},
    {"tokenizer.ggml.suffix_token_id", SPECIAL_FIM_SUFFIX},
    {"tokenizer.ggml.middle_token_id", SPECIAL_FIM_MIDDLE},
};

struct known_text {
    const char *text;
    enum special_token which;
};

/* If no key names a token, these texts are tried in order. */
static const struct known_text known_texts[] = {
    {"<|eot_id|>", SPECIAL_EOT},
    {"<|end|>", SPECIAL_EOT},
    {"<end_of_turn>", SPECIAL_EOT},
    {"<|endoftext|>", SPECIAL_EOT},
    {"<|end_of_text|>", SPECIAL_EOT},
    {"<EOT>", SPECIAL_EOT},
    {"_<EOT>", SPECIAL_EOT},
    {"[EOT]", SPECIAL_EOT},
    {"<\xEF\xBD\x9C"
     "end" SPACE_SYMBOL "of" SPACE_SYMBOL "sentence\xEF\xBD\x9C>",
     SPECIAL_EOT},
    {"<end_of_utterance>", SPECIAL_EOT},
    {"<|im_end|>", SPECIAL_EOT},
    {"<|eom_id|>", SPECIAL_EOM},
    {"<|fim_prefix|>", SPECIAL_FIM_PREFIX},
    {"<fim-prefix>", SPECIAL_FIM_PREFIX},
    {"<fim_prefix>", SPECIAL_FIM_PREFIX},
    {"<\xEF\xBD\x9C"
     "fim" SPACE_SYMBOL "begin\xEF\xBD\x9C>",
     SPECIAL_FIM_PREFIX},
    {"<PRE>", SPECIAL_FIM_PREFIX},
    {SPACE_SYMBOL "<PRE>", SPECIAL_FIM_PREFIX},
    {"<|code_prefix|>", SPECIAL_FIM_PREFIX},
    {"<|prefix|>", SPECIAL_FIM_PREFIX},
    {"<|plamo:fim_prefix|>", SPECIAL_FIM_PREFIX},
    {"<|fim_suffix|>", SPECIAL_FIM_SUFFIX},
    {"<fim-suffix>", SPECIAL_FIM_SUFFIX},
    {"<fim_suffix>", SPECIAL_FIM_SUFFIX},
    {"<\xEF\xBD\x9C"
     "fim" SPACE_SYMBOL "hole\xEF\xBD\x9C>",
     SPECIAL_FIM_SUFFIX},
    {"<SUF>", SPECIAL_FIM_SUFFIX},
    {SPACE_SYMBOL "<SUF>", SPECIAL_FIM_SUFFIX},
    {"<|code_suffix|>", SPECIAL_FIM_SUFFIX},
    {"<|suffix|>", SPECIAL_FIM_SUFFIX},
    {"<|plamo:fim_suffix|>", SPECIAL_FIM_SUFFIX},
    {"<|fim_middle|>", SPECIAL_FIM_MIDDLE},
    {"<fim-middle>", SPECIAL_FIM_MIDDLE},
    {"<fim_middle>", SPECIAL_FIM_MIDDLE},
    {"<\xEF\xBD\x9C"
     "fim" SPACE_SYMBOL "end\xEF\xBD\x9C>",
     SPECIAL_FIM_MIDDLE},
    {"<MID>", SPECIAL_FIM_MIDDLE},
    {SPACE_SYMBOL "<MID>", SPECIAL_FIM_MIDDLE},
    {"<|code_middle|>", SPECIAL_FIM_MIDDLE},
    {"<|middle|>", SPECIAL_FIM_MIDDLE},
    {"<|plamo:fim_middle|>", SPECIAL_FIM_MIDDLE},
    {"<|fim_pad|>", SPECIAL_FIM_PADDING},
    {"<fim-pad>", SPECIAL_FIM_PADDING},
    {"<fim_pad>", SPECIAL_FIM_PADDING},
    {"<PAD>", SPECIAL_FIM_PADDING},
    {"[PAD]", SPECIAL_FIM_PADDING},
    {"<|fim_repo|>", SPECIAL_FIM_REPOSITORY},
    {"<|repo_name|>", SPECIAL_FIM_REPOSITORY},
    {"<fim-repo>", SPECIAL_FIM_REPOSITORY},
    {"<REPO>", SPECIAL_FIM_REPOSITORY},
    {"<reponame>", SPECIAL_FIM_REPOSITORY},
    {"<|file_sep|>", SPECIAL_FIM_SEPARATOR},
    {"<|plamo:file_separator|>", SPECIAL_FIM_SEPARATOR},
};

/* Tokens that end the generation in any model. */
static const char *const ends[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\xEF\xBD\x9C"
    "end" SPACE_SYMBOL "of" SPACE_SYMBOL "sentence\xEF\xBD\x9C>",
    "[e~[",
    "<|ifm|im_end|>",
    "<|end_of_msg|>", /* Kimi K3 */
};

static int32_t find_text(const struct vocabulary *v, const char *text)
{
    return vocabulary_find(v, text, strlen(text));
}

static void read_keys(struct vocabulary *v, const struct gguf *file)
{
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        int32_t *id = &v->special[keys[i].which];
        uint64_t value;
        if (*id >= 0 && (uint32_t)*id >= v->count)
            *id = NO_TOKEN;
        if (gguf_get_uint64(file, keys[i].key, &value) && value < v->count)
            *id = (int32_t)value;
        else if (gguf_find(file, keys[i].key))
            log_write(LOG_WARNING, "%s is not one of the %u tokens of the vocabulary; ignoring it", keys[i].key,
                      v->count);
    }
    gguf_get_bool(file, "tokenizer.ggml.add_bos_token", &v->add_bos);
    gguf_get_bool(file, "tokenizer.ggml.add_eos_token", &v->add_eos);
    gguf_get_bool(file, "tokenizer.ggml.add_sep_token", &v->add_separator);
    if (v->pre && (v->pre->flags & PRE_FORCE_BOS))
        v->add_bos = true;
    v->add_bos = v->add_bos && v->special[SPECIAL_BOS] != NO_TOKEN;
    v->add_eos = v->add_eos && v->special[SPECIAL_EOS] != NO_TOKEN;
    v->add_separator = v->add_separator && v->special[SPECIAL_SEPARATOR] != NO_TOKEN;
}

static void end_generation(struct vocabulary *v, int32_t id)
{
    if (id != NO_TOKEN)
        bit_set(v->end_of_generation, (size_t)id);
}

/* Removes a token from the end-of-generation set. */
static void go_on(struct vocabulary *v, int32_t id, uint8_t attributes)
{
    if (vocabulary_is_end_of_generation(v, id)) {
        bit_clear(v->end_of_generation, (size_t)id);
        v->attributes[id] = attributes;
    }
}

static bool contains(struct gguf_string text, const char *wanted)
{
    return memmem(text.data, text.size, wanted, strlen(wanted)) != NULL;
}

void vocabulary_find_special(struct vocabulary *v, const struct gguf *file)
{
    read_keys(v, file);
    for (size_t i = 0; i < COUNT_OF(known_texts); i++) {
        if (v->special[known_texts[i].which] != NO_TOKEN)
            continue;
        int32_t id = find_text(v, known_texts[i].text);
        v->special[known_texts[i].which] = id;
        if (id != NO_TOKEN)
            v->attributes[id] |= TOKEN_CONTROL;
    }
    for (uint32_t i = 0; i < v->count; i++)
        if ((v->attributes[i] & TOKEN_CONTROL) && contains(v->tokens[i], "unused"))
            v->attributes[i] |= TOKEN_UNUSED;

    end_generation(v, v->special[SPECIAL_FIM_PADDING]);
    end_generation(v, v->special[SPECIAL_FIM_REPOSITORY]);
    end_generation(v, v->special[SPECIAL_FIM_SEPARATOR]);
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        int32_t id = find_text(v, ends[i]);
        end_generation(v, id);
        if (id != NO_TOKEN)
            v->attributes[id] |= TOKEN_CONTROL;
    }
    /* The tokens around gpt-oss messages are shown and may be generated. */
    static const char *const frame[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};
    for (size_t i = 0; i < COUNT_OF(frame); i++) {
        int32_t id = find_text(v, frame[i]);
        if (id != NO_TOKEN)
            v->attributes[id] = TOKEN_USER_DEFINED;
    }
    end_generation(v, v->special[SPECIAL_EOS]);
    end_generation(v, v->special[SPECIAL_EOT]);
    end_generation(v, v->special[SPECIAL_EOM]);

    /* If a call or a return ends the generation, <|end|> only ends one of several messages (gpt-oss, Solar). */
    bool calls = vocabulary_is_end_of_generation(v, find_text(v, "<|call|>")) ||
                 vocabulary_is_end_of_generation(v, find_text(v, "<|calls|>"));
    if (calls && (vocabulary_is_end_of_generation(v, find_text(v, "<|return|>")) ||
                  vocabulary_is_end_of_generation(v, find_text(v, "<|flush|>"))))
        go_on(v, find_text(v, "<|end|>"), TOKEN_USER_DEFINED);
    if (vocabulary_is_end_of_generation(v, find_text(v, "<|tool_response>")))
        go_on(v, find_text(v, "</s>"), TOKEN_NORMAL);
}

/* ---- white space next to tokens -----------------------------------------------------------------------------------
 */

/* Whether the value of a key contains a text, ignoring case. */
static bool key_contains(const struct gguf *file, const char *key, const char *wanted)
{
    struct gguf_string value;
    if (!gguf_get_string(file, key, &value))
        return false;
    size_t size = strlen(wanted);
    for (size_t i = 0; i + size <= value.size; i++)
        if (strncasecmp(value.data + i, wanted, size) == 0)
            return true;
    return false;
}

static void set_attribute(struct vocabulary *v, const char *text, uint8_t attribute, bool on)
{
    int32_t id = find_text(v, text);
    if (id == NO_TOKEN)
        return;
    if (on)
        v->attributes[id] |= attribute;
    else
        v->attributes[id] &= (uint8_t)~attribute;
}

void vocabulary_find_strips(struct vocabulary *v, const struct gguf *file)
{
    static const char *const jina[] = {"jina-v2-de", "jina-v2-es", "jina-v2-code"};
    bool mask = key_contains(file, "general.architecture", "nomic-bert-moe") ||
                key_contains(file, "general.architecture", "jina-bert-v3");
    for (size_t i = 0; i < COUNT_OF(jina); i++)
        mask = mask || key_contains(file, "tokenizer.ggml.pre", jina[i]);
    if (mask) {
        set_attribute(v, "<mask>", TOKEN_STRIP_LEFT, true);
    } else if (key_contains(file, "general.name", "phi-3") || key_contains(file, "general.name", "phi3")) {
        for (size_t i = 0; i < v->partition_index.count; i++)
            v->attributes[v->partition_index.ids[i]] |= TOKEN_STRIP_RIGHT;
        set_attribute(v, "</s>", TOKEN_STRIP_RIGHT, true);
        set_attribute(v, "<unk>", TOKEN_STRIP_RIGHT, false);
        set_attribute(v, "<s>", TOKEN_STRIP_RIGHT, false);
        set_attribute(v, "<|endoftext|>", TOKEN_STRIP_RIGHT, false);
    } else if (key_contains(file, "general.name", "modern-bert")) {
        set_attribute(v, "[MASK]", TOKEN_STRIP_LEFT, true);
    }
}
