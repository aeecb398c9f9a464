/* The table of pre-tokenizers. The patterns come from the models' tokenizer.json files, as llama.cpp interprets them
 * (src/llama-vocab.cpp); each name was checked against it. */
#include "tokenizer/split.h"

#include <stdio.h>
#include <string.h>

/* The contents of character classes, in terms of the bytes that classify() in split.c returns. */
#define NUMBER                                                                                                         \
    "\xD1"                                                                                                             \
    "0-9"
#define LETTER                                                                                                         \
    "\xD2"                                                                                                             \
    "A-Za-z"
#define NOT_LOWER                                                                                                      \
    "\xD2"                                                                                                             \
    "A-Z" /* letters other than ASCII lower case: other scripts count as both */
#define NOT_UPPER                                                                                                      \
    "\xD2"                                                                                                             \
    "a-z"
#define PUNCTUATION                                                                                                    \
    "\xD3"                                                                                                             \
    "!-#%-*,\\-./:;?@\\[\\\\\\]_{}"
#define MARK "\xD4"
#define SYMBOL                                                                                                         \
    "\xD5"                                                                                                             \
    "$+<=>\\^`|~"
#define HAN_LETTER "\xD6"
#define HAN "\xD6\xD7"
#define JOINER "\xD8"

#define LOWER_CONTRACTION "'(?:[stmd]|re|ve|ll)"
#define CONTRACTION "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
#define TRAILING_SPACE "\\s+(?!\\S)|\\s+"
#define LINE_ENDS "\\s*[\\r\\n]+|"
#define WORD "[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+|"
#define OTHER " ?[^\\s" LETTER NUMBER "]+"

/* For UTF-8 rules. */
#define SPACES "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define KANJI_AND_KANA "\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}"

#define GPT2_PATTERN LOWER_CONTRACTION "| ?[" LETTER "]+| ?[" NUMBER "]+|" OTHER "|" TRAILING_SPACE
#define QWEN2_PATTERN CONTRACTION "|" WORD "[" NUMBER "]|" OTHER "[\\r\\n]*|" LINE_ENDS TRAILING_SPACE
#define LLAMA3_PATTERN CONTRACTION "|" WORD "[" NUMBER "]{1,3}|" OTHER "[\\r\\n]*|" LINE_ENDS TRAILING_SPACE
#define DEEPSEEK3_PATTERN                                                                                              \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n" LETTER PUNCTUATION SYMBOL "]?[" LETTER MARK "]+| ?[" PUNCTUATION SYMBOL       \
    "]+[\\r\\n]*|" LINE_ENDS TRAILING_SPACE
#define CASED_WORD(contraction)                                                                                        \
    "[^\\r\\n" LETTER NUMBER "]?[" NOT_LOWER "]*[" NOT_UPPER "]+" contraction "|[^\\r\\n" LETTER NUMBER                \
    "]?[" NOT_LOWER "]+[" NOT_UPPER "]*" contraction "|"
#define CASED_TAIL OTHER "[\\r\\n/]*|" LINE_ENDS TRAILING_SPACE
#define MARKED_WORD "[^\\r\\n" LETTER NUMBER "]?[" LETTER MARK "]+(?:" CONTRACTION ")?|"
#define DIGITS_OF_THREE "[0-9][0-9][0-9]"
#define LINES "[^\\n]+|[\\n]+"

#define RULES(name) static const struct split_rule name[]
#define END                                                                                                            \
    {                                                                                                                  \
        NULL, false                                                                                                    \
    }

RULES(default_rules) = {{"[" PUNCTUATION "$+<=>\\^~|]+", false},
                        {GPT2_PATTERN, false},
                        {"[" NUMBER "]+", false},
                        {DIGITS_OF_THREE, false},
                        END};
RULES(gpt2) = {{GPT2_PATTERN, false}, END};
RULES(qwen2) = {{QWEN2_PATTERN, false}, END};
RULES(qwen35) = {{CONTRACTION "|[^\\r\\n" LETTER NUMBER "]?[" LETTER MARK "]+|[" NUMBER "]| ?[^\\s" LETTER MARK NUMBER
                              "]+[\\r\\n]*|" LINE_ENDS TRAILING_SPACE,
                  false},
                 END};
RULES(llama3) = {{LLAMA3_PATTERN, false}, END};
RULES(jais2) = {{CONTRACTION
                 "|" WORD "[" NUMBER "]{1,3}|" OTHER "[\\r\\n]*|" LINE_ENDS
                 "\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|"
                 "\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s",
                 false},
                END};
RULES(minicpm5) = {{"[" NUMBER "]{1,3}", false},
                   {CONTRACTION "|" WORD "[" NUMBER "]+|" OTHER "[\\r\\n]*|" LINE_ENDS TRAILING_SPACE, false},
                   END};
