// Where in memory a block lies. A variable of ADIOS2 knows it (SetMemorySelection), but from 2.12 on
// plugins see the public interface only, which has no way to ask. So the place of the two members
// is found once, by a variable with numbers that are looked for in it.
#ifndef IPS_ADIOS2_MEMORY_SELECTION_HPP
#define IPS_ADIOS2_MEMORY_SELECTION_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <malloc.h>
#include <sys/uio.h>
#include <unistd.h>

#include "adios2/cxx/IO.h"

namespace ips_adios2 {

class memory_selection {
public:
    // Find the members; false where this ADIOS2 has another layout than expected.
    bool find(adios2::IO io)
    {
        const std::string name = "ips_bridge: where the memory selection is";
        adios2::Variable<char> probe =
            io.DefineVariable<char>(name, {103, 107}, {2, 3}, {5, 7});
        probe.SetMemorySelection({{17, 19}, {83, 89}});
        const char *object = core(probe);
        const std::size_t length =
            object ? malloc_usable_size(const_cast<char *>(object)) : 0;
        start_ = look(object, length, 17, 19);
        count_ = look(object, length, 83, 89);
        io.RemoveVariable(name);
        return known();
    }

    bool known() const { return start_ && count_; }

    template <class T>
    void read(const adios2::Variable<T> &variable, adios2::Dims &start, adios2::Dims &count) const
    {
        if (!known())
            return;
        start = *reinterpret_cast<const adios2::Dims *>(core(variable) + start_);
        count = *reinterpret_cast<const adios2::Dims *>(core(variable) + count_);
    }

private:
    // A public variable is a pointer to the one inside the library.
    template <class T> static const char *core(const adios2::Variable<T> &variable)
    {
        static_assert(sizeof variable == sizeof(char *), "a variable is expected to be a pointer");
        const char *object = nullptr;
        std::memcpy(&object, &variable, sizeof object);
        return object;
    }

    // The offset of a vector of these two numbers; 0 if there is none.
    static std::size_t look(const char *object, std::size_t length, std::size_t a, std::size_t b)
    {
        for (std::size_t at = sizeof(char *); at + sizeof(adios2::Dims) <= length; at += sizeof(char *)) {
            std::uintptr_t ends[2];
            std::size_t found[2] = {0, 0};
            std::memcpy(ends, object + at, sizeof ends);
            if (ends[1] - ends[0] != sizeof found)
                continue;
            // Other members look alike: the kernel reads, and says where there is no memory.
            iovec to = {found, sizeof found}, from = {reinterpret_cast<void *>(ends[0]), sizeof found};
            if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) ==
                    static_cast<ssize_t>(sizeof found) &&
                found[0] == a && found[1] == b)
                return at;
        }
        return 0;
    }

    std::size_t start_ = 0, count_ = 0;
};

} // namespace ips_adios2
#endif
