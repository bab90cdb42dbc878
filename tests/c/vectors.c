/* Says, line by line, what the C library makes of the vectors that Python and C share: contracts,
 * pieces, frames, contact records. The test writes them as plain text and compares the answers. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>

#include "ips_attached.h"
#include "ips_contact.h"
#include "ips_dtype.h"
#include "ips_grid.h"
#include "ips_ids.h"
#include "ips_life.h"
#include "ips_memory.h"
#include "ips_proof.h"

static char *rest;

static const char *word(void)
{
    const char *token = strtok_r(NULL, " \n", &rest);
    return token ? token : "";
}

static int64_t number(void)
{
    const char *text = word();
    return *text == '-' ? strtoll(text, NULL, 10) : (int64_t)strtoull(text, NULL, 10);
}

/* Exactly as many bytes as there are, so that a sanitizer sees every byte too far. */
static uint8_t *bytes(size_t *length)
{
    const char *text = word();
    uint8_t *out;
    *length = strcmp(text, "-") ? strlen(text) / 2 : 0;
    out = malloc(*length ? *length : 1);
    for (size_t i = 0; i < *length; i++) {
        unsigned value;
        sscanf(text + 2 * i, "%2x", &value);
        out[i] = (uint8_t)value;
    }
    return out;
}

static void hex(const void *data, size_t length)
{
    printf(" ");
    if (!length)
        printf("-");
    for (size_t i = 0; i < length; i++)
        printf("%02x", ((const uint8_t *)data)[i]);
}

static void show(int64_t value)
{
    printf(" %lld", (long long)value);
}

static void selection(const progression *p, int ndim)
{
    for (int d = 0; d < ndim; d++)
        show(p[d].start);
    for (int d = 0; d < ndim; d++)
        show(p[d].count);
    for (int d = 0; d < ndim; d++)
        show(p[d].step);
}

static void show_contract(const contract *c)
{
    printf("contract");
    hex(c->run, strlen(c->run));
    show(c->n_arrays);
    for (int i = 0; i < c->n_arrays; i++) {
        const agreement *a = &c->arrays[i];
        printf(" array %s %s", a->name, a->dtype);
        show(a->itemsize), show(a->ragged), show(a->drop);
        show(a->first), show(a->every), show(a->steps), show(a->ndim);
        for (int d = 0; d < a->ndim; d++)
            show(a->shape[d]);
        for (int d = 0; d < a->ndim; d++) {
            show(a->chunks[d].n_runs);
            for (int r = 0; r < a->chunks[d].n_runs; r++)
                show(a->chunks[d].runs[r].size), show(a->chunks[d].runs[r].times);
        }
        selection(a->cover, a->ndim);
        show(a->n_wanted);
        for (int w = 0; w < a->n_wanted; w++)
            selection(a->wanted + (size_t)w * (size_t)a->ndim, a->ndim);
        show((int64_t)a->epoch), show(a->period), show(a->n_owners);
        for (uint32_t o = 0; o < a->n_owners; o++)
            show(a->owners[o]);
    }
    printf("\n");
}

/* contract HEX */
static void do_contract(void)
{
    size_t length;
    uint8_t *data = bytes(&length);
    contract c;
    const char *wrong = ipsb_contract_parse(&c, data, length);
    if (wrong)
        printf("refused %s\n", wrong);
    else
        show_contract(&c);
    ipsb_contract_free(&c);
    free(data);
}

static void spans(const progression *p, int n)
{
    for (int i = 0; i < n; i++)
        show(p[i].start), show(p[i].count), show(p[i].step);
}

/* plan HEX NDIM OFFSET... COUNT... HALO... T...: pieces of the first array. */
static void do_plan(void)
{
    size_t length;
    uint8_t *data = bytes(&length);
    int64_t box[3][MAX_NDIM];
    contract c;
    plan p = {0};
    pieces found = {0};
    int ndim = (int)number();
    for (int i = 0; i < 3; i++)
        for (int d = 0; d < ndim && d < MAX_NDIM; d++)
            box[i][d] = number();
    int code = ipsb_contract_parse(&c, data, length) ? IPS_BRIDGE_CONTRACT
               : c.n_arrays < 1 || c.arrays[0].ndim != ndim + 1
                   ? IPS_BRIDGE_GEOMETRY
                   : ipsb_plan_make(&p, &c.arrays[0], box[0], box[1], box[2]);
    printf("plan %d", code);
    for (const char *t = word(); !code && *t; t = word()) {
        ipsb_plan_at(&p, strtoll(t, NULL, 10), &found);
        printf(" at %s %zu", t, found.n);
        for (size_t i = 0; i < found.n; i++) {
            const piece *one = &found.items[i];
            printf(" piece");
            show(one->chunk), show(one->receiver);
            spans(one->cut->src, ndim);
            spans(&one->time, 1);
            spans(one->cut->dst, ndim);
            show(one->cut->cells);
        }
    }
    printf("\n");
    free(found.items);
    ipsb_plan_free(&p);
    ipsb_contract_free(&c);
    free(data);
}

