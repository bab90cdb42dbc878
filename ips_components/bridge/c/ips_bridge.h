/* The bridge in C: couples the ranks of a simulation to the Dask analysis of its arrays.
 *
 * It needs nothing but the C library, neither MPI nor threads. One program has one bridge per rank:
 *
 *     ips_bridge *bridge;
 *     ips_bridge_open(&bridge, rank, size);
 *     ips_bridge_declare(bridge, "temperature", "f8", 2, (int64_t[]){ny, nx});
 *     ips_bridge_block(bridge, "temperature", "f8", 2, offset, count, halo);
 *     if (rank == 0) ips_bridge_request(bridge, NULL, &blob, &length);
 *     ... broadcast `length` bytes of `blob` (ips_bridge_mpi.h does it for MPI) ...
 *     ips_bridge_join(bridge, blob, length);
 *     for (step = 0; step < steps; step++)
 *         ips_bridge_put(bridge, "temperature", step, cells);
 *     ips_bridge_close(bridge, 0, NULL);
 *     ips_bridge_free(bridge);
 *
 * Every call returns a code of `enum ips_bridge_code`, 0 for success; `ips_bridge_error` says in
 * words what went wrong and what to do. Where the analytics end early and the run's policy is to go
 * on without them (the default), calls succeed and do nothing.
 *
 *   call                     who          waits                              buffers
 *   open declare block halo  independent  no                                 copied
 *   shared
 *   request                  rank 0 (*)   for contact file and contract      blob: the bridge's
 *   join                     collective   for one receiver                   blob: reusable
 *   put put_block put_rows   independent  for credit and a free buffer; one  reusable on return
 *                                         copy; TCP: until the kernel took
 *                                         it. Not in the contract: no
 *   acquire acquire_block    independent  for credit and a free buffer       the bridge's
 *   publish discard          independent  TCP: until the kernel took it      not to be touched any more
 *   wants rewind             independent  no
 *   step_end step_time        independent  no
 *   progress                  independent  no
 *   wait                     independent  until receivers took all, or timeout
 *   receive                  rank 0       for the value, or timeout          value: the bridge's
 *   should_stop              independent  no
 *   close                    collective   until all is taken and accounted
 *   free                     independent  no
 *
 * "Collective" means that every rank must call it for the run to go well; no call synchronises
 * ranks by itself. "Independent" calls may come at any time and in any order of arrays within a
 * step; steps of an array must rise, and a block is put once in a step (ips_bridge_rewind goes back). One thread at a time may use a bridge, and a forked child must
 * not. Arrays of numbers (shape, offset, ...) have one entry per dimension of space, the last one
 * being the fastest in memory, and are copied.
 *
 * The library works only inside its calls: it has no thread. What arrives in between (a wish to
 * send a lost chunk again, for instance) waits until the next call. A program that computes for
 * minutes between puts may call `ips_bridge_progress` now and then.
 */
#ifndef IPS_BRIDGE_H
#define IPS_BRIDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define IPS_BRIDGE_API __attribute__((visibility("default")))
#else
#define IPS_BRIDGE_API
#endif

#if defined(__GNUC__)
#define IPS_BRIDGE_DEPRECATED(instead) __attribute__((deprecated(instead)))
#else
#define IPS_BRIDGE_DEPRECATED(instead)
#endif

/* Version of this header. Within one major version (0: one minor version), a program runs with any
 * later library. */
#define IPS_BRIDGE_VERSION "0.1.0"
#define IPS_BRIDGE_VERSION_MAJOR 0
#define IPS_BRIDGE_VERSION_MINOR 1
#define IPS_BRIDGE_VERSION_PATCH 0

typedef struct ips_bridge ips_bridge;
typedef struct ips_bridge_array ips_bridge_array; /* an array of a bridge, see ips_bridge_find */

/* Version of the library, "major.minor.patch". */
IPS_BRIDGE_API const char *ips_bridge_version(void);

