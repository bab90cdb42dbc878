! The bridge in Fortran: ips_bridge.h with Fortran's arrays and strings. What each call does, who
! calls it, whether it waits, and when cells may be reused is said there.
!
!     type(bridge) :: to_analysis
!     call bridge_open(to_analysis, rank, ranks, status)
!     call bridge_declare(to_analysis, 'temperature', 'f8', [nx, ny], status, steps=steps)
!     call bridge_block(to_analysis, 'temperature', 'f8', [x0, y0], [w, h], status, halo=[1, 1])
!     call bridge_connect(to_analysis, comm, status)   ! module ips_bridge_mpi or ips_bridge_mpi_f08
!     do step = 0, steps - 1
!         call bridge_put(to_analysis, 'temperature', step, T, status)
!     end do
!     call bridge_close(to_analysis, status)
!     call bridge_free(to_analysis)
!
! Dimensions are in Fortran's order, the first one being the fastest: T(i, j) here is T[j, i] for
! the analysis, the same bytes in memory, and an array of shape [nx, ny] is one of (ny, nx) there.
! Offsets count cells from zero. Without MPI, rank 0 calls bridge_request, all ranks get its blob (an
! array of default integers) and call bridge_join. A status is one of the BRIDGE_ constants; bridge_error says more.
module ips_bridge
    use, intrinsic :: iso_c_binding
    implicit none
    private

    public :: bridge_halo, bridge_shared, bridge_ids, bridge_levels
    public :: bridge_open, bridge_declare, bridge_attribute, bridge_block, bridge_where
    public :: bridge_ranks, bridge_request, bridge_join, bridge_put, bridge_put_block
    public :: bridge_put_rows, bridge_wants, bridge_acquire, bridge_publish, bridge_discard
    public :: bridge_acquire_block, bridge_publish_block, bridge_discard_block, bridge_rewind
    public :: bridge_first_step, bridge_set_partial, bridge_is_alone, bridge_find
    public :: bridge_set_error_handler
    public :: bridge_step_end, bridge_step_time, bridge_progress, bridge_wait, bridge_receive
    public :: bridge_should_stop, bridge_receive_model, bridge_model, bridge_model_array
    public :: bridge_found_model, bridge_copy_model ! for the modules with MPI
    public :: bridge_statistics, bridge_waited, bridge_lanes, bridge_version, bridge_handle
    public :: bridge_close, bridge_free, bridge_error, bridge_lost

    integer, parameter, public :: BRIDGE_OK = 0, BRIDGE_USAGE = 1, BRIDGE_GEOMETRY = 2, &
        BRIDGE_CONTACT = 3, BRIDGE_CONTRACT = 4, BRIDGE_PROTOCOL = 5, BRIDGE_REFUSED = 6, &
        BRIDGE_DEADLINE = 7, BRIDGE_ANALYTICS_LOST = 8, BRIDGE_MEMORY = 9, BRIDGE_SYSTEM = 10, &
        BRIDGE_INCOMPLETE = 12, BRIDGE_NOTHING = -1, BRIDGE_STOPPED = -2

    ! Which rank owns points or ids that several have.
    integer, parameter, public :: BRIDGE_NOBODY = 0, BRIDGE_LOW = 1, BRIDGE_HIGH = 2

    ! One array of a model; reshape(values, shape), in Fortran's order, is the array that was sent.
    type :: bridge_model_array
        character(:), allocatable :: name
        integer, allocatable :: shape(:)
        real(c_double), allocatable :: values(:)
    end type bridge_model_array

    type :: bridge_model
        integer :: version = -1
        type(bridge_model_array), allocatable :: arrays(:)
    end type bridge_model

    ! What C has of a model: ips_bridge_model and ips_bridge_value.
    type, bind(C) :: bridge_found_model
        integer(c_int64_t) :: version
        integer(c_int) :: n_arrays
        type(c_ptr) :: names, arrays
    end type bridge_found_model

    type, bind(C) :: found_value
        integer(c_int64_t) :: step
        integer(c_int) :: kind, ndim
        type(c_ptr) :: shape
        integer(c_size_t) :: count, bytes
        type(c_ptr) :: data
    end type found_value

    abstract interface
        ! Called at every error, with its text, before the call that failed returns; it may end the
        ! program.
        subroutine bridge_error_handler(code, text)
            integer, intent(in) :: code
            character(*), intent(in) :: text
        end subroutine bridge_error_handler
    end interface
    public :: bridge_error_handler

    type :: handler_box
        procedure(bridge_error_handler), pointer, nopass :: call => null()
    end type handler_box

    type, public :: bridge
        private
        type(c_ptr) :: handle = c_null_ptr
        type(handler_box), pointer :: handler => null()
    end type bridge

    ! An array that was looked up once, by bridge_find. All calls that take a bridge and a name take it
    ! instead of them.
    type, public :: bridge_array
        private
        type(c_ptr) :: bridge = c_null_ptr, handle = c_null_ptr
    end type bridge_array

    include 'ips_bridge_c.inc'

    ! cells: of any numeric kind, or logical(c_bool), any rank up to 7, contiguous or not. What is
    ! not wanted of a step is not copied, not even for a section with gaps.
    interface bridge_put
        module procedure put_0, put_1, put_2, put_3, put_4, put_5, put_6, put_7, &
            array_put_0, array_put_1, array_put_2, array_put_3, array_put_4, array_put_5, &
            array_put_6, array_put_7
    end interface bridge_put
    ! value: a text, a real(c_double) or a default integer, or an array of these numbers.
    interface bridge_attribute
        module procedure attribute_text, attribute_real, attribute_reals, attribute_integer, &
            attribute_integers
    end interface bridge_attribute
    interface bridge_put_block
        module procedure block_1, block_2, block_3, block_4, block_5, block_6, block_7, &
            array_block_1, array_block_2, array_block_3, array_block_4, array_block_5, &
            array_block_6, array_block_7
    end interface bridge_put_block
    ! cells(columns, rows): rows are the slowest dimension.
    interface bridge_put_rows
        module procedure rows_1, rows_2, rows_3, rows_4, rows_5, rows_6, rows_7, &
            array_rows_1, array_rows_2, array_rows_3, array_rows_4, array_rows_5, &
            array_rows_6, array_rows_7
    end interface bridge_put_rows

    ! Of which array a put, or a block in place, is: by name or as it was found.
    interface bridge_wants
        module procedure wants_named, wants_array
    end interface bridge_wants
    interface bridge_acquire
        module procedure acquire_named, acquire_array
    end interface bridge_acquire
    interface bridge_publish
        module procedure publish_named, publish_array
    end interface bridge_publish
    interface bridge_discard
        module procedure discard_named, discard_array
    end interface bridge_discard
    interface bridge_acquire_block
        module procedure acquire_block_named, acquire_block_array
    end interface bridge_acquire_block
    interface bridge_publish_block
        module procedure publish_block_named, publish_block_array
    end interface bridge_publish_block
    interface bridge_discard_block
        module procedure discard_block_named, discard_block_array
    end interface bridge_discard_block
    interface view_of
        module procedure view_0, view_1, view_2, view_3, view_4, view_5, view_6, view_7
    end interface view_of

    ! Where an array lies: its first cell, and extents and strides (bytes) in C's order.
    type view
        type(c_ptr) :: first = c_null_ptr
        integer(c_size_t) :: itemsize = 0
        integer :: ndim = 0
        integer(c_int64_t) :: extents(7) = 0, strides(7) = 0
    end type view

contains

    include 'ips_bridge_life.inc'
    include 'ips_bridge_describe.inc'
    include 'ips_bridge_steps.inc'
    include 'ips_bridge_receive.inc'
    include 'ips_bridge_cells.inc'
    include 'ips_bridge_put.inc'

    pure function c_text(text)
        character(*), intent(in) :: text
        character(kind=c_char) :: c_text(len_trim(text) + 1)
        integer :: i

        do i = 1, len_trim(text)
            c_text(i) = text(i:i)
        end do
        c_text(len_trim(text) + 1) = c_null_char
    end function c_text

    function f_text(from) result(text)
        type(c_ptr), intent(in) :: from
        character(:), allocatable :: text
        character(kind=c_char), pointer :: letters(:)
        integer :: i

        text = ''
        if (.not. c_associated(from)) return
        call c_f_pointer(from, letters, [c_strlen(from)])
        text = repeat(' ', size(letters))
        do i = 1, size(letters)
            text(i:i) = letters(i)
        end do
    end function f_text

    ! Dimensions in C's order.
    pure function turned(numbers)
        integer, intent(in) :: numbers(:)
        integer(c_int64_t) :: turned(size(numbers))

        turned = numbers(size(numbers):1:-1)
    end function turned

end module ips_bridge
