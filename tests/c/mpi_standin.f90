! The module mpi as far as the codes in test_public_codes.py use it, for an MPI that comes without
! Fortran (the `mpich` wheel); the calls are in mpi_standin.c, without interfaces.
module mpi
    use, intrinsic :: iso_c_binding, only: c_int
    implicit none

    integer(c_int), protected, bind(C, name='standin_comm_world') :: MPI_COMM_WORLD
    integer, parameter :: MPI_INTEGER = 0, MPI_DOUBLE_PRECISION = 1
    integer, parameter :: MPI_SUM = 0, MPI_MIN = 1, MPI_MAX = 2
    integer, parameter :: MPI_STATUS_SIZE = 1
end module mpi
