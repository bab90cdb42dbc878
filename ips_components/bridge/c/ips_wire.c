/* Frames and their bytes, as documented in ips_components/wire/messages.py. What a receiver sends
 * is checked here, and nowhere believed before. */
/* ---- Growing bytes -------------------------------------------------------------------------- */
#include <stdio.h>
#include <stdlib.h>

#include "ips_wire.h"

static uint8_t *extend(buffer *b, size_t length)
{
    if (!ipsb_reserve(b, length))
        return NULL;
    b->length += length;
    memset(b->data + b->length - length, 0, length);
    return b->data + b->length - length;
}

/* ---- From rank to receiver --------------------------------------------------------------------- */

/* Append a header and room for a body; return the body, or NULL. */
static uint8_t *frame(buffer *out, uint8_t op, uint16_t flags, uint64_t seq, uint32_t array,
                      size_t body, uint64_t data)
{
    uint8_t *p = extend(out, HEADER_BYTES + body);
    if (!p)
        return NULL;
    memcpy(p, "IPSc", 4);
    p[4] = PROTOCOL_VERSION;
    p[5] = op;
    set16(p + 6, flags);
    set64(p + 8, seq);
    set32(p + 16, (uint32_t)body);
    set32(p + 20, array);
    set64(p + 24, data);
    return p + HEADER_BYTES;
}

void ipsb_pack_greeting(buffer *out, const uint8_t *nonce, uint64_t session)
{
    uint8_t *p = frame(out, OP_GREETING, 0, 0, 0, NONCE_BYTES + 8, 0);
    if (!p)
        return;
    memcpy(p, nonce, NONCE_BYTES);
    set64(p + NONCE_BYTES, session);
}

void ipsb_pack_hello(buffer *out, const hello *h)
{
    uint8_t *p = frame(out, OP_HELLO, h->wants_contract, 0, 0, 160 + h->info_length, 0);
    if (!p)
        return;
    memcpy(p, h->proof, PROOF_BYTES);
    memcpy(p + 32, h->run, strlen(h->run) < RUN_BYTES ? strlen(h->run) : RUN_BYTES);
    if (h->digest)
        memcpy(p + 96, h->digest, DIGEST_BYTES);
    set32(p + 128, h->rank);
    set32(p + 132, h->size);
    set64(p + 136, h->pid);
    set64(p + 144, h->session);
    set32(p + 152, h->epoch);
    set32(p + 156, 0); /* no heartbeat: the library has no thread */
    memcpy(p + 160, h->info, h->info_length);
}

void ipsb_pack_piece(buffer *out, uint32_t array, uint64_t seq, uint64_t chunk, uint64_t t,
                     uint16_t flags, int ndim, const int64_t *dst, uint64_t data, uint32_t slot, uint32_t generation,
                     uint64_t slot_offset, const int64_t *strides)
{
    size_t body = 40 + (size_t)ndim * (strides ? 32 : 24);
    uint8_t *p = frame(out, OP_PIECE, flags, seq, array, body, data);
    if (!p)
        return;
    set64(p, chunk);
    set64(p + 8, t);
    set32(p + 16, generation);
    set32(p + 24, slot);
    set32(p + 28, (uint32_t)ndim);
    set64(p + 32, slot_offset);
    p += 40;
    for (int i = 0; i < 3 * ndim; i++, p += 8)
        set64(p, (uint64_t)dst[i]);
    for (int i = 0; strides && i < ndim; i++, p += 8)
        set64(p, (uint64_t)strides[i]);
}

void ipsb_pack_rows(buffer *out, uint32_t array, uint64_t seq, uint64_t chunk, uint64_t t,
                    uint64_t rows)
{
    uint8_t *p = frame(out, OP_ROWS, 0, seq, array, 24, 0);
    if (!p)
        return;
    set64(p, chunk);
    set64(p + 8, t);
    set64(p + 16, rows);
}

static void counters_into(uint8_t *p, const uint64_t *counters, uint32_t n)
{
    for (size_t i = 0; i < (size_t)n * COUNTERS; i++)
        set64(p + 8 * i, counters[i]);
}

void ipsb_pack_step_end(buffer *out, int64_t step, uint64_t waited_ns, const uint64_t *counters,
                        uint32_t n)
{
    uint8_t *p = frame(out, OP_STEP_END, 0, 0, 0, 24 + 8 * COUNTERS * (size_t)n, 0);
    if (!p)
        return;
    set64(p, (uint64_t)step);
    set64(p + 8, waited_ns);
    set32(p + 16, n);
    counters_into(p + 24, counters, n);
}

void ipsb_pack_step_time(buffer *out, int64_t step, double time)
{
    uint64_t bits;
    uint8_t *p = frame(out, OP_STEP_TIME, 0, 0, 0, 16, 0);
    if (!p)
        return;
    memcpy(&bits, &time, sizeof bits);
    set64(p, (uint64_t)step);
    set64(p + 8, bits);
}

