/* Memory nodes: which processors are near which memory, and which of both this process may use. */
#include "hw/hw_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#endif

/* Parses a set as the kernel writes it: "0-3,8-11". Ignores numbers that do not fit into the words. */
static void parse_list(uint64_t *words, size_t word_count, const char *text)
{
    memset(words, 0, word_count * sizeof *words);
    while (*text) {
        char *end;
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (end == text)
            return;
        if (*end == '-') {
            text = end + 1;
            last = strtoul(text, &end, 10);
            if (end == text)
                return;
        }
        for (unsigned long i = first; i <= last && i < 64 * word_count; i++)
            words[i / 64] |= UINT64_C(1) << i % 64;
        if (*end != ',')
            return;
        text = end + 1;
    }
}

/* Reads the set after a name in /proc/self/status. false: the name is not there. */
static bool allowed(uint64_t *words, size_t word_count, const char *root, const char *name)
{
    char path[1100], text[8192];
    snprintf(path, sizeof path, "%s/proc/self/status", root);
    const char *line = hw_read_text(path, text, sizeof text) ? strstr(text, name) : NULL;
    if (!line)
        return false;
    line += strlen(name);
    line += strspn(line, " \t");
    parse_list(words, word_count, line);
    return true;
}

static uint32_t count_bits(const uint64_t *words)
{
    uint32_t bits = 0;
    for (size_t i = 0; i < HARDWARE_CPU_WORDS; i++)
        bits += (uint32_t)__builtin_popcountll(words[i]);
    return bits;
}

void hw_find_nodes(struct hardware_nodes *out, const char *root, enum hw_policy policy, uint64_t bound)
{
    char path[1100], text[4096];
    uint64_t online, memory, cpus[HARDWARE_CPU_WORDS];
    struct hardware_nodes found = {.place = policy != HW_POLICY_OTHER};
    *out = (struct hardware_nodes){.count = 1};
    snprintf(path, sizeof path, "%s/sys/devices/system/node/online", root);
    if (!hw_read_text(path, text, sizeof text) || !allowed(cpus, HARDWARE_CPU_WORDS, root, "Cpus_allowed_list:") ||
        !allowed(&memory, 1, root, "Mems_allowed_list:"))
        return;
    parse_list(&online, 1, text);
    if (policy == HW_POLICY_BIND)
        memory &= bound;
    for (uint32_t number = 0; number < 64; number++) {
        struct hardware_node node = {.number = number};
        snprintf(path, sizeof path, "%s/sys/devices/system/node/node%u/cpulist", root, number);
        if (!(online >> number & 1) || !hw_read_text(path, text, sizeof text))
            continue;
        parse_list(node.cpus, HARDWARE_CPU_WORDS, text);
        for (size_t i = 0; i < HARDWARE_CPU_WORDS; i++)
            node.cpus[i] &= cpus[i];
        node.cores = count_bits(node.cpus);
        if (node.cores == 0)
            continue;
        /* Too many nodes: the machine counts as one, and the system places threads and memory. */
        if (found.count == HARDWARE_MAX_NODES)
            return;
        found.place &= memory >> number & 1;
        found.nodes[found.count++] = node;
    }
    if (found.count > 1)
        *out = found;
}

size_t hardware_first_thread(const struct hardware_nodes *nodes, uint32_t node, size_t threads)
{
    uint64_t before = 0, all = 0;
    for (uint32_t i = 0; i < nodes->count; i++) {
        before += i < node ? nodes->nodes[i].cores : 0;
        all += nodes->nodes[i].cores;
    }
    return all && node < nodes->count ? (size_t)((threads * before + all / 2) / all) : node ? threads : 0;
}

#if defined(__linux__) && defined(SYS_mbind) && defined(SYS_get_mempolicy)
void hardware_find_nodes(struct hardware_nodes *out)
{
    int mode = MPOL_DEFAULT;
    unsigned long bound[16] = {0}; /* for as many nodes as a kernel may support */
    enum hw_policy policy = HW_POLICY_NONE;
    /* Where the system refuses this call, as in some containers, it would refuse to place memory too. */
    if (syscall(SYS_get_mempolicy, &mode, bound, 8 * sizeof bound, NULL, 0) != 0)
        policy = HW_POLICY_OTHER;
    else if (mode == MPOL_BIND)
        policy = HW_POLICY_BIND;
    else if (mode != MPOL_DEFAULT)
        policy = HW_POLICY_OTHER;
    hw_find_nodes(out, "", policy, bound[0]);
}

static void set_policy(int mode, uint64_t set, void *memory, size_t bytes)
{
    uintptr_t page = memory_page_size();
    uintptr_t start = (uintptr_t)align_up((uintptr_t)memory, page);
    uintptr_t end = (uintptr_t)align_down((uintptr_t)memory + bytes, page);
    unsigned long nodes = (unsigned long)set;
    /* Only a hint: if the call fails, the system places the memory. */
    if (end > start)
        syscall(SYS_mbind, (void *)start, end - start, mode, &nodes, 8 * sizeof nodes, 0);
}

void hardware_place(const struct hardware_nodes *nodes, uint32_t node, void *memory, size_t bytes)
{
    if (nodes->count > 1 && nodes->place && node < nodes->count)
        set_policy(MPOL_PREFERRED, UINT64_C(1) << nodes->nodes[node].number, memory, bytes);
}

void hardware_interleave(const struct hardware_nodes *nodes, void *memory, size_t bytes)
{
    uint64_t set = 0;
    for (uint32_t i = 0; i < nodes->count; i++)
        set |= UINT64_C(1) << nodes->nodes[i].number;
    if (nodes->count > 1 && nodes->place)
        set_policy(MPOL_INTERLEAVE, set, memory, bytes);
}
#else
void hardware_find_nodes(struct hardware_nodes *out)
{
    *out = (struct hardware_nodes){.count = 1};
}

void hardware_place(const struct hardware_nodes *nodes, uint32_t node, void *memory, size_t bytes)
{
    (void)nodes, (void)node, (void)memory, (void)bytes;
}

void hardware_interleave(const struct hardware_nodes *nodes, void *memory, size_t bytes)
{
    (void)nodes, (void)memory, (void)bytes;
}
#endif
