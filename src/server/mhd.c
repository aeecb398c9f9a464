#include "server/mhd.h"

#include <dlfcn.h>
#include <string.h>

struct mhd mhd;

static const struct {
    const char *name;
    void *pointer;
} symbols[] = {
    {"MHD_start_daemon", &mhd.start_daemon},
    {"MHD_stop_daemon", &mhd.stop_daemon},
    {"MHD_add_connection", &mhd.add_connection},
    {"MHD_suspend_connection", &mhd.suspend_connection},
    {"MHD_resume_connection", &mhd.resume_connection},
    {"MHD_get_connection_info", &mhd.get_connection_info},
    {"MHD_lookup_connection_value", &mhd.lookup_connection_value},
    {"MHD_create_response_from_buffer", &mhd.create_response_from_buffer},
    {"MHD_create_response_from_callback", &mhd.create_response_from_callback},
    {"MHD_add_response_header", &mhd.add_response_header},
    {"MHD_queue_response", &mhd.queue_response},
    {"MHD_destroy_response", &mhd.destroy_response},
};

hypura_status mhd_load(hypura_error *error)
{
    static const char *const names[] = {"libmicrohttpd.so.12", "libmicrohttpd.so", "libmicrohttpd.dylib",
                                        "/opt/homebrew/lib/libmicrohttpd.dylib", "/usr/local/lib/libmicrohttpd.dylib"};
    void *library = NULL;
    for (size_t i = 0; !library && i < COUNT_OF(names); i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the server needs libmicrohttpd, which is not installed");
    for (size_t i = 0; i < COUNT_OF(symbols); i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (!symbol)
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "the installed libmicrohttpd has no %s: install a newer one", symbols[i].name);
        memcpy(symbols[i].pointer, &symbol, sizeof symbol);
    }
    return HYPURA_OK;
}
