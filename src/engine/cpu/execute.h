/* The CPU's executor: carries out a list of steps (steps/steps.h) with the functions of compute, and holds units of the
 * store meanwhile. Only the files of this folder, and those of the engine that start a list, include this.
 *
 *   execute.c    the walk over a list; steps that are a single call
 *   rows.c       the buffers of a batch
 *   narrow.c     the layer in which rows leave the batch
 *   multiply.c   products with matrices that may stream in pieces
 *   expect.c     which matrices are multiplied next
 *   attend.c     heads; attention, also in the latent space
 *   index.c      the search for the positions that attention sees
 *   compress.c   compresses blocks of positions to rows of the cache
 *   states.c     states of sequences, short convolutions and scans
 *   delta_net.c  gated delta nets
 *   streams.c    several residual streams
 *   router.c     a router's choice
 *   experts.c    the chosen experts, computed as they arrive
 *   chunks.c     experts that groups of experts share
 *   sides.c      residual streams next to the first one
 *   ends.c       embeddings and logits
 *   look_up.c    rows of tables
 *   known.c      experts that follow from the tokens
 *   pool.c       keys for several positions
 *   watch.c      reports the inputs of products to a watcher
 *
 * Each kind of step has one function here. None depends on an architecture or on devices: the caller decides which
 * lists the CPU carries out. */
#ifndef HYPURA_ENGINE_CPU_EXECUTE_H
#define HYPURA_ENGINE_CPU_EXECUTE_H

#include "engine/engine_private.h"

/* Carries out all steps of a list for the current batch. After an error, nothing is held, and no expert is wanted. */
hypura_status execute(struct batch *batch, struct step_list list, hypura_error *error);

/* Carries out the layer in which unwanted rows leave the batch (struct narrowing). */
hypura_status execute_narrowing(struct batch *batch, uint32_t layer, hypura_error *error);

/* After a batch with drafts (engine_accept): carries out the steps of a list that have a state, for the batch's first
 * rows. */
hypura_status execute_again(struct batch *batch, struct step_list list, hypura_error *error);

/* keep_inputs keeps what a step with a state reads in a batch with drafts; bring_inputs restores it. */
void keep_inputs(struct batch *batch, const struct step *step);
void bring_inputs(struct batch *batch, const struct step *step);

/* A buffer's rows; and these rows as the input of products. Copies of the input in other types are kept until the
 * buffer is written (forget_inputs). */
float *rows_of(struct batch *batch, enum step_buffer buffer);
struct activation *input_of(struct batch *batch, enum step_buffer buffer, size_t columns, size_t stride, size_t offset);

/* Before a step that multiplies: tells compute the matrices of the next one (batch->then), as far as they are in memory
 * and known. */
void expect_next(struct batch *batch);

/* The next step that multiplies, after the i-th of a list if that multiplies: in the list, or else in the next layer if
 * the CPU computes it. NULL: none, or its matrices depend on a router. */
const struct step *find_next_product(const struct batch *batch, struct step_list list, size_t i);

/* Starts to read the rows of tables that the batch needs. */
hypura_status look_up_begin(struct batch *batch, hypura_error *error);

/* known_begin starts to read the experts that follow from the tokens. known_experts finds them, [rows][used]. */
hypura_status known_begin(struct batch *batch, hypura_error *error);
hypura_status known_experts(struct batch *batch, const struct step_route *route, uint32_t *chosen, hypura_error *error);

/* The positions chosen for a span's rows, as compute_attention takes them. NULL: all of its rows see all positions. */
const struct attention_choice *choice_of(struct batch *batch, const struct step_choice *chosen, const struct span *span,
                                         struct attention_choice *out);

/* A step's part of the state of a span's sequence: before the batch (zeros at its first position), and after it. */
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

/* watch.c: passes what a job read to the batch's watcher, if any. matrix: the number of the tensor's matrix (an expert
 * or a head). */
void watch_inputs(const struct batch *batch, const struct unit_slice *slice, uint32_t matrix, const struct matmul *job);

#endif
