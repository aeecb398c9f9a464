/* What is remembered from run to run: how often each expert was used.
 *
 * File format, little endian: "HYPUSAGE", u32 version 2, u32 experts, u64 fingerprint of the model's layout, u16 hit
 * exponent * 32768 (0: not known), then for each expert u16: uses a pass * 65535. A file that does not fit is ignored
 * and replaced. */
#include "store/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES 24u

/* A run shorter than this says too little to replace what earlier ones said. */
#define LEAST_PASSES 16u

#define EXPONENT_ONE 32768.0f

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
    const uint64_t words[2] = {2 | (uint64_t)usage->count << 32, usage->fingerprint};
    for (unsigned i = 0; i < 16; i++)
        header[8 + i] = (uint8_t)(words[i / 8] >> (8 * (i % 8)));
}

static void load(struct usage *usage)
{
    FILE *file = fopen(usage->path, "rbe");
    if (!file)
        return;
    uint8_t header[HEADER_BYTES], expected[HEADER_BYTES], more;
    make_header(usage, expected);
    size_t bytes = ((size_t)usage->count + 1) * 2;
    uint8_t *rates = malloc(bytes);
    if (rates && fread(header, sizeof header, 1, file) == 1 && memcmp(header, expected, sizeof header) == 0 &&
        fread(rates, 1, bytes, file) == bytes && fread(&more, 1, 1, file) == 0) {
        usage->hit_exponent = (uint16_t)(rates[0] | rates[1] << 8);
        for (uint32_t i = 0; i < usage->count; i++)
            usage->rates[i] = (uint16_t)(rates[2 * i + 2] | rates[2 * i + 3] << 8);
    } else {
        log_write(LOG_INFO, "%s does not fit the model: it is ignored", usage->path);
    }
    free(rates);
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
    if (store->class_count == 0 && !store->device)
        return HYPURA_OK;
    usage->fingerprint = hash_units(store->model, store->unit, store->model_units);
    hypura_status status = ALLOCATE(&usage->rates, usage->count, "expert usage", error);
    if (!status)
        status = string_copy(&usage->path, path, error);
    if (!status && store->device)
        status = ALLOCATE(&usage->counts, usage->count, "expert usage", error);
    if (status)
        return status;
    load(usage);
    for (uint32_t i = 0; i < usage->count; i++) {
        if (store->units[usage->first + i].place == PLACE_CACHE || moves_has(store, usage->first + i))
            cache_set_rate(store, usage->first + i, (float)usage->rates[i] / 65535);
        moves_expect(store, usage->first + i, (float)usage->rates[i] / 65535);
    }
    return HYPURA_OK;
}

uint64_t *store_usage_read(const struct model *model, const char *path, float *hit_exponent)
{
    struct usage usage = {.first = NO_UNIT};
    uint32_t units = model_unit_count(model);
    uint64_t *uses = NULL;
    bool any = false;
    if (hit_exponent)
        *hit_exponent = 0;
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
    if (hit_exponent)
        *hit_exponent = (float)usage.hit_exponent / EXPONENT_ONE;
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
        if (!usage->counts || unit->last_pass == store->pass || !(is_fixed(unit) || moves_has(store, units[i])))
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
        store->guesses.warm[i] = rated[i].unit;
    store->guesses.warm_next = 0;
    store->guesses.warm_count = count;
    free(rated);
    guess_pump(store);
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

static bool write_file(const struct usage *usage, const char *path)
{
    uint8_t header[HEADER_BYTES];
    make_header(usage, header);
    FILE *file = fopen(path, "wbe");
    if (!file)
        return false;
    bool good = fwrite(header, sizeof header, 1, file) == 1;
    for (uint32_t i = 0; good && i <= usage->count; i++) {
        uint16_t value = i == 0 ? usage->hit_exponent : usage->rates[i - 1];
        const uint8_t bytes[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
        good = fwrite(bytes, sizeof bytes, 1, file) == 1;
    }
    return (fclose(file) == 0) && good;
}

void usage_note_pass(struct store *store)
{
    struct usage *usage = &store->usage;
    const struct guesses *guesses = &store->guesses;
    /* A long batch uses nearly everything, which says nothing of answers. */
    if (guesses->wants > 0 && 2 * guesses->wants <= guesses->room) {
        usage->wants += guesses->wants;
        usage->kept += usage->kept_now;
    }
    usage->kept_now = 0;
}

/* What the cache kept of what was wanted is its share of all experts to some power, and much the same one at other
 * sizes. */
static uint16_t find_exponent(const struct store *store)
{
    const struct usage *usage = &store->usage;
    double online = 0, all = 0;
    for (uint32_t i = 0; i < store->class_count; i++) {
        online += (double)store->classes[i].online * (double)store->classes[i].stride;
        all += (double)store->classes[i].unit_count * (double)store->classes[i].stride;
    }
    if (usage->kept == 0 || usage->kept >= usage->wants || online <= 0 || online >= all)
        return usage->hit_exponent;
    double exponent = log((double)usage->kept / (double)usage->wants) / log(online / all);
    return (uint16_t)fmin(fmax(exponent * EXPONENT_ONE, 1), UINT16_MAX);
}

void usage_save(struct store *store)
{
    struct usage *usage = &store->usage;
    if (!usage->path || store->pass < FIRST_PASS + LEAST_PASSES)
        return;
    float passes = (float)(store->pass - FIRST_PASS);
    usage->hit_exponent = find_exponent(store);
    for (uint32_t i = 0; i < usage->count; i++) {
        if (store->units[usage->first + i].place == PLACE_CACHE && !moves_has(store, usage->first + i))
            usage->rates[i] = (uint16_t)(MIN(cache_rate(store, usage->first + i), 1.0f) * 65535 + 0.5f);
        else if (usage->counts)
            usage->rates[i] = (uint16_t)(MIN((float)usage->counts[i] / passes, 1.0f) * 65535 + 0.5f);
    }
    /* Another process may save the same: whole files replace one another. */
    size_t room = strlen(usage->path) + 32;
    char *temporary = malloc(room);
    if (!temporary)
        return;
    snprintf(temporary, room, "%s.%ld", usage->path, (long)getpid());
    if (!make_folders(temporary) || !write_file(usage, temporary) || rename(temporary, usage->path) != 0) {
        log_write(LOG_WARNING, "cannot remember which experts were used in %s: %s", usage->path, strerror(errno));
        unlink(temporary);
    }
    free(temporary);
}

void usage_free(struct store *store)
{
    memory_free(store->usage.path);
    memory_free(store->usage.rates);
    memory_free(store->usage.counts);
}
