// A wave that travels around a ring, each MPI rank with a part of it.
//
// By itself: mpiexec -n 2 ./simulation 50
#include <mpi.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <vector>

#include <ips_bridge.hpp>

static void simulate(int steps)
{
    const double pi = 3.141592653589793;
    const long cells = 1000;
    int rank = 0, size = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const long first = cells * rank / size, mine = cells * (rank + 1) / size - first;
    std::vector<double> wave(static_cast<std::size_t>(mine));

    ips::bridge bridge(MPI_COMM_WORLD);
    bridge.may_be_alone(); // without ips.py it runs, and sends nothing
    auto height = bridge.declare<double>("height", {cells});
    height.steps(steps).dims("x").block({first}, {mine});
    height.attribute("units", "m").attribute("long_name", "height of the wave");
    bridge.connect();
    for (int step = 0; step < steps; step++) {
        for (long i = 0; i < mine; i++) {
            const double x = static_cast<double>(first + i) / cells;
            wave[static_cast<std::size_t>(i)] = std::sin(2 * pi * (x - 0.01 * step)) +
                                                0.2 * std::sin(6 * pi * (x + 0.02 * step));
        }
        height.put(step, wave);
    }
    bridge.close();
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    try {
        simulate(argc > 1 ? std::atoi(argv[1]) : 50);
    } catch (const std::exception &error) {
        std::cerr << "simulation: " << error.what() << std::endl;
        MPI_Abort(MPI_COMM_WORLD, 1); // the other ranks may wait for this one
        return 1;                     // MPI_Abort of MPICH 5 returns
    }
    MPI_Finalize();
    return 0;
}
