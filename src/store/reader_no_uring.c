/* Where liburing does not exist. */
#include "store/reader.h"

hypura_status reader_uring_create(struct reader **out, uint32_t depth, hypura_error *error)
{
    (void)out;
    (void)depth;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this system has no io_uring");
}
