/* Heat in a square plate on a 2-D grid of MPI ranks: heat2d.py in C, bit for bit.
 *
 * dT/dt = D (d2T/dx2 + d2T/dy2) + S(x, y, t) on 1 m x 1 m, T in K above ambient, explicit finite
 * differences on cell centres. The options are those of heat2d.py and are explained there. The
 * bits agree because both take exp and sin from the C library and add in the same order; the
 * compiler must not fuse or reorder (-ffp-contract=off, no -ffast-math).
 */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include <math.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef WITH_BRIDGE
#include <ips_bridge_mpi.h>
#endif

#define PI 3.141592653589793
#define SPOT 0.08       /* m, radius of a heat source */
#define INSULATED NAN   /* a wall without a temperature */

enum { WEST, EAST, SOUTH, NORTH };
enum { Y, X };

static struct options {
    int nx, ny, first, steps, px, py, every, no_coupling;
    double dt, diffusivity, power, period, pace, wall[4];
    const char *source, *initial, *posthoc, *state;
} opt = {
    .nx = 64, .ny = 64, .steps = 200, .every = 1,
    .diffusivity = 1.1e-4, .power = 1.0, .period = -1.0,
    .wall = {2.0, 0.0, INSULATED, INSULATED}, .source = "eight,sweep,pulse", .initial = "zero",
};

/* This rank's block: h x w cells from (y0, x0) on, stored with a rim of one cell. */
static struct block {
    MPI_Comm cart;
    int rank, y0, x0, h, w, lower[2], upper[2];
    double *x, *y, *along_x, *along_y;
} me;

/* How many steps are published from step opt.first on. */
static int published(void)
{
    return (opt.steps - opt.first + opt.every - 1) / opt.every;
}

#define AT(T, j, i) (T)[(size_t)(j) * (me.w + 2) + (i)]

static void fail(const char *format, ...)
{
    if (me.rank == 0) {
        va_list values;
        va_start(values, format);
        fputs("heat2d: ", stderr);
        vfprintf(stderr, format, values);
        fputc('\n', stderr);
        va_end(values);
    }
    MPI_Finalize(); /* every rank reads the same options and fails alike */
    exit(2);
}

/* For what one rank alone suffers: the others would wait for it for ever. */
static void end_all(const char *why)
{
    fprintf(stderr, "heat2d: rank %d: %s\n", me.rank, why);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1); /* MPI_Abort of MPICH 5 returns */
}

static double *allocate(size_t count)
{
    double *p = calloc(count, sizeof *p);
    if (!p)
        end_all("no memory");
    return p;
}

/* ---- Coupling: the only function that knows the bridge (-DWITH_BRIDGE) ---------------------- */

enum moment { OPEN, PUT, CLOSE };

#ifdef WITH_BRIDGE
static ips_bridge *bridge;

/* The analysis must learn that this rank is in trouble, and the other ranks must not wait for it. */
static void check(int code)
{
    if (code)
        end_all(ips_bridge_error(bridge));
}

static void couple(enum moment now, const double *T, int step)
{
    if (opt.no_coupling)
        return;
    switch (now) {
    case OPEN: {
        int size;
        int64_t shape[] = {opt.ny, opt.nx}, offset[] = {me.y0, me.x0}, count[] = {me.h, me.w};
        MPI_Comm_size(MPI_COMM_WORLD, &size);
        check(ips_bridge_open(&bridge, me.rank, size));
        check(ips_bridge_declare(bridge, "temperature", "f8", 2, shape));
        check(ips_bridge_steps(bridge, "temperature", opt.first, opt.every, published()));
        check(ips_bridge_dims(bridge, "temperature", "y,x"));
        check(ips_bridge_attribute(bridge, "temperature", "units", "K"));
        check(ips_bridge_attribute(bridge, "temperature", "long_name",
                                   "temperature above ambient"));
        check(ips_bridge_block(bridge, "temperature", "f8", 2, offset, count, (int64_t[]){1, 1}));
        check(ips_bridge_connect_mpi(bridge, MPI_COMM_WORLD, NULL));
        break;
    }
    case PUT:
        check(ips_bridge_put(bridge, "temperature", step, T));
        break;
    case CLOSE:
        check(ips_bridge_close(bridge, 0, NULL));
        ips_bridge_free(bridge);
        break;
    }
}
#else
static void couple(enum moment now, const double *T, int step)
{
    if (opt.no_coupling)
        return;
    (void)now, (void)T, (void)step;
    fail("built without the bridge: add --no-coupling");
}
#endif

