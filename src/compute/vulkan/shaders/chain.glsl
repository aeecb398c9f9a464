// Kernels in a chain: without a barrier between them, a work group waits until all work groups of the kernels before have
// ended, and says so when it has ended itself. What it does not read from those kernels it can ask for before. See
// gpu_chain in gpu_private.h. What one kernel of a chain writes and another reads goes past the caches of a core: Fresh.
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer FreshFloats { float v[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) coherent buffer FreshVec2s { vec2 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) coherent buffer FreshVec4s { vec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer FreshUints { uint v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) coherent buffer FreshUvec4s { uvec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 2) coherent buffer FreshShorts { uint16_t v[]; };

// Work groups that have ended, of all kernels of all chains, modulo 2^32. No address: no chain.
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer Progress { uint ended; };

// A barrier that also orders what a work group's invocations read and write. A memory barrier of each invocation would wait
// for all that it asked for, weights included, which costs a microsecond per kernel on an NVIDIA H100.
void ordered_barrier()
{
    controlBarrier(gl_ScopeWorkgroup, gl_ScopeWorkgroup, gl_StorageSemanticsBuffer | gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
}

// One invocation counts its work group, after an ordered_barrier: who sees the new count sees what the work group wrote.
// Returns the count before.
uint count_up(uint64_t counter)
{
    return atomicAdd(FreshUints(counter).v[0], 1, gl_ScopeDevice, gl_StorageSemanticsBuffer, gl_SemanticsRelease);
}

// All invocations of a work group come here, at least once. What is Fresh is in no cache here, so that nothing has to be thrown
// out of one.
void chain_wait(Progress progress, uint awaited)
{
    if (uint64_t(progress) == 0)
        return;
    if (gl_LocalInvocationIndex == 0)
        while (int(atomicAdd(progress.ended, 0) - awaited) < 0)
            ;
    ordered_barrier();
}

// Likewise, last of all.
void chain_end(Progress progress)
{
    if (uint64_t(progress) == 0)
        return;
    ordered_barrier();
    if (gl_LocalInvocationIndex == 0)
        count_up(uint64_t(progress));
}
