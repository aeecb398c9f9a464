/* The KV cache on the device. A head has a region of capacity rows: of one sequence, where position p is row p % capacity,
 * or of all, where a table says which block of rows a block of positions is.
 *   F32, F16, BF16: the elements of a row, one row after another.
 *   Q8_0, Q4_0: the quants of all rows (Q4_0: element i of a block of 32 in the low half of byte i, i + 16 in the high),
 * then the half-precision scales of all rows, so that both are read in whole aligned words.
 * CACHE is the number of the type in enum tensor_type. */
#define CACHE_F32 0
#define CACHE_F16 1
#define CACHE_Q4_0 2
#define CACHE_Q8_0 8
#define CACHE_BF16 30

/* As struct gpu_sequence, with addresses. */
struct Sequence
{
    uint64_t keys, values, blocks;
    uint first_row, rows, first_position, capacity;
};

layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Sequences
{
    Sequence v[];
};

/* Bytes of the elements of a row, without scales. */
uint cache_row_bytes(uint type, uint elements)
{
    return type == CACHE_F32 ? elements * 4 : type == CACHE_Q8_0 ? elements : type == CACHE_Q4_0 ? elements / 2 : elements * 2;
}

#define CACHE_BLOCK 64

/* The row of a position. The rows of the other positions of its block are next to it. */
uint cache_index(Sequence sequence, uint position)
{
    if (sequence.blocks == 0)
        return position % sequence.capacity;
    return Uints(sequence.blocks).v[position / CACHE_BLOCK] * CACHE_BLOCK + position % CACHE_BLOCK;
}