/* ---- Physics ------------------------------------------------------------------------------ */

static double gaussian(double p, double centre, double width)
{
    return exp(-0.5 * (((p - centre) / width) * ((p - centre) / width)));
}

/* Image behind a wall, half a cell away: the mean of both is the wall's temperature. */
static double behind(double wall, double cell)
{
    return isnan(wall) ? cell : 2.0 * wall - cell;
}

static void initial_state(double *T)
{
    int sine = !strcmp(opt.initial, "sine");
    if (!strcmp(opt.initial, "zero"))
        return;
    for (int i = 0; i < me.w; i++)
        me.along_x[i] = sine ? sin(PI * me.x[i]) : gaussian(me.x[i], 0.5, 0.1);
    for (int j = 0; j < me.h; j++)
        me.along_y[j] = sine ? sin(PI * me.y[j]) : gaussian(me.y[j], 0.5, 0.1);
    for (int j = 0; j < me.h; j++)
        for (int i = 0; i < me.w; i++)
            AT(T, j + 1, i + 1) = me.along_y[j] * me.along_x[i];
}

/* Send the edge cells at `from` to `to` and fill the rim at `rim` with what `source` sends. */
static void shift(double *T, int axis, int from, int to, int rim, int source, double wall)
{
    int n = axis == Y ? me.w : me.h;
    double *out = me.along_x, *in = me.along_y; /* scratch, long enough for either axis */
    for (int k = 0; k < n; k++)
        out[k] = axis == Y ? AT(T, from, k + 1) : AT(T, k + 1, from);
    MPI_Sendrecv(out, n, MPI_DOUBLE, to, 0, in, n, MPI_DOUBLE, source, 0, me.cart,
                 MPI_STATUS_IGNORE);
    for (int k = 0; k < n; k++) {
        double *cell = axis == Y ? &AT(T, rim, k + 1) : &AT(T, k + 1, rim);
        int inward = rim == 0 ? 1 : -1;
        double edge = axis == Y ? AT(T, rim + inward, k + 1) : AT(T, k + 1, rim + inward);
        *cell = source != MPI_PROC_NULL ? in[k] : behind(wall, edge);
    }
}

static void fill_rim(double *T)
{
    shift(T, Y, 1, me.lower[Y], me.h + 1, me.upper[Y], opt.wall[NORTH]);
    shift(T, Y, me.h, me.upper[Y], 0, me.lower[Y], opt.wall[SOUTH]);
    shift(T, X, 1, me.lower[X], me.w + 1, me.upper[X], opt.wall[EAST]);
    shift(T, X, me.w, me.upper[X], 0, me.lower[X], opt.wall[WEST]);
}

static void advance(double *T, double *new, double ax, double ay)
{
    fill_rim(T);
    for (int j = 1; j <= me.h; j++)
        for (int i = 1; i <= me.w; i++) {
            double centre = AT(T, j, i);
            double along_x = (AT(T, j, i - 1) - 2.0 * centre) + AT(T, j, i + 1);
            double along_y = (AT(T, j - 1, i) - 2.0 * centre) + AT(T, j + 1, i);
            AT(new, j, i) = centre + (ax * along_x + ay * along_y);
        }
}

