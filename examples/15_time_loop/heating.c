/* A heating code: one step for each launch. It reads the temperature from the state, and writes the
 * power that it deposits, which falls where it is hot.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <ips_bridge_mpi.h>

enum { CELLS = 32 };
static ips_bridge *bridge;

static void check(int code)
{
    if (code) {
        fprintf(stderr, "heating: %s\n", ips_bridge_error(bridge));
        MPI_Abort(MPI_COMM_WORLD, 1);
        exit(1); /* MPI_Abort of MPICH 5 returns */
    }
}

int main(int argc, char **argv)
{
    int rank, size;
    double temperature[CELLS], power[CELLS], own[CELLS];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int count = CELLS / size, first = rank * count;

    FILE *state = fopen("temperature.txt", "r");
    for (int i = 0; i < CELLS; i++)
        if (!state || fscanf(state, "%lf", &temperature[i]) != 1) {
            MPI_Abort(MPI_COMM_WORLD, 2);
            exit(2);
        }
    fclose(state);
    for (int i = 0; i < count; i++) {
        double x = (first + i - 10.0) / 4.0;
        own[i] = exp(-x * x) / (1.0 + temperature[first + i]);
    }

    check(ips_bridge_open(&bridge, rank, size));
    check(ips_bridge_connect_mpi(bridge, MPI_COMM_WORLD, NULL));
    check(ips_bridge_put(bridge, "power", ips_bridge_first_step(bridge), own));
    check(ips_bridge_close(bridge, 0, NULL));
    ips_bridge_free(bridge);

    MPI_Gather(own, count, MPI_DOUBLE, power, count, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    if (rank == 0 && (state = fopen("power.txt", "w"))) {
        for (int i = 0; i < CELLS; i++)
            fprintf(state, "%.17g\n", power[i]);
        fclose(state);
    }
    MPI_Finalize();
    return 0;
}
