/* As test_gpu_faults, but the device fails everywhere that it can. */
#define EVERYWHERE 1
#include "test_gpu_faults.c"
