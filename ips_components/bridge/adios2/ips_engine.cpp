// The engine as ADIOS2 loads it: EngineCreate and EngineDestroy, for the plugin interface of ADIOS2
// 2.12 and later (public classes only), and for that of 2.9 to 2.11 (an engine of the core).
#if __has_include("adios2/plugin/PluginEngineInterface.h")
#include "adios2/plugin/PluginEngineInterface.h"
#else
#include "adios2/engine/plugin/PluginEngineInterface.h"
#endif

#include <link.h>

#include "ips_engine.hpp"
#ifdef ADIOS2_PLUGIN_ENGINE_INTERFACE
#include "ips_memory_selection.hpp"
#else
#define ADIOS2_PLUGIN_ENGINE_INTERFACE 1
#endif

using adios2::Mode;
using adios2::StepMode;
using adios2::StepStatus;
using ips_adios2::attribute;
using ips_adios2::attributes;
using ips_adios2::settings;
using ips_adios2::variable;
using ips_adios2::world;
using ips_adios2::writer;

#if ADIOS2_PLUGIN_ENGINE_INTERFACE >= 2

// ---- ADIOS2 2.12 and later ------------------------------------------------------------------------

namespace {

// Whether the program is in Fortran, whose dimensions come in its own order. The public interface
// does not say it; the bindings that it uses are a library of their own.
bool is_fortran()
{
    bool found = false;
    dl_iterate_phdr(
        [](dl_phdr_info *info, std::size_t, void *out) {
            const std::string name = info->dlpi_name ? info->dlpi_name : "";
            if (name.find("libadios2_fortran") != std::string::npos)
                *static_cast<bool *>(out) = true;
            return 0;
        },
        &found);
    return found;
}

class ips_engine final : public adios2::plugin::PluginEngineInterface {
public:
    ips_engine(adios2::IO io, const std::string &name, const Mode mode)
        : PluginEngineInterface(io, name, mode)
    {
        ips_adios2::check_mode(io.Name(), mode);
        settings said = settings::read(io.Name(), io.Parameters());
        if (said.ranks == "communicator")
            throw std::invalid_argument("ips_bridge: IO " + io.Name() +
                                        ", engine parameter Ranks: ADIOS2 2.12 gives plugins no "
                                        "communicator; leave it out or say launcher or one");
        column_major_ = said.order.empty() ? is_fortran() : said.order == "column";
        if (!selections_.find(io))
            std::fprintf(stderr, "ips_bridge: IO %s: this ADIOS2 hides memory selections from "
                                 "engines; a program that sets them would be read wrongly\n",
                         io.Name().c_str());
        world where = said.ranks == "one" ? world{} : ips_adios2::launched();
        writer_ = std::make_unique<writer>(
            said,
            ips_adios2::definitions{[this] { return variables(); },
                                    [this](const std::string &of) { return attributes_of(of); }},
            where);
    }

    StepStatus BeginStep(StepMode, const float) override
    {
        writer_->begin_step();
        return StepStatus::OK;
    }
    void EndStep() override { writer_->end_step(); }
    std::size_t CurrentStep() const override { return static_cast<std::size_t>(writer_->step()); }
    void PerformPuts() override { writer_->perform_puts(); }
    void DoClose(const int) override { writer_->close(); }

#define declare(T)                                                                                 \
    void DoPutSync(adios2::Variable<T> v, const T *values) override { put(v, values, true); }      \
    void DoPutDeferred(adios2::Variable<T> v, const T *values) override { put(v, values, false); }
    ADIOS2_FOREACH_STDTYPE_1ARG(declare)
#undef declare

    // ADIOS2 asks its own front for the memory of a span, not the plugin: there would be none.
#define declare(T)                                                                                 \
    void DoPut(adios2::Variable<T> v, typename adios2::Variable<T>::Span &, const bool,            \
               const T &) override                                                                 \
    {                                                                                              \
        no_span(v.Name());                                                                         \
    }
    ADIOS2_FOREACH_PRIMITIVE_STDTYPE_1ARG(declare)
#undef declare

private:
    [[noreturn]] void no_span(const std::string &name) const
    {
        throw std::runtime_error(
            "ips_bridge: variable " + name + ": ADIOS2 has no memory for the span of a plugin "
            "engine; put the array instead: Put(variable, array)");
    }

