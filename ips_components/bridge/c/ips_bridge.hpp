// The bridge in C++17: ips_bridge.h with RAII, exceptions and cell types as templates. Header-only;
// link the C library. What each call does, who calls it and whether it waits is said in ips_bridge.h.
//
//     #include <mpi.h>
//     #include <ips_bridge.hpp>
//
//     ips::bridge bridge(MPI_COMM_WORLD);
//     auto temperature = bridge.declare<double>("temperature", {ny, nx})
//                            .steps(n_steps).dims("y,x").attribute("units", "K")
//                            .block({y0, x0}, {h, w}, {1, 1});
//     bridge.connect();
//     for (int step = 0; step < n_steps; step++) {
//         advance(cells);
//         temperature.put(step, cells);          // a pointer, a vector, a span, an mdspan, a View
//     }
//     bridge.close();
//
// Include <mpi.h> before this header for the constructor with a communicator. Errors are exceptions
// derived from ips::error, which is a std::runtime_error. The destructor closes a bridge that was not
// closed, as failed while an exception is under way; it cannot report errors, so call close().
#ifndef IPS_BRIDGE_HPP
#define IPS_BRIDGE_HPP

#include <complex>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ips_bridge.h"
#ifdef MPI_VERSION
#include "ips_bridge_mpi.h"
#endif

namespace ips {

// ---- Errors ---------------------------------------------------------------------------------------

class error : public std::runtime_error {
public:
    error(int code, const std::string &text) : std::runtime_error(text), code_(code) {}
    int code() const noexcept { return code_; } // enum ips_bridge_code

private:
    int code_;
};

// Something did not happen in time.
class deadline_exceeded : public error {
    using error::error;
};

// The analytics are gone, and the policy is to end with them; or a value will not come for that.
class analytics_lost : public error {
    using error::error;
};

// The analysis has what it wants: the value that was waited for will not come.
class run_stopped : public error {
    using error::error;
};

namespace detail {

[[noreturn]] inline void raise(int code, const char *text)
{
    std::string words = std::string("ips_bridge: ") + (text ? text : "");
    switch (code) {
    case IPS_BRIDGE_DEADLINE:
        throw deadline_exceeded(code, words);
    case IPS_BRIDGE_LOST:
        throw analytics_lost(code, words);
    case IPS_BRIDGE_STOPPED:
        throw run_stopped(code, words);
    default:
        throw error(code, words);
    }
}

inline void check(const ips_bridge *bridge, int code)
{
    if (code)
        raise(code, ips_bridge_error(bridge));
}

// A NumPy type name for a type of cells.
template <class T> std::string dtype()
{
    if constexpr (std::is_same_v<T, bool>)
        return "b1";
    else if constexpr (std::is_floating_point_v<T>)
        return "f" + std::to_string(sizeof(T));
    else if constexpr (std::is_enum_v<T>)
        return dtype<std::underlying_type_t<T>>();
    else if constexpr (std::is_integral_v<T>)
        return (std::is_signed_v<T> ? "i" : "u") + std::to_string(sizeof(T));
    else if constexpr (std::is_same_v<T, std::complex<float>> ||
                       std::is_same_v<T, std::complex<double>> ||
                       std::is_same_v<T, std::complex<long double>>)
        return "c" + std::to_string(sizeof(T));
    else if constexpr (std::is_trivially_copyable_v<T>)
        return "V" + std::to_string(sizeof(T)); // a structure: raw bytes
    else
        static_assert(std::is_trivially_copyable_v<T>, "cells are copied byte by byte");
}

// An array view with extents and strides: std::mdspan, Kokkos::View and their like.
template <class V, class = void> struct is_strided : std::false_type {};
template <class V>
struct is_strided<V, std::void_t<decltype(std::declval<const V &>().extent(0)),
                                 decltype(std::declval<const V &>().stride(0))>>
    : std::true_type {};

// Something with data() and size(): std::vector, std::array, std::span.
template <class V, class = void> struct is_contiguous : std::false_type {};
template <class V>
struct is_contiguous<V, std::void_t<decltype(std::declval<const V &>().data()),
                                    decltype(std::declval<const V &>().size())>>
    : std::bool_constant<!is_strided<V>::value> {};

template <class V, class = void> struct has_data_handle : std::false_type {};
template <class V>
struct has_data_handle<V, std::void_t<decltype(std::declval<const V &>().data_handle())>>
    : std::true_type {};

template <class V> const void *address(const V &view)
{
    if constexpr (has_data_handle<V>::value)
        return view.data_handle();
    else
        return view.data();
}

// rank is a member function of mdspan, and either a function or a constant elsewhere.
template <class V> constexpr std::size_t rank_of()
{
    if constexpr (std::is_invocable_v<decltype(&V::rank)>)
        return static_cast<std::size_t>(V::rank());
    else
        return static_cast<std::size_t>(V::rank);
}

struct state {
    ips_bridge *bridge = nullptr;
    bool connected = false, closed = false;
    int exceptions = std::uncaught_exceptions();
#ifdef MPI_VERSION
    MPI_Comm comm = MPI_COMM_NULL;
#endif

