/* Which piece of which block goes where. */
#ifndef IPS_PLAN_H
#define IPS_PLAN_H

#include "ips_contract.h"

/* Part of a block that belongs to one chunk in space: `src` relative to the rank's array (halo
 * included), `dst` to the external chunk. Both have ndim - 1 progressions. */
typedef struct cut {
    int64_t space, cells;
    const progression *src, *dst;
} cut;

typedef struct cut_group {
    progression time;
    size_t first, n; /* cuts */
} cut_group;

/* When a block was put last: at a step, after so many rewinds. */
typedef struct put_mark {
    bool any;
    int64_t step;
    uint64_t rewinds;
} put_mark;

/* The pieces of one block for every time index. */
typedef struct plan {
    const agreement *contract;
    int64_t offset[MAX_NDIM], count[MAX_NDIM], halo[MAX_NDIM];
    size_t n_groups, n_cuts;
    cut_group *groups;
    cut *cuts;
    progression *spans;
    uint64_t used; /* for the plan cache */
    put_mark put;
} plan;

typedef struct piece {
    int64_t chunk;
    uint32_t receiver;
    progression time; /* position in the chunk along time */
    const cut *cut;
} piece;

typedef struct pieces {
    piece *items;
    size_t n, room;
} pieces;

/* 0, IPS_BRIDGE_MEMORY or IPS_BRIDGE_GEOMETRY (the block is outside of the array). */
int ipsb_plan_make(plan *p, const agreement *a, const int64_t *offset, const int64_t *count,
                   const int64_t *halo);
void ipsb_plan_free(plan *p);
/* Fill `out` with the pieces at time index t; false when there is no memory. */
bool ipsb_plan_at(const plan *p, int64_t t, pieces *out);
/* The wanted selection of a ragged array at t that holds this rank's part, or NULL. */
const progression *ipsb_rows_at(const agreement *a, int rank, int size, int64_t t, int64_t *chunk);

/* What one dimension of a block gives: for each chunk the part in it. */
typedef struct part {
    int64_t chunk;
    progression src, dst;
} part;

typedef struct parts {
    part *items;
    size_t n;
} parts;

/* Cut the range of a plan's block along one dimension; false when there is no memory. */
bool ipsb_cut_dimension(const agreement *a, int dim, progression wanted, const plan *p, parts *out);
/* The elements x with low <= x < high. */
progression ipsb_clip(progression p, int64_t low, int64_t high);
/* Where a chunk begins and ends along a dimension. */
void ipsb_chunk_bounds(const chunk_axis *axis, int64_t chunk, int64_t *low, int64_t *high);
/* The chunk row of a time index, and where in the chunk it lies. */
int64_t ipsb_time_in_chunk(const agreement *a, int64_t t, progression *time);
void ipsb_chunk_times(const agreement *a, int64_t row, int64_t *low, int64_t *high);

#endif
