/* A kind and a shape of a tile gets its own copy of what multiplies it. */
#ifndef HYPURA_COMPUTE_GEMM_SHAPES_H
#define HYPURA_COMPUTE_GEMM_SHAPES_H

#include "compute/cpu/gemm.h"
#include "core/sanitized.h"

#define INLINE static inline __attribute__((always_inline))

/* A kind and a shape of a tile gets its own copy of what is SHAPED, with its loops unrolled. Sanitizers, which make
 * clang take seconds for each copy, share one. */
#if SANITIZED
#define SHAPED static __attribute__((noinline))
#define UNROLL(times)
#else
#define SHAPED INLINE
#define UNROLL(times) PRAGMA(GCC unroll times)
#define PRAGMA(text) _Pragma(#text)
#endif

#endif
