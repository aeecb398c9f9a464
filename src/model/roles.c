/* The table of tensors: the name of each in a file, and its shape. */
#include "model/model_private.h"

#include <string.h>

/* Names as in GGUF files (gguf-py's tensor names). */
const struct role_row tensor_roles[ROLE_COUNT] = {
    [ROLE_TOKEN_EMBEDDING] = {"token embedding", "token_embd.weight", false, {EMBEDDING, VOCABULARY}},
    [ROLE_TABLE] = {"table", "per_layer_token_embd.weight", false, {TABLE_WIDTH, TABLE_ROWS}},
    [ROLE_LAYERS_PROJECTION] = {"layers' projection", "per_layer_model_proj.weight", false, {EMBEDDING, TABLE_WIDTH}},
    [ROLE_LAYERS_NORM] = {"layers' norm", "per_layer_proj_norm.weight", false, {TOKEN_WIDTH}},
    [ROLE_SIDES] = {"side streams", "altup_proj.weight", false, {EMBEDDING, EMBEDDING, SIDES}},
    [ROLE_SIDES_BACK] = {"side streams back", "altup_unembd_proj.weight", false, {EMBEDDING, EMBEDDING, SIDES}},
    [ROLE_SIDES_NORM] = {"side streams norm", "altup_router_norm.weight", true, {EMBEDDING}},
    [ROLE_SIDES_ROUTER] = {"side streams router", "altup_router.weight", true, {EMBEDDING, STREAMS_OF_SIDES}},
    [ROLE_SIDES_PREDICT] = {"side streams predict",
                            "altup_predict_coef.weight",
                            true,
                            {STREAMS_OF_SIDES, STREAMS_SQUARED}},
    [ROLE_SIDES_CORRECT] = {"side streams correct",
                            "altup_correct_coef.weight",
                            true,
                            {STREAMS_OF_SIDES, STREAMS_OF_SIDES}},
    [ROLE_SIDES_SCALE] = {"side streams scale", "altup_correct_scale.weight", true, {EMBEDDING}},
    [ROLE_LAUREL_DOWN] = {"laurel down", "laurel_l.weight", true, {EMBEDDING, LAUREL}},
    [ROLE_LAUREL_UP] = {"laurel up", "laurel_r.weight", true, {LAUREL, EMBEDDING}},
    [ROLE_LAUREL_NORM] = {"laurel norm", "laurel_post_norm.weight", true, {EMBEDDING}},
    [ROLE_TOKEN_GATE] = {"token gate", "inp_gate.weight", true, {EMBEDDING, TOKEN_WIDTH}},
    [ROLE_TOKEN_OUTPUT] = {"token output", "proj.weight", true, {TOKEN_WIDTH, EMBEDDING}},
    [ROLE_TOKEN_NORM] = {"token norm", "post_norm.weight", true, {EMBEDDING}},
    [ROLE_TOKEN_TYPES] = {"token types", "token_types.weight", false, {EMBEDDING, ANY}},
    [ROLE_POSITION_EMBEDDING] = {"position embedding", "position_embd.weight", false, {EMBEDDING, POSITIONS}},
    [ROLE_EMBEDDING_NORM] = {"embedding norm", "token_embd_norm.weight", false, {EMBEDDING}},
    [ROLE_EMBEDDING_NORM_BIAS] = {"embedding norm bias", "token_embd_norm.bias", false, {EMBEDDING}},
    [ROLE_ROPE_FACTORS] = {"rope factors", "rope_freqs.weight", false, {ROPE_PAIRS}},
    [ROLE_ROPE_FACTORS_LONG] = {"rope factors long", "rope_factors_long.weight", false, {ROPE_PAIRS}},
    [ROLE_ROPE_FACTORS_SHORT] = {"rope factors short", "rope_factors_short.weight", false, {ROPE_PAIRS}},

    [ROLE_PREDICTION_EMBEDDING] = {"prediction embedding", "nextn.embed_tokens.weight", true, {EMBEDDING, VOCABULARY}},
    [ROLE_PREDICTION_TOKEN_NORM] = {"prediction token norm", "nextn.enorm.weight", true, {EMBEDDING}},
    [ROLE_PREDICTION_HIDDEN_NORM] = {"prediction hidden norm", "nextn.hnorm.weight", true, {EMBEDDING}},
    [ROLE_PREDICTION_JOIN] = {"prediction join", "nextn.eh_proj.weight", true, {EMBEDDING_TWICE, EMBEDDING}},
    [ROLE_PREDICTION_OUTPUT_NORM] = {"prediction output norm", "nextn.shared_head_norm.weight", true, {EMBEDDING}},
    [ROLE_PREDICTION_OUTPUT] = {"prediction output", "nextn.shared_head_head.weight", true, {EMBEDDING, VOCABULARY}},

    [ROLE_ATTENTION_RESIDUAL_SCORE] = {"attention residual score", "attn_res_score.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_STREAMS_NORM] = {"attention streams norm", "hc_attn_norm.weight", true, {STREAMS_LOW}},
    [ROLE_ATTENTION_STREAMS_DOWN] = {"attention streams down", "hc_attn_down.weight", true, {STREAMS_LOW, STREAM_RANK}},
    [ROLE_ATTENTION_STREAMS_UP] = {"attention streams up", "hc_attn_up.weight", true, {STREAM_RANK, STREAMS_LOW}},
    [ROLE_ATTENTION_STREAMS_INJECT] = {"attention streams inject",
                                       "hc_attn_inject.weight",
                                       true,
                                       {STREAMS_LOW, STREAM_COUNT}},
    [ROLE_FFN_STREAMS_NORM] = {"ffn streams norm", "hc_ffn_norm.weight", true, {STREAMS_LOW}},
    [ROLE_FFN_STREAMS_DOWN] = {"ffn streams down", "hc_ffn_down.weight", true, {STREAMS_LOW, STREAM_RANK}},
    [ROLE_FFN_STREAMS_UP] = {"ffn streams up", "hc_ffn_up.weight", true, {STREAM_RANK, STREAMS_LOW}},
    [ROLE_FFN_STREAMS_INJECT] = {"ffn streams inject", "hc_ffn_inject.weight", true, {STREAMS_LOW, STREAM_COUNT}},
    [ROLE_OUTPUT_STREAMS_NORM] = {"output streams norm", "output_hc_norm.weight", false, {STREAMS_LOW}},
    [ROLE_OUTPUT_STREAMS_DOWN] = {"output streams down", "output_hc_down.weight", false, {STREAMS_LOW, STREAM_RANK}},
    [ROLE_OUTPUT_STREAMS_UP] = {"output streams up", "output_hc_up.weight", false, {STREAM_RANK, STREAMS_LOW}},
    [ROLE_NGRAM_KEY] = {"n-gram key", "ple_key.weight", true, {NGRAM_WIDTH, NGRAM_STREAMS}},
    [ROLE_NGRAM_VALUE] = {"n-gram value", "ple_value.weight", true, {NGRAM_WIDTH, EMBEDDING}},
    [ROLE_NGRAM_KEY_NORM] = {"n-gram key norm", "ple_norm_key.weight", true, {NGRAM_STREAMS}},
    [ROLE_NGRAM_QUERY_NORM] = {"n-gram query norm", "ple_norm_query.weight", true, {NGRAM_STREAMS}},
    [ROLE_NGRAM_CONVOLUTION_NORM] = {"n-gram convolution norm", "ple_norm_conv.weight", true, {NGRAM_STREAMS}},
    [ROLE_NGRAM_CONVOLUTION] = {"n-gram convolution", "ple_conv1d.weight", true, {NGRAM_TAPS, NGRAM_STREAMS}},
    [ROLE_ATTENTION_STREAMS] = {"attention streams", "hc_attn_fn.weight", true, {STREAMS, STREAM_COEFFICIENTS}},
    [ROLE_ATTENTION_STREAMS_BASE] = {"attention streams base", "hc_attn_base.weight", true, {STREAM_COEFFICIENTS}},
    [ROLE_ATTENTION_STREAMS_SCALE] = {"attention streams scale", "hc_attn_scale.weight", true, {STREAM_SCALES}},
    [ROLE_ATTENTION_NORM] = {"attention norm", "attn_norm.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_NORM_BIAS] = {"attention norm bias", "attn_norm.bias", true, {EMBEDDING}},
    [ROLE_ATTENTION_OWN_NORM] = {"attention own norm", "attn_norm_2.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_OWN_NORM_BIAS] = {"attention own norm bias", "attn_norm_2.bias", true, {EMBEDDING}},
    [ROLE_ATTENTION_QKV] = {"attention qkv", "attn_qkv.weight", true, {EMBEDDING, QKV}},
    [ROLE_ATTENTION_QKV_BIAS] = {"attention qkv bias", "attn_qkv.bias", true, {QKV}},
    [ROLE_ATTENTION_Q] = {"attention q", "attn_q.weight", true, {EMBEDDING, QUERIES}},
    [ROLE_ATTENTION_Q_BIAS] = {"attention q bias", "attn_q.bias", true, {QUERIES}},
    [ROLE_ATTENTION_K] = {"attention k", "attn_k.weight", true, {EMBEDDING, KEYS}},
    [ROLE_ATTENTION_K_BIAS] = {"attention k bias", "attn_k.bias", true, {KEYS}},
    [ROLE_ATTENTION_V] = {"attention v", "attn_v.weight", true, {EMBEDDING, VALUES}},
    [ROLE_ATTENTION_V_BIAS] = {"attention v bias", "attn_v.bias", true, {VALUES}},
    [ROLE_ATTENTION_GATE] = {"attention gate", "attn_gate.weight", true, {EMBEDDING, GATES}},
    [ROLE_ATTENTION_Q_A] = {"attention q a", "attn_q_a.weight", true, {EMBEDDING, Q_RANK}},
    [ROLE_ATTENTION_Q_A_NORM] = {"attention q a norm", "attn_q_a_norm.weight", true, {Q_RANK}},
    [ROLE_ATTENTION_Q_B] = {"attention q b", "attn_q_b.weight", true, {Q_RANK, LATENT_QUERIES}},
    [ROLE_ATTENTION_KV_A] = {"attention kv a", "attn_kv_a_mqa.weight", true, {EMBEDDING, LATENT_KV}},
    [ROLE_ATTENTION_KV] = {"attention kv", "attn_kv.weight", true, {EMBEDDING, KV_RANK}},
    [ROLE_COMPRESS_KV] = {"compress kv", "attn_compressor_kv.weight", true, {EMBEDDING, COMPRESS_WIDTH}},
    [ROLE_COMPRESS_GATE] = {"compress gate", "attn_compressor_gate.weight", true, {EMBEDDING, COMPRESS_WIDTH}},
    [ROLE_COMPRESS_BIAS] = {"compress bias", "attn_compressor_ape.weight", true, {COMPRESS_WIDTH, COMPRESS_EVERY}},
    [ROLE_COMPRESS_NORM] = {"compress norm", "attn_compressor_norm.weight", true, {KV_RANK}},
    [ROLE_ATTENTION_KV_A_NORM] = {"attention kv a norm", "attn_kv_a_norm.weight", true, {KV_RANK}},
    [ROLE_ATTENTION_KV_B] = {"attention kv b", "attn_kv_b.weight", true, {KV_RANK, LATENT_KV_B}},
    [ROLE_ATTENTION_K_B] = {"attention k b", "attn_k_b.weight", true, {LATENT_NOPE, KV_RANK, HEADS}},
    [ROLE_ATTENTION_Q_NORM] = {"attention q norm", "attn_q_norm.weight", true, {QUERY_NORM}},
    [ROLE_ATTENTION_Q_NORM_BIAS] = {"attention q norm bias", "attn_q_norm.bias", true, {QUERIES}},
    [ROLE_ATTENTION_K_NORM] = {"attention k norm", "attn_k_norm.weight", true, {KEY_NORM}},
    [ROLE_ATTENTION_K_NORM_BIAS] = {"attention k norm bias", "attn_k_norm.bias", true, {KEYS}},
    [ROLE_ATTENTION_SINKS] = {"attention sinks", "attn_sinks.weight", true, {HEADS}},
    [ROLE_ATTENTION_V_B] = {"attention v b", "attn_v_b.weight", true, {KV_RANK, LATENT_VALUE, HEADS}},
    [ROLE_INDEX_Q] = {"index q", "indexer.q_proj.weight", true, {EMBEDDING, INDEX_QUERIES}},
    [ROLE_INDEX_Q_B] = {"index q b", "indexer.attn_q_b.weight", true, {Q_RANK, INDEX_QUERIES}},
    [ROLE_INDEX_Q_NORM] = {"index q norm", "indexer.q_norm.weight", true, {INDEX_SIZE}},
    [ROLE_INDEX_K] = {"index k", "indexer.k_proj.weight", true, {EMBEDDING, INDEX_SIZE}},
    [ROLE_INDEX_K_A] = {"index k a", "indexer.attn_k.weight", true, {EMBEDDING, INDEX_SIZE}},
    [ROLE_INDEX_K_NORM] = {"index k norm", "indexer.k_norm.weight", true, {INDEX_SIZE}},
    [ROLE_INDEX_K_NORM_BIAS] = {"index k norm bias", "indexer.k_norm.bias", true, {INDEX_SIZE}},
    [ROLE_INDEX_COMPRESS_KV] = {"index compress kv",
                                "indexer_compressor_kv.weight",
                                true,
                                {EMBEDDING, INDEX_COMPRESS_WIDTH}},
    [ROLE_INDEX_COMPRESS_GATE] = {"index compress gate",
                                  "indexer_compressor_gate.weight",
                                  true,
                                  {EMBEDDING, INDEX_COMPRESS_WIDTH}},
    [ROLE_INDEX_COMPRESS_BIAS] = {"index compress bias",
                                  "indexer_compressor_ape.weight",
                                  true,
                                  {INDEX_COMPRESS_WIDTH, COMPRESS_EVERY}},
    [ROLE_INDEX_COMPRESS_NORM] = {"index compress norm", "indexer_compressor_norm.weight", true, {INDEX_SIZE}},
    [ROLE_INDEX_WEIGHTS] = {"index weights", "indexer.proj.weight", true, {EMBEDDING, INDEX_HEADS}},
    [ROLE_RECURRENT_BETA_ALPHA] = {"recurrent beta alpha",
                                   "ssm_ba.weight",
                                   true,
                                   {EMBEDDING, RECURRENT_VALUE_HEADS_TWICE}},
    [ROLE_RECURRENT_ALPHA] = {"recurrent alpha", "ssm_alpha.weight", true, {EMBEDDING, RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_BETA] = {"recurrent beta", "ssm_beta.weight", true, {EMBEDDING, RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_IN] = {"recurrent input", "ssm_in.weight", true, {EMBEDDING, RECURRENT_IN}},
    [ROLE_RECURRENT_CONV] = {"recurrent convolution", "ssm_conv1d.weight", true, {RECURRENT_CONV, RECURRENT_CHANNELS}},
    [ROLE_RECURRENT_DECAY_A] = {"recurrent decay a", "ssm_f_a.weight", true, {EMBEDDING, RECURRENT_DECAY_RANK}},
    [ROLE_RECURRENT_DECAY_B] = {"recurrent decay b", "ssm_f_b.weight", true, {RECURRENT_KEY_SIZE, RECURRENT_INNER}},
    [ROLE_RECURRENT_GATE] = {"recurrent gate", "ssm_g.weight", true, {EMBEDDING, RECURRENT_INNER}},
    [ROLE_RECURRENT_GATE_A] = {"recurrent gate a", "ssm_g_a.weight", true, {EMBEDDING, RECURRENT_GATE_RANK}},
    [ROLE_RECURRENT_GATE_B] = {"recurrent gate b", "ssm_g_b.weight", true, {RECURRENT_KEY_SIZE, RECURRENT_INNER}},
    [ROLE_RECURRENT_CONV_Q] = {"recurrent convolution q",
                               "ssm_conv1d_q.weight",
                               true,
                               {RECURRENT_CONV, ONE, RECURRENT_INNER}},
    [ROLE_RECURRENT_CONV_K] = {"recurrent convolution k",
                               "ssm_conv1d_k.weight",
                               true,
                               {RECURRENT_CONV, ONE, RECURRENT_INNER}},
    [ROLE_RECURRENT_CONV_V] = {"recurrent convolution v",
                               "ssm_conv1d_v.weight",
                               true,
                               {RECURRENT_CONV, ONE, RECURRENT_INNER}},
    [ROLE_RECURRENT_DT_BIAS] = {"recurrent time step bias", "ssm_dt.bias", true, {RECURRENT_DECAYS}},
    [ROLE_RECURRENT_CONV_BIAS] = {"recurrent convolution bias", "ssm_conv1d.bias", true, {RECURRENT_CHANNELS}},
    [ROLE_RECURRENT_X] = {"recurrent x", "ssm_x.weight", true, {RECURRENT_INNER, RECURRENT_X}},
    [ROLE_RECURRENT_DT_NORM] = {"recurrent time step norm", "ssm_dt_norm.weight", true, {RECURRENT_RANK}},
    [ROLE_RECURRENT_B_NORM] = {"recurrent b norm", "ssm_b_norm.weight", true, {RECURRENT_STATE}},
    [ROLE_RECURRENT_C_NORM] = {"recurrent c norm", "ssm_c_norm.weight", true, {RECURRENT_STATE}},
    [ROLE_RECURRENT_DT] = {"recurrent time step", "ssm_dt.weight", true, {RECURRENT_RANK, RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_A] = {"recurrent a", "ssm_a", true, {RECURRENT_RATES, RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_D] = {"recurrent d", "ssm_d", true, {RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_NORM] = {"recurrent norm", "ssm_norm.weight", true, {RECURRENT_NORM_WIDTH, RECURRENT_NORM_GROUPS}},
    [ROLE_RECURRENT_OUT] = {"recurrent output", "ssm_out.weight", true, {RECURRENT_INNER, EMBEDDING}},
    [ROLE_ATTENTION_OUTPUT_A] = {"attention output a", "attn_output_a.weight", true, {OUTPUT_GROUP, OUTPUT_RANKS}},
    [ROLE_ATTENTION_OUTPUT_B] = {"attention output b", "attn_output_b.weight", true, {OUTPUT_RANKS, EMBEDDING}},
    [ROLE_ATTENTION_OUTPUT] = {"attention output", "attn_output.weight", true, {ATTENDED, EMBEDDING}},
    [ROLE_ATTENTION_OUTPUT_BIAS] = {"attention output bias", "attn_output.bias", true, {EMBEDDING}},
    [ROLE_ATTENTION_POST_NORM] = {"attention post norm", "post_attention_norm.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_SUM_NORM] = {"attention sum norm", "attn_output_norm.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_SUM_NORM_BIAS] = {"attention sum norm bias", "attn_output_norm.bias", true, {EMBEDDING}},
    [ROLE_ATTENTION_SECOND_NORM] = {"attention second norm", "attn_output_norm_2.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_SECOND_NORM_BIAS] = {"attention second norm bias", "attn_output_norm_2.bias", true, {EMBEDDING}},
    [ROLE_FFN_SUM_NORM] = {"ffn sum norm", "layer_output_norm.weight", true, {EMBEDDING}},
    [ROLE_FFN_SUM_NORM_BIAS] = {"ffn sum norm bias", "layer_output_norm.bias", true, {EMBEDDING}},
    [ROLE_FFN_RESIDUAL_SCORE] = {"ffn residual score", "ffn_res_score.weight", true, {EMBEDDING}},
    [ROLE_FFN_STREAMS] = {"ffn streams", "hc_ffn_fn.weight", true, {STREAMS, STREAM_COEFFICIENTS}},
    [ROLE_FFN_STREAMS_BASE] = {"ffn streams base", "hc_ffn_base.weight", true, {STREAM_COEFFICIENTS}},
    [ROLE_FFN_STREAMS_SCALE] = {"ffn streams scale", "hc_ffn_scale.weight", true, {STREAM_SCALES}},
    [ROLE_FFN_NORM] = {"ffn norm", "ffn_norm.weight", true, {EMBEDDING}},
    [ROLE_FFN_NORM_BIAS] = {"ffn norm bias", "ffn_norm.bias", true, {EMBEDDING}},
    [ROLE_FFN_GATE] = {"ffn gate", "ffn_gate.weight", true, {EMBEDDING, FEED_FORWARD}},
    [ROLE_FFN_GATE_BIAS] = {"ffn gate bias", "ffn_gate.bias", true, {FEED_FORWARD}},
    [ROLE_FFN_UP] = {"ffn up", "ffn_up.weight", true, {EMBEDDING, FEED_FORWARD_UP}},
    [ROLE_FFN_UP_BIAS] = {"ffn up bias", "ffn_up.bias", true, {FEED_FORWARD_UP}},
    [ROLE_FFN_DOWN] = {"ffn down", "ffn_down.weight", true, {FEED_FORWARD, EMBEDDING}},
    [ROLE_FFN_DOWN_BIAS] = {"ffn down bias", "ffn_down.bias", true, {EMBEDDING}},
    [ROLE_ROUTER] = {"router", "ffn_gate_inp.weight", true, {EMBEDDING, EXPERTS}},
    [ROLE_ROUTER_TABLE] = {"router table", "ffn_gate_tid2eid.weight", true, {EXPERTS_USED, VOCABULARY}},
    [ROLE_ROUTER_BIAS] = {"router bias", "ffn_gate_inp.bias", true, {EXPERTS}},
    [ROLE_ROUTER_SELECTION_BIAS] = {"router selection bias", "exp_probs_b.bias", true, {EXPERTS}},
    [ROLE_SHARED_ROUTER] = {"shared router", "ffn_gate_inp_shexp.weight", true, {EMBEDDING}},
    [ROLE_SHARED_GATE] = {"shared gate", "ffn_gate_shexp.weight", true, {EMBEDDING, SHARED_WIDTH}},
    [ROLE_SHARED_UP] = {"shared up", "ffn_up_shexp.weight", true, {EMBEDDING, SHARED_WIDTH}},
    [ROLE_SHARED_DOWN] = {"shared down", "ffn_down_shexp.weight", true, {SHARED_WIDTH, EMBEDDING}},
    [ROLE_EXPERT_GATE_BIAS] = {"expert gate bias", "ffn_gate_exps.bias", true, {EXPERT_WIDTH, EXPERTS}},
    [ROLE_EXPERT_UP_BIAS] = {"expert up bias", "ffn_up_exps.bias", true, {EXPERT_WIDTH, EXPERTS}},
    [ROLE_EXPERT_DOWN_BIAS] = {"expert down bias", "ffn_down_exps.bias", true, {EXPERT_COLUMNS, EXPERTS}},
    [ROLE_EXPERT_GATE_UP] = {"expert gate up",
                             "ffn_gate_up_exps.weight",
                             true,
                             {EXPERT_COLUMNS, EXPERT_WIDTH_TWICE, EXPERTS}},
    [ROLE_EXPERT_GATE] = {"expert gate", "ffn_gate_exps.weight", true, {EXPERT_COLUMNS, EXPERT_WIDTH, EXPERTS}},
    [ROLE_EXPERT_UP] = {"expert up", "ffn_up_exps.weight", true, {EXPERT_COLUMNS, EXPERT_WIDTH, EXPERTS}},
    [ROLE_EXPERT_DOWN] = {"expert down", "ffn_down_exps.weight", true, {EXPERT_WIDTH, EXPERT_COLUMNS, EXPERTS}},
    [ROLE_LATENT_DOWN] = {"latent down", "ffn_routed_down.weight", true, {EMBEDDING, EXPERT_COLUMNS}},
    [ROLE_LATENT_NORM] = {"latent norm", "ffn_routed_norm.weight", true, {EXPERT_COLUMNS}},
    [ROLE_LATENT_UP] = {"latent up", "ffn_routed_up.weight", true, {EXPERT_COLUMNS, EMBEDDING}},
    [ROLE_ROUTER_SCALE] = {"router scale", "ffn_gate_inp.scale", true, {EMBEDDING}},
    [ROLE_FFN_DENSE_POST_NORM] = {"ffn dense post norm", "post_ffw_norm_1.weight", true, {EMBEDDING}},
    [ROLE_EXPERT_NORM] = {"expert norm", "pre_ffw_norm_2.weight", true, {EMBEDDING}},
    [ROLE_EXPERT_NORM_BIAS] = {"expert norm bias", "pre_ffw_norm_2.bias", true, {EMBEDDING}},
    [ROLE_EXPERT_SCALE] = {"expert scale", "ffn_down_exps.scale", true, {EXPERTS}},
    [ROLE_CHUNK_GATE] = {"chunk gate", "ffn_gate_chexps.weight", true, {EMBEDDING, CHUNK_WIDTH, CHUNK_EXPERTS}},
    [ROLE_CHUNK_UP] = {"chunk up", "ffn_up_chexps.weight", true, {EMBEDDING, CHUNK_WIDTH, CHUNK_EXPERTS}},
    [ROLE_CHUNK_DOWN] = {"chunk down", "ffn_down_chexps.weight", true, {CHUNK_WIDTH, EMBEDDING, CHUNK_EXPERTS}},
    [ROLE_EXPERT_POST_NORM] = {"expert post norm", "post_ffw_norm_2.weight", true, {EMBEDDING}},
    [ROLE_LAYER_SCALE] = {"layer scale", "layer_output_scale.weight", true, {ONE}},
    [ROLE_FFN_POST_NORM] = {"ffn post norm", "post_ffw_norm.weight", true, {EMBEDDING}},

    [ROLE_OUTPUT_RESIDUAL_SCORE] = {"output residual score", "output_res_score.weight", false, {EMBEDDING}},
    [ROLE_OUTPUT_STREAMS] = {"output streams", "output_hc_fn.weight", false, {STREAMS, STREAM_COUNT}},
    [ROLE_OUTPUT_STREAMS_BASE] = {"output streams base", "output_hc_base.weight", false, {STREAM_COUNT}},
    [ROLE_OUTPUT_STREAMS_SCALE] = {"output streams scale", "output_hc_scale.weight", false, {ONE}},
    [ROLE_OUTPUT_NORM] = {"output norm", "output_norm.weight", false, {EMBEDDING}},
    [ROLE_OUTPUT_NORM_BIAS] = {"output norm bias", "output_norm.bias", false, {EMBEDDING}},
    [ROLE_OUTPUT] = {"output", "output.weight", false, {EMBEDDING, VOCABULARY}},
    [ROLE_OUTPUT_BIAS] = {"output bias", "output.bias", false, {VOCABULARY}},
    [ROLE_POOLED_UP] = {"pooled up", "dense_2.weight", false, {EMBEDDING, POOLED_WIDTH}},
    [ROLE_POOLED_DOWN] = {"pooled down", "dense_3.weight", false, {POOLED_WIDTH, EMBEDDING}},
    [ROLE_CLASSIFIER] = {"classifier", "cls.weight", false, {EMBEDDING, CLASSIFIER_WIDTH}},
    [ROLE_CLASSIFIER_BIAS] = {"classifier bias", "cls.bias", false, {CLASSIFIER_WIDTH}},
    [ROLE_CLASSIFIER_NORM] = {"classifier norm", "cls.norm.weight", false, {EMBEDDING}},
    [ROLE_CLASSIFIER_OUTPUT] = {"classifier output", "cls.output.weight", false, {EMBEDDING, LABELS}},
    [ROLE_CLASSIFIER_OUTPUT_BIAS] = {"classifier output bias", "cls.output.bias", false, {LABELS}},
    [ROLE_SCALE] = {"scale of a matrix", ".scale", true, {ONE}},
};

const char *tensor_role_name(enum tensor_role role)
{
    return (unsigned)role < ROLE_COUNT ? tensor_roles[role].title : "unknown";
}

bool tensor_role_is_bias(enum tensor_role role)
{
    return (unsigned)role < ROLE_COUNT && text_has_ending(tensor_roles[role].name, ".bias");
}

/* ---- sizes ---------------------------------------------------------------------------------------------------------
 */

static bool has_role(const struct model *model, const struct model_layer *layer, enum tensor_role role)
{
    return model->layer_tensors[layer - model->layers][role];
}

/* The kind of a layer with a state. */
static enum layer_kind state_kind(const struct model_layer *layer)
{
    return !layer ? LAYER_ATTENTION : layer->scans ? LAYER_SCAN_HEADS : layer->kind;
}

uint64_t extent_value(enum extent extent, const struct model *model, const struct model_layer *layer)
{
    const struct model_parameters *p = &model->parameters;
    uint64_t queries = layer ? (uint64_t)layer->heads * layer->key_size : 0;
    uint64_t keys = layer ? (uint64_t)layer->kv_heads * layer->key_size : 0;
    uint64_t values = layer ? (uint64_t)layer->kv_heads * layer->value_size : 0;
    uint64_t inner = (uint64_t)p->recurrent_heads_v * p->recurrent_value_size;
    enum layer_kind kind = state_kind(layer);
    bool alone = kind == LAYER_SCAN || kind == LAYER_SCAN_BETWEEN || kind == LAYER_CONVOLUTION;
    uint64_t channels = inner + (alone ? 0 : 2 * (uint64_t)p->recurrent_heads_k * p->recurrent_key_size);
    switch (extent) {
    case NOTHING:
    case ANY:
    case ONE:
        return 1;
    case EMBEDDING:
        return p->embedding;
    case EMBEDDING_TWICE:
        return 2 * (uint64_t)p->embedding;
    case OUTPUT_GROUP:
        return p->output_groups ? queries / p->output_groups : 0;
    case OUTPUT_RANKS:
        return (uint64_t)p->output_groups * p->output_rank;
    case COMPRESS_WIDTH:
        return (uint64_t)p->kv_rank * (layer->compress == COMPRESS_OVERLAPPING ? 2 : 1);
    case INDEX_COMPRESS_WIDTH:
        return layer->indexed ? 2 * (uint64_t)p->index_size : 0;
    case COMPRESS_EVERY:
        return layer->compress;
    case EXPERTS_USED:
        return p->experts_used;
    case STREAM_COUNT:
        return p->streams;
    case STREAMS:
        return (uint64_t)p->streams * p->embedding;
    case STREAM_COEFFICIENTS:
        return (uint64_t)p->streams * (p->streams_sinkhorn ? 2 + p->streams : 2);
    case STREAM_SCALES:
        return p->streams_sinkhorn ? 3 : 2;
    case VOCABULARY:
        return p->vocabulary;
    case POOLED_WIDTH:
        return p->pooled_width;
    case CLASSIFIER_WIDTH: /* the score itself, if no matrix follows */
        return model->tensors[ROLE_CLASSIFIER_OUTPUT] ? p->embedding : p->labels;
    case LABELS:
        return p->labels;
    case POSITIONS:
        return p->context;
    case HEADS:
        return layer->heads;
    case QUERIES:
        if (layer->kind == LAYER_RECURRENT)
            return inner;
        if (layer->kind == LAYER_LATENT)
            return (uint64_t)layer->heads * p->latent_key_size;
        return model->architecture->flags & ARCHITECTURE_QUERY_GATED ? 2 * queries : queries;
    case KEYS:
        return layer->kind == LAYER_RECURRENT ? inner : keys;
    case VALUES:
        return layer->kind == LAYER_RECURRENT ? inner : values;
    case QKV:
        return layer->kind == LAYER_RECURRENT ? channels : queries + keys + values;
    case GATES:
    case ATTENDED:
        if (layer->kind == LAYER_RECURRENT)
            return inner;
        if (layer->kind == LAYER_LATENT)
            return (uint64_t)layer->heads * p->latent_value_size;
        return (uint64_t)layer->heads * layer->value_size;
    case QUERY_NORM:
    case KEY_NORM:
        return layer->key_size;
    case FEED_FORWARD:
    case FEED_FORWARD_UP:
        return layer->feed_forward;
    case EXPERTS:
        return p->experts;
    case EXPERT_COLUMNS:
        return p->expert_columns;
    case EXPERT_WIDTH:
        return p->expert_feed_forward;
    case EXPERT_WIDTH_TWICE:
        return 2 * (uint64_t)p->expert_feed_forward;
    case CHUNK_WIDTH:
        return p->chunk_feed_forward;
    case CHUNK_EXPERTS:
        return p->chunk_group ? p->experts / p->chunk_group : 0;
    case SHARED_WIDTH:
        return p->shared_feed_forward;
    case ROPE_PAIRS:
        return (model->architecture->flags & ARCHITECTURE_ROTARY_HALF ? p->rotary_local : p->rotary) / 2;
    case Q_RANK:
        return p->q_rank;
    case KV_RANK:
        return p->kv_rank;
    case LATENT_QUERIES:
        return (uint64_t)layer->heads * p->latent_key_size;
    case LATENT_KV:
        return (uint64_t)p->kv_rank + p->rotary;
    case LATENT_KV_B:
        return (uint64_t)layer->heads * (p->latent_key_size - p->rotary + p->latent_value_size);
    case LATENT_NOPE:
        return p->latent_key_size - p->rotary;
    case LATENT_VALUE:
        return p->latent_value_size;
    case INDEX_HEADS:
        return layer->indexed ? p->index_heads : 0;
    case INDEX_SIZE:
        return layer->indexed ? p->index_size : 0;
    case INDEX_QUERIES:
        return layer->indexed ? (uint64_t)p->index_heads * p->index_size : 0;
    case RECURRENT_CONV:
        return p->recurrent_conv;
    case RECURRENT_CHANNELS:
        return channels;
    case RECURRENT_VALUE_HEADS:
        return p->recurrent_heads_v;
    case RECURRENT_VALUE_HEADS_TWICE:
        return 2 * (uint64_t)p->recurrent_heads_v;
    case RECURRENT_IN:
        return kind == LAYER_CONVOLUTION    ? 3 * inner
               : kind == LAYER_SCAN_HEADS   ? inner + channels + p->recurrent_heads_v
               : kind == LAYER_SCAN         ? 2 * inner
               : kind == LAYER_SCAN_BETWEEN ? 2 * inner
                                            : 0;
    case RECURRENT_X:
        return kind == LAYER_CONVOLUTION || !alone ? 0 : p->recurrent_rank + 2 * (uint64_t)p->recurrent_key_size;
    case RECURRENT_RANK:
        return p->recurrent_rank;
    case RECURRENT_STATE:
        return p->recurrent_key_size;
    case RECURRENT_RATES:
        return kind == LAYER_SCAN ? p->recurrent_key_size : 1;
    case RECURRENT_NORM_WIDTH:
        return kind == LAYER_SCAN_HEADS ? inner / p->recurrent_heads_k : p->recurrent_value_size;
    case RECURRENT_NORM_GROUPS:
        return kind == LAYER_SCAN_HEADS ? p->recurrent_heads_k : 1;
    case RECURRENT_INNER:
        return inner;
    case TOKEN_WIDTH:
        return p->token_width;
    case SIDES:
        return p->sides;
    case STREAMS_OF_SIDES:
        return p->sides ? p->sides + 1 : 0;
    case STREAMS_SQUARED:
        return p->sides ? (uint64_t)(p->sides + 1) * (p->sides + 1) : 0;
    case LAUREL:
        return p->laurel;
    case TABLE_WIDTH:
        return p->table_width;
    case TABLE_ROWS:
        return p->table_rows;
    case NGRAM_WIDTH:
        return layer->ngrams ? (uint64_t)p->ngrams.rows * p->table_width : 0;
    case NGRAM_STREAMS:
        return layer->ngrams ? (uint64_t)p->streams * p->embedding : 0;
    case STREAMS_LOW:
        return p->streams_rank ? (uint64_t)p->streams * p->embedding : 0;
    case STREAM_RANK:
        return p->streams_rank;
    case NGRAM_TAPS:
        return layer->ngrams ? p->ngrams.taps : 0;
    case RECURRENT_DECAYS:
        return model->architecture->decay != DECAY_BY_HEAD ? inner : p->recurrent_heads_v;
    case RECURRENT_DECAY_RANK:
        return has_role(model, layer, ROLE_RECURRENT_DECAY_B) ? p->recurrent_key_size : inner;
    case RECURRENT_GATE_RANK:
        return has_role(model, layer, ROLE_RECURRENT_GATE_B) ? p->recurrent_key_size : inner;
    case RECURRENT_KEY_SIZE:
        return p->recurrent_key_size;
    }
    return 0;
}
