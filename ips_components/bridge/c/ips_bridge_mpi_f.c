/* The helpers of ips_bridge_mpi.h for Fortran's handles; compiled by the program's MPI compiler along
 * with ips_bridge_mpi.f90 or ips_bridge_mpi_f08.f90. The library itself does not know MPI. */
#include <mpi.h>

#include "ips_bridge_mpi.h"

int ips_bridge_connect_mpi_f(ips_bridge *bridge, MPI_Fint comm, const char *contact)
{
    return ips_bridge_connect_mpi(bridge, MPI_Comm_f2c(comm),
                                  contact && *contact ? contact : NULL);
}

int ips_bridge_should_stop_mpi_f(ips_bridge *bridge, MPI_Fint comm, int *stop)
{
    return ips_bridge_should_stop_mpi(bridge, MPI_Comm_f2c(comm), stop);
}

int ips_bridge_receive_model_mpi_f(ips_bridge *bridge, MPI_Fint comm, const char *name,
                                   int64_t newer_than, double timeout, ips_bridge_model *model)
{
    return ips_bridge_receive_model_mpi(bridge, MPI_Comm_f2c(comm), name, newer_than, timeout, model);
}

int ips_bridge_receive_doubles_mpi_f(ips_bridge *bridge, MPI_Fint comm, const char *name,
                                     int64_t step, double timeout, double *values,
                                     int64_t capacity, int64_t *count)
{
    return ips_bridge_receive_doubles_mpi(bridge, MPI_Comm_f2c(comm), name, step, timeout, values,
                                          capacity, count);
}
