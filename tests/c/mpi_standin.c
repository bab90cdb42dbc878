/* The calls of mpi_standin.f90, as gfortran names them. Statuses are not filled. */
#include <stddef.h>

#include <mpi.h>

int standin_comm_world;

static MPI_Datatype type(const int *at) { return *at ? MPI_DOUBLE : MPI_INT; }
static MPI_Op operation(const int *at)
{
    return (MPI_Op[]){MPI_SUM, MPI_MIN, MPI_MAX}[*at];
}

void mpi_init_(int *error)
{
    *error = MPI_Init(NULL, NULL);
    standin_comm_world = MPI_Comm_c2f(MPI_COMM_WORLD);
}

void mpi_finalize_(int *error) { *error = MPI_Finalize(); }

void mpi_abort_(int *comm, int *code, int *error)
{
    *error = MPI_Abort(MPI_Comm_f2c(*comm), *code);
}

void mpi_barrier_(int *comm, int *error) { *error = MPI_Barrier(MPI_Comm_f2c(*comm)); }

void mpi_comm_rank_(int *comm, int *rank, int *error)
{
    *error = MPI_Comm_rank(MPI_Comm_f2c(*comm), rank);
}

void mpi_comm_size_(int *comm, int *size, int *error)
{
    *error = MPI_Comm_size(MPI_Comm_f2c(*comm), size);
}

void mpi_isend_(void *cells, int *n, int *t, int *to, int *tag, int *comm, int *request, int *error)
{
    MPI_Request made;
    *error = MPI_Isend(cells, *n, type(t), *to, *tag, MPI_Comm_f2c(*comm), &made);
    *request = MPI_Request_c2f(made);
}

void mpi_irecv_(void *cells, int *n, int *t, int *from, int *tag, int *comm, int *request,
                int *error)
{
    MPI_Request made;
    *error = MPI_Irecv(cells, *n, type(t), *from, *tag, MPI_Comm_f2c(*comm), &made);
    *request = MPI_Request_c2f(made);
}

void mpi_waitall_(int *n, int *requests, int *statuses, int *error)
{
    (void)statuses;
    *error = MPI_SUCCESS;
    for (int i = 0; i < *n && *error == MPI_SUCCESS; i++) {
        MPI_Request one = MPI_Request_f2c(requests[i]);
        *error = MPI_Wait(&one, MPI_STATUS_IGNORE);
    }
}

void mpi_reduce_(void *from, void *to, int *n, int *t, int *op, int *root, int *comm, int *error)
{
    *error = MPI_Reduce(from, to, *n, type(t), operation(op), *root, MPI_Comm_f2c(*comm));
}

void mpi_allreduce_(void *from, void *to, int *n, int *t, int *op, int *comm, int *error)
{
    *error = MPI_Allreduce(from, to, *n, type(t), operation(op), MPI_Comm_f2c(*comm));
}

void mpi_allgather_(void *from, int *n, int *t, void *to, int *m, int *u, int *comm, int *error)
{
    *error = MPI_Allgather(from, *n, type(t), to, *m, type(u), MPI_Comm_f2c(*comm));
}
