! Heat in a square plate on a 2-D grid of MPI ranks: heat2d.py in Fortran, bit for bit.
!
! dT/dt = D (d2T/dx2 + d2T/dy2) + S(x, y, t) on 1 m x 1 m, T in K above ambient, explicit finite
! differences on cell centres. The options are those of heat2d.py and are explained there. The
! bits agree because both take exp and sin from the C library and add in the same order; the
! compiler must not fuse or reorder (-ffp-contract=off, no -ffast-math). T(i, j) in Fortran is
! T[j, i] in Python and C: the same bytes in memory.
program heat2d
    use, intrinsic :: iso_fortran_env, only: dp => real64, error_unit, int64
    use, intrinsic :: ieee_arithmetic, only: ieee_is_nan, ieee_value, ieee_quiet_nan
    use mpi_f08
#ifdef WITH_BRIDGE
    use ips_bridge
#endif
    implicit none

    real(dp), parameter :: PI = 3.141592653589793_dp
    real(dp), parameter :: SPOT = 0.08_dp  ! m, radius of a heat source
    integer, parameter :: WEST = 1, EAST = 2, SOUTH = 3, NORTH = 4
    integer, parameter :: OPEN_IT = 1, PUT_IT = 2, CLOSE_IT = 3
    integer, parameter :: HEADER = 128  ! bytes before the data in a .npy file

    ! options
    integer :: nx = 64, ny = 64, first = 0, steps = 200, px = 0, py = 0, every = 1
    real(dp) :: dt = 0, diffusivity = 1.1e-4_dp, power = 1, period = -1, pace = 0
    real(dp) :: wall(4)  ! K; not a number if insulated
    logical :: no_coupling = .false.
    character(:), allocatable :: source, initial, posthoc, state

    ! this rank's block: w x h cells from (x0, y0) on, stored with a rim of one cell
    type(MPI_Comm) :: cart
    integer :: rank, ranks, x0, y0, w, h, below, above, left, right
    real(dp), allocatable :: x(:), y(:), T(:, :), new(:, :)

    real(dp) :: dx, dy, ax, ay
    integer(int64) :: start, now, rate
    integer :: step, npy
#ifdef WITH_BRIDGE
    type(bridge) :: coupled
#endif

    call MPI_Init()
    call MPI_Comm_rank(MPI_COMM_WORLD, rank)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks)
    wall = [2.0_dp, 0.0_dp, ieee_value(0.0_dp, ieee_quiet_nan), ieee_value(0.0_dp, ieee_quiet_nan)]
    source = 'eight,sweep,pulse'
    initial = 'zero'
    posthoc = ''
    state = ''
    call parse()

    dx = 1.0_dp / nx
    dy = 1.0_dp / ny
    ax = diffusivity * dt / (dx * dx)
    ay = diffusivity * dt / (dy * dy)
    call divide()
    allocate (T(0:w + 1, 0:h + 1), new(0:w + 1, 0:h + 1), source=0.0_dp)
    if (first > 0) then
        call read_state()
    else
        call initial_state()
    end if

    call couple(OPEN_IT, 0)
    if (posthoc /= '') call create(posthoc, published())
    call system_clock(start, rate)
    do step = first, steps - 1
        if (step > 0) then
            call advance()
            call heat((step - 1) * dt)
        end if
        if (mod(step, every) == 0) then
            call couple(PUT_IT, step)
            if (posthoc /= '') call write_field((step - first) / every)
        end if
        call rest()
    end do
    call system_clock(now)
    call couple(CLOSE_IT, steps)
    if (posthoc /= '') close (npy)
    if (state /= '') then
        call create(state, 1)
        call write_field(0)
        close (npy)
    end if
    if (rank == 0) print '(5(a,i0),3a,f0.3,a)', 'heat2d: ', steps - first, ' steps of ', nx, &
        ' x ', ny, ' cells on ', px, ' x ', py, ' ranks, dt = ', brief(dt), ' s, computed in ', &
        real(now - start, dp) / rate, ' s'
    call MPI_Finalize()

