/* Values that the analysis sent. */
#ifndef IPS_FEEDBACK_H
#define IPS_FEEDBACK_H

#include "ips_state.h"

struct feedback {
    struct feedback *next;
    char *name;
    int64_t step;
    int kind, ndim;
    int64_t shape[16];
    size_t count, bytes;
    uint8_t *data;
};

void ipsb_feedback_store(ips_bridge *b, const message *m);
/* The value sent for exactly this step, or the latest for it or an earlier one. */
feedback *ipsb_feedback(ips_bridge *b, const char *name, int64_t step, bool exact);
void ipsb_feedback_free(ips_bridge *b);

#endif
