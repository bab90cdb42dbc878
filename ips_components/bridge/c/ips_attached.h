/* Attached runs: further contracts that a running simulation puts into. A rank never waits for one
 * and gets no error of it: what cannot be sent at once is dropped, and what goes wrong ends the
 * attached run only. Each is a bridge of its own, moved a little in every call of the first one. */
#ifndef IPS_ATTACHED_H
#define IPS_ATTACHED_H

#include "ips_admit.h"

/* Note the contact of an attached run, to be joined in the next calls; false without memory. */
bool ipsb_attach(ips_bridge *b, const uint8_t *contact, size_t length);
/* Move all of them: connect, take contracts, leave. */
void ipsb_attached_progress(ips_bridge *b);
/* Put a block, or rows, into all of them. `before`: the newest step before this put. */
void ipsb_attached_put(const array *a, int64_t step, int64_t before, const void *cells,
                       const int64_t *offset, const int64_t *extent, const int64_t *strides);
void ipsb_attached_put_rows(const array *a, int64_t step, int64_t before, const void *cells,
                            int64_t rows, const int64_t *strides);
/* Rows of several parts; with ids, or with level and place of each, or without. */
void ipsb_attached_put_parts(const array *a, int64_t step, int64_t before,
                             const ips_bridge_rows *parts, int n_parts, const int64_t *ids,
                             const blocks *of);
void ipsb_attached_step_end(ips_bridge *b, int64_t step);
void ipsb_attached_rewind(ips_bridge *b, int64_t step);
/* Say goodbye to all, for a bounded time. */
void ipsb_attached_close(ips_bridge *b, bool aborted, const char *reason);
void ipsb_attached_free(ips_bridge *b);

#endif