contains

    ! ---- Coupling: the only procedure that knows the bridge (-DWITH_BRIDGE) ------------------

#ifdef WITH_BRIDGE
    subroutine couple(moment, step)
        integer, intent(in) :: moment, step
        integer, allocatable :: blob(:)
        integer :: status, length

        if (no_coupling) return
        select case (moment)
        case (OPEN_IT)
            call bridge_open(coupled, rank, ranks, status)
            call check(status)
            call bridge_declare(coupled, 'temperature', 'f8', [nx, ny], status, first=first, &
                every=every, steps=published(), dims=['x', 'y'])
            call check(status)
            call bridge_attribute(coupled, 'temperature', 'units', 'K', status)
            call check(status)
            call bridge_attribute(coupled, 'temperature', 'long_name', &
                'temperature above ambient', status)
            call check(status)
            call bridge_block(coupled, 'temperature', 'f8', [x0, y0], [w, h], status, halo=[1, 1])
            call check(status)
            ! rank 0's blob goes to all, its error included: the join reports it
            if (rank == 0) then
                call bridge_request(coupled, blob, status)
                length = size(blob)
            end if
            call MPI_Bcast(length, 1, MPI_INTEGER, 0, MPI_COMM_WORLD)
            if (rank /= 0) allocate (blob(length))
            call MPI_Bcast(blob, length, MPI_INTEGER, 0, MPI_COMM_WORLD)
            call bridge_join(coupled, blob, status)
        case (PUT_IT)
            call bridge_put(coupled, 'temperature', step, T, status)
        case (CLOSE_IT)
            call bridge_close(coupled, status)
        end select
        call check(status)
        if (moment == CLOSE_IT) call bridge_free(coupled)
    end subroutine couple

    ! The other ranks would wait for ever for a rank that has ended alone.
    subroutine check(status)
        integer, intent(in) :: status

        if (status == BRIDGE_OK) return
        write (error_unit, '(a,i0,2a)') 'heat2d: rank ', rank, ': ', bridge_error(coupled)
        call MPI_Abort(MPI_COMM_WORLD, 1)
        error stop 1  ! MPI_Abort of MPICH 5 returns
    end subroutine check
#else
    subroutine couple(moment, step)
        integer, intent(in) :: moment, step

        if (no_coupling) return
        call fail('built without the bridge: add --no-coupling')
    end subroutine couple