/* Errors are positive. A negative code says that there is nothing to return, which is no error. */
enum ips_bridge_code {
    IPS_BRIDGE_OK = 0,
    IPS_BRIDGE_USAGE = 1,      /* a call that makes no sense here, or impossible arguments */
    IPS_BRIDGE_GEOMETRY = 2,   /* a type, shape or offset that contradicts what was described */
    IPS_BRIDGE_CONTACT = 3,    /* no contact file, or one that cannot be trusted */
    IPS_BRIDGE_CONTRACT = 4,   /* the contract is damaged or contradicts this program */
    IPS_BRIDGE_PROTOCOL = 5,   /* a receiver said something that it must not say */
    IPS_BRIDGE_REFUSED = 6,    /* a receiver will not have this rank */
    IPS_BRIDGE_DEADLINE = 7,   /* something did not happen in time */
    IPS_BRIDGE_LOST = 8,       /* the analytics are gone, and the policy is to end with them */
    IPS_BRIDGE_MEMORY = 9,     /* out of memory */
    IPS_BRIDGE_SYSTEM = 10,    /* a system call failed */
    IPS_BRIDGE_INCOMPLETE = 12, /* receivers did not take everything before the end */
    IPS_BRIDGE_NOTHING = -1,    /* receive: there is no such value (yet) */
    IPS_BRIDGE_STOPPED = -2     /* receive: the analysis has what it wants, no value will come */
};

enum { IPS_BRIDGE_MAX_DIMS = 15 }; /* of space */

/* ---- Opening ------------------------------------------------------------------------------ */

/* Make a bridge for one of `size` ranks. Independent, no input or output. */
IPS_BRIDGE_API int ips_bridge_open(ips_bridge **bridge, int rank, int size);

/* Call a function at every error, with its text, before the call that failed returns. It may end
 * the program, or leave by longjmp or a C++ exception only to free the bridge. NULL: none. */
typedef void (*ips_bridge_error_handler)(ips_bridge *bridge, int code, const char *text,
                                         void *data);
IPS_BRIDGE_API int ips_bridge_set_error_handler(ips_bridge *bridge,
                                                ips_bridge_error_handler handler, void *data);

/* Describe an array in code, alike on every rank, before request and join. Without any such call
 * the arrays are those that the workflow's configuration describes.
 *
 * dtype  as NumPy writes it: "f8", "<f4", "i4", "u1", "c16", "b1", "float64", ...
 * shape  global shape of space; shape[0] = -1: ragged, the rows vary from rank to rank and step to
 *        step (particles) */
IPS_BRIDGE_API int ips_bridge_declare(ips_bridge *bridge, const char *array, const char *dtype,
                                      int ndim, const int64_t *shape);

/* Steps at which a declared array is put: first, first + every, ...; count <= 0: not known. What is
 * put between them is left out, and a put beyond the last one fails. */
IPS_BRIDGE_API int ips_bridge_steps(ips_bridge *bridge, const char *array, int64_t first,
                                    int64_t every, int64_t count);

/* Names of the dimensions of a declared array, separated by commas: "y,x". */
IPS_BRIDGE_API int ips_bridge_dims(ips_bridge *bridge, const char *array, const char *dims);

/* A text that travels with a declared array, such as "units", "K". */
IPS_BRIDGE_API int ips_bridge_attribute(ips_bridge *bridge, const char *array, const char *name,
                                        const char *text);

/* Numbers that travel with a declared array. count < 0: `values` is a single number, not a list. */
IPS_BRIDGE_API int ips_bridge_attribute_doubles(ips_bridge *bridge, const char *array,
                                                const char *name, const double *values,
                                                int64_t count);
IPS_BRIDGE_API int ips_bridge_attribute_integers(ips_bridge *bridge, const char *array,
                                                 const char *name, const int64_t *values,
                                                 int64_t count);

/* Say that other ranks put the arrays that this rank does not declare: it has no cells of them.
 * Rank 0 declares all arrays in any case. partial: 1, or 0 (the default): they are an error. */
IPS_BRIDGE_API int ips_bridge_set_partial(ips_bridge *bridge, int partial);

/* Let the program run by itself, before request: where neither the program nor the environment names
 * a contact file, all calls succeed and nothing is sent, which rank 0 says once on standard error. The
 * environment's IPS_COMPONENTS_ALONE=1 does the same. alone: 1, or 0 (the default). */
IPS_BRIDGE_API int ips_bridge_set_alone(ips_bridge *bridge, int alone);

/* Leave the core to others for a moment: for loops over a request of MPI that is outstanding. */
IPS_BRIDGE_API void ips_bridge_pause(double seconds);

