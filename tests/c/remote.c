/* A simulation rank that does what its standard input says, one command per line, and answers each
 * with one line: "ok ..." or "error CODE words". The tests are thus real C programs, driven from
 * Python step by step. Cells follow a pattern of global index and step that Python knows too. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ips_bridge.h"

enum { DIMS = 16, ARRAYS = 8, BLOCKS = 16, ANSWERED = 99 };

static struct known {
    char name[64];
    int ndim;
    int64_t itemsize, global[DIMS], offset[DIMS], count[DIMS], low[DIMS], high[DIMS];
    void *acquired;
    int64_t step, n_ids, *ids;
} known[ARRAYS];

static struct block {
    const struct known *array;
    int64_t step, offset[DIMS], count[DIMS];
    void *cells;
} blocks[BLOCKS];

static ips_bridge *bridge;
static int rank;
static char *rest;

static const char *word(void)
{
    const char *token = strtok_r(NULL, " \n", &rest);
    return token ? token : "";
}

static int64_t number(void)
{
    return strtoll(word(), NULL, 10);
}

static void numbers(int64_t *out, int n)
{
    for (int i = 0; i < n; i++)
        out[i] = number();
}

static struct known *find(const char *name)
{
    for (int i = 0; i < ARRAYS; i++)
        if (!strcmp(known[i].name, name))
            return &known[i];
    fprintf(stderr, "remote: no array %s\n", name);
    exit(2);
}

static void pattern(unsigned char *cell, int64_t itemsize, int64_t index, int64_t step)
{
    for (int64_t k = 0; k < itemsize; k++)
        cell[k] = (unsigned char)(index * 7 + step * 13 + k * 31);
}

/* Fill a block, halo included (with 0xEE), that lies in memory with the given strides. */
static void fill(unsigned char *first, const struct known *a, const int64_t *offset,
                 const int64_t *count, const int64_t *strides, int64_t step)
{
    int64_t at[DIMS] = {0}, total = 1;
    for (int d = 0; d < a->ndim; d++)
        total *= count[d] + a->low[d] + a->high[d];
    for (int64_t i = 0; i < total; i++) {
        int64_t index = 0, place = 0;
        int inside = 1;
        for (int d = 0; d < a->ndim; d++) {
            int64_t own = at[d] - a->low[d];
            inside &= own >= 0 && own < count[d];
            index = index * a->global[d] + offset[d] + own;
            place += at[d] * strides[d];
        }
        if (inside)
            pattern(first + place, a->itemsize, index, step);
        else
            memset(first + place, 0xEE, (size_t)a->itemsize);
        for (int d = a->ndim - 1; d >= 0 && ++at[d] == count[d] + a->low[d] + a->high[d]; d--)
            at[d] = 0;
    }
}

/* Strides of an order: C, F (first dimension fastest), or R (C, backwards along all dimensions);
 * returns the bytes, and where the first cell lies. */
static size_t layout(const struct known *a, const int64_t *count, char order, int64_t *strides,
                     size_t *first)
{
    int64_t run = a->itemsize;
    *first = 0;
    for (int i = 0; i < a->ndim; i++) {
        int d = order == 'F' ? i : a->ndim - 1 - i;
        int64_t n = count[d] + a->low[d] + a->high[d];
        strides[d] = order == 'R' ? -run : run;
        if (order == 'R' && n)
            *first += (size_t)((n - 1) * run);
        run *= n;
    }
    return (size_t)run;
}

/* Blocks go by handle where there is one. */
static int by_handle(const char *name)
{
    return ips_bridge_find(bridge, name) != NULL;
}

/* Put `n` steps, one right after the other: the blocks are computed before. */
static int put(struct known *a, int64_t step, int64_t n, const int64_t *offset, const int64_t *count,
               char order)
{
    int64_t strides[DIMS];
    size_t first, bytes = layout(a, count, order, strides, &first);
    unsigned char *all = malloc((size_t)n * (bytes + 1));
    int code = 0;
    for (int64_t i = 0; i < n; i++)
        fill(all + (size_t)i * bytes + first, a, offset, count, strides, step + i);
    for (int64_t i = 0; i < n && !code; i++, step++) {
        unsigned char *cells = all + (size_t)i * bytes;
        if (order == 'C' && offset == a->offset)
            code = ips_bridge_put(bridge, a->name, step, cells);
        else
            code = by_handle(a->name) ? ips_bridge_array_put_block(ips_bridge_find(bridge, a->name), step,
                                                                   cells + first, offset, count, strides)
                                      : ips_bridge_put_block(bridge, a->name, step, cells + first,
                                                             offset, count, strides);
        memset(cells, 0xDD, bytes); /* it may be reused on return */
    }
    free(all);
    return code;
}

