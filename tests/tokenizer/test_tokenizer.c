/* For every reference vector, ids and texts equal llama.cpp's. HYPURA_ORACLE selects the whole reference set. */
#include "test.h"
#include "tokenizer/vocabulary.h"

#include <dirent.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

struct opened {
    struct gguf *file;
    struct vocabulary *vocabulary;
};

static struct opened open_model(const char *path)
{
    struct opened opened = {0};
    assert_ok(gguf_open(&opened.file, path, &test_error));
    assert_ok(vocabulary_open(&opened.vocabulary, opened.file, &test_error));
    return opened;
}

static void close_model(struct opened *opened)
{
    vocabulary_close(opened->vocabulary);
    gguf_close(opened->file);
}

static size_t vectors; /* number of vectors compared */

static void assert_ids(const char *what, const char *text, const struct token_array *found, const json_t *wanted)
{
    vectors++;
    bool same = found->count == json_array_size(wanted);
    for (size_t i = 0; same && i < found->count; i++)
        same = found->ids[i] == json_integer_value(json_array_get(wanted, i));
    if (same)
        return;
    struct buffer message = {0};
    buffer_append_format(&message, "%s: '%s' gives", what, text);
    for (size_t i = 0; i < found->count; i++)
        buffer_append_format(&message, " %d", found->ids[i]);
    buffer_append_string(&message, ", expected");
    for (size_t i = 0; i < json_array_size(wanted); i++)
        buffer_append_format(&message, " %d", (int)json_integer_value(json_array_get(wanted, i)));
    fail_msg("%s", message.data);
}

static void check_ids(const struct vocabulary *v, const char *what, const char *text, size_t size, uint32_t flags,
                      const json_t *wanted)
{
    struct token_array ids = {0};
    /* An exact copy, so that the address sanitizer detects reads beyond the end. */
    char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    assert_ok(vocabulary_tokenize(v, copy, size, flags, &ids, &test_error));
    assert_ids(what, text, &ids, wanted);
    token_array_free(&ids);
    free(copy);
}

/* ---- NAME.jsonl -------------------------------------------------------------------------------------------------- */

/* Reads the bytes under a key, or hexadecimal ones under key_hex. Returns whether either exists. */
static bool get_bytes(const json_t *object, const char *key, struct buffer *out)
{
    char hexadecimal_key[64];
    snprintf(hexadecimal_key, sizeof hexadecimal_key, "%s_hex", key);
    const json_t *plain = json_object_get(object, key), *digits = json_object_get(object, hexadecimal_key);
    buffer_clear(out);
    buffer_append_string(out, "");
    if (plain)
        buffer_append(out, json_string_value(plain), json_string_length(plain));
    for (const char *at = digits ? json_string_value(digits) : ""; at[0] && at[1]; at += 2) {
        char pair[3] = {at[0], at[1], 0};
        buffer_append_char(out, (char)strtol(pair, NULL, 16));
    }
    assert_false(out->failed);
    return plain || digits;
}

static void check_text(const struct vocabulary *v, const char *what, const json_t *ids, uint32_t flags,
                       const struct buffer *wanted)
{
    struct token_array tokens = {0};
    struct buffer text = {0};
    for (size_t i = 0; i < json_array_size(ids); i++)
        assert_ok(token_array_append(&tokens, (int32_t)json_integer_value(json_array_get(ids, i)), &test_error));
    vocabulary_detokenize(v, tokens.ids, tokens.count, flags, &text);
    vectors++;
    if (text.size != wanted->size || (text.size && memcmp(text.data, wanted->data, text.size) != 0))
        fail_msg("%s: the tokens give the text '%s', expected '%s'", what, text.data ? text.data : "", wanted->data);
    token_array_free(&tokens);
    buffer_free(&text);
}

static const json_t *key_or(const json_t *object, const char *key, const json_t *otherwise)
{
    const json_t *value = json_object_get(object, key);
    return value ? value : otherwise;
}

