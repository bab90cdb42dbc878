/* Types of cells by NumPy's names. */
#ifndef IPS_DTYPE_H
#define IPS_DTYPE_H

#include <stdint.h>

/* Bring a NumPy type name to its explicit form; 0 when it is none, else bytes per cell. */
int64_t ipsb_dtype(const char *name, char explicit_name[24]);

#endif
