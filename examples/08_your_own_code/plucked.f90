! A plucked string, in Fortran: MPI ranks hold parts of it. Compare plucked.py.
!
!     make && mpiexec -n 2 build/plucked_f90 50
program plucked
    use mpi_f08
    use ips_bridge
    use, intrinsic :: iso_fortran_env, only: error_unit, real64
    implicit none
    integer, parameter :: points = 61, modes = 8
    real(real64), parameter :: dt = 0.02_real64, pi = acos(-1.0_real64)
    type(bridge) :: to_analysis
    integer :: rank, ranks, steps, first, count, step, i, status, length
    integer, allocatable :: blob(:)
    real(real64), allocatable :: u(:)
    character(len=16) :: argument

    call get_command_argument(1, argument)
    read (argument, *) steps
    call MPI_Init()
    call MPI_Comm_rank(MPI_COMM_WORLD, rank)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks)
    first = points * rank / ranks
    count = points * (rank + 1) / ranks - first
    allocate (u(count))

    call bridge_open(to_analysis, rank, ranks, status)
    call check()
    call bridge_declare(to_analysis, 'displacement', 'f8', [points], status, steps=steps, dims=['x'])
    call check()
    call bridge_block(to_analysis, 'displacement', 'f8', [first], [count], status)
    call check()
    ! Rank 0 asks for the contract, all ranks get the answer, even if that is an error.
    length = 0
    if (rank == 0) then
        call bridge_request(to_analysis, blob, status)
        length = size(blob)
    end if
    call MPI_Bcast(length, 1, MPI_INTEGER, 0, MPI_COMM_WORLD)
    if (rank /= 0) allocate (blob(length))
    call MPI_Bcast(blob, length, MPI_INTEGER, 0, MPI_COMM_WORLD)
    call bridge_join(to_analysis, blob, status)
    call check()

    do step = 0, steps - 1
        u = [(displacement(real(first + i, real64) / (points - 1), step * dt), i = 0, count - 1)]
        call bridge_put(to_analysis, 'displacement', step, u, status)
        call check()
    end do
    call bridge_close(to_analysis, status)
    call check()
    call bridge_free(to_analysis)
    call MPI_Finalize()

contains

    pure function displacement(x, t) result(u)
        real(real64), intent(in) :: x, t
        real(real64) :: u
        integer :: n

        u = 0.0_real64
        do n = 1, 2 * modes - 1, 2
            u = u + (-1)**(n / 2) / real(n * n, real64) * sin(n * pi * x) * cos(n * pi * t)
        end do
    end function displacement

    subroutine check()
        if (status == BRIDGE_OK) return
        write (error_unit, '(2a)') 'plucked: ', bridge_error(to_analysis)
        call MPI_Abort(MPI_COMM_WORLD, 1)
        error stop 1  ! MPI_Abort of MPICH 5 returns
    end subroutine check
end program plucked
