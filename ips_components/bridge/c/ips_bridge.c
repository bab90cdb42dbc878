/* The bridge as a whole: opening, news, ending. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "ips_internal.h"

static const char BLOB[] = "IPSBLOB1";
static const int64_t MAX_PATIENCE = 500000000; /* ns for one receiver before the next is tried */
enum { BLOB_HEAD = 32 };

int ipsb_fail(ips_bridge *b, int code, const char *format, ...)
{
    char text[sizeof b->error];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    memcpy(b->error, text, sizeof text);
    if (code > 0 && b->handler)
        b->handler(b, code, b->error, b->handler_data);
    return code;
}

int ips_bridge_set_error_handler(ips_bridge *b, ips_bridge_error_handler handler, void *data)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    b->handler = handler;
    b->handler_data = data;
    return IPS_BRIDGE_OK;
}

const char *ips_bridge_version(void)
{
    return IPS_BRIDGE_VERSION;
}

int ips_bridge_set_error(ips_bridge *b, int code, const char *text)
{
    return b ? ipsb_fail(b, code, "%s", text ? text : "") : code;
}

const char *ips_bridge_error(const ips_bridge *b)
{
    return b ? b->error : "there is no bridge: open one first";
}

const char *ips_bridge_code_text(int code)
{
    static const char *const texts[] = {
        "success", "wrong use", "wrong geometry", "no usable contact file",
        "no usable contract", "protocol broken", "refused", "deadline exceeded",
        "analytics lost", "out of memory", "system call failed", "unknown code",
        "not everything was taken",
    };
    if (code == IPS_BRIDGE_NOTHING)
        return "no such value";
    if (code == IPS_BRIDGE_STOPPED)
        return "the analysis has stopped the run, or returned";
    return code >= 0 && (size_t)code < sizeof texts / sizeof *texts ? texts[code] : "unknown code";
}

/* ---- Opening -------------------------------------------------------------------------------- */

/* Who this machine is, as booted now: receivers with the same identity share memory with us. */
static void know_machine(ips_bridge *b)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (gethostname(b->hostname, sizeof b->hostname - 1))
        b->hostname[0] = '\0';
    if (!file)
        return;
    if (fgets(b->boot, sizeof b->boot, file))
        b->boot[strcspn(b->boot, " \r\n")] = '\0';
    fclose(file);
}

int ips_bridge_open(ips_bridge **out, int rank, int size)
{
    ips_bridge *b;
    if (!out)
        return IPS_BRIDGE_USAGE;
    *out = NULL;
    if (size < 1 || rank < 0 || rank >= size)
        return IPS_BRIDGE_USAGE;
    b = calloc(1, sizeof *b);
    if (!b)
        return IPS_BRIDGE_MEMORY;
    b->rank = rank;
    b->size = size;
    b->last_progress = ipsb_now();
    know_machine(b);
    *out = b;
    return IPS_BRIDGE_OK;
}

static int begin_session(ips_bridge *b)
{
    const char *lane = getenv("IPS_COMPONENTS_LANE");
    b->lanes = b->contact.lanes;
    if (lane && *lane)
        b->lanes = !strcmp(lane, "shm") ? LANE_SHM : LANE_TCP;
    if (getrandom(&b->session, sizeof b->session, 0) != sizeof b->session)
        return ipsb_fail(b, IPS_BRIDGE_SYSTEM, "no random numbers: %s", strerror(errno));
    return IPS_BRIDGE_OK;
}

static int add_links(ips_bridge *b, const endpoints *receivers)
{
    for (uint32_t i = 0; i < receivers->n; i++)
        if (!ipsb_link_of(b, receivers->items[i].ordinal) &&
            !ipsb_link_add(b, &receivers->items[i]))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for connections");
    return IPS_BRIDGE_OK;
}

int ipsb_barred(ips_bridge *b, const peer *k)
{
    return ipsb_fail(b, IPS_BRIDGE_REFUSED,
                     "receiver %u at %s:%u: %s, which ranks in C and Fortran cannot speak, and rank "
                     "%d on host %s shares no memory with it: run a Dask worker on that host, or "
                     "write the rank in Python, or set SECURITY = none and encrypt below TCP "
                     "(WireGuard, IPsec)",
                     k->at.ordinal, k->at.host, k->at.port, k->why, b->rank, b->hostname);
}

/* Start with the next link that was never tried, unless another one was started just now: a
 * receiver that does not answer must not cost the others the time to connect. */
