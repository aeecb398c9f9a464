#include "compute/compute.h"
#include "hw/hw_private.h"

#ifdef __linux__
#include <sched.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

static void add_word(char *text, size_t room, const char *word)
{
    size_t used = strlen(text);
    snprintf(text + used, room - used, "%s%s", used ? " " : "", word);
}

#ifdef __APPLE__
static uint64_t sysctl_number(const char *name)
{
    uint64_t value = 0;
    size_t size = sizeof value;
    /* A 32-bit value fills the low half: both of Apple's architectures are little-endian. */
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 ? value : 0;
}
#endif

#if defined(__x86_64__)
/* Leaves 0x80000002 to 0x80000004: 48 characters, the same on Intel and AMD. */
static void cpu_name(char *name, size_t room)
{
    unsigned words[12];
    for (unsigned i = 0; i < 3; i++) {
        unsigned *w = words + 4 * i;
        if (!__get_cpuid(0x80000002u + i, w, w + 1, w + 2, w + 3)) {
            snprintf(name, room, "x86-64");
            return;
        }
    }
    char text[sizeof words + 1];
    memcpy(text, words, sizeof words);
    text[sizeof words] = '\0';
    const char *start = text;
    while (*start == ' ')
        start++;
    size_t length = strlen(start);
    while (length && start[length - 1] == ' ')
        length--;
    snprintf(name, room, "%.*s", (int)length, start);
}

static void cpu_instructions(char *text, size_t room)
{
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        add_word(text, room, "AVX2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        add_word(text, room, "AVX-512");
    if (__builtin_cpu_supports("avx512vnni"))
        add_word(text, room, "VNNI");
    if (__builtin_cpu_supports("avx512bf16"))
        add_word(text, room, "BF16");
    if (compute_has_instructions(INSTRUCTIONS_AVX_VNNI))
        add_word(text, room, "AVX-VNNI");
    if (compute_has_instructions(INSTRUCTIONS_AMX))
        add_word(text, room, "AMX");
    if (!*text)
        add_word(text, room, "SSE2");
}
#elif defined(__aarch64__)
static void cpu_name(char *name, size_t room)
{
    snprintf(name, room, "ARM64");
#ifdef __APPLE__
    size_t size = room;
    sysctlbyname("machdep.cpu.brand_string", name, &size, NULL, 0);
    name[room - 1] = '\0';
#else
    char model[128];
    if (hw_read_text("/proc/device-tree/model", model, sizeof model) && *model)
        snprintf(name, room, "%s", model);
#endif
}

static void cpu_instructions(char *text, size_t room)
{
    add_word(text, room, "NEON");
#ifdef __APPLE__
    if (sysctl_number("hw.optional.arm.FEAT_DotProd"))
        add_word(text, room, "DOTPROD");
    if (sysctl_number("hw.optional.arm.FEAT_I8MM"))
        add_word(text, room, "I8MM");
#else
#ifdef HWCAP_ASIMDDP
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
        add_word(text, room, "DOTPROD");
#endif
#ifdef HWCAP2_I8MM
    if (getauxval(AT_HWCAP2) & HWCAP2_I8MM)
        add_word(text, room, "I8MM");
#endif
#endif
}
#else
static void cpu_name(char *name, size_t room)
{
    snprintf(name, room, "unknown");
}

static void cpu_instructions(char *text, size_t room)
{
    add_word(text, room, "plain");
}
#endif

#ifdef __linux__
/* Counts the distinct caches with this index among the processors that this process may use. */
static uint64_t count_caches(int index)
{
    char path[128], id[32], seen[64][sizeof id];
    uint64_t count = 0;
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0)
        return 1;
    for (int cpu = 0; cpu < CPU_SETSIZE && count < COUNT_OF(seen); cpu++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/id", cpu, index);
        if (!CPU_ISSET(cpu, &cpus) || !hw_read_text(path, id, sizeof id))
            continue;
        uint64_t i = 0;
        while (i < count && strcmp(seen[i], id) != 0)
            i++;
        if (i == count)
            memcpy(seen[count++], id, sizeof id);
    }
    return MAX(count, (uint64_t)1);
}

static void cpu_caches(struct hardware *out)
{
    for (int index = 0; index < 8; index++) {
        char path[128], type[32], level[32], size[32];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", index);
        if (!hw_read_text(path, type, sizeof type))
            break;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", index);
        bool known = hw_read_text(path, level, sizeof level);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        if (!known || !hw_read_text(path, size, sizeof size) || strncmp(type, "Instruction", 11) == 0)
            continue;
        size[strcspn(size, "\n")] = '\0';
        uint64_t bytes = 0;
        if (parse_bytes(size, &bytes, NULL) != HYPURA_OK)
            continue;
        uint64_t *caches[] = {&out->cache_l1, &out->cache_l2, &out->cache_l3};
        int number = atoi(level);
        if (number >= 1 && number <= 3)
            *caches[number - 1] = number == 3 ? bytes * count_caches(index) : bytes;
    }
#ifdef _SC_LEVEL1_DCACHE_SIZE
    /* Some virtual machines hide this folder, but not the CPUID leaves that the C library reads. */
    long level1 = sysconf(_SC_LEVEL1_DCACHE_SIZE), level2 = sysconf(_SC_LEVEL2_CACHE_SIZE),
         level3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (!out->cache_l1 && level1 > 0)
        out->cache_l1 = (uint64_t)level1;
    if (!out->cache_l2 && level2 > 0)
        out->cache_l2 = (uint64_t)level2;
    if (!out->cache_l3 && level3 > 0)
        out->cache_l3 = (uint64_t)level3;
#endif
}
#elif defined(__APPLE__)
static void cpu_caches(struct hardware *out)
{
    /* perflevel0 stands for the fast cores of Apple Silicon. Intel Macs only have the plain names. */
    out->cache_l1 = sysctl_number("hw.perflevel0.l1dcachesize");
    out->cache_l2 = sysctl_number("hw.perflevel0.l2cachesize");
    if (!out->cache_l1)
        out->cache_l1 = sysctl_number("hw.l1dcachesize");
    if (!out->cache_l2)
        out->cache_l2 = sysctl_number("hw.l2cachesize");
    out->cache_l3 = sysctl_number("hw.l3cachesize");
}
#else
static void cpu_caches(struct hardware *out)
{
    (void)out;
}
#endif

size_t hw_physical_cores(const char *root)
{
#ifdef __linux__
    cpu_set_t cpus;
    bool seen[CPU_SETSIZE] = {false};
    size_t count = 0;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0)
        return thread_usable_cores();
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &cpus))
            continue;
        /* Such as "0,32" or "0-1". The first processor identifies the core, even if this process may not use it. */
        char path[1200], siblings[64];
        snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", root, cpu);
        if (!hw_read_text(path, siblings, sizeof siblings) || *siblings < '0' || *siblings > '9')
            return thread_usable_cores();
        unsigned long first = strtoul(siblings, NULL, 10);
        if (first >= CPU_SETSIZE)
            return thread_usable_cores();
        count += !seen[first];
        seen[first] = true;
    }
    return MIN(MAX(count, (size_t)1), thread_usable_cores());
#else
    (void)root;
    return thread_usable_cores();
#endif
}

void hw_detect_cpu(struct hardware *out)
{
    cpu_name(out->cpu, sizeof out->cpu);
    out->instructions[0] = '\0';
    cpu_instructions(out->instructions, sizeof out->instructions);
    cpu_caches(out);
    out->cores = MIN(hw_physical_cores(""), hw_cgroup_cores(""));
}
