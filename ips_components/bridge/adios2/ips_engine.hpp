// What both plugin interfaces of ADIOS2 have in common: an engine owns a writer, which it makes when
// it is opened.
#ifndef IPS_ADIOS2_ENGINE_HPP
#define IPS_ADIOS2_ENGINE_HPP

#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include "adios2/common/ADIOSTypes.h"

#include "ips_coupling.hpp"

namespace ips_adios2 {

inline form form_of(adios2::ShapeID id)
{
    switch (id) {
    case adios2::ShapeID::GlobalValue:
        return form::value;
    case adios2::ShapeID::LocalValue:
        return form::value_per_rank;
    case adios2::ShapeID::GlobalArray:
        return form::global;
    case adios2::ShapeID::LocalArray:
        return form::local;
    case adios2::ShapeID::JoinedArray:
        return form::joined;
    default:
        return form::unknown;
    }
}

inline numbers in_c_order(const adios2::Dims &dims, bool column_major)
{
    numbers out(dims.begin(), dims.end());
    if (column_major)
        std::reverse(out.begin(), out.end());
    return out;
}

// Fill in the extents of a variable; those of values are of no account.
inline void set_extents(variable &out, bool column_major, const adios2::Dims &shape,
                        const adios2::Dims &start, const adios2::Dims &count,
                        const adios2::Dims &memory_start, const adios2::Dims &memory_count)
{
    if (out.is == form::value || out.is == form::value_per_rank)
        return;
    for (std::size_t d = 0; d < shape.size(); d++)
        if (shape[d] == adios2::JoinedDim)
            out.joined = column_major ? shape.size() - 1 - d : d;
    out.shape = in_c_order(shape, column_major);
    out.start = in_c_order(start, column_major);
    out.count = in_c_order(count, column_major);
    if (memory_count.size() == count.size() && memory_start.size() == count.size()) {
        out.memory_start = in_c_order(memory_start, column_major);
        out.memory_count = in_c_order(memory_count, column_major);
    }
    if (out.is == form::joined)
        out.shape[out.joined] = -1;
}

// Attributes of a variable are named after it; the others belong to the IO.
inline std::string own_name(const std::string &attribute, const std::string &variable)
{
    return attribute.size() > variable.size() + 1 && attribute.compare(0, variable.size(), variable) == 0 &&
                   attribute[variable.size()] == '/'
               ? attribute.substr(variable.size() + 1)
               : "";
}

inline void check_mode(const std::string &io, adios2::Mode mode)
{
    if (mode != adios2::Mode::Write && mode != adios2::Mode::Append)
        throw std::invalid_argument(
            "ips_bridge: IO " + io + " is opened for reading, but this engine hands data to a "
            "running analysis and has nothing to read: choose another engine for this IO, such as "
            "BP5");
}

} // namespace ips_adios2
#endif
