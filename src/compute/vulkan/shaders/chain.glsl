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

// All invocations of a work group come here, at least once. What is Fresh is in no cache here, so that nothing has to be thrown
// out of one.
void chain_wait(Progress progress, uint awaited)
{
    if (uint64_t(progress) == 0)
        return;
    if (gl_LocalInvocationIndex == 0)
        while (int(atomicAdd(progress.ended, 0) - awaited) < 0)
            ;
    groupMemoryBarrier();
    barrier();
}

// Likewise, last of all.
void chain_end(Progress progress)
{
    if (uint64_t(progress) == 0)
        return;
    groupMemoryBarrier();
    barrier();
    if (gl_LocalInvocationIndex == 0) {
        memoryBarrierBuffer();
        atomicAdd(progress.ended, 1);
    }
}
