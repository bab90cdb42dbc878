/* The regular decomposition. */
#ifndef IPS_GRID_H
#define IPS_GRID_H

#include <stdint.h>

/* Factor ranks into a balanced grid as MPI_Dims_create does. */
void ipsb_dims_create(int size, int ndim, int64_t *grid);

#endif
