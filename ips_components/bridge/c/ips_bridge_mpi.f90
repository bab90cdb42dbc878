! The bridge with MPI's handles, for programs with the module mpi or mpif.h: `use ips_bridge_mpi`
! instead of ips_bridge. Compiled along with ips_bridge.f90 and, by the MPI's C compiler,
! ips_bridge_mpi_f.c. All calls here are collective over the communicator.
module ips_bridge_mpi
    use, intrinsic :: iso_c_binding
    use ips_bridge
    implicit none

    private :: connect_mpi, should_stop_mpi, receive_mpi, receive_model_mpi, text_of

    interface
        integer(c_int) function ips_bridge_connect_mpi_f(handle, comm, contact) &
            bind(C, name='ips_bridge_connect_mpi_f')
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), value :: comm
            character(kind=c_char), intent(in) :: contact(*)
        end function ips_bridge_connect_mpi_f

        integer(c_int) function ips_bridge_should_stop_mpi_f(handle, comm, stop) &
            bind(C, name='ips_bridge_should_stop_mpi_f')
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), value :: comm
            integer(c_int), intent(out) :: stop
        end function ips_bridge_should_stop_mpi_f

        integer(c_int) function ips_bridge_receive_mpi_f(handle, comm, name, step, timeout, values, &
            capacity, count) bind(C, name='ips_bridge_receive_doubles_mpi_f')
            import :: c_char, c_double, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), value :: comm
            character(kind=c_char), intent(in) :: name(*)
            integer(c_int64_t), value :: step, capacity
            real(c_double), value :: timeout
            real(c_double), intent(inout) :: values(*)
            integer(c_int64_t), intent(inout) :: count
        end function ips_bridge_receive_mpi_f

        integer(c_int) function ips_bridge_receive_model_mpi_f(handle, comm, name, newer_than, timeout, &
            found) bind(C, name='ips_bridge_receive_model_mpi_f')
            import :: bridge_found_model, c_char, c_double, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), value :: comm
            character(kind=c_char), intent(in) :: name(*)
            integer(c_int64_t), value :: newer_than
            real(c_double), value :: timeout
            type(bridge_found_model), intent(inout) :: found
        end function ips_bridge_receive_model_mpi_f
    end interface

    interface bridge_connect
        module procedure connect_mpi
    end interface bridge_connect
    ! Beside those of ips_bridge, which answer on rank 0: the same answer on all ranks.
    interface bridge_should_stop_all
        module procedure should_stop_mpi
    end interface bridge_should_stop_all
    interface bridge_receive_all
        module procedure receive_mpi
    end interface bridge_receive_all
    interface bridge_receive_model_all
        module procedure receive_model_mpi
    end interface bridge_receive_model_all

contains

    ! Rank 0 asks for the contract, all ranks get it and join. contact: path of the contact file;
    ! without it, by the environment.
    subroutine connect_mpi(self, comm, status, contact)
        type(bridge), intent(in) :: self
        integer, intent(in) :: comm
        integer, intent(out) :: status
        character(*), intent(in), optional :: contact
        character(:), allocatable :: path

        path = ''
        if (present(contact)) path = contact
        status = ips_bridge_connect_mpi_f(bridge_handle(self), int(comm, c_int), text_of(path))
    end subroutine connect_mpi

    subroutine should_stop_mpi(self, comm, stop, status)
        type(bridge), intent(in) :: self
        integer, intent(in) :: comm
        logical, intent(out) :: stop
        integer, intent(out) :: status
        integer(c_int) :: answer

        answer = 0
        status = ips_bridge_should_stop_mpi_f(bridge_handle(self), int(comm, c_int), answer)
        stop = answer /= 0
    end subroutine should_stop_mpi

    subroutine receive_mpi(self, comm, name, step, timeout, values, count, status)
        type(bridge), intent(in) :: self
        integer, intent(in) :: comm, step
        character(*), intent(in) :: name
        real(c_double), intent(in) :: timeout
        real(c_double), intent(inout) :: values(:)
        integer, intent(out) :: count, status
        real(c_double) :: found(size(values))
        integer(c_int64_t) :: n

        n = 0
        found = 0
        status = ips_bridge_receive_mpi_f(bridge_handle(self), int(comm, c_int), text_of(name), &
            int(step, c_int64_t), timeout, found, size(values, kind=c_int64_t), n)
        count = int(n)
        if (status == BRIDGE_OK) values(:count) = found(:count)
    end subroutine receive_mpi

    subroutine receive_model_mpi(self, comm, name, newer_than, timeout, model, status)
        type(bridge), intent(in) :: self
        integer, intent(in) :: comm, newer_than
        character(*), intent(in) :: name
        real(c_double), intent(in) :: timeout
        type(bridge_model), intent(out) :: model
        integer, intent(out) :: status
        type(bridge_found_model) :: found

        status = ips_bridge_receive_model_mpi_f(bridge_handle(self), int(comm, c_int), text_of(name), &
            int(newer_than, c_int64_t), timeout, found)
        if (status == BRIDGE_OK) call bridge_copy_model(found, model)
    end subroutine receive_model_mpi

    pure function text_of(text)
        character(*), intent(in) :: text
        character(kind=c_char) :: text_of(len_trim(text) + 1)
        integer :: i

        do i = 1, len_trim(text)
            text_of(i) = text(i:i)
        end do
        text_of(len_trim(text) + 1) = c_null_char
    end function text_of

end module ips_bridge_mpi