/* Return 1 if the program runs by itself (after join), else 0. */
IPS_BRIDGE_API int ips_bridge_is_alone(const ips_bridge *bridge);

/* This rank's block of an array, declared or configured; before request and join. Called again, it
 * adds another block. Without any call, ranks have the regular decomposition of the global shape
 * (blocks [i*n/p, (i+1)*n/p), ranks in C order).
 *
 * dtype   type of the cells that will be put, checked against the contract; NULL: not checked
 * offset  global index of the block's first cell; NULL: blocks move, every put gives its place
 * count   extent of the block, without halo; a rank may have none (0)
 * halo    ghost cells on both sides in what is put, never sent; NULL: none, or what
 *         ips_bridge_halo or the configuration says */
IPS_BRIDGE_API int ips_bridge_block(ips_bridge *bridge, const char *array, const char *dtype,
                                    int ndim, const int64_t *offset, const int64_t *count,
                                    const int64_t *halo);

/* Ghost cells below and above the blocks of an array, where the two sides differ; before request and
 * join. */
IPS_BRIDGE_API int ips_bridge_halo(ips_bridge *bridge, const char *array, int ndim,
                                   const int64_t *low, const int64_t *high);

/* Which block owns the plane of points that neighbouring blocks of a staggered array both have. */
enum ips_bridge_owner {
    IPS_BRIDGE_NOBODY = 0, /* blocks share no points */
    IPS_BRIDGE_LOW = 1,    /* the block that begins lower */
    IPS_BRIDGE_HIGH = 2    /* the next one */
};

/* The owner along each dimension; before request and join, alike on every rank. Blocks are described
 * and put with all their points; each point is sent once. */
IPS_BRIDGE_API int ips_bridge_shared(ips_bridge *bridge, const char *array, int ndim,
                                     const int *owner);

/* The first dimension of an array is indexed by global ids (the points or cells of a mesh), and each
 * rank has rows instead of blocks; after it was declared, before request and join.
 *
 * owner  of an id that several ranks have, the lowest (IPS_BRIDGE_LOW) or the highest of them;
 *        IPS_BRIDGE_NOBODY: each id is at one rank. Alike on every rank
 * ids    of this rank's rows, in any order, from 0 on; NULL: they come with each put */
IPS_BRIDGE_API int ips_bridge_ids(ips_bridge *bridge, const char *array, int owner, int64_t n,
                                  const int64_t *ids);

/* The rows of a ragged array are blocks of an adaptive mesh, each with a level of refinement and a
 * place; after it was declared, before request and join. refinement: cells of the next level along
 * one cell. The analysis may then want the finest level only, or a box, and gets a table of levels
 * and places by the name of the array with ".blocks". */
IPS_BRIDGE_API int ips_bridge_levels(ips_bridge *bridge, const char *array, int levels,
                                     int refinement);

/* Optional, for runs on several hosts: chunks then go to receivers on the host of their blocks.
 * Every rank describes itself in some bytes (valid until the next call). Rank 0 takes those of all
 * ranks, one behind the other in the order of ranks, before its request. ips_bridge_connect_mpi
 * does it. */
IPS_BRIDGE_API int ips_bridge_get_rank_info(ips_bridge *bridge, const void **info,
                                            size_t *length);
IPS_BRIDGE_API int ips_bridge_set_rank_infos(ips_bridge *bridge, const void *infos,
                                             const size_t *lengths);

IPS_BRIDGE_DEPRECATED("use ips_bridge_get_rank_info")
IPS_BRIDGE_API int ips_bridge_where(ips_bridge *bridge, const char **text);
IPS_BRIDGE_DEPRECATED("use ips_bridge_set_rank_infos")
IPS_BRIDGE_API int ips_bridge_ranks(ips_bridge *bridge, const char *texts);

/* Rank 0: find the contact file (NULL: by the environment's IPS_COMPONENTS_CONTACT) and wait for
 * the contract. Whatever the outcome, `blob` is set and must be broadcast: when this call fails, it
 * carries the error to the `join` of all ranks. It holds the run's secret. It stays the bridge's
 * and lives until free, or the next request. Where there is no way to broadcast it, every rank may
 * ask for itself: as many requests as ranks. */
IPS_BRIDGE_API int ips_bridge_request(ips_bridge *bridge, const char *contact, const void **blob,
                                      size_t *length);