static void try_next(ips_bridge *b)
{
    int64_t share = (int64_t)(b->contact.connect * 1e9) / (2 * ((int64_t)b->n_links + 1));
    int64_t patience = share < MAX_PATIENCE ? share : MAX_PATIENCE, now = ipsb_now();
    for (uint32_t i = 0; i < b->n_links; i++) {
        const peer *k = b->links[i];
        if ((k->standing == LINK_CONNECTING || k->standing == LINK_GREETING) &&
            now - k->broken_since < patience)
            return;
    }
    /* This rank's own turn first, but where TCP is no way those that are here. */
    for (int near = b->contact.tls; near >= 0; near--) {
        for (uint32_t i = 0; i < b->n_links; i++) {
            peer *k = b->links[((uint32_t)b->rank + i) % b->n_links];
            if (k->standing == LINK_NEW && (k->local || !near)) {
                ipsb_link_start(b, k);
                return;
            }
        }
    }
}

/* Connect to some receiver. */
static int reach(ips_bridge *b, bool patient, peer **out)
{
    int64_t deadline = ipsb_now() + (int64_t)(b->contact.connect * 1e9);
    const peer *last = NULL;
    for (;;) {
        bool hope = false;
        try_next(b);
        for (uint32_t i = 0; i < b->n_links; i++) {
            peer *k = b->links[i];
            if (k->standing == LINK_OPEN) {
                *out = k;
                return IPS_BRIDGE_OK;
            }
            if (k->why[0])
                last = k;
            if (k->refused && !patient)
                return ipsb_fail(b, IPS_BRIDGE_REFUSED, "receiver %u at %s:%u: %s", k->at.ordinal,
                                 k->at.host, k->at.port, k->why);
            hope |= k->standing != LINK_GONE && !k->barred;
        }
        if (!hope || ipsb_now() >= deadline)
            break;
        ipsb_progress(b, deadline);
    }
    if (last && last->barred)
        return ipsb_barred(b, last);
    if (!last)
        return ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                         "no receiver could be reached within %g s: %s", b->contact.connect,
                         b->n_links ? "none answered; are the Dask workers running, and their "
                                      "addresses reachable from this node?"
                                    : "the contact file names none");
    return ipsb_fail(b, last->refused ? IPS_BRIDGE_REFUSED : IPS_BRIDGE_DEADLINE,
                     "no receiver could be reached within %g s: receiver %u at %s:%u: %s; are the "
                     "Dask workers running, and their addresses reachable from this node?",
                     b->contact.connect, last->at.ordinal, last->at.host, last->at.port, last->why);
}

/* ---- Rank 0's request ----------------------------------------------------------------------- */

static int wait_for_contact(ips_bridge *b, const char *path, buffer *record)
{
    char why[sizeof b->error];
    const char *text = getenv("IPS_COMPONENTS_DEADLINE");
    double limit = 60;
    int64_t began = ipsb_now(), pause = 10000000;
    if (!path || !*path)
        path = getenv("IPS_COMPONENTS_CONTACT");
    if (!path || !*path)
        return ipsb_fail(b, IPS_BRIDGE_CONTACT,
                         "no contact file: neither the program nor the environment variable "
                         "IPS_COMPONENTS_CONTACT names one; the simulation component sets it");
    if (text && *text) {
        char *end;
        limit = strtod(text, &end);
        if (*end || !(limit >= 0))
            return ipsb_fail(b, IPS_BRIDGE_CONTACT,
                             "IPS_COMPONENTS_DEADLINE must be a number of seconds, got %s", text);
    }
    for (;;) {
        bool missing;
        int code = ipsb_contact_read(path, record, &missing, why, sizeof why);
        if (!missing)
            return code ? ipsb_fail(b, code, "%s", why) : code;
        if ((double)(ipsb_now() - began + pause) / 1e9 > limit)
            return ipsb_fail(b, IPS_BRIDGE_CONTACT,
                             "no contact file at %s after %g s: the analytics have not started; "
                             "see their log, or raise IPS_COMPONENTS_DEADLINE",
                             path, limit);
        /* A file system has no portable signal for a new file: look again, ever less often. */
        struct timespec rest = {0, (long)pause};
        nanosleep(&rest, NULL);
        pause = 2 * pause < 500000000 ? 2 * pause : 500000000;
    }
}

