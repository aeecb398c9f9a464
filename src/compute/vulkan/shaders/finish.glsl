// What is done with a sum of a matrix's row before it is stored: NORMED, it is divided by the root mean square of the
// inputs, which were multiplied by a norm's weights; then the bias is added. FINISH: 0 store, 1 add to what is there,
// from 2 on a gated activation (enum glu_kind) of the first and the second matrix's rows.
#define FINISH_STORE 0
#define FINISH_ADD 1
#define FINISH_GLU 2
