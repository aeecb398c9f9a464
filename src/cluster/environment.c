/* The environment variables that mpirun sets for the processes that it starts. */
#include "cluster/cluster.h"

#include <stdlib.h>

static uint32_t number(const char *name, uint32_t otherwise)
{
    const char *text = getenv(name);
    char *end;
    if (!text || !*text)
        return otherwise;
    const unsigned long value = strtoul(text, &end, 10);
    return *end || value > UINT32_MAX ? otherwise : (uint32_t)value;
}

uint32_t cluster_ranks_started(void)
{
    return MAX(number("OMPI_COMM_WORLD_SIZE", 1), 1u);
}

uint32_t cluster_rank_started(void)
{
    return number("OMPI_COMM_WORLD_RANK", 0);
}

uint32_t cluster_ranks_on_host(void)
{
    return MAX(number("OMPI_COMM_WORLD_LOCAL_SIZE", 1), 1u);
}