static int ask_contract(ips_bridge *b)
{
    peer *k;
    int code = reach(b, false, &k);
    int64_t deadline = ipsb_now() + (int64_t)(b->contact.contract * 1e9);
    while (!code && !b->contract_frame) {
        bool hope = false;
        if (b->fault)
            code = ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                             "the run failed before there was a contract: %s", b->fault_text);
        if (!code && ipsb_now() >= deadline)
            code = ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                             "no contract came within %g s: the analysis has not submitted its "
                             "graph; see the analysis' log",
                             b->contact.contract);
        for (uint32_t i = 0; i < b->n_links; i++)
            hope |= b->links[i]->standing != LINK_GONE;
        if (!code && !hope)
            code = ipsb_fail(b, IPS_BRIDGE_LOST, "the receivers went away before the contract came");
        if (code)
            break;
        bool open = false;
        for (uint32_t i = 0; i < b->n_links; i++)
            open |= b->links[i]->standing == LINK_OPEN;
        if (!open)
            try_next(b);
        ipsb_progress(b, deadline);
    }
    return code;
}

/* Ask, and go on without a contract when those who were asked are gone and the policy allows it. */
static int ask(ips_bridge *b, const char *path, buffer *record)
{
    int code = wait_for_contact(b, path, record);
    const char *wrong;
    if (code)
        return code;
    ipsb_endpoints_free(&b->contact.receivers);
    wrong = ipsb_contact_parse(&b->contact, record->data, record->length);
    if (wrong)
        return ipsb_fail(b, IPS_BRIDGE_CONTACT, "%s", wrong);
    if ((code = begin_session(b)) || (code = add_links(b, &b->contact.receivers)))
        return code;
    code = ask_contract(b);
    return code == IPS_BRIDGE_LOST && !b->contact.abort_on_loss ? IPS_BRIDGE_OK : code;
}

int ips_bridge_request(ips_bridge *b, const char *contact, const void **blob, size_t *length)
{
    buffer record = {0}, out = {0};
    uint8_t head[BLOB_HEAD] = {0};
    ips_bridge_error_handler handler;
    int code;
    if (!b || !blob || !length)
        return IPS_BRIDGE_USAGE;
    handler = b->handler;
    b->handler = NULL; /* the others wait for the blob: the error is theirs too, at the join */
    free(b->blob);
    b->blob = NULL;
    *blob = NULL;
    *length = 0;
    if (b->rank != 0 || b->joined || b->closed)
        code = ipsb_fail(b, IPS_BRIDGE_USAGE, "only rank 0 asks for the contract, before the join");
    else
        code = ask(b, contact, &record);
    if (code) {
        record.length = 0;
        ipsb_append(&record, b->error, strlen(b->error));
    }
    memcpy(head, BLOB, 8);
    set32(head + 8, (uint32_t)code);
    set64(head + 16, record.length);
    set64(head + 24, code || !b->contract_frame ? 0 : b->contract_length);
    ipsb_append(&out, head, sizeof head);
    ipsb_append(&out, record.data, record.length);
    if (!code && b->contract_frame)
        ipsb_append(&out, b->contract_frame, b->contract_length);
    ipsb_buffer_free(&record);
    /* The connections for data are made with all that the contract tells a rank about itself. */
    ipsb_links_free(b);
    ipsb_feedback_free(b);
    free(b->contract_frame);
    b->contract_frame = NULL;
    b->handler = handler;
    if (out.failed) {
        ipsb_buffer_free(&out);
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for the contract");
    }
    *blob = b->blob = out.data;
    *length = b->blob_length = out.length;
    return code;
}

/* ---- Joining -------------------------------------------------------------------------------- */

