/* What a rank knows and counts of an array. */
#ifndef IPS_ARRAY_H
#define IPS_ARRAY_H

#include "ips_error.h"
#include "ips_ids.h"
#include "ips_links.h"

typedef struct moved {
    int64_t chunk, t;
    uint64_t at; /* where in the chunk: of each block of a step another one */
} moved;

enum { MOVED = 16384, PLANS = 128 };

/* A block that the program computes in place. */
typedef struct open_block {
    struct open_block *next;
    int64_t step, offset[MAX_NDIM], count[MAX_NDIM];
    slot *slot;       /* NULL: the step is not wanted, or nothing could be sent */
    uint8_t *scratch; /* then the memory is here */
    size_t bytes;
    bool only; /* acquired without a place: publish and discard find it by the array */
} open_block;

/* What this rank knows and counts of one array. */
typedef struct ips_bridge_array {
    ips_bridge *bridge;
    char *name;
    bool declared, has_block, ragged;
    bool elsewhere; /* a number that rank 0 puts */
    bool varies;    /* the place of its block comes with every put */
    bool fixed_put; /* the declared block was put, at least once */
    char dtype[24], block_dtype[24];
    int64_t itemsize;
    int ndim; /* of space; -1: not known */
    int64_t shape[MAX_NDIM];
    int64_t first, every, steps;
    int64_t end; /* first step beyond those that the program has declared */
    int64_t axis_end, furthest; /* and beyond those of the contract; the last that was put there */
    uint64_t beyond;            /* how many were */
    char *dims, *attributes; /* JSON, without the brackets */
    size_t n_boxes; /* this rank's blocks: offset and count of each */
    int64_t *boxes;
    int64_t offset[MAX_NDIM], count[MAX_NDIM]; /* of the only one */
    int64_t halo_low[MAX_NDIM], halo_high[MAX_NDIM];
    bool has_halo, has_shared;
    int by_id;       /* enum id_rule */
    struct ips_bridge_array *table; /* levels and places of its blocks, if it has such */
    int64_t levels;
    bool has_ids;    /* this rank's were described */
    int64_t n_ids, *ids;
    id_plan *id_plan; /* of the ids that were put last */
    int shared[MAX_NDIM]; /* enum ips_bridge_owner */
    agreement *contract;
    uint32_t ordinal;
    int n_wanted;
    progression *wanted; /* in simulation steps */
    plan *fixed, *others[PLANS];
    uint64_t plan_uses;
    progression row_spans[2 * MAX_NDIM];
    cut row_cut;
    segments segments; /* shared memory, in which the rings' slots lie */
    ring *rings;
    size_t n_rings, nth; /* rings handed out at `ring_step` */
    bool settled;        /* its first ring has slots */
    uint64_t more;       /* bytes that its further rings would take */
    bool any_ring;
    int64_t ring_step;
    bool any_put; /* the last step that the program put, wanted or not */
    int64_t put_step;
    int64_t begun; /* of an attached run: the first step that was put */
    uint64_t rewinds;
    put_mark own; /* of the declared block, or the rows */
    bool any_step; /* the last step of which something was to be sent */
    int64_t last_step;
    uint64_t blocks[4], bytes[4]; /* skipped, delivered, dropped, lost */
    moved *moved; /* where blocks went whose place cannot be computed later */
    size_t n_moved;
    open_block *open;  /* blocks that the program computes now */
    uint8_t *scratch;  /* for such a block at a step that is not wanted, while none uses it */
    size_t scratch_room;
} array; /* the public name of the type is longer */

enum { SKIPPED, DELIVERED, DROPPED, LOST };

array *ipsb_array(ips_bridge *b, const char *name);
array *ipsb_array_add(ips_bridge *b, const char *name);
void ipsb_array_free(array *a);
bool ipsb_add_box(array *a, const int64_t *offset, const int64_t *count);
/* Whether something of a chunk was sent once and is in no slot any more; `no_rows`: the time index at
 * which this rank had no row of it, else -1. */
bool ipsb_is_gone(const ips_bridge *b, const array *a, int64_t chunk, int64_t *no_rows);
bool ipsb_note_moved(array *a, int64_t chunk, int64_t t, const cut *c);
/* The plan of a block, from the cache if it is there; a code. */
int ipsb_plan_of(ips_bridge *b, array *a, const int64_t *offset, const int64_t *count, plan **out);
/* Match arrays and contract; make what puts need. */
int ipsb_arrays_join(ips_bridge *b);
/* The account of an array as frames carry it. */
void ipsb_counters(const array *a, uint64_t out[COUNTERS]);
bool ipsb_is_wanted(const array *a, int64_t step);
/* Cells of a block along a dimension as it lies in the program's memory, with halo. */
int64_t ipsb_extent(const array *a, int d, int64_t count);
/* What the rank owns of a block, and the cells that its array has before that; a code. */
int ipsb_owned(ips_bridge *b, const array *a, const int64_t *offset, const int64_t *count,
               int64_t *own_offset, int64_t *own_count, int64_t *before);
void ipsb_own_box(const array *a, const int64_t *offset, const int64_t *count, int64_t *own_offset,
                  int64_t *own_count);
/* Bytes that the rank owns of a block; without a place, of the declared one. */
int64_t ipsb_owned_bytes(const array *a, const int64_t *offset, const int64_t *count);

#endif
