/* The binary contract: parsed with every number checked, so that what follows need not check. Its
 * layout is documented in ips_components/model/contract.py. */
#include <stdlib.h>

#include "ips_contract.h"
#include "ips_dtype.h"

enum { RAGGED = 1, DROP = 2, OPEN = 4, AT_MOST = 8, IDS = 16, IDS_LOW = 32, IDS_HIGH = 64,
       CHOICE = 128 };

/* Bounds that keep all later arithmetic inside 64 bits. */
static const int64_t OPEN_ENDED = (int64_t)1 << 40, MAX_LENGTH = (int64_t)1 << 48;
static const int64_t MAX_CHUNKS = (int64_t)1 << 24, MAX_IDS = (int64_t)1 << 60;

typedef struct reader {
    const uint8_t *data;
    size_t at, end;
    const char *error; /* the first one */
} reader;

static void refuse(reader *r, const char *why)
{
    if (!r->error)
        r->error = why;
}

static int64_t number(reader *r)
{
    if (r->error || r->end - r->at < 8) {
        refuse(r, "the contract is cut short");
        return 0;
    }
    r->at += 8;
    return get_i64(r->data + r->at - 8);
}

/* How many items of at least `bytes` bytes follow. */
static int64_t items_of(reader *r, size_t bytes)
{
    int64_t n = number(r);
    if (n < 0 || (uint64_t)n > (r->end - r->at) / bytes) {
        refuse(r, "the contract announces more than it holds");
        return 0;
    }
    return n;
}

static char *string(reader *r)
{
    size_t n = (size_t)items_of(r, 1), padded = (n + 7) & ~(size_t)7;
    char *text;
    if (padded > r->end - r->at) {
        refuse(r, "the contract is cut short");
        n = padded = 0;
    }
    text = malloc(n + 1);
    if (!text) {
        refuse(r, "no memory for the contract");
        return NULL;
    }
    memcpy(text, r->data + r->at, n);
    text[n] = '\0';
    r->at += padded;
    return text;
}

static void selection(reader *r, int ndim, progression *out)
{
    for (int d = 0; d < ndim; d++)
        out[d].start = number(r);
    for (int d = 0; d < ndim; d++)
        out[d].count = number(r);
    for (int d = 0; d < ndim; d++) {
        out[d].step = number(r);
        if (out[d].step < 1 || out[d].count < 1 || out[d].start < 0 || out[d].start > MAX_LENGTH ||
            out[d].count > MAX_LENGTH || out[d].step > MAX_LENGTH)
            refuse(r, "a selection of the contract is impossible");
        if (out[d].count <= 1)
            out[d].step = 1;
    }
}

static int64_t last_of(progression p)
{
    return p.start + (p.count - 1) * p.step;
}

/* Whether the last element stays below `length`; nothing may overflow before that is known. */
static bool fits(progression p, int64_t length)
{
    return p.start < length && (p.count - 1) <= (length - 1 - p.start) / p.step;
}

static bool contains(progression outer, progression inner)
{
    return ipsb_has(outer, inner.start) && ipsb_has(outer, last_of(inner)) &&
           (inner.count == 1 || inner.step % outer.step == 0);
}

static void chunk_sizes(reader *r, agreement *a, int dim)
{
    chunk_axis *axis = &a->chunks[dim];
    int64_t n = items_of(r, 16), index = 0, chunk = 0;
    bool open = dim == 0 && a->steps < 0;
    axis->runs = calloc((size_t)(n ? n : 1), sizeof *axis->runs);
    if (!axis->runs) {
        refuse(r, "no memory for the contract");
        return;
    }
    for (int64_t i = 0; i < n && !r->error; i++) {
        int64_t size = number(r), times = number(r);
        if (size < 1 || times < 1 || times > MAX_CHUNKS - chunk ||
            size > (a->shape[dim] - index) / times) {
            refuse(r, "the chunks of the contract do not fit its shape");
            return;
        }
        axis->runs[i] = (chunk_run){index, chunk, size, times};
        index += size * times;
        chunk += times;
    }
    axis->n_runs = (int)n;
    axis->n_chunks = chunk;
    if (open && n == 1) {
        axis->runs[0].times = axis->n_chunks =
            (OPEN_ENDED + axis->runs[0].size - 1) / axis->runs[0].size;
    } else if (open || index != a->shape[dim]) {
        refuse(r, "the chunks of the contract do not fit its shape");
    }
}

/* The numbers of an attribute: a list, or one number for all dimensions. Returns how many, 0 when
 * there is no such attribute. */
