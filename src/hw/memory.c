#include "core/sanitized.h"
#include "hw/hw_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#ifdef __APPLE__
#include <mach/mach.h>
#include <sys/sysctl.h>
#endif

#ifdef __APPLE__
void hw_detect_memory(struct hardware *out, const char *root)
{
    (void)root;
    size_t size = sizeof out->memory_total;
    if (sysctlbyname("hw.memsize", &out->memory_total, &size, NULL, 0))
        out->memory_total = 0;
    vm_statistics64_data_t statistics;
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
    if (host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t)&statistics, &count) == KERN_SUCCESS)
        out->memory_available =
            ((uint64_t)statistics.free_count + statistics.external_page_count + statistics.purgeable_count) *
            memory_page_size();
    out->cgroup_limit = UINT64_MAX;
    out->cgroup_used = 0;
}

uint64_t hardware_code_bytes(void)
{
    /* The system does not count file pages per process. The program and its libraries have about this size. */
    return (uint64_t)12 << 20;
}
#else
static uint64_t field_kib(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    uint64_t value = 0;
    if (line && sscanf(line + strlen(name), ": %" SCNu64, &value) == 1)
        return value * 1024;
    return 0;
}

void hw_detect_memory(struct hardware *out, const char *root)
{
    char path[1024], text[8192];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (hw_read_text(path, text, sizeof text)) {
        out->memory_total = field_kib(text, "MemTotal");
        out->memory_available = field_kib(text, "MemAvailable");
        if (!out->memory_available)
            out->memory_available = field_kib(text, "MemFree");
    }
    hw_cgroup_memory(root, &out->cgroup_limit, &out->cgroup_used);
}

uint64_t hardware_code_bytes(void)
{
    char text[8192];
    if (SANITIZED)
        return 0; /* memory_resident_bytes does not include code */
    return hw_read_text("/proc/self/status", text, sizeof text) ? field_kib(text, "RssFile") : 0;
}
#endif

uint64_t hw_memory_room(const struct hardware *hardware)
{
    uint64_t room = hardware->memory_available ? hardware->memory_available : hardware->memory_total / 2;
    if (hardware->cgroup_limit != UINT64_MAX) {
        uint64_t left = hardware->cgroup_limit - MIN(hardware->cgroup_used, hardware->cgroup_limit);
        room = MIN(room, left);
    }
    return room;
}

uint64_t hardware_default_budget(const struct hardware *hardware)
{
    uint64_t room = hw_memory_room(hardware);
    /* Left for other programs and for the system's tables: a tenth, but at least 256 MiB and at most 2 GiB; and never
     * more than a quarter. */
    uint64_t head_room = MIN(MAX(room / 10, (uint64_t)256 << 20), (uint64_t)2 << 30);
    return room - MIN(head_room, room / 4);
}
