#include "ips_settings.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <stdexcept>

namespace ips_adios2 {

namespace {

std::string lower(std::string text)
{
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

std::set<std::string> words(const std::string &text)
{
    std::set<std::string> found;
    std::size_t at = 0;
    while (at < text.size()) {
        std::size_t end = std::min(text.find_first_of(", \t", at), text.size());
        if (end > at)
            found.insert(text.substr(at, end - at));
        at = end + 1;
    }
    return found;
}

[[noreturn]] void refuse(const std::string &io, const std::string &key, const std::string &value,
                         const std::string &expected)
{
    throw std::invalid_argument("ips_bridge: IO " + io + ", engine parameter " + key +
                                ": expected " + expected + ", got " + value);
}

std::string one_of(const std::string &io, const std::string &key, const std::string &value,
                   const std::set<std::string> &allowed, const std::string &expected)
{
    if (!allowed.count(lower(value)))
        refuse(io, key, value, expected);
    return lower(value);
}

} // namespace

settings settings::read(const std::string &io, const std::map<std::string, std::string> &parameters)
{
    settings out;
    out.io = io;
    for (const auto &[key, value] : parameters) {
        const std::string name = lower(key);
        if (name == "steps") {
            char *end = nullptr;
            out.steps = std::strtoll(value.c_str(), &end, 10);
            if (value.empty() || *end || out.steps < 1)
                refuse(io, key, value, "the number of steps, 1 or more");
        } else if (name == "prefix") {
            out.prefix = value;
        } else if (name == "contact") {
            out.contact = value;
        } else if (name == "ragged") {
            out.ragged = words(value);
        } else if (name == "ownsteps") {
            out.own_steps = words(value);
        } else if (name == "ranks") {
            out.ranks = one_of(io, key, value, {"communicator", "launcher", "one"},
                               "communicator, launcher or one");
        } else if (name == "order") {
            out.order = one_of(io, key, value, {"row", "column"}, "row or column");
        } else if (name != "pluginname" && name != "pluginlibrary" && name != "verbose") {
            throw std::invalid_argument(
                "ips_bridge: IO " + io + ": unknown engine parameter " + key +
                "; there are Steps, Prefix, Ragged, OwnSteps, Ranks, Order and Contact");
        }
    }
    for (const std::string &name : out.own_steps)
        if (out.ragged.count(name))
            throw std::invalid_argument("ips_bridge: IO " + io + ": variable " + name +
                                        " is in Ragged and in OwnSteps: ranks without rows could "
                                        "not tell its steps");
    return out;
}

std::string array_name(const std::string &prefix, const std::string &variable)
{
    std::string name = prefix;
    for (std::size_t i = variable.find_first_not_of('/'); i < variable.size(); i++) {
        const unsigned char c = static_cast<unsigned char>(variable[i]);
        name += variable[i] == '/' ? '.' : std::isalnum(c) || c == '_' || c == '.' ? variable[i] : '_';
    }
    if (name.empty() || !(std::isalpha(static_cast<unsigned char>(name[0])) || name[0] == '_'))
        name = "_" + name;
    return name;
}

} // namespace ips_adios2
