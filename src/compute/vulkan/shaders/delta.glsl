/* What kernels with states share. As struct state_sequence of gpu_private.h: the state that holds, the one to be
 * made, and where the rows are. The state before a sequence's first position is zero. */
struct Sequence
{
    uint64_t state, next;
    uint first_row, rows, fresh;
    uint block; /* its first, for kernels whose work groups take blocks of rows */
};

layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Sequences
{
    Sequence v[];
};
