/* test_gpu_faults with a device that fails in every possible place. */
#define EVERYWHERE 1
#include "test_gpu_faults.c"