/* Every rank: take rank 0's blob, plan what will be sent, and connect. Returns rank 0's error, if
 * it had one, on all ranks alike. */
IPS_BRIDGE_API int ips_bridge_join(ips_bridge *bridge, const void *blob, size_t length);

/* ---- Putting ------------------------------------------------------------------------------ */

/* Offer the only declared block (with halo, C order, without gaps) of one step. What the contract names
 * of it is sent, from a copy or from where it lies; `cells` may be reused on return. */
IPS_BRIDGE_API int ips_bridge_put(ips_bridge *bridge, const char *array, int64_t step,
                                  const void *cells);

/* The same for any block and any layout in memory.
 *
 * offset   global index of the first cell without halo; NULL: the declared block's
 * count    extent without halo; NULL: the declared block's
 * strides  bytes from one cell to the next along each dimension, negative ones too; NULL: C order
 * cells    first cell of the array, halo included */
IPS_BRIDGE_API int ips_bridge_put_block(ips_bridge *bridge, const char *array, int64_t step,
                                        const void *cells, const int64_t *offset,
                                        const int64_t *count, const int64_t *strides);

/* The same for a view that knows its own type and shape, halo included, which are checked against
 * the block. itemsize: bytes of a cell; extents, strides (bytes): `ndim` numbers each. A view of
 * another shape is taken if its cells lie without gaps and are as many. */
IPS_BRIDGE_API int ips_bridge_put_view(ips_bridge *bridge, const char *array, int64_t step,
                                       const void *cells, size_t itemsize, int ndim,
                                       const int64_t *extents, const int64_t *strides);
IPS_BRIDGE_API int ips_bridge_put_view_block(ips_bridge *bridge, const char *array, int64_t step,
                                             const void *cells, size_t itemsize, int ndim,
                                             const int64_t *extents, const int64_t *strides,
                                             const int64_t *offset, const int64_t *count);

/* Offer this rank's rows of a ragged array; every rank puts at every step, none (0) included. */
IPS_BRIDGE_API int ips_bridge_put_rows(ips_bridge *bridge, const char *array, int64_t step,
                                       const void *cells, int64_t rows, const int64_t *strides);

/* Offer this rank's rows of an array that is indexed by ids; every rank puts at every step, none (0)
 * included. ids: of the rows of this put, which may move from rank to rank; NULL: those that were
 * described (ips_bridge_put_rows does the same). strides: bytes, as above; NULL: without gaps. */
IPS_BRIDGE_API int ips_bridge_put_ids(ips_bridge *bridge, const char *array, int64_t step,
                                      const void *cells, int64_t rows, const int64_t *ids,
                                      const int64_t *strides);

/* Offer this rank's blocks of an array with levels; every rank puts at every step, none (0) included.
 *
 * levels  of each block, from 0 (the coarsest) on
 * places  index of the first cell of each block, in cells of its own level: one number per dimension
 * strides as above; NULL: the blocks lie one behind the other */
IPS_BRIDGE_API int ips_bridge_put_blocks(ips_bridge *bridge, const char *array, int64_t step,
                                         const void *cells, int64_t n, const int64_t *levels,
                                         const int64_t *places, const int64_t *strides);

/* Rows that do not lie one behind the other: particles in cells with gaps, a list of some of them. */
typedef struct ips_bridge_rows {
    const void *cells;
    int64_t rows;           /* how many are put of this part */
    const int64_t *strides; /* bytes, one per dimension; NULL: C order without gaps */
    const int64_t *index;   /* which rows, counted from 0; NULL: the first ones */
} ips_bridge_rows;

/* Offer the rows of several parts, in their order; they are packed only where the analysis wants the
 * step. For ragged arrays, and for those by ids, with the ids of all parts together or NULL. */
IPS_BRIDGE_API int ips_bridge_put_parts_sized(ips_bridge *bridge, const char *array, int64_t step,
                                              const ips_bridge_rows *parts, int n_parts,
                                              const int64_t *ids, size_t size);
static inline int ips_bridge_put_parts(ips_bridge *bridge, const char *array, int64_t step,
                                       const ips_bridge_rows *parts, int n_parts,
                                       const int64_t *ids)
{
    return ips_bridge_put_parts_sized(bridge, array, step, parts, n_parts, ids, sizeof *parts);
}