    state() = default;
    state(const state &) = delete;
    state &operator=(const state &) = delete;
    ~state() { ips_bridge_free(bridge); }
};

} // namespace detail

using index = std::vector<std::int64_t>; // one number per dimension of space

// The named arrays of one version, see bridge.receive_model; numbers are in one of the two vectors.
struct model {
    struct array {
        index shape;
        std::vector<double> doubles;
        std::vector<std::int64_t> integers;
    };

    std::int64_t version = -1;
    std::map<std::string, array> arrays;

    explicit model(const ips_bridge_model &from) : version(from.version)
    {
        for (int i = 0; i < from.n_arrays; i++) {
            const ips_bridge_value &value = from.arrays[i];
            array &one = arrays[from.names[i]];
            if (value.ndim > 0)
                one.shape.assign(value.shape, value.shape + value.ndim);
            if (value.kind == IPS_BRIDGE_DOUBLE && value.count > 0)
                one.doubles.assign(static_cast<const double *>(value.data),
                                   static_cast<const double *>(value.data) + value.count);
            if (value.kind == IPS_BRIDGE_INTEGER && value.count > 0)
                one.integers.assign(static_cast<const std::int64_t *>(value.data),
                                    static_cast<const std::int64_t *>(value.data) + value.count);
        }
    }
};

// ---- Arrays ---------------------------------------------------------------------------------------

// Memory inside the transport, to compute a block into; put by publish(), given back otherwise.
template <class T> class open_block {
public:
    open_block(open_block &&other) noexcept
        : state_(std::move(other.state_)), array_(other.array_),
          cells_(std::exchange(other.cells_, nullptr)), size_(other.size_)
    {
    }
    open_block(const open_block &) = delete;
    open_block &operator=(const open_block &) = delete;
    open_block &operator=(open_block &&) = delete;
    ~open_block()
    {
        if (cells_)
            (void)ips_bridge_array_discard(array_, cells_);
    }

    T *data() const noexcept { return cells_; } // C order, halo included
    std::size_t size() const noexcept { return size_; }
    T &operator[](std::size_t i) const { return cells_[i]; }
    T *begin() const noexcept { return cells_; }
    T *end() const noexcept { return cells_ + size_; }

    void publish()
    {
        if (!cells_)
            detail::raise(IPS_BRIDGE_USAGE, "a block is published once");
        detail::check(state_->bridge,
                      ips_bridge_array_publish(array_, std::exchange(cells_, nullptr)));
    }

private:
    template <class> friend class array;
    open_block(std::shared_ptr<detail::state> state, ips_bridge_array *array, void *cells,
               std::size_t size)
        : state_(std::move(state)), array_(array), cells_(static_cast<T *>(cells)), size_(size)
    {
    }

    std::shared_ptr<detail::state> state_;
    ips_bridge_array *array_;
    T *cells_;
    std::size_t size_;
};

// An array of cells of type T; made by bridge.declare<T>() or bridge.array<T>(). Described before
// bridge.connect(), put after it.
template <class T> class array {
    static_assert(std::is_trivially_copyable_v<T>, "cells are copied byte by byte");

public:
    // -- describing ----------------------------------------------------------------------------

    // Steps at which it is put: first, first + every, ...; count <= 0: not known.
    array &steps(std::int64_t count, std::int64_t first = 0, std::int64_t every = 1)
    {
        return check(ips_bridge_steps(state_->bridge, name_.c_str(), first, every, count));
    }

    // Names of the dimensions, separated by commas.
    array &dims(const std::string &names)
    {
        return check(ips_bridge_dims(state_->bridge, name_.c_str(), names.c_str()));
    }

    array &attribute(const std::string &name, const std::string &text)
    {
        return check(
            ips_bridge_attribute(state_->bridge, name_.c_str(), name.c_str(), text.c_str()));
    }

    // This rank's block: offset and extent without halo, ghost cells on both sides. Called again,
    // it adds another one.
    array &block(const index &offset, const index &count, const index &halo = {})
    {
        if (offset.size() != count.size() || (!halo.empty() && halo.size() != count.size()))
            detail::raise(IPS_BRIDGE_GEOMETRY,
                          ("array " + name_ + ": offset, count and halo have one number per "
                                              "dimension")
                              .c_str());
        if (!halo.empty())
            low_ = high_ = halo;
        check(ips_bridge_block(state_->bridge, name_.c_str(), detail::dtype<T>().c_str(),
                               static_cast<int>(count.size()), offset.data(), count.data(),
                               halo.empty() ? nullptr : halo.data()));
        count_ = count;
        blocks_++;
        return *this;
    }

    // Ghost cells below and above the blocks, where the two sides differ.
    array &halo(const index &low, const index &high)
    {
        if (low.size() != high.size())
            detail::raise(IPS_BRIDGE_GEOMETRY,
                          ("array " + name_ + ": a halo has two sides in each dimension").c_str());
        check(ips_bridge_halo(state_->bridge, name_.c_str(), static_cast<int>(low.size()),
                              low.data(), high.data()));
        low_ = low;
        high_ = high;
        return *this;
    }

    // Owners (IPS_BRIDGE_LOW, ...) of the planes of points that neighbouring blocks both have.
    array &shared(const std::vector<int> &owners)
    {
        return check(ips_bridge_shared(state_->bridge, name_.c_str(),
                                       static_cast<int>(owners.size()), owners.data()));
    }

    // The first dimension is indexed by ids: those of this rank's rows, or they come with each put.
    array &ids(const index &ids, int owner = IPS_BRIDGE_NOBODY)
    {
        static const std::int64_t none = 0;
        return check(ips_bridge_ids(state_->bridge, name_.c_str(), owner,
                                    static_cast<std::int64_t>(ids.size()),
                                    ids.empty() ? &none : ids.data()));
    }
    array &ids_with_puts(int owner = IPS_BRIDGE_NOBODY)
    {
        return check(ips_bridge_ids(state_->bridge, name_.c_str(), owner, 0, nullptr));
    }

    // The rows are blocks of an adaptive mesh, each with a level and a place.
    array &levels(int levels, int refinement = 2)
    {
        return check(ips_bridge_levels(state_->bridge, name_.c_str(), levels, refinement));
    }

    // -- putting -------------------------------------------------------------------------------

    // Whether the analysis wants something of this step.
    bool wants(std::int64_t step) const
    {
        return ips_bridge_array_wants(handle(), step) != 0;
    }

    // The only described block: C order, halo included.
    void put(std::int64_t step, const T *cells)
    {
        check(ips_bridge_array_put(handle(), step, cells));
    }

    // A container of all its cells: std::vector, std::array, std::span.
    template <class V, std::enable_if_t<detail::is_contiguous<V>::value, int> = 0>
    void put(std::int64_t step, const V &cells)
    {
        static_assert(std::is_same_v<std::decay_t<decltype(*cells.data())>, T>,
                      "the array has another type of cells");
        if (blocks_ == 1 && cells.size() != cells_in(count_))
            detail::raise(IPS_BRIDGE_GEOMETRY,
                          ("put of array " + name_ + " at step " + std::to_string(step) +
                           ": expected " + std::to_string(cells_in(count_)) + " cells, got " +
                           std::to_string(cells.size()))
                              .c_str());
        put(step, cells.data());
    }

    // A view with extents and strides, halo included: std::mdspan, a Kokkos::View of host memory.
    // offset: global index of the first cell without halo; empty: the described block.
    template <class V, std::enable_if_t<detail::is_strided<V>::value, int> = 0>
    void put(std::int64_t step, const V &view, const index &offset = {})
    {
#ifdef KOKKOS_VERSION
        if constexpr (Kokkos::is_view<V>::value)
            static_assert(
                Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename V::memory_space>::accessible,
                "copy the view to the host first: Kokkos::create_mirror_view_and_copy");
#endif
        static_assert(std::is_same_v<std::remove_const_t<typename V::value_type>, T>,
                      "the array has another type of cells");
        constexpr std::size_t rank = detail::rank_of<V>();
        index count(rank), strides(rank);
        for (std::size_t d = 0; d < rank; d++) {
            count[d] = static_cast<std::int64_t>(view.extent(d)) -
                       (d < low_.size() ? low_[d] + high_[d] : 0);
            strides[d] = static_cast<std::int64_t>(view.stride(d)) *
                         static_cast<std::int64_t>(sizeof(T));
        }
        if (offset.empty() && blocks_ == 1 && count != count_)
            detail::raise(IPS_BRIDGE_GEOMETRY,
                          ("put of array " + name_ + " at step " + std::to_string(step) +
                           ": the view has other extents than the block with its halo")
                              .c_str());
        check(ips_bridge_array_put_block(handle(), step, detail::address(view),
                                         offset.empty() ? nullptr : offset.data(),
                                         offset.empty() ? nullptr : count.data(),
                                         strides.data()));
    }

    // Any block. strides: bytes from cell to cell along each dimension; empty: C order.
    void put_block(std::int64_t step, const T *cells, const index &offset, const index &count,
                   const index &strides = {})
    {
        check(ips_bridge_array_put_block(handle(), step, cells, offset.data(), count.data(),
                                         strides.empty() ? nullptr : strides.data()));
    }

    // This rank's rows of a ragged array; every rank puts at every step, none (0) included.
    void put_rows(std::int64_t step, const T *cells, std::int64_t rows, const index &strides = {})
    {
        check(ips_bridge_array_put_rows(handle(), step, cells, rows,
                                        strides.empty() ? nullptr : strides.data()));
    }

    // Rows with these ids.
    void put_ids(std::int64_t step, const T *cells, const index &ids, const index &strides = {})
    {
        static const std::int64_t none = 0;
        check(ips_bridge_array_put_ids(handle(), step, cells, static_cast<std::int64_t>(ids.size()),
                                       ids.empty() ? &none : ids.data(),
                                       strides.empty() ? nullptr : strides.data()));
    }

    // Some rows, by their numbers from 0 on; packed only where the analysis wants the step.
    void put_rows(std::int64_t step, const T *cells, const index &numbers, const index &strides)
    {
        ips_bridge_rows part{};
        part.cells = cells;
        part.rows = static_cast<std::int64_t>(numbers.size());
        part.strides = strides.empty() ? nullptr : strides.data();
        part.index = numbers.data();
        put_parts(step, {part});
    }

    // The rows of several parts, in their order; ids of all of them together, if there are any.
    void put_parts(std::int64_t step, const std::vector<ips_bridge_rows> &parts,
                   const index &ids = {})
    {
        check(ips_bridge_array_put_parts_sized(handle(), step, parts.data(),
                                               static_cast<int>(parts.size()),
                                               ids.empty() ? nullptr : ids.data(),
                                               sizeof(ips_bridge_rows)));
    }

    // Blocks with the level of each, and the index of its first cell in cells of its own level.
    void put_blocks(std::int64_t step, const T *cells, const index &levels, const index &places,
                    const index &strides = {})
    {
        check(ips_bridge_array_put_blocks(handle(), step, cells,
                                          static_cast<std::int64_t>(levels.size()), levels.data(),
                                          places.data(), strides.empty() ? nullptr : strides.data()));
    }

    // Memory to compute the only described block into, halo included.
    open_block<T> acquire(std::int64_t step)
    {
        void *cells = nullptr;
        ips_bridge_array *array = handle();
        check(ips_bridge_array_acquire(array, step, nullptr, nullptr, &cells));
        return open_block<T>(state_, array, cells, cells_in(count_));
    }

    // Memory for any block; several may be open at once.
    open_block<T> acquire(std::int64_t step, const index &offset, const index &count)
    {
        void *cells = nullptr;
        ips_bridge_array *array = handle();
        check(ips_bridge_array_acquire(array, step, offset.data(), count.data(), &cells));
        return open_block<T>(state_, array, cells, cells_in(count));
    }

    const std::string &name() const noexcept { return name_; }

private:
    friend class bridge;
    array(std::shared_ptr<detail::state> state, std::string name)
        : state_(std::move(state)), name_(std::move(name))
    {
    }

    array &check(int code)
    {
        detail::check(state_->bridge, code);
        return *this;
    }

    ips_bridge_array *handle() const
    {
        if (!handle_) {
            handle_ = ips_bridge_find(state_->bridge, name_.c_str());
            if (!handle_)
                detail::raise(IPS_BRIDGE_USAGE, ips_bridge_error(state_->bridge));
        }
        return handle_;
    }

    std::size_t cells_in(const index &count) const
    {
        std::int64_t cells = 1;
        for (std::size_t d = 0; d < count.size(); d++)
            cells *= count[d] + (d < low_.size() ? low_[d] + high_[d] : 0);
        return static_cast<std::size_t>(cells);
    }

    std::shared_ptr<detail::state> state_;
    std::string name_;
    mutable ips_bridge_array *handle_ = nullptr;
    index count_, low_, high_;
    int blocks_ = 0;
};

// ---- The bridge -----------------------------------------------------------------------------------

struct account {
    struct numbers {
        std::uint64_t produced, skipped, delivered, dropped, lost;
    } blocks, bytes;
};

class bridge {
public:
    // For one of `size` ranks; a program without MPI broadcasts the blob of request() itself.
    bridge(int rank, int size) : state_(std::make_shared<detail::state>()) { open(rank, size); }
    bridge() : bridge(0, 1) {}

#ifdef MPI_VERSION
    explicit bridge(MPI_Comm comm) : state_(std::make_shared<detail::state>())
    {
        int rank = 0, size = 1;
        MPI_Comm_rank(comm, &rank);
        MPI_Comm_size(comm, &size);
        open(rank, size);
        state_->comm = comm;
    }
#endif