/* rows HEX RANK SIZE T... */
static void do_rows(void)
{
    size_t length;
    uint8_t *data = bytes(&length);
    contract c;
    int rank = (int)number(), size = (int)number();
    if (ipsb_contract_parse(&c, data, length) == NULL) {
        printf("rows");
        for (const char *t = word(); *t; t = word()) {
            int64_t chunk;
            const progression *w =
                ipsb_rows_at(&c.arrays[0], rank, size, strtoll(t, NULL, 10), &chunk);
            printf(" at %s", t);
            if (!w)
                continue;
            show(chunk), show(ipsb_owner(&c.arrays[0], chunk));
            spans(w + 2, c.arrays[0].ndim - 2);
        }
    }
    printf("\n");
    ipsb_contract_free(&c);
    free(data);
}

/* ids HEX N ID... T... */
static void do_ids(void)
{
    size_t length;
    uint8_t *data = bytes(&length);
    int64_t ids[64], n = number();
    char why[256];
    contract c;
    pieces found = {0};
    id_plan *plan = NULL;
    for (int64_t i = 0; i < n && i < 64; i++)
        ids[i] = number();
    if (ipsb_contract_parse(&c, data, length) == NULL && n <= 64 && c.n_arrays && c.arrays[0].by_id)
        plan = ipsb_ids_make(&c.arrays[0], n, ids, why, sizeof why);
    printf("ids");
    for (const char *t = word(); plan && *t; t = word()) {
        ipsb_ids_at(plan, strtoll(t, NULL, 10), &found);
        printf(" at %s %zu", t, found.n);
        for (size_t i = 0; i < found.n; i++) {
            const piece *one = &found.items[i];
            const id_cut *cut = (const id_cut *)one->cut;
            show(one->chunk), show(one->receiver);
            spans(&one->time, 1);
            show(one->cut->dst[0].count);
            spans(cut->columns, c.arrays[0].ndim - 2);
            show(cut->n);
            for (int64_t j = 0; j < cut->n; j++)
                show(plan->chosen[cut->first + (size_t)j]);
            for (int64_t j = 0; j < cut->n; j++)
                show(plan->positions[cut->first + (size_t)j]);
        }
    }
    printf("\n");
    free(found.items);
    ipsb_ids_free(plan);
    ipsb_contract_free(&c);
    free(data);
}

static void show_receivers(const uint8_t *data, size_t length)
{
    endpoints e;
    printf(" receivers");
    if (ipsb_parse_endpoints(&e, data, length) == NULL) {
        show(e.n);
        for (uint32_t i = 0; i < e.n; i++) {
            const endpoint *one = &e.items[i];
            show(one->ordinal), show(one->port), show((int64_t)one->pid), show((int64_t)one->id);
            hex(one->host, strlen(one->host));
            hex(one->unix_name, strlen(one->unix_name));
            hex(one->hostname, strlen(one->hostname));
            hex(one->boot, strlen(one->boot));
        }
    }
    ipsb_endpoints_free(&e);
}

