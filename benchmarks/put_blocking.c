/* A rank of put_blocking.py in C: puts the same block at every step and prints how long each put
 * held it.
 *
 *     put_blocking CONTACT BLOB RANK RANKS BYTES STEPS WARM PACE_NS IN_PLACE
 *
 * Rank 0 writes the blob of its request to a file; the others are started when it is there. After
 * the warm steps a rank says "ready" and waits for a line. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ips_bridge.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(ips_bridge *bridge, int code)
{
    if (!code)
        return;
    fprintf(stderr, "%s\n", ips_bridge_error(bridge));
    exit(1);
}

static void pass_on(ips_bridge *bridge, const char *contact, const char *path)
{
    const void *blob;
    size_t length;
    check(bridge, ips_bridge_request(bridge, contact, &blob, &length));
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(blob, 1, length, file) != length || fclose(file)) {
        perror(path);
        exit(1);
    }
    puts("asked");
    fflush(stdout);
}

static void join(ips_bridge *bridge, const char *path)
{
    static unsigned char blob[1 << 20];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    size_t length = fread(blob, 1, sizeof blob, file);
    fclose(file);
    check(bridge, ips_bridge_join(bridge, blob, length));
}

static double put_once(ips_bridge *bridge, long step, const double *cells, int in_place)
{
    void *out;
    double begin = now();
    if (!in_place) {
        check(bridge, ips_bridge_put(bridge, "t", step, cells));
        return now() - begin;
    }
    check(bridge, ips_bridge_acquire(bridge, "t", step, &out));
    double entered = now() - begin;
    begin = now(); /* here a program computes into `out` */
    check(bridge, ips_bridge_publish(bridge, "t"));
    return entered + now() - begin;
}

int main(int argc, char **argv)
{
    if (argc != 10)
        return 2;
    int rank = atoi(argv[3]), ranks = atoi(argv[4]), in_place = atoi(argv[9]);
    long bytes = atol(argv[5]), steps = atol(argv[6]), warm = atol(argv[7]), pace = atol(argv[8]);
    int64_t rows = 64, columns = bytes / 512;
    int64_t shape[2] = {rows * ranks, columns}, offset[2] = {rows * rank, 0};
    int64_t count[2] = {rows, columns};
    double *cells = malloc((size_t)bytes), *took = malloc(sizeof *took * (size_t)steps);
    ips_bridge *bridge;
    char line[8];
    if (!cells || !took || ips_bridge_open(&bridge, rank, ranks))
        return 1;
    for (long i = 0; i < bytes / 8; i++)
        cells[i] = (double)i;
    check(bridge, ips_bridge_declare(bridge, "t", "f8", 2, shape));
    check(bridge, ips_bridge_block(bridge, "t", "f8", 2, offset, count, NULL));
    if (rank == 0)
        pass_on(bridge, argv[1], argv[2]);
    join(bridge, argv[2]);
    for (long i = 0; i < warm; i++)
        check(bridge, ips_bridge_put(bridge, "t", i, cells));
    check(bridge, ips_bridge_wait(bridge, -1));
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    double start = now();
    for (long i = 0; i < steps; i++) {
        took[i] = put_once(bridge, warm + i, cells, in_place);
        if (pace) /* the computation of the next step */
            nanosleep(&(struct timespec){pace / 1000000000, pace % 1000000000}, NULL);
    }
    check(bridge, ips_bridge_wait(bridge, -1));
    printf("[[%.9f", took[0]);
    for (long i = 1; i < steps; i++)
        printf(", %.9f", took[i]);
    printf("], %.9f]\n", now() - start);
    fflush(stdout);
    check(bridge, ips_bridge_close(bridge, 0, NULL));
    ips_bridge_free(bridge);
    free(cells);
    free(took);
    return 0;
}