    bridge(bridge &&) noexcept = default;
    bridge &operator=(bridge &&) = delete;
    bridge(const bridge &) = delete;
    bridge &operator=(const bridge &) = delete;
    ~bridge()
    {
        if (!state_ || state_->closed || !state_->connected)
            return;
        bool failed = std::uncaught_exceptions() > state_->exceptions;
        (void)ips_bridge_close(state_->bridge, failed, failed ? "an exception was thrown" : nullptr);
        state_->closed = true;
    }

    // Describe an array, alike on every rank. shape[0] = -1: ragged.
    template <class T> array<T> declare(const std::string &name, const index &shape)
    {
        check(ips_bridge_declare(state_->bridge, name.c_str(), detail::dtype<T>().c_str(),
                                 static_cast<int>(shape.size()), shape.data()));
        return ips::array<T>(state_, name);
    }

    // An array that the workflow's configuration describes.
    template <class T> ips::array<T> array(const std::string &name)
    {
        return ips::array<T>(state_, name);
    }

    // Let the program run by itself where there is no contact file, see ips_bridge_set_alone. Before
    // connect() or request().
    bridge &may_be_alone(bool alone = true)
    {
        check(ips_bridge_set_alone(state_->bridge, alone));
        return *this;
    }
    bool is_alone() const noexcept { return ips_bridge_is_alone(state_->bridge) != 0; }

