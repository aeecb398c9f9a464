/* The statistics that are kept from run to run: how often each expert was used, and the hit rate of caches of any size.
 *
 * File format, little endian: "HYPUSAGE", u32 version 3, u32 experts, u64 fingerprint of the model's layout, 64 u16:
 * hits of struct plan_hit_curve * 65535 (all 0: not known), then for each expert u16: uses per pass * 65535. A file
 * that does not fit the model, or of another version, is ignored and replaced. */
#include "store/store_private.h"

#include "store/device.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION 3u
#define HEADER_BYTES 24u

/* A shorter run tells too little to replace earlier statistics. */
#define LEAST_PASSES 16u

#define ONE 65535

static uint64_t hash_units(const void *model, const struct unit *(*at)(const void *model, unit_number unit),
                           uint32_t count)
{
    uint64_t hash = FNV1A_START;
    for (unit_number i = 0; i < count; i++) {
        const struct unit *unit = at(model, i);
        for (uint32_t j = 0; j < unit->slice_count; j++) {
            uint64_t words[3] = {unit->slices[j].file, unit->slices[j].offset, unit->slices[j].bytes};
            hash = fnv1a(hash, words, sizeof words);
        }
    }
    return hash;
}

static const struct unit *unit_of_model(const void *model, unit_number unit)
{
    return model_unit(model, unit);
}

bool store_usage_path(const struct model *model, char *path, size_t room)
{
    uint64_t hash = hash_units(model, unit_of_model, model_unit_count(model));
    const char *name = model_name(model), *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    hash = fnv1a(hash, name, strlen(name));
    int length;
    if (state && state[0] == '/')
        length = snprintf(path, room, "%s/hypura/usage/%016" PRIx64, state, hash);
    else if (home && home[0] == '/')
        length = snprintf(path, room, "%s/.local/state/hypura/usage/%016" PRIx64, home, hash);
    else
        return false;
    return length > 0 && (size_t)length < room;
}

static void make_header(const struct usage *usage, uint8_t header[HEADER_BYTES])
{
    memcpy(header, "HYPUSAGE", 8);
    const uint64_t words[2] = {VERSION | (uint64_t)usage->count << 32, usage->fingerprint};
    for (unsigned i = 0; i < 16; i++)
        header[8 + i] = (uint8_t)(words[i / 8] >> (8 * (i % 8)));
}

static uint16_t value_at(const uint8_t *bytes, size_t index)
{
    return (uint16_t)(bytes[2 * index] | bytes[2 * index + 1] << 8);
}

static void load_curve(struct plan_hit_curve *curve, const uint8_t *bytes)
{
    curve->known = value_at(bytes, PLAN_CURVE_POINTS - 1) == ONE;
    for (uint32_t i = 0; i < PLAN_CURVE_POINTS; i++) {
        curve->hits[i] = (float)value_at(bytes, i) / ONE;
        curve->known = curve->known && (i == 0 || curve->hits[i] >= curve->hits[i - 1]);
    }
}

static void load(struct usage *usage)
{
    FILE *file = fopen(usage->path, "rbe");
    if (!file)
        return;
    uint8_t header[HEADER_BYTES], expected[HEADER_BYTES], more;
    make_header(usage, expected);
    size_t bytes = ((size_t)usage->count + PLAN_CURVE_POINTS) * 2;
    uint8_t *values = malloc(bytes);
    if (values && fread(header, sizeof header, 1, file) == 1 && memcmp(header, expected, sizeof header) == 0 &&
        fread(values, 1, bytes, file) == bytes && fread(&more, 1, 1, file) == 0) {
        load_curve(&usage->curve, values);
        for (uint32_t i = 0; i < usage->count; i++)
            usage->rates[i] = value_at(values, PLAN_CURVE_POINTS + i);
    } else {
        log_write(LOG_INFO, "%s does not match the model: it is ignored", usage->path);
    }
    free(values);
    fclose(file);
}

hypura_status usage_prepare(struct store *store, const char *path, hypura_error *error)
{
    struct usage *usage = &store->usage;
    usage->first = NO_UNIT;
    for (unit_number i = 0; i < store->unit_count; i++) {
        if (store_unit(store, i)->kind == UNIT_EXPERT) {
            usage->first = MIN(usage->first, i);
            usage->count = i - usage->first + 1;
        }
    }
    if (store->cache.class_count == 0 && store->device_count == 0)
        return HYPURA_OK;
    usage->fingerprint = hash_units(store->model, store->unit, store->model_units);
    hypura_status status = ALLOCATE(&usage->rates, usage->count, "expert usage", error);
    if (!status)
        status = ALLOCATE(&usage->last, usage->count, "expert usage", error);
    if (!status)
        status = string_copy(&usage->path, path, error);
    if (!status && store->device_count)
        status = ALLOCATE(&usage->counts, usage->count, "expert usage", error);
    if (status)
        return status;
    load(usage);
    for (uint32_t i = 0; i < usage->count; i++) {
        if (store->units[usage->first + i].place == PLACE_CACHE || store->units[usage->first + i].moves)
            cache_set_rate(store, usage->first + i, (float)usage->rates[i] / ONE);
        moves_expect(store, usage->first + i, (float)usage->rates[i] / ONE);
    }
    return HYPURA_OK;
}