/* Return 1 if the analysis wants something of an array at a step, of any rank, else 0. Cheap: a
 * program asks before it packs or computes what is only put. */
IPS_BRIDGE_API int ips_bridge_wants(ips_bridge *bridge, const char *array, int64_t step);

/* Get memory inside the transport for the declared block (with halo, C order, cells unspecified)
 * to compute into: publishing it costs no copy. It is the bridge's after publish or discard. One
 * block of an array at a time; `ips_bridge_acquire_block` for several. Not for ragged arrays. */
IPS_BRIDGE_API int ips_bridge_acquire(ips_bridge *bridge, const char *array, int64_t step,
                                      void **cells);

/* Put what was acquired. */
IPS_BRIDGE_API int ips_bridge_publish(ips_bridge *bridge, const char *array);

/* Give back what was acquired; nothing is put. */
IPS_BRIDGE_API int ips_bridge_discard(ips_bridge *bridge, const char *array);

/* The same for any block, named by its offset and extent without halo; several blocks of an array
 * may be open at once. Publish and discard name a block by its memory. */
IPS_BRIDGE_API int ips_bridge_acquire_block(ips_bridge *bridge, const char *array, int64_t step,
                                            const int64_t *offset, const int64_t *count,
                                            void **cells);
IPS_BRIDGE_API int ips_bridge_publish_block(ips_bridge *bridge, const char *array,
                                            const void *cells);
IPS_BRIDGE_API int ips_bridge_discard_block(ips_bridge *bridge, const char *array,
                                            const void *cells);

/* The step at which this launch of the program goes on, the same on every rank after join; 0 in the
 * first launch, and where the program is launched once. */
IPS_BRIDGE_API int64_t ips_bridge_first_step(const ips_bridge *bridge);

/* Go back: the next put is of this step or a later one, which replaces what was put since then. For
 * solvers that repeat steps. Refused, with IPS_BRIDGE_USAGE, when this rank has sent something of
 * such a step, since the analysis may have used it. Every rank goes back alike. */
IPS_BRIDGE_API int ips_bridge_rewind(ips_bridge *bridge, int64_t step);

/* Say the physical time of a step, before what is put of it or between; it becomes the coordinate of
 * results. Said once for a step, by any rank; the time loop's counts where it is not said. */
IPS_BRIDGE_API int ips_bridge_step_time(ips_bridge *bridge, int64_t step, double time);

/* Say that this rank has put all of a step; the next step's first put implies it. */
IPS_BRIDGE_API int ips_bridge_step_end(ips_bridge *bridge, int64_t step);

/* Send and receive what is possible at once. */
IPS_BRIDGE_API int ips_bridge_progress(ips_bridge *bridge);

/* Wait until receivers have taken all that was put. timeout: seconds; < 0: the run's deadline.
 * IPS_BRIDGE_INCOMPLETE when they have not. */
IPS_BRIDGE_API int ips_bridge_wait(ips_bridge *bridge, double timeout);

/* ---- Arrays by handle ----------------------------------------------------------------------- */

/* Look an array up once, after the join, instead of by name at every step. The handle lives as long
 * as the bridge. NULL when the program declares arrays and has not declared this one. */
IPS_BRIDGE_API ips_bridge_array *ips_bridge_find(ips_bridge *bridge, const char *array);

/* As the calls of the same names. */
IPS_BRIDGE_API int ips_bridge_array_wants(const ips_bridge_array *array, int64_t step);
IPS_BRIDGE_API int ips_bridge_array_put(ips_bridge_array *array, int64_t step, const void *cells);
IPS_BRIDGE_API int ips_bridge_array_put_block(ips_bridge_array *array, int64_t step,
                                              const void *cells, const int64_t *offset,
                                              const int64_t *count, const int64_t *strides);
/* offset, count NULL: the declared block */
IPS_BRIDGE_API int ips_bridge_array_put_view(ips_bridge_array *array, int64_t step,
                                             const void *cells, size_t itemsize, int ndim,
                                             const int64_t *extents, const int64_t *strides,
                                             const int64_t *offset, const int64_t *count);
IPS_BRIDGE_API int ips_bridge_array_put_rows(ips_bridge_array *array, int64_t step,
                                             const void *cells, int64_t rows,
                                             const int64_t *strides);
