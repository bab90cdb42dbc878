// Heat in a square plate on a 2-D grid of MPI ranks, in C++17: the core of heat2d.py, to show the
// bridge's C++ header. It does what `heat2d.py --initial sine --source none --boundary 0 0 0 0` does,
// bit for bit, with the options --nx, --ny, --steps and --every.
//
//     make cpp
//
// or with flags by `ips-components-config --cflags` and `--libs`, and -ffp-contract=off for the bits.
#include <mpi.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ips_bridge.hpp>

namespace {

constexpr double pi = 3.141592653589793, diffusivity = 1.1e-4;

struct options {
    int nx = 64, ny = 64, steps = 200, every = 1;
};

options parse(int argc, char **argv)
{
    options found;
    for (int k = 1; k < argc; k += 2) {
        const std::string name = argv[k];
        int *value = name == "--nx"      ? &found.nx
                     : name == "--ny"    ? &found.ny
                     : name == "--steps" ? &found.steps
                     : name == "--every" ? &found.every
                                         : nullptr;
        if (!value || k + 1 == argc || (*value = std::atoi(argv[k + 1])) < 1)
            throw std::invalid_argument("unknown option, or no positive number: " + name);
    }
    return found;
}

// This rank's block, with a rim of one cell around it.
class plate {
public:
    plate(MPI_Comm world, const options &opt) : dx_(1.0 / opt.nx), dy_(1.0 / opt.ny)
    {
        int size = 1, rank = 0, dims[2] = {0, 0}, coords[2];
        const int periods[2] = {0, 0};
        MPI_Comm_size(world, &size);
        MPI_Dims_create(size, 2, dims);
        MPI_Cart_create(world, 2, dims, periods, 0, &cart_);
        MPI_Comm_rank(cart_, &rank);
        MPI_Cart_coords(cart_, rank, 2, coords);
        MPI_Cart_shift(cart_, 0, 1, &lower_[0], &upper_[0]);
        MPI_Cart_shift(cart_, 1, 1, &lower_[1], &upper_[1]);
        y0 = opt.ny * coords[0] / dims[0];
        x0 = opt.nx * coords[1] / dims[1];
        h = opt.ny * (coords[0] + 1) / dims[0] - y0;
        w = opt.nx * (coords[1] + 1) / dims[1] - x0;
        cells.assign(static_cast<std::size_t>((h + 2) * (w + 2)), 0.0);
        next_ = cells;
        for (int j = 0; j < h; j++)
            for (int i = 0; i < w; i++)
                at(j + 1, i + 1) = std::sin(pi * ((y0 + j + 0.5) * dy_)) *
                                   std::sin(pi * ((x0 + i + 0.5) * dx_));
    }
    plate(const plate &) = delete;
    plate &operator=(const plate &) = delete;
    ~plate() { MPI_Comm_free(&cart_); }

    void advance()
    {
        const double dt = 0.5 * (0.5 / (diffusivity * (1.0 / (dx_ * dx_) + 1.0 / (dy_ * dy_))));
        const double ax = diffusivity * dt / (dx_ * dx_), ay = diffusivity * dt / (dy_ * dy_);
        exchange(0, 1, lower_[0], h + 1, upper_[0]);
        exchange(0, h, upper_[0], 0, lower_[0]);
        exchange(1, 1, lower_[1], w + 1, upper_[1]);
        exchange(1, w, upper_[1], 0, lower_[1]);
        for (int j = 1; j <= h; j++)
            for (int i = 1; i <= w; i++) {
                const double centre = at(j, i);
                const double along_x = (at(j, i - 1) - 2.0 * centre) + at(j, i + 1);
                const double along_y = (at(j - 1, i) - 2.0 * centre) + at(j + 1, i);
                next_[place(j, i)] = centre + (ax * along_x + ay * along_y);
            }
        std::swap(cells, next_);
    }

    int y0 = 0, x0 = 0, h = 0, w = 0;
    std::vector<double> cells;

private:
    std::size_t place(int j, int i) const { return static_cast<std::size_t>(j * (w + 2) + i); }
    double &at(int j, int i) { return cells[place(j, i)]; }

    // Send a line of edge cells, and fill the rim by what comes, or by the wall's image.
    void exchange(int axis, int from, int to, int rim, int source)
    {
        const int n = axis == 0 ? w : h, inward = rim == 0 ? 1 : rim - 1;
        std::vector<double> out(static_cast<std::size_t>(n)), in(out);
        for (int k = 0; k < n; k++)
            out[static_cast<std::size_t>(k)] = axis == 0 ? at(from, k + 1) : at(k + 1, from);
        MPI_Sendrecv(out.data(), n, MPI_DOUBLE, to, 0, in.data(), n, MPI_DOUBLE, source, 0, cart_,
                     MPI_STATUS_IGNORE);
        for (int k = 0; k < n; k++) {
            double &cell = axis == 0 ? at(rim, k + 1) : at(k + 1, rim);
            const double edge = axis == 0 ? at(inward, k + 1) : at(k + 1, inward);
            cell = source != MPI_PROC_NULL ? in[static_cast<std::size_t>(k)] : 2.0 * 0.0 - edge;
        }
    }

    MPI_Comm cart_ = MPI_COMM_NULL;
    double dx_, dy_;
    int lower_[2], upper_[2];
    std::vector<double> next_;
};

void simulate(const options &opt)
{
    plate plate(MPI_COMM_WORLD, opt);

    ips::bridge bridge(MPI_COMM_WORLD);
    auto temperature = bridge.declare<double>("temperature", {opt.ny, opt.nx});
    temperature.steps((opt.steps + opt.every - 1) / opt.every, 0, opt.every)
        .dims("y,x")
        .attribute("units", "K")
        .block({plate.y0, plate.x0}, {plate.h, plate.w}, {1, 1});
    bridge.connect();
    for (int step = 0; step < opt.steps; step++) {
        if (step > 0)
            plate.advance();
        if (step % opt.every == 0)
            temperature.put(step, plate.cells);
    }
    bridge.close();
}

} // namespace

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    try {
        simulate(parse(argc, argv));
    } catch (const std::exception &error) {
        std::cerr << "heat2d: " << error.what() << std::endl;
        MPI_Abort(MPI_COMM_WORLD, 1); // the other ranks may wait for this one
        return 1;                     // MPI_Abort of MPICH 5 returns
    }
    MPI_Finalize();
    return 0;
}
