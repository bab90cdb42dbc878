// A program that knows ADIOS2 only: every form of variable, two IOs, with steps and without.
//
//     adios2_writer CONFIG OUTPUT RANK SIZE STEPS [what to do wrongly]
//
// With ADIOS2_USE_MPI defined, rank and size are those of MPI_COMM_WORLD in reverse order: the
// engine's communicator is then not what the launcher says.
#include <complex>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#if ADIOS2_USE_MPI
#include <mpi.h>
#endif
#include <adios2.h>

using dims = adios2::Dims;

template <class T>
static adios2::Variable<T> line(adios2::IO &io, const std::string &name, std::size_t rank,
                                std::size_t size)
{
    return io.DefineVariable<T>(name, {2 * size}, {2 * rank}, {2}, adios2::ConstantDims);
}

template <class T>
static void put_line(adios2::Engine &engine, adios2::Variable<T> variable, int step, int rank)
{
    T two[2] = {T(step + 2 * rank), T(step + 2 * rank + 1)};
    engine.Put(variable, two, adios2::Mode::Sync);
    two[0] = two[1] = T();
}

static int run(const std::vector<std::string> &words)
{
    const std::string output = words[2], wrong = words.size() > 6 ? words[6] : "";
    const int steps = std::stoi(words[5]);
#if ADIOS2_USE_MPI
    int rank, ranks;
    MPI_Comm turned;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, 0, -rank, &turned);
    MPI_Comm_rank(turned, &rank);
    MPI_Comm_size(turned, &ranks);
    const std::size_t size = static_cast<std::size_t>(ranks);
    adios2::ADIOS adios(words[1], turned);
#else
    const int rank = std::stoi(words[3]);
    const std::size_t size = std::stoul(words[4]);
    adios2::ADIOS adios(words[1]);
