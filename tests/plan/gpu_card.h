/* A device whose speeds were measured. */
#ifndef HYPURA_TEST_PLAN_GPU_CARD_H
#define HYPURA_TEST_PLAN_GPU_CARD_H

#include "test.h"

#include "plan/plan_private.h"

/* So many terabytes and hundreds of trillion multiply-adds per second. */
static struct hardware_gpu card(double speed)
{
    return (struct hardware_gpu){.measured = true,
                                 .memory_bytes_per_second = speed * 1e12,
                                 .multiply_adds_per_second = speed * 1e14,
                                 .upload_bytes_per_second = 1e10};
}

#endif