static int put_rows(struct known *a, int64_t step, int64_t rows)
{
    int64_t columns = 1;
    for (int d = 1; d < a->ndim; d++)
        columns *= a->global[d];
    unsigned char *cells = malloc((size_t)(rows * columns * a->itemsize) + 1);
    int code;
    for (int64_t i = 0; i < rows * columns; i++)
        pattern(cells + i * a->itemsize, a->itemsize, rank * 1000003 + i, step);
    code = ips_bridge_put_rows(bridge, a->name, step, cells, rows, NULL);
    free(cells);
    return code;
}

/* Ids of a line: how many, then each. */
static int64_t *list(int64_t *n)
{
    int64_t *out;
    *n = number();
    out = malloc(sizeof *out * (size_t)(*n > 0 ? *n + 1 : 1));
    for (int64_t i = 0; i < *n; i++)
        out[i] = number();
    return out;
}

/* Rows whose cells follow the pattern of their ids; without ids, those that were described. */
static int put_ids(struct known *a, int64_t step)
{
    int64_t shift = number(), n, columns = 1, *ids = list(&n);
    const int64_t *of = n < 0 ? a->ids : ids;
    int64_t rows = n < 0 ? a->n_ids : n;
    for (int d = 1; d < a->ndim; d++)
        columns *= a->global[d];
    unsigned char *cells = malloc((size_t)(rows * columns * a->itemsize) + 1);
    for (int64_t i = 0; i < rows * columns; i++)
        pattern(cells + i * a->itemsize, a->itemsize, of[i / columns] * columns + i % columns,
                step + shift);
    int code = n < 0 ? ips_bridge_put_rows(bridge, a->name, step, cells, rows, NULL)
                     : ips_bridge_put_ids(bridge, a->name, step, cells, rows, ids, NULL);
    memset(cells, 0xDD, (size_t)(rows * columns * a->itemsize));
    free(cells);
    free(ids);
    return code;
}

/* Rows by a list of indices, the first half of them out of an array with a gap behind every row. */
static int put_parts(struct known *a, int64_t step)
{
    int64_t n, columns = 1, last = 0, *index = list(&n), strides[DIMS], run = a->itemsize;
    for (int d = 1; d < a->ndim; d++)
        columns *= a->global[d];
    for (int d = a->ndim - 1; d > 0; run *= a->global[d--])
        strides[d] = run;
    strides[0] = 2 * run;
    for (int64_t i = 0; i < n; i++)
        last = index[i] > last ? index[i] : last;
    unsigned char *gaps = calloc((size_t)(2 * (last + 1)), (size_t)run);
    unsigned char *dense = calloc((size_t)(last + 1), (size_t)run);
    for (int64_t i = 0; i < (last + 1) * columns; i++) {
        unsigned char *cell = dense + i * a->itemsize;
        pattern(cell, a->itemsize, rank * 1000003 + i, step);
        memcpy(gaps + i / columns * 2 * run + i % columns * a->itemsize, cell, (size_t)a->itemsize);
    }
    ips_bridge_rows parts[2] = {{.cells = gaps, .rows = n / 2, .strides = strides, .index = index},
                                {.cells = dense, .rows = n - n / 2, .index = index + n / 2}};
    int code = ips_bridge_put_parts(bridge, a->name, step, parts, 2, NULL);
    free(gaps);
    free(dense);
    free(index);
    return code;
}

