#include "ips_coupling.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

namespace ips_adios2 {

namespace {

std::weak_ptr<coupling> process;
bool was_closed = false;

std::int64_t cells_in(const numbers &count)
{
    std::int64_t cells = 1;
    for (std::int64_t n : count)
        cells *= n;
    return cells;
}

std::string in_words(const numbers &shape)
{
    std::string text = "(";
    for (std::size_t d = 0; d < shape.size(); d++)
        text += (d ? ", " : "") + std::to_string(shape[d]);
    return text + ")";
}

// Why a variable cannot be an array of the bridge; empty if it can. Sets its shape there.
std::string shape_of(const variable &what, bool ragged, int size, numbers &shape)
{
    if (what.is == form::joined && what.joined != 0)
        return "its joined dimension is not the first one";
    shape = what.is == form::value ? numbers{}
            : what.is == form::value_per_rank ? numbers{size}
            : what.is == form::local ? what.count : what.shape;
    if (ragged && shape.empty())
        return "it is in Ragged, but has no dimensions";
    if (ragged)
        shape[0] = -1;
    for (std::size_t d = ragged ? 1 : 0; d < shape.size(); d++)
        if (shape[d] < 1)
            return "its shape is " + in_words(shape) +
                   " in the first step; if the first dimension varies, name it in the engine's "
                   "parameter Ragged";
    return shape.size() > IPS_BRIDGE_MAX_DIMS ? "it has too many dimensions" : "";
}

} // namespace

std::shared_ptr<coupling> coupling::of_process()
{
    if (was_closed)
        throw std::runtime_error(
            "ips_bridge: all engines of this process were closed before, which has ended the "
            "coupled run: leave the engine open until the last step, or choose another engine for "
            "the IO that was closed first");
    std::shared_ptr<coupling> one = process.lock();
    if (!one) {
        one = std::make_shared<coupling>();
        process = one;
    }
    return one;
}

coupling::~coupling()
{
    end(failure_.empty() ? "an engine of ADIOS2 was not closed" : failure_.c_str());
    ips_bridge_free(bridge_);
}

void coupling::check(int code) const
{
    if (code)
        throw std::runtime_error(std::string("ips_bridge: ") + ips_bridge_error(bridge_));
}

void coupling::failed(const std::string &why)
{
    if (failure_.empty())
        failure_ = why;
}

// ---- Engines come and go --------------------------------------------------------------------------

void coupling::opened(writer *one)
{
    if (connected_)
        throw std::runtime_error(
            "ips_bridge: IO " + one->settings_.io +
            " was opened after the first step of another IO, and what the analysis gets was agreed "
            "on then: open all IOs with this engine before the first step ends, or choose another "
            "engine for this one");
    writers_.push_back(one);
}

void coupling::connect_if_due(bool another_step)
{
    if (connected_)
        return;
    // An IO of a few ranks must not hold up the others: the largest ones decide.
    int largest = 0;
    for (const writer *one : writers_)
        largest = std::max(largest, one->world_.size);
    bool due = true;
    for (const writer *one : writers_)
        due &= one->world_.size < largest || one->ended_one_ || one->closed_;
    if (due || another_step)
        connect();
}

void coupling::closed(writer *one)
{
    bool any_open = false;
    for (const writer *other : writers_)
        any_open |= other != one && !other->closed_;
    if (!any_open) {
        was_closed = true;
        end(nullptr);
    }
}

void coupling::dropped(writer *one)
{
    writers_.erase(std::remove(writers_.begin(), writers_.end(), one), writers_.end());
}

void coupling::end(const char *why)
{
    if (!connected_ || ended_)
        return;
    ended_ = true;
    const bool aborted = why || !failure_.empty();
    const int code = ips_bridge_close(bridge_, aborted, why ? why : failure_.c_str());
    if (!aborted)
        check(code);
}

// ---- Describing -----------------------------------------------------------------------------------

void coupling::connect()
{
    std::string failure, contact;
    if (bridge_) // a program that goes on although it could not connect
        throw std::runtime_error(failure_);
    for (const writer *one : writers_)
        if (one->world_.size > world_.size || !world_.broadcast)
            world_ = one->world_;
    const int code = ips_bridge_open(&bridge_, world_.rank, world_.size);
    if (code)
        throw std::runtime_error(std::string("ips_bridge: ") + ips_bridge_code_text(code));
    try {
        check(ips_bridge_set_partial(bridge_, world_.rank != 0));
        for (writer *one : writers_) {
            describe(*one);
            if (contact.empty())
                contact = one->settings_.contact;
        }
    } catch (const std::exception &error) {
        failure = error.what();
    }
    try {
        if (world_.gather)
            tell_where_ranks_are();
        join(contact, failure);
    } catch (const std::exception &error) {
        failed(error.what());
        throw;
    }
    connected_ = true;
    for (writer *one : writers_)
        one->connected();
}

void coupling::describe(writer &one)
{
    attributes common = one.defined_.attributes_of("");
    for (const auto &[name, text] : one.texts_)
        common.push_back({name, text, {}, {}, attribute::words, true});
    for (const variable &what : one.defined_.variables()) {
        // What was put says more than the definition.
        auto put = std::find_if(one.first_.begin(), one.first_.end(),
                                [&](const pending &p) { return p.what.name == what.name; });
        describe(one, put == one.first_.end() ? what : put->what, common);
    }
    for (const auto *names : {&one.settings_.ragged, &one.settings_.own_steps})
        for (const std::string &name : *names)
            if (!one.offered_.count(name) && world_.rank == 0)
                std::fprintf(stderr, "ips_bridge: IO %s has no variable %s, which an engine "
                                     "parameter names\n",
                             one.settings_.io.c_str(), name.c_str());
}

void coupling::describe(writer &one, const variable &what, const attributes &common)
{
    if (what.dtype.empty() || what.is == form::unknown)
        return;
    offered array;
    numbers shape;
    array.first = what;
    array.array = array_name(one.settings_.prefix, what.name);
    array.own_steps = one.settings_.own_steps.count(what.name) > 0;
    array.ragged = what.is == form::local || what.is == form::joined ||
                   one.settings_.ragged.count(what.name) > 0;
    const std::string why = shape_of(what, array.ragged, world_.size, shape);
    if (!why.empty()) {
        if (world_.rank == 0)
            std::fprintf(stderr, "ips_bridge: IO %s: the analysis is not offered variable %s: %s\n",
                         one.settings_.io.c_str(), what.name.c_str(), why.c_str());
        return;
    }
    const std::string here = "variable " + what.name + " of IO " + one.settings_.io;
    const auto [other, is_new] = names_.emplace(array.array, here);
    if (!is_new)
        throw std::runtime_error("ips_bridge: " + other->second + " and " + here +
                                 " would both be array " + array.array +
                                 ": give one of the IOs an engine parameter Prefix");
    const char *name = array.array.c_str();
    check(ips_bridge_declare(bridge_, name, what.dtype.c_str(), static_cast<int>(shape.size()),
                             shape.data()));
    check(ips_bridge_steps(bridge_, name, 0, 1, one.settings_.steps));
    for (const attribute &each : common)
        add_attribute(array.array, each);
    for (const attribute &each : one.defined_.attributes_of(what.name))
        add_attribute(array.array, each);
    if (!array.ragged && !shape.empty())
        describe_blocks(one, array);
    one.offered_[what.name] = array;
}

void coupling::describe_blocks(const writer &one, const offered &array)
{
    const variable &what = array.first;
    std::vector<const variable *> blocks;
    for (const pending &put : one.first_)
        if (put.what.name == what.name && cells_in(put.what.count) > 0)
            blocks.push_back(&put.what);
    if (blocks.empty())
        blocks.push_back(&what);
    for (std::size_t i = 0; i < blocks.size(); i++) {
        numbers start = blocks[i]->start, count = blocks[i]->count;
        if (what.is == form::value_per_rank) {
            start = {world_.rank};
            count = {1};
        }
        const bool known = count.size() == what.shape.size() && start.size() == count.size();
        check(ips_bridge_block(bridge_, array.array.c_str(), what.dtype.c_str(),
                               static_cast<int>(what.is == form::value_per_rank ? 1
                                                                                : what.shape.size()),
                               known || what.is == form::value_per_rank ? start.data() : nullptr,
                               known || what.is == form::value_per_rank ? count.data() : nullptr,
                               nullptr));
    }
}

void coupling::add_attribute(const std::string &array, const attribute &one)
{
    const char *name = one.name.c_str();
    const auto count = [&](std::size_t n) { return one.single ? -1 : static_cast<std::int64_t>(n); };
    if (one.is == attribute::floating)
        check(ips_bridge_attribute_doubles(bridge_, array.c_str(), name, one.reals.data(),
                                           count(one.reals.size())));
    else if (one.is == attribute::whole)
        check(ips_bridge_attribute_integers(bridge_, array.c_str(), name, one.integers.data(),
                                            count(one.integers.size())));
    else
        check(ips_bridge_attribute(bridge_, array.c_str(), name, one.text.c_str()));
}

// ---- Joining --------------------------------------------------------------------------------------

// Rank 0 learns on which hosts the blocks are, so that chunks go to receivers near them.
void coupling::tell_where_ranks_are()
{
    const void *info = nullptr;
    std::size_t length = 0;
    std::vector<std::size_t> lengths;
    const int code = ips_bridge_get_rank_info(bridge_, &info, &length);
    const std::string all = world_.gather(
        code ? std::string() : std::string(static_cast<const char *>(info), length), lengths);
    if (world_.rank == 0 && std::find(lengths.begin(), lengths.end(), 0u) == lengths.end())
        check(ips_bridge_set_rank_infos(bridge_, all.data(), lengths.data()));
}

void coupling::join(const std::string &contact, const std::string &failure)
{
    const void *blob = nullptr;
    std::size_t length = 0;
    std::vector<char> bytes;
    std::string why = failure;
    if (!world_.broadcast) {
        if (!why.empty())
            throw std::runtime_error(why);
        // The join says what went wrong.
        (void)ips_bridge_request(bridge_, contact.empty() ? nullptr : contact.c_str(), &blob, &length);
        check(ips_bridge_join(bridge_, blob, length));
        return;
    }
    // All ranks learn of a failure of rank 0, which else they would wait for.
    bool asked = false;
    if (world_.rank == 0 && why.empty()) {
        asked = true;
        (void)ips_bridge_request(bridge_, contact.empty() ? nullptr : contact.c_str(), &blob, &length);
        const char *first = static_cast<const char *>(blob);
        bytes.assign(first, first + length);
    } else if (world_.rank == 0) {
        bytes.assign(why.begin(), why.end());
    }
    std::uint64_t head[2] = {asked, bytes.size()};
    world_.broadcast(reinterpret_cast<char *>(head), sizeof head);
    bytes.resize(static_cast<std::size_t>(head[1]));
    if (!bytes.empty())
        world_.broadcast(bytes.data(), bytes.size());
    if (!head[0] && why.empty())
        why.assign(bytes.begin(), bytes.end());
    if (!why.empty())
        throw std::runtime_error(why);
    check(ips_bridge_join(bridge_, bytes.data(), bytes.size()));
}

} // namespace ips_adios2
