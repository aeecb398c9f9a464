/* Tells whether an allocation failed while a thread worked on a request. */
#include "server/exchange.h"

static _Thread_local uint64_t failures_before;

void exchange_start_work(void)
{
    failures_before = memory_failures();
}

hypura_status exchange_check_work(hypura_error *error)
{
    return memory_check(failures_before, "request", error);
}