static void check_line(const struct vocabulary *v, const char *what, const json_t *line)
{
    struct buffer text = {0}, shown = {0};
    assert_true(get_bytes(line, "text", &text));
    const json_t *ids = json_object_get(line, "ids");
    const json_t *ids_bos = key_or(line, "ids_bos", ids);
    const json_t *ids_special = key_or(line, "ids_special", ids);
    const json_t *ids_bos_special = key_or(line, "ids_bos_special", ids_bos);
    check_ids(v, what, text.data, text.size, 0, ids);
    check_ids(v, what, text.data, text.size, TOKENIZE_ADD_SPECIAL, ids_bos);
    check_ids(v, what, text.data, text.size, TOKENIZE_PARSE_SPECIAL, ids_special);
    check_ids(v, what, text.data, text.size, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, ids_bos_special);
    /* A missing key has the value of the one before it: detok_special = detok = text. */
    if (get_bytes(line, "detok", &shown)) {
        buffer_clear(&text);
        buffer_append(&text, shown.data, shown.size);
    }
    check_text(v, what, ids_bos_special, 0, &text);
    if (get_bytes(line, "detok_special", &shown)) {
        buffer_clear(&text);
        buffer_append(&text, shown.data, shown.size);
    }
    check_text(v, what, ids_bos_special, DETOKENIZE_SHOW_SPECIAL, &text);
    buffer_free(&text);
    buffer_free(&shown);
}

static int64_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_non_null(value);
    return json_is_boolean(value) ? json_is_true(value) : json_integer_value(value);
}

static void check_head(const struct vocabulary *v, const json_t *head)
{
    assert_int_equal(vocabulary_size(v), number(head, "n_vocab"));
    struct token_array ends = {0};
    for (uint32_t i = 0; i < vocabulary_size(v); i++)
        if (vocabulary_is_end_of_generation(v, (int32_t)i))
            assert_ok(token_array_append(&ends, (int32_t)i, &test_error));
    assert_ids("end of generation", "", &ends, json_object_get(head, "eog"));
    token_array_free(&ends);
    if (!json_object_get(head, "bos"))
        return;
    assert_int_equal(vocabulary_special(v, SPECIAL_BOS), number(head, "bos"));
    assert_int_equal(vocabulary_special(v, SPECIAL_EOS), number(head, "eos"));
    assert_int_equal(vocabulary_special(v, SPECIAL_EOT), number(head, "eot"));
    assert_int_equal(vocabulary_special(v, SPECIAL_LINE_FEED), number(head, "nl"));
    assert_int_equal(vocabulary_special(v, SPECIAL_PADDING), number(head, "pad"));
    assert_int_equal(vocabulary_adds_bos(v), number(head, "add_bos"));
    assert_int_equal(vocabulary_adds_eos(v), number(head, "add_eos"));
}

/* Finds a file's model: models/NAME.gguf of the whole set, or the file in the repository, which has only the
 * vocabulary. */
static void find_model(char *path, size_t room, const char *folder, bool whole, const char *model)
{
    snprintf(path, room, "%s/%s%s", folder, whole ? "" : "tokenizer/", model);
}

static void check_file(const char *folder, bool whole, const char *name)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/tokenizer/%s", folder, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    struct opened opened = {0};
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, file) > 0) {
        json_t *object = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(object);
        if (!opened.vocabulary) {
            find_model(path, sizeof path, folder, whole, json_string_value(json_object_get(object, "model")));
            opened = open_model(path);
            check_head(opened.vocabulary, object);
        } else {
            check_line(opened.vocabulary, name, object);
        }
        json_decref(object);
    }
    assert_non_null(opened.vocabulary);
    close_model(&opened);
    free(line);
    fclose(file);
}

