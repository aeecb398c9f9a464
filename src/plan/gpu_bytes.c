/* The device memory that a plan takes, and what it leaves. */
#include "plan/plan_private.h"

uint64_t plan_gpu_bytes(const struct plan_gpu *plan)
{
    return plan ? plan->resident_bytes + plan->copied_bytes + plan->expert_bytes + plan->kv_bytes +
                      plan->scratch_bytes - plan->lent_bytes
                : 0;
}

uint64_t plan_gpu_keep_bytes(const struct plan_gpu *part)
{
    return (part->budget - MIN(part->budget, plan_gpu_bytes(part))) / 2;
}