IPS_BRIDGE_API int ips_bridge_array_put_ids(ips_bridge_array *array, int64_t step,
                                            const void *cells, int64_t rows, const int64_t *ids,
                                            const int64_t *strides);
IPS_BRIDGE_API int ips_bridge_array_put_blocks(ips_bridge_array *array, int64_t step,
                                               const void *cells, int64_t n,
                                               const int64_t *levels, const int64_t *places,
                                               const int64_t *strides);
IPS_BRIDGE_API int ips_bridge_array_put_parts_sized(ips_bridge_array *array, int64_t step,
                                                    const ips_bridge_rows *parts, int n_parts,
                                                    const int64_t *ids, size_t size);
/* Rows of a view, whose type, shape and number of rows are checked. index, ids, levels and places as
 * above, `rows` of each, or NULL. */
IPS_BRIDGE_API int ips_bridge_array_put_rows_view(ips_bridge_array *array, int64_t step,
                                                  const void *cells, size_t itemsize, int ndim,
                                                  const int64_t *extents, const int64_t *strides,
                                                  int64_t rows, const int64_t *index,
                                                  const int64_t *ids, const int64_t *levels,
                                                  const int64_t *places);
/* The name of an array. */
IPS_BRIDGE_API const char *ips_bridge_array_name(const ips_bridge_array *array);
/* offset, count NULL: the declared block. Publish and discard: cells NULL is the same block. */
IPS_BRIDGE_API int ips_bridge_array_acquire(ips_bridge_array *array, int64_t step,
                                            const int64_t *offset, const int64_t *count,
                                            void **cells);
IPS_BRIDGE_API int ips_bridge_array_publish(ips_bridge_array *array, const void *cells);
IPS_BRIDGE_API int ips_bridge_array_discard(ips_bridge_array *array, const void *cells);

/* ---- Values from the analysis ----------------------------------------------------------------- */

enum ips_bridge_kind {
    IPS_BRIDGE_DOUBLE = 0, /* double, `ndim` dimensions */
    IPS_BRIDGE_INTEGER = 1, /* int64_t, `ndim` dimensions */
    IPS_BRIDGE_TEXT = 2,   /* UTF-8; `data` ends with a NUL that `bytes` does not count */
    IPS_BRIDGE_JSON = 3    /* UTF-8 too */
};

typedef struct ips_bridge_value {
    int64_t step; /* for which it was sent */
    int kind;     /* enum ips_bridge_kind */
    int ndim;
    const int64_t *shape;
    size_t count; /* of numbers; 1 for texts */
    size_t bytes;
    const void *data;
} ips_bridge_value;

/* Rank 0: a value that the analysis sent under a name. timeout: seconds to wait for the value that
 * was sent for exactly this step; < 0: the run's deadline for a step; 0: do not wait, take the
 * latest that was sent for this step or an earlier one. With step INT64_MAX, the latest of all.
 * IPS_BRIDGE_NOTHING when there is none. Waiting ends at once, with IPS_BRIDGE_STOPPED, when the
 * analysis has stopped the run, or returned, without having sent the value, and with
 * IPS_BRIDGE_LOST when it is gone, whatever the policy is. The value is the bridge's and lives
 * until the next call. The analysis talks to rank 0 only: broadcast what it says. */
static inline int ips_bridge_receive(ips_bridge *bridge, const char *name, int64_t step,
                                     double timeout, ips_bridge_value *value);

/* What ips_bridge_receive calls, with the size of the structure that the program knows. */
IPS_BRIDGE_API int ips_bridge_receive_sized(ips_bridge *bridge, const char *name, int64_t step,
                                            double timeout, ips_bridge_value *value, size_t size);
static inline int ips_bridge_receive(ips_bridge *bridge, const char *name, int64_t step,
                                     double timeout, ips_bridge_value *value)
{
    return ips_bridge_receive_sized(bridge, name, step, timeout, value, sizeof *value);
}

/* The same for numbers, converted to double: at most `capacity`, their number in `count`. */
IPS_BRIDGE_API int ips_bridge_receive_doubles(ips_bridge *bridge, const char *name, int64_t step,
                                              double timeout, double *values, int64_t capacity,
                                              int64_t *count);

/* A model: the named arrays of one version. */
typedef struct ips_bridge_model {
    int64_t version;
    int n_arrays;
    const char *const *names;
    const ips_bridge_value *arrays; /* double or int64_t */
} ips_bridge_model;

