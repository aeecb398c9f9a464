/* Lines that clients put in front of a system message but that are not meant for the model. They change with each
 * session or request, so that no kept prefix would ever match. */
#include "server/generation.h"

#include <string.h>

/* Each begins a line. Claude Code sends billing data to the service: "x-anthropic-billing-header:
 * cc_version=2.1.37.3a3; cc_entrypoint=cli; cch=00000;". */
static const char *const heads[] = {"x-anthropic-billing-header:"};

static const char *behind_line(const char *text)
{
    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        if (strncmp(text, heads[i], strlen(heads[i])) == 0)
            return text + strcspn(text, "\n");
    }
    return NULL;
}

size_t volatile_head(const struct generation *generation, const char *role, const char *text)
{
    const char *rest = text, *line, *behind;
    if (exchange_server(generation->job.exchange)->options.keep_volatile_headers || strcmp(role, "system") != 0)
        return 0;
    while ((line = rest + strspn(rest, " \t\r\n")), (behind = behind_line(line)))
        rest = behind + strspn(behind, "\r\n");
    return (size_t)(rest - text);
}
