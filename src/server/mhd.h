/* libmicrohttpd, loaded when a server starts. Linking it would add three MiB, with its TLS libraries, to the memory of
 * every command. */
#ifndef HYPURA_SERVER_MHD_H
#define HYPURA_SERVER_MHD_H

#include "core/core.h"

#include <microhttpd.h>

struct mhd {
    __typeof__(MHD_start_daemon) *start_daemon;
    __typeof__(MHD_stop_daemon) *stop_daemon;
    __typeof__(MHD_add_connection) *add_connection;
    __typeof__(MHD_suspend_connection) *suspend_connection;
    __typeof__(MHD_resume_connection) *resume_connection;
    __typeof__(MHD_get_connection_info) *get_connection_info;
    __typeof__(MHD_lookup_connection_value) *lookup_connection_value;
    __typeof__(MHD_create_response_from_buffer) *create_response_from_buffer;
    __typeof__(MHD_create_response_from_callback) *create_response_from_callback;
    __typeof__(MHD_add_response_header) *add_response_header;
    __typeof__(MHD_queue_response) *queue_response;
    __typeof__(MHD_destroy_response) *destroy_response;
};

extern struct mhd mhd;

hypura_status mhd_load(hypura_error *error);

#endif