static int attribute(const char *json, const char *key, int ndim, long least, int64_t *out)
{
    const char *at = ipsb_json_find(json, strlen(json), 2, key);
    bool list = at && *at == '[';
    int n = 0;
    if (!at)
        return 0;
    for (at += list; n < MAX_NDIM; at++) {
        char *end;
        long value = strtol(at, &end, 10);
        if (end == at || value < least || value > 1 << 30)
            return 0;
        out[n++] = value;
        at = end + strspn(end, " \n");
        if (!list || *at != ',')
            break;
    }
    for (; !list && n < ndim; n++)
        out[n] = out[0];
    return n;
}

/* The halo: numbers as above, or a list of pairs [below, above]. Returns for how many dimensions. */
static int halo_attribute(const char *json, agreement *a)
{
    const char *at = ipsb_json_find(json, strlen(json), 2, "halo");
    int n = 0;
    if (!at || *at != '[' || at[1 + strspn(at + 1, " \n")] != '[') {
        n = attribute(json, "halo", a->ndim - 1, 0, a->halo_low);
        memcpy(a->halo_high, a->halo_low, sizeof a->halo_high);
        return n;
    }
    for (at++; n < MAX_NDIM; n++) {
        long pair[2];
        at += strspn(at, " \n,");
        if (*at != '[')
            break;
        for (int i = 0; i < 2; i++) {
            char *end;
            at += 1 + strspn(at + 1, " \n");
            pair[i] = strtol(at, &end, 10);
            if (end == at || pair[i] < 0 || pair[i] > 1 << 30)
                return 0;
            at = end + strspn(end, " \n");
            if (*at != (i ? ']' : ','))
                return 0;
        }
        at++;
        a->halo_low[n] = pair[0];
        a->halo_high[n] = pair[1];
    }
    return n;
}

/* The owners of shared points: a list of "low", "high" and "". */
static int shared_attribute(const char *json, int *out)
{
    const char *at = ipsb_json_find(json, strlen(json), 2, "shared");
    int n = 0;
    if (!at || *at != '[')
        return 0;
    for (at++; n < MAX_NDIM; n++) {
        at += strspn(at, " \n,");
        if (!strncmp(at, "\"low\"", 5))
            out[n] = IPS_BRIDGE_LOW;
        else if (!strncmp(at, "\"high\"", 6))
            out[n] = IPS_BRIDGE_HIGH;
        else if (strncmp(at, "\"\"", 2))
            break;
        at = strchr(at + 1, '"') + 1;
    }
    return n;
}

static void read_attributes(agreement *a, const char *json)
{
    a->grid_ndim = attribute(json, "process_grid", a->ndim - 1, 1, a->grid);
    a->halo_ndim = halo_attribute(json, a);
    a->shared_ndim = shared_attribute(json, a->shared);
    (void)attribute(json, "block_levels", 1, 1, &a->levels);
    a->is_table = ipsb_json_find(json, strlen(json), 2, "block_table_of");
    a->block_ndim = attribute(json, "block_shape", 0, 1, a->block_shape);
}

/* An array that is described and not needed. What is wrong with it does not matter: then it has no
 * bytes per cell. */
static void read_unneeded(reader *r, agreement *a)
{
    char *json;
    int64_t itemsize, flags, ndim;
    a->name = string(r);
    a->dtype = string(r);
    itemsize = number(r);
    flags = number(r);
    a->first = number(r);
    a->every = number(r);
    a->steps = -1;
    ndim = 1 + items_of(r, 8);
    if (r->error || ndim > MAX_NDIM || itemsize < 1 || itemsize > 1 << 24)
        return;
    a->ndim = (int)ndim;
    a->ragged = flags & RAGGED;
    a->by_id = flags & IDS_LOW ? LOW_IDS : flags & IDS_HIGH ? HIGH_IDS : flags & IDS ? UNIQUE_IDS : BY_BLOCK;
    for (int d = 1; d < a->ndim; d++) {
        a->shape[d] = number(r);
        if (a->shape[d] > MAX_LENGTH || (a->shape[d] < 1 && !(a->ragged && d == 1)))
            return;
    }
    json = string(r);
    if (json && !r->error) {
        read_attributes(a, json);
        a->itemsize = itemsize;
    }
    free(json);
}

/* The number of steps and the shape, after the steps' axis. */
static void read_shape(reader *r, agreement *a, int64_t flags)
{
    if (flags & OPEN)
        a->steps = -1;
    else if (a->steps < 1 || a->steps >= OPEN_ENDED)
        refuse(r, "the contract has an impossible number of steps");
    if (a->every < 1 || a->every > MAX_LENGTH || a->first > MAX_LENGTH || a->first < -MAX_LENGTH)
        refuse(r, "the contract has impossible steps");
    if (a->ndim < 1 + (a->ragged || a->by_id) || a->ndim > MAX_NDIM)
        refuse(r, "the contract has an array of too many dimensions, or none");
    for (int d = 0; d < a->ndim && !r->error; d++) {
        a->shape[d] = number(r);
        if (a->shape[d] < 1 || a->shape[d] > MAX_LENGTH)
            refuse(r, "the contract has an impossible shape");
    }
    if (!r->error && a->shape[0] != (a->steps < 0 ? OPEN_ENDED : a->steps))
        refuse(r, "the contract has another shape than number of steps");
    if (!r->error && a->every > MAX_IDS / a->shape[0])
        refuse(r, "the contract has impossible steps");
}