RULES(ufakzeka) = {{WORD "[" NUMBER "]|" OTHER "[\\r\\n]*|" LINE_ENDS TRAILING_SPACE, false}, END};
RULES(seed_coder) = {
    {CONTRACTION "|" WORD "[" NUMBER "]| ?[^\\s" LETTER NUMBER "\\r\\n]+|" LINE_ENDS TRAILING_SPACE, false}, END};
RULES(bailing) = {{CONTRACTION "|" WORD "[" NUMBER "]|" OTHER "[\\r\\n]*|\\s*[\\r\\n]|" TRAILING_SPACE, false}, END};
RULES(exaone_moe) = {{CONTRACTION "|[^\\r\\n" LETTER NUMBER "]?(?:[" LETTER "][" MARK "]*(?: [" LETTER "][" MARK
                                  "]*)*)+|[" NUMBER "]|" OTHER "[\\r\\n/]?|\\s*[\\r\\n]|" TRAILING_SPACE,
                      false},
                     END};
RULES(laguna) = {{LINES, false}, {QWEN2_PATTERN, false}, END};
RULES(digits_then_gpt2) = {{"[" NUMBER "]", false}, {GPT2_PATTERN, false}, END};
RULES(falcon) = {{"[" PUNCTUATION "$+<=>\\^~|`]+", false}, {GPT2_PATTERN, false}, {DIGITS_OF_THREE, false}, END};
RULES(tekken) = {{CASED_WORD("") "[" NUMBER "]|" CASED_TAIL, false}, END};
RULES(gpt4o) = {{CASED_WORD("(?:" CONTRACTION ")?") "[" NUMBER "]{1,3}|" CASED_TAIL, false}, END};
RULES(granite_multilingual) = {{"[^\\r\\n" LETTER NUMBER "]?[" NOT_LOWER MARK "]*[" NOT_UPPER MARK "]+(?:" CONTRACTION
                                ")?|[^\\r\\n" LETTER NUMBER "]?[" NOT_LOWER MARK "]+[" NOT_UPPER MARK
                                "]*(?:" CONTRACTION ")?|[" NUMBER "]{1,3}|" CASED_TAIL,
                                false},
                               END};
/* Groups of three digits, counted from the right. The first group includes the text before the digits. */
#define DIGIT_GROUPS                                                                                                   \
    "[^" NUMBER "]*(?:(?<![" NUMBER "])[" NUMBER "]{1,2}(?=(?:[" NUMBER "]{3})*+(?![" NUMBER "]))|[" NUMBER "]{3})"
RULES(tiny_aya) = {{DIGIT_GROUPS, false}, {MARKED_WORD "[" NUMBER "]{1,3}|" CASED_TAIL, false}, END};
RULES(superbpe) = {
    {"[" NUMBER "]+", false}, {"(?<![0-9])[0-9]{1,2}(?=(?:[0-9]{3})++(?![0-9]))|[0-9]{3}(?=[0-9])", false}, END};
RULES(kimi_k2) = {{"[" HAN "]+|[^\\r\\n" LETTER HAN_LETTER NUMBER "]?[" LETTER "]+(?:" CONTRACTION ")?|[" NUMBER
                   "]{1,3}| ?[^\\s" LETTER HAN_LETTER NUMBER "]+[\\r\\n]*|" LINE_ENDS TRAILING_SPACE,
                   false},
                  END};
RULES(deepseek_llm) = {
    {"[\\r\\n]", false},
    {"[" SPACES "]?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}"
     "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}"
     "\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}"
     "\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}"
     "\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}"
     "\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}"
     "\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}"
     "\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}"
     "\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}"
     "\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}"
     "\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"
     "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}"
     "\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}"
     "\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+",
     true},
    {"[" SPACES "]?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3001}\\x{3002}]+", true},
    {"\\s+\\z", false},
    {"(?:(?![" SPACES "])[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}])+", true},
    {"[" NUMBER "]+", false},
    END};
RULES(deepseek_coder) = {{"[\\r\\n]", false},
                         {"\\s?[" LETTER "]+", false},
                         {"\\s?[" PUNCTUATION "]+", false},
                         {"(?:(?![" SPACES "])[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}])+", true},
                         {"[" NUMBER "]", false},
                         END};
RULES(deepseek3) = {{"[" NUMBER "]{1,3}", false}, {"[" KANJI_AND_KANA "]+", true}, {DEEPSEEK3_PATTERN, false}, END};
RULES(spark) = {{"[" NUMBER "]{1,3}", false},
                {"[" KANJI_AND_KANA "]+", true},
                {"[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n" LETTER PUNCTUATION SYMBOL "]?[" LETTER MARK
                 "]+| ?[" PUNCTUATION SYMBOL "]+|[\\r\\n]|" TRAILING_SPACE,
                 false},
                {"[" NUMBER "]", false},
                END};
