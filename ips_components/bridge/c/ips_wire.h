/* Frames between ranks and receivers, as documented in ips_components/wire/messages.py. */
#ifndef IPS_WIRE_H
#define IPS_WIRE_H

#include "ips_bytes.h"

enum {
    HEADER_BYTES = 32,
    PROTOCOL_VERSION = 5,
    TOKEN_BYTES = 32,
    NONCE_BYTES = 32,
    PROOF_BYTES = 32,
    DIGEST_BYTES = 32,
    RUN_BYTES = 64,
    COUNTERS = 12,
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
    OP_GREETING = 13,
    OP_STEP_TIME,
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
    OP_REFUSED,
    OP_CHALLENGE,
    OP_ATTACH
};

enum { DROPPED_PASSED = 1 };   /* flags of Dropped */
enum { PIECE_ANSWER_NOW = 1 }; /* flags of Piece */

#define NO_SLOT 0xFFFFFFFFu

typedef struct endpoint {
    uint32_t ordinal;
    uint16_t port;
    uint64_t pid, id;
    char *host, *unix_name, *hostname, *boot;
} endpoint;

typedef struct endpoints {
    endpoint *items;
    uint32_t n;
} endpoints;

void ipsb_endpoints_free(endpoints *e);

typedef struct header {
    uint8_t op;
    uint16_t flags;
    uint64_t seq;
    uint32_t body, array;
    uint64_t data;
} header;

enum { LAUNCH_MANY = 1, LAUNCH_RENUMBER = 2, LAUNCH_AWAITED = 8, LAUNCH_MAX_AWAITED = 255 };

/* A message from a receiver. Pointers lead into its body; lengths are checked. */
typedef struct message {
    header head;
    uint64_t number; /* Welcome: last seq, Credit: rows, Resend: chunk, Ack: seq, Fault: policy */
    uint32_t ordinal;                           /* Welcome; ContractIs: number of the launch */
    uint32_t heartbeat, silence;                /* Welcome */
    const uint8_t *nonce, *proof;               /* Challenge */
    uint32_t launch_flags;                      /* ContractIs: LAUNCH_MANY, LAUNCH_RENUMBER */
    const uint8_t *digest, *contract, *list;    /* ContractIs; Release, Placement: entries */
    size_t contract_length, list_length;        /* Release: number of leases, Placement: of entries */
    const uint8_t *receivers;                   /* packed endpoints */
    size_t receivers_length;
    int64_t step;                               /* Feedback; ContractIs: first of the launch */
    uint8_t kind, ndim;
    const uint8_t *shape, *data;                /* Feedback; Attach: a contact (data) */
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
    const uint8_t *proof, *digest;
    const char *run;
    uint32_t rank, size, epoch;
    uint64_t pid, session;
    bool wants_contract;
    const void *info;
    size_t info_length;
} hello;

void ipsb_pack_greeting(buffer *out, const uint8_t *nonce, uint64_t session);
void ipsb_pack_hello(buffer *out, const hello *h);
/* dst: 3 numbers per dimension; strides: one per dimension, in a slot only (else NULL). */
void ipsb_pack_piece(buffer *out, uint32_t array, uint64_t seq, uint64_t chunk, uint64_t t,
                     uint16_t flags, int ndim, const int64_t *dst, uint64_t data, uint32_t slot, uint32_t generation,
                     uint64_t slot_offset, const int64_t *strides);
void ipsb_pack_rows(buffer *out, uint32_t array, uint64_t seq, uint64_t chunk, uint64_t t,
                    uint64_t rows);
void ipsb_pack_step_end(buffer *out, int64_t step, uint64_t waited_ns, const uint64_t *counters,
                        uint32_t n);
void ipsb_pack_step_time(buffer *out, int64_t step, double time);
void ipsb_pack_bye(buffer *out, int64_t last_step, uint32_t status, const uint64_t *counters,
                   uint32_t n, const char *reason);
void ipsb_pack_slot(buffer *out, uint32_t slot, uint32_t ring, uint64_t size, uint32_t length,
                    uint32_t spare, uint64_t segment, uint64_t offset);
void ipsb_pack_slot_drop(buffer *out, uint32_t slot);
/* Want, Dropped, Gone: one number about an array. */
void ipsb_pack_number(buffer *out, uint8_t op, uint16_t flags, uint32_t array, uint64_t seq,
                      uint64_t number);
void ipsb_pack_empty(buffer *out, uint8_t op);

#endif