static void spot(double *T, const char *name, double strength, double x, double y)
{
    if (!strstr(opt.source, name))
        return;
    double gain = opt.dt * opt.power * strength;
    for (int i = 0; i < me.w; i++)
        me.along_x[i] = gaussian(me.x[i], x, SPOT);
    for (int j = 0; j < me.h; j++)
        me.along_y[j] = gain * gaussian(me.y[j], y, SPOT);
    for (int j = 0; j < me.h; j++)
        for (int i = 0; i < me.w; i++)
            AT(T, j + 1, i + 1) += me.along_y[j] * me.along_x[i];
}

/* Add what the sources give between t and t + dt: pairs of a hot and a cold spot, and a pulse. */
static void heat(double *T, double t)
{
    double phase = 2.0 * PI * t / opt.period;
    double a = 0.3 * sin(phase), b = 0.2 * sin(2.0 * phase), c = 0.3 * sin(3.0 * phase);
    spot(T, "eight", 1.0, 0.5 + a, 0.5 + b);
    spot(T, "eight", -1.0, 0.5 - a, 0.5 + b);
    spot(T, "sweep", 0.7, 0.2, 0.5 + c);
    spot(T, "sweep", -0.7, 0.2, 0.5 - c);
    spot(T, "pulse", sin(4.0 * phase), 0.75, 0.75);
}

/* ---- One .npy file of shape (time, y, x): every rank writes its rows where they belong ------ */

enum { HEADER = 128 };

/* What such a file begins with. */
static void describe(char header[HEADER + 1], int times)
{
    char about[HEADER - 10];
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    snprintf(about, sizeof about, "{'descr': '<f8', 'fortran_order': False, 'shape': (%d, %d, %d)}",
             times, opt.ny, opt.nx);
    snprintf(header + 10, HEADER - 9, "%-117s\n", about);
}

static FILE *create(const char *path, int times)
{
    char header[HEADER + 1];
    FILE *npy = me.rank == 0 ? fopen(path, "wb") : NULL;
    int ok = npy != NULL;
    if (npy) {
        describe(header, times);
        ok = fwrite(header, 1, HEADER, npy) == HEADER;
        ok = !fclose(npy) && ok;
    }
    MPI_Bcast(&ok, 1, MPI_INT, 0, MPI_COMM_WORLD);
    npy = ok ? fopen(path, "r+b") : NULL;
    if (!npy)
        fail("cannot write %s", path);
    return npy;
}

static int seek(FILE *npy, long long time, int j)
{
    long long cell = (time * opt.ny + me.y0 + j) * opt.nx + me.x0;
    return fseeko(npy, HEADER + 8 * cell, SEEK_SET);
}

static void write_field(FILE *npy, const double *T, long long time)
{
    for (int j = 0; j < me.h; j++)
        if (seek(npy, time, j) || fwrite(&AT(T, j + 1, 1), sizeof *T, me.w, npy) != (size_t)me.w)
            end_all("cannot write all of a field");
}

static void finish(FILE *npy)
{
    if (fclose(npy))
        end_all("cannot write all of a field");
}

/* Go on from the field that an earlier run has left. */
static void read_state(double *T)
{
    char header[HEADER], expected[HEADER + 1];
    FILE *npy = me.rank == 0 ? fopen(opt.state, "rb") : NULL;
    int ok = npy != NULL;
    describe(expected, 1);
    if (npy) {
        ok = fread(header, 1, HEADER, npy) == HEADER && !memcmp(header, expected, HEADER);
        fclose(npy);
    }
    MPI_Bcast(&ok, 1, MPI_INT, 0, MPI_COMM_WORLD);
    if (!ok)
        fail("--first %d needs the field of the step before, of %d x %d cells, in --state %s",
             opt.first, opt.nx, opt.ny, opt.state);
    npy = fopen(opt.state, "rb");
    for (int j = 0; j < me.h; j++)
        if (!npy || seek(npy, 0, j) ||
            fread(&AT(T, j + 1, 1), sizeof *T, me.w, npy) != (size_t)me.w)
            end_all("cannot read all of --state");
    fclose(npy);
    MPI_Barrier(MPI_COMM_WORLD); /* no rank writes the file anew while another reads it */
}

