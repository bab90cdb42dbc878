// Which rank this process is, and of how many.
#ifndef IPS_ADIOS2_WORLD_HPP
#define IPS_ADIOS2_WORLD_HPP

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace ips_adios2 {

struct world {
    int rank = 0, size = 1;
    // Gives bytes of rank 0 to all ranks; empty where there is no communicator.
    std::function<void(char *bytes, std::size_t length)> broadcast;
    // Gives the texts of all ranks to rank 0, one behind the other, and their lengths.
    std::function<std::string(const std::string &own, std::vector<std::size_t> &lengths)> gather;
};

// By the environment that the launcher of MPI programs sets: Open MPI, PMI (MPICH, Intel MPI, Cray),
// MVAPICH, PMIx and Slurm. A process without any of them is alone.
world launched();

} // namespace ips_adios2
#endif
