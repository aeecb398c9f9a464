/* Notes of unfinished downloads: FILE.source next to FILE. */
#include "core/durable.h"
#include "core/json_text.h"
#include "server/pull_private.h"
#include "server/registry.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void pull_key(const char *url, char out[17])
{
    char digest[65];
    struct sha256 sha;
    sha256_start(&sha);
    sha256_add(&sha, url, strlen(url));
    sha256_finish(&sha, digest);
    snprintf(out, 17, "%.16s", digest);
}

static void take_text(const json_t *json, const char *key, char *out, size_t room)
{
    const char *text = json_string_value(json_object_get(json, key));
    snprintf(out, room, "%s", text && strlen(text) < room ? text : "");
}

static uint64_t take_bytes(const json_t *json, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(json, key));
    return value > 0 ? (uint64_t)value : 0;
}

bool pull_note_read(const char *path, struct pull_note *out)
{
    FILE *file = fopen(path, "re");
    json_t *json = file ? json_text_read_file(file, 0, NULL) : NULL;
    bool fine = json_is_object(json);
    *out = (struct pull_note){0};
    if (fine) {
        take_text(json, "url", out->url, sizeof out->url);
        take_text(json, "digest", out->digest, sizeof out->digest);
        take_text(json, "etag", out->etag, sizeof out->etag);
        take_text(json, "last_modified", out->modified, sizeof out->modified);
        out->total = take_bytes(json, "total");
        out->have = take_bytes(json, "have");
    }
    json_decref(json);
    if (file)
        fclose(file);
    return fine;
}

/* A header's text may not be UTF-8; then *fine becomes false. */
static void put_text(json_t *json, const char *key, const char *text, bool *fine)
{
    if (*text && json_object_set_new(json, key, json_string(text)))
        *fine = false;
}

hypura_status pull_note_write(const char *path, const struct pull_note *note, hypura_error *error)
{
    json_t *json = json_pack("{s:s, s:I, s:I}", "url", note->url, "total", (json_int_t)note->total, "have",
                             (json_int_t)note->have);
    bool fine = json != NULL;
    put_text(json, "digest", note->digest, &fine);
    put_text(json, "etag", note->etag, &fine);
    put_text(json, "last_modified", note->modified, &fine);
    char *text = fine ? json_text_write(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (!text)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for %s", path);
    hypura_status status = durable_write(path, text, strlen(text), NULL, error);
    free(text);
    return status;
}

/* A weak ETag does not guarantee identical bytes. */
const char *pull_note_version(const struct pull_note *note)
{
    if (note->etag[0] == '"')
        return note->etag;
    return note->modified[0] ? note->modified : NULL;
}

bool pull_note_fits(const struct pull_note *note, const struct fetch_answer *answer)
{
    bool other = (note->etag[0] && answer->etag[0] && strcmp(note->etag, answer->etag) != 0) ||
                 (note->modified[0] && answer->modified[0] && strcmp(note->modified, answer->modified) != 0) ||
                 (note->total && answer->total && note->total != answer->total);
    return !other;
}