    // Find the run and agree on what is sent. Collective. contact: NULL: by the environment.
    void connect(const char *contact = nullptr)
    {
#ifdef MPI_VERSION
        if (state_->comm != MPI_COMM_NULL) {
            check(ips_bridge_connect_mpi(state_->bridge, state_->comm, contact));
            state_->connected = true;
            return;
        }
#endif
        if (size_ != 1)
            detail::raise(IPS_BRIDGE_USAGE, "several ranks connect by request() and join(), or "
                                            "give the bridge a communicator");
        (void)request(contact);
        join(blob_);
    }

    // Rank 0's part, and all ranks' part, for programs that broadcast by other means. The blob is to
    // be broadcast in any case: it carries the error to all ranks.
    const std::vector<unsigned char> &request(const char *contact = nullptr)
    {
        const void *blob = nullptr;
        std::size_t length = 0;
        (void)ips_bridge_request(state_->bridge, contact, &blob, &length);
        const unsigned char *bytes = static_cast<const unsigned char *>(blob);
        blob_.assign(bytes, bytes + length);
        return blob_;
    }
    void join(const std::vector<unsigned char> &blob)
    {
        check(ips_bridge_join(state_->bridge, blob.data(), blob.size()));
        state_->connected = true;
    }

    void step_end(std::int64_t step) { check(ips_bridge_step_end(state_->bridge, step)); }
    // Physical time of a step, which becomes the coordinate of results.
    void step_time(std::int64_t step, double time)
    {
        check(ips_bridge_step_time(state_->bridge, step, time));
    }
    void progress() { check(ips_bridge_progress(state_->bridge)); }
    /* Step at which this launch of the program goes on; 0 in the first one. */
    std::int64_t first_step() const { return ips_bridge_first_step(state_->bridge); }

