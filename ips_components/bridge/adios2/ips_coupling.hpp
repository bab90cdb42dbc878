// The engines of a process and the one bridge that they share.
//
// ADIOS2 gives an engine the shapes of variables with their first Put, and the bridge must describe
// all arrays before it connects. So the data of the first step are kept until the step has ended;
// then everything that the open engines have defined is described, and the bridge connects. From
// then on a Put goes through at once, or at the end of the step, as its mode says.
//
// All state is touched by the thread that calls the engines; ADIOS2's engines are not thread-safe.
#ifndef IPS_ADIOS2_COUPLING_HPP
#define IPS_ADIOS2_COUPLING_HPP

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ips_bridge.h"
#include "ips_settings.hpp"
#include "ips_variable.hpp"
#include "ips_world.hpp"

namespace ips_adios2 {

class coupling;

// Cells of a Put that are sent later.
struct pending {
    variable what;
    std::int64_t step = 0;
    const char *cells = nullptr; // the program's, unless they are kept
    std::vector<char> kept;

    const char *data() const { return kept.empty() ? cells : kept.data(); }
    void keep();
};

// An array of the bridge, and the variable that feeds it.
struct offered {
    std::string array;
    variable first; // as it was described
    bool ragged = false, own_steps = false;
    std::int64_t steps = 0; // in which this rank has put it
    std::int64_t last = -1;
    ips_bridge_array *handle = nullptr;

    std::int64_t number(std::int64_t step); // the step as the bridge counts it
};

// What an IO has defined.
struct definitions {
    std::function<std::vector<variable>()> variables;
    std::function<attributes(const std::string &variable)> attributes_of; // "": of the IO
};

// One engine that writes.
class writer {
public:
    writer(settings settings, definitions defined, world world);
    ~writer();
    writer(const writer &) = delete;
    writer &operator=(const writer &) = delete;

    void begin_step();
    void end_step();
    std::int64_t step() const { return step_; }
    void put(const variable &what, const void *cells, bool now);
    void put_text(const std::string &name, const std::string &text);
    void perform_puts();
    void close();

private:
    friend class coupling;
    void connected();
    void route(pending one, bool now);
    void send(offered &array, const pending &one);
    void send_rows(std::int64_t step);
    void finish_step(std::int64_t step);
    bool fits(const offered &array, const variable &what) const;
    [[noreturn]] void fail(const variable &what, const std::string &why) const;
    void check(int code) const;

    const settings settings_;
    const definitions defined_;
    const world world_;
    std::shared_ptr<coupling> coupling_;
    std::map<std::string, offered> offered_;  // by the variable's name
    std::map<std::string, std::string> texts_; // of the first step
    std::vector<pending> first_, deferred_, rows_;
    std::map<std::string, pending> values_; // the last one of a step counts
    std::int64_t step_ = 0;
    bool any_ = false, ended_one_ = false, closed_ = false;
};

// The process' bridge. It connects when all open engines have ended a step, or one begins another.
class coupling {
public:
    static std::shared_ptr<coupling> of_process();
    coupling() = default;
    ~coupling();
    coupling(const coupling &) = delete;
    coupling &operator=(const coupling &) = delete;

    void opened(writer *one);
    void connect_if_due(bool another_step);
    void closed(writer *one);
    void dropped(writer *one);
    void failed(const std::string &why);
    bool is_connected() const { return connected_; }
    bool is_shared() const { return writers_.size() > 1; }
    ips_bridge *bridge() const { return bridge_; }
    int rank() const { return world_.rank; }

private:
    void connect();
    void describe(writer &one);
    void describe(writer &one, const variable &what, const attributes &common);
    void describe_blocks(const writer &one, const offered &array);
    void add_attribute(const std::string &array, const attribute &one);
    void tell_where_ranks_are();
    void join(const std::string &contact, const std::string &failure);
    void end(const char *why);
    void check(int code) const;

    world world_;
    ips_bridge *bridge_ = nullptr;
    bool connected_ = false, ended_ = false;
    std::string failure_;
    std::vector<writer *> writers_;
    std::map<std::string, std::string> names_; // of arrays, and which variable each is
};

} // namespace ips_adios2
#endif
