/* Detects the machine's instruction sets, and fills their kernel tables. */
#include "compute/cpu/gemm.h"
#include "compute/cpu/gemm_floats.h"
#include "compute/cpu/grids.h"
#include "compute/cpu/kernels.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__x86_64__)
/* Some compilers' __builtin_cpu_supports does not accept "f16c". */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt") &&
           has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

static bool has_avx512_bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* 256-bit dot products of bytes, without AVX-512. */
static bool has_avx_vnni(void)
{
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

/* Tiles add to the state of threads, so Linux only allows them to a process that requests them. */
static bool has_amx(void)
{
#if defined(__linux__)
    const long ask_for = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    const unsigned tile = 1u << 24, int8 = 1u << 25;
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & tile) && (d & int8) &&
           syscall(SYS_arch_prctl, ask_for, tile_data) == 0;
#else
    return false;
#endif
}
#endif

#if defined(__aarch64__)
/* Bits of AT_HWCAP and AT_HWCAP2 (Linux, uapi/asm/hwcap.h). macOS uses feature names instead. */
#define ARM_DOT_PRODUCT ((unsigned long)1 << 20)
#define ARM_I8MM ((unsigned long)1 << 13)

static bool arm_has(bool second, unsigned long bit, const char *feature)
{
#if defined(__linux__)
    (void)feature;
    return getauxval(second ? AT_HWCAP2 : AT_HWCAP) & bit;
#elif defined(__APPLE__)
    (void)second, (void)bit;
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(feature, &value, &size, NULL, 0) == 0 && value;
#else
    (void)second, (void)bit, (void)feature;
    return false;
#endif
}
#endif

bool cpu_has_i8mm(void)
{
#if defined(__aarch64__)
    return arm_has(true, ARM_I8MM, "hw.optional.arm.FEAT_I8MM");
#else
    return false;
#endif
}

bool compute_has_instructions(enum instruction_set set)
{
    switch (set) {
    case INSTRUCTIONS_PLAIN:
        return true;
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
        return has_avx2();
    case INSTRUCTIONS_AVX_VNNI:
        return has_avx_vnni();
    case INSTRUCTIONS_AVX512:
        return has_avx512();
    case INSTRUCTIONS_AMX:
        return has_amx();
#elif defined(__aarch64__)
    case INSTRUCTIONS_NEON:
        return arm_has(false, ARM_DOT_PRODUCT, "hw.optional.arm.FEAT_DotProd");
#endif
    default:
        return false;
    }
}

static const char *const names[] = {"plain", "avx2", "avx-vnni", "avx512", "amx", "neon"};

const char *compute_instructions_name(enum instruction_set set)
{
    return (unsigned)set < COUNT_OF(names) ? names[set] : "unknown";
}

enum instruction_set compute_best_instructions(void)
{
    const char *wish = getenv("HYPURA_INSTRUCTIONS");
    enum instruction_set best = INSTRUCTIONS_PLAIN;
    for (unsigned set = 0; set < COUNT_OF(names); set++) {
        if (!compute_has_instructions(set))
            continue;
        if (wish && strcmp(wish, names[set]) == 0)
            return set;
        best = set;
    }
    return best;
}

static struct kernel_table tables[COUNT_OF(names)];
static const struct kernel_table *best_table;
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

#define LAY(member) table->member = over->member ? over->member : table->member

static void lay_over(struct kernel_table *table, const struct kernel_table *over)
{
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT; type++) {
        LAY(types[type].dequantize);
        LAY(types[type].gemv);
        LAY(types[type].few);
        LAY(types[type].few_least_tokens);
        LAY(types[type].gemm);
        LAY(types[type].gemm_least_tokens);
        LAY(types[type].gemm_task_rows);
    }
    LAY(prepare_bfloat);
    LAY(prepare_q8_32);
    LAY(prepare_q8_256);
    LAY(find_peaks);
    LAY(store_half);
    LAY(peak_bytes);
    LAY(peak_floats);
    LAY(peak_bfloats);
}

static void fill_tables(void)
{
    grids_expand();
    best_table = &tables[compute_best_instructions()];
    for (unsigned set = 0; set < COUNT_OF(names); set++) {
        tables[set] = kernels_plain;
        tables[set].instructions = set;
    }
#if defined(__x86_64__)
    static const struct kernel_table *const of_avx2[] = {
        &kernels_avx2_floats,    &kernels_avx2_quantized, &kernels_few_blocks_avx2,
        &kernels_few_super_avx2, &kernels_peak_avx2,      &gemm_floats_avx2,
    };
    static const struct kernel_table *const of_avx_vnni[] = {
        &kernels_avx_vnni_quantized,
        &kernels_few_blocks_avx_vnni,
        &kernels_few_super_avx_vnni,
        &kernels_peak_avx_vnni,
    };
    static const struct kernel_table *const of_avx512[] = {
        &kernels_avx512_floats,     &kernels_avx512_blocks,    &kernels_avx512_super, &kernels_avx512_grids,
        &kernels_few_blocks_avx512, &kernels_few_super_avx512, &kernels_peak_avx512,  &gemm_floats_avx512,
    };
    for (unsigned set = INSTRUCTIONS_AVX2; set <= INSTRUCTIONS_AMX; set++) {
        for (size_t i = 0; i < COUNT_OF(of_avx2); i++)
            lay_over(&tables[set], of_avx2[i]);
        gemm_panels_avx2(&tables[set]);
    }
    for (size_t i = 0; i < COUNT_OF(of_avx_vnni); i++)
        lay_over(&tables[INSTRUCTIONS_AVX_VNNI], of_avx_vnni[i]);
    gemm_panels_avx_vnni(&tables[INSTRUCTIONS_AVX_VNNI]);
    for (unsigned set = INSTRUCTIONS_AVX512; set <= INSTRUCTIONS_AMX; set++) {
        struct kernel_table *avx512 = &tables[set];
        for (size_t i = 0; i < COUNT_OF(of_avx512); i++)
            lay_over(avx512, of_avx512[i]);
        gemm_panels_avx512(avx512);
        if (has_avx512_bf16()) {
            lay_over(avx512, &kernels_avx512_bf16);
            lay_over(avx512, &gemm_bf16_avx512);
            lay_over(avx512, &kernels_peak_bf16);
        }
    }
    lay_over(&tables[INSTRUCTIONS_AMX], &kernels_amx);
#elif defined(__aarch64__)
    static const struct kernel_table *const of_neon[] = {
        &kernels_neon_floats,    &kernels_neon_quantized, &kernels_few_blocks_neon,
        &kernels_few_super_neon, &kernels_peak_neon,      &gemm_floats_neon,
    };
    struct kernel_table *neon = &tables[INSTRUCTIONS_NEON];
    for (size_t i = 0; i < COUNT_OF(of_neon); i++)
        lay_over(neon, of_neon[i]);
    gemm_panels_neon(neon);
    if (cpu_has_i8mm())
        gemm_panels_i8mm(neon);
#endif
}

const struct kernel_table *kernel_table_get(enum instruction_set set)
{
    pthread_once(&tables_once, fill_tables);
    return &tables[set];
}

const struct kernel_table *kernel_table_best(void)
{
    pthread_once(&tables_once, fill_tables);
    return best_table;
}