/* Take rank 0's blob apart: its error, or contact and contract. */
static int unpack(ips_bridge *b, const uint8_t *blob, size_t length)
{
    uint64_t first, second;
    const char *wrong;
    message m;
    endpoints receivers;
    int code;
    if (!blob || length < BLOB_HEAD || memcmp(blob, BLOB, 8) != 0)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "rank 0 broadcast something that is not the blob of its request");
    code = (int)get32(blob + 8);
    first = get64(blob + 16);
    second = get64(blob + 24);
    if (first > length - BLOB_HEAD || second != length - BLOB_HEAD - first)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the blob of rank 0's request is cut short");
    if (code)
        return ipsb_fail(b, code, "%.*s", (int)(first < 1000 ? first : 1000),
                         (const char *)blob + BLOB_HEAD);
    ipsb_endpoints_free(&b->contact.receivers);
    wrong = ipsb_contact_parse(&b->contact, blob + BLOB_HEAD, (size_t)first);
    if (wrong)
        return ipsb_fail(b, IPS_BRIDGE_CONTACT, "%s", wrong);
    if (!second) { /* nobody is there: nothing is wanted */
        b->has_contract = true;
        snprintf(b->lost, sizeof b->lost, "the receivers went away before there was a contract");
        return begin_session(b);
    }
    header head = {.op = OP_CONTRACT, .body = (uint32_t)second};
    wrong = second > UINT32_MAX ? "a contract that is too long"
                                : ipsb_parse(&m, &head, blob + BLOB_HEAD + first);
    if (wrong)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT, "the receiver sent %s", wrong);
    memcpy(b->digest, m.digest, DIGEST_BYTES);
    wrong = ipsb_contract_parse(&b->contract, m.contract, m.contract_length);
    if (wrong)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT, "%s", wrong);
    b->has_contract = true;
    wrong = ipsb_parse_endpoints(&receivers, m.receivers, m.receivers_length);
    code = wrong ? ipsb_fail(b, IPS_BRIDGE_CONTRACT, "%s", wrong) : begin_session(b);
    if (!code)
        code = add_links(b, &receivers);
    ipsb_endpoints_free(&receivers);
    return code;
}

/* How many slots may have a descriptor: half of what the process may open is the program's. */
static size_t descriptors_for_slots(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == RLIM_INFINITY)
        return SIZE_MAX;
    return (size_t)limit.rlim_cur / 2;
}

int ips_bridge_join(ips_bridge *b, const void *blob, size_t length)
{
    int code;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (b->joined || b->closed || b->has_contract)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "a bridge joins once");
    if ((code = unpack(b, blob, length)) || (code = ipsb_arrays_join(b)))
        return code;
    for (uint32_t i = 0; i < b->n_links; i++)
        b->shared |= b->links[i]->local && b->links[i]->at.unix_name[0] && b->lanes & LANE_SHM;
    b->max_shared = descriptors_for_slots();
    if (!b->lost[0] && (code = reach(b, true, &b->home)))
        return code;
    b->joined = true;
    return IPS_BRIDGE_OK;
}

/* ---- Waiting and news ----------------------------------------------------------------------- */

static int check_open(ips_bridge *b)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!b->joined || b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is %s",
                         b->closed ? "closed" : "not joined yet");
    return IPS_BRIDGE_OK;
}

int ips_bridge_progress(ips_bridge *b)
{
    int code = check_open(b);
    if (code)
        return code;
    ipsb_progress(b, 0);
    return ipsb_check(b);
}

int ips_bridge_wait(ips_bridge *b, double timeout)
{
    int code = check_open(b);
    if (code)
        return code;
    if (ipsb_drain(b, timeout < 0 ? b->contact.drain : timeout))
        return IPS_BRIDGE_OK;
    code = ipsb_check(b);
    return code ? code
                : ipsb_fail(b, IPS_BRIDGE_INCOMPLETE,
                            "rank %d: receivers have not taken all data", b->rank);
}

int ips_bridge_should_stop(ips_bridge *b, int *stop)
{
    int code = check_open(b);
    if (stop)
        *stop = 0;
    if (code)
        return code;
    if (!stop)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "there is no place for the answer");
    ipsb_progress(b, 0);
    *stop = b->stop;
    return IPS_BRIDGE_OK;
}

/* Copy as much of a structure as the program knows; what it knows beyond is zero. */
static void give(void *to, size_t room, const void *from, size_t size)
{
    memset(to, 0, room);
    memcpy(to, from, room < size ? room : size);
}