/* frame HEX: a message from a receiver */
static void do_frame(void)
{
    size_t length;
    uint8_t *data = bytes(&length);
    header head;
    message m;
    const char *wrong = length < HEADER_BYTES ? "no header" : ipsb_parse_header(&head, data);
    if (!wrong && length - HEADER_BYTES < head.body)
        wrong = "cut short";
    if (!wrong)
        wrong = ipsb_parse(&m, &head, data + HEADER_BYTES);
    if (wrong) {
        printf("refused %s\n", wrong);
        free(data);
        return;
    }
    printf("frame %d %d %u", head.op, head.flags, head.array);
    switch (head.op) {
    case OP_WELCOME:
        show((int64_t)m.number), show(m.ordinal), show(m.heartbeat), show(m.silence);
        break;
    case OP_CHALLENGE:
        hex(m.nonce, NONCE_BYTES), hex(m.proof, PROOF_BYTES);
        break;
    case OP_CONTRACT:
        hex(m.digest, DIGEST_BYTES), hex(m.contract, m.contract_length);
        show(m.step), show(m.ordinal), show(m.launch_flags);
        show_receivers(m.receivers, m.receivers_length);
        break;
    case OP_CREDIT:
    case OP_RESEND:
    case OP_ACK:
        show((int64_t)m.number);
        break;
    case OP_RELEASE:
        for (size_t i = 0; i < m.list_length; i++)
            show(get32(m.list + 8 * i)), show(get32(m.list + 8 * i + 4));
        break;
    case OP_PLACEMENT: {
        const uint8_t *at = m.list;
        show((int64_t)m.number);
        for (size_t i = 0; i < m.list_length; i++) {
            printf(" owners");
            show(get32(at)), show(get32(at + 4)), show(get32(at + 8));
            for (uint32_t j = 0; j < get32(at + 12); j++)
                show(get32(at + 16 + 4 * j));
            at += 16 + 4 * (size_t)get32(at + 12);
        }
        show_receivers(m.receivers, m.receivers_length);
        break;
    }
    case OP_FEEDBACK:
        show(m.step), show(m.kind), show(m.ndim);
        for (int d = 0; d < m.ndim; d++)
            show(get_i64(m.shape + 8 * d));
        hex(m.text, m.text_length), hex(m.data, m.data_length);
        break;
    case OP_FAULT:
        show((int64_t)m.number), hex(m.text, m.text_length);
        break;
    case OP_ATTACH:
        hex(m.data, m.data_length);
        break;
    case OP_STOP:
    case OP_REFUSED:
        hex(m.text, m.text_length);
        break;
    default:
        break;
    }
    printf("\n");
    free(data);
}

static uint64_t *counters(uint32_t *n)
{
    *n = (uint32_t)number();
    uint64_t *values = malloc(sizeof *values * (COUNTERS * *n + 1));
    for (uint32_t i = 0; i < COUNTERS * *n; i++)
        values[i] = (uint64_t)number();
    return values;
}

/* hmac KEY DATA */
static void do_hmac(void)
{
    size_t n_key, n_data;
    uint8_t *key = bytes(&n_key), *data = bytes(&n_data), out[PROOF_BYTES];
    ipsb_hmac_sha256(out, key, n_key, data, n_data);
    printf("hmac");
    hex(out, sizeof out);
    printf("\n");
    free(key), free(data);
}

/* proofs TOKEN NONCE NONCE SESSION ID: of the rank and of the receiver */
static void do_proofs(void)
{
    size_t length;
    uint8_t *token = bytes(&length), *rank = bytes(&length), *receiver = bytes(&length);
    channel c = {.rank_nonce = rank, .receiver_nonce = receiver};
    uint8_t out[PROOF_BYTES];
    c.session = (uint64_t)number();
    c.receiver = (uint64_t)number();
    printf("proofs");
    ipsb_proof_of_rank(out, token, &c);
    hex(out, sizeof out);
    ipsb_proof_of_receiver(out, token, &c);
    hex(out, sizeof out);
    printf("\n");
    free(token), free(rank), free(receiver);
}

