/* The bridge as a structure, and what makes a simulation end. */
#ifndef IPS_STATE_H
#define IPS_STATE_H

#include "ips_array.h"

typedef struct feedback feedback;
typedef struct attached attached;

struct ips_bridge {
    errors errors; /* first: see ips_error.c */
    identity self;
    bool joined, closed, described;
    bool may_be_alone, alone; /* without a contact file nothing is sent; this is so */
    bool partial; /* what this rank does not declare, other ranks put */
    uint8_t *blob;
    size_t blob_length;
    contact contact;
    contract contract;
    uint8_t *contract_frame; /* body of ContractIs, for request */
    size_t contract_length;
    links links;
    array **arrays;
    size_t n_arrays;
    array **agreed; /* by ordinal in the contract */
    bool shared;
    size_t n_shared; /* slots that receivers may map */
    segment_limits segment_limits;
    uint32_t next_slot, next_ring;
    char *hosts; /* rank 0: where the ranks are, as JSON */
    buffer where;
    pieces pieces;
    int64_t last_poll, last_account;
    bool fault, fault_abort, stop, no_more;
    char fault_text[512];
    feedback *feedback;
    size_t n_feedback;
    int64_t first_step, shift; /* of this launch; from the program's steps to those of the run */
    uint32_t launch;
    bool many_launches;
    bool in_step;
    int64_t step;
    bool any_timed;
    int64_t timed; /* the last step whose physical time was said */
    uint64_t waited_ns;
    int64_t newest; /* step of the run that was put; -1 before any */
    attached *attached; /* further contracts, see ips_attached.h; nearly always NULL */
    bool attached_run; /* this is the bridge of one: it never waits */
};

bool ipsb_is_detached(const ips_bridge *b); /* no receiver is left to send to */
int ipsb_check(ips_bridge *b);        /* what makes the simulation end */
int ipsb_fail_needs_tls(ips_bridge *b, const peer *k); /* fail: the receiver takes encrypted connections only */
int64_t ipsb_ns(double seconds);

#endif
