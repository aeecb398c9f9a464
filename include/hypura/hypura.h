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
 * One idea a header:
 *
 *     version.h     the version, compiled and loaded       session.h     one text at a time, for one thread
 *     error.h       status and sentence                    generate.h    answers, and why they ended
 *     log.h         what else the library says             sampling.h    how tokens are chosen
 *     options.h     how a model is opened                  evaluate.h    logits, embeddings, scores, speed
 *     plan.h        what it would do here                  statistics.h  what it did, where weights are
 *     model.h       opened once, shared by threads         text.h        tokens and chat templates
 *
 * Who owns what
 *     - A program closes what it opened: sessions, then models. It frees plans with hypura_plan_free.
 *     - What a function gives through a pointer to a pointer of int32_t or char is the program's: hypura_free.
 *     - What is const is the library's; its header says how long it is valid.
 *     - The library keeps no pointer that it is given, but those of hypura_set_log.
 *
 * Threads
 *     - A model is for all threads. A session is for one at a time. hypura_cancel is for any, and for signal handlers.
 *     - Callbacks come on the thread that made the call; only hypura_log_sink may come on another.
 *
 * Structs
 *     - One that a program fills begins with struct_size: set it to sizeof, leave the rest zero for the defaults. A
 *       newer library takes the smaller struct of an older program. A newer program's larger struct is refused by an
 *       older library when it sets a field that this one does not know.
 *     - One that the library hands out by pointer grows at its end: do not copy it by size, and do not make arrays of
 * it.
 *
 * Nothing here prints, exits or aborts. Strings are UTF-8. Memory is bounded, and every lack of it is an error. Link
 * with -lhypura (pkg-config hypura).
 */
#ifndef HYPURA_API_H
#define HYPURA_API_H

#include <hypura/error.h>
#include <hypura/evaluate.h>
#include <hypura/generate.h>
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
