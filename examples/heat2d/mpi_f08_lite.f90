! The few parts of the module mpi_f08 that heat2d.f90 uses, with the standard's names, over
! mpi_f08_lite.c. It serves MPI libraries that come without Fortran modules (the `mpich` wheel).
module mpi_f08
    use, intrinsic :: iso_c_binding, only: c_int
    implicit none
    private
    public :: MPI_Init, MPI_Finalize, MPI_Comm_rank, MPI_Comm_size, MPI_Dims_create
    public :: MPI_Cart_create, MPI_Cart_coords, MPI_Cart_shift, MPI_Sendrecv, MPI_Bcast
    public :: MPI_Abort, MPI_Barrier

    type, public, bind(C) :: MPI_Comm
        integer(c_int) :: MPI_VAL
    end type MPI_Comm
    type, public, bind(C) :: MPI_Datatype
        integer(c_int) :: MPI_VAL
    end type MPI_Datatype
    type, public :: MPI_Status
    end type MPI_Status

    type(MPI_Comm), public, protected, bind(C, name='lite_comm_world') :: MPI_COMM_WORLD
    integer(c_int), public, protected, bind(C, name='lite_proc_null') :: MPI_PROC_NULL
    type(MPI_Datatype), public, parameter :: MPI_DOUBLE_PRECISION = MPI_Datatype(1)
    type(MPI_Datatype), public, parameter :: MPI_INTEGER = MPI_Datatype(2)
    type(MPI_Status), public, parameter :: MPI_STATUS_IGNORE = MPI_Status()

    interface
        subroutine MPI_Init() bind(C, name='lite_init')
        end subroutine MPI_Init

        subroutine MPI_Finalize() bind(C, name='lite_finalize')
        end subroutine MPI_Finalize

        subroutine MPI_Comm_rank(comm, rank) bind(C, name='lite_comm_rank')
            import :: MPI_Comm, c_int
            type(MPI_Comm), intent(in), value :: comm
            integer(c_int), intent(out) :: rank
        end subroutine MPI_Comm_rank

        subroutine MPI_Comm_size(comm, size) bind(C, name='lite_comm_size')
            import :: MPI_Comm, c_int
            type(MPI_Comm), intent(in), value :: comm
            integer(c_int), intent(out) :: size
        end subroutine MPI_Comm_size

        subroutine MPI_Dims_create(nnodes, ndims, dims) bind(C, name='lite_dims_create')
            import :: c_int
            integer(c_int), intent(in), value :: nnodes, ndims
            integer(c_int), intent(inout) :: dims(*)
        end subroutine MPI_Dims_create

        subroutine lite_cart_create(comm, ndims, dims, periods, reorder, cart) bind(C)
            import :: MPI_Comm, c_int
            type(MPI_Comm), intent(in), value :: comm
            integer(c_int), intent(in), value :: ndims, reorder
            integer(c_int), intent(in) :: dims(*), periods(*)
            type(MPI_Comm), intent(out) :: cart
        end subroutine lite_cart_create

        subroutine MPI_Cart_coords(comm, rank, maxdims, coords) bind(C, name='lite_cart_coords')
            import :: MPI_Comm, c_int
            type(MPI_Comm), intent(in), value :: comm
            integer(c_int), intent(in), value :: rank, maxdims
            integer(c_int), intent(out) :: coords(*)
        end subroutine MPI_Cart_coords

        subroutine MPI_Cart_shift(comm, direction, disp, source, dest) &
            bind(C, name='lite_cart_shift')
            import :: MPI_Comm, c_int
            type(MPI_Comm), intent(in), value :: comm
            integer(c_int), intent(in), value :: direction, disp
            integer(c_int), intent(out) :: source, dest
        end subroutine MPI_Cart_shift

        subroutine lite_sendrecv(sendbuf, sendcount, sendtype, dest, sendtag, &
            recvbuf, recvcount, recvtype, source, recvtag, comm) bind(C)
            import :: MPI_Comm, MPI_Datatype, c_int
            type(*), intent(in) :: sendbuf(*)
            type(*) :: recvbuf(*)
            integer(c_int), intent(in), value :: sendcount, dest, sendtag
            integer(c_int), intent(in), value :: recvcount, source, recvtag
            type(MPI_Datatype), intent(in), value :: sendtype, recvtype
            type(MPI_Comm), intent(in), value :: comm
        end subroutine lite_sendrecv

        subroutine lite_bcast(buffer, count, datatype, root, comm) bind(C)
            import :: MPI_Comm, MPI_Datatype, c_int
            type(*) :: buffer(*)
            integer(c_int), intent(in), value :: count, root
            type(MPI_Datatype), intent(in), value :: datatype
            type(MPI_Comm), intent(in), value :: comm
        end subroutine lite_bcast

        subroutine MPI_Barrier(comm) bind(C, name='lite_barrier')
            import :: MPI_Comm
            type(MPI_Comm), intent(in), value :: comm
        end subroutine MPI_Barrier

        subroutine MPI_Abort(comm, errorcode) bind(C, name='lite_abort')
            import :: MPI_Comm, c_int
            type(MPI_Comm), intent(in), value :: comm
            integer(c_int), intent(in), value :: errorcode
        end subroutine MPI_Abort
    end interface

    interface MPI_Bcast
        procedure :: bcast_one, bcast_many
    end interface MPI_Bcast

contains

    subroutine MPI_Cart_create(comm_old, ndims, dims, periods, reorder, comm_cart)
        type(MPI_Comm), intent(in) :: comm_old
        integer, intent(in) :: ndims, dims(:)
        logical, intent(in) :: periods(:), reorder
        type(MPI_Comm), intent(out) :: comm_cart

        call lite_cart_create(comm_old, ndims, dims, merge(1, 0, periods), merge(1, 0, reorder), &
            comm_cart)
    end subroutine MPI_Cart_create

    subroutine bcast_one(buffer, count, datatype, root, comm)
        integer, intent(inout) :: buffer
        integer, intent(in) :: count, root
        type(MPI_Datatype), intent(in) :: datatype
        type(MPI_Comm), intent(in) :: comm
        integer :: one(1)

        one = buffer
        call lite_bcast(one, count, datatype, root, comm)
        buffer = one(1)
    end subroutine bcast_one

    subroutine bcast_many(buffer, count, datatype, root, comm)
        integer, intent(inout) :: buffer(:)
        integer, intent(in) :: count, root
        type(MPI_Datatype), intent(in) :: datatype
        type(MPI_Comm), intent(in) :: comm

        call lite_bcast(buffer, count, datatype, root, comm)
    end subroutine bcast_many

    subroutine MPI_Sendrecv(sendbuf, sendcount, sendtype, dest, sendtag, &
        recvbuf, recvcount, recvtype, source, recvtag, comm, status)
        type(*), intent(in) :: sendbuf(*)
        type(*) :: recvbuf(*)
        integer, intent(in) :: sendcount, dest, sendtag, recvcount, source, recvtag
        type(MPI_Datatype), intent(in) :: sendtype, recvtype
        type(MPI_Comm), intent(in) :: comm
        type(MPI_Status), intent(in) :: status

        associate (unused => status)
        end associate
        call lite_sendrecv(sendbuf, sendcount, sendtype, dest, sendtag, &
            recvbuf, recvcount, recvtype, source, recvtag, comm)
    end subroutine MPI_Sendrecv

end module mpi_f08
