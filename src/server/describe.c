/* Describes models for lists, from the headers of their files. Reading a large vocabulary takes a while, so the last
 * descriptions are cached. */
#include "core/json_text.h"
#include "model/model.h"
#include "server/server_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEPT 64

struct description {
    char *path;
    uint64_t bytes, stamp;
    char family[64];
    char quantisation[24];
    char parameters[24];
    char digest[65];
    bool embeds, judges, tools, thinks, inserts;
};

const char *const model_files_beside[] = {EXPERT_FILE_ENDING, EXPERT_FILE_ENDING ".partial",
                                          EXPERT_FILE_ENDING ".partial.pieces", NULL};

static struct description kept[KEPT];
static size_t next_kept;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* general.file_type, as llama.cpp numbers it (enum llama_ftype). */
static const char *quantisation_name(uint32_t type)
{
    static const char *const names[] = {"F32",    "F16",    "Q4_0",  "Q4_1",    NULL,     NULL,     NULL,     "Q8_0",
                                        "Q5_0",   "Q5_1",   "Q2_K",  "Q3_K_S",  "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M",
                                        "Q5_K_S", "Q5_K_M", "Q6_K",  "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS",
                                        "IQ1_S",  "IQ4_NL", "IQ3_S", "IQ3_M",   "IQ2_S",  "IQ2_M",  "IQ4_XS", "IQ1_M",
                                        "BF16",   NULL,     NULL,    NULL,      "TQ1_0",  "TQ2_0",  "MXFP4",  "NVFP4"};
    return type < COUNT_OF(names) && names[type] ? names[type] : "unknown";
}

/* Adds some bytes of every tensor, so that a retrained model gets another digest. */
static hypura_status add_samples(struct sha256 *sha, const struct gguf *file, hypura_error *error)
{
    int opened = -1;
    hypura_status status = HYPURA_OK;
    size_t index = SIZE_MAX;
    for (size_t i = 0; !status && i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        char sample[64];
        size_t size = (size_t)MIN(tensor->bytes, sizeof sample);
        if (tensor->file != index) {
            if (opened >= 0)
                close(opened);
            index = tensor->file;
            opened = open(gguf_file_path(file, index), O_RDONLY | O_CLOEXEC);
        }
        ssize_t got = pread(opened, sample, size, (off_t)(tensor->offset + (tensor->bytes - size) / 2));
        if (got < 0)
            status = error_set_errno(error, errno, "cannot read %s", gguf_file_path(file, index));
        else
            sha256_add(sha, sample, (size_t)got);
    }
    if (opened >= 0)
        close(opened);
    return status;
}

static void find_abilities(struct description *out, const struct gguf *file)
{
    struct gguf_string template = {0};
    char pooling[sizeof out->family + sizeof ".pooling_type"];
    gguf_get_string(file, "tokenizer.chat_template", &template);
    const char *text = template.data ? template.data : "";
    snprintf(pooling, sizeof pooling, "%s.pooling_type", out->family);
    uint32_t type = 0;
    out->embeds = gguf_find(file, pooling) != NULL;
    out->judges = gguf_get_uint32(file, pooling, &type) && type == 4;
    out->tools = strstr(text, "tools") != NULL;
    out->thinks = strstr(text, "<think>") || strstr(text, "enable_thinking") || strstr(text, "reasoning_effort");
    out->inserts =
        gguf_find(file, "tokenizer.ggml.fim_pre_token_id") || gguf_find(file, "tokenizer.ggml.prefix_token_id");
}

/* A file that is not a model, or not readable, gets a description as well instead of an error. */
static bool is_file_at_fault(const char *path, hypura_status status)
{
    return status == HYPURA_ERROR_FORMAT || status == HYPURA_ERROR_UNSUPPORTED || access(path, R_OK) != 0;
}

