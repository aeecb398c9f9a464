/* The output matrix on several devices.
 *
 * Each device multiplies some of its rows, for a few rows of a batch. The last device has the normed rows first. It is
 * to end together with the others, which get these a move later. */
#include "plan/plan_private.h"

#include <stdio.h>
#include <string.h>

/* Rows that a device's kernels multiply at once. */
#define ROWS_AT_ONCE 64u

bool plan_gpu_comes_back(const struct plan_gpu *plan)
{
    return plan->groups > 1 || plan->output_divided;
}

static const struct step_output *find_output(const struct steps *steps)
{
    const struct step *step = steps_find(steps_after(steps), STEP_OUTPUT);
    return step && step->output.bias == NO_UNIT && step->output.matrix_scale == NO_UNIT ? &step->output : NULL;
}

/* Bytes of the matrix per second. */
static double speed_of(const struct plan_gpu_request *request, uint32_t device, enum tensor_type type)
{
    return request->devices ? hardware_gpu_kernel_speed(&request->devices[device], type) : 1;
}

/* All devices end at the same time: the last one multiplies from the start, others after a move. */
static double end_of(const struct plan_gpu *plan, const struct plan_gpu_request *request, double bytes,
                     enum tensor_type type, uint32_t last)
{
    double speeds = 0;
    for (uint32_t d = 0; d < plan->part_count; d++) {
        const double speed = plan->parts[d].taken ? speed_of(request, d, type) : 0;
        speeds += speed;
        bytes += d == last ? 0 : speed * plan->pace.way_seconds;
    }
    return bytes / speeds;
}

/* Gives devices other than the last one as many rows as they multiply meanwhile, and as have room. Returns what that
 * leaves. */
static uint32_t share_out(struct plan_gpu *plan, const struct plan_gpu_request *request,
                          const struct gguf_tensor *tensor, uint32_t last, double end)
{
    const uint32_t all = (uint32_t)tensor->dimensions[1];
    const uint64_t row_bytes = tensor->bytes / all;
    const double seconds = end - plan->pace.way_seconds;
    uint32_t left = all;
    for (uint32_t d = 0; d < plan->part_count; d++) {
        struct plan_gpu *part = &plan->parts[d];
        const double bytes = MIN(seconds * speed_of(request, d, tensor->type), (double)plan_gpu_keep_bytes(part));
        if (d == last || !part->taken || bytes <= 0)
            continue;
        part->output_rows = (uint32_t)MIN(align_down((uint64_t)bytes / row_bytes, ROWS_AT_ONCE), (uint64_t)left);
        left -= part->output_rows;
        part->output_first = left;
        part->copied_bytes = part->output_rows * row_bytes;
        plan->copied_bytes += part->copied_bytes;
    }
    return left;
}

static void leave_whole(struct plan_gpu *plan)
{
    for (uint32_t d = 0; d < plan->part_count; d++)
        plan->parts[d].output_first = plan->parts[d].output_rows = plan->parts[d].copied_bytes = 0;
    plan->copied_bytes = 0;
}

void plan_gpu_divide_output(struct plan_gpu *plan, const struct model *model, const struct steps *steps,
                            const struct plan_gpu_request *request)
{
    const struct step_output *output = find_output(steps);
    const enum plan_division division = request->output_division;
    if (!output || !plan->output || plan_gpu_devices(plan) < 2 || division == DIVIDE_NEVER ||
        (division == DIVIDE_IF_QUICKER && !plan_gpu_is_measured(plan, request)))
        return;
    const struct gguf_tensor *tensor = model_unit(model, output->unit)->slices[0].tensor;
    const uint32_t last = plan->devices[plan->layer_count - 1];
    const double alone = (double)tensor->bytes / speed_of(request, last, tensor->type);
    double end = end_of(plan, request, (double)tensor->bytes, tensor->type, last);
    if (division == DIVIDE_ALWAYS)
        end = MAX(end, plan->pace.way_seconds + alone / 2);
    plan->parts[last].output_rows = share_out(plan, request, tensor, last, end);
    end = MAX(end, alone * plan->parts[last].output_rows / (double)tensor->dimensions[1]);
    if (plan->copied_bytes == 0 || (division != DIVIDE_ALWAYS && alone - end < plan->pace.way_seconds)) {
        leave_whole(plan);
        return;
    }
    const size_t length = strlen(plan->reason);
    snprintf(plan->reason + length, sizeof plan->reason - length, " They divide the output matrix.");
    plan->output_divided = true;
    plan->output_saves = MAX(alone - end, 0.0);
}