/* Calls check for every file in a folder with an ending. Returns the number of files. */
static size_t each_file(const char *root, const char *folder, const char *ending,
                        void (*check)(const char *root, bool whole, const char *name), bool whole)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", root, folder);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        size_t size = strlen(entry->d_name), end = strlen(ending);
        if (size <= end || strcmp(entry->d_name + size - end, ending) != 0)
            continue;
        check(root, whole, entry->d_name);
        count++;
    }
    closedir(directory);
    return count;
}

/* ---- pre/NAME.json ----------------------------------------------------------------------------------------------- */

/* Writes the same vocabulary with another pre-tokenizer. */
static void rename_pre_tokenizer(const char *from, const char *to, const char *name)
{
    struct gguf *file;
    struct gguf_writer *writer;
    assert_ok(gguf_open(&file, from, &test_error));
    assert_ok(gguf_writer_create(&writer, to, 0, &test_error));
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        bool array = value->type == GGUF_ARRAY;
        if (strcmp(value->key.data, "tokenizer.ggml.pre") == 0)
            assert_ok(gguf_writer_add_string(writer, value->key.data, name, &test_error));
        else
            assert_ok(gguf_writer_add(writer, value->key.data, array ? value->element_type : value->type, value->data,
                                      value->count, array, &test_error));
    }
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
    gguf_close(file);
}

static json_t *load_json(const char *root, const char *name)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/tokenizer/pre/%s.json", root, name);
    json_t *value = json_load_file(path, JSON_ALLOW_NUL, NULL);
    if (!value)
        fail_msg("%s cannot be read", path);
    return value;
}

static void check_pre_tokenizer(const char *root, bool whole, const char *file_name)
{
    (void)whole;
    char name[256], path[8192], renamed[] = "/tmp/hypura-test-XXXXXX";
    snprintf(name, sizeof name, "%.*s", (int)(strlen(file_name) - strlen(".json")), file_name);
    if (strcmp(name, "texts") == 0)
        return;
    json_t *texts = load_json(root, "texts"), *wanted = load_json(root, name);
    const char *base = json_string_value(json_object_get(wanted, "same_as"));
    snprintf(path, sizeof path, "%s/tokenizer/pre/%s.gguf", root, base ? base : name);
    struct opened opened;
    if (base) {
        int descriptor = mkstemp(renamed);
        assert_true(descriptor >= 0);
        close(descriptor);
        rename_pre_tokenizer(path, renamed, name);
        opened = open_model(renamed);
        unlink(renamed);
        json_t *other = load_json(root, base);
        json_decref(wanted);
        wanted = other;
    } else {
        opened = open_model(path);
    }
    assert_string_equal(vocabulary_pre_tokenizer(opened.vocabulary), name);
    assert_int_equal(json_array_size(texts), json_array_size(wanted));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        check_ids(opened.vocabulary, name, json_string_value(text), json_string_length(text), 0,
                  json_array_get(wanted, i));
    }
    json_decref(texts);
    json_decref(wanted);
    close_model(&opened);
}

/* ---- pre.json: names that the reference set lacks ---------------------------------------------------------------- */

static void check_more_pre_tokenizers(void)
{
    char path[8192], renamed[] = "/tmp/hypura-test-XXXXXX";
    json_t *all = json_load_file(test_data("tokenizer/pre.json"), JSON_ALLOW_NUL, NULL);
    assert_non_null(all);
    const json_t *texts = json_object_get(all, "texts");
    const char *name;
    json_t *wanted;
    int descriptor = mkstemp(renamed);
    assert_true(descriptor >= 0);
    close(descriptor);
    snprintf(path, sizeof path, "%s", test_data("oracle/tokenizer/pre/llama-bpe.gguf"));
    json_object_foreach(json_object_get(all, "ids"), name, wanted)
    {
        rename_pre_tokenizer(path, renamed, name);
        struct opened opened = open_model(renamed);
        if (json_is_string(wanted)) /* the ids are those of another name */
            wanted = json_object_get(json_object_get(all, "ids"), json_string_value(wanted));
        for (size_t i = 0; i < json_array_size(texts); i++) {
            const json_t *text = json_array_get(texts, i);
            check_ids(opened.vocabulary, name, json_string_value(text), json_string_length(text), 0,
                      json_array_get(wanted, i));
        }
        close_model(&opened);
    }
    unlink(renamed);
    json_decref(all);
}

