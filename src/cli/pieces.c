/* The progress line while a file is written in pieces. */
#include "tools/pieces.h"
#include "cli/engine_cli.h"

bool show_pieces(void *context, const struct pieces_moment *moment)
{
    const uint64_t *start = context;
    char a[32], b[32], left[32];
    double seconds = clock_seconds_since(*start);
    uint64_t made = moment->done > moment->kept ? moment->done - moment->kept : 0;
    if (moment->verifying)
        show_line("checking the file: %s of %s", format_bytes(a, sizeof a, (double)moment->done),
                  format_bytes(b, sizeof b, (double)moment->total));
    else if (seconds > 0.5 && made)
        show_line("%s of %s, %s left", format_bytes(a, sizeof a, (double)moment->done),
                  format_bytes(b, sizeof b, (double)moment->total),
                  format_time(left, sizeof left, seconds / (double)made * (double)(moment->total - moment->done)));
    return !interrupted();
}