RULES(youtu) = {{"[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+|[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}"
                 "\\x{2014}\\x{FF1A}\\x{FF1B}\\x{FF0C}\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+|"
                 "[" KANJI_AND_KANA "]+",
                 true},
                {MARKED_WORD "[" NUMBER "]|" CASED_TAIL, false},
                END};
RULES(afmoe) = {
    {DIGIT_GROUPS, false},
    {"(?:(?![" SPACES "])[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{8C48}-\\x{FAFF}\\x{3040}-\\x{30FF}"
     "\\x{FF65}-\\x{FF9F}\\x{2F00}-\\x{2FDF}\\x{E40}-\\x{EFF}\\x{1780}-\\x{17FF}\\x{1000}-\\x{109F}\\x{AA60}-\\x{AA7F}"
     "\\x{A9E0}-\\x{A9FF}\\x{AC00}-\\x{D7AF}\\x{1100}-\\x{11FF}])+",
     true},
    {DEEPSEEK3_PATTERN, false},
    END};
#define CLAUSE " ?[^(|.,!?)" SPACES "\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C}]+"
RULES(bloom) = {{CLAUSE, true}, END};
RULES(viking) = {{CLAUSE, true}, {"[" NUMBER "]", false}, END};
RULES(chameleon) = {{"<sentinel:[0-9]+>", false},
                    {"IMGIMG[A-I]{1,4}Z", false},
                    {"[\\t\\n]|    |  ", false},
                    {"[" NUMBER "]", false},
                    {"[" PUNCTUATION "!-/:-@\\[-`{-~]", false},
                    {GPT2_PATTERN, false},
                    END};
RULES(k2_horizon) = {{CONTRACTION "|[^\\r\\n" LETTER NUMBER "]?[" LETTER MARK JOINER "]+|[" NUMBER "]{1,3}|" OTHER
                                  "[\\r\\n]*|" LINE_ENDS TRAILING_SPACE,
                      false},
                     END};
/* Each U+2581 begins a word. */
RULES(space_words) = {{LINES, false}, {"\\x{2581}[^\\x{2581}]*", true}, END};
RULES(lines) = {{LINES, false}, END};

