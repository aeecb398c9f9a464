/* hypura: run GGUF language models that do not fit in memory.
 *
 *     hypura_model *model;
 *     hypura_session *session;
 *     hypura_error error;
 *     if (hypura_open(&model, "model.gguf", NULL, &error) || hypura_session_open(&session, model, &error))
 *         return complain(error.message);
 *     hypura_request request = {.struct_size = sizeof request, .text = "The moon", .text_size = 8};
 *     hypura_answer(session, &request, print, NULL, &error);
 *     hypura_session_close(session);
 *     hypura_close(model);
 *
 * The headers:
 *
 *     version.h     version compiled against and loaded    session.h     one conversation, used by one thread
 *     error.h       statuses and messages                  generate.h    answers and why they ended
 *     log.h         messages besides errors                sampling.h    how tokens are chosen
 *     options.h     how to open a model                    evaluate.h    logits, embeddings, scores, speed
 *     plan.h        placement and expected speed           statistics.h  counters, and where the weights are
 *     model.h       a model, shared by all threads         text.h        tokens and chat templates
 *     endpoint.h    requests in a server's JSON            inspect.h     a file and its plan in full, as JSON
 *
 * Ownership
 *     - Close what you open: sessions before their model. Free plans with hypura_plan_free.
 *     - Tokens and text returned through an int32_t ** or char ** belong to the caller: free them with hypura_free.
 *     - Everything returned as const belongs to the library. Its header says how long it is valid.
 *     - The library copies its arguments. It keeps a callback and its context only where the header says so:
 *       hypura_set_log, options.load_behind, hypura_endpoint_ask.
 *
 * Threads
 *     - Any thread may use a model. Only one thread at a time may use a session. Any thread, and a signal handler, may
 *       call hypura_cancel.
 *     - Callbacks run on the calling thread, except the three above, which may run on any thread.
 *
 * Structs
 *     - Structs that the caller fills begin with struct_size. Set it to sizeof the struct and leave the other fields
 *       zero for their defaults. hypura_default_sampling fills hypura_sampling, whose defaults are not all zero.
 *     - A newer library accepts the smaller struct of an older program. An older library accepts a larger struct unless
 *       it sets a field that the library does not know.
 *     - Structs returned by pointer may grow at their end: do not copy them, and do not make arrays of them.
 *
 * The library never prints, exits or aborts. Strings are UTF-8. Memory is bounded, and running out of it is an error.
 * Link with -lhypura (pkg-config hypura).
 */
#ifndef HYPURA_API_H
#define HYPURA_API_H

#include <hypura/endpoint.h>
#include <hypura/error.h>
#include <hypura/evaluate.h>
#include <hypura/generate.h>
#include <hypura/inspect.h>
#include <hypura/log.h>
#include <hypura/model.h>
#include <hypura/options.h>
#include <hypura/plan.h>
#include <hypura/sampling.h>
#include <hypura/session.h>
#include <hypura/statistics.h>
#include <hypura/text.h>
#include <hypura/version.h>

#endif