    template <class T> variable describe(adios2::Variable<T> v) const
    {
        variable out;
        out.name = v.Name();
        out.dtype = ips_adios2::dtype_of<T>();
        out.itemsize = sizeof(T);
        out.is = ips_adios2::form_of(v.ShapeID());
        adios2::Dims memory_start, memory_count;
        selections_.read(v, memory_start, memory_count);
        ips_adios2::set_extents(out, column_major_, v.Shape(), v.Start(), v.Count(), memory_start,
                                memory_count);
        return out;
    }

    void put(adios2::Variable<std::string> v, const std::string *values, bool)
    {
        writer_->put_text(v.Name(), *values);
    }
    template <class T> void put(adios2::Variable<T> v, const T *values, bool now)
    {
        writer_->put(describe(v), values, now);
    }

    std::vector<variable> variables()
    {
        std::vector<variable> found;
        for (const auto &[name, facts] : m_IO.AvailableVariables(true)) {
            const std::string type = m_IO.VariableType(name);
#define declare(T)                                                                                 \
    if (type == adios2::GetType<T>())                                                              \
        found.push_back(describe(m_IO.InquireVariable<T>(name)));
            ADIOS2_FOREACH_PRIMITIVE_STDTYPE_1ARG(declare)
#undef declare
        }
        return found;
    }

    attributes attributes_of(const std::string &of)
    {
        attributes found;
        std::map<std::string, adios2::Params> known = m_IO.AvailableVariables(true);
        for (const auto &[name, facts] : m_IO.AvailableAttributes()) {
            attribute one;
            one.name = of.empty() ? name : ips_adios2::own_name(name, of);
            bool others = of.empty() && std::any_of(known.begin(), known.end(), [&](const auto &each) {
                              return !ips_adios2::own_name(name, each.first).empty();
                          });
            if (one.name.empty() || others)
                continue;
            const std::string type = m_IO.AttributeType(name);
#define declare(T)                                                                                 \
    if (type == adios2::GetType<T>()) {                                                            \
        adios2::Attribute<T> a = m_IO.InquireAttribute<T>(name);                                   \
        ips_adios2::keep(one, a.Data(), a.IsValue());                                              \
    }
            ADIOS2_FOREACH_ATTRIBUTE_STDTYPE_1ARG(declare)
#undef declare
            found.push_back(one);
        }
        return found;
    }

    ips_adios2::memory_selection selections_;
    bool column_major_ = false;
    std::unique_ptr<writer> writer_;
};

} // namespace

