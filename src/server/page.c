/* The page at /ui, which the build embeds in the program. */
#include "server/server_private.h"

extern const char page_html[];
extern const size_t page_html_size;

void handle_page(struct exchange *exchange)
{
    exchange_reply(exchange, 200, "text/html; charset=utf-8", page_html, page_html_size);
}
