/* What a program with MPI would write around ips_bridge_request and ips_bridge_join: a few small
 * collective functions over a communicator. The library itself does not know MPI. */
#ifndef IPS_BRIDGE_MPI_H
#define IPS_BRIDGE_MPI_H

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "ips_bridge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tell rank 0 where all ranks are. Collective; part of ips_bridge_connect_mpi. */
static inline void ips_bridge_ranks_mpi(ips_bridge *bridge, MPI_Comm comm)
{
    const char *text = "";
    char *own, *all = NULL;
    int rank, size, length, *lengths, *places, total = 0;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    (void)ips_bridge_where(bridge, &text);
    length = (int)strlen(text) + 1; /* with a comma behind it */
    own = (char *)malloc((size_t)length + 1);
    lengths = (int *)malloc(2 * sizeof(int) * (size_t)size);
    if (!own || !lengths)
        MPI_Abort(comm, IPS_BRIDGE_MEMORY); /* the others would wait in the gathering */
    places = lengths + size;
    memcpy(own, text, (size_t)length - 1);
    own[length - 1] = ',';
    MPI_Gather(&length, 1, MPI_INT, lengths, 1, MPI_INT, 0, comm);
    for (int i = 0; rank == 0 && i < size; i++) {
        places[i] = total;
        total += lengths[i];
    }
    if (rank == 0 && !(all = (char *)malloc((size_t)total + 1)))
        MPI_Abort(comm, IPS_BRIDGE_MEMORY);
    MPI_Gatherv(own, length, MPI_CHAR, all, lengths, places, MPI_CHAR, 0, comm);
    if (rank == 0) {
        all[total - 1] = '\0';
        (void)ips_bridge_ranks(bridge, all);
    }
    free(all);
    free(lengths);
    free(own);
}

/* Broadcast rank 0's request and join. Collective; returns the same code on every rank when rank 0
 * fails, else each rank's own. contact: see ips_bridge_request. */
static inline int ips_bridge_connect_mpi(ips_bridge *bridge, MPI_Comm comm, const char *contact)
{
    const void *found = NULL;
    void *blob = NULL;
    size_t length = 0;
    unsigned long long count;
    int rank, code;
    MPI_Comm_rank(comm, &rank);
    ips_bridge_ranks_mpi(bridge, comm);
    if (rank == 0)
        (void)ips_bridge_request(bridge, contact, &found, &length); /* join tells the outcome */
    count = length;
    MPI_Bcast(&count, 1, MPI_UNSIGNED_LONG_LONG, 0, comm);
    if (rank != 0) {
        blob = malloc((size_t)count + 1);
        if (!blob)
            MPI_Abort(comm, IPS_BRIDGE_MEMORY); /* the others would wait in the broadcast */
    }
    /* Parts of 1 GiB: a count is an int. */
    for (unsigned long long at = 0; at < count; at += 1ULL << 30) {
        unsigned long long part = count - at < 1ULL << 30 ? count - at : 1ULL << 30;
        char *where = rank == 0 ? (char *)(uintptr_t)found : (char *)blob;
        MPI_Bcast(where + at, (int)part, MPI_BYTE, 0, comm);
    }
    code = ips_bridge_join(bridge, rank == 0 ? found : blob, (size_t)count);
    free(blob);
    return code;
}

/* Tell all ranks alike whether the analysis has what it wants. Collective. */
static inline int ips_bridge_should_stop_mpi(ips_bridge *bridge, MPI_Comm comm, int *stop)
{
    int code = ips_bridge_should_stop(bridge, stop);
    MPI_Bcast(stop, 1, MPI_INT, 0, comm);
    return code;
}

/* Give all ranks rank 0's value: at most `capacity` doubles, their number in `count`. Collective;
 * returns rank 0's code. */
static inline int ips_bridge_receive_doubles_mpi(ips_bridge *bridge, MPI_Comm comm,
                                                 const char *name, int64_t step, double timeout,
                                                 double *values, int64_t capacity, int64_t *count)
{
    int rank;
    long long answer[2] = {IPS_BRIDGE_OK, 0};
    MPI_Comm_rank(comm, &rank);
    if (rank == 0) {
        int64_t found = 0;
        answer[0] = ips_bridge_receive_doubles(bridge, name, step, timeout, values, capacity,
                                               &found);
        answer[1] = found;
    }
    MPI_Bcast(answer, 2, MPI_LONG_LONG, 0, comm);
    *count = answer[1];
    if (answer[0] == IPS_BRIDGE_OK)
        MPI_Bcast(values, (int)answer[1], MPI_DOUBLE, 0, comm);
    return (int)answer[0];
}

#ifdef __cplusplus
}
#endif
#endif