/* Rank 0: the latest version of a model that the analysis sent (run.send_model), whole.
 * IPS_BRIDGE_NOTHING where there is none above `newer_than` (-1: any). timeout: seconds to wait for the
 * first version; < 0: the run's deadline for a step; 0: do not wait. The model is the bridge's and lives
 * until the next call of this or of ips_bridge_take_model. ips_bridge_receive_model_mpi broadcasts it;
 * without MPI, other ranks take the bytes that rank 0 gets. */
IPS_BRIDGE_API int ips_bridge_receive_model_sized(ips_bridge *bridge, const char *name,
                                                  int64_t newer_than, double timeout,
                                                  ips_bridge_model *model, size_t size);
static inline int ips_bridge_receive_model(ips_bridge *bridge, const char *name, int64_t newer_than,
                                           double timeout, ips_bridge_model *model)
{
    return ips_bridge_receive_model_sized(bridge, name, newer_than, timeout, model, sizeof *model);
}
IPS_BRIDGE_API int ips_bridge_get_model_bytes(ips_bridge *bridge, const void **bytes,
                                              size_t *length);
IPS_BRIDGE_API int ips_bridge_take_model_sized(ips_bridge *bridge, const void *bytes, size_t length,
                                               ips_bridge_model *model, size_t size);
static inline int ips_bridge_take_model(ips_bridge *bridge, const void *bytes, size_t length,
                                        ips_bridge_model *model)
{
    return ips_bridge_take_model_sized(bridge, bytes, length, model, sizeof *model);
}

/* Set `stop` to 1 when the analysis has what it wants. Ranks learn it at different times: broadcast
 * rank 0's answer. */
IPS_BRIDGE_API int ips_bridge_should_stop(ips_bridge *bridge, int *stop);

/* ---- Ending ------------------------------------------------------------------------------- */

/* Send what is left, say goodbye with the final account, and disconnect. May be called twice.
 * aborted: 0, or 1 when the simulation failed, with the reason in words (or NULL).
 * Returns when all ranks have said goodbye and all they put has arrived, at the latest after the
 * run's deadline to connect: until then a rank sends again what a dead worker had. */
IPS_BRIDGE_API int ips_bridge_close(ips_bridge *bridge, int aborted, const char *reason);

/* Free everything; without a close, receivers take the rank for dead. NULL is allowed. */
IPS_BRIDGE_API void ips_bridge_free(ips_bridge *bridge);

/* ---- Telling ------------------------------------------------------------------------------ */

/* What the last failed call suffered from, in words. Lives until the next call. */
IPS_BRIDGE_API const char *ips_bridge_error(const ips_bridge *bridge);

/* Set the text of ips_bridge_error and return `code`: for helpers that share an outcome of rank 0. */
IPS_BRIDGE_API int ips_bridge_set_error(ips_bridge *bridge, int code, const char *text);

/* A few words on a code. */
IPS_BRIDGE_API const char *ips_bridge_code_text(int code);

/* An array's account on this rank, cumulative: produced = skipped + delivered + dropped + lost. */
typedef struct ips_bridge_account {
    uint64_t blocks[5]; /* produced, skipped, delivered, dropped, lost */
    uint64_t bytes[5];
} ips_bridge_account;

IPS_BRIDGE_API int ips_bridge_statistics_sized(ips_bridge *bridge, const char *array,
                                               ips_bridge_account *account, size_t size);
static inline int ips_bridge_statistics(ips_bridge *bridge, const char *array,
                                        ips_bridge_account *account)
{
    return ips_bridge_statistics_sized(bridge, array, account, sizeof *account);
}

/* Seconds that this rank waited so far: for credit, for buffers, and over TCP for receivers to read. */
IPS_BRIDGE_API double ips_bridge_waited(const ips_bridge *bridge);

/* Why nothing is sent any more, in words, or NULL while the analytics are there. */
IPS_BRIDGE_API const char *ips_bridge_lost(const ips_bridge *bridge);

/* How many receivers are reached by shared memory and by TCP. */
IPS_BRIDGE_API int ips_bridge_lanes(const ips_bridge *bridge, int *shm, int *tcp);

#ifdef __cplusplus
}
#endif
#endif
