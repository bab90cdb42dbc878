/* The calls of MPI that simulation.f90 makes, for an MPI without Fortran modules. */
#include <mpi.h>
#include <stdlib.h>

void start_mpi(int *rank, int *size, int *comm)
{
    MPI_Init(0, 0);
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, size);
    *comm = (int)MPI_Comm_c2f(MPI_COMM_WORLD);
}

void end_mpi(int code)
{
    if (code) {
        MPI_Abort(MPI_COMM_WORLD, code);
        exit(code); /* MPI_Abort of MPICH 5 returns */
    }
    MPI_Finalize();
}