/* ---- Command line ------------------------------------------------------------------------- */

static double number(const char *name, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end)
        fail("%s takes a number, got %s", name, text);
    return value;
}

static void parse(int argc, char **argv, int size)
{
    const struct {
        const char *name;
        int *whole;
        double *real;
        const char **text;
    } known[] = {
        {"--nx", &opt.nx, NULL, NULL},
        {"--ny", &opt.ny, NULL, NULL},
        {"--steps", &opt.steps, NULL, NULL},
        {"--first", &opt.first, NULL, NULL},
        {"--px", &opt.px, NULL, NULL},
        {"--py", &opt.py, NULL, NULL},
        {"--every", &opt.every, NULL, NULL},
        {"--dt", NULL, &opt.dt, NULL},
        {"--diffusivity", NULL, &opt.diffusivity, NULL},
        {"--power", NULL, &opt.power, NULL},
        {"--period", NULL, &opt.period, NULL},
        {"--pace", NULL, &opt.pace, NULL},
        {"--source", NULL, NULL, &opt.source},
        {"--initial", NULL, NULL, &opt.initial},
        {"--posthoc", NULL, NULL, &opt.posthoc},
        {"--state", NULL, NULL, &opt.state},
    };
    const size_t n_known = sizeof known / sizeof *known;
    int dt_given = 0;
    for (int k = 1; k < argc; k++) {
        const char *name = argv[k];
        size_t which = 0;
        if (!strcmp(name, "--no-coupling")) {
            opt.no_coupling = 1;
        } else if (!strcmp(name, "--boundary") && k + 4 < argc) {
            for (int side = 0; side < 4; side++) {
                const char *value = argv[++k];
                opt.wall[side] = strcmp(value, "insulated") ? number(name, value) : INSULATED;
            }
        } else {
            while (which < n_known && strcmp(known[which].name, name))
                which++;
            if (which == n_known || k + 1 == argc)
                fail("unknown option or value missing: %s", name);
            const char *value = argv[++k];
            if (known[which].whole)
                *known[which].whole = (int)number(name, value);
            else if (known[which].real)
                *known[which].real = number(name, value);
            else
                *known[which].text = value;
            dt_given |= known[which].real == &opt.dt;
        }
    }

    if (opt.nx <= 0 || opt.ny <= 0 || opt.steps <= 0 || opt.every <= 0 || !(opt.diffusivity > 0))
        fail("--nx, --ny, --steps, --every and --diffusivity must be positive");
    if (opt.first < 0 || opt.first >= opt.steps || opt.first % opt.every)
        fail("--first must be a published step below %d, got %d", opt.steps, opt.first);
    if (opt.first > 0 && !opt.state)
        fail("--first %d needs the field of the step before in --state", opt.first);
    if (strcmp(opt.initial, "zero") && strcmp(opt.initial, "gaussian") &&
        strcmp(opt.initial, "sine"))
        fail("--initial takes zero, gaussian or sine, got %s", opt.initial);
    double dx = 1.0 / opt.nx, dy = 1.0 / opt.ny;
    double limit = 0.5 / (opt.diffusivity * (1.0 / (dx * dx) + 1.0 / (dy * dy)));
    if (!dt_given)
        opt.dt = 0.5 * limit;
    if (!(opt.dt > 0.0 && opt.dt <= limit))
        fail("--dt must be > 0 and <= %g s to be stable, got %g", limit, opt.dt);
    if (opt.period < 0.0)
        opt.period = opt.steps * opt.dt / 3.0;
    if (opt.px == 0 && opt.py == 0) {
        int dims[2] = {0, 0};
        MPI_Dims_create(size, 2, dims);
        opt.py = dims[Y];
        opt.px = dims[X];
    } else if (opt.px == 0) {
        opt.px = size / opt.py;
    } else if (opt.py == 0) {
        opt.py = size / opt.px;
    }
    if (opt.px * opt.py != size || opt.px < 1 || opt.px > opt.nx || opt.py > opt.ny)
        fail("--px %d x --py %d must make %d ranks, each with at least one cell of the %d x %d",
             opt.px, opt.py, size, opt.nx, opt.ny);
}

