/* Cleans texts from files and clients before they are shown. */
#include "core/core.h"

#include <string.h>

/* Returns the length in bytes of the UTF-8 character at this address; 0: not valid UTF-8. */
static size_t read_character(const unsigned char *at, uint32_t *character)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc0 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf8 ? 4 : 0;
    *character = length > 1 ? at[0] & (0x7fu >> length) : at[0];
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        *character = *character << 6 | (at[i] & 0x3fu);
    }
    bool surrogate = *character >= 0xd800 && *character <= 0xdfff;
    return *character > 0x10ffff || *character < least[length] || surrogate ? 0 : length;
}

void text_clean(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at;) {
        uint32_t character;
        size_t length = read_character(at, &character);
        if (length == 0)
            *at = '?';
        else if (character < 32 || (character >= 127 && character < 160))
            memset(at, ' ', length);
        at += MAX(length, (size_t)1);
    }
}