void ipsb_pack_bye(buffer *out, int64_t last_step, uint32_t status, const uint64_t *counters,
                   uint32_t n, const char *reason)
{
    size_t text = reason ? strlen(reason) : 0, fixed = 16 + 8 * COUNTERS * (size_t)n;
    if (text > 65536)
        text = 65536;
    uint8_t *p = frame(out, OP_BYE, 0, 0, 0, fixed + text, 0);
    if (!p)
        return;
    set64(p, (uint64_t)last_step);
    set32(p + 8, status);
    set32(p + 12, n);
    counters_into(p + 16, counters, n);
    if (text)
        memcpy(p + fixed, reason, text);
}

void ipsb_pack_slot(buffer *out, uint32_t slot, uint32_t ring, uint64_t size, uint32_t length,
                    uint32_t spare, uint64_t segment, uint64_t offset)
{
    uint8_t *p = frame(out, OP_SLOT, 0, 0, 0, 40, 0);
    if (!p)
        return;
    set32(p, slot);
    set32(p + 4, ring);
    set64(p + 8, size);
    set32(p + 16, length);
    set32(p + 20, spare);
    set64(p + 24, segment);
    set64(p + 32, offset);
}

void ipsb_pack_slot_drop(buffer *out, uint32_t slot)
{
    uint8_t *p = frame(out, OP_SLOT_DROP, 0, 0, 0, 8, 0);
    if (p)
        set32(p, slot);
}

void ipsb_pack_number(buffer *out, uint8_t op, uint16_t flags, uint32_t array, uint64_t seq,
                      uint64_t number)
{
    uint8_t *p = frame(out, op, flags, seq, array, 8, 0);
    if (p)
        set64(p, number);
}

void ipsb_pack_empty(buffer *out, uint8_t op)
{
    (void)frame(out, op, 0, 0, 0, 0, 0);
}

/* ---- From receiver to rank --------------------------------------------------------------------- */

static uint32_t max_body(uint8_t op)
{
    switch (op) {
    case OP_CONTRACT:
    case OP_PLACEMENT:
        return 256u << 20;
    case OP_FEEDBACK:
        return 64u << 20;
    case OP_RELEASE:
    case OP_FAULT:
    case OP_STOP:
    case OP_REFUSED:
    case OP_ATTACH:
        return 1u << 20;
    default:
        return 4096;
    }
}

const char *ipsb_parse_header(header *out, const uint8_t *data)
{
    if (memcmp(data, "IPSc", 4) != 0)
        return "a frame of another protocol";
    if (data[4] != PROTOCOL_VERSION)
        return "another version of the protocol: install the same release on both sides";
    out->op = data[5];
    out->flags = get16(data + 6);
    out->seq = get64(data + 8);
    out->body = get32(data + 16);
    out->array = get32(data + 20);
    out->data = get64(data + 24);
    if (out->op != OP_PING && (out->op < OP_WELCOME || out->op > OP_ATTACH))
        return "a message that is not for ranks";
    if (out->body > max_body(out->op))
        return "a message that is longer than it may be";
    if (out->data)
        return "raw cells for a rank";
    return NULL;
}

enum { ENDPOINT_BYTES = 32 }; /* of one, before its texts */

/* Where the endpoints in `data` end, 0 when they are damaged. */
static size_t endpoints_end(const uint8_t *data, size_t length)
{
    size_t at = 4;
    if (length < 4)
        return 0;
    for (uint32_t n = get32(data); n; n--) {
        if (length - at < ENDPOINT_BYTES)
            return 0;
        size_t texts = (size_t)get16(data + at + 6) + get16(data + at + 8) + get16(data + at + 10) +
                       get16(data + at + 12);
        at += ENDPOINT_BYTES;
        if (length - at < texts)
            return 0;
        at += texts;
    }
    return at;
}

static char *text_of(const uint8_t **data, size_t length)
{
    char *text = malloc(length + 1);
    if (text) {
        memcpy(text, *data, length);
        text[length] = '\0';
    }
    *data += length;
    return text;
}

const char *ipsb_parse_endpoints(endpoints *out, const uint8_t *data, size_t length)
{
    memset(out, 0, sizeof *out);
    if (!endpoints_end(data, length))
        return "a damaged list of receivers";
    uint32_t n = get32(data);
    const uint8_t *at = data + 4;
    out->items = calloc(n ? n : 1, sizeof *out->items);
    if (!out->items)
        return "no memory for the list of receivers";
    for (; out->n < n; out->n++) {
        endpoint *e = &out->items[out->n];
        const uint8_t *fixed = at;
        e->ordinal = get32(fixed);
        e->port = get16(fixed + 4);
        e->pid = get64(fixed + 16);
        e->id = get64(fixed + 24);
        at += ENDPOINT_BYTES;
        e->host = text_of(&at, get16(fixed + 6));
        e->unix_name = text_of(&at, get16(fixed + 8));
        e->hostname = text_of(&at, get16(fixed + 10));
        e->boot = text_of(&at, get16(fixed + 12));
        if (!e->host || !e->unix_name || !e->hostname || !e->boot) {
            out->n++;
            return "no memory for the list of receivers";
        }
    }
    return NULL;
}