    void rewind(std::int64_t step) { check(ips_bridge_rewind(state_->bridge, step)); }

    // Wait until receivers have taken all that was put; false when they have not in time.
    bool wait(double seconds = -1)
    {
        int code = ips_bridge_wait(state_->bridge, seconds);
        if (code != IPS_BRIDGE_INCOMPLETE)
            check(code);
        return code == IPS_BRIDGE_OK;
    }

    // Numbers that the analysis sent for exactly this step, or with seconds = 0 the latest ones for it
    // or an earlier step; nothing when there are none. With a communicator: collective, the same on
    // all ranks. Else rank 0 only.
    std::optional<std::vector<double>> receive(const std::string &name, std::int64_t step,
                                               double seconds = -1)
    {
        std::vector<double> numbers;
        int code = IPS_BRIDGE_OK;
        if (rank_ == 0 || !has_comm())
            code = receive_here(name, step, seconds, numbers);
#ifdef MPI_VERSION
        if (has_comm()) {
            long long answer[2] = {code, static_cast<long long>(numbers.size())};
            MPI_Bcast(answer, 2, MPI_LONG_LONG, 0, state_->comm);
            code = static_cast<int>(answer[0]);
            numbers.resize(static_cast<std::size_t>(answer[1]));
            if (code == IPS_BRIDGE_OK)
                MPI_Bcast(numbers.data(), static_cast<int>(answer[1]), MPI_DOUBLE, 0, state_->comm);
            else if (rank_ != 0 && code != IPS_BRIDGE_NOTHING)
                (void)ips_bridge_set_error(state_->bridge, code, "see the error of rank 0");
        }
#endif
        if (code == IPS_BRIDGE_NOTHING)
            return std::nullopt;
        check(code);
        return numbers;
    }