/* pack OP ...: a message to a receiver, as hexadecimal digits */
static void do_pack(void)
{
    buffer out = {0};
    int op = (int)number();
    if (op == OP_HELLO) {
        size_t n_proof, n_run, n_digest, n_info;
        uint8_t *proof = bytes(&n_proof), *run = bytes(&n_run), *digest, *info;
        hello h = {.proof = proof};
        char name[RUN_BYTES + 1] = "";
        memcpy(name, run, n_run < RUN_BYTES ? n_run : RUN_BYTES);
        h.run = name;
        h.rank = (uint32_t)number(), h.size = (uint32_t)number();
        h.pid = (uint64_t)number(), h.session = (uint64_t)number();
        h.digest = digest = bytes(&n_digest);
        h.epoch = (uint32_t)number();
        h.wants_contract = number() == 1;
        h.info = info = bytes(&n_info);
        h.info_length = n_info;
        ipsb_pack_hello(&out, &h);
        free(proof), free(run), free(digest), free(info);
    } else if (op == OP_STEP_TIME) {
        int64_t step = number();
        int64_t bits = number();
        double time;
        memcpy(&time, &bits, sizeof time);
        ipsb_pack_step_time(&out, step, time);
    } else if (op == OP_GREETING) {
        size_t length;
        uint8_t *nonce = bytes(&length);
        ipsb_pack_greeting(&out, nonce, (uint64_t)number());
        free(nonce);
    } else if (op == OP_PIECE) {
        int64_t dst[3 * MAX_NDIM], strides[MAX_NDIM];
        uint32_t array = (uint32_t)number();
        uint64_t seq = (uint64_t)number(), chunk = (uint64_t)number(), t = (uint64_t)number();
        int ndim = (int)number();
        for (int i = 0; i < 3 * ndim; i++)
            dst[i] = number();
        uint32_t slot = (uint32_t)number();
        uint64_t offset = (uint64_t)number();
        uint32_t generation = (uint32_t)number();
        for (int i = 0; i < ndim && slot != NO_SLOT; i++)
            strides[i] = number();
        ipsb_pack_piece(&out, array, seq, chunk, t, 0, ndim, dst, 0, slot, generation, offset,
                        slot == NO_SLOT ? NULL : strides);
    } else if (op == OP_ROWS) {
        uint32_t array = (uint32_t)number();
        uint64_t seq = (uint64_t)number(), chunk = (uint64_t)number(), t = (uint64_t)number();
        ipsb_pack_rows(&out, array, seq, chunk, t, (uint64_t)number());
    } else if (op == OP_STEP_END || op == OP_BYE) {
        int64_t step = number();
        uint64_t second = (uint64_t)number();
        uint32_t n;
        uint64_t *values = counters(&n);
        if (op == OP_STEP_END) {
            ipsb_pack_step_end(&out, step, second, values, n);
        } else {
            size_t length;
            uint8_t *text = bytes(&length);
            char reason[256] = "";
            memcpy(reason, text, length);
            ipsb_pack_bye(&out, step, (uint32_t)second, values, n, reason);
            free(text);
        }
        free(values);
    } else if (op == OP_SLOT) {
        uint32_t slot = (uint32_t)number(), ring = (uint32_t)number();
        uint64_t size = (uint64_t)number();
        uint32_t length = (uint32_t)number(), spare = (uint32_t)number();
        uint64_t segment = (uint64_t)number();
        ipsb_pack_slot(&out, slot, ring, size, length, spare, segment, (uint64_t)number());
    } else if (op == OP_SLOT_DROP) {
        ipsb_pack_slot_drop(&out, (uint32_t)number());
    } else if (op == OP_PING) {
        ipsb_pack_empty(&out, OP_PING);
    } else {
        uint16_t flags = (uint16_t)number();
        uint32_t array = (uint32_t)number();
        uint64_t seq = (uint64_t)number();
        ipsb_pack_number(&out, (uint8_t)op, flags, array, seq, (uint64_t)number());
    }
    printf("pack");
    hex(out.data, out.length);
    printf("\n");
    ipsb_buffer_free(&out);
}

/* contact HEX */
static void do_contact(void)
{
    size_t length;
    uint8_t *data = bytes(&length);
    contact c;
    const char *wrong = ipsb_contact_parse(&c, data, length);
    if (wrong) {
        printf("refused %s\n", wrong);
    } else {
        printf("contact");
        hex(c.token, TOKEN_BYTES);
        printf(" %s %g %g %g %g %u %d %u %llu %llu", c.run, c.connect, c.contract, c.step, c.drain,
               c.lanes, c.abort_on_loss, c.replay_steps, (unsigned long long)c.replay_bytes,
               (unsigned long long)c.slot_bytes);
        show_receivers(data + 168, length - 168);
        printf("\n");
    }
    ipsb_endpoints_free(&c.receivers);
    free(data);
}

/* gather ITEMSIZE NDIM COUNT... STRIDES... FROM CELLS: out of the bytes 0, 1, 2, ... */
static void do_gather(void)
{
    int64_t count[MAX_NDIM], strides[MAX_NDIM], itemsize = number(), low = 0, high = 0;
    int ndim = (int)number();
    for (int d = 0; d < ndim; d++)
        count[d] = number();
    for (int d = 0; d < ndim; d++) {
        strides[d] = number();
        *(strides[d] < 0 ? &low : &high) += (count[d] - 1) * strides[d];
    }
    int64_t from = number(), cells = number();
    size_t length = (size_t)(high - low + itemsize);
    uint8_t *data = malloc(length), *out = malloc((size_t)(cells * itemsize) + 1);
    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)i;
    ipsb_gather(out, data - low, ndim, count, strides, (size_t)itemsize, from, cells);
    printf("gather");
    hex(out, (size_t)(cells * itemsize));
    printf("\n");
    free(data);
    free(out);
}