void ipsb_endpoints_free(endpoints *e)
{
    for (uint32_t i = 0; i < e->n; i++) {
        free(e->items[i].host);
        free(e->items[i].unix_name);
        free(e->items[i].hostname);
        free(e->items[i].boot);
    }
    free(e->items);
    memset(e, 0, sizeof *e);
}

static const char *parse_placement(message *out, const uint8_t *body, size_t length)
{
    size_t at = 8;
    if (length < 8)
        return "a placement that is cut short";
    out->number = get32(body);
    out->list = body + 8;
    out->list_length = get32(body + 4);
    for (size_t n = out->list_length; n; n--) {
        if (length - at < 16 || (length - at - 16) / 4 < get32(body + at + 12))
            return "a placement that is cut short";
        at += 16 + 4 * (size_t)get32(body + at + 12);
    }
    out->receivers = body + at;
    out->receivers_length = length - at;
    return endpoints_end(out->receivers, length - at) ? NULL : "a placement with damaged receivers";
}

static const char *parse_feedback(message *out, const uint8_t *body, size_t length)
{
    if (length < 16)
        return "a value that is cut short";
    out->step = get_i64(body);
    out->kind = body[8];
    out->ndim = body[9];
    out->text_length = get16(body + 10);
    out->data_length = get32(body + 12);
    size_t head = 16 + 8 * (size_t)out->ndim, rest;
    if (length < head || length - head < out->text_length)
        return "a value that is cut short";
    rest = length - head - out->text_length;
    if (rest < out->data_length)
        return "a value that is cut short";
    out->shape = body + 16;
    out->text = (const char *)body + head;
    out->data = body + head + out->text_length;
    return NULL;
}

static const char *parse_contract(message *out, const uint8_t *body, size_t length)
{
    if (length < 40)
        return "a contract that is cut short";
    out->digest = body;
    out->receivers_length = get32(body + 32);
    out->contract_length = get32(body + 36);
    if (length - 40 < out->receivers_length ||
        length - 40 - out->receivers_length < out->contract_length)
        return "a contract that is cut short";
    out->receivers = body + 40;
    out->contract = body + 40 + out->receivers_length;
    size_t end = 40 + out->receivers_length + out->contract_length;
    if (length - end >= 16) {
        out->step = (int64_t)get64(body + end);
        out->ordinal = get32(body + end + 8);
        out->launch_flags = get32(body + end + 12);
    }
    return endpoints_end(out->receivers, out->receivers_length)
               ? NULL
               : "a contract with damaged receivers";
}

const char *ipsb_parse(message *out, const header *head, const uint8_t *body)
{
    size_t length = head->body;
    memset(out, 0, sizeof *out);
    out->head = *head;
    switch (head->op) {
    case OP_WELCOME:
        if (length < 20)
            return "a welcome that is cut short";
        out->number = get64(body);
        out->ordinal = get32(body + 8);
        out->heartbeat = get32(body + 12);
        out->silence = get32(body + 16);
        return NULL;
    case OP_CHALLENGE:
        if (length < NONCE_BYTES + PROOF_BYTES)
            return "a challenge that is cut short";
        out->nonce = body;
        out->proof = body + NONCE_BYTES;
        return NULL;
    case OP_CONTRACT:
        return parse_contract(out, body, length);
    case OP_CREDIT:
    case OP_RESEND:
    case OP_ACK:
        if (length < 8)
            return "a message that is cut short";
        out->number = get64(body);
        return NULL;
    case OP_RELEASE:
        out->list = body;
        out->list_length = length / 8;
        return length % 8 ? "a release that is cut short" : NULL;
    case OP_PLACEMENT:
        return parse_placement(out, body, length);
    case OP_FEEDBACK:
        return parse_feedback(out, body, length);
    case OP_FAULT:
        if (length < 8)
            return "a fault that is cut short";
        out->number = get32(body);
        out->text = (const char *)body + 8;
        out->text_length = length - 8;
        return NULL;
    case OP_STOP:
    case OP_REFUSED:
        out->text = (const char *)body;
        out->text_length = length;
        return NULL;
    case OP_ATTACH:
        out->data = body;
        out->data_length = length;
        return NULL;
    default: /* Ping, ByeAck */
        return NULL;
    }
}
