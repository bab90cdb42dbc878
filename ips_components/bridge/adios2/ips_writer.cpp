#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "ips_coupling.hpp"

namespace ips_adios2 {

namespace {

std::int64_t product(const numbers &extents)
{
    std::int64_t all = 1;
    for (std::int64_t n : extents)
        all *= n;
    return all;
}

// Bytes from cell to cell along each dimension, and from the first byte of memory to the block.
numbers strides_of(const variable &what, std::int64_t &first)
{
    const numbers &memory = what.memory_count.empty() ? what.count : what.memory_count;
    numbers strides(memory.size());
    std::int64_t run = static_cast<std::int64_t>(what.itemsize);
    first = 0;
    for (std::size_t d = memory.size(); d-- > 0;) {
        strides[d] = run;
        if (!what.memory_count.empty())
            first += what.memory_start[d] * run;
        run *= memory[d];
    }
    return strides;
}

// Copy a block without gaps behind what `out` has.
void pack(const pending &one, std::vector<char> &out)
{
    std::int64_t first;
    const numbers strides = strides_of(one.what, first);
    const numbers &count = one.what.count;
    const std::size_t ndim = count.size();
    const std::size_t row = ndim ? static_cast<std::size_t>(count[ndim - 1]) * one.what.itemsize
                                 : one.what.itemsize;
    const std::int64_t rows = ndim && count[ndim - 1] ? product(count) / count[ndim - 1] : 1;
    numbers at(ndim, 0);
    if (!product(count))
        return;
    for (std::int64_t i = 0; i < rows; i++) {
        const char *from = one.data() + first;
        for (std::size_t d = 0; d + 1 < ndim; d++)
            from += at[d] * strides[d];
        out.insert(out.end(), from, from + row);
        for (std::size_t d = ndim < 2 ? 0 : ndim - 1; d-- > 0;) {
            if (++at[d] < count[d])
                break;
            at[d] = 0;
        }
    }
}

} // namespace

void pending::keep()
{
    if (!kept.empty() || !cells)
        return;
    const numbers &memory = what.memory_count.empty() ? what.count : what.memory_count;
    kept.assign(cells, cells + static_cast<std::size_t>(product(memory)) * what.itemsize);
    cells = nullptr;
}

std::int64_t offered::number(std::int64_t step)
{
    if (last != step) {
        last = step;
        steps++;
    }
    return own_steps ? steps - 1 : step;
}

writer::writer(settings settings, definitions defined, world world)
    : settings_(std::move(settings)), defined_(std::move(defined)), world_(std::move(world)),
      coupling_(coupling::of_process())
{
    coupling_->opened(this);
}

writer::~writer()
{
    if (!closed_)
        coupling_->failed("the engine of IO " + settings_.io + " was not closed");
    coupling_->dropped(this);
}

void writer::fail(const variable &what, const std::string &why) const
{
    const std::string text = "ips_bridge: IO " + settings_.io + ", variable " + what.name +
                             ", step " + std::to_string(step_) + ", rank " +
                             std::to_string(world_.rank) + ": " + why;
    coupling_->failed(text);
    throw std::runtime_error(text);
}

void writer::check(int code) const
{
    if (!code)
        return;
    const std::string text = std::string("ips_bridge: ") + ips_bridge_error(coupling_->bridge());
    coupling_->failed(text);
    throw std::runtime_error(text);
}

// ---- Steps ----------------------------------------------------------------------------------------

void writer::begin_step()
{
    if (ended_one_)
        coupling_->connect_if_due(true);
}

void writer::end_step()
{
    perform_puts();
    ended_one_ = true;
    if (coupling_->is_connected())
        finish_step(step_);
    else
        coupling_->connect_if_due(false);
    step_++;
    any_ = false;
}

void writer::close()
{
    if (closed_)
        return;
    if (any_) // a program that writes without steps
        end_step();
    if (!coupling_->is_connected() && ended_one_)
        coupling_->connect_if_due(true);
    closed_ = true;
    coupling_->closed(this);
}

// The bridge has just connected: send what was kept.
void writer::connected()
{
    for (auto &[name, array] : offered_)
        array.handle = ips_bridge_find(coupling_->bridge(), array.array.c_str());
    std::vector<pending> kept;
    kept.swap(first_);
    for (pending &one : kept)
        route(std::move(one), false);
    if (ended_one_)
        finish_step(0);
}

void writer::perform_puts()
{
    std::vector<pending> deferred;
    deferred.swap(deferred_);
    for (const pending &one : deferred)
        send(offered_.at(one.what.name), one);
    for (auto *waiting : {&first_, &rows_})
        for (pending &one : *waiting)
            one.keep();
}

void writer::finish_step(std::int64_t step)
{
    perform_puts();
    for (const auto &[name, one] : values_)
        send(offered_.at(name), one);
    values_.clear();
    send_rows(step);
    if (!coupling_->is_shared()) // else another engine goes on with this step
        check(ips_bridge_step_end(coupling_->bridge(), step));
}

// ---- Puts -----------------------------------------------------------------------------------------

void writer::put(const variable &what, const void *cells, bool now)
{
    pending one;
    any_ = true;
    one.what = what;
    one.step = step_;
    one.cells = static_cast<const char *>(cells);
    if (coupling_->is_connected()) {
        route(std::move(one), now);
        return;
    }
    if (now || what.is == form::value)
        one.keep();
    first_.push_back(std::move(one));
}

void writer::put_text(const std::string &name, const std::string &text)
{
    any_ = true;
    if (!coupling_->is_connected())
        texts_[name] = text;
}

bool writer::fits(const offered &array, const variable &what) const
{
    const variable &first = array.first;
    const numbers &was = first.is == form::local ? first.count : first.shape;
    const numbers &now = what.is == form::local ? what.count : what.shape;
    return what.is == first.is && what.dtype == first.dtype && was.size() == now.size() &&
           std::equal(was.begin() + array.ragged, was.end(), now.begin() + array.ragged);
}

// Send the cells now, at the end of the step, or never.
void writer::route(pending one, bool now)
{
    const auto found = offered_.find(one.what.name);
    if (found == offered_.end() || !found->second.handle)
        return; // the analysis does not know it
    offered &array = found->second;
    const std::int64_t number = array.number(one.step);
    if (!ips_bridge_array_wants(array.handle, number)) {
        if (!array.ragged && product(one.what.count))
            send(array, one); // nothing is read; it is accounted for
        return;
    }
    if (!fits(array, one.what))
        fail(one.what, "its type or shape is not that of the first step any more, with which it was "
                       "described to the analysis; if its first dimension varies, name it in the "
                       "engine's parameter Ragged");
    if (one.what.is == form::value) {
        one.keep();
        values_[one.what.name] = std::move(one);
    } else if (array.ragged) {
        if (now)
            one.keep();
        rows_.push_back(std::move(one));
    } else if (now) {
        send(array, one);
    } else {
        deferred_.push_back(std::move(one));
    }
}

void writer::send(offered &array, const pending &one)
{
    std::int64_t first;
    numbers strides = strides_of(one.what, first), start = one.what.start, count = one.what.count;
    if (one.what.is == form::value_per_rank) {
        start = {world_.rank};
        count = {1};
        strides = {static_cast<std::int64_t>(one.what.itemsize)};
    } else if (one.what.is == form::value) {
        start.clear();
        count.clear();
        strides.clear();
    }
    if (!product(count))
        return;
    if (start.size() != count.size())
        fail(one.what, "it has a selection without a start");
    const bool own = one.what.is == form::value; // the bridge knows whose number is sent
    const std::int64_t number = array.own_steps ? array.steps - 1 : one.step;
    check(ips_bridge_array_put_block(array.handle, number, one.data() + first,
                                     own ? nullptr : start.data(), own ? nullptr : count.data(),
                                     own ? nullptr : strides.data()));
}

// Rows of all blocks of a variable, one behind the other; none where the rank has put none.
void writer::send_rows(std::int64_t step)
{
    std::vector<pending> all;
    all.swap(rows_);
    for (auto &[name, array] : offered_) {
        if (!array.ragged || !array.handle || !ips_bridge_array_wants(array.handle, step))
            continue;
        std::vector<const pending *> blocks;
        for (const pending &one : all)
            if (one.what.name == name)
                blocks.push_back(&one);
        if (blocks.size() == 1) {
            std::int64_t first;
            const pending &one = *blocks[0];
            const numbers strides = strides_of(one.what, first);
            check(ips_bridge_array_put_rows(array.handle, step, one.data() + first,
                                            one.what.count[0], strides.data()));
            continue;
        }
        std::vector<char> packed;
        std::int64_t rows = 0;
        for (const pending *one : blocks) {
            pack(*one, packed);
            rows += one->what.count[0];
        }
        check(ips_bridge_array_put_rows(array.handle, step, packed.data(), rows, nullptr));
    }
}

} // namespace ips_adios2
