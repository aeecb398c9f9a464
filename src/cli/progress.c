/* Status lines that a separate thread shows while the engine works: the line of --progress, and how much of a long
 * prompt has been read. */
#include "cli/cli.h"

#include <pthread.h>
#include <time.h>

#define TERMINAL_NANOSECONDS UINT64_C(250000000)
#define FILE_NANOSECONDS UINT64_C(500000000)
#define SILENT_NANOSECONDS UINT64_C(1000000000) /* prompts that take less show no line */

/* A snapshot of the statistics. */
struct moment {
    hypura_statistics statistics;
    uint64_t time;
};

static struct watch {
    hypura_model *model; /* NULL: the thread is not running */
    void (*show)(const struct moment *now, const struct moment *before);
    uint64_t interval, silent;
    bool at_least_once;
    struct moment start;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stop, paused;
} watch = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static uint32_t prompt_tokens;

static struct moment look(void)
{
    struct moment moment = {.time = now_nanoseconds(), .statistics.struct_size = sizeof moment.statistics};
    hypura_get_statistics(watch.model, &moment.statistics);
    return moment;
}

static void show_rates(const struct moment *now, const struct moment *before)
{
    const hypura_statistics *n = &now->statistics, *b = &before->statistics;
    double seconds = (double)(now->time - before->time) * 1e-9;
    uint64_t tokens = n->answer_tokens + n->prompt_tokens - b->answer_tokens - b->prompt_tokens;
    uint64_t hits = n->expert_hits - b->expert_hits;
    uint64_t uses = hits + n->expert_misses - b->expert_misses;
    double disk = (double)(n->read_bytes - b->read_bytes) / seconds;
    double stalled = (n->stall_seconds - b->stall_seconds) / seconds;
    char text[200], share[40] = "";
    if (uses)
        snprintf(share, sizeof share, ", expert hits %.0f %%", 100.0 * (double)hits / (double)uses);
    /* The line fits 80 columns. */
    snprintf(text, sizeof text, "%.1f tokens/s, disk %.0f of %.0f MB/s, waiting for it %.0f %%%s",
             (double)tokens / seconds, disk / 1e6, n->drive_bytes_per_second / 1e6, 100 * MIN(stalled, 1.0), share);
    if (is_terminal(stderr))
        show_line("%s", text);
    else
        fprintf(stderr, "%s\n", text);
}

static void show_prompt(const struct moment *now, const struct moment *before)
{
    const hypura_statistics *n = &now->statistics, *s = &watch.start.statistics;
    double seconds = (double)(now->time - watch.start.time) * 1e-9;
    double disk = (double)(n->read_bytes - before->statistics.read_bytes) / ((double)(now->time - before->time) * 1e-9);
    uint64_t read = MIN(n->prompt_tokens - s->prompt_tokens, (uint64_t)prompt_tokens);
    char rate[48] = "", time[32];
    bool known = read && read < prompt_tokens;
    format_time(time, sizeof time, known ? seconds / (double)read * (double)(prompt_tokens - read) : seconds);
    if (disk > 0)
        snprintf(rate, sizeof rate, ", disk %.0f MB/s", disk / 1e6);
    show_line("reading the prompt: %llu of %u tokens, %s%s%s", (unsigned long long)read, prompt_tokens, time,
              known ? " left" : "", rate);
}

/* Returns true if the thread is to end. */
static bool wait_until(uint64_t time)
{
    bool stop;
    pthread_mutex_lock(&watch.mutex);
    for (uint64_t now; !(stop = watch.stop) && (now = now_nanoseconds()) < time;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        uint64_t due = (uint64_t)until.tv_nsec + time - now;
        until.tv_sec += (time_t)(due / 1000000000u);
        until.tv_nsec = (long)(due % 1000000000u);
        pthread_cond_timedwait(&watch.changed, &watch.mutex, &until);
    }
    pthread_mutex_unlock(&watch.mutex);
    return stop;
}

static void *run(void *argument)
{
    (void)argument;
    struct moment before = watch.start, now;
    bool shown = false;
    for (uint64_t next = before.time + watch.silent; !wait_until(next); next = now.time + watch.interval) {
        now = look();
        pthread_mutex_lock(&watch.mutex);
        if (!watch.paused) {
            watch.show(&now, &before);
            shown = true;
        }
        pthread_mutex_unlock(&watch.mutex);
        before = now;
    }
    if (!shown && watch.at_least_once) {
        now = look();
        watch.show(&now, &before);
    }
    return NULL;
}

static void start(hypura_model *model)
{
    watch.model = model;
    watch.stop = watch.paused = false;
    watch.start = look();
    if (pthread_create(&watch.thread, NULL, run, NULL))
        watch.model = NULL; /* run without the line */
}

void progress_start(hypura_model *model)
{
    bool terminal = is_terminal(stderr);
    watch.show = show_rates;
    watch.interval = watch.silent = terminal ? TERMINAL_NANOSECONDS : FILE_NANOSECONDS;
    watch.at_least_once = !terminal; /* even a short run leaves one line in a log */
    start(model);
}

void progress_pause(bool pause)
{
    pthread_mutex_lock(&watch.mutex);
    watch.paused = pause;
    pthread_mutex_unlock(&watch.mutex);
    if (pause && watch.model)
        clear_line();
}

void progress_stop(void)
{
    if (!watch.model)
        return;
    pthread_mutex_lock(&watch.mutex);
    watch.stop = true;
    pthread_cond_signal(&watch.changed);
    pthread_mutex_unlock(&watch.mutex);
    pthread_join(watch.thread, NULL);
    watch.model = NULL;
    clear_line();
}

void prompt_line_start(hypura_model *model, uint32_t tokens)
{
    if (watch.model || !is_terminal(stderr))
        return; /* --progress shows it */
    prompt_tokens = tokens;
    watch.show = show_prompt;
    watch.interval = TERMINAL_NANOSECONDS;
    watch.silent = SILENT_NANOSECONDS;
    watch.at_least_once = false;
    start(model);
}

void prompt_line_stop(void)
{
    if (watch.model && watch.show == show_prompt)
        progress_stop();
}
