// Waves on a membrane, written with ADIOS2: MPI ranks hold rows of it. Compare waves.py.
//
//     make && mpiexec -n 4 build/waves bp5.xml waves.bp 40
//
// The program knows ADIOS2 only. What becomes of its output is said in the XML file.
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include <adios2.h>
#include <mpi.h>

int main(int argc, char **argv)
{
    const std::size_t ny = 48, nx = 32;
    const double dt = 0.05, pi = std::acos(-1.0);
    const double modes[][3] = {{1, 1, 1.0}, {2, 1, 0.5}, {2, 3, 0.25}};
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (argc < 4)
        return 2;
    const std::size_t first = ny * std::size_t(rank) / std::size_t(size);
    const std::size_t rows = ny * std::size_t(rank + 1) / std::size_t(size) - first;
    {
        adios2::ADIOS adios(argv[1]);
        adios2::IO io = adios.DeclareIO("waves");
        auto time = io.DefineVariable<double>("time");
        auto height = io.DefineVariable<double>("height", {ny, nx}, {first, 0}, {rows, nx});
        auto speed = io.DefineVariable<float>("speed", {ny, nx}, {first, 0}, {rows, nx});
        io.DefineAttribute<std::string>("units", "mm", "height");
        // The ADIOS2 of PyPI has no MPI: each rank writes a file of its own.
        adios2::Engine engine =
            io.Open(std::string(argv[2]) + "." + std::to_string(rank), adios2::Mode::Write);
        for (int step = 0; step < std::atoi(argv[3]); step++) {
            const double t = step * dt;
            std::vector<double> u(rows * nx);
            std::vector<float> v(rows * nx);
            for (std::size_t j = 0; j < rows; j++)
                for (std::size_t i = 0; i < nx; i++) {
                    const double y = (double(first + j) + 0.5) / double(ny);
                    const double x = (double(i) + 0.5) / double(nx);
                    double value = 0, rate = 0;
                    for (const auto &[m, n, amplitude] : modes) {
                        const double omega = pi * std::hypot(m, n);
                        const double shape = amplitude * std::sin(m * pi * y) * std::sin(n * pi * x);
                        value += shape * std::cos(omega * t);
                        rate -= shape * omega * std::sin(omega * t);
                    }
                    u[j * nx + i] = value;
                    v[j * nx + i] = float(rate);
                }
            engine.BeginStep();
            engine.Put(time, t);
            engine.Put(height, u.data());
            engine.Put(speed, v.data());
            engine.EndStep();
        }
        engine.Close();
    }
    MPI_Finalize();
    return 0;
}
