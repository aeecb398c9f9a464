/* Limits of control groups on memory and processor time, versions 1 and 2 (Linux:
 * Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, scheduler/sched-bwc.rst). A limit applies to all
 * groups below it, so every group from this process's to the root is read. */
#include "hw/hw_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* mountinfo writes a space, tab, newline or backslash as a backslash and three octal digits. */
static void unescape(char *text)
{
    char *out = text;
    for (char *in = text; *in; out++) {
        if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' && in[3] >= '0' &&
            in[3] <= '7') {
            *out = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
            in += 4;
        } else {
            *out = *in++;
        }
    }
    *out = '\0';
}

void hw_walk_mounts(const char *root, mount_visitor visit, void *context)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/proc/self/mountinfo", root);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, file) > 0) {
        struct mount_row row = {0};
        if (sscanf(line, "%*s %*s %*s %1023s %1023s", row.root, row.point) != 2)
            continue;
        /* A field that is only a dash ends the optional fields. */
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(rest, " - %63s %255s %511s", row.type, row.source, row.options) < 2)
            continue;
        unescape(row.root);
        unescape(row.point);
        unescape(row.source);
        if (!visit(context, &row))
            break;
    }
    free(line);
    fclose(file);
}

static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length) {
        if ((at == list || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

struct cgroup_mount {
    const char *controller; /* "memory" or "cpu" for version 1, which mounts them separately; NULL: version 2 */
    bool found;
    struct mount_row row;
};

static bool find_mount(void *context, const struct mount_row *row)
{
    struct cgroup_mount *wanted = context;
    bool match = wanted->controller ? !strcmp(row->type, "cgroup") && has_word(row->options, wanted->controller)
                                    : !strcmp(row->type, "cgroup2");
    if (match) {
        wanted->found = true;
        wanted->row = *row;
    }
    return !match;
}

/* Finds this process's group: in version 2 the line "0::PATH", in version 1 the line that names the controller. */
static bool own_group(const char *root, const char *controller, char *out, size_t room)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool found = false;
    char *line = NULL;
    size_t line_room = 0;
    while (!found && getline(&line, &line_room, file) > 0) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *controllers++ = '\0';
        *group++ = '\0';
        found = controller ? has_word(controllers, controller) : !strcmp(line, "0") && !*controllers;
        if (found)
            snprintf(out, room, "%s", group);
    }
    free(line);
    fclose(file);
    return found;
}

/* Reads a number. Returns UINT64_MAX for "max", for version 1's infinity (rounded to pages) and for a missing file. */
static uint64_t read_limit(const char *folder, const char *name)
{
    char path[2200], text[64];
    uint64_t value;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!hw_read_text(path, text, sizeof text) || sscanf(text, "%" SCNu64, &value) != 1)
        return UINT64_MAX;
    return value >= (uint64_t)1 << 62 ? UINT64_MAX : value;
}

static uint64_t read_statistic(const char *folder, const char *name)
{
    char path[2200], text[8192], key[64];
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (!hw_read_text(path, text, sizeof text))
        return 0;
    snprintf(key, sizeof key, "%s ", name);
    for (char *line = text; line && *line;) {
        uint64_t value;
        if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), "%" SCNu64, &value) == 1)
            return value;
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return 0;
}

struct group_memory {
    uint64_t limit, used;
};

static uint64_t room_left(const struct group_memory *group)
{
    return group->limit == UINT64_MAX ? UINT64_MAX : group->limit - MIN(group->used, group->limit);
}

static void look_at_memory(const char *folder, bool version2, void *context)
{
    struct group_memory here = {UINT64_MAX, 0}, *tightest = context;
    uint64_t droppable;
    if (version2) {
        /* The kernel throttles a group above memory.high until it frees memory, so that counts as a limit too. */
        here.limit = MIN(read_limit(folder, "memory.max"), read_limit(folder, "memory.high"));
        here.used = read_limit(folder, "memory.current");
        droppable = read_statistic(folder, "inactive_file") + read_statistic(folder, "active_file") +
                    read_statistic(folder, "slab_reclaimable");
    } else {
        here.limit = read_limit(folder, "memory.limit_in_bytes");
        here.used = read_limit(folder, "memory.usage_in_bytes");
        droppable = read_statistic(folder, "total_inactive_file") + read_statistic(folder, "total_active_file");
    }
    if (here.used == UINT64_MAX)
        here.used = 0;
    here.used -= MIN(droppable, here.used);
    if (here.limit != UINT64_MAX && room_left(&here) < room_left(tightest))
        *tightest = here;
}

/* In thousandths of a core. A missing file, and a quota of "max" or -1, mean no limit. */
static void look_at_time(const char *folder, bool version2, void *context)
{
    char path[2200], text[128];
    uint64_t quota, period, *tightest = context;
    if (version2) {
        snprintf(path, sizeof path, "%s/cpu.max", folder);
        if (!hw_read_text(path, text, sizeof text) || sscanf(text, "%" SCNu64 " %" SCNu64, &quota, &period) != 2)
            return;
    } else {
        quota = read_limit(folder, "cpu.cfs_quota_us");
        period = read_limit(folder, "cpu.cfs_period_us");
    }
    if (quota < (uint64_t)1 << 40 && period > 0 && period < (uint64_t)1 << 40)
        *tightest = MIN(*tightest, quota * 1000 / period);
}

typedef void (*group_visitor)(const char *folder, bool version2, void *context);

/* Calls look for every group from this process's to the root. controller: for version 1; NULL: version 2. */
static void walk_up(const char *root, const char *controller, group_visitor look, void *context)
{
    struct cgroup_mount mount = {.controller = controller};
    char group[1024];
    hw_walk_mounts(root, find_mount, &mount);
    if (!mount.found || !own_group(root, controller, group, sizeof group))
        return;

    /* In a container, the mount often shows only the container's part of the tree, and the group's path may or may not
     * include that part. If the path does not exist below the mount, limits are found only at the mount's root, which
     * then is our group. A path with ".." leads out of the mount, so the walk starts at the root. */
    const char *below = group;
    size_t prefix = strlen(mount.row.root);
    if (prefix > 1 && !strncmp(group, mount.row.root, prefix) && (group[prefix] == '/' || group[prefix] == '\0'))
        below = group + prefix;
    char top[2100], folder[2100];
    snprintf(top, sizeof top, "%s%s", root, mount.row.point);
    if (snprintf(folder, sizeof folder, "%s%s", top, strcmp(below, "/") ? below : "") >= (int)sizeof folder ||
        strstr(folder, "/.."))
        snprintf(folder, sizeof folder, "%s", top);
    for (;;) {
        look(folder, !controller, context);
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= strlen(top) || !slash)
            break;
        *slash = '\0';
    }
}

void hw_cgroup_memory(const char *root, uint64_t *limit, uint64_t *used)
{
    struct group_memory tightest = {UINT64_MAX, 0};
    walk_up(root, NULL, look_at_memory, &tightest);
    walk_up(root, "memory", look_at_memory, &tightest);
    *limit = tightest.limit;
    *used = tightest.limit == UINT64_MAX ? 0 : tightest.used;
}

size_t hw_cgroup_cores(const char *root)
{
    uint64_t thousandths = UINT64_MAX;
    walk_up(root, NULL, look_at_time, &thousandths);
    walk_up(root, "cpu", look_at_time, &thousandths);
    return thousandths == UINT64_MAX ? SIZE_MAX : (size_t)MAX((thousandths + 999) / 1000, (uint64_t)1);
}
