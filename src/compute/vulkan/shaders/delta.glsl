/* What kernels with states share. As struct state_sequence of scan.c: the state that holds, the one to be
 * made, and where the rows are. The state before a sequence's first position is zero. */
struct Sequence
{
    uint64_t state, next;
    uint first_row, rows, fresh;
    uint block; /* of its first chunk (delta_chunks.glsl) */
};

layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Sequences
{
    Sequence v[];
};