int ips_bridge_receive_sized(ips_bridge *b, const char *name, int64_t step, double timeout,
                             ips_bridge_value *value, size_t size)
{
    int64_t deadline;
    int code = check_open(b);
    if (code)
        return code;
    if (b->rank != 0 || !name || !value)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "the analysis talks to rank 0 only: receive there, and broadcast");
    deadline = (int64_t)((timeout < 0 ? b->contact.step : timeout < 1e8 ? timeout : 1e8) * 1e9);
    deadline += ipsb_now();
    ipsb_progress(b, 0);
    for (;;) {
        const feedback *f = ipsb_feedback(b, name, step, timeout != 0 && step != INT64_MAX);
        if (f) {
            ips_bridge_value found = {f->step,  f->kind,  f->ndim, f->shape,
                                      f->count, f->bytes, f->data};
            give(value, size, &found, sizeof found);
            return IPS_BRIDGE_OK;
        }
        if (timeout != 0 && b->stop && !b->fault)
            return ipsb_fail(b, IPS_BRIDGE_STOPPED,
                             "no value %s will come: the analysis has stopped the run", name);
        if ((code = ipsb_check(b)))
            return code;
        if (timeout != 0 && b->no_more && !ipsb_quiet(b))
            return ipsb_fail(b, IPS_BRIDGE_STOPPED,
                             "no value %s will come: the analysis has all its results", name);
        if (timeout != 0 && ipsb_quiet(b))
            return ipsb_fail(b, IPS_BRIDGE_LOST, "no value %s will come, the analysis is gone: %s",
                             name, b->fault ? b->fault_text : b->lost);
        if (timeout == 0 || ipsb_now() >= deadline)
            return ipsb_fail(b, IPS_BRIDGE_NOTHING,
                             "no value %s came from the analysis for this step", name);
        ipsb_progress(b, deadline);
    }
}

int ips_bridge_receive_doubles(ips_bridge *b, const char *name, int64_t step, double timeout,
                               double *values, int64_t capacity, int64_t *count)
{
    ips_bridge_value value;
    int code = ips_bridge_receive(b, name, step, timeout, &value);
    if (code)
        return code;
    if (!values || !count || value.kind > IPS_BRIDGE_INTEGER || capacity < 0 ||
        value.count > (uint64_t)capacity)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "value %s has %zu %s, there is room for %lld numbers", name, value.count,
                         value.kind > IPS_BRIDGE_INTEGER ? "text" : "numbers", (long long)capacity);
    for (size_t i = 0; i < value.count; i++)
        values[i] = value.kind == IPS_BRIDGE_DOUBLE ? ((const double *)value.data)[i]
                                                    : (double)((const int64_t *)value.data)[i];
    *count = (int64_t)value.count;
    return IPS_BRIDGE_OK;
}

/* ---- Ending --------------------------------------------------------------------------------- */

static bool lies_in(const items *list, const slot *s, size_t piece)
{
    for (const item *one = list->first; one; one = one->next)
        if (one->slot == s && one->piece == piece)
            return true;
    return false;
}

/* Move what nobody took from delivered to lost. */
static void write_off(ips_bridge *b)
{
    for (size_t i = 0; i < b->n_arrays; i++) {
        array *a = b->arrays[i];
        uint64_t blocks = 0, bytes = 0;
        for (size_t r = 0; r < a->n_rings; r++)
            for (uint32_t j = 0; j < a->rings[r].n; j++) {
                const slot *s = a->rings[r].slots[j];
                uint64_t before = bytes;
                for (size_t n = 0; n < s->n_stored; n++)
                    for (uint32_t k = 0; k < b->n_links; k++)
                        if (lies_in(&b->links[k]->queue, s, n) ||
                            lies_in(&b->links[k]->unacked, s, n)) {
                            bytes += s->stored[n].bytes;
                            break;
                        }
                blocks += bytes > before;
            }
        blocks = blocks < a->blocks[DELIVERED] ? blocks : a->blocks[DELIVERED];
        bytes = bytes < a->bytes[DELIVERED] ? bytes : a->bytes[DELIVERED];
        a->blocks[DELIVERED] -= blocks;
        a->blocks[LOST] += blocks;
        a->bytes[DELIVERED] -= bytes;
        a->bytes[LOST] += bytes;
    }
}

/* Say goodbye to all who have not heard it. */
static void say_goodbye(ips_bridge *b, bool aborted, const char *reason)
{
    size_t n = (size_t)b->contract.n_arrays;
    int64_t last = -1;
    bool any = false;
    uint64_t *counters = malloc(sizeof *counters * COUNTERS * (n + 1));
    if (!counters)
        return;
    for (size_t i = 0; i < n; i++)
        ipsb_counters(b->agreed[i], counters + COUNTERS * i);
    for (size_t i = 0; i < b->n_arrays; i++) {
        const array *a = b->arrays[i];
        if (a->any_put && (!any || a->put_step > last))
            last = a->put_step;
        any |= a->any_put;
    }
    for (uint32_t i = 0; i < b->n_links; i++) {
        buffer frame = {0};
        if (b->links[i]->standing != LINK_OPEN || b->links[i]->left)
            continue;
        b->links[i]->left = true;
        ipsb_pack_bye(&frame, last, aborted, counters, (uint32_t)n, reason);
        if (ipsb_enqueue_frame(b->links[i], &frame, false))
            ipsb_pump(b->links[i]);
    }
    free(counters);
}

