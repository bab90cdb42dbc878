/* What a program with MPI would write around ips_bridge_request and ips_bridge_join: a few small
 * collective functions over a communicator. The library itself does not know MPI.
 *
 * A failure of one rank ends the call on all ranks with the same code and text; nothing aborts. */
#ifndef IPS_BRIDGE_MPI_H
#define IPS_BRIDGE_MPI_H

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "ips_bridge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Agree on the largest code of all ranks: 0 if no rank failed. The ranks that did not fail get the
 * text. Collective. */
static inline int ips_bridge_agree_mpi(ips_bridge *bridge, MPI_Comm comm, int code,
                                       const char *text)
{
    int worst = code;
    MPI_Allreduce(&code, &worst, 1, MPI_INT, MPI_MAX, comm);
    return worst == code ? code : ips_bridge_set_error(bridge, worst, text);
}

/* Describe all ranks to rank 0. Collective; part of ips_bridge_connect_mpi. */
static inline int ips_bridge_ranks_mpi(ips_bridge *bridge, MPI_Comm comm)
{
    const void *info = "";
    char *own, *all = NULL;
    size_t bytes = 0, *lengths = NULL;
    int rank, size, length, *counts = NULL, *places = NULL, total = 0, code;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    code = ips_bridge_get_rank_info(bridge, &info, &bytes);
    length = (int)bytes;
    own = (char *)malloc(bytes + 1); /* MPI 3 wants no const, and the bridge keeps its own */
    if (rank == 0) {
        counts = (int *)malloc(2 * sizeof *counts * (size_t)size);
        lengths = (size_t *)malloc(sizeof *lengths * (size_t)size);
    }
    if (!code && (!own || (rank == 0 && (!counts || !lengths))))
        code = ips_bridge_set_error(bridge, IPS_BRIDGE_MEMORY, "no memory to describe the ranks");
    code = ips_bridge_agree_mpi(bridge, comm, code, "another rank could not describe itself");
    if (!code && own) {
        memcpy(own, info, bytes);
        MPI_Gather(&length, 1, MPI_INT, counts, 1, MPI_INT, 0, comm);
        if (rank == 0 && counts && lengths) {
            places = counts + size;
            for (int i = 0; i < size; i++) {
                places[i] = total;
                total += counts[i];
                lengths[i] = (size_t)counts[i];
            }
            all = (char *)malloc((size_t)total + 1);
            if (!all)
                code = ips_bridge_set_error(bridge, IPS_BRIDGE_MEMORY,
                                            "no memory to describe the ranks");
        }
        code = ips_bridge_agree_mpi(bridge, comm, code, "rank 0 has no memory for the ranks");
        if (!code)
            MPI_Gatherv(own, length, MPI_CHAR, all, counts, places, MPI_CHAR, 0, comm);
        if (!code && rank == 0)
            code = ips_bridge_set_rank_infos(bridge, all, lengths);
        code = ips_bridge_agree_mpi(bridge, comm, code, "rank 0 refused how the ranks describe "
                                                        "themselves");
    }
    free(all);
    free(counts);
    free(lengths);
    free(own);
    return code;
}

/* Return when rank 0 has come here. Collective. MPI libraries wait by polling, at full speed: while
 * rank 0 waits for the contract, its peers would take the cores on which Dask's workers start. */
static inline void ips_bridge_await_root_mpi(MPI_Comm comm)
{
    MPI_Request request;
    double pause = 20e-6;
    char nothing = 0;
    int done = 0;
    MPI_Ibcast(&nothing, 1, MPI_CHAR, 0, comm, &request);
    for (MPI_Test(&request, &done, MPI_STATUS_IGNORE); !done;
         MPI_Test(&request, &done, MPI_STATUS_IGNORE)) {
        ips_bridge_pause(pause);
        pause = 2 * pause < 5e-3 ? 2 * pause : 5e-3;
    }
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
    code = ips_bridge_ranks_mpi(bridge, comm);
    if (code)
        return code;
    if (rank == 0)
        (void)ips_bridge_request(bridge, contact, &found, &length); /* join returns the outcome */
    count = length;
    ips_bridge_await_root_mpi(comm);
    MPI_Bcast(&count, 1, MPI_UNSIGNED_LONG_LONG, 0, comm);
    if (rank != 0) {
        blob = malloc((size_t)count + 1);
        if (!blob)
            code = ips_bridge_set_error(bridge, IPS_BRIDGE_MEMORY, "no memory for the contract");
    }
    code = ips_bridge_agree_mpi(bridge, comm, code, "another rank has no memory for the contract");
    /* Parts of 1 GiB: a count is an int. */
    for (unsigned long long at = 0; !code && at < count; at += 1ULL << 30) {
        unsigned long long part = count - at < 1ULL << 30 ? count - at : 1ULL << 30;
        char *where = rank == 0 ? (char *)(uintptr_t)found : (char *)blob;
        MPI_Bcast(where + at, (int)part, MPI_BYTE, 0, comm);
    }
    if (!code)
        code = ips_bridge_join(bridge, rank == 0 ? found : blob, (size_t)count);
    free(blob);
    return code;
}

