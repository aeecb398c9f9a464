/* What the kernels of attention on matrix units share that take 64 queries and 64 positions at a time, with keys and values
 * in pieces of 128 elements. */
#define TILE 64u
#define ROW 17u /* uvec4s of a row of 64 floats, or of 128 halves: odd, so that 16-byte reads of a column meet no bank twice */
#include "attend_cooperative.glsl"

#define TILE_WORDS 64u
#define TILE_STRIDE (ROW * 4u)
#define TILE_QUADS
#include "attend_tile.glsl"

#define RUN (8u / SIDES) /* neighbouring fours of a row of scores, an invocation's */

shared uvec4 scores[TILE * ROW]; /* the bits of floats, then of halves */

/* Of the fours of a row of scores, the i-th of an invocation: parts of rows interleave so that banks differ. */
uint four_of(uint i, uint side)
{
    return i / RUN * 8 + side * RUN + i % RUN;
}