static void read_chunks(reader *r, agreement *a)
{
    a->n_space = 1;
    for (int d = 0; d < a->ndim && !r->error; d++) {
        chunk_sizes(r, a, d);
        if (d && !r->error) {
            if (a->chunks[d].n_chunks > MAX_CHUNKS / a->n_space)
                refuse(r, "the contract has too many chunks");
            else
                a->n_space *= a->chunks[d].n_chunks;
        }
    }
    if (!r->error && a->chunks[0].n_chunks > MAX_IDS / a->n_space)
        refuse(r, "the contract has too many chunks");
    if (!r->error && a->ragged &&
        (a->n_space != a->shape[1] || a->chunks[0].n_runs != 1 || a->chunks[0].runs[0].size != 1))
        refuse(r, "a ragged array must have one chunk per step and part");
}

static void read_wanted(reader *r, agreement *a)
{
    selection(r, a->ndim, a->cover);
    a->n_wanted = (int)items_of(r, 24 * (size_t)a->ndim);
    if (!r->error && a->n_wanted < 1)
        refuse(r, "the contract has an array of which nothing is wanted");
    if (!r->error)
        a->wanted = calloc((size_t)a->n_wanted * (size_t)a->ndim, sizeof *a->wanted);
    if (!r->error && !a->wanted)
        refuse(r, "no memory for the contract");
    for (int i = 0; i < a->n_wanted && !r->error; i++) {
        progression *wanted = a->wanted + (size_t)i * (size_t)a->ndim;
        selection(r, a->ndim, wanted);
        for (int d = 0; d < a->ndim && !r->error; d++)
            if (!fits(a->cover[d], a->shape[d]) || !fits(wanted[d], a->shape[d]) ||
                !contains(a->cover[d], wanted[d]))
                refuse(r, "a selection of the contract is outside of its array");
        for (int d = 2; d < a->ndim && !r->error && a->by_id; d++)
            if (memcmp(&a->cover[d], &wanted[d], sizeof *wanted) != 0)
                refuse(r, "an array by ids sends the same columns at all steps");
    }
    for (int i = 0; i < a->chunks[1].n_runs && a->by_id && !r->error; i++)
        if (a->chunks[1].runs[i].size > UINT32_MAX)
            refuse(r, "a chunk by ids has too many ids");
}

static void read_placement(reader *r, agreement *a)
{
    int64_t epoch = number(r), period = number(r), n_owners = items_of(r, 8);
    uint8_t *owners = r->error ? NULL : malloc(4 * (size_t)n_owners + 1);
    if (!r->error && !owners)
        refuse(r, "no memory for the contract");
    for (int64_t i = 0; i < n_owners && !r->error; i++) {
        int64_t owner = number(r);
        if (owner < 0 || owner > UINT32_MAX)
            refuse(r, "the contract names an impossible receiver");
        set32(owners + 4 * i, (uint32_t)owner);
    }
    if (!r->error && (epoch < 0 || period < 1 || period > n_owners || n_owners > UINT32_MAX ||
                      !ipsb_place(a, (uint64_t)epoch, (uint32_t)period, (uint32_t)n_owners, owners)))
        refuse(r, "the contract's placement does not fit its chunks");
    free(owners);
}

/* The choice of blocks of an adaptive mesh. */
static void read_choice(reader *r, agreement *a)
{
    a->has_choice = true;
    a->level_low = number(r);
    a->level_high = number(r);
    a->refinement = number(r);
    a->box_ndim = (int)items_of(r, 16);
    if (!r->error && (a->level_low < 0 || a->level_high <= a->level_low || a->refinement < 1 ||
                      a->box_ndim > MAX_NDIM || !a->ragged))
        refuse(r, "the contract has an impossible choice of blocks");
    for (int d = 0; d < a->box_ndim && !r->error; d++)
        for (int side = 0; side < 2; side++)
            a->box[d][side] = number(r);
}