/* ---- vocab/NAME.gguf with NAME.gguf.inp and .out ----------------------------------------------------------------- */

static char *load_text(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s cannot be read", path);
    char *text = calloc(1, 1 << 16);
    assert_non_null(text);
    *size = fread(text, 1, (1 << 16) - 1, file);
    fclose(file);
    return text;
}

static void check_vocabulary(const char *root, bool whole, const char *name)
{
    char path[8192];
    size_t size;
    const char *folder = whole ? "" : "tokenizer/";
    snprintf(path, sizeof path, "%s/%svocab/%s", root, folder, name);
    struct opened opened = open_model(path);
    snprintf(path, sizeof path, "%s/%svocab/%s.inp", root, folder, name);
    char *input = load_text(path, &size);
    const char *end = input + size, *separator = "\n__ggml_vocab_test__\n";
    snprintf(path, sizeof path, "%s/%svocab/%s.out", root, folder, name);
    char *output = load_text(path, &size), *line = output;
    size_t lines = 0;
    for (const char *text = input; text && text < end; lines++) {
        const char *next = memmem(text, (size_t)(end - text), separator, strlen(separator));
        json_t *wanted = json_array();
        char *line_end = strchr(line, '\n');
        for (char *stop = line; line_end; line = stop) {
            long id = strtol(line, &stop, 10);
            if (stop == line || stop > line_end)
                break;
            json_array_append_new(wanted, json_integer(id));
        }
        check_ids(opened.vocabulary, name, text, (size_t)((next ? next : end) - text), 0, wanted);
        json_decref(wanted);
        line = line_end ? line_end + 1 : line;
        text = next ? next + strlen(separator) : NULL;
    }
    assert_true(lines >= 40);
    free(input);
    free(output);
    close_model(&opened);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void models_tokenize_like_llama_cpp(void **state)
{
    (void)state;
    const char *whole = getenv("HYPURA_ORACLE");
    char root[4096];
    snprintf(root, sizeof root, "%s", test_data("oracle"));
    assert_true(each_file(root, "tokenizer", ".jsonl", check_file, false) >= 16);
    /* Kinds that the reference set lacks, from the same version of llama.cpp. */
    char more[4096];
    snprintf(more, sizeof more, "%.*s", (int)(strlen(root) - strlen("/oracle")), root);
    assert_int_equal(each_file(more, "tokenizer", ".jsonl", check_file, false), 5);
    if (whole)
        each_file(whole, "tokenizer", ".jsonl", check_file, true);
    assert_true(vectors > 10000);
}

static void pre_tokenizers_split_like_llama_cpp(void **state)
{
    (void)state;
    const char *whole = getenv("HYPURA_ORACLE");
    char root[4096];
    snprintf(root, sizeof root, "%s", test_data("oracle"));
    assert_true(each_file(root, "tokenizer/pre", ".json", check_pre_tokenizer, false) >= 28);
    check_more_pre_tokenizers();
    if (whole)
        each_file(whole, "tokenizer/pre", ".json", check_pre_tokenizer, true);
}

static void published_vocabularies_tokenize_like_llama_cpp(void **state)
{
    (void)state;
    const char *whole = getenv("HYPURA_ORACLE");
    char root[4096];
    snprintf(root, sizeof root, "%s", test_data("oracle"));
    assert_int_equal(each_file(root, "tokenizer/vocab", ".gguf", check_vocabulary, false), 2);
    if (whole)
        each_file(whole, "vocab", ".gguf", check_vocabulary, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_tokenize_like_llama_cpp),
        cmocka_unit_test(pre_tokenizers_split_like_llama_cpp),
        cmocka_unit_test(published_vocabularies_tokenize_like_llama_cpp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