/* Blocks of an adaptive mesh: N, then level and place of each; cells follow level and place. */
static int put_blocks(struct known *a, int64_t step)
{
    int64_t n = number(), cells_of = 1, ndim = a->ndim - 1;
    int64_t *levels = malloc(sizeof *levels * (size_t)(n + 1));
    int64_t *places = malloc(sizeof *places * (size_t)(n * ndim + 1));
    for (int d = 1; d < a->ndim; d++)
        cells_of *= a->global[d];
    unsigned char *cells = malloc((size_t)(n * cells_of * a->itemsize) + 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t first = levels[i] = number();
        for (int64_t d = 0; d < ndim; d++)
            first = first * 131 + (places[i * ndim + d] = number());
        for (int64_t j = 0; j < cells_of; j++)
            pattern(cells + (i * cells_of + j) * a->itemsize, a->itemsize, first + j, step);
    }
    int code = ips_bridge_put_blocks(bridge, a->name, step, cells, n, levels, places, NULL);
    free(levels);
    free(places);
    free(cells);
    return code;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* bench ARRAY FIRST STEPS PACE_US IN_PLACE: tells the median and the mean of the calls, in us. */
static int bench(struct known *a)
{
    int64_t first = number(), steps = number(), pace = number(), in_place = number();
    int64_t strides[DIMS];
    size_t at, bytes = layout(a, a->count, 'C', strides, &at);
    unsigned char *cells = malloc(bytes + 1);
    double *took = malloc(sizeof *took * (size_t)(steps + 1)), sum = 0;
    int code = 0;
    fill(cells, a, a->offset, a->count, strides, 0);
    for (int64_t i = 0; i < steps && !code; i++) {
        double begin, held = 0;
        void *out = NULL;
        if (in_place) {
            begin = now();
            code = ips_bridge_acquire(bridge, a->name, first + i, &out);
            held = now() - begin;
            if (!code)
                memcpy(out, cells, bytes); /* the computation */
            begin = now();
            if (!code)
                code = ips_bridge_publish(bridge, a->name);
        } else {
            begin = now();
            code = ips_bridge_put(bridge, a->name, first + i, cells);
        }
        took[i] = now() - begin + held;
        sum += took[i];
        if (pace)
            nanosleep(&(struct timespec){pace / 1000000, pace % 1000000 * 1000}, NULL);
    }
    qsort(took, (size_t)steps, sizeof *took, ascending);
    if (!code)
        printf("ok %.3f %.3f\n", took[steps / 2] * 1e6, sum / (double)steps * 1e6);
    free(took);
    free(cells);
    return code;
}

static int request(void)
{
    const char *path = word(), *file = word();
    const void *blob;
    size_t length;
    int code = ips_bridge_request(bridge, strcmp(path, "-") ? path : NULL, &blob, &length);
    FILE *out;
    umask(077);
    out = fopen(file, "wb");
    if (!out || fwrite(blob, 1, length, out) != length || fclose(out))
        exit(2);
    return code;
}

static int join(void)
{
    FILE *in = fopen(word(), "rb");
    unsigned char *blob;
    long length;
    int code;
    if (!in || fseek(in, 0, SEEK_END) || (length = ftell(in)) < 0)
        exit(2);
    rewind(in);
    blob = malloc((size_t)length + 1);
    if (!blob || fread(blob, 1, (size_t)length, in) != (size_t)length)
        exit(2);
    fclose(in);
    code = ips_bridge_join(bridge, blob, (size_t)length);
    free(blob);
    return code;
}

static int receive(void)
{
    const char *name = word();
    int64_t step = number();
    double timeout = strtod(word(), NULL);
    ips_bridge_value value;
    int code = ips_bridge_receive(bridge, name, step, timeout, &value);
    if (code)
        return code;
    printf("ok %lld %d", (long long)value.step, value.kind);
    for (int d = 0; d < value.ndim; d++)
        printf("%c%lld", d ? 'x' : ' ', (long long)value.shape[d]);
    printf(" :");
    for (size_t i = 0; i < value.count && value.kind == IPS_BRIDGE_DOUBLE; i++)
        printf(" %.17g", ((const double *)value.data)[i]);
    for (size_t i = 0; i < value.count && value.kind == IPS_BRIDGE_INTEGER; i++)
        printf(" %lld", (long long)((const int64_t *)value.data)[i]);
    if (value.kind >= IPS_BRIDGE_TEXT)
        printf(" %s", (const char *)value.data);
    printf("\n");
    return 0;
}

/* model NAME NEWER_THAN TIMEOUT: version, then name, shape and cells of each array, as this rank has it
 * and as another one would take it. */
static int model(void)
{
    const char *name = word();
    int64_t newer_than = number();
    ips_bridge_model found;
    const void *bytes;
    void *copy;
    size_t length;
    int code = ips_bridge_receive_model(bridge, name, newer_than, strtod(word(), NULL), &found);
    if (code || (code = ips_bridge_get_model_bytes(bridge, &bytes, &length)))
        return code;
    copy = malloc(length);
    memcpy(copy, bytes, length);
    if (ips_bridge_take_model(bridge, copy, length / 2, &found) != IPS_BRIDGE_PROTOCOL)
        exit(2);
    code = ips_bridge_take_model(bridge, copy, length, &found);
    free(copy);
    if (code)
        return code;
    printf("ok %lld", (long long)found.version);
    for (int i = 0; i < found.n_arrays; i++) {
        const ips_bridge_value *one = &found.arrays[i];
        printf(" %s", found.names[i]);
        for (int d = 0; d < one->ndim; d++)
            printf("%c%lld", d ? 'x' : '[', (long long)one->shape[d]);
        for (size_t j = 0; j < one->count; j++)
            printf(" %.17g", one->kind == IPS_BRIDGE_DOUBLE ? ((const double *)one->data)[j]
                                                            : (double)((const int64_t *)one->data)[j]);
    }
    printf("\n");
    return 0;
}

static int statistics(const char *name)
{
    ips_bridge_account account;
    int code = ips_bridge_statistics(bridge, name, &account);
    if (code)
        return code;
    printf("ok");
    for (int i = 0; i < 10; i++)
        printf(" %llu", (unsigned long long)(i < 5 ? account.blocks[i] : account.bytes[i - 5]));
    printf("\n");
    return 0;
}

/* Returns a code, or ANSWERED when the answer was already given. */
static int obey(const char *command)
{
    char name[64];
    int64_t a[DIMS], b[DIMS], step;
    struct known *array;
    if (!strcmp(command, "open")) {
        rank = (int)number();
        return ips_bridge_open(&bridge, rank, (int)number());
    }
    if (!strcmp(command, "partial"))
        return ips_bridge_set_partial(bridge, 1);
    if (!strcmp(command, "request"))
        return request();
    if (!strcmp(command, "join"))
        return join();
    if (!strcmp(command, "progress"))
        return ips_bridge_progress(bridge);
    if (!strcmp(command, "wait"))
        return ips_bridge_wait(bridge, strtod(word(), NULL));
    if (!strcmp(command, "step_end"))
        return ips_bridge_step_end(bridge, number());
    if (!strcmp(command, "first_step"))
        return ips_bridge_first_step(bridge) == number() ? 0 : IPS_BRIDGE_USAGE;
    if (!strcmp(command, "step_time")) {
        int64_t step = number();
        return ips_bridge_step_time(bridge, step, strtod(word(), NULL));
    }
    if (!strcmp(command, "rewind"))
        return ips_bridge_rewind(bridge, number());
    if (!strcmp(command, "close")) {
        int aborted = (int)number();
        return ips_bridge_close(bridge, aborted, rest && *rest ? rest : NULL);
    }
    if (!strcmp(command, "free")) {
        ips_bridge_free(bridge);
        bridge = NULL;
        return 0;
    }
    if (!strcmp(command, "receive")) {
        int code = receive();
        return code ? code : ANSWERED;
    }
    if (!strcmp(command, "model")) {
        int code = model();
        return code ? code : ANSWERED;
    }
    if (!strcmp(command, "stop")) {
        int stop, code = ips_bridge_should_stop(bridge, &stop);
        if (code)
            return code;
        printf("ok %d\n", stop);
        return ANSWERED;
    }
    if (!strcmp(command, "lanes")) {
        int shm, tcp, code = ips_bridge_lanes(bridge, &shm, &tcp);
        if (code)
            return code;
        printf("ok %d %d\n", shm, tcp);
        return ANSWERED;
    }
    if (!strcmp(command, "waited")) {
        printf("ok %g\n", ips_bridge_waited(bridge));
        return ANSWERED;
    }
    if (!strcmp(command, "lost")) {
        const char *why = ips_bridge_lost(bridge);
        printf("ok %s\n", why ? why : "");
        return ANSWERED;
    }
    if (!strcmp(command, "code_text")) {
        printf("ok %s\n", ips_bridge_code_text((int)number()));
        return ANSWERED;
    }
    snprintf(name, sizeof name, "%s", word());
    if (!strcmp(command, "statistics")) {
        int code = statistics(name);
        return code ? code : ANSWERED;
    }
    if (!strcmp(command, "declare")) {
        char dtype[24];
        int ndim;
        snprintf(dtype, sizeof dtype, "%s", word());
        ndim = (int)number();
        numbers(a, ndim);
        return ips_bridge_declare(bridge, name, dtype, ndim, a);
    }
    if (!strcmp(command, "steps")) {
        int64_t first = number(), every = number();
        return ips_bridge_steps(bridge, name, first, every, number());
    }
    if (!strcmp(command, "dims"))
        return ips_bridge_dims(bridge, name, word());
    if (!strcmp(command, "attribute")) {
        const char *attribute = word();
        return ips_bridge_attribute(bridge, name, attribute, rest);
    }
    if (!strcmp(command, "doubles") || !strcmp(command, "integers")) { /* NAME ATTRIBUTE COUNT ... */
        const char *attribute = word();
        int64_t count = number(), whole[DIMS];
        double real[DIMS];
        for (int64_t i = 0; i < (count < 0 ? 1 : count); i++) {
            real[i] = strtod(word(), NULL);
            whole[i] = isfinite(real[i]) ? (int64_t)real[i] : 0;
        }
        return !strcmp(command, "doubles")
                   ? ips_bridge_attribute_doubles(bridge, name, attribute, real, count)
                   : ips_bridge_attribute_integers(bridge, name, attribute, whole, count);
    }
    if (!strcmp(command, "array")) { /* what this program knows: NAME ITEMSIZE NDIM GLOBAL... */
        array = find("");
        snprintf(array->name, sizeof array->name, "%s", name);
        array->itemsize = number();
        array->ndim = (int)number();
        numbers(array->global, array->ndim);
        return 0;
    }
    array = find(name);
    if (!strcmp(command, "block")) { /* NAME DTYPE OFFSET... COUNT... HALO... */
        char dtype[24];
        snprintf(dtype, sizeof dtype, "%s", word());
        numbers(array->offset, array->ndim);
        numbers(array->count, array->ndim);
        numbers(a, array->ndim);
        int uneven = 0; /* then the halo comes by a call of its own */
        for (int d = 0; d < array->ndim; d++)
            uneven |= array->low[d] != array->high[d];
        for (int d = 0; d < array->ndim && !uneven; d++)
            array->low[d] = array->high[d] = a[d];
        return ips_bridge_block(bridge, name, strcmp(dtype, "-") ? dtype : NULL, array->ndim,
                                array->offset, array->count, uneven ? NULL : a);
    }
    if (!strcmp(command, "halo")) { /* NAME HALO...: what the configuration says */
        numbers(array->low, array->ndim);
        memcpy(array->high, array->low, sizeof array->high);
        return 0;
    }
    if (!strcmp(command, "margins")) { /* NAME LOW... HIGH...: the same */
        numbers(array->low, array->ndim);
        numbers(array->high, array->ndim);
        return 0;
    }
    if (!strcmp(command, "sides")) { /* NAME LOW... HIGH... */
        numbers(array->low, array->ndim);
        numbers(array->high, array->ndim);
        return ips_bridge_halo(bridge, name, array->ndim, array->low, array->high);
    }
    if (!strcmp(command, "shared")) { /* NAME OWNER...: low, high, none */
        int owner[DIMS];
        for (int d = 0; d < array->ndim; d++) {
            const char *who = word();
            owner[d] = *who == 'l' ? IPS_BRIDGE_LOW
                       : *who == 'h' ? IPS_BRIDGE_HIGH
                                     : IPS_BRIDGE_NOBODY;
        }
        return ips_bridge_shared(bridge, name, array->ndim, owner);
    }
    if (!strcmp(command, "levels")) { /* NAME LEVELS REFINEMENT */
        int levels = (int)number();
        return ips_bridge_levels(bridge, name, levels, (int)number());
    }
    if (!strcmp(command, "ids")) { /* NAME OWNER N ID...: N -1: they come with the puts */
        const char *who = word();
        int owner = *who == 'l'   ? IPS_BRIDGE_LOW
                    : *who == 'h' ? IPS_BRIDGE_HIGH
                                  : IPS_BRIDGE_NOBODY;
        free(array->ids);
        array->ids = list(&array->n_ids);
        return ips_bridge_ids(bridge, name, owner, array->n_ids > 0 ? array->n_ids : 0,
                              array->n_ids < 0 ? NULL : array->ids);
    }
    if (!strcmp(command, "bench")) {
        int code = bench(array);
        return code ? code : ANSWERED;
    }
    if (!strcmp(command, "publish"))
        return ips_bridge_publish(bridge, name);
    if (!strcmp(command, "discard"))
        return ips_bridge_discard(bridge, name);
    step = number();
    if (!strcmp(command, "put")) /* NAME STEP ORDER: the declared block */
        return put(array, step, 1, array->offset, array->count, *word());
    if (!strcmp(command, "puts")) { /* NAME STEP STEPS ORDER: the same, step after step */
        int64_t n = number();
        return put(array, step, n, array->offset, array->count, *word());
    }
    if (!strcmp(command, "put_block")) { /* NAME STEP ORDER OFFSET... COUNT... */
        char order = *word();
        numbers(a, array->ndim);
        numbers(b, array->ndim);
        return put(array, step, 1, a, b, order);
    }
    if (!strcmp(command, "view")) { /* NAME STEP ITEMSIZE NDIM EXTENT... STRIDE...: cells nowhere */
        size_t itemsize = (size_t)number();
        int ndim = (int)number();
        numbers(a, ndim < 0 ? 0 : ndim);
        numbers(b, ndim < 0 ? 0 : ndim);
        return ips_bridge_put_view(bridge, name, step, name, itemsize, ndim, a, b);
    }
    if (!strcmp(command, "put_null")) /* the declared block, cells nowhere */
        return ips_bridge_put(bridge, name, step, NULL);
    if (!strcmp(command, "put_ids")) /* NAME STEP SHIFT N ID... */
        return put_ids(array, step);
    if (!strcmp(command, "put_blocks")) /* NAME STEP N, then LEVEL PLACE... of each */
        return put_blocks(array, step);
    if (!strcmp(command, "put_parts")) /* NAME STEP N INDEX... */
        return put_parts(array, step);
    if (!strcmp(command, "rows"))
        return put_rows(array, step, number());
    if (!strcmp(command, "acquire")) {
        array->step = step;
        return ips_bridge_acquire(bridge, name, step, &array->acquired);
    }
    if (!strcmp(command, "peek")) { /* a sum over the block that is acquired */
        unsigned long long sum = 0;
        int64_t strides[DIMS];
        size_t first, bytes = layout(array, array->count, 'C', strides, &first);
        for (size_t i = 0; i < bytes; i++)
            sum = sum * 31 + ((unsigned char *)array->acquired)[i];
        printf("ok %llu\n", sum);
        return ANSWERED;
    }
    if (!strcmp(command, "wants")) {
        printf("ok %d\n", ips_bridge_wants(bridge, name, step));
        return ANSWERED;
    }
    if (!strcmp(command, "open_block")) { /* NAME STEP SLOT OFFSET... COUNT...: SLOT names it here */
        struct block *one = &blocks[number() % BLOCKS];
        one->array = array;
        one->step = step;
        numbers(one->offset, array->ndim);
        numbers(one->count, array->ndim);
        return ips_bridge_acquire_block(bridge, name, step, one->offset, one->count, &one->cells);
    }
    if (!strcmp(command, "fill_block") || !strcmp(command, "publish_block") ||
        !strcmp(command, "discard_block")) { /* NAME STEP SLOT */
        struct block *one = &blocks[number() % BLOCKS];
        int64_t strides[DIMS];
        size_t first;
        if (*command == 'p')
            return ips_bridge_publish_block(bridge, name, one->cells);
        if (*command == 'd')
            return ips_bridge_discard_block(bridge, name, one->cells);
        layout(one->array, one->count, 'C', strides, &first);
        fill(one->cells, one->array, one->offset, one->count, strides, step);
        return 0;
    }
    if (!strcmp(command, "fill")) {
        int64_t strides[DIMS];
        size_t first;
        layout(array, array->count, 'C', strides, &first);
        fill(array->acquired, array, array->offset, array->count, strides, step);
        return 0;
    }
    fprintf(stderr, "remote: unknown command %s\n", command);
    exit(2);
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        line[strcspn(line, "\n")] = '\0';
        const char *command = strtok_r(line, " ", &rest);
        if (!command)
            continue;
        int code = obey(command);
        if (code && code != ANSWERED) {
            char text[1024];
            snprintf(text, sizeof text, "%s", ips_bridge_error(bridge));
            text[strcspn(text, "\n")] = '\0';
            printf("error %d %s\n", code, text);
        } else if (code == 0) {
            printf("ok\n");
        }
        fflush(stdout);
    }
    ips_bridge_free(bridge);
    for (int i = 0; i < ARRAYS; i++)
        free(known[i].ids);
    free(line);
    return 0;
}
