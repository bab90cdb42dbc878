/* The contract: what is agreed for each array. */
#ifndef IPS_CONTRACT_H
#define IPS_CONTRACT_H

#include "ips_bridge.h"
#include "ips_bytes.h"

enum { MAX_NDIM = IPS_BRIDGE_MAX_DIMS + 1 };

/* The integers start + i * step, 0 <= i < count. Empty: (0, 0, 1); a single one has step 1. */
typedef struct progression {
    int64_t start, count, step;
} progression;

/* Chunks of one dimension: runs of equal sizes. */
typedef struct chunk_run {
    int64_t index, chunk; /* where the run begins, in cells and in chunks */
    int64_t size, times;
} chunk_run;

typedef struct chunk_axis {
    int64_t n_chunks;
    int n_runs;
    chunk_run *runs;
} chunk_axis;

/* Which rank owns an id that several ranks have; BY_BLOCK: ranks have blocks. */
enum id_rule { BY_BLOCK, UNIQUE_IDS, LOW_IDS, HIGH_IDS };

/* What is agreed for one array; dimension 0 is time. */
typedef struct agreement {
    char *name, *dtype;
    int64_t itemsize;
    bool ragged, drop, at_most;
    bool has_choice; /* of blocks of an adaptive mesh: some levels, and a box in cells of level 0 */
    int64_t level_low, level_high, refinement, box[MAX_NDIM][2];
    int box_ndim;
    int by_id; /* enum id_rule: rows with ids instead of blocks */
    int64_t first, every, steps; /* steps -1: open-ended */
    int ndim;
    int64_t shape[MAX_NDIM];
    chunk_axis chunks[MAX_NDIM];
    progression cover[MAX_NDIM];
    int n_wanted;
    progression *wanted; /* ndim for each */
    int64_t n_space;
    uint64_t epoch;
    uint32_t period, n_owners;
    uint32_t *owners;
    int grid_ndim, halo_ndim; /* process grid and halo, if the attributes name them; else 0 */
    int64_t grid[MAX_NDIM], halo_low[MAX_NDIM], halo_high[MAX_NDIM];
    int shared_ndim; /* the owners of shared points, likewise: enum ips_bridge_owner */
    int shared[MAX_NDIM];
    int64_t levels; /* of blocks of an adaptive mesh, by the attributes; else 0 */
    bool is_table;  /* of levels and places of such blocks, then with the shape of a block */
    int block_ndim;
    int64_t block_shape[MAX_NDIM];
} agreement;

typedef struct contract {
    char *run;
    int n_arrays, n_unneeded;
    agreement *arrays, *unneeded; /* those that are described only have no cover, chunks, owners */
} contract;

/* Returns NULL, or why the bytes are no contract. `out` can be freed in any case. */
const char *ipsb_contract_parse(contract *out, const uint8_t *data, size_t length);
void ipsb_contract_free(contract *c);
bool ipsb_place(agreement *a, uint64_t epoch, uint32_t period, uint32_t n, const uint8_t *owners);

bool ipsb_has(progression p, int64_t value);
int64_t ipsb_time_index(const agreement *a, int64_t step); /* -1: not a published step */
uint32_t ipsb_owner(const agreement *a, int64_t chunk);

#endif
