/* The line that --progress shows: tokens, disk, hits and stalls of the last moment. */
#include "cli/cli.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define TERMINAL_MILLISECONDS 250
#define FILE_MILLISECONDS 500

static struct engine *watched;
static pthread_t thread;
static atomic_bool stop;

static void show(const struct engine_statistics *now, const struct engine_statistics *before, double seconds)
{
    uint64_t tokens = now->generated_tokens + now->prompt_tokens - before->generated_tokens - before->prompt_tokens;
    uint64_t hits = now->store.expert_hits - before->store.expert_hits;
    uint64_t uses = hits + now->store.expert_misses - before->store.expert_misses;
    double disk = (double)(now->store.bytes_read - before->store.bytes_read) / seconds;
    double stalled = (double)(now->store.stall_nanoseconds - before->store.stall_nanoseconds) * 1e-9 / seconds;
    bool terminal = is_terminal(stderr);
    fprintf(stderr, "%s%.1f tokens/s, disk %.0f MB/s (%.0f %% of what it gives), waiting for it %.0f %% of the time",
            terminal ? "\r\033[K" : "", (double)tokens / seconds, disk / 1e6,
            100 * disk / engine_hardware(watched)->storage.bytes_per_second, 100 * MIN(stalled, 1.0));
    if (uses)
        fprintf(stderr, ", expert hits %.0f %%", 100.0 * (double)hits / (double)uses);
    fputs(terminal ? "" : "\n", stderr);
    fflush(stderr);
}

static void *watch(void *argument)
{
    (void)argument;
    struct engine_statistics before, now;
    struct timespec pause = {.tv_nsec = 50 * 1000000L};
    uint64_t interval = (is_terminal(stderr) ? TERMINAL_MILLISECONDS : FILE_MILLISECONDS) * UINT64_C(1000000);
    bool shown = false;
    engine_statistics(watched, &before);
    uint64_t last = clock_nanoseconds();
    while (!atomic_load(&stop)) {
        nanosleep(&pause, NULL);
        if (clock_nanoseconds() - last < interval)
            continue;
        engine_statistics(watched, &now);
        show(&now, &before, clock_seconds_since(last));
        last = clock_nanoseconds();
        before = now;
        shown = true;
    }
    /* A log has at least one line, however short the run. */
    if (!shown && !is_terminal(stderr)) {
        engine_statistics(watched, &now);
        show(&now, &before, clock_seconds_since(last));
    }
    return NULL;
}

void progress_start(struct engine *engine)
{
    watched = engine;
    atomic_store(&stop, false);
    if (pthread_create(&thread, NULL, watch, NULL))
        watched = NULL; /* a run without the line is better than none */
}

void progress_stop(void)
{
    if (!watched)
        return;
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    watched = NULL;
    if (is_terminal(stderr))
        fprintf(stderr, "\r\033[K");
}
