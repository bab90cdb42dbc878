! The bridge with MPI's handles, for programs with the module mpi_f08: `use ips_bridge_mpi_f08`
! instead of ips_bridge. Compiled after ips_bridge.f90 and ips_bridge_mpi.f90.
module ips_bridge_mpi_f08
    use, intrinsic :: iso_c_binding, only: c_double
    use mpi_f08, only: MPI_Comm
    use ips_bridge_mpi
    implicit none

    private :: c_double, MPI_Comm, connect_f08, should_stop_f08, receive_f08, receive_model_f08

    interface bridge_connect
        module procedure connect_f08
    end interface bridge_connect
    interface bridge_should_stop_all
        module procedure should_stop_f08
    end interface bridge_should_stop_all
    interface bridge_receive_all
        module procedure receive_f08
    end interface bridge_receive_all
    interface bridge_receive_model_all
        module procedure receive_model_f08
    end interface bridge_receive_model_all

contains

    subroutine connect_f08(self, comm, status, contact)
        type(bridge), intent(in) :: self
        type(MPI_Comm), intent(in) :: comm
        integer, intent(out) :: status
        character(*), intent(in), optional :: contact

        call bridge_connect(self, int(comm%MPI_VAL), status, contact)
    end subroutine connect_f08

    subroutine should_stop_f08(self, comm, stop, status)
        type(bridge), intent(in) :: self
        type(MPI_Comm), intent(in) :: comm
        logical, intent(out) :: stop
        integer, intent(out) :: status

        call bridge_should_stop_all(self, int(comm%MPI_VAL), stop, status)
    end subroutine should_stop_f08

    subroutine receive_f08(self, comm, name, step, timeout, values, count, status)
        type(bridge), intent(in) :: self
        type(MPI_Comm), intent(in) :: comm
        character(*), intent(in) :: name
        integer, intent(in) :: step
        real(c_double), intent(in) :: timeout
        real(c_double), intent(inout) :: values(:)
        integer, intent(out) :: count, status

        call bridge_receive_all(self, int(comm%MPI_VAL), name, step, timeout, values, count, status)
    end subroutine receive_f08

    subroutine receive_model_f08(self, comm, name, newer_than, timeout, model, status)
        type(bridge), intent(in) :: self
        type(MPI_Comm), intent(in) :: comm
        character(*), intent(in) :: name
        integer, intent(in) :: newer_than
        real(c_double), intent(in) :: timeout
        type(bridge_model), intent(out) :: model
        integer, intent(out) :: status

        call bridge_receive_model_all(self, int(comm%MPI_VAL), name, newer_than, timeout, model, status)
    end subroutine receive_model_f08

end module ips_bridge_mpi_f08