uint64_t *store_usage_read(const struct model *model, const char *path, struct plan_hit_curve *curve)
{
    struct usage usage = {.first = NO_UNIT};
    uint32_t units = model_unit_count(model);
    uint64_t *uses = NULL;
    bool any = false;
    if (curve)
        *curve = (struct plan_hit_curve){0};
    for (unit_number i = 0; i < units; i++) {
        if (model_unit(model, i)->kind == UNIT_EXPERT) {
            usage.first = MIN(usage.first, i);
            usage.count = i - usage.first + 1;
        }
    }
    usage.fingerprint = hash_units(model, unit_of_model, units);
    if (usage.count == 0 || ALLOCATE(&usage.rates, usage.count, "expert usage", NULL) ||
        string_copy(&usage.path, path, NULL) || ALLOCATE(&uses, units, "expert usage", NULL)) {
        memory_free(usage.rates);
        memory_free(usage.path);
        return NULL;
    }
    load(&usage);
    if (curve)
        *curve = usage.curve;
    for (uint32_t i = 0; i < usage.count; i++) {
        uses[usage.first + i] = usage.rates[i];
        any |= usage.rates[i] != 0;
    }
    memory_free(usage.rates);
    memory_free(usage.path);
    if (!any) {
        memory_free(uses);
        uses = NULL;
    }
    return uses;
}

void store_note_uses(struct store *store, const unit_number *units, size_t count)
{
    struct usage *usage = &store->usage;
    pthread_mutex_lock(store->mutex);
    for (size_t i = 0; i < count; i++) {
        struct stored_unit *unit = &store->units[units[i]];
        moves_note(store, units[i]);
        if (!usage->counts || unit->last_pass == store->pass || !(is_fixed(unit) || unit->moves))
            continue;
        unit->last_pass = store->pass;
        usage->counts[units[i] - usage->first]++;
    }
    pthread_mutex_unlock(store->mutex);
}

struct rated {
    unit_number unit;
    uint16_t rate;
};

static int by_rate(const void *left, const void *right)
{
    const struct rated *a = left, *b = right;
    if (a->rate != b->rate)
        return a->rate > b->rate ? -1 : 1;
    return a->unit < b->unit ? -1 : a->unit > b->unit;
}

void usage_warm(struct store *store)
{
    const struct usage *usage = &store->usage;
    struct rated *rated = usage->path ? malloc(usage->count * sizeof *rated) : NULL;
    if (!rated)
        return;
    uint32_t count = 0;
    for (uint32_t i = 0; i < usage->count; i++) {
        if (usage->rates[i] > 0 && store->units[usage->first + i].place == PLACE_CACHE)
            rated[count++] = (struct rated){usage->first + i, usage->rates[i]};
    }
    qsort(rated, count, sizeof *rated, by_rate);
    for (uint32_t i = 0; i < count; i++)
        store->prefetch.warm[i] = rated[i].unit;
    store->prefetch.warm_next = 0;
    store->prefetch.warm_count = count;
    free(rated);
    prefetch_pump(store);
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static bool make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        bool made = mkdir(path, 0777) == 0 || errno == EEXIST;
        *slash = '/';
        if (!made)
            return false;
    }
    return true;
}

static bool write_value(FILE *file, uint16_t value)
{
    const uint8_t bytes[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
    return fwrite(bytes, sizeof bytes, 1, file) == 1;
}

static bool write_file(const struct usage *usage, const char *path)
{
    uint8_t header[HEADER_BYTES];
    make_header(usage, header);
    FILE *file = fopen(path, "wbe");
    if (!file)
        return false;
    bool good = fwrite(header, sizeof header, 1, file) == 1;
    for (uint32_t i = 0; good && i < PLAN_CURVE_POINTS; i++)
        good = write_value(file, usage->curve.known ? (uint16_t)(usage->curve.hits[i] * ONE + 0.5f) : 0);
    for (uint32_t i = 0; good && i < usage->count; i++)
        good = write_value(file, usage->rates[i]);
    return (fclose(file) == 0) && good;
}

/* The experts that the cache has room for, as many as their mean size allows. */
static double cache_room(const struct store *store)
{
    double online = 0, all = 0, units = 0;
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        online += (double)store->cache.classes[i].online * (double)store->cache.sizes[i].stride;
        all += (double)store->cache.sizes[i].unit_count * (double)store->cache.sizes[i].stride;
        units += store->cache.sizes[i].unit_count;
    }
    return all > 0 ? online / all * units : 0;
}

