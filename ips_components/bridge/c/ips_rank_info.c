/* What ranks say of themselves: their hosts and blocks to rank 0, and all of it in the hello. */
#include <stdlib.h>

#include "ips_describe.h"
#include "ips_rank_info.h"

static void numbers(buffer *out, const int64_t *values, int n)
{
    ipsb_append(out, "[", 1);
    for (int i = 0; i < n; i++)
        ipsb_append_text(out, "%s%lld", i ? "," : "", (long long)values[i]);
    ipsb_append(out, "]", 1);
}

/* The blocks of all arrays for which they are known, as a JSON object. */
static void boxes(const ips_bridge *b, buffer *out)
{
    bool any = false;
    ipsb_append(out, "{", 1);
    for (size_t i = 0; i < b->n_arrays; i++) {
        const array *a = b->arrays[i];
        if (!a->has_block || a->varies || (b->self.has_contract && !a->contract))
            continue;
        ipsb_append(out, ",", any);
        any = true;
        ipsb_append_json_string(out, a->name);
        ipsb_append_text(out, ":[");
        for (size_t n = 0; n < a->n_boxes; n++) {
            const int64_t *box = a->boxes + 2 * n * (size_t)a->ndim;
            int64_t offset[MAX_NDIM], count[MAX_NDIM];
            ipsb_own_box(a, box, box + a->ndim, offset, count);
            ipsb_append_text(out, n ? ",[" : "[");
            numbers(out, offset, a->ndim);
            ipsb_append(out, ",", 1);
            numbers(out, count, a->ndim);
            ipsb_append(out, "]", 1);
        }
        ipsb_append(out, "]", 1);
    }
    ipsb_append(out, "}", 1);
}

int ips_bridge_get_rank_info(ips_bridge *b, const void **info, size_t *length)
{
    if (!b || !info || !length)
        return IPS_BRIDGE_USAGE;
    b->where.length = 0;
    ipsb_append(&b->where, "[", 1);
    ipsb_append_json_string(&b->where, b->self.hostname);
    ipsb_append(&b->where, ",", 1);
    boxes(b, &b->where);
    ipsb_append(&b->where, "]", 2); /* with its NUL */
    *info = "";
    *length = 0;
    if (b->where.failed)
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a description");
    *info = b->where.data;
    *length = b->where.length - 1;
    return IPS_BRIDGE_OK;
}

int ips_bridge_set_rank_infos(ips_bridge *b, const void *infos, const size_t *lengths)
{
    const char *at = infos;
    buffer out = {0};
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (b->self.rank != 0 || b->joined || !infos || !lengths)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "rank 0 sets what the ranks say of themselves, before its request");
    for (int i = 0; i < b->self.size; at += lengths[i], i++) {
        if (lengths[i] < 2 || at[0] != '[' || at[lengths[i] - 1] != ']') {
            ipsb_buffer_free(&out);
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "what rank %d says of itself is not from ips_bridge_get_rank_info", i);
        }
        ipsb_append(&out, ",", i > 0);
        ipsb_append(&out, at, lengths[i]);
    }
    return ipsb_take_text(b, &out, &b->hosts);
}

/* The former names: texts, with commas between. */
int ips_bridge_where(ips_bridge *b, const char **text)
{
    const void *info = "";
    size_t length;
    int code = text ? ips_bridge_get_rank_info(b, &info, &length) : IPS_BRIDGE_USAGE;
    if (text)
        *text = info;
    return code;
}

int ips_bridge_ranks(ips_bridge *b, const char *texts)
{
    buffer out = {0};
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (b->self.rank != 0 || b->joined || !texts)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "rank 0 sets what the ranks say of themselves, before its request");
    ipsb_append(&out, texts, strlen(texts));
    return ipsb_take_text(b, &out, &b->hosts);
}

void ipsb_hello_info(const ips_bridge *b, buffer *out)
{
    bool any = false;
    ipsb_append_text(out, "{\"host\":");
    ipsb_append_json_string(out, b->self.hostname);
    ipsb_append_text(out, ",\"version\":\"%s (C)\"", IPS_BRIDGE_VERSION);
    if (b->self.has_contract) {
        ipsb_append_text(out, ",\"blocks\":");
        boxes(b, out);
        ipsb_append(out, "}", 1);
        return;
    }
    if (b->attached_run)
        ipsb_append_text(out, ",\"step\":%lld", (long long)b->newest);
    ipsb_append_text(out, ",\"hosts\":[");
    ipsb_append(out, b->hosts, b->hosts ? strlen(b->hosts) : 0);
    ipsb_append_text(out, "],\"arrays\":[");
    for (size_t i = 0; b->self.rank == 0 && i < b->n_arrays; i++) {
        const array *a = b->arrays[i];
        if (!a->declared)
            continue;
        ipsb_append(out, ",", any);
        any = true;
        ipsb_append_text(out, "{\"name\":");
        ipsb_append_json_string(out, a->name);
        ipsb_append_text(out, ",\"dtype\":");
        ipsb_append_json_string(out, a->dtype);
        ipsb_append_text(out, ",\"shape\":");
        numbers(out, a->shape, a->ndim);
        ipsb_append_text(out, ",\"steps\":{\"start\":%lld,\"every\":%lld,\"count\":",
                         (long long)a->first, (long long)a->every);
        if (a->steps > 0)
            ipsb_append_text(out, "%lld}", (long long)a->steps);
        else
            ipsb_append_text(out, "null}");
        if (a->by_id)
            ipsb_append_text(out, ",\"ids\":\"%s\"",
                             a->by_id == LOW_IDS    ? "low"
                             : a->by_id == HIGH_IDS ? "high"
                                                    : "unique");
        ipsb_append_text(out, ",\"ragged\":%s,\"dims\":[", a->ragged ? "true" : "false");
        ipsb_append(out, a->dims, a->dims ? strlen(a->dims) : 0);
        ipsb_append_text(out, "],\"attrs\":{");
        ipsb_append(out, a->attributes, a->attributes ? strlen(a->attributes) : 0);
        ipsb_append_text(out, "}}");
    }
    ipsb_append_text(out, "]}");
}
