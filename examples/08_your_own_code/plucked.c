/* A plucked string, in C: MPI ranks hold parts of it. Compare plucked.py.
 *
 *     make && mpiexec -n 2 build/plucked_c 50
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <ips_bridge_mpi.h>

enum { POINTS = 61, MODES = 8 };
static const double DT = 0.02, PI = 3.14159265358979323846;
static ips_bridge *bridge;

static void check(int code)
{
    if (code) {
        fprintf(stderr, "plucked: %s\n", ips_bridge_error(bridge));
        MPI_Abort(MPI_COMM_WORLD, 1);
        exit(1); /* MPI_Abort of MPICH 5 returns */
    }
}

static double displacement(double x, double t)
{
    double u = 0.0;
    for (int n = 1; n < 2 * MODES; n += 2)
        u += (n / 2 % 2 ? -1.0 : 1.0) / (n * n) * sin(n * PI * x) * cos(n * PI * t);
    return u;
}

int main(int argc, char **argv)
{
    int rank, size;
    int64_t steps = argc > 1 ? atoll(argv[1]) : 1;
    double u[POINTS];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int64_t first = POINTS * rank / size, count = POINTS * (rank + 1) / size - first;

    check(ips_bridge_open(&bridge, rank, size));
    check(ips_bridge_declare(bridge, "displacement", "f8", 1, (int64_t[]){POINTS}));
    check(ips_bridge_steps(bridge, "displacement", 0, 1, steps));
    check(ips_bridge_dims(bridge, "displacement", "x"));
    check(ips_bridge_block(bridge, "displacement", "f8", 1, &first, &count, NULL));
    check(ips_bridge_connect_mpi(bridge, MPI_COMM_WORLD, NULL));
    for (int64_t step = 0; step < steps; step++) {
        for (int64_t i = 0; i < count; i++)
            u[i] = displacement((double)(first + i) / (POINTS - 1), (double)step * DT);
        check(ips_bridge_put(bridge, "displacement", step, u));
    }
    check(ips_bridge_close(bridge, 0, NULL));
    ips_bridge_free(bridge);
    MPI_Finalize();
    return 0;
}
