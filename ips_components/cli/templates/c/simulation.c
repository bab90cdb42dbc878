/* A wave that travels around a ring, each MPI rank with a part of it.
 *
 * By itself: mpiexec -n 2 ./simulation 50 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include <ips_bridge.h>
#include <ips_bridge_mpi.h>

/* Every call of the bridge returns a code; end all ranks when one is not 0. */
static void check(ips_bridge *bridge, int code)
{
    if (code == IPS_BRIDGE_OK)
        return;
    fprintf(stderr, "simulation: %s\n", ips_bridge_error(bridge));
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1); /* MPI_Abort of MPICH 5 returns */
}

int main(int argc, char **argv)
{
    const double pi = 3.141592653589793;
    const int64_t cells = 1000;
    int rank, size, steps = argc > 1 ? atoi(argv[1]) : 50;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int64_t first = cells * rank / size, mine = cells * (rank + 1) / size - first;
    double *wave = malloc(sizeof *wave * (size_t)(mine + 1));
    if (!wave) {
        MPI_Abort(MPI_COMM_WORLD, 1);
        exit(1);
    }

    ips_bridge *bridge;
    check(NULL, ips_bridge_open(&bridge, rank, size));
    check(bridge, ips_bridge_set_alone(bridge, 1)); /* without ips.py it runs, and sends nothing */
    check(bridge, ips_bridge_declare(bridge, "height", "f8", 1, &cells));
    check(bridge, ips_bridge_steps(bridge, "height", 0, 1, steps));
    check(bridge, ips_bridge_dims(bridge, "height", "x"));
    check(bridge, ips_bridge_attribute(bridge, "height", "units", "m"));
    check(bridge, ips_bridge_attribute(bridge, "height", "long_name", "height of the wave"));
    check(bridge, ips_bridge_block(bridge, "height", "f8", 1, &first, &mine, NULL));
    check(bridge, ips_bridge_connect_mpi(bridge, MPI_COMM_WORLD, NULL));
    for (int step = 0; step < steps; step++) {
        for (int64_t i = 0; i < mine; i++) {
            double x = (double)(first + i) / (double)cells;
            wave[i] = sin(2 * pi * (x - 0.01 * step)) + 0.2 * sin(6 * pi * (x + 0.02 * step));
        }
        check(bridge, ips_bridge_put(bridge, "height", step, wave));
    }
    check(bridge, ips_bridge_close(bridge, 0, NULL));
    ips_bridge_free(bridge);
    free(wave);
    MPI_Finalize();
    return 0;
}
