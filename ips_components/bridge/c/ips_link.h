/* One connection to a receiver: its queue, its state, what is sent and read. */
#ifndef IPS_LINK_H
#define IPS_LINK_H

#include "ips_contact.h"
#include "ips_memory.h"

typedef enum link_state {
    LINK_NEW,
    LINK_CONNECTING,
    LINK_GREETING, /* greeting and hello are under way */
    LINK_OPEN,
    LINK_RECONNECTING, /* and to be repaired */
    LINK_CLOSED
} link_state;

/* Something to send; with a number if the receiver must get it exactly once. */
typedef struct item {
    struct item *next;
    uint64_t seq;
    slot *slot; /* a piece's; NULL: `frame` is sent */
    bool leased; /* the connection has a lease of the slot */
    uint32_t generation;
    size_t piece, length;
    uint8_t frame[];
} item;

typedef struct items {
    item *first, *last;
} items;

typedef struct requested_chunk {
    uint32_t array;
    int64_t chunk;
} requested_chunk;

typedef struct peer {
    uint32_t index; /* in the bridge's table */
    endpoint at;
    bool local;   /* on this machine */
    bool removed; /* a placement does not name it any more */
    link_state state;
    bool shm, bye_sent, bye_acked, refused;
    bool challenged; /* its challenge was answered by the hello */
    uint8_t nonce[NONCE_BYTES]; /* of this connection */
    bool needs_tls; /* it takes encrypted connections only */
    bool deserted;  /* no receiver listened when it was dialled last */
    int fd;
    uint32_t generation;
    uint32_t placed; /* epoch of the newest placement that came over this connection */
    int64_t last_received, last_sent, opened_at, attempt_until, broken_since, retry_at; /* ns */
    int64_t pause, silence;
    char why[240];
    buffer in, out;
    size_t out_at;
    int out_fd; /* descriptor to travel with the next byte of `out`; -1: none */
    item *bulk; /* whose cells follow `out`; first of the unacked */
    size_t bulk_at;
    items queue, unacked, held; /* to be sent; sent; taken, but the slot is still read */
    size_t n_queue;
    uint64_t seq, packed_seq;
    int64_t *admitted, *wanted; /* per array: rows below are welcome; row asked for (-1) */
    requested_chunk *requested; /* chunks that it asked for one by one */
    size_t n_requested, room_requested;
} peer;

/* What the part above does for the connections. */
typedef struct link_ops {
    void (*hello_info)(void *owner, buffer *out); /* append the JSON of a hello */
    /* Act on a message; false when the receiver may not send it (the reason is in k->why). */
    bool (*message)(void *owner, peer *k, const message *m);
    void *owner;
} link_ops;

int64_t ipsb_now(void); /* ns, monotonic */
/* A link that was never connected; NULL without memory. It has room for `n_arrays` arrays. */
peer *ipsb_link_make(const endpoint *at, uint32_t index, int n_arrays);
void ipsb_link_free(peer *k);
void ipsb_link_end(peer *k); /* for good; its slots come back */
/* A connection is over: it will be made again, unless it has done its duty. */
void ipsb_link_broken(peer *k, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* Whether it was open before, is being repaired, and its receiver has not ended. */
bool ipsb_may_return(const peer *k);
bool ipsb_link_idle(const peer *k); /* nothing is left to be written */

/* Append to a link's queue; false when there is no memory. Pieces, and frames that ask for it, get
 * the next number: numbers are in the order of the queue. The frame's memory is taken. */
bool ipsb_enqueue_piece(peer *k, slot *s, size_t piece);
bool ipsb_enqueue_frame(peer *k, buffer *frame, bool numbered);
void ipsb_push(items *list, item *added);
item *ipsb_pop(items *list);
bool ipsb_is_queued(const items *list, const slot *s, size_t piece);
/* The receiver took all numbers up to one; false when it cannot have. */
bool ipsb_on_ack(peer *k, uint64_t seq);
/* A lease was returned; false when it cannot be. */
bool ipsb_on_release(peer *k, uint32_t slot, uint32_t generation);
bool ipsb_on_welcome(peer *k, uint64_t last_seq); /* the hello was accepted */
bool ipsb_is_requested(const peer *k, uint32_t array, int64_t chunk);

/* ips_link_io.c */
void ipsb_flush(peer *k);                            /* send what the socket takes */
void ipsb_link_read(peer *k, const link_ops *ops); /* read what is there, and act on it */

#endif
