#include "cluster/cluster_private.h"

#include <dlfcn.h>
#include <string.h>

hypura_status mpi_load(struct mpi *out, hypura_error *error)
{
    static const char *const names[] = {"libmpi.so.40", "libmpi.so", "libmpi.40.dylib", "libmpi.dylib"};
    const struct {
        const char *name;
        void *pointer;
    } symbols[] = {
        {"MPI_Init_thread", &out->init_thread},
        {"MPI_Finalize", &out->finalize},
        {"MPI_Comm_rank", &out->comm_rank},
        {"MPI_Comm_size", &out->comm_size},
        {"MPI_Comm_set_errhandler", &out->comm_set_errhandler},
        {"MPI_Isend", &out->isend},
        {"MPI_Irecv", &out->irecv},
        {"MPI_Test", &out->test},
        {"MPI_Cancel", &out->cancel},
        {"MPI_Request_free", &out->request_free},
        /* The handles in mpi.h are the addresses of these symbols. */
        {"ompi_mpi_comm_world", &out->world},
        {"ompi_mpi_byte", &out->byte},
        {"ompi_mpi_errors_return", &out->errors_return},
    };
    void *library = NULL;
    for (size_t i = 0; !library && i < COUNT_OF(names); i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_GLOBAL); /* its plug-ins need its symbols */
    if (!library)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "Open MPI's library (libmpi.so.40) is not installed on this host; several hosts need it");
    for (size_t i = 0; i < COUNT_OF(symbols); i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (!symbol)
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "the MPI library of this host has no %s: Open MPI is needed", symbols[i].name);
        memcpy(symbols[i].pointer, &symbol, sizeof symbol);
    }
    return HYPURA_OK;
}