#endif

    ! ---- Physics -----------------------------------------------------------------------------

    subroutine advance()
        integer :: i, j
        real(dp) :: along_x, along_y

        call fill_rim()
        do j = 1, h
            do i = 1, w
                along_x = (T(i - 1, j) - 2.0_dp * T(i, j)) + T(i + 1, j)
                along_y = (T(i, j - 1) - 2.0_dp * T(i, j)) + T(i, j + 1)
                new(i, j) = T(i, j) + (ax * along_x + ay * along_y)
            end do
        end do
        T(1:w, 1:h) = new(1:w, 1:h)
    end subroutine advance

    ! Exchange the rim with the four neighbours; at a wall, extrapolate it from the last cells.
    subroutine fill_rim()
        call shift(T(1:w, 1), below, T(1:w, h + 1), above, T(1:w, h), wall(NORTH))
        call shift(T(1:w, h), above, T(1:w, 0), below, T(1:w, 1), wall(SOUTH))
        call shift(T(1, 1:h), left, T(w + 1, 1:h), right, T(w, 1:h), wall(EAST))
        call shift(T(w, 1:h), right, T(0, 1:h), left, T(1, 1:h), wall(WEST))
    end subroutine fill_rim

    ! Send `cells` to `to` and fill `rim` with what `from` sends, or with the image of `edge`
    ! behind a wall: half a cell away, so that the mean of both is the wall's temperature.
    subroutine shift(cells, to, rim, from, edge, temperature)
        real(dp), intent(in) :: cells(:), edge(:), temperature
        real(dp), intent(inout) :: rim(:)
        integer, intent(in) :: to, from
        real(dp) :: outgoing(size(cells)), incoming(size(cells))

        outgoing = cells
        call MPI_Sendrecv(outgoing, size(cells), MPI_DOUBLE_PRECISION, to, 0, &
            incoming, size(cells), MPI_DOUBLE_PRECISION, from, 0, cart, MPI_STATUS_IGNORE)
        if (from /= MPI_PROC_NULL) then
            rim = incoming
        else if (ieee_is_nan(temperature)) then
            rim = edge
        else
            rim = 2.0_dp * temperature - edge
        end if
    end subroutine shift

    ! Add what the sources give between t and t + dt: pairs of a hot and a cold spot, and a pulse.
    subroutine heat(time)
        real(dp), intent(in) :: time
        real(dp) :: phase, a, b, c

        phase = 2.0_dp * PI * time / period
        a = 0.3_dp * sin(phase)
        b = 0.2_dp * sin(2.0_dp * phase)
        c = 0.3_dp * sin(3.0_dp * phase)
        call add_spot('eight', 1.0_dp, 0.5_dp + a, 0.5_dp + b)
        call add_spot('eight', -1.0_dp, 0.5_dp - a, 0.5_dp + b)
        call add_spot('sweep', 0.7_dp, 0.2_dp, 0.5_dp + c)
        call add_spot('sweep', -0.7_dp, 0.2_dp, 0.5_dp - c)
        call add_spot('pulse', sin(4.0_dp * phase), 0.75_dp, 0.75_dp)
    end subroutine heat

    subroutine add_spot(name, strength, x_spot, y_spot)
        character(*), intent(in) :: name
        real(dp), intent(in) :: strength, x_spot, y_spot
        real(dp) :: along_x(w), along_y(h)

        if (index(source, name) == 0) return
        along_x = gaussian(x, x_spot, SPOT)
        along_y = (dt * power * strength) * gaussian(y, y_spot, SPOT)
        call add_product(along_x, along_y)
    end subroutine add_spot

    subroutine initial_state()
        if (initial == 'gaussian') then
            call add_product(gaussian(x, 0.5_dp, 0.1_dp), gaussian(y, 0.5_dp, 0.1_dp))
        else if (initial == 'sine') then
            call add_product(sin(PI * x), sin(PI * y))
        end if
    end subroutine initial_state

    subroutine add_product(along_x, along_y)
        real(dp), intent(in) :: along_x(:), along_y(:)
        integer :: j

        do j = 1, h
            T(1:w, j) = T(1:w, j) + along_y(j) * along_x
        end do
    end subroutine add_product

    elemental real(dp) function gaussian(p, centre, width)
        real(dp), intent(in) :: p, centre, width

        gaussian = exp(-0.5_dp * (((p - centre) / width) * ((p - centre) / width)))
    end function gaussian

    ! Let the step last `pace` ms longer.
    subroutine rest()
        integer(int64) :: begun, passed

        call system_clock(begun)
        passed = begun
        do while ((passed - begun) * 1000.0_dp < pace * rate)
            call system_clock(passed)
        end do
    end subroutine rest

    ! ---- One .npy file of shape (time, y, x): every rank writes its rows where they belong ----

    ! What such a file begins with.
    function description(times) result(head)
        integer, intent(in) :: times
        character(HEADER) :: head

        write (head, '(a,i0,a,i0,a,i0,a)') char(147)//'NUMPY'//char(1)//char(0)//char(118)// &
            char(0)//"{'descr': '<f8', 'fortran_order': False, 'shape': (", &
            times, ', ', ny, ', ', nx, ')}'
        head(HEADER:) = new_line('a')
    end function description

    subroutine create(path, times)
        character(*), intent(in) :: path
        integer, intent(in) :: times
        integer :: status

        status = 0
        if (rank == 0) then
            open (newunit=npy, file=path, access='stream', status='replace', iostat=status)
            if (status == 0) then
                write (npy) description(times)
                close (npy)
            end if
        end if
        call MPI_Bcast(status, 1, MPI_INTEGER, 0, MPI_COMM_WORLD)
        if (status /= 0) call fail('cannot write '//path)
        open (newunit=npy, file=path, access='stream', status='old', action='readwrite')
    end subroutine create

    ! Where row j of this rank begins in the file.
    pure integer(int64) function place(time, j)
        integer, intent(in) :: time, j

        place = HEADER + 8 * ((int(time, int64) * ny + y0 + j - 1) * nx + x0) + 1
    end function place

    subroutine write_field(time)
        integer, intent(in) :: time
        integer :: j

        do j = 1, h
            write (npy, pos=place(time, j)) T(1:w, j)
        end do
        flush (npy)
    end subroutine write_field

    ! Go on from the field that an earlier run has left.
    subroutine read_state()
        character(HEADER) :: head
        integer :: status, j

        status = 0
        if (rank == 0) then
            open (newunit=npy, file=state, access='stream', status='old', action='read', &
                iostat=status)
            if (status == 0) then
                read (npy, iostat=status) head
                if (status == 0 .and. head /= description(1)) status = 1
                close (npy)
            end if
        end if
        call MPI_Bcast(status, 1, MPI_INTEGER, 0, MPI_COMM_WORLD)
        if (status /= 0) call fail('--first '//whole(first)//' needs the field of the step '// &
            'before, of '//whole(nx)//' x '//whole(ny)//' cells, in --state '//state)
        open (newunit=npy, file=state, access='stream', status='old', action='read', iostat=status)
        do j = 1, h
            if (status == 0) read (npy, pos=place(0, j), iostat=status) T(1:w, j)
        end do
        if (status /= 0) then
            write (error_unit, '(a,i0,a)') 'heat2d: rank ', rank, ': cannot read all of --state'
            call MPI_Abort(MPI_COMM_WORLD, 1)
            error stop 1  ! MPI_Abort of MPICH 5 returns
        end if
        close (npy)
        call MPI_Barrier(MPI_COMM_WORLD)  ! no rank writes it anew while another reads it
    end subroutine read_state

    ! ---- Command line and decomposition ------------------------------------------------------

    subroutine parse()
        character(:), allocatable :: name, value
        integer :: k, side
        logical :: dt_given
        real(dp) :: limit

        dt_given = .false.
        k = 1
        do while (k <= command_argument_count())
            name = argument(k)
            select case (name)
            case ('--nx'); nx = nint(number(k))
            case ('--ny'); ny = nint(number(k))
            case ('--steps'); steps = nint(number(k))
            case ('--first'); first = nint(number(k))
            case ('--px'); px = nint(number(k))
            case ('--py'); py = nint(number(k))
            case ('--every'); every = nint(number(k))
            case ('--diffusivity'); diffusivity = number(k)
            case ('--power'); power = number(k)
            case ('--period'); period = number(k)
            case ('--pace'); pace = number(k)
            case ('--source'); source = text(k)
            case ('--initial'); initial = text(k)
            case ('--posthoc'); posthoc = text(k)
            case ('--state'); state = text(k)
            case ('--no-coupling'); no_coupling = .true.
            case ('--dt')
                dt = number(k)
                dt_given = .true.
            case ('--boundary')
                do side = 1, 4
                    value = argument(k + 1)
                    wall(side) = ieee_value(0.0_dp, ieee_quiet_nan)
                    if (value == 'insulated') then
                        k = k + 1
                    else
                        wall(side) = number(k)
                    end if
                end do
            case default
                call fail('unknown option: '//name)
            end select
            k = k + 1
        end do

        if (min(nx, ny, steps, every) <= 0 .or. .not. diffusivity > 0) &
            call fail('--nx, --ny, --steps, --every and --diffusivity must be positive')
        if (first < 0 .or. first >= steps .or. mod(first, every) /= 0) &
            call fail('--first must be a published step below '//whole(steps)//', got '// &
            whole(first))
        if (first > 0 .and. state == '') call fail( &
            '--first '//whole(first)//' needs the field of the step before in --state')
        if (initial /= 'zero' .and. initial /= 'gaussian' .and. initial /= 'sine') &
            call fail('--initial takes zero, gaussian or sine, got '//initial)
        dx = 1.0_dp / nx
        dy = 1.0_dp / ny
        limit = 0.5_dp / (diffusivity * (1.0_dp / (dx * dx) + 1.0_dp / (dy * dy)))
        if (.not. dt_given) dt = 0.5_dp * limit
        if (.not. (dt > 0 .and. dt <= limit)) &
            call fail('--dt must be > 0 and <= '//brief(limit)//' s to be stable, got '//brief(dt))
        if (period < 0) period = steps * dt / 3.0_dp
        call choose_grid()
    end subroutine parse

    subroutine choose_grid()
        integer :: dims(2)

        if (px == 0 .and. py == 0) then
            dims = 0
            call MPI_Dims_create(ranks, 2, dims)
            py = dims(1)
            px = dims(2)
        else if (px == 0) then
            px = ranks / py
        else if (py == 0) then
            py = ranks / px
        end if
        if (px * py /= ranks .or. px < 1 .or. px > nx .or. py > ny) call fail( &
            '--px and --py must make the number of ranks, each with at least one cell')
    end subroutine choose_grid

    subroutine divide()
        integer :: coords(2), i

        call MPI_Cart_create(MPI_COMM_WORLD, 2, [py, px], [.false., .false.], .false., cart)
        call MPI_Cart_coords(cart, rank, 2, coords)
        call MPI_Cart_shift(cart, 0, 1, below, above)
        call MPI_Cart_shift(cart, 1, 1, left, right)
        y0 = part(ny, coords(1), py)
        x0 = part(nx, coords(2), px)
        h = part(ny, coords(1) + 1, py) - y0
        w = part(nx, coords(2) + 1, px) - x0
        x = [(((x0 + i) + 0.5_dp) * dx, i=0, w - 1)]
        y = [(((y0 + i) + 0.5_dp) * dy, i=0, h - 1)]
    end subroutine divide

    ! How many steps are published from step `first` on.
    pure integer function published()
        published = (steps - first + every - 1) / every
    end function published

    pure integer function part(n, k, parts)
        integer, intent(in) :: n, k, parts

        part = int(int(n, int64) * k / parts)
    end function part

    function argument(k) result(value)
        integer, intent(in) :: k
        character(:), allocatable :: value
        integer :: length

        call get_command_argument(k, length=length)
        allocate (character(length) :: value)
        if (length > 0) call get_command_argument(k, value)
    end function argument

    ! The value that follows argument k, and k advanced to it.
    function text(k) result(value)
        integer, intent(inout) :: k
        character(:), allocatable :: value

        if (k == command_argument_count()) call fail('value missing: '//argument(k))
        k = k + 1
        value = argument(k)
    end function text

    real(dp) function number(k)
        integer, intent(inout) :: k
        character(:), allocatable :: value
        integer :: status

        value = text(k)
        read (value, *, iostat=status) number
        if (status /= 0) call fail('not a number: '//value)
    end function number

    function brief(value) result(text)
        real(dp), intent(in) :: value
        character(:), allocatable :: text
        character(16) :: digits

        write (digits, '(g0.6)') value
        text = trim(digits)
    end function brief

    function whole(value) result(text)
        integer, intent(in) :: value
        character(:), allocatable :: text
        character(12) :: digits

        write (digits, '(i0)') value
        text = trim(digits)
    end function whole

    ! All ranks read the same options and fail alike; rank 0 speaks.
    subroutine fail(text)
        character(*), intent(in) :: text

        if (rank == 0) write (error_unit, '(2a)') 'heat2d: ', text
        call MPI_Finalize()
        stop 2, quiet=.true.
    end subroutine fail

end program heat2d
