/* The bridge as a structure, and what makes a simulation end. */
#ifndef IPS_STATE_H
#define IPS_STATE_H

#include "ips_array.h"

typedef struct feedback feedback;
typedef struct attached attached;
typedef struct blocks blocks; /* see ips_admit.h */

/* What the calls of a bridge have attached runs do. Attached runs are bridges, made of the parts
 * that call these: the parts know the table, and ips_attached.c, above them, fills it in. */
typedef struct attached_calls {
    /* Note the contact of an attached run, to be joined in the next calls, or its id alone: it has
     * ended; false without memory. */
    bool (*attach)(ips_bridge *b, const uint8_t *contact, size_t length);
    /* Move all of them: connect, take contracts, leave. */
    void (*progress)(ips_bridge *b);
    /* Wait until so many of them take blocks, or have ended, for a bounded time; false: in vain. */
    bool (*wait)(ips_bridge *b, int n);
    /* Put a block, or rows, into all of them. `before`: the newest step before this put. */
    void (*put_block)(const array *a, int64_t step, int64_t before, const void *cells,
                      const int64_t *offset, const int64_t *extent, const int64_t *strides);
    void (*put_rows)(const array *a, int64_t step, int64_t before, const void *cells, int64_t rows,
                     const int64_t *strides);
    /* Rows of several parts; with ids, or with level and place of each, or without. */
    void (*put_parts)(const array *a, int64_t step, int64_t before, const ips_bridge_rows *parts,
                      int n_parts, const int64_t *ids, const blocks *of);
    void (*step_end)(ips_bridge *b, int64_t step);
    void (*rewind)(ips_bridge *b, int64_t step);
} attached_calls;

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
    array **agreed; /* by ordinal in the contract, then those that are accounted for only */
    size_t n_agreed;
    bool shared;
    size_t n_shared; /* slots that receivers may map */
    uint64_t settled, wished; /* bytes of all rings: with the slots they have at most, or would */
    uint64_t ragged;          /* of what is settled, by ragged arrays */
    bool passed;              /* it was said that they pass the limit */
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
    buffer model;      /* that was received last, as it is broadcast */
    void *model_views; /* its names and arrays, which lie there */
    int64_t first_step, shift; /* of this launch; from the program's steps to those of the run */
    uint32_t launch;
    bool many_launches;
    bool in_step;
    int64_t step;
    bool any_timed;
    int64_t timed; /* the last step whose physical time was said */
    uint64_t waited_ns;
    int64_t put_ended, put_took; /* ns, of the last block that was sent */
    int64_t newest; /* step of the run that was put; -1 before any */
    int awaited;        /* attached runs that the launch goes on with */
    attached *attached; /* further contracts, see ips_attached.h; nearly always NULL */
    const attached_calls *attached_calls; /* NULL: this is the bridge of an attached run */
    bool attached_run; /* this is the bridge of one: it never waits */
};

bool ipsb_is_detached(const ips_bridge *b); /* no receiver is left to send to */
int ipsb_check(ips_bridge *b);        /* what makes the simulation end */
int ipsb_fail_needs_tls(ips_bridge *b, const peer *k); /* fail: the receiver takes encrypted connections only */
int64_t ipsb_ns(double seconds);

#endif