    // The latest version of a model that the analysis sent, nothing where there is none above
    // `newer_than`. seconds: to wait for the first version; < 0: the run's deadline for a step.
    // With a communicator: collective, the same on all ranks. Else rank 0 only.
    std::optional<model> receive_model(const std::string &name, std::int64_t newer_than = -1,
                                       double seconds = 0)
    {
        ips_bridge_model found{};
        int code;
#ifdef MPI_VERSION
        if (has_comm())
            code = ips_bridge_receive_model_mpi(state_->bridge, state_->comm, name.c_str(), newer_than,
                                                seconds, &found);
        else
#endif
            code = ips_bridge_receive_model(state_->bridge, name.c_str(), newer_than, seconds, &found);
        if (code == IPS_BRIDGE_NOTHING)
            return std::nullopt;
        check(code);
        return model(found);
    }

    // Whether the analysis has what it wants. With a communicator: collective.
    bool should_stop()
    {
        int stop = 0;
#ifdef MPI_VERSION
        if (has_comm()) {
            check(ips_bridge_should_stop_mpi(state_->bridge, state_->comm, &stop));
            return stop != 0;
        }
#endif
        check(ips_bridge_should_stop(state_->bridge, &stop));
        return stop != 0;
    }

    // Send what is left and end. Collective.
    void close() { close(false, nullptr); }
    // The same for a simulation that failed.
    void abort(const std::string &reason) { close(true, reason.c_str()); }

