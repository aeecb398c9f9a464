/* Copies structs from and to programs: those of older programs are shorter, those of newer ones longer. */
#include "api/api_private.h"

#include <string.h>

hypura_status take_struct(void *own, size_t own_size, const void *given, const char *name, hypura_error *error)
{
    size_t size = own_size;
    memset(own, 0, own_size);
    if (!given)
        return HYPURA_OK;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "struct_size of a %s is %zu: set it to sizeof(%s)", name, size,
                         name);
    for (size_t i = own_size; i < size; i++) {
        if (((const unsigned char *)given)[i])
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "the %s sets a field that this version of the library, %s, does not know", name,
                             hypura_version());
    }
    memcpy(own, given, MIN(size, own_size));
    return HYPURA_OK;
}

void give_struct(void *given, const void *own, size_t own_size)
{
    size_t size;
    memcpy(&size, given, sizeof size);
    if (size <= sizeof size)
        return;
    memcpy((char *)given + sizeof size, (const char *)own + sizeof size, MIN(size, own_size) - sizeof size);
    if (size > own_size)
        memset((char *)given + own_size, 0, size - own_size);
}