/* Answer on all ranks alike whether the analysis has what it wants. Collective. */
static inline int ips_bridge_should_stop_mpi(ips_bridge *bridge, MPI_Comm comm, int *stop)
{
    int code = ips_bridge_should_stop(bridge, stop);
    MPI_Bcast(stop, 1, MPI_INT, 0, comm);
    return code;
}

/* Give all ranks rank 0's value: at most `capacity` doubles (the smallest one of all ranks), their
 * number in `count`. Collective; returns rank 0's code on every rank. */
static inline int ips_bridge_receive_doubles_mpi(ips_bridge *bridge, MPI_Comm comm,
                                                 const char *name, int64_t step, double timeout,
                                                 double *values, int64_t capacity, int64_t *count)
{
    int rank;
    long long answer[2] = {IPS_BRIDGE_OK, 0}, own = values ? capacity : 0, room = 0;
    MPI_Comm_rank(comm, &rank);
    MPI_Allreduce(&own, &room, 1, MPI_LONG_LONG, MPI_MIN, comm);
    if (rank == 0) {
        int64_t found = 0;
        answer[0] = ips_bridge_receive_doubles(bridge, name, step, timeout, values, room, &found);
        answer[1] = found;
    }
    MPI_Bcast(answer, 2, MPI_LONG_LONG, 0, comm);
    if (count)
        *count = answer[1];
    if (answer[0] == IPS_BRIDGE_OK)
        MPI_Bcast(values, (int)answer[1], MPI_DOUBLE, 0, comm);
    else if (rank != 0)
        (void)ips_bridge_set_error(bridge, (int)answer[0], "see the error of rank 0");
    return (int)answer[0];
}

/* Give all ranks the model that rank 0 receives, see ips_bridge_receive_model. Collective; returns rank
 * 0's code on every rank, or that of ranks that have no memory for it. */
static inline int ips_bridge_receive_model_mpi(ips_bridge *bridge, MPI_Comm comm, const char *name,
                                               int64_t newer_than, double timeout,
                                               ips_bridge_model *model)
{
    const void *found = NULL;
    void *copy = NULL;
    size_t length = 0;
    long long answer[2] = {IPS_BRIDGE_OK, 0};
    int rank, code = IPS_BRIDGE_OK;
    MPI_Comm_rank(comm, &rank);
    if (rank == 0) {
        code = ips_bridge_receive_model(bridge, name, newer_than, timeout, model);
        if (!code)
            code = ips_bridge_get_model_bytes(bridge, &found, &length);
        answer[0] = code;
        answer[1] = (long long)length;
    }
    MPI_Bcast(answer, 2, MPI_LONG_LONG, 0, comm);
    if (answer[0] != IPS_BRIDGE_OK) {
        if (rank != 0)
            (void)ips_bridge_set_error(bridge, (int)answer[0], "see the error of rank 0");
        return (int)answer[0];
    }
    if (rank != 0 && !(copy = malloc((size_t)answer[1])))
        code = ips_bridge_set_error(bridge, IPS_BRIDGE_MEMORY, "no memory for the model");
    code = ips_bridge_agree_mpi(bridge, comm, code, "another rank has no memory for the model");
    for (long long at = 0; !code && at < answer[1]; at += 1LL << 30) {
        long long part = answer[1] - at < 1LL << 30 ? answer[1] - at : 1LL << 30;
        MPI_Bcast((rank == 0 ? (char *)(uintptr_t)found : (char *)copy) + at, (int)part, MPI_BYTE, 0,
                  comm);
    }
    if (!code && rank != 0)
        code = ips_bridge_take_model(bridge, copy, (size_t)answer[1], model);
    free(copy);
    return ips_bridge_agree_mpi(bridge, comm, code, "another rank has no memory for the model");
}

#ifdef __cplusplus
}
#endif
#endif