static const struct pre_tokenizer table[] = {
    {"default", default_rules, 0},
    {"llama-bpe", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"llama3", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"llama-v3", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"falcon3", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"falcon-h1", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"pixtral", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"midm-2.0", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"lfm2", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"jina-v5-nano", llama3, PRE_WHOLE_WORDS | PRE_ADD_BOS},
    {"minicpm5", minicpm5, PRE_WHOLE_WORDS},
    {"qwen2", qwen2, PRE_KEEP_SPACES},
    {"deepseek-r1-qwen", qwen2, PRE_KEEP_SPACES},
    {"kormo", qwen2, PRE_KEEP_SPACES},
    {"f2llmv2", qwen2, PRE_KEEP_SPACES},
    {"megrez", qwen2, 0},
    {"stablelm2", qwen2, 0},
    {"hunyuan", qwen2, PRE_KEEP_SPACES},
    {"solar-open", qwen2, PRE_KEEP_SPACES},
    {"grok-2", qwen2, PRE_KEEP_SPACES},
    {"laguna", laguna, PRE_KEEP_SPACES},
    {"ufakzeka", ufakzeka, PRE_KEEP_SPACES},
    {"qwen35", qwen35, PRE_KEEP_SPACES},
    {"gpt-2", gpt2, 0},
    {"phi-2", gpt2, 0},
    {"jina-es", gpt2, 0},
    {"jina-de", gpt2, 0},
    {"jina-v2-es", gpt2, 0},
    {"jina-v2-de", gpt2, 0},
    {"jina-v1-en", gpt2, 0},
    {"jina-v2-code", gpt2, 0},
    {"roberta-bpe", gpt2, 0},
    {"gigachat", gpt2, 0},
    {"a.x-4.0", gpt2, 0},
    {"mellum", gpt2, 0},
    {"modern-bert", gpt2, 0},
    {"mpt", gpt2, 0},
    {"olmo", gpt2, 0},
    {"jais", gpt2, 0},
    {"exaone4", gpt2, 0},
    {"trillion", gpt2, PRE_KEEP_SPACES},
    {"granite-docling", gpt2, PRE_KEEP_SPACES},
    {"starcoder", digits_then_gpt2, 0},
    {"refact", digits_then_gpt2, 0},
    {"command-r", digits_then_gpt2, PRE_KEEP_SPACES},
    {"smollm", digits_then_gpt2, PRE_KEEP_SPACES},
    {"codeshell", digits_then_gpt2, 0},
    {"exaone", digits_then_gpt2, 0},
    {"minerva-7b", digits_then_gpt2, 0},
    {"mellum2", digits_then_gpt2, 0},
    {"falcon", falcon, 0},
    {"deepseek-llm", deepseek_llm, PRE_KEEP_SPACES},
    {"deepseek-coder", deepseek_coder, PRE_KEEP_SPACES},
    {"deepseek-v3", deepseek3, PRE_KEEP_SPACES},
    {"hunyuan-dense", deepseek3, PRE_KEEP_SPACES},
    {"joyai-llm", deepseek3, PRE_KEEP_SPACES},
    {"hy_v4", deepseek3, PRE_KEEP_SPACES},
    {"spark2_5", spark, PRE_KEEP_SPACES},
    {"youtu", youtu, PRE_KEEP_SPACES | PRE_WHOLE_WORDS},
    {"afmoe", afmoe, PRE_KEEP_SPACES},
    {"glm4", llama3, PRE_NO_BOS | PRE_WHOLE_WORDS},
    {"glm5", llama3, PRE_NO_BOS | PRE_WHOLE_WORDS},
    {"chatglm-bpe", llama3, PRE_NO_BOS},
    {"dbrx", llama3, 0},
    {"smaug-bpe", llama3, 0},
    {"jais-2", jais2, 0},
    {"tekken", tekken, PRE_WHOLE_WORDS | PRE_ADD_BOS | PRE_KEEP_SPACES},
    {"gpt-4o", gpt4o, PRE_KEEP_SPACES},
    {"llama4", gpt4o, PRE_KEEP_SPACES},
    {"kanana2", gpt4o, PRE_KEEP_SPACES},
    {"talkie", gpt4o, PRE_KEEP_SPACES},
    {"minimax-m2", gpt4o, PRE_KEEP_SPACES},
    {"granite-embed-multi-97m", granite_multilingual, PRE_KEEP_SPACES | PRE_WHOLE_WORDS},
    {"tiny_aya", tiny_aya, PRE_KEEP_SPACES},
    {"cohere2moe", tiny_aya, PRE_KEEP_SPACES},
    {"superbpe", superbpe, PRE_KEEP_SPACES},
    {"kimi-k2", kimi_k2, PRE_KEEP_SPACES | PRE_HAN},
    {"bailingmoe", bailing, PRE_KEEP_SPACES},
    {"bailingmoe2", bailing, PRE_KEEP_SPACES},
    {"llada-moe", bailing, PRE_KEEP_SPACES},
    {"k2-horizon", k2_horizon, PRE_KEEP_SPACES | PRE_JOINERS},
    {"seed-coder", seed_coder, PRE_KEEP_SPACES},
    {"exaone-moe", exaone_moe, 0},
    {"poro-chat", bloom, PRE_KEEP_SPACES},
    {"bloom", bloom, 0},
    {"gpt3-finnish", bloom, 0},
    {"viking", viking, PRE_KEEP_SPACES},
    {"chameleon", chameleon, PRE_KEEP_SPACES | PRE_ADD_BOS},
    {"gemma4", lines, PRE_CHARACTERS | PRE_ESCAPE_SPACES | PRE_FORCE_BOS | PRE_WHOLE_LINE_FEEDS},
    {"granite-embed-multi-311m", lines, PRE_CHARACTERS | PRE_ESCAPE_SPACES | PRE_FORCE_BOS | PRE_WHOLE_LINE_FEEDS},
    {"mmbert", space_words, PRE_CHARACTERS | PRE_ESCAPE_SPACES | PRE_WHOLE_LINE_FEEDS | PRE_SPACE_LINES},
    {"sarvam-moe", lines, PRE_CHARACTERS | PRE_ESCAPE_SPACES | PRE_KEEP_SPACES},
};

const struct pre_tokenizer *pre_tokenizer_find(const char *name, size_t size)
{
    for (size_t i = 0; i < COUNT_OF(table); i++)
        if (strlen(table[i].name) == size && memcmp(table[i].name, name, size) == 0)
            return &table[i];
    return NULL;
}

char *pre_tokenizer_list(char *text, size_t room)
{
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 1; i < COUNT_OF(table); i++) {
        size_t size = strlen(table[i].name) + 2;
        if (used + size + 4 > room) {
            snprintf(text + used, room - used, ", ...");
            break;
        }
        used += (size_t)snprintf(text + used, room - used, "%s%s", used ? ", " : "", table[i].name);
    }
    return text;
}
