/* Recipes describe geometries line by line: the metadata and the tensors of newer architectures, whose layers differ
 * too much for one set of numbers. A recipe is text with these lines:
 *
 *   u32|f32|bool|str KEY VALUE...      metadata of the architecture; several values: an array
 *   i32|u64 KEY VALUE...               the same, but always an array
 *   each u32|bool|f32 KEY A B : C D    an array with an element per layer: A B for the first ones, then C D alternately
 *   kinds LETTERS                      the kinds of the layers, one letter per layer
 *   each u32|bool|f32 KEY L=A M=B      an element per layer: A if the layer's letter is L, B if it is M, else 0
 *   in FIRST LAST [EVERY REST]         the tensors below belong to these layers; LAST -1: up to the last. With EVERY:
 *                                      only if the layer's number modulo EVERY is REST; with !REST: is not
 *   of LETTERS                         the tensors below belong to the layers with one of these letters
 *   once                               the tensors below belong to the whole model
 *   m NAME COLUMNS ROWS [EXPERTS] [*F] a matrix of the requested type, with values F times as large as usual
 *   f NAME MEAN DEVIATION SIZE...      an F32 tensor
 *   r NAME COLUMNS EXPERTS             a router: its rows have different lengths, so experts are used unevenly
 *   h NAME USED ROWS                   the experts of each token, I32
 *   t NAME COLUMNS ROWS                a table that is read by rows, IQ4_NL
 *
 * Routers mainly see a token's own embedding, since branches add little to it. So the experts depend on the token, and
 * caches do not look better than they are. */
#include "tools/synth_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_WORDS 64
#define MOST_ELEMENTS 1024

struct line {
    char text[512];
    char *words[MOST_WORDS];
    size_t count;
};

/* Reads the next line that is not empty. Returns false at the end. */
static bool next_line(const char **recipe, struct line *line)
{
    for (line->count = 0; **recipe && line->count == 0;) {
        size_t length = strcspn(*recipe, "\n");
        size_t kept = MIN(length, sizeof line->text - 1);
        memcpy(line->text, *recipe, kept);
        line->text[kept] = '\0';
        *recipe += length + ((*recipe)[length] == '\n');
        for (char *rest = line->text, *word; line->count < MOST_WORDS && (word = strtok_r(rest, " ", &rest));)
            line->words[line->count++] = word;
    }
    return line->count > 0;
}

static uint64_t number(const struct line *line, size_t word)
{
    return word < line->count ? strtoull(line->words[word], NULL, 0) : 0;
}

static double decimal(const struct line *line, size_t word)
{
    return word < line->count ? strtod(line->words[word], NULL) : 0;
}

/* Takes the letters of the layers from a line. */
static void take_kinds(char kinds[MOST_ELEMENTS], const struct line *line)
{
    snprintf(kinds, MOST_ELEMENTS, "%s", line->count > 1 ? line->words[1] : "");
}

/* ---- metadata ------------------------------------------------------------------------------------------------------
 */

struct values {
    enum gguf_value_type type;
    union {
        uint32_t u32[MOST_ELEMENTS];
        uint64_t u64[MOST_ELEMENTS];
        float f32[MOST_ELEMENTS];
        bool flags[MOST_ELEMENTS];
    };
};

static bool type_of(const char *word, enum gguf_value_type *out)
{
    static const struct {
        const char *word;
        enum gguf_value_type type;
    } types[] = {
        {"u32", GGUF_UINT32}, {"i32", GGUF_INT32}, {"u64", GGUF_UINT64}, {"f32", GGUF_FLOAT32}, {"bool", GGUF_BOOL}};
    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (strcmp(types[i].word, word) == 0) {
            *out = types[i].type;
            return true;
        }
    return false;
}

static void put(struct values *values, size_t index, const char *word)
{
    if (values->type == GGUF_UINT32 || values->type == GGUF_INT32)
        values->u32[index] = (uint32_t)strtoull(word, NULL, 0);
    else if (values->type == GGUF_UINT64)
        values->u64[index] = strtoull(word, NULL, 0);
    else if (values->type == GGUF_FLOAT32)
        values->f32[index] = strtof(word, NULL);
    else
        values->flags[index] = strtoull(word, NULL, 0) != 0;
}

