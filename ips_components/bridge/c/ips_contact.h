/* The contact file of a run. */
#ifndef IPS_CONTACT_H
#define IPS_CONTACT_H

#include "ips_bridge.h"
#include "ips_wire.h"

enum { LANE_TCP = 1, LANE_SHM = 2 };

typedef struct contact {
    uint8_t token[TOKEN_BYTES];
    char run[RUN_BYTES + 1];
    double connect, contract, step, drain; /* deadlines, s */
    uint32_t lanes;
    bool abort_on_loss;
    uint32_t replay_steps;
    uint64_t replay_bytes, slot_bytes;
    bool tls; /* connections over TCP are encrypted, which this bridge cannot do */
    endpoints receivers;
} contact;

/* Return NULL or what is wrong. */
const char *ipsb_contact_parse(contact *out, const uint8_t *data, size_t length);
/* Read the file and append its binary record; a code, with words in `why`. `missing`: whether
 * there is no file (yet). */
int ipsb_contact_read(const char *path, buffer *record, bool *missing, char *why, size_t room);

#endif