static bool cache_full(const struct store *store)
{
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        if (store->cache.classes[i].free != NO_SLOT)
            return false;
    }
    return true;
}

/* Of the layers whose uses a pass notes. */
struct noted {
    uint64_t experts, held; /* held: on devices, or pinned */
    uint64_t uses, kept;    /* kept: of an expert that was there */
};

/* Next to devices, the uses of what they hold are noted, too. */
static bool is_noted(const struct store *store, const struct stored_unit *unit)
{
    return unit->place == PLACE_CACHE || (is_fixed(unit) && store->usage.counts);
}

static bool is_used(const struct store *store, const struct stored_unit *unit)
{
    return is_noted(store, unit) && unit->last_pass == store->pass;
}

/* first, count: of usage->last. Each use looks at all experts of the layer, some hundreds at most, which is little
 * compared with reading or computing one. */
static void note_layer(struct noted *noted, struct store *store, uint32_t first, uint32_t count)
{
    const struct stored_unit *units = &store->units[store->usage.first + first];
    uint32_t *last = store->usage.last + first, experts = 0, held = 0, uses = 0;
    for (uint32_t i = 0; i < count; i++) {
        experts += is_noted(store, &units[i]);
        held += is_noted(store, &units[i]) && is_fixed(&units[i]);
        uses += is_used(store, &units[i]);
        last[i] = is_noted(store, &units[i]) ? last[i] : 0;
    }
    if (uses == 0 && held == experts) /* a device alone chooses unseen */
        return;
    for (uint32_t i = 0; i < count; i++)
        if (is_used(store, &units[i]))
            distances_note(&store->usage.distances, last, count, experts, i);
    for (uint32_t i = 0; i < count; i++) {
        if (!is_used(store, &units[i]))
            continue;
        last[i] = store->pass;
        noted->kept += is_fixed(&units[i]) || units[i].kept;
    }
    noted->experts += experts;
    noted->held += held;
    noted->uses += uses;
}

void usage_note_pass(struct store *store)
{
    struct usage *usage = &store->usage;
    const struct prefetch *prefetch = &store->prefetch;
    if (!usage->last || (prefetch->wants == 0 && !usage->counts))
        return;
    /* Misses of a cache that is not full yet do not recur. */
    bool full = usage->full;
    usage->full = full || cache_full(store);
    /* A long batch uses nearly all experts, in unknown order, which tells nothing about answers. */
    if (2 * prefetch->wants > prefetch->room) {
        memset(usage->last, 0, usage->count * sizeof *usage->last);
        return;
    }
    struct noted noted = {0};
    for (uint32_t first = 0, end; first < usage->count; first = end) {
        int32_t layer = store_unit(store, usage->first + first)->layer;
        for (end = first + 1; end < usage->count && store_unit(store, usage->first + end)->layer == layer;)
            end++;
        note_layer(&noted, store, first, end - first);
    }
    if (full && noted.experts) {
        const double share = (cache_room(store) + (double)noted.held) / (double)noted.experts;
        distances_note_cache(&usage->distances, fmin(share, 1), noted.uses, noted.kept);
    }
}

void usage_save(struct store *store)
{
    struct usage *usage = &store->usage;
    if (!usage->path || store->pass < FIRST_PASS + LEAST_PASSES)
        return;
    float passes = (float)(store->pass - FIRST_PASS);
    const struct distances *distances = &usage->distances;
    const double share =
        distances->wants > 0 ? distances->shares / distances->wants : cache_room(store) / MAX(usage->count, 1u);
    distances_curve(distances, share, &usage->curve);
    for (uint32_t i = 0; i < usage->count; i++) {
        if (store->units[usage->first + i].place == PLACE_CACHE && !store->units[usage->first + i].moves)
            usage->rates[i] = (uint16_t)(MIN(cache_rate(store, usage->first + i), 1.0f) * ONE + 0.5f);
        else if (usage->counts)
            usage->rates[i] = (uint16_t)(MIN((float)usage->counts[i] / passes, 1.0f) * ONE + 0.5f);
    }
    /* Another process may save the same model: whole files replace each other. */
    size_t room = strlen(usage->path) + 32;
    char *temporary = malloc(room);
    if (!temporary)
        return;
    snprintf(temporary, room, "%s.%ld", usage->path, (long)getpid());
    if (!make_folders(temporary) || !write_file(usage, temporary) || rename(temporary, usage->path) != 0) {
        log_write(LOG_WARNING, "cannot write the statistics of expert use to %s: %s", usage->path, strerror(errno));
        unlink(temporary);
    }
    free(temporary);
}

void usage_free(struct store *store)
{
    memory_free(store->usage.path);
    memory_free(store->usage.rates);
    memory_free(store->usage.last);
    memory_free(store->usage.counts);
}
