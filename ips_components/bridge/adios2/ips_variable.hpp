// A variable of ADIOS2 as an engine sees it at a Put, in words that both plugin interfaces share.
#ifndef IPS_ADIOS2_VARIABLE_HPP
#define IPS_ADIOS2_VARIABLE_HPP

#include <complex>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace ips_adios2 {

using numbers = std::vector<std::int64_t>;

enum class form {
    value,          // one value, the same for all ranks
    value_per_rank, // one value for each rank: an array along the ranks
    global,         // a block of a global array
    local,          // a block without a place: rows of all ranks, one behind the other
    joined,         // the same, with a shape that says so
    unknown
};

struct variable {
    std::string name, dtype; // dtype: as NumPy writes it; empty for a text
    std::size_t itemsize = 0;
    form is = form::unknown;
    numbers shape, start, count;         // in C's order
    numbers memory_start, memory_count;  // where the block lies in memory; empty: it is all there is
    std::size_t joined = 0;              // the dimension that is joined
};

struct attribute {
    std::string name, text;
    std::vector<double> reals;
    std::vector<std::int64_t> integers;
    enum { words, floating, whole } is = words;
    bool single = true;
};

// The attributes of a variable, or of the whole IO where the name is empty.
using attributes = std::vector<attribute>;

template <class T> std::string dtype_of()
{
    if constexpr (std::is_same_v<T, std::string>)
        return "";
    else if constexpr (std::is_floating_point_v<T>)
        return "f" + std::to_string(sizeof(T));
    else if constexpr (std::is_integral_v<T>)
        return (std::is_signed_v<T> ? "i" : "u") + std::to_string(sizeof(T));
    else
        return "c" + std::to_string(sizeof(T));
}

// Keep the values of an attribute as texts or numbers; complex numbers become texts.
template <class T> void keep(attribute &out, const std::vector<T> &values, bool single)
{
    out.single = single;
    if constexpr (std::is_same_v<T, std::string>) {
        for (std::size_t i = 0; i < values.size(); i++)
            out.text += (i ? ", " : "") + values[i];
    } else if constexpr (std::is_same_v<T, char>) {
        out.text.assign(values.begin(), values.end());
    } else if constexpr (std::is_floating_point_v<T>) {
        out.is = attribute::floating;
        out.reals.assign(values.begin(), values.end());
    } else if constexpr (std::is_integral_v<T>) {
        out.is = attribute::whole;
        out.integers.assign(values.begin(), values.end());
    } else {
        for (std::size_t i = 0; i < values.size(); i++)
            out.text += (i ? ", " : "") + std::to_string(values[i].real()) + "+" +
                        std::to_string(values[i].imag()) + "j";
    }
}

} // namespace ips_adios2
#endif
