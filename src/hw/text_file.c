#include "hw/hw_private.h"

#include <stdio.h>

bool hw_read_text(const char *path, char *text, size_t room)
{
    text[0] = '\0';
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t size = fread(text, 1, room - 1, file);
    fclose(file);
    text[size] = '\0';
    return true;
}
