/* libFuzzer target: a client's bytes on a connection. The requests read from them must not depend on the pieces, and
 * written requests must be read back as the same bytes. */
#include "fuzz.h"

#include "server/wire.h"

static void take_all(struct wire *wire, const char *data, size_t size, size_t piece, struct buffer *out)
{
    for (size_t at = 0; at < size; at += piece)
        must(wire_take(wire, data + at, size - at < piece ? size - at : piece, out));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire whole = {0}, cut = {0}, again = {0};
    struct buffer one = {0}, other = {0}, third = {0};
    const char *text = (const char *)data;
    take_all(&whole, text, size, size + 1, &one);
    take_all(&cut, text, size, size ? (size_t)data[0] % 7 + 1 : 1, &other);
    must(whole.part == cut.part && whole.requests == cut.requests && whole.left == cut.left);
    must(whole.part != WIRE_REFUSED || (whole.reason == cut.reason && whole.status == cut.status));
    must(whole.part == WIRE_REFUSED || one.size <= 2 * size + 64);
    take_all(&again, one.data, one.size, one.size + 1, &third);
    must(again.part != WIRE_REFUSED && again.requests == whole.requests);
    must(third.size <= one.size && (one.size == 0 || memcmp(one.data, third.data, third.size) == 0));
    /* A refused request is complete, so it can be answered. */
    must(whole.part != WIRE_REFUSED || (again.part == WIRE_HEAD && third.size == one.size));
    wire_free(&whole);
    wire_free(&cut);
    wire_free(&again);
    buffer_free(&one);
    buffer_free(&other);
    buffer_free(&third);
    return 0;
}