/* Tell the receivers, and stay until they answer: they do so when all that was put has arrived. If
 * one of them dies meanwhile, this rank is there to send its chunks to another one. Returns whether
 * any has answered. */
static bool leave(ips_bridge *b, bool aborted, const char *reason)
{
    int64_t deadline = ipsb_now() + (int64_t)(b->contact.connect * 1e9);
    say_goodbye(b, aborted, reason);
    for (;;) {
        bool waiting = false, answered = false, open = false;
        for (uint32_t i = 0; i < b->n_links; i++) {
            const peer *k = b->links[i];
            answered |= k->bye_acked;
            open |= k->standing == LINK_OPEN;
            waiting |= k->left && k->standing == LINK_OPEN && !k->bye_acked;
        }
        if ((!waiting && answered) || (!open && ipsb_quiet(b)) || ipsb_now() >= deadline)
            return answered;
        if (!waiting) /* those who heard it are gone */
            say_goodbye(b, aborted, reason);
        ipsb_progress(b, deadline);
    }
}

int ips_bridge_close(ips_bridge *b, int aborted, const char *reason)
{
    bool drained, answered;
    int code = IPS_BRIDGE_OK;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (b->closed)
        return IPS_BRIDGE_OK;
    if (!b->joined) {
        b->closed = true;
        ipsb_links_free(b);
        return IPS_BRIDGE_OK;
    }
    if (b->in_step)
        ipsb_end_step(b, true);
    drained = ipsb_drain(b, aborted ? 1.0 : b->contact.drain);
    if (!drained)
        write_off(b);
    answered = leave(b, aborted != 0, reason);
    b->closed = true;
    for (uint32_t i = 0; i < b->n_links; i++)
        ipsb_link_end(b->links[i]);
    if (aborted || (drained && answered))
        return code;
    code = ipsb_check(b);
    if (code || drained || ipsb_quiet(b))
        return code;
    return ipsb_fail(b, IPS_BRIDGE_INCOMPLETE,
                     "rank %d: receivers did not take all data within %g s of the end; what is "
                     "missing is accounted as lost",
                     b->rank, b->contact.drain);
}

void ips_bridge_free(ips_bridge *b)
{
    if (!b)
        return;
    ipsb_links_free(b);
    ipsb_feedback_free(b);
    for (size_t i = 0; i < b->n_arrays; i++)
        ipsb_array_free(b->arrays[i]);
    ipsb_contract_free(&b->contract);
    ipsb_endpoints_free(&b->contact.receivers);
    free(b->arrays);
    free(b->agreed);
    free(b->pieces.items);
    free(b->contract_frame);
    free(b->hosts);
    ipsb_buffer_free(&b->where);
    free(b->blob);
    free(b);
}

/* ---- Telling -------------------------------------------------------------------------------- */

int ips_bridge_statistics_sized(ips_bridge *b, const char *name, ips_bridge_account *account,
                                size_t size)
{
    ips_bridge_account found;
    uint64_t numbers[COUNTERS];
    const array *a;
    if (!b)
        return IPS_BRIDGE_USAGE;
    a = name ? ipsb_array(b, name) : NULL;
    if (!a || !account)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s is not known", name ? name : "NULL");
    ipsb_counters(a, numbers);
    memcpy(found.blocks, numbers + 1, sizeof found.blocks);
    memcpy(found.bytes, numbers + 6, sizeof found.bytes);
    give(account, size, &found, sizeof found);
    return IPS_BRIDGE_OK;
}

double ips_bridge_waited(const ips_bridge *b)
{
    return b ? (double)b->waited_ns / 1e9 : 0;
}

const char *ips_bridge_lost(const ips_bridge *b)
{
    if (!b || !ipsb_quiet(b))
        return NULL;
    return b->fault ? b->fault_text : b->lost;
}

int ips_bridge_lanes(const ips_bridge *b, int *shm, int *tcp)
{
    if (!b || !shm || !tcp)
        return IPS_BRIDGE_USAGE;
    *shm = *tcp = 0;
    for (uint32_t i = 0; i < b->n_links; i++)
        if (b->links[i]->standing == LINK_OPEN)
            ++*(b->links[i]->shm ? shm : tcp);
    return IPS_BRIDGE_OK;
}
