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
 * One idea per header:
 *
 *     version.h     the version, compiled and loaded       session.h     one text at a time, for one thread
 *     error.h       status and sentence                    generate.h    answers, and why they ended
 *     log.h         what else it reports                   sampling.h    how tokens are chosen
 *     options.h     how a model is opened                  evaluate.h    logits, embeddings, scores, speed
 *     plan.h        what it would do here                  statistics.h  what it did, where weights are
 *     model.h       opened once, shared by threads         text.h        tokens and chat templates
 *     endpoint.h    requests in the shapes of a server's   inspect.h     a file and its plan, in full
 *
 * Who owns what
 *     - A program closes what it opened: sessions, then models. It frees plans with hypura_plan_free.
 *     - Tokens and texts that a function returns through an int32_t ** or char ** belong to the program: hypura_free.
 *     - Everything const belongs to the library; its header says how long it is valid.
 *     - The library keeps no pointer that it is given, except those of hypura_set_log.
 *
 * Threads
 *     - Any thread may use a model. One thread at a time may use a session. Any thread, and a signal handler, may call
 *       hypura_cancel.
 *     - Callbacks run on the thread that made the call. Only hypura_log_sink may run on another.
 *
 * Structs
 *     - Structs that a program fills begin with struct_size: set it to sizeof, and leave the rest zero for defaults.
 *       A newer library accepts the smaller struct of an older program. An older library refuses a larger struct only
 *       if a field is set that it does not know.
 *     - Structs that the library hands out by pointer grow at their end: do not copy them by size, and do not make
 *       arrays of them.
 *
 * Nothing here prints, exits or aborts. Strings are UTF-8. Memory is bounded, and a lack of it is an error. Link with
 * -lhypura (pkg-config hypura).
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