#endif
    const std::size_t r = static_cast<std::size_t>(rank);
    adios2::IO io = adios.DeclareIO("fields"), other = adios.DeclareIO("diagnostics");
    auto t = io.DefineVariable<double>("T", {4 * size, 6}, {4 * r, 0}, {4, 6});
    auto ghost = io.DefineVariable<float>("ghost", {3 * size, 5}, {3 * r, 0}, {3, 5});
    ghost.SetMemorySelection({{1, 2}, {5, 9}});
    auto two = io.DefineVariable<std::int32_t>("two", {2 * size, 4});
    auto time = io.DefineVariable<double>("time");
    auto mine = io.DefineVariable<std::int32_t>("mine", {adios2::LocalValueDim});
    auto rows = io.DefineVariable<double>("rows", {}, {}, {1, 2});
    auto joined = io.DefineVariable<float>("joined", {adios2::JoinedDim, 2}, {}, {1, 2});
    auto particles = io.DefineVariable<double>("particles", {1}, {0}, {1});
    auto label = io.DefineVariable<std::string>("label");
    auto once = io.DefineVariable<std::int64_t>("once", {size}, {r}, {1});
    auto odd = io.DefineVariable<double>("/group/odd name", {size}, {r}, {1});
    auto i1 = line<std::int8_t>(io, "i1", r, size);
    auto i2 = line<std::int16_t>(io, "i2", r, size);
    auto u1 = line<std::uint8_t>(io, "u1", r, size);
    auto u2 = line<std::uint16_t>(io, "u2", r, size);
    auto u4 = line<std::uint32_t>(io, "u4", r, size);
    auto u8 = line<std::uint64_t>(io, "u8", r, size);
    auto c = line<char>(io, "c", r, size);
    auto f16 = line<long double>(io, "f16", r, size);
    auto c8 = line<std::complex<float>>(io, "c8", r, size);
    auto c16 = line<std::complex<double>>(io, "c16", r, size);
    io.DefineAttribute<std::string>("units", "K", "T");
    io.DefineAttribute<double>("dx", 0.5, "T");
    const std::int32_t grid[] = {4, 6};
    io.DefineAttribute<std::int32_t>("grid", grid, 2, "T");
    io.DefineAttribute<std::string>("code", "writer");
    auto energy = other.DefineVariable<double>("energy");
    auto second = other.DefineVariable<double>(wrong == "clash" ? "T" : "second", {size}, {r}, {1});

    adios2::Engine engine = io.Open(output, adios2::Mode::Write);
    adios2::Engine also = other.Open(output + ".diagnostics", adios2::Mode::Write);
    for (int step = 0; step < steps; step++) {
        std::vector<double> cells(24);
        std::vector<float> with_ghosts(45, -1);
        for (std::size_t i = 0; i < 4; i++)
            for (std::size_t j = 0; j < 6; j++)
                cells[6 * i + j] = 1000.0 * step + 10.0 * static_cast<double>(4 * r + i) +
                                   static_cast<double>(j);
        for (std::size_t i = 0; i < 3; i++)
            for (std::size_t j = 0; j < 5; j++)
                with_ghosts[9 * (i + 1) + j + 2] =
                    static_cast<float>(100 * step) + static_cast<float>(10 * (3 * r + i) + j);
        engine.BeginStep();
        if (wrong == "shape" && step == 1)
            t.SetShape({4 * size + 1, 6});
        if (wrong == "span") {
            auto span = engine.Put(t);
            std::copy(cells.begin(), cells.end(), span.begin());
        } else {
            engine.Put(t, cells.data());
        }
        engine.Put(ghost, with_ghosts.data(), adios2::Mode::Sync);
        with_ghosts.assign(45, -2);
        std::vector<std::int32_t> row(4);
        for (std::size_t k = 0; k < 2; k++) {
            row.assign(4, 10 * step + static_cast<int>(2 * r + k));
            two.SetSelection({{2 * r + k, 0}, {1, 4}});
            engine.Put(two, row.data());
            engine.PerformPuts(); // the row is free again
        }
        engine.Put(time, 0.25 * step);
        engine.Put(mine, 10 * rank + step);
        const std::size_t n = 1 + (r + static_cast<std::size_t>(step)) % 3;
        std::vector<double> some(2 * n, 10.0 * rank + step);
        rows.SetSelection({{}, {n, 2}});
        if (rank || step != 1) // a rank without rows puts none
            engine.Put(rows, some.data());
        std::vector<float> joint(2 * n, static_cast<float>(rank + 10 * step));
        joined.SetSelection({{}, {n, 2}});
        engine.Put(joined, joint.data(), adios2::Mode::Sync);
        joint.assign(2 * n, -1);
        std::size_t before = 0, all = 0;
        for (std::size_t k = 0; k < size; k++) {
            const std::size_t m = 1 + (k + static_cast<std::size_t>(step)) % 3;
            before += k < r ? m : 0;
            all += m;
        }
        particles.SetShape({all});
        particles.SetSelection({{before}, {n}});
        std::vector<double> points(n);
        for (std::size_t k = 0; k < n; k++)
            points[k] = 100.0 * step + static_cast<double>(before + k);
        engine.Put(particles, points.data());
        engine.Put(label, std::string("step ") + std::to_string(step));
        const std::int64_t number = 7 + rank;
        if (step == 0)
            engine.Put(once, number);
        engine.Put(odd, rank + 0.5);
        put_line(engine, i1, step, rank);
        put_line(engine, i2, step, rank);
        put_line(engine, u1, step, rank);
        put_line(engine, u2, step, rank);
        put_line(engine, u4, step, rank);
        put_line(engine, u8, step, rank);
        put_line(engine, c, step, rank);
        put_line(engine, f16, step, rank);
        put_line(engine, c8, step, rank);
        put_line(engine, c16, step, rank);
        engine.EndStep();
        also.BeginStep();
        const double value = rank + 0.5 * step;
        also.Put(energy, 3.0 * step);
        also.Put(second, value);
        also.EndStep();
    }
    if (wrong == "not closed")
        return 0;
    engine.Close();
    also.Close();
    return 0;
}

int main(int argc, char **argv)
{
    int status = 1;
#if ADIOS2_USE_MPI
    MPI_Init(&argc, &argv);
#endif
    try {
        status = run({argv, argv + argc});
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
    }
#if ADIOS2_USE_MPI
    MPI_Finalize();
#endif
    return status;
}