/* lease STATE EVENT: the next state of a slot, - when this is refused */
static void do_lease(void)
{
    slot_state state = (slot_state)number();
    slot_state next = ipsb_slot_after(state, (slot_event)number());
    printf("lease");
    if (next == SLOT_STATES)
        printf(" -\n");
    else
        printf(" %d\n", (int)next);
}

/* segments SLOTS, then "take SIZE" and "give WHICH REUSE" (the taken one of this number): says segment
 * and offset of each, and the number of descriptors after it */
static void do_segments(void)
{
    enum { MOST = 512 };
    struct {
        segment *in;
        size_t offset, size;
    } taken[MOST];
    segments all = {NULL, 0};
    segment_limits limits = {.max_segments = 64};
    uint32_t slots = (uint32_t)number();
    size_t n = 0;
    printf("segments");
    for (const char *what = word(); *what && n < MOST; what = word()) {
        if (!strcmp(what, "take")) {
            size_t size = (size_t)number();
            taken[n].size = size;
            taken[n].in = ipsb_segment_take(&all, &limits, size, slots, &taken[n].offset);
            show(taken[n].in ? (int64_t)taken[n].in->number : -1);
            show((int64_t)taken[n++].offset);
        } else {
            size_t which = (size_t)number();
            ipsb_segment_give_back(&all, &limits, taken[which].in, taken[which].offset,
                                   taken[which].size, number() != 0);
            taken[which].in = NULL;
        }
        show((int64_t)limits.segments);
    }
    printf("\n");
    for (size_t i = 0; i < n; i++)
        if (taken[i].in)
            ipsb_segment_give_back(&all, &limits, taken[i].in, taken[i].offset, taken[i].size, true);
}

/* attached N HEX...: N attached runs are awaited, after these messages; whether all have been seen */
static void do_attached(void)
{
    ips_bridge *b = ipsb_make(0, 1);
    int awaited = (int)number();
    for (size_t length = 1; length;) {
        uint8_t *data = bytes(&length);
        if (length)
            ipsb_attached_calls.attach(b, data, length);
        free(data);
    }
    printf("attached %d\n", ipsb_attached_calls.wait(b, awaited));
    ipsb_attached_free(b);
    ipsb_free(b);
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        const char *command = strtok_r(line, " \n", &rest);
        if (!command) {
            continue;
        } else if (!strcmp(command, "contract")) {
            do_contract();
        } else if (!strcmp(command, "plan")) {
            do_plan();
        } else if (!strcmp(command, "ids")) {
            do_ids();
        } else if (!strcmp(command, "rows")) {
            do_rows();
        } else if (!strcmp(command, "frame")) {
            do_frame();
        } else if (!strcmp(command, "pack")) {
            do_pack();
        } else if (!strcmp(command, "hmac")) {
            do_hmac();
        } else if (!strcmp(command, "proofs")) {
            do_proofs();
        } else if (!strcmp(command, "contact")) {
            do_contact();
        } else if (!strcmp(command, "gather")) {
            do_gather();
        } else if (!strcmp(command, "lease")) {
            do_lease();
        } else if (!strcmp(command, "attached")) {
            do_attached();
        } else if (!strcmp(command, "segments")) {
            do_segments();
        } else if (!strcmp(command, "dtype")) {
            char name[24] = "-";
            int64_t n = ipsb_dtype(word(), name);
            printf("dtype %s %lld\n", n ? name : "-", (long long)n);
        } else if (!strcmp(command, "dims")) {
            int64_t grid[MAX_NDIM];
            int size = (int)number(), ndim = (int)number();
            ipsb_dims_create(size, ndim, grid);
            printf("dims");
            for (int d = 0; d < ndim; d++)
                show(grid[d]);
            printf("\n");
        } else if (!strcmp(command, "json")) {
            int depth = (int)number();
            char key[64];
            snprintf(key, sizeof key, "%s", word());
            const char *found = ipsb_json_find(rest, strlen(rest), depth, key);
            printf("json %s", found ? found : "-\n");
        } else {
            fprintf(stderr, "vectors: unknown command %s\n", command);
            return 2;
        }
        fflush(stdout);
    }
    free(line);
    return 0;
}
