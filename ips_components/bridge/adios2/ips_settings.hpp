// What the engine's parameters in the XML or YAML file say.
#ifndef IPS_ADIOS2_SETTINGS_HPP
#define IPS_ADIOS2_SETTINGS_HPP

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace ips_adios2 {

struct settings {
    std::string io;                // its name, for messages
    std::int64_t steps = -1;       // Steps: how many there will be
    std::string prefix;            // Prefix: of the arrays' names
    std::string contact;           // Contact: path of the contact file, else by the environment
    std::set<std::string> ragged;  // Ragged: variables whose first dimension varies
    std::set<std::string> own_steps; // OwnSteps: variables whose steps are counted each on its own
    std::string ranks;             // Ranks: communicator, launcher or one
    std::string order;             // Order: row or column

    // Throws where a parameter is unknown or wrong.
    static settings read(const std::string &io, const std::map<std::string, std::string> &parameters);
};

// The name of the array that a variable feeds: letters, digits, '_' and '.'.
std::string array_name(const std::string &prefix, const std::string &variable);

} // namespace ips_adios2
#endif
