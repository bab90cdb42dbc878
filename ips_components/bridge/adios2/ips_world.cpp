#include "ips_world.hpp"

#include <cstdlib>
#include <stdexcept>

namespace ips_adios2 {

namespace {

bool number(const char *name, int &out)
{
    const char *text = std::getenv(name);
    if (!text || !*text)
        return false;
    char *end = nullptr;
    long value = std::strtol(text, &end, 10);
    if (*end || value < 0 || value > 1000000000)
        throw std::runtime_error("ips_bridge: the environment variable " + std::string(name) +
                                 " is expected to be a number of ranks, got " + text);
    out = static_cast<int>(value);
    return true;
}

} // namespace

world launched()
{
    static const char *const known[][2] = {
        {"IPS_BRIDGE_RANK", "IPS_BRIDGE_SIZE"}, // said by hand
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
        {"PMI_RANK", "PMI_SIZE"},
        {"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"},
        {"PMIX_RANK", "PMIX_SIZE"},
        {"PMIX_RANK", "SLURM_STEP_NUM_TASKS"},
        {"PALS_RANKID", "PALS_SIZE"},
        {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"}, // last: it is there in a batch script, too
    };
    for (const auto &names : known) {
        world found;
        if (!number(names[0], found.rank) || !number(names[1], found.size))
            continue;
        if (found.rank >= found.size)
            throw std::runtime_error("ips_bridge: " + std::string(names[0]) + " is " +
                                     std::to_string(found.rank) + ", but " + names[1] + " is " +
                                     std::to_string(found.size));
        return found;
    }
    return {};
}

} // namespace ips_adios2