static void divide(double dx, double dy)
{
    int coords[2];
    MPI_Cart_create(MPI_COMM_WORLD, 2, (int[]){opt.py, opt.px}, (int[]){0, 0}, 0, &me.cart);
    MPI_Cart_coords(me.cart, me.rank, 2, coords);
    MPI_Cart_shift(me.cart, Y, 1, &me.lower[Y], &me.upper[Y]);
    MPI_Cart_shift(me.cart, X, 1, &me.lower[X], &me.upper[X]);
    me.y0 = (int)((long long)opt.ny * coords[Y] / opt.py);
    me.x0 = (int)((long long)opt.nx * coords[X] / opt.px);
    me.h = (int)((long long)opt.ny * (coords[Y] + 1) / opt.py) - me.y0;
    me.w = (int)((long long)opt.nx * (coords[X] + 1) / opt.px) - me.x0;

    size_t longest = me.h > me.w ? me.h : me.w;
    me.x = allocate(me.w);
    me.y = allocate(me.h);
    me.along_x = allocate(longest);
    me.along_y = allocate(longest);
    for (int i = 0; i < me.w; i++)
        me.x[i] = ((me.x0 + i) + 0.5) * dx;
    for (int j = 0; j < me.h; j++)
        me.y[j] = ((me.y0 + j) + 0.5) * dy;
}

int main(int argc, char **argv)
{
    int size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    parse(argc, argv, size);

    double dx = 1.0 / opt.nx, dy = 1.0 / opt.ny;
    double ax = opt.diffusivity * opt.dt / (dx * dx);
    double ay = opt.diffusivity * opt.dt / (dy * dy);
    divide(dx, dy);
    double *T = allocate((size_t)(me.h + 2) * (me.w + 2));
    double *new = allocate((size_t)(me.h + 2) * (me.w + 2));
    if (opt.first > 0)
        read_state(T);
    else
        initial_state(T);

    couple(OPEN, T, 0);
    FILE *npy = opt.posthoc ? create(opt.posthoc, published()) : NULL;
    double start = MPI_Wtime();
    for (int step = opt.first; step < opt.steps; step++) {
        if (step > 0) {
            advance(T, new, ax, ay);
            heat(new, (step - 1) * opt.dt);
            double *old = T;
            T = new;
            new = old;
        }
        if (step % opt.every == 0) {
            couple(PUT, T, step);
            if (npy)
                write_field(npy, T, (step - opt.first) / opt.every);
        }
        long ns = (long)(opt.pace * 1e6);
        if (ns > 0)
            nanosleep(&(struct timespec){ns / 1000000000, ns % 1000000000}, NULL);
    }
    double seconds = MPI_Wtime() - start;
    couple(CLOSE, T, opt.steps);
    if (npy)
        finish(npy);
    if (opt.state) {
        npy = create(opt.state, 1);
        write_field(npy, T, 0);
        finish(npy);
    }
    if (me.rank == 0)
        printf("heat2d: %d steps of %d x %d cells on %d x %d ranks, dt = %g s,"
               " computed in %.2f s\n",
               opt.steps - opt.first, opt.nx, opt.ny, opt.px, opt.py, opt.dt, seconds);

    free(T), free(new), free(me.x), free(me.y), free(me.along_x), free(me.along_y);
    MPI_Comm_free(&me.cart);
    MPI_Finalize();
    return 0;
}
