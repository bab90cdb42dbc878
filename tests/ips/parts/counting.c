/* The counting code in C: counting NAME CELLS STEPS; it never says how many steps there will be. */
#include <stdio.h>
#include <stdlib.h>

#include <ips_bridge_mpi.h>

static ips_bridge *bridge;

static void check(int code)
{
    if (code) {
        fprintf(stderr, "counting: %s\n", ips_bridge_error(bridge));
        MPI_Abort(MPI_COMM_WORLD, 1);
        exit(1); /* MPI_Abort of MPICH 5 returns */
    }
}

int main(int argc, char **argv)
{
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (argc < 4) {
        MPI_Abort(MPI_COMM_WORLD, 2);
        exit(2);
    }
    int64_t cells = atoi(argv[2]), steps = atoi(argv[3]);
    int64_t offset = cells * rank / size, count = cells * (rank + 1) / size - offset;
    double *mine = malloc(sizeof *mine * (size_t)count);

    check(ips_bridge_open(&bridge, rank, size));
    check(ips_bridge_declare(bridge, argv[1], "f8", 1, &cells));
    check(ips_bridge_block(bridge, argv[1], "f8", 1, &offset, &count, (int64_t[]){0}));
    check(ips_bridge_connect_mpi(bridge, MPI_COMM_WORLD, NULL));
    int64_t first = ips_bridge_first_step(bridge);
    for (int64_t step = first; step < first + steps; step++) {
        for (int64_t i = 0; i < count; i++)
            mine[i] = 100.0 * (double)step + (double)(offset + i);
        check(ips_bridge_put(bridge, argv[1], step, mine));
    }
    check(ips_bridge_close(bridge, 0, NULL));
    ips_bridge_free(bridge);
    free(mine);
    MPI_Finalize();
    return 0;
}
