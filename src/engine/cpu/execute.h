/* The CPU's executor: walks a list of steps (steps/steps.h) with the functions of compute, holding units from the store
 * as it goes. Only the files of this folder, and those of the engine that start a list, include it.
 *
 *   execute.c    the walk, and the steps that are one call
 *   rows.c       the buffers of a batch
 *   narrow.c     a layer after which fewer rows go on
 *   multiply.c   products with matrices that may come in pieces
 *   attend.c     heads, attention, its latent kind
 *   index.c      the search for positions that attention sees
 *   compress.c   blocks of positions as rows of the cache
 *   states.c     what a sequence keeps, short convolutions and scans over it
 *   delta_net.c  gated delta nets
 *   streams.c    residual streams
 *   router.c     how a router chooses
 *   experts.c    which experts, and their work in the order of arrival
 *   chunks.c     experts that groups of them share
 *   sides.c      residual streams next to the first one
 *   ends.c       embeddings and logits
 *   look_up.c    rows of tables
 *   known.c      experts that follow from the tokens
 *   pool.c       keys of several positions
 *
 * A step kind is one function here. It knows no architecture and asks about no other place of computation: which lists
 * are carried out here is the caller's business.
 */
#ifndef HYPURA_ENGINE_CPU_EXECUTE_H
#define HYPURA_ENGINE_CPU_EXECUTE_H

#include "engine/engine_private.h"

/* Carries out all steps of a list for the batch at hand. After an error nothing is held, and no read of an expert is
 * left wanted. */
hypura_status execute(struct batch *batch, struct step_list list, hypura_error *error);

/* The same of the layer in which rows that nobody wants leave the batch (struct narrowing). */
hypura_status execute_narrowing(struct batch *batch, uint32_t layer, hypura_error *error);

/* After a batch with drafts (engine_accept): the steps of a list that have a state, for the batch's first rows. */
hypura_status execute_again(struct batch *batch, struct step_list list, hypura_error *error);

/* What a step with a state reads, kept of a batch with drafts, and brought back. */
void keep_inputs(struct batch *batch, const struct step *step);
void bring_inputs(struct batch *batch, const struct step *step);

/* What steps start with: a buffer's rows, and the same as the input of products, whose copies in other types are kept
 * until the buffer is written. */
float *rows_of(struct batch *batch, enum step_buffer buffer);
struct activation *input_of(struct batch *batch, enum step_buffer buffer, size_t columns, size_t stride, size_t offset);

/* Asks for the rows of tables that the batch wants. */
hypura_status look_up_begin(struct batch *batch, hypura_error *error);

/* Likewise: experts that follow from the tokens are asked for. And which they are, [rows][used]. */
hypura_status known_begin(struct batch *batch, hypura_error *error);
hypura_status known_experts(struct batch *batch, const struct step_route *route, uint32_t *chosen, hypura_error *error);

/* The positions chosen for a span's rows, as compute_attention takes them; NULL: all of its rows see everything. */
const struct attention_choice *choice_of(struct batch *batch, const struct step_choice *chosen, const struct span *span,
                                         struct attention_choice *out);

/* A step's part of what the sequence of a span keeps: before the batch, zero before its first position, and after it.
 */
struct states {
    const float *now;
    float *next;
};
struct states states_of(struct batch *batch, const struct step *step, const struct span *span);

/* ---- one function per kind ----------------------------------------------------------------------------------------
 */

typedef hypura_status step_function(struct batch *batch, const struct step *step, struct held *held,
                                    hypura_error *error);

step_function run_embed, run_look_up, run_recall, run_add_rows, run_output;
step_function run_norm, run_glu, run_elements, run_scale_rows, run_scale, run_add;
step_function run_multiply;
step_function run_heads, run_spread, run_attend, run_attend_latent;
step_function run_pool, run_index;
step_function run_convolve, run_scan, run_delta_net;
step_function run_compress;
step_function run_gather, run_gather_gated, run_agree, run_scatter;
step_function run_predict, run_correct, run_match, run_sparse, run_join;
step_function run_route, run_experts, run_mix, run_chunk_experts;

/* watch.c: tells who watches the batch what a job read. matrix: which of the tensor's, an expert or a head. */
void watch_inputs(const struct batch *batch, const struct unit_slice *slice, uint32_t matrix, const struct matmul *job);

#endif
