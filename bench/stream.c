/* How fast the store streams: a file, cut into tensors or experts, passes through a pool, and nothing is computed.
 *
 *   stream FILE [tensors|experts|pinned] [unit bytes] [pool bytes] [seconds] [block bytes] [depth] [threads]
 *
 * tensors: in cyclic order, through the ring. experts: batches of 8 at random places. pinned: loads the whole file
 * once, into fresh memory. Prints MB/s and the share of a core that the process used. Compare with fio on the same
 * file: fio --readonly --direct=1 --ioengine=io_uring. */
#include "store/store_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

static struct unit *units;

static const struct unit *unit_at(const void *model, unit_number unit)
{
    (void)model;
    return &units[unit];
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static hypura_status use(struct store *store, uint32_t count, bool experts, struct random *random, uint32_t *next,
                         hypura_error *error)
{
    struct store_view view;
    unit_number wanted[8];
    uint32_t used = experts ? 8 : 1;
    for (uint32_t i = 0; i < used; i++)
        wanted[i] = experts ? (unit_number)(random_next(random) % count) : (*next)++ % count;
    hypura_status status = experts ? store_want(store, wanted, used, error) : HYPURA_OK;
    for (uint32_t i = 0; i < used && !status; i++) {
        status = store_get(store, wanted[i], &view, error);
        if (!status)
            store_put(store, wanted[i]);
    }
    if (experts && !status && (*next)++ % 48 == 0)
        status = store_advance(store, error);
    return status;
}

int main(int count, char **arguments)
{
    hypura_error error;
    struct stat info;
    if (count < 2 || stat(arguments[1], &info)) {
        fprintf(stderr,
                "usage: stream FILE [tensors|experts|pinned] [unit] [pool] [seconds] [block] [depth] [threads]\n");
        return 2;
    }
    bool experts = count > 2 && strcmp(arguments[2], "experts") == 0;
    bool pinned = count > 2 && strcmp(arguments[2], "pinned") == 0;
    uint64_t unit_bytes = 0, pool = 0, block = 0;
    if (parse_bytes(count > 3 ? arguments[3] : "16M", &unit_bytes, &error) ||
        parse_bytes(count > 4 ? arguments[4] : "64M", &pool, &error) ||
        parse_bytes(count > 6 ? arguments[6] : "0", &block, &error)) {
        fprintf(stderr, "stream: %s\n", error.message);
        return 2;
    }
    double seconds = count > 5 ? atof(arguments[5]) : 3;
    uint32_t unit_count = (uint32_t)((uint64_t)info.st_size / unit_bytes);
    units = calloc(unit_count, sizeof *units);
    uint8_t *tiers = malloc(unit_count), *in_ring = malloc(unit_count);
    memset(tiers, pinned ? TIER_RAM : TIER_STORAGE, unit_count);
    memset(in_ring, 1, unit_count);
    for (uint32_t i = 0; i < unit_count; i++) {
        units[i] = (struct unit){.kind = experts ? UNIT_EXPERT : UNIT_TENSOR,
                                 .layer = (int32_t)(i * 48ull / unit_count),
                                 .slice_count = 1,
                                 .bytes = unit_bytes};
        units[i].slices[0] = (struct unit_slice){.offset = i * unit_bytes, .bytes = unit_bytes};
    }
    const char *paths[] = {arguments[1]};
    struct store_source source = {.unit = unit_at,
                                  .unit_count = unit_count,
                                  .tiers = tiers,
                                  .in_ring = in_ring,
                                  .paths = paths,
                                  .file_count = 1,
                                  .ring_bytes = experts || pinned ? 0 : pool,
                                  .expert_cache_bytes = experts ? pool : 0};
    struct store_options options = {.reader = count > 8 ? STORE_READER_THREADS : STORE_READER_AUTO,
                                    .allow_buffered = true,
                                    .block_bytes = (uint32_t)block,
                                    .depth = count > 7 ? (uint32_t)atoi(arguments[7]) : 0};
    struct store *store = NULL;
    hypura_status status = store_open_source(&store, &source, &options, NULL, &error);
    uint64_t start = clock_nanoseconds();
    double cpu = cpu_seconds();
    if (!status)
        status = store_load(store, NULL, NULL, &error);
    double loading = clock_seconds_since(start);
    if (!status && pinned) {
        struct store_statistics loaded;
        store_statistics(store, &loaded);
        printf("%s, %s: %.0f MB/s, %.1f %% of a core\n", loaded.reader, loaded.direct ? "direct" : "buffered",
               1e-6 * (double)loaded.bytes_loaded / loading, 100 * (cpu_seconds() - cpu) / loading);
        seconds = pool = 0;
    }
    struct random random;
    random_seed(&random, 1);
    uint32_t next = 0;
    /* Use the pool once before measuring: its memory is allocated on first use. */
    for (uint64_t warm = 0; !status && warm < 2 * pool; warm += unit_bytes)
        status = use(store, unit_count, experts, &random, &next, &error);
    struct store_statistics before, after;
    if (!status)
        store_statistics(store, &before);
    start = clock_nanoseconds();
    cpu = cpu_seconds();
    while (!status && clock_seconds_since(start) < seconds)
        status = use(store, unit_count, experts, &random, &next, &error);
    if (status) {
        fprintf(stderr, "stream: %s\n", error.message);
    } else if (!pinned) {
        double took = clock_seconds_since(start);
        store_statistics(store, &after);
        printf("%s, %s: %.0f MB/s, %.1f %% of a core, disk busy %.1f %%\n", after.reader,
               after.direct ? "direct" : "buffered", 1e-6 * (double)(after.bytes_read - before.bytes_read) / took,
               100 * (cpu_seconds() - cpu) / took,
               1e-7 * (double)(after.read_nanoseconds - before.read_nanoseconds) / took);
    }
    store_close(store);
    free(units);
    free(tiers);
    free(in_ring);
    return status ? 1 : 0;
}