/* Returns the value for layers of a kind: that of the word that begins with its letter. */
static const char *value_of_kind(const struct line *line, size_t first, char kind)
{
    for (size_t word = first; word < line->count; word++)
        if (line->words[word][0] == kind)
            return line->words[word] + 2;
    return "0";
}

/* Adds an element per layer: by its kind; or the words before the colon, and then those after it alternately. */
static void put_each(struct values *values, const struct line *line, size_t first, const char *kinds, size_t layers)
{
    if (line->words[first][1] == '=') {
        for (size_t i = 0; i < layers; i++)
            put(values, i, value_of_kind(line, first, kinds[i]));
        return;
    }
    size_t colon = first;
    while (colon + 1 < line->count && strcmp(line->words[colon], ":") != 0)
        colon++;
    size_t before = colon - first, turns = MAX(line->count - colon - 1, (size_t)1);
    for (size_t i = 0; i < layers; i++) {
        size_t word = i < before ? first + i : colon + 1 + (i - before) % turns;
        put(values, i, word < line->count ? line->words[word] : "0");
    }
}

hypura_status synth_recipe_metadata(struct gguf_writer *writer, const struct synth_list *list, hypura_error *error)
{
    const struct synth_geometry *g = &list->options.geometry;
    const char *recipe = list->options.recipe;
    struct line line;
    char kinds[MOST_ELEMENTS] = "";
    hypura_status status = HYPURA_OK;
    while (!status && next_line(&recipe, &line)) {
        const bool each = strcmp(line.words[0], "each") == 0;
        struct values values = {0};
        char key[96];
        if (strcmp(line.words[0], "str") == 0 && line.count == 3) {
            snprintf(key, sizeof key, "%s.%s", g->architecture, line.words[1]);
            status = gguf_writer_add_string(writer, key, line.words[2], error);
        }
        if (strcmp(line.words[0], "kinds") == 0)
            take_kinds(kinds, &line);
        if (line.count < (each ? 4u : 3u) || !type_of(line.words[each], &values.type))
            continue;
        snprintf(key, sizeof key, "%s.%s", g->architecture, line.words[each + 1]);
        size_t count = each ? g->layers : line.count - 2;
        if (each)
            put_each(&values, &line, 3, kinds, count);
        for (size_t i = 0; !each && i < count; i++)
            put(&values, i, line.words[2 + i]);
        bool array = each || count > 1 || values.type == GGUF_INT32 || values.type == GGUF_UINT64;
        status = gguf_writer_add(writer, key, values.type, values.u64, count, array, error);
    }
    return status;
}

/* ---- tensors -------------------------------------------------------------------------------------------------------
 */

struct where {
    bool once;
    uint32_t first, last, every, rest;
    bool others;   /* those whose remainder is not `rest` */
    char kinds[8]; /* letters of layers; empty: all */
};

static struct where where_of(const struct line *line, uint32_t layers)
{
    struct where where = {.every = 1};
    long last = strtol(line->words[2], NULL, 10);
    where.first = (uint32_t)number(line, 1);
    where.last = last < 0 ? layers - (uint32_t)-last : MIN((uint32_t)last, layers - 1);
    if (line->count > 4) {
        where.every = MAX((uint32_t)number(line, 3), 1u);
        where.others = line->words[4][0] == '!';
        where.rest = (uint32_t)strtoul(line->words[4] + where.others, NULL, 10);
    }
    return where;
}

static bool is_there(const struct where *where, const char *kinds, uint32_t layer)
{
    if (where->kinds[0])
        return kinds[layer] && strchr(where->kinds, kinds[layer]);
    return layer >= where->first && layer <= where->last &&
           (where->every == 1 || (layer % where->every == where->rest) != where->others);
}

