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

    ! Who owns points or ids that several ranks have.
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

    interface
        integer(c_int) function c_halo(handle, array, ndim, low, high) &
            bind(C, name='ips_bridge_halo')
            import :: c_char, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*)
            integer(c_int), value :: ndim
            integer(c_int64_t), intent(in) :: low(*), high(*)
        end function c_halo

        integer(c_int) function c_shared(handle, array, ndim, owner) &
            bind(C, name='ips_bridge_shared')
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*)
            integer(c_int), value :: ndim
            integer(c_int), intent(in) :: owner(*)
        end function c_shared

        integer(c_int) function c_ids(handle, array, owner, n, ids) bind(C, name='ips_bridge_ids')
            import :: c_char, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle, ids
            character(kind=c_char), intent(in) :: array(*)
            integer(c_int), value :: owner
            integer(c_int64_t), value :: n
        end function c_ids

        integer(c_int) function c_levels(handle, array, levels, refinement) &
            bind(C, name='ips_bridge_levels')
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*)
            integer(c_int), value :: levels, refinement
        end function c_levels

        integer(c_int) function c_open(handle, rank, size) bind(C, name='ips_bridge_open')
            import :: c_int, c_ptr
            type(c_ptr), intent(out) :: handle
            integer(c_int), value :: rank, size
        end function c_open

        integer(c_int) function c_set_alone(handle, alone) bind(C, name='ips_bridge_set_alone')
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), value :: alone
        end function c_set_alone

        integer(c_int) function c_is_alone(handle) bind(C, name='ips_bridge_is_alone')
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
        end function c_is_alone

        integer(c_int) function c_declare(handle, array, dtype, ndim, shape) &
            bind(C, name='ips_bridge_declare')
            import :: c_char, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*), dtype(*)
            integer(c_int), value :: ndim
            integer(c_int64_t), intent(in) :: shape(*)
        end function c_declare

        integer(c_int) function c_steps(handle, array, first, every, count) &
            bind(C, name='ips_bridge_steps')
            import :: c_char, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*)
            integer(c_int64_t), value :: first, every, count
        end function c_steps

        integer(c_int) function c_dims(handle, array, dims) bind(C, name='ips_bridge_dims')
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*), dims(*)
        end function c_dims

        integer(c_int) function c_attribute(handle, array, name, text) &
            bind(C, name='ips_bridge_attribute')
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*), name(*), text(*)
        end function c_attribute

        integer(c_int) function c_attribute_doubles(handle, array, name, values, count) &
            bind(C, name='ips_bridge_attribute_doubles')
            import :: c_char, c_double, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*), name(*)
            real(c_double), intent(in) :: values(*)
            integer(c_int64_t), value :: count
        end function c_attribute_doubles

        integer(c_int) function c_attribute_integers(handle, array, name, values, count) &
            bind(C, name='ips_bridge_attribute_integers')
            import :: c_char, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*), name(*)
            integer(c_int64_t), intent(in) :: values(*)
            integer(c_int64_t), value :: count
        end function c_attribute_integers

        integer(c_int) function c_set_partial(handle, partial) bind(C, name='ips_bridge_set_partial')
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), value :: partial
        end function c_set_partial

        integer(c_int) function c_block(handle, array, dtype, ndim, offset, count, halo) &
            bind(C, name='ips_bridge_block')
            import :: c_char, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle, halo
            character(kind=c_char), intent(in) :: array(*), dtype(*)
            integer(c_int), value :: ndim
            integer(c_int64_t), intent(in) :: offset(*), count(*)
        end function c_block

        integer(c_int) function c_where(handle, text) bind(C, name='ips_bridge_where')
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
            type(c_ptr), intent(out) :: text
        end function c_where

        integer(c_int) function c_ranks(handle, texts) bind(C, name='ips_bridge_ranks')
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: texts(*)
        end function c_ranks

        integer(c_int) function c_request(handle, contact, blob, length) &
            bind(C, name='ips_bridge_request')
            import :: c_char, c_int, c_ptr, c_size_t
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: contact(*)
            type(c_ptr), intent(out) :: blob
            integer(c_size_t), intent(out) :: length
        end function c_request

        integer(c_int) function c_join(handle, blob, length) bind(C, name='ips_bridge_join')
            import :: c_int, c_ptr, c_size_t
            type(c_ptr), value :: handle, blob
            integer(c_size_t), value :: length
        end function c_join

        type(c_ptr) function c_find(handle, array) bind(C, name='ips_bridge_find')
            import :: c_char, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*)
        end function c_find

        type(c_ptr) function c_name(array) bind(C, name='ips_bridge_array_name')
            import :: c_ptr
            type(c_ptr), value :: array
        end function c_name

        integer(c_int) function c_put_view(array, step, cells, itemsize, ndim, extents, strides, &
            offset, count) bind(C, name='ips_bridge_array_put_view')
            import :: c_int, c_int64_t, c_ptr, c_size_t
            type(c_ptr), value :: array, cells, offset, count
            integer(c_int64_t), value :: step
            integer(c_size_t), value :: itemsize
            integer(c_int), value :: ndim
            integer(c_int64_t), intent(in) :: extents(*), strides(*)
        end function c_put_view

        integer(c_int) function c_put_rows(array, step, cells, itemsize, ndim, extents, strides, &
            rows, index, ids, levels, places) bind(C, name='ips_bridge_array_put_rows_view')
            import :: c_int, c_int64_t, c_ptr, c_size_t
            type(c_ptr), value :: array, cells, index, ids, levels, places
            integer(c_int64_t), value :: step, rows
            integer(c_size_t), value :: itemsize
            integer(c_int), value :: ndim
            integer(c_int64_t), intent(in) :: extents(*), strides(*)
        end function c_put_rows

        integer(c_int) function c_wants(array, step) bind(C, name='ips_bridge_array_wants')
            import :: c_int, c_int64_t, c_ptr
            type(c_ptr), value :: array
            integer(c_int64_t), value :: step
        end function c_wants

        integer(c_int) function c_acquire(array, step, offset, count, cells) &
            bind(C, name='ips_bridge_array_acquire')
            import :: c_int, c_int64_t, c_ptr
            type(c_ptr), value :: array, offset, count
            integer(c_int64_t), value :: step
            type(c_ptr), intent(inout) :: cells
        end function c_acquire

        integer(c_int) function c_publish(array, cells) bind(C, name='ips_bridge_array_publish')
            import :: c_int, c_ptr
            type(c_ptr), value :: array, cells
        end function c_publish

        integer(c_int) function c_discard(array, cells) bind(C, name='ips_bridge_array_discard')
            import :: c_int, c_ptr
            type(c_ptr), value :: array, cells
        end function c_discard

        integer(c_int) function c_set_error_handler(handle, handler, data) &
            bind(C, name='ips_bridge_set_error_handler')
            import :: c_funptr, c_int, c_ptr
            type(c_ptr), value :: handle, data
            type(c_funptr), value :: handler
        end function c_set_error_handler

        integer(c_int64_t) function c_first_step(handle) bind(C, name='ips_bridge_first_step')
            import :: c_int64_t, c_ptr
            type(c_ptr), value :: handle
        end function c_first_step

        integer(c_int) function c_rewind(handle, step) bind(C, name='ips_bridge_rewind')
            import :: c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            integer(c_int64_t), value :: step
        end function c_rewind

        integer(c_int) function c_statistics(handle, array, account, size) &
            bind(C, name='ips_bridge_statistics_sized')
            import :: c_char, c_int, c_int64_t, c_ptr, c_size_t
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: array(*)
            integer(c_int64_t), intent(out) :: account(*)
            integer(c_size_t), value :: size
        end function c_statistics

        real(c_double) function c_waited(handle) bind(C, name='ips_bridge_waited')
            import :: c_double, c_ptr
            type(c_ptr), value :: handle
        end function c_waited

        integer(c_int) function c_lanes(handle, shm, tcp) bind(C, name='ips_bridge_lanes')
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), intent(out) :: shm, tcp
        end function c_lanes

        type(c_ptr) function c_version() bind(C, name='ips_bridge_version')
            import :: c_ptr
        end function c_version

        integer(c_int) function c_set_error(handle, code, text) &
            bind(C, name='ips_bridge_set_error')
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), value :: code
            character(kind=c_char), intent(in) :: text(*)
        end function c_set_error

        integer(c_int) function c_step_end(handle, step) bind(C, name='ips_bridge_step_end')
            import :: c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            integer(c_int64_t), value :: step
        end function c_step_end

        integer(c_int) function c_step_time(handle, step, time) &
                bind(C, name='ips_bridge_step_time')
            import :: c_double, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            integer(c_int64_t), value :: step
            real(c_double), value :: time
        end function c_step_time

        integer(c_int) function c_progress(handle) bind(C, name='ips_bridge_progress')
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
        end function c_progress

        integer(c_int) function c_wait(handle, timeout) bind(C, name='ips_bridge_wait')
            import :: c_double, c_int, c_ptr
            type(c_ptr), value :: handle
            real(c_double), value :: timeout
        end function c_wait

        integer(c_int) function c_receive(handle, name, step, timeout, values, capacity, count) &
            bind(C, name='ips_bridge_receive_doubles')
            import :: c_char, c_double, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: name(*)
            integer(c_int64_t), value :: step, capacity
            real(c_double), value :: timeout
            real(c_double), intent(inout) :: values(*)
            integer(c_int64_t), intent(inout) :: count
        end function c_receive

        integer(c_int) function c_receive_model(handle, name, newer_than, timeout, found, size) &
            bind(C, name='ips_bridge_receive_model_sized')
            import :: bridge_found_model, c_char, c_double, c_int, c_int64_t, c_ptr, c_size_t
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: name(*)
            integer(c_int64_t), value :: newer_than
            real(c_double), value :: timeout
            type(bridge_found_model), intent(inout) :: found
            integer(c_size_t), value :: size
        end function c_receive_model

        integer(c_int) function c_should_stop(handle, stop) bind(C, name='ips_bridge_should_stop')
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), intent(out) :: stop
        end function c_should_stop

        integer(c_int) function c_close(handle, aborted, reason) bind(C, name='ips_bridge_close')
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int), value :: aborted
            character(kind=c_char), intent(in) :: reason(*)
        end function c_close

        subroutine c_free(handle) bind(C, name='ips_bridge_free')
            import :: c_ptr
            type(c_ptr), value :: handle
        end subroutine c_free

        type(c_ptr) function c_error(handle) bind(C, name='ips_bridge_error')
            import :: c_ptr
            type(c_ptr), value :: handle
        end function c_error

        type(c_ptr) function c_lost(handle) bind(C, name='ips_bridge_lost')
            import :: c_ptr
            type(c_ptr), value :: handle
        end function c_lost

        integer(c_size_t) function c_strlen(text) bind(C, name='strlen')
            import :: c_ptr, c_size_t
            type(c_ptr), value :: text
        end function c_strlen
    end interface

    ! cells: of any numeric kind, or logical(c_bool), any rank up to 7, contiguous or not. What nobody
    ! wants of a step is not copied, not even for a section with gaps.
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

    ! alone: the program may run by itself where there is no contact file, see ips_bridge_set_alone.
    subroutine bridge_open(self, rank, size, status, alone)
        type(bridge), intent(out) :: self
        integer, intent(in) :: rank, size
        integer, intent(out) :: status
        logical, intent(in), optional :: alone

        status = c_open(self%handle, int(rank, c_int), int(size, c_int))
        if (status == BRIDGE_OK .and. present(alone)) &
            status = c_set_alone(self%handle, merge(1_c_int, 0_c_int, alone))
    end subroutine bridge_open

    ! Whether the program runs by itself, after bridge_join or bridge_connect.
    logical function bridge_is_alone(self)
        type(bridge), intent(in) :: self

        bridge_is_alone = c_is_alone(self%handle) /= 0
    end function bridge_is_alone

    ! Describe an array. shape(ndim) = -1, the slowest dimension here: rows that vary (particles).
    subroutine bridge_declare(self, array, dtype, shape, status, first, every, steps, dims)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array, dtype
        integer, intent(in) :: shape(:)
        integer, intent(out) :: status
        integer, intent(in), optional :: first, every, steps
        character(*), intent(in), optional :: dims(:)
        integer(c_int64_t) :: begin, stride, count
        character(:), allocatable :: names
        integer :: d

        status = c_declare(self%handle, c_text(array), c_text(dtype), &
            size(shape, kind=c_int), turned(shape))
        if (status == 0 .and. present(dims)) then
            names = ''
            do d = size(dims), 1, -1
                names = names//trim(dims(d))//','
            end do
            status = c_dims(self%handle, c_text(array), c_text(names))
        end if
        if (status /= 0) return
        begin = 0
        stride = 1
        count = -1
        if (present(first)) begin = first
        if (present(every)) stride = every
        if (present(steps)) count = steps
        status = c_steps(self%handle, c_text(array), begin, stride, count)
    end subroutine bridge_declare

    subroutine attribute_text(self, array, name, text, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array, name, text
        integer, intent(out) :: status

        status = c_attribute(self%handle, c_text(array), c_text(name), c_text(text))
    end subroutine attribute_text

    subroutine attribute_real(self, array, name, value, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array, name
        real(c_double), intent(in) :: value
        integer, intent(out) :: status

        status = c_attribute_doubles(self%handle, c_text(array), c_text(name), [value], -1_c_int64_t)
    end subroutine attribute_real

    subroutine attribute_reals(self, array, name, values, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array, name
        real(c_double), intent(in) :: values(:)
        integer, intent(out) :: status

        status = c_attribute_doubles(self%handle, c_text(array), c_text(name), values, &
            size(values, kind=c_int64_t))
    end subroutine attribute_reals

    subroutine attribute_integer(self, array, name, value, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array, name
        integer, intent(in) :: value
        integer, intent(out) :: status

        status = c_attribute_integers(self%handle, c_text(array), c_text(name), &
            [int(value, c_int64_t)], -1_c_int64_t)
    end subroutine attribute_integer

    subroutine attribute_integers(self, array, name, values, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array, name
        integer, intent(in) :: values(:)
        integer, intent(out) :: status

        status = c_attribute_integers(self%handle, c_text(array), c_text(name), &
            int(values, c_int64_t), size(values, kind=c_int64_t))
    end subroutine attribute_integers

    ! Other ranks put the arrays that this rank does not declare; rank 0 declares all in any case.
    subroutine bridge_set_partial(self, partial, status)
        type(bridge), intent(in) :: self
        logical, intent(in) :: partial
        integer, intent(out) :: status

        status = c_set_partial(self%handle, merge(1_c_int, 0_c_int, partial))
    end subroutine bridge_set_partial

    subroutine bridge_block(self, array, dtype, offset, count, status, halo)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array, dtype
        integer, intent(in) :: offset(:), count(:)
        integer, intent(out) :: status
        integer, intent(in), optional :: halo(:)
        integer(c_int64_t), target :: ghosts(size(offset) + 1)
        type(c_ptr) :: given

        given = c_null_ptr ! what bridge_halo or the configuration says
        status = BRIDGE_OK
        if (size(count) /= size(offset)) status = differ(self, array, 'offset and count')
        if (present(halo)) then
            if (size(halo) /= size(offset)) status = differ(self, array, 'offset and halo')
        end if
        if (status /= BRIDGE_OK) return
        if (present(halo)) then
            ghosts(:size(halo)) = turned(halo)
            given = c_loc(ghosts)
        end if
        status = c_block(self%handle, c_text(array), c_text(dtype), size(offset, kind=c_int), &
            turned(offset), &
            turned(count), given)
    end subroutine bridge_block

    ! Ghost cells below and above the blocks, where the two sides differ; in Fortran's order.
    subroutine bridge_halo(self, array, low, high, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: low(:), high(:)
        integer, intent(out) :: status

        if (size(low) /= size(high)) then
            status = differ(self, array, 'the two sides of the halo')
            return
        end if
        status = c_halo(self%handle, c_text(array), size(low, kind=c_int), turned(low), turned(high))
    end subroutine bridge_halo

    integer function differ(self, array, what)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array, what

        differ = c_set_error(self%handle, int(BRIDGE_USAGE, c_int), &
            c_text('array '//trim(array)//': '//what//' have different numbers of dimensions'))
    end function differ

    ! Owners of the planes of points that neighbouring blocks both have, one per dimension.
    subroutine bridge_shared(self, array, owners, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: owners(:)
        integer, intent(out) :: status

        status = c_shared(self%handle, c_text(array), size(owners, kind=c_int), &
            int(turned(owners), c_int))
    end subroutine bridge_shared

    ! The last dimension of the array is indexed by ids, which count from 0. Without ids they come
    ! with each put.
    subroutine bridge_ids(self, array, owner, status, ids)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: owner
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:)
        integer(c_int64_t), allocatable, target :: numbers(:)

        allocate (numbers(1))
        if (.not. present(ids)) then
            status = c_ids(self%handle, c_text(array), int(owner, c_int), 0_c_int64_t, c_null_ptr)
            return
        end if
        deallocate (numbers)
        allocate (numbers(size(ids) + 1))
        numbers(:size(ids)) = ids
        status = c_ids(self%handle, c_text(array), int(owner, c_int), size(ids, kind=c_int64_t), &
            c_loc(numbers))
    end subroutine bridge_ids

    ! The rows of a ragged array are blocks of an adaptive mesh.
    subroutine bridge_levels(self, array, levels, refinement, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: levels, refinement
        integer, intent(out) :: status

        status = c_levels(self%handle, c_text(array), int(levels, c_int), int(refinement, c_int))
    end subroutine bridge_levels

    ! Where this rank is; see bridge_ranks.
    subroutine bridge_where(self, text, status)
        type(bridge), intent(in) :: self
        character(:), allocatable, intent(out) :: text
        integer, intent(out) :: status
        type(c_ptr) :: found

        status = c_where(self%handle, found)
        text = f_text(found)
    end subroutine bridge_where

    ! Rank 0 may tell where all ranks are: the texts of bridge_where, in order, with commas between.
    subroutine bridge_ranks(self, texts, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: texts
        integer, intent(out) :: status

        status = c_ranks(self%handle, c_text(texts))
    end subroutine bridge_ranks

    ! The blob is there whatever the status: broadcast it in any case.
    subroutine bridge_request(self, blob, status, contact)
        type(bridge), intent(in) :: self
        integer, allocatable, intent(out) :: blob(:)
        integer, intent(out) :: status
        character(*), intent(in), optional :: contact
        character(:), allocatable :: path
        type(c_ptr) :: found
        integer(c_size_t) :: length
        character(kind=c_char), pointer :: bytes(:)
        integer, parameter :: WORD = storage_size(0) / 8

        path = ''
        if (present(contact)) path = contact
        status = c_request(self%handle, c_text(path), found, length)
        ! the first number is the length in bytes
        allocate (blob(1 + (length + WORD - 1) / WORD), source=0)
        blob(1) = int(length)
        if (length == 0) return
        call c_f_pointer(found, bytes, [length])
        blob(2:) = transfer([bytes, spread(c_null_char, 1, WORD - 1)], blob, size(blob) - 1)
    end subroutine bridge_request

    subroutine bridge_join(self, blob, status)
        type(bridge), intent(in) :: self
        integer, intent(in), contiguous, target :: blob(:)
        integer, intent(out) :: status

        status = BRIDGE_USAGE
        if (size(blob) < 2) return
        status = c_join(self%handle, c_loc(blob(2)), int(blob(1), c_size_t))
    end subroutine bridge_join

    ! The step at which this launch of the program goes on; 0 in the first one.
    integer function bridge_first_step(self)
        type(bridge), intent(in) :: self

        bridge_first_step = int(c_first_step(self%handle))
    end function bridge_first_step

    ! Go back to a step: refused once something of it, or of a later one, was sent.
    subroutine bridge_rewind(self, step, status)
        type(bridge), intent(in) :: self
        integer, intent(in) :: step
        integer, intent(out) :: status

        status = c_rewind(self%handle, int(step, c_int64_t))
    end subroutine bridge_rewind

    ! Look an array up once, after the join, instead of by name at every step. It is found as long as
    ! the bridge lives.
    subroutine bridge_find(self, name, array, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: name
        type(bridge_array), intent(out) :: array
        integer, intent(out) :: status

        array = array_of(self, name)
        status = merge(BRIDGE_OK, BRIDGE_USAGE, c_associated(array%handle))
    end subroutine bridge_find

    function array_of(self, name) result(array)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: name
        type(bridge_array) :: array

        array = bridge_array(self%handle, c_find(self%handle, c_text(name)))
    end function array_of

    ! Whether the analysis wants something of a step: ask before packing what is only put.
    function wants_named(self, array, step) result(wanted)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        logical :: wanted

        wanted = wants_array(array_of(self, array), step)
    end function wants_named

    function wants_array(array, step) result(wanted)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        logical :: wanted

        wanted = c_wants(array%handle, int(step, c_int64_t)) /= 0
    end function wants_array

    ! Make it an array by c_f_pointer, with the shape of the block and its halo.
    subroutine acquire_named(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        type(c_ptr), intent(out) :: cells
        integer, intent(out) :: status

        call acquire_array(array_of(self, array), step, cells, status)
    end subroutine acquire_named

    subroutine acquire_array(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        type(c_ptr), intent(out) :: cells
        integer, intent(out) :: status

        cells = c_null_ptr
        status = c_acquire(array%handle, int(step, c_int64_t), c_null_ptr, c_null_ptr, cells)
    end subroutine acquire_array

    ! The same for any block; several may be open at once. A block is named by its memory.
    subroutine acquire_block_named(self, array, step, offset, count, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        type(c_ptr), intent(out) :: cells
        integer, intent(out) :: status

        call acquire_block_array(array_of(self, array), step, offset, count, cells, status)
    end subroutine acquire_block_named

    subroutine acquire_block_array(array, step, offset, count, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        type(c_ptr), intent(out) :: cells
        integer, intent(out) :: status
        integer(c_int64_t), target :: place(size(offset) + 1), extent(size(count) + 1)

        cells = c_null_ptr
        place(:size(offset)) = turned(offset)
        extent(:size(count)) = turned(count)
        status = c_acquire(array%handle, int(step, c_int64_t), c_loc(place), c_loc(extent), cells)
    end subroutine acquire_block_array

    subroutine publish_named(self, array, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(out) :: status

        call publish_array(array_of(self, array), status)
    end subroutine publish_named

    subroutine publish_array(array, status)
        type(bridge_array), intent(in) :: array
        integer, intent(out) :: status

        status = c_publish(array%handle, c_null_ptr)
    end subroutine publish_array

    subroutine publish_block_named(self, array, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        type(c_ptr), intent(in) :: cells
        integer, intent(out) :: status

        call publish_block_array(array_of(self, array), cells, status)
    end subroutine publish_block_named

    subroutine publish_block_array(array, cells, status)
        type(bridge_array), intent(in) :: array
        type(c_ptr), intent(in) :: cells
        integer, intent(out) :: status

        status = c_publish(array%handle, cells)
    end subroutine publish_block_array

    subroutine discard_named(self, array, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(out) :: status

        call discard_array(array_of(self, array), status)
    end subroutine discard_named

    subroutine discard_array(array, status)
        type(bridge_array), intent(in) :: array
        integer, intent(out) :: status

        status = c_discard(array%handle, c_null_ptr)
    end subroutine discard_array

    subroutine discard_block_named(self, array, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        type(c_ptr), intent(in) :: cells
        integer, intent(out) :: status

        call discard_block_array(array_of(self, array), cells, status)
    end subroutine discard_block_named

    subroutine discard_block_array(array, cells, status)
        type(bridge_array), intent(in) :: array
        type(c_ptr), intent(in) :: cells
        integer, intent(out) :: status

        status = c_discard(array%handle, cells)
    end subroutine discard_block_array

    ! blocks and bytes: produced, skipped, delivered, dropped, lost.
    subroutine bridge_statistics(self, array, blocks, bytes, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer(c_int64_t), intent(out) :: blocks(5), bytes(5)
        integer, intent(out) :: status
        integer(c_int64_t) :: account(10)

        account = 0
        status = c_statistics(self%handle, c_text(array), account, 80_c_size_t)
        blocks = account(1:5)
        bytes = account(6:10)
    end subroutine bridge_statistics

    ! Seconds that this rank waited for credit and buffers so far.
    function bridge_waited(self) result(seconds)
        type(bridge), intent(in) :: self
        real(c_double) :: seconds

        seconds = c_waited(self%handle)
    end function bridge_waited

    ! How many receivers are reached by shared memory and by TCP.
    subroutine bridge_lanes(self, shm, tcp, status)
        type(bridge), intent(in) :: self
        integer, intent(out) :: shm, tcp, status
        integer(c_int) :: by_shm, by_tcp

        by_shm = 0
        by_tcp = 0
        status = c_lanes(self%handle, by_shm, by_tcp)
        shm = by_shm
        tcp = by_tcp
    end subroutine bridge_lanes

    function bridge_version() result(text)
        character(:), allocatable :: text

        text = f_text(c_version())
    end function bridge_version

    ! For calls of the C library that this module does not have.
    function bridge_handle(self) result(handle)
        type(bridge), intent(in) :: self
        type(c_ptr) :: handle

        handle = self%handle
    end function bridge_handle

    subroutine bridge_step_end(self, step, status)
        type(bridge), intent(in) :: self
        integer, intent(in) :: step
        integer, intent(out) :: status

        status = c_step_end(self%handle, int(step, c_int64_t))
    end subroutine bridge_step_end

    ! Physical time of a step, which becomes the coordinate of results.
    subroutine bridge_step_time(self, step, time, status)
        type(bridge), intent(in) :: self
        integer, intent(in) :: step
        real(c_double), intent(in) :: time
        integer, intent(out) :: status

        status = c_step_time(self%handle, int(step, c_int64_t), time)
    end subroutine bridge_step_time

    subroutine bridge_progress(self, status)
        type(bridge), intent(in) :: self
        integer, intent(out) :: status

        status = c_progress(self%handle)
    end subroutine bridge_progress

    ! timeout in seconds; without it, the run's deadline.
    subroutine bridge_wait(self, status, timeout)
        type(bridge), intent(in) :: self
        integer, intent(out) :: status
        real(c_double), intent(in), optional :: timeout
        real(c_double) :: limit

        limit = -1
        if (present(timeout)) limit = timeout
        status = c_wait(self%handle, limit)
    end subroutine bridge_wait

    ! Rank 0: values(1:count) are what the analysis sent for a step; broadcast them. The status is
    ! BRIDGE_STOPPED or BRIDGE_ANALYTICS_LOST as soon as it is known that they will not come.
    subroutine bridge_receive(self, name, step, timeout, values, count, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: name
        integer, intent(in) :: step
        real(c_double), intent(in) :: timeout
        real(c_double), intent(inout) :: values(:)
        integer, intent(out) :: count, status
        real(c_double) :: found(size(values))
        integer(c_int64_t) :: n

        n = 0
        status = c_receive(self%handle, c_text(name), int(step, c_int64_t), timeout, found, &
            size(values, kind=c_int64_t), n)
        count = int(n)
        values(:count) = found(:count)
    end subroutine bridge_receive

    ! Rank 0: the latest version of a model that the analysis sent; BRIDGE_NOTHING where there is none
    ! above newer_than (-1: any). timeout: seconds to wait for the first version.
    subroutine bridge_receive_model(self, name, newer_than, timeout, model, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: name
        integer, intent(in) :: newer_than
        real(c_double), intent(in) :: timeout
        type(bridge_model), intent(out) :: model
        integer, intent(out) :: status
        type(bridge_found_model) :: found

        status = c_receive_model(self%handle, c_text(name), int(newer_than, c_int64_t), timeout, &
            found, c_sizeof(found))
        if (status == BRIDGE_OK) call bridge_copy_model(found, model)
    end subroutine bridge_receive_model

    subroutine bridge_copy_model(found, model)
        type(bridge_found_model), intent(in) :: found
        type(bridge_model), intent(out) :: model
        type(c_ptr), pointer :: names(:)
        type(found_value), pointer :: values(:)
        integer(c_int64_t), pointer :: extents(:), integers(:)
        real(c_double), pointer :: reals(:)
        integer :: i

        model%version = int(found%version)
        allocate (model%arrays(found%n_arrays))
        if (found%n_arrays == 0) return
        call c_f_pointer(found%names, names, [found%n_arrays])
        call c_f_pointer(found%arrays, values, [found%n_arrays])
        do i = 1, found%n_arrays
            associate (one => model%arrays(i), from => values(i))
                one%name = f_text(names(i))
                allocate (one%shape(from%ndim), one%values(from%count))
                if (from%ndim > 0) then
                    call c_f_pointer(from%shape, extents, [from%ndim])
                    one%shape = int(extents(from%ndim:1:-1))
                end if
                if (from%count == 0) cycle
                if (from%kind == 0) then
                    call c_f_pointer(from%data, reals, [from%count])
                    one%values = reals
                else
                    call c_f_pointer(from%data, integers, [from%count])
                    one%values = real(integers, c_double)
                end if
            end associate
        end do
    end subroutine bridge_copy_model

    subroutine bridge_should_stop(self, stop, status)
        type(bridge), intent(in) :: self
        logical, intent(out) :: stop
        integer, intent(out) :: status
        integer(c_int) :: answer

        status = c_should_stop(self%handle, answer)
        stop = answer /= 0
    end subroutine bridge_should_stop

    ! reason: of a simulation that failed; without it, it ended well.
    subroutine bridge_close(self, status, reason)
        type(bridge), intent(in) :: self
        integer, intent(out) :: status
        character(*), intent(in), optional :: reason

        if (present(reason)) then
            status = c_close(self%handle, 1_c_int, c_text(reason))
        else
            status = c_close(self%handle, 0_c_int, c_text(''))
        end if
    end subroutine bridge_close

    subroutine bridge_free(self)
        type(bridge), intent(inout) :: self

        call c_free(self%handle)
        self%handle = c_null_ptr
        if (associated(self%handler)) deallocate (self%handler)
    end subroutine bridge_free

    ! What the last failed call suffered from, and what to do.
    function bridge_error(self) result(text)
        type(bridge), intent(in) :: self
        character(:), allocatable :: text

        text = f_text(c_error(self%handle))
    end function bridge_error

    ! handler: best a module procedure, since an internal one needs an executable stack. Without it,
    ! none is called any more.
    subroutine bridge_set_error_handler(self, handler, status)
        type(bridge), intent(inout) :: self
        procedure(bridge_error_handler), optional :: handler
        integer, intent(out) :: status

        if (.not. present(handler)) then
            status = c_set_error_handler(self%handle, c_null_funptr, c_null_ptr)
            return
        end if
        if (.not. associated(self%handler)) allocate (self%handler)
        self%handler%call => handler
        status = c_set_error_handler(self%handle, c_funloc(on_error), c_loc(self%handler))
    end subroutine bridge_set_error_handler

    ! What C calls: the handler is in `data`.
    subroutine on_error(handle, code, text, data) bind(C, name='')
        type(c_ptr), value :: handle, text, data
        integer(c_int), value :: code
        type(handler_box), pointer :: box

        if (.not. c_associated(handle)) return
        call c_f_pointer(data, box)
        call box%call(int(code), f_text(text))
    end subroutine on_error

    ! Why nothing is sent any more; empty while the analytics are there.
    function bridge_lost(self) result(text)
        type(bridge), intent(in) :: self
        character(:), allocatable :: text

        text = f_text(c_lost(self%handle))
    end function bridge_lost

    ! ---- Where cells lie --------------------------------------------------------------------------

    ! Address of a cell; 0 when its type is none that the bridge knows.
    function address(cell) result(at)
        class(*), intent(in), target :: cell
        integer(c_intptr_t) :: at
        integer(c_size_t) :: itemsize

        call locate(cell, at, itemsize)
    end function address

    subroutine locate(cell, at, itemsize)
        class(*), intent(in), target :: cell
        integer(c_intptr_t), intent(out) :: at
        integer(c_size_t), intent(out) :: itemsize
        type(c_ptr) :: found

        found = c_null_ptr
        itemsize = 0
        select type (cell)
        type is (real(c_double))
            found = c_loc(cell)
            itemsize = 8
        type is (real(c_float))
            found = c_loc(cell)
            itemsize = 4
        type is (integer(c_int32_t))
            found = c_loc(cell)
            itemsize = 4
        type is (integer(c_int64_t))
            found = c_loc(cell)
            itemsize = 8
        type is (integer(c_int8_t))
            found = c_loc(cell)
            itemsize = 1
        type is (integer(c_int16_t))
            found = c_loc(cell)
            itemsize = 2
        type is (complex(c_double_complex))
            found = c_loc(cell)
            itemsize = 16
        type is (complex(c_float_complex))
            found = c_loc(cell)
            itemsize = 8
        type is (logical(c_bool))
            found = c_loc(cell)
            itemsize = 1
        end select
        at = transfer(found, at)
    end subroutine locate

    ! The view of an array, by its first cell, its extents, and the address of the second cell along
    ! each dimension.
    function view_at(first, extents, next) result(v)
        class(*), intent(in), target :: first
        integer, intent(in) :: extents(:)
        integer(c_intptr_t), intent(in) :: next(:)
        type(view) :: v
        integer(c_intptr_t) :: at
        integer :: d, c

        call locate(first, at, v%itemsize)
        v%first = transfer(at, v%first)
        v%ndim = size(extents)
        do d = 1, v%ndim
            c = v%ndim + 1 - d
            v%extents(c) = extents(d)
            v%strides(c) = 0
            if (extents(d) > 1) v%strides(c) = next(d) - at
        end do
    end function view_at

    function put_view(array, step, v, offset, count) result(status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        type(view), intent(in) :: v
        integer, intent(in), optional :: offset(:), count(:)
        integer :: status
        integer(c_int64_t), target :: place(15), extent(15)
        type(c_ptr) :: at, size_of
        integer :: n

        if (.not. is_known(array, v, status)) return
        at = c_null_ptr
        size_of = c_null_ptr
        if (present(offset) .and. present(count)) then
            n = min(size(offset), 15)
            place(:n) = turned(offset(:n))
            n = min(size(count), 15)
            extent(:n) = turned(count(:n))
            at = c_loc(place)
            size_of = c_loc(extent)
        end if
        status = c_put_view(array%handle, int(step, c_int64_t), v%first, v%itemsize, &
            int(v%ndim, c_int), v%extents, v%strides, at, size_of)
    end function put_view

    ! ids: of the rows, counted from 0; index: which rows, counted from 1; levels and places (one
    ! column for each block, counted from 0) of blocks.
    function put_rows_view(array, step, v, rows, ids, index, levels, places) result(status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, rows
        type(view), intent(in) :: v
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)
        integer :: status
        integer(c_int64_t), allocatable, target :: number(:), which(:), level(:), place(:)
        logical :: fits

        if (.not. is_known(array, v, status)) return
        fits = present(levels) .eqv. present(places)
        if (present(ids)) fits = fits .and. size(ids) >= rows
        if (present(index)) fits = fits .and. size(index) >= rows
        if (present(levels)) fits = fits .and. size(levels) >= rows
        if (present(places)) fits = fits .and. size(places, 2) >= rows .and. &
            size(places, 1) == v%ndim - 1
        if (.not. fits .or. rows < 0) then
            status = refused(array, 'each row has an id, a number in the index, or a level and a place')
            return
        end if
        if (present(ids)) number = int([ids(:rows), 0], c_int64_t)
        if (present(index)) which = int([index(:rows) - 1, 0], c_int64_t)
        if (present(levels)) level = int([levels(:rows), 0], c_int64_t)
        if (present(places)) place = int([places(size(places, 1):1:-1, :rows), 0], c_int64_t)
        status = c_put_rows(array%handle, int(step, c_int64_t), v%first, v%itemsize, &
            int(v%ndim, c_int), v%extents, v%strides, int(rows, c_int64_t), where_is(which), &
            where_is(number), where_is(level), where_is(place))
    end function put_rows_view

    function where_is(numbers) result(at)
        integer(c_int64_t), intent(in), allocatable, target :: numbers(:)
        type(c_ptr) :: at

        at = c_null_ptr
        if (allocated(numbers)) at = c_loc(numbers)
    end function where_is

    ! Whether the array was found, and its cells have a type that the bridge knows.
    logical function is_known(array, v, status)
        type(bridge_array), intent(in) :: array
        type(view), intent(in) :: v
        integer, intent(out) :: status

        status = BRIDGE_USAGE ! the error says what is wrong with a name that was not found
        is_known = c_associated(array%handle)
        if (.not. is_known) return
        is_known = v%itemsize /= 0 .or. (v%ndim > 0 .and. any(v%extents(:v%ndim) == 0))
        if (.not. is_known) status = refused(array, 'the bridge does not know this type of cells')
    end function is_known

    function refused(array, why) result(status)
        type(bridge_array), intent(in) :: array
        character(*), intent(in) :: why
        integer :: status

        status = c_set_error(array%bridge, int(BRIDGE_USAGE, c_int), &
            c_text('put of array '//f_text(c_name(array%handle))//': '//why))
    end function refused

    ! ---- Arrays of any kind and rank ------------------------------------------------------------

    function view_0(cells) result(v)
        class(*), intent(in), target :: cells
        type(view) :: v
        integer :: extents(0)
        integer(c_intptr_t) :: next(0)

        v = view_at(cells, extents, next)
    end function view_0

    function view_1(cells) result(v)
        class(*), intent(in), target :: cells(:)
        type(view) :: v
        integer(c_intptr_t) :: next(1)

        v = view(ndim=1)
        if (size(cells) == 0) return
        next = 0
        if (size(cells, 1) > 1) next(1) = address(cells(2))
        v = view_at(cells(1), shape(cells), next)
    end function view_1

    function view_2(cells) result(v)
        class(*), intent(in), target :: cells(:, :)
        type(view) :: v
        integer(c_intptr_t) :: next(2)

        v = view(ndim=2)
        if (size(cells) == 0) return
        next = 0
        if (size(cells, 1) > 1) next(1) = address(cells(2, 1))
        if (size(cells, 2) > 1) next(2) = address(cells(1, 2))
        v = view_at(cells(1, 1), shape(cells), next)
    end function view_2

    function view_3(cells) result(v)
        class(*), intent(in), target :: cells(:, :, :)
        type(view) :: v
        integer(c_intptr_t) :: next(3)

        v = view(ndim=3)
        if (size(cells) == 0) return
        next = 0
        if (size(cells, 1) > 1) next(1) = address(cells(2, 1, 1))
        if (size(cells, 2) > 1) next(2) = address(cells(1, 2, 1))
        if (size(cells, 3) > 1) next(3) = address(cells(1, 1, 2))
        v = view_at(cells(1, 1, 1), shape(cells), next)
    end function view_3

    function view_4(cells) result(v)
        class(*), intent(in), target :: cells(:, :, :, :)
        type(view) :: v
        integer(c_intptr_t) :: next(4)

        v = view(ndim=4)
        if (size(cells) == 0) return
        next = 0
        if (size(cells, 1) > 1) next(1) = address(cells(2, 1, 1, 1))
        if (size(cells, 2) > 1) next(2) = address(cells(1, 2, 1, 1))
        if (size(cells, 3) > 1) next(3) = address(cells(1, 1, 2, 1))
        if (size(cells, 4) > 1) next(4) = address(cells(1, 1, 1, 2))
        v = view_at(cells(1, 1, 1, 1), shape(cells), next)
    end function view_4

    function view_5(cells) result(v)
        class(*), intent(in), target :: cells(:, :, :, :, :)
        type(view) :: v
        integer(c_intptr_t) :: next(5)

        v = view(ndim=5)
        if (size(cells) == 0) return
        next = 0
        if (size(cells, 1) > 1) next(1) = address(cells(2, 1, 1, 1, 1))
        if (size(cells, 2) > 1) next(2) = address(cells(1, 2, 1, 1, 1))
        if (size(cells, 3) > 1) next(3) = address(cells(1, 1, 2, 1, 1))
        if (size(cells, 4) > 1) next(4) = address(cells(1, 1, 1, 2, 1))
        if (size(cells, 5) > 1) next(5) = address(cells(1, 1, 1, 1, 2))
        v = view_at(cells(1, 1, 1, 1, 1), shape(cells), next)
    end function view_5

    function view_6(cells) result(v)
        class(*), intent(in), target :: cells(:, :, :, :, :, :)
        type(view) :: v
        integer(c_intptr_t) :: next(6)

        v = view(ndim=6)
        if (size(cells) == 0) return
        next = 0
        if (size(cells, 1) > 1) next(1) = address(cells(2, 1, 1, 1, 1, 1))
        if (size(cells, 2) > 1) next(2) = address(cells(1, 2, 1, 1, 1, 1))
        if (size(cells, 3) > 1) next(3) = address(cells(1, 1, 2, 1, 1, 1))
        if (size(cells, 4) > 1) next(4) = address(cells(1, 1, 1, 2, 1, 1))
        if (size(cells, 5) > 1) next(5) = address(cells(1, 1, 1, 1, 2, 1))
        if (size(cells, 6) > 1) next(6) = address(cells(1, 1, 1, 1, 1, 2))
        v = view_at(cells(1, 1, 1, 1, 1, 1), shape(cells), next)
    end function view_6

    function view_7(cells) result(v)
        class(*), intent(in), target :: cells(:, :, :, :, :, :, :)
        type(view) :: v
        integer(c_intptr_t) :: next(7)

        v = view(ndim=7)
        if (size(cells) == 0) return
        next = 0
        if (size(cells, 1) > 1) next(1) = address(cells(2, 1, 1, 1, 1, 1, 1))
        if (size(cells, 2) > 1) next(2) = address(cells(1, 2, 1, 1, 1, 1, 1))
        if (size(cells, 3) > 1) next(3) = address(cells(1, 1, 2, 1, 1, 1, 1))
        if (size(cells, 4) > 1) next(4) = address(cells(1, 1, 1, 2, 1, 1, 1))
        if (size(cells, 5) > 1) next(5) = address(cells(1, 1, 1, 1, 2, 1, 1))
        if (size(cells, 6) > 1) next(6) = address(cells(1, 1, 1, 1, 1, 2, 1))
        if (size(cells, 7) > 1) next(7) = address(cells(1, 1, 1, 1, 1, 1, 2))
        v = view_at(cells(1, 1, 1, 1, 1, 1, 1), shape(cells), next)
    end function view_7

    ! ---- One subroutine for each rank, by name and by handle -------------------------------------

    subroutine put_0(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells))
    end subroutine put_0

    subroutine array_put_0(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells))
    end subroutine array_put_0

    subroutine put_1(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells))
    end subroutine put_1

    subroutine array_put_1(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells))
    end subroutine array_put_1

    subroutine put_2(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells))
    end subroutine put_2

    subroutine array_put_2(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells))
    end subroutine array_put_2

    subroutine put_3(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells))
    end subroutine put_3

    subroutine array_put_3(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells))
    end subroutine array_put_3

    subroutine put_4(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells))
    end subroutine put_4

    subroutine array_put_4(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells))
    end subroutine array_put_4

    subroutine put_5(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells))
    end subroutine put_5

    subroutine array_put_5(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells))
    end subroutine array_put_5

    subroutine put_6(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells))
    end subroutine put_6

    subroutine array_put_6(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells))
    end subroutine array_put_6

    subroutine put_7(self, array, step, cells, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells))
    end subroutine put_7

    subroutine array_put_7(array, step, cells, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step
        class(*), intent(in), target :: cells(:, :, :, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells))
    end subroutine array_put_7

    subroutine block_1(self, array, step, cells, offset, count, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells), offset, count)
    end subroutine block_1

    subroutine array_block_1(array, step, cells, offset, count, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells), offset, count)
    end subroutine array_block_1

    subroutine block_2(self, array, step, cells, offset, count, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells), offset, count)
    end subroutine block_2

    subroutine array_block_2(array, step, cells, offset, count, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells), offset, count)
    end subroutine array_block_2

    subroutine block_3(self, array, step, cells, offset, count, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells), offset, count)
    end subroutine block_3

    subroutine array_block_3(array, step, cells, offset, count, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells), offset, count)
    end subroutine array_block_3

    subroutine block_4(self, array, step, cells, offset, count, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells), offset, count)
    end subroutine block_4

    subroutine array_block_4(array, step, cells, offset, count, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells), offset, count)
    end subroutine array_block_4

    subroutine block_5(self, array, step, cells, offset, count, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells), offset, count)
    end subroutine block_5

    subroutine array_block_5(array, step, cells, offset, count, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells), offset, count)
    end subroutine array_block_5

    subroutine block_6(self, array, step, cells, offset, count, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells), offset, count)
    end subroutine block_6

    subroutine array_block_6(array, step, cells, offset, count, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells), offset, count)
    end subroutine array_block_6

    subroutine block_7(self, array, step, cells, offset, count, status)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array_of(self, array), step, view_of(cells), offset, count)
    end subroutine block_7

    subroutine array_block_7(array, step, cells, offset, count, status)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, offset(:), count(:)
        class(*), intent(in), target :: cells(:, :, :, :, :, :, :)
        integer, intent(out) :: status

        status = put_view(array, step, view_of(cells), offset, count)
    end subroutine array_block_7

    subroutine rows_1(self, array, step, cells, rows, status, ids, index, levels, places)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array_of(self, array), step, view_of(cells), rows, ids, index, levels, &
            places)
    end subroutine rows_1

    subroutine array_rows_1(array, step, cells, rows, status, ids, index, levels, places)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array, step, view_of(cells), rows, ids, index, levels, places)
    end subroutine array_rows_1

    subroutine rows_2(self, array, step, cells, rows, status, ids, index, levels, places)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array_of(self, array), step, view_of(cells), rows, ids, index, levels, &
            places)
    end subroutine rows_2

    subroutine array_rows_2(array, step, cells, rows, status, ids, index, levels, places)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array, step, view_of(cells), rows, ids, index, levels, places)
    end subroutine array_rows_2

    subroutine rows_3(self, array, step, cells, rows, status, ids, index, levels, places)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array_of(self, array), step, view_of(cells), rows, ids, index, levels, &
            places)
    end subroutine rows_3

    subroutine array_rows_3(array, step, cells, rows, status, ids, index, levels, places)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array, step, view_of(cells), rows, ids, index, levels, places)
    end subroutine array_rows_3

    subroutine rows_4(self, array, step, cells, rows, status, ids, index, levels, places)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array_of(self, array), step, view_of(cells), rows, ids, index, levels, &
            places)
    end subroutine rows_4

    subroutine array_rows_4(array, step, cells, rows, status, ids, index, levels, places)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array, step, view_of(cells), rows, ids, index, levels, places)
    end subroutine array_rows_4

    subroutine rows_5(self, array, step, cells, rows, status, ids, index, levels, places)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array_of(self, array), step, view_of(cells), rows, ids, index, levels, &
            places)
    end subroutine rows_5

    subroutine array_rows_5(array, step, cells, rows, status, ids, index, levels, places)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array, step, view_of(cells), rows, ids, index, levels, places)
    end subroutine array_rows_5

    subroutine rows_6(self, array, step, cells, rows, status, ids, index, levels, places)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :, :, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array_of(self, array), step, view_of(cells), rows, ids, index, levels, &
            places)
    end subroutine rows_6

    subroutine array_rows_6(array, step, cells, rows, status, ids, index, levels, places)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :, :, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array, step, view_of(cells), rows, ids, index, levels, places)
    end subroutine array_rows_6

    subroutine rows_7(self, array, step, cells, rows, status, ids, index, levels, places)
        type(bridge), intent(in) :: self
        character(*), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :, :, :, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array_of(self, array), step, view_of(cells), rows, ids, index, levels, &
            places)
    end subroutine rows_7

    subroutine array_rows_7(array, step, cells, rows, status, ids, index, levels, places)
        type(bridge_array), intent(in) :: array
        integer, intent(in) :: step, rows
        class(*), intent(in), target :: cells(:, :, :, :, :, :, :)
        integer, intent(out) :: status
        integer, intent(in), optional :: ids(:), index(:), levels(:), places(:, :)

        status = put_rows_view(array, step, view_of(cells), rows, ids, index, levels, places)
    end subroutine array_rows_7

    ! ---- Fortran's values as C's ---------------------------------------------------------------

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