    ips::account account(const std::string &array) const
    {
        ips_bridge_account found;
        check(ips_bridge_statistics(state_->bridge, array.c_str(), &found));
        const std::uint64_t *a = found.blocks, *b = found.bytes;
        return {{a[0], a[1], a[2], a[3], a[4]}, {b[0], b[1], b[2], b[3], b[4]}};
    }

    double waited() const { return ips_bridge_waited(state_->bridge); } // s

    // Why nothing is sent any more; empty while the analytics are there.
    std::string lost() const
    {
        const char *why = ips_bridge_lost(state_->bridge);
        return why ? why : "";
    }

    std::pair<int, int> lanes() const // receivers reached by shared memory, and by TCP
    {
        int shm = 0, tcp = 0;
        check(ips_bridge_lanes(state_->bridge, &shm, &tcp));
        return {shm, tcp};
    }

    int rank() const noexcept { return rank_; }
    int size() const noexcept { return size_; }
    ips_bridge *get() const noexcept { return state_->bridge; } // for calls of ips_bridge.h

private:
    void open(int rank, int size)
    {
        rank_ = rank;
        size_ = size;
        int code = ips_bridge_open(&state_->bridge, rank, size);
        if (code)
            detail::raise(code, ips_bridge_code_text(code));
    }

    void check(int code) const { detail::check(state_->bridge, code); }

    void close(bool aborted, const char *reason)
    {
        state_->closed = true;
        check(ips_bridge_close(state_->bridge, aborted, reason));
    }

    bool has_comm() const noexcept
    {
#ifdef MPI_VERSION
        return state_->comm != MPI_COMM_NULL;
#else
        return false;
#endif
    }

    int receive_here(const std::string &name, std::int64_t step, double seconds,
                     std::vector<double> &numbers)
    {
        ips_bridge_value value;
        int code = ips_bridge_receive(state_->bridge, name.c_str(), step, seconds, &value);
        if (code)
            return code;
        if (value.kind > IPS_BRIDGE_INTEGER)
            return ips_bridge_set_error(state_->bridge, IPS_BRIDGE_USAGE,
                                        ("value " + name + " is a text").c_str());
        numbers.resize(value.count);
        for (std::size_t i = 0; i < value.count; i++)
            numbers[i] = value.kind == IPS_BRIDGE_DOUBLE
                             ? static_cast<const double *>(value.data)[i]
                             : static_cast<double>(static_cast<const std::int64_t *>(value.data)[i]);
        return IPS_BRIDGE_OK;
    }

    std::shared_ptr<detail::state> state_;
    std::vector<unsigned char> blob_;
    int rank_ = 0, size_ = 1;
};

} // namespace ips
#endif