/* Adds a tensor of a line; layer UINT32_MAX: it belongs to the whole model. */
static void add_tensor(struct synth_list *list, const struct line *line, uint32_t layer)
{
    const char kind = line->words[0][0];
    struct synth_tensor *tensor = &list->tensors[list->count++];
    size_t first = kind == 'f' ? 4 : 2, last = line->count;
    double factor = 1;
    if (kind == 'm' && line->words[last - 1][0] == '*')
        factor = strtod(line->words[--last] + 1, NULL);
    *tensor = (struct synth_tensor){.layer = layer == UINT32_MAX ? 0 : layer, .rows = 1, .period = 1};
    for (size_t i = first; i < last && tensor->dimensions < GGUF_MAX_DIMENSIONS; i++)
        tensor->shape[tensor->dimensions++] = number(line, i);
    for (uint32_t i = 1; i < tensor->dimensions; i++)
        tensor->rows *= tensor->shape[i];
    tensor->period = tensor->dimensions > 1 ? tensor->shape[1] : 1;
    tensor->deviation = factor / sqrt((double)tensor->shape[0]);
    switch (kind) {
    case 'm':
        tensor->fill = SYNTH_FILL_RANDOM;
        tensor->type = synth_matrix_type(list, line->words[1], tensor->shape[0]);
        break;
    case 't':
        tensor->fill = SYNTH_FILL_RANDOM;
        tensor->type = TENSOR_IQ4_NL;
        tensor->deviation = 1;
        break;
    case 'r':
        tensor->fill = SYNTH_FILL_UNEVEN;
        break;
    case 'h':
        tensor->fill = SYNTH_FILL_EXPERT_IDS;
        tensor->type = TENSOR_I32;
        break;
    default:
        tensor->fill = SYNTH_FILL_MEAN;
        tensor->mean = decimal(line, 2);
        tensor->deviation = decimal(line, 3);
    }
    if (layer == UINT32_MAX)
        snprintf(tensor->name, sizeof tensor->name, "%s", line->words[1]);
    else
        snprintf(tensor->name, sizeof tensor->name, "blk.%u.%s", layer, line->words[1]);
    tensor_row_bytes(tensor->type, tensor->shape[0], &tensor->row_bytes);
}

hypura_status synth_recipe_list(struct synth_list *list, const struct synth_vocabulary *vocabulary, hypura_error *error)
{
    const struct synth_geometry *g = &list->options.geometry;
    const char *recipe = list->options.recipe;
    struct line line;
    size_t lines = 0;
    while (next_line(&recipe, &line))
        lines++;
    hypura_status status = ALLOCATE(&list->tensors, lines * g->layers, "list of tensors", error);
    struct where where = {.once = true};
    char kinds[MOST_ELEMENTS] = "";
    recipe = list->options.recipe;
    while (!status && next_line(&recipe, &line)) {
        if (strcmp(line.words[0], "once") == 0) {
            where = (struct where){.once = true};
        } else if (strcmp(line.words[0], "in") == 0) {
            where = where_of(&line, g->layers);
        } else if (strcmp(line.words[0], "kinds") == 0) {
            take_kinds(kinds, &line);
        } else if (strcmp(line.words[0], "of") == 0 && line.count > 1) {
            where = (struct where){.every = 1};
            snprintf(where.kinds, sizeof where.kinds, "%s", line.words[1]);
        }
        if (!strchr("mfrht", line.words[0][0]) || line.words[0][1] || line.count < 4)
            continue;
        if (where.once)
            add_tensor(list, &line, UINT32_MAX);
        for (uint32_t layer = 0; !where.once && layer < g->layers; layer++)
            if (is_there(&where, kinds, layer))
                add_tensor(list, &line, layer);
    }
    /* Bytes and special tokens get rows of zeros, so answers consist of words and do not end by chance. */
    uint32_t first_word, end;
    synth_vocabulary_words(vocabulary, &first_word, &end);
    for (size_t i = 0; i < list->count; i++) {
        struct synth_tensor *tensor = &list->tensors[i];
        if (strcmp(tensor->name, "token_embd.weight") == 0)
            tensor->deviation = 1;
        if (strcmp(tensor->name, "output.weight") == 0) {
            tensor->band_first = first_word;
            tensor->band_count = end - first_word;
            tensor->band_deviation = 3.0 / sqrt((double)g->embedding);
            tensor->deviation = 0;
        }
    }
    return status;
}