static void read_array(reader *r, agreement *a)
{
    char explicit_name[24], *json;
    int64_t flags, bytes;
    a->name = string(r);
    free(string(r)); /* the Dask name */
    a->dtype = string(r);
    a->itemsize = number(r);
    flags = number(r);
    a->first = number(r);
    a->every = number(r);
    a->steps = number(r);
    a->ndim = (int)items_of(r, 8);
    if (r->error)
        return;
    bytes = ipsb_dtype(a->dtype, explicit_name);
    if (bytes < 1 || bytes != a->itemsize)
        refuse(r, "the contract names a type of cells that this library does not know");
    a->ragged = flags & RAGGED;
    a->drop = flags & DROP;
    a->at_most = flags & AT_MOST;
    if (flags & IDS)
        a->by_id = flags & IDS_LOW ? LOW_IDS : flags & IDS_HIGH ? HIGH_IDS : UNIQUE_IDS;
    if ((flags & (IDS_LOW | IDS_HIGH) && !a->by_id) || (flags & IDS_LOW && flags & IDS_HIGH) ||
        (a->by_id && a->ragged))
        refuse(r, "the contract says no rule for ids");
    read_shape(r, a, flags);
    read_chunks(r, a);
    if (r->error)
        return;

    read_wanted(r, a);
    read_placement(r, a);
    json = string(r);
    if (json && !r->error)
        read_attributes(a, json);
    free(json);
    if (!r->error && flags & CHOICE)
        read_choice(r, a);
}

/* Read one record; what this reader does not know lies at its end. */
static void read_record(reader *r, agreement *a, void (*read)(reader *, agreement *))
{
    size_t begin = r->at, end = r->end;
    int64_t bytes = number(r);
    if (bytes < 8 || bytes % 8 || (uint64_t)bytes > end - begin)
        refuse(r, "an array of the contract does not fit its record");
    if (r->error)
        return;
    r->end = begin + (size_t)bytes;
    read(r, a);
    r->at = r->end;
    r->end = end;
}

const char *ipsb_contract_parse(contract *out, const uint8_t *data, size_t length)
{
    reader r = {data, 0, length, NULL};
    int64_t n;
    memset(out, 0, sizeof *out);
    if (length < 16 || memcmp(data, "IPSCTRT1", 8) != 0)
        return "these bytes are not a contract";
    r.at = 8;
    if ((uint64_t)number(&r) != length)
        return "the contract is cut short, or longer than it says";
    out->run = string(&r);
    n = items_of(&r, 8);
    if (r.error)
        return r.error;
    out->arrays = calloc((size_t)(n ? n : 1), sizeof *out->arrays);
    if (!out->arrays)
        return "no memory for the contract";
    for (int64_t i = 0; i < n && !r.error; i++) {
        read_record(&r, &out->arrays[out->n_arrays++], read_array);
        for (int64_t j = 0; j < i && !r.error; j++)
            if (!strcmp(out->arrays[i].name, out->arrays[j].name))
                refuse(&r, "the contract names an array twice");
    }
    n = r.error || r.at == r.end ? 0 : items_of(&r, 8);
    out->unneeded = calloc((size_t)(n ? n : 1), sizeof *out->unneeded);
    if (!out->unneeded)
        return "no memory for the contract";
    while (out->n_unneeded < n && !r.error)
        read_record(&r, &out->unneeded[out->n_unneeded++], read_unneeded);
    return r.error;
}

void ipsb_contract_free(contract *c)
{
    for (int i = 0; i < c->n_arrays; i++) {
        agreement *a = &c->arrays[i];
        for (int d = 0; d < MAX_NDIM; d++)
            free(a->chunks[d].runs);
        free(a->name);
        free(a->dtype);
        free(a->wanted);
        free(a->owners);
    }
    for (int i = 0; i < c->n_unneeded; i++) {
        free(c->unneeded[i].name);
        free(c->unneeded[i].dtype);
    }
    free(c->unneeded);
    free(c->run);
    free(c->arrays);
    memset(c, 0, sizeof *c);
}

/* Follow a placement, given as little-endian ordinals; false when it does not fit. */
bool ipsb_place(agreement *a, uint64_t epoch, uint32_t period, uint32_t n, const uint8_t *owners)
{
    uint32_t *table;
    if (period < 1 || n < 1 || n % period || n / period != a->n_space)
        return false;
    table = malloc(sizeof *table * n);
    if (!table)
        return false;
    for (uint32_t i = 0; i < n; i++)
        table[i] = get32(owners + 4 * (size_t)i);
    free(a->owners);
    a->owners = table;
    a->n_owners = n;
    a->period = period;
    a->epoch = epoch;
    return true;
}

uint32_t ipsb_owner(const agreement *a, int64_t chunk)
{
    return a->owners[(uint64_t)chunk % a->n_owners];
}

bool ipsb_has(progression p, int64_t value)
{
    return p.count > 0 && value >= p.start && value <= last_of(p) &&
           (p.step == 1 || (value - p.start) % p.step == 0);
}

int64_t ipsb_time_index(const agreement *a, int64_t step)
{
    int64_t index;
    if (step < a->first || (a->every > 1 && (step - a->first) % a->every))
        return -1;
    index = (step - a->first) / a->every;
    return index < a->shape[0] ? index : -1;
}
