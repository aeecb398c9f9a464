/* Each kind and shape of a tile gets its own copy of the code that multiplies it. */
#ifndef HYPURA_COMPUTE_GEMM_SHAPES_H
#define HYPURA_COMPUTE_GEMM_SHAPES_H

#include "compute/cpu/gemm.h"
#include "core/sanitized.h"

#define INLINE static inline __attribute__((always_inline))

/* Each kind and shape of a tile gets its own copy of a SHAPED function, with unrolled loops. Builds with sanitizers use
 * one copy for all, because clang would take seconds for each. */
#if SANITIZED
#define SHAPED static __attribute__((noinline))
#define UNROLL(times)
#else
#define SHAPED INLINE
#define UNROLL(times) PRAGMA(GCC unroll times)
#define PRAGMA(text) _Pragma(#text)
#endif

#endif
