/* What each role means to the planner, and how large a unit is in memory. */
#include "plan/plan_private.h"

/* Less than this is not worth a read of its own: it takes as long as one of 64 KiB and more. */
#define TINY_BYTES ((uint64_t)16 << 10)

enum plan_priority plan_role_priority(enum tensor_role role, uint64_t bytes)
{
    switch (role) {
    case ROLE_TOKEN_TYPES:
    case ROLE_EMBEDDING_NORM:
    case ROLE_EMBEDDING_NORM_BIAS:
    case ROLE_ATTENTION_SUM_NORM:
    case ROLE_ATTENTION_SUM_NORM_BIAS:
    case ROLE_FFN_SUM_NORM:
    case ROLE_FFN_SUM_NORM_BIAS:
    case ROLE_OUTPUT_NORM:
    case ROLE_OUTPUT_NORM_BIAS:
    case ROLE_OUTPUT_BIAS:
    case ROLE_ROPE_FACTORS:
    case ROLE_ROPE_FACTORS_LONG:
    case ROLE_ROPE_FACTORS_SHORT:
    case ROLE_ATTENTION_NORM:
    case ROLE_ATTENTION_NORM_BIAS:
    case ROLE_ATTENTION_Q_BIAS:
    case ROLE_ATTENTION_K_BIAS:
    case ROLE_ATTENTION_V_BIAS:
    case ROLE_ATTENTION_QKV_BIAS:
    case ROLE_ATTENTION_Q_NORM:
    case ROLE_ATTENTION_K_NORM:
    case ROLE_ATTENTION_OUTPUT_BIAS:
    case ROLE_ATTENTION_POST_NORM:
    case ROLE_ATTENTION_SINKS:
    case ROLE_ATTENTION_Q_A_NORM:
    case ROLE_ATTENTION_KV_A_NORM:
    case ROLE_RECURRENT_DT_BIAS:
    case ROLE_RECURRENT_A:
    case ROLE_RECURRENT_NORM:
    case ROLE_FFN_NORM:
    case ROLE_FFN_NORM_BIAS:
    case ROLE_FFN_GATE_BIAS:
    case ROLE_FFN_UP_BIAS:
    case ROLE_FFN_DOWN_BIAS:
    case ROLE_FFN_POST_NORM:
    case ROLE_FFN_DENSE_POST_NORM:
    case ROLE_ROUTER_SCALE:
    case ROLE_EXPERT_NORM:
    case ROLE_EXPERT_NORM_BIAS:
    case ROLE_EXPERT_SCALE:
    case ROLE_EXPERT_POST_NORM:
    case ROLE_LAYER_SCALE:
    case ROLE_ROUTER_BIAS:
    case ROLE_ROUTER_SELECTION_BIAS:
        return PRIORITY_ALWAYS;
    default:
        break;
    }
    if (bytes < TINY_BYTES)
        return PRIORITY_ALWAYS;
    switch (role) {
    case ROLE_ROUTER:
    case ROLE_SHARED_ROUTER:
    case ROLE_RECURRENT_CONV:
    case ROLE_EXPERT_GATE_BIAS: /* of all experts of a layer */
    case ROLE_EXPERT_UP_BIAS:
    case ROLE_EXPERT_DOWN_BIAS:
        return PRIORITY_ROUTER;
    case ROLE_SHARED_GATE:
    case ROLE_SHARED_UP:
    case ROLE_SHARED_DOWN:
        return PRIORITY_SHARED;
    case ROLE_TOKEN_EMBEDDING: /* of a tied model: the caller knows */
    case ROLE_OUTPUT:
        return PRIORITY_OUTPUT;
    case ROLE_FFN_GATE:
    case ROLE_FFN_UP:
    case ROLE_FFN_DOWN:
        return PRIORITY_FEED_FORWARD;
    default:
        return PRIORITY_ATTENTION;
    }
}

uint32_t plan_group(enum tensor_role role)
{
    switch (role) {
    case ROLE_ATTENTION_K_B:
    case ROLE_ATTENTION_V_B:
        return 1;
    case ROLE_EXPERT_GATE_BIAS:
    case ROLE_EXPERT_UP_BIAS:
    case ROLE_EXPERT_DOWN_BIAS:
        return 2;
    default:
        return 0;
    }
}

bool plan_may_cut(enum tensor_role role)
{
    switch (role) {
    case ROLE_TOKEN_EMBEDDING: /* as the output matrix; rows for the input are read by themselves */
    case ROLE_OUTPUT:
    case ROLE_ATTENTION_QKV:
    case ROLE_ATTENTION_Q:
    case ROLE_ATTENTION_K:
    case ROLE_ATTENTION_V:
    case ROLE_ATTENTION_GATE:
    case ROLE_ATTENTION_OUTPUT:
    case ROLE_ATTENTION_Q_A:
    case ROLE_ATTENTION_Q_B:
    case ROLE_ATTENTION_KV_A:
    case ROLE_RECURRENT_OUT:
    case ROLE_FFN_GATE:
    case ROLE_FFN_UP:
    case ROLE_FFN_DOWN:
    case ROLE_SHARED_GATE:
    case ROLE_SHARED_UP:
    case ROLE_SHARED_DOWN:
        return true;
    default:
        return false;
    }
}

uint64_t plan_unit_footprint(const struct unit *unit)
{
    uint64_t footprint = 0;
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct unit_slice *slice = &unit->slices[i];
        footprint +=
            align_up(slice->offset + slice->bytes, STORAGE_ALIGNMENT) - align_down(slice->offset, STORAGE_ALIGNMENT);
    }
    return footprint;
}
