! A wave that travels around a ring, each MPI rank with a part of it.
!
! By itself: mpiexec -n 2 ./simulation 50
program simulation
    use, intrinsic :: iso_c_binding, only: c_int
    use, intrinsic :: iso_fortran_env, only: error_unit, real64
    use ips_bridge_mpi
    implicit none

    ! In start_mpi.c, since not every MPI has Fortran modules. With `use mpi_f08` these are MPI_Init
    ! and the like, and the module of the bridge is ips_bridge_mpi_f08.
    interface
        subroutine start_mpi(rank, size, comm) bind(C)
            import :: c_int
            integer(c_int), intent(out) :: rank, size, comm
        end subroutine start_mpi
        subroutine end_mpi(code) bind(C)
            import :: c_int
            integer(c_int), value :: code
        end subroutine end_mpi
    end interface

    real(real64), parameter :: pi = acos(-1.0_real64)
    integer, parameter :: cells = 1000
    type(bridge) :: to_analysis
    real(real64), allocatable :: wave(:)
    real(real64) :: x
    integer(c_int) :: rank, size, comm
    integer :: steps, first, mine, step, i, status
    character(16) :: text

    steps = 50
    if (command_argument_count() > 0) then
        call get_command_argument(1, text)
        read (text, *) steps
    end if
    call start_mpi(rank, size, comm)
    first = cells * rank / size
    mine = cells * (rank + 1) / size - first
    allocate (wave(mine))

    ! alone: without ips.py the program runs as well, and sends nothing
    call bridge_open(to_analysis, int(rank), int(size), status, alone=.true.)
    call check()
    call bridge_declare(to_analysis, 'height', 'f8', [cells], status, steps=steps, dims=['x'])
    call check()
    call bridge_attribute(to_analysis, 'height', 'units', 'm', status)
    call check()
    call bridge_attribute(to_analysis, 'height', 'long_name', 'height of the wave', status)
    call check()
    call bridge_block(to_analysis, 'height', 'f8', [first], [mine], status)
    call check()
    call bridge_connect(to_analysis, int(comm), status)
    call check()
    do step = 0, steps - 1
        do i = 1, mine
            x = real(first + i - 1, real64) / cells
            wave(i) = sin(2 * pi * (x - 0.01_real64 * step)) &
                + 0.2_real64 * sin(6 * pi * (x + 0.02_real64 * step))
        end do
        call bridge_put(to_analysis, 'height', step, wave, status)
        call check()
    end do
    call bridge_close(to_analysis, status)
    call check()
    call bridge_free(to_analysis)
    call end_mpi(0_c_int)

contains

    ! Every call of the bridge has a status; end all ranks when one is not BRIDGE_OK.
    subroutine check()
        if (status == BRIDGE_OK) return
        write (error_unit, '(2a)') 'simulation: ', bridge_error(to_analysis)
        call end_mpi(1_c_int)
    end subroutine check

end program simulation