static hypura_status describe(struct description *out, const char *path, hypura_error *error)
{
    struct gguf *file = NULL;
    hypura_error problem = {0};
    struct sha256 sha;
    sha256_start(&sha);
    sha256_add(&sha, &out->bytes, sizeof out->bytes);
    strcpy(out->family, "unknown");
    strcpy(out->quantisation, "unknown");
    hypura_status status = gguf_open(&file, path, &problem);
    if (!status) {
        struct gguf_string family;
        uint32_t type;
        double elements = 0;
        if (gguf_get_string(file, "general.architecture", &family))
            snprintf(out->family, sizeof out->family, "%s", family.data);
        if (gguf_get_uint32(file, "general.file_type", &type))
            snprintf(out->quantisation, sizeof out->quantisation, "%s", quantisation_name(type));
        for (size_t i = 0; i < gguf_tensor_count(file); i++) {
            const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
            double product = 1;
            for (int d = 0; d < GGUF_MAX_DIMENSIONS; d++)
                product *= (double)tensor->dimensions[d];
            elements += product;
            sha256_add(&sha, tensor->name.data, tensor->name.size);
            sha256_add(&sha, &tensor->offset, sizeof tensor->offset);
            sha256_add(&sha, &tensor->bytes, sizeof tensor->bytes);
        }
        for (size_t i = 0; i < gguf_value_count(file); i++)
            sha256_add(&sha, gguf_value_at(file, i)->key.data, gguf_value_at(file, i)->key.size);
        status = add_samples(&sha, file, &problem);
        find_abilities(out, file);
        gguf_close(file);
        const char *unit = elements >= 1e9 ? "B" : elements >= 1e6 ? "M" : "K";
        double scale = elements >= 1e9 ? 1e9 : elements >= 1e6 ? 1e6 : 1e3;
        snprintf(out->parameters, sizeof out->parameters, "%.1f%s", elements / scale, unit);
    }
    sha256_finish(&sha, out->digest);
    if (!status || (status != HYPURA_ERROR_MEMORY && is_file_at_fault(path, status)))
        return HYPURA_OK;
    return error_set(error, status, "%s", problem.message);
}

static hypura_status description_of(const struct model_entry *entry, struct description *out, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    pthread_mutex_lock(&mutex);
    size_t i = 0;
    while (i < KEPT && !(kept[i].path && strcmp(kept[i].path, entry->path) == 0 && kept[i].stamp == entry->stamp))
        i++;
    if (i == KEPT) {
        i = next_kept++ % KEPT;
        memory_free(kept[i].path);
        kept[i] = (struct description){.bytes = entry->bytes, .stamp = entry->stamp};
        status = describe(&kept[i], entry->path, error);
        if (!status)
            status = string_copy(&kept[i].path, entry->path, error);
    }
    *out = kept[i];
    out->path = NULL;
    pthread_mutex_unlock(&mutex);
    return status;
}

json_t *model_details(const struct model_entry *entry, hypura_error *error)
{
    struct description d;
    uint64_t failures = memory_failures();
    if (description_of(entry, &d, error))
        return NULL;
    const char *parent = json_string_value(json_object_get(entry->manifest, "from"));
    json_t *family = json_string(d.family);
    if (!family)
        family = json_string("unknown");
    json_t *details =
        json_pack("{s:s, s:s, s:O, s:[o], s:s, s:s}", "parent_model", parent ? parent : "", "format", "gguf", "family",
                  family, "families", family, "parameter_size", d.parameters, "quantization_level", d.quantisation);
    memory_check(failures, "description of a model", error);
    return details;
}

json_t *model_capabilities(const struct model_entry *entry, hypura_error *error)
{
    struct description d;
    uint64_t failures = memory_failures();
    if (description_of(entry, &d, error))
        return NULL;
    if (d.judges)
        return json_pack("[s]", "rerank");
    if (d.embeds)
        return json_pack("[s]", "embedding");
    json_t *list = json_pack("[s]", "completion");
    if (d.tools)
        json_array_append_new(list, json_string("tools"));
    if (d.thinks)
        json_array_append_new(list, json_string("thinking"));
    if (d.inserts)
        json_array_append_new(list, json_string("insert"));
    memory_check(failures, "description of a model", error);
    return list;
}

hypura_status model_digest(const struct model_entry *entry, char out[65], hypura_error *error)
{
    struct description d;
    hypura_status status = description_of(entry, &d, error);
    if (status)
        return status;
    strcpy(out, d.digest);
    if (!entry->manifest)
        return HYPURA_OK;
    char *manifest = json_text_write(entry->manifest, JSON_SORT_KEYS | JSON_COMPACT);
    if (!manifest)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the description of a model");
    struct sha256 sha;
    sha256_start(&sha);
    sha256_add(&sha, d.digest, 64);
    sha256_add(&sha, manifest, strlen(manifest));
    sha256_finish(&sha, out);
    free(manifest);
    return HYPURA_OK;
}

json_t *model_tags_entry(const struct model_entry *entry, hypura_error *error)
{
    char modified[40], digest[65];
    uint64_t failures = memory_failures();
    time_text(modified, sizeof modified, entry->modified, 0);
    if (model_digest(entry, digest, error))
        return NULL;
    json_t *details = model_details(entry, error), *capabilities = model_capabilities(entry, error);
    json_t *json = json_pack("{s:s, s:s, s:s, s:I, s:s, s:o, s:o}", "name", entry->name, "model", entry->name,
                             "modified_at", modified, "size", (json_int_t)entry->bytes, "digest", digest, "details",
                             details, "capabilities", capabilities);
    memory_check(failures, "description of a model", error);
    return json;
}
