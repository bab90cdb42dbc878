/* What the parts of the library share. Not for programs that use it. */
#ifndef IPS_INTERNAL_H
#define IPS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ips_bridge.h"

/* ---- Little-endian numbers, wherever they lie ---------------------------------------------- */

static inline uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static inline uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static inline int64_t get_i64(const uint8_t *p)
{
    uint64_t bits = get64(p);
    int64_t value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void set16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static inline void set32(uint8_t *p, uint32_t value)
{
    set16(p, (uint16_t)value);
    set16(p + 2, (uint16_t)(value >> 16));
}

static inline void set64(uint8_t *p, uint64_t value)
{
    set32(p, (uint32_t)value);
    set32(p + 4, (uint32_t)(value >> 32));
}

/* ---- Growing bytes -------------------------------------------------------------------------- */

typedef struct buffer {
    uint8_t *data;
    size_t length, room;
    bool failed; /* a growth found no memory; later ones do nothing */
} buffer;

bool ipsb_reserve(buffer *b, size_t more); /* room for `more` bytes behind the present ones */
void ipsb_append(buffer *b, const void *data, size_t length);
void ipsb_append_text(buffer *b, const char *format, ...);
void ipsb_append_json_string(buffer *b, const char *text);
void ipsb_buffer_free(buffer *b);

/* ---- The contract (ips_contract.c) ---------------------------------------------------------- */

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

/* What is agreed for one array; dimension 0 is time. */
typedef struct agreement {
    char *name, *dtype;
    int64_t itemsize;
    bool ragged, drop;
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
    int64_t grid[MAX_NDIM], halo[MAX_NDIM];
} agreement;

typedef struct contract {
    char *run;
    int n_arrays;
    agreement *arrays;
} contract;

/* Returns NULL, or why the bytes are no contract. `out` can be freed in any case. */
const char *ipsb_contract_parse(contract *out, const uint8_t *data, size_t length);
void ipsb_contract_free(contract *c);
bool ipsb_place(agreement *a, uint64_t epoch, uint32_t period, uint32_t n, const uint8_t *owners);

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

bool ipsb_has(progression p, int64_t value);
int64_t ipsb_time_index(const agreement *a, int64_t step); /* -1: not a published step */
uint32_t ipsb_owner(const agreement *a, int64_t chunk);
void ipsb_chunk_times(const agreement *a, int64_t row, int64_t *low, int64_t *high);
/* Bring a NumPy type name to its explicit form; 0 when it is none, else bytes per cell. */
int64_t ipsb_dtype(const char *name, char explicit_name[24]);
/* Factor ranks into a balanced grid as MPI_Dims_create does. */
void ipsb_dims_create(int size, int ndim, int64_t *grid);

/* ---- Frames and the contact file (ips_wire.c) ------------------------------------------------ */

enum {
    HEADER_BYTES = 32,
    PROTOCOL_VERSION = 1,
    TOKEN_BYTES = 32,
    DIGEST_BYTES = 32,
    RUN_BYTES = 64,
    COUNTERS = 11,
    OP_HELLO = 1,
    OP_PIECE,
    OP_ROWS,
    OP_STEP_END,
    OP_WANT,
    OP_DROPPED,
    OP_GONE,
    OP_SLOT,
    OP_SLOT_DROP,
    OP_BYE,
    OP_PING,
    OP_WELCOME = 32,
    OP_CONTRACT,
    OP_CREDIT,
    OP_RESEND,
    OP_ACK,
    OP_RELEASE,
    OP_PLACEMENT,
    OP_FEEDBACK,
    OP_FAULT,
    OP_STOP,
    OP_BYE_ACK,
    OP_REFUSED
};

#define NO_SLOT 0xFFFFFFFFu

typedef struct endpoint {
    uint32_t ordinal;
    uint16_t port;
    uint64_t pid;
    char *host, *unix_name, *hostname, *boot;
} endpoint;

typedef struct endpoints {
    endpoint *items;
    uint32_t n;
} endpoints;

void ipsb_endpoints_free(endpoints *e);

enum { LANE_TCP = 1, LANE_SHM = 2 };

typedef struct contact {
    uint8_t token[TOKEN_BYTES];
    char run[RUN_BYTES + 1];
    double connect, contract, step, drain; /* deadlines, s */
    uint32_t lanes;
    bool abort_on_loss;
    uint32_t replay_steps;
    uint64_t replay_bytes;
    bool tls; /* connections over TCP are encrypted, which this bridge cannot do */
    endpoints receivers;
} contact;

/* Return NULL or what is wrong. */
const char *ipsb_contact_parse(contact *out, const uint8_t *data, size_t length);
/* Read the file and append its binary record; a code, with words in `why`. `missing` tells that
 * there is no file (yet). */
int ipsb_contact_read(const char *path, buffer *record, bool *missing, char *why, size_t room);

typedef struct header {
    uint8_t op;
    uint16_t flags;
    uint64_t seq;
    uint32_t body, array;
    uint64_t data;
} header;

/* A message from a receiver. Pointers lead into its body; lengths are checked. */
typedef struct message {
    header head;
    uint64_t number; /* Welcome: last seq, Credit: rows, Resend: chunk, Ack: seq, Fault: policy */
    uint32_t ordinal, heartbeat, silence;       /* Welcome */
    const uint8_t *digest, *contract, *list;    /* ContractIs; Release, Placement: entries */
    size_t contract_length, list_length;        /* Release: number of seqs, Placement: of entries */
    const uint8_t *receivers;                   /* packed endpoints */
    size_t receivers_length;
    int64_t step;                               /* Feedback */
    uint8_t kind, ndim;
    const uint8_t *shape, *data;
    size_t data_length;
    const char *text;                           /* Fault, Stop, Refused; Feedback: its name */
    size_t text_length;
} message;

/* Return NULL or what is wrong. parse_header reads HEADER_BYTES bytes. */
const char *ipsb_parse_header(header *out, const uint8_t *data);
const char *ipsb_parse(message *out, const header *head, const uint8_t *body);
const char *ipsb_parse_endpoints(endpoints *out, const uint8_t *data, size_t length);

/* Append whole frames. */
typedef struct hello {
    const uint8_t *token, *digest;
    const char *run;
    uint32_t rank, size, epoch;
    uint64_t pid, session;
    bool wants_contract;
    const void *info;
    size_t info_length;
} hello;

void ipsb_pack_hello(buffer *out, const hello *h);
/* dst: 3 numbers per dimension; strides: one per dimension, in a slot only (else NULL). */
void ipsb_pack_piece(buffer *out, uint32_t array, uint64_t seq, uint64_t chunk, uint64_t t, int ndim,
                     const int64_t *dst, uint64_t data, uint32_t slot, uint64_t slot_offset,
                     const int64_t *strides);
void ipsb_pack_rows(buffer *out, uint32_t array, uint64_t seq, uint64_t chunk, uint64_t t,
                    uint64_t rows);
void ipsb_pack_step_end(buffer *out, int64_t step, uint64_t waited_ns, const uint64_t *counters,
                        uint32_t n);
void ipsb_pack_bye(buffer *out, int64_t last_step, uint32_t status, const uint64_t *counters,
                   uint32_t n, const char *reason);
void ipsb_pack_slot(buffer *out, uint32_t slot, uint32_t ring, uint64_t size, uint32_t length,
                    uint32_t spare);
void ipsb_pack_slot_drop(buffer *out, uint32_t slot);
/* Want, Dropped, Gone: one number about an array. */
void ipsb_pack_number(buffer *out, uint8_t op, uint32_t array, uint64_t seq, uint64_t number);
void ipsb_pack_empty(buffer *out, uint8_t op);

/* The value of a key of the JSON object at nesting depth `depth` (1: the outermost), or NULL. */
const char *ipsb_json_find(const char *text, size_t length, int depth, const char *key);

/* ---- Memory for blocks (ips_memory.c) -------------------------------------------------------- */

/* A piece as it lies in a slot. */
typedef struct stored {
    uint32_t array;
    int64_t chunk, t, cells;
    size_t offset, bytes;
    bool dense; /* C order without gaps */
    int ndim;
    size_t numbers; /* in the slot's numbers: 3 * ndim for dst, then ndim strides */
} stored;

/* Some memory; with a descriptor when receivers on this machine may map it. */
typedef struct slot {
    uint32_t number, ring, length, spare; /* the ring has `length` slots; receivers leave `spare` */
    uint64_t used;                        /* turn of the ring in which it was handed out last */
    size_t size;
    uint8_t *memory;
    int fd;
    size_t pending; /* sent pieces that still read it */
    bool busy;      /* the program writes it now */
    bool abandoned; /* some receiver may read it for ever: never written again */
    stored *stored;
    size_t n_stored, room_stored;
    int64_t *numbers;
    size_t n_numbers, room_numbers;
    uint32_t *announced; /* per link: generation of the connection that knows the slot */
    uint32_t n_announced;
} slot;

/* Bytes that a slot for `bytes` has: whole pages, huge ones when it is large. */
size_t ipsb_slot_size(size_t bytes);
slot *ipsb_slot_make(uint32_t number, size_t bytes, bool shared);
void ipsb_slot_free(slot *s);
void ipsb_slot_clear(slot *s);
/* Note a piece; strides of all ndim dimensions. False when there is no memory. */
bool ipsb_slot_store(slot *s, uint32_t array, int64_t t, const piece *p, int ndim, size_t offset,
                     const int64_t *strides, int64_t itemsize);

/* The slots of one block: the free one that was used longest ago is the next one. */
typedef struct ring {
    slot **slots;
    uint32_t number, length, n;
    uint64_t turn;
    size_t refused; /* bytes that were too many for another slot; 0: none were */
} ring;

enum { NEEDED = 3 }; /* slots of a ring without any replay */

/* Copy `cells` cells, from number `from` on in C order, out of a strided box. */
void ipsb_gather(uint8_t *out, const uint8_t *base, int ndim, const int64_t *count,
                 const int64_t *strides, size_t itemsize, int64_t from, int64_t cells);

/* ---- Links (ips_link.c) ---------------------------------------------------------------------- */

typedef enum standing {
    LINK_NEW,
    LINK_CONNECTING,
    LINK_GREETING, /* the hello is under way */
    LINK_OPEN,
    LINK_BROKEN, /* and to be repaired */
    LINK_GONE
} standing;

/* Something to send; with a number if the receiver must get it exactly once. */
typedef struct item {
    struct item *next;
    uint64_t seq;
    slot *slot; /* a piece's; NULL: `frame` is sent */
    size_t piece, length;
    uint8_t frame[];
} item;

typedef struct items {
    item *first, *last;
} items;

typedef struct welcome_chunk {
    uint32_t array;
    int64_t chunk;
} welcome_chunk;

typedef struct peer {
    uint32_t index; /* in the bridge's table */
    endpoint at;
    bool local;   /* on this machine */
    bool removed; /* a placement does not name it any more */
    standing standing;
    bool shm, left, bye_acked, refused;
    bool barred; /* only an encrypted connection would lead there */
    int fd;
    uint32_t generation;
    int64_t heard, opened, attempt_until, broken_since, retry_at; /* ns */
    int64_t pause, silence;
    char why[160];
    buffer in, out;
    size_t out_at;
    int out_fd; /* descriptor to travel with the next byte of `out`; -1: none */
    item *bulk; /* whose cells follow `out`; first of the unacked */
    size_t bulk_at;
    items queue, unacked, held; /* to be sent; sent; taken, but the slot is still read */
    size_t n_queue;
    uint64_t seq, packed_seq;
    int64_t *admitted, *wanted; /* per array: rows below are welcome; row asked for (-1) */
    welcome_chunk *welcome;
    size_t n_welcome, room_welcome;
} peer;

typedef struct moved {
    int64_t chunk, t;
} moved;

enum { MOVED = 16384, PLANS = 128 };

/* A block that the program computes in place. */
typedef struct open_block {
    struct open_block *next;
    int64_t step, offset[MAX_NDIM], count[MAX_NDIM];
    slot *slot;       /* NULL: the step is not wanted, or nothing could be sent */
    uint8_t *scratch; /* then the memory is here */
    size_t bytes;
    bool only; /* acquired without a place: publish and discard find it by the array */
} open_block;

/* What this rank knows and counts of one array. */
typedef struct ips_bridge_array {
    ips_bridge *bridge;
    char *name;
    bool declared, has_block, ragged;
    bool varies;    /* its blocks are told with every put */
    bool fixed_put; /* the declared block was put, at least once */
    char dtype[24], block_dtype[24];
    int64_t itemsize;
    int ndim; /* of space; -1: not known */
    int64_t shape[MAX_NDIM];
    int64_t first, every, steps;
    char *dims, *attributes; /* JSON, without the brackets */
    size_t n_boxes; /* this rank's blocks: offset and count of each */
    int64_t *boxes;
    int64_t offset[MAX_NDIM], count[MAX_NDIM], halo[MAX_NDIM]; /* of the only one */
    bool has_halo;
    agreement *contract;
    uint32_t ordinal;
    int n_wanted;
    progression *wanted; /* in simulation steps */
    plan *fixed, *others[PLANS];
    uint64_t plan_uses;
    progression row_spans[2 * MAX_NDIM];
    cut row_cut;
    ring *rings;
    size_t n_rings, nth; /* rings handed out at `ring_step` */
    bool any_ring;
    int64_t ring_step;
    bool any_put; /* the last step that the program put, wanted or not */
    int64_t put_step;
    uint64_t rewinds;
    put_mark own; /* of the declared block, or the rows */
    bool any_step; /* the last step of which something was to be sent */
    int64_t last_step;
    uint64_t blocks[4], bytes[4]; /* skipped, delivered, dropped, lost */
    moved *moved; /* where blocks went whose place cannot be computed later */
    size_t n_moved;
    open_block *open;  /* blocks that the program computes now */
    uint8_t *scratch;  /* for such a block at a step that is not wanted, while none uses it */
    size_t scratch_room;
} array; /* the public name of the type is longer */

enum { SKIPPED, DELIVERED, DROPPED, LOST };

typedef struct feedback {
    struct feedback *next;
    char *name;
    int64_t step;
    int kind, ndim;
    int64_t shape[16];
    size_t count, bytes;
    uint8_t *data;
} feedback;

struct ips_bridge {
    int rank, size;
    bool joined, closed, described;
    char error[1024];
    ips_bridge_error_handler handler;
    void *handler_data;
    uint8_t *blob;
    size_t blob_length;
    contact contact;
    contract contract;
    bool has_contract;
    uint8_t *contract_frame; /* body of ContractIs, for request */
    size_t contract_length;
    uint8_t digest[DIGEST_BYTES];
    uint64_t session;
    uint32_t epoch, lanes;
    char hostname[256], boot[64];
    array **arrays;
    size_t n_arrays;
    array **agreed; /* by ordinal in the contract */
    peer **links;
    uint32_t n_links;
    peer *home;
    bool shared;
    size_t n_shared, max_shared; /* slots with a descriptor: some must be left to the program */
    uint32_t next_slot, next_ring;
    char *hosts; /* rank 0: where the ranks are, as JSON */
    buffer where;
    pieces pieces;
    int64_t last_progress, last_look;
    bool fault, fault_abort, stop, no_more;
    char fault_text[512], lost[512];
    feedback *feedback;
    size_t n_feedback;
    bool in_step;
    int64_t step;
    uint64_t waited_ns;
};

int64_t ipsb_now(void); /* ns, monotonic */
int ipsb_fail(ips_bridge *b, int code, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;
/* Fail because a receiver is behind an encrypted connection. */
int ipsb_barred(ips_bridge *b, const peer *k);

peer *ipsb_link_add(ips_bridge *b, const endpoint *at);
peer *ipsb_link_of(ips_bridge *b, uint32_t ordinal); /* NULL: not in the placement any more */
void ipsb_link_start(ips_bridge *b, peer *k);        /* connect a new link */
void ipsb_link_end(peer *k);                         /* for good; its slots come back */
void ipsb_links_free(ips_bridge *b);
/* Append to a link's queue; false when there is no memory. Pieces, and frames that ask for it, get
 * the next number: numbers are in the order of the queue. The frame's memory is taken. */
bool ipsb_enqueue_piece(peer *k, slot *s, size_t piece);
bool ipsb_enqueue_frame(peer *k, buffer *frame, bool numbered);
void ipsb_pump(peer *k);            /* send what the socket takes */
bool ipsb_link_idle(const peer *k); /* nothing is left to be written */
/* The receiver took all numbers up to one; false when it cannot have. */
bool ipsb_taken(peer *k, uint64_t seq);
void ipsb_released(peer *k, uint64_t seq);      /* a slot's piece is read no more */
bool ipsb_welcomed(peer *k, uint64_t last_seq); /* the hello was accepted */
/* Send and receive what is possible; wait at most until `until` (ns; 0: do not wait). */
void ipsb_progress(ips_bridge *b, int64_t until);
bool ipsb_quiet(const ips_bridge *b); /* nobody is there to send to */
int ipsb_check(ips_bridge *b);        /* what makes the simulation end */
bool ipsb_is_welcome(const peer *k, uint32_t array, int64_t chunk);

/* Message handling (ips_news.c): false when the receiver said something impossible (see k->why). */
bool ipsb_take(ips_bridge *b, peer *k, const message *m);
/* The value sent for exactly this step, or the latest for it or an earlier one. */
feedback *ipsb_feedback(ips_bridge *b, const char *name, int64_t step, bool exact);
void ipsb_feedback_free(ips_bridge *b);

/* Puts and steps (ips_put.c) */
bool ipsb_drain(ips_bridge *b, double seconds); /* wait until receivers have taken all */
void ipsb_end_step(ips_bridge *b, bool now);

/* Arrays (ips_array.c) */
void ipsb_hello_info(const ips_bridge *b, buffer *out);
array *ipsb_array(ips_bridge *b, const char *name);
array *ipsb_array_add(ips_bridge *b, const char *name);
void ipsb_array_free(array *a);
/* Whether something of a chunk was sent once and is in no slot any more; `no_rows`: the time index at
 * which this rank had no row of it, else -1. */
bool ipsb_lacks(const ips_bridge *b, const array *a, int64_t chunk, int64_t *no_rows);
bool ipsb_note_moved(array *a, int64_t chunk, int64_t t);
/* The plan of a block, from the cache if it is there; a code. */
int ipsb_plan_of(ips_bridge *b, array *a, const int64_t *offset, const int64_t *count,
                 plan **out);
/* Match arrays and contract; make what puts need. */
int ipsb_arrays_join(ips_bridge *b);
/* The account of an array as frames carry it. */
void ipsb_counters(const array *a, uint64_t out[COUNTERS]);

#endif
