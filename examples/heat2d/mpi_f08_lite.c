/* C half of mpi_f08_lite.f90: MPI from Fortran where the MPI library has no Fortran modules. */
#include <mpi.h>
#include <stdlib.h>
#include <stddef.h>

int lite_comm_world, lite_proc_null = MPI_PROC_NULL;
enum { LITE_DOUBLE = 1, LITE_INTEGER = 2 };

static MPI_Datatype datatype(int type)
{
    return type == LITE_DOUBLE ? MPI_DOUBLE : MPI_INT;
}

void lite_init(void)
{
    MPI_Init(NULL, NULL);
    lite_comm_world = MPI_Comm_c2f(MPI_COMM_WORLD);
}

void lite_finalize(void)
{
    MPI_Finalize();
}

void lite_comm_rank(int comm, int *rank)
{
    MPI_Comm_rank(MPI_Comm_f2c(comm), rank);
}

void lite_comm_size(int comm, int *size)
{
    MPI_Comm_size(MPI_Comm_f2c(comm), size);
}

void lite_dims_create(int nnodes, int ndims, int *dims)
{
    MPI_Dims_create(nnodes, ndims, dims);
}

void lite_cart_create(int comm, int ndims, const int *dims, const int *periods, int reorder,
                      int *cart)
{
    MPI_Comm new;
    MPI_Cart_create(MPI_Comm_f2c(comm), ndims, dims, periods, reorder, &new);
    *cart = MPI_Comm_c2f(new);
}

void lite_cart_coords(int comm, int rank, int ndims, int *coords)
{
    MPI_Cart_coords(MPI_Comm_f2c(comm), rank, ndims, coords);
}

void lite_cart_shift(int comm, int axis, int by, int *source, int *dest)
{
    MPI_Cart_shift(MPI_Comm_f2c(comm), axis, by, source, dest);
}

void lite_sendrecv(const void *out, int n_out, int out_type, int dest, int out_tag, void *in,
                   int n_in, int in_type, int source, int in_tag, int comm)
{
    MPI_Sendrecv(out, n_out, datatype(out_type), dest, out_tag, in, n_in, datatype(in_type), source,
                 in_tag, MPI_Comm_f2c(comm), MPI_STATUS_IGNORE);
}

void lite_barrier(int comm)
{
    MPI_Barrier(MPI_Comm_f2c(comm));
}

void lite_abort(int comm, int code)
{
    MPI_Abort(MPI_Comm_f2c(comm), code);
    exit(code); /* MPI_Abort of MPICH 5 returns */
}

void lite_bcast(void *buffer, int count, int type, int root, int comm)
{
    MPI_Bcast(buffer, count, datatype(type), root, MPI_Comm_f2c(comm));
}