extern "C" {

__attribute__((visibility("default"))) adios2::plugin::PluginEngineInterface *
EngineCreate(adios2::IO io, const std::string &name, const Mode mode)
{
    return new ips_engine(io, name, mode);
}

#else

// ---- ADIOS2 2.9 to 2.11 ---------------------------------------------------------------------------

namespace {

// The engine's communicator, or what the launcher says where ADIOS2 is without MPI.
world world_of(const adios2::helper::Comm &comm, const std::string &ranks)
{
    if (ranks == "one")
        return {};
    if (ranks == "launcher" || !comm.IsMPI())
        return ips_adios2::launched();
    world found;
    found.rank = comm.Rank();
    found.size = comm.Size();
    found.broadcast = [&comm](char *bytes, std::size_t length) {
        comm.Bcast(bytes, length, 0, "in the IPS engine");
    };
    found.gather = [&comm](const std::string &own, std::vector<std::size_t> &lengths) {
        std::size_t total = 0;
        lengths = comm.GatherValues(own.size());
        for (std::size_t length : lengths)
            total += length;
        std::string all(total, ' ');
        comm.GathervArrays(own.data(), own.size(), lengths.data(), lengths.size(), all.data());
        return all;
    };
    return found;
}

class ips_engine final : public adios2::plugin::PluginEngineInterface {
public:
    ips_engine(adios2::core::IO &io, const std::string &name, const Mode mode,
               adios2::helper::Comm comm)
        : PluginEngineInterface(io, name, mode, std::move(comm))
    {
        ips_adios2::check_mode(io.m_Name, mode);
        const settings said = settings::read(io.m_Name, {io.m_Parameters.begin(), io.m_Parameters.end()});
        column_major_ = said.order.empty() ? io.m_ArrayOrder == adios2::ArrayOrdering::ColumnMajor
                                           : said.order == "column";
        writer_ = std::make_unique<writer>(
            said,
            ips_adios2::definitions{[this] { return variables(); },
                                    [this](const std::string &of) { return attributes_of(of); }},
            world_of(m_Comm, said.ranks));
        m_IsOpen = true;
    }

    StepStatus BeginStep(StepMode, const float) override
    {
        writer_->begin_step();
        return StepStatus::OK;
    }
    void EndStep() override { writer_->end_step(); }
    std::size_t CurrentStep() const override { return static_cast<std::size_t>(writer_->step()); }
    void PerformPuts() override { writer_->perform_puts(); }

protected:
    void DoClose(const int) override { writer_->close(); }
    void DestructorClose(bool) noexcept override {}

#define declare(T)                                                                                 \
    void DoPutSync(adios2::core::Variable<T> &v, const T *values) override { put(v, values, true); } \
    void DoPutDeferred(adios2::core::Variable<T> &v, const T *values) override                     \
    {                                                                                              \
        put(v, values, false);                                                                     \
    }
    ADIOS2_FOREACH_STDTYPE_1ARG(declare)
#undef declare

private:
    template <class T> variable describe(const adios2::core::Variable<T> &v) const
    {
        variable out;
        out.name = v.m_Name;
        out.dtype = ips_adios2::dtype_of<T>();
        out.itemsize = sizeof(T);
        out.is = ips_adios2::form_of(v.m_ShapeID);
        ips_adios2::set_extents(out, column_major_, v.m_Shape, v.m_Start, v.m_Count, v.m_MemoryStart,
                                v.m_MemoryCount);
        return out;
    }

    void put(adios2::core::Variable<std::string> &v, const std::string *values, bool)
    {
        writer_->put_text(v.m_Name, *values);
    }
    template <class T> void put(adios2::core::Variable<T> &v, const T *values, bool now)
    {
        writer_->put(describe(v), values, now);
    }

    std::vector<variable> variables()
    {
        std::map<std::string, variable> found; // in the order of names, on every rank
        for (const auto &[name, base] : m_IO.GetVariables()) {
#define declare(T)                                                                                 \
    if (base->m_Type == adios2::helper::GetDataType<T>())                                          \
        found[name] = describe(*static_cast<const adios2::core::Variable<T> *>(base.get()));
            ADIOS2_FOREACH_PRIMITIVE_STDTYPE_1ARG(declare)
#undef declare
        }
        std::vector<variable> out;
        for (const auto &[name, one] : found)
            out.push_back(one);
        return out;
    }

    attributes attributes_of(const std::string &of)
    {
        attributes found;
        const auto &known = m_IO.GetVariables();
        for (const auto &[name, base] : m_IO.GetAttributes()) {
            attribute one;
            const std::string &full = name;
            one.name = of.empty() ? full : ips_adios2::own_name(full, of);
            bool others = of.empty() && std::any_of(known.begin(), known.end(), [&](const auto &each) {
                              return !ips_adios2::own_name(full, each.first).empty();
                          });
            if (one.name.empty() || others)
                continue;
#define declare(T)                                                                                 \
    if (base->m_Type == adios2::helper::GetDataType<T>()) {                                        \
        const auto &a = *static_cast<const adios2::core::Attribute<T> *>(base.get());              \
        ips_adios2::keep(one,                                                                      \
                         a.m_IsSingleValue ? std::vector<T>{a.m_DataSingleValue} : a.m_DataArray,  \
                         a.m_IsSingleValue);                                                       \
    }
            ADIOS2_FOREACH_ATTRIBUTE_STDTYPE_1ARG(declare)
#undef declare
            found.push_back(one);
        }
        std::sort(found.begin(), found.end(),
                  [](const attribute &a, const attribute &b) { return a.name < b.name; });
        return found;
    }

    bool column_major_ = false;
    std::unique_ptr<writer> writer_;
};

} // namespace

extern "C" {

__attribute__((visibility("default"))) adios2::plugin::PluginEngineInterface *
EngineCreate(adios2::core::IO &io, const std::string &name, const Mode mode,
             adios2::helper::Comm comm)
{
    return new ips_engine(io, name, mode, std::move(comm));
}

#endif

__attribute__((visibility("default"))) void
EngineDestroy(adios2::plugin::PluginEngineInterface *engine)
{
    delete engine;
}
}
