/* NUMA nodes: each thread stays on one node, and reads weights that lie there. */
#include "engine/engine_private.h"

static int node_of_weights(const void *context, const void *weights)
{
    return store_node_of(context, weights);
}

void nodes_find(struct opened *open, const struct engine_options *options)
{
    if (options->nodes)
        open->nodes = *options->nodes;
    else
        hardware_find_nodes(&open->nodes);
}

hypura_status nodes_use(struct opened *open, struct compute *compute, hypura_error *error)
{
    const struct hardware_nodes *nodes = &open->nodes;
    const size_t threads = open->geometry.threads;
    if (nodes->count < 2 || threads < nodes->count)
        return HYPURA_OK;
    struct compute_nodes shares = {.count = nodes->count, .node_of = node_of_weights, .context = open->store};
    for (uint32_t node = 0; node <= nodes->count; node++)
        shares.first_thread[node] = hardware_first_thread(nodes, node, threads);
    for (uint32_t node = 0; node < nodes->count; node++)
        for (size_t thread = shares.first_thread[node]; thread < shares.first_thread[node + 1]; thread++)
            thread_pool_pin(compute_pool(compute), thread, nodes->nodes[node].cpus, HARDWARE_CPU_WORDS);
    log_write(LOG_INFO, "%u NUMA nodes: each thread stays on one, %s", nodes->count,
              nodes->place ? "and weights lie near the threads that read them"
                           : "and the system, or numactl, places memory");
    /* Cutting products by node helps only if weights were placed on nodes. */
    return nodes->place ? compute_set_nodes(compute, &shares, error) : HYPURA_OK;
}
